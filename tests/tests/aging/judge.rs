//! What slowburn concludes of a recording in fast motion: windows of 250 ms are told to be longer before they are judged. Counts
//! stay what they are; times that are shares of a window become longer with it.

use std::{env, fs, path::Path};

use jiff::Timestamp;
use serde_json::Value;
use slowburn::stream::{Flag, Incident, Line, Record};
use slowburn_tests::{slowburn, stderr_of};

/// How much longer windows are told to be: 10 s.
pub const FASTER: u64 = 40;

pub const WINDOW: &str = "250ms";

/// What was concluded.
#[derive(Default)]
pub struct Judgement {
    pub incidents: Vec<Incident>,
    pub flags: Vec<Flag>,
}

/// These take minutes, on a machine that does nothing else.
pub fn are_asked_for() -> bool {
    let asked = env::var_os("SLOWBURN_TRIALS").is_some();
    if !asked {
        println!("SKIP minutes on a machine that does nothing else; set SLOWBURN_TRIALS=1");
    }
    asked
}

/// What the daemon concludes of a recording in fast motion.
///
/// # Panics
/// If it cannot be replayed.
pub fn judge(name: &str, recording: &str, faster: u64) -> Judgement {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let slow = directory.path().join("slow.jsonl");
    fs::write(&slow, slower(recording, faster)).expect("it can be written");
    let path = slow.display().to_string();
    let output = slowburn(&["replay", &path, "--output", "-", "--quiet"]);
    assert!(output.status.success(), "{}", stderr_of(&output));
    if let Ok(kept) = env::var("SLOWBURN_KEEP_RECORDINGS") {
        let kept = Path::new(&kept);
        fs::create_dir_all(kept).expect("it can be made");
        fs::write(kept.join(format!("{name}.jsonl")), &output.stdout).expect("it can be written");
    }
    let text = String::from_utf8(output.stdout).expect("it is text");
    let mut judgement = Judgement::default();
    for line in text.lines() {
        match serde_json::from_str::<Line>(line)
            .expect("it is a record")
            .record
        {
            Record::Incident(incident) => judgement.incidents.push(*incident),
            Record::Flag(flag) => judgement.flags.push(*flag),
            _ => {}
        }
    }
    judgement
}

/// Incidents as lines of text.
pub fn summaries(incidents: &[Incident]) -> String {
    let lines = incidents
        .iter()
        .map(|incident| format!("\n    {:?} {}", incident.state, incident.summary));
    lines.collect::<Vec<_>>().concat()
}

/// A recording as it would have been in slow motion.
fn slower(recording: &str, faster: u64) -> String {
    let begin = recording
        .lines()
        .next()
        .map(|line| record(line)["ts"].take());
    let begin = time(&begin.expect("there is a first record"));
    let lines = recording
        .lines()
        .map(|line| slower_line(record(line), begin, faster).to_string() + "\n");
    lines.collect()
}

fn record(line: &str) -> Value {
    serde_json::from_str(line).expect("a record")
}

fn time(value: &Value) -> Timestamp {
    serde_json::from_value(value.clone()).expect("a time")
}

fn slower_line(mut line: Value, begin: Timestamp, faster: u64) -> Value {
    for name in ["ts", "process.creation.time", "thread.creation.time"] {
        if let Some(value) = line.get_mut(name) {
            // So many times as far from the beginning.
            let since = time(value).duration_since(begin);
            let later = begin + since * i32::try_from(faster).expect("small");
            *value = format!("{later:.9}").into();
        }
    }
    for place in [
        "/period_ns",
        "/kernel/cpu_ns",
        "/kernel/throttled_ns",
        "/kernel/host_steal_ns",
    ] {
        if let Some(value) = line.pointer_mut(place)
            && let Some(ns) = value.as_u64()
        {
            *value = (ns * faster).into();
        }
    }
    line
}
