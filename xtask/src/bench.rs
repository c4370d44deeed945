//! Benchmarks: what slowburn costs, against others and against nothing. Each writes a table and its figures.

mod daemon;
mod figures;
mod histogram;
mod load;
mod overhead;
mod paced;
mod probe;
mod replay;
mod report;
mod scale;
mod service;
mod tracer;
mod watcher;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::{command, test};

/// Measure what slowburn costs, against others and against nothing
///
/// As root. All contenders have their turn in each round, so that whatever else the machine does happens to all of them;
/// ratios are those within a round. A ratio whose spread is as wide as what it says is not shown. The tables go to the
/// screen and to target/bench/NAME.md, all figures to target/bench/NAME.json.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum)]
    bench: Bench,
    /// Rounds that count; one more goes before them
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(3..=99))]
    rounds: u16,
    /// Only these loads
    #[arg(long = "load")]
    loads: Vec<String>,
    /// Write the results of all benchmarks so far into docs/performance.md and README.md
    #[arg(long)]
    report: bool,
    /// How long `daemon` has a thread begin and end each millisecond
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    minutes: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// What those that are traced lose: nobody, programs that do nothing, slowburn, bpftrace and perf in turn
    Overhead,
    /// What each program of the kernel side takes, by the kernel's own account
    Probe,
    /// What a replay costs an event: 50 million through a pipe (--load pipe), and a file beside reading it plainly (--load file)
    Replay,
    /// What waits take on their way into a window, beside the hdrhistogram crate alone
    Histogram,
    /// What an event costs with 10 to 50,000 threads in 1 to 200 services
    Scale,
    /// What the daemon takes itself, how fast it comes and goes, and whether it grows
    Daemon,
}

impl Bench {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Where things are, and how often they are done.
struct Setting<'a> {
    programs: &'a Path,
    scratch: &'a Path,
    rounds: usize,
    /// Only these loads, if any are named.
    only: &'a [String],
    churn: Duration,
}

impl Setting<'_> {
    fn wants(&self, load: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == load)
    }
}

/// What a benchmark has found out.
struct Outcome {
    /// For readers, as Markdown.
    tables: Vec<String>,
    /// All figures.
    results: Value,
}

/// What is written.
#[derive(Serialize)]
struct Document {
    bench: String,
    date: jiff::Timestamp,
    kernel: String,
    cpu: String,
    cpus: usize,
    rounds: u16,
    results: Value,
}

/// Measures.
///
/// # Errors
/// If something cannot be started or fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !command::is_root() {
        bail!("tracing needs root: sudo -E env PATH=\"$PATH\" cargo xtask bench ...");
    }
    if programs_are_timed() {
        bail!(
            "kernel.bpf_stats_enabled is 1: the kernel reads its clock twice in each run of every eBPF program, which would \
             be most of what is measured; sysctl -w kernel.bpf_stats_enabled=0"
        );
    }
    let programs = test::build_programs()?;
    let directory = command::target_dir().join("bench");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let setting = Setting {
        programs: &programs,
        scratch: &directory,
        rounds: args.rounds.into(),
        only: &args.loads,
        churn: Duration::from_mins(args.minutes.into()),
    };
    let outcome = match args.bench {
        Bench::Overhead => overhead::run(&setting)?,
        Bench::Probe => probe::run(&setting)?,
        Bench::Replay => replay::run(&setting)?,
        Bench::Histogram => histogram::run(&setting)?,
        Bench::Scale => scale::run(&setting)?,
        Bench::Daemon => daemon::run(&setting)?,
    };
    let name = args.bench.name();
    let document = Document {
        bench: name.clone(),
        date: jiff::Timestamp::now(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        cpu: cpu(),
        cpus: std::thread::available_parallelism()?.get(),
        rounds: args.rounds,
        results: outcome.results,
    };
    let heading = format!(
        "{} CPUs ({}), Linux {}, medians of {} rounds with quartiles{}\n\n",
        document.cpus,
        document.cpu,
        document.kernel,
        document.rounds,
        if matches!(args.bench, Bench::Overhead) {
            " unless it says otherwise"
        } else {
            ""
        }
    );
    let json = serde_json::to_string_pretty(&document)?;
    for (ending, text) in [("md", heading + &outcome.tables.join("\n")), ("json", json)] {
        let path = directory.join(format!("{name}.{ending}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    if args.report {
        report::write(&directory)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn programs_are_timed() -> bool {
    let setting = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
    setting.is_ok_and(|setting| setting.trim() != "0")
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.into())
}
