//! What a recording holds, from one pass over it: for people, and for those who follow a service through it.
//!
//! The table of services, and processes and threads that ran all the time, may be told at the very end. Whoever wants to know at
//! the beginning what was there then has to read to the end first.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, Hasher},
    io::{Read, Seek},
};

use super::{
    clock::unix_ns,
    counts::Counts,
    damage::Damage,
    error::RecordingError,
    header::Header,
    layout::{Id, Undecoded},
    payload::{Change, Enabled, Lost, Payload, decode},
    recording::{About, Event, Recording},
    value::Utf16,
};

/// Most threads and processes that are remembered each: more than Windows has had at once on any host we know of.
pub const MOST_TASKS: usize = 262_144;

/// Most services.
const MOST_SERVICES: usize = 16_384;

/// Longest text that is kept of a recording, in characters.
const LONGEST_TEXT: usize = 256;

/// Hashes ids of tasks: they are small numbers, and multiples of four.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, id: u32) {
        // Fibonacci hashing: the upper bits, by which the table tells entries apart, depend on all of the id's.
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A table by the id of a task.
pub type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Decodes an event of a recording. `None` if it is none of the kernel's that are decoded.
pub fn decoded<'a>(header: &Header, payload: &'a [u8]) -> Option<Result<Payload<'a>, Undecoded>> {
    match decode(header.id()?, header.pointer_size, payload) {
        Err(Undecoded::Foreign) => None,
        decoded => Some(decoded),
    }
}

/// Text of bounded length.
pub fn text(text: Utf16) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// A service, as the recording's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its process; 0 if it did not run at the end.
    pub pid: u32,
    /// Mark of its threads, in a process of several services.
    pub tag: u32,
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub display_name: String,
}

/// A process of the recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessRow {
    /// Who created it.
    pub parent: u32,
    /// Name of its program.
    pub image: String,
    /// It was there when the recording began.
    pub is_initial: bool,
}

/// A thread of the recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadRow {
    /// Its process.
    pub pid: u32,
    /// Mark of the service it works for, in a process of several; 0 if it has none.
    pub tag: u32,
    /// Its name, if it has one.
    pub name: String,
    /// It was there when the recording began.
    pub is_initial: bool,
    has_ended: bool,
}

/// How many events there are of what the main job needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Beginnings and ends of processes, and those that were there.
    pub processes: u64,
    /// The same of threads.
    pub threads: u64,
    /// Switches.
    pub switches: u64,
    /// Wake-ups.
    pub readies: u64,
    /// Allocations, and what was given back.
    pub regions: u64,
    /// Page faults.
    pub faults: u64,
}

/// What was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events that found no room in any buffer, as the recording's header counts them.
    pub events: u64,
    /// Buffers that could not be written, likewise.
    pub buffers: u64,
    /// Buffers of the recording that say that events were lost.
    pub lossy_buffers: u64,
    /// What a real-time session told of losses.
    pub told: u64,
}

/// What a recording holds.
#[derive(Debug)]
pub struct Survey {
    /// What it says of itself.
    pub about: About,
    /// When it began, in nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// When its last event happened.
    pub end_ns: u64,
    /// Events of each kind.
    pub counts: Counts,
    /// Kinds of kernel events that were enabled; `None` if that was not recorded.
    pub enabled: Option<Enabled>,
    /// What there is of what the main job needs.
    pub holdings: Holdings,
    /// What was lost.
    pub lost: Losses,
    /// Kernel events that could not be decoded, by why.
    pub undecoded: BTreeMap<String, u64>,
    /// Name of the host, if it was recorded.
    pub host: Option<String>,
    /// Build of Windows, if it was recorded besides in the header, which may be of whoever merged the recording.
    pub architecture: Option<u16>,
    /// Services.
    pub services: Vec<ServiceRow>,
    /// Processes by id; of several with the same, the first one.
    pub processes: ById<ProcessRow>,
    /// Threads by id; of several with the same, the first one.
    pub threads: ById<ThreadRow>,
    /// Processes, threads and services that there was no room for.
    pub refused: u64,
    /// Events at impossible times, which are left out.
    pub untimely: u64,
    /// What could not be read.
    pub damage: Damage,
}

/// Within which times events of a recording can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub start_ns: u64,
    earliest_ns: u64,
    latest_ns: u64,
}

/// The clock that the times in the header are of drifts from that of the events, and the header may be of a time
/// before the last events.
const SLACK_NS: u64 = 3_600_000_000_000;
/// Longest recording, if the header does not say when it ended.
const LONGEST_NS: u64 = 400 * 24 * SLACK_NS;

impl Span {
    /// Of a recording.
    pub fn of(about: &About) -> Self {
        let start_ns = unix_ns(about.log.start_filetime);
        let end_ns = unix_ns(about.log.end_filetime);
        let latest_ns = if end_ns > start_ns {
            end_ns.saturating_add(SLACK_NS)
        } else {
            start_ns.saturating_add(LONGEST_NS)
        };
        Self {
            start_ns,
            earliest_ns: start_ns.saturating_sub(SLACK_NS),
            latest_ns,
        }
    }

