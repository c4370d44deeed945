//! A flag of a recording explained.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use slowburn::stream::{FlagState, Record};
use slowburn_tests::{Daemon, binary, needs_tracing, slowburn, stderr_of};

/// Windows of a process that commits 1 MiB more in each, as version 1 of the stream has them.
fn leaking(windows: u64) -> String {
    let calls = [
        "map", "unmap", "remap", "brk", "advise", "protect", "failed",
    ];
    let calls = calls.map(|call| format!(r#""{call}_calls":0"#)).join(",");
    let flows = [
        "reserved",
        "committed",
        "released",
        "decommitted",
        "discarded",
    ];
    let flows = flows.map(|flow| format!(r#""{flow}_bytes":0"#)).join(",");
    let mut text = String::new();
    for n in 1..=windows {
        let (hour, minute, second) = (n / 360, n / 6 % 60, n % 6 * 10);
        let bytes = (100 + n) << 20;
        let _ = writeln!(
            text,
            r#"{{"v":1,"type":"window","ts":"2026-01-01T{hour:02}:{minute:02}:{second:02}.000000000Z","scope":"process","service.name":"s","process.pid":7,"process.creation.time":"2026-01-01T00:00:00.000000000Z","period_ns":10000000000,"memory":{{{flows},{calls},"standing_committed_bytes":{bytes}}},"kernel":{{}},"lost":0}}"#
        );
    }
    text
}

/// A recording with the flags that the detector makes of it.
fn recorded(directory: &Path, windows: u64) -> PathBuf {
    let plain = directory.join("plain.jsonl");
    fs::write(&plain, leaking(windows)).expect("the directory is ours");
    let output = directory.join("recording.jsonl");
    let (plain, text) = (
        plain.to_str().expect("text"),
        output.to_str().expect("text"),
    );
    let done = slowburn(&["replay", plain, "--output", text, "--quiet"]);
    assert!(done.status.success(), "{}", stderr_of(&done));
    output
}

fn explain(from: &Path, args: &[&str], locale: &str) -> Output {
    Command::new(binary("slowburn"))
        .arg("explain")
        .args(args)
        .arg("--from")
        .arg(from)
        .env("LC_ALL", locale)
        .stdin(Stdio::null())
        .output()
        .expect("slowburn can be started")
}

#[track_caller]
fn text(done: Output) -> String {
    assert!(done.status.success(), "{}", stderr_of(&done));
    String::from_utf8(done.stdout).expect("it is text")
}

#[test]
fn a_flag_is_listed_explained_and_drawn() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = recorded(directory.path(), 1000);
    let list = text(explain(&recording, &[], "C"));
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines.len() >= 2 && lines[0].starts_with("ID"), "{list}");
    assert!(
        lines[1].starts_with("f1  2026-01-01T") && lines[1].contains("committed_bytes"),
        "{list}"
    );

    let plain = text(explain(&recording, &["f1"], "C"));
    assert!(plain.is_ascii(), "{plain}");
    let drawn = text(explain(&recording, &["f1"], "en_US.UTF-8"));
    assert!(drawn.contains('•') && drawn.contains('└'), "{drawn}");
    assert_eq!(drawn.lines().count(), plain.lines().count());
    assert_eq!(
        text(explain(&recording, &["f1", "--ascii"], "en_US.UTF-8")),
        plain
    );
    let chart: Vec<&str> = plain
        .lines()
        .filter(|line| line.contains(" | ") || line.contains(" + "))
        .collect();
    assert!(chart.iter().all(|line| line.len() <= 80), "{plain}");
    for part in [
        "significance (z)",
        "keeps speed",
        "raised: ",
        "If it goes on like this",
        "twice its level",
    ] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(
        plain.contains("  yes") && !plain.contains("  NO"),
        "{plain}"
    );
}

#[test]
fn json_has_the_same() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = recorded(directory.path(), 1000);
    let list = text(explain(&recording, &["--json"], "C"));
    let listed: Value =
        serde_json::from_str(list.lines().next().expect("a flag")).expect("it is JSON");
    assert_eq!((&listed["id"], &listed["run"]), (&"f1".into(), &1.into()));
    let explained: Value = serde_json::from_str(&text(explain(&recording, &["f1", "--json"], "C")))
        .expect("it is JSON");
    assert_eq!(explained["records"][0]["state"], "raised");
    let rules = explained["rules"].as_array().expect("several");
    assert!(
        rules.len() > 5 && rules.iter().all(|rule| rule["passed"] != false),
        "{rules:?}"
    );
    let points = explained["series"]["points"].as_array().expect("several");
    assert!(points.len() > 100, "{points:?}");
    // 1 MiB in each window: the series is a straight line.
    let means: Vec<f64> = points
        .iter()
        .map(|point| point["mean"].as_f64().expect("a number"))
        .collect();
    assert!(
        means.is_sorted() && means[0] >= 101.0 * 1_048_576.0,
        "{means:?}"
    );
}

#[test]
fn what_cannot_be_explained_is_one_line() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = recorded(directory.path(), 1000);
    let refused = |from: &Path, args: &[&str], expected: &str| {
        let done = explain(from, args, "C");
        let said = stderr_of(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("slowburn: ") && said.contains(expected),
            "{said}"
        );
        assert!(
            said.lines().count() == 1 && done.stdout.is_empty(),
            "{said}"
        );
    };
    refused(&recording, &["f9"], "no flag \"f9\"");
    refused(Path::new("/dev/null"), &["f1"], "is not a file");
    refused(
        Path::new("/nonexistent/r.jsonl"),
        &["f1"],
        "cannot read /nonexistent/r.jsonl",
    );
    refused(Path::new("/etc/passwd"), &["f1"], "line 1, is not a record");
}

/// Of everything that a real service is flagged for, the rules are said to have been passed.
#[test]
fn what_was_raised_live_has_passed_its_rules() {
    needs_tracing!();
    let mut demo = Command::new(binary("slowburn-demo"))
        .args(["--memory", "32768", "--threads", "10"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo can be started");
    let pid = demo.id().to_string();
    let mut daemon = Daemon::start(&["--pid", &pid, "--window", "200ms", "--events", "all"]);
    for metric in ["committed_bytes", "threads_live"] {
        daemon.wait_for(metric, |record| {
            matches!(record, Record::Flag(flag) if flag.state == FlagState::Raised && serde_json::to_value(flag.metric).is_ok_and(|m| m == metric))
        });
    }
    demo.kill().expect("it runs");
    demo.wait().expect("it is a child");
    let finished = daemon.finish();
    let list = text(explain(finished.path(), &["--json"], "C"));
    let mut explained = 0;
    for line in list.lines() {
        let listed: Value = serde_json::from_str(line).expect("it is JSON");
        let id = listed["id"].as_str().expect("a name");
        let said = text(explain(finished.path(), &[id], "C"));
        assert!(said.contains("  yes") && !said.contains("  NO"), "{said}");
        assert!(said.contains("mean of windows"), "{said}");
        explained += 1;
    }
    assert!(explained >= 2, "{list}");
}
