//! Which of the processes with a name are one service.
//!
//! The rule: a process below another one with the name belongs to that one. The topmost ones are
//! the same service when they are in the same unit or container; outside of units and containers,
//! when they have the same parent. Some parents do not count: init, and shells in terminals, which
//! start unrelated things. All descendants belong to the service, whatever their names.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroup;
use super::host::Host;
use super::process::{self, Life, NameKind, Process, Snapshot};

/// What the topmost processes of a service have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bond {
    /// The unit or container they are in.
    Cgroup(String),
    /// The process that started them.
    Parent(Life),
    /// Nothing: this process and what it started.
    Alone(Life),
}

/// A service made of processes with a name.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub bond: Bond,
    /// The topmost processes with the name, and how they were known.
    pub roots: Vec<(u32, NameKind)>,
    /// These and all their descendants.
    pub pids: BTreeSet<u32>,
}

/// All processes with a name. Never slowburn itself and what started it: who says `bash` does not
/// mean the shell that slowburn was started from.
pub(super) fn named(host: &Host, snapshot: &Snapshot, name: &str) -> BTreeMap<u32, NameKind> {
    let others = snapshot
        .processes
        .iter()
        .filter(|(pid, _)| !host.is_own(**pid));
    others
        .filter_map(|(pid, process)| {
            Some((*pid, process::match_name(host, &process.stat.found, name)?))
        })
        .collect()
}

/// The topmost of the matched processes.
pub(super) fn roots(
    snapshot: &Snapshot,
    matched: &BTreeMap<u32, NameKind>,
) -> Vec<(u32, NameKind)> {
    let is_root = |pid: u32| {
        snapshot.get(pid).is_some_and(|process| {
            !snapshot.has_ancestor(&process.stat.found, |ancestor| {
                matched.contains_key(&ancestor)
            })
        })
    };
    let kinds = matched.iter().map(|(pid, kind)| (*pid, *kind));
    kinds.filter(|(pid, _)| is_root(*pid)).collect()
}

/// Splits the matched processes into services. The snapshot must have cgroups.
pub(super) fn groups(
    host: &Host,
    snapshot: &Snapshot,
    children: &BTreeMap<u32, Vec<u32>>,
    matched: &BTreeMap<u32, NameKind>,
) -> Vec<Group> {
    let mut by_bond: BTreeMap<Bond, Vec<(u32, NameKind)>> = BTreeMap::new();
    for root in roots(snapshot, matched) {
        if let Some(process) = snapshot.get(root.0) {
            by_bond
                .entry(bond(host, snapshot, process))
                .or_default()
                .push(root);
        }
    }
    let group = |(bond, roots): (Bond, Vec<(u32, NameKind)>)| Group {
        bond,
        pids: process::with_descendants(roots.iter().map(|(pid, _)| *pid), children),
        roots,
    };
    by_bond.into_iter().map(group).collect()
}

fn bond(host: &Host, snapshot: &Snapshot, process: &Process) -> Bond {
    if let Some(path) = cgroup::service_cgroup(host, &process.cgroups) {
        return Bond::Cgroup(path);
    }
    match snapshot.parent(&process.stat.found) {
        Some(parent) if parent.found.pid > 2 && !parent.is_terminal_session_leader() => {
            Bond::Parent(parent.found.life())
        }
        _ => Bond::Alone(process.stat.found.life()),
    }
}

impl Bond {
    /// Could this process be one of those that the bond holds together? Looks at it and its parent
    /// only.
    pub(super) fn holds(&self, host: &Host, process: &Process) -> bool {
        let lives = |life: &Life| {
            process::any(host, life.pid).is_some_and(|stat| stat.found.life() == *life)
        };
        match self {
            Self::Cgroup(path) => {
                cgroup::service_cgroup(host, &process.cgroups).as_ref() == Some(path)
            }
            Self::Parent(life) | Self::Alone(life) => {
                process.stat.found.life() == *life
                    || (process.stat.found.parent == life.pid && lives(life))
            }
        }
    }

    /// A unit can be started again; another process with the name would be another service.
    pub(super) fn can_return(&self) -> bool {
        matches!(self, Self::Cgroup(_))
    }
}
