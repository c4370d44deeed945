//! How well the detector does on a labelled corpus.

mod label;
mod score;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use serde_json::Value;

use self::{label::Label, score::Flag};
use crate::command;

/// Feed the cases of a labelled corpus through the detector and score what it raises
///
/// DIR has `data/*.ndjson.gz`, a case each: a line of what is known beforehand, then a window a line. With `labels.json`
/// beside it, what was raised is scored: recall, precision, false flags, delay, kinds.
#[derive(clap::Args)]
pub struct Args {
    /// The corpus
    directory: PathBuf,
    /// Write the flags here, one a line; to target/eval.ndjson by default
    #[arg(long, value_name = "FILE")]
    flags: Option<PathBuf>,
    /// Score these flags instead of running the detector
    #[arg(long, value_name = "FILE", conflicts_with = "flags")]
    score: Option<PathBuf>,
    /// Have the detector go by this policy
    #[arg(long, value_name = "FILE", conflicts_with = "score")]
    config: Option<PathBuf>,
    /// Show the cases that went wrong, too
    #[arg(long)]
    cases: bool,
}

/// Runs the command.
///
/// # Errors
/// If the corpus cannot be read, or the detector cannot be built.
pub fn run(args: &Args) -> Result<ExitCode> {
    let flags = if let Some(flags) = &args.score {
        flags.clone()
    } else {
        let flags = args.flags.clone();
        let flags = flags.unwrap_or_else(|| command::target_dir().join("eval.ndjson"));
        let flags = std::path::absolute(flags)?;
        detect(&args.directory, &flags, args.config.as_deref())?;
        println!("flags: {}", flags.display());
        flags
    };
    let labels = args.directory.join("labels.json");
    if !labels.exists() {
        println!("no labels: there is no {}", labels.display());
        return Ok(ExitCode::SUCCESS);
    }
    let labels: Vec<Label> = read(&labels, |text| Ok(serde_json::from_str(text)?))?;
    let flags: Vec<Flag> = read(&flags, |text| {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
    })?;
    score::print(&labels, &flags, args.cases);
    Ok(ExitCode::SUCCESS)
}

/// Runs the detector, optimised as in the daemon, and says what that took.
fn detect(directory: &Path, flags: &Path, config: Option<&Path>) -> Result<()> {
    let mut build = command::cargo();
    build.args(["build", "--release", "--locked", "-p", "slowburn-tests"]);
    command::run(build.args(["--bin", "evaluate"]))?;
    let mut evaluate = Command::new(command::target_dir().join("release/evaluate"));
    evaluate.arg(directory).arg(flags);
    if let Some(config) = config {
        evaluate.arg("--config").arg(config);
    }
    let effort = command::first_line(&mut evaluate)?;
    let effort: Value = serde_json::from_str(&effort)?;
    let figure = |name: &str| effort[name].as_f64().unwrap_or_default();
    println!(
        "{} cases, {} windows; the detector took {:.1} us a window and {:.0} KiB for the largest case",
        figure("cases"),
        figure("windows"),
        figure("detector_ns") / figure("windows").max(1.0) / 1e3,
        figure("most_bytes") / 1024.0,
    );
    let unnamed = figure("unnamed");
    if unnamed > 0.0 {
        println!("{unnamed} flags on metrics that the corpus has no name for are left out");
    }
    Ok(())
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not as expected", path.display()))
}
