//! Does a ring climb? A funnel: each rule removes one kind of healthy growth.
//!
//! A trend test alone raises a false alarm on nine of ten healthy series when it is asked often enough. It measures here;
//! what decides is the shape of the rise, how new its level is, and that it persists.

use super::{
    channel::Channel,
    load::Rise,
    shape::{Outline, Shape},
};
use crate::{policy::Demand, stream::Load};

const HOUR_S: f64 = 3600.0;
const DAY_S: f64 = 86_400.0;

/// Least significance, for as many blocks as are independent: once in 4,000 looks by chance.
pub const SIGNIFICANCE: f64 = 3.5;

/// A rise of fewer deviations about the line is noise.
pub const RISE_SIGMA: f64 = 3.0;

/// Largest share of all rises that a single one of seven may have; a line has a seventh, a step between two parts all,
/// and a step within one at least half.
pub const LARGEST_JUMP: f64 = 0.55;

/// Of the seven changes from part to part, so many must rise.
pub const RISING: usize = 5;

/// Least speed of the second half compared with the first. What settles as e^(-t/τ) has e^(-3/8·span/τ): 0.7 tells it
/// from a line once a ring spans 0.95 time constants. As long as the task is younger than some rings, it is to be expected
/// that it settles, and the bound is stricter.
const KEEPS_SPEED: f64 = 0.7;
const KEEPS_SPEED_YOUNG: f64 = 0.8;
const YOUNG: f64 = 6.0;

/// Share of the rise that must lie above everything held before the ring.
pub const NOVELTY: f64 = 0.5;

/// A ring must span this share of the time that is left, within bounds: who has months has time for a second look.
const PATIENCE: f64 = 0.25;
const LEAST_PATIENCE_S: f64 = 300.0;
const MOST_PATIENCE_S: f64 = 6.0 * HOUR_S;

/// It must also span a share of what is known of the task, of which a week counts at most: what has been well for a week is not ill for a minute. A rise to
/// more than e times the level needs less. Rates and delays come in episodes, and need more: an eighth of a day.
pub const KNOWN_S: f64 = 7.0 * DAY_S;
const HISTORY: f64 = 1.0 / 16.0;
const HISTORY_LARGE: f64 = 1.0 / 32.0;
const HISTORY_FLOW: f64 = 1.0 / 8.0;

/// Rates and delays wander. In the first ring of all there is nothing to compare with: they must be known for longer.
const PAST: f64 = 1.25;

/// A limit that is not known is taken to be at this multiple of the level. One that is further away than twenty times the level was not set
/// for this service (most may open a million files and have all of the machine's memory), and is no reason to wait for longer. A container's limit is a
/// few times what it needs, and it may begin with a tenth of that.
const UNKNOWN_LIMIT: f64 = 4.0;
const FAR_LIMIT: f64 = 20.0;

/// From this horizon on growth is compared with the load's.
const LOAD_HORIZON_S: f64 = HOUR_S;

/// For so long there is no other day to compare with.
pub const FIRST_DAY_S: f64 = 26.0 * HOUR_S;

/// What is known beside the ring.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Time that the ring spans.
    pub horizon_s: f64,
    /// Since the task was created.
    pub age_s: f64,
    /// For how long it has been watched.
    pub history_s: f64,
    /// The highest level before the ring; negative infinity if there is none.
    pub record: f64,
    /// The most that there may be, if known.
    pub limit: Option<f64>,
    /// How much evidence is asked for.
    pub demand: Demand,
}

impl Context {
    /// The least significance.
    fn significance(&self) -> f64 {
        SIGNIFICANCE * self.demand.significance
    }

    /// The least rise from such a level.
    fn least_rise(&self, channel: Channel, base: f64) -> f64 {
        channel.effect().least(base) * self.demand.effect
    }
}

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The limit, if it is known.
    pub limit: Option<f64>,
    /// Seconds until that, or until four times the level if it is far away, if it goes on like this.
    pub seconds: f64,
}

/// What speaks for a climb.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The ring's shape.
    pub shape: Shape,
    /// Has the load grown as much?
    pub explained: bool,
    /// How far the load has risen, if it has.
    pub load: Option<Rise>,
    /// What is left.
    pub forecast: Forecast,
}

/// Can a ring of such a length be long enough at all, whatever is in it?
pub fn may_be_long_enough(channel: Channel, horizon_s: f64, history_s: f64) -> bool {
    let least = LEAST_PATIENCE_S.max(history_s.min(KNOWN_S) * HISTORY_LARGE);
    let has_past = channel.is_floor() || history_s >= PAST * horizon_s;
    has_past && horizon_s >= least.max(flow_patience_s(channel, history_s))
}

