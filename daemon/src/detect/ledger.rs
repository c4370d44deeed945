//! Hours of the last days: is each slower than the same hour of the day before, two days running? And is there a daily
//! rhythm?
//!
//! A service with a daily rhythm climbs and falls every day by more than it leaks. What leaks shows between the same hours.

use std::collections::VecDeque;

use super::{
    channel::Channel,
    median::{LONGEST, median_of},
    reading::Reading,
    shape::MAD_TO_SIGMA,
};
use crate::policy::Demand;

const HOUR_S: f64 = 3600.0;
const DAY: usize = 24;
const HOURS: usize = LONGEST;

/// Channels that are compared, and the least rise over two days, as a logarithm.
pub const COMPARED: [(Channel, f64); 4] = [
    (Channel::Committed, 0.05),
    (Channel::Threads, 0.10),
    (Channel::Mapped, 0.25),
    (Channel::Typical, 0.12),
];

/// Place of the load behind these.
const LOAD: usize = COMPARED.len();
const KEPT: usize = COMPARED.len() + 1;

/// Hours of a day that must be known on both days.
const KNOWN: usize = 16;

/// Share of the hours that must be higher than the day before.
pub const HIGHER: f64 = 0.85;

/// The smaller of the two rises must be this share of the larger: one jump is no climb.
pub const BALANCE: f64 = 0.4;

/// Least rise from day to day in standard errors of its median.
const SIGMA: f64 = 3.0;

/// Correlation of an hour with the same hour of the day before that makes a daily rhythm, and the least standard deviation,
/// as a logarithm, that is worth the name.
pub const RHYTHM: f64 = 0.6;
const RHYTHM_LEAST: f64 = 0.02;

/// Hours for that: almost two days.
const RHYTHM_HOURS: usize = 46;

/// What two days showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DayOverDay {
    /// Of what.
    pub channel: Channel,
    /// Level of the last day but two, in the channel's unit.
    pub before: f64,
    /// Level of the last day.
    pub now: f64,
    /// The two rises, older first, as logarithms.
    pub rises: [f64; 2],
    /// Share of hours that are higher than the day before, on the worse of the two days.
    pub higher: f64,
}

/// A daily rhythm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rhythm {
    /// Of what.
    pub channel: Channel,
    /// Correlation of an hour with that of the day before.
    pub correlation: f64,
    /// Lowest and highest hour, as logarithms.
    pub range: (f64, f64),
    /// Hours looked at.
    pub hours: usize,
}

/// What the windows of an hour add up to.
#[derive(Clone, Copy, Debug)]
struct Hour {
    seconds: f64,
    committed: f64,
    threads: f64,
    /// Sum of logarithms, and of how many.
    mapped: (f64, u32),
    /// Likewise.
    waits: (f64, u64),
    /// Switches, in windows that say so, and the length of these.
    switches: (u64, f64),
}

/// Hours of one series set.
#[derive(Debug)]
pub struct Ledger {
    filling: Hour,
    /// Which hour is being filled.
    hour: u64,
    /// Values of the last three days by hour, as logarithms.
    hours: VecDeque<[f32; KEPT]>,
    /// Highest median of a day that ended more than two days ago, and those that are younger.
    record: [f64; COMPARED.len()],
    younger: VecDeque<(u64, [f32; COMPARED.len()])>,
}

impl Hour {
    const NOTHING: Self = Self {
        seconds: 0.0,
        committed: f64::NAN,
        threads: f64::NAN,
        mapped: (0.0, 0),
        waits: (0.0, 0),
        switches: (0, 0.0),
    };

    fn add(&mut self, reading: &Reading) {
        self.seconds += reading.seconds;
        self.committed = self.committed.min(reading.committed);
        self.threads = self.threads.min(reading.threads);
        self.mapped.0 += reading.mapped;
        self.mapped.1 += 1;
        if let Some(more) = &reading.statistics {
            self.waits.0 += more.logs;
            self.waits.1 += more.count;
        }
        if let Some(switches) = reading.switches {
            self.switches.0 += switches;
            self.switches.1 += reading.seconds;
        }
    }

