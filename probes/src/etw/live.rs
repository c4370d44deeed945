//! Events of a live session to slowburn's events, window by window: what [`Replay`](super::Replay) does with a recording.
//!
//! Pure, and the same on any system; who asks the host is `windows/`.

use std::collections::BTreeMap;

use super::{
    layout::Undecoded,
    payload::{Change, Payload, decode},
    queue::{Arrival, Block},
    tracker::{Options, Sources, Target, Tracker},
};
use crate::event::{Class, Event};

/// Kinds of events that could not be decoded, which are told apart.
const MOST_KINDS: usize = 64;

/// What a live session is to have enabled.
const SOURCES: Sources = Sources {
    switches: true,
    regions: true,
    faults: false,
    hard_faults: false,
};

/// A session's events on their way.
#[derive(Debug)]
pub struct Live {
    tracker: Tracker,
    /// Events that could not be decoded since they were last taken, by why.
    undecoded: BTreeMap<String, u64>,
    /// Events that were lost, and how many of them were told besides the gaps that the tracker has noticed.
    lost: u64,
    told: u64,
}

impl Live {
    /// Follows what the target names.
    pub fn new(target: Target, options: Options) -> Self {
        Self {
            tracker: Tracker::new(target, options, SOURCES),
            undecoded: BTreeMap::new(),
            lost: 0,
            told: 0,
        }
    }

    /// Who is followed.
    pub fn tracker(&mut self) -> &mut Tracker {
        &mut self.tracker
    }

    /// Takes the events of a block that happened before a moment; the others are appended to `later`. `created` tells when a
    /// process began that was there when the session did.
    pub fn take(
        &mut self,
        block: &Block,
        until_ns: u64,
        later: &mut Block,
        mut created: impl FnMut(u32) -> Option<u64>,
        out: &mut Vec<Event>,
    ) {
        for arrival in block.events() {
            if arrival.at.ts < until_ns {
                self.event(&arrival, &mut created, out);
            } else {
                later.push(&arrival);
            }
        }
    }

    fn event(
        &mut self,
        arrival: &Arrival,
        created: &mut impl FnMut(u32) -> Option<u64>,
        out: &mut Vec<Event>,
    ) {
        let payload = match decode(arrival.id, arrival.pointer_size, arrival.payload) {
            Ok(payload) => payload,
            Err(Undecoded::Foreign) => return,
            Err(undecoded) => return self.note(&undecoded),
        };
        let mut at = arrival.at;
        match payload {
            // How many, the session's counters tell.
            Payload::Lost(_) => return self.tracker.forget_waits(at.ts),
            Payload::Process(Change::ThereAtStart, process) => {
                at.ts = created(process.pid).unwrap_or(at.ts);
            }
            _ => {}
        }
        self.tracker.take(&at, &payload, out);
    }

    fn note(&mut self, undecoded: &Undecoded) {
        let why = undecoded.to_string();
        if self.undecoded.len() < MOST_KINDS || self.undecoded.contains_key(&why) {
            *self.undecoded.entry(why).or_default() += 1;
        }
    }

    /// Events that could not be decoded since the last call, by why.
    pub fn take_undecoded(&mut self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.undecoded)
    }

    /// Events were lost until a moment: no wait that began before is known any more.
    pub fn lose(&mut self, ts: u64, count: u64, out: &mut Vec<Event>) {
        if count == 0 {
            return;
        }
        self.tracker.forget_waits(ts);
        self.lost += count;
        // A gap that was noticed in the events themselves is told already.
        let untold = self
            .lost
            .saturating_sub(self.told + self.tracker.breaks_told());
        if untold > 0 {
            self.told += untold;
            out.push(Event::Loss {
                ts,
                class: Class::Trace,
                count: untold,
            });
        }
    }

    /// Ends a window.
    pub fn end_window(&mut self, ts: u64, period_ns: u64, out: &mut Vec<Event>) {
        self.tracker.end_window(ts, period_ns, out);
    }
}
