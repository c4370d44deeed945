//! Units as systemd's files tell of them: which names mean one unit, who runs it, what is masked.
//!
//! systemd is not asked: a unit's other names are symbolic links in the directories that it searches.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::cgroup;
use super::container;
use super::host::Host;
use super::process::Snapshot;

/// A name for a name for a name: systemd gives up as well.
const MOST_LINKS: usize = 8;

/// Where the system's manager looks for units, the first one that has a name decides.
const SYSTEM: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator.late",
];

/// The same for a user's manager, below the user's home.
const HOME: [&str; 3] = [
    ".config/systemd/user.control",
    ".config/systemd/user",
    ".local/share/systemd/user",
];

/// Below the user's own part of `/run`.
const RUNTIME: [&str; 6] = [
    "systemd/user.control",
    "systemd/transient",
    "systemd/generator.early",
    "systemd/user",
    "systemd/generator",
    "systemd/generator.late",
];

/// For all users.
const USERS: [&str; 7] = [
    "etc/xdg/systemd/user",
    "etc/systemd/user",
    "run/systemd/user",
    "usr/local/share/systemd/user",
    "usr/share/systemd/user",
    "usr/local/lib/systemd/user",
    "usr/lib/systemd/user",
];

/// Who runs a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Manager {
    /// PID 1.
    System,
    /// `systemd --user` of this user.
    User(u32),
}

impl Manager {
    /// The manager that made a unit's cgroup: of the user whose `user@UID.service` it is in, else the system's.
    pub(super) fn of(path: &str) -> Self {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let mut inwards = cgroup::directories(above).rev();
        let user = inwards.find_map(|(name, _)| user_of(name));
        user.map_or(Self::System, Self::User)
    }

    /// The managers that run.
    pub(super) fn running(snapshot: &Snapshot) -> BTreeSet<Self> {
        let memberships = snapshot
            .processes
            .values()
            .flat_map(|process| &process.cgroups);
        let users = memberships
            .flat_map(|membership| cgroup::directories(&membership.path))
            .filter_map(|(name, _)| user_of(name));
        users.map(Self::User).chain([Self::System]).collect()
    }

    fn directories(self, host: &Host) -> Vec<PathBuf> {
        let below = |root: &Path, names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| root.join(name)).collect()
        };
        let Self::User(uid) = self else {
            return below(&host.root, &SYSTEM);
        };
        // Directories of one user only go first. Who has the same name twice there has to look at
        // systemd-analyze for their exact order anyway.
        let home = account(host, uid).map(|user| host.root.join(user.home.trim_start_matches('/')));
        let mut directories = home.map_or_else(Vec::new, |home| below(&home, &HOME));
        let runtime = host.root.join(format!("run/user/{uid}"));
        directories.extend(below(&runtime, &RUNTIME));
        directories.extend(below(&host.root, &USERS));
        directories
    }

    /// `user tester (uid 1000)`; nothing for the system.
    pub(super) fn owner(self, host: &Host) -> Option<String> {
        let Self::User(uid) = self else { return None };
        Some(match account(host, uid) {
            Some(user) => format!("user {} (uid {uid})", cgroup::shown(&user.name)),
            None => format!("the user with uid {uid}"),
        })
    }
}

/// The user whose manager is called this.
pub(super) fn user_of(unit: &str) -> Option<u32> {
    unit.strip_prefix("user@")?
        .strip_suffix(".service")?
        .parse()
        .ok()
}

struct Account {
    name: String,
    home: String,
}

/// Only local users: others would have to be asked for over the network.
fn account(host: &Host, uid: u32) -> Option<Account> {
    let users = fs::read_to_string(host.root.join("etc/passwd")).ok()?;
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_it = fields.get(2)?.parse() == Ok(uid);
        is_it.then_some(Account {
            name: (*fields.first()?).to_owned(),
            home: (*fields.get(5)?).to_owned(),
        })
    })
}

