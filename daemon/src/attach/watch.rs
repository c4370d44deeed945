//! Hears of new cgroups, so that the kernel side knows a unit's cgroup before the unit's program runs in it.
//!
//! systemd makes a cgroup first and starts the program in it some milliseconds later. A program that ends
//! at once would be over before its exec could be looked at in `/proc`.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::apart::tell_apart;
use super::cgroup;
use super::host::Host;
use super::process::Snapshot;
use super::service::Service;
use super::target::Target;
use super::unit::{self, Manager};

/// Directories of the v2 hierarchy in which new cgroups are heard of.
pub struct CgroupWatch(OwnedFd);

impl CgroupWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the user has as many such descriptors as allowed.
    pub fn new() -> io::Result<Self> {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        Ok(Self(inotify::init(flags)?))
    }

    /// A descriptor that can be read when there is something new.
    ///
    /// # Errors
    /// If there are too many.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Watches these directories, too. What cannot be watched is gone, or is found a little later by other means.
    pub fn watch(&self, directories: impl IntoIterator<Item = PathBuf>) {
        for directory in directories {
            let _ = inotify::add_watch(
                &self.0,
                &directory,
                WatchFlags::CREATE | WatchFlags::ONLYDIR,
            );
        }
    }

    /// Forgets what was heard. A watch ends by itself when its directory is removed.
    pub fn clear(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.0, &mut space);
        while reader.next().is_ok() {}
    }
}

/// The directories in which a unit's cgroup may be made: slices, and what users' managers have.
pub fn nurseries(host: &Host) -> Vec<PathBuf> {
    let Some(root) = host.cgroups.iter().find(|cgroup| cgroup.is_v2()) else {
        return Vec::new();
    };
    let mut found = vec![root.mount.clone()];
    let mut at = 0;
    while let Some(directory) = found.get(at).cloned() {
        at += 1;
        let deeper = children(&directory)
            .into_iter()
            .filter(|(name, _)| is_slice(name) || unit::user_of(name).is_some());
        found.extend(deeper.map(|(_, path)| path));
    }
    found
}

fn is_slice(directory: &str) -> bool {
    directory
        .rsplit_once('.')
        .is_some_and(|(_, suffix)| suffix == "slice")
}

fn children(directory: &PathBuf) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let named =
        directories.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.collect()
}

/// The units that the target means and whose cgroups have been made, with or without a process in them.
pub fn begun(target: &Target, host: &Host) -> Vec<Service> {
    let (Target::Service(name) | Target::Unit(name)) = target else {
        return Vec::new();
    };
    let Some(hierarchy) = host.cgroups.iter().find(|cgroup| cgroup.is_v2()) else {
        return Vec::new();
    };
    let wanted = cgroup::unit_name(name);
    let directories = nurseries(host).into_iter();
    let paths: Vec<(String, String)> = directories
        .flat_map(|directory| children(&directory))
        .filter_map(|(name, path)| {
            Some((
                cgroup::unescape(&name).to_owned(),
                hierarchy.path_of(&path)?,
            ))
        })
        .collect();
    let managers: BTreeSet<Manager> = paths.iter().map(|(_, path)| Manager::of(path)).collect();
    let aliased = unit::look_up(host, managers, &wanted);
    let nobody = Snapshot::empty();
    let service = |(name, path): (String, String)| {
        if unit::is_meant(&wanted, &name) {
            return Some(Service::unit(host, &nobody, path, Vec::new(), None));
        }
        let mut files = aliased.iter();
        let is_aliased =
            files.any(|file| unit::is_meant(&file.unit, &name) && file.is_at(host, &path));
        is_aliased.then(|| Service::unit(host, &nobody, path, Vec::new(), Some(&wanted)))
    };
    let mut begun: Vec<_> = paths.into_iter().filter_map(service).collect();
    tell_apart(&mut begun);
    begun
}
