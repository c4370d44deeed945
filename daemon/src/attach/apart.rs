//! Names for several services that answer to the same one.

use std::collections::BTreeMap;

use super::Service;

/// What a service can be told from others by, the handiest first.
const MARKS: [fn(&Service) -> Option<String>; 3] = [last_part, whole_path, lowest_pid];

/// Gives services that have the same name, and would be one in the stream, names of their own: `node (a.service)`. By the last part of
/// their cgroup if that is enough, or else all of it, or else the lowest pid.
pub fn tell_apart(services: &mut [Service]) {
    let mut same: BTreeMap<String, Vec<&mut Service>> = BTreeMap::new();
    for service in services {
        same.entry(service.name.clone()).or_default().push(service);
    }
    for services in same.values_mut().filter(|same| same.len() > 1) {
        let marks: Vec<_> = services
            .iter()
            .map(|service| MARKS.map(|mark| mark(service)))
            .collect();
        for (service, own) in services.iter_mut().zip(&marks) {
            let is_its_own =
                |n: usize| marks.iter().filter(|other| other[n] == own[n]).count() == 1;
            let mark = (0..MARKS.len()).find_map(|n| own[n].as_ref().filter(|_| is_its_own(n)));
            if let Some(mark) = mark {
                service.name = format!("{} ({mark})", service.name);
            }
        }
    }
}

fn last_part(service: &Service) -> Option<String> {
    let cgroup = service.cgroup.as_deref()?;
    let name = cgroup.file_name().unwrap_or(cgroup.as_os_str());
    Some(name.to_string_lossy().into_owned())
}

fn whole_path(service: &Service) -> Option<String> {
    let cgroup = service.cgroup.as_deref()?;
    Some(cgroup.to_string_lossy().into_owned())
}

fn lowest_pid(service: &Service) -> Option<String> {
    let first = service.processes.first()?;
    Some(format!("pid {}", first.pid))
}
