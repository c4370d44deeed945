//! What a run is on every system: its options, what records go to, and what is said at its beginning and its end.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, IsTerminal},
    ops::Range,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    runtime::Runtime,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{
    cli::{Events, Run},
    commands::{check_config, platform},
    pipeline::Pipeline,
    sink::{JsonOutput, OutputOptions, Rotation, Terminal},
    stream::{
        Limits, LossClass, Moment, Record, Start, Stop, StopReason, TargetEventKind, WatchedService,
    },
};

/// Attaches and streams until told to stop.
///
/// # Errors
/// If the target is not found or not clear, the kernel refuses, or the output cannot be opened.
///
/// `is_given` tells which options were given on the command line, by their ids.
pub fn run(
    mut options: Run,
    is_given: impl Fn(&str) -> bool,
    kernel_log: bool,
) -> anyhow::Result<()> {
    let config = check_config::named_or_default(options.config.as_deref())?;
    if let Some(config) = &config {
        config.file.run.apply(&mut options, is_given);
    }
    platform::run::run(&options, config, kernel_log)
}

/// A runtime of one thread.
///
/// # Errors
/// If the system has no resources for one.
pub fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Everything that records go to.
pub struct Sinks {
    /// The stream.
    pub output: JsonOutput,
    /// What people see meanwhile.
    pub terminal: Terminal,
    /// How many of each type there were.
    pub records: BTreeMap<String, u64>,
}

impl Sinks {
    /// As the command line says.
    ///
    /// # Errors
    /// If the output cannot be opened.
    pub fn open(options: &Run) -> anyhow::Result<Self> {
        let path = options.output_file();
        let on_terminal = path.is_none() && io::stdout().is_terminal();
        let rotation = options.rotate_size.map(|bytes| Rotation {
            bytes,
            keep: options.rotate_keep,
        });
        Ok(Self {
            output: JsonOutput::open(OutputOptions { path, rotation })?,
            terminal: Terminal::new(options.quiet, on_terminal),
            records: BTreeMap::new(),
        })
    }

    /// Takes a record.
    pub fn record(&mut self, record: Record) {
        self.terminal.record(&record);
        let name = record.type_name();
        match self.records.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(self.records.insert(name.into(), 1)),
        }
        self.output.record(record);
    }

    /// Takes the first record, and says what is watched; or else what is waited for.
    pub fn begin(&mut self, start: Start, awaited: impl Display, pipeline: &mut Pipeline) {
        for target in &start.targets {
            self.terminal.say(&attached(target));
        }
        let is_waiting = start.targets.is_empty();
        let Moment(ts) = start.ts;
        self.record(Record::Start(Box::new(start)));
        if is_waiting {
            let mut event = pipeline.service_event(ts, TargetEventKind::Waiting, 0);
            event.service = awaited.to_string();
            self.record(Record::Target(event));
        }
        self.output.flush();
    }

    /// Says what was found in the end: the first record could not.
    pub fn attached(
        &mut self,
        ts: u64,
        index: u32,
        target: &WatchedService,
        pipeline: &mut Pipeline,
    ) {
        self.terminal.say(&attached(target));
        let mut event = pipeline.service_event(ts, TargetEventKind::Attached, index);
        event.detail = Some(format!("{}: {}", target.rule, target.why));
        self.record(Record::Target(event));
    }

    /// Tells what did not reach the output since the last call.
    pub fn note_losses(&mut self, ts: u64, pipeline: &mut Pipeline) {
        let lost = self.output.take_lost();
        if lost > 0 {
            pipeline.lose(ts, LossClass::Output, lost, &mut |record| {
                self.record(record);
            });
        }
    }

    /// Takes the last record, and waits until it is written. `lived` is when the run began, and when it ended.
    pub fn finish(
        &mut self,
        lived: Range<u64>,
        reason: StopReason,
        recovered: u64,
        pipeline: &mut Pipeline,
    ) {
        self.note_losses(lived.end, pipeline);
        let stop = Stop {
            ts: Moment(lived.end),
            reason,
            ran_ns: lived.end.saturating_sub(lived.start),
            records: self.records.clone(),
            recovered,
            lost: pipeline.lost().clone(),
            ignored: pipeline.take_ignored(),
        };
        self.terminal.clear_status();
        self.terminal.say(&farewell(&stop));
        self.output.record(Record::Stop(Box::new(stop)));
        let lost = self.output.finish();
        if lost > 0 {
            tracing::error!("{lost} records could not be written at the end");
        }
    }
}

/// Ticks, the first one after a period.
pub fn every(start: Instant, period: Duration) -> Interval {
    let mut interval = interval_at(start + period, period);
    // After a stall, the next tick comes a whole period later: a burst of empty windows helps nobody.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What was found, for people.
fn attached(target: &WatchedService) -> String {
    let pids = target.pids.len();
    format!(
        "attached to {} ({}, {pids} {}): {}",
        target.service,
        target.rule,
        if pids == 1 { "process" } else { "processes" },
        target.why
    )
}

/// What the command line says of limits; the source adds its own.
pub fn limits(options: &Run) -> Limits {
    let slow = options.events == Events::Slow;
    let all = options.events == Events::All;
    let shown = |value: u64| if slow { Some(value) } else { all.then_some(0) };
    Limits {
        window_ns: options.window.as_nanos() as u64,
        slow_ns: shown(options.slow.as_nanos() as u64),
        min_mapping_bytes: shown(options.min_mapping),
        ring_bytes: 0,
        max_tasks: 0,
        delay_precision: 1.0 / 16.0,
        budget_share: options.budget.0,
    }
}

fn farewell(stop: &Stop) -> String {
    let count = |name: &str| stop.records.get(name).copied().unwrap_or(0);
    let lost: u64 = stop.lost.values().sum();
    format!(
        "stopped after {:.1} s: {} windows, {} flag records, {} single events, {lost} lost",
        stop.ran_ns as f64 / 1e9,
        count("window"),
        count("flag"),
        count("mapping") + count("thread") + count("delay"),
    )
}
