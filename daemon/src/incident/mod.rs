//! From flags to one incident: what those do by hand who are woken by them.
//!
//! Flags of one service within one stretch become one incident; what else moved is measured (`facts`, from the `history` of
//! each process); where it happens is read from windows of threads (`process`); and what it may be due to is weighed
//! (`causes`, each a `case`). Beginnings and ends of processes say what no window does (`lives`).
//!
//! Like the detector it sees records and nothing else: no clock, no I/O, and the same records give the same incidents.

mod case;
mod causes;
mod facts;
mod history;
mod lives;
mod process;
mod relation;
mod rhythm;
mod signals;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use self::{
    causes::Sightings,
    facts::Facts,
    lives::{Lives, Overlap, Renewal, Total},
    process::Process,
};
use crate::{
    figures,
    stream::{
        Cause, CauseKind, Flag, FlagKind, FlagState, Incident, Metric, Moment, Place, Scope,
        TargetEvent, Window,
    },
};

/// A flag this long after the last one belongs to the same incident, and one without climbs is over then.
const STRETCH_NS: u64 = 300_000_000_000;

/// Flags of an incident that are remembered. Further ones change nothing any more.
const MOST_FLAGS: usize = 64;

/// Flags that wait for an incident to belong to.
const MOST_ASIDE: usize = 8;

/// Processes remembered at the same time: 25 KB each.
const MOST_PROCESSES: usize = 256;

/// Processes that were not heard of for this long are forgotten.
const FORGET_NS: u64 = 3_600_000_000_000;

/// By how much a confidence must change to be told anew.
const NEWS: f64 = 0.1;

/// Changes that are told.
const MOST_MOVED: usize = 8;

/// Concludes incidents from windows, flags and what happens to processes.
#[derive(Debug, Default)]
pub struct Incidents {
    services: BTreeMap<String, Service>,
    /// Of all services.
    processes: usize,
    told: u64,
    refused: u64,
    /// End of the windows that are coming in.
    ts: Moment,
}

/// A process. Ids come back, so the creation time belongs to it.
type Key = (u32, Moment);

#[derive(Debug, Default)]
struct Service {
    processes: BTreeMap<Key, Process>,
    lives: Lives,
    total: Total,
    open: Option<Open>,
    /// Flags that are no incident by themselves, until they are older than a stretch.
    aside: VecDeque<Flag>,
}

/// An incident that is not over.
#[derive(Debug)]
struct Open {
    id: String,
    /// As they were told last, in the order in which they were raised.
    flags: Vec<Flag>,
    overlap: Option<Overlap>,
    renewal: Option<Renewal>,
    /// When anything was raised last.
    last: Moment,
    /// Has anything that lasts been raised since it was told? With which cause was it told?
    changed: bool,
    told: Option<(Option<CauseKind>, f64)>,
    /// What it came to while there was a process to look at.
    concluded: Option<Box<Incident>>,
    /// When it was raised, and when it is weighed anew: after twice the time each time.
    raised: Moment,
    next_look: Moment,
}

impl Incidents {
    /// Takes a window. Windows of threads follow that of their process.
    pub fn window(&mut self, window: &Window) {
        self.ts = window.ts;
        let key = (window.process.pid, window.process.created);
        let service = self
            .services
            .entry(window.process.service.clone())
            .or_default();
        if let (Scope::Thread, Some(thread)) = (window.scope, &window.thread) {
            if let Some(process) = service.processes.get_mut(&key) {
                process.add_thread(&thread.name, window);
            }
            return;
        }
        if window.ended {
            self.processes -= usize::from(service.processes.remove(&key).is_some());
            return;
        }
        if window.period_ns == 0 {
            return;
        }
        let process = match service.processes.entry(key) {
            Entry::Occupied(process) => process.into_mut(),
            Entry::Vacant(place) if self.processes < MOST_PROCESSES => {
                self.processes += 1;
                place.insert(Process::new(window))
            }
            Entry::Vacant(_) => {
                self.refused += 1;
                return;
            }
        };
        let values = process.add(window);
        service.total.add(&values);
    }

    /// Takes what the detector said.
    pub fn flag(&mut self, flag: &Flag) {
        let service = self
            .services
            .entry(flag.process.service.clone())
            .or_default();
        match flag.state {
            FlagState::Raised => service.raised(flag, &mut self.told),
            // What the load explains is no alarm.
            FlagState::Explained => {}
            FlagState::Updated | FlagState::Cleared => {
                if let Some(open) = &mut service.open
                    && let Some(known) = open.flags.iter_mut().find(|known| known.id == flag.id)
                {
                    *known = flag.clone();
                }
            }
        }
    }

