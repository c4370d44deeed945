//! The command line. What is another one on each system is in a file of its own.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use slowburn_probes::etw::target::Wanted;

use crate::diff::period::Part;

#[cfg(target_os = "linux")]
pub use linux::{Attach, Tuning};
#[cfg(windows)]
pub use windows::{Attach, Service, ServiceAction, Tuning};

/// What `run` does unless its command line or a policy says otherwise.
pub const WINDOW: &str = "10s";
/// See [`WINDOW`].
pub const EVENTS: Events = Events::Slow;
/// See [`WINDOW`].
pub const MIN_MAPPING: &str = "1MiB";
/// See [`WINDOW`].
pub const SLOW: &str = "10ms";
/// See [`WINDOW`].
pub const BUDGET: &str = "1%";

/// Watches a running service from the kernel and says which of its tasks is slowly getting worse.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Say more on standard error; twice for debugging
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to a service and stream what it does as JSON lines
    Run(Box<Run>),
    /// List what could be attached to, with pids and why
    Services(Services),
    /// Say what this host supports, what is missing and how to get it
    Doctor(Doctor),
    /// Run a recorded stream, or a recording of Windows (.etl), through windows, detector and sinks
    Replay(Box<Replay>),
    /// Say what a recording of Windows (.etl) holds, what was lost, and what it lacks for a replay
    Inspect(Inspect),
    /// Compare two periods of recordings: before and after a release, healthy and sick, yesterday and today
    Diff(Diff),
    /// Explain a flag of a recording: the series, what the rules asked for, and what it had
    Explain(Explain),
    /// Check a policy file
    CheckConfig(CheckConfig),
    /// Install slowburn as a service of Windows, start and stop it
    #[cfg(windows)]
    Service(Service),
    /// Print the JSON schema of the stream
    Schema,
}

/// `slowburn run`
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// What to attach to
    #[command(flatten)]
    pub attach: Attach,
    /// Wait for the service if it does not run yet
    #[arg(long)]
    pub wait: bool,
    /// Stop when the service is gone, instead of waiting for its return
    #[arg(long)]
    pub exit_with_target: bool,

    /// Where the JSON lines go: a file, which is appended to, or - for standard output
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub output: PathBuf,
    /// Start a new output file when it is larger than this; the old one becomes FILE.1
    #[arg(long, value_name = "SIZE", value_parser = rotate_size)]
    pub rotate_size: Option<u64>,
    /// How many old output files to keep
    #[arg(long, value_name = "N", default_value_t = 5, requires = "rotate_size", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rotate_keep: u32,

    /// Length of a window
    #[arg(long, value_name = "TIME", default_value = WINDOW, value_parser = window)]
    pub window: Duration,
    /// Which single events become records, besides windows and flags
    #[arg(long, value_enum, default_value_t = EVENTS)]
    pub events: Events,
    /// With --events slow: the smallest mapping that is a record
    #[arg(long, value_name = "SIZE", default_value = MIN_MAPPING, value_parser = mapping_size)]
    pub min_mapping: u64,
    /// With --events slow: the shortest wait for a CPU that is a record
    #[arg(long, value_name = "TIME", default_value = SLOW, value_parser = slow)]
    pub slow: Duration,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = run_time)]
    pub duration: Option<Duration>,
    /// Show nothing but errors on standard error
    #[arg(short, long)]
    pub quiet: bool,

    /// The policy: what to flag, and defaults for these options; that of the host if it exists (`slowburn help check-config` names it)
    ///
    /// What is given on the command line counts more. With an empty file, such as /dev/null, there is no policy.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// CPU time that slowburn may use, its programs in the kernel included, in percent of one CPU; or none for no limit
    ///
    /// When it would use more, it measures less: fewer single events, then samples of mapping calls, then no such calls, and
    /// at the very last no waits. It measures more again when there is room. Each change is a record in the stream.
    #[arg(long, value_name = "PERCENT|none", default_value = BUDGET, value_parser = budget)]
    pub budget: BudgetChoice,
    /// What is the system's own
    #[command(flatten)]
    pub tuning: Tuning,
}

