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

/// So many seconds, in the two largest units.
pub fn length(seconds: f64) -> String {
    const YEAR_S: f64 = 365.25 * 86_400.0;
    let two = |large: f64, name: &str, small: f64, small_name: &str| {
        let rounded = (seconds / small).round() * small;
        let (many, rest) = ((rounded / large).floor(), (rounded % large / small).round());
        if rest > 0.0 {
            format!("{many}{name} {rest}{small_name}")
        } else {
            format!("{many}{name}")
        }
    };
    match seconds {
        ..59.95 => format!("{} s", digits(seconds)),
        59.95..3599.5 => two(60.0, "m", 1.0, "s"),
        3599.5..86_370.0 => two(3600.0, "h", 60.0, "m"),
        86_370.0..2_592_000.0 => two(86_400.0, "d", 3600.0, "h"),
        2_592_000.0..YEAR_S => format!("{} days", digits(seconds / 86_400.0)),
        YEAR_S..1e11 => format!("{} years", digits(seconds / YEAR_S)),
        _ => "for ever".to_owned(),
    }
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
    fn lengths_have_two_units() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.25, "0.2 s"),
            (59.96, "1m"),
            (90.4, "1m 30s"),
            (7_220.0, "2h"),
            (86_399.0, "1d"),
            (100_000.0, "1d 4h"),
            (5e6, "58 days"),
            (1e9, "32 years"),
            (f64::INFINITY, "for ever"),
            (f64::NAN, "for ever"),
        ] {
            assert_eq!(length(seconds), expected);
        }
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(-3.0 * 1_073_741_824.0), "-3 GiB");
        assert_eq!(time(250_000.0), "250 us");
        assert_eq!(percent(0.125), "12 %");
        assert_eq!(digits(-0.01), "0");
        assert_eq!(digits(123.4), "123");
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
