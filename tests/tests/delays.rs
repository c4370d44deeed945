//! What the records of waits say beside their number and sum, which the truth suite judges.

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{Histogram, serialization::Deserializer};
use serde_json::Value;
use slowburn::stream::{Behind, DelaySummary, LongWaits, Record, Window};
use slowburn_tests::{Daemon, Finished, Workload, delay_of, needs_tracing, number};

const FAMILIES: [&str; 3] = ["tp_btf", "raw", "classic"];

/// A workload's pid, and the stream about it.
fn watch(workload: &[&str], options: &[&str]) -> (u32, Finished) {
    let (pid, _, finished) = watch_facts(workload, options);
    (pid, finished)
}

/// The same with what the workload says about itself.
fn watch_facts(workload: &[&str], options: &[&str]) -> (u32, Value, Finished) {
    let mut workload = Workload::start(workload);
    let pid = workload.pid_text();
    let daemon = Daemon::start(&[&["--pid", &pid, "--window", "500ms"], options].concat());
    let facts = workload.work();
    (workload.pid(), facts, daemon.stop())
}

#[test]
fn hooks_asked_for_are_used() {
    needs_tracing!();
    for family in FAMILIES {
        let (_, finished) = watch(
            &["contend", "--threads", "4", "--seconds", "0.3"],
            &["--hooks", &format!("sched={family}")],
        );
        let Some(Record::Start(start)) = finished.lines.first().map(|line| &line.record) else {
            panic!("no start")
        };
        assert_eq!(start.hooks.sched, family);
        let named = |w: &&Window| {
            w.thread
                .as_ref()
                .is_some_and(|t| t.name.starts_with("contend-"))
        };
        assert!(finished.windows().filter(named).count() >= 4);
    }
}

