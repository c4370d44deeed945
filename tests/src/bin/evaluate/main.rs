//! Feeds the cases of a labelled corpus through the detector, as `slowburn run` does with windows: `cargo xtask eval`
//! runs it. Writes what the detector raised, and says on standard output, as JSON, what that took.

mod case;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use slowburn::{
    commands::check_config::{self, Loaded},
    detect::{Config, Detector},
    policy::Policy,
    stream::{Flag, FlagState, Metric},
};

use crate::case::{Case, seconds};

/// Feed the cases of a corpus through the detector.
#[derive(Parser)]
struct Options {
    /// Has `data/*.ndjson.gz`, a case each
    directory: PathBuf,
    /// Where the flags go, one a line
    flags: PathBuf,
    /// Write the whole records instead
    #[arg(long)]
    records: bool,
    /// A policy
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A flag as the corpus has it.
#[derive(Serialize)]
struct Raised<'a> {
    case: &'a str,
    /// Seconds since the beginning of the case.
    t: f64,
    metric: &'static str,
    kind: serde_json::Value,
    /// How likely it is said to be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

/// What it took.
#[derive(Default, Serialize)]
struct Effort {
    cases: usize,
    windows: u64,
    /// Time within the detector.
    detector_ns: u64,
    /// Of the detector's state, at the end of the case that has most of it.
    most_bytes: usize,
    /// Flags on metrics that the corpus has no name for.
    unnamed: u64,
}

/// What came of a case.
struct Outcome {
    lines: Vec<String>,
    windows: u64,
    spent: Duration,
    bytes: usize,
    unnamed: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let files = files(&options.directory.join("data"))?;
    let config = options
        .config
        .as_deref()
        .map(check_config::read)
        .transpose()?;
    let outcomes = run_all(&files, options.records, config.as_ref())?;
    let mut effort = Effort::default();
    let file = File::create(&options.flags)
        .with_context(|| format!("cannot write {}", options.flags.display()))?;
    let mut output = BufWriter::new(file);
    for outcome in outcomes {
        effort.cases += 1;
        effort.windows += outcome.windows;
        effort.detector_ns += outcome.spent.as_nanos() as u64;
        effort.most_bytes = effort.most_bytes.max(outcome.bytes);
        effort.unnamed += outcome.unnamed;
        for line in outcome.lines {
            writeln!(output, "{line}")?;
        }
    }
    output.flush()?;
    println!("{}", serde_json::to_string(&effort)?);
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read the corpus at {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".ndjson.gz") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} has no *.ndjson.gz", directory.display());
    }
    files.sort_unstable();
    Ok(files)
}

/// All cases, on as many threads as there are CPUs; in the order of the files.
fn run_all(files: &[PathBuf], records: bool, config: Option<&Loaded>) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else {
                return Ok(());
            };
            let outcome =
                run(file, records, config).with_context(|| format!("{}", file.display()))?;
            if let Ok(mut done) = done.lock() {
                done.push((at, outcome));
            }
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| bail!("the detector panicked"))
            })
            .collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

fn run(file: &Path, records: bool, config: Option<&Loaded>) -> Result<Outcome> {
    let mut case = Case::open(file)?;
    let policy = config.map_or_else(Policy::default, |config| Policy::of(&config.file));
    let mut detector = Detector::with_policy(Config::default(), policy);
    let mut flags = Vec::new();
    let mut outcome = Outcome {
        lines: Vec::new(),
        windows: 0,
        spent: Duration::ZERO,
        bytes: 0,
        unnamed: 0,
    };
    while let Some(windows) = case.next()? {
        for window in &windows {
            let begin = Instant::now();
            detector.window(window, &mut flags);
            outcome.spent += begin.elapsed();
            outcome.windows += 1;
        }
        for flag in flags.drain(..) {
            if records {
                outcome.lines.push(serde_json::to_string(&flag)?);
                continue;
            }
            if flag.state != FlagState::Raised {
                continue;
            }
            match line(&case, &flag)? {
                Some(line) => outcome.lines.push(line),
                None => outcome.unnamed += 1,
            }
        }
    }
    outcome.bytes = detector.heap_bytes();
    Ok(outcome)
}

/// `None` for a metric that the corpus has no name for.
fn line(case: &Case, flag: &Flag) -> Result<Option<String>> {
    let metric = match flag.metric {
        Metric::CommittedBytes => "net_bytes",
        Metric::MappedRate => "alloc_rate",
        Metric::ThreadsLive => "threads_live",
        Metric::CreationRate => "thread_rate",
        Metric::Delay | Metric::DelayTail | Metric::DelayP99 => "sched_delay",
        Metric::ReservedBytes | Metric::RssBytes | Metric::Fds => return Ok(None),
    };
    let raised = Raised {
        case: &case.id,
        t: seconds(flag.ts),
        metric,
        kind: serde_json::to_value(flag.kind)?,
        score: flag.evidence.score,
    };
    Ok(Some(serde_json::to_string(&raised)?))
}
