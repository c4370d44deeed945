//! What of an address space is committed, as far as it was seen to be.
//!
//! An allocation says where and how much; whether part of that was committed already, or how much of what is released was, only follows
//! from what happened before. Without this, a program that allocates and releases would seem to commit ever more: a release is not also told
//! as a decommit.

use std::collections::BTreeMap;

/// Most ranges that are told apart in one address space; 32 bytes each. Heaps have some hundreds.
const MOST: usize = 65_536;

/// Committed ranges of an address space.
#[derive(Debug, Default)]
pub struct Regions {
    /// Where each begins, and where it ends; none touches another.
    ranges: BTreeMap<u64, u64>,
    refused: u64,
}

impl Regions {
    /// Takes the number of commits that there was no room for. They are counted as committed, and never as given back.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Commits a range, and tells how much of it was not committed before.
    pub fn commit(&mut self, base: u64, bytes: u64) -> u64 {
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
        end - base - already
    }

    /// Gives a range back, and tells how much of it was committed.
    pub fn decommit(&mut self, base: u64, bytes: u64) -> u64 {
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
        fn committed_is_what_a_map_says(steps in prop::collection::vec((any::<bool>(), 0..100_u64, 0..40_u64), 0..60)) {
            let mut regions = Regions::default();
            let mut map = [false; 140];
            for (commits, base, bytes) in steps {
                let part = &mut map[base as usize..(base + bytes) as usize];
                let changed = part.iter().filter(|is| **is != commits).count() as u64;
                part.fill(commits);
                let told = if commits { regions.commit(base, bytes) } else { regions.decommit(base, bytes) };
                prop_assert_eq!(told, changed);
                let committed: u64 = regions.ranges.iter().map(|(begin, end)| end - begin).sum();
                prop_assert_eq!(committed, map.iter().filter(|is| **is).count() as u64);
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
        assert_eq!(regions.commit(u64::MAX - 10, 100), 10);
        assert_eq!(regions.decommit(0, u64::MAX), 10);
        assert_eq!(regions.commit(5, 0), 0);
    }

    #[test]
    fn bounded() {
        let mut regions = Regions::default();
        for n in 0..MOST as u64 + 3 {
            assert_eq!(regions.commit(n * 10, 5), 5);
        }
        assert_eq!((regions.take_refused(), regions.take_refused()), (3, 0));
        assert_eq!(regions.ranges.len(), MOST);
    }
}
