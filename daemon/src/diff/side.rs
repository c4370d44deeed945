//! One side of a comparison: what is kept of a period. Its size does not depend on that of the recording.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use serde::Serialize;

use super::{
    period::{Period, short},
    quantity::Values,
    series::Series,
    waits::{Reader, Waits},
};
use crate::{
    detect::group_name,
    stream::{
        CallName, Flag, FlagKind, FlagState, Loss, LossClass, MemoryStep, Metric, Moment,
        ProcessId, Record, Scope, Start, TargetEvent, TargetEventKind, Window,
    },
};

/// Subjects that are compared; 0.1 to 0.8 MB each.
pub const MOST_SUBJECTS: usize = 256;

/// Names of services, of processes and of groups of threads, and kinds of flags: so many of each.
pub const MOST_NAMES: usize = 4096;

/// Processes whose names are known at the same time.
const MOST_PROCESSES: usize = 65_536;

/// Kinds of calls, and sizes by powers of two.
pub const CALLS: usize = 6;
/// Powers of two.
pub const SIZES: usize = 64;

/// The name of a process that began before the recording did.
const UNKNOWN: &str = "(unknown)";

/// What one is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// A service with all its processes.
    #[default]
    Service,
    /// The processes of a service that have the same name.
    Process,
    /// The threads of those whose names differ in numbers only.
    Threads,
}

/// Something that has figures.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// The service; of two that are compared with each other, both.
    #[serde(rename = "service.name")]
    pub service: String,
    /// Name of the program.
    #[serde(
        rename = "process.executable.name",
        skip_serializing_if = "Option::is_none"
    )]
    pub process: Option<String>,
    /// Name of the threads, with `#` for each number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<String>,
}

/// Which service is looked at, and what it is called in the report; `None` for all of them.
pub type Only = Option<(String, String)>;

/// What a flag was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FlagAbout {
    /// The service.
    #[serde(rename = "service.name")]
    pub service: String,
    /// Which threads, if not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<String>,
    /// Of what.
    pub metric: Metric,
    /// What kind of change, as the stream names it.
    pub kind: &'static str,
}

/// What became of the processes of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lives {
    /// Began, or came in by executing a program.
    pub began: u64,
    /// Executed another program.
    pub executed: u64,
    /// Ended or left.
    pub ended: u64,
    /// Times that there was none left.
    pub gone: u64,
}

/// Windows that are missing in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// How often.
    pub count: u64,
    /// How long together.
    pub ns: u64,
}

/// What a service did besides.
#[derive(Clone, Debug)]
pub struct Service {
    /// Windows of its processes.
    pub windows: u64,
    /// Calls by [`CallName`].
    pub calls: [u64; CALLS],
    /// Mapping records by call and power of two.
    pub sizes: Box<[[u64; SIZES]; CALLS]>,
    /// Its processes.
    pub lives: Lives,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            windows: 0,
            calls: [0; CALLS],
            sizes: Box::new([[0; SIZES]; CALLS]),
            lives: Lives::default(),
        }
    }
}

/// Windows at the same time.
#[derive(Debug, Default)]
struct Tick {
    ts: Moment,
    period_ns: u64,
    /// For processes by name, what they did: threads that have no window did nothing of it.
    processes: BTreeMap<(String, String), Values>,
}

/// A subject, and what it did in the current tick.
#[derive(Debug)]
struct Track {
    series: Series,
    current: Option<(Values, Waits)>,
}

/// What is kept of a period.
pub struct Side {
    by: By,
    only: Only,
    period: Period,
    reader: Reader,
    tick: Option<Tick>,
    tracks: BTreeMap<Subject, Track>,
    names: BTreeMap<(u32, Moment), String>,
    calls_are_hooked: bool,
    /// What there is of it.
    pub facts: Facts,
}

