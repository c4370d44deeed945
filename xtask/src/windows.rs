//! The Windows side from Linux: cross-compiled, and tested under wine.
//!
//! Nothing of it shows in the configuration of cargo: who does not build for Windows does not notice.

mod toolchain;
mod wine;

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};
use clap::Subcommand;

use self::{toolchain::Toolchain, wine::Wine};
use crate::{
    command,
    packages::Unavailable,
    test::{Outcome, heading, run_and_count},
    test_output::Counts,
};

/// What is built and tested. The others are for Linux.
const CRATES: [&str; 6] = [
    "--package",
    "slowburn",
    "--package",
    "slowburn-probes",
    "--package",
    "slowburn-common",
];

/// The target that can be linked and run here.
pub const GNU: &str = "x86_64-pc-windows-gnu";

/// Those that can be checked only: their libraries are Microsoft's.
const MSVC: [&str; 2] = ["x86_64-pc-windows-msvc", "aarch64-pc-windows-msvc"];

/// Build, check or test the Windows side: cross-compiled, tests under wine
///
/// What it needs is installed with apt-get if it runs as root, and with rustup where that can be reached.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build slowburn.exe
    Build {
        /// As for a release
        #[arg(long)]
        release: bool,
    },
    /// Run clippy for the GNU and both MSVC targets, with warnings as errors
    Clippy,
    /// Run unit and integration tests under wine, and compare replays of both systems
    Test {
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::Build { release } => build(*release),
        Action::Clippy => clippy(),
        Action::Test { filter } => {
            let mut outcome = Outcome::default();
            test(&mut outcome, filter.as_deref());
            return Ok(outcome.report(&[]));
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn build(release: bool) -> Result<()> {
    let toolchain = Toolchain::find(GNU)?;
    toolchain::linker()?;
    command::run(build_command(&toolchain).args(release.then_some("--release")))?;
    let profile = if release { "release" } else { "debug" };
    let program = toolchain.target_dir().join(profile).join("slowburn.exe");
    eprintln!("windows: {}", program.display());
    Ok(())
}

fn build_command(toolchain: &Toolchain) -> Command {
    let mut cargo = toolchain.cargo("build");
    cargo.args(["--locked", "--package", "slowburn"]);
    cargo
}

/// Checks all targets, the later ones also when an earlier one fails.
pub fn clippy() -> Result<()> {
    let mut failed = Vec::new();
    for target in [GNU].into_iter().chain(MSVC) {
        heading(&format!("clippy for {target}"));
        let checked = Toolchain::find(target).and_then(|toolchain| {
            let mut cargo = toolchain.cargo("clippy");
            cargo
                .args(CRATES)
                .args(["--locked", "--all-targets", "--", "-D", "warnings"]);
            command::run(&mut cargo)
        });
        match checked {
            Ok(()) => {}
            Err(error) if error.is::<Unavailable>() => {
                println!("SKIP clippy for {target}: {error}");
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(target);
            }
        }
    }
    if !failed.is_empty() {
        bail!("clippy failed for {}", failed.join(", "));
    }
    Ok(())
}

/// Runs all tests. What this machine cannot have is skipped, with the reason.
pub fn test(outcome: &mut Outcome, filter: Option<&str>) {
    const GROUP: &str = "Windows tests";
    heading("Windows: unit and integration tests under wine");
    match try_test(filter) {
        Ok((counts, succeeded)) => {
            let failed = !succeeded || counts.failed > 0;
            outcome.add(GROUP, counts, failed.then(|| "see above".into()));
        }
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(reason) => {
                println!("SKIP {GROUP}: {reason}");
                let skipped = Counts {
                    skipped: 1,
                    ..Counts::default()
                };
                outcome.add(GROUP, skipped, None);
            }
            None => outcome.add(GROUP, Counts::default(), Some(format!("{error:#}"))),
        },
    }
}

/// What is tested. The detector's own tests say the same on every system, and take long.
const TESTS: [&[&str]; 3] = [
    &[
        "--package",
        "slowburn",
        "--lib",
        "--bins",
        "--test",
        "windows",
        "--test",
        "windows_live",
        "--test",
        "windows_service",
    ],
    &["--package", "slowburn-probes", "--features", "etl-writer"],
    &["--package", "slowburn-common"],
];

fn try_test(filter: Option<&str>) -> Result<(Counts, bool)> {
    let toolchain = Toolchain::find(GNU)?;
    toolchain::linker()?;
    let wine = Wine::find()?;
    let replays = command::target_dir().join("windows/replays");
    let _ = fs::remove_dir_all(&replays);
    // What replays under wine are compared with.
    let mut linux = command::cargo();
    linux.args([
        "test",
        "--locked",
        "--package",
        "slowburn",
        "--test",
        "windows",
    ]);
    linux
        .arg("replays_are_the_same")
        .env("SLOWBURN_REPLAYS", &replays);
    command::run(&mut linux)?;
    let mut counts = Counts::default();
    let mut succeeded = true;
    for tests in TESTS {
        let mut cargo = toolchain.cargo("test");
        wine.runs(&mut cargo, GNU);
        cargo.args(tests).args(["--locked", "--no-fail-fast"]);
        // The whole file system is a drive of wine's, on which we are.
        cargo.env("SLOWBURN_REPLAYS", &replays);
        cargo.args(filter).args(["--", "--show-output"]);
        let (of_these, passed) = run_and_count(&mut cargo)?;
        counts += of_these;
        succeeded &= passed;
    }
    wine.end();
    Ok((counts, succeeded))
}
