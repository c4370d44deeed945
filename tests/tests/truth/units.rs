//! Attaching to units of a real systemd: what slowburn says against what systemd and the kernel say.

#[macro_use]
mod systemd;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use slowburn::stream::{Moment, Record, Scope, Start, StopReason, TargetEventKind, WatchedService};
use slowburn_tests::{
    Daemon, Finished, binary, delay_of, eventually, schedstat, skip, slowburn, stderr_of, tasks,
    unique_name,
};
use tempfile::TempDir;

use crate::hooks::WITHOUT_MEMORY;
use systemd::{Manager, TESTER, idle, installed, mount, run, unified};

const WINDOW: [&str; 2] = ["--window", "200ms"];

/// Starts slowburn on something that runs.
#[track_caller]
fn attach(args: &[&str]) -> Daemon {
    Daemon::start(&[args, &WINDOW, &["--hooks", WITHOUT_MEMORY]].concat())
}

/// Starts slowburn on something that does not run yet.
#[track_caller]
fn wait(args: &[&str]) -> Daemon {
    let mut daemon = attach(&[args, &["--wait"]].concat());
    wait_for(&mut daemon, TargetEventKind::Waiting, 1);
    daemon
}

/// Waits until something has happened so often.
#[track_caller]
fn wait_for(daemon: &mut Daemon, kind: TargetEventKind, times: usize) {
    eventually(format_args!("{kind:?} {times} times"), || {
        let of_kind =
            |record: &Record| matches!(record, Record::Target(event) if event.event == kind);
        let lines = daemon.lines();
        let seen = lines.iter().filter(|line| of_kind(&line.record)).count();
        (seen >= times).then_some(())
    });
}

fn targets(finished: &Finished) -> &[WatchedService] {
    match &finished.lines[0].record {
        Record::Start(start) => {
            let start: &Start = start;
            &start.targets
        }
        other => panic!("no start: {other:?}"),
    }
}

/// The only target.
#[track_caller]
fn target(finished: &Finished) -> &WatchedService {
    match targets(finished) {
        [target] => target,
        others => panic!("not one target: {others:?}"),
    }
}

fn set(pids: &[u32]) -> BTreeSet<u32> {
    pids.iter().copied().collect()
}

/// The pids that have windows.
fn followed(finished: &Finished) -> BTreeSet<u32> {
    finished
        .windows()
        .map(|window| window.process.pid)
        .collect()
}

/// Attaches for a moment: it must be this unit, all that systemd has in it, and nothing else.
#[track_caller]
fn attaches_to(manager: &Manager, args: &[&str], unit: &str) -> WatchedService {
    let mut daemon = attach(args);
    daemon.wait_for("window", |record| matches!(record, Record::Window(_)));
    let finished = daemon.stop();
    let target = target(&finished).clone();
    assert_eq!(target.rule.to_string(), "unit", "{args:?}: {target:?}");
    assert_eq!(target.service, unit);
    let cgroup = manager.cgroup(unit);
    assert!(target.why.contains(&cgroup), "{cgroup}: {target:?}");
    assert_eq!(set(&target.pids), manager.processes(unit), "{args:?}");
    assert_eq!(followed(&finished), manager.processes(unit), "{args:?}");
    assert_eq!(finished.lost(), 0);
    finished.identities_are_whole();
    target
}

/// What slowburn says when it cannot attach.
#[track_caller]
fn refusal(args: &[&str], code: i32) -> String {
    let output = slowburn(&[&["run", "--duration", "1s"], args].concat());
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "nothing is streamed");
    said
}

