//! Everything the continuous integration runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{build_ebpf, lint, test, test_output::Counts, vm, windows};

/// Runs all steps, the later ones also when an earlier one fails, so that one run shows everything that
/// is wrong. The tests come last: their count is the last line.
pub fn run() -> Result<ExitCode> {
    let mut failed = Vec::new();
    let mut step = |name: &str, run: fn() -> Result<()>| {
        eprintln!("\n== {name} ==");
        if let Err(error) = run() {
            eprintln!("error: {error:#}");
            failed.push(format!("{name}: {error:#}"));
        }
    };
    step("lint", lint::run);
    step("build-ebpf --check", build_ebpf::check);
    step("windows clippy", windows::clippy);
    let mut outcome = test::run_groups(true, None)?;
    if let Err(error) = vm::run_default(&mut outcome) {
        outcome.add("guests", Counts::default(), Some(format!("{error:#}")));
    }
    windows::test(&mut outcome, None);
    Ok(outcome.report(&failed))
}
