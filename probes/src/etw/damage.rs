//! What of a recording could not be read.

use std::fmt;

/// Most places that are named.
const MOST_PLACES: usize = 16;

/// A place where a recording is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where in the file, in bytes. In a compressed buffer, where that begins.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

/// What of a recording could not be read, or is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Damaged places.
    pub count: u64,
    /// Bytes that were left out because of them.
    pub bytes: u64,
    /// Events that happened before the one before them on the same processor.
    pub backwards: u64,
    /// The first few places.
    pub places: Vec<Place>,
}

impl Damage {
    /// Nothing is wrong.
    pub fn is_none(&self) -> bool {
        self.count == 0 && self.backwards == 0
    }

    /// Counts a place, after which so many bytes are left out.
    pub(super) fn note(&mut self, offset: u64, bytes: u64, what: &impl ToString) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.places.len() < MOST_PLACES {
            self.places.push(Place {
                offset,
                what: what.to_string(),
            });
        }
    }
}
