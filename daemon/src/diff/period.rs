//! Which part of which recording: `FILE`, or `FILE@START..END`.
//!
//! START and END may each be left out, and are one of
//!
//! - a moment in RFC 3339, with a zone: `2026-03-01T14:00:00Z`
//! - a time of day in UTC, as the stream has it: `14:00` or `14:00:30`; the first one in the recording, and for END
//!   the first one after START
//! - an offset: `+10m` from the beginning of the recording, `-1h` from its end
//!
//! What stands behind the last `@` is a period only if there is `..` in it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use thiserror::Error;

use crate::stream::Moment;

/// A recording and a part of it, as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The recording; `-` for standard input.
    pub file: PathBuf,
    /// Where it begins; `None` for the recording's beginning.
    pub start: Option<Bound>,
    /// Where it ends; `None` for the recording's end.
    pub end: Option<Bound>,
}

/// A moment, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// In RFC 3339.
    At(Moment),
    /// A time of day in UTC.
    Daily(Time),
    /// So long after the beginning of the recording.
    AfterBeginning(Duration),
    /// So long before its end.
    BeforeEnd(Duration),
}

/// A part of a recording as moments. Either may be missing: the recording has no more than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Where it begins.
    pub start: Option<Moment>,
    /// Where it ends.
    pub end: Option<Moment>,
}

/// A part that no recording has.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PeriodError {
    /// START is not before END.
    #[error("the period ends at {end}, which is not after its start at {start}")]
    Empty {
        /// START.
        start: Moment,
        /// END.
        end: Moment,
    },
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text
            .rsplit_once('@')
            .and_then(|(file, period)| Some((file, period.split_once("..")?)));
        let Some((file, (start, end))) = split else {
            return if text.is_empty() {
                Err("the name of a recording must not be empty".into())
            } else {
                Ok(whole(text))
            };
        };
        if file.is_empty() {
            return Err(format!("there is no recording before the @ of {text:?}"));
        }
        Ok(Self {
            start: bound(start, "START")?,
            end: bound(end, "END")?,
            ..whole(file)
        })
    }
}

fn whole(file: &str) -> Part {
    Part {
        file: file.into(),
        start: None,
        end: None,
    }
}

fn bound(text: &str, which: &str) -> Result<Option<Bound>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let offset = |text: &str| {
        humantime::parse_duration(text)
            .map_err(|error| format!("{which} is no time such as +10m or -1h30m: {error}"))
    };
    let bound = if let Some(after) = text.strip_prefix('+') {
        Bound::AfterBeginning(offset(after)?)
    } else if let Some(before) = text.strip_prefix('-') {
        Bound::BeforeEnd(offset(before)?)
    } else if text.contains(['T', 't', ' ']) {
        Bound::At(moment(text).map_err(|error| {
            format!("{which} {text:?} is no moment such as 2026-03-01T14:00:00Z: {error}")
        })?)
    } else {
        Bound::Daily(text.parse().map_err(|error| {
            format!("{which} {text:?} is neither a time of day such as 14:00, nor an offset such as +10m or -1h, nor a moment such \
                 as 2026-03-01T14:00:00Z: {error}")
        })?)
    };
    Ok(Some(bound))
}

fn moment(text: &str) -> Result<Moment, String> {
    let time: Timestamp = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    u64::try_from(time.as_nanosecond())
        .map(Moment)
        .map_err(|_| "it is before 1970".into())
}

impl Part {
    /// Must the end of the recording be known before it is read?
    pub fn needs_end(&self) -> bool {
        [self.start, self.end]
            .iter()
            .any(|bound| matches!(bound, Some(Bound::BeforeEnd(_))))
    }

    /// As moments, for a recording that begins and ends then.
    ///
    /// # Errors
    /// If nothing can be in it.
    pub fn period(&self, begin: Moment, end: Moment) -> Result<Period, PeriodError> {
        let start = self
            .start
            .map(|bound| resolve(bound, begin, end, begin, true));
        let end = self
            .end
            .map(|bound| resolve(bound, begin, end, start.unwrap_or(begin), false));
        match (start, end) {
            (Some(start), Some(end)) if end <= start => Err(PeriodError::Empty { start, end }),
            _ => Ok(Period { start, end }),
        }
    }
}

/// A time of day is the first one after `from`, or `from` itself if that is allowed.
fn resolve(bound: Bound, begin: Moment, end: Moment, from: Moment, or_at_once: bool) -> Moment {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match bound {
        Bound::At(moment) => moment,
        Bound::AfterBeginning(offset) => Moment(begin.0.saturating_add(nanoseconds(offset))),
        Bound::BeforeEnd(offset) => Moment(end.0.saturating_sub(nanoseconds(offset))),
        Bound::Daily(time) => {
            const DAY: u64 = 86_400_000_000_000;
            let of_day = time.duration_since(Time::midnight()).as_nanos() as u64;
            let today = Moment(from.0 - from.0 % DAY + of_day);
            let is_over = today < from || today == from && !or_at_once;
            if is_over {
                Moment(today.0.saturating_add(DAY))
            } else {
                today
            }
        }
    }
}