    /// As logarithms, floors too, in the order of what is compared; the load behind them.
    fn values(&self) -> [f32; KEPT] {
        [
            self.committed.max(1e-9).ln() + 0.0 * self.committed,
            self.threads.max(1e-9).ln() + 0.0 * self.threads,
            self.mapped.0 / f64::from(self.mapped.1),
            self.waits.0 / self.waits.1 as f64,
            ((self.switches.0 as f64 + 0.5) / self.switches.1).ln(),
        ]
        .map(|value| {
            if value.is_finite() {
                value as f32
            } else {
                f32::NAN
            }
        })
    }
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            filling: Hour::NOTHING,
            hour: 0,
            hours: VecDeque::new(),
            record: [f64::NEG_INFINITY; COMPARED.len()],
            younger: VecDeque::new(),
        }
    }

    /// Adds a window that ended at such a time since the first began. Is an hour complete with it?
    pub fn add(&mut self, end_s: f64, reading: &Reading) -> bool {
        let hour = ((end_s - reading.seconds / 2.0).max(0.0) / HOUR_S) as u64;
        let mut complete = false;
        if hour > self.hour {
            complete = self.complete(hour);
        }
        self.filling.add(reading);
        // The next window belongs to the next hour.
        if end_s + reading.seconds / 2.0 >= (self.hour + 1) as f64 * HOUR_S {
            complete |= self.complete(self.hour + 1);
        }
        complete
    }

    fn complete(&mut self, next: u64) -> bool {
        let filled = std::mem::replace(&mut self.filling, Hour::NOTHING);
        let complete = filled.seconds > 0.0;
        let hour = filled.values();
        self.push(hour);
        let missing = (next - self.hour - 1).min(HOURS as u64);
        for _ in 0..missing {
            self.push([f32::NAN; KEPT]);
        }
        self.hour = next;
        if next.is_multiple_of(12) {
            self.remember();
        }
        complete
    }

    fn push(&mut self, hour: [f32; KEPT]) {
        if self.hours.len() == HOURS {
            self.hours.pop_front();
        }
        if self.hours.len() == self.hours.capacity() {
            // Days and no more: doubling would take a third too much.
            self.hours.reserve_exact(DAY);
        }
        self.hours.push_back(hour);
    }

    /// Notes the median of the last day, and moves those that are old enough into the record.
    fn remember(&mut self) {
        if self.hours.len() >= DAY {
            let day = std::array::from_fn(|place| self.median(place, 0) as f32);
            self.younger.push_back((self.hour, day));
        }
        while let Some((hour, day)) = self.younger.front() {
            if hour + 2 * DAY as u64 > self.hour {
                break;
            }
            for (record, day) in self.record.iter_mut().zip(day) {
                *record = record.max(f64::from(*day));
            }
            self.younger.pop_front();
        }
    }

    /// An hour of a day, `ago` days before the last one.
    fn at(&self, place: usize, ago: usize, hour: usize) -> f64 {
        let back = (ago + 1) * DAY - hour;
        let at = self.hours.len().checked_sub(back);
        at.map_or(f64::NAN, |at| f64::from(self.hours[at][place]))
    }

    fn median(&self, place: usize, ago: usize) -> f64 {
        let mut day: [f64; DAY] = std::array::from_fn(|hour| self.at(place, ago, hour));
        median_of(&mut day)
    }

    /// How a day differs from the one before it: median and its standard error, share of hours that are higher. `None` if
    /// too few hours are known.
    fn rise(&self, place: usize, ago: usize) -> Option<(f64, f64, f64)> {
        let mut changes: [f64; DAY] =
            std::array::from_fn(|hour| self.at(place, ago, hour) - self.at(place, ago + 1, hour));
        let known = changes.iter().filter(|change| !change.is_nan()).count();
        if known < KNOWN {
            return None;
        }
        let higher = changes.iter().filter(|change| **change > 0.0).count();
        let median = median_of(&mut changes);
        let mut distances = changes.map(|change| (change - median).abs());
        let error = MAD_TO_SIGMA * median_of(&mut distances) / (DAY as f64).sqrt();
        Some((median, error, higher as f64 / known as f64))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.hours.capacity() * size_of::<[f32; KEPT]>()
            + self.younger.capacity() * size_of::<(u64, [f32; COMPARED.len()])>()
    }

    /// Which channels have risen from day to day. To be asked when an hour is complete.
    pub fn climbs(
        &self,
        demand: impl Fn(Channel) -> Demand,
    ) -> [Option<DayOverDay>; COMPARED.len()] {
        std::array::from_fn(|place| {
            let (channel, least) = COMPARED[place];
            self.climb(place, channel, least, demand(channel))
        })
    }

    fn climb(
        &self,
        place: usize,
        channel: Channel,
        least: f64,
        demand: Demand,
    ) -> Option<DayOverDay> {
        if self.hours.len() < HOURS {
            return None;
        }
        let newer = self.rise(place, 0)?;
        let older = self.rise(place, 1)?;
        let (small, large) = (newer.0.min(older.0), newer.0.max(older.0));
        let clear = |(rise, error, higher): (f64, f64, f64)| {
            rise >= SIGMA * demand.significance * (error + 1e-9) && higher >= HIGHER
        };
        let sum = small + large;
        let steady = small > 0.0 && small >= BALANCE * large && clear(newer) && clear(older);
        let of_load = |ago| self.rise(LOAD, ago).map_or(0.0, |(rise, _, _)| rise);
        let load = (of_load(0) + of_load(1)).max(0.0);
        let median = self.median(place, 0);
        let new = self.hour < 4 * DAY as u64 || median > self.record[place];
        (steady && sum >= least * demand.effect && sum > load && new).then(|| DayOverDay {
            channel,
            before: self.median(place, 2),
            now: median,
            rises: [older.0, newer.0],
            higher: newer.2.min(older.2),
        })
    }

    /// Which channels have a daily rhythm: correlation of each hour with that of the day before, a line taken out.
    pub fn rhythms(&self) -> impl Iterator<Item = Rhythm> + '_ {
        COMPARED
            .iter()
            .enumerate()
            .filter_map(|(place, (channel, _))| self.rhythm(place, *channel))
    }

    fn rhythm(&self, place: usize, channel: Channel) -> Option<Rhythm> {
        if self.hours.len() < RHYTHM_HOURS {
            return None;
        }
        let mut values = [f64::NAN; HOURS];
        for (value, hour) in values.iter_mut().zip(&self.hours) {
            *value = f64::from(hour[place]);
        }
        let level = without_line(&values)?;
        let mut pairs = [(0.0, 0.0); HOURS];
        let mut count = 0;
        for (before, now) in level.into_iter().zip(level.into_iter().skip(DAY)) {
            if before.is_finite() && now.is_finite() {
                pairs[count] = (before, now);
                count += 1;
            }
        }
        let pairs = &pairs[..count];
        if pairs.len() < KNOWN {
            return None;
        }
        let (correlation, deviation) = correlation(pairs);
        let known = || values.into_iter().filter(|value| value.is_finite());
        (correlation > RHYTHM && deviation > RHYTHM_LEAST).then(|| Rhythm {
            channel,
            correlation,
            range: (
                known().fold(f64::INFINITY, f64::min),
                known().fold(f64::NEG_INFINITY, f64::max),
            ),
            hours: self.hours.len(),
        })
    }
}

