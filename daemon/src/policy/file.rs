//! The policy as its file has it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    Sensitivity,
    units::{
        CoolDown, Count, Level, Looks, Pattern, Percent, Rate, Size, Time, WindowLength, Windows,
        Written,
    },
};
use crate::{
    cli::{BudgetChoice, Events},
    near,
    stream::{FlagKind, Metric},
};

/// For how long a threshold must be exceeded, unless the file says otherwise.
const FOR: Windows = Windows(3);

/// How many looks must agree: what the detector was measured with.
const LOOKS: Looks = Looks(3);

/// After a climb was raised the detector is silent about the metric for an hour at least anyway.
const COOL_DOWN: CoolDown = CoolDown(Duration::ZERO);

/// Services and rules of what to ignore that a file may have: each is tried for each process that begins.
const MOST_ENTRIES: usize = 128;

/// A policy file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// What `slowburn run` does unless its command line says otherwise.
    pub run: RunSettings,
    /// For all services.
    #[serde(rename = "default", deserialize_with = "for_all")]
    pub for_all: Settings,
    /// For some: the first that matches counts.
    #[serde(deserialize_with = "for_some", skip_serializing_if = "Vec::is_empty")]
    pub service: Vec<Settings>,
}

/// Defaults for flags of the command line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// `--window`
    pub window: Option<WindowLength>,
    /// `--budget`
    pub budget: Option<BudgetChoice>,
    /// `--events`
    pub events: Option<Events>,
    /// `--slow`
    pub slow: Option<Time>,
    /// `--min-mapping`
    pub min_mapping: Option<Size>,
}

/// Settings of a service, or of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which services.
    pub name: Option<Pattern>,
    /// How much evidence is asked for.
    pub sensitivity: Option<Sensitivity>,
    /// How many looks must agree.
    pub looks: Option<Looks>,
    /// For how long nothing is raised after a clear.
    pub cool_down: Option<CoolDown>,
    /// What is known to be the most.
    pub limits: Limits,
    /// Settings of single metrics.
    pub metrics: Metrics,
    /// What is not to be flagged.
    #[serde(deserialize_with = "few", skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<Ignore>,
}

/// Limits of a process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Of committed and of resident memory.
    pub memory: Option<Size>,
    /// Of threads.
    pub threads: Option<Count>,
    /// Of open files.
    pub fds: Option<Count>,
}

/// Settings of single metrics.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    pub committed_bytes: MetricSettings<Size>,
    pub reserved_bytes: MetricSettings<Size>,
    pub rss_bytes: MetricSettings<Size>,
    pub mapped_rate: MetricSettings<Size>,
    pub threads_live: MetricSettings<Count>,
    pub creation_rate: MetricSettings<Rate>,
    pub fds: MetricSettings<Count>,
    pub delay: MetricSettings<Time>,
    pub delay_tail: MetricSettings<Percent>,
}

/// Settings of a metric. The threshold is in its unit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "Unchecked<T>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct MetricSettings<T> {
    /// How much evidence is asked for.
    pub sensitivity: Option<Sensitivity>,
    /// How many looks must agree.
    pub looks: Option<Looks>,
    /// For how long nothing is raised after a clear.
    pub cool_down: Option<CoolDown>,
    /// Flagged above this, whatever the detector finds.
    pub above: Option<T>,
    /// Once it has been for so many windows in a row.
    #[serde(rename = "for")]
    pub windows: Option<Windows>,
}

