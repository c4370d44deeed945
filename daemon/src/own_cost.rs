//! What slowburn itself uses: CPU time of the daemon and of its programs in the kernel, and memory.

use std::{fs, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use slowburn_probes::linux::{self, ProbeError, Source};

use crate::stream::{Cost, KernelCost};

/// All that was used until some moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    user_ns: u64,
    kernel: linux::Cost,
}

/// What was used in a period.
pub struct Used {
    /// How long it was.
    pub interval_ns: u64,
    /// CPU time.
    pub cost: Cost,
    /// Runs of the programs on waits.
    pub sched_runs: u64,
}

/// Reads what is used, by periods that follow one another.
pub struct OwnCost {
    before: Reading,
}

impl OwnCost {
    /// Begins the first period.
    ///
    /// # Errors
    /// If the kernel side's counters cannot be read.
    pub fn start(source: &mut Source) -> Result<Self, ProbeError> {
        Ok(Self {
            before: Reading::now(source)?,
        })
    }

    /// Ends a period and begins the next.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn take(&mut self, source: &mut Source) -> Result<Used, ProbeError> {
        let now = Reading::now(source)?;
        let before = std::mem::replace(&mut self.before, now);
        let ns = |now: linux::ProgramCost, before: linux::ProgramCost| now.ns - before.ns;
        Ok(Used {
            interval_ns: (now.at - before.at).as_nanos() as u64,
            cost: Cost {
                user_cpu_ns: now.user_ns - before.user_ns,
                kernel_cpu_ns: KernelCost {
                    tasks: ns(now.kernel.tasks, before.kernel.tasks),
                    sched: ns(now.kernel.sched, before.kernel.sched),
                    memory: ns(now.kernel.memory, before.kernel.memory),
                },
            },
            sched_runs: now.kernel.sched.runs - before.kernel.sched.runs,
        })
    }
}

impl Reading {
    fn now(source: &mut Source) -> Result<Self, ProbeError> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Ok(Self {
            at: Instant::now(),
            user_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            kernel: source.cost()?,
        })
    }
}

/// The daemon's resident memory.
pub fn rss_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
