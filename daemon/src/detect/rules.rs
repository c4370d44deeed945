//! What a flag had to pass, from its evidence: each rule with the value, what was demanded, and whether that was met.
//!
//! What is not in the evidence is not made up: for how long the task had been watched, and how many looks agreed.

use serde::Serialize;

use super::{
    channel::{Channel, JUDGED},
    excursion, ledger, runaway,
    shape::Outline,
    step,
    summary::quantity,
    verdict,
};
use crate::{
    figures::{digits, length, percent},
    stream::{Bound, Evidence, Flag, FlagKind, Metric},
};

const DAY_NS: u64 = 86_400_000_000_000;

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What is looked at.
    pub name: &'static str,
    /// What it was.
    pub value: String,
    /// What was asked for.
    pub demanded: String,
    /// Was that met? Absent for what decides nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
}

fn rule(name: &'static str, value: String, demanded: String, passed: bool) -> Rule {
    Rule {
        name,
        value,
        demanded,
        passed: Some(passed),
    }
}

/// The rules for a flag, by the first of its records. None for the metric of earlier versions.
pub fn rules(flag: &Flag) -> Vec<Rule> {
    let evidence = &flag.evidence;
    let Some(channel) = JUDGED
        .into_iter()
        .find(|channel| channel.metric() == flag.metric)
    else {
        return Vec::new();
    };
    match flag.kind {
        FlagKind::Climb if evidence.noise.is_some() => of_ring(flag, channel),
        FlagKind::Climb if evidence.hours_higher.is_some() => of_days(evidence, channel),
        FlagKind::Climb => of_fast(evidence),
        FlagKind::Step => vec![height(evidence, step::SIGMA), rise_of_step(flag, channel)],
        FlagKind::Spike => vec![height(evidence, excursion::SPIKE_SIGMA)],
        FlagKind::Periodic => of_periodic(evidence),
        FlagKind::Threshold => of_threshold(flag),
    }
}

/// What the detector saw of a ring, in the channel's unit.
struct Seen {
    outline: Outline,
    /// How far the line rises in the time looked at.
    rise: f64,
    horizon_s: f64,
    /// Age of the process, at most that of what was watched.
    age_s: f64,
}

impl Seen {
    fn of(flag: &Flag, channel: Channel) -> Option<Self> {
        let evidence = &flag.evidence;
        let segments: Vec<f64> = evidence
            .levels
            .iter()
            .map(|level| channel.of_unit(*level))
            .collect();
        let outline = Outline::from_segments(segments.try_into().ok()?);
        let horizon_s = evidence.horizon_ns? as f64 / 1e9;
        // As the slope was put into the metric's unit: over three quarters of the ring.
        let hours = 0.75 * horizon_s / 3600.0;
        let unit = channel.unit(outline.base());
        let reached = channel.of_unit(unit + evidence.slope_per_hour * hours);
        Some(Self {
            rise: (reached - outline.base()) / 0.75,
            outline,
            horizon_s,
            age_s: flag.ts.0.saturating_sub(flag.process.created.0) as f64 / 1e9,
        })
    }

    /// The rise relative to the base, as a logarithm.
    fn relative(&self, channel: Channel) -> f64 {
        if channel.is_floor() {
            (self.outline.top().max(1e-9) / self.outline.base().max(1e-9)).ln()
        } else {
            self.rise
        }
    }
}

fn of_ring(flag: &Flag, channel: Channel) -> Vec<Rule> {
    let evidence = &flag.evidence;
    let mut rules = vec![significance(evidence)];
    rules.extend(evidence.noise.map(noise));
    // A part of the ring may be missing.
    let Some(ring) = Seen::of(flag, channel) else {
        rules.extend(evidence.score.map(score));
        return rules;
    };
    rules.push(rise(evidence, &ring, channel));
    rules.extend(shape(&ring));
    rules.push(record_before(evidence, &ring, channel, flag.metric));
    rules.push(time_looked_at(evidence, &ring, channel));
    rules.push(load(evidence, &ring, channel));
    rules.extend(evidence.score.map(score));
    rules
}