    /// Takes what happened to a service or one of its processes.
    pub fn target(&mut self, event: &TargetEvent) {
        let service = self.services.entry(event.service.clone()).or_default();
        if let Some(overlap) = service.lives.target(event) {
            service.open_at(event.ts, true, &mut self.told).overlap = Some(overlap);
        }
    }

    /// All windows of a period are in: appends what has changed.
    pub fn settle(&mut self, out: &mut Vec<Incident>) {
        let ts = self.ts;
        for (name, service) in &mut self.services {
            if let Some(total) = service.total.take()
                && let Some(renewal) = service.lives.window(ts, &total)
            {
                service.open_at(ts, true, &mut self.told).renewal = Some(renewal);
            }
            out.extend(service.tell(name, ts));
            let before = service.processes.len();
            service
                .processes
                .retain(|_, process| ts.0.saturating_sub(process.last.0) < FORGET_NS);
            self.processes -= before - service.processes.len();
        }
    }

    /// When the windows end that are coming in.
    pub fn ts(&self) -> Moment {
        self.ts
    }

    /// Windows of processes that there was no room for since the last call.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

impl Service {
    /// A spike is over when it is told, and memory that comes and goes is how collectors work: neither is an incident by
    /// itself, but both may belong to one.
    fn raised(&mut self, flag: &Flag, told: &mut u64) {
        let lasts = matches!(
            flag.kind,
            FlagKind::Climb | FlagKind::Threshold | FlagKind::Step
        );
        let hurts = flag.kind == FlagKind::Periodic && !is_level(flag.metric);
        if self.open.is_none() && !lasts && !hurts {
            if self.aside.len() == MOST_ASIDE {
                self.aside.pop_front();
            }
            self.aside.push_back(flag.clone());
            return;
        }
        let aside = std::mem::take(&mut self.aside);
        let open = self.open_at(flag.ts, lasts, told);
        let recent = |aside: &Flag| flag.ts.0.saturating_sub(aside.ts.0) <= STRETCH_NS;
        open.flags.extend(aside.into_iter().filter(recent));
        if open.flags.len() < MOST_FLAGS {
            open.flags.push(flag.clone());
        }
    }

    /// The incident that something belongs to which is raised now.
    /// What does not last is told with what comes next.
    fn open_at(&mut self, ts: Moment, lasts: bool, told: &mut u64) -> &mut Open {
        let open = self.open.get_or_insert_with(|| {
            *told += 1;
            Open {
                id: format!("i{told}"),
                flags: Vec::new(),
                overlap: None,
                renewal: None,
                last: ts,
                changed: true,
                told: None,
                concluded: None,
                raised: ts,
                next_look: ts,
            }
        });
        open.last = ts;
        open.changed |= lasts;
        open
    }

    /// The record of what has changed, if anything has.
    fn tell(&mut self, name: &str, ts: Moment) -> Option<Incident> {
        let open = self.open.as_ref()?;
        let is_over = open.is_over(ts);
        if !open.changed && !is_over && ts < open.next_look {
            return None;
        }
        let incident = self.conclude(name, ts)?;
        let first = incident.causes.first();
        let best = (
            first.map(|first| first.cause),
            first.map_or(0.0, |first| first.confidence),
        );
        let open = self.open.as_mut()?;
        open.concluded = Some(Box::new(incident.clone()));
        open.look_again(ts);
        if !std::mem::take(&mut open.changed) && !is_over && !open.is_news(best) {
            return None;
        }
        let state = match (is_over, open.told) {
            (true, _) => FlagState::Cleared,
            (false, None) => FlagState::Raised,
            (false, Some(_)) => FlagState::Updated,
        };
        open.told = Some(best);
        if is_over {
            self.open = None;
        }
        let incident = Incident { state, ..incident };
        let summary = sentence(&incident);
        Some(Incident {
            summary,
            ..incident
        })
    }

    fn process_of(&self, flag: &Flag) -> Option<&Process> {
        self.processes
            .get(&(flag.process.pid, flag.process.created))
    }

