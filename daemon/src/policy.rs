//! The policy: what is asked of the detector, for which service and metric. Read from one file, checked as a whole, and the
//! same for a run and a replay.

mod file;
mod units;

use std::sync::Arc;

use globset::GlobMatcher;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    file::{Fault, File, Ignore, RunSettings, Settings},
    units::Written,
};
use crate::{
    cli,
    stream::{FlagKind, Metric},
};

/// Metrics and kinds of flags, as indices.
const METRICS: usize = Metric::DelayTail as usize + 1;
const KINDS: usize = FlagKind::Threshold as usize + 1;

/// How much evidence is asked for before a climb is raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    /// More of it: fewer flags, later.
    Low,
    /// What the detector was measured with.
    #[default]
    Normal,
    /// Less of it: more flags, earlier.
    High,
}

/// What the bounds of the detector's rules are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// The least significance.
    pub significance: f64,
    /// The least rise that is worth a flag.
    pub effect: f64,
}

impl Sensitivity {
    /// The bounds that are a matter of taste: how sure, and how much. Those that tell a climb from a step, a start-up or the
    /// daily rhythm are the same for everybody.
    pub fn demand(self) -> Demand {
        let (significance, effect) = match self {
            // 5.0 deviations, once in 3 million looks by chance, and twice the rise: less than 6 % of memory is not worth
            // getting up for. (On simulated services, recall 0.870 instead of 0.981, and 1 false flag instead of 2.)
            Self::Low => (1.43, 2.0),
            Self::Normal => (1.0, 1.0),
            // 2.8 deviations, once in 400 looks, of which three must agree; and half of the rise. Less would be within what
            // chunks of allocators and pools of threads do. (On simulated services, 7 false flags instead of 2.)
            Self::High => (0.8, 0.5),
        };
        Demand {
            significance,
            effect,
        }
    }

    /// The usual one?
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

/// What is asked of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricRules {
    /// How much evidence is asked for.
    pub sensitivity: Sensitivity,
    /// So many looks at rings must agree.
    pub looks: usize,
    /// So long after a clear nothing is raised.
    pub cool_down_s: f64,
    /// Flagged beyond, whatever the detector finds.
    pub threshold: Option<Threshold>,
}

/// A level that is not to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// In the metric's unit.
    pub above: f64,
    /// By so many windows in a row.
    pub windows: u32,
}

/// Limits that are known; none is less than 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KnownLimits {
    /// Bytes of memory.
    pub memory: Option<f64>,
    /// Threads.
    pub threads: Option<f64>,
    /// Open files.
    pub fds: Option<f64>,
}

/// What is asked of a process, or of a group of like-named threads.
#[derive(Clone, Debug)]
pub struct Rules {
    of_service: Arc<OfService>,
    /// Place of the rule by which such a finding is ignored, plus one; `None` if none is.
    ignored: Option<Box<[[u16; KINDS]; METRICS]>>,
}

#[derive(Debug)]
struct OfService {
    metrics: [MetricRules; METRICS],
    limits: KnownLimits,
}

impl Rules {
    /// For a metric.
    pub fn of(&self, metric: Metric) -> &MetricRules {
        &self.of_service.metrics[metric as usize]
    }

    /// What is known to be the most.
    pub fn limits(&self) -> &KnownLimits {
        &self.of_service.limits
    }

    /// The place of the rule by which such a finding is ignored.
    pub fn ignored_by(&self, metric: Metric, kind: FlagKind) -> Option<usize> {
        let place = self.ignored.as_ref()?[metric as usize][kind as usize];
        usize::from(place).checked_sub(1)
    }
}

impl Default for Rules {
    fn default() -> Self {
        Policy::default().rules("", None)
    }
}

/// A rule of what to ignore.
#[derive(Debug)]
struct Ignoring {
    /// Of the service at this place; `None` for all.
    service: Option<usize>,
    what: Ignore,
    words: String,
}

/// What is asked of whom.
#[derive(Debug)]
pub struct Policy {
    for_all: Arc<OfService>,
    services: Vec<(GlobMatcher, Arc<OfService>)>,
    ignoring: Vec<Ignoring>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::of(&File::default())
    }
}

impl Policy {
    /// As a file says.
    pub fn of(file: &File) -> Self {
        let for_all = file.for_all.filled(&Settings::built_in());
        let mut ignoring = Vec::new();
        let mut note = |service: Option<usize>, settings: &Settings| {
            let name = settings
                .name
                .as_ref()
                .map(|name| format!("service {:?}: ", name.write()));
            ignoring.extend(settings.ignore.iter().map(|what| Ignoring {
                service,
                words: format!("{}{what}", name.as_deref().unwrap_or_default()),
                what: what.clone(),
            }));
        };
        note(None, &file.for_all);
        let named = file.service.iter().enumerate();
        let services = named.filter_map(|(place, settings)| {
            note(Some(place), settings);
            let name = settings.name.as_ref()?.0.clone();
            Some((name, Arc::new(OfService::of(&settings.filled(&for_all)))))
        });
        Self {
            services: services.collect(),
            for_all: Arc::new(OfService::of(&for_all)),
            ignoring,
        }
    }

