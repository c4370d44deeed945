//! Runs of our programs that the kernel has left out.
//!
//! A program of a function or tracepoint is not entered on a CPU on which it is under way already: where a kernel lets
//! programs be preempted, the call of another thread meanwhile is not seen. The kernel counts this for each program,
//! whosever call it was, in `recursion_misses` of `/proc/self/fdinfo` (`bpf_prog_show_fdinfo()`, 5.12; for kprobes and classic
//! tracepoints only later kernels do).

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::Ebpf;

/// Counts them.
pub struct Skipped {
    programs: Vec<RawFd>,
    told: u64,
}

impl Skipped {
    /// Of all programs that are loaded. They have to stay so.
    pub fn of(ebpf: &Ebpf) -> Self {
        let loaded = ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        Self {
            programs: loaded.map(|fd| fd.as_fd().as_raw_fd()).collect(),
            told: 0,
        }
    }

    /// How many there were since the last call.
    pub fn take(&mut self) -> u64 {
        let all: u64 = self.programs.iter().filter_map(|fd| misses(*fd)).sum();
        let new = all.saturating_sub(self.told);
        self.told = all;
        new
    }
}

fn misses(program: RawFd) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{program}")).ok()?;
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))?;
    count.trim().parse().ok()
}
