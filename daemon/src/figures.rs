//! Numbers with units, and times, for people.

use jiff::Timestamp;

use crate::stream::Moment;

/// A size: `1.5 GiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: &[(f64, &str)] = &[
        (1.0, "B"),
        (1024.0, "KiB"),
        (1_048_576.0, "MiB"),
        (1_073_741_824.0, "GiB"),
        (1_099_511_627_776.0, "TiB"),
    ];
    scaled(value, UNITS)
}

/// A short time, given in nanoseconds: `250 us`.
pub fn time(ns: f64) -> String {
    const UNITS: &[(f64, &str)] = &[(1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s")];
    scaled(ns, UNITS)
}

/// A longer one, in the two largest units: `3h 20m`.
pub fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let whole = match seconds {
        0 => return time(ns as f64),
        1..3_600 => seconds,
        3_600..86_400 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    humantime::format_duration(std::time::Duration::from_secs(whole)).to_string()
}

/// A share: `12 %`.
pub fn percent(share: f64) -> String {
    format!("{} %", digits(100.0 * share))
}

/// The value in the largest unit of which it is at least one.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let unit = units
        .iter()
        .rev()
        .find(|(size, _)| value.abs() >= *size)
        .or(units.first());
    unit.map_or_else(
        || digits(value),
        |(size, name)| format!("{} {name}", digits(value / size)),
    )
}

/// Two or three significant digits; none behind the point from 10 on.
pub fn digits(value: f64) -> String {
    let text = if value.abs() < 9.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    };
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// The time of day, with the date if it was another day than the flag's.
pub fn time_of_day(moment: Moment, flagged: Moment) -> String {
    let read = |moment: Moment| Timestamp::from_nanosecond(i128::from(moment.0)).ok();
    let Some((time, flagged)) = read(moment).zip(read(flagged)) else {
        return moment.to_string();
    };
    let text = format!("{time:.0}");
    match text.split_once('T') {
        Some((day, clock)) if format!("{flagged:.0}").starts_with(day) => clock.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(-3.0 * 1_073_741_824.0), "-3 GiB");
        assert_eq!(time(250_000.0), "250 us");
        assert_eq!(percent(0.125), "12 %");
        assert_eq!(digits(-0.01), "0");
        assert_eq!(digits(123.4), "123");
        assert_eq!(duration(500_000_000), "500 ms");
        assert_eq!(duration(12_059_000_000_000), "3h 20m");
        assert_eq!(duration(95_000_000_000), "1m 35s");
        assert_eq!(duration(200_000_000_000_000), "2days 7h");
    }

    #[test]
    fn another_day_is_named() {
        let noon = Moment(1_700_000_000_000_000_000);
        assert_eq!(time_of_day(noon, noon), "22:13:20Z");
        assert_eq!(
            time_of_day(noon, Moment(noon.0 + 86_400_000_000_000)),
            "2023-11-14T22:13:20Z"
        );
    }
}
