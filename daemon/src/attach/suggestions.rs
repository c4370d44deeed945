//! Names of running things that look like the one that was not found.

use std::collections::BTreeSet;

use super::cgroup;
use super::container;
use super::host::Host;
use super::process::{self, Snapshot};
use super::target::Target;
use crate::near::best;

/// The names that look most like the target, best first.
pub(super) fn suggestions(target: &Target, host: &Host, snapshot: &Snapshot) -> Vec<String> {
    let (wanted, candidates) = match target {
        Target::Unit(name) => (name, units(host, snapshot)),
        Target::Container(name) => (name, containers(host, snapshot)),
        Target::Process(name) => (name, processes(host, snapshot)),
        Target::Service(name) => {
            let mut all = units(host, snapshot);
            all.append(&mut containers(host, snapshot));
            all.append(&mut processes(host, snapshot));
            (name, all)
        }
        Target::Cgroup(_) | Target::Pids(_) => return Vec::new(),
    };
    best(wanted, candidates)
}

fn units(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let paths = cgroup::service_units(host, snapshot).into_keys();
    paths
        .filter_map(|path| Some(cgroup::unescape(path.rsplit('/').next()?).to_owned()))
        .collect()
}

fn containers(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let running = container::running(host, snapshot).into_iter();
    running
        .filter(|found| !found.is_sandbox())
        .map(|found| found.display_name())
        .collect()
}

fn processes(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let others = snapshot
        .processes
        .iter()
        .filter(|(pid, _)| !host.is_own(**pid));
    others
        .flat_map(|(pid, process)| {
            // The executable's name is the whole one where comm is cut.
            [
                Some(process.stat.found.name.clone()),
                process::executable(host, *pid),
            ]
        })
        .flatten()
        .collect()
}