/// The cheap look that spares most rings the full one: is the last quarter above the first? On a line they are
/// three quarters of the rise apart. And does what can be said without a line speak for a climb?
pub fn may_climb(channel: Channel, outline: &Outline, context: &Context) -> bool {
    const GATE: f64 = 0.2;
    let (first, last) = (outline.base(), outline.top());
    last - first > GATE * context.least_rise(channel, first) && outline_speaks_for(outline, context)
}

fn outline_speaks_for(outline: &Outline, context: &Context) -> bool {
    let (base, top) = (outline.base(), outline.top());
    let speed = least_speed(context.age_s, context.horizon_s);
    let new = context.record.is_infinite() || top - context.record > NOVELTY * (top - base);
    new && outline.largest_jump <= LARGEST_JUMP
        && outline.rising >= RISING
        && outline.keeps_speed() >= speed
}

/// The least speed of the second half compared with the first.
pub fn least_speed(age_s: f64, horizon_s: f64) -> f64 {
    if age_s < YOUNG * horizon_s {
        KEEPS_SPEED_YOUNG
    } else {
        KEEPS_SPEED
    }
}

/// Judges a ring of which the outline speaks for a climb. `load` says how the load has risen in the same time and is only
/// asked if all else does, too. `None` if it does not climb.
pub fn judge(
    channel: Channel,
    shape: Shape,
    context: &Context,
    load: impl FnOnce() -> Option<Rise>,
) -> Option<Verdict> {
    let outline = &shape.outline;
    let forecast = forecast(channel, &shape, context);
    let relative = relative_rise(channel, &shape);
    let rise = shape.rise();
    let climbs = may_climb(channel, outline, context)
        && shape.significance() > context.significance()
        && rise > context.least_rise(channel, outline.base())
        && rise > RISE_SIGMA * shape.sigma
        && shape.step_over_line <= 1.0
        && context.horizon_s >= patience_s(channel, relative, &forecast, context);
    if !climbs {
        return None;
    }
    let compare = context.horizon_s >= LOAD_HORIZON_S;
    let load = compare.then(load).flatten();
    let factor = channel.load_factor(context.history_s < FIRST_DAY_S);
    Some(Verdict {
        explained: load.is_some_and(|load| relative <= factor * load.rise),
        shape,
        load,
        forecast,
    })
}

/// The rise as a logarithm.
fn relative_rise(channel: Channel, shape: &Shape) -> f64 {
    if channel.is_floor() {
        (shape.outline.top().max(1e-9) / shape.outline.base().max(1e-9)).ln()
    } else {
        shape.rise()
    }
}

/// How long a ring must be to be trusted.
fn patience_s(channel: Channel, relative: f64, forecast: &Forecast, context: &Context) -> f64 {
    let left = patience_for(forecast.seconds);
    let share = if relative > 1.0 {
        HISTORY_LARGE
    } else {
        HISTORY
    };
    let known = context.history_s.min(KNOWN_S) * share;
    left.max(known)
        .max(flow_patience_s(channel, context.history_s))
}

/// How long a ring must be if so much time is left.
pub fn patience_for(left_s: f64) -> f64 {
    (PATIENCE * left_s).clamp(LEAST_PATIENCE_S, MOST_PATIENCE_S)
}

fn flow_patience_s(channel: Channel, history_s: f64) -> f64 {
    if channel.is_floor() {
        0.0
    } else {
        history_s.min(DAY_S) * HISTORY_FLOW
    }
}

fn forecast(channel: Channel, shape: &Shape, context: &Context) -> Forecast {
    let block_s = context.horizon_s / shape.blocks as f64;
    Forecast {
        limit: context.limit,
        seconds: seconds_left(
            channel,
            &shape.outline,
            context.limit,
            shape.slope / block_s,
        ),
    }
}

fn limit_or_guess(channel: Channel, outline: &Outline, limit: Option<f64>) -> f64 {
    match limit.filter(|limit| *limit <= FAR_LIMIT * outline.top()) {
        Some(limit) => limit,
        None if channel.is_floor() => UNKNOWN_LIMIT * outline.base(),
        None => outline.top() + UNKNOWN_LIMIT.ln(),
    }
}

/// Until the limit, known or not, if it rises by so much a second.
pub fn seconds_left(channel: Channel, outline: &Outline, limit: Option<f64>, slope: f64) -> f64 {
    let left = limit_or_guess(channel, outline, limit) - outline.top();
    left.max(0.0) / slope.max(1e-30)
}

