//! Cgroup hierarchies (v2, hybrid, v1), the paths in them, and the units that the paths name.
//!
//! Who is in which cgroup is taken from `/proc/PID/cgroup`: it says the same in all three set-ups,
//! also for controllers whose hierarchy is not mounted here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use procfs::process::MountInfo;

use super::container;
use super::host::Host;
use super::process::{self, FoundProcess, Snapshot};

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which of its cgroups is at the mount point: `/`, or deeper in a container.
    pub root: String,
    /// What `/proc/PID/cgroup` may call it: nothing for v2, else `name=systemd` or the names of
    /// controllers, and other mount options, which do not matter.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// A whole v2 hierarchy.
    pub fn v2(mount: impl Into<PathBuf>) -> Self {
        Self::v1(mount, &[])
    }

    /// A whole v1 hierarchy with these controllers, or one `name=…`.
    pub fn v1(mount: impl Into<PathBuf>, controllers: &[&str]) -> Self {
        Self {
            mount: mount.into(),
            root: "/".to_owned(),
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// The hierarchies in a `mountinfo` file, preferred first.
    pub(super) fn mounted(mountinfo: &str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        // Only the lines of interest are parsed: a mount point with an odd name elsewhere is no
        // reason to fail.
        for line in mountinfo.lines().filter(|line| line.contains(" - cgroup")) {
            let Ok(mount) = MountInfo::from_line(line) else {
                continue;
            };
            let hierarchy = Self::from_mount(mount);
            // The same hierarchy may be mounted several times, also into a container's tree. The
            // mount that shows most of it wins, then the first.
            match found
                .iter_mut()
                .find(|known| known.controllers == hierarchy.controllers)
            {
                Some(known) if hierarchy.root.len() < known.root.len() => *known = hierarchy,
                Some(_) => {}
                None => found.push(hierarchy),
            }
        }
        found.sort_by_key(|hierarchy| rank(&hierarchy.controllers.join(",")));
        found
    }

    fn from_mount(mount: MountInfo) -> Self {
        let option = |(name, value): (String, Option<String>)| match value {
            Some(value) => format!("{name}={value}"),
            None => name,
        };
        let mut controllers: Vec<String> = Vec::new();
        if mount.fs_type != "cgroup2" {
            controllers.extend(mount.super_options.into_iter().map(option));
            controllers.retain(|name| name != "rw" && name != "ro" && name != "xattr");
            controllers.sort();
        }
        Self {
            mount: mount.mount_point,
            root: mount.root,
            controllers,
        }
    }

    /// Is this the unified hierarchy?
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Is this the hierarchy that a line of `/proc/PID/cgroup` speaks of?
    fn is(&self, controllers: &str) -> bool {
        match controllers {
            "" => self.is_v2(),
            names => names
                .split(',')
                .all(|name| self.controllers.iter().any(|own| own == name)),
        }
    }

    /// The directory of a cgroup, whether or not it exists.
    pub(super) fn directory(&self, path: &str) -> Option<PathBuf> {
        let inside = Path::new(path).strip_prefix(&self.root).ok()?;
        // Cgroups outside the reader's cgroup namespace are shown as `/../…`: out of reach.
        let reachable = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        reachable.then(|| self.mount.join(inside))
    }

    /// The cgroup whose directory this is.
    pub(super) fn path_of(&self, directory: &Path) -> Option<String> {
        let inside = directory.strip_prefix(&self.mount).ok()?.to_str()?;
        let path = format!("{}/{inside}", self.root.trim_end_matches('/'));
        Some(if path == "/" {
            path
        } else {
            path.trim_end_matches('/').to_owned()
        })
    }
}

/// v2 first, because only its ids can be matched in the kernel; then systemd's, which has every
/// unit; the controllers last.
fn rank(controllers: &str) -> u8 {
    match controllers {
        "" => 0,
        "name=systemd" => 1,
        named if named.starts_with("name=") => 2,
        _ => 3,
    }
}

/// A line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// Empty for v2.
    pub controllers: String,
    pub path: String,
}

/// The cgroups of a process, preferred hierarchy first.
pub(super) fn memberships(host: &Host, pid: u32) -> Vec<Membership> {
    let text = process::read_small(&host.proc.join(pid.to_string()).join("cgroup"));
    text.map_or_else(Vec::new, |text| parse(&String::from_utf8_lossy(&text)))
}

fn parse(text: &str) -> Vec<Membership> {
    let mut memberships: Vec<Membership> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?.to_owned(), fields.next()?.to_owned());
            Some(Membership { controllers, path })
        })
        .collect();
    memberships.sort_by_key(|membership| rank(&membership.controllers));
    memberships
}

