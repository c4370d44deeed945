//! Finding a service and following exactly what belongs to it.

use std::collections::BTreeSet;

use rustix::process::Signal;
use slowburn::stream::{Record, Start, StopReason, TargetEventKind, ThreadEventKind};
use slowburn_tests::{
    Daemon, Finished, Workload, eventually, needs_tracing, number, settle, skip, slowburn, status,
    stderr_of, unique_name,
};

/// A shell that stays, so that what it starts has a parent of its own.
const OF_ITS_OWN: [&str; 3] = ["sh", "-c", "\"$0\" \"$@\"; :"];

fn start_record(finished: &Finished) -> &Start {
    match &finished.lines[0].record {
        Record::Start(start) => start,
        other => panic!("no start: {other:?}"),
    }
}

/// The pids that have windows.
fn followed(finished: &Finished) -> BTreeSet<u32> {
    finished.windows().map(|w| w.process.pid).collect()
}

#[test]
fn by_pid_process_and_service() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "2"]);
    let (pid, name) = (workload.pid_text(), workload.name().to_owned());
    for (option, value, rule) in [
        ("--pid", &pid, "pid"),
        ("--process", &name, "process"),
        ("--service", &name, "process"),
    ] {
        let mut daemon = Daemon::start(&[option, value, "--window", "200ms"]);
        let found = daemon.wait_for_process(workload.pid(), TargetEventKind::Found);
        assert_eq!(found.name.as_deref(), Some(name.as_str()));
        daemon.wait_for("window", |record| matches!(record, Record::Window(_)));
        let finished = daemon.stop();
        let [target] = start_record(&finished).targets.as_slice() else {
            panic!("one target")
        };
        assert_eq!(target.rule.to_string(), rule);
        assert_eq!(target.service, name);
        assert_eq!(target.pids, [workload.pid()]);
        assert_eq!(
            followed(&finished),
            BTreeSet::from([workload.pid()]),
            "{option}: this and nothing else"
        );
        let last = finished
            .process_windows(workload.pid())
            .last()
            .and_then(|w| w.threads.as_ref());
        assert_eq!(last.map(|t| (t.live, t.created, t.exited)), Some((3, 0, 0)));
        assert_eq!(finished.stop_record().reason, StopReason::Signal);
    }
}

#[test]
fn children_and_their_children_belong() {
    needs_tracing!();
    for early in [true, false] {
        let mut workload = Workload::start(if early {
            &["family", "--depth", "3", "--early"]
        } else {
            &["family", "--depth", "3"]
        });
        let mut daemon = Daemon::start(&["--process", workload.name(), "--window", "200ms"]);
        let facts = workload.work();
        let descendants: Vec<u32> = facts["pids"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pid| pid.as_u64().expect("a pid") as u32)
            .collect();
        assert_eq!(descendants.len(), 3);
        let kind = if early {
            TargetEventKind::Found
        } else {
            TargetEventKind::Started
        };
        for pid in &descendants {
            daemon.wait_for_process(*pid, kind);
        }
        let stop = daemon.stop();
        let expected = descendants
            .iter()
            .copied()
            .chain([workload.pid()])
            .collect();
        assert_eq!(followed(&stop), expected);
        assert!(
            stop.windows().all(|w| w.process.service == workload.name()),
            "they are the same service"
        );
    }
}

/// Two hundred threads start threads while slowburn finds out which there are.
#[test]
fn no_thread_slips_through_while_attaching() {
    needs_tracing!();
    for round in 0..3 {
        let mut workload = Workload::start(&["spawners", "--threads", "200"]);
        let daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "500ms"]);
        let facts = workload.work();
        let expected = number(&facts, "threads");
        eventually("the brief ones are gone", || {
            (status(workload.pid(), "Threads") == expected).then_some(())
        });
        let finished = daemon.stop();
        let windows = finished.process_windows(workload.pid());
        let last = windows.last().expect("there are windows");
        let live = last.threads.as_ref().map(|t| t.live);
        let created: u64 = windows
            .iter()
            .filter_map(|w| w.threads.as_ref())
            .map(|t| t.created)
            .sum();
        println!(
            "round {round}: {live:?} of {expected} live, {created} of {} created while attached",
            number(&facts, "created")
        );
        assert_eq!(live, Some(expected), "every one that is left is followed");
        assert_eq!(last.kernel.threads, Some(expected));
        assert!(created >= 200, "those that stay at least: {created}");
        assert!(finished.stop_record().lost.is_empty());
    }
}