/// What the files say about a name of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    /// What systemd calls it: another name if the one that was asked for is an alias.
    pub unit: String,
    /// Where it is.
    pub path: PathBuf,
    /// It cannot be started.
    pub is_masked: bool,
    pub(super) manager: Manager,
}

impl UnitFile {
    /// Can the unit's cgroup be at this path? Not if another manager made it.
    pub(super) fn is_at(&self, host: &Host, path: &str) -> bool {
        Manager::of(path) == self.manager && container::in_path(host, path).is_empty()
    }

    /// Is it a template, of which only instances can run?
    pub(super) fn is_template(&self) -> bool {
        template_of(&self.unit).as_deref() == Some(&self.unit)
    }
}

impl fmt::Display for UnitFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", cgroup::shown(&self.unit), self.path.display())
    }
}

/// Does the user mean this unit? Who names a template means its instances.
pub(super) fn is_meant(wanted: &str, unit: &str) -> bool {
    unit == wanted || template_of(unit).as_deref() == Some(wanted)
}

/// What the files of these managers say about a name.
pub(super) fn look_up(host: &Host, managers: BTreeSet<Manager>, name: &str) -> Vec<UnitFile> {
    managers
        .into_iter()
        .filter_map(|manager| resolve(host, manager, name))
        .collect()
}

/// Follows the links from a name to the unit that it means.
fn resolve(host: &Host, manager: Manager, wanted: &str) -> Option<UnitFile> {
    // A name is no path.
    if wanted.contains('/') {
        return None;
    }
    let directories = manager.directories(host);
    let mut unit = wanted.to_owned();
    for _ in 0..MOST_LINKS {
        let path = find(&directories, &unit)?;
        let next = linked(host, &directories, &path).map(|target| instantiated(&target, &unit));
        match next {
            Some(next) if next != unit => unit = next,
            _ => {
                let is_masked = is_empty(&path);
                return Some(UnitFile {
                    unit,
                    path,
                    is_masked,
                    manager,
                });
            }
        }
    }
    None
}

/// The file of a unit, or of its template.
fn find(directories: &[PathBuf], unit: &str) -> Option<PathBuf> {
    let names = [Some(unit.to_owned()), template_of(unit)];
    names.into_iter().flatten().find_map(|name| {
        let mut paths = directories.iter().map(|directory| directory.join(&name));
        paths.find(|path| path.symlink_metadata().is_ok())
    })
}

/// The unit that a file is a link to. A link to a file that is not where systemd looks for units is no
/// other name: the unit is called after the link (`systemctl link`).
fn linked(host: &Host, directories: &[PathBuf], path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let target = match target.strip_prefix("/") {
        Ok(inside) if !target.starts_with(&host.root) => host.root.join(inside),
        Ok(_) => target,
        Err(_) => path.parent()?.join(target),
    };
    let place = fs::canonicalize(target.parent()?).ok()?;
    let is_searched = |directory: &PathBuf| fs::canonicalize(directory).is_ok_and(|it| it == place);
    let name = target.file_name()?.to_str()?;
    directories.iter().any(is_searched).then(|| name.to_owned())
}

/// A link to `/dev/null`, or an empty file.
fn is_empty(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|file| file.file_type().is_char_device() || (file.is_file() && file.len() == 0))
}

/// `foo@.service` for `foo@bar.service`, and for itself.
fn template_of(unit: &str) -> Option<String> {
    let (prefix, instance) = unit.split_once('@')?;
    let (_, suffix) = instance.rsplit_once('.')?;
    Some(format!("{prefix}@.{suffix}"))
}

/// A template that an instance is linked to means its instance of the same name.
fn instantiated(target: &str, unit: &str) -> String {
    let instance = unit
        .split_once('@')
        .and_then(|(_, rest)| rest.rsplit_once('.'));
    match (target.split_once("@."), instance) {
        (Some((prefix, suffix)), Some((instance, _))) => format!("{prefix}@{instance}.{suffix}"),
        _ => target.to_owned(),
    }
}
