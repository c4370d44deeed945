//! What waits take on their way into a window, with our buckets and with `hdrhistogram` alone: `cargo xtask bench histogram`
//! runs it in turn. Says on standard output, as JSON, how many nanoseconds each step takes.

use std::{hint::black_box, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Parser, ValueEnum};
use fastrand::Rng;
use hdrhistogram::{
    Histogram,
    serialization::{Serializer, V2DeflateSerializer},
};
use serde::Serialize;
use slowburn::histogram::{DelayCounts, Summariser, empty};
use slowburn_common::histogram::{BUCKETS, bucket};
use slowburn_probes::event::Delays;

/// Measure one of the ways.
#[derive(Parser)]
struct Options {
    way: Way,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    /// Counts by bucket, added up by bucket, and a histogram of the sum.
    Slowburn,
    /// A histogram all the way.
    Hdrhistogram,
}

/// In nanoseconds each.
#[derive(Serialize)]
struct Steps {
    /// A wait is counted.
    record: f64,
    /// A thread's waits are added to its process's.
    merge: f64,
    /// Four quantiles and the serialised form.
    summary: f64,
}

/// Threads of a process, and what each waited in a window.
const THREADS: usize = 1000;
const WAITS: usize = 1000;

fn main() -> serde_json::Result<()> {
    let mut rng = Rng::with_seed(1);
    let waits: Vec<Vec<_>> = (0..THREADS)
        .map(|_| (0..WAITS).map(|_| wait(&mut rng)).collect())
        .collect();
    let steps = match Options::parse().way {
        Way::Slowburn => slowburn(&waits),
        Way::Hdrhistogram => hdrhistogram(&waits),
    };
    println!("{}", serde_json::to_string(&steps)?);
    Ok(())
}

/// A wait of 1 us to some ms, mostly tens of us.
fn wait(rng: &mut Rng) -> u64 {
    let magnitude = 10.0 + 3.0 * (0..4).map(|_| rng.f64()).sum::<f64>();
    magnitude.exp2() as u64
}

/// What it gives, and the nanoseconds that one of `count` took.
fn timed<T>(count: usize, work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let made = black_box(work());
    (made, begin.elapsed().as_nanos() as f64 / count as f64)
}

/// As the kernel side has it.
#[derive(Clone)]
struct Record {
    counts: [u32; BUCKETS],
    sum_ns: u64,
    max_ns: u64,
}

fn slowburn(waits: &[Vec<u64>]) -> Steps {
    let nothing = Record {
        counts: [0; BUCKETS],
        sum_ns: 0,
        max_ns: 0,
    };
    let mut records = vec![nothing; THREADS];
    let ((), record) = timed(THREADS * WAITS, || {
        for (record, waits) in records.iter_mut().zip(waits) {
            for &wait in waits {
                let count = &mut record.counts[bucket(black_box(wait))];
                *count = count.wrapping_add(1);
                record.sum_ns += wait;
                record.max_ns = record.max_ns.max(wait);
            }
        }
    });
    let samples: Vec<_> = records.iter().map(sample).collect();
    let (_, merge) = timed(THREADS, || {
        let mut sum = DelayCounts::default();
        for sample in &samples {
            sum.add(sample);
        }
        sum
    });
    let counts: Vec<_> = samples
        .iter()
        .map(|sample| {
            let mut counts = DelayCounts::default();
            counts.add(sample);
            counts
        })
        .collect();
    let mut summariser = Summariser::default();
    let ((), summary) = timed(THREADS, || {
        for counts in &counts {
            black_box(summariser.summarise(counts));
        }
    });
    Steps {
        record,
        merge,
        summary,
    }
}

/// As the daemon reads it.
fn sample(record: &Record) -> Delays {
    let counts = (0..).zip(record.counts).filter(|(_, count)| *count > 0);
    Delays {
        counts: counts.collect(),
        sum_ns: record.sum_ns,
        max_ns: record.max_ns,
        ..Delays::default()
    }
}

fn hdrhistogram(waits: &[Vec<u64>]) -> Steps {
    let mut histograms = vec![empty(); THREADS];
    let ((), record) = timed(THREADS * WAITS, || {
        for (histogram, waits) in histograms.iter_mut().zip(waits) {
            for &wait in waits {
                histogram.saturating_record(black_box(wait));
            }
        }
    });
    let (_, merge) = timed(THREADS, || {
        let mut sum = empty();
        for histogram in &histograms {
            sum.add(histogram).expect("they have the same bounds");
        }
        sum
    });
    let (mut serializer, mut bytes) = (V2DeflateSerializer::new(), Vec::new());
    let ((), summary) = timed(THREADS, || {
        for histogram in &histograms {
            black_box(quantiles(histogram));
            bytes.clear();
            serializer
                .serialize(histogram, &mut bytes)
                .expect("memory can be written to");
            black_box(BASE64_STANDARD.encode(&bytes));
        }
    });
    Steps {
        record,
        merge,
        summary,
    }
}

fn quantiles(histogram: &Histogram<u64>) -> [u64; 4] {
    [0.5, 0.9, 0.99, 0.999].map(|q| histogram.value_at_quantile(q))
}
