//! Side by side in one run: the classic run-queue script with three probes, the kernel's own count, and ours.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slowburn_tests::{needs_tracing, skip};

use crate::{
    hooks,
    report::{Measure, Unit, note},
    watch::{Watched, total},
};

const PROGRAM: &str = "/usr/bin/bpftrace";

/// From a wake-up, or from a switch out of a task that could go on, to the switch in.
const SCRIPT: &str = "
    tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @since[args->pid] = nsecs; }
    tracepoint:sched:sched_switch {
        if (args->prev_state == 0) { @since[args->prev_pid] = nsecs; }
        $since = @since[args->next_pid];
        if ($since) { @waits[args->next_pid] = count(); }
        delete(@since[args->next_pid]);
    }
    END { clear(@since); }";

struct Bpftrace {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Bpftrace {
    /// Starts it, and waits until it has attached.
    fn start() -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["-f", "json", "-e", SCRIPT])
            .env("BPFTRACE_MAP_KEYS_MAX", "100000")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bpftrace can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let attached = lines.by_ref().map_while(Result::ok);
        assert!(
            attached
                .into_iter()
                .any(|line| line.contains("attached_probes")),
            "bpftrace has not attached"
        );
        Self { child, lines }
    }

    /// Waits by thread.
    fn finish(mut self) -> BTreeMap<u32, u64> {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid is not 0");
        kill_process(pid, Signal::INT).expect("it is a child");
        let mut waits = BTreeMap::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            for (tid, count) in value["data"]["@waits"].as_object().into_iter().flatten() {
                waits.insert(
                    tid.parse().expect("an id"),
                    count.as_u64().expect("a count"),
                );
            }
        }
        assert!(self.child.wait().expect("it is a child").success());
        waits
    }
}

fn side_by_side(check: &str, workload: &[&str]) {
    let mut best = hooks::sched();
    best.truncate(1);
    let mut theirs = BTreeMap::new();
    let watched = Watched::run_with(best, workload, &[], |workload| {
        let bpftrace = Bpftrace::start();
        let facts = workload.work();
        theirs = bpftrace.finish();
        facts
    })
    .remove(0);
    let kernel = watched.kernel_waits();
    let count: u64 = kernel.values().map(|kernel| kernel.run_count).sum();
    let ours = total(
        kernel
            .keys()
            .flat_map(|tid| watched.finished.thread_windows(*tid)),
    );
    let theirs: u64 = kernel.keys().filter_map(|tid| theirs.get(tid)).sum();
    let report = |measure, waits: u64| {
        note(&Measure {
            check,
            hooks: &watched.hooks,
            quantity: measure,
            judge: "schedstat",
            ours: waits as f64,
            theirs: count as f64,
            error: waits.abs_diff(count) as f64 / count as f64,
            unit: Unit::Ratio,
            goal: 0.01,
        });
    };
    report("count of waits, ours", ours.with_unknown);
    report("count of waits, ours of known length", ours.count);
    report("count of waits, bpftrace", theirs);
    let off = |waits: u64| waits.abs_diff(count);
    assert!(off(ours.with_unknown) <= 2 * kernel.len() as u64);
    assert!(theirs > 0, "bpftrace has seen something");
}

#[test]
fn contention() {
    needs_tracing!();
    if !Path::new(PROGRAM).is_file() {
        skip!("bpftrace is not installed");
    }
    side_by_side(
        "bpftrace::contention",
        &["contend", "--threads", "6", "--seconds", "2"],
    );
}

#[test]
fn wake_ups_to_and_fro() {
    needs_tracing!();
    if !Path::new(PROGRAM).is_file() {
        skip!("bpftrace is not installed");
    }
    side_by_side(
        "bpftrace::wake_ups_to_and_fro",
        &["pingpong", "--pairs", "2", "--seconds", "2"],
    );
}

#[test]
fn wake_ups_of_what_runs() {
    needs_tracing!();
    if !Path::new(PROGRAM).is_file() {
        skip!("bpftrace is not installed");
    }
    side_by_side(
        "bpftrace::wake_ups_of_what_runs",
        &["wakes", "--seconds", "2"],
    );
}

#[test]
fn signals() {
    needs_tracing!();
    if !Path::new(PROGRAM).is_file() {
        skip!("bpftrace is not installed");
    }
    side_by_side("bpftrace::signals", &["signals", "--seconds", "2"]);
}