/// What is known of a period besides its series.
#[derive(Debug, Default)]
pub struct Facts {
    /// Beginning of the first window.
    pub begin: Option<Moment>,
    /// End of the last window.
    pub end: Option<Moment>,
    /// Windows, those at the same time counted once.
    pub windows: u64,
    /// How long they were together.
    pub observed_ns: u64,
    /// What is missing between them.
    pub gaps: Gaps,
    /// Times that slowburn was started again within the period.
    pub restarts: u64,
    /// What was lost.
    pub lost: BTreeMap<LossClass, u64>,
    /// Windows of processes in which waits were not measured all the time.
    pub waits_unmeasured: u64,
    /// Windows of processes in which not each call was looked at.
    pub calls_unmeasured: u64,
    /// Histograms that could not be read.
    pub unreadable: u64,
    /// Windows of subjects for which there was no room.
    pub no_room: u64,
    /// Names for which there was no room.
    pub names_left_out: u64,
    /// Smallest mapping that is a record; `None` if none is.
    pub least_mapping: Option<u64>,
    /// Services in the period.
    pub services: BTreeMap<String, Service>,
    /// Services of the whole recording, whichever is looked at.
    pub all_services: BTreeSet<String>,
    /// From the beginning of the first window to the end of the last one of the whole recording.
    pub recorded: Option<(Moment, Moment)>,
    /// Windows of processes by service and name.
    pub processes: BTreeMap<(String, String), u64>,
    /// Windows of threads by service, process and group.
    pub threads: BTreeMap<(String, String, String), u64>,
    /// Flags that were raised.
    pub flags: BTreeMap<FlagAbout, u64>,
    /// The recording ends within a line.
    pub is_cut: bool,
}

impl Side {
    /// Nothing yet, of all there is.
    pub fn new(by: By, only: Only) -> Self {
        Self {
            by,
            only,
            period: Period::default(),
            reader: Reader::default(),
            tick: None,
            tracks: BTreeMap::new(),
            names: BTreeMap::new(),
            calls_are_hooked: true,
            facts: Facts::default(),
        }
    }

    /// Sets the period.
    pub fn set_period(&mut self, period: Period) {
        self.period = period;
    }

    /// Why there is no window: which one was asked for, and what the recording has.
    pub fn what_is_there(&self) -> String {
        let of = self
            .only
            .as_ref()
            .map(|(name, _)| format!("of {name} "))
            .unwrap_or_default();
        let asked = format!("{of}in {}", self.period);
        let services: Vec<&str> = self.facts.all_services.iter().map(String::as_str).collect();
        match self.facts.recorded {
            Some((begin, end)) => format!(
                "{asked}: it has windows of {}, from {} to {}",
                services.join(", "),
                short(begin),
                short(end)
            ),
            None => format!("{asked}, and none at all"),
        }
    }

    /// Are single threads compared?
    pub fn is_by_threads(&self) -> bool {
        self.by == By::Threads
    }

    /// What the report calls a service; `None` if it is not looked at.
    fn label(&self, service: &str) -> Option<String> {
        match &self.only {
            None => Some(service.to_owned()),
            Some((name, label)) => (name == service).then(|| label.clone()),
        }
    }

