//! Where the host's files are.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::Hierarchy;
use super::error::AttachError;
use super::process;

/// Where the host's files are. Every root can be replaced, so that tests can use fixture trees.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/`, below which systemd's unit files and `/etc/passwd` are
    pub root: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/var/lib`, where docker, podman and CRI-O keep the names of their containers
    pub var_lib: PathBuf,
    /// `/run`, where containerd keeps the names of its containers
    pub run: PathBuf,
    /// The mounted cgroup hierarchies, preferred first: v2, then `name=systemd`, then the rest
    pub cgroups: Vec<Hierarchy>,
    /// slowburn's own pid first, then its ancestors (shell, sudo, cargo): none of them is found by
    /// name
    pub own_pids: Vec<u32>,
}

impl Host {
    /// The host that this process runs on.
    ///
    /// # Errors
    ///
    /// When `/proc/self/mountinfo` cannot be read: without `/proc` nothing can be found.
    pub fn live() -> Result<Self, AttachError> {
        let path = PathBuf::from("/proc/self/mountinfo");
        let mounts = fs::read(&path).map_err(|source| AttachError::Proc { path, source })?;
        let mut host = Self {
            root: "/".into(),
            proc: "/proc".into(),
            var_lib: "/var/lib".into(),
            run: "/run".into(),
            cgroups: Hierarchy::mounted(&String::from_utf8_lossy(&mounts)),
            own_pids: Vec::new(),
        };
        host.own_pids = lineage(&host, std::process::id());
        Ok(host)
    }

    /// Is this slowburn itself?
    pub(super) fn is_self(&self, pid: u32) -> bool {
        self.own_pids.first() == Some(&pid)
    }

    /// Is this slowburn itself or one of its ancestors?
    pub(super) fn is_own(&self, pid: u32) -> bool {
        self.own_pids.contains(&pid)
    }

    /// The hierarchy a path is in, if it is mounted where it can be seen.
    pub(super) fn hierarchy_of(&self, path: &Path) -> Option<&Hierarchy> {
        let within = self
            .cgroups
            .iter()
            .filter(|cgroup| path.starts_with(&cgroup.mount));
        within.max_by_key(|cgroup| cgroup.mount.as_os_str().len())
    }
}

/// The process and its ancestors, but not the init process: that is everyone's ancestor, and in a
/// container it can be the service itself.
fn lineage(host: &Host, pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut current = pid;
    while let Some(stat) = process::any(host, current) {
        current = stat.found.parent;
        if current <= 1 || pids.contains(&current) {
            break;
        }
        pids.push(current);
    }
    pids
}
