//! Threads and processes that live for microseconds, share ids or share an address space: all of their waits are
//! counted, and no life is mistaken for another.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use slowburn::stream::{MemorySummary, Moment, Scope, TargetEventKind};
use slowburn_tests::{Schedstat, needs_tracing, number, skip};

use crate::{
    hooks,
    report::{Measure, Unit, in_guest, require},
    timeline::Timeline,
    watch::{Ours, Watched, total},
};

/// Waits that two readings may differ by, at the edges.
const EDGE: u64 = 2;

/// Runs by family of hooks, and how many waits of the first thread the raw timeline has.
struct Runs {
    watched: Vec<Watched>,
    timeline: u64,
}

impl Runs {
    fn of(workload: &[&str]) -> Self {
        let mut recorded = None;
        let watched = Watched::run_with(hooks::sched(), workload, &[], |workload| {
            let timeline = Timeline::start(&["sb-*"]);
            let facts = workload.work();
            recorded = timeline.and_then(Timeline::finish);
            facts
        });
        let first = recorded.unwrap_or_default().remove(&watched[0].pid);
        Self {
            watched,
            timeline: first.map_or(0, |first| first.runs),
        }
    }
}

/// The kernel's own account lacks the waits of a thread that was preempted on its way to sleep; the raw timeline lacks
/// those that the kernel does not trace. Neither has one too many.
fn first_thread(check: &str, hooks: &str, ours: u64, schedstat: u64, timeline: u64) {
    let (theirs, judge) = if timeline > schedstat {
        (timeline, "the timeline")
    } else {
        (schedstat, "schedstat")
    };
    require(&Measure {
        check,
        hooks,
        quantity: "waits of the first thread",
        judge,
        ours: ours as f64,
        theirs: theirs as f64,
        error: ours.abs_diff(theirs) as f64,
        unit: Unit::Count,
        goal: EDGE as f64,
    });
}

/// Waits of all that the workload has started, as each read them itself at the end of its life, against all that is in
/// our windows beside the first thread's own. Between reading and ending a task may wait once more, on a slow machine
/// more often: ours may be more than theirs by that, and never less.
fn judge_by_the_dying(check: &str, timeline: u64, watched: &Watched) {
    let hooks = &watched.hooks;
    let processes = watched
        .finished
        .windows()
        .filter(|w| w.scope == Scope::Process);
    let all: Ours = total(processes);
    let first: Schedstat = watched.kernel_waits()[&watched.pid];
    let own = total(watched.finished.thread_windows(watched.pid));
    first_thread(check, hooks, own.with_unknown, first.run_count, timeline);
    let ours = all.with_unknown - own.with_unknown;
    let theirs = number(&watched.facts, "run_count");
    require(&Measure {
        check,
        hooks,
        quantity: "waits missed",
        judge: "schedstat read by the dying",
        ours: ours as f64,
        theirs: theirs as f64,
        error: theirs.saturating_sub(ours + EDGE) as f64,
        unit: Unit::Count,
        goal: 0.0,
    });
    require(&Measure {
        check,
        hooks,
        quantity: "waits after the last reading",
        judge: "schedstat read by the dying",
        ours: ours as f64,
        theirs: theirs as f64,
        error: ours.saturating_sub(theirs) as f64 / theirs as f64,
        unit: Unit::Ratio,
        // Where processors are emulated, whoever watches competes with the dying for them.
        goal: if in_guest() { 0.5 } else { 0.03 },
    });
}

#[test]
fn threads_that_live_for_microseconds() {
    needs_tracing!();
    let runs = Runs::of(&["brief", "--count", "2000"]);
    for watched in &runs.watched {
        judge_by_the_dying(
            "lives::threads_that_live_for_microseconds",
            runs.timeline,
            watched,
        );
        let windows = watched.finished.process_windows(watched.pid);
        let threads = windows.iter().filter_map(|window| window.threads);
        let (created, exited) = threads.fold((0, 0), |sum, threads| {
            (sum.0 + threads.created, sum.1 + threads.exited)
        });
        for (measure, ours) in [("threads created", created), ("threads ended", exited)] {
            exactly(
                "lives::threads_that_live_for_microseconds",
                &watched.hooks,
                measure,
                ours,
                2_000,
            );
        }
        assert_eq!(watched.finished.lost(), 0);
    }
}

fn exactly(check: &str, hooks: &str, measure: &str, ours: u64, theirs: u64) {
    require(&Measure {
        check,
        hooks,
        quantity: measure,
        judge: "the workload",
        ours: ours as f64,
        theirs: theirs as f64,
        error: ours.abs_diff(theirs) as f64,
        unit: Unit::Count,
        goal: 0.0,
    });
}

