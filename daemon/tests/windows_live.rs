//! `slowburn run` from its options to its stream, over a system that is made up: see `fake_etw`.
#![cfg(windows)]

#[path = "../../probes/tests/fake_etw/mod.rs"]
#[expect(dead_code, reason = "what a run cannot tell is tested with the source")]
mod fake_etw;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::{JoinHandle, spawn},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use fake_etw::{Fake, of_recording, shop};
use serde_json::Value;
use slowburn::{
    cli::{self, Cli},
    commands::{live, platform},
};
use slowburn_probes::{etw::writer::Form, windows::SESSION};
use tempfile::TempDir;

/// Ten waits of 3 ms, and ten megabytes, of this very process: one that runs is to be attached to.
fn record(path: &Path) -> std::io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.expect("it is after 1970").as_nanos() as u64 / 100;
    let form = Form {
        start_filetime: now + 116_444_736_000_000_000,
        ..Form::default()
    };
    shop::write(path, form, std::process::id(), 10)
}

/// A run in a thread of this program, where the made-up system is.
struct Running {
    directory: TempDir,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let output = output(&directory);
        let own = std::process::id().to_string();
        let mut words = vec![
            "slowburn", "run", "--pid", &own, "--quiet", "--window", "1s",
        ];
        words.extend(["-o", output.to_str().expect("text")]);
        words.extend(args);
        let cli::Command::Run(run) = Cli::parse_from(words).command else {
            unreachable!("the arguments say run");
        };
        Self {
            directory,
            thread: spawn(move || live::run(*run, |_| true, false)),
        }
    }

    /// The records, once it has ended.
    fn records(self) -> (anyhow::Result<()>, Vec<Value>) {
        let result = self.thread.join().expect("it does not panic");
        let text = fs::read_to_string(output(&self.directory)).expect("there is output");
        let schema = include_str!("../../docs/schema/v1.json");
        let schema = serde_json::from_str(schema).expect("the schema is JSON");
        let schema = jsonschema::validator_for(&schema).expect("the schema is one");
        let records = text.lines().map(|line| {
            let record = serde_json::from_str(line).expect("a line is JSON");
            assert!(schema.is_valid(&record), "{line}");
            record
        });
        (result, records.collect())
    }
}

fn output(directory: &TempDir) -> PathBuf {
    directory.path().join("events.jsonl")
}

fn started(fake: &Fake) {
    let begun = Instant::now();
    while fake.sessions() != [SESSION] {
        assert!(begun.elapsed() < Duration::from_secs(20), "no session");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn sum(records: &[Value], scope: &str, field: [&str; 2]) -> u64 {
    let windows = records
        .iter()
        .filter(|record| record["type"] == "window" && record["scope"] == scope);
    windows
        .filter_map(|window| window[field[0]][field[1]].as_u64())
        .sum()
}

#[test]
fn from_the_callback_to_the_stream() {
    let fake = Fake::new();
    let recording = tempfile::NamedTempFile::new().expect("a file");
    let running = Running::start(&["--duration", "3s", "--events", "all"]);
    started(&fake);
    record(recording.path()).expect("it can be written");
    fake.send(SESSION, of_recording(recording.path()));
    let (result, records) = running.records();
    result.expect("it ends in order");
    let first = &records[0];
    assert_eq!(first["type"], "start");
    assert_eq!(first["hooks"]["sched"], "etw");
    assert_eq!(first["targets"][0]["rule"], "pid");
    assert!(
        first["host"]["kernel"]
            .as_str()
            .expect("text")
            .starts_with("Windows 10.")
    );
    assert_eq!(sum(&records, "process", ["delay", "count"]), 10);
    assert_eq!(sum(&records, "process", ["delay", "sum_ns"]), 30_000_000);
    assert_eq!(
        sum(&records, "process", ["memory", "committed_bytes"]),
        10 << 20
    );
    let count = |name: &str| {
        records
            .iter()
            .filter(|record| record["type"] == name)
            .count()
    };
    assert_eq!((count("delay"), count("mapping")), (10, 10));
    // What the host says itself, once a window.
    let rss = records
        .iter()
        .filter_map(|record| record["kernel"]["rss_bytes"].as_u64());
    assert!(rss.max() > Some(1 << 20));
    let threads = records
        .iter()
        .filter_map(|record| record["kernel"]["threads"].as_u64());
    assert!(threads.max() >= Some(2));
    let last = records.last().expect("there are records");
    assert_eq!(
        (&last["type"], &last["reason"]),
        (&"stop".into(), &"duration".into())
    );
    assert_eq!(fake.sessions(), [""; 0]);
}

/// As the service control manager has it stop.
#[test]
fn it_stops_when_it_is_told_to() {
    let fake = Fake::new();
    let running = Running::start(&[]);
    started(&fake);
    std::thread::sleep(Duration::from_millis(1_500));
    platform::run::STOP.notify_one();
    let (result, records) = running.records();
    result.expect("it ends in order");
    assert_eq!(
        records.last().expect("there are records")["reason"],
        "signal"
    );
    assert_eq!(fake.sessions(), [""; 0]);
}

#[test]
fn losses_are_records() {
    let fake = Fake::new();
    let running = Running::start(&["--duration", "2s"]);
    started(&fake);
    fake.lose(SESSION, 40, 2);
    let (result, records) = running.records();
    result.expect("it ends in order");
    let losses: Vec<_> = records
        .iter()
        .filter(|record| record["type"] == "loss")
        .collect();
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert_eq!(
        (&losses[0]["class"], &losses[0]["count"]),
        (&"trace".into(), &42.into())
    );
    assert_eq!(
        records.last().expect("there are records")["lost"]["trace"],
        42
    );
}

#[test]
fn a_session_that_somebody_ends_is_an_error() {
    let fake = Fake::new();
    let running = Running::start(&[]);
    started(&fake);
    std::thread::sleep(Duration::from_millis(300));
    fake.end(SESSION);
    let (result, records) = running.records();
    let error = result.expect_err("nothing comes any more").to_string();
    assert!(error.contains("session"), "{error}");
    assert_eq!(
        records.last().expect("there are records")["reason"],
        "error"
    );
}

/// The program itself, over wine's own calls, which let nobody trace: one sentence, and no session is left.
#[test]
fn without_rights_the_program_says_so_in_one_sentence() {
    // There is one slowburn on a host.
    let _only = Fake::new();
    let own = std::process::id().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slowburn"));
    let output = command
        .args(["run", "--pid", &own, "--duration", "1s"])
        .output();
    let output = output.expect("it can be started");
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("SKIP: this system lets us trace");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.contains("administrator"), "{text}");
}

#[test]
fn the_program_says_what_it_supports_and_what_runs() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slowburn"));
        command.args(args).output().expect("it can be started")
    };
    let doctor = run(&["doctor", "--json"]);
    let found: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let names: Vec<_> = found["checks"].as_array().expect("a list").iter().collect();
    assert!(
        names.iter().any(|check| check["name"] == "elevation"),
        "{found}"
    );
    assert!(
        names[0]["found"].as_str().expect("text").contains("build"),
        "{found}"
    );
    let services = run(&["services", "--json"]);
    assert!(services.status.success());
    for line in String::from_utf8_lossy(&services.stdout).lines() {
        let service: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(service["rule"], "service");
    }
    let nothing = run(&["run", "--service", "no such service", "--duration", "1s"]);
    let text = String::from_utf8_lossy(&nothing.stderr);
    assert!(text.contains("no service or process named"), "{text}");
}
