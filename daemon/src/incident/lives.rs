//! What the beginnings and ends of processes tell: a job that overlaps its own next run, and a service that is another since
//! it was started anew.

use std::collections::{BTreeMap, VecDeque};

use super::signals::{COUNT, SIGNALS, Values};
use crate::stream::{Moment, Signal, TargetEvent, TargetEventKind};

/// Beginnings of each program that are remembered.
const STARTS: usize = 5;

/// All gaps between them must be within this share of their median to be regular.
const REGULAR: f64 = 0.25;

/// Who is started more often than this is no job.
const LEAST_GAP_NS: u64 = 1_000_000_000;

/// A start this soon after the end of another run replaces it: workers that are renewed one by one are no job.
const REPLACES: f64 = 0.05;

/// Runs in a row that were still there at the next start.
const IN_A_ROW: u32 = 2;

/// Programs, and processes running, that are remembered.
const MOST_PROGRAMS: usize = 64;
const MOST_RUNNING: usize = 1024;

/// Ages at which lives are compared: after 8, 16, 32, ... windows.
const FIRST_AGE: u32 = 3;
const AGES: usize = 16;

/// What is half as much again after a restart, at two ages in a row, is another service, and one that differs by less than
/// a quarter the same.
const DIFFERS: f32 = 1.5;
const ALIKE: f32 = 1.25;

/// Signals by which lives are compared, and the least difference.
const COMPARED: [(Signal, f32); 5] = [
    (Signal::CommittedBytes, 8_388_608.0),
    (Signal::RssBytes, 8_388_608.0),
    (Signal::ThreadsLive, 4.0),
    (Signal::Cpus, 0.05),
    (Signal::MeanWait, 50_000.0),
];

/// A job that still ran when it was started again.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlap {
    /// Its program.
    pub name: String,
    /// How often it is started.
    pub every_ns: u64,
    /// How many runs in a row were still there at the next start.
    pub in_a_row: u32,
    /// How many run now.
    pub running: usize,
    /// How many times as long the last complete run took as the first one.
    pub longer: f64,
    /// When the first of these runs began.
    pub since: Moment,
}

/// A service that is another since it was started anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// When it was.
    pub since: Moment,
    /// What differs at the same age, before and since.
    pub differences: Vec<(Signal, f64, f64)>,
    /// How many lives before were like each other.
    pub lives_alike: u32,
}

/// Starts of one program.
#[derive(Debug, Default)]
struct Program {
    starts: VecDeque<Moment>,
    last_end: Option<Moment>,
    in_a_row: u32,
    first_run_ns: Option<u64>,
    last_run_ns: u64,
    told: bool,
}

/// A process that runs.
#[derive(Debug)]
struct Run {
    name: String,
    start: Moment,
}

/// One life of the service: what it was like at each age.
#[derive(Clone, Debug)]
struct Life {
    begin: Moment,
    windows: u32,
    sums: [f64; COUNT],
    counts: [u32; COUNT],
    ages: Vec<Values>,
}

/// What is known of the lives of one service.
#[derive(Debug, Default)]
pub struct Lives {
    running: BTreeMap<(u32, Moment), Run>,
    programs: BTreeMap<String, Program>,
    life: Option<Life>,
    before: Option<Life>,
    /// How many of those before were like each other.
    alike: u32,
    told: bool,
}

impl Lives {
    /// Takes what happened to a process. Gives an overlap once, when it is sure.
    pub fn target(&mut self, event: &TargetEvent) -> Option<Overlap> {
        if event.event == TargetEventKind::Gone {
            self.end_life();
        }
        let (Some(pid), Some(created)) = (event.pid, event.created) else {
            return None;
        };
        let name = event.name.clone().unwrap_or_default();
        match event.event {
            TargetEventKind::Started | TargetEventKind::Executed => {
                self.begins((pid, created), name, event.ts)
            }
            TargetEventKind::Exited | TargetEventKind::Left => {
                self.ends((pid, created), event.ts);
                None
            }
            _ => None,
        }
    }