#[test]
fn ambiguity_is_said_and_can_be_resolved() {
    needs_tracing!();
    let name = unique_name("sba");
    let first = Workload::start_under(&name, &OF_ITS_OWN, &["idle-threads"]);
    let second = Workload::start_under(&name, &OF_ITS_OWN, &["idle-threads"]);
    let output = slowburn(&["run", "--process", &name, "--duration", "1s"]);
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty(), "nothing is streamed");
    for pid in [first.pid_text(), second.pid_text()] {
        assert!(said.contains(&format!("pid {pid}")), "{said}");
    }
    assert!(
        said.contains("--all") && said.contains("--pid"),
        "says what to do: {said}"
    );

    let mut daemon = Daemon::start(&["--process", &name, "--all", "--window", "200ms"]);
    daemon.wait_for_process(first.pid(), TargetEventKind::Found);
    daemon.wait_for_process(second.pid(), TargetEventKind::Found);
    let finished = daemon.stop();
    assert_eq!(start_record(&finished).targets.len(), 2);
    assert_eq!(
        followed(&finished),
        BTreeSet::from([first.pid(), second.pid()])
    );
}

#[test]
fn several_pids() {
    needs_tracing!();
    let (first, second) = (
        Workload::start(&["idle-threads"]),
        Workload::start(&["idle-threads"]),
    );
    let other = Workload::start(&["idle-threads"]);
    let finished = Daemon::start(&[
        "--pid",
        &first.pid_text(),
        "--pid",
        &second.pid_text(),
        "--window",
        "200ms",
    ])
    .stop();
    assert_eq!(
        followed(&finished),
        BTreeSet::from([first.pid(), second.pid()]),
        "and not {}",
        other.pid()
    );
}

#[test]
fn not_found_suggests_what_is_near() {
    needs_tracing!();
    let name = unique_name("sbnear");
    let _workload = Workload::start_as(&name, &["idle-threads"]);
    let mistyped = name.replace("near", "naer");
    let output = slowburn(&["run", "--service", &mistyped]);
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("did you mean {name:?}")), "{said}");
}

#[test]
fn pids_that_cannot_be_followed_are_explained() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "1"]);
    let tid = slowburn_tests::tasks(workload.pid())
        .into_iter()
        .find(|tid| *tid != workload.pid())
        .expect("the second");
    let cases = [
        (tid.to_string(), 2, format!("use --pid {}", workload.pid())),
        ("2".into(), 1, "a thread of the kernel".into()),
        ("4194300".into(), 1, "no process has pid 4194300".into()),
    ];
    for (pid, code, text) in cases {
        let output = slowburn(&["run", "--pid", &pid, "--duration", "1s"]);
        let said = stderr_of(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&text), "{said}");
    }
}

#[test]
fn waits_for_what_does_not_run_yet() {
    needs_tracing!();
    let name = unique_name("sbw");
    let mut daemon = Daemon::start(&["--service", &name, "--wait", "--window", "200ms"]);
    daemon.wait_for(
        "waiting",
        |record| matches!(record, Record::Target(event) if event.event == TargetEventKind::Waiting),
    );
    let mut workload = Workload::start_as(&name, &["threads", "--rate", "500", "--seconds", "0.2"]);
    daemon.wait_for(
        "its process",
        |record| matches!(record, Record::Target(event) if event.pid == Some(workload.pid())),
    );
    workload.work();
    let finished = daemon.stop();
    let created: u64 = finished
        .process_windows(workload.pid())
        .iter()
        .filter_map(|w| w.threads.as_ref())
        .map(|t| t.created)
        .sum();
    // The process itself counts as well, if it was followed from its exec on.
    assert!((100..=101).contains(&created), "{created}");
}

#[test]
fn stops_with_its_target() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "2"]);
    let pid = workload.pid();
    let daemon = Daemon::start(&[
        "--process",
        workload.name(),
        "--exit-with-target",
        "--window",
        "10s",
    ]);
    assert!(workload.release().success());
    let finished = daemon.finish();
    assert_eq!(finished.stop_record().reason, StopReason::TargetGone);
    let events: Vec<_> = finished
        .target_events()
        .iter()
        .map(|event| event.event)
        .collect();
    assert_eq!(
        events,
        [
            TargetEventKind::Found,
            TargetEventKind::Exited,
            TargetEventKind::Gone
        ]
    );
    assert!(
        finished
            .process_windows(pid)
            .last()
            .is_some_and(|w| w.ended),
        "its last window is written"
    );
}

/// A pid cannot come back, so there is nothing to wait for.
#[test]
fn stops_when_a_pid_is_gone() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "10s"]);
    workload.kill();
    assert_eq!(daemon.finish().stop_record().reason, StopReason::TargetGone);
}

#[test]
fn terminates_on_sigterm() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let daemon = Daemon::start(&["--pid", &workload.pid_text()]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().stop_record().reason, StopReason::Signal);
}

