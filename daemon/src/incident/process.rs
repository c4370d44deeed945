//! What is remembered of one process for the incidents that it may come to be in.

use std::collections::BTreeMap;

use super::{
    history::History,
    signals::{self, Values},
};
use crate::{
    detect::group_name,
    stream::{Creator, LongWaits, Metric, Moment, Part, Rival, Window},
};

/// Windows after which what threads and rivals did counts by half.
const HALF_LIFE: f64 = 16.0;

/// Groups of like-named threads, and rivals, that are remembered.
const MOST_GROUPS: usize = 64;
const MOST_RIVALS: usize = 32;

/// Of these, those that are told.
const TOLD: usize = 3;

/// A part below this share is not told.
const LEAST_SHARE: f64 = 0.05;

/// A process.
#[derive(Debug)]
pub struct Process {
    pub history: History,
    pub last: Moment,
    groups: BTreeMap<String, Use>,
    /// With the number of waits, and their sum.
    rivals: BTreeMap<(u32, String), (f64, f64, Rival)>,
    creators: BTreeMap<String, f64>,
    /// Calls that map memory, and what they took.
    mapped: (f64, f64),
}

/// What threads of one name did lately.
#[derive(Debug, Default)]
struct Use {
    mapped: f64,
    waited: f64,
}

impl Process {
    /// With its first window.
    pub fn new(window: &Window) -> Self {
        Self {
            history: History::new(window.ts, window.period_ns),
            last: Moment::default(),
            groups: BTreeMap::new(),
            rivals: BTreeMap::new(),
            creators: BTreeMap::new(),
            mapped: (0.0, 0.0),
        }
    }

    /// Adds a window of the process, and gives its values.
    pub fn add(&mut self, window: &Window) -> Values {
        let values = signals::values(window);
        self.history.add(window.ts, window.period_ns, &values);
        self.last = window.ts;
        let fade = 0.5_f64.powf(1.0 / HALF_LIFE);
        self.groups.retain(|_, used| {
            used.mapped *= fade;
            used.waited *= fade;
            used.mapped > 1.0 || used.waited > 1.0
        });
        self.rivals.retain(|_, (count, ns, _)| {
            *count *= fade;
            *ns *= fade;
            *ns > 1.0
        });
        self.creators.retain(|_, threads| {
            *threads *= fade;
            *threads > 0.1
        });
        for creator in window.threads.iter().flat_map(|threads| &threads.creators) {
            self.creates(creator);
        }
        let (calls, bytes) = self.mapped;
        self.mapped = (
            calls * fade + window.memory.map_calls as f64,
            bytes * fade + window.memory.reserved_bytes as f64,
        );
        for rival in window.delay.iter().flat_map(|delay| &delay.rivals) {
            self.meet(rival);
        }
        values
    }

    fn meet(&mut self, rival: &Rival) {
        let key = (rival.pid, rival.name.clone());
        let room = self.rivals.len() < MOST_RIVALS;
        if !room && !self.rivals.contains_key(&key) {
            return;
        }
        let (count, ns, known) = self
            .rivals
            .entry(key)
            .or_insert_with(|| (0.0, 0.0, rival.clone()));
        *count += rival.waits.count as f64;
        *ns += rival.waits.sum_ns as f64;
        if rival.service.is_some() {
            known.service.clone_from(&rival.service);
        }
    }

    fn creates(&mut self, creator: &Creator) {
        let room = self.creators.len() < MOST_GROUPS;
        if room || self.creators.contains_key(&creator.name) {
            *self.creators.entry(creator.name.clone()).or_default() += creator.threads as f64;
        }
    }

    /// Its threads that created most of the new ones over the last windows.
    pub fn creators(&self) -> Vec<Part> {
        let parts = self.creators.iter();
        parts_of(parts.map(|(name, part)| (name.clone(), *part)).collect())
    }

    /// What a call that maps memory took over the last windows, on average; `None` if there were next to none.
    pub fn mapping_bytes(&self) -> Option<u64> {
        let (calls, bytes) = self.mapped;
        (calls >= 1.0).then(|| (bytes / calls) as u64)
    }

    /// Adds a window of one of its threads.
    pub fn add_thread(&mut self, name: &str, window: &Window) {
        let name = group_name(name);
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&name) {
            return;
        }
        let used = self.groups.entry(name).or_default();
        used.mapped += window.memory.reserved_bytes as f64;
        used.waited += window
            .delay
            .as_ref()
            .map_or(0.0, |delay| delay.sum_ns as f64);
    }

    /// The other processes that it waited behind most over the last windows, with their waits as they count now.
    pub fn rivals(&self) -> Vec<Rival> {
        let mut rivals: Vec<Rival> = self
            .rivals
            .values()
            .map(|(count, ns, rival)| Rival {
                waits: LongWaits {
                    count: *count as u64,
                    sum_ns: *ns as u64,
                },
                ..rival.clone()
            })
            .collect();
        rivals.sort_by_key(|rival| std::cmp::Reverse(rival.waits.sum_ns));
        rivals.truncate(TOLD);
        rivals
    }

    /// Its threads with most of a metric lately, if threads have a share in it at all.
    pub fn threads(&self, metric: Metric) -> Vec<Part> {
        let of: fn(&Use) -> f64 = match metric {
            Metric::Delay | Metric::DelayTail | Metric::DelayP99 => |used| used.waited,
            Metric::CommittedBytes
            | Metric::ReservedBytes
            | Metric::RssBytes
            | Metric::MappedRate => |used| used.mapped,
            Metric::ThreadsLive | Metric::CreationRate | Metric::Fds => return Vec::new(),
        };
        let parts = self
            .groups
            .iter()
            .map(|(name, used)| (name.clone(), of(used)));
        parts_of(parts.collect())
    }
}

/// The largest parts, with their shares.
fn parts_of(mut parts: Vec<(String, f64)>) -> Vec<Part> {
    let total: f64 = parts.iter().map(|(_, part)| part).sum();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    parts
        .into_iter()
        .map(|(name, part)| Part {
            name,
            share: part / total,
        })
        .filter(|part| part.share >= LEAST_SHARE)
        .take(TOLD)
        .collect()
}
