//! Names for several services that answer to the same one.

use std::{collections::BTreeMap, path::Path};

use super::Service;

/// Gives services that have the same name, and would be one in the stream, names of their own: `node (a.service)`. By the last part of
/// their cgroup if that is enough, or else all of it, or else the lowest pid.
pub fn tell_apart(services: &mut [Service]) {
    let mut same: BTreeMap<String, Vec<&mut Service>> = BTreeMap::new();
    for service in services {
        same.entry(service.name.clone()).or_default().push(service);
    }
    for services in same.values_mut().filter(|same| same.len() > 1) {
        let marks: [Vec<Option<String>>; 2] =
            [last_part, whole_path].map(|mark: fn(&Path) -> String| {
                let cgroups = services.iter().map(|service| service.cgroup.as_deref());
                cgroups.map(|cgroup| cgroup.map(mark)).collect()
            });
        for (at, service) in services.iter_mut().enumerate() {
            let unique = |marks: &&Vec<Option<String>>| {
                let mark = &marks[at];
                mark.is_some() && marks.iter().filter(|other| *other == mark).count() == 1
            };
            let mark = marks
                .iter()
                .find(unique)
                .and_then(|marks| marks[at].clone());
            let first = service.processes.first().map(|process| process.pid);
            if let Some(mark) = mark.or_else(|| Some(format!("pid {}", first?))) {
                service.name = format!("{} ({mark})", service.name);
            }
        }
    }
}

fn last_part(cgroup: &Path) -> String {
    let name = cgroup.file_name().unwrap_or(cgroup.as_os_str());
    name.to_string_lossy().into_owned()
}

fn whole_path(cgroup: &Path) -> String {
    cgroup.to_string_lossy().into_owned()
}
