//! Processes that come and go: every life is told once, and none is mistaken for another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use slowburn::stream::{LossClass, Moment, Scope, TargetEventKind};
use slowburn_tests::{
    Daemon, Finished, Workload, cgroup::Cgroup, eventually, needs_tracing, skip, unique_name,
};

const RESTARTS: usize = 10;

/// What must be true of every stream in which processes come and go.
fn lives_are_told_apart(finished: &Finished, pids: &[u32]) {
    let mut begun = BTreeMap::<(u32, Moment), usize>::new();
    let mut ended = BTreeMap::<(u32, Moment), usize>::new();
    let mut service = Vec::new();
    for event in finished.target_events() {
        let life = || {
            (
                event.pid.expect("a process has a pid"),
                event.created.expect("and a time of creation"),
            )
        };
        match event.event {
            TargetEventKind::Found | TargetEventKind::Started => {
                *begun.entry(life()).or_default() += 1;
            }
            TargetEventKind::Exited => *ended.entry(life()).or_default() += 1,
            TargetEventKind::Gone | TargetEventKind::Returned => {
                assert_eq!((event.pid, event.created), (None, None), "{event:?}");
                service.push(event.event);
            }
            TargetEventKind::Executed => {}
            other => panic!("{other:?} in {event:?}"),
        }
    }
    let expected: BTreeSet<u32> = pids.iter().copied().collect();
    assert_eq!(
        begun.keys().map(|life| life.0).collect::<BTreeSet<_>>(),
        expected
    );
    assert_eq!(begun, ended, "every life begins and ends");
    assert!(begun.values().all(|times| *times == 1), "once: {begun:?}");
    assert_eq!(begun.len(), pids.len());
    for (n, event) in service.iter().enumerate() {
        let due = if n % 2 == 0 {
            TargetEventKind::Gone
        } else {
            TargetEventKind::Returned
        };
        assert_eq!(*event, due, "gone and returned take turns: {service:?}");
    }
    assert_eq!(
        service.len(),
        2 * pids.len() - 1,
        "gone each time, returned each time but the last"
    );
    let mut last = BTreeMap::new();
    for window in finished.windows() {
        let life = (window.process.pid, window.process.created);
        assert!(begun.contains_key(&life), "a window of nobody: {window:?}");
        if window.scope == Scope::Process {
            assert_ne!(
                last.get(&life),
                Some(&true),
                "a window after the last: {window:?}"
            );
            last.insert(life, window.ended);
        }
    }
    assert!(
        last.values().all(|ended| *ended),
        "the last window of a life says so: {last:?}"
    );
    assert_eq!(last.len(), pids.len(), "every life has windows");
}

#[test]
fn restarts_of_a_named_process() {
    needs_tracing!();
    let name = unique_name("sbl");
    let mut workload = Workload::start_as(&name, &["idle-threads", "--count", "3"]);
    let mut pids = vec![workload.pid()];
    let mut daemon = Daemon::start(&["--process", &name, "--window", "200ms"]);
    for _ in 0..RESTARTS {
        workload.kill();
        daemon.wait_for_process(*pids.last().expect("there is one"), TargetEventKind::Exited);
        workload = Workload::start_as(&name, &["idle-threads", "--count", "3"]);
        pids.push(workload.pid());
        daemon.wait_for_process(workload.pid(), TargetEventKind::Started);
    }
    workload.kill();
    daemon.wait_for_process(*pids.last().expect("there is one"), TargetEventKind::Exited);
    lives_are_told_apart(&daemon.stop(), &pids);
}

/// Killed and started again at once, before anything else can be noticed.
#[test]
fn restarts_without_a_pause() {
    needs_tracing!();
    let name = unique_name("sbq");
    let mut workload = Workload::start_as(&name, &["threads", "--rate", "1000", "--seconds", "5"]);
    let mut pids = vec![workload.pid()];
    let mut daemon = Daemon::start(&["--process", &name, "--window", "200ms"]);
    for _ in 0..RESTARTS {
        workload.go();
        workload.kill();
        workload = Workload::start_as(&name, &["threads", "--rate", "1000", "--seconds", "5"]);
        pids.push(workload.pid());
    }
    workload.kill();
    daemon.wait_for_process(*pids.last().expect("there is one"), TargetEventKind::Exited);
    lives_are_told_apart(&daemon.stop(), &pids);
}