    /// Adds a record.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Start(start) => self.start(start),
            Record::Target(event) => self.target(event),
            Record::Window(window) => self.window(window),
            Record::Flag(flag) => self.flag(flag),
            Record::Loss(Loss { ts, class, count }) if self.period.has(*ts) => {
                *self.facts.lost.entry(*class).or_default() += count;
            }
            // Which sizes are records is another thing from then on.
            Record::Budget(change) if change.after.memory != MemoryStep::Full => {
                self.facts.least_mapping = None;
            }
            Record::Mapping(mapping) => self.mapping(
                mapping.ts,
                &mapping.process.service,
                mapping.call,
                mapping.length_bytes,
            ),
            _ => {}
        }
    }

    fn start(&mut self, start: &Start) {
        self.calls_are_hooked = start.hooks.memory != "none";
        self.facts.least_mapping = start.limits.min_mapping_bytes;
        self.facts.restarts += u64::from(self.facts.windows > 0 && self.period.has(start.ts));
        // Those of the run before were not told to end, and their ids may come back.
        self.names.clear();
    }

    fn target(&mut self, event: &TargetEvent) {
        use TargetEventKind::{Executed, Exited, Found, Gone, Left, Started};
        if let (Some(pid), Some(created)) = (event.pid, event.created) {
            match (event.event, &event.name) {
                (Found | Started | Executed, Some(name)) if self.names.len() < MOST_PROCESSES => {
                    self.names.insert((pid, created), name.clone());
                }
                (Left, _) => drop(self.names.remove(&(pid, created))),
                _ => {}
            }
        }
        let Some(label) = self
            .label(&event.service)
            .filter(|_| self.period.has(event.ts))
        else {
            return;
        };
        let lives = &mut self.service(label).lives;
        match event.event {
            Started => lives.began += 1,
            Executed => lives.executed += 1,
            Exited | Left => lives.ended += 1,
            Gone => lives.gone += 1,
            _ => {}
        }
    }

    fn service(&mut self, label: String) -> &mut Service {
        self.facts.services.entry(label).or_default()
    }

    /// A mapping record.
    pub fn mapping(&mut self, ts: Moment, service: &str, call: CallName, length: u64) {
        if self.period.has(ts)
            && let Some(label) = self.label(service)
        {
            let size = length.max(1).ilog2() as usize;
            self.service(label).sizes[call as usize][size] += 1;
        }
    }

    fn flag(&mut self, flag: &Flag) {
        let Some(service) = self.label(&flag.process.service) else {
            return;
        };
        if flag.state != FlagState::Raised || !self.period.has(flag.ts) {
            return;
        }
        let threads = flag.threads.as_ref().map(|threads| threads.name.clone());
        let thread = flag.thread.as_ref().map(|thread| group_name(&thread.name));
        let about = FlagAbout {
            service,
            threads: threads.or(thread),
            metric: flag.metric,
            kind: match flag.kind {
                FlagKind::Climb => "climb",
                FlagKind::Threshold => "threshold",
                FlagKind::Step => "step",
                FlagKind::Spike => "spike",
                FlagKind::Periodic => "periodic",
            },
        };
        count(&mut self.facts.flags, about, &mut self.facts.names_left_out);
    }

    /// Notes a thread's window of which only this much was read.
    pub fn thread_seen(&mut self, ts: Moment, period_ns: u64, process: &ProcessId, name: &str) {
        let Some(service) = self.label(&process.service) else {
            return;
        };
        if self.period.has_window(ts, period_ns) {
            let group = (service, self.name(process), group_name(name));
            count(
                &mut self.facts.threads,
                group,
                &mut self.facts.names_left_out,
            );
        }
    }

    fn name(&self, process: &ProcessId) -> String {
        let name = self.names.get(&(process.pid, process.created));
        name.map_or_else(|| UNKNOWN.to_owned(), Clone::clone)
    }

    fn window(&mut self, window: &Window) {
        self.whole(window);
        if window.period_ns > 0 && self.period.has_window(window.ts, window.period_ns) {
            match (window.scope, &window.thread) {
                (Scope::Process, _) => self.process(window),
                (Scope::Thread, Some(thread)) => {
                    self.thread_seen(window.ts, window.period_ns, &window.process, &thread.name);
                    self.thread(window, &group_name(&thread.name));
                }
                (Scope::Thread, None) => {}
            }
        }
        if window.scope == Scope::Process && window.ended {
            self.names
                .remove(&(window.process.pid, window.process.created));
        }
    }

    /// Whatever the period.
    fn whole(&mut self, window: &Window) {
        let begin = Moment(window.ts.0.saturating_sub(window.period_ns));
        self.facts.recorded.get_or_insert((begin, window.ts)).1 = window.ts;
        let services = &mut self.facts.all_services;
        if services.len() < MOST_NAMES && !services.contains(&window.process.service) {
            services.insert(window.process.service.clone());
        }
    }

    fn process(&mut self, window: &Window) {
        let Some(label) = self.label(&window.process.service) else {
            return;
        };
        self.tick(window);
        let process = self.name(&window.process);
        count(
            &mut self.facts.processes,
            (label.clone(), process.clone()),
            &mut self.facts.names_left_out,
        );
        let is_partial = |unmeasured: bool| u64::from(unmeasured);
        let memory = &window.memory;
        self.facts.waits_unmeasured += is_partial(
            window
                .delay
                .as_ref()
                .is_none_or(|delay| delay.unmeasured_ns.is_some()),
        );
        self.facts.calls_unmeasured +=
            is_partial(memory.unmeasured_ns.is_some() || memory.sampled.is_some());
        let service = self.service(label.clone());
        service.windows += 1;
        let calls = [
            memory.map_calls,
            memory.unmap_calls,
            memory.remap_calls,
            memory.brk_calls,
            memory.advise_calls,
            memory.protect_calls,
        ];
        for (sum, more) in service.calls.iter_mut().zip(calls) {
            *sum += more;
        }
        let hooked = self.calls_are_hooked;
        match self.by {
            By::Threads => {
                if let Some(tick) = &mut self.tick {
                    tick.processes
                        .entry((label, process))
                        .or_insert(Values::NONE)
                        .add(window, hooked);
                }
            }
            by => self.add(
                Subject {
                    service: label,
                    process: (by == By::Process).then_some(process),
                    threads: None,
                },
                window,
            ),
        }
    }

    fn thread(&mut self, window: &Window, group: &str) {
        if let Some(service) = self.label(&window.process.service)
            && self.by == By::Threads
        {
            self.tick(window);
            let subject = Subject {
                service,
                process: Some(self.name(&window.process)),
                threads: Some(group.to_owned()),
            };
            self.add(subject, window);
        }
    }

    /// Ends the tick before, if the window is of another one.
    fn tick(&mut self, window: &Window) {
        if self.tick.as_ref().is_some_and(|tick| tick.ts == window.ts) {
            return;
        }
        self.end_tick();
        let begin = Moment(window.ts.0.saturating_sub(window.period_ns));
        let facts = &mut self.facts;
        facts.windows += 1;
        facts.observed_ns += window.period_ns;
        facts.begin.get_or_insert(begin);
        if let Some(end) = facts.end.replace(window.ts) {
            let missing = begin.0.saturating_sub(end.0);
            if missing > window.period_ns / 2 {
                facts.gaps.count += 1;
                facts.gaps.ns += missing;
            }
        }
        self.tick = Some(Tick {
            ts: window.ts,
            period_ns: window.period_ns,
            processes: BTreeMap::new(),
        });
    }

    fn end_tick(&mut self) {
        let Some(tick) = self.tick.take() else {
            return;
        };
        let seconds = tick.period_ns as f64 / 1e9;
        for (subject, track) in &mut self.tracks {
            if let Some((values, waits)) = track.current.take() {
                track.series.add(seconds, &values, waits);
            } else if let (Some(process), Some(_)) = (&subject.process, &subject.threads)
                && let Some(values) = tick
                    .processes
                    .get(&(subject.service.clone(), process.clone()))
            {
                track
                    .series
                    .add(seconds, &Values::idle(values), Waits::default());
            }
        }
    }

    fn add(&mut self, subject: Subject, window: &Window) {
        let room = self.tracks.len() < MOST_SUBJECTS;
        if !room && !self.tracks.contains_key(&subject) {
            self.facts.no_room += 1;
            return;
        }
        let track = self.tracks.entry(subject).or_insert_with(|| Track {
            series: Series::default(),
            current: None,
        });
        let (values, waits) = track
            .current
            .get_or_insert((Values::NONE, Waits::default()));
        values.add(window, self.calls_are_hooked);
        if let Some(delay) = window
            .delay
            .as_ref()
            .filter(|delay| delay.unmeasured_ns.is_none())
            && self.reader.add(delay, waits).is_none()
        {
            self.facts.unreadable += 1;
        }
    }

    /// The series, once all is read.
    pub fn finish(&mut self) -> BTreeMap<Subject, Series> {
        self.end_tick();
        let tracks = mem::take(&mut self.tracks).into_iter();
        let finished = tracks.map(|(subject, mut track)| {
            track.series.finish();
            (subject, track.series)
        });
        finished.collect()
    }
}

/// Counts one more, if there is room for its name.
fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, left_out: &mut u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count += 1;
    } else if counts.len() < MOST_NAMES {
        counts.insert(key, 1);
    } else {
        *left_out += 1;
    }
}