    /// What it comes to. State and summary are added by whoever tells it.
    fn conclude(&self, name: &str, ts: Moment) -> Option<Incident> {
        let open = self.open.as_ref()?;
        let mut flags = open.flags_by_weight();
        flags.sort_by_key(|flag| self.process_of(flag).is_none());
        let lead = flags.first();
        let process = match lead {
            Some(flag) => self.process_of(flag),
            None => self.processes.values().next(),
        };
        // All of its processes have ended: what was known of them holds.
        if let (Some(_), None, Some(last)) = (lead, process, &open.concluded) {
            return Some(Incident {
                ts,
                flags: ids(&open.flags),
                ..last.as_ref().clone()
            });
        }
        let mut pids: Vec<u32> = Vec::new();
        for flag in &flags {
            if !pids.contains(&flag.process.pid) {
                pids.push(flag.process.pid);
            }
        }
        let place = Place {
            pids,
            ..place(process, lead)
        };
        let (moved, causes) = weigh(open, &flags, process, &place, ts);
        Some(Incident {
            ts,
            id: open.id.clone(),
            state: FlagState::Raised,
            service: name.to_owned(),
            since: open.since(ts),
            flags: ids(&open.flags),
            moved,
            place,
            causes,
            summary: String::new(),
        })
    }
}

fn ids(flags: &[Flag]) -> Vec<String> {
    flags.iter().map(|flag| flag.id.clone()).collect()
}

/// Where it happens, within the process that leads.
fn place(process: Option<&Process>, lead: Option<&Flag>) -> Place {
    let Some(process) = process else {
        return Place::default();
    };
    Place {
        pids: Vec::new(),
        threads: lead.map_or_else(Vec::new, |flag| process.threads(flag.metric)),
        creators: process.creators(),
        mapping_bytes: process.mapping_bytes(),
        rivals: process.rivals(),
    }
}

fn weigh(
    open: &Open,
    flags: &[Flag],
    process: Option<&Process>,
    place: &Place,
    ts: Moment,
) -> (Vec<crate::stream::Moved>, Vec<Cause>) {
    let meeting = rhythm::meeting(&rhythm::beats(flags));
    let seen = Sightings {
        overlap: open.overlap.as_ref(),
        renewal: open.renewal.as_ref(),
        meeting: meeting.as_ref(),
    };
    let none = history::History::new(ts, 1);
    let history = process.map_or(&none, |process| &process.history);
    let facts = Facts::new(flags, place, history, ts);
    let pid = flags.first().map_or(0, |flag| flag.process.pid);
    let mut moved = facts.moved();
    moved.truncate(MOST_MOVED);
    (moved, causes::weigh(&facts, seen, pid))
}

impl Open {
    /// The one that leads first: the first climb; without any, the first step, and so on.
    fn flags_by_weight(&self) -> Vec<Flag> {
        let mut flags = self.flags.clone();
        flags.sort_by_key(|flag| match flag.kind {
            FlagKind::Climb | FlagKind::Threshold => 0,
            FlagKind::Step => 1,
            FlagKind::Periodic => 2,
            FlagKind::Spike => 3,
        });
        flags
    }

    fn look_again(&mut self, ts: Moment) {
        let age = ts.0.saturating_sub(self.raised.0).max(STRETCH_NS / 10);
        self.next_look = Moment(ts.0.saturating_add(age));
    }

    /// Another cause is the likeliest, or much likelier or less likely than before.
    fn is_news(&self, (cause, confidence): (Option<CauseKind>, f64)) -> bool {
        self.told
            .is_none_or(|told| told.0 != cause || (told.1 - confidence).abs() >= NEWS)
    }

    /// No climb is left, and nothing was raised for a while.
    fn is_over(&self, ts: Moment) -> bool {
        let climbs = |flag: &Flag| {
            let may_clear = matches!(flag.kind, FlagKind::Climb | FlagKind::Threshold);
            may_clear && flag.state != FlagState::Cleared
        };
        !self.flags.iter().any(climbs) && ts.0.saturating_sub(self.last.0) >= STRETCH_NS
    }

    fn since(&self, ts: Moment) -> Moment {
        let flags = self.flags.iter().map(|flag| flag.since);
        let overlap = self.overlap.iter().map(|overlap| overlap.since);
        let renewal = self.renewal.iter().map(|renewal| renewal.since);
        flags.chain(overlap).chain(renewal).min().unwrap_or(ts)
    }
}

/// Is it something that stands, and not something that flows?
fn is_level(metric: Metric) -> bool {
    matches!(
        metric,
        Metric::CommittedBytes
            | Metric::ReservedBytes
            | Metric::RssBytes
            | Metric::ThreadsLive
            | Metric::Fds
    )
}

/// The incident as a sentence.
fn sentence(incident: &Incident) -> String {
    let Incident {
        service,
        flags,
        causes,
        since,
        ts,
        ..
    } = incident;
    let since = figures::time_of_day(*since, *ts);
    let over = if incident.state == FlagState::Cleared {
        ", it is over"
    } else {
        ""
    };
    let Some(first) = causes.first() else {
        return format!(
            "{service}: since {since}{over}, {} flagged, and no known cause fits",
            flags.len()
        );
    };
    let why = first
        .supporting
        .first()
        .map_or(String::new(), |why| format!(": {why}"));
    let how_sure = if first.confidence > 0.5 {
        "probably"
    } else {
        "possibly"
    };
    format!(
        "{service}: since {since}{over}, {how_sure} {} ({}){why}",
        words::cause(first.cause),
        figures::percent(first.confidence),
    )
}
