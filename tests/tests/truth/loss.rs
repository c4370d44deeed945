//! Every call is either a record or counted as lost.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use slowburn::stream::{LossClass, Record, Scope, TargetEventKind, ThreadEventKind};
use slowburn_tests::{Daemon, Finished, Workload, delay_of, needs_tracing, number, skip};

use crate::{
    hooks,
    report::{Measure, Unit, in_guest, require},
    watch::Watched,
};

/// Records of calls, and what is lost by the stream's own account. Reads bytes: the streams are large.
#[derive(Debug, Default)]
struct Seen {
    map: u64,
    unmap: u64,
    others: u64,
    lost_mappings: u64,
}

fn count(path: &Path) -> Seen {
    let mut seen = Seen::default();
    let mut file =
        BufReader::with_capacity(1 << 20, File::open(path).expect("the output is there"));
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).expect("it can be read") == 0 {
            return seen;
        }
        if line.starts_with(br#"{"v":1,"type":"mapping""#) {
            // The call comes after the names and times, some 300 bytes into the line.
            let call = line[200..]
                .windows(8)
                .position(|w| w == br#""call":""#)
                .expect("every mapping has it");
            match &line[200 + call + 8..][..4] {
                b"map\"" => seen.map += 1,
                b"unma" => seen.unmap += 1,
                _ => seen.others += 1,
            }
        } else if line.starts_with(br#"{"v":1,"type":"loss""#) {
            let value: serde_json::Value = serde_json::from_slice(&line).expect("it is JSON");
            if value["class"] == "mapping" {
                seen.lost_mappings += number(&value, "count");
            }
        }
    }
}

/// Floods the ring with 100,000 pairs of calls a second, for a second.
fn flood(options: &[&str]) -> Seen {
    let mut workload = Workload::start(&["mappings", "--rate", "100000", "--seconds", "1"]);
    let pid = workload.pid_text();
    let mut daemon = Daemon::start(
        &[
            &["--pid", &pid, "--events", "all", "--window", "1s"],
            options,
        ]
        .concat(),
    );
    let facts = workload.work();
    daemon.signal(rustix::process::Signal::INT);
    assert!(daemon.wait().success(), "{}", daemon.stderr());
    let seen = count(daemon.output());
    println!("{facts}: {seen:?}");
    let made = number(&facts, "map") + number(&facts, "unmap");
    assert_eq!(made, 200_000);
    assert_eq!(
        seen.map + seen.unmap + seen.others + seen.lost_mappings,
        made,
        "{seen:?}"
    );
    assert_eq!(seen.others, 0);
    seen
}

#[test]
fn default_ring_loses_nothing() {
    needs_tracing!();
    if in_guest() {
        skip!("an emulated processor is too slow for 200,000 records a second");
    }
    let seen = flood(&[]);
    assert_eq!(seen.lost_mappings, 0);
    assert_eq!((seen.map, seen.unmap), (100_000, 100_000));
}

#[test]
fn small_ring_counts_what_it_loses() {
    needs_tracing!();
    let seen = flood(&["--ring-size", "4KiB"]);
    assert!(
        seen.lost_mappings > 0,
        "4 KiB cannot hold 50 ms of this: {seen:?}"
    );
    assert!(
        seen.map + seen.unmap > 0,
        "and yet some come through: {seen:?}"
    );
}

/// Losing records is not losing sums.
#[test]
fn windows_are_exact_whatever_is_lost() {
    needs_tracing!();
    let mut workload = Workload::start(&["mappings", "--rate", "50000", "--seconds", "1"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--events",
        "all",
        "--ring-size",
        "4KiB",
        "--window",
        "300ms",
    ]);
    let facts = workload.work();
    let finished = daemon.stop();
    let windows = finished.process_windows(workload.pid());
    assert_eq!(
        windows.iter().map(|w| w.memory.map_calls).sum::<u64>(),
        number(&facts, "map")
    );
    assert_eq!(
        windows.iter().map(|w| w.memory.unmap_calls).sum::<u64>(),
        number(&facts, "unmap")
    );
    let lost: u64 = windows.iter().map(|w| w.lost).sum();
    let all: u64 = finished.stop_record().lost.values().sum();
    assert!(
        lost > 0 && lost <= all,
        "windows say what was lost meanwhile: {lost} of {all}"
    );
}

/// All events, through a ring that cannot hold 50 ms of them.
const SMALL_RING: [&str; 4] = ["--events", "all", "--ring-size", "4KiB"];

/// What was lost of a class over the whole run.
fn lost(finished: &Finished, class: LossClass) -> u64 {
    finished
        .stop_record()
        .lost
        .get(&class)
        .copied()
        .unwrap_or(0)
}

fn received(finished: &Finished, matches: impl Fn(&Record) -> bool) -> u64 {
    finished
        .lines
        .iter()
        .filter(|line| matches(&line.record))
        .count() as u64
}

