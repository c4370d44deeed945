//! A report for a person.

use std::{
    fmt::Write as _,
    io::{self, Write},
    ops::Range,
    time::Duration,
};

use super::{
    compare::{Comparison, Delays, Figure, Level, Ratio, Verdict},
    novel::{Kind, Novel},
    period::short,
    quantity::{Quantity, Unit},
    report::{About, Report},
    side::{Lives, Subject},
};

/// Names in lists, before they are only counted.
const SHOWN: usize = 12;

/// The most important in a sentence.
pub fn conclusion(report: &Report) -> String {
    let count = |verdict: Verdict| {
        report
            .figures
            .iter()
            .filter(|figure| figure.verdict == verdict)
            .count()
    };
    let [more, less, same, unclear] = [
        Verdict::More,
        Verdict::Less,
        Verdict::Same,
        Verdict::Unclear,
    ]
    .map(count);
    let threshold = format!("within {}", percent(report.threshold));
    let rest = format!("{same} the same {threshold}, {unclear} unclear");
    if more + less == 0 {
        return format!(
            "No difference is sure: of {} figures, {rest}.",
            report.figures.len()
        );
    }
    let Some(first) = report.figures.first() else {
        return "There is nothing to compare.".to_owned();
    };
    let by = match first.ratio {
        Some(ratio) => format!(": {} times ({})", digits(ratio.value), interval(&ratio)),
        None => String::new(),
    };
    let direction = if first.verdict == Verdict::More {
        "more"
    } else {
        "less"
    };
    format!(
        "B has more of {more} and less of {less} of {} figures ({rest}). Surest: {} {} is {direction}, {} instead \
         of {}{by}.",
        report.figures.len(),
        subject(&first.subject),
        name(first.figure),
        quantity(first.unit, first.b.mean),
        quantity(first.unit, first.a.mean),
    )
}

/// Writes it.
///
/// # Errors
/// If it cannot be written.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}\n", report.conclusion)?;
    for (side, about) in [("A", &report.a), ("B", &report.b)] {
        writeln!(out, "{side}  {}", period(about))?;
    }
    writeln!(out)?;
    figures(report, out)?;
    if !report.delays.is_empty() {
        writeln!(out)?;
        delays(&report.delays, out)?;
    }
    let mut rest = String::new();
    novel("gone (only in A)", &report.gone, &mut rest);
    novel("new (only in B)", &report.new, &mut rest);
    flags(report, &mut rest);
    for lives in &report.lives {
        let _ = writeln!(
            rest,
            "processes of {}: A {}; B {}",
            lives.service,
            life(&lives.a),
            life(&lives.b)
        );
    }
    for note in &report.notes {
        let _ = writeln!(rest, "note: {note}");
    }
    if !rest.is_empty() {
        write!(out, "\n{rest}")?;
    }
    Ok(())
}

fn period(about: &About) -> String {
    let mut text = format!(
        "{}, {} to {}: {} windows of {}, {} in all",
        about.file,
        short(about.begin),
        short(about.end),
        about.windows,
        length(about.window_ns),
        length(about.observed_ns)
    );
    if about.gaps.count > 0 {
        let _ = write!(
            text,
            ", {} gaps of {} together",
            about.gaps.count,
            length(about.gaps.ns)
        );
    }
    let lost: Vec<String> = about
        .lost
        .iter()
        .map(|(class, count)| {
            format!(
                "{count} {}",
                serde_json::to_value(class)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default()
            )
        })
        .collect();
    match lost.as_slice() {
        [] => text += ", nothing lost",
        lost => {
            let _ = write!(text, ", LOST: {}", lost.join(", "));
        }
    }
    text
}

