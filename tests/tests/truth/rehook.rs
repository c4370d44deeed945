//! Hooks of each family that were taken off in a storm, and put back when it was over: what they count then.
//!
//! It takes a minute a family in a guest, so only those who ask for it get it: `cargo xtask vm --filter rehook`. On the machine itself
//! `tests/budget.rs` does it with the families that are used there.

use std::{env, time::Duration};

use slowburn::stream::{BudgetChange, MemoryStep, Record, SchedStep, Scope, Steps, Window};
use slowburn_probes::linux::RunTimes;
use slowburn_tests::{Daemon, Workload, needs_tracing, number, skip};

use crate::hooks;

/// After 10 s of quiet what was left out comes back; an emulated machine is seldom quiet.
const PATIENCE: Duration = Duration::from_mins(4);

fn is_asked_for() -> bool {
    env::var("SLOWBURN_TRUTH_FILTER").is_ok_and(|filter| filter.contains("rehook"))
}

/// A daemon that watches a storm and something that goes on steadily, and the moment at which the hooks were back.
fn storm(
    hooks: &str,
    storm: &[&str],
    steady: &Workload,
    is_off: fn(&Steps) -> bool,
) -> (Daemon, BudgetChange) {
    let mut storm = Workload::start(storm);
    let pids = [storm.pid_text(), steady.pid_text()];
    let mut daemon = Daemon::start(&[
        "--pid", &pids[0], "--pid", &pids[1], "--hooks", hooks, "--budget", "3%", "--window", "1s",
    ]);
    storm.go();
    daemon.wait_within(
        PATIENCE,
        "step down",
        |record| matches!(record, Record::Budget(change) if is_off(&change.after)),
    );
    let back = daemon.wait_within(
        PATIENCE,
        "step up",
        |record| matches!(record, Record::Budget(change) if is_off(&change.before)),
    );
    match back {
        Record::Budget(back) => (daemon, *back),
        other => unreachable!("{other:?} was matched"),
    }
}

#[test]
fn calls() {
    needs_tracing!();
    if !is_asked_for() {
        skip!("takes a minute a family; ask for it by `--filter rehook`");
    }
    let _times = RunTimes::take().expect("we are root");
    for hooks in hooks::memory() {
        let mut steady = Workload::start(&["mappings", "--rate", "100", "--seconds", "2"]);
        let pid = steady.pid();
        let load = ["mappings", "--rate", "100000", "--seconds", "4"];
        let (mut daemon, back) = storm(&hooks, &load, &steady, |steps| {
            steps.memory == MemoryStep::Off
        });
        let facts = steady.work();
        let later = |w: &Window| w.ts.0 > back.ts.0 + 5_000_000_000;
        daemon.wait_within(
            PATIENCE,
            "window",
            |record| matches!(record, Record::Window(window) if later(window)),
        );
        let finished = daemon.stop();
        let windows = finished.process_windows(pid);
        let counted: u64 = windows.iter().map(|window| window.memory.map_calls).sum();
        let one_in = windows
            .iter()
            .filter_map(|window| window.memory.sampled)
            .max();
        let made = number(&facts, "map");
        let off =
            20.0 + one_in.map_or(0.0, |one_in| 4.0 * (made as f64 * f64::from(one_in)).sqrt());
        println!("{hooks}: {counted} of {made} calls");
        assert!(
            counted.abs_diff(made) as f64 <= off,
            "{hooks}: {counted} of {made}"
        );
        let last = windows.last().expect("it is followed");
        assert_eq!(
            last.memory.standing_reserved_bytes, last.kernel.vm_bytes,
            "{hooks}"
        );
    }
}

#[test]
fn waits() {
    needs_tracing!();
    if !is_asked_for() {
        skip!("takes a minute a family; ask for it by `--filter rehook`");
    }
    let _times = RunTimes::take().expect("we are root");
    for hooks in hooks::sched() {
        let mut steady = Workload::start(&["contend", "--threads", "3", "--seconds", "600"]);
        let pid = steady.pid();
        steady.go();
        let load = ["pingpong", "--pairs", "2", "--seconds", "5"];
        let (mut daemon, back) = storm(&hooks, &load, &steady, |steps| {
            steps.sched == SchedStep::Off
        });
        let whole = |w: &Window| {
            let delay = w.delay.as_ref();
            w.ts > back.ts && delay.is_some_and(|delay| delay.unmeasured_ns.is_none())
        };
        let later = |w: &Window| w.ts.0 > back.ts.0 + 5_000_000_000 && whole(w);
        daemon.wait_within(PATIENCE, "windows with waits", |record| {
            matches!(record, Record::Window(window) if window.process.pid == pid && later(window))
        });
        let finished = daemon.stop();
        let threads = finished
            .windows()
            .filter(|w| w.process.pid == pid && w.scope == Scope::Thread);
        let (mut counted, mut kernel, mut longest) = (0, 0, 0);
        for window in threads.filter(|window| whole(window)) {
            let delay = window.delay.as_ref().expect("it was measured");
            counted += delay.count + delay.unknown_count;
            kernel += window.kernel.run_count.expect("no thread has ended");
            longest = longest.max(delay.max_ns);
        }
        println!(
            "{hooks}: {counted} waits, {kernel} by the kernel's account, the longest of {longest} ns"
        );
        assert!(counted > 100, "{hooks}: {counted}");
        assert!(
            counted.abs_diff(kernel) <= 20,
            "{hooks}: {counted} and {kernel}"
        );
        // Those from before the storm would last ten seconds and more.
        assert!(longest < 5_000_000_000, "{hooks}: {longest} ns");
    }
}