    /// For a process of a service, or for a group of its threads.
    pub fn rules(&self, service: &str, threads: Option<&str>) -> Rules {
        let place = self
            .services
            .iter()
            .position(|(name, _)| name.is_match(service));
        let of_service = place.map_or(&self.for_all, |place| &self.services[place].1);
        Rules {
            of_service: Arc::clone(of_service),
            ignored: self.ignored(place, threads),
        }
    }

    fn ignored(
        &self,
        place: Option<usize>,
        threads: Option<&str>,
    ) -> Option<Box<[[u16; KINDS]; METRICS]>> {
        let mut ignored = None;
        for (number, rule) in (1..).zip(&self.ignoring) {
            let of_threads = match (&rule.what.threads, threads) {
                (None, _) => true,
                (Some(pattern), Some(name)) => pattern.0.is_match(name),
                (Some(_), None) => false,
            };
            if !of_threads || rule.service.is_some() && rule.service != place {
                continue;
            }
            let table = ignored.get_or_insert_with(|| Box::new([[0; KINDS]; METRICS]));
            for (metric, kinds) in table.iter_mut().enumerate() {
                for (kind, by) in kinds.iter_mut().enumerate() {
                    let fits = rule
                        .what
                        .metric
                        .is_none_or(|named| named as usize == metric)
                        && rule.what.kind.is_none_or(|named| named as usize == kind);
                    // The first one counts.
                    if fits && *by == 0 {
                        *by = number;
                    }
                }
            }
        }
        ignored
    }

    /// How many rules of what to ignore there are.
    pub fn ignoring(&self) -> usize {
        self.ignoring.len()
    }

    /// A rule of what to ignore, as the file has it.
    pub fn ignoring_words(&self, place: usize) -> &str {
        &self.ignoring[place].words
    }
}

impl OfService {
    /// Of settings that lack nothing.
    fn of(settings: &Settings) -> Self {
        let mut metrics = [MetricRules {
            sensitivity: Sensitivity::Normal,
            looks: 0,
            cool_down_s: 0.0,
            threshold: None,
        }; METRICS];
        for metric in Metric::ALL {
            let set = settings.of(metric);
            metrics[metric as usize] = MetricRules {
                sensitivity: set.sensitivity.unwrap_or_default(),
                looks: set.looks.map_or(0, |looks| looks.0 as usize),
                cool_down_s: set.cool_down.map_or(0.0, |time| time.0.as_secs_f64()),
                threshold: set.above.map(|(above, windows)| Threshold {
                    above,
                    windows: windows.0,
                }),
            };
        }
        let limits = &settings.limits;
        Self {
            metrics,
            limits: KnownLimits {
                memory: limits.memory.map(|size| size.0 as f64),
                threads: limits.threads.map(|count| u64::from(count) as f64),
                fds: limits.fds.map(|count| u64::from(count) as f64),
            },
        }
    }
}

impl File {
    /// With everything that it does not say filled in.
    #[must_use]
    pub fn effective(&self) -> Self {
        let for_all = self.for_all.filled(&Settings::built_in());
        Self {
            run: self.run.filled(),
            service: self
                .service
                .iter()
                .map(|service| service.filled(&for_all))
                .collect(),
            for_all,
        }
    }
}

impl RunSettings {
    fn filled(&self) -> Self {
        // The command line's defaults are constants, which its tests read.
        Self {
            window: self.window.or_else(|| Written::read(cli::WINDOW).ok()),
            budget: self.budget.or_else(|| Written::read(cli::BUDGET).ok()),
            events: self.events.or(Some(cli::EVENTS)),
            slow: self.slow.or_else(|| Written::read(cli::SLOW).ok()),
            min_mapping: self
                .min_mapping
                .or_else(|| Written::read(cli::MIN_MAPPING).ok()),
        }
    }

    /// Puts what is set into the options of a run, except those that were given on its command line.
    pub fn apply(&self, run: &mut cli::Run, is_given: impl Fn(&str) -> bool) {
        fn put<T, U>(to: &mut T, value: Option<U>, given: bool, of: impl Fn(U) -> T) {
            if let Some(value) = value.filter(|_| !given) {
                *to = of(value);
            }
        }
        put(&mut run.window, self.window, is_given("window"), |length| {
            length.0
        });
        put(&mut run.budget, self.budget, is_given("budget"), |budget| {
            budget
        });
        put(&mut run.events, self.events, is_given("events"), |events| {
            events
        });
        put(&mut run.slow, self.slow, is_given("slow"), |time| time.0);
        put(
            &mut run.min_mapping,
            self.min_mapping,
            is_given("min_mapping"),
            |size| size.0,
        );
    }
}

#[cfg(test)]
mod tests;
