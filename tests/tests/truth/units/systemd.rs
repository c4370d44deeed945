//! What the tests need of systemd: units of their own, which leave nothing behind, and what systemd says of them.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::RwLock,
};

use slowburn_tests::{binary, eventually};

/// The user whose manager the tests use.
pub const TESTER: (u32, &str) = (1000, "tester");

/// Why there is no systemd to try things on, if so.
pub fn missing() -> Option<String> {
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if init.trim() != "systemd" || !Path::new("/run/systemd/system").is_dir() {
        return Some(format!("PID 1 is {:?}, not systemd", init.trim()));
    }
    None
}

/// Held by all tests with units, for writing by those that look at what lives for milliseconds only, and need a quick
/// machine for that.
pub static MACHINE: RwLock<()> = RwLock::new(());

/// Skips the test where there is no systemd, or nothing can be traced. With `alone`, no other of them
/// runs meanwhile.
#[macro_export]
macro_rules! needs_systemd {
    () => {
        $crate::needs_systemd!(@ read);
    };
    (alone) => {
        $crate::needs_systemd!(@ write);
    };
    (@ $lock:ident) => {
        if let Some(why) = $crate::units::systemd::missing() {
            slowburn_tests::skip!("{why}");
        }
        slowburn_tests::needs_tracing!();
        // A failed test leaves nothing behind that matters to others.
        let _machine = $crate::units::systemd::MACHINE
            .$lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
    };
}

/// A manager, with the units that a test has made. They are stopped and removed when dropped.
pub struct Manager {
    /// Whose it is; the system's if nobody's.
    user: Option<u32>,
    units: Vec<String>,
    files: Vec<PathBuf>,
}

impl Manager {
    /// PID 1.
    pub fn system() -> Self {
        Self {
            user: None,
            units: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The manager of the test's user, started if it does not run. Else why there is none.
    pub fn of_tester() -> Result<Self, String> {
        let (uid, name) = TESTER;
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if !users
            .lines()
            .any(|user| user.starts_with(&format!("{name}:")) && user.contains(&format!(":{uid}:")))
        {
            return Err(format!("there is no user {name} with the id {uid}"));
        }
        let unit = format!("user@{uid}.service");
        let started = run("systemctl", &["start", &unit], None);
        if !started.status.success() {
            return Err(format!("{unit} does not start: {}", text(&started.stderr)));
        }
        let mut manager = Self::system();
        manager.user = Some(uid);
        Ok(manager)
    }

    fn directory(&self) -> &'static Path {
        Path::new(if self.user.is_some() {
            "/run/systemd/user"
        } else {
            "/run/systemd/system"
        })
    }

    /// Writes a unit file. To be loaded by [`Manager::reload`], as everything that is written.
    pub fn unit(&mut self, name: &str, contents: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, contents).expect("root may write unit files");
        self.owns(name);
        path
    }

    /// A unit by another way than a file: stopped at the end.
    pub fn owns(&mut self, name: &str) {
        self.units.push(name.into());
    }

    /// A file of units, which is removed at the end, and its path.
    pub fn file(&mut self, name: &str) -> PathBuf {
        fs::create_dir_all(self.directory()).expect("root may make it");
        let path = self.directory().join(name);
        self.files.push(path.clone());
        path
    }

    /// Another name for a unit.
    pub fn link(&mut self, name: &str, to: &Path) {
        symlink(to, self.file(name)).expect("the name is free");
    }

    /// Writes a service that runs this command.
    pub fn service(&mut self, name: &str, command: &str, more: &str) -> PathBuf {
        self.unit(name, &format!("[Service]\nExecStart={command}\n{more}\n"))
    }

    /// Has the manager read unit files anew.
    pub fn reload(&self) {
        self.ctl(&["daemon-reload"]);
    }

    /// `systemctl`, which must succeed. Returns what it says.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = self.try_ctl(args);
        assert!(
            output.status.success(),
            "systemctl {args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    fn try_ctl(&self, args: &[&str]) -> Output {
        match self.user {
            Some(_) => run("systemctl", &[&["--user"], args].concat(), self.user),
            None => run("systemctl", args, None),
        }
    }

    /// Loads what was written, and starts a unit.
    #[track_caller]
    pub fn start(&self, name: &str) {
        self.reload();
        self.ctl(&["start", name]);
    }

    /// What systemd says of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        let said = self.ctl(&["show", "--property", property, "--", unit]);
        let value = said.trim().strip_prefix(&format!("{property}="));
        value
            .unwrap_or_else(|| panic!("no {property} of {unit}: {said}"))
            .to_owned()
    }

    /// The main process of a unit, once it has executed its program.
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> u32 {
        eventually(format_args!("{unit} has a main process"), || {
            let pid: u32 = self.show(unit, "MainPID").parse().expect("it is a number");
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let is_systemd = program
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|p| p.starts_with("systemd"));
            (pid != 0 && !is_systemd).then_some(pid)
        })
    }

    /// The cgroup of a unit, as a path in its hierarchy.
    #[track_caller]
    pub fn cgroup(&self, unit: &str) -> String {
        let path = self.show(unit, "ControlGroup");
        assert!(path.starts_with('/'), "{unit} has no cgroup: {path:?}");
        path
    }

    /// Who is in a unit, and in what is below it, by the kernel's own list.
    #[track_caller]
    pub fn processes(&self, unit: &str) -> BTreeSet<u32> {
        let root = mount("name=systemd").expect("systemd has a hierarchy");
        let mut pids = BTreeSet::new();
        let mut pending = vec![root.join(self.cgroup(unit).trim_start_matches('/'))];
        while let Some(directory) = pending.pop() {
            let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()));
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        pids
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for unit in &self.units {
            let _ = self.try_ctl(&["stop", unit]);
            let _ = self.try_ctl(&["reset-failed", unit]);
        }
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        let _ = self.try_ctl(&["daemon-reload"]);
    }
}

/// Where a hierarchy is mounted: v1's with this controller or name, else the unified one.
pub fn mount(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let mounts = || {
        mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
    };
    let v1 =
        mounts().find(|m| m[2] == "cgroup" && m[3].split(',').any(|option| option == controller));
    v1.map(|m| m[1].into()).or_else(unified)
}

/// Where the unified hierarchy is mounted.
pub fn unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let mut mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.find(|m| m[2] == "cgroup2").map(|m| m[1].into())
}

/// A program and its arguments as a command of a unit, which has nothing to do until it is stopped.
pub fn idle() -> String {
    format!(
        "{} --memory 1 --threads 0",
        binary("slowburn-demo").display()
    )
}

/// Is there such a program?
pub fn installed(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

/// Runs a program to its end, as a user if one is given.
pub fn run(program: &str, args: &[&str], user: Option<u32>) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    if let Some(uid) = user {
        command
            .uid(uid)
            .gid(uid)
            .env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"));
    }
    command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What a program said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
