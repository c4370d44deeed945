//! Services that get worse, each in one way, and healthy ones that look like it: the likeliest cause of the one is the right
//! one, and the other is left alone.
//!
//! Real processes, in fast motion: windows of 250 ms are told to be of 10 s before they are judged, so that a minute is
//! forty. Counts stay what they are; times that are shares of a window become longer with it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::Value;
use slowburn::stream::{CauseKind, Incident, Line, Record};
use slowburn_tests::{Daemon, Workload, needs_tracing, slowburn, stderr_of, unique_name};

/// How much longer windows are told to be.
const FASTER: u64 = 40;

const WINDOW: &str = "250ms";

/// How long what gets worse does so. What is healthy is watched twice as long.
const SECONDS: u64 = 60;

/// A service, and what it is to be taken for.
struct Trial {
    course: &'static str,
    cause: Option<CauseKind>,
    /// The course of another service that runs beside it.
    beside: Option<&'static str>,
    /// What it becomes after half of the time.
    successor: Option<&'static str>,
    /// Percent of a CPU that it may use.
    quota: Option<u64>,
}

fn sick(course: &'static str, cause: CauseKind) -> Trial {
    Trial {
        cause: Some(cause),
        ..healthy(course)
    }
}

fn healthy(course: &'static str) -> Trial {
    Trial {
        course,
        cause: None,
        beside: None,
        successor: None,
        quota: None,
    }
}

impl Trial {
    fn beside(mut self, course: &'static str) -> Self {
        self.beside = Some(course);
        self
    }

    fn then(mut self, course: &'static str) -> Self {
        self.successor = Some(course);
        self
    }

    fn within(mut self, percent: u64) -> Self {
        self.quota = Some(percent);
        self
    }

    fn name(&self) -> String {
        let others = [self.beside, self.successor].into_iter().flatten();
        others.fold(self.course.to_owned(), |name, other| name + "-" + other)
    }

    fn seconds(&self) -> u64 {
        if self.cause.is_some() {
            SECONDS
        } else {
            2 * SECONDS
        }
    }

    /// What is found of a healthy service and true: it comes at regular intervals, and the services of the other trials, or
    /// somebody else on the host, do take the CPUs.
    fn is_true(&self, cause: CauseKind) -> bool {
        let is_periodic = ["timer", "arena-saw", "files-saw", "turns"].contains(&self.course);
        match cause {
            CauseKind::OtherService => self.beside.is_none(),
            CauseKind::PeriodicJob => is_periodic,
            _ => false,
        }
    }

    /// Runs the service, and a daemon that finds it running, as it does on most hosts. What is wrong with what it concludes.
    fn complaint(&self) -> Option<String> {
        let seconds = self.seconds();
        let lives = 1 + u64::from(self.successor.is_some());
        let name = unique_name("age");
        let quota = self.quota.map(Quota::new);
        let start = |course: &str, seconds: u64| {
            let seconds = seconds.to_string();
            let mut service = Workload::start_as(&name, &["age", course, "--seconds", &seconds]);
            if let Some(quota) = &quota {
                quota.holds(service.pid());
            }
            service.go();
            service
        };
        let other = self.beside.map(|course| {
            let seconds = seconds.to_string();
            let mut other = Workload::start(&["age", course, "--seconds", &seconds]);
            other.go();
            other
        });
        let service = start(self.course, seconds / lives);
        thread::sleep(Duration::from_secs(3));
        let options = ["--window", WINDOW, "--events", "none", "--quiet"];
        let daemon = Daemon::start(&[&["--process", &name], options.as_slice()].concat());
        thread::sleep(Duration::from_secs(seconds / lives - 5));
        if let Some(course) = self.successor {
            service.kill();
            thread::sleep(Duration::from_secs(1));
            let _successor = start(course, seconds / lives);
            thread::sleep(Duration::from_secs(seconds / lives - 2));
        }
        let recording = daemon.stop().text();
        drop(other);
        complaint(self, &judge(&self.name(), &recording))
    }
}

/// A cgroup whose processes may use so much of a CPU together. Removed when dropped.
struct Quota(PathBuf);

impl Quota {
    fn new(percent: u64) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
        let mount = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, place, kind, options, ..] = fields.as_slice() else {
                return None;
            };
            let has_cpu = match *kind {
                "cgroup" => options.split(',').any(|option| option == "cpu"),
                "cgroup2" => fs::read_to_string(Path::new(place).join("cgroup.subtree_control"))
                    .is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu")),
                _ => false,
            };
            has_cpu.then(|| PathBuf::from(place))
        });
        let mount = mount.expect("a hierarchy of cgroups has the controller for CPUs");
        let place = mount.join(unique_name("sbquota"));
        fs::create_dir(&place).expect("we are root");
        let of_100_ms = percent * 1000;
        let (file, text) = if place.join("cpu.max").exists() {
            ("cpu.max", format!("{of_100_ms} 100000"))
        } else {
            ("cpu.cfs_quota_us", of_100_ms.to_string())
        };
        fs::write(place.join(file), text).expect("it is ours");
        Self(place)
    }

    fn holds(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it is ours");
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Busy as long as one that was killed has not gone entirely.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
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
        let kept = Path::new(&kept).join(format!("{course}.jsonl"));
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
        (None, Some(_)) => Some(format!("{} is healthy:{}", trial.name(), summaries())),
        (Some(cause), Some(first)) if first.cause == cause => None,
        (Some(cause), _) => Some(format!("{} is {cause:?}:{}", trial.name(), summaries())),
    }
}

/// These take minutes, on a machine that does nothing else.
fn are_asked_for() -> bool {
    let asked = std::env::var_os("SLOWBURN_TRIALS").is_some();
    if !asked {
        println!("SKIP minutes on a machine that does nothing else; set SLOWBURN_TRIALS=1");
    }
    asked
}

#[test]
fn services_that_take_what_they_do_not_give_back() {
    needs_tracing!();
    if !are_asked_for() {
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
    ]);
}

#[test]
fn services_with_jobs_and_restarts() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    try_all(&[
        sick("job", CauseKind::PeriodicJob),
        healthy("bursts"),
        sick("overlap", CauseKind::OverlappingJob),
        healthy("timer"),
        sick("resonance", CauseKind::Resonance),
        healthy("turns"),
        sick("cache", CauseKind::NewVersion).then("release"),
        healthy("cache").then("cache"),
    ]);
}

/// One after the other, since all of them need CPUs.
#[test]
fn services_that_wait_for_cpus() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let trials = [
        sick("own", CauseKind::OwnPressure),
        healthy("crowd"),
        sick("victim", CauseKind::OtherService).beside("neighbour"),
        healthy("victim").beside("tenant"),
        sick("demand", CauseKind::QuotaThrottling).within(100),
        healthy("frugal").within(100),
        sick("migration", CauseKind::MigrationStorm),
        healthy("shuttle"),
    ];
    let wrong: Vec<String> = trials.iter().filter_map(Trial::complaint).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
