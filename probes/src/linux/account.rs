//! The kernel's own counters, read once per window and shown beside ours.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use procfs::{
    CurrentSI, FromRead, KernelStats,
    process::{Process, Schedstat, Stat, Status},
};

use super::{clock::ns_per_tick, limits::LimitReader};
use crate::event::{Life, ProcessAccount, ThreadAccount};

/// What the kernel says about a thread's waits since it was created. `None` if it is gone or not built in.
pub fn schedstat(pid: u32, tid: u32) -> Option<ThreadAccount> {
    let stat = Schedstat::from_file(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    Some(ThreadAccount {
        run_delay_ns: stat.run_delay,
        run_count: stat.pcount,
    })
}

/// Counters of a process as they stood at the last reading.
#[derive(Clone, Copy, Default)]
struct Counters {
    cpu_ns: Option<u64>,
    minor_faults: Option<u64>,
    major_faults: Option<u64>,
    throttled_ns: Option<u64>,
    throttled_periods: Option<u64>,
}

/// Reads the counters of processes and turns them into changes.
pub struct Accounts {
    previous: HashMap<Life, Counters>,
    steal_ns: Option<u64>,
    /// Change of the host's steal time over the current window.
    steal_change: Option<u64>,
    ns_per_tick: u64,
    cgroups: CgroupMounts,
    limits: LimitReader,
}

impl Accounts {
    /// Finds out where things are.
    pub fn new() -> Self {
        let mut accounts = Self {
            previous: HashMap::new(),
            steal_ns: None,
            steal_change: None,
            ns_per_tick: ns_per_tick(),
            cgroups: CgroupMounts::find(),
            limits: LimitReader::new(),
        };
        accounts.start_window();
        accounts
    }

    /// Reads what belongs to the whole host. To be called once, before the processes of a window.
    pub fn start_window(&mut self) {
        let now = KernelStats::current()
            .ok()
            .and_then(|stats| stats.total.steal)
            .map(|ticks| ticks * self.ns_per_tick);
        self.steal_change = change(now, self.steal_ns);
        self.steal_ns = now;
        self.limits.start_window();
    }

    /// Takes the counters of a process as they stand, so that the first window shows changes.
    pub fn baseline(&mut self, process: Life) {
        let counters = self.counters(process.id);
        self.previous.insert(process, counters);
    }

    /// Reads the counters of a process.
    pub fn read(&mut self, process: Life) -> ProcessAccount {
        let pid = process.id;
        let now = self.counters(pid);
        let before = self.previous.insert(process, now).unwrap_or_default();
        let status = Status::from_file(format!("/proc/{pid}/status")).ok();
        let kib = |value: Option<u64>| value.map(|kib| kib * 1024);
        ProcessAccount {
            rss_bytes: kib(status.as_ref().and_then(|s| s.vmrss)),
            anonymous_bytes: kib(status.as_ref().and_then(|s| s.rssanon)),
            vm_bytes: kib(status.as_ref().and_then(|s| s.vmsize)),
            data_bytes: kib(status.as_ref().and_then(|s| s.vmdata)),
            threads: status.as_ref().map(|s| s.threads),
            fds: open_files(pid),
            cpu_ns: change(now.cpu_ns, before.cpu_ns),
            minor_faults: change(now.minor_faults, before.minor_faults),
            major_faults: change(now.major_faults, before.major_faults),
            throttled_ns: change(now.throttled_ns, before.throttled_ns),
            throttled_periods: change(now.throttled_periods, before.throttled_periods),
            host_steal_ns: self.steal_change,
            limits: self.limits.read(process),
        }
    }

    /// Forgets processes that are gone.
    pub fn keep(&mut self, alive: impl Fn(&Life) -> bool) {
        self.previous.retain(|process, _| alive(process));
        self.limits.keep(alive);
    }

    fn counters(&self, pid: u32) -> Counters {
        let mut counters = Counters::default();
        if let Ok(stat) = Stat::from_file(format!("/proc/{pid}/stat")) {
            counters.cpu_ns = Some((stat.utime + stat.stime) * self.ns_per_tick);
            counters.minor_faults = Some(stat.minflt);
            counters.major_faults = Some(stat.majflt);
        }
        if let Some((ns, periods)) = self.cgroups.throttled(pid) {
            counters.throttled_ns = Some(ns);
            counters.throttled_periods = Some(periods);
        }
        counters
    }
}

/// A counter that went backwards (a process that moved to another cgroup) has no change to tell.
fn change(now: Option<u64>, before: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

/// Size of a process's address space and of its private writable part, in bytes.
pub fn address_space(pid: u32) -> Option<(u64, u64)> {
    let status = Status::from_file(format!("/proc/{pid}/status")).ok()?;
    Some((status.vmsize? * 1024, status.vmdata? * 1024))
}

/// Number of open file descriptors. Kernels from 6.2 tell it as the directory's size; before that
/// the entries are counted.
fn open_files(pid: u32) -> Option<u64> {
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    match fs::metadata(&directory) {
        Ok(metadata) if metadata.len() > 0 => Some(metadata.len()),
        _ => Some(fs::read_dir(&directory).ok()?.count() as u64),
    }
}

/// Where the hierarchies with CPU quotas are mounted.
struct CgroupMounts {
    unified: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl CgroupMounts {
    fn find() -> Self {
        let mounts = Process::myself()
            .and_then(|me| me.mountinfo())
            .map(|m| m.0)
            .unwrap_or_default();
        let place = |fs_type: &str, option: Option<&str>| {
            mounts
                .iter()
                .find(|m| {
                    m.fs_type == fs_type && option.is_none_or(|o| m.super_options.contains_key(o))
                })
                .map(|m| m.mount_point.clone())
        };
        Self {
            unified: place("cgroup2", None),
            cpu: place("cgroup", Some("cpu")),
        }
    }

    /// For how long, and in how many periods, the process's cgroup was throttled since it was made.
    fn throttled(&self, pid: u32) -> Option<(u64, u64)> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            if controllers.is_empty() {
                cpu_stat(self.unified.as_deref()?, path)
            } else if controllers.split(',').any(|c| c == "cpu") {
                cpu_stat(self.cpu.as_deref()?, path)
            } else {
                None
            }
        })
    }
}

