//! Real services, each attached to by name while it works: nginx, redis, postgresql.

use std::time::{Duration, Instant};

use slowburn::stream::{Record, Scope, TargetEventKind};
use slowburn_tests::{
    Daemon, delay_of, needs_tracing, schedstat, skip,
    software::{Software, ask},
    tasks,
};

/// How long a service is kept busy.
const BUSY: Duration = Duration::from_secs(4);

/// Asks again and again over one connection, for as long as the service is to be busy. Returns how often.
fn ask_on(service: &Software, question: &[u8], answered: impl Fn(&[u8]) -> bool) -> u64 {
    let mut stream = service.connect();
    let (begin, mut answers) = (Instant::now(), 0);
    while begin.elapsed() < BUSY {
        ask(&mut stream, question, &answered);
        answers += 1;
    }
    answers
}

/// Watches a service while it works, and compares the waits of all its threads with the kernel's account.
fn watch(service: &Software, work: impl FnOnce() -> u64) {
    let mut daemon = Daemon::start(&["--service", service.name(), "--window", "1s"]);
    daemon.wait_for_process(service.pid(), TargetEventKind::Found);
    let pids: Vec<u32> = daemon
        .lines()
        .iter()
        .filter_map(|line| match &line.record {
            Record::Target(event) => event.pid,
            _ => None,
        })
        .collect();
    let read = || -> Vec<((u32, u32), u64)> {
        pids.iter()
            .flat_map(|pid| tasks(*pid).into_iter().map(move |tid| (*pid, tid)))
            .filter_map(|(pid, tid)| Some(((pid, tid), schedstat(pid, tid)?.run_count)))
            .collect()
    };
    let before = read();
    let answers = work();
    let after = read();
    let finished = daemon.stop();
    for ((pid, tid), now) in after {
        let then = before.iter().find(|(task, _)| *task == (pid, tid));
        let kernel = now - then.map_or(0, |(_, count)| *count);
        let windows = finished.thread_windows(tid);
        let ours: u64 = windows
            .iter()
            .map(|w| delay_of(w).count + delay_of(w).unknown_count)
            .sum();
        // Services do not stand still at the edges: what they do of their own accord between two readings.
        let bound = (kernel / 100).max(20);
        assert!(
            ours.abs_diff(kernel) <= bound,
            "thread {tid}: {ours} waits, the kernel counted {kernel}"
        );
    }
    assert!(pids.contains(&service.pid()));
    // Those that were forked to do the work are in it too.
    let processes = finished.windows().filter(|w| w.scope == Scope::Process);
    let waits: u64 = processes.map(|w| delay_of(w).count).sum();
    println!(
        "{}: {answers} answers, {waits} waits in {} processes",
        service.name(),
        pids.len()
    );
    assert!(answers > 100, "it was kept busy: {answers}");
    assert!(waits > 100, "it waited: {waits}");
    assert_eq!(finished.lost(), 0);
    finished.identities_are_whole();
}

#[test]
fn nginx() {
    needs_tracing!();
    let Some(service) = Software::nginx() else {
        skip!("nginx is not installed");
    };
    watch(&service, || {
        ask_on(&service, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", |answer| {
            answer.ends_with(b"hello")
        })
    });
}

#[test]
fn redis() {
    needs_tracing!();
    let Some(service) = Software::redis() else {
        skip!("redis-server is not installed");
    };
    watch(&service, || {
        ask_on(&service, b"INCR x\r\n", |answer| answer.ends_with(b"\r\n"))
    });
}

#[test]
fn postgresql() {
    needs_tracing!();
    let Some(service) = Software::postgresql() else {
        skip!("postgresql with pgbench, or its user, is not installed");
    };
    watch(&service, || {
        let output = service.pgbench(&["-c", "4", "-T", "4"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("number of transactions actually processed: "));
        line.and_then(|n| n.split('/').next()?.trim().parse().ok())
            .unwrap_or(0)
    });
}
