//! Says which series of windows climb: the first, simple detector.
//!
//! It sees windows and nothing else: no clock, no I/O, and the same windows give the same flags. What it keeps is
//! bounded: a ring of points a series, and a table of so many series.

mod series;
mod summary;
#[cfg(test)]
mod tests;
mod trend;

use std::collections::{BTreeMap, btree_map::Entry};

use self::series::{Change, Finding, Series};
use crate::stream::{Evidence, Flag, FlagKind, FlagState, Metric, Moment, Scope, Window};

/// A p99 of fewer waits than this is the largest of them or close to it, and tells nothing.
const MIN_WAITS: u64 = 50;

/// Lives that were not heard of for this long are dropped: their last window was lost.
const FORGET_NS: u64 = 3_600_000_000_000;

/// How often such lives are looked for.
const SWEEP_NS: u64 = 600_000_000_000;

/// Sizes of the detector. Its thresholds are in `series`, next to their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Series followed at the same time; about 1 KiB each once their rings are full.
    pub max_series: usize,
    /// Windows skipped at the beginning of a life: what a service allocates to start is no leak.
    pub warm_up: usize,
    /// Windows with a value before a series is judged; at least 12.
    pub min_windows: usize,
    /// Windows remembered of a series; at least 12.
    pub horizon: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_series: 8192,
            warm_up: 3,
            min_windows: 12,
            horizon: 60,
        }
    }
}

/// Watches the windows of processes and threads for climbs.
#[derive(Debug)]
pub struct Detector {
    config: Config,
    lives: BTreeMap<Key, Life>,
    /// Series in all lives.
    series: usize,
    refused: u64,
    tally: Tally,
    next_sweep: Moment,
    /// Reused by every evaluation.
    scratch: Vec<f64>,
}

/// A process (no thread) or thread. Ids come back, so the creation times belong to it. Ordered such that a
/// process's threads follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pid: u32,
    created: Moment,
    thread: Option<(u32, Moment)>,
}

impl Key {
    /// `None` for a window of a thread that does not say which.
    fn of(window: &Window) -> Option<Self> {
        let thread = match (window.scope, &window.thread) {
            (Scope::Process, _) => None,
            (Scope::Thread, Some(thread)) => Some((thread.tid, thread.created)),
            (Scope::Thread, None) => return None,
        };
        Some(Self {
            pid: window.process.pid,
            created: window.process.created,
            thread,
        })
    }
}

#[derive(Debug, Default)]
struct Life {
    windows: usize,
    last: Moment,
    tracks: Vec<Track>,
}

/// Flags so far, and those that are raised now.
#[derive(Debug, Default)]
struct Tally {
    flags: u64,
    raised: usize,
}

/// A series, with the last record of its flag while that is raised.
#[derive(Debug)]
struct Track {
    metric: Metric,
    series: Series,
    flag: Option<Box<Flag>>,
}

impl Detector {
    /// A detector that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            lives: BTreeMap::new(),
            series: 0,
            refused: 0,
            tally: Tally::default(),
            next_sweep: Moment::default(),
            scratch: Vec::new(),
        }
    }

    /// Feeds one window; appends the flags that it raises, updates or clears.
    pub fn window(&mut self, window: &Window, flags: &mut Vec<Flag>) {
        self.sweep(window.ts, flags);
        let Some(key) = Key::of(window) else { return };
        if window.ended {
            self.end(key, window.ts, flags);
            return;
        }
        let room = self.lives.len() < self.config.max_series;
        let life = match self.lives.entry(key) {
            Entry::Occupied(life) => life.into_mut(),
            Entry::Vacant(place) if room => place.insert(Life::default()),
            Entry::Vacant(_) => {
                self.refused += 1;
                return;
            }
        };
        if life.windows > 0 && window.ts <= life.last {
            return;
        }
        life.last = window.ts;
        life.windows += 1;
        if life.windows <= self.config.warm_up {
            return;
        }
        for (metric, value) in values(window).into_iter().flatten() {
            let room = self.series < self.config.max_series;
            let Some((track, new)) = life.track(metric, window.ts, room) else {
                self.refused += 1;
                continue;
            };
            self.series += usize::from(new);
            let Some(finding) =
                track
                    .series
                    .feed(window.ts, value, &self.config, &mut self.scratch)
            else {
                continue;
            };
            flags.push(self.tally.record(track, window, finding));
        }
    }

    /// Values that found no series to go to since the last call, because the table is full. A series that is
    /// refused counts once for each of its windows.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Flags that are raised now.
    pub fn raised(&self) -> usize {
        self.tally.raised
    }

    /// Closes a life; a process's takes those of its threads along.
    fn end(&mut self, key: Key, ts: Moment, flags: &mut Vec<Flag>) {
        let last = Key {
            thread: key.thread.or(Some((u32::MAX, Moment(u64::MAX)))),
            ..key
        };
        let ended: Vec<Key> = self.lives.range(key..=last).map(|(key, _)| *key).collect();
        let why = if key.thread.is_some() {
            "the thread ended"
        } else {
            "the process ended"
        };
        for key in ended {
            self.drop_life(key, ts, why, flags);
        }
    }

    /// Drops the lives that were not heard of for long, now and then.
    fn sweep(&mut self, now: Moment, flags: &mut Vec<Flag>) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = Moment(now.0.saturating_add(SWEEP_NS));
        let silent = |life: &Life| now.0.saturating_sub(life.last.0) > FORGET_NS;
        let silent: Vec<Key> = self
            .lives
            .iter()
            .filter(|(_, life)| silent(life))
            .map(|(key, _)| *key)
            .collect();
        for key in silent {
            self.drop_life(key, now, "nothing was heard of it for an hour", flags);
        }
    }

    fn drop_life(&mut self, key: Key, ts: Moment, why: &str, flags: &mut Vec<Flag>) {
        let Some(life) = self.lives.remove(&key) else {
            return;
        };
        self.series -= life.tracks.len();
        for flag in life.tracks.into_iter().filter_map(|track| track.flag) {
            self.tally.raised -= 1;
            let evidence = Evidence {
                cleared_because: Some(why.to_owned()),
                ..flag.evidence.clone()
            };
            let finding = Finding {
                change: Change::Cleared,
                since: flag.since,
                evidence,
            };
            flags.push(record(*flag, ts, finding));
        }
    }
}

