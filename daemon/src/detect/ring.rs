//! The last blocks of a level, and the record of all that came before them.

use super::{
    channel::{CHANNELS, JUDGED},
    median::median_of,
};

/// Blocks of a ring.
pub const BLOCKS: usize = 32;

/// Parts of a record.
const PARTS: usize = 8;

/// Highest levels of the blocks that have left a ring, by age: each part holds the positions of half an octave, and the
/// last eight of them reach back to a sixteenth of the way.
#[derive(Clone, Copy, Debug)]
struct Record {
    parts: [f32; PARTS],
    /// The two blocks that left last, older one first.
    left: [f32; 2],
}

/// The rings of all channels. Values are kept in single precision: 200 bytes of 3 GB.
#[derive(Debug)]
pub struct Rings {
    /// By position, modulo the length; fewer as long as there are fewer.
    blocks: Vec<[f32; CHANNELS]>,
    /// Channels that ever had a value.
    known: [bool; CHANNELS],
    /// From when on blocks leave, of what is judged.
    records: Option<Box<[Record; JUDGED.len()]>>,
    /// The newest part of the records.
    newest: u8,
}

/// Half octaves from the first position on.
fn part(position: u64) -> u8 {
    (2.0 * ((position + 1) as f64).log2()) as u8
}

impl Record {
    const NOTHING: Self = Self {
        parts: [f32::NEG_INFINITY; PARTS],
        left: [f32::NAN; 2],
    };

    /// A block leaves.
    fn leave(&mut self, part: u8, value: f32) {
        // The median of three: a single block is a spike.
        let mut three = [self.left[0], self.left[1], value].map(f64::from);
        // Not a number is the lesser one.
        let highest = &mut self.parts[usize::from(part) % PARTS];
        *highest = highest.max(median_of(&mut three) as f32);
        self.left = [self.left[1], value];
    }
}

