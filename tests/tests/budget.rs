//! Storms that cost more to watch than slowburn may use: what it leaves out then, and what it says when it is back.

use std::{
    env, fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use slowburn::stream::{
    BudgetChange, BudgetReason, Line, MemoryStep, Record, SchedStep, Scope, Window,
};
use slowburn_probes::linux::RunTimes;
use slowburn_tests::{Daemon, Finished, Workload, needs_tracing, number, tasks};

/// By when the daemon must have settled.
const SETTLED: Duration = Duration::from_secs(10);

/// For how long it is watched then, with at least two windows: at a budget of 0.2 % that is 24 ms.
const WATCHED: Duration = Duration::from_secs(12);

/// It may take back what it has left out after 10 s of quiet; on a busy machine there may be none for a while.
const QUIET: Duration = Duration::from_mins(2);

/// Has the kernel time all programs, for one test at a time: a storm is no company for another. Until it is dropped, or this
/// program ends.
struct Timed {
    #[expect(dead_code, reason = "held")]
    times: RunTimes,
    #[expect(dead_code, reason = "held")]
    alone: MutexGuard<'static, ()>,
}

impl Timed {
    fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        Self {
            alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
            times: RunTimes::take().expect("we are root"),
        }
    }
}

/// Starts slowburn, with the hooks that `SLOWBURN_TEST_HOOKS` asks for: those that are not used here can be tried, too.
#[track_caller]
fn watch(args: &[&str]) -> Daemon {
    let hooks = env::var("SLOWBURN_TEST_HOOKS");
    let asked = hooks.iter().flat_map(|hooks| ["--hooks", hooks.as_str()]);
    Daemon::start(&args.iter().copied().chain(asked).collect::<Vec<_>>())
}