/// Reads `cpu.stat` of either version: `throttled_usec` in v2, `throttled_time` (nanoseconds) in v1.
fn cpu_stat(mount: &Path, cgroup: &str) -> Option<(u64, u64)> {
    parse_cpu_stat(
        &fs::read_to_string(mount.join(cgroup.trim_start_matches('/')).join("cpu.stat")).ok()?,
    )
}

fn parse_cpu_stat(text: &str) -> Option<(u64, u64)> {
    let value = |key: &str| -> Option<u64> {
        text.lines().find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
    };
    let ns = value("throttled_usec")
        .map(|us| us * 1000)
        .or_else(|| value("throttled_time"))?;
    Some((ns, value("nr_throttled")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_stat_of_both_versions() {
        let v2 = "usage_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 40\n";
        assert_eq!(parse_cpu_stat(v2), Some((40_000, 2)));
        let v1 = "nr_periods 5\nnr_throttled 3\nthrottled_time 77\n";
        assert_eq!(parse_cpu_stat(v1), Some((77, 3)));
        assert_eq!(
            parse_cpu_stat("usage_usec 10\n"),
            None,
            "the root cgroup has no quota"
        );
    }

    #[test]
    fn own_process_has_counters() {
        let pid = std::process::id();
        let process = Life {
            id: pid,
            start_ns: 0,
        };
        let mut accounts = Accounts::new();
        accounts.baseline(process);
        let account = accounts.read(process);
        assert!(account.rss_bytes.unwrap() > 0);
        assert!(account.vm_bytes.unwrap() >= account.data_bytes.unwrap());
        assert!(account.threads.unwrap() >= 1);
        assert!(account.fds.unwrap() >= 3);
        assert!(account.cpu_ns.is_some());
    }
}