/// `slowburn services`
#[derive(Debug, Args)]
pub struct Services {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `slowburn doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `slowburn replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// A recorded stream (- for standard input), or a recording of Windows (.etl) with what to follow in it
    pub file: PathBuf,
    /// Of a recording of Windows: follow a service by name, or else processes with that name
    #[arg(long, value_name = "NAME", group = "target", value_parser = name)]
    pub service: Option<String>,
    /// Of a recording of Windows: follow processes by the name of their program, with or without .exe
    #[arg(long, value_name = "NAME", group = "target", value_parser = name)]
    pub process: Option<String>,
    /// Of a recording of Windows: follow a process by id; may be repeated
    #[arg(long, value_name = "PID", group = "target", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Of a recording of Windows: length of a window
    #[arg(long, value_name = "TIME", default_value = WINDOW, value_parser = window)]
    pub window: Duration,
    /// Of a recording of Windows: which single events become records, besides windows and flags
    #[arg(long, value_enum, default_value_t = EVENTS)]
    pub events: Events,
    /// With --events slow: the smallest allocation that is a record
    #[arg(long, value_name = "SIZE", default_value = MIN_MAPPING, value_parser = mapping_size)]
    pub min_mapping: u64,
    /// With --events slow: the shortest wait for a CPU that is a record
    #[arg(long, value_name = "TIME", default_value = SLOW, value_parser = slow)]
    pub slow: Duration,
    /// Where the JSON lines go: a file, which is appended to, or - for standard output
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub output: PathBuf,
    /// The policy: what to flag. Without it, and whatever that of the recording was, there is none
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show nothing but errors on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// `slowburn inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// A recording of Windows (.etl)
    #[arg(required_unless_present = "profile")]
    pub file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Print a profile for Windows Performance Recorder, with which a recording has all that a replay takes
    #[arg(long, conflicts_with_all = ["file", "json"])]
    pub profile: bool,
}

/// `slowburn diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// A recording, and a period of it if not all: FILE or FILE@START..END; - for standard input
    ///
    /// START and END may each be left out. They are moments (2026-03-01T14:00:00Z), times of day in UTC (14:00, the first one in
    /// the recording), or offsets from its beginning (+10m) or its end (-1h). A recording may be compressed by gzip.
    #[arg(allow_hyphen_values = true)]
    pub a: Part,
    /// The recording that it is compared with, likewise
    #[arg(allow_hyphen_values = true)]
    pub b: Part,
    /// Compare this service only; NAME=OTHER if it has another name in B
    #[arg(long, value_name = "NAME", value_parser = services)]
    pub service: Option<ServiceNames>,
    /// Compare the processes of each name, instead of whole services
    #[arg(long, conflicts_with = "threads")]
    pub process: bool,
    /// Compare groups of threads whose names differ in numbers only, instead of whole services
    #[arg(long)]
    pub threads: bool,
    /// Changes up to this are the same
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = threshold)]
    pub threshold: f64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Exit with 3 if B is worse: more of anything but switches and steal
    #[arg(long, value_enum)]
    pub fail_on: Option<FailOn>,
}

/// What a comparison fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// More in B of what is worse if it is more
    Worse,
}

/// The names of a service in two recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNames {
    /// In the first one.
    pub a: String,
    /// In the second one.
    pub b: String,
}

/// `slowburn explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The flag, such as f1, or 2:f1 for that of the second run in the recording; all flags are listed without it
    #[arg(value_name = "FLAG-ID")]
    pub flag: Option<String>,
    /// The recording
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Draw with ASCII characters only, as it is done where the locale is not UTF-8
    #[arg(long, conflicts_with = "json")]
    pub ascii: bool,
}

/// `slowburn check-config`
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file
    #[arg(default_value_os_t = crate::commands::platform::default_policy())]
    pub file: PathBuf,
    /// Print the policy with everything that the file does not say
    #[arg(long)]
    pub show: bool,
}

/// Which single events become records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Events {
    /// Every mapping, every thread, every wait
    All,
    /// Large mappings, threads, slow waits
    Slow,
    /// None
    None,
}

impl Diff {
    /// What clap cannot know.
    ///
    /// # Errors
    /// If standard input is to be read twice, or from its end.
    pub fn check(&self) -> Result<(), String> {
        let is_stdin = |part: &Part| part.file.as_os_str() == "-";
        if is_stdin(&self.a) && is_stdin(&self.b) {
            return Err("standard input can be read only once: save it to a file to compare two of its periods".into());
        }
        if [&self.a, &self.b]
            .into_iter()
            .any(|part| is_stdin(part) && part.needs_end())
        {
            return Err("the end of standard input is not known before it has been read: -TIME takes a file".into());
        }
        Ok(())
    }
}

impl Replay {
    /// What to follow in a recording of Windows. clap has made sure that there is at most one kind.
    pub fn wanted(&self) -> Option<Wanted> {
        if let Some(name) = &self.service {
            Some(Wanted::Service(name.clone()))
        } else if let Some(name) = &self.process {
            Some(Wanted::Process(name.clone()))
        } else {
            (!self.pid.is_empty()).then(|| Wanted::Pids(self.pid.clone()))
        }
    }
}

impl Run {
    /// The output file; `None` for standard output.
    pub fn output_file(&self) -> Option<PathBuf> {
        file(&self.output)
    }
}

/// A path, unless it is `-`.
pub fn file(path: &std::path::Path) -> Option<PathBuf> {
    (path.as_os_str() != "-").then(|| path.to_owned())
}

/// CPU time that may be used, as a share of one CPU; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetChoice(pub Option<f64>);

fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a name must not be empty".into());
    }
    Ok(text.to_owned())
}

pub(crate) fn duration(
    text: &str,
    shortest: Duration,
    longest: Duration,
) -> Result<Duration, String> {
    let value =
        humantime::parse_duration(text).map_err(|e| format!("{e} (examples: 500ms, 10s, 5m)"))?;
    if value < shortest || value > longest {
        let range = (
            humantime::format_duration(shortest),
            humantime::format_duration(longest),
        );
        return Err(format!("must be between {} and {}", range.0, range.1));
    }
    Ok(value)
}

const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn window(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), HOUR)
}

pub(crate) fn slow(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_micros(1), HOUR)
}

fn run_time(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), HOUR * 24 * 3650)
}

pub(crate) fn size(text: &str, smallest: u64, largest: u64) -> Result<u64, String> {
    let value: ByteSize = text
        .parse()
        .map_err(|e| format!("{e} (examples: 64KiB, 1MiB)"))?;
    if value.0 < smallest || value.0 > largest {
        return Err(format!(
            "must be between {} and {}",
            ByteSize(smallest),
            ByteSize(largest)
        ));
    }
    Ok(value.0)
}

fn mapping_size(text: &str) -> Result<u64, String> {
    size(text, 1, 1 << 47)
}

fn rotate_size(text: &str) -> Result<u64, String> {
    size(text, 64 << 10, 1 << 50)
}

pub(crate) fn budget(text: &str) -> Result<BudgetChoice, String> {
    if text == "none" {
        return Ok(BudgetChoice(None));
    }
    let percent: Option<f64> = text.strip_suffix('%').and_then(|n| n.trim().parse().ok());
    match percent {
        // Draining an empty ring buffer alone takes 0.05 %.
        Some(percent) if (0.05..=100.0).contains(&percent) => {
            Ok(BudgetChoice(Some(percent / 100.0)))
        }
        Some(_) => Err("must be between 0.05% and 100%".into()),
        None => Err("expected percent of one CPU, such as 0.5%, or none".into()),
    }
}

fn services(text: &str) -> Result<ServiceNames, String> {
    let (a, b) = text.split_once('=').unwrap_or((text, text));
    Ok(ServiceNames {
        a: name(a)?,
        b: name(b)?,
    })
}

fn threshold(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.strip_suffix('%').and_then(|n| n.trim().parse().ok());
    match percent {
        Some(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
        Some(_) => Err("must be between 0% and 1000%".into()),
        None => Err("expected percent, such as 5%".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    pub(super) fn run(args: &[&str]) -> Result<Box<Run>, clap::Error> {
        let args = ["slowburn", "run"].iter().chain(args);
        match Cli::try_parse_from(args)?.command {
            Command::Run(run) => Ok(run),
            _ => unreachable!("the arguments begin with run"),
        }
    }

    pub(super) fn refuses(bad: &[&[&str]]) {
        for args in bad {
            let all: Vec<_> = ["--service", "a"].iter().chain(*args).copied().collect();
            let error = run(&all).expect_err(&format!("{args:?}"));
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exactly_one_kind_of_target() {
        assert!(run(&["--pid", "1", "--pid", "2"]).is_ok());
        assert!(run(&[]).is_err());
        assert!(run(&["--service", "a", "--process", "b"]).is_err());
    }

    #[test]
    fn absurd_values_are_usage_errors() {
        let bad: [&[&str]; 14] = [
            &["--window", "0s"],
            &["--window", "1000h"],
            &["--window", "soon"],
            &["--slow", "0ms"],
            &["--duration", "0s"],
            &["--min-mapping", "0"],
            &["--min-mapping", "much"],
            &["--rotate-size", "1"],
            &["--rotate-keep", "3"],
            &["--budget", "0.01%"],
            &["--budget", "101%"],
            &["--budget", "NaN%"],
            &["--budget", "1"],
            &["--budget", "little"],
        ];
        refuses(&bad);
        assert_eq!(run(&["--pid", "0"]).unwrap_err().exit_code(), 2);
        assert_eq!(run(&["--service", ""]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_budget_is_one_percent_unless_said_otherwise() {
        let budget = |args: &[&str]| run(&[&["--pid", "1"], args].concat()).unwrap().budget.0;
        assert_eq!(budget(&[]), Some(0.01));
        assert_eq!(budget(&["--budget", "0.25%"]), Some(0.0025));
        assert_eq!(budget(&["--budget", "none"]), None);
    }

    #[test]
    fn sizes_and_times_have_units() {
        let run = run(&[
            "--service",
            "a",
            "--window",
            "500ms",
            "--min-mapping",
            "64KiB",
        ])
        .unwrap();
        assert_eq!(run.window, Duration::from_millis(500));
        assert_eq!(run.min_mapping, 65_536);
    }
}