/// Each pid begins once and ends once; the service is gone and returns in turns, however long that went on.
#[track_caller]
fn each_told_once(finished: &Finished, pids: &[u32]) {
    let mut lives = BTreeMap::<(Option<u32>, Option<Moment>), [usize; 2]>::new();
    let mut turns = Vec::new();
    for event in finished.target_events() {
        let life = (event.pid, event.created);
        match event.event {
            TargetEventKind::Found | TargetEventKind::Started => {
                lives.entry(life).or_default()[0] += 1;
            }
            TargetEventKind::Exited => {
                lives.entry(life).or_default()[1] += 1;
            }
            TargetEventKind::Gone | TargetEventKind::Returned => turns.push(event.event),
            TargetEventKind::Waiting | TargetEventKind::Attached | TargetEventKind::Executed => {}
            other @ (TargetEventKind::Left | TargetEventKind::Overlapped) => {
                panic!("{other:?} in {event:?}")
            }
        }
    }
    let seen: Vec<u32> = lives.keys().filter_map(|(pid, _)| *pid).collect();
    assert_eq!(set(&seen), set(pids), "these and no others");
    assert_eq!(lives.len(), pids.len(), "no life is told as two: {lives:?}");
    assert!(
        lives.values().all(|times| *times == [1, 1]),
        "each begins and ends once: {lives:?}"
    );
    let due = [TargetEventKind::Gone, TargetEventKind::Returned];
    assert!(
        turns.iter().zip(due.iter().cycle()).all(|(a, b)| a == b),
        "in turns: {turns:?}"
    );
    assert_eq!(
        turns.len(),
        2 * pids.len() - 1,
        "gone after each, returned before each but the first"
    );
    for window in finished
        .windows()
        .filter(|window| window.scope == Scope::Process)
    {
        assert!(
            lives.contains_key(&(Some(window.process.pid), Some(window.process.created))),
            "{window:?}"
        );
    }
    finished.identities_are_whole();
}

/// A file to which a unit's program adds its pid each time it runs.
struct Roll {
    _directory: TempDir,
    path: PathBuf,
}

impl Roll {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path().join("pids");
        Self {
            _directory: directory,
            path,
        }
    }

    /// A command that enters itself and then becomes another one.
    fn command(&self, then: &str) -> String {
        format!(
            "/bin/sh -c 'echo $$$$ >>{}; exec {then}'",
            self.path.display()
        )
    }

    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines()
            .map(|line| line.parse().expect("it is a pid"))
            .collect()
    }

    #[track_caller]
    fn wait_for(&self, runs: usize) {
        eventually(format_args!("{runs} runs"), || {
            (self.pids().len() >= runs).then_some(())
        });
    }
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn plain_service_by_full_and_short_name() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbu");
    let unit = format!("{name}.service");
    manager.service(&unit, &idle(), "");
    manager.start(&unit);
    let pid = manager.main_pid(&unit);
    assert!(!manager.show(&unit, "InvocationID").is_empty());
    for args in [
        ["--service", &name],
        ["--service", &unit],
        ["--unit", &name],
        ["--unit", &unit],
    ] {
        assert_eq!(attaches_to(&manager, &args, &unit).pids, [pid]);
    }
}

#[test]
fn instances_of_a_template() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbt");
    let instances = ["a", "b"].map(|instance| format!("{name}@{instance}.service"));
    manager.service(&format!("{name}@.service"), &idle(), "");
    for instance in &instances {
        manager.start(instance);
        manager.owns(instance);
    }
    let pids = instances
        .clone()
        .map(|instance| manager.main_pid(&instance));
    for (instance, pid) in instances.iter().zip(pids) {
        assert_eq!(
            attaches_to(&manager, &["--service", instance], instance).pids,
            [pid]
        );
        let short = instance.trim_end_matches(".service");
        assert_eq!(
            attaches_to(&manager, &["--unit", short], instance).pids,
            [pid]
        );
    }
    for template in [format!("{name}@"), format!("{name}@.service")] {
        let said = refusal(&["--service", &template], 2);
        for (instance, pid) in instances.iter().zip(pids) {
            assert!(
                said.contains(instance) && said.contains(&format!("pid {pid}")),
                "{said}"
            );
        }
        let mut daemon = attach(&["--service", &template, "--all"]);
        daemon.wait_for("window", |record| matches!(record, Record::Window(_)));
        let finished = daemon.stop();
        let found: Vec<_> = targets(&finished)
            .iter()
            .map(|target| target.service.clone())
            .collect();
        assert_eq!(found, instances);
        assert_eq!(followed(&finished), set(&pids));
    }
    // With only one left, there is no doubt.
    manager.ctl(&["stop", &instances[0]]);
    attaches_to(&manager, &["--unit", &format!("{name}@")], &instances[1]);
}

