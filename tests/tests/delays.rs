//! Waits for a CPU, compared with the kernel's own account of them.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{Histogram, serialization::Deserializer};
use serde_json::Value;
use slowburn::stream::{DelaySummary, Record, Window};
use slowburn_tests::{
    Daemon, Finished, Schedstat, Workload, needs_tracing, number, schedstat, settle, tasks,
};

/// Waits that two readings may differ by, at the edges: the kernel stamps a wait before we do.
const EDGE: u64 = 2;

/// Mean wait from which the kernel's sum can be trusted to 1 %.
const JUDGE_NS: u64 = 50_000;

struct Compared {
    pid: u32,
    /// By thread: what the kernel counted while slowburn looked.
    kernel: BTreeMap<u32, Schedstat>,
    finished: Finished,
    facts: Value,
}

fn schedstats(pid: u32) -> BTreeMap<u32, Schedstat> {
    tasks(pid)
        .into_iter()
        .filter_map(|tid| Some((tid, schedstat(pid, tid)?)))
        .collect()
}

/// Runs a workload that sleeps before and afterwards, so that both sides have counted the same waits.
fn compare(workload: &[&str], options: &[&str]) -> Compared {
    let mut workload = Workload::start(workload);
    let pid = workload.pid();
    settle(pid);
    let daemon = Daemon::start(
        &[
            &["--pid", &workload.pid_text(), "--window", "500ms"],
            options,
        ]
        .concat(),
    );
    let before = schedstats(pid);
    let facts = workload.work();
    let after = schedstats(pid);
    let finished = daemon.stop();
    let kernel = after.into_iter().map(|(tid, now)| {
        let then = before[&tid];
        let change = Schedstat {
            run_delay_ns: now.run_delay_ns - then.run_delay_ns,
            run_count: now.run_count - then.run_count,
        };
        (tid, change)
    });
    Compared {
        pid,
        kernel: kernel.collect(),
        finished,
        facts,
    }
}

fn total(windows: &[&Window]) -> (u64, u64) {
    (
        windows
            .iter()
            .map(|w| w.delay.count + w.delay.unknown_count)
            .sum(),
        windows.iter().map(|w| w.delay.sum_ns).sum(),
    )
}

/// Per thread and for the process, over the whole run and within each window.
fn agrees_with_schedstat(compared: &Compared) {
    let Compared {
        pid,
        kernel,
        finished,
        ..
    } = compared;
    let mut worst_count = 0;
    let mut worst_sum = 0.0_f64;
    for (tid, kernel) in kernel {
        let (count, sum_ns) = total(&finished.thread_windows(*tid));
        let off = count.abs_diff(kernel.run_count);
        assert!(
            off <= EDGE,
            "thread {tid}: {count} waits, the kernel counted {}",
            kernel.run_count
        );
        worst_count = worst_count.max(off);
        if kernel.run_count > 50 && kernel.run_delay_ns / kernel.run_count > JUDGE_NS {
            let off = sum_ns.abs_diff(kernel.run_delay_ns) as f64 / kernel.run_delay_ns as f64;
            assert!(
                off < 0.01,
                "thread {tid}: waited {sum_ns} ns, {} ns by the kernel's account",
                kernel.run_delay_ns
            );
            worst_sum = worst_sum.max(off);
        }
    }
    let (process_count, process_sum) = total(&finished.process_windows(*pid));
    let threads: Vec<_> = kernel
        .keys()
        .flat_map(|tid| finished.thread_windows(*tid))
        .collect();
    assert_eq!(
        (process_count, process_sum),
        total(&threads),
        "the process is the sum of its threads"
    );
    // The kernel's numbers are in the stream as well.
    for (tid, kernel) in kernel {
        let shown: u64 = finished
            .thread_windows(*tid)
            .iter()
            .filter_map(|w| w.kernel.run_count)
            .sum();
        assert!(
            shown.abs_diff(kernel.run_count) <= EDGE,
            "thread {tid}: {shown} shown of {}",
            kernel.run_count
        );
    }
    for window in finished.windows() {
        // Both are read while the threads run on, one shortly after the other: with short waits, there are
        // hundreds of them in between.
        let judged = window.delay.sum_ns / window.delay.count.max(1) > JUDGE_NS;
        if let Some(run_count) = window.kernel.run_count.filter(|_| judged) {
            let bound =
                (2 * EDGE * window.threads.map_or(1, |t| t.live)).max(window.delay.count / 100);
            assert!(
                window.delay.count.abs_diff(run_count) <= bound,
                "in one window: {window:?}"
            );
        }
    }
    assert_eq!(finished.lost(), 0);
    let counted: u64 = kernel.values().map(|k| k.run_count).sum();
    println!(
        "{process_count} waits, {counted} by the kernel's account (largest difference of a thread {worst_count}), mean {} us; \
         largest difference of a sum {:.4} %",
        process_sum / process_count.max(1) / 1_000,
        worst_sum * 100.0
    );
}

