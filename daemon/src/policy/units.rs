//! Values of the policy as people write them: `"512MiB"`, `"3 windows"`, `"5%"`. Each is checked while it is read, so that what
//! is wrong with it is said with its place in the file, and each is written as it would be read again.

use std::{fmt, marker::PhantomData, time::Duration};

use globset::{Glob, GlobMatcher};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::cli;

/// Looks at rings that the detector remembers.
const MOST_LOOKS: u64 = 16;

/// For how long nothing may be raised after a clear. The longest ring spans a week; what is longer than a month is
/// meant to be ignored.
const MOST_COOL_DOWN: Duration = Duration::from_hours(30 * 24);

/// Windows that a threshold may ask for: a week of the shortest ones and more.
const MOST_WINDOWS: u32 = 10_000_000;

/// The largest size, count or rate that may be written: far above what a process can have, and exact as a double.
const MOST: u64 = 1 << 50;

/// Something that is written as one word, or number.
pub trait Written: Sized {
    /// What is expected, with an example.
    const EXPECTED: &'static str;
    /// Reads it.
    ///
    /// # Errors
    /// In words, if it is not to be read or out of range.
    fn read(text: &str) -> Result<Self, String>;
    /// Writes it, as exactly as it was read.
    fn write(&self) -> String;
}

/// A level of a metric, in the unit of the stream.
pub trait Level {
    /// The value.
    fn level(&self) -> f64;
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Written for Size {
    const EXPECTED: &'static str = "a size such as \"512MiB\"";
    fn read(text: &str) -> Result<Self, String> {
        cli::size(text, 1, MOST).map(Self)
    }
    fn write(&self) -> String {
        let units = ["TiB", "GiB", "MiB", "KiB"];
        let exact = units.iter().zip([40, 30, 20, 10]);
        let mut exact = exact.filter(|(_, bits)| self.0.is_multiple_of(1 << bits));
        match exact.next() {
            Some((unit, bits)) => format!("{}{unit}", self.0 >> bits),
            None => format!("{}B", self.0),
        }
    }
}

impl Level for Size {
    fn level(&self) -> f64 {
        self.0 as f64
    }
}

/// A time that something takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Written for Time {
    const EXPECTED: &'static str = "a time such as \"10ms\"";
    fn read(text: &str) -> Result<Self, String> {
        cli::slow(text).map(Self)
    }
    fn write(&self) -> String {
        humantime::format_duration(self.0).to_string()
    }
}

impl Level for Time {
    fn level(&self) -> f64 {
        self.0.as_nanos() as f64
    }
}

/// Length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLength(pub Duration);

impl Written for WindowLength {
    const EXPECTED: &'static str = "a time such as \"10s\"";
    fn read(text: &str) -> Result<Self, String> {
        cli::window(text).map(Self)
    }
    fn write(&self) -> String {
        humantime::format_duration(self.0).to_string()
    }
}

/// A time in which nothing is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoolDown(pub Duration);