/// Is the path this cgroup or below it?
pub(super) fn is_within(path: &str, cgroup: &str) -> bool {
    match path.strip_prefix(cgroup.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Every directory of a path, outermost first: its name, and the path up to it.
pub(super) fn directories(path: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    path.match_indices('/').filter_map(|(slash, _)| {
        let name = path[slash + 1..].split('/').next()?;
        (!name.is_empty()).then(|| (name, &path[..slash + 1 + name.len()]))
    })
}

/// A cgroup chosen by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub path: String,
    /// In this hierarchy only, named as in `/proc/PID/cgroup`; in any if not said. Units have the
    /// same path wherever they have one.
    pub hierarchy: Option<Hierarchy>,
}

impl Chosen {
    pub(super) fn holds(&self, memberships: &[Membership]) -> bool {
        memberships.iter().any(|membership| {
            let here = |hierarchy: &Hierarchy| hierarchy.is(&membership.controllers);
            self.hierarchy.as_ref().is_none_or(here) && is_within(&membership.path, &self.path)
        })
    }

    /// Who is in it now. The cgroup's own list is much shorter than the host's list of processes.
    pub(super) fn members(&self, host: &Host) -> Vec<FoundProcess> {
        if let Some(pids) = self.listed(host) {
            let others = pids.into_iter().filter(|pid| !host.is_self(*pid));
            let alive = others.filter_map(|pid| process::living(host, pid));
            return alive.map(|stat| stat.found).collect();
        }
        let snapshot = Snapshot::with_cgroups(host);
        snapshot.found(host, self.pids_in(&snapshot))
    }

    pub(super) fn pids_in(&self, snapshot: &Snapshot) -> Vec<u32> {
        let all = snapshot.processes.iter();
        let within = all.filter(|(_, process)| self.holds(&process.cgroups));
        within.map(|(pid, _)| *pid).collect()
    }

    /// The pids in the cgroup's directories. Nothing when there is no directory, because the
    /// hierarchy may not be mounted here, or it does not show its processes, as a threaded cgroup.
    fn listed(&self, host: &Host) -> Option<BTreeSet<u32>> {
        let candidates: Vec<&Hierarchy> = match &self.hierarchy {
            Some(hierarchy) => vec![hierarchy],
            None => host.cgroups.iter().collect(),
        };
        let directories = candidates
            .iter()
            .filter_map(|cgroup| cgroup.directory(&self.path));
        let mut listed = None;
        for directory in directories.filter(|directory| directory.is_dir()) {
            let pids: &mut BTreeSet<u32> = listed.get_or_insert_default();
            list_tree(directory, pids)?;
        }
        listed
    }

    /// The id of the cgroup, if it exists in the v2 hierarchy now.
    pub(super) fn id(&self, host: &Host) -> Option<u64> {
        match &self.hierarchy {
            Some(hierarchy) if !hierarchy.is_v2() => None,
            _ => v2_id(host, &self.path),
        }
    }
}

/// Collects the processes of a cgroup and all below it; nothing if its own list cannot be read.
/// Directories may vanish on the way, and threaded ones below a cgroup have their processes in its
/// list.
fn list_tree(root: PathBuf, pids: &mut BTreeSet<u32>) -> Option<()> {
    let own = fs::read_to_string(root.join("cgroup.procs")).ok()?;
    pids.extend(own.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    let mut pending = vec![root];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let list = fs::read_to_string(entry.path().join("cgroup.procs"));
                let list = list.unwrap_or_default();
                pids.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()));
                pending.push(entry.path());
            }
        }
    }
    Some(())
}

/// The id of a v2 cgroup is the inode number of its directory.
pub(super) fn v2_id(host: &Host, path: &str) -> Option<u64> {
    let hierarchy = host.cgroups.iter().find(|cgroup| cgroup.is_v2())?;
    let metadata = fs::metadata(hierarchy.directory(path)?).ok()?;
    metadata.is_dir().then(|| metadata.ino())
}