/// CPU time of a daemon and of its programs, by the kernel's own accounts of both.
fn used_ns(daemon: u32) -> u64 {
    let threads = tasks(daemon).into_iter().filter_map(|tid| {
        let text = fs::read_to_string(format!("/proc/{daemon}/task/{tid}/schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    let descriptors = fs::read_dir(format!("/proc/{daemon}/fdinfo")).expect("it runs");
    let programs = descriptors.filter_map(|entry| {
        let info = fs::read_to_string(entry.ok()?.path()).ok()?;
        let time = info
            .lines()
            .find_map(|line| line.strip_prefix("run_time_ns:"))?;
        time.trim().parse::<u64>().ok()
    });
    threads.sum::<u64>() + programs.sum::<u64>()
}

fn changes(lines: &[Line]) -> Vec<&BudgetChange> {
    let changes = lines.iter().filter_map(|line| match &line.record {
        Record::Budget(change) => Some(&**change),
        _ => None,
    });
    changes.collect()
}

/// Each begins where the one before has ended.
#[track_caller]
fn every_step_is_told(finished: &Finished) {
    let changes = changes(&finished.lines);
    for pair in changes.windows(2) {
        assert_eq!(pair[0].after, pair[1].before, "{pair:?}");
    }
    let last = changes.last().expect("there was a storm").after;
    let own = finished.windows().filter_map(|window| window.own).last();
    let own = own.expect("windows of processes have it");
    assert_eq!((own.memory, own.sched), (last.memory, last.sched));
}

fn of_process(record: &Record, pid: u32) -> Option<&Window> {
    match record {
        Record::Window(window) if window.process.pid == pid => Some(window),
        _ => None,
    }
}

#[test]
fn a_storm_is_survived_within_the_budget() {
    const SHARE: f64 = 0.002;
    needs_tracing!();
    let _timed = Timed::start();
    let mut switching = Workload::start(&["pingpong", "--pairs", "2", "--seconds", "30"]);
    let mut mapping = Workload::start(&["mappings", "--rate", "100000", "--seconds", "30"]);
    let pids = [switching.pid(), mapping.pid()];
    let mut daemon = watch(&[
        "--pid",
        &pids[0].to_string(),
        "--pid",
        &pids[1].to_string(),
        "--budget",
        "0.2%",
        "--window",
        "5s",
    ]);
    let start = Instant::now();
    switching.go();
    mapping.go();
    daemon.wait_for("step", |record| matches!(record, Record::Budget(_)));
    thread::sleep(SETTLED.saturating_sub(start.elapsed()));
    let before = (used_ns(daemon.pid()), Instant::now(), daemon.lines().len());
    thread::sleep(WATCHED);
    let used = (used_ns(daemon.pid()) - before.0) as f64 / before.1.elapsed().as_nanos() as f64;
    println!("{:.3} % of a CPU used", used * 100.0);
    assert!(start.elapsed() < Duration::from_secs(29), "still a storm");
    let lines = &daemon.lines()[before.2..];
    for pid in pids {
        let windows: Vec<_> = lines
            .iter()
            .filter_map(|line| of_process(&line.record, pid))
            .collect();
        let processes = windows.iter().filter(|w| w.scope == Scope::Process).count();
        assert!(processes >= 2, "{pid}: {windows:?}");
        for window in windows {
            assert!(window.delay.is_none(), "waits are not measured: {window:?}");
            assert_eq!(window.memory.unmeasured_ns, Some(window.period_ns));
            assert!(window.kernel.run_count.is_some(), "{window:?}");
        }
    }
    assert!(used <= 1.2 * SHARE, "{used} of a CPU");
    let finished = daemon.stop();
    every_step_is_told(&finished);
    let first = changes(&finished.lines)[0];
    assert_eq!(first.reason, BudgetReason::Above);
    assert!(first.used_share > SHARE && (first.budget_share - SHARE).abs() < 1e-9);
    let stop = finished.stop_record();
    let told = changes(&finished.lines).len() as u64;
    assert_eq!(stop.records.get("budget"), Some(&told));
}

/// Threads that compete for a CPU all the while: what the records said of them when the hooks were taken off (waiting, since
/// when, or running) must not come true when they are back.
#[test]
fn waits_are_back_when_it_is_quiet_and_none_is_false() {
    needs_tracing!();
    let _timed = Timed::start();
    let mut switching = Workload::start(&["pingpong", "--pairs", "2", "--seconds", "5"]);
    let mut waiting = Workload::start(&["contend", "--threads", "4", "--seconds", "60"]);
    let pid = waiting.pid();
    let mut daemon = watch(&[
        "--pid",
        &switching.pid_text(),
        "--pid",
        &waiting.pid_text(),
        "--budget",
        "2%",
        "--window",
        "1s",
    ]);
    waiting.go();
    switching.go();
    daemon.wait_for(
        "step",
        |record| matches!(record, Record::Budget(change) if change.after.sched == SchedStep::Off),
    );
    let back = daemon.wait_within(
        QUIET,
        "step up",
        |record| matches!(record, Record::Budget(change) if change.before.sched == SchedStep::Off),
    );
    let Record::Budget(back) = back else {
        unreachable!("it was matched")
    };
    assert_eq!(back.reason, BudgetReason::Room, "{}", daemon.stderr());
    let measured = |window: &Window| {
        window.ts > back.ts
            && window
                .delay
                .as_ref()
                .is_some_and(|delay| delay.unmeasured_ns.is_none())
    };
    daemon.wait_for("windows with waits", |record| {
        let later = |w: &Window| w.ts.0 > back.ts.0 + 5_000_000_000 && measured(w);
        of_process(record, pid).is_some_and(later)
    });
    let finished = daemon.stop();
    every_step_is_told(&finished);
    let windows = finished.windows().filter(|w| w.process.pid == pid);
    let (mut longest, mut counted, mut kernel) = (0, 0, 0);
    for window in windows.filter(|w| w.ts >= back.ts) {
        let Some(delay) = &window.delay else { continue };
        longest = longest.max(delay.max_ns);
        if window.scope == Scope::Thread && measured(window) {
            counted += delay.count + delay.unknown_count;
            kernel += window.kernel.run_count.expect("no thread has ended");
        }
    }
    println!("{counted} waits, {kernel} by the kernel's account, the longest {longest} ns");
    // Those from before the storm would last ten seconds and more.
    assert!(longest < 5_000_000_000, "{longest} ns");
    assert!(counted > 1_000, "{counted}");
    assert!(counted.abs_diff(kernel) <= 20, "{counted} and {kernel}");
}

/// How often the machine may be so busy that the hooks are off again before the calls are made.
const ATTEMPTS: usize = 3;

#[test]
fn calls_are_counted_again_when_it_is_paid() {
    needs_tracing!();
    let _timed = Timed::start();
    for _ in 0..ATTEMPTS {
        match calls_after_a_storm() {
            Ok(()) => return,
            Err(why) => println!("{why}"),
        }
    }
    panic!("the hooks were off again {ATTEMPTS} times");
}

/// An error if the hooks were off again while the calls were made.
fn calls_after_a_storm() -> Result<(), String> {
    let mut storm = Workload::start(&["mappings", "--rate", "100000", "--seconds", "4"]);
    let mut steady = Workload::start(&["mappings", "--rate", "500", "--seconds", "2"]);
    let pid = steady.pid();
    let mut daemon = watch(&[
        "--pid",
        &storm.pid_text(),
        "--pid",
        &steady.pid_text(),
        "--budget",
        "1%",
        "--window",
        "1s",
    ]);
    storm.go();
    daemon.wait_for(
        "step",
        |record| matches!(record, Record::Budget(change) if change.after.memory == MemoryStep::Off),
    );
    let back = daemon.wait_within(QUIET, "step up", |record| {
        matches!(record, Record::Budget(change) if change.before.memory == MemoryStep::Off)
    });
    let Record::Budget(back) = back else {
        unreachable!("it was matched")
    };
    assert_eq!(back.reason, BudgetReason::Room, "{}", daemon.stderr());
    let facts = steady.work();
    daemon.wait_for(
        "window",
        |record| matches!(record, Record::Window(window) if window.ts.0 > back.ts.0 + 4_000_000_000),
    );
    let finished = daemon.stop();
    every_step_is_told(&finished);
    let again = changes(&finished.lines)
        .into_iter()
        .find(|change| change.ts.0 > back.ts.0 && change.after.memory == MemoryStep::Off);
    if let Some(change) = again {
        return Err(format!("off again: {change:?}"));
    }
    let windows = finished.process_windows(pid);
    let calls: u64 = windows.iter().map(|window| window.memory.map_calls).sum();
    let made = number(&facts, "map");
    // One step up from nothing, one call in some is looked at and counts for all: so far off it is by chance, at most.
    let sampled = windows.iter().filter_map(|window| window.memory.sampled);
    let off = match sampled.max() {
        Some(one_in) => 4.0 * (made as f64 * f64::from(one_in)).sqrt(),
        None => 0.0,
    };
    // The allocator of the workload may add some.
    let most = 20.0 + off;
    assert!(
        calls.abs_diff(made) as f64 <= most,
        "{calls} of {made}, which may be off by {most}"
    );
    let last = windows.last().expect("it is followed");
    let standing = last.memory.standing_reserved_bytes;
    assert_eq!(
        standing, last.kernel.vm_bytes,
        "nothing is missing of the size"
    );
    Ok(())
}