fn significance(evidence: &Evidence) -> Rule {
    let least = verdict::SIGNIFICANCE * evidence.sensitivity.demand().significance;
    rule(
        "significance (z)",
        digits(evidence.z),
        format!("above {}", digits(least)),
        evidence.z > least,
    )
}

fn noise(noise: f64) -> Rule {
    let most = 1.0 / verdict::RISE_SIGMA;
    rule(
        "noise",
        format!("{} of the rise", percent(noise)),
        format!("below {}", percent(most)),
        noise < most,
    )
}

fn rise(evidence: &Evidence, ring: &Seen, channel: Channel) -> Rule {
    let least = channel.effect().least(ring.outline.base()) * evidence.sensitivity.demand().effect;
    let show = |rise: f64| {
        if channel.is_floor() {
            quantity(channel.metric(), rise)
        } else {
            format!("{} more", percent(rise.exp() - 1.0))
        }
    };
    rule(
        "rise",
        show(ring.rise),
        format!("above {}", show(least)),
        ring.rise > least,
    )
}

fn shape(ring: &Seen) -> [Rule; 3] {
    let outline = &ring.outline;
    let (jump, speed) = (outline.largest_jump, outline.keeps_speed());
    let least = verdict::least_speed(ring.age_s, ring.horizon_s);
    // The levels have been through the metric's unit and back.
    let about = 1e-9;
    [
        rule(
            "largest jump",
            format!("{} of the rise", percent(jump)),
            format!("at most {}", percent(verdict::LARGEST_JUMP)),
            jump <= verdict::LARGEST_JUMP + about,
        ),
        rule(
            "parts that rise",
            format!("{} of 7", outline.rising),
            format!("at least {}", verdict::RISING),
            outline.rising >= verdict::RISING,
        ),
        rule(
            "keeps speed",
            format!("{speed:.2}"),
            format!("at least {least:.2}"),
            speed >= least - about,
        ),
    ]
}

fn record_before(evidence: &Evidence, ring: &Seen, channel: Channel, metric: Metric) -> Rule {
    let (base, top) = (ring.outline.base(), ring.outline.top());
    let most = top - verdict::NOVELTY * (top - base);
    let demanded = format!("below {}", quantity(metric, channel.unit(most)));
    match evidence.record_before {
        Some(record) => rule(
            "record before",
            quantity(metric, record),
            demanded,
            channel.of_unit(record) < most,
        ),
        None => rule("record before", "none".to_owned(), demanded, true),
    }
}

fn time_looked_at(evidence: &Evidence, ring: &Seen, channel: Channel) -> Rule {
    let limit = evidence
        .forecast
        .filter(|forecast| forecast.reaches == Bound::Limit);
    let limit = limit.map(|forecast| channel.of_unit(forecast.level));
    let left_s = verdict::seconds_left(channel, &ring.outline, limit, ring.rise / ring.horizon_s);
    let least_s = verdict::patience_for(left_s);
    rule(
        "time looked at",
        length(ring.horizon_s),
        format!("at least {}", length(least_s)),
        ring.horizon_s >= least_s * (1.0 - 1e-6),
    )
}

fn load(evidence: &Evidence, ring: &Seen, channel: Channel) -> Rule {
    let grown = percent(ring.relative(channel).exp() - 1.0);
    let Some(ratio) = evidence.load_ratio else {
        let demanded = "explains no rise".to_owned();
        return rule("load", "no more than before".to_owned(), demanded, true);
    };
    let factor = channel.load_factor(ring.age_s < verdict::FIRST_DAY_S);
    let explained = factor * ratio.ln();
    rule(
        "load",
        format!("{ratio:.2} times"),
        format!(
            "explains {}, less than {grown}",
            percent(explained.exp() - 1.0)
        ),
        ring.relative(channel) > explained,
    )
}

