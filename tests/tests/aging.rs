//! Services that get worse, each in one way, and healthy ones that look like it: the likeliest cause of the one is the right
//! one, and the other is left alone.
//!
//! Real processes, in fast motion: windows of 250 ms are told to be of 10 s before they are judged, so that a minute is
//! forty. Counts stay what they are; times that are shares of a window become longer with it.

use std::{fs, thread, time::Duration};

use serde_json::Value;
use slowburn::stream::{CauseKind, Incident, Line, Record};
use slowburn_tests::{Daemon, Workload, needs_tracing, slowburn, stderr_of};

/// How much longer windows are told to be.
const FASTER: u64 = 40;

const WINDOW: &str = "250ms";

/// How long what gets worse does so. What is healthy is watched twice as long.
const SECONDS: u64 = 60;

/// A service, and what it is to be taken for.
struct Trial {
    course: &'static str,
    cause: Option<CauseKind>,
}

fn sick(course: &'static str, cause: CauseKind) -> Trial {
    Trial {
        course,
        cause: Some(cause),
    }
}

fn healthy(course: &'static str) -> Trial {
    Trial {
        course,
        cause: None,
    }
}

impl Trial {
    fn seconds(&self) -> u64 {
        if self.cause.is_some() {
            SECONDS
        } else {
            2 * SECONDS
        }
    }

    /// What is found of a healthy service and true: it comes at regular intervals, and the others, who run beside it and get
    /// worse, do take the CPUs.
    fn is_true(&self, cause: CauseKind) -> bool {
        let is_periodic = ["timer", "arena-saw", "files-saw"].contains(&self.course);
        match cause {
            CauseKind::OtherService => true,
            CauseKind::PeriodicJob => is_periodic,
            _ => false,
        }
    }

    /// Runs the service, and a daemon that finds it running, as it does on most hosts. What is wrong with what it concludes.
    fn complaint(&self) -> Option<String> {
        let seconds = self.seconds().to_string();
        let mut service = Workload::start(&["age", self.course, "--seconds", &seconds]);
        service.go();
        thread::sleep(Duration::from_secs(3));
        let pid = service.pid_text();
        let options = ["--window", WINDOW, "--events", "none", "--quiet"];
        let daemon = Daemon::start(&[&["--pid", &pid], options.as_slice()].concat());
        thread::sleep(Duration::from_secs(self.seconds() - 5));
        complaint(self, &judge(self.course, &daemon.stop().text()))
    }
}

/// Runs all of them side by side, each with a daemon of its own, and says what is wrong.
fn try_all(trials: &[Trial]) {
    let wrong: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = trials
            .iter()
            .map(|trial| scope.spawn(|| trial.complaint()))
            .collect();
        let complaints = running
            .into_iter()
            .map(|trial| trial.join().expect("no panic"));
        complaints.flatten().collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the daemon concludes of a recording in fast motion.
fn judge(course: &str, recording: &str) -> Vec<Incident> {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let slow = directory.path().join("slow.jsonl");
    let text: String = recording.lines().map(|line| slower(line) + "\n").collect();
    fs::write(&slow, text).expect("it can be written");
    let path = slow.display().to_string();
    let output = slowburn(&["replay", &path, "--output", "-", "--quiet"]);
    assert!(output.status.success(), "{}", stderr_of(&output));
    if let Ok(kept) = std::env::var("SLOWBURN_KEEP_RECORDINGS") {
        let kept = std::path::Path::new(&kept).join(format!("{course}.jsonl"));
        fs::write(kept, &output.stdout).expect("it can be written");
    }
    let text = String::from_utf8(output.stdout).expect("it is text");
    text.lines()
        .filter_map(|line| match serde_json::from_str::<Line>(line) {
            Ok(Line {
                record: Record::Incident(incident),
                ..
            }) => Some(*incident),
            _ => None,
        })
        .collect()
}

/// A line of a recording as it would have been in slow motion.
fn slower(line: &str) -> String {
    let mut line: Value = serde_json::from_str(line).expect("a record");
    for time in ["ts", "process.creation.time", "thread.creation.time"] {
        if let Some(value) = line.get_mut(time) {
            *value = later(value);
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
            *value = (ns * FASTER).into();
        }
    }
    line.to_string()
}

/// A time so many times as far from the beginning of the year.
fn later(value: &Value) -> Value {
    let begin: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let time: jiff::Timestamp = serde_json::from_value(value.clone()).expect("a time");
    let since = i64::try_from(time.duration_since(begin).as_nanos()).expect("within a century");
    let later =
        begin + jiff::SignedDuration::from_nanos(since) * i32::try_from(FASTER).expect("small");
    format!("{later:.9}").into()
}

fn complaint(trial: &Trial, incidents: &[Incident]) -> Option<String> {
    let last = incidents.last();
    let first = last.and_then(|last| last.causes.first());
    let summaries = || {
        let lines = incidents
            .iter()
            .map(|incident| format!("\n    {:?} {}", incident.state, incident.summary));
        lines.collect::<Vec<_>>().concat()
    };
    match (trial.cause, first) {
        (None, None) => None,
        (None, Some(first)) if trial.is_true(first.cause) => None,
        (None, Some(_)) => Some(format!("{} is healthy:{}", trial.course, summaries())),
        (Some(cause), Some(first)) if first.cause == cause => None,
        (Some(cause), _) => Some(format!("{} is {cause:?}:{}", trial.course, summaries())),
    }
}

#[test]
fn services_that_take_what_they_do_not_give_back() {
    needs_tracing!();
    if std::env::var_os("SLOWBURN_TRIALS").is_none() {
        println!("SKIP two minutes on a machine that does nothing else; set SLOWBURN_TRIALS=1");
        return;
    }
    try_all(&[
        sick("leak", CauseKind::LeakedMemory),
        healthy("cache"),
        sick("arena", CauseKind::AddressSpaceGrowth),
        healthy("arena-saw"),
        sick("churn", CauseKind::AllocationChurn),
        healthy("mapping"),
        sick("threads", CauseKind::ThreadLeak),
        healthy("pool"),
        sick("creations", CauseKind::CreationChurn),
        healthy("helpers"),
        sick("files", CauseKind::DescriptorLeak),
        healthy("files-saw"),
        sick("job", CauseKind::PeriodicJob),
        healthy("bursts"),
        sick("overlap", CauseKind::OverlappingJob),
        healthy("timer"),
    ]);
}