impl Written for CoolDown {
    const EXPECTED: &'static str = "a time such as \"1h\"";
    fn read(text: &str) -> Result<Self, String> {
        cli::duration(text, Duration::ZERO, MOST_COOL_DOWN).map(Self)
    }
    fn write(&self) -> String {
        humantime::format_duration(self.0).to_string()
    }
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

impl Written for Percent {
    const EXPECTED: &'static str = "percent such as \"5%\"";
    fn read(text: &str) -> Result<Self, String> {
        let percent: Option<f64> = text.strip_suffix('%').and_then(|n| n.trim().parse().ok());
        match percent {
            Some(percent) if percent > 0.0 && percent < 100.0 => Ok(Self(percent)),
            Some(_) => Err("must be more than 0% and less than 100%".into()),
            None => Err(format!("expected {}", Self::EXPECTED)),
        }
    }
    fn write(&self) -> String {
        format!("{}%", self.0)
    }
}

impl Level for Percent {
    fn level(&self) -> f64 {
        self.0 / 100.0
    }
}

/// So many windows in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows(pub u32);

impl Written for Windows {
    const EXPECTED: &'static str = "a number of windows such as \"3 windows\"";
    fn read(text: &str) -> Result<Self, String> {
        let number = text
            .strip_suffix("windows")
            .or_else(|| text.strip_suffix("window"));
        let number: Option<u32> = number.and_then(|number| number.trim().parse().ok());
        match number {
            Some(number) if (1..=MOST_WINDOWS).contains(&number) => Ok(Self(number)),
            Some(_) => Err(format!("must be 1 to {MOST_WINDOWS} windows")),
            None => Err(format!("expected {}", Self::EXPECTED)),
        }
    }
    fn write(&self) -> String {
        let plural = if self.0 == 1 { "" } else { "s" };
        format!("{} window{plural}", self.0)
    }
}

/// A pattern for names.
#[derive(Clone, Debug)]
pub struct Pattern(pub GlobMatcher);

impl Written for Pattern {
    const EXPECTED: &'static str = "a name or pattern such as \"nginx*\"";
    fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("must not be empty".into());
        }
        let glob = Glob::new(text).map_err(|error| error.kind().to_string())?;
        Ok(Self(glob.compile_matcher()))
    }
    fn write(&self) -> String {
        self.0.glob().glob().to_owned()
    }
}

impl Written for cli::BudgetChoice {
    const EXPECTED: &'static str = "percent of one CPU such as \"1%\", or \"none\"";
    fn read(text: &str) -> Result<Self, String> {
        cli::budget(text)
    }
    fn write(&self) -> String {
        match self.0 {
            Some(share) => format!("{}%", (share * 1e8).round() / 1e6),
            None => "none".to_owned(),
        }
    }
}

/// Reads what is written as a word.
struct Word<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for Word<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).map_err(|why| E::custom(format!("{text:?} {}", Because(&why))))
    }
}

/// What is wrong with a value that is named before.
struct Because<'a>(&'a str);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with("must") {
            f.write_str(self.0)
        } else {
            write!(f, "cannot be read: {}", self.0)
        }
    }
}

macro_rules! words {
    ($($unit:ty),*) => {$(
        impl<'de> Deserialize<'de> for $unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Word(PhantomData))
            }
        }
        impl Serialize for $unit {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.write())
            }
        }
    )*};
}

words!(
    Size,
    Time,
    WindowLength,
    CoolDown,
    Percent,
    Windows,
    Pattern,
    cli::BudgetChoice
);

/// A number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u64")]
pub struct Count(u64);

impl TryFrom<i64> for Count {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u64::try_from(number) {
            Ok(count @ 1..=MOST) => Ok(Self(count)),
            _ => Err(format!("{number} must be between 1 and {MOST}")),
        }
    }
}

impl From<Count> for u64 {
    fn from(count: Count) -> Self {
        count.0
    }
}

impl Level for Count {
    fn level(&self) -> f64 {
        self.0 as f64
    }
}

/// How often a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

impl TryFrom<f64> for Rate {
    type Error = String;
    fn try_from(number: f64) -> Result<Self, String> {
        if number > 0.0 && number <= MOST as f64 {
            Ok(Self(number))
        } else {
            Err(format!("{number} must be above 0 and at most {MOST}"))
        }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

impl Level for Rate {
    fn level(&self) -> f64 {
        self.0
    }
}

/// Looks that must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u64")]
pub struct Looks(pub u64);

impl TryFrom<i64> for Looks {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u64::try_from(number) {
            Ok(looks @ 1..=MOST_LOOKS) => Ok(Self(looks)),
            _ => Err(format!("{number} must be between 1 and {MOST_LOOKS}")),
        }
    }
}

impl From<Looks> for u64 {
    fn from(looks: Looks) -> Self {
        looks.0
    }
}
