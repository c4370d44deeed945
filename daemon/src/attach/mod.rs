//! Attaching to a running service by name.
//!
//! A name is looked up as a systemd unit, then as a container, then as a process name; the first
//! rule that finds anything decides. Units and containers are recognised by their cgroups. When
//! several different services answer to the name within that rule, the user has to choose.
//!
//! Everything here reads `/proc`, cgroup directories and the state files of container runtimes;
//! nothing asks a daemon. Command lines are compared and never shown.
//!
//! To wait for a service that does not run yet, call [`poll`] once a second, and at once when the
//! kernel reports an exec under one of the [names](Target::kernel_names). On a host with thousands
//! of processes one look at all of them takes a noticeable part of a second: wait for a multiple of
//! the time that the last look took.

mod apart;
mod cgroup;
mod container;
mod error;
mod group;
mod host;
mod look;
mod owner;
mod process;
mod service;
mod suggestions;
mod target;
#[cfg(test)]
mod tests;
mod unit;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

pub use cgroup::Hierarchy;
pub use error::AttachError;
pub use host::Host;
pub use look::Look;
pub use owner::owner;
pub use process::FoundProcess;
pub use service::Service;
pub use target::Target;
pub use unit::UnitFile;
pub use watch::{CgroupWatch, begun, nurseries};

pub use crate::rule::Rule;

use apart::tell_apart;
use process::{NameKind, Snapshot};
use unit::Manager;

/// Finds the services behind a target: exactly one, or with `all` at least one.
///
/// # Errors
///
/// When nothing that runs fits the target, or several services do and `all` is not set.
pub fn find(target: &Target, host: &Host, all: bool) -> Result<Vec<Service>, AttachError> {
    match poll(target, host, all)? {
        Some(found) => Ok(found),
        None => Err(absent(target, host)),
    }
}

/// Like [`find`], for those who wait: nothing when nothing runs yet that fits the target.
///
/// # Errors
///
/// When waiting cannot help: several services fit and `all` is not set, or a pid is no process.
pub fn poll(target: &Target, host: &Host, all: bool) -> Result<Option<Vec<Service>>, AttachError> {
    let snapshot = Snapshot::with_cgroups(host);
    let by = |rule: fn(&Host, &Snapshot, &str) -> Vec<Service>, name: &str| {
        let mut found = rule(host, &snapshot, name);
        // What holds slowburn alone, or has just gone, is nothing to attach to.
        found.retain(|service| !service.processes.is_empty());
        found
    };
    let mut found = match target {
        Target::Service(name) => [units, containers, processes]
            .into_iter()
            .map(|rule| by(rule, name))
            .find(|found| !found.is_empty())
            .unwrap_or_default(),
        Target::Unit(name) => by(units, name),
        Target::Container(name) => by(containers, name),
        Target::Process(name) => by(processes, name),
        // It was asked for by its path, and may still be empty.
        Target::Cgroup(path) => cgroup::choose(host, path)
            .map(|chosen| Service::cgroup(host, &snapshot, chosen))
            .into_iter()
            .collect(),
        Target::Pids(pids) => by_pids(host, &snapshot, pids)?,
    };
    match found.len() {
        0 => Ok(None),
        1 => Ok(Some(found)),
        _ if all => {
            tell_apart(&mut found);
            Ok(Some(found))
        }
        _ => Err(AttachError::Ambiguous {
            target: target.clone(),
            candidates: found,
        }),
    }
}

/// The error for a target that nothing fits.
fn absent(target: &Target, host: &Host) -> AttachError {
    if let Target::Cgroup(path) = target {
        let mounts = host.cgroups.iter();
        return AttachError::NoSuchCgroup {
            path: path.clone(),
            mounts: mounts.map(|hierarchy| hierarchy.mount.clone()).collect(),
        };
    }
    let snapshot = Snapshot::with_cgroups(host);
    if let Some(file) = stopped_unit(target, host, &snapshot) {
        return AttachError::NotRunning {
            target: target.clone(),
            file,
        };
    }
    AttachError::NotFound {
        target: target.clone(),
        near: suggestions::suggestions(target, host, &snapshot),
    }
}

/// The unit that the target names and that does not run.
fn stopped_unit(target: &Target, host: &Host, snapshot: &Snapshot) -> Option<UnitFile> {
    let (Target::Service(name) | Target::Unit(name)) = target else {
        return None;
    };
    let files = unit::look_up(host, Manager::running(snapshot), &cgroup::unit_name(name));
    files.into_iter().next()
}