/// Minutes and more to the second.
fn length(ns: u64) -> String {
    if ns < 60_000_000_000 {
        return quantity(Unit::Ns, ns as f64);
    }
    let seconds = Duration::from_nanos(ns + 500_000_000).as_secs();
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Those that are the same take a line a subject.
fn figures(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let interval_name = format!("{} TOGETHER", percent(report.confidence));
    let header = [
        "SUBJECT",
        "FIGURE",
        "VERDICT",
        "B/A",
        interval_name.as_str(),
        "A",
        "B",
        "",
    ]
    .map(str::to_owned);
    let (same, others): (Vec<_>, Vec<_>) = report
        .figures
        .iter()
        .partition(|figure| figure.verdict == Verdict::Same);
    let is_any = !others.is_empty();
    if is_any {
        let rows: Vec<_> = [header]
            .into_iter()
            .chain(others.into_iter().map(row))
            .collect();
        columns(&rows, 3..7, out)?;
        writeln!(
            out,
            "B/A: of the means. A and B: median of the windows, or of bins of several, and quartiles."
        )?;
    }
    let mut subjects: Vec<&Subject> = same.iter().map(|figure| &figure.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    if is_any && !subjects.is_empty() {
        writeln!(out)?;
    }
    for of in subjects {
        let figures = same.iter().filter(|figure| figure.subject == *of);
        let figures: Vec<String> = figures
            .map(|figure| {
                format!(
                    "{} {}",
                    name(figure.figure),
                    quantity(figure.unit, figure.b.mean)
                )
            })
            .collect();
        writeln!(
            out,
            "the same within {}: {}: {}",
            percent(report.threshold),
            subject(of),
            figures.join(", ")
        )?;
    }
    Ok(())
}

/// These columns to the right, the others to the left.
fn columns<const N: usize>(
    rows: &[[String; N]],
    right: Range<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (place, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let is_right = right.contains(&place);
            let _ = if is_right {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn row(comparison: &Comparison) -> [String; 8] {
    let Comparison {
        unit,
        ratio,
        verdict,
        ..
    } = comparison;
    let verdict = match verdict {
        Verdict::More => "more",
        Verdict::Less => "less",
        Verdict::Unclear => "unclear",
        Verdict::Same => "same",
    };
    [
        subject(&comparison.subject),
        name(comparison.figure).to_owned(),
        verdict.to_owned(),
        ratio.map_or_else(|| "-".to_owned(), |ratio| times(ratio.value)),
        ratio.as_ref().map_or_else(|| "-".to_owned(), interval),
        level(*unit, &comparison.a),
        level(*unit, &comparison.b),
        comparison.why.clone().unwrap_or_default(),
    ]
}

/// The median, and the quartiles in its unit.
fn level(unit: Unit, level: &Level) -> String {
    let Some(quartiles) = level.quartiles else {
        return quantity(unit, level.mean);
    };
    let (scale, _) = scale(unit, quartiles.median);
    let [low, high] =
        [quartiles.low_quartile, quartiles.high_quartile].map(|value| digits(value / scale));
    format!("{} [{low} {high}]", quantity(unit, quartiles.median))
}

/// An end that is nearly nothing, or none at all, is left out.
fn interval(ratio: &Ratio) -> String {
    const NEARLY_NOTHING: f64 = 0.005;
    match (ratio.low.filter(|low| *low >= NEARLY_NOTHING), ratio.high) {
        (Some(low), Some(high)) => format!("{} to {}", times(low), times(high)),
        (Some(low), None) => format!("{} or more", times(low)),
        (None, Some(high)) => format!("up to {}", times(high)),
        (None, None) => "-".to_owned(),
    }
}

fn delays(delays: &[Delays], out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![
        [
            "SUBJECT",
            "RUN-QUEUE DELAYS",
            "COUNT",
            "PER WINDOW",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
        ]
        .map(str::to_owned),
    ];
    for delay in delays {
        for (side, q) in [("A", &delay.a), ("B", &delay.b)] {
            let time = |ns: f64| quantity(Unit::Ns, ns);
            rows.push([
                subject(&delay.subject),
                side.to_owned(),
                q.count.to_string(),
                quantity(Unit::Count, q.per_window),
                time(q.p50_ns),
                time(q.p90_ns),
                time(q.p99_ns),
                time(q.p999_ns),
                time(q.max_ns as f64),
            ]);
        }
    }
    columns(&rows, 2..9, out)?;
    for delay in delays {
        let longer = &delay.longer;
        let interval = longer
            .low
            .zip(longer.high)
            .map(|(low, high)| format!(" ({low:.3} to {high:.3})"));
        writeln!(
            out,
            "{}: a wait of B is longer than one of A with probability {:.3}{} (0.5: no effect; Cliff's delta {:+.3})",
            subject(&delay.subject),
            longer.probability,
            interval.unwrap_or_default(),
            longer.cliffs_delta
        )?;
    }
    Ok(())
}

fn novel(title: &str, novel: &[Novel], out: &mut String) {
    if novel.is_empty() {
        return;
    }
    let one = |novel: &Novel| {
        let Novel {
            service,
            name,
            count,
            ..
        } = novel;
        match novel.kind {
            Kind::Service => format!("service {name}"),
            Kind::Process => format!("process {name} of {service}"),
            Kind::Threads => format!("threads {name} of {service}"),
            Kind::Call => format!("{name} calls by {service} ({count})"),
            Kind::Mapping => format!("{name} by {service} ({count})"),
        }
    };
    let mut shown: Vec<String> = novel.iter().take(SHOWN).map(one).collect();
    if novel.len() > SHOWN {
        shown.push(format!("and {} more", novel.len() - SHOWN));
    }
    let _ = writeln!(out, "{title}: {}", shown.join(", "));
}

fn flags(report: &Report, out: &mut String) {
    for flag in &report.flags {
        let about = &flag.about;
        let metric = serde_json::to_value(about.metric).ok();
        let metric = metric
            .as_ref()
            .and_then(|metric| metric.as_str())
            .unwrap_or_default();
        let threads = about
            .threads
            .as_ref()
            .map(|threads| format!(", threads {threads}"))
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "flags: {metric} {} of {}{threads}: {} raised in A, {} in B",
            about.kind, about.service, flag.a, flag.b
        );
    }
}

fn life(lives: &Lives) -> String {
    let Lives {
        began,
        executed,
        ended,
        gone,
    } = lives;
    let parts = [
        (began, "began"),
        (executed, "executed another program"),
        (ended, "ended"),
        (gone, "times none was left"),
    ];
    let said: Vec<String> = parts
        .iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if said.is_empty() {
        "none began or ended".to_owned()
    } else {
        said.join(", ")
    }
}

fn subject(subject: &Subject) -> String {
    let parts = [
        Some(&subject.service),
        subject.process.as_ref(),
        subject.threads.as_ref(),
    ];
    parts
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("/")
}

/// What a figure is called.
pub fn name(figure: Figure) -> &'static str {
    match figure {
        Figure::Delay => "run-queue delay",
        Figure::DelayP99 => "run-queue delay p99",
        Figure::DelayP999 => "run-queue delay p99.9",
        Figure::Quantity(quantity) => match quantity {
            Quantity::Waited => "waiting for a CPU",
            Quantity::Switches => "switches",
            Quantity::Cpu => "CPU",
            Quantity::Mapped => "mapped",
            Quantity::MapCalls => "map calls",
            Quantity::Created => "threads created",
            Quantity::Throttled => "throttled by quota",
            Quantity::Steal => "steal (host)",
            Quantity::Committed => "committed memory",
            Quantity::Reserved => "reserved memory",
            Quantity::Resident => "resident memory",
            Quantity::Threads => "threads",
            Quantity::Fds => "open files",
        },
    }
}

/// With its unit.
fn quantity(unit: Unit, value: f64) -> String {
    let (scale, unit) = scale(unit, value);
    format!("{}{unit}", digits(value / scale))
}

fn scale(unit: Unit, value: f64) -> (f64, &'static str) {
    const TIMES: &[(f64, &str)] = &[(1e9, " s"), (1e6, " ms"), (1e3, " us"), (1.0, " ns")];
    const BYTES: &[(f64, &str)] = &[
        (1_099_511_627_776.0, " TiB"),
        (1_073_741_824.0, " GiB"),
        (1_048_576.0, " MiB"),
        (1024.0, " KiB"),
        (1.0, " B"),
    ];
    const RATES: &[(f64, &str)] = &[
        (1_099_511_627_776.0, " TiB/s"),
        (1_073_741_824.0, " GiB/s"),
        (1_048_576.0, " MiB/s"),
        (1024.0, " KiB/s"),
        (1.0, " B/s"),
    ];
    let units = match unit {
        Unit::Ns => TIMES,
        Unit::Bytes => BYTES,
        Unit::BytesPerSecond => RATES,
        Unit::Count => &[(1.0, "")],
        Unit::PerSecond => &[(1.0, "/s")],
        Unit::Share => &[(0.01, " %")],
    };
    let fits = units.iter().find(|(size, _)| value.abs() >= *size);
    *fits.or(units.last()).unwrap_or(&(1.0, ""))
}

/// Three significant digits.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        ..0.000_5 => 0,
        ..0.01 => 4,
        ..1.0 => 3,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A ratio: trailing zeros tell how exact it is.
fn times(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        ..1e6 => format!("{value:.0}"),
        _ => format!("{value:.1e}"),
    }
}

fn percent(share: f64) -> String {
    format!("{} %", digits(100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_unit() {
        for (unit, value, expected) in [
            (Unit::Ns, 0.0, "0 ns"),
            (Unit::Ns, 12_345.0, "12.3 us"),
            (Unit::Ns, 999.0, "999 ns"),
            (Unit::Bytes, 1_572_864.0, "1.5 MiB"),
            (Unit::BytesPerSecond, 100.0, "100 B/s"),
            (Unit::PerSecond, 0.25, "0.25/s"),
            (Unit::PerSecond, 123_456.0, "123456/s"),
            (Unit::Share, 0.123_4, "12.3 %"),
            (Unit::Share, 0.000_01, "0.001 %"),
            (Unit::Count, 7.0, "7"),
        ] {
            assert_eq!(quantity(unit, value), expected);
        }
        assert_eq!(
            [0.95, 1.0, 12.34, 123.4, 2e7].map(times),
            ["0.95", "1.00", "12.3", "123", "2.0e7"]
        );
    }
}
