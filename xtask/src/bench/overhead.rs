//! What tracing costs those that are traced: the same load with each tracer in turn.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::{
    Outcome, Setting,
    figures::{Spread, in_turn},
    load::{LOADS, Load},
    service::Service,
    tracer::Tracer,
};

/// A load with all tracers.
#[derive(Serialize)]
struct Comparison {
    load: &'static str,
    what: &'static str,
    metrics: Vec<Metric>,
}

/// One of the figures that a load gives.
#[derive(Serialize)]
struct Metric {
    name: &'static str,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    tracer: Tracer,
    absolute: Spread,
    /// To nobody tracing, in the same round.
    ratio: Spread,
    figures: Vec<f64>,
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
    let mut comparisons = Vec::new();
    for load in &LOADS {
        if setting.wants(load.name) && is_there(load.name, load.missing()) {
            comparisons.push(compare_load(setting, load, &tracers)?);
        }
    }
    for service in Service::ALL {
        if setting.wants(service.name()) && is_there(service.name(), service.missing()) {
            comparisons.push(compare_service(setting, service, &tracers)?);
        }
    }
    Ok(Outcome {
        tables: comparisons.iter().map(Comparison::table).collect(),
        results: serde_json::to_value(comparisons)?,
    })
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
        load: load.name,
        what: load.what,
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
        load: service.name(),
        what: service.what(),
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
            name,
            rows: rows.collect(),
        }
    }
}

impl Comparison {
    /// In Markdown.
    fn table(&self) -> String {
        let mut text = String::new();
        for metric in &self.metrics {
            let _ = write!(
                text,
                "\n| {}: {} | median | to nothing |\n|---|---|---|\n",
                self.load, metric.name
            );
            for row in &metric.rows {
                let (name, median) = (row.tracer.name(), row.absolute.median);
                let _ = writeln!(text, "| {name} | {median:.4} | {} |", row.ratio);
            }
        }
        text
    }
}
