//! `slowburn service`: slowburn itself as a service of Windows.

mod directory;
mod event_log;
mod host;
mod manage;

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

pub use event_log::EventLog;

use crate::cli::{Cli, Command, Service, ServiceAction};

/// Name of the service, and of the source of its messages.
pub const NAME: &str = "slowburn";

/// The output is renamed when it is this large.
const ROTATE: &str = "256MiB";

/// Carries it out.
///
/// # Errors
/// If the service control manager refuses, or what the service is to do is not clear.
pub fn run(options: &Service) -> anyhow::Result<()> {
    match &options.action {
        ServiceAction::Install { run } => manage::install(&arguments(run)?),
        ServiceAction::Uninstall => manage::uninstall(),
        ServiceAction::Start => manage::start(),
        ServiceAction::Stop => manage::stop(),
        ServiceAction::Status => manage::status(),
        ServiceAction::Host { run } => host::dispatch(run.clone()),
    }
}

/// What the service is to be started with: what the user has said, and where its output goes if that was not said.
fn arguments(given: &[OsString]) -> anyhow::Result<Vec<OsString>> {
    let (run, _) = parse(given)?;
    let mut arguments = given.to_vec();
    match run.output_file() {
        None => {
            let output = directory::path().join("events.jsonl");
            arguments.extend(["--output".into(), output.into_os_string()]);
            if run.rotate_size.is_none() {
                arguments.extend(["--rotate-size".into(), ROTATE.into()]);
            }
        }
        Some(path) if path.is_relative() => bail!(
            "the output {} is relative, and a service has no directory of its own: name it in full",
            path.display()
        ),
        Some(_) => {}
    }
    // A service that waits for another one must not end because that one is not there yet.
    if !run.wait {
        arguments.push("--wait".into());
    }
    parse(&arguments)?;
    Ok(arguments)
}

/// Options of `slowburn run`, as they are on its command line.
fn parse(given: &[OsString]) -> anyhow::Result<(crate::cli::Run, ArgMatches)> {
    let words = ["slowburn".into(), "run".into()];
    let words = words.into_iter().chain(given.iter().cloned());
    let matches = Cli::command()
        .try_get_matches_from(words)
        .context("what follows `--` must be options of `slowburn run`")?;
    let Command::Run(run) = Cli::from_arg_matches(&matches)?.command else {
        bail!("what follows `--` must be options of `slowburn run`");
    };
    let of_run = matches.subcommand_matches("run").cloned();
    Ok((*run, of_run.unwrap_or_default()))
}

/// The policy that is read if no other is named.
pub fn default_policy() -> PathBuf {
    directory::path().join("slowburn.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_output_is_where_only_administrators_read() {
        let all = arguments(&words("--service Shop")).expect("it is right");
        let text: Vec<_> = all.iter().map(|word| word.to_string_lossy()).collect();
        let text = text.join(" ");
        assert!(text.starts_with("--service Shop --output "), "{text}");
        assert!(
            text.contains(r"\slowburn\events.jsonl --rotate-size 256MiB --wait"),
            "{text}"
        );
        let own = r"--pid 7 -o C:\own.jsonl --wait";
        assert_eq!(arguments(&words(own)).expect("it is right"), words(own));
    }

    #[test]
    fn what_cannot_be_run_is_not_installed() {
        for wrong in ["--service", "--pid x", "--service Shop -o own.jsonl"] {
            assert!(arguments(&words(wrong)).is_err(), "{wrong}");
        }
        assert!(arguments(&[]).is_err());
    }
}
