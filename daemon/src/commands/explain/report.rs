//! A flag explained in text and as JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    Story,
    chart::{self, Chart, Glyphs, Line},
    series::{Columns, Series},
};
use crate::{
    detect::{self, Rule, summary},
    figures,
    stream::{Bound, Evidence, Flag, FlagKind, FlagState, Metric, Moment, VERSION},
};

/// Points of the series in JSON.
const POINTS: usize = 240;

/// How the text is to look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Characters of the chart.
    pub glyphs: Glyphs,
}

/// Prints the text.
///
/// # Errors
/// If it cannot be written.
pub fn print(story: &Story, series: &Series, style: Style, out: &mut impl Write) -> io::Result<()> {
    let first = story.first();
    writeln!(out, "{}: {}", first.id, first.summary)?;
    writeln!(out)?;
    match series.columns(chart::plot_width(style.width)) {
        Some(columns) => print_chart(story, &columns, style.glyphs, out)?,
        None => writeln!(out, "The recording has no window with a value of it.")?,
    }
    writeln!(out)?;
    print_history(story, out)?;
    print_rules(&detect::rules(first), out)?;
    writeln!(out)?;
    print_doubts(&first.evidence, out)?;
    if let Some(forecast) = forecast(story.last()) {
        writeln!(out, "\n{forecast}")?;
    }
    Ok(())
}

fn print_chart(
    story: &Story,
    columns: &Columns,
    glyphs: Glyphs,
    out: &mut impl Write,
) -> io::Result<()> {
    let metric = story.first().metric;
    let day = columns.to.0 - columns.from.0 > 86_400_000_000_000;
    let far = Moment(0);
    let time = |moment| figures::time_of_day(moment, if day { far } else { moment });
    let lines = lines(story, glyphs);
    let chart = Chart {
        columns,
        lines: &lines,
        marks: &marks(story),
        label: &|value| summary::quantity(metric, value),
        time: &time,
        glyphs,
    };
    for line in chart.draw() {
        writeln!(out, "{line}")?;
    }
    write!(
        out,
        "{} mean of windows, {} lowest to highest",
        glyphs.mean, glyphs.range
    )?;
    if trend(story).is_some() {
        write!(
            out,
            ", {} slope, {} its 95 % interval",
            glyphs.line, glyphs.interval
        )?;
    }
    let level = match story.first().kind {
        FlagKind::Threshold => "threshold",
        _ => "baseline",
    };
    writeln!(out, ", {} {level}", glyphs.level)
}

/// When it began, and when something was said of it.
fn marks(story: &Story) -> Vec<(char, Moment)> {
    let said = story.records.iter().map(|flag| (mark(flag.state), flag.ts));
    [(BEGAN, story.first().since)]
        .into_iter()
        .chain(said)
        .collect()
}

const BEGAN: char = 'B';

fn mark(state: FlagState) -> char {
    match state {
        FlagState::Raised => 'R',
        FlagState::Updated => 'U',
        FlagState::Cleared => 'C',
        FlagState::Explained => 'E',
    }
}

/// The line of the last record that has one, and the level that all began with.
fn lines(story: &Story, glyphs: Glyphs) -> Vec<Line> {
    let first = &story.first().evidence;
    let level = Line {
        from: Moment(0),
        through: Moment(0),
        value: first.above.unwrap_or(first.baseline),
        per_hour: 0.0,
        glyph: glyphs.level,
    };
    let mut lines = vec![level];
    if let Some((line, evidence)) = trend(story) {
        let slope = |per_hour, glyph| Line {
            per_hour,
            glyph,
            ..line
        };
        lines.push(slope(evidence.slope_low_per_hour, glyphs.interval));
        lines.push(slope(evidence.slope_high_per_hour, glyphs.interval));
        lines.push(slope(evidence.slope_per_hour, glyphs.line));
    }
    lines
}

/// The line of the last record that climbs: through the middle of the time looked at, where Sen's intervals meet.
fn trend(story: &Story) -> Option<(Line, &Evidence)> {
    let climbs = |flag: &&Flag| flag.kind == FlagKind::Climb && flag.state != FlagState::Cleared;
    let flag = story.records.iter().rfind(climbs)?;
    let evidence = &flag.evidence;
    let horizon_ns = evidence.horizon_ns?;
    // `now` is the middle of the last quarter of a ring, that of the last of three days, or the last window.
    let behind = if evidence.noise.is_some() {
        1.0 / 8.0
    } else if evidence.hours_higher.is_some() {
        1.0 / 6.0
    } else {
        0.0
    };
    let hours = horizon_ns as f64 / 3.6e12;
    let line = Line {
        from: Moment(flag.ts.0.saturating_sub(horizon_ns)),
        through: Moment(flag.ts.0.saturating_sub(horizon_ns / 2)),
        value: evidence.now - evidence.slope_per_hour * hours * (0.5 - behind),
        per_hour: evidence.slope_per_hour,
        glyph: ' ',
    };
    Some((line, evidence))
}

