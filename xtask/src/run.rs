//! Builds slowburn and starts it as root, on a service of its own if none is named.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook_registry::register_sigaction;

use crate::{build_ebpf, command};

/// Build slowburn and run it as root
///
/// Without a target among ARGS the bundled demo service is started and watched. Arguments for slowburn
/// follow `--`, for example: cargo xtask run -- --service nginx --window 10s
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of `slowburn run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The options of `slowburn run` that say what to watch, or that it shall not watch anything.
const TARGETS: [&str; 9] = [
    "--service",
    "--unit",
    "--container",
    "--cgroup",
    "--process",
    "--pid",
    "--help",
    "-h",
    "--version",
];

/// What is added for the demo, unless the user has said otherwise: long and short option, and value.
const DEMO: &str = "slowburn-demo";
const DEMO_DEFAULTS: [(&str, Option<char>, &str); 2] = [
    ("--window", None, "1s"),
    ("--output", Some('o'), DEMO_OUTPUT),
];
const DEMO_OUTPUT: &str = "slowburn.jsonl";

/// Runs the command. With a target this process becomes the daemon, so that signals and its exit code
/// need no passing on.
pub fn run(args: &Args) -> Result<ExitCode> {
    let demo = !has_any(&args.args, &TARGETS);
    let programs = command::target_dir().join("release");
    // First, as a missing sudo should not show only after a long build.
    let mut daemon = as_root(&programs.join("slowburn"))?;
    build_ebpf::ensure()?;
    build(demo)?;
    daemon.arg("run");
    if demo {
        return run_with_demo(
            daemon.args(with_demo_defaults(&args.args)),
            &programs.join(DEMO),
        );
    }
    let error = daemon.args(&args.args).exec();
    Err(error).with_context(|| format!("cannot start `{}`", command::line(&daemon)))
}

/// Starts the demo, runs the daemon until it ends, and ends the demo.
fn run_with_demo(daemon: &mut Command, demo: &Path) -> Result<ExitCode> {
    let by_default = daemon.get_args().any(|arg| arg == DEMO_OUTPUT);
    let output = if by_default {
        DEMO_OUTPUT
    } else {
        "where --output says"
    };
    let mut demo = start_demo(demo)?;
    eprintln!(
        "run: started {DEMO}; slowburn watches it, its stream goes to {output}; Ctrl-C ends both"
    );
    let ended = wait_for(daemon, &demo);
    let _ = demo.kill();
    let _ = demo.wait();
    let status = ended?;
    // As a shell does for a command that a signal ended.
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn wait_for(daemon: &mut Command, demo: &Child) -> Result<ExitStatus> {
    let mut child = daemon
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::line(daemon)))?;
    // Until the daemon has ended, these signals are for it, and the demo must be ended after it.
    let (daemon_pid, demo_pid) = (Pid::from_child(&child), Pid::from_child(demo));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // SAFETY: all that the handler does is one or two system calls that are safe in a signal handler.
        let registered = unsafe {
            register_sigaction(signal.as_raw(), move |info| {
                // What the terminal sends (a positive code), the daemon gets as well. A daemon that sudo
                // runs is not ours to signal, but it stops when its service is gone.
                if info.si_code <= 0 && kill_process(daemon_pid, signal).is_err() {
                    let _ = kill_process(demo_pid, Signal::KILL);
                }
            })
        };
        registered.context("cannot handle signals")?;
    }
    Ok(child.wait()?)
}

fn build(demo: bool) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "slowburn",
        "--bin",
        "slowburn",
    ]);
    if demo {
        cargo.args(["--package", "slowburn-tests", "--bin", DEMO]);
    }
    command::run(&mut cargo)
}

/// A command that runs a program as root.
fn as_root(program: &Path) -> Result<Command> {
    if command::is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = command::find_in_path("sudo") else {
        bail!(
            "slowburn needs root, and there is no sudo on PATH to get it; \
             run the same command as root (su -), or install sudo"
        );
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

/// Starts the demo as the invoking user.
fn start_demo(program: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // Ctrl-C is for the daemon. It shall not see its service vanish while it writes its last window.
    command.process_group(0);
    let mut child = command::end_with_us(&mut command)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    // A demo that cannot start says so at once, and then there would be nothing to watch.
    thread::sleep(Duration::from_millis(200));
    if let Some(status) = child.try_wait()? {
        bail!(
            "the demo service ended at once ({status}); run {} to see why",
            program.display()
        );
    }
    Ok(child)
}

fn with_demo_defaults(args: &[OsString]) -> Vec<OsString> {
    let mut all = ["--service", DEMO, "--exit-with-target"]
        .map(OsString::from)
        .to_vec();
    if has_any(args, &["--exit-with-target"]) {
        all.pop();
    }
    for (long, short, value) in DEMO_DEFAULTS {
        if !has_any(args, &[long]) && !short.is_some_and(|short| has_short(args, short)) {
            all.extend([OsString::from(long), value.into()]);
        }
    }
    all.extend_from_slice(args);
    all
}

/// Whether one of the options is there, as `--option value` or `--option=value`.
fn has_any(args: &[OsString], options: &[&str]) -> bool {
    args.iter().any(|arg| {
        let text = arg.to_string_lossy();
        let name = text.split_once('=').map_or(&*text, |(name, _)| name);
        options.contains(&name)
    })
}

/// Whether a short option is there, perhaps behind others (`-qo file`) or before its value (`-ofile`).
fn has_short(args: &[OsString], option: char) -> bool {
    args.iter().any(|arg| {
        let text = arg.to_string_lossy();
        text.strip_prefix('-')
            .is_some_and(|letters| !letters.starts_with('-') && letters.contains(option))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn every_way_to_name_a_target_counts() {
        for list in [
            &["--service", "nginx"][..],
            &["--pid=1"],
            &["--window", "1s", "--cgroup", "/x"],
            &["--container=a"],
            &["--unit", "a.service"],
            &["--process", "a"],
            &["--help"],
            &["-h"],
        ] {
            assert!(has_any(&args(list), &TARGETS), "{list:?}");
        }
    }

    #[test]
    fn other_arguments_are_no_target() {
        for list in [
            &[][..],
            &["--window", "1s"],
            &["--output=--pidfile"],
            &["--services"],
            &["service"],
        ] {
            assert!(!has_any(&args(list), &TARGETS), "{list:?}");
        }
    }

    #[test]
    fn demo_defaults_give_way() {
        assert_eq!(
            with_demo_defaults(&args(&[])),
            args(&[
                "--service",
                DEMO,
                "--exit-with-target",
                "--window",
                "1s",
                "--output",
                "slowburn.jsonl"
            ])
        );
        assert_eq!(
            with_demo_defaults(&args(&["--window=5s", "--output", "-"])),
            args(&[
                "--service",
                DEMO,
                "--exit-with-target",
                "--window=5s",
                "--output",
                "-"
            ])
        );
        for list in [&["-o", "a"][..], &["-oa"], &["-qo", "a"]] {
            let all = with_demo_defaults(&args(list));
            assert!(!all.iter().any(|arg| arg == DEMO_OUTPUT), "{list:?}");
        }
        assert!(
            with_demo_defaults(&args(&["-q"]))
                .iter()
                .any(|arg| arg == DEMO_OUTPUT)
        );
    }
}
