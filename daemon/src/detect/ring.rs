//! The last blocks of a channel at one level, and the record of all that came before them.

use super::median::median_of;

/// Blocks of a ring.
pub const BLOCKS: usize = 32;

/// Highest levels of the blocks that have left a ring, by age: each part holds the positions of half an octave, and the
/// last eight of them reach back to a sixteenth of the way.
#[derive(Clone, Debug)]
struct Record {
    parts: [f32; Self::PARTS],
    newest: u8,
}

/// Values are kept in single precision: 200 bytes of 3 GB.
#[derive(Clone, Debug)]
pub struct Ring {
    /// By position, modulo the length.
    values: [f32; BLOCKS],
    /// The two that left last, older one first.
    left: [f32; 2],
    record: Record,
}

impl Record {
    const PARTS: usize = 8;

    fn new() -> Self {
        Self {
            parts: [f32::NEG_INFINITY; Self::PARTS],
            newest: 0,
        }
    }

    /// Half octaves from the first position on.
    fn part(position: u64) -> u8 {
        (2.0 * ((position + 1) as f64).log2()) as u8
    }

    fn add(&mut self, position: u64, value: f32) {
        let part = Self::part(position);
        while self.newest < part {
            self.newest += 1;
            self.parts[usize::from(self.newest) % Self::PARTS] = f32::NEG_INFINITY;
        }
        let highest = &mut self.parts[usize::from(part) % Self::PARTS];
        *highest = highest.max(value);
    }

    /// The highest level since a position; negative infinity if there is none.
    fn since(&self, position: u64) -> f64 {
        let oldest = u64::from(self.newest).saturating_sub(Self::PARTS as u64 - 1);
        let from = u64::from(Self::part(position)).max(oldest);
        (from..=u64::from(self.newest))
            .map(|part| self.parts[part as usize % Self::PARTS])
            .fold(f32::NEG_INFINITY, f32::max)
            .into()
    }
}

impl Ring {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            values: [f32::NAN; BLOCKS],
            left: [f32::NAN; 2],
            record: Record::new(),
        }
    }

    /// Adds the block at a position, which is one above the last one's.
    pub fn push(&mut self, position: u64, value: f64) {
        let place = &mut self.values[position as usize % BLOCKS];
        let old = std::mem::replace(place, value as f32);
        if let Some(position) = position.checked_sub(BLOCKS as u64) {
            // The median of three: a single block is a spike.
            let mut three = [self.left[0], self.left[1], old].map(f64::from);
            let held = median_of(&mut three);
            if !held.is_nan() {
                self.record.add(position, held as f32);
            }
            self.left = [self.left[1], old];
        }
    }

    /// All blocks up to a position, oldest first; not a number where nothing was measured.
    pub fn blocks(&self, position: u64) -> [f64; BLOCKS] {
        let oldest = position as usize + 1;
        std::array::from_fn(|i| f64::from(self.values[(oldest + i) % BLOCKS]))
    }

    /// The highest level held before the ring, the first tenth of the way left out: that is how a service starts.
    /// Negative infinity if there is none.
    pub fn record(&self, position: u64) -> f64 {
        self.record.since((position + 1) / 10)
    }
}