/// What is started daemonizes: the main process is a grandchild, and its parent is systemd.
#[test]
fn forking_service() {
    needs_systemd!();
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbf"));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let pid_file = directory.path().join("pid");
    let script = directory.path().join("daemonize");
    let daemonize = format!("({} & echo $! >{}) &\nwait\n", idle(), pid_file.display());
    fs::write(&script, daemonize).expect("it is ours");
    let more = format!("Type=forking\nPIDFile={}", pid_file.display());
    manager.service(&unit, &format!("/bin/sh {}", script.display()), &more);
    manager.reload();
    let mut daemon = wait(&["--unit", &unit]);
    manager.ctl(&["start", &unit]);
    let pid = manager.main_pid(&unit);
    assert_eq!(attaches_to(&manager, &["--unit", &unit], &unit).pids, [pid]);
    eventually("the main process is followed", || {
        let is_it = |record: &Record| matches!(record, Record::Window(w) if w.process.pid == pid);
        daemon
            .lines()
            .iter()
            .any(|line| is_it(&line.record))
            .then_some(())
    });
    let finished = daemon.stop();
    let alive = finished.process_windows(pid);
    assert!(!alive.last().expect("it was waited for").ended);
    let events = finished.target_events();
    assert!(
        events
            .iter()
            .all(|event| event.event != TargetEventKind::Gone),
        "the service was never without a process: {events:#?}"
    );
}

/// Runs that a timer starts, from the very first one on. They are over before anybody could look, except where
/// there is no other way to find them.
#[test]
fn every_run_of_a_timer() {
    needs_systemd!(alone);
    let mut manager = Manager::system();
    let name = unique_name("sbo");
    let (unit, timer) = (format!("{name}.service"), format!("{name}.timer"));
    let roll = Roll::new();
    manager.unit(
        &timer,
        "[Timer]\nOnActiveSec=0\nOnUnitInactiveSec=1s\nAccuracySec=10ms\n",
    );
    let job = if unified().is_some() {
        "true"
    } else {
        "sleep 0.6"
    };
    manager.service(&unit, &roll.command(job), "Type=oneshot");
    manager.reload();
    let mut daemon = wait(&["--unit", &name]);
    manager.ctl(&["start", &timer]);
    roll.wait_for(4);
    manager.ctl(&["stop", &timer]);
    eventually("the last run is over", || {
        (manager.show(&unit, "ActiveState") == "inactive").then_some(())
    });
    wait_for(&mut daemon, TargetEventKind::Gone, roll.pids().len());
    each_told_once(&daemon.stop(), &roll.pids());
}

#[test]
fn service_that_a_socket_activates() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbs");
    let (unit, socket) = (format!("{name}.service"), format!("{name}.socket"));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let place = directory.path().join("socket");
    manager.unit(
        &socket,
        &format!("[Socket]\nListenStream={}\n", place.display()),
    );
    manager.service(&unit, &idle(), "");
    manager.start(&socket);
    let said = refusal(&["--service", &name], 1);
    assert!(
        said.contains("is not running") && said.contains("--wait"),
        "{said}"
    );
    let mut daemon = wait(&["--service", &name]);
    assert_eq!(manager.show(&unit, "ActiveState"), "inactive");
    let connection = UnixStream::connect(&place).expect("systemd listens");
    let pid = manager.main_pid(&unit);
    wait_for(&mut daemon, TargetEventKind::Found, 0);
    eventually("it has windows", || {
        let is_it = |record: &Record| matches!(record, Record::Window(w) if w.process.pid == pid);
        daemon
            .lines()
            .iter()
            .any(|line| is_it(&line.record))
            .then_some(())
    });
    let finished = daemon.stop();
    drop(connection);
    assert_eq!(followed(&finished), set(&[pid]));
}

