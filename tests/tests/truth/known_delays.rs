//! Waits whose length is known beforehand: behind a real-time thread that holds the CPU for a known time.

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{Histogram, serialization::Deserializer};
use slowburn::stream::{Record, Window};
use slowburn_common::histogram::bucket;
use slowburn_tests::{delay_of, needs_tracing, skip};

use crate::{
    hooks,
    report::{Measure, Unit, require},
    watch::Watched,
};

/// Shorter than the shortest that the hog makes its victim wait, and where a bucket begins: what is a single event from
/// here on is the same as what the histogram has from here on.
const SHORTEST: u64 = 393_216;

/// How far, in buckets of the histogram, a wait of ours may be from the known one. The victim gets the CPU a
/// moment after the hog's last look at the clock.
const GOAL: f64 = 1.0;

/// At least and at most, by the hog's clock.
fn known(watched: &Watched) -> Vec<(u64, u64)> {
    let waits = watched.result("hog")["waits"].as_array().expect("a list");
    waits
        .iter()
        .map(|wait| {
            let bound = |n: usize| wait[n].as_u64().expect("a number");
            (bound(0), bound(1))
        })
        .collect()
}

/// How many buckets lie between a wait and what is known of it.
fn buckets_off(ours: u64, (least, most): (u64, u64)) -> u64 {
    let (ours, least, most) = (bucket(ours), bucket(least), bucket(most));
    (least.saturating_sub(ours)).max(ours.saturating_sub(most)) as u64
}

/// All waits of at least [`SHORTEST`] in the histograms of some windows, ascending, as the middle of their buckets.
fn from_histograms(windows: &[&Window]) -> Vec<u64> {
    let mut waits = Vec::new();
    for hdr in windows
        .iter()
        .filter_map(|window| delay_of(window).hdr.as_ref())
    {
        let bytes = BASE64_STANDARD.decode(hdr).expect("it is base64");
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .expect("it is a histogram");
        for step in histogram.iter_recorded() {
            let value = step.value_iterated_to();
            if histogram.lowest_equivalent(value) >= SHORTEST {
                let count = step.count_since_last_iteration() as usize;
                waits.extend(std::iter::repeat_n(
                    histogram.median_equivalent(value),
                    count,
                ));
            }
        }
    }
    waits.sort_unstable();
    waits
}

/// Is the kernel a real-time one? It says so in its version.
fn is_real_time() -> bool {
    let version = rustix::system::uname()
        .version()
        .to_string_lossy()
        .into_owned();
    version.contains("PREEMPT_RT")
}

#[test]
fn behind_a_real_time_thread() {
    needs_tracing!();
    assert_ne!(bucket(SHORTEST), bucket(SHORTEST - 1));
    let slow = format!("{SHORTEST}ns");
    for watched in Watched::run_each(hooks::sched(), &["hog"], &["--slow", &slow]) {
        if watched.result("hog")["realtime"] != true {
            skip!("the kernel refuses real-time priority");
        }
        let victim = watched.crew()["victim"];
        let (mut records, mut behind_the_hog) = (Vec::new(), 0);
        for line in &watched.finished.lines {
            if let Record::Delay(delay) = &line.record
                && delay.thread.tid == victim
            {
                records.push(delay.wait_ns);
                behind_the_hog += usize::from(delay.culprit.name == "hog");
            }
        }
        // Somebody else may get the CPU for a moment after the hog, and is then the culprit: on a real-time kernel mostly
        // one of its own threads.
        let one_in = if is_real_time() { 8 } else { 2 };
        assert!(
            behind_the_hog * one_in >= records.len(),
            "{behind_the_hog} of {} behind the hog",
            records.len()
        );
        let (sum_ns, off) = worst(&records, &known(&watched));
        let measure = |quantity, ours: u64, off: u64| {
            require(&Measure {
                check: "known_delays::behind_a_real_time_thread",
                hooks: &watched.hooks,
                quantity,
                judge: "the hog's clock",
                ours: ours as f64,
                theirs: sum_ns as f64,
                error: off as f64,
                unit: Unit::Buckets,
                goal: GOAL,
            });
        };
        measure("single waits", sum_ns, off);
        // The histogram has the same waits, each in the bucket it belongs to.
        records.sort_unstable();
        let histogram = from_histograms(&watched.finished.thread_windows(victim));
        assert_eq!(histogram.len(), records.len());
        let pairs = histogram.iter().zip(&records);
        let off = pairs.map(|(ours, wait)| buckets_off(*ours, (*wait, *wait)));
        let off = off.max().unwrap_or(u64::MAX);
        measure("histogram of waits", histogram.iter().sum(), off);
    }
}

/// The sum of ours, and the worst difference in buckets. Both are in the same order; of ours there may be more,
/// since the victim may have to wait behind others too.
fn worst(ours: &[u64], known: &[(u64, u64)]) -> (u64, u64) {
    let (mut sum, mut worst) = (0, 0);
    let mut rest = ours.iter();
    for (n, wait) in known.iter().enumerate() {
        let spare = rest.len().saturating_sub(known.len() - n);
        let candidates = rest.clone().take(spare + 1).enumerate();
        let best = candidates.min_by_key(|(skipped, ours)| (buckets_off(**ours, *wait), *skipped));
        let (skipped, best) = best.unwrap_or_else(|| panic!("only {} of {known:?}", ours.len()));
        worst = worst.max(buckets_off(*best, *wait));
        sum += best;
        rest.nth(skipped);
    }
    (sum, worst)
}

#[test]
fn waits_are_matched_in_order() {
    let known = [(1_000_000, 1_000_100), (5_000_000, 5_000_100)];
    assert_eq!(worst(&[1_000_050, 5_000_050], &known), (6_000_100, 0));
    assert_eq!(
        worst(&[1_000_050, 700_000, 5_000_050], &known),
        (6_000_100, 0)
    );
    assert!(worst(&[1_000_050, 3_000_000], &known).1 > 5);
}
