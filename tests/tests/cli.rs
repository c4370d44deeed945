//! The command line: what it refuses, and in which words.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;
use slowburn_tests::{Workload, binary, install, needs_tracing, skip, slowburn, stderr_of};

/// A paragraph that says what is wrong, and no more.
#[track_caller]
fn refuses(args: &[&str], code: i32, text: &str) {
    let output = slowburn(args);
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(text), "{args:?}: {said}");
    assert!(
        !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
        "{args:?}: {said}"
    );
    assert!(said.lines().count() <= 12, "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn wrong_usage_is_explained() {
    refuses(&["run"], 2, "--service");
    refuses(
        &["run", "--service", "a", "--pid", "1"],
        2,
        "cannot be used with",
    );
    refuses(&["run", "--service", "a", "--window", "soon"], 2, "10s");
    refuses(
        &["run", "--service", "a", "--window", "0s"],
        2,
        "must be between",
    );
    refuses(
        &["run", "--service", "a", "--ring-size", "5000"],
        2,
        "power of two",
    );
    refuses(&["run", "--service", "a", "--max-tasks", "0"], 2, "16");
    refuses(
        &["run", "--service", "a", "--hooks", "sched=magic"],
        2,
        "tp_btf, raw, classic",
    );
    refuses(&["run", "--service", "a", "--events", "some"], 2, "slow");
    refuses(
        &["run", "--service", "a", "--rotate-keep", "3"],
        2,
        "--rotate-size",
    );
    refuses(&["run", "--service", " "], 2, "empty");
    refuses(&["run", "--pid", "0"], 2, "0");
    refuses(&["run", "--pid", "x"], 2, "x");
    refuses(&["walk"], 2, "walk");
    refuses(&["replay"], 2, "FILE");
}

#[test]
fn failures_are_one_line() {
    for (args, text) in [
        (
            &["replay", "/nonexistent/recording.jsonl"][..],
            "/nonexistent/recording.jsonl",
        ),
        (&["replay", "/etc/passwd"], "line 1"),
        (&["run", "--cgroup", "/nonexistent"], "/nonexistent"),
        (
            &["run", "--service", "no-such-service-anywhere"],
            "no-such-service-anywhere",
        ),
    ] {
        let output = slowburn(args);
        let said = stderr_of(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains(text) && said.starts_with("slowburn: "),
            "{args:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn output_that_cannot_be_opened_is_named() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    refuses(
        &[
            "run",
            "--pid",
            &workload.pid_text(),
            "--output",
            "/nonexistent/x.jsonl",
        ],
        1,
        "cannot write to /nonexistent/x.jsonl",
    );
}

#[test]
fn help_and_version_work() {
    for (args, text) in [
        (&["--help"][..], "doctor"),
        (&["run", "--help"], "--exit-with-target"),
        (&["--version"], "slowburn "),
    ] {
        let output = slowburn(args);
        assert!(output.status.success());
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(text),
            "{args:?}"
        );
    }
}

#[test]
fn without_privileges_it_says_sudo() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let directory = tempfile::tempdir().expect("a directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let program = directory.path().join("slowburn");
    install(&binary("slowburn"), &program);
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(args);
        command.output()
    };
    match as_nobody(&["--version"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => skip!("setpriv cannot run it as nobody: {}", stderr_of(&output)),
        Err(error) => skip!("setpriv cannot be started: {error}"),
    }
    let output = as_nobody(&["run", "--pid", &workload.pid_text()]).expect("it was started before");
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sudo"), "{said}");
    assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    assert!(output.stdout.is_empty());

    let doctor = as_nobody(&["doctor"]).expect("it was started before");
    assert_eq!(doctor.status.code(), Some(1), "{}", stderr_of(&doctor));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("FAIL"));
}

#[test]
fn doctor_finds_nothing_wrong_here() {
    needs_tracing!();
    let output = slowburn(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        stderr_of(&output)
    );
    assert!(
        text.contains("sched hooks: ") && !text.contains("FAIL"),
        "{text}"
    );
    let output = slowburn(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(
        report["hooks"]["sched"].is_string() && report["error"].is_null(),
        "{report}"
    );
}