/// Some ten restarts a second, as fast as systemd can.
#[test]
fn restarts_at_once() {
    needs_systemd!(alone);
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbr"));
    let roll = Roll::new();
    let more = "Restart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0";
    manager.service(&unit, &roll.command("sleep 0.1"), more);
    manager.reload();
    let mut daemon = wait(&["--unit", &unit]);
    manager.ctl(&["start", &unit]);
    roll.wait_for(30);
    let restarts = manager.show(&unit, "NRestarts");
    let restarts: usize = restarts.parse().expect("it is a number");
    manager.ctl(&["stop", &unit]);
    let pids = roll.pids();
    wait_for(&mut daemon, TargetEventKind::Gone, pids.len());
    let finished = daemon.stop();
    // The last one may have been stopped before it could enter itself.
    let told = set(&finished
        .target_events()
        .iter()
        .filter_map(|event| event.pid)
        .collect::<Vec<_>>());
    let more: Vec<u32> = told.difference(&set(&pids)).copied().collect();
    assert!(more.len() <= 1, "{more:?}");
    // There were more until it was stopped. The last one counted may not have come so far.
    assert!(
        told.len() >= restarts,
        "{} runs, systemd counts {restarts} restarts before",
        told.len()
    );
    each_told_once(&finished, &[pids, more].concat());
}

#[test]
fn stop_and_restart() {
    needs_systemd!();
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbx"));
    manager.service(&unit, &idle(), "");
    manager.start(&unit);
    let mut daemon = attach(&["--unit", &unit]);
    let mut pids = vec![manager.main_pid(&unit)];
    let invocation = manager.show(&unit, "InvocationID");
    manager.ctl(&["restart", &unit]);
    assert_ne!(manager.show(&unit, "InvocationID"), invocation);
    pids.push(manager.main_pid(&unit));
    wait_for(&mut daemon, TargetEventKind::Returned, 1);
    manager.ctl(&["stop", &unit]);
    wait_for(&mut daemon, TargetEventKind::Gone, 2);
    manager.ctl(&["start", &unit]);
    pids.push(manager.main_pid(&unit));
    wait_for(&mut daemon, TargetEventKind::Returned, 2);
    manager.ctl(&["stop", &unit]);
    wait_for(&mut daemon, TargetEventKind::Gone, 3);
    each_told_once(&daemon.stop(), &pids);
}

#[test]
fn exits_with_the_unit() {
    needs_systemd!();
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbe"));
    manager.service(&unit, &idle(), "");
    manager.start(&unit);
    let daemon = attach(&["--unit", &unit, "--exit-with-target"]);
    let pid = manager.main_pid(&unit);
    manager.ctl(&["stop", &unit]);
    let finished = daemon.finish();
    assert_eq!(finished.stop_record().reason, StopReason::TargetGone);
    each_told_once(&finished, &[pid]);
}

