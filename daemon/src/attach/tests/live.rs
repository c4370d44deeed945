//! On the machine that runs the tests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::attach::Hierarchy;

/// A copy of `sleep` under another name, running until dropped.
struct Sleeper {
    child: Child,
    _directory: TempDir,
}

impl Sleeper {
    fn start(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(name);
        fs::copy("/bin/sleep", &program).unwrap();
        let mut command = Command::new(&program);
        command.arg("1000");
        Self::spawn(directory, command)
    }

    /// A shell script that waits for input.
    fn script(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(name);
        fs::write(&program, "#!/bin/sh\nread line\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let mut command = Command::new(&program);
        command.stdin(Stdio::piped());
        Self::spawn(directory, command)
    }

    fn spawn(directory: TempDir, mut command: Command) -> Self {
        // A fork of another test may still hold the copy open for writing.
        let child = loop {
            match command.spawn() {
                Ok(child) => break child,
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error}"),
            }
        };
        // The arguments come a moment after the new program.
        let arguments = format!("/proc/{}/cmdline", child.id());
        while fs::read(&arguments).unwrap().is_empty() {
            thread::yield_now();
        }
        Self {
            child,
            _directory: directory,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cgroup of this test's own, removed when dropped.
struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// In the hierarchy named, or nothing with the reason printed.
    fn make(host: &Host, is_wanted: impl Fn(&Hierarchy) -> bool, name: &str) -> Option<Self> {
        let Some(hierarchy) = host.cgroups.iter().find(|hierarchy| is_wanted(hierarchy)) else {
            eprintln!("SKIP: the hierarchy is not mounted here");
            return None;
        };
        let directory = hierarchy.mount.join(name);
        if let Err(error) = fs::create_dir(&directory) {
            eprintln!("SKIP: cannot make {}: {error}", directory.display());
            return None;
        }
        Some(Self { directory })
    }

    fn enter(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is busy until the last process in it has been reaped.
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn unique(stem: &str) -> String {
    format!("{stem}{}", std::process::id() % 100_000)
}

#[test]
fn a_process_by_name_comes_and_goes() {
    let host = Host::live().unwrap();
    let name = unique("sb-sleep");
    let first = Sleeper::start(&name);
    let found = one(&service(&name), &host);
    assert_eq!(found.rule, Rule::Process);
    assert_eq!(pids(&found.processes), [first.pid()]);
    assert_eq!(found.processes[0].parent, std::process::id());
    // Both have this test as their parent: one service.
    let second = Sleeper::start(&name);
    assert_eq!(
        found.accepts(&host, second.pid()).unwrap().pid,
        second.pid()
    );
    let mut both = [first.pid(), second.pid()];
    both.sort_unstable();
    assert_eq!(pids(&one(&service(&name), &host).processes), both);
    drop(first);
    drop(second);
    assert_eq!(found.members(&host), []);
}

#[test]
fn a_long_name() {
    let host = Host::live().unwrap();
    let name = unique("sb-a-name-of-many-letters-");
    let sleeper = Sleeper::start(&name);
    let other = Sleeper::start("sb-a-name-of-many-others");
    let found = one(&service(&name), &host);
    assert_eq!(pids(&found.processes), [sleeper.pid()]);
    assert_eq!(found.accepts(&host, other.pid()), None);
    assert_eq!(found.kernel_names(), [*b"sb-a-name-of-ma\0"]);
}

#[test]
fn a_script_with_a_long_name() {
    let host = Host::live().unwrap();
    let name = unique("sb-script-of-many-letters-");
    let script = Sleeper::script(&name);
    let found = one(&Target::Process(name), &host);
    assert_eq!(pids(&found.processes), [script.pid()]);
}

#[test]
fn a_threaded_cgroup_does_not_list_its_processes() {
    let host = Host::live().unwrap();
    let name = unique("sb-threaded");
    let Some(cgroup) = Cgroup::make(&host, Hierarchy::is_v2, &name) else {
        return;
    };
    let sleeper = Sleeper::start(&unique("sb-thr"));
    if let Err(error) = fs::write(cgroup.directory.join("cgroup.type"), "threaded") {
        eprintln!("SKIP: cannot make a threaded cgroup: {error}");
        return;
    }
    let threads = cgroup.directory.join("cgroup.threads");
    fs::write(threads, sleeper.pid().to_string()).unwrap();
    assert!(fs::read(cgroup.directory.join("cgroup.procs")).is_err());
    let found = one(&Target::Cgroup(name.into()), &host);
    assert_eq!(pids(&found.members(&host)), [sleeper.pid()]);
    drop(sleeper);
}

#[test]
fn a_unit_in_the_v2_hierarchy() {
    let host = Host::live().unwrap();
    let unit = unique("sb-unit") + ".service";
    let Some(cgroup) = Cgroup::make(&host, Hierarchy::is_v2, &unit) else {
        return;
    };
    let sleeper = Sleeper::start(&unique("sb-v2"));
    cgroup.enter(sleeper.pid());
    let found = one(&service(unit.trim_end_matches(".service")), &host);
    assert_eq!(
        (found.rule, found.name.as_str()),
        (Rule::Unit, unit.as_str())
    );
    assert_eq!(pids(&found.processes), [sleeper.pid()]);
    assert_eq!(
        found.cgroup_ids(&host),
        [cgroup.directory.metadata().unwrap().ino()]
    );
    assert!(found.accepts(&host, sleeper.pid()).is_some());
    assert!(list(&host).iter().any(|listed| listed.name == unit));
    let by_path = one(&Target::Cgroup(cgroup.directory.clone()), &host);
    assert_eq!(
        by_path.cgroup.as_deref(),
        Some(Path::new(&format!("/{unit}")))
    );
    assert_eq!(pids(&by_path.processes), [sleeper.pid()]);
    drop(sleeper);
    assert_eq!(found.members(&host), []);
    drop(cgroup);
    assert_eq!(found.cgroup_ids(&host), Vec::<u64>::new());
}

#[test]
fn a_unit_in_systemds_v1_hierarchy_only() {
    let host = Host::live().unwrap();
    let unit = unique("sb-v1-unit") + ".service";
    let is_systemd = |hierarchy: &Hierarchy| hierarchy.controllers == ["name=systemd"];
    let Some(cgroup) = Cgroup::make(&host, is_systemd, &unit) else {
        return;
    };
    let sleeper = Sleeper::start(&unique("sb-v1"));
    cgroup.enter(sleeper.pid());
    let found = one(&service(&unit), &host);
    assert_eq!(pids(&found.members(&host)), [sleeper.pid()]);
    assert_eq!(found.cgroup_ids(&host), Vec::<u64>::new());
    drop(sleeper);
}

#[test]
fn a_thread_is_told_from_its_process() {
    let host = Host::live().unwrap();
    // Tests run in threads.
    let tid: u32 = fs::read_link("/proc/thread-self")
        .ok()
        .and_then(|link| link.file_name()?.to_str()?.parse().ok())
        .unwrap();
    if tid == std::process::id() {
        eprintln!("SKIP: the test runs in the main thread");
        return;
    }
    let error = failure(&Target::Pids(vec![tid]), &host);
    assert!(
        matches!(error, AttachError::NotALeader { leader, .. } if leader == std::process::id()),
        "{error}"
    );
}

#[test]
fn own_ancestors_do_not_match() {
    let host = Host::live().unwrap();
    assert_eq!(host.own_pids[0], std::process::id());
    assert!(!host.own_pids.contains(&1));
    for service in list(&host) {
        assert!(
            service
                .processes
                .iter()
                .all(|found| found.pid != std::process::id())
        );
    }
}
