//! A recording replayed gives the same findings.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use slowburn::stream::{FlagState, Record};
use slowburn_tests::{Daemon, binary, needs_tracing, slowburn, stderr_of};

/// The lines that the detector makes or takes.
fn findings(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the recording is there");
    text.lines()
        .filter(|line| {
            line.starts_with(r#"{"v":1,"type":"flag""#) || line.contains(r#""type":"window""#)
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn replay_flags_the_same() {
    needs_tracing!();
    let mut demo = Command::new(binary("slowburn-demo"))
        .args(["--memory", "32768", "--threads", "10"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo can be started");
    let pid = demo.id().to_string();
    let mut daemon = Daemon::start(&["--pid", &pid, "--window", "200ms"]);
    for metric in ["committed_bytes", "threads_live"] {
        daemon.wait_for(metric, |record| {
            matches!(record, Record::Flag(flag) if flag.state == FlagState::Raised && serde_json::to_value(flag.metric).is_ok_and(|m| m == metric))
        });
    }
    demo.kill().expect("it runs");
    demo.wait().expect("it is a child");
    let finished = daemon.finish();
    let live = findings(finished.path());
    let flags = live
        .iter()
        .filter(|line| line.contains(r#""type":"flag""#))
        .count();
    assert!(flags >= 2, "{flags}");
    println!("{} windows, {flags} flag records", live.len() - flags);

    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut recording = finished.path().to_owned();
    for round in 1..=2 {
        let output = directory.path().join(format!("replayed-{round}.jsonl"));
        let done = slowburn(&[
            "replay",
            recording.to_str().expect("text"),
            "--output",
            output.to_str().expect("text"),
            "--quiet",
        ]);
        assert!(done.status.success(), "{}", stderr_of(&done));
        assert_eq!(findings(&output), live, "round {round}");
        let lines = |path: &Path| {
            fs::read_to_string(path)
                .expect("it is there")
                .lines()
                .count()
        };
        assert_eq!(
            lines(&output),
            lines(finished.path()),
            "everything else passes through"
        );
        // The second round replays what the first one wrote.
        recording = output;
    }
}

/// Without flags in it, and through a pipe: they are made anew.
#[test]
fn replay_makes_the_flags_itself() {
    needs_tracing!();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = directory.path().join("recording.jsonl");
    fs::write(&recording, climbing(40)).expect("the directory is ours");
    let done = slowburn(&["replay", recording.to_str().expect("text"), "--quiet"]);
    assert!(done.status.success(), "{}", stderr_of(&done));
    let text = String::from_utf8(done.stdout).expect("it is text");
    let flags: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["type"] == "flag")
        .collect();
    assert!(
        flags
            .iter()
            .any(|flag| flag["metric"] == "threads_live" && flag["state"] == "raised"),
        "{flags:?}"
    );
    assert!(
        flags.iter().all(|flag| flag["metric"] == "threads_live"),
        "{flags:?}"
    );
}

/// A single event, as version 1 of the stream has them.
fn event(n: u32) -> String {
    format!(
        r#"{{"v":1,"type":"thread","ts":"2026-01-01T00:00:00.{n:09}Z","event":"started","service.name":"s","process.pid":7,"process.creation.time":"2026-01-01T00:00:00.000000000Z","thread.id":8,"thread.name":"t","thread.creation.time":"2026-01-01T00:00:00.000000000Z"}}"#
    ) + "\n"
}

/// Replays a file from standard input.
fn replay_input(recording: &Path, output: &str) -> Output {
    Command::new(binary("slowburn"))
        .args(["replay", "-", "--output", output])
        .stdin(File::open(recording).expect("it is there"))
        .output()
        .expect("slowburn can be started")
}

/// More than fits any buffer on the way, and the last line as `kill -9` leaves it.
#[test]
fn a_recording_that_was_cut_off_is_replayed_up_to_there() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = directory.path().join("recording.jsonl");
    let whole: String = (0..10_000).map(event).collect();
    fs::write(&recording, whole.clone() + &event(1)[..100]).expect("the directory is ours");
    let name = recording.to_str().expect("text");
    let by_name = slowburn(&["replay", name]);
    let by_input = replay_input(&recording, "-");
    for (done, name) in [(by_name, name), (by_input, "standard input")] {
        assert_eq!(done.status.code(), Some(1));
        let expected = format!(
            "slowburn: {name} ends within line 10001, as if cut off; everything before it has been replayed: EOF"
        );
        let said = stderr_of(&done);
        assert!(said.starts_with(&expected), "{said}");
        assert!(
            done.stdout == whole.as_bytes(),
            "all before comes out as it is"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_to_is_named() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = directory.path().join("recording.jsonl");
    fs::write(&recording, event(1)).expect("the directory is ours");
    let done = replay_input(&recording, "/dev/full");
    let said = stderr_of(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("slowburn: cannot write to /dev/full: "),
        "{said}"
    );
}

/// It would never end.
#[test]
fn a_recording_is_not_replayed_into_itself() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = directory.path().join("recording.jsonl");
    fs::write(&recording, event(1)).expect("the directory is ours");
    let done = replay_input(&recording, recording.to_str().expect("text"));
    let said = stderr_of(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("into itself"), "{said}");
    assert_eq!(fs::read_to_string(&recording).expect("text"), event(1));
}

/// As with `slowburn replay FILE | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let recording = directory.path().join("recording.jsonl");
    fs::write(&recording, (0..10_000).map(event).collect::<String>())
        .expect("the directory is ours");
    let mut replay = Command::new(binary("slowburn"))
        .arg("replay")
        .arg(&recording)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("slowburn can be started");
    drop(replay.stdout.take());
    let done = replay.wait_with_output().expect("it is a child");
    assert!(
        done.status.success() && done.stderr.is_empty(),
        "{}",
        stderr_of(&done)
    );
}

/// Windows of a process that gains two threads in each, as version 1 of the stream has them.
fn climbing(windows: u32) -> String {
    let calls = [
        "map", "unmap", "remap", "brk", "advise", "protect", "failed",
    ]
    .map(|call| format!(r#""{call}_calls":0"#))
    .join(",");
    let bytes = [
        "reserved",
        "committed",
        "released",
        "decommitted",
        "discarded",
    ]
    .map(|kind| format!(r#""{kind}_bytes":0"#))
    .join(",");
    let line = |n: u32| {
        format!(
            r#"{{"v":1,"type":"window","ts":"2026-01-01T00:{:02}:{:02}.000000000Z","scope":"process","service.name":"s","process.pid":7,"process.creation.time":"2026-01-01T00:00:00.000000000Z","period_ns":10000000000,"delay":{{"count":0,"sum_ns":0,"max_ns":0}},"memory":{{{bytes},{calls}}},"threads":{{"live":{},"created":2,"exited":0}},"kernel":{{}},"lost":0}}"#,
            n / 6,
            n % 6 * 10,
            10 + 2 * n
        )
    };
    (1..=windows).map(|n| line(n) + "\n").collect()
}