impl Rings {
    /// Empty ones.
    pub fn new() -> Self {
        Self {
            blocks: Vec::new(),
            known: [false; CHANNELS],
            records: None,
            newest: 0,
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let records = self.records.as_ref();
        self.blocks.capacity() * size_of::<[f32; CHANNELS]>()
            + records.map_or(0, |_| size_of::<[Record; JUDGED.len()]>())
    }

    /// Adds the block at a position, which is one above the last one's.
    pub fn push(&mut self, position: u64, values: &[f64; CHANNELS]) {
        let values = values.map(|value| value as f32);
        for (known, value) in self.known.iter_mut().zip(values) {
            *known |= !value.is_nan();
        }
        let place = position as usize % BLOCKS;
        if self.blocks.len() < BLOCKS {
            // After a long gap, the ring begins anywhere.
            let until = if position < BLOCKS as u64 {
                place
            } else {
                BLOCKS
            };
            self.blocks.resize(until, [f32::NAN; CHANNELS]);
            if until == place {
                self.blocks.push(values);
                return;
            }
        }
        let old = std::mem::replace(&mut self.blocks[place], values);
        let Some(position) = position.checked_sub(BLOCKS as u64) else {
            return;
        };
        let part = part(position);
        let records = self
            .records
            .get_or_insert_with(|| Box::new([Record::NOTHING; JUDGED.len()]));
        while self.newest < part {
            self.newest += 1;
            for record in &mut **records {
                record.parts[usize::from(self.newest) % PARTS] = f32::NEG_INFINITY;
            }
        }
        for (record, old) in records.iter_mut().zip(old) {
            record.leave(part, old);
        }
    }

    /// All blocks of a channel up to a position, which is the last one's, oldest first; not a number where nothing was measured.
    /// `None` if nothing was measured ever.
    pub fn blocks(&self, channel: usize, position: u64) -> Option<[f64; BLOCKS]> {
        let oldest = position as usize + 1;
        let at = |i: usize| self.blocks.get((oldest + i) % BLOCKS);
        self.known[channel].then(|| {
            std::array::from_fn(|i| at(i).map_or(f64::NAN, |values| f64::from(values[channel])))
        })
    }

    /// The highest level that a channel held before the ring, the first tenth of the way left out: that is how a service
    /// starts. Negative infinity if there is none.
    pub fn record(&self, channel: usize, position: u64) -> f64 {
        let Some(records) = &self.records else {
            return f64::NEG_INFINITY;
        };
        let oldest = (self.newest + 1).saturating_sub(PARTS as u8);
        let from = part((position + 1) / 10).max(oldest);
        (from..=self.newest)
            .map(|part| records[channel].parts[usize::from(part) % PARTS])
            .fold(f32::NEG_INFINITY, f32::max)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    /// All channels have the block's number, of which the second lacks every third.
    fn filled(until: u64) -> Rings {
        let mut rings = Rings::new();
        for position in 0..until {
            let mut values = [position as f64; CHANNELS];
            values[2] = f64::NAN;
            if position % 3 == 0 {
                values[1] = f64::NAN;
            }
            rings.push(position, &values);
        }
        rings
    }

    #[test]
    fn the_last_blocks_come_oldest_first() {
        for until in [1, 5, 31, 32, 33, 64, 100] {
            let rings = filled(until);
            let blocks = rings.blocks(0, until - 1).expect("a known channel");
            for (i, value) in blocks.iter().enumerate() {
                let expected = until as f64 - 32.0 + i as f64;
                assert!(
                    if expected < 0.0 {
                        value.is_nan()
                    } else {
                        is(*value, expected)
                    },
                    "{until}: {blocks:?}"
                );
            }
        }
        assert!(filled(9).blocks(2, 8).is_none());
        let gaps = filled(40).blocks(1, 39).expect("a known channel");
        assert_eq!(gaps.iter().filter(|value| value.is_nan()).count(), 11);
    }

    #[test]
    fn after_a_gap_a_ring_begins_anywhere() {
        let mut rings = Rings::new();
        rings.push(0, &[7.0; CHANNELS]);
        rings.push(70, &[8.0; CHANNELS]);
        let blocks = rings.blocks(0, 70).expect("known");
        assert!(
            is(blocks[31], 8.0)
                && blocks[..31]
                    .iter()
                    .all(|value| value.is_nan() || is(*value, 7.0))
        );
        let mut skipped = Rings::new();
        skipped.push(3, &[5.0; CHANNELS]);
        let blocks = skipped.blocks(0, 3).expect("known");
        assert!(is(blocks[31], 5.0) && blocks[..31].iter().all(|value| value.is_nan()));
    }

    /// What rises from block to block has the one before the ring for a record, less what the median of three takes.
    #[test]
    fn the_record_is_the_highest_level_held_before_the_ring() {
        assert!(filled(32).record(0, 31).is_infinite());
        assert!(filled(33).record(0, 32).is_infinite() || is(filled(33).record(0, 32), 0.0));
        let rings = filled(500);
        assert!(
            (rings.record(0, 499) - 466.0).abs() <= 1.0,
            "{}",
            rings.record(0, 499)
        );
        assert!(rings.record(2, 499).is_infinite());
    }

    /// A single block is no level, three are; and what was in the first tenth of the way is forgotten.
    #[test]
    fn a_record_is_held_and_grows_old() {
        let record = |high: std::ops::Range<u64>, until: u64| {
            let mut rings = Rings::new();
            for position in 0..until {
                let value = if high.contains(&position) { 9.0 } else { 1.0 };
                rings.push(position, &[value; CHANNELS]);
            }
            rings.record(0, until - 1)
        };
        assert!(is(record(100..101, 200), 1.0));
        assert!(is(record(100..103, 200), 9.0));
        assert!(is(record(2..40, 200), 9.0));
        assert!(is(record(2..12, 400), 1.0));
        assert!(is(record(300..400, 400), 9.0));
        // Still in the ring.
        assert!(is(record(370..400, 400), 1.0));
    }
}
