//! What a process is part of, whether it is watched or not.

use super::cgroup;
use super::container::{self, State};
use super::host::Host;

/// The innermost unit or container around a process, by its cgroup: `redis.service`, a container's name or the first 12
/// characters of its id. None if it is in neither, or gone.
#[must_use]
pub fn owner(host: &Host, pid: u32) -> Option<String> {
    let memberships = cgroup::memberships(host, pid);
    let path = cgroup::service_cgroup(host, &memberships).or_else(|| {
        // What was started by hand is at least in the scope of a session.
        memberships.iter().find_map(|membership| {
            let unit = cgroup::directories(&membership.path)
                .rfind(|(name, _)| cgroup::has_unit_suffix(name));
            unit.map(|(_, path)| path.to_owned())
        })
    })?;
    let containers = container::in_path(host, &path);
    if let Some(found) = containers.last().filter(|found| found.path == path) {
        return Some(match State::new(host).names(&found.id) {
            Some(names) => names.display,
            None => found.id.chars().take(12).collect(),
        });
    }
    let (name, _) = cgroup::directories(&path).last()?;
    Some(cgroup::shown(name))
}
