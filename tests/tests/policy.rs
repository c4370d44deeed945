//! A policy: checked, in force in a run and in a replay, and said to be.

use std::{fs, path::Path, process::Command};

use slowburn::stream::{FlagKind, FlagState, Line, Metric, Record};
use slowburn_tests::{Daemon, Workload, needs_tracing, slowburn, stderr_of};

const POLICY: &str = r#"
[run]
window = "100ms"
events = "none"

[default]
metrics.fds = { above = 1, for = "2 windows" }
metrics.rss_bytes = { above = "1B", for = "1 window" }

[[default.ignore]]
kind = "threshold"
metric = "rss_bytes"
"#;

fn lines(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).expect("the stream is there");
    let read = |line| serde_json::from_str(line).expect("it is a record");
    text.lines().map(read).collect()
}

fn thresholds(lines: &[Line]) -> Vec<(String, Metric, FlagState)> {
    let of = |line: &Line| match &line.record {
        Record::Flag(flag) if flag.kind == FlagKind::Threshold => {
            Some((flag.id.clone(), flag.metric, flag.state))
        }
        _ => None,
    };
    lines.iter().filter_map(of).collect()
}

/// The rules of what was told to be ignored, and the counts at the end.
fn ignored(lines: &[Line]) -> (Vec<&str>, Vec<(&str, u64)>) {
    let told = lines.iter().filter_map(|line| match &line.record {
        Record::Ignored(ignored) => Some(ignored.rule.as_str()),
        _ => None,
    });
    let Some(Record::Stop(stop)) = lines.last().map(|line| &line.record) else {
        panic!("no stop");
    };
    let counts = stop.ignored.iter();
    (
        told.collect(),
        counts
            .map(|(rule, count)| (rule.as_str(), *count))
            .collect(),
    )
}

#[test]
fn a_run_goes_by_its_policy_and_a_replay_by_its_own() {
    needs_tracing!();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let config = directory.path().join("policy.toml");
    fs::write(&config, POLICY).expect("the directory is ours");
    let config = config.to_str().expect("text");
    let workload = Workload::start(&["idle-threads"]);
    let pid = workload.pid_text();
    let mut daemon = Daemon::start(&["--pid", &pid, "--config", config, "--events", "slow"]);
    daemon.wait_for("flag", |record| matches!(record, Record::Flag(_)));
    let finished = daemon.stop();

    let live = lines(finished.path());
    let Some(Record::Start(start)) = live.first().map(|line| &line.record) else {
        panic!("no start");
    };
    assert_eq!(start.limits.window_ns, 100_000_000, "as the policy says");
    assert!(
        start.limits.slow_ns.is_some(),
        "the command line counts more"
    );
    let policy = start.policy.as_ref().expect("there is one");
    assert_eq!((policy.services, policy.ignoring), (0, 1));
    let sum = Command::new("sha256sum")
        .arg(config)
        .output()
        .expect("it is there");
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    assert_eq!(sum.split(' ').next(), Some(policy.sha256.as_str()));
    let text = fs::read_to_string(finished.path()).expect("it is there");
    assert!(!text.contains(config), "the path is nobody's business");
    let raised = ("f1".to_owned(), Metric::Fds, FlagState::Raised);
    assert_eq!(thresholds(&live), [raised]);
    let rule = "metric = \"rss_bytes\", kind = \"threshold\"";
    assert_eq!(ignored(&live), (vec![rule], vec![(rule, 1)]));

    let recording = finished.path().to_str().expect("text");
    let replay = |args: &[&str]| {
        let output = directory.path().join("replayed.jsonl");
        let _ = fs::remove_file(&output);
        let output = output.to_str().expect("text");
        let all = [&["replay", recording, "--output", output, "--quiet"], args].concat();
        let done = slowburn(&all);
        assert!(done.status.success(), "{}", stderr_of(&done));
        fs::read_to_string(output).expect("it is there")
    };
    assert!(replay(&["--config", config]) == text, "the same comes out");
    let without = replay(&[]);
    assert!(!without.contains("threshold") && !without.contains("\"ignored\""));
    assert!(without.contains(&policy.sha256), "that of the recording");
}

#[test]
fn a_policy_that_is_not_right_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let config = directory.path().join("policy.toml");
    fs::write(&config, "[default]\nlooks = 3\nsensitivty = \"low\"\n").expect("it is ours");
    let config = config.to_str().expect("text");
    let expected = format!("slowburn: {config}:3:1: default.sensitivty: unknown field");
    for args in [
        &["check-config", config][..],
        &["run", "--pid", "1", "--config", config],
        &["replay", "/dev/null", "--config", config],
    ] {
        let done = slowburn(args);
        let said = stderr_of(&done);
        assert_eq!(done.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with(&expected), "{args:?}: {said}");
        assert!(said.contains("did you mean \"sensitivity\"?"), "{said}");
        assert!(
            done.stdout.is_empty() && said.lines().count() == 1,
            "{said}"
        );
    }
    for (path, text) in [
        ("/nonexistent/p.toml", "No such file"),
        ("/dev/zero", "larger than"),
    ] {
        let done = slowburn(&["check-config", path]);
        let said = stderr_of(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(path) && said.contains(text), "{said}");
    }
}

#[test]
fn what_is_shown_is_a_policy_that_says_the_same() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let config = directory.path().join("policy.toml");
    fs::write(&config, POLICY).expect("the directory is ours");
    let show = || {
        let done = slowburn(&["check-config", config.to_str().expect("text"), "--show"]);
        assert!(done.status.success(), "{}", stderr_of(&done));
        String::from_utf8(done.stdout).expect("it is text")
    };
    let shown = show();
    assert!(shown.contains("window = \"100ms\"") && shown.contains("budget = \"1%\""));
    fs::write(&config, &shown).expect("the directory is ours");
    assert_eq!(show(), shown);
}