impl<T> Default for MetricSettings<T> {
    fn default() -> Self {
        Self {
            sensitivity: None,
            looks: None,
            cool_down: None,
            above: None,
            windows: None,
        }
    }
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked<T> {
    sensitivity: Option<Sensitivity>,
    looks: Option<Looks>,
    cool_down: Option<CoolDown>,
    above: Option<T>,
    #[serde(rename = "for")]
    windows: Option<Windows>,
}

impl<T> TryFrom<Unchecked<T>> for MetricSettings<T> {
    type Error = &'static str;
    fn try_from(settings: Unchecked<T>) -> Result<Self, Self::Error> {
        if settings.windows.is_some() && settings.above.is_none() {
            return Err(
                "`for` is for how long the metric must be above a threshold: set `above`, too",
            );
        }
        Ok(Self {
            sensitivity: settings.sensitivity,
            looks: settings.looks,
            cool_down: settings.cool_down,
            windows: settings
                .above
                .is_some()
                .then(|| settings.windows.unwrap_or(FOR)),
            above: settings.above,
        })
    }
}

/// What is not to be flagged: all that is named must fit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "UncheckedIgnore")]
pub struct Ignore {
    /// Of which metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Of which kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<FlagKind>,
    /// In which groups of like-named threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<Pattern>,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedIgnore {
    metric: Option<Metric>,
    kind: Option<FlagKind>,
    threads: Option<Pattern>,
}

impl TryFrom<UncheckedIgnore> for Ignore {
    type Error = &'static str;
    fn try_from(ignore: UncheckedIgnore) -> Result<Self, Self::Error> {
        let UncheckedIgnore {
            metric,
            kind,
            threads,
        } = ignore;
        if metric.is_none() && kind.is_none() && threads.is_none() {
            return Err("nothing is named: set `metric`, `kind` or `threads`");
        }
        Ok(Self {
            metric,
            kind,
            threads,
        })
    }
}

impl fmt::Display for Ignore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it is in the file, in one line.
        f.write_str(
            toml::to_string(self)
                .unwrap_or_default()
                .trim_end()
                .replace('\n', ", ")
                .as_str(),
        )
    }
}

fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let entries = Vec::<T>::deserialize(deserializer)?;
    if entries.len() > MOST_ENTRIES {
        return Err(de::Error::custom(format!(
            "there are {} of these, and {MOST_ENTRIES} at most are looked at",
            entries.len()
        )));
    }
    Ok(entries)
}

fn for_all<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
    let settings = Settings::deserialize(deserializer)?;
    match settings.name {
        Some(_) => Err(de::Error::custom(
            "`name` is for [[service]]: this is for all services",
        )),
        None => Ok(settings),
    }
}

fn for_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Settings>, D::Error> {
    let services: Vec<Settings> = few(deserializer)?;
    for (at, service) in services.iter().enumerate() {
        let Some(name) = &service.name else {
            return Err(de::Error::custom(format!("service[{at}] has no `name`")));
        };
        let same = |earlier: &Settings| {
            let earlier = earlier.name.as_ref();
            earlier.is_some_and(|earlier| earlier.0.glob() == name.0.glob())
        };
        if let Some(earlier) = services[..at].iter().position(same) {
            return Err(de::Error::custom(format!(
                "service[{at}] has the name of service[{earlier}], {:?}: only the first would count",
                name.write(),
            )));
        }
    }
    Ok(services)
}

/// What is set for a metric, whatever its unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfMetric {
    /// How much evidence is asked for.
    pub sensitivity: Option<Sensitivity>,
    /// How many looks must agree.
    pub looks: Option<Looks>,
    /// For how long nothing is raised after a clear.
    pub cool_down: Option<CoolDown>,
    /// The threshold in the unit of the stream, and for how many windows.
    pub above: Option<(f64, Windows)>,
}

impl<T: Level> MetricSettings<T> {
    fn plain(&self) -> OfMetric {
        OfMetric {
            sensitivity: self.sensitivity,
            looks: self.looks,
            cool_down: self.cool_down,
            above: self
                .above
                .as_ref()
                .map(|above| (above.level(), self.windows.unwrap_or(FOR))),
        }
    }
}

impl<T: Copy> MetricSettings<T> {
    /// With what is not set taken from what is set for all metrics, and the rest from `rest`.
    fn filled(&self, of_all: &Settings, rest: &Self) -> Self {
        let own = if self.above.is_some() { self } else { rest };
        Self {
            sensitivity: self.sensitivity.or(of_all.sensitivity).or(rest.sensitivity),
            looks: self.looks.or(of_all.looks).or(rest.looks),
            cool_down: self.cool_down.or(of_all.cool_down).or(rest.cool_down),
            above: own.above,
            windows: own.windows,
        }
    }
}

