//! What waits take on their way into a window: counted by bucket, as slowburn does, and with `hdrhistogram` alone.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::{
    Outcome, Setting,
    figures::{Spread, in_turn},
};
use crate::command;

/// The second one is the one that the first is compared with.
const WAYS: [&str; 2] = ["slowburn", "hdrhistogram"];

const STEPS: [(&str, &str); 3] = [
    ("record", "a wait is counted"),
    (
        "merge",
        "the waits of a thread, 1000 of them, are added to its process's",
    ),
    ("summary", "four quantiles of them and the serialised form"),
];

#[derive(Serialize)]
struct Row {
    step: &'static str,
    what: &'static str,
    /// In the order of the ways, in nanoseconds.
    ns: Vec<Spread>,
    /// To `hdrhistogram`, in the same round.
    ratio: Spread,
}

/// Measures all steps.
pub fn run(setting: &Setting) -> Result<Outcome> {
    println!("\n== histogram: {} in turn ==", WAYS.join(" and "));
    let figures = in_turn(&WAYS, setting.rounds, |way| {
        let mut command = Command::new(setting.programs.join("histograms"));
        let line = command::first_line(command.arg(way))?;
        Ok::<Value, anyhow::Error>(serde_json::from_str(&line)?)
    })?;
    let rows: Vec<_> = STEPS
        .into_iter()
        .filter_map(|(step, what)| Row::of(step, what, &figures))
        .collect();
    let table = table(&rows);
    print!("{table}");
    Ok(Outcome {
        tables: vec![table],
        results: serde_json::to_value(rows)?,
    })
}

impl Row {
    fn of(step: &'static str, what: &'static str, figures: &[Vec<Value>]) -> Option<Self> {
        let ns: Vec<Vec<f64>> = figures
            .iter()
            .map(|rounds| {
                rounds
                    .iter()
                    .filter_map(|round| round[step].as_f64())
                    .collect()
            })
            .collect();
        Some(Self {
            step,
            what,
            ratio: Spread::of_ratios(&ns[0], &ns[1])?,
            ns: ns.iter().filter_map(|ns| Spread::of(ns)).collect(),
        })
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("\n| ns each |");
    for way in WAYS {
        let _ = write!(text, " {way} |");
    }
    text += " ratio |\n|---|---|---|---|\n";
    for row in rows {
        let _ = write!(text, "| {}: {} |", row.step, row.what);
        for Spread { median, low, high } in &row.ns {
            let digits = if *median < 100.0 { 2 } else { 0 };
            let _ = write!(
                text,
                " {median:.digits$} ({low:.digits$} to {high:.digits$}) |"
            );
        }
        let _ = writeln!(text, " {} |", row.ratio);
    }
    text
}
