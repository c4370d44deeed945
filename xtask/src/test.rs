//! Runs all tests: those that need nothing as they are, the end-to-end tests as root.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{
    build_ebpf, command, packages, runtimes,
    test_output::{Counts, Reader},
};

/// Run the unit and property tests, then the end-to-end tests as root
///
/// Only the end-to-end test binaries run as root, through sudo where needed. Tests whose service is not
/// installed say SKIP. The last line counts all tests.
#[derive(clap::Args)]
pub struct Args {
    /// Install the services that some tests watch, with apt-get as root. CI=true does the same
    #[arg(long)]
    install: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// What some end-to-end tests watch or need, and why.
const PACKAGES: [(&str, &str); 8] = [
    ("nginx-light", "a service of several processes"),
    ("redis-server", "a service of one busy thread"),
    (
        "postgresql",
        "a service that forks a process per connection",
    ),
    ("golang-go", "a runtime that maps and unmaps on its own"),
    ("openjdk-17-jdk-headless", "another one"),
    ("nodejs", "and another"),
    ("libjemalloc2", "an allocator with habits of its own"),
    ("bpftrace", "the classic way to see waits, side by side"),
];

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let outcome = run_groups(args.install, args.filter.as_deref())?;
    eprintln!("\ntest: `cargo xtask vm` compares the numbers with the truth on other kernels too");
    Ok(outcome.report(&[]))
}

/// What came of the tests.
#[derive(Default)]
pub struct Outcome {
    counts: Counts,
    /// The groups that did not go well.
    failed: Vec<String>,
}

impl Outcome {
    /// Adds a group, and how it failed if it did.
    pub fn add(&mut self, name: &str, counts: Counts, failure: Option<String>) {
        self.counts += counts;
        self.failed
            .extend(failure.map(|failure| format!("{name}: {failure}")));
    }

    /// Prints what failed and, as the last line, the counts. `before` failed earlier.
    pub fn report(mut self, before: &[String]) -> ExitCode {
        self.failed.splice(..0, before.iter().cloned());
        println!();
        for failure in &self.failed {
            println!("failed: {failure}");
        }
        println!("{}", self.counts);
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Runs every group of tests, the later ones also when an earlier one fails.
pub fn run_groups(install: bool, filter: Option<&str>) -> Result<Outcome> {
    build_ebpf::ensure()?;
    install_services(install || env::var_os("CI").is_some_and(|value| value == "true"));
    let mut outcome = Outcome::default();
    let mut group = |name: &str, result: Result<(Counts, bool)>| match result {
        Ok((counts, succeeded)) => {
            let failed = !succeeded || counts.failed > 0;
            outcome.add(name, counts, failed.then(|| "see above".into()));
        }
        Err(error) => outcome.add(name, Counts::default(), Some(format!("{error:#}"))),
    };
    group("unit and property tests", unit_tests(filter));
    group("end-to-end tests", end_to_end_tests(filter));
    Ok(outcome)
}

fn unit_tests(filter: Option<&str>) -> Result<(Counts, bool)> {
    heading("unit and property tests");
    let mut cargo = command::cargo();
    cargo.args([
        "test",
        "--workspace",
        "--exclude",
        "slowburn-tests",
        "--locked",
        "--no-fail-fast",
    ]);
    cargo.args(filter).args(["--", "--show-output"]);
    run_and_count(&mut cargo)
}

/// Builds the daemon and the workloads, and says where they are.
pub fn build_programs() -> Result<PathBuf> {
    heading("end-to-end tests: building the daemon and the workloads");
    let mut build = command::cargo();
    build.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "slowburn",
        "--package",
        "slowburn-tests",
        "--bins",
    ]);
    command::run(&mut build)?;
    let bin_dir = command::target_dir().join("release");
    runtimes::build(&bin_dir)?;
    Ok(bin_dir)
}

fn end_to_end_tests(filter: Option<&str>) -> Result<(Counts, bool)> {
    let bin_dir = build_programs()?;
    heading("end-to-end tests");
    let mut cargo = command::cargo();
    cargo.env("SLOWBURN_BIN_DIR", &bin_dir);
    cargo.args([
        "test",
        "--package",
        "slowburn-tests",
        "--locked",
        "--no-fail-fast",
    ]);
    if !command::is_root() {
        cargo.arg("--config").arg(runner_config(&sudo_runner(&[(
            "SLOWBURN_BIN_DIR",
            bin_dir.into(),
        )])?));
    }
    // They measure, so one at a time.
    cargo
        .args(filter)
        .args(["--", "--test-threads=1", "--show-output"]);
    run_and_count(&mut cargo)
}

/// Runs tests and counts them. Returns whether cargo succeeded, too.
pub fn run_and_count(cargo: &mut Command) -> Result<(Counts, bool)> {
    let mut reader = Reader::default();
    let succeeded = command::watch_stdout(cargo, |line| reader.line(line))?;
    Ok((reader.finished(), succeeded))
}

/// The words before a test binary's path that run it as root. sudo drops most of the environment, and
/// `env` brings back what the tests need, whatever the policy of this machine's sudo is.
fn sudo_runner(settings: &[(&str, OsString)]) -> Result<Vec<OsString>> {
    let Some(sudo) = command::find_in_path("sudo") else {
        bail!(
            "they need root, and there is no sudo on PATH to get it; run the same command as root (su -)"
        );
    };
    let mut runner = vec![sudo.into_os_string(), "--".into(), "env".into()];
    let mut keep = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        runner.push(word);
    };
    for (name, value) in settings {
        keep(name, value);
    }
    for name in ["PATH", "CI", "RUST_BACKTRACE", "RUST_LOG"] {
        if let Some(value) = env::var_os(name) {
            keep(name, &value);
        }
    }
    Ok(runner)
}

/// A program that runs as root with these settings in its environment.
pub fn as_root(program: &Path, settings: &[(&str, OsString)]) -> Result<Command> {
    if command::is_root() {
        let mut command = Command::new(program);
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    let words = sudo_runner(settings)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program);
    Ok(command)
}

/// The runner as a setting of cargo's, in which words may contain spaces.
fn runner_config(words: &[OsString]) -> String {
    let quoted: Vec<_> = words
        .iter()
        .map(|word| toml_string(&word.to_string_lossy()))
        .collect();
    format!("target.'cfg(all())'.runner = [{}]", quoted.join(", "))
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Without these packages there are tests that skip, so nothing here is a reason to stop.
fn install_services(wanted: bool) {
    if !wanted {
        return;
    }
    let missing: Vec<_> = PACKAGES
        .into_iter()
        .filter(|(name, _)| !packages::is_installed(name))
        .collect();
    if missing.is_empty() {
        return;
    }
    if !packages::can_install() {
        eprintln!(
            "test: not installing packages, which needs root and apt-get; tests that need one skip"
        );
        return;
    }
    eprintln!("test: installing with apt-get:");
    for (name, why) in &missing {
        eprintln!("  {name}: {why}");
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    if let Err(error) = packages::install(&names) {
        eprintln!("test: {error:#}; tests that need one of them skip");
    }
}

/// Says what comes now.
pub fn heading(what: &str) {
    eprintln!("\n== {what} ==");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_is_valid_toml_whatever_the_words_hold() {
        let words = ["sudo", r"A=b c", r#"Q="\"#].map(OsString::from);
        assert_eq!(
            runner_config(&words),
            r#"target.'cfg(all())'.runner = ["sudo", "A=b c", "Q=\"\\"]"#
        );
    }
}
