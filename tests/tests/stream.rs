//! The form of a real stream: every line, every type of record.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use slowburn::stream::Record;
use slowburn_tests::{Daemon, Workload, binary, eventually, needs_tracing};

/// Runs a service that leaks and one that floods a small ring, so that there is something of every type.
fn stream_of_everything() -> (String, Vec<String>) {
    let demo = std::process::Command::new(binary("slowburn-demo"))
        .args(["--memory", "65536", "--threads", "20"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the demo can be started");
    let mut demo = Killed(demo);
    let mut flood = Workload::start(&["mappings", "--rate", "20000", "--seconds", "1"]);
    let (demo_pid, flood_pid) = (demo.0.id().to_string(), flood.pid_text());
    let mut daemon = Daemon::start(&[
        "--pid",
        &demo_pid,
        "--pid",
        &flood_pid,
        "--events",
        "all",
        "--ring-size",
        "4KiB",
        "--window",
        "200ms",
    ]);
    flood.work();
    daemon.wait_for("flag", |record| matches!(record, Record::Flag(_)));
    demo.0.kill().expect("it runs");
    demo.0.wait().expect("it is a child");
    daemon.wait_for_process(demo.0.id(), slowburn::stream::TargetEventKind::Exited);
    daemon.signal(Signal::TERM);
    let finished = daemon.finish();
    let text = finished.text();
    let lines = text.lines().map(str::to_owned).collect();
    (text, lines)
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_line_fits_the_schema() {
    needs_tracing!();
    let (text, lines) = stream_of_everything();
    assert!(text.ends_with('\n'), "the last line is whole");
    let schema =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/v1.json"))
            .expect("the schema is there");
    let schema: Value = serde_json::from_str(&schema).expect("it is JSON");
    let schema = jsonschema::validator_for(&schema).expect("it is a schema");
    let mut counts = BTreeMap::<String, u64>::new();
    let mut values = Vec::new();
    for line in &lines {
        let value: Value = serde_json::from_str(line).expect("it is JSON");
        let kind = value["type"]
            .as_str()
            .expect("every line has a type")
            .to_owned();
        let ts = value["ts"].as_str().expect("every line has a time");
        let head = format!(r#"{{"v":1,"type":"{kind}","ts":"{ts}""#);
        assert!(
            line.starts_with(&head),
            "begins with version, type and time: {line}"
        );
        let decimals = ts.split_once('.').map_or("", |(_, rest)| rest);
        assert!(
            decimals.len() == 10 && decimals.ends_with('Z'),
            "nine decimals, UTC: {ts}"
        );
        *counts.entry(kind).or_default() += 1;
        values.push(value);
    }
    // The kinds of the same type look the same: a few thousand are enough, but of every type.
    let mut checked = BTreeMap::<&str, u32>::new();
    for value in &values {
        let done = checked
            .entry(value["type"].as_str().expect("as above"))
            .or_default();
        *done += 1;
        if *done <= 2_000 {
            let errors: Vec<_> = schema
                .iter_errors(value)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{value}: {errors:?}");
        }
    }
    let types: Vec<_> = counts.keys().map(String::as_str).collect();
    assert_eq!(
        types,
        [
            "delay", "flag", "incident", "loss", "mapping", "start", "stop", "target", "thread",
            "window"
        ]
    );
    println!(
        "{} lines, checked against the schema: {checked:?}",
        lines.len()
    );

    assert_eq!(values[0]["type"], "start");
    let stop = values.last().expect("there are lines");
    assert_eq!(stop["type"], "stop");
    assert_eq!(stop["reason"], "signal");
    assert_eq!(
        counts.remove("stop"),
        Some(1),
        "one stop, which does not count itself"
    );
    assert_eq!(
        serde_json::from_value::<BTreeMap<String, u64>>(stop["records"].clone()).expect("numbers"),
        counts
    );
    let lost: u64 = values
        .iter()
        .filter(|value| value["type"] == "loss")
        .filter_map(|value| value["count"].as_u64())
        .sum();
    let told: u64 = stop["lost"]
        .as_object()
        .expect("a table")
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(lost, told, "the losses add up to those of the stop record");
}

#[test]
fn schema_command_prints_the_schema() {
    let output = slowburn_tests::slowburn(&["schema"]);
    assert!(output.status.success());
    let printed: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let committed = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/v1.json"))
        .expect("the schema is there");
    assert_eq!(
        printed,
        serde_json::from_slice::<Value>(&committed).expect("it is JSON")
    );
}

#[test]
fn types_can_be_left_out() {
    needs_tracing!();
    let mut workload = Workload::start(&["threads", "--rate", "500", "--seconds", "0.5"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--events",
        "none",
        "--window",
        "200ms",
    ]);
    workload.work();
    let finished = daemon.stop();
    let of_type = |name: &str| {
        finished
            .lines
            .iter()
            .filter(|line| line.record.type_name() == name)
            .count()
    };
    assert_eq!(
        (of_type("thread"), of_type("mapping"), of_type("delay")),
        (0, 0, 0)
    );
    let created: u64 = finished
        .process_windows(workload.pid())
        .iter()
        .filter_map(|w| w.threads.as_ref())
        .map(|t| t.created)
        .sum();
    assert_eq!(created, 250, "they are in the windows all the same");
}

#[test]
fn runs_for_a_given_time() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--duration",
        "700ms",
        "--window",
        "200ms",
    ]);
    let finished = daemon.finish();
    let stop = finished.stop_record();
    assert_eq!(stop.reason, slowburn::stream::StopReason::Duration);
    assert!(
        (700_000_000..5_000_000_000).contains(&stop.ran_ns),
        "{}",
        stop.ran_ns
    );
    let windows = finished.process_windows(workload.pid());
    assert!(
        !windows.is_empty() && windows.len() <= 5,
        "3 or 4 windows of 200 ms in 700 ms: {}",
        windows.len()
    );
    let covered: u64 = windows.iter().map(|w| w.period_ns).sum();
    // The first one begins when the hooks are attached, shortly before the run.
    assert!(
        covered.abs_diff(stop.ran_ns) < 400_000_000,
        "the windows cover the run: {covered} of {}",
        stop.ran_ns
    );
    // The process is still there, and nothing of it was changed.
    eventually("the workload is still there", || {
        (slowburn_tests::status(workload.pid(), "Threads") == 1).then_some(())
    });
}
