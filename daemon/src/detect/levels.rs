//! Windows as rings of blocks of doubling length.
//!
//! A block of a level is two of the level below. Blocks are cut by time: windows may have any length, and where there was
//! none the block is missing. The coarsest ring spans a week.

use super::{
    block::Block,
    channel::{CHANNELS, Channel},
    reading::Reading,
    ring::{BLOCKS, Rings},
    verdict::KNOWN_S,
    waits::Spare,
};
use crate::stream::Moment;

/// Least length of a block of the first level. Shorter ones would make rings of less than three minutes, and nothing is
/// judged by less than five.
const LEAST_BLOCK_S: f64 = 5.0;

/// Longest ring.
const LONGEST_S: f64 = 7.6 * 86_400.0;

/// A level has lived its life after so many blocks: no rule trusts a ring that spans less than a 32nd of what is known, or of
/// the week that counts of it.
const OUTLIVED: u64 = 32 * BLOCKS as u64;
const OUTLIVED_S: f64 = KNOWN_S / 32.0;

/// A block without windows.
const NOTHING: [f64; CHANNELS] = [f64::NAN; CHANNELS];

/// A level.
#[derive(Debug)]
struct Level {
    /// Position of the block being filled.
    position: u64,
    filling: Block,
    /// Position of the last block in the rings, plus one.
    next: u64,
    rings: Rings,
}

/// All levels of a series set.
#[derive(Debug)]
pub struct Levels {
    /// When the first window began.
    origin: Moment,
    /// Length of the blocks of level 0.
    block_s: f64,
    /// The finest level that is left, and all coarser ones so far.
    finest: usize,
    each: Vec<Level>,
}

/// A block that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Of which level.
    pub level: usize,
    /// Which of its blocks.
    pub position: u64,
}

impl Level {
    fn new() -> Self {
        Self {
            position: 0,
            filling: Block::default(),
            next: 0,
            rings: Rings::new(),
        }
    }

    /// Puts the block being filled into the rings.
    fn complete(&mut self) -> Block {
        let block = std::mem::take(&mut self.filling);
        // Beyond a ring's length, and the three blocks of its record, one missing block is like another.
        let missing = self
            .next
            .max(self.position.saturating_sub(BLOCKS as u64 + 3));
        for position in missing..self.position {
            self.rings.push(position, &NOTHING);
        }
        self.rings.push(self.position, &block.values());
        self.next = self.position + 1;
        block
    }
}

/// What a length was meant to be, to two digits. Blocks a little shorter than windows would now and then have none.
fn nominal(seconds: f64) -> f64 {
    let digit = 10.0_f64.powf(seconds.log10().floor() - 1.0);
    (seconds / digit).round() * digit
}

impl Levels {
    /// For windows like this one, which is the first.
    pub fn new(first: &Reading) -> Self {
        let length = (first.seconds * 1e9) as u64;
        Self {
            origin: Moment(first.ts.0.saturating_sub(length)),
            block_s: nominal(first.seconds).max(LEAST_BLOCK_S),
            finest: 0,
            each: vec![Level::new()],
        }
    }

    /// Seconds since the first window began.
    pub fn seconds(&self, ts: Moment) -> f64 {
        ts.0.saturating_sub(self.origin.0) as f64 / 1e9
    }

    /// The other way round.
    pub fn moment(&self, seconds: f64) -> Moment {
        Moment(self.origin.0.saturating_add((seconds * 1e9) as u64))
    }

    /// Length of a level's blocks.
    pub fn block_s(&self, level: usize) -> f64 {
        self.block_s * (1_u64 << level) as f64
    }

    /// The finest level whose blocks still complete.
    pub fn finest(&self) -> usize {
        self.finest
    }

    fn rings(&self, level: usize) -> Option<&Rings> {
        let level = self.each.get(level.checked_sub(self.finest)?)?;
        Some(&level.rings)
    }

    /// A channel's ring, oldest block first, when a block was completed. `None` if it is empty.
    pub fn blocks(&self, completed: Completed, channel: Channel) -> Option<[f64; BLOCKS]> {
        let rings = self.rings(completed.level)?;
        rings.blocks(channel as usize, completed.position)
    }

    /// The highest level that a channel held before that ring; negative infinity if there is none.
    pub fn record(&self, completed: Completed, channel: Channel) -> f64 {
        self.rings(completed.level)
            .map_or(f64::NEG_INFINITY, |rings| {
                rings.record(channel as usize, completed.position)
            })
    }

    /// Adds a window and says which blocks are complete with it, finest first.
    pub fn add(&mut self, reading: &Reading, completed: &mut Vec<Completed>, spare: &mut Spare) {
        let end = self.seconds(reading.ts);
        // A window belongs where its middle is: its ends may be a little early or late.
        let middle = (end - reading.seconds / 2.0).max(0.0);
        let position = loop {
            let position = (middle / self.block_s(self.finest)) as u64;
            if position > self.each[0].position {
                self.complete(self.finest, completed, spare);
            }
            let trusted = self.block_s(self.finest) * BLOCKS as f64 >= OUTLIVED_S;
            if position < OUTLIVED || trusted || self.each.len() == 1 {
                break position;
            }
            self.each.remove(0);
            self.finest += 1;
        };
        let block_s = self.block_s(self.finest);
        let first = &mut self.each[0];
        first.position = position.max(first.position);
        first.filling.add(reading, spare);
        let until = (first.position + 1) as f64 * block_s;
        if end + reading.seconds / 2.0 >= until {
            self.complete(self.finest, completed, spare);
        }
    }

