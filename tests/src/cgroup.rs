//! Cgroups of our own.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{Workload, unique_name};

/// A cgroup. Removed when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// In the unified hierarchy; `None` if there is none to write to.
    pub fn unified() -> Option<Self> {
        Self::below(&mounts().find(|mount| mount.kind == "cgroup2")?.place)
    }

    /// In a hierarchy, of either version, that has this controller; `None` if there is none to write to.
    pub fn with(controller: &str) -> Option<Self> {
        let has = |mount: &Mount| match mount.kind.as_str() {
            "cgroup" => mount.options.split(',').any(|option| option == controller),
            "cgroup2" => fs::read_to_string(mount.place.join("cgroup.subtree_control"))
                .is_ok_and(|text| text.split_whitespace().any(|name| name == controller)),
            _ => false,
        };
        Self::below(&mounts().find(has)?.place)
    }

    fn below(place: &Path) -> Option<Self> {
        let path = place.join(unique_name("sbcg"));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// Its directory.
    ///
    /// # Panics
    /// If that is no text.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("it is text")
    }

    /// Does it have this file, which the other version of cgroups may not have?
    pub fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// Writes into one of its files.
    ///
    /// # Panics
    /// If the kernel does not take it.
    #[track_caller]
    pub fn set(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        let written = fs::write(&path, value);
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Moves a process into it.
    ///
    /// # Panics
    /// If the kernel does not.
    #[track_caller]
    pub fn holds(&self, pid: u32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    /// Starts a workload that is in it before its program begins.
    ///
    /// # Panics
    /// As [`Workload::start_under`] does.
    pub fn start(&self, name: &str, args: &[&str]) -> Workload {
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$0\" \"$@\"", self.path());
        Workload::start_under(name, &["sh", "-c", &enter], args)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy as long as one that was killed has not gone entirely.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Mount {
    place: PathBuf,
    kind: String,
    options: String,
}

fn mounts() -> impl Iterator<Item = Mount> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        Some(Mount {
            place: fields.next()?.into(),
            kind: fields.next()?,
            options: fields.next()?,
        })
    };
    let mounts: Vec<_> = mounts.lines().filter_map(parse).collect();
    mounts.into_iter()
}
