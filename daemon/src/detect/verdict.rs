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