#[test]
fn restarts_in_a_cgroup() {
    needs_tracing!();
    let Some(cgroup) = Cgroup::unified() else {
        skip!("there is no unified cgroup hierarchy to make a group in")
    };
    let name = unique_name("sbc");
    let mut workload = cgroup.start(&name, &["idle-threads"]);
    let mut pids = vec![workload.pid()];
    let mut daemon = Daemon::start(&["--cgroup", cgroup.path(), "--window", "200ms"]);
    for _ in 0..RESTARTS {
        workload.kill();
        daemon.wait_for_process(*pids.last().expect("there is one"), TargetEventKind::Exited);
        workload = cgroup.start(&name, &["idle-threads"]);
        pids.push(workload.pid());
        let pid = workload.pid();
        daemon.wait_for(&format!("life of {pid}"), |record| {
            matches!(record, slowburn::stream::Record::Target(event) if event.pid == Some(pid))
        });
    }
    workload.kill();
    daemon.wait_for_process(*pids.last().expect("there is one"), TargetEventKind::Exited);
    lives_are_told_apart(&daemon.stop(), &pids);
}

/// A process that moves to another cgroup is not one of the service any more, and has not ended.
#[test]
fn leaving_a_cgroup_is_no_end() {
    needs_tracing!();
    let Some(cgroup) = Cgroup::unified() else {
        skip!("there is no unified cgroup hierarchy to make a group in")
    };
    let workload = cgroup.start(&unique_name("sbm"), &["idle-threads"]);
    let mut daemon = Daemon::start(&["--cgroup", cgroup.path(), "--window", "200ms"]);
    daemon.wait_for_process(workload.pid(), TargetEventKind::Found);
    let root = Path::new(cgroup.path())
        .parent()
        .expect("it is below the mount")
        .join("cgroup.procs");
    fs::write(root, workload.pid_text()).expect("root may move it");
    daemon.wait_for_process(workload.pid(), TargetEventKind::Left);
    let finished = daemon.stop();
    let ends = finished
        .target_events()
        .into_iter()
        .filter(|event| event.event == TargetEventKind::Exited)
        .count();
    assert_eq!(ends, 0, "it lives on");
}

/// Lives of the children, by pid and creation: how often each began, ended and executed.
fn children_of(
    finished: &Finished,
    parent: u32,
) -> BTreeMap<(Option<u32>, Option<Moment>), [usize; 3]> {
    let mut lives = BTreeMap::<_, [usize; 3]>::new();
    for event in finished.target_events() {
        if event.pid != Some(parent) {
            let at = match event.event {
                TargetEventKind::Started => 0,
                TargetEventKind::Exited => 1,
                TargetEventKind::Executed => 2,
                other => panic!("{other:?} in {event:?}"),
            };
            lives.entry((event.pid, event.created)).or_default()[at] += 1;
        }
    }
    lives
}

/// A thousand children in a row: every one begins and ends.
#[test]
fn storm_of_forks() {
    needs_tracing!();
    for extra in [&[][..], &["--exec"]] {
        let mut workload = Workload::start(&[&["forks", "--count", "1000"], extra].concat());
        let daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "500ms"]);
        workload.work();
        eventually("one is left", || {
            slowburn_tests::children(workload.pid())
                .is_empty()
                .then_some(())
        });
        let finished = daemon.stop();
        let lives = children_of(&finished, workload.pid());
        let expected = [1, 1, usize::from(!extra.is_empty())];
        let odd: Vec<_> = lives
            .iter()
            .filter(|(_, counts)| **counts != expected)
            .collect();
        assert!(odd.is_empty(), "began, ended, executed: {odd:?}");
        assert_eq!(lives.len(), 1_000, "every child is a life");
        assert_eq!(finished.lost(), 0);
        let last = finished
            .process_windows(workload.pid())
            .pop()
            .expect("there are windows");
        assert_eq!(
            (last.threads.as_ref().map(|t| t.live), last.ended),
            (Some(1), false)
        );
    }
}

/// With room for far fewer: what there was no room for is counted, and room is found again.
#[test]
fn storm_of_forks_in_little_room() {
    needs_tracing!();
    let mut workload = Workload::start(&["forks", "--count", "3000", "--exec"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--window",
        "500ms",
        "--max-tasks",
        "256",
    ]);
    workload.work();
    let finished = daemon.stop();
    let lives = children_of(&finished, workload.pid());
    let odd: Vec<_> = lives
        .iter()
        .filter(|(_, counts)| **counts != [1, 1, 1])
        .collect();
    assert!(odd.is_empty(), "began, ended, executed: {odd:?}");
    let lost = finished
        .stop_record()
        .lost
        .get(&LossClass::Task)
        .copied()
        .unwrap_or(0);
    println!("{} lives seen, {lost} without room", lives.len());
    assert_eq!(lives.len() as u64 + lost, 3_000);
    assert!(lives.len() > 256, "records are used again");
}
