//! Threads, compared with how many the workload made.

use std::collections::BTreeSet;

use slowburn::{
    detect::group_name,
    stream::{Record, ThreadEventKind},
};
use slowburn_tests::{
    Daemon, Workload, eventually, needs_tracing, number, slowburn, status, stderr_of,
};

fn short_threads(extra: &[&str]) {
    let mut workload =
        Workload::start(&[&["threads", "--rate", "2000", "--seconds", "3"], extra].concat());
    let pid = workload.pid();
    let daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "500ms"]);
    let facts = workload.work();
    let made = number(&facts, "created");
    assert_eq!(made, 6_000);
    eventually("only the first thread is left", || {
        (status(pid, "Threads") == 1).then_some(())
    });
    let finished = daemon.stop();
    let windows = finished.process_windows(pid);
    let summaries: Vec<_> = windows.iter().filter_map(|w| w.threads.as_ref()).collect();
    assert_eq!(summaries.iter().map(|t| t.created).sum::<u64>(), made);
    assert_eq!(summaries.iter().map(|t| t.exited).sum::<u64>(), made);
    assert_eq!(summaries.last().map(|t| t.live), Some(1));
    assert_eq!(windows.last().and_then(|w| w.kernel.threads), Some(1));
    for summary in summaries.iter().filter(|summary| summary.created > 0) {
        let creators: Vec<_> = summary
            .creators
            .iter()
            .map(|creator| (creator.name.as_str(), creator.threads))
            .collect();
        let name = group_name(workload.name());
        assert_eq!(creators, [(name.as_str(), summary.created)]);
    }
    // The first window began with one thread; what is alive follows from what came and went.
    let mut live = 1;
    for summary in &summaries {
        live = live + summary.created - summary.exited;
        assert_eq!(summary.live, live);
    }
    let mut started = BTreeSet::new();
    let mut exited = BTreeSet::new();
    for line in &finished.lines {
        if let Record::Thread(thread) = &line.record {
            assert_eq!(thread.process.pid, pid);
            let identity = (thread.thread.tid, thread.thread.created);
            match thread.event {
                ThreadEventKind::Started => {
                    assert_eq!(thread.creator, Some(pid), "{thread:?}");
                    assert!(started.insert(identity), "started twice: {thread:?}");
                }
                ThreadEventKind::Exited => {
                    assert!(
                        thread.followed_ns.is_some_and(|ns| ns < 60_000_000_000),
                        "{thread:?}"
                    );
                    assert!(exited.insert(identity), "exited twice: {thread:?}");
                }
            }
        }
    }
    assert_eq!(started.len() as u64, made);
    assert_eq!(started, exited, "the lives that end are those that began");
    assert_eq!(finished.lost(), 0);
    println!("{made} threads in {} s, all of them seen", facts["seconds"]);
}

#[test]
fn every_thread_is_counted() {
    needs_tracing!();
    short_threads(&[]);
}

#[test]
fn every_detached_thread_is_counted() {
    needs_tracing!();
    short_threads(&["--detached"]);
}

#[test]
fn too_many_tasks_from_the_start_are_refused() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "100"]);
    let output = slowburn(&[
        "run",
        "--pid",
        &workload.pid_text(),
        "--max-tasks",
        "64",
        "--duration",
        "1s",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr_of(&output).contains("raise --max-tasks"),
        "{}",
        stderr_of(&output)
    );
}

/// The last calls of a thread that ends at once are still those of that thread.
#[test]
fn calls_of_threads_that_end_at_once_have_an_owner() {
    needs_tracing!();
    let mut workload = Workload::start(&["threads", "--rate", "2000", "--seconds", "1.5"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--window",
        "300ms",
        "--events",
        "all",
    ]);
    workload.work();
    let finished = daemon.stop();
    finished.identities_are_whole();
    assert_eq!(finished.lost(), 0);
}