/// Everything that could be attached to: units and containers with processes, and processes by name
/// that are in neither.
pub fn list(host: &Host) -> Vec<Service> {
    let snapshot = Snapshot::with_cgroups(host);
    let mut containers = container::running(host, &snapshot);
    let units = cgroup::service_units(host, &snapshot);
    let covered: BTreeSet<u32> = containers
        .iter()
        .flat_map(|container| &container.pids)
        .chain(units.values().flatten())
        .copied()
        .collect();
    containers.retain(|container| !container.is_sandbox());
    let units = units.into_iter();
    let mut services: Vec<Service> = units
        .map(|(path, pids)| Service::unit(host, &snapshot, path, pids, None))
        .collect();
    let containers = containers.into_iter();
    services.extend(containers.map(|found| Service::container(host, &snapshot, found)));
    services.extend(others(host, &snapshot, &covered));
    services.retain(|service| !service.processes.is_empty());
    services
}

/// The processes that are in no unit and no container, by their comms. systemd itself is left out:
/// everything descends from it.
fn others(host: &Host, snapshot: &Snapshot, covered: &BTreeSet<u32>) -> Vec<Service> {
    let mut by_name: BTreeMap<&str, BTreeMap<u32, NameKind>> = BTreeMap::new();
    for (pid, process) in &snapshot.processes {
        let is_systemd = *pid == 1 && cgroup::is_init(&process.cgroups);
        if !covered.contains(pid) && !host.is_own(*pid) && !is_systemd {
            let named = by_name.entry(&process.stat.found.name).or_default();
            named.insert(*pid, NameKind::Comm);
        }
    }
    let children = snapshot.children();
    let services = by_name.into_iter().flat_map(|(name, matched)| {
        let groups = group::groups(host, snapshot, &children, &matched);
        Service::named(host, snapshot, name, groups)
    });
    services.collect()
}

fn units(host: &Host, snapshot: &Snapshot, name: &str) -> Vec<Service> {
    let wanted = cgroup::unit_name(name);
    let called = cgroup::units(snapshot, |unit| unit::is_meant(&wanted, unit)).into_iter();
    let mut services: Vec<Service> = called
        .map(|(path, pids)| Service::unit(host, snapshot, path, pids, None))
        .collect();
    for file in unit::look_up(host, Manager::running(snapshot), &wanted) {
        if file.unit != wanted {
            let mut aliased = cgroup::units(snapshot, |unit| unit::is_meant(&file.unit, unit));
            // Only the manager that reads the link knows the name, and none in a container does.
            aliased.retain(|path, _| file.is_at(host, path));
            let aliased = aliased.into_iter();
            services.extend(
                aliased
                    .map(|(path, pids)| Service::unit(host, snapshot, path, pids, Some(&wanted))),
            );
        }
    }
    services
}

fn containers(host: &Host, snapshot: &Snapshot, name: &str) -> Vec<Service> {
    let found = container::matching(container::running(host, snapshot), name).into_iter();
    found
        .map(|found| Service::container(host, snapshot, found))
        .collect()
}

fn processes(host: &Host, snapshot: &Snapshot, name: &str) -> Vec<Service> {
    let matched = group::named(host, snapshot, name);
    let groups = group::groups(host, snapshot, &snapshot.children(), &matched);
    Service::named(host, snapshot, name, groups)
}

/// One service made of all the pids; none if there are no pids.
fn by_pids(host: &Host, snapshot: &Snapshot, pids: &[u32]) -> Result<Vec<Service>, AttachError> {
    let mut lives = Vec::new();
    let mut name = None;
    for &pid in pids {
        let stat = process::any(host, pid).ok_or(AttachError::NoSuchPid { pid })?;
        let not_attachable = |what| AttachError::NotAttachable {
            pid,
            name: stat.found.name.clone(),
            what,
        };
        if stat.is_kernel_thread() {
            return Err(not_attachable("a thread of the kernel"));
        }
        if stat.is_dead() {
            return Err(not_attachable(
                "dead already, its parent has not noticed yet",
            ));
        }
        if host.is_self(pid) {
            return Err(not_attachable("slowburn itself"));
        }
        match process::leader_of(host, pid) {
            Some(leader) if leader != pid => {
                return Err(AttachError::NotALeader { tid: pid, leader });
            }
            Some(_) => {}
            None => return Err(AttachError::NoSuchPid { pid }),
        }
        lives.push(stat.found.life());
        name.get_or_insert(stat.found.name);
    }
    lives.sort();
    lives.dedup();
    let service = |name| Service::lives(host, snapshot, lives, name);
    Ok(name.map(service).into_iter().collect())
}
