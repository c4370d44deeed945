//! What a flag rests on, in the metric's unit.

use super::{
    channel::Channel,
    kinds::Sight,
    ledger::{DayOverDay, Rhythm},
    runaway::Fast,
    score,
    threshold::Streak,
    verdict::{Context, Verdict},
};
use crate::{
    policy::Sensitivity,
    stream::{Bound, Evidence, Forecast},
};

const HOUR_S: f64 = 3600.0;

/// Evidence without anything.
pub fn nothing() -> Evidence {
    Evidence {
        baseline: 0.0,
        now: 0.0,
        slope_per_hour: 0.0,
        slope_low_per_hour: 0.0,
        slope_high_per_hour: 0.0,
        z: 0.0,
        windows: 0,
        cleared_because: None,
        score: None,
        horizon_ns: None,
        levels: Vec::new(),
        noise: None,
        keeps_speed: None,
        record_before: None,
        load_ratio: None,
        load: None,
        hours_higher: None,
        every_ns: None,
        forecast: None,
        against: Vec::new(),
        above: None,
        sensitivity: Sensitivity::Normal,
    }
}

/// Of a ring that climbs.
pub fn of_ring(
    channel: Channel,
    verdict: &Verdict,
    interval: (f64, f64),
    context: &Context,
    window_s: f64,
) -> Evidence {
    let shape = &verdict.shape;
    let unit = |value| channel.unit(value);
    let (base, rise) = (shape.outline.base(), shape.rise());
    // From the middle of the first quarter to that of the last it is three quarters of the ring.
    let hours = 0.75 * context.horizon_s / HOUR_S;
    let slope = |slope: f64| {
        let reached = base + 0.75 * slope * shape.blocks as f64;
        (unit(reached) - unit(base)) / hours
    };
    Evidence {
        baseline: unit(base),
        now: unit(shape.outline.top()),
        slope_per_hour: slope(shape.slope),
        slope_low_per_hour: slope(interval.0),
        slope_high_per_hour: slope(interval.1),
        z: shape.significance(),
        windows: (context.horizon_s / window_s).round() as usize,
        score: Some(score::of_ring(channel, context.horizon_s)),
        horizon_ns: Some(nanoseconds(context.horizon_s)),
        levels: levels(&shape.outline.segments.map(unit)),
        noise: Some(shape.sigma / rise),
        keeps_speed: Some(shape.outline.keeps_speed()),
        record_before: context.record.is_finite().then(|| unit(context.record)),
        load_ratio: verdict.load.map(|load| load.rise.exp()),
        load: verdict.load.map(|load| load.by),
        forecast: forecast(channel, verdict, interval, context),
        against: verdict.doubts(context),
        ..nothing()
    }
}

