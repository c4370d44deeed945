//! Formatting and clippy.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command;

/// Runs all checks, the later ones also when an earlier one fails.
pub fn run() -> Result<()> {
    let checks = [
        // The kernel side is a workspace of its own.
        cargo("fmt", &["--all", "--check"]),
        cargo(
            "fmt",
            &["--manifest-path", "probes/ebpf/Cargo.toml", "--check"],
        ),
        cargo(
            "clippy",
            &[
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "--deny",
                "warnings",
            ],
        ),
    ];
    let mut failed = Vec::new();
    for mut check in checks {
        let line = format!(
            "cargo {}",
            command::line(&check).split_once(' ').unwrap_or_default().1
        );
        eprintln!("lint: {line}");
        if command::run(&mut check).is_err() {
            failed.push(format!("`{line}`"));
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} failed; see above (`cargo fmt --all` formats the code)",
            failed.join(", ")
        );
    }
    Ok(())
}

fn cargo(subcommand: &str, args: &[&str]) -> Command {
    let mut command = command::cargo();
    command.arg(subcommand).args(args);
    command
}