/// Lives of processes other than the first one: their ids with times of creation, begun and ended.
fn lives(watched: &Watched) -> [BTreeSet<(u32, Moment)>; 2] {
    let events = watched.finished.target_events();
    let of = |kinds: &[TargetEventKind]| {
        let events = events.iter().filter(|event| kinds.contains(&event.event));
        let others = events.filter(|event| event.pid != Some(watched.pid));
        let lives: Vec<_> = others
            .filter_map(|event| Some((event.pid?, event.created?)))
            .collect();
        let distinct: BTreeSet<_> = lives.iter().copied().collect();
        assert_eq!(lives.len(), distinct.len(), "each is told once");
        distinct
    };
    [
        of(&[TargetEventKind::Started]),
        of(&[TargetEventKind::Exited]),
    ]
}

#[test]
fn processes_that_live_for_microseconds() {
    needs_tracing!();
    let runs = Runs::of(&["forks", "--count", "1000"]);
    for watched in &runs.watched {
        let check = "lives::processes_that_live_for_microseconds";
        judge_by_the_dying(check, runs.timeline, watched);
        let [begun, ended] = lives(watched);
        assert_eq!(begun, ended);
        exactly(
            check,
            &watched.hooks,
            "processes",
            begun.len() as u64,
            1_000,
        );
        watched.finished.identities_are_whole();
    }
}

/// One process id, a life after the other.
#[test]
fn lives_that_share_an_id() {
    needs_tracing!();
    let runs = Runs::of(&["reuse", "--count", "300"]);
    for watched in &runs.watched {
        let check = "lives::lives_that_share_an_id";
        judge_by_the_dying(check, runs.timeline, watched);
        let pid = number(&watched.facts, "pid") as u32;
        let [begun, ended] = lives(watched);
        assert_eq!(begun, ended);
        // One more: the child that was forked to find a free id.
        exactly(
            check,
            &watched.hooks,
            "lives of one id",
            begun.iter().filter(|life| life.0 == pid).count() as u64,
            301,
        );
        for window in watched.finished.process_windows(pid) {
            assert!(
                window.delay.count <= 20,
                "one life has few waits: {window:?}"
            );
        }
    }
}

/// So few ids that all of them come round again and again, for threads and processes. Only in a guest: the limit
/// is the whole machine's.
#[test]
fn few_ids() {
    const LIMIT: &str = "/proc/sys/kernel/pid_max";
    needs_tracing!();
    if !in_guest() {
        skip!("the number of ids is the whole machine's; tried in guests");
    }
    let before = fs::read_to_string(LIMIT).expect("it is there");
    fs::write(LIMIT, "1000").expect("root may");
    let check = "lives::few_ids";
    let runs = Runs::of(&["brief", "--count", "1200"]);
    for watched in &runs.watched {
        judge_by_the_dying(check, runs.timeline, watched);
    }
    let runs = Runs::of(&["forks", "--count", "1200"]);
    for watched in &runs.watched {
        judge_by_the_dying(check, runs.timeline, watched);
        let [begun, ended] = lives(watched);
        assert_eq!(begun, ended);
        exactly(
            check,
            &watched.hooks,
            "processes",
            begun.len() as u64,
            1_200,
        );
        assert_eq!(watched.finished.lost(), 0);
    }
    fs::write(LIMIT, before).expect("root may");
}

/// Children that borrow the address space of their parent and change it: no call of the parent's tells of it, and it is
/// booked once a window has passed without one.
#[test]
fn borrowed_address_space() {
    needs_tracing!();
    let workload = ["vforks", "--count", "200"];
    let watched = Watched::run_with(hooks::memory(), &workload, &[], |workload| {
        let facts = workload.work();
        thread::sleep(Duration::from_millis(1_600));
        facts
    });
    for watched in watched {
        let (before, after) = (watched.before.vm_bytes, watched.after.vm_bytes);
        let left = number(&watched.facts, "left_bytes");
        assert!(
            after - before >= left,
            "what the children have mapped is there: {} of {left}",
            after - before
        );
        let windows = watched.finished.process_windows(watched.pid);
        let sum = |field: fn(&MemorySummary) -> u64| -> u64 {
            windows.iter().map(|w| field(&w.memory)).sum()
        };
        let booked = before + sum(|m| m.reserved_bytes) - sum(|m| m.released_bytes);
        let last = windows.last().expect("there are windows");
        let standing = last
            .memory
            .standing_reserved_bytes
            .expect("a process has it");
        for (measure, ours) in [("VmSize from sums", booked), ("VmSize", standing)] {
            require(&Measure {
                check: "lives::borrowed_address_space",
                hooks: &watched.hooks,
                quantity: measure,
                judge: "/proc",
                ours: ours as f64,
                theirs: after as f64,
                error: ours.abs_diff(after) as f64,
                unit: Unit::Bytes,
                goal: 0.0,
            });
        }
    }
}
