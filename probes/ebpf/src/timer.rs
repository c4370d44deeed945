//! What the programs themselves take, for the daemon's budget: some runs are timed.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use slowburn_common::stats::Stat;

use crate::maps::add;

/// A run that is timed.
///
/// Callers have the code that is timed twice, with a timer around it and without: a run that carried one along for nothing
/// took 10 ns longer.
pub struct Timer(u64);

impl Timer {
    /// Begins to time.
    #[inline(always)]
    pub fn start() -> Self {
        // SAFETY: the helper has no preconditions.
        let (before, now) = unsafe { (bpf_ktime_get_ns(), bpf_ktime_get_ns()) };
        // Reading the clock takes as long as the rest of a run; that of the reading at the end is taken off here.
        Self(now + (now - before))
    }

    /// Adds what the run took to a counter.
    #[inline(always)]
    pub fn stop(self, stat: Stat) {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if now > self.0 {
            add(stat, now - self.0);
        }
    }
}