/// Received and lost make up all that there was.
fn adds_up(class: &str, hooks: &str, received: u64, lost: u64, made: u64, edge: u64) {
    println!("{class}: {received} received and {lost} lost of {made}");
    require(&Measure {
        check: "loss",
        hooks,
        quantity: class,
        judge: "the kernel",
        ours: (received + lost) as f64,
        theirs: made as f64,
        error: (received + lost).abs_diff(made) as f64,
        unit: Unit::Count,
        goal: edge as f64,
    });
}

/// Every wait is a record, or counted as lost.
#[test]
fn waits() {
    needs_tracing!();
    let workload = ["pingpong", "--pairs", "2", "--seconds", "0.5"];
    for watched in Watched::run_each(hooks::sched(), &workload, &SMALL_RING) {
        let finished = &watched.finished;
        let received = received(finished, |record| matches!(record, Record::Delay(_)));
        let lost = lost(finished, LossClass::Delay);
        let unknown: u64 = finished
            .process_windows(watched.pid)
            .iter()
            .map(|w| delay_of(w).unknown_count)
            .sum();
        let made: u64 = watched
            .kernel_waits()
            .values()
            .map(|kernel| kernel.run_count)
            .sum();
        assert!(lost > 0, "4 KiB cannot hold 50 ms of this");
        let edge = 2 * watched.after.waits.len() as u64;
        adds_up(
            "waits",
            &watched.hooks,
            received,
            lost + unknown,
            made,
            edge,
        );
    }
}

/// Starts and exits of threads that find the ring full are taken from their records: none is lost.
#[test]
fn threads() {
    needs_tracing!();
    let workload = ["threads", "--rate", "3000", "--seconds", "1"];
    for watched in Watched::run_each(hooks::sched(), &workload, &SMALL_RING) {
        let finished = &watched.finished;
        let told = |kind| {
            received(
                finished,
                |record| matches!(record, Record::Thread(t) if t.event == kind),
            )
        };
        assert!(
            finished.stop_record().recovered > 0,
            "4 KiB cannot hold 50 ms of this"
        );
        let made = number(&watched.facts, "created");
        adds_up(
            "starts of threads",
            &watched.hooks,
            told(ThreadEventKind::Started),
            0,
            made,
            0,
        );
        adds_up(
            "exits of threads",
            &watched.hooks,
            told(ThreadEventKind::Exited),
            0,
            made,
            0,
        );
    }
}

/// Executions of programs while calls flood the ring.
#[test]
fn executions() {
    const EXECUTIONS: u64 = 200;
    needs_tracing!();
    let count = EXECUTIONS.to_string();
    let workload = ["forks", "--count", &count, "--exec"];
    for watched in Watched::run_each(hooks::sched(), &workload, &SMALL_RING) {
        let finished = &watched.finished;
        let executed = |record: &Record| matches!(record, Record::Target(t) if t.event == TargetEventKind::Executed);
        let lost = lost(finished, LossClass::Exec);
        adds_up(
            "executions",
            &watched.hooks,
            received(finished, executed),
            lost,
            EXECUTIONS,
            0,
        );
        let begun = |record: &Record| matches!(record, Record::Target(t) if t.event == TargetEventKind::Started);
        adds_up(
            "processes",
            &watched.hooks,
            received(finished, begun),
            0,
            EXECUTIONS,
            0,
        );
    }
}

/// Tasks for which there is no record.
#[test]
fn tasks() {
    needs_tracing!();
    let workload = ["idle-threads", "--later", "150"];
    for watched in Watched::run_each(hooks::sched(), &workload, &["--max-tasks", "64"]) {
        let last = watched
            .finished
            .process_windows(watched.pid)
            .pop()
            .expect("windows");
        let live = last.threads.as_ref().expect("a process has threads").live;
        adds_up(
            "tasks",
            &watched.hooks,
            live,
            lost(&watched.finished, LossClass::Task),
            151,
            0,
        );
        assert_eq!(
            last.kernel.threads,
            Some(151),
            "the kernel's own number is beside it"
        );
    }
}

/// Processes that begin and end within one window, of which there are more than are kept.
#[test]
fn windows() {
    const PROCESSES: u64 = 11_000;
    needs_tracing!();
    if in_guest() {
        skip!(
            "so many processes take 30 s on an emulated processor, and nothing of this depends on the kernel"
        );
    }
    let count = PROCESSES.to_string();
    let workload = ["forks", "--count", &count];
    let watched = Watched::run(&workload, &["--window", "60s", "--events", "none"]);
    let windows = watched.finished.windows();
    let of_children = windows.filter(|w| w.scope == Scope::Process && w.process.pid != watched.pid);
    let lost = lost(&watched.finished, LossClass::Window);
    assert!(lost > 0, "10,000 are kept");
    adds_up(
        "windows",
        "auto",
        of_children.count() as u64,
        lost,
        PROCESSES,
        0,
    );
}