/// None of them, if one is missing: JSON has no word for it, and the record could not be read again.
fn levels(parts: &[f64]) -> Vec<f64> {
    let known = parts.iter().all(|level| level.is_finite());
    if known { parts.to_vec() } else { Vec::new() }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// A limit that is known, or a doubling.
fn forecast(
    channel: Channel,
    verdict: &Verdict,
    interval: (f64, f64),
    context: &Context,
) -> Option<Forecast> {
    let shape = &verdict.shape;
    let top = shape.outline.top();
    let limit = verdict.forecast.limit.filter(|limit| *limit > top);
    let doubled = if channel.is_floor() {
        2.0 * top
    } else {
        top + 2.0_f64.ln()
    };
    let level = limit.unwrap_or(doubled);
    let block_s = context.horizon_s / shape.blocks as f64;
    let after = |slope: f64| (slope > 0.0).then(|| nanoseconds((level - top) / slope * block_s));
    Some(Forecast {
        reaches: if limit.is_some() {
            Bound::Limit
        } else {
            Bound::Doubling
        },
        level: channel.unit(level),
        in_ns: after(shape.slope)?,
        soonest_ns: after(interval.1)?,
        latest_ns: after(interval.0),
    })
}

/// Of what is too fast for rings.
pub fn of_fast(fast: &Fast, now_s: f64, limit: Option<f64>) -> Evidence {
    let known = limit.filter(|limit| *limit > fast.now);
    let level = known.unwrap_or(2.0 * fast.now);
    let after = |slope: f64| nanoseconds((level - fast.now) / slope);
    Evidence {
        baseline: fast.base,
        now: fast.now,
        slope_per_hour: fast.slope * HOUR_S,
        slope_low_per_hour: (fast.slope - fast.error) * HOUR_S,
        slope_high_per_hour: (fast.slope + fast.error) * HOUR_S,
        z: fast.z,
        windows: fast.windows,
        horizon_ns: Some(nanoseconds(now_s - fast.begin_s)),
        keeps_speed: Some(fast.keeps_speed),
        forecast: Some(Forecast {
            reaches: if known.is_some() {
                Bound::Limit
            } else {
                Bound::Doubling
            },
            level,
            in_ns: after(fast.slope),
            soonest_ns: after(fast.slope + fast.error),
            latest_ns: (fast.slope > fast.error).then(|| after(fast.slope - fast.error)),
        }),
        ..nothing()
    }
}

/// Of a level that is not to be exceeded.
pub fn of_threshold(streak: &Streak) -> Evidence {
    Evidence {
        baseline: streak.first,
        now: streak.now,
        windows: streak.windows as usize,
        above: Some(streak.above),
        ..nothing()
    }
}

/// A logarithm in the metric's unit.
fn of_logarithm(channel: Channel, value: f64) -> f64 {
    channel.unit(if channel.is_floor() {
        value.exp()
    } else {
        value
    })
}

/// Of a step or an excursion.
pub fn of_sight(channel: Channel, sight: &Sight) -> Evidence {
    let (before, after, z, every_s) = match sight {
        Sight::Step(_, step) => (step.before, step.after, step.sigmas, None),
        Sight::Excursion(seen) => (seen.usual, seen.peak, seen.sigmas, seen.every_s),
    };
    Evidence {
        baseline: of_logarithm(channel, before),
        now: of_logarithm(channel, after),
        z,
        every_ns: every_s.map(nanoseconds),
        ..nothing()
    }
}

/// Of a daily rhythm.
pub fn of_rhythm(rhythm: &Rhythm, window_s: f64) -> Evidence {
    Evidence {
        baseline: of_logarithm(rhythm.channel, rhythm.range.0),
        now: of_logarithm(rhythm.channel, rhythm.range.1),
        // Fisher's transformation. What repeats to the last bit is at infinity, or beyond by rounding: JSON has neither.
        z: rhythm.correlation.min(1.0 - 1e-9).atanh()
            * (rhythm.hours.saturating_sub(24 + 3) as f64).sqrt(),
        windows: (rhythm.hours as f64 * HOUR_S / window_s).round() as usize,
        every_ns: Some(nanoseconds(24.0 * HOUR_S)),
        ..nothing()
    }
}

/// Of two days' rises.
pub fn of_days(days: &DayOverDay, window_s: f64) -> Evidence {
    const DAY_S: f64 = 24.0 * HOUR_S;
    let channel = days.channel;
    let total = days.now - days.before;
    let slope = |rise: f64| total * rise / (days.rises[0] + days.rises[1]) / 24.0;
    let (less, more) = (
        days.rises[0].min(days.rises[1]),
        days.rises[0].max(days.rises[1]),
    );
    Evidence {
        baseline: days.before,
        now: days.now,
        slope_per_hour: total / 48.0,
        slope_low_per_hour: slope(less),
        slope_high_per_hour: slope(more),
        windows: (3.0 * DAY_S / window_s).round() as usize,
        horizon_ns: Some(nanoseconds(3.0 * DAY_S)),
        score: Some(score::DAYS),
        hours_higher: Some(days.higher),
        forecast: (total > 0.0 && channel.is_floor()).then(|| {
            let after = |hourly: f64| nanoseconds(days.now / hourly.max(1e-9) * HOUR_S);
            Forecast {
                reaches: Bound::Doubling,
                level: 2.0 * days.now,
                in_ns: after(total / 48.0),
                soonest_ns: after(slope(more)),
                latest_ns: Some(after(slope(less))),
            }
        }),
        ..nothing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: f64 = 1e9;

    fn fast(error: f64) -> Fast {
        Fast {
            begin_s: 100.0,
            base: 10.0,
            now: 50.0,
            slope: 2.0,
            error,
            z: 9.0,
            keeps_speed: 1.1,
            windows: 20,
        }
    }

    /// When it arrives: soonest, most likely, at the latest, in seconds.
    fn arrives(evidence: &Evidence) -> (Bound, f64, [Option<f64>; 3]) {
        let forecast = evidence.forecast.expect("it rises");
        let seconds = |ns: u64| Some(ns as f64 / SECOND);
        let latest = forecast.latest_ns.and_then(seconds);
        (
            forecast.reaches,
            forecast.level,
            [
                seconds(forecast.soonest_ns),
                seconds(forecast.in_ns),
                latest,
            ],
        )
    }

    #[test]
    fn a_fast_rise_arrives_sooner_or_later_by_its_error() {
        let evidence = of_fast(&fast(0.5), 120.0, None);
        assert_eq!(
            (evidence.baseline, evidence.now, evidence.windows),
            (10.0, 50.0, 20)
        );
        assert_eq!(
            (
                evidence.slope_low_per_hour,
                evidence.slope_per_hour,
                evidence.slope_high_per_hour
            ),
            (5400.0, 7200.0, 9000.0)
        );
        assert_eq!((evidence.z, evidence.keeps_speed), (9.0, Some(1.1)));
        assert_eq!(evidence.horizon_ns, Some(20_000_000_000));
        // 50 more at 2.5, 2 and 1.5 a second.
        let doubled = (
            Bound::Doubling,
            100.0,
            [Some(20.0), Some(25.0), Some(33.333_333_333)],
        );
        assert_eq!(arrives(&evidence), doubled);
        let limited = |limit| arrives(&of_fast(&fast(0.5), 120.0, Some(limit)));
        assert_eq!(
            limited(80.0),
            (Bound::Limit, 80.0, [Some(12.0), Some(15.0), Some(20.0)])
        );
        // A limit that it is beyond already is none.
        assert_eq!((limited(50.0), limited(40.0)), (doubled, doubled));
        // It may not rise at all.
        let unsure = of_fast(&fast(2.0), 120.0, None);
        assert_eq!(arrives(&unsure).2, [Some(12.5), Some(25.0), None]);
    }

    #[test]
    fn days_arrive_by_the_larger_and_the_smaller_of_their_rises() {
        let days = DayOverDay {
            channel: Channel::Committed,
            before: 100.0,
            now: 148.0,
            rises: [0.5, 1.5],
            higher: 0.9,
        };
        let evidence = of_days(&days, 60.0);
        // 48 in two days; 12 on one of them and 36 on the other.
        assert_eq!(
            (
                evidence.slope_low_per_hour,
                evidence.slope_per_hour,
                evidence.slope_high_per_hour
            ),
            (0.5, 1.0, 1.5)
        );
        assert_eq!(
            (evidence.baseline, evidence.now, evidence.windows),
            (100.0, 148.0, 3 * 1440)
        );
        assert_eq!(evidence.horizon_ns, Some(3 * 86_400 * 1_000_000_000));
        let hour = |hours: f64| Some(hours * HOUR_S);
        let (reaches, level, [soonest, most_likely, latest]) = arrives(&evidence);
        assert_eq!((reaches, level), (Bound::Doubling, 296.0));
        assert_eq!((most_likely, latest), (hour(148.0), hour(296.0)));
        assert!(soonest.is_some_and(|soonest| (soonest / HOUR_S - 148.0 / 1.5).abs() < 1e-6));
        let falls = DayOverDay { now: 90.0, ..days };
        assert_eq!(of_days(&falls, 60.0).forecast, None);
    }
}
