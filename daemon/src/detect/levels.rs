//! Windows as rings of blocks of doubling length.
//!
//! A block of a level is two of the level below. Blocks are cut by time: windows may have any length, and where there was
//! none the block is missing. The coarsest ring spans a week.

use super::{
    block::Block,
    channel::{CHANNELS, Channel},
    reading::Reading,
    ring::{BLOCKS, Ring},
};
use crate::stream::Moment;

/// Least length of a block of the first level. Shorter ones would make rings of less than three minutes, and nothing is
/// judged by less than five.
const LEAST_BLOCK_S: f64 = 5.0;

/// Longest ring.
const LONGEST_S: f64 = 7.6 * 86_400.0;

/// A ring has lived its life after so many blocks: no rule trusts one that spans less than a 64th of what is known.
const OUTLIVED: u64 = 64 * BLOCKS as u64;

/// A level.
#[derive(Debug)]
struct Level {
    /// Position of the block being filled.
    position: u64,
    filling: Block,
    /// Position of the last block in the rings, plus one.
    next: u64,
    rings: [Option<Box<Ring>>; CHANNELS],
}

/// All levels of a series set.
#[derive(Debug)]
pub struct Levels {
    /// When the first window began.
    origin: Moment,
    /// Length of the first level's blocks.
    block_s: f64,
    /// Finest first.
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
            rings: [const { None }; CHANNELS],
        }
    }

    /// Puts the block being filled into the rings.
    fn complete(&mut self) -> Block {
        let block = std::mem::take(&mut self.filling);
        if self.position >= OUTLIVED {
            self.rings = [const { None }; CHANNELS];
            return block;
        }
        let values = block.values();
        // Beyond a ring's length, and the three blocks of its record, one missing block is like another.
        let missing = self
            .next
            .max(self.position.saturating_sub(BLOCKS as u64 + 3));
        for (ring, value) in self.rings.iter_mut().zip(values) {
            if ring.is_none() && value.is_nan() {
                continue;
            }
            let ring = ring.get_or_insert_with(|| Box::new(Ring::new()));
            for position in missing..self.position {
                ring.push(position, f64::NAN);
            }
            ring.push(self.position, value);
        }
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

    /// A channel's ring at a level.
    pub fn ring(&self, level: usize, channel: Channel) -> Option<&Ring> {
        self.each.get(level)?.rings[channel as usize].as_deref()
    }

    /// Adds a window and says which blocks are complete with it, finest first.
    pub fn add(&mut self, reading: &Reading, completed: &mut Vec<Completed>) {
        let end = self.seconds(reading.ts);
        // A window belongs where its middle is: its ends may be a little early or late.
        let position = ((end - reading.seconds / 2.0).max(0.0) / self.block_s) as u64;
        let first = &mut self.each[0];
        if position > first.position && !first.filling.is_empty() {
            self.complete(0, completed);
        }
        let first = &mut self.each[0];
        first.position = position.max(first.position);
        first.filling.add(reading);
        let until = (first.position + 1) as f64 * self.block_s;
        if end + reading.seconds / 2.0 >= until {
            self.complete(0, completed);
        }
    }

    /// Completes a level's block, and that of the next level if it was its second half.
    fn complete(&mut self, at: usize, completed: &mut Vec<Completed>) {
        let level = &mut self.each[at];
        let position = level.position;
        let block = level.complete();
        level.position += 1;
        completed.push(Completed {
            level: at,
            position,
        });
        let above = at + 1;
        if self.block_s(above) * BLOCKS as f64 > LONGEST_S {
            return;
        }
        if self.each.len() == above {
            self.each.push(Level::new());
        }
        let half = position / 2;
        if self.each[above].position < half && !self.each[above].filling.is_empty() {
            self.complete(above, completed);
        }
        let next = &mut self.each[above];
        next.position = next.position.max(half);
        next.filling.merge(&block);
        if position % 2 == 1 {
            self.complete(above, completed);
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let levels = self.each.capacity() * size_of::<Level>();
        let rings = self.each.iter().flat_map(|level| &level.rings);
        let waits = self.each.iter().filter(|level| !level.filling.is_empty());
        levels
            + rings.flatten().count() * size_of::<Ring>()
            + waits.count() * size_of::<super::waits::Waits>()
    }
}