/// A slice below a slice: who attaches to the outer one has the services of both, also those that come later.
#[test]
fn slices() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbn");
    let (slice, inner) = (format!("{name}.slice"), format!("{name}-inner.slice"));
    let services = ["one", "two", "late"].map(|service| format!("{name}{service}.service"));
    for (service, slice) in services.iter().zip([&slice, &inner, &inner]) {
        manager.service(service, &idle(), &format!("Slice={slice}"));
    }
    manager.start(&services[0]);
    manager.ctl(&["start", &services[1]]);
    let pids = [
        manager.main_pid(&services[0]),
        manager.main_pid(&services[1]),
    ];
    let target = attaches_to(&manager, &["--service", &slice], &slice);
    assert_eq!(set(&target.pids), set(&pids));
    assert_eq!(
        attaches_to(&manager, &["--unit", &inner], &inner).pids,
        [pids[1]]
    );
    let cgroup = manager.cgroup(&slice);
    for args in [["--unit", slice.as_str()], ["--cgroup", &cgroup]] {
        let mut daemon = attach(&args);
        manager.ctl(&["start", &services[2]]);
        let late = manager.main_pid(&services[2]);
        eventually("the late one has windows", || {
            let is_it =
                |record: &Record| matches!(record, Record::Window(w) if w.process.pid == late);
            daemon
                .lines()
                .iter()
                .any(|line| is_it(&line.record))
                .then_some(())
        });
        let finished = daemon.stop();
        assert_eq!(
            followed(&finished),
            set(&[pids[0], pids[1], late]),
            "{args:?}"
        );
        assert!(
            finished
                .target_events()
                .iter()
                .all(|event| event.service == slice)
        );
        manager.ctl(&["stop", &services[2]]);
    }
}

#[test]
fn unit_of_a_user() {
    needs_systemd!();
    let mut manager = match Manager::of_tester() {
        Ok(manager) => manager,
        Err(why) => skip!("{why}"),
    };
    let name = unique_name("sbus");
    let unit = format!("{name}.service");
    let other = unique_name("sbua");
    // The rest of the name is for units of the system only.
    let file = manager.service(&unit, &idle(), "");
    manager.link(&format!("{other}.service"), &file);
    manager.start(&unit);
    let pid = manager.main_pid(&unit);
    for name in [&name, &unit, &other] {
        let target = attaches_to(&manager, &["--service", name], &unit);
        assert_eq!(target.pids, [pid]);
        let owner = format!("user {} (uid {})", TESTER.1, TESTER.0);
        assert!(target.why.contains(&owner), "{target:?}");
        assert_eq!(target.why.contains(&other), *name == other, "{target:?}");
    }
    // The same name in the system's manager: it must be said which.
    let mut system = Manager::system();
    system.service(&unit, &idle(), "");
    system.start(&unit);
    let said = refusal(&["--unit", &name], 2);
    assert!(
        said.contains(&manager.cgroup(&unit)) && said.contains(&system.cgroup(&unit)),
        "{said}"
    );
    manager.ctl(&["stop", &unit]);
    attaches_to(&system, &["--unit", &name], &unit);
    system.ctl(&["stop", &unit]);
    let said = refusal(&["--unit", &other], 1);
    assert!(
        said.contains("is not running") && said.contains("systemctl --user start"),
        "{said}"
    );
}

/// The pids inside are small numbers; the stream has the host's.
#[test]
fn service_in_a_pid_namespace() {
    needs_systemd!();
    if !installed("unshare") {
        skip!("unshare is not installed");
    }
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbp"));
    manager.service(
        &unit,
        &format!("/usr/bin/unshare --pid --fork --kill-child {}", idle()),
        // The first process of a namespace ignores what it has no handler for.
        "KillSignal=SIGKILL",
    );
    manager.start(&unit);
    let pids = eventually("both run", || {
        Some(manager.processes(&unit)).filter(|pids| pids.len() == 2)
    });
    let inside = *pids
        .iter()
        .find(|pid| **pid != manager.main_pid(&unit))
        .expect("there are two");
    let status = fs::read_to_string(format!("/proc/{inside}/status")).expect("it runs");
    let namespaces = status.lines().find(|line| line.starts_with("NSpid:"));
    assert!(
        namespaces.is_some_and(|line| line.ends_with("\t1")),
        "{namespaces:?}"
    );
    let target = attaches_to(&manager, &["--unit", &unit], &unit);
    assert_eq!(set(&target.pids), pids);
}