#[test]
fn pids_are_the_hosts() {
    needs_tracing!();
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let works = std::process::Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip!("unshare --pid does not work here");
    }
    let mut workload = Workload::start_under(
        &unique_name("sbns"),
        &wrapper,
        &["threads", "--rate", "200", "--seconds", "0.5"],
    );
    let pid = workload.pid();
    assert!(
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .expect("it is there")
            .lines()
            .any(|line| { line.starts_with("NSpid:") && line.ends_with("\t1") })
    );
    let mut daemon = Daemon::start(&["--process", workload.name(), "--window", "200ms"]);
    daemon.wait_for_process(pid, TargetEventKind::Found);
    let facts = workload.work();
    let finished = daemon.stop();
    assert_eq!(followed(&finished), BTreeSet::from([pid]));
    let threads: Vec<_> = finished
        .lines
        .iter()
        .filter_map(|line| match &line.record {
            Record::Thread(thread) => Some(thread),
            _ => None,
        })
        .collect();
    assert_eq!(threads.len() as u64, 2 * number(&facts, "created"));
    assert!(
        threads
            .iter()
            .all(|thread| thread.process.pid == pid && thread.thread.tid > pid.min(300)),
        "ids of the host"
    );
    assert!(
        threads
            .iter()
            .filter_map(|thread| thread.creator)
            .all(|creator| creator == pid)
    );
}

/// Whichever thread executes another program goes on under the first one's id: the process is the same.
#[test]
fn exec_by_another_thread_keeps_the_identity() {
    needs_tracing!();
    exec_by_another_thread(true);
}

/// The same with a thread that executes as soon as it runs: by the time slowburn hears of it, it has another id.
#[test]
fn exec_by_a_new_thread_keeps_the_identity() {
    needs_tracing!();
    exec_by_another_thread(false);
}

#[track_caller]
fn exec_by_another_thread(pause: bool) {
    let mut workload = Workload::start(if pause {
        &["exec-thread", "--pause"]
    } else {
        &["exec-thread"]
    });
    let pid = workload.pid();
    let mut daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "200ms"]);
    let found = daemon.wait_for_process(pid, TargetEventKind::Found);
    workload.go();
    let before = workload.facts();
    let tid = number(&before, "tid") as u32;
    assert_ne!(tid, pid, "it is another thread");
    if pause {
        daemon.wait_for(
            "its start",
            |record| matches!(record, Record::Thread(thread) if thread.thread.tid == tid),
        );
        workload.go();
    }
    let after = workload.facts();
    assert_eq!(after["executed"], true);
    assert_eq!(number(&after, "pid"), u64::from(pid));
    let executed = daemon.wait_for_process(pid, TargetEventKind::Executed);
    settle(pid);
    let size = (status(pid, "VmSize"), status(pid, "VmData"));
    let finished = daemon.stop();
    let events: Vec<_> = finished
        .target_events()
        .iter()
        .map(|event| event.event)
        .collect();
    assert_eq!(
        events,
        [TargetEventKind::Found, TargetEventKind::Executed],
        "the process has neither ended nor begun"
    );
    assert_eq!(executed.created, found.created);
    let windows = finished.process_windows(pid);
    let last = windows.last().expect("there are windows");
    assert!(
        windows
            .iter()
            .all(|w| Some(w.process.created) == found.created && !w.ended),
        "one life"
    );
    assert_eq!(
        last.threads.as_ref().map(|t| t.live),
        Some(1),
        "the new program has one thread"
    );
    assert_eq!(
        (
            last.memory.standing_reserved_bytes,
            last.memory.standing_committed_bytes
        ),
        (Some(size.0), Some(size.1))
    );
    let threads: Vec<_> = finished
        .lines
        .iter()
        .filter_map(|line| match &line.record {
            Record::Thread(thread) => Some((thread.event, thread.thread.tid)),
            _ => None,
        })
        .collect();
    assert_eq!(
        threads,
        [
            (ThreadEventKind::Started, tid),
            (ThreadEventKind::Exited, pid),
            (ThreadEventKind::Started, pid),
            (ThreadEventKind::Exited, tid)
        ],
        "the first thread ended, and the other became the first"
    );
    finished.identities_are_whole();
}

/// What was started by something of the same name but not by the service is left alone.
#[test]
fn neighbours_are_left_alone() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let mut neighbour = Workload::start(&["forks", "--count", "50", "--exec"]);
    let daemon = Daemon::start(&["--process", workload.name(), "--window", "200ms"]);
    neighbour.work();
    let finished = daemon.stop();
    assert_eq!(followed(&finished), BTreeSet::from([workload.pid()]));
    assert!(
        finished
            .target_events()
            .iter()
            .all(|event| event.pid == Some(workload.pid()))
    );
}

#[test]
fn services_lists_what_runs() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let output = slowburn(&["services", "--json"]);
    assert!(output.status.success(), "{}", stderr_of(&output));
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(text.contains(workload.name()), "{text}");
}
