//! Services of our own that get worse in one way each, and healthy ones that look like it.

use std::{thread, time::Duration};

use slowburn::stream::{CauseKind, Incident};
use slowburn_tests::{Daemon, Workload, cgroup::Cgroup, needs_tracing, unique_name};

use crate::judge::{FASTER, WINDOW, are_asked_for, judge, summaries};

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
        let quota = self.quota.map(quota);
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
        complaint(self, &judge(&self.name(), &recording, FASTER).incidents)
    }
}

/// A cgroup whose processes may use so much of a CPU together.
fn quota(percent: u64) -> Cgroup {
    let cgroup = Cgroup::with("cpu").expect("a hierarchy of cgroups has the controller for CPUs");
    let of_100_ms = percent * 1000;
    if cgroup.has("cpu.max") {
        cgroup.set("cpu.max", &format!("{of_100_ms} 100000"));
    } else {
        cgroup.set("cpu.cfs_quota_us", &of_100_ms.to_string());
    }
    cgroup
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

fn complaint(trial: &Trial, incidents: &[Incident]) -> Option<String> {
    let last = incidents.last();
    let first = last.and_then(|last| last.causes.first());
    match (trial.cause, first) {
        (None, None) => None,
        (None, Some(first)) if trial.is_true(first.cause) => None,
        (None, Some(_)) => Some(format!(
            "{} is healthy:{}",
            trial.name(),
            summaries(incidents)
        )),
        (Some(cause), Some(first)) if first.cause == cause => None,
        (Some(cause), _) => Some(format!(
            "{} is {cause:?}:{}",
            trial.name(),
            summaries(incidents)
        )),
    }
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
fn try_each(trials: &[Trial]) {
    let wrong: Vec<String> = trials.iter().filter_map(Trial::complaint).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn services_that_wait_for_cpus() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    try_each(&[
        sick("own", CauseKind::OwnPressure),
        healthy("crowd"),
        sick("victim", CauseKind::OtherService).beside("neighbour"),
        healthy("victim").beside("tenant"),
        sick("demand", CauseKind::QuotaThrottling).within(100),
        healthy("frugal").within(100),
    ]);
}

#[test]
fn services_whose_threads_are_moved() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    try_each(&[
        sick("migration", CauseKind::MigrationStorm),
        healthy("shuttle"),
    ]);
}
