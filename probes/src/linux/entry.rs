//! What it takes to get into a program at all and find that it is about a stranger: more than the program does.
//!
//! The kernel's statistics do not show it, and it differs between machines. So it is measured: by renaming ourselves, which
//! runs one program of the task hooks, with and without it.

use std::time::Instant;

use rustix::thread::{name, set_name};

/// Batches of renames, of which the quickest counts: the others were disturbed.
const BATCHES: u32 = 20;
/// Renames in a batch: some 30 us.
const RENAMES: u32 = 100;

/// Nanoseconds that a thread's renaming takes now.
fn rename_ns() -> Option<u64> {
    let name = name().ok()?;
    let mut best = None;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..RENAMES {
            set_name(&name).ok()?;
        }
        let each = start.elapsed().as_nanos() as u64 / u64::from(RENAMES);
        best = best.min(Some(each)).or(Some(each));
    }
    best
}

/// Begun before the programs are attached.
pub struct Calibration {
    without_ns: Option<u64>,
}

impl Calibration {
    /// Measures without them.
    pub fn begin() -> Self {
        Self {
            without_ns: rename_ns(),
        }
    }

    /// Measures with them, and tells what one run takes for a stranger, in nanoseconds. 0 if that cannot be told.
    pub fn end(&self) -> u64 {
        let difference = rename_ns()
            .zip(self.without_ns)
            .map(|(with, without)| with.saturating_sub(without));
        difference.unwrap_or(0)
    }
}
