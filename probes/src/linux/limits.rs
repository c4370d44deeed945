//! What a process may have at most: limits of its cgroup and of all cgroups above, and its own.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use procfs::{
    Current, FromBufRead, Meminfo,
    process::{LimitValue, Limits, Process},
};

use crate::event::{Life, ProcessLimits};

/// A process's limits are read again after so many windows: they hardly ever change, and reading them takes ten times what the rest of
/// its account does.
const READ_AGAIN: u32 = 8;

/// v1 says "none" with the highest multiple of a page.
const NONE_FROM: u64 = 1 << 62;

/// Limits of a cgroup, with those above it.
#[derive(Clone, Copy, Default)]
struct OfCgroup {
    memory_bytes: Option<u64>,
    tasks: Option<u64>,
}

/// Reads limits, and keeps them for some windows.
pub struct LimitReader {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    host_memory_bytes: Option<u64>,
    /// By process, with the windows for which they still hold.
    known: HashMap<Life, (ProcessLimits, u32)>,
    /// By directory, of this window.
    of_cgroups: HashMap<(PathBuf, &'static str), Option<u64>>,
}

impl LimitReader {
    /// Finds out where things are.
    pub fn new() -> Self {
        let mounts = Process::myself()
            .and_then(|me| me.mountinfo())
            .map(|mounts| mounts.0)
            .unwrap_or_default();
        let place = |kind: &str, controller: Option<&str>| {
            let found = mounts.iter().find(|mount| {
                let has = |name| mount.super_options.contains_key(name);
                mount.fs_type == kind && controller.is_none_or(has)
            });
            found.map(|mount| mount.mount_point.clone())
        };
        Self {
            unified: place("cgroup2", None),
            memory: place("cgroup", Some("memory")),
            pids: place("cgroup", Some("pids")),
            host_memory_bytes: Meminfo::current().ok().map(|memory| memory.mem_total),
            known: HashMap::new(),
            of_cgroups: HashMap::new(),
        }
    }

    /// Another window begins.
    pub fn start_window(&mut self) {
        self.of_cgroups.clear();
    }

    /// The limits of a process.
    pub fn read(&mut self, process: Life) -> ProcessLimits {
        if let Some((limits, windows)) = self.known.get_mut(&process)
            && *windows > 0
        {
            *windows -= 1;
            return *limits;
        }
        let limits = self.read_now(process.id);
        self.known.insert(process, (limits, READ_AGAIN - 1));
        limits
    }

    /// Forgets processes that are gone.
    pub fn keep(&mut self, alive: impl Fn(&Life) -> bool) {
        self.known.retain(|process, _| alive(process));
    }

    fn read_now(&mut self, pid: u32) -> ProcessLimits {
        let own = fs::read(format!("/proc/{pid}/limits")).ok();
        let own = own.and_then(|text| Limits::from_buf_read(&*text).ok());
        let value = |limit: LimitValue| match limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        };
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let cgroup = self.of_cgroup(&membership);
        ProcessLimits {
            memory_bytes: cgroup.memory_bytes,
            tasks: cgroup.tasks,
            address_space_bytes: own
                .as_ref()
                .and_then(|own| value(own.max_address_space.soft_limit)),
            fds: own.and_then(|own| value(own.max_open_files.soft_limit)),
            host_memory_bytes: self.host_memory_bytes,
        }
    }

    /// By what `/proc/PID/cgroup` says.
    fn of_cgroup(&mut self, membership: &str) -> OfCgroup {
        let mut limits = OfCgroup::default();
        for line in membership.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                let mount = self.unified.clone();
                self.tighten(
                    &mut limits.memory_bytes,
                    mount.as_deref(),
                    path,
                    "memory.max",
                );
                self.tighten(&mut limits.tasks, mount.as_deref(), path, "pids.max");
            }
            if has("memory") {
                let mount = self.memory.clone();
                let file = "memory.limit_in_bytes";
                self.tighten(&mut limits.memory_bytes, mount.as_deref(), path, file);
            }
            if has("pids") {
                let mount = self.pids.clone();
                self.tighten(&mut limits.tasks, mount.as_deref(), path, "pids.max");
            }
        }
        limits
    }

    /// The least limit of a cgroup and of those above it.
    fn tighten(
        &mut self,
        limit: &mut Option<u64>,
        mount: Option<&Path>,
        path: &str,
        file: &'static str,
    ) {
        let Some(mount) = mount else {
            return;
        };
        for above in Path::new(path).ancestors() {
            let directory = mount.join(above.strip_prefix("/").unwrap_or(above));
            let read = || parse(&fs::read_to_string(directory.join(file)).ok()?);
            let key = (directory.clone(), file);
            let found = *self.of_cgroups.entry(key).or_insert_with(read);
            *limit = match (*limit, found) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
}

/// `None` for "no limit".
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NONE_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_below_all_memory() {
        assert_eq!(parse("1048576\n"), Some(1_048_576));
        assert_eq!(parse("max\n"), None);
        assert_eq!(parse("9223372036854771712\n"), None);
    }

    /// A hierarchy of either version.
    fn reader(root: &Path, unified: bool) -> LimitReader {
        let mut reader = LimitReader::new();
        reader.unified = unified.then(|| root.to_owned());
        reader.memory = (!unified).then(|| root.to_owned());
        reader.pids = (!unified).then(|| root.to_owned());
        reader
    }

    #[test]
    fn the_tightest_cgroup_above_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let deep = root.path().join("system.slice/shop.service");
        fs::create_dir_all(&deep).expect("directories");
        let write = |directory: &Path, file: &str, text: &str| {
            fs::write(directory.join(file), text).expect("a file");
        };
        write(&deep, "memory.max", "max\n");
        write(&deep, "pids.max", "900\n");
        write(&root.path().join("system.slice"), "memory.max", "5000\n");
        write(&root.path().join("system.slice"), "pids.max", "1000\n");
        write(root.path(), "memory.max", "7000\n");
        let path = "system.slice/shop.service";
        let of = |unified: bool, membership: String| {
            let limits = reader(root.path(), unified).of_cgroup(&membership);
            (limits.memory_bytes, limits.tasks)
        };
        assert_eq!(of(true, format!("0::/{path}\n")), (Some(5000), Some(900)));
        assert_eq!(of(true, "0::/elsewhere\n".to_owned()), (Some(7000), None));
        write(&deep, "memory.limit_in_bytes", "9223372036854771712\n");
        write(root.path(), "memory.limit_in_bytes", "6000\n");
        let v1 = format!("12:pids:/{path}\n5:cpu,memory:/{path}\n0::/\nodd\n");
        assert_eq!(of(false, v1), (Some(6000), Some(900)));
    }

    #[test]
    fn own_limits_are_read_and_kept() {
        let process = Life {
            id: std::process::id(),
            start_ns: 0,
        };
        let mut reader = LimitReader::new();
        let limits = reader.read(process);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limits.fds, files.current);
        assert!(
            limits
                .host_memory_bytes
                .is_some_and(|bytes| bytes > 1 << 24)
        );
        for _ in 1..READ_AGAIN {
            assert_eq!(reader.read(process), limits);
        }
        assert_eq!(reader.known[&process].1, 0);
        reader.keep(|_| false);
        assert!(reader.known.is_empty());
    }
}