impl Period {
    /// Is a window, of which it knows the end and the length, in it? By its middle, so that of two periods that meet
    /// it is in one.
    pub fn has_window(&self, ts: Moment, period_ns: u64) -> bool {
        self.has(Moment(ts.0.saturating_sub(period_ns / 2)))
    }

    /// Is a moment in it?
    pub fn has(&self, moment: Moment) -> bool {
        self.start.is_none_or(|start| moment >= start) && self.end.is_none_or(|end| moment < end)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.start, self.end) {
            (None, None) => f.write_str("the whole recording"),
            (Some(start), None) => write!(f, "from {}", short(start)),
            (None, Some(end)) => write!(f, "up to {}", short(end)),
            (Some(start), Some(end)) => write!(f, "from {} to {}", short(start), short(end)),
        }
    }
}

/// To the second.
pub fn short(moment: Moment) -> String {
    Timestamp::from_nanosecond(i128::from(moment.0)).map_or_else(
        |_| moment.to_string(),
        |time| time.to_zoned(TimeZone::UTC).strftime("%FT%TZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: &str = "2026-03-01T13:30:00Z";
    const END: &str = "2026-03-02T18:00:00Z";

    #[track_caller]
    fn part(text: &str) -> Part {
        text.parse().expect(text)
    }

    #[track_caller]
    fn period(text: &str) -> (Option<String>, Option<String>) {
        let at = |text| moment(text).expect("it is one");
        let period = part(text).period(at(BEGIN), at(END)).expect(text);
        (period.start.map(short), period.end.map(short))
    }

    #[track_caller]
    fn is(text: &str, start: &str, end: &str) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        assert_eq!(period(text), (some(start), some(end)), "{text}");
    }

    #[test]
    fn names_of_files_may_have_anything_in_them() {
        for name in [
            "events.jsonl",
            "-",
            "postgresql@17-main.jsonl",
            "a..b",
            "@",
            "a@b",
        ] {
            assert_eq!(part(name), whole(name), "{name}");
        }
        assert_eq!(part("a@1..b@.."), whole("a@1..b"));
        assert_eq!(part("-@+1m..").file, PathBuf::from("-"));
    }

    #[test]
    fn bounds_are_moments() {
        is("f@..", "", "");
        is("f@+10m..", "2026-03-01T13:40:00Z", "");
        is("f@..+10m", "", "2026-03-01T13:40:00Z");
        is("f@-1h..", "2026-03-02T17:00:00Z", "");
        is(
            "f@-1h..-30m",
            "2026-03-02T17:00:00Z",
            "2026-03-02T17:30:00Z",
        );
        is("f@+1h..-1h", "2026-03-01T14:30:00Z", "2026-03-02T17:00:00Z");
        is(
            "f@14:00..15:00",
            "2026-03-01T14:00:00Z",
            "2026-03-01T15:00:00Z",
        );
        is(
            "f@23:00..01:00",
            "2026-03-01T23:00:00Z",
            "2026-03-02T01:00:00Z",
        );
        is(
            "f@13:00..14:00:30",
            "2026-03-02T13:00:00Z",
            "2026-03-02T14:00:30Z",
        );
        is(
            "f@13:30..13:30",
            "2026-03-01T13:30:00Z",
            "2026-03-02T13:30:00Z",
        );
        is("f@..14:00", "", "2026-03-01T14:00:00Z");
        is(
            "f@2026-03-01T16:00:00+01:00..2026-03-01T16:00:00Z",
            "2026-03-01T15:00:00Z",
            "2026-03-01T16:00:00Z",
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, complaint) in [
            ("", "empty"),
            ("@..", "no recording before the @"),
            ("f@soon..", "START \"soon\" is neither"),
            ("f@..25:00", "END \"25:00\" is neither"),
            ("f@+x..", "START is no time such as +10m"),
            ("f@..-5", "END is no time such as +10m"),
            (
                "f@2026-03-01T14:00:00..",
                "START \"2026-03-01T14:00:00\" is no moment",
            ),
            ("f@1960-03-01T14:00:00Z..", "before 1970"),
        ] {
            let error = text.parse::<Part>().expect_err(text);
            assert!(error.contains(complaint), "{text}: {error}");
        }
        let error = part("f@+2h..+1h")
            .period(Moment(0), Moment(0))
            .expect_err("it ends before it starts");
        assert!(error.to_string().contains("not after its start"), "{error}");
    }

    #[test]
    fn only_offsets_from_the_end_need_it() {
        for (text, needs) in [
            ("f", false),
            ("f@+1m..14:00", false),
            ("f@-1m..", true),
            ("f@..-1m", true),
        ] {
            assert_eq!(part(text).needs_end(), needs, "{text}");
        }
    }

    proptest! {
        /// Of two periods that meet, each window is in one.
        #[test]
        fn windows_are_in_one_period(at in 1_000..2_000_u64, length in 1..500_u64, cut in 500..2_500_u64) {
            let before = Period { start: None, end: Some(Moment(cut)) };
            let after = Period { start: Some(Moment(cut)), end: None };
            prop_assert!(before.has_window(Moment(at), length) != after.has_window(Moment(at), length));
        }
    }
}