impl Settings {
    /// What is set for a metric. Nothing can be set for the one of earlier versions.
    pub fn of(&self, metric: Metric) -> OfMetric {
        let metrics = &self.metrics;
        match metric {
            Metric::CommittedBytes => metrics.committed_bytes.plain(),
            Metric::ReservedBytes => metrics.reserved_bytes.plain(),
            Metric::RssBytes => metrics.rss_bytes.plain(),
            Metric::MappedRate => metrics.mapped_rate.plain(),
            Metric::ThreadsLive => metrics.threads_live.plain(),
            Metric::CreationRate => metrics.creation_rate.plain(),
            Metric::Fds => metrics.fds.plain(),
            Metric::Delay => metrics.delay.plain(),
            Metric::DelayTail => metrics.delay_tail.plain(),
            Metric::DelayP99 => OfMetric::default(),
        }
    }

    /// With all that is not set taken from `rest`, which lacks nothing. What is set here for all metrics counts more than
    /// what is set there for one.
    #[must_use]
    pub fn filled(&self, rest: &Self) -> Self {
        let (own, other) = (&self.metrics, &rest.metrics);
        let metrics = Metrics {
            committed_bytes: own.committed_bytes.filled(self, &other.committed_bytes),
            reserved_bytes: own.reserved_bytes.filled(self, &other.reserved_bytes),
            rss_bytes: own.rss_bytes.filled(self, &other.rss_bytes),
            mapped_rate: own.mapped_rate.filled(self, &other.mapped_rate),
            threads_live: own.threads_live.filled(self, &other.threads_live),
            creation_rate: own.creation_rate.filled(self, &other.creation_rate),
            fds: own.fds.filled(self, &other.fds),
            delay: own.delay.filled(self, &other.delay),
            delay_tail: own.delay_tail.filled(self, &other.delay_tail),
        };
        Self {
            name: self.name.clone(),
            sensitivity: self.sensitivity.or(rest.sensitivity),
            looks: self.looks.or(rest.looks),
            cool_down: self.cool_down.or(rest.cool_down),
            limits: Limits {
                memory: self.limits.memory.or(rest.limits.memory),
                threads: self.limits.threads.or(rest.limits.threads),
                fds: self.limits.fds.or(rest.limits.fds),
            },
            metrics,
            ignore: self.ignore.clone(),
        }
    }

    /// What holds where nothing is set.
    pub fn built_in() -> Self {
        let of_all = Self {
            sensitivity: Some(Sensitivity::Normal),
            looks: Some(LOOKS),
            cool_down: Some(COOL_DOWN),
            ..Self::default()
        };
        of_all.filled(&Self::default())
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Which key, with the tables that it is in; empty if the file is not TOML there.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What may have been meant.
    pub near: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            key,
            problem,
            near,
        } = self;
        write!(f, "{line}:{column}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "{problem}")?;
        match near {
            Some(near) => write!(f, " (did you mean {near:?}?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl File {
    /// Reads one.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(text: &str) -> Result<Self, Fault> {
        let fault = |error: &toml::de::Error, key: String| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            Fault {
                line,
                column,
                key,
                near: nearest(error.message()),
                problem: error.message().replace('\n', " "),
            }
        };
        let document =
            toml::Deserializer::parse(text).map_err(|error| fault(&error, String::new()))?;
        serde_path_to_error::deserialize(document)
            .map_err(|error| fault(error.inner(), error.path().to_string()))
    }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Of "unknown field `x`, expected one of `a`, `b`" the nearest to the first word.
fn nearest(message: &str) -> Option<String> {
    message.starts_with("unknown ").then_some(())?;
    let mut words = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let wrong = words.next()?;
    near::best(&wrong, words.collect()).into_iter().next()
}
