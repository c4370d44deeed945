//! What slowburn costs and what it leaves behind.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use slowburn::stream::{Record, TargetEventKind};
use slowburn_tests::{Daemon, Workload, needs_tracing, skip, status, within};

#[test]
fn two_thousand_threads_fit_in_40_megabytes() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "2000"]);
    let mut daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "500ms"]);
    daemon.wait_for(
        "two windows",
        |record| matches!(record, Record::Window(w) if w.threads.as_ref().is_some_and(|t| t.live == 2_001)),
    );
    let (now, peak) = (status(daemon.pid(), "VmRSS"), status(daemon.pid(), "VmHWM"));
    println!("resident: {} KiB, at most {} KiB", now >> 10, peak >> 10);
    assert!(now < 40_000_000, "{now}");
    let finished = daemon.stop();
    assert_eq!(finished.lost(), 0);
}

/// From the start of the program to the first record, with the programs loaded and the target followed.
#[test]
fn starts_within_half_a_second() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "100"]);
    let took = |_| {
        let start = Instant::now();
        let mut daemon = Daemon::spawn(&["--pid", &workload.pid_text()]);
        daemon.wait_for("start record", |record| matches!(record, Record::Start(_)));
        let took = start.elapsed();
        daemon.wait_for_process(workload.pid(), TargetEventKind::Found);
        daemon.stop();
        took
    };
    let times: Vec<Duration> = (0..3).map(took).collect();
    println!("spawn to first record: {times:?}");
    assert!(
        times
            .iter()
            .min()
            .is_some_and(|best| *best < Duration::from_millis(500)),
        "{times:?}"
    );
}

/// Nobody who does nothing is sampled: an idle service costs next to nothing.
#[test]
fn idle_service_costs_little() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads", "--count", "2000"]);
    let mut daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "1s"]);
    daemon.wait_for("window", |record| matches!(record, Record::Window(_)));
    let cpu = || {
        let text =
            std::fs::read_to_string(format!("/proc/{}/schedstat", daemon.pid())).expect("it runs");
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .expect("a number")
    };
    let (before, start) = (cpu(), Instant::now());
    // A period is what is measured here, so it has to pass.
    std::thread::sleep(Duration::from_secs(3));
    let share = (cpu() - before) as f64 / start.elapsed().as_nanos() as f64;
    println!(
        "{:.3} % of a CPU for 2,000 idle threads with windows of 1 s",
        share * 100.0
    );
    assert!(share < 0.05, "{share}");
}

/// The ids of what is loaded into the kernel. `None` if bpftool does not work.
fn loaded(kind: &str) -> Option<BTreeSet<u64>> {
    let output = Command::new("bpftool")
        .args(["--json", kind, "show"])
        .output()
        .ok()?;
    let list: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(
        list.as_array()?
            .iter()
            .filter_map(|entry| entry["id"].as_u64())
            .collect(),
    )
}

fn loaded_now() -> Option<BTreeSet<(&'static str, u64)>> {
    let of = |kind: &'static str| Some(loaded(kind)?.into_iter().map(move |id| (kind, id)));
    Some(of("prog")?.chain(of("map")?).chain(of("link")?).collect())
}

fn nothing_is_left(end: impl FnOnce(Daemon)) {
    let Some(before) = loaded_now() else {
        skip!("bpftool is not there or does not work")
    };
    let workload = Workload::start(&["idle-threads"]);
    let daemon = Daemon::start(&["--pid", &workload.pid_text()]);
    let during = loaded_now().expect("it worked before");
    let ours: BTreeSet<_> = during.difference(&before).copied().collect();
    assert!(
        ours.iter().any(|(kind, _)| *kind == "prog"),
        "it has loaded programs: {ours:?}"
    );
    assert!(
        ours.iter().any(|(kind, _)| *kind == "map"),
        "and tables: {ours:?}"
    );
    end(daemon);
    let start = Instant::now();
    within(Duration::from_secs(2), "the kernel has freed all", || {
        let left = loaded_now().expect("it worked before");
        ours.is_disjoint(&left).then_some(())
    });
    println!(
        "{} programs, tables and links gone within {:?}",
        ours.len(),
        start.elapsed()
    );
}

#[test]
fn killed_it_leaves_nothing_behind() {
    needs_tracing!();
    nothing_is_left(Daemon::kill);
}

#[test]
fn stopped_it_leaves_nothing_behind() {
    needs_tracing!();
    nothing_is_left(|daemon| drop(daemon.stop()));
}
