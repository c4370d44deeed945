//! Levels that are not to be exceeded, because somebody said so: a back-stop for what is known of a service and cannot be
//! learned from it.

use super::reading::Reading;
use crate::{
    policy::{Rules, Threshold},
    stream::{Metric, Moment},
};

/// A metric that is compared with a level.
#[derive(Debug)]
struct Compared {
    metric: Metric,
    threshold: Threshold,
    is_raised: bool,
    /// Windows in a row that speak for a change: above, or when it is raised not above.
    windows: u32,
    /// When the first of those that are above began, and its value.
    since: Moment,
    first: f64,
    /// Nothing is raised before.
    quiet_until: Moment,
}

/// A row of windows that is long enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streak {
    /// Of which metric.
    pub metric: Metric,
    /// Above the level? Otherwise it was, and is not any more.
    pub is_above: bool,
    /// When it went above.
    pub since: Moment,
    /// The level.
    pub above: f64,
    /// How many windows.
    pub windows: u32,
    /// Value in the first window above.
    pub first: f64,
    /// Value now.
    pub now: f64,
}

/// All levels of a process or of a group of threads.
#[derive(Debug, Default)]
pub struct Thresholds(Vec<Compared>);

impl Thresholds {
    /// Those of the policy.
    pub fn new(rules: &Rules) -> Self {
        let compared = Metric::ALL.into_iter().filter_map(|metric| {
            Some(Compared {
                metric,
                threshold: rules.of(metric).threshold?,
                is_raised: false,
                windows: 0,
                since: Moment::default(),
                first: f64::NAN,
                quiet_until: Moment::default(),
            })
        });
        Self(compared.collect())
    }

    /// Compares a window. One that has no value says nothing.
    pub fn add(&mut self, reading: &Reading, rules: &Rules, mut tell: impl FnMut(Streak)) {
        for compared in &mut self.0 {
            let value = reading.value(compared.metric);
            if !value.is_nan() {
                let cool_down_s = rules.of(compared.metric).cool_down_s;
                compared.add(value, reading, cool_down_s).map(&mut tell);
            }
        }
    }

    /// The task is gone: what was raised.
    pub fn end(&mut self) -> impl Iterator<Item = Streak> {
        let raised = self.0.drain(..).filter(|compared| compared.is_raised);
        raised.map(|compared| Streak {
            is_above: false,
            ..compared.streak(compared.first)
        })
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Compared>()
    }
}

impl Compared {
    fn add(&mut self, value: f64, reading: &Reading, cool_down_s: f64) -> Option<Streak> {
        let is_above = value > self.threshold.above;
        if is_above == self.is_raised {
            self.windows = 0;
            return None;
        }
        if is_above && self.windows == 0 {
            let length = (reading.seconds * 1e9) as u64;
            self.since = Moment(reading.ts.0.saturating_sub(length));
            self.first = value;
        }
        self.windows = self.windows.saturating_add(1);
        if self.windows < self.threshold.windows || is_above && reading.ts < self.quiet_until {
            return None;
        }
        self.is_raised = is_above;
        if !is_above {
            self.quiet_until = Moment(reading.ts.0.saturating_add((cool_down_s * 1e9) as u64));
        }
        let streak = self.streak(value);
        self.windows = 0;
        Some(streak)
    }

    fn streak(&self, now: f64) -> Streak {
        Streak {
            metric: self.metric,
            is_above: self.is_raised,
            since: self.since,
            above: self.threshold.above,
            windows: self.windows.max(self.threshold.windows),
            first: self.first,
            now,
        }
    }
}
