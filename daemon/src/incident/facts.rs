//! What is known of an incident: what was flagged, and what became of every signal meanwhile.

use super::{
    history::History,
    relation::{median, quarter_of_the_way, rank_correlation},
    signals::{COUNT, SIGNALS},
};
use crate::stream::{Flag, FlagKind, Metric, Moment, Moved, Place, Signal};

/// Of a change that is told: levels by a tenth, rates and waits by a quarter, shares by two hundredths.
const LEVEL_CHANGE: f64 = 0.1;
const RATE_CHANGE: f64 = 0.25;
const SHARE_CHANGE: f64 = 0.02;

/// What became of a signal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Its level before.
    pub before: Option<f64>,
    /// Its level now.
    pub now: Option<f64>,
    /// Rank correlation with the flag that leads.
    pub strength: Option<f64>,
    /// How much later than that.
    pub lag_ns: Option<i64>,
}

impl Change {
    /// By how much it has grown.
    pub fn rise(&self) -> Option<f64> {
        Some(self.now? - self.before?)
    }

    /// How many times as much it is; infinite from nothing to something.
    pub fn ratio(&self) -> Option<f64> {
        let (before, now) = (self.before?, self.now?);
        (before > 0.0 || now > 0.0).then(|| now / before)
    }
}

/// What the causes are weighed by.
pub struct Facts<'a> {
    /// All flags of the incident, the one that leads in front.
    pub flags: &'a [Flag],
    /// Where it happens.
    pub place: &'a Place,
    changes: [Change; COUNT],
}

impl<'a> Facts<'a> {
    /// Of a process, as it stands.
    pub fn new(flags: &'a [Flag], place: &'a Place, history: &History, now: Moment) -> Self {
        let changes = match flags.first() {
            Some(lead) => changes(lead, history, now),
            None => [Change::default(); COUNT],
        };
        Self {
            flags,
            place,
            changes,
        }
    }

    /// What became of a signal.
    pub fn change(&self, signal: Signal) -> Change {
        let place = SIGNALS.iter().position(|known| *known == signal);
        place.map_or_else(Change::default, |place| self.changes[place])
    }

    /// The first flag on one of these.
    pub fn flag(&self, metrics: &[Metric]) -> Option<&'a Flag> {
        self.flags
            .iter()
            .find(|flag| metrics.contains(&flag.metric))
    }

    /// The first climb of one of these.
    pub fn climb(&self, metrics: &[Metric]) -> Option<&'a Flag> {
        let climbs = |flag: &&Flag| flag.kind == FlagKind::Climb && metrics.contains(&flag.metric);
        self.flags.iter().find(climbs)
    }

    /// The first climb or step of one of these: what did not come and go.
    pub fn lasting(&self, metrics: &[Metric]) -> Option<&'a Flag> {
        let lasts = |flag: &&Flag| {
            !matches!(flag.kind, FlagKind::Spike | FlagKind::Periodic)
                && metrics.contains(&flag.metric)
        };
        self.flags.iter().find(lasts)
    }

    /// What changed, the largest change first.
    pub fn moved(&self) -> Vec<Moved> {
        let mut moved: Vec<(f64, Moved)> = SIGNALS
            .iter()
            .zip(&self.changes)
            .filter_map(|(signal, change)| Some((size(*signal, change)?, told(*signal, change)?)))
            .collect();
        moved.sort_by(|a, b| b.0.total_cmp(&a.0));
        moved.into_iter().map(|(_, moved)| moved).collect()
    }
}

/// The signal that a metric is judged by.
pub fn signal_of(metric: Metric) -> Signal {
    match metric {
        Metric::CommittedBytes => Signal::CommittedBytes,
        Metric::ReservedBytes => Signal::ReservedBytes,
        Metric::RssBytes => Signal::RssBytes,
        Metric::MappedRate => Signal::MappedRate,
        Metric::ThreadsLive => Signal::ThreadsLive,
        Metric::CreationRate => Signal::CreationRate,
        Metric::Fds => Signal::Fds,
        Metric::Delay | Metric::DelayTail | Metric::DelayP99 => Signal::MeanWait,
    }
}

fn told(signal: Signal, change: &Change) -> Option<Moved> {
    Some(Moved {
        signal,
        before: change.before?,
        now: change.now?,
        strength: change.strength,
        lag_ns: change.lag_ns,
    })
}