#[test]
fn aliases() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sba");
    let unit = format!("{name}.service");
    let [alias, second, unrelated] = ["x", "y", "z"].map(|letter| format!("{name}{letter}"));
    let install = format!("[Install]\nAlias={alias}.service");
    let file = manager.service(&unit, &idle(), &install);
    manager.reload();
    // `enable` makes the link, and `disable` removes it; with --runtime in /run, else in /etc.
    for place in [&["--runtime"][..], &[]] {
        manager.ctl(&[&["enable"], place, &[unit.as_str()]].concat());
        manager.ctl(&["start", &alias]);
        for option in ["--service", "--unit"] {
            let target = attaches_to(&manager, &[option, &alias], &unit);
            assert!(
                target.why.contains("alias") && target.why.contains(&alias),
                "{target:?}"
            );
        }
        manager.ctl(&["stop", &unit]);
        let said = refusal(&["--unit", &alias], 1);
        assert!(
            said.contains("is not running") && said.contains(&unit),
            "{said}"
        );
        manager.ctl(&[&["disable"], place, &[unit.as_str()]].concat());
    }
    // A name for a name, and one that is waited for.
    manager.link(&format!("{second}.service"), &file);
    manager.reload();
    let mut daemon = wait(&["--unit", &second]);
    manager.ctl(&["start", &second]);
    let pid = manager.main_pid(&unit);
    daemon.wait_for(
        "its process",
        |record| matches!(record, Record::Target(event) if event.pid == Some(pid)),
    );
    let finished = daemon.stop();
    assert!(
        finished
            .windows()
            .all(|window| window.process.service == unit)
    );
    assert!(
        finished.stderr.contains(&second),
        "says that it is another name: {}",
        finished.stderr
    );
    refusal(&["--unit", &unrelated], 1);
}

#[test]
fn aliases_of_templates_and_links_to_elsewhere() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbl");
    let (template, instance) = (format!("{name}@.service"), format!("{name}@i.service"));
    let file = manager.service(&template, &idle(), "");
    manager.link(&format!("{name}x@.service"), &file);
    manager.start(&instance);
    manager.owns(&instance);
    attaches_to(&manager, &["--unit", &format!("{name}x@i")], &instance);
    refusal(&["--unit", &format!("{name}x@j")], 1);
    // `systemctl link`: the file is elsewhere, the unit is called after the link.
    let directory = tempfile::tempdir().expect("a directory can be made");
    let linked = format!("{name}l.service");
    let elsewhere = directory.path().join(&linked);
    fs::write(&elsewhere, format!("[Service]\nExecStart={}\n", idle())).expect("it is ours");
    manager.link(&linked, &elsewhere);
    manager.owns(&linked);
    manager.start(&linked);
    let target = attaches_to(&manager, &["--unit", &linked], &linked);
    assert!(!target.why.contains("alias"), "{target:?}");
}