    /// When an event happened, if it can have; not before the recording began.
    #[inline]
    pub fn time(&self, about: &About, time: i64) -> Option<u64> {
        let ns = about.clock?.ns(time);
        (self.earliest_ns..=self.latest_ns)
            .contains(&ns)
            .then(|| ns.max(self.start_ns))
    }
}

impl Survey {
    /// Reads a recording to its end.
    ///
    /// # Errors
    /// If the file cannot be read, or its buffers have no room in memory.
    pub fn of<R: Read + Seek>(recording: &mut Recording<R>) -> Result<Self, RecordingError> {
        let about = recording.about().clone();
        let span = Span::of(&about);
        let mut survey = Self::new(&about, span);
        while let Some(event) = recording.next_event()? {
            survey.add(&event);
            match span.time(&about, event.time) {
                Some(ns) => survey.end_ns = survey.end_ns.max(ns),
                None => survey.untimely += 1,
            }
        }
        survey.damage = recording.damage().clone();
        Ok(survey)
    }

    fn new(about: &About, span: Span) -> Self {
        Self {
            about: about.clone(),
            start_ns: span.start_ns,
            end_ns: span.start_ns,
            counts: Counts::default(),
            enabled: None,
            holdings: Holdings::default(),
            lost: Losses {
                events: u64::from(about.log.events_lost),
                buffers: u64::from(about.log.buffers_lost),
                lossy_buffers: about.lossy_buffers,
                told: 0,
            },
            undecoded: BTreeMap::new(),
            host: None,
            architecture: None,
            services: Vec::new(),
            processes: ById::default(),
            threads: ById::default(),
            refused: 0,
            untimely: 0,
            damage: Damage::default(),
        }
    }

    fn add(&mut self, event: &Event) {
        self.counts.add(event.header.class);
        match decoded(&event.header, event.payload) {
            Some(Ok(payload)) => self.take(&payload),
            Some(Err(undecoded)) => self.note(&undecoded, event.header.id()),
            None => {}
        }
    }

    fn note(&mut self, undecoded: &Undecoded, id: Option<Id>) {
        // The length of a payload is not part of the reason: there may be as many as events.
        let why = match undecoded {
            Undecoded::Short { event, .. } => format!("{event}, too short"),
            Undecoded::Long { event, .. } => format!("{event}, too long for its pointers"),
            Undecoded::Version { .. } | Undecoded::Foreign => undecoded.to_string(),
        };
        let version = id.map_or(0, |id| id.version);
        let why = if why.contains("version") {
            why
        } else {
            format!("{why} (version {version})")
        };
        *self.undecoded.entry(why).or_default() += 1;
    }

    fn take(&mut self, payload: &Payload) {
        let holds = &mut self.holdings;
        match payload {
            Payload::Switch(_) => holds.switches += 1,
            Payload::Ready(_) => holds.readies += 1,
            Payload::Allocated(_) | Payload::Freed(_) => holds.regions += 1,
            Payload::Fault(_) | Payload::HardFault(_) => holds.faults += 1,
            Payload::Enabled(enabled) => {
                let all = self.enabled.get_or_insert_default();
                all.masks
                    .iter_mut()
                    .zip(enabled.masks)
                    .for_each(|(all, more)| *all |= more);
            }
            Payload::Thread(change, thread) => {
                holds.threads += 1;
                self.thread(*change, thread);
            }
            Payload::Process(change, process) => {
                holds.processes += 1;
                self.process(*change, process);
            }
            Payload::Host(host) => {
                self.host = Some(text(host.name));
                self.architecture = Some(host.architecture);
            }
            Payload::Service(service) if self.services.len() < MOST_SERVICES => {
                self.services.push(ServiceRow {
                    pid: service.pid,
                    tag: service.tag,
                    name: text(service.name),
                    display_name: text(service.display_name),
                });
            }
            Payload::Service(_) => self.refused += 1,
            Payload::Lost(Lost::Event | Lost::Buffer | Lost::File) => self.lost.told += 1,
            _ => {}
        }
    }

    fn thread(&mut self, change: Change, thread: &super::payload::Thread) {
        if self.threads.len() >= MOST_TASKS && !self.threads.contains_key(&thread.tid) {
            self.refused += 1;
            return;
        }
        let row = self.threads.entry(thread.tid).or_insert_with(|| ThreadRow {
            pid: thread.pid,
            is_initial: change != Change::Start,
            ..ThreadRow::default()
        });
        // What comes after is of another thread with the same id.
        if row.has_ended || row.pid != thread.pid {
            return;
        }
        if row.tag == 0 {
            row.tag = thread.service_tag;
        }
        if row.name.is_empty() {
            row.name = text(thread.name);
        }
        row.has_ended = change == Change::End;
    }

    fn process(&mut self, change: Change, process: &super::payload::Process) {
        // It had ended before: its id may be another's.
        if change == Change::Defunct {
            return;
        }
        if self.processes.len() >= MOST_TASKS && !self.processes.contains_key(&process.pid) {
            self.refused += 1;
            return;
        }
        self.processes
            .entry(process.pid)
            .or_insert_with(|| ProcessRow {
                parent: process.parent,
                image: process
                    .image
                    .to_string()
                    .chars()
                    .take(LONGEST_TEXT)
                    .collect(),
                is_initial: change != Change::Start,
            });
    }
}