impl Verdict {
    /// Rules that were passed, but not by much.
    pub fn doubts(&self, context: &Context) -> Vec<String> {
        let shape = &self.shape;
        let mut doubts = Vec::new();
        let mut doubt = |applies: bool, text: String| {
            if applies {
                doubts.push(text);
            }
        };
        doubt(
            shape.significance() < 1.3 * context.significance(),
            format!("it might be chance: {:.1} deviations", shape.significance()),
        );
        doubt(
            shape.outline.largest_jump > 0.8 * LARGEST_JUMP,
            format!(
                "{:.0} % of the rise came at once",
                100.0 * shape.outline.largest_jump
            ),
        );
        doubt(
            shape.outline.keeps_speed() < 1.15 * KEEPS_SPEED_YOUNG,
            format!(
                "it slows down: {:.0} % of the speed in the second half",
                100.0 * shape.outline.keeps_speed()
            ),
        );
        let above =
            (shape.outline.top() - context.record) / (shape.outline.top() - shape.outline.base());
        doubt(
            above < 0.8,
            format!("it had {:.0} % of the rise before", 100.0 * (1.0 - above)),
        );
        if let Some(load) = self.load {
            doubts.push(format!(
                "there was more to do: {:.2} times as {}",
                load.rise.exp(),
                match load.by {
                    Load::Switches => "many switches",
                    Load::Cpu => "much CPU time, at the same cost a switch",
                }
            ));
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::ring::BLOCKS;

    const HOUR: Context = Context {
        horizon_s: HOUR_S,
        age_s: 1e7,
        history_s: 2.0 * HOUR_S,
        record: f64::NEG_INFINITY,
        limit: Some(250.0 * MIB),
        demand: Demand {
            significance: 1.0,
            effect: 1.0,
        },
    };

    fn verdict_of(
        channel: Channel,
        context: &Context,
        load: Option<f64>,
        value: impl FnMut(usize) -> f64,
    ) -> Option<Verdict> {
        let blocks: [f64; BLOCKS] = std::array::from_fn(value);
        let shape = Shape::of(&blocks, &mut Vec::new())?;
        let load = load.map(|rise| Rise {
            by: Load::Switches,
            rise,
        });
        judge(channel, shape, context, || load)
    }

    fn passes(context: &Context, value: impl FnMut(usize) -> f64) -> bool {
        verdict_of(Channel::Committed, context, None, value).is_some()
    }

    const MIB: f64 = 1_048_576.0;
    const NOISE: [f64; 8] = [0.3, -0.9, 0.8, -0.1, -0.6, 0.9, -0.4, 0.1];

    /// From 100 MiB on, by so many MiB over the ring.
    fn line(rise: f64) -> impl Fn(usize) -> f64 {
        move |i| (100.0 + rise * i as f64 / 31.0) * MIB
    }

    #[test]
    fn a_line_climbs_if_it_matters() {
        assert!(passes(&HOUR, line(60.0)) && !passes(&HOUR, line(-60.0)));
        let long = Context {
            horizon_s: 6.0 * HOUR_S,
            history_s: 8.0 * HOUR_S,
            ..HOUR
        };
        assert!(
            passes(&long, line(3.4)) && !passes(&long, line(2.8)),
            "3 % of 100 MiB"
        );
    }

    #[test]
    fn noise_hides_a_rise() {
        let noisy =
            |noise: f64| move |i: usize| line(60.0)(i) + noise * MIB * NOISE[(i + i / 8 * 3) % 8];
        assert!(passes(&HOUR, noisy(5.0)));
        // The deviation about the line is then 0.7 times that.
        assert!(!passes(&HOUR, noisy(40.0)));
    }

    #[test]
    fn steps_and_what_settles_are_none() {
        assert!(!passes(&HOUR, |i| if i < 17 {
            100.0 * MIB
        } else {
            160.0 * MIB
        }));
        let settling = |tau: f64| move |i: usize| (200.0 - 100.0 * (-(i as f64) / tau).exp()) * MIB;
        // The second half is e^(-12/tau) as fast as the first: twelve blocks lie between the middles of the parts compared.
        let young = Context {
            age_s: HOUR_S,
            ..HOUR
        };
        assert!(passes(&HOUR, settling(40.0)) && !passes(&HOUR, settling(28.0)));
        assert!(passes(&young, settling(64.0)) && !passes(&young, settling(45.0)));
    }

    #[test]
    fn half_of_it_must_be_new() {
        let record = |mib: f64| Context {
            record: mib * MIB,
            ..HOUR
        };
        // The parts' middles go from 107 to 153 MiB or so.
        assert!(passes(&record(128.0), line(60.0)) && !passes(&record(133.0), line(60.0)));
    }

    #[test]
    fn who_has_time_is_looked_at_for_longer() {
        let times = |horizon: f64, history: f64| Context {
            horizon_s: horizon * HOUR_S,
            history_s: history * HOUR_S,
            limit: None,
            ..HOUR
        };
        // A sixteenth of what is known.
        assert!(passes(&times(2.0, 31.0), line(100.0)) && !passes(&times(2.0, 33.0), line(100.0)));
        // A 32nd for a rise to more than e times the level.
        assert!(passes(&times(2.0, 63.0), line(400.0)) && !passes(&times(2.0, 65.0), line(400.0)));
        // A week counts at most.
        assert!(
            passes(&times(10.6, 5000.0), line(100.0)) && !passes(&times(10.4, 5000.0), line(100.0))
        );
        // Ten MiB an hour: it takes 29 hours to four times the level, of which six count.
        assert!(passes(&times(6.1, 12.0), line(10.0)) && !passes(&times(5.9, 12.0), line(10.0)));
        // A limit that is near is no time to wait; one beyond 20 times the level is none.
        let limited = |mib: f64| Context {
            limit: Some(mib * MIB),
            ..times(1.0, 2.0)
        };
        assert!(passes(&limited(140.0), line(10.0)) && !passes(&limited(900.0), line(10.0)));
        assert!(
            passes(&times(1.0, 2.0), line(100.0))
                && !passes(&limited(1500.0), line(100.0))
                && passes(&limited(4000.0), line(100.0))
        );
        // Never less than five minutes.
        let short = |seconds: f64| Context {
            horizon_s: seconds,
            history_s: 2.0 * seconds,
            ..HOUR
        };
        assert!(passes(&short(310.0), line(200.0)) && !passes(&short(290.0), line(200.0)));
    }

    #[test]
    fn rates_must_be_known_for_longer_than_levels() {
        let flow =
            |horizon: f64, history: f64| may_be_long_enough(Channel::Typical, horizon, history);
        assert!(
            flow(1000.0, 1250.0)
                && !flow(1000.0, 1240.0)
                && !flow(1000.0, 8100.0)
                && flow(1000.0, 7900.0)
        );
        assert!(
            flow(10_900.0, 1e5) && !flow(10_700.0, 1e5),
            "an eighth of a day"
        );
        let level =
            |horizon: f64, history: f64| may_be_long_enough(Channel::Threads, horizon, history);
        assert!(level(1000.0, 1000.0) && level(1000.0, 31_000.0) && !level(1000.0, 33_000.0));
        assert!(
            !level(299.0, 299.0)
                && level(301.0, 301.0)
                && level(19_000.0, 1e9)
                && !level(18_000.0, 1e9)
        );
    }

    #[test]
    fn load_explains_as_much_as_its_share() {
        let day = Context {
            history_s: 30.0 * HOUR_S,
            horizon_s: 4.0 * HOUR_S,
            ..HOUR
        };
        let first = Context {
            history_s: 20.0 * HOUR_S,
            ..day
        };
        // It rises by 0.31, as a logarithm.
        let explained = |context: &Context, load: f64| {
            let found = verdict_of(Channel::Committed, context, Some(load), line(50.0));
            found.expect("it climbs").explained
        };
        assert!(explained(&first, 0.33) && !explained(&first, 0.30));
        assert!(explained(&day, 0.54) && !explained(&day, 0.5));
        // Below an hour, nobody asks.
        let short = Context {
            horizon_s: 3000.0,
            history_s: 4000.0,
            ..HOUR
        };
        assert!(
            verdict_of(Channel::Committed, &short, Some(9.0), line(90.0))
                .is_some_and(|verdict| !verdict.explained && verdict.load.is_none())
        );
        let tail = verdict_of(Channel::Beyond8, &day, Some(9.0), |i| {
            -4.0 + i as f64 / 20.0
        });
        assert!(tail.is_some_and(|verdict| !verdict.explained));
    }

    #[test]
    fn what_speaks_against_it_is_said() {
        let said = |context: &Context, load: Option<f64>, value: &dyn Fn(usize) -> f64| {
            let found = verdict_of(Channel::Committed, context, load, value).expect("it climbs");
            found.doubts(context).join("; ")
        };
        assert_eq!(said(&HOUR, None, &line(60.0)), "");
        assert!(
            said(&HOUR, None, &|i| (200.0
                - 100.0 * (-(i as f64) / 50.0).exp())
                * MIB)
            .contains("it slows down: 79 %")
        );
        let record = Context {
            record: 120.0 * MIB,
            ..HOUR
        };
        assert!(said(&record, None, &line(60.0)).contains("of the rise before"));
        assert!(said(&HOUR, Some(0.1), &line(60.0)).contains("1.11 times as many switches"));
    }
}
