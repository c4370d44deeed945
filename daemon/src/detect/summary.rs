//! A flag as a sentence, with units a person reads at a glance.

use std::time::Duration;

use crate::{
    figures,
    stream::{Flag, FlagKind, FlagState, Metric},
};

/// The finding as a sentence.
pub fn sentence(flag: &Flag) -> String {
    let (subject, evidence) = (subject(flag), &flag.evidence);
    let show = |value| quantity(flag.metric, value);
    let since = figures::time_of_day(flag.since, flag.ts);
    let (from, to) = (show(evidence.baseline), show(evidence.now));
    match (flag.kind, flag.state) {
        (FlagKind::Climb, FlagState::Cleared) => {
            let why = evidence
                .cleared_because
                .as_deref()
                .unwrap_or("no reason given");
            format!("{subject} no longer climbs: {why}; it went from {from} to {to} since {since}")
        }
        (FlagKind::Climb, FlagState::Explained) => format!(
            "{subject} climbs as the load does, from {from} to {to} since {since}: there is {:.1} times as much to do",
            evidence.load_ratio.unwrap_or(1.0),
        ),
        (FlagKind::Climb, _) => format!(
            "{subject} climbs by {} (95 %: {} to {}), from {from} to {to} since {since}",
            per_hour(flag.metric, evidence.slope_per_hour),
            show(evidence.slope_low_per_hour),
            show(evidence.slope_high_per_hour),
        ),
        (FlagKind::Step, _) => {
            format!("{subject} stepped from {from} to {to} at {since}, and stays there")
        }
        (FlagKind::Threshold, FlagState::Cleared) => {
            let why = evidence
                .cleared_because
                .as_deref()
                .unwrap_or("no reason given");
            let above = show(evidence.above.unwrap_or_default());
            format!("{subject} is no longer above {above}: {why}; it was since {since}")
        }
        (FlagKind::Threshold, _) => {
            let above = show(evidence.above.unwrap_or_default());
            format!(
                "{subject} is above {above} for {} {} in a row, now {to}, since {since}",
                evidence.windows,
                if evidence.windows == 1 {
                    "window"
                } else {
                    "windows"
                },
            )
        }
        (FlagKind::Spike, _) => format!("{subject} spiked from {from} to {to} at {since}"),
        (FlagKind::Periodic, _) => {
            let every = Duration::from_nanos(evidence.every_ns.unwrap_or(0));
            let every = humantime::format_duration(Duration::from_secs(every.as_secs()));
            format!("{subject} comes back every {every}: from {from} to {to}")
        }
    }
}

/// Whose what: `shop (pid 812), thread worker-3 (tid 820): run-queue delay`.
fn subject(flag: &Flag) -> String {
    let process = format!("{} (pid {})", flag.process.service, flag.process.pid);
    let thread = match (&flag.thread, &flag.threads) {
        (Some(thread), _) => format!(", thread {} (tid {})", thread.name, thread.tid),
        (None, Some(threads)) => format!(", threads {}", threads.name),
        (None, None) => String::new(),
    };
    let metric = match flag.metric {
        Metric::CommittedBytes => "committed memory",
        Metric::ReservedBytes => "address space",
        Metric::RssBytes => "resident memory",
        Metric::MappedRate => "mapping rate",
        Metric::ThreadsLive => "number of threads",
        Metric::CreationRate => "rate of new threads",
        Metric::Fds => "number of open files",
        Metric::Delay => "run-queue delay",
        Metric::DelayTail => "share of long run-queue delays",
        Metric::DelayP99 => "run-queue delay (p99)",
    };
    format!("{process}{thread}: {metric}")
}

/// A slope.
pub fn per_hour(metric: Metric, value: f64) -> String {
    let separator = if matches!(
        metric,
        Metric::MappedRate | Metric::CreationRate | Metric::DelayTail
    ) {
        " per hour"
    } else {
        "/h"
    };
    format!("{}{separator}", quantity(metric, value))
}

/// A value in its metric's unit.
pub fn quantity(metric: Metric, value: f64) -> String {
    match metric {
        Metric::CommittedBytes | Metric::ReservedBytes | Metric::RssBytes => figures::bytes(value),
        Metric::MappedRate => format!("{}/s", figures::bytes(value)),
        Metric::ThreadsLive | Metric::Fds => figures::digits(value),
        Metric::CreationRate => format!("{}/s", figures::digits(value)),
        Metric::Delay | Metric::DelayP99 => figures::time(value),
        Metric::DelayTail => figures::percent(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_for_people() {
        let cases = [
            (Metric::CommittedBytes, 0.0, "0 B"),
            (Metric::CommittedBytes, 1023.0, "1023 B"),
            (Metric::CommittedBytes, 31.0 * 1_048_576.0, "31 MiB"),
            (Metric::CommittedBytes, -1.5 * 1_048_576.0, "-1.5 MiB"),
            (Metric::CommittedBytes, 14.06 * 1_073_741_824.0, "14 GiB"),
            (Metric::MappedRate, 65_536.0, "64 KiB/s"),
            (Metric::ThreadsLive, 7200.4, "7200"),
            (Metric::ThreadsLive, -0.01, "0"),
            (Metric::DelayP99, 250_000.0, "250 us"),
            (Metric::DelayP99, 1_250_000.0, "1.2 ms"),
        ];
        for (metric, value, expected) in cases {
            assert_eq!(quantity(metric, value), expected);
        }
        assert_eq!(per_hour(Metric::MappedRate, 2048.0), "2 KiB/s per hour");
    }
}
