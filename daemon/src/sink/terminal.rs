//! What a person at a terminal sees: a status line that is rewritten in place, and flags as sentences.

use std::io::{self, IsTerminal, Write};

use bytesize::ByteSize;

use crate::stream::{CauseKind, Flag, FlagState, Incident, Record, Scope, TargetEventKind, Window};

/// Writes to standard error.
pub struct Terminal {
    quiet: bool,
    /// Rewrite a status line? Only where there is a terminal that shows nothing else.
    live: bool,
    status_shown: bool,
    totals: Totals,
    /// The incident shown last, and its cause then: the same again is no news to a person.
    shown: Option<(String, Option<CauseKind>)>,
}

/// Sums over the processes of the last window.
#[derive(Clone, Copy, Default)]
struct Totals {
    waits: u64,
    worst_p99_ns: u64,
    mapped: u64,
    threads: u64,
    period_ns: u64,
    lost: u64,
}

impl Terminal {
    /// `quiet` shows errors only. `output_on_terminal` says that the JSON lines go to the terminal too, where a
    /// status line would be in their way.
    pub fn new(quiet: bool, output_on_terminal: bool) -> Self {
        Self {
            quiet,
            live: !quiet && !output_on_terminal && io::stderr().is_terminal(),
            status_shown: false,
            totals: Totals::default(),
            shown: None,
        }
    }

    /// Writes a line, above the status line if there is one.
    pub fn say(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        self.clear_status();
        // Nothing can be done about an error on standard error.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Takes note of a record.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Window(window) if window.scope == Scope::Process => self.window(window),
            Record::Flag(flag) if flag.state != FlagState::Updated => self.flag(flag),
            Record::Incident(incident) => self.incident(incident),
            Record::Ignored(ignored) => self.say(&format!(
                "ignored, now and from now on ({}): {}",
                ignored.rule, ignored.summary
            )),
            Record::Budget(change) => self.say(&change.summary),
            Record::Loss(loss) => self.totals.lost += loss.count,
            Record::Target(event) => match event.event {
                TargetEventKind::Gone => self.say(&format!(
                    "{} is gone; waiting for its return",
                    event.service
                )),
                TargetEventKind::Returned => self.say(&format!("{} is back", event.service)),
                TargetEventKind::Waiting => self.say(&format!(
                    "{} does not run yet; waiting for it",
                    event.service
                )),
                _ => {}
            },
            _ => {}
        }
    }

    fn window(&mut self, window: &Window) {
        if let Some(delay) = &window.delay {
            self.totals.waits += delay.count;
            self.totals.worst_p99_ns = self.totals.worst_p99_ns.max(delay.p99_ns.unwrap_or(0));
        }
        self.totals.mapped += window.memory.reserved_bytes;
        self.totals.threads += window.threads.as_ref().map_or(0, |t| t.live);
        self.totals.period_ns = window.period_ns;
    }

    fn flag(&mut self, flag: &Flag) {
        let mark = match flag.state {
            FlagState::Cleared => "cleared",
            FlagState::Explained => "explained",
            _ => "FLAG",
        };
        self.say(&format!("{mark} {}: {}", flag.id, flag.summary));
    }

    fn incident(&mut self, incident: &Incident) {
        let cause = incident.causes.first().map(|first| first.cause);
        let shown = Some((incident.id.clone(), cause));
        if incident.state == FlagState::Updated && self.shown == shown {
            return;
        }
        self.shown = shown;
        let mark = match incident.state {
            FlagState::Raised => "INCIDENT",
            FlagState::Updated | FlagState::Explained => "incident",
            FlagState::Cleared => "over",
        };
        self.say(&format!("{mark} {}: {}", incident.id, incident.summary));
    }

    /// Rewrites the status line, at the end of a window.
    pub fn status(&mut self, processes: u64, raised: usize) {
        let totals = std::mem::take(&mut self.totals);
        if !self.live {
            return;
        }
        let seconds = (totals.period_ns as f64 / 1e9).max(0.001);
        let line = format!(
            "{processes} processes, {} threads | {:.0} waits/s, p99 {} | {}/s mapped | {} lost | {raised} flags",
            totals.threads,
            totals.waits as f64 / seconds,
            duration(totals.worst_p99_ns),
            ByteSize((totals.mapped as f64 / seconds) as u64),
            totals.lost,
        );
        self.clear_status();
        let mut stderr = io::stderr();
        let _ = write!(stderr, "{line}").and_then(|()| stderr.flush());
        self.status_shown = true;
    }

    /// Removes the status line.
    pub fn clear_status(&mut self) {
        if std::mem::take(&mut self.status_shown) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

/// A duration with two or three digits.
fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}