/// The values without their line of least squares. `None` for fewer than two.
fn without_line(values: &[f64; HOURS]) -> Option<[f64; HOURS]> {
    let points = || values.iter().enumerate().map(|(i, y)| (i as f64, *y));
    let known = || points().filter(|(_, y)| y.is_finite());
    let count = known().count() as f64;
    if count < 2.0 {
        return None;
    }
    let x0 = known().map(|(x, _)| x).sum::<f64>() / count;
    let y0 = known().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = known().map(|(x, _)| (x - x0).powi(2)).sum();
    let shared: f64 = known().map(|(x, y)| (x - x0) * (y - y0)).sum();
    let slope = shared / spread;
    Some(std::array::from_fn(|i| {
        values[i] - y0 - slope * (i as f64 - x0)
    }))
}

/// Correlation of pairs, and the standard deviation of the second ones.
fn correlation(pairs: &[(f64, f64)]) -> (f64, f64) {
    let count = pairs.len() as f64;
    let a0 = pairs.iter().map(|(a, _)| a).sum::<f64>() / count;
    let b0 = pairs.iter().map(|(_, b)| b).sum::<f64>() / count;
    let aa: f64 = pairs.iter().map(|(a, _)| (a - a0).powi(2)).sum();
    let bb: f64 = pairs.iter().map(|(_, b)| (b - b0).powi(2)).sum();
    let ab: f64 = pairs.iter().map(|(a, b)| (a - a0) * (b - b0)).sum();
    (ab / (aa * bb).sqrt().max(1e-12), (bb / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{detect::reading::Limits, stream::Moment};

    /// Hours of half-hour windows, with committed memory by the hour and switches, if they are known.
    fn hours(
        count: u32,
        memory: impl Fn(f64) -> f64,
        switches: Option<fn(f64) -> f64>,
    ) -> (Ledger, u32) {
        let mut ledger = Ledger::new();
        let mut complete = 0;
        for half in 1..=2 * count {
            let hour = f64::from(half - 1) / 2.0;
            let nothing = Reading::of_threads(Moment(0), 1800.0, None, None);
            let reading = Reading {
                committed: memory(hour),
                switches: switches.map(|switches| switches(hour) as u64),
                limits: Limits::UNKNOWN,
                ..nothing
            };
            complete += u32::from(ledger.add(1800.0 * f64::from(half), &reading));
        }
        (ledger, complete)
    }

    /// By so much each day, on a daily wave of 30 %.
    fn daily(by: f64) -> impl Fn(f64) -> f64 {
        move |hour| {
            1e9 * (1.0 + 0.3 * (hour / 24.0 * std::f64::consts::TAU).sin())
                * (by * (hour / 24.0).floor()).exp()
        }
    }

    fn climbing(ledger: &Ledger) -> Option<DayOverDay> {
        let normal = |_| crate::policy::Sensitivity::Normal.demand();
        ledger.climbs(normal).into_iter().flatten().next()
    }

    #[test]
    fn two_rises_in_a_row_climb() {
        let (ledger, complete) = hours(72, daily(0.1), None);
        assert_eq!(complete, 72);
        let found = climbing(&ledger).expect("a climb");
        assert_eq!(found.channel, Channel::Committed);
        assert!(
            (found.rises[0] - 0.1).abs() < 1e-5 && (found.rises[1] - 0.1).abs() < 1e-5,
            "{found:?}"
        );
        assert!(
            (found.higher - 1.0).abs() < 1e-9 && (found.now - found.before - 0.2).abs() < 1e-5,
            "{found:?}"
        );
        assert!(
            climbing(&hours(71, daily(0.1), None).0).is_none(),
            "three days are asked for"
        );
        assert!(
            climbing(&hours(72, daily(0.02), None).0).is_none(),
            "5 % over two days"
        );
        assert!(climbing(&hours(72, daily(0.03), None).0).is_some());
        assert!(climbing(&hours(72, daily(-0.1), None).0).is_none());
    }

    #[test]
    fn both_rises_count_and_most_hours() {
        let uneven = |first: f64, second: f64| {
            let rises = [0.0, first, first + second];
            let wave = daily(0.0);
            hours(
                72,
                move |hour| wave(hour) * rises[(hour / 24.0) as usize].exp(),
                None,
            )
            .0
        };
        assert!(climbing(&uneven(0.1, 0.05)).is_some() && climbing(&uneven(0.05, 0.1)).is_some());
        assert!(climbing(&uneven(0.1, 0.03)).is_none() && climbing(&uneven(0.03, 0.1)).is_none());
        let some_hours = |lower: u32| {
            let wave = daily(0.1);
            let falls = move |hour: f64| hour >= 48.0 && (hour - 48.0) < f64::from(lower);
            hours(
                72,
                move |hour| wave(hour) * if falls(hour) { 0.8 } else { 1.0 },
                None,
            )
            .0
        };
        assert!(
            climbing(&some_hours(3)).is_some() && climbing(&some_hours(4)).is_none(),
            "85 % of the hours"
        );
    }

    #[test]
    fn load_and_what_was_there_before_explain() {
        assert!(
            climbing(
                &hours(
                    72,
                    daily(0.1),
                    Some(|hour| 1e5 * (0.05 * (hour / 24.0).floor()).exp())
                )
                .0
            )
            .is_some()
        );
        assert!(
            climbing(
                &hours(
                    72,
                    daily(0.1),
                    Some(|hour| 1e5 * (0.11 * (hour / 24.0).floor()).exp())
                )
                .0
            )
            .is_none()
        );
        // Up to where it was a week ago.
        let back = |hour: f64| {
            if hour < 48.0 {
                2e9
            } else {
                daily(0.1)(hour - 48.0)
            }
        };
        assert!(
            climbing(&hours(288, back, None).0).is_some(),
            "far above it"
        );
        assert!(climbing(&hours(168, back, None).0).is_none());
    }

    #[test]
    fn a_gap_is_hours_that_are_not_known() {
        let mut ledger = Ledger::new();
        let reading = |value: f64| Reading {
            committed: value,
            ..Reading::of_threads(Moment(0), 3600.0, None, None)
        };
        assert!(ledger.add(3600.0, &reading(5.0)));
        assert!(ledger.add(5.0 * 3600.0, &reading(6.0)));
        assert_eq!(ledger.hours.len(), 5);
        let known: Vec<bool> = ledger.hours.iter().map(|hour| !hour[0].is_nan()).collect();
        assert_eq!(known, [true, false, false, false, true]);
        assert!(ledger.add(1000.0 * 3600.0, &reading(6.0)));
        assert_eq!(
            (ledger.hours.len(), ledger.hours.capacity()),
            (HOURS, HOURS)
        );
    }

    #[test]
    fn a_rhythm_comes_back_every_day() {
        let rhythm = |ledger: &Ledger| ledger.rhythms().next();
        let found = rhythm(&hours(50, daily(0.0), None).0).expect("a rhythm");
        assert!(found.correlation > 0.9 && found.hours == 50, "{found:?}");
        assert!(
            (found.range.1 - found.range.0 - (1.3_f64 / 0.7).ln()).abs() < 0.01,
            "{found:?}"
        );
        assert!(rhythm(&hours(45, daily(0.0), None).0).is_none());
        assert!(
            rhythm(&hours(72, |hour| 1e9 * (1.0 + 0.01 * hour), None).0).is_none(),
            "a line"
        );
        let small = |hour: f64| 1e9 * (1.0 + 0.02 * (hour / 24.0 * std::f64::consts::TAU).sin());
        assert!(rhythm(&hours(72, small, None).0).is_none());
        let seven = |hour: f64| 1e9 * (1.0 + 0.3 * (hour / 7.0 * std::f64::consts::TAU).sin());
        assert!(
            rhythm(&hours(72, seven, None).0).is_none(),
            "of seven hours"
        );
    }
}