/// How many times the least change that is told it has changed by; `None` for less.
fn size(signal: Signal, change: &Change) -> Option<f64> {
    let (before, now) = (change.before?, change.now?);
    let least = match signal {
        Signal::CommittedBytes | Signal::ReservedBytes | Signal::RssBytes => {
            (LEVEL_CHANGE * before).max(1_048_576.0)
        }
        Signal::ThreadsLive | Signal::Fds => (LEVEL_CHANGE * before).max(2.0),
        Signal::Cpus
        | Signal::Waiting
        | Signal::BehindOwn
        | Signal::BehindIdle
        | Signal::BehindOthers
        | Signal::MovedShare
        | Signal::Throttled
        | Signal::Steal => (RATE_CHANGE * before).max(SHARE_CHANGE),
        Signal::MappedRate | Signal::ReleasedRate => (RATE_CHANGE * before).max(65_536.0),
        Signal::CreationRate
        | Signal::ExitRate
        | Signal::SwitchRate
        | Signal::MinorFaultRate
        | Signal::MajorFaultRate => (RATE_CHANGE * before).max(0.1),
        // A microsecond: less is how a clock is read.
        Signal::MeanWait => (RATE_CHANGE * before).max(1_000.0),
    };
    let size = (now - before).abs() / least;
    (size >= 1.0).then_some(size)
}

fn changes(lead: &Flag, history: &History, now: Moment) -> [Change; COUNT] {
    let stretch = Stretch::of(lead, history, now);
    let place = |signal: Signal| SIGNALS.iter().position(|known| *known == signal);
    let lead = place(signal_of(lead.metric)).unwrap_or(0);
    let leading = history.signal(lead, stretch.from, stretch.to);
    let split = match stretch.split {
        Split::At(at) => Sides::before_and_last(leading.len(), at),
        Split::High => Sides::low_and_high(&leading),
    };
    let onset = split.onset(&leading);
    std::array::from_fn(|signal| {
        let values = history.signal(signal, stretch.from, stretch.to);
        let (before, now) = (split.first(&values), split.second(&values));
        let lag = split
            .onset(&values)
            .zip(onset)
            .filter(|_| stretch.has_lag());
        Change {
            before,
            now,
            strength: rank_correlation(&leading, &values),
            lag_ns: lag.map(|(own, lead)| (own as i64 - lead as i64) * history.bin_ns() as i64),
        }
    })
}

/// The time looked at.
struct Stretch {
    from: Moment,
    to: Moment,
    split: Split,
}

/// What is compared.
enum Split {
    /// What was before a bin with the last quarter of what came after it.
    At(usize),
    /// The times in which the leading signal is high with the others.
    High,
}

impl Stretch {
    fn of(lead: &Flag, history: &History, now: Moment) -> Self {
        let begin = history.begin();
        let since = lead.since.max(begin);
        let long = now.0.saturating_sub(since.0);
        if let (FlagKind::Periodic, Some(every)) = (lead.kind, lead.evidence.every_ns) {
            // The five times by which it was told to be periodic, and one more.
            let from = Moment(now.0.saturating_sub(6 * every)).max(begin);
            return Self {
                from,
                to: now,
                split: Split::High,
            };
        }
        // Half as long before as it lasts, and four bins at least.
        let before = (long / 2).max(4 * history.bin_ns());
        let from = Moment(since.0.saturating_sub(before)).max(begin);
        let at = (since.0 - from.0).div_ceil(history.bin_ns()) as usize;
        Self {
            from,
            to: now,
            split: Split::At(at),
        }
    }

    /// What comes and goes has no onset.
    fn has_lag(&self) -> bool {
        matches!(self.split, Split::At(_))
    }
}

/// Which bins are compared.
struct Sides {
    first: Vec<bool>,
    second: Vec<bool>,
}

impl Sides {
    /// Where nothing is known of before, the first eighth has to do.
    fn before_and_last(bins: usize, at: usize) -> Self {
        let before = if at == 0 { (bins / 8).max(1) } else { at };
        let after = bins.saturating_sub(before);
        let last = bins.saturating_sub((after / 4).max(1));
        Self {
            first: (0..bins).map(|i| i < before).collect(),
            second: (0..bins)
                .map(|i| i >= last.max(before.min(bins.saturating_sub(1))))
                .collect(),
        }
    }

    fn low_and_high(values: &[f64]) -> Self {
        let known = || values.iter().copied().filter(|value| !value.is_nan());
        let (low, high) = (
            known().fold(f64::INFINITY, f64::min),
            known().fold(f64::NEG_INFINITY, f64::max),
        );
        let middle = f64::midpoint(low, high);
        Self {
            first: values.iter().map(|value| *value < middle).collect(),
            second: values.iter().map(|value| *value >= middle).collect(),
        }
    }

    fn first(&self, values: &[f64]) -> Option<f64> {
        of(values, &self.first)
    }

    fn second(&self, values: &[f64]) -> Option<f64> {
        of(values, &self.second)
    }

    fn onset(&self, values: &[f64]) -> Option<usize> {
        let (before, now) = (self.first(values)?, self.second(values)?);
        ((before - now).abs() > 0.0).then(|| quarter_of_the_way(values, before, now))
    }
}

fn of(values: &[f64], which: &[bool]) -> Option<f64> {
    let chosen: Vec<f64> = values
        .iter()
        .zip(which)
        .filter(|(_, chosen)| **chosen)
        .map(|(value, _)| *value)
        .collect();
    median(&chosen)
}