/// Finds the cgroup that a user means: a directory below a cgroup mount, or a path in a hierarchy,
/// with or without the leading slash.
pub(super) fn choose(host: &Host, wanted: &Path) -> Option<Chosen> {
    let goes_up = wanted.components().any(|part| part == Component::ParentDir);
    if goes_up || wanted.as_os_str().is_empty() {
        return None;
    }
    // `/sys/fs/cgroup/cpu` is often a symbolic link to `cpu,cpuacct`.
    let absolute = wanted
        .is_absolute()
        .then(|| fs::canonicalize(wanted).ok())
        .flatten();
    if let Some(directory) = absolute.filter(|directory| directory.is_dir())
        && let Some(hierarchy) = host.hierarchy_of(&directory)
    {
        let path = hierarchy.path_of(&directory)?;
        let hierarchy = Some(hierarchy.clone());
        return Some(Chosen { path, hierarchy });
    }
    // As the kernel writes it: no `//`, no `.`, no slash at the end.
    let names = wanted.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_str()),
        _ => None,
    });
    let path = format!("/{}", names.collect::<Option<Vec<_>>>()?.join("/"));
    let exists = |hierarchy: &&Hierarchy| {
        hierarchy
            .directory(&path)
            .is_some_and(|directory| directory.is_dir())
    };
    let hierarchy = Some(host.cgroups.iter().find(exists)?.clone());
    Some(Chosen { path, hierarchy })
}

/// The kinds of units that have, or may have, a cgroup or be mistaken for having one.
const UNIT_SUFFIXES: [&str; 11] = [
    ".service",
    ".scope",
    ".slice",
    ".socket",
    ".mount",
    ".swap",
    ".target",
    ".timer",
    ".path",
    ".device",
    ".automount",
];

pub(super) fn has_unit_suffix(name: &str) -> bool {
    let mut suffixes = UNIT_SUFFIXES.iter();
    suffixes.any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

/// The unit that a user means by a name.
pub(super) fn unit_name(name: &str) -> String {
    if has_unit_suffix(name) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// As it is, so that it can be copied, but without what would mislead a terminal: `\x2d` in a unit's name stays.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            shown.extend(letter.escape_debug());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// systemd puts a `_` before names that would clash with the kernel's own files, such as
/// `_cpu.service`.
pub(super) fn unescape(directory: &str) -> &str {
    directory.strip_prefix('_').unwrap_or(directory)
}

/// The cgroups of every unit that `is_wanted`, with the processes in it: several for one name when
/// several managers (of the system, of users, in containers) run a unit of that name.
pub(super) fn units(
    snapshot: &Snapshot,
    is_wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, Vec<u32>> {
    let mut units: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (pid, process) in &snapshot.processes {
        // One hierarchy is enough, and they say the same; the preferred one that knows the unit.
        let found = process.cgroups.iter().find_map(|membership| {
            let wanted = |(name, _): &(&str, &str)| is_wanted(unescape(name));
            let paths: Vec<&str> = directories(&membership.path)
                .filter(wanted)
                .map(|(_, path)| path)
                .collect();
            (!paths.is_empty()).then_some(paths)
        });
        for path in found.unwrap_or_default() {
            units.entry(path.to_owned()).or_default().push(*pid);
        }
    }
    units
}

/// The units that run services, with the processes in them. The scope of a container is left out:
/// the container's name says more.
pub(super) fn service_units(host: &Host, snapshot: &Snapshot) -> BTreeMap<String, Vec<u32>> {
    let mut units = units(snapshot, is_service_unit);
    units.retain(|path, _| {
        let containers = container::in_path(host, path);
        containers
            .last()
            .is_none_or(|innermost| innermost.path != *path)
    });
    units
}

/// A unit that makes its processes one service. What people start by hand in a login session or a
/// terminal has nothing in common; the same goes for the cgroup of an init process.
pub(super) fn is_service_unit(directory: &str) -> bool {
    const BY_HAND: [&str; 4] = ["session-", "vte-spawn-", "tmux-spawn-", "init.scope"];
    let name = unescape(directory);
    match name.rsplit_once('.') {
        Some((_, "service")) => true,
        Some((_, "scope")) => !BY_HAND.iter().any(|prefix| name.starts_with(prefix)),
        _ => false,
    }
}

/// Where systemd puts itself.
pub(super) fn is_init(memberships: &[Membership]) -> bool {
    memberships
        .iter()
        .any(|membership| membership.path.ends_with("/init.scope"))
}

/// The innermost unit or container around a process, as a path. A user's manager
/// (`user@1000.service`) is a unit, but everything of that user is below it: it does not count.
pub(super) fn service_cgroup(host: &Host, memberships: &[Membership]) -> Option<String> {
    memberships.iter().find_map(|membership| {
        let containers = container::in_path(host, &membership.path);
        let container = containers.last().map(|found| found.path.as_str());
        let unit = directories(&membership.path)
            .rfind(|(name, _)| is_service_unit(name) && !name.starts_with("user@"));
        let unit = unit.map(|(_, path)| path);
        // The deeper one: both are prefixes of the same path.
        container
            .into_iter()
            .chain(unit)
            .max_by_key(|path| path.len())
            .map(str::to_owned)
    })
}
