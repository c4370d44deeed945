//! What was measured, for the report.

use std::{env, fs::File, io::Write};

use serde_json::json;

/// A comparison of ours with a judge's.
#[derive(Clone, Copy, Debug)]
pub struct Measure<'a> {
    /// Which check of the suite, such as `delays::contention`.
    pub check: &'a str,
    /// Which hooks were used, as `--hooks` has them.
    pub hooks: &'a str,
    /// Of what, such as `count of waits`.
    pub quantity: &'a str,
    /// Who knows the right answer, such as `schedstat`.
    pub judge: &'a str,
    pub ours: f64,
    pub theirs: f64,
    /// The worst single error; not that of the totals, in which errors may cancel.
    pub error: f64,
    pub unit: Unit,
    /// The error that we want to stay below.
    pub goal: f64,
}

/// What an error is expressed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Ratio,
    Bytes,
    Count,
    Buckets,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Buckets => "buckets",
        }
    }
}

/// Whether the suite runs in a guest of the test bed.
pub fn in_guest() -> bool {
    env::var_os("SLOWBURN_TRUTH_GUEST").is_some()
}

/// The goal for sums of times: an emulated CPU is four times slower, and so is whatever lies between two looks at
/// the clock.
pub fn sum_goal() -> f64 {
    if in_guest() { 0.02 } else { 0.01 }
}

/// Puts a comparison into the report and on the screen, and requires its goal to be met.
#[track_caller]
pub fn require(measure: &Measure) {
    note(measure);
    assert!(
        measure.error <= measure.goal,
        "off by {} {}, the goal is {}: {measure:?}",
        measure.error,
        measure.unit.name(),
        measure.goal
    );
}

/// Puts a comparison into the report and on the screen.
pub fn note(measure: &Measure) {
    let Measure {
        check,
        hooks,
        quantity,
        judge,
        ours,
        theirs,
        error,
        unit,
        goal,
    } = *measure;
    let unit = unit.name();
    println!(
        "{check} [{hooks}]: {quantity}: {ours} by us, {theirs} by {judge}; error {error:.6} {unit}"
    );
    append(&json!({
        "check": check, "hooks": hooks, "measure": quantity, "judge": judge,
        "ours": ours, "theirs": theirs, "error": error, "unit": unit, "goal": goal,
    }));
}

/// Says in the report why something could not be compared.
pub fn skipped(check: &str, hooks: &str, why: &str) {
    println!("{check} [{hooks}]: not compared: {why}");
    append(&json!({ "check": check, "hooks": hooks, "skipped": why }));
}

fn append(line: &serde_json::Value) {
    let Some(path) = env::var_os("SLOWBURN_TRUTH_REPORT") else {
        return;
    };
    let written = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
