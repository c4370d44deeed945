//! What the records of waits say beside their number and sum, which the truth suite judges.

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{Histogram, serialization::Deserializer};
use slowburn::stream::{DelaySummary, Record};
use slowburn_tests::{Daemon, Finished, Workload, delay_of, needs_tracing};

/// A workload's pid, and the stream about it.
fn watch(workload: &[&str], options: &[&str]) -> (u32, Finished) {
    let mut workload = Workload::start(workload);
    let pid = workload.pid_text();
    let daemon = Daemon::start(&[&["--pid", &pid, "--window", "500ms"], options].concat());
    workload.work();
    (workload.pid(), daemon.stop())
}

#[test]
fn hooks_asked_for_are_used() {
    needs_tracing!();
    for family in ["tp_btf", "raw", "classic"] {
        let (_, finished) = watch(
            &["contend", "--threads", "4", "--seconds", "0.3"],
            &["--hooks", &format!("sched={family}")],
        );
        let Some(Record::Start(start)) = finished.lines.first().map(|line| &line.record) else {
            panic!("no start")
        };
        assert_eq!(start.hooks.sched, family);
        let named = |w: &&slowburn::stream::Window| {
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
    // Those in the histograms of at least that length, to the histogram's precision.
    let slower = |limit: u64| -> u64 {
        let windows = finished.process_windows(pid).into_iter();
        let histograms = windows.filter_map(|w| delay_of(w).hdr.as_ref()).map(|hdr| {
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