fn contention(hooks: &str) {
    let compared = compare(
        &["contend", "--threads", "6", "--seconds", "2"],
        &["--hooks", hooks],
    );
    let threads = compared.facts["threads"].as_array().expect("a list");
    assert_eq!(threads.len(), 6);
    for thread in threads {
        assert_eq!(thread["pinned"], true);
        let kernel = compared.kernel[&(number(thread, "tid") as u32)];
        assert!(kernel.run_count > 50, "{thread}: {kernel:?}");
        assert!(
            kernel.run_delay_ns / kernel.run_count > JUDGE_NS,
            "they do compete: {kernel:?}"
        );
        let name = thread["name"].as_str().expect("text");
        let windows = compared
            .finished
            .thread_windows(number(thread, "tid") as u32);
        assert!(
            windows
                .iter()
                .all(|w| w.thread.as_ref().is_some_and(|t| t.name == name)),
            "windows say {name}"
        );
    }
    agrees_with_schedstat(&compared);
    let Some(Record::Start(start)) = compared.finished.lines.first().map(|line| &line.record)
    else {
        panic!("no start")
    };
    assert_eq!(
        format!("sched={}", start.hooks.sched),
        hooks,
        "the hook asked for is the one used"
    );
}

#[test]
fn contention_with_typed_tracepoints() {
    needs_tracing!();
    contention("sched=tp_btf");
}

#[test]
fn contention_with_raw_tracepoints() {
    needs_tracing!();
    contention("sched=raw");
}

#[test]
fn contention_with_classic_tracepoints() {
    needs_tracing!();
    contention("sched=classic");
}

#[test]
fn short_waits_are_counted_one_by_one() {
    needs_tracing!();
    for hooks in ["sched=tp_btf", "sched=raw", "sched=classic"] {
        let compared = compare(
            &["pingpong", "--pairs", "2", "--seconds", "1"],
            &["--hooks", hooks],
        );
        let rounds: u64 = compared.facts["threads"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|t| number(t, "rounds"))
            .sum();
        let waits: u64 = compared.kernel.values().map(|k| k.run_count).sum();
        assert!(waits > 1_000, "{waits} waits in {rounds} rounds");
        print!("{hooks}: ");
        agrees_with_schedstat(&compared);
    }
}

#[test]
fn histograms_say_the_same_as_the_numbers() {
    needs_tracing!();
    let compared = compare(&["contend", "--threads", "4", "--seconds", "1"], &[]);
    let mut seen = 0;
    for window in compared.finished.windows() {
        let DelaySummary {
            count, max_ns, hdr, ..
        } = &window.delay;
        assert_eq!(hdr.is_some(), *count > 0, "{window:?}");
        let Some(hdr) = hdr else { continue };
        let bytes = BASE64_STANDARD.decode(hdr).expect("it is base64");
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .expect("it is a histogram");
        assert_eq!(histogram.len(), *count);
        let quantiles = [
            (0.5, window.delay.p50_ns),
            (0.9, window.delay.p90_ns),
            (0.99, window.delay.p99_ns),
            (0.999, window.delay.p999_ns),
        ];
        for (quantile, value) in quantiles {
            let read = histogram.value_at_quantile(quantile).min(*max_ns);
            assert_eq!(
                value,
                Some(read),
                "quantile {quantile} of {:?}",
                window.delay
            );
        }
        let precision = histogram.max().abs_diff(*max_ns) as f64 / (*max_ns).max(1) as f64;
        assert!(precision <= 1.0 / 16.0, "{} and {max_ns}", histogram.max());
        let mean = window.delay.sum_ns as f64 / *count as f64;
        assert!(
            (histogram.mean() - mean).abs() <= mean / 16.0 + 1.0,
            "mean {} and {mean}",
            histogram.mean()
        );
        seen += 1;
    }
    assert!(seen > 4, "{seen} windows with waits");
}

#[test]
fn slow_waits_have_a_culprit() {
    needs_tracing!();
    let compared = compare(
        &["contend", "--threads", "6", "--seconds", "1"],
        &["--slow", "1ms"],
    );
    let delays: Vec<_> = compared
        .finished
        .lines
        .iter()
        .filter_map(|line| match &line.record {
            Record::Delay(delay) => Some(delay),
            _ => None,
        })
        .collect();
    assert!(
        !delays.is_empty(),
        "six threads on one CPU wait for more than a millisecond at times"
    );
    let mut ours = 0;
    for delay in &delays {
        assert!(delay.wait_ns >= 1_000_000, "{delay:?}");
        if delay.culprit.name.starts_with("contend-") {
            assert!(
                delay.culprit.watched && delay.culprit.pid == compared.pid,
                "{delay:?}"
            );
            assert_ne!(delay.culprit.tid, delay.thread.tid, "{delay:?}");
            ours += 1;
        }
    }
    assert!(
        ours * 2 > delays.len(),
        "{ours} of {} because of the others",
        delays.len()
    );
    // Those in the histograms of at least that length, to the histogram's precision.
    let slower = |limit: u64| -> u64 {
        let windows = compared.finished.process_windows(compared.pid).into_iter();
        let histograms = windows.filter_map(|w| w.delay.hdr.as_ref()).map(|hdr| {
            let bytes = BASE64_STANDARD.decode(hdr).expect("it is base64");
            let histogram: Histogram<u64> = Deserializer::new()
                .deserialize(&mut bytes.as_slice())
                .expect("it is a histogram");
            histogram.count_between(limit, u64::MAX)
        });
        histograms.sum()
    };
    let (most, least) = (slower(1_000_000), slower(1_070_000));
    let count = delays.len() as u64;
    println!("{count} slow waits, between {least} and {most} by the histograms");
    assert!(
        (least..=most).contains(&count),
        "{count} slow waits, between {least} and {most} by the histograms"
    );
}