    /// A process that was forked runs its parent's program until it executes one of its own: then it begins anew.
    fn begins(&mut self, key: (u32, Moment), name: String, ts: Moment) -> Option<Overlap> {
        if let Some(run) = self.running.remove(&key)
            && let Some(program) = self.programs.get_mut(&run.name)
            && program.starts.back() == Some(&run.start)
        {
            program.starts.pop_back();
        }
        let room = self.programs.len() < MOST_PROGRAMS || self.programs.contains_key(&name);
        if !room || self.running.len() >= MOST_RUNNING {
            return None;
        }
        let running = self.running.values().filter(|run| run.name == name);
        let running: Vec<Moment> = running.map(|run| run.start).collect();
        let program = self.programs.entry(name.clone()).or_default();
        let overlap = program.starts_again(&name, ts, &running);
        self.running.insert(key, Run { name, start: ts });
        overlap
    }

    fn ends(&mut self, key: (u32, Moment), ts: Moment) {
        let Some(run) = self.running.remove(&key) else {
            return;
        };
        if let Some(program) = self.programs.get_mut(&run.name) {
            program.last_end = Some(ts);
            program.last_run_ns = ts.0.saturating_sub(run.start.0);
            program.first_run_ns.get_or_insert(program.last_run_ns);
        }
    }

    /// Takes what all processes of the service came to in a window. Gives a renewal once, when it is sure.
    pub fn window(&mut self, ts: Moment, total: &Values) -> Option<Renewal> {
        let life = self.life.get_or_insert_with(|| Life::new(ts));
        life.add(total);
        let age = life.ages.len();
        let (Some(before), true) = (&self.before, life.windows.is_power_of_two()) else {
            return None;
        };
        if self.told || age < 2 || before.ages.len() < age {
            return None;
        }
        let differences = life.differences(before, age);
        if differences.is_empty() {
            return None;
        }
        self.told = true;
        Some(Renewal {
            since: life.begin,
            differences,
            lives_alike: self.alike,
        })
    }

    fn end_life(&mut self) {
        self.running.clear();
        let Some(life) = self.life.take() else {
            return;
        };
        // A life too short to compare says nothing.
        if life.ages.is_empty() {
            return;
        }
        let alike = self
            .before
            .as_ref()
            .is_some_and(|before| life.is_like(before));
        self.alike = if alike { self.alike + 1 } else { 1 };
        self.told = false;
        self.before = Some(life);
    }
}

impl Program {
    fn starts_again(&mut self, name: &str, ts: Moment, running: &[Moment]) -> Option<Overlap> {
        let previous = self.starts.back().copied();
        if self.starts.len() == STARTS {
            self.starts.pop_front();
        }
        self.starts.push_back(ts);
        let every_ns = self.every_ns()?;
        let still_runs = previous.is_some_and(|previous| running.contains(&previous));
        let replaces = self
            .last_end
            .is_some_and(|end| ts.0.saturating_sub(end.0) as f64 <= REPLACES * every_ns as f64);
        if !still_runs || replaces {
            (self.in_a_row, self.told) = (0, false);
            return None;
        }
        self.in_a_row += 1;
        if self.in_a_row < IN_A_ROW || self.told {
            return None;
        }
        self.told = true;
        let first = self.first_run_ns.unwrap_or(every_ns);
        let longest = running.iter().map(|start| ts.0 - start.0).max();
        Some(Overlap {
            name: name.to_owned(),
            every_ns,
            in_a_row: self.in_a_row,
            running: running.len() + 1,
            longer: longest.unwrap_or(0).max(self.last_run_ns) as f64 / first.max(1) as f64,
            since: running.iter().copied().min().unwrap_or(ts),
        })
    }

