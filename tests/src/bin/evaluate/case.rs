//! A case of the corpus, read as the windows that slowburn makes.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail};
use flate2::bufread::GzDecoder;
use serde::Deserialize;
use slowburn::{
    histogram::{DelayCounts, Summariser},
    stream::{
        DelaySummary, KernelSummary, MemorySummary, Moment, ProcessId, Scope, ThreadSummary, Window,
    },
};
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

/// When all cases begin: 30 years after 1970, since tasks may be older than their case.
const BEGIN_NS: u64 = 946_684_800_000_000_000;

/// The first line.
#[derive(Deserialize)]
struct Head {
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    case: String,
    #[serde(default)]
    mem_limit: Option<f64>,
    #[serde(default)]
    thread_limit: Option<f64>,
}

/// Any other line: a window.
#[derive(Deserialize)]
struct Reading {
    t: f64,
    dt: f64,
    start_s: f64,
    alloc_bytes: u64,
    freed_bytes: u64,
    mmap_calls: u64,
    net_bytes: u64,
    threads_created: u64,
    threads_exited: u64,
    threads_live: u64,
    /// Upper end of a bucket in nanoseconds, and how many waits are in it.
    sched: Vec<(u64, u32)>,
    #[serde(default)]
    rss_bytes: Option<u64>,
}

/// A case that is being read.
pub struct Case {
    /// Its name in flags.
    pub id: String,
    meta: Meta,
    lines: BufReader<GzDecoder<BufReader<File>>>,
    line: String,
    summariser: Summariser,
    created: Option<Moment>,
}

impl Case {
    /// Opens a file and reads its first line.
    pub fn open(path: &Path) -> Result<Self> {
        let file = BufReader::with_capacity(1 << 16, File::open(path)?);
        let mut lines = BufReader::with_capacity(1 << 16, GzDecoder::new(file));
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Head { meta } = serde_json::from_str(&line).context("the first line is no `meta`")?;
        Ok(Self {
            id: meta.case.clone(),
            meta,
            lines,
            line,
            summariser: Summariser::default(),
            created: None,
        })
    }

    /// The next window, after the last one of the life before it if that has ended. `None` at the end.
    pub fn next(&mut self) -> Result<Option<Vec<Window>>> {
        self.line.clear();
        if self.lines.read_line(&mut self.line)? == 0 {
            return Ok(None);
        }
        let reading: Reading = serde_json::from_str(&self.line)
            .with_context(|| format!("no window: {}", self.line))?;
        let window = self.window(&reading)?;
        let before = self.created.replace(window.process.created);
        let mut windows = Vec::new();
        if let Some(created) = before.filter(|created| *created != window.process.created) {
            let mut last = window.clone();
            last.process.created = created;
            last.ended = true;
            windows.push(last);
        }
        windows.push(window);
        Ok(Some(windows))
    }

    fn window(&mut self, reading: &Reading) -> Result<Window> {
        Ok(Window {
            ts: moment(reading.t)?,
            scope: Scope::Process,
            process: ProcessId {
                service: self.id.clone(),
                pid: 1000,
                created: moment(reading.start_s)?,
            },
            thread: None,
            period_ns: (reading.dt * 1e9) as u64,
            ended: false,
            delay: Some(self.delay(&reading.sched)),
            memory: MemorySummary {
                reserved_bytes: reading.alloc_bytes,
                committed_bytes: reading.alloc_bytes,
                released_bytes: reading.freed_bytes,
                decommitted_bytes: reading.freed_bytes,
                map_calls: reading.mmap_calls,
                standing_committed_bytes: Some(reading.net_bytes),
                ..MemorySummary::default()
            },
            threads: Some(ThreadSummary {
                live: reading.threads_live,
                created: reading.threads_created,
                exited: reading.threads_exited,
                ..ThreadSummary::default()
            }),
            kernel: KernelSummary {
                rss_bytes: reading.rss_bytes,
                // The limit of a case is met by what is mapped.
                host_memory_bytes: self.meta.mem_limit.map(|bytes| bytes as u64),
                tasks_limit: self.meta.thread_limit.map(|threads| threads as u64),
                ..KernelSummary::default()
            },
            lost: 0,
            own: None,
        })
    }

    /// Waits are put into the middle of the corpus' buckets, which are four of ours wide.
    fn delay(&mut self, sched: &[(u64, u32)]) -> DelaySummary {
        let middle = |upper: u64| (upper as f64 * 0.92) as u64;
        let delays = Delays {
            counts: sched
                .iter()
                .map(|&(upper, count)| (bucket(middle(upper)) as u16, count))
                .collect(),
            sum_ns: sched
                .iter()
                .map(|&(upper, count)| middle(upper) * u64::from(count))
                .sum(),
            max_ns: sched.last().map_or(0, |&(upper, _)| upper),
            ..Delays::default()
        };
        let mut counts = DelayCounts::default();
        counts.add(&delays);
        self.summariser.summarise(&counts)
    }
}

/// Seconds since a case began.
pub fn seconds(ts: Moment) -> f64 {
    (ts.0 as i64 - BEGIN_NS as i64) as f64 / 1e9
}

fn moment(seconds: f64) -> Result<Moment> {
    let ns = BEGIN_NS as f64 + seconds * 1e9;
    if !(0.0..1.8e19).contains(&ns) {
        bail!("no time: {seconds} s");
    }
    Ok(Moment(
        (BEGIN_NS as i64 + (seconds * 1e9).round() as i64) as u64,
    ))
}
