//! What of an address space is reserved, or committed, as far as it was seen to be.
//!
//! An allocation says where and how much; whether part of that was committed already, or how much of what is released was, only follows
//! from what happened before. Without this, a program that allocates and releases would seem to commit ever more: a release is not also told
//! as a decommit.

use std::collections::BTreeMap;

/// Most ranges that are told apart in one address space; 32 bytes each. Heaps have some hundreds.
const MOST: usize = 65_536;

/// Ranges of an address space that are committed, or reserved.
#[derive(Debug, Default)]
pub struct Regions {
    /// Where each begins, and where it ends; none touches another.
    ranges: BTreeMap<u64, u64>,
    total: u64,
    refused: u64,
}

impl Regions {
    /// Bytes in all of them.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Takes the number of ranges that there was no room for. They are told to be gained, and never to be given back.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Adds a range, and tells how much of it was not there before.
    pub fn add(&mut self, base: u64, bytes: u64) -> u64 {
        let end = base.saturating_add(bytes);
        if base == end {
            return 0;
        }
        if self.ranges.len() >= MOST {
            self.refused += 1;
            return bytes;
        }
        let (mut from, mut to, mut already) = (base, end, 0);
        // Those that overlap or touch become one with it.
        while let Some((&begin, &finish)) = self
            .ranges
            .range(..=to)
            .next_back()
            .filter(|(_, finish)| **finish >= from)
        {
            self.ranges.remove(&begin);
            already += finish.min(end).saturating_sub(begin.max(base));
            (from, to) = (from.min(begin), to.max(finish));
        }
        self.ranges.insert(from, to);
        let gained = end - base - already;
        self.total += gained;
        gained
    }

    /// Takes a range out, and tells how much of it was there.
    pub fn remove(&mut self, base: u64, bytes: u64) -> u64 {
        let end = base.saturating_add(bytes);
        let mut lost = 0;
        if base == end {
            return 0;
        }
        while let Some((&begin, &finish)) = self
            .ranges
            .range(..end)
            .next_back()
            .filter(|(_, finish)| **finish > base)
        {
            self.ranges.remove(&begin);
            lost += finish.min(end) - begin.max(base);
            if begin < base {
                self.ranges.insert(begin, base);
            }
            if finish > end {
                self.ranges.insert(end, finish);
            }
        }
        self.total -= lost;
        lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
           /// As a map with a bit for each byte has it.
           #[test]
           fn ranges_are_what_a_map_says(steps in prop::collection::vec((any::<bool>(), 0..100_u64, 0..40_u64), 0..60)) {
               let mut regions = Regions::default();
               let mut map = [false; 140];
               for (commits, base, bytes) in steps {
                   let part = &mut map[base as usize..(base + bytes) as usize];
                   let changed = part.iter().filter(|is| **is != commits).count() as u64;
                   part.fill(commits);
                   let told = if commits { regions.add(base, bytes) } else { regions.remove(base, bytes) };
                   prop_assert_eq!(told, changed);
                   prop_assert_eq!(
    regions.total(), map.iter().filter(|is| **is).count() as u64);
                   let mut before = None;
                   for (begin, end) in &regions.ranges {
                       prop_assert!(begin < end && before < Some(*begin));
                       before = Some(*end);
                   }
               }
           }
       }

    #[test]
    fn ends_of_the_address_space() {
        let mut regions = Regions::default();
        assert_eq!(regions.add(u64::MAX - 10, 100), 10);
        assert_eq!(regions.remove(0, u64::MAX), 10);
        assert_eq!(regions.add(5, 0), 0);
    }

    #[test]
    fn bounded() {
        let mut regions = Regions::default();
        for n in 0..MOST as u64 + 3 {
            assert_eq!(regions.add(n * 10, 5), 5);
        }
        assert_eq!((regions.take_refused(), regions.take_refused()), (3, 0));
        assert_eq!(regions.ranges.len(), MOST);
    }
}