fn score(score: f64) -> Rule {
    Rule {
        name: "score",
        value: format!("{score:.2}"),
        demanded: "share of such that are right".to_owned(),
        passed: None,
    }
}

fn of_days(evidence: &Evidence, channel: Channel) -> Vec<Rule> {
    let higher = evidence.hours_higher.unwrap_or_default();
    let compared = ledger::COMPARED
        .iter()
        .find(|(compared, _)| *compared == channel);
    let least = compared.map_or(0.0, |(_, least)| {
        least * evidence.sensitivity.demand().effect
    });
    let rise = (evidence.now / evidence.baseline).ln();
    let balance = evidence.slope_low_per_hour / evidence.slope_high_per_hour;
    vec![
        rule(
            "hours higher",
            percent(higher),
            format!("at least {}", percent(ledger::HIGHER)),
            higher >= ledger::HIGHER,
        ),
        // Medians of the hours' rises, which are not quite the rise of the days' medians.
        Rule {
            name: "rise in two days",
            value: percent(rise.exp() - 1.0),
            demanded: format!("about {}", percent(least.exp() - 1.0)),
            passed: None,
        },
        rule(
            "smaller rise of the two",
            format!("{} of the larger", percent(balance)),
            format!("at least {}", percent(ledger::BALANCE)),
            balance >= ledger::BALANCE - 1e-9,
        ),
    ]
}

fn of_fast(evidence: &Evidence) -> Vec<Rule> {
    let growth = evidence.now / evidence.baseline;
    let doubles_s = evidence.now / evidence.slope_per_hour * 3600.0;
    let mut rules = vec![
        rule(
            "growth",
            format!("{growth:.1} times"),
            format!("at least {} times", runaway::GROWTH),
            growth >= runaway::GROWTH,
        ),
        rule(
            "doubles again in",
            length(doubles_s),
            format!("at most {}", length(runaway::DOUBLES_WITHIN_S)),
            doubles_s <= runaway::DOUBLES_WITHIN_S * (1.0 + 1e-9),
        ),
    ];
    rules.extend(evidence.keeps_speed.map(|speed| {
        let (least, most) = (runaway::KEEPS_SPEED.start, runaway::KEEPS_SPEED.end);
        rule(
            "keeps speed",
            format!("{speed:.2}"),
            format!("{least:.2} to {most:.2}"),
            runaway::KEEPS_SPEED.contains(&speed),
        )
    }));
    rules
}

fn height(evidence: &Evidence, least: f64) -> Rule {
    rule(
        "height",
        format!("{} deviations", digits(evidence.z)),
        format!("above {}", digits(least)),
        evidence.z > least,
    )
}

fn rise_of_step(flag: &Flag, channel: Channel) -> Rule {
    let share = (flag.evidence.now / flag.evidence.baseline).ln();
    let least = step::least_from(channel, flag.evidence.baseline.ln());
    rule(
        "rise",
        percent(share.exp() - 1.0),
        format!("above {}", percent(least.exp() - 1.0)),
        share > least * (1.0 - 1e-9),
    )
}

fn of_periodic(evidence: &Evidence) -> Vec<Rule> {
    if evidence.every_ns == Some(DAY_NS) && evidence.windows > 0 {
        return vec![Rule {
            name: "correlation of days (z)",
            value: digits(evidence.z),
            demanded: format!("a correlation above {}", ledger::RHYTHM),
            passed: None,
        }];
    }
    vec![height(evidence, excursion::EXCURSION_SIGMA)]
}

fn of_threshold(flag: &Flag) -> Vec<Rule> {
    let evidence = &flag.evidence;
    let above = evidence.above.unwrap_or(f64::NAN);
    vec![rule(
        "level",
        quantity(flag.metric, evidence.now),
        format!(
            "above {} for {} windows",
            quantity(flag.metric, above),
            evidence.windows
        ),
        evidence.now > above,
    )]
}