    /// The gap between its starts, if it is always about the same.
    fn every_ns(&self) -> Option<u64> {
        if self.starts.len() < STARTS {
            return None;
        }
        let pairs = self.starts.iter().zip(self.starts.iter().skip(1));
        let mut gaps: Vec<u64> = pairs.map(|(a, b)| b.0.saturating_sub(a.0)).collect();
        gaps.sort_unstable();
        let median = gaps[gaps.len() / 2];
        let regular = |gap: &u64| gap.abs_diff(median) as f64 <= REGULAR * median as f64;
        (median >= LEAST_GAP_NS && gaps.iter().all(regular)).then_some(median)
    }
}

impl Life {
    fn new(ts: Moment) -> Self {
        Self {
            begin: ts,
            windows: 0,
            sums: [0.0; COUNT],
            counts: [0; COUNT],
            ages: Vec::new(),
        }
    }

    fn add(&mut self, total: &Values) {
        self.windows = self.windows.saturating_add(1);
        for ((sum, count), value) in self.sums.iter_mut().zip(&mut self.counts).zip(total) {
            if !value.is_nan() {
                *sum += f64::from(*value);
                *count += 1;
            }
        }
        if self.windows.is_power_of_two() && self.windows >= 1 << FIRST_AGE {
            if self.ages.len() < AGES {
                self.ages.push(std::array::from_fn(|i| {
                    (self.sums[i] / f64::from(self.counts[i])) as f32
                }));
            }
            (self.sums, self.counts) = ([0.0; COUNT], [0; COUNT]);
        }
    }

    /// What is much more than in the life before, at this age and the one before.
    fn differences(&self, before: &Self, age: usize) -> Vec<(Signal, f64, f64)> {
        let differs = |age: usize, place: usize, least: f32| {
            let (was, is) = (before.ages[age][place], self.ages[age][place]);
            is > DIFFERS * was && is - was > least
        };
        let place = |signal| SIGNALS.iter().position(|known| *known == signal);
        COMPARED
            .into_iter()
            .filter_map(|(signal, least)| Some((signal, place(signal)?, least)))
            .filter(|(_, place, least)| (age - 2..age).all(|age| differs(age, *place, *least)))
            .map(|(signal, place, _)| {
                let (was, is) = (before.ages[age - 1][place], self.ages[age - 1][place]);
                (signal, f64::from(was), f64::from(is))
            })
            .collect()
    }

    fn is_like(&self, before: &Self) -> bool {
        let age = self.ages.len().min(before.ages.len());
        let place = |signal| SIGNALS.iter().position(|known| *known == signal);
        let mut compared = COMPARED
            .into_iter()
            .filter_map(|(signal, least)| Some((place(signal)?, least)));
        age > 0
            && compared.all(|(place, least)| {
                let (was, is) = (before.ages[age - 1][place], self.ages[age - 1][place]);
                let (low, high) = (was.min(is), was.max(is));
                // Not a number is like anything.
                !(high > ALIKE * low && high - low > least)
            })
    }
}

/// Adds up windows of all processes: levels and rates add up, and so does nothing else that is compared.
#[derive(Debug)]
pub struct Total {
    values: Values,
    windows: u32,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            values: [f32::NAN; COUNT],
            windows: 0,
        }
    }
}

impl Total {
    /// Adds a process.
    pub fn add(&mut self, values: &Values) {
        self.windows += 1;
        for ((sum, value), signal) in self.values.iter_mut().zip(values).zip(SIGNALS) {
            if value.is_nan() {
                continue;
            }
            *sum = match (sum.is_nan(), signal) {
                (true, _) => *value,
                // The longest mean of all processes.
                (_, Signal::MeanWait | Signal::MovedShare | Signal::Throttled | Signal::Steal) => {
                    sum.max(*value)
                }
                _ => *sum + *value,
            };
        }
    }

    /// Takes what it came to; `None` if no process had a window.
    pub fn take(&mut self) -> Option<Values> {
        let total = std::mem::take(self);
        (total.windows > 0).then_some(total.values)
    }
}