impl Life {
    /// The metric's series, and whether it is a new one. `None` if it would be but there is no room.
    fn track(&mut self, metric: Metric, ts: Moment, room: bool) -> Option<(&mut Track, bool)> {
        let known = self.tracks.iter().position(|track| track.metric == metric);
        if known.is_none() {
            if !room {
                return None;
            }
            self.tracks.push(Track {
                metric,
                series: Series::new(metric, ts),
                flag: None,
            });
        }
        let at = known.unwrap_or(self.tracks.len() - 1);
        Some((&mut self.tracks[at], known.is_none()))
    }
}

impl Tally {
    /// Makes a record of what a series found, and keeps it with the series as long as the flag is raised.
    fn record(&mut self, track: &mut Track, window: &Window, finding: Finding) -> Flag {
        let known = track.flag.take().map(|known| *known);
        self.flags += u64::from(known.is_none());
        let flag = known.unwrap_or_else(|| raise(self.flags, track.metric, window, &finding));
        let flag = record(flag, window.ts, finding);
        match flag.state {
            FlagState::Raised => self.raised += 1,
            FlagState::Updated => {}
            FlagState::Cleared => self.raised -= 1,
        }
        track.flag = (flag.state != FlagState::Cleared).then(|| Box::new(flag.clone()));
        flag
    }
}

/// The values of a window that are judged; `None` for those that it does not have.
fn values(window: &Window) -> [Option<(Metric, f64)>; 4] {
    let memory = &window.memory;
    let seconds = window.period_ns as f64 / 1e9;
    // What was mapped and given back again is missing where not each call was looked at.
    let whole = memory.unmeasured_ns.is_none() && memory.sampled.is_none();
    let mapped = (window.period_ns > 0 && whole)
        .then(|| (Metric::MappedRate, memory.reserved_bytes as f64 / seconds));
    let enough = window
        .delay
        .as_ref()
        .filter(|delay| delay.count >= MIN_WAITS);
    let delay = enough
        .and_then(|delay| delay.p99_ns)
        .map(|p99| (Metric::DelayP99, p99 as f64));
    // Committed memory and the number of threads are the process's; its threads share them.
    if window.scope == Scope::Thread {
        return [mapped, delay, None, None];
    }
    let committed = memory.standing_committed_bytes.or(window.kernel.data_bytes);
    let committed = committed.map(|bytes| (Metric::CommittedBytes, bytes as f64));
    let threads = window
        .threads
        .map(|threads| (Metric::ThreadsLive, threads.live as f64));
    [mapped, delay, committed, threads]
}

/// The first record of a flag.
fn raise(number: u64, metric: Metric, window: &Window, finding: &Finding) -> Flag {
    Flag {
        ts: window.ts,
        id: format!("f{number}"),
        state: FlagState::Raised,
        kind: FlagKind::Climb,
        metric,
        scope: window.scope,
        process: window.process.clone(),
        thread: window
            .thread
            .clone()
            .filter(|_| window.scope == Scope::Thread),
        since: finding.since,
        evidence: finding.evidence.clone(),
        summary: String::new(),
    }
}

/// A flag's record with what is new.
fn record(mut flag: Flag, ts: Moment, finding: Finding) -> Flag {
    flag.ts = ts;
    flag.state = match finding.change {
        Change::Raised => FlagState::Raised,
        Change::Updated => FlagState::Updated,
        Change::Cleared => FlagState::Cleared,
    };
    flag.since = finding.since;
    flag.evidence = finding.evidence;
    flag.summary = summary::sentence(&flag);
    flag
}