    /// Completes a level's block, and that of the next level if it was its second half.
    fn complete(&mut self, level: usize, completed: &mut Vec<Completed>, spare: &mut Spare) {
        let at = level - self.finest;
        if self.each[at].filling.is_empty() {
            return;
        }
        let position = self.each[at].position;
        let block = self.each[at].complete();
        self.each[at].position += 1;
        completed.push(Completed { level, position });
        if self.block_s(level + 1) * BLOCKS as f64 > LONGEST_S {
            block.drop_into(spare);
            return;
        }
        if self.each.len() == at + 1 {
            self.each.reserve_exact(1);
            self.each.push(Level::new());
        }
        let half = position / 2;
        if self.each[at + 1].position < half {
            self.complete(level + 1, completed, spare);
        }
        let next = &mut self.each[at + 1];
        next.position = next.position.max(half);
        next.filling.merge(block, spare);
        if position % 2 == 1 {
            self.complete(level + 1, completed, spare);
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let of_level = |level: &Level| level.rings.heap_bytes() + level.filling.heap_bytes();
        self.each.capacity() * size_of::<Level>() + self.each.iter().map(of_level).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::reading::Limits;

    fn reading(end_s: f64, seconds: f64, value: f64) -> Reading {
        let nothing = Reading::of_threads(Moment((end_s * 1e9) as u64), seconds, None, None);
        Reading {
            committed: value,
            limits: Limits::UNKNOWN,
            ..nothing
        }
    }

    /// Feeds windows, all of one length, each with its number as its level; gives all blocks that were completed.
    fn fed(windows: impl IntoIterator<Item = u32>, seconds: f64) -> (Levels, Vec<Completed>) {
        let mut spare = Spare::default();
        let mut completed = Vec::new();
        let mut levels = None;
        for i in windows {
            let reading = reading(1000.0 + f64::from(i) * seconds, seconds, f64::from(i));
            let levels = levels.get_or_insert_with(|| Levels::new(&reading));
            levels.add(&reading, &mut completed, &mut spare);
        }
        (levels.expect("windows"), completed)
    }

    fn last(levels: &Levels, level: usize, position: u64) -> f64 {
        let ring = levels.blocks(Completed { level, position }, Channel::Committed);
        ring.expect("a ring")[BLOCKS - 1]
    }

    #[test]
    fn a_block_is_two_of_the_level_below_and_has_their_floor() {
        let (levels, completed) = fed(1..=16, 5.0);
        for level in 0..4_usize {
            let blocks = completed
                .iter()
                .filter(|completed| completed.level == level);
            let positions: Vec<u64> = blocks.map(|completed| completed.position).collect();
            let expected: Vec<u64> = (0..16 >> level).collect();
            assert_eq!(positions, expected);
            let newest = (16 >> level) - 1;
            let floor = 16.0 - (1 << level) as f64 + 1.0;
            assert!((last(&levels, level, newest) - floor).abs() < 1e-6);
        }
        assert!((levels.block_s(3) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn short_windows_add_up_and_odd_lengths_are_rounded() {
        let (levels, completed) = fed(1..=25, 1.0);
        assert_eq!(
            completed
                .iter()
                .filter(|completed| completed.level == 0)
                .count(),
            5
        );
        assert!((levels.block_s(0) - 5.0).abs() < 1e-9);
        let (levels, _) = fed(1..=2, 29.97);
        assert!((levels.block_s(0) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn a_gap_is_missing_blocks_at_every_level() {
        let (levels, completed) = fed((1..=8).chain(21..=40), 5.0);
        let newest = completed
            .iter()
            .rfind(|completed| completed.level == 0)
            .expect("blocks");
        assert_eq!(newest.position, 39);
        let ring = levels.blocks(*newest, Channel::Committed).expect("a ring");
        assert_eq!(ring.iter().filter(|value| value.is_nan()).count(), 12);
        let second = levels
            .blocks(
                Completed {
                    level: 1,
                    position: 19,
                },
                Channel::Committed,
            )
            .expect("a ring");
        assert_eq!(
            second[12..].iter().filter(|value| value.is_nan()).count(),
            6
        );
    }

    #[test]
    fn outlived_levels_go_and_the_coarser_ones_do_not_notice() {
        let (levels, completed) = fed(1..=5000, 5.0);
        assert_eq!(levels.finest(), 3);
        assert!(
            completed
                .iter()
                .all(|completed| completed.position < OUTLIVED || completed.level > 2)
        );
        for level in [3, 4, 5_usize] {
            let newest = 5000 / (1_u64 << level) - 1;
            let floor = (newest << level) as f64 + 1.0;
            assert!(
                (last(&levels, level, newest) - floor).abs() < 1e-6,
                "{level}"
            );
            let positions = completed
                .iter()
                .filter(|completed| completed.level == level);
            assert!(positions.map(|completed| completed.position).eq(0..=newest));
        }
        let gone = Completed {
            level: 0,
            position: 4999,
        };
        assert!(levels.blocks(gone, Channel::Committed).is_none());
        assert!(levels.record(gone, Channel::Committed).is_infinite());
    }

    #[test]
    fn time_and_moments_are_the_same() {
        let (levels, _) = fed(1..=3, 5.0);
        assert!((levels.seconds(Moment(1_015_000_000_000)) - 15.0).abs() < 1e-9);
        assert_eq!(levels.moment(15.0), Moment(1_015_000_000_000));
    }
}