#[test]
fn transient_units() {
    needs_systemd!();
    let mut manager = Manager::system();
    let (name, scope) = (unique_name("sbv"), unique_name("sbw"));
    let unit = format!("{name}.service");
    let demo = binary("slowburn-demo").display().to_string();
    let started = run(
        "systemd-run",
        &["--unit", &unit, &demo, "--memory", "1", "--threads", "0"],
        None,
    );
    assert!(started.status.success(), "{}", stderr_of(&started));
    manager.owns(&unit);
    let pid = manager.main_pid(&unit);
    assert_eq!(
        attaches_to(&manager, &["--service", &name], &unit).pids,
        [pid]
    );
    // A scope holds what runs already: systemd-run itself, which then becomes the program.
    let child = Command::new("systemd-run")
        .args([
            "--scope",
            "--unit",
            &scope,
            &demo,
            "--memory",
            "1",
            "--threads",
            "0",
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("it was started before");
    let child = Killed(child);
    let scope_unit = format!("{scope}.scope");
    eventually("the scope's program runs", || {
        let program = fs::read_link(format!("/proc/{}/exe", child.0.id())).ok()?;
        (program == Path::new(&demo)).then_some(())
    });
    manager.owns(&scope_unit);
    assert_eq!(
        attaches_to(&manager, &["--unit", &scope_unit], &scope_unit).pids,
        [child.0.id()]
    );
    let said = refusal(&["--unit", &scope], 1);
    assert!(
        said.contains(&format!("did you mean {scope_unit:?}")),
        "{said}"
    );
}

#[test]
fn names_with_escapes() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbi");
    let escaped = format!("{name}\\x2dbar.service");
    manager.service(&escaped, &idle(), "");
    manager.start(&escaped);
    attaches_to(&manager, &["--service", &escaped], &escaped);
    attaches_to(
        &manager,
        &["--unit", escaped.trim_end_matches(".service")],
        &escaped,
    );
    let instance = format!("{name}-bar@a-b.service");
    manager.service(&format!("{name}-bar@.service"), &idle(), "");
    manager.start(&instance);
    manager.owns(&instance);
    attaches_to(&manager, &["--unit", &instance], &instance);
    // systemd keeps clear of the names of the kernel's own files.
    let kernel = "cpu.service";
    if !manager.show(kernel, "LoadState").contains("not-found") {
        skip!("there is a {kernel} here already");
    }
    manager.service(kernel, &idle(), "");
    manager.start(kernel);
    attaches_to(&manager, &["--unit", "cpu"], kernel);
}

#[test]
fn masked_and_renamed() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbm");
    let masked = format!("{name}m.service");
    manager.link(&masked, Path::new("/dev/null"));
    manager.reload();
    let said = refusal(&["--unit", &masked], 1);
    assert!(said.contains("masked") && said.contains("unmask"), "{said}");
    // A file that is renamed while the unit runs: what runs keeps its name.
    let (old, new) = (format!("{name}.service"), format!("{name}n.service"));
    let file = manager.service(&old, &idle(), "");
    manager.start(&old);
    fs::rename(file, manager.file(&new)).expect("they are in one directory");
    manager.reload();
    attaches_to(&manager, &["--unit", &old], &old);
    let said = refusal(&["--unit", &new], 1);
    assert!(
        said.contains("is not running") && said.contains("--wait"),
        "{said}"
    );
}

#[test]
fn misspelt_and_not_running() {
    needs_systemd!();
    let mut manager = Manager::system();
    let name = unique_name("sbnear");
    let (unit, asleep) = (format!("{name}.service"), format!("{name}z.service"));
    manager.service(&unit, &idle(), "");
    let file = manager.service(&asleep, &idle(), "");
    manager.start(&unit);
    let said = refusal(&["--service", &name.replace("near", "naer")], 1);
    assert!(said.contains(&format!("did you mean {unit:?}")), "{said}");
    for option in ["--service", "--unit"] {
        let said = refusal(&[option, asleep.trim_end_matches(".service")], 1);
        for part in [
            &asleep,
            &file.display().to_string(),
            "is not running",
            "--wait",
            "systemctl start",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

/// A unit that makes cgroups of its own below its own.
#[test]
fn delegated_cgroups() {
    needs_systemd!();
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbd"));
    let root = mount("name=systemd").expect("systemd has a hierarchy");
    let cgroup = root.join("system.slice").join(&unit);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let script = directory.path().join("delegate");
    let (demo, cgroup) = (idle(), cgroup.display());
    let lines = format!(
        "mkdir -p {cgroup}/a/b\n\
         sh -c 'echo $$ >{cgroup}/a/cgroup.procs; exec {demo}' &\n\
         sh -c 'echo $$ >{cgroup}/a/b/cgroup.procs; exec {demo}' &\n\
         wait\n"
    );
    fs::write(&script, lines).expect("it is ours");
    manager.service(
        &unit,
        &format!("/bin/sh {}", script.display()),
        "Delegate=yes",
    );
    manager.reload();
    let mut daemon = wait(&["--unit", &unit]);
    manager.ctl(&["start", &unit]);
    let pids = eventually("three run, and each has become its program", || {
        let pids = manager.processes(&unit);
        let demos = pids.iter().filter(|pid| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|program| program == binary("slowburn-demo"))
        });
        (pids.len() == 3 && demos.count() == 2).then_some(pids)
    });
    attaches_to(&manager, &["--unit", &unit], &unit);
    for pid in &pids {
        daemon.wait_for(
            "its window",
            |record| matches!(record, Record::Window(w) if w.process.pid == *pid),
        );
    }
    let finished = daemon.stop();
    let left = finished
        .target_events()
        .iter()
        .any(|event| event.event == TargetEventKind::Left);
    assert!(!left, "what moves within the unit stays in it");
}

/// `nr_throttled` and the time throttled, in nanoseconds, as the kernel has them.
fn throttled(directory: &Path) -> (u64, u64) {
    let text = fs::read_to_string(directory.join("cpu.stat")).expect("the unit has a quota");
    let value = |key: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    };
    let ns = value("throttled_usec ")
        .map(|us| us * 1000)
        .or_else(|| value("throttled_time "));
    (
        value("nr_throttled ").expect("it is there"),
        ns.expect("it is there"),
    )
}