#[test]
fn histograms_say_the_same_as_the_numbers() {
    needs_tracing!();
    let (_, finished) = watch(&["contend", "--threads", "4", "--seconds", "1"], &[]);
    let mut seen = 0;
    for window in finished.windows() {
        let DelaySummary {
            count, max_ns, hdr, ..
        } = delay_of(window);
        assert_eq!(hdr.is_some(), *count > 0, "{window:?}");
        let Some(hdr) = hdr else { continue };
        let bytes = BASE64_STANDARD.decode(hdr).expect("it is base64");
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .expect("it is a histogram");
        assert_eq!(histogram.len(), *count);
        let quantiles = [
            (0.5, delay_of(window).p50_ns),
            (0.9, delay_of(window).p90_ns),
            (0.99, delay_of(window).p99_ns),
            (0.999, delay_of(window).p999_ns),
        ];
        for (quantile, value) in quantiles {
            let read = histogram.value_at_quantile(quantile).min(*max_ns);
            assert_eq!(
                value,
                Some(read),
                "quantile {quantile} of {:?}",
                delay_of(window)
            );
        }
        let precision = histogram.max().abs_diff(*max_ns) as f64 / (*max_ns).max(1) as f64;
        assert!(precision <= 1.0 / 16.0, "{} and {max_ns}", histogram.max());
        let mean = delay_of(window).sum_ns as f64 / *count as f64;
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
    let (pid, finished) = watch(
        &["contend", "--threads", "6", "--seconds", "1"],
        &["--slow", "1ms"],
    );
    let delays: Vec<_> = finished
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
                delay.culprit.watched && delay.culprit.pid == pid,
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
    let windows = finished.process_windows(pid);
    let slower = |limit| longer(&windows, limit);
    // To the histogram's precision.
    let (most, least) = (slower(1_000_000), slower(1_070_000));
    let count = delays.len() as u64;
    println!("{count} slow waits, between {least} and {most} by the histograms");
    assert!(
        (least..=most).contains(&count),
        "{count} slow waits, between {least} and {most} by the histograms"
    );
}

/// How many waits in the histograms of these windows are at least that long.
fn longer(windows: &[&Window], limit_ns: u64) -> u64 {
    let histograms = windows.iter().filter_map(|w| delay_of(w).hdr.as_ref());
    let counts = histograms.map(|hdr| {
        let bytes = BASE64_STANDARD.decode(hdr).expect("it is base64");
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .expect("it is a histogram");
        histogram.count_between(limit_ns, u64::MAX)
    });
    counts.sum()
}

/// Whose CPU was waited for in these windows, all of them together. Fails if any says more than its own waits allow.
fn behind(windows: &[&Window]) -> Behind {
    let mut all = Behind::default();
    for window in windows {
        let delay = delay_of(window);
        let behind = delay.behind.unwrap_or_default();
        let parts = [behind.own, behind.idle, behind.others];
        let count: u64 = parts.iter().map(|part| part.count).sum();
        let sum_ns: u64 = parts.iter().map(|part| part.sum_ns).sum();
        assert!(count <= delay.count && sum_ns <= delay.sum_ns, "{delay:?}");
        assert!(sum_ns >= count * 100_000, "none is shorter: {delay:?}");
        assert!(delay.moved.unwrap_or(0) <= delay.count, "{delay:?}");
        for (sum, part) in [&mut all.own, &mut all.idle, &mut all.others]
            .into_iter()
            .zip(parts)
        {
            sum.count += part.count;
            sum.sum_ns += part.sum_ns;
        }
    }
    all
}

#[test]
fn threads_that_share_a_cpu_wait_behind_their_own_process() {
    needs_tracing!();
    for family in FAMILIES {
        let (pid, finished) = watch(
            &["contend", "--threads", "6", "--seconds", "1"],
            &["--hooks", &format!("sched={family}")],
        );
        let windows = finished.process_windows(pid);
        let found = behind(&windows);
        println!("{family}: {found:?}");
        let count = found.own.count + found.idle.count + found.others.count;
        assert!(found.own.count * 2 > count, "{family}: {found:?}");
        // Those that no hook told the end of are in the histogram alone, and it has a precision.
        let (most, least) = (longer(&windows, 94_000), longer(&windows, 107_000));
        assert!(
            (least - least / 20..=most).contains(&count),
            "{family}: {count} long waits, between {least} and {most} by the histograms"
        );
        let threads: Vec<_> = finished.windows().filter(|w| w.thread.is_some()).collect();
        let own = behind(&threads).own;
        assert!(
            own.count <= found.own.count && own.count * 20 > found.own.count * 19,
            "{family}: the threads' windows have {own:?} of {:?}",
            found.own
        );
    }
}

#[test]
fn a_process_that_hogs_the_cpu_is_named() {
    needs_tracing!();
    for family in FAMILIES {
        // Four busy threads on the CPU that the one which is watched is on, too.
        let mut hog = Workload::start(&["preempted", "--seconds", "30"]);
        hog.go();
        let (pid, finished) = watch(
            &["contend", "--threads", "1", "--seconds", "2"],
            &["--hooks", &format!("sched={family}")],
        );
        let windows = finished.process_windows(pid);
        let found = behind(&windows);
        assert!(found.others.count > 10, "{family}: {found:?}");
        assert_eq!(
            found.own,
            LongWaits::default(),
            "{family}: it has but one thread"
        );
        let mut hogs = LongWaits::default();
        for delay in windows.iter().map(|w| delay_of(w)) {
            assert!(
                delay
                    .rivals
                    .is_sorted_by(|a, b| a.waits.sum_ns >= b.waits.sum_ns),
                "{delay:?}"
            );
            for rival in delay.rivals.iter().filter(|rival| rival.pid == hog.pid()) {
                assert!(
                    rival.name.starts_with("nice-") || rival.name == "sleeper",
                    "{rival:?}"
                );
                hogs.count += rival.waits.count;
                hogs.sum_ns += rival.waits.sum_ns;
            }
        }
        println!("{family}: {hogs:?} of {found:?}");
        // Others of this machine may have been on that CPU, but not as much.
        assert!(
            hogs.sum_ns * 2 > found.others.sum_ns && hogs.sum_ns <= found.others.sum_ns,
            "{family}: {hogs:?} of {found:?}"
        );
        hog.kill();
    }
}

#[test]
fn waits_that_end_on_another_cpu_are_counted() {
    needs_tracing!();
    for family in FAMILIES {
        let (pid, facts, finished) = watch_facts(
            &["migrate", "--seconds", "1"],
            &["--hooks", &format!("sched={family}")],
        );
        behind(&finished.process_windows(pid));
        let mut all = 0;
        for thread in facts["threads"].as_array().expect("it has threads") {
            let windows = finished.thread_windows(number(thread, "tid") as u32);
            let found: u64 = windows.iter().filter_map(|w| delay_of(w).moved).sum();
            let moves = number(&thread["result"], "moves");
            println!("{family}: {found} of {moves}");
            // It may begin where it sends itself first, and be put anywhere by the kernel before that and afterwards.
            assert!(
                (moves - 1 - moves / 20..=moves + 3).contains(&found),
                "{family}: {found} of {moves} moves"
            );
            all += found;
        }
        let process: u64 = finished
            .process_windows(pid)
            .iter()
            .filter_map(|w| delay_of(w).moved)
            .sum();
        assert!(process >= all, "{family}: {process} and {all}");
    }
}