fn print_history(story: &Story, out: &mut impl Write) -> io::Result<()> {
    let first = story.first();
    let time = |moment| figures::time_of_day(moment, first.ts);
    writeln!(
        out,
        "  {BEGAN} {}  began, as far as can be told",
        time(first.since)
    )?;
    for flag in &story.records {
        let evidence = &flag.evidence;
        let show = |value| summary::quantity(flag.metric, value);
        let (what, more) = match flag.state {
            FlagState::Cleared => {
                let why = evidence
                    .cleared_because
                    .as_deref()
                    .unwrap_or("no reason given");
                ("cleared", why.to_owned())
            }
            state => {
                let what = if state == FlagState::Raised {
                    "raised"
                } else {
                    "updated"
                };
                let levels = format!("{} to {}", show(evidence.baseline), show(evidence.now));
                (what, levels + &slope(flag))
            }
        };
        writeln!(
            out,
            "  {} {}  {what}: {more}",
            mark(flag.state),
            time(flag.ts)
        )?;
    }
    writeln!(out)
}

fn slope(flag: &Flag) -> String {
    let evidence = &flag.evidence;
    if flag.kind != FlagKind::Climb {
        return String::new();
    }
    let show = |value| summary::quantity(flag.metric, value);
    format!(
        ", {} (95 %: {} to {})",
        summary::per_hour(flag.metric, evidence.slope_per_hour),
        show(evidence.slope_low_per_hour),
        show(evidence.slope_high_per_hour),
    )
}

fn print_rules(rules: &[Rule], out: &mut impl Write) -> io::Result<()> {
    let wide = |of: fn(&Rule) -> &str, least: usize| {
        rules
            .iter()
            .map(|rule| of(rule).chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let (name, value) = (wide(|rule| rule.name, 4), wide(|rule| &rule.value, 5));
    let demanded = wide(|rule| &rule.demanded, 8);
    writeln!(
        out,
        "{:name$}  {:value$}  {:demanded$}  passed",
        "rule", "value", "demanded"
    )?;
    for rule in rules {
        let passed = match rule.passed {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let line = format!(
            "{:name$}  {:value$}  {:demanded$}  {passed}",
            rule.name, rule.value, rule.demanded
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn print_doubts(evidence: &Evidence, out: &mut impl Write) -> io::Result<()> {
    if evidence.against.is_empty() {
        return writeln!(out, "Nothing spoke against it.");
    }
    writeln!(out, "What spoke against it, though not enough:")?;
    for doubt in &evidence.against {
        writeln!(out, "  {doubt}")?;
    }
    Ok(())
}

/// What is left, in words.
fn forecast(flag: &Flag) -> Option<String> {
    let forecast = flag.evidence.forecast.as_ref()?;
    let length = |ns: u64| figures::length(ns as f64 / 1e9);
    let level = summary::quantity(flag.metric, forecast.level);
    let what = match forecast.reaches {
        Bound::Limit => format!("it reaches its limit of {level}"),
        Bound::Doubling => format!("it reaches twice its level, {level} (no limit is known),"),
    };
    let latest = match forecast.latest_ns {
        Some(latest) => format!("to {}", length(latest)),
        None => "or never".to_owned(),
    };
    let arrives = Moment(flag.ts.0.saturating_add(forecast.in_ns));
    Some(format!(
        "If it goes on like this, {what} in {}\n({} {latest}) after the last of these records, at {}.",
        length(forecast.in_ns),
        length(forecast.soonest_ns),
        figures::time_of_day(arrives, flag.ts),
    ))
}

/// The same as JSON.
#[derive(Serialize)]
struct Explanation<'a> {
    v: u8,
    id: &'a str,
    run: u32,
    records: &'a [Flag],
    rules: Vec<Rule>,
    series: Stretch,
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<String>,
}

#[derive(Serialize)]
struct Stretch {
    metric: Metric,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Moment>,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    /// The end of its stretch.
    ts: Moment,
    mean: f64,
    lowest: f64,
    highest: f64,
}

/// Prints JSON, in one line.
///
/// # Errors
/// If it cannot be written.
pub fn print_json(story: &Story, series: &Series, out: &mut impl Write) -> io::Result<()> {
    let first = story.first();
    let columns = series.columns(POINTS);
    let explanation = Explanation {
        v: VERSION,
        id: &first.id,
        run: story.run,
        records: &story.records,
        rules: detect::rules(first),
        series: Stretch {
            metric: first.metric,
            from: columns.as_ref().map(|columns| columns.from),
            to: columns.as_ref().map(|columns| columns.to),
            points: columns.as_ref().map(points).unwrap_or_default(),
        },
        forecast: forecast(story.last()).map(|words| words.replace('\n', " ")),
    };
    serde_json::to_writer(&mut *out, &explanation).map_err(io::Error::from)?;
    writeln!(out)
}

fn points(columns: &Columns) -> Vec<Point> {
    let span = u128::from(columns.to.0 - columns.from.0);
    let known = columns.bins.iter().enumerate();
    let known = known.filter_map(|(at, bin)| Some((at as u128 + 1, bin.as_ref()?)));
    let count = columns.bins.len() as u128;
    let point = known.map(|(end, bin)| Point {
        ts: Moment(columns.from.0 + (span * end / count) as u64),
        mean: bin.mean(),
        lowest: bin.low,
        highest: bin.high,
    });
    point.collect()
}