/// Stops a process, and waits until its quota has nothing more to book.
#[track_caller]
fn halt(pid: u32, cgroup: &Path) -> ((u64, u64), u64) {
    send(pid, Signal::STOP);
    let runs = || -> Option<u64> {
        tasks(pid)
            .into_iter()
            .map(|tid| Some(schedstat(pid, tid)?.run_count))
            .sum()
    };
    eventually("it stands still", || {
        let before = (throttled(cgroup), runs()?);
        // Longer than a period, after which the last throttling is booked.
        sleep(Duration::from_millis(250));
        ((throttled(cgroup), runs()?) == before).then_some(before)
    })
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("it is no 0"), signal).expect("it runs");
}

/// Throttling in the windows is the kernel's to the last nanosecond, and the waits it causes are all counted.
#[test]
fn quota() {
    needs_systemd!();
    let mut manager = Manager::system();
    let unit = format!("{}.service", unique_name("sbc"));
    let busy = format!(
        "{} contend --threads 3 --seconds 60",
        binary("workload").display()
    );
    manager.service(&unit, &busy, "CPUQuota=20%");
    manager.start(&unit);
    let pid = manager.main_pid(&unit);
    let cgroup = mount("cpu")
        .expect("there is a hierarchy")
        .join(manager.cgroup(&unit).trim_start_matches('/'));
    eventually("all threads run", || (tasks(pid).len() == 4).then_some(()));
    let (before, runs_before) = halt(pid, &cgroup);
    let mut daemon = attach(&["--unit", &unit]);
    daemon.wait_for_process(pid, TargetEventKind::Found);
    send(pid, Signal::CONT);
    eventually("it was throttled", || {
        (throttled(&cgroup).0 >= before.0 + 10).then_some(())
    });
    let (after, runs_after) = halt(pid, &cgroup);
    let finished = daemon.stop();
    let windows = finished.process_windows(pid);
    let sum = |of: fn(&slowburn::stream::Window) -> u64| windows.iter().map(|w| of(w)).sum::<u64>();
    let ours = (
        sum(|w| w.kernel.throttled_periods.unwrap_or(0)),
        sum(|w| w.kernel.throttled_ns.unwrap_or(0)),
    );
    assert_eq!(
        ours,
        (after.0 - before.0, after.1 - before.1),
        "{before:?} to {after:?}"
    );
    assert!(windows.iter().all(|w| w.kernel.throttled_ns.is_some()));
    let waits = sum(|w| delay_of(w).count + delay_of(w).unknown_count);
    assert_eq!(waits, runs_after - runs_before);
    let longest = windows.iter().map(|w| delay_of(w).max_ns).max();
    println!(
        "{} periods throttled, {} ms; {waits} waits, the longest of {longest:?} ns",
        ours.0,
        ours.1 / 1_000_000
    );
}
