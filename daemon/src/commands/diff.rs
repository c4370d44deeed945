//! `slowburn diff`: two periods of recordings side by side.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use clap::{CommandFactory, error::ErrorKind};

use crate::{
    cli::{Cli, Diff, FailOn},
    diff::{read::read, report::Report, side::By, table},
};

/// Exit code if B is worse and `--fail-on worse` was given.
const WORSE: u8 = 3;

/// Compares.
///
/// # Errors
/// If a recording cannot be read, has nothing in the period, or the two have nothing in common.
pub fn run(options: &Diff) -> anyhow::Result<ExitCode> {
    let by = match (options.process, options.threads) {
        (_, true) => By::Threads,
        (true, false) => By::Process,
        (false, false) => By::Service,
    };
    if let Err(complaint) = options.check() {
        Cli::command()
            .error(ErrorKind::ValueValidation, complaint)
            .exit();
    }
    let only = options.service.as_ref().map(|names| {
        let label = if names.a == names.b {
            names.a.clone()
        } else {
            format!("{}={}", names.a, names.b)
        };
        [(names.a.clone(), label.clone()), (names.b.clone(), label)]
    });
    let [only_a, only_b] = only.map_or([None, None], |only| only.map(Some));
    let sides = [read(&options.a, by, only_a)?, read(&options.b, by, only_b)?];
    let report = Report::of([&options.a.file, &options.b.file], sides, options.threshold)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if options.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        table::write(&report, &mut out)
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let is_worse = options.fail_on == Some(FailOn::Worse) && report.is_worse();
    Ok(if is_worse {
        ExitCode::from(WORSE)
    } else {
        ExitCode::SUCCESS
    })
}
