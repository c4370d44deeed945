//! What tracing costs those that are traced: the same load with each tracer in turn.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    Outcome, Setting,
    figures::{Spread, digits, in_turn},
    load::{LOADS, Load},
    service::Service,
    tracer::Tracer,
};

/// A load with all tracers.
#[derive(Serialize, Deserialize)]
struct Comparison {
    load: String,
    what: String,
    /// Loads are measured together or one by one.
    #[serde(default)]
    date: String,
    #[serde(default)]
    rounds: usize,
    metrics: Vec<Metric>,
}

/// One of the figures that a load gives.
#[derive(Serialize, Deserialize)]
struct Metric {
    name: String,
    rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    tracer: Tracer,
    absolute: Spread,
    /// To nobody tracing, in the same round.
    ratio: Spread,
    figures: Vec<f64>,
}

/// What a run has written.
#[derive(Deserialize)]
struct Results {
    results: Vec<Comparison>,
}

/// Says so if something it needs is not.
fn is_there(name: &str, missing: Option<&str>) -> bool {
    if let Some(program) = missing {
        println!("SKIP {name}: {program} is not installed");
    }
    missing.is_none()
}

/// Measures loops and services.
pub fn run(setting: &Setting) -> Result<Outcome> {
    let mut tracers = Tracer::ALL.to_vec();
    tracers.retain(|tracer| is_there(tracer.name(), tracer.missing()));
    let mut comparisons = earlier(setting)?;
    for load in &LOADS {
        if setting.wants(load.name) && is_there(load.name, load.missing()) {
            replace(&mut comparisons, compare_load(setting, load, &tracers)?);
        }
    }
    for service in Service::ALL {
        if setting.wants(service.name()) && is_there(service.name(), service.missing()) {
            replace(
                &mut comparisons,
                compare_service(setting, service, &tracers)?,
            );
        }
    }
    Ok(Outcome {
        tables: comparisons.iter().map(Comparison::table).collect(),
        results: serde_json::to_value(comparisons)?,
    })
}

/// What was measured before and is not asked for now: it stays as it is.
fn earlier(setting: &Setting) -> Result<Vec<Comparison>> {
    let path = setting.scratch.join("overhead.json");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(Vec::new());
    };
    let Results { results } = serde_json::from_str(&text)
        .with_context(|| format!("cannot read {}; remove it", path.display()))?;
    Ok(results)
}

/// Puts a comparison in the place of an earlier one of the same load.
fn replace(comparisons: &mut Vec<Comparison>, new: Comparison) {
    match comparisons.iter_mut().find(|old| old.load == new.load) {
        Some(old) => *old = new,
        None => comparisons.push(new),
    }
}

fn today() -> String {
    jiff::Zoned::now().date().to_string()
}

/// One line for each load, for those who read no more; none if nothing was measured yet.
///
/// # Errors
/// If there are results that cannot be read.
pub fn summary(results: &Path) -> Result<Option<String>> {
    let Ok(text) = fs::read_to_string(results) else {
        return Ok(None);
    };
    let Results { results } = serde_json::from_str(&text)
        .with_context(|| format!("cannot read {}", results.display()))?;
    let mut table = String::new();
    for Comparison { load, metrics, .. } in results {
        for Metric { name, rows } in metrics {
            if table.is_empty() {
                let names: Vec<_> = rows.iter().skip(1).map(|row| row.tracer.name()).collect();
                let _ = writeln!(table, "| to nothing | {} |", names.join(" | "));
                let _ = writeln!(table, "|---|{}", "---|".repeat(names.len()));
            }
            let ratios: Vec<_> = rows.iter().skip(1).map(|row| row.ratio.brief()).collect();
            let _ = writeln!(table, "| {load}: {name} | {} |", ratios.join(" | "));
        }
    }
    Ok(Some(table))
}

fn compare_load(setting: &Setting, load: &'static Load, tracers: &[Tracer]) -> Result<Comparison> {
    println!("\n== overhead: {}: {} ==", load.name, load.what);
    let figures = in_turn(tracers, setting.rounds, |tracer| {
        let prepared = load.prepare(setting.programs)?;
        let tracing = tracer.start(setting.programs, setting.scratch, prepared.pid())?;
        let figure = prepared.work()?;
        tracing.stop()?;
        anyhow::Ok(figure)
    })?;
    let comparison = Comparison {
        load: load.name.into(),
        what: load.what.into(),
        date: today(),
        rounds: setting.rounds,
        metrics: vec![Metric::of("ns each", tracers, figures)],
    };
    print!("{}", comparison.table());
    Ok(comparison)
}

fn compare_service(setting: &Setting, service: Service, tracers: &[Tracer]) -> Result<Comparison> {
    println!("\n== overhead: {}: {} ==", service.name(), service.what());
    let running = service.start(setting.scratch)?;
    let served = in_turn(tracers, setting.rounds, |tracer| {
        let tracing = tracer.start(setting.programs, setting.scratch, running.pid())?;
        let served = running.serve()?;
        tracing.stop()?;
        anyhow::Ok(served)
    })?;
    let metric = |name, figure: fn(&super::service::Served) -> f64| {
        let figures = served
            .iter()
            .map(|served| served.iter().map(figure).collect());
        Metric::of(name, tracers, figures.collect())
    };
    let comparison = Comparison {
        load: service.name().into(),
        what: service.what().into(),
        date: today(),
        rounds: setting.rounds,
        metrics: vec![
            metric("requests a second", |served| served.per_second),
            metric("p99 in ms", |served| served.p99_ms),
        ],
    };
    print!("{}", comparison.table());
    Ok(comparison)
}

impl Metric {
    /// The first tracer is the one that the others are compared with.
    fn of(name: &'static str, tracers: &[Tracer], figures: Vec<Vec<f64>>) -> Self {
        let nothing = figures[0].clone();
        let rows = tracers.iter().zip(figures).filter_map(|(tracer, figures)| {
            Some(Row {
                tracer: *tracer,
                absolute: Spread::of(&figures)?,
                ratio: Spread::of_ratios(&figures, &nothing)?,
                figures,
            })
        });
        Self {
            name: name.into(),
            rows: rows.collect(),
        }
    }
}

impl Comparison {
    /// In Markdown.
    fn table(&self) -> String {
        let mut text = format!("\n{} ({} rounds, {}):\n", self.what, self.rounds, self.date);
        for metric in &self.metrics {
            let _ = write!(
                text,
                "\n| {}: {} | median | to nothing |\n|---|---|---|\n",
                self.load, metric.name
            );
            for row in &metric.rows {
                let (name, median) = (row.tracer.name(), digits(row.absolute.median));
                let _ = writeln!(text, "| {name} | {median} | {} |", row.ratio);
            }
        }
        text
    }
}
