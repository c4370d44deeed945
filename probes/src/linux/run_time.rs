//! What the kernel says of programs: how often and how long they have run, and how large they are. For benchmarks: the
//! kernel reads its clock twice in each run of any program of the host while somebody wants to know.

use std::{collections::HashMap, fs, io, os::fd::OwnedFd};

use aya::{
    programs::loaded_programs,
    sys::{Stats, SyscallError, enable_stats},
};

/// The kernel takes the times of programs until this is dropped.
pub struct RunTimes(#[expect(dead_code, reason = "held for what its drop does")] OwnedFd);

/// A program, since it was loaded.
#[derive(Clone, Debug)]
pub struct RunTime {
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// How often it ran while times were taken.
    pub runs: u64,
    /// For how long, in nanoseconds, with what taking the time takes.
    pub ns: u64,
    /// Instructions after the kernel has rewritten them.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_code_bytes: u32,
}

impl RunTimes {
    /// Has the kernel take them.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or on kernels before 5.8.
    pub fn take() -> Result<Self, SyscallError> {
        enable_stats(Stats::RunTime).map(Self)
    }

    /// Of the programs that a process holds.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(&self, pid: u32) -> io::Result<Vec<RunTime>> {
        let loaded: HashMap<_, _> = loaded_programs()
            .filter_map(Result::ok)
            .map(|program| (program.id(), program))
            .collect();
        let mut programs = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let number = |key: &str| {
                let line = info.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().parse::<u64>().ok()
            };
            // Descriptors of links name the program, too.
            let (Some(id), Some(ns), Some(runs)) = (
                number("prog_id:"),
                number("run_time_ns:"),
                number("run_cnt:"),
            ) else {
                continue;
            };
            if let Some(program) = loaded.get(&(id as u32)) {
                programs.push(RunTime {
                    name: program.name_as_str().unwrap_or_default().to_owned(),
                    runs,
                    ns,
                    instructions: program.size_translated().unwrap_or(0) / 8,
                    machine_code_bytes: program.size_jitted(),
                });
            }
        }
        Ok(programs)
    }
}
