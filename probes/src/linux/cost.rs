//! What our own programs cost in the kernel.
//!
//! The kernel would say, to those who may administrate it, and read its clock twice in each run of any program meanwhile. Instead
//! the programs time some of their runs for followed tasks themselves; what it takes to get into one, and out again for a
//! stranger, was measured at the start ([`Calibration`](super::entry::Calibration)); and how often that was is the number
//! of context switches and of new tasks that the host counts anyway. Each switch is taken to have a wake-up of its own,
//! which is a little more than there are.

use aya::maps::{MapData, PerCpuArray};
use procfs::{CurrentSI, KernelStats};
use slowburn_common::stats::{Stat, TIMED_MEMORY, TIMED_SCHED, TIMED_TASKS};

use super::{error::ProbeError, load::map_error};

/// What the programs of a need have cost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// How often one of them ran.
    pub runs: u64,
    /// CPU time in nanoseconds, over all CPUs.
    pub ns: u64,
}

/// What the programs have cost since the start, by need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Those on lives of tasks.
    pub tasks: ProgramCost,
    /// Those on wake-ups and switches.
    pub sched: ProgramCost,
    /// Those on calls that change an address space. What system call tracepoints cost other calls is not among it.
    pub memory: ProgramCost,
}

/// What the host has counted since it was started.
#[derive(Clone, Copy)]
pub(super) struct Host {
    /// Context switches.
    pub switches: u64,
    tasks: u64,
}

impl Host {
    pub(super) fn now() -> Option<Self> {
        let stats = KernelStats::current().ok()?;
        Some(Self {
            switches: stats.ctxt,
            tasks: stats.processes,
        })
    }
}

/// Adds them up.
pub struct Costs {
    /// Of a run, for a stranger.
    entry_ns: u64,
    host: Option<Host>,
    sched_runs: u64,
    task_runs: u64,
}

impl Costs {
    /// From now on.
    pub fn new(entry_ns: u64) -> Self {
        Self {
            entry_ns,
            host: Host::now(),
            sched_runs: 0,
            task_runs: 0,
        }
    }

    /// What they have cost so far. `on_waits` says if those on wake-ups and switches were in place since the last call.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub fn read(
        &mut self,
        stats: &PerCpuArray<MapData, u64>,
        on_waits: bool,
    ) -> Result<Cost, ProbeError> {
        let now = Host::now();
        if let Some((before, now)) = self.host.zip(now) {
            if on_waits {
                self.sched_runs += 2 * now.switches.saturating_sub(before.switches);
            }
            self.task_runs += 2 * now.tasks.saturating_sub(before.tasks);
        }
        self.host = now.or(self.host);
        let total = |stat: Stat| -> Result<u64, ProbeError> {
            let values = stats.get(&(stat as u32), 0);
            Ok(values
                .map_err(|e| map_error("the counters", &e))?
                .iter()
                .sum())
        };
        let cost = |runs: u64, timed_ns: u64, one_in: u64| ProgramCost {
            runs,
            ns: runs * self.entry_ns + timed_ns * one_in,
        };
        Ok(Cost {
            tasks: cost(self.task_runs, total(Stat::TasksTimedNs)?, TIMED_TASKS),
            sched: cost(self.sched_runs, total(Stat::SchedTimedNs)?, TIMED_SCHED),
            memory: cost(
                total(Stat::MemoryRuns)?,
                total(Stat::MemoryTimedNs)?,
                TIMED_MEMORY,
            ),
        })
    }
}
