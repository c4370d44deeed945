//! What our own programs cost in the kernel.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::Ebpf;

use super::{
    error::ProbeError,
    hooks::{Hooked, Need},
};

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
    /// Those on calls that change an address space.
    pub memory: ProgramCost,
}

/// Reads them.
pub struct Costs {
    programs: Vec<(Need, RawFd)>,
}

impl Costs {
    /// Of all programs that are loaded. They have to stay so.
    pub fn of(ebpf: &Ebpf, hooked: &BTreeMap<Need, Hooked>) -> Self {
        let programs = hooked
            .iter()
            .flat_map(|(need, hooked)| hooked.programs().map(move |name| (*need, name)))
            .filter_map(|(need, name)| {
                let fd = ebpf.program(name)?.fd().ok()?;
                Some((need, fd.as_fd().as_raw_fd()))
            });
        Self {
            programs: programs.collect(),
        }
    }

    /// What they have cost so far. The kernel times them only while `kernel.bpf_stats_enabled` is set; otherwise all is zero.
    ///
    /// # Errors
    /// None; this is where a failing map read would be told.
    #[expect(clippy::unnecessary_wraps, reason = "reading counters can fail")]
    pub fn read(&self) -> Result<Cost, ProbeError> {
        let mut cost = Cost::default();
        for (need, fd) in &self.programs {
            let sum = match need {
                Need::Tasks => &mut cost.tasks,
                Need::Sched => &mut cost.sched,
                Need::Memory => &mut cost.memory,
            };
            let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else {
                continue;
            };
            sum.ns += field(&info, "run_time_ns:");
            sum.runs += field(&info, "run_cnt:");
        }
        Ok(cost)
    }
}

fn field(info: &str, name: &str) -> u64 {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}
