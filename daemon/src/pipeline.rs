//! From events to records: the way from a source to the sinks, the same live and on replay.

use std::collections::{BTreeMap, HashMap};

use slowburn_probes::event::{Call, Event, Origin, Task, name_of};

use crate::{
    detect::Detector,
    incident::Incidents,
    meter::{Meter, Turn, process_id, thread_id},
    stream::{
        Culprit, Delay, Flag, Incident, Loss, LossClass, Mapping, Moment, OwnSummary, Record,
        Rival, TargetEvent, TargetEventKind, Thread, ThreadEventKind, Window,
    },
};

/// Turns events into records, in order.
pub struct Pipeline {
    services: Vec<Service>,
    names: Vec<String>,
    /// Are single mappings, threads and slow waits records?
    single_events: bool,
    meter: Meter,
    detector: Detector,
    flags: Vec<Flag>,
    incidents: Incidents,
    concluded: Vec<Incident>,
    lost: BTreeMap<LossClass, u64>,
}

/// What the pipeline knows of a service.
struct Service {
    /// Processes alive.
    live: u64,
    /// Has it been seen alive?
    seen: bool,
}

impl Pipeline {
    /// For services with these names, in the order of their indices.
    pub fn new(services: &[String], single_events: bool, detector: Detector) -> Self {
        let mut pipeline = Self {
            services: Vec::new(),
            names: Vec::new(),
            single_events,
            meter: Meter::default(),
            detector,
            flags: Vec::new(),
            incidents: Incidents::default(),
            concluded: Vec::new(),
            lost: BTreeMap::new(),
        };
        pipeline.set_services(services);
        pipeline
    }

    /// Names the services, for a target that was waited for.
    pub fn set_services(&mut self, names: &[String]) {
        self.services = names
            .iter()
            .map(|_| Service {
                live: 0,
                seen: false,
            })
            .collect();
        self.names = names.to_vec();
    }

    /// Has any service a live process?
    pub fn any_alive(&self) -> bool {
        self.services.iter().any(|s| s.live > 0)
    }

    /// Live processes of all services.
    pub fn live_processes(&self) -> u64 {
        self.services.iter().map(|s| s.live).sum()
    }

    /// Flags raised now.
    pub fn raised(&self) -> usize {
        self.detector.raised()
    }

    /// What was lost so far, by class.
    pub fn lost(&self) -> &BTreeMap<LossClass, u64> {
        &self.lost
    }

    /// Takes an event and passes on the records that come of it.
    pub fn event(&mut self, event: &Event, out: &mut impl FnMut(Record)) {
        self.meter.add(event);
        match event {
            Event::TaskStart {
                ts,
                task,
                origin,
                creator,
            } => self.task_start(*ts, task, *origin, *creator, out),
            Event::TaskExit {
                ts,
                task,
                followed_ns,
                alive,
            } => self.task_exit(*ts, task, *followed_ns, *alive, out),
            Event::Exec { ts, task } => {
                let event = self.target(*ts, TargetEventKind::Executed, task);
                self.tell_target(event, out);
            }
            Event::Mapping { .. } | Event::Delay { .. } => {
                if self.single_events {
                    self.single(event, out);
                }
            }
            Event::Loss { ts, class, count } => self.lose(*ts, (*class).into(), *count, out),
            Event::WindowEnd { ts, period_ns } => self.end_window(*ts, *period_ns, out),
            Event::StrangerExec { .. }
            | Event::Sample { .. }
            | Event::Process { .. }
            | Event::Gap { .. } => {}
        }
    }

    /// What slowburn itself used in the current window.
    pub fn set_own(&mut self, own: OwnSummary) {
        self.meter.set_own(own);
    }

    /// Behind whom the processes with these ids waited in the current window.
    pub fn set_rivals(&mut self, rivals: HashMap<u32, Vec<Rival>>) {
        self.meter.set_rivals(rivals);
    }

    /// Takes a window of a recording, as [`Event::WindowEnd`] makes them live, and passes on what the detector says to it.
    pub fn judge(&mut self, window: &Window, out: &mut impl FnMut(Record)) {
        if !self.is_of_the_same_period(window) {
            self.settle(out);
        }
        self.incidents.window(window);
        self.detector.window(window, &mut self.flags);
        tell(
            &mut self.detector,
            &mut self.flags,
            &mut self.incidents,
            out,
        );
        self.tell_refused(window.ts.0, out);
    }

    /// Does it belong to the windows that came last?
    pub fn is_of_the_same_period(&self, window: &Window) -> bool {
        window.ts == self.incidents.ts()
    }

    /// Takes what a recording says happened to a service.
    pub fn hear(&mut self, event: &TargetEvent) {
        self.incidents.target(event);
    }

    /// All windows of a period are in: passes on what they come to.
    pub fn settle(&mut self, out: &mut impl FnMut(Record)) {
        self.incidents.settle(&mut self.concluded);
        for incident in self.concluded.drain(..) {
            out(Record::Incident(Box::new(incident)));
        }
    }

    /// Findings that the policy does not want flagged, by the rule that they were ignored by, since the last call.
    pub fn take_ignored(&mut self) -> BTreeMap<String, u64> {
        self.detector.take_ignored_counts()
    }

    /// Tells for how many values the detector had no room.
    fn tell_refused(&mut self, ts: u64, out: &mut impl FnMut(Record)) {
        let refused = self.detector.take_refused() + self.incidents.take_refused();
        if refused > 0 {
            self.lose(ts, LossClass::Series, refused, out);
        }
    }

    /// Counts and passes on a loss.
    pub fn lose(&mut self, ts: u64, class: LossClass, count: u64, out: &mut impl FnMut(Record)) {
        *self.lost.entry(class).or_default() += count;
        out(Record::Loss(Loss {
            ts: Moment(ts),
            class,
            count,
        }));
    }

    fn end_window(&mut self, ts: u64, period_ns: u64, out: &mut impl FnMut(Record)) {
        let (detector, flags, incidents) =
            (&mut self.detector, &mut self.flags, &mut self.incidents);
        self.meter.end_window(ts, period_ns, &self.names, |window| {
            incidents.window(&window);
            detector.window(&window, flags);
            out(Record::Window(Box::new(window)));
            tell(detector, flags, incidents, out);
        });
        // Without any window there is nothing to conclude, as on replay.
        if self.incidents.ts().0 == ts {
            self.settle(out);
        }
        self.tell_refused(ts, out);
        let refused = self.meter.take_refused();
        if refused > 0 {
            self.lose(ts, LossClass::Window, refused, out);
        }
    }

    fn task_start(
        &mut self,
        ts: u64,
        task: &Task,
        origin: Origin,
        creator: Option<(u32, u32)>,
        out: &mut impl FnMut(Record),
    ) {
        if let Some(creator) = creator {
            self.meter.created(task.process, creator);
        }
        match self.meter.begin(task, origin) {
            Turn::ProcessBegins => {
                self.service_begins(ts, task, out);
                let kind = if origin == Origin::Found {
                    TargetEventKind::Found
                } else {
                    TargetEventKind::Started
                };
                let mut event = self.target(ts, kind, task);
                event.detail =
                    creator.map(|(pid, tid)| format!("created by thread {tid} of process {pid}"));
                self.tell_target(event, out);
            }
            // Threads that ran already are in the windows' counts.
            _ if origin == Origin::Found || !self.single_events => {}
            _ => out(Record::Thread(self.thread(
                ts,
                ThreadEventKind::Started,
                task,
                creator,
                None,
            ))),
        }
    }

    fn task_exit(
        &mut self,
        ts: u64,
        task: &Task,
        followed_ns: u64,
        alive: bool,
        out: &mut impl FnMut(Record),
    ) {
        let turn = self.meter.end(task);
        // The last thread of a process that has outlived its first one is a thread of its own.
        let is_thread = turn != Turn::ProcessEnds || task.thread.id != task.process.id;
        if is_thread && self.single_events && !alive {
            out(Record::Thread(self.thread(
                ts,
                ThreadEventKind::Exited,
                task,
                None,
                Some(followed_ns),
            )));
        }
        if turn != Turn::ProcessEnds {
            return;
        }
        let kind = if alive {
            TargetEventKind::Left
        } else {
            TargetEventKind::Exited
        };
        let event = self.target(ts, kind, task);
        self.tell_target(event, out);
        let Some(service) = self.services.get_mut(task.service as usize) else {
            return;
        };
        service.live = service.live.saturating_sub(1);
        if service.live == 0 {
            let event = self.service_event(ts, TargetEventKind::Gone, task.service);
            self.tell_target(event, out);
        }
    }

    fn service_begins(&mut self, ts: u64, task: &Task, out: &mut impl FnMut(Record)) {
        let Some(service) = self.services.get_mut(task.service as usize) else {
            return;
        };
        service.live += 1;
        let returned = service.live == 1 && service.seen;
        service.seen = true;
        if returned {
            let event = self.service_event(ts, TargetEventKind::Returned, task.service);
            self.tell_target(event, out);
        }
    }

    fn tell_target(&mut self, event: TargetEvent, out: &mut impl FnMut(Record)) {
        self.incidents.target(&event);
        out(Record::Target(event));
    }

    /// A record about a service as a whole.
    pub fn service_event(&self, ts: u64, event: TargetEventKind, service: u32) -> TargetEvent {
        TargetEvent {
            ts: Moment(ts),
            event,
            service: self
                .names
                .get(service as usize)
                .cloned()
                .unwrap_or_default(),
            pid: None,
            created: None,
            name: None,
            detail: None,
        }
    }

    fn target(&self, ts: u64, event: TargetEventKind, task: &Task) -> TargetEvent {
        TargetEvent {
            pid: Some(task.process.id),
            created: Some(Moment(task.process.start_ns)),
            name: Some(task.name().into_owned()),
            ..self.service_event(ts, event, task.service)
        }
    }

    fn thread(
        &self,
        ts: u64,
        event: ThreadEventKind,
        task: &Task,
        creator: Option<(u32, u32)>,
        followed_ns: Option<u64>,
    ) -> Thread {
        Thread {
            ts: Moment(ts),
            event,
            process: process_id(task.process, task.service, &self.names),
            thread: thread_id(task),
            creator: creator.map(|(_, tid)| tid),
            followed_ns,
        }
    }

    fn single(&self, event: &Event, out: &mut impl FnMut(Record)) {
        match event {
            Event::Mapping {
                ts,
                task,
                call,
                address,
                length,
                detail,
                flags,
                reserved_change,
                committed_change,
                one_in,
            } => {
                let has_detail = !matches!(call, Call::Unmap | Call::Brk);
                out(Record::Mapping(Mapping {
                    ts: Moment(*ts),
                    process: process_id(task.process, task.service, &self.names),
                    thread: thread_id(task),
                    call: (*call).into(),
                    address: format!("{address:#x}"),
                    length_bytes: *length,
                    reserved_change_bytes: *reserved_change,
                    committed_change_bytes: *committed_change,
                    detail: has_detail.then_some(*detail),
                    flags: (*call == Call::Map).then_some(*flags),
                    sampled: (*one_in > 1).then_some(*one_in),
                }));
            }
            Event::Delay {
                ts,
                task,
                wait_ns,
                cpu,
                culprit,
                culprit_name,
                culprit_followed,
            } => {
                out(Record::Delay(Delay {
                    ts: Moment(*ts),
                    process: process_id(task.process, task.service, &self.names),
                    thread: thread_id(task),
                    wait_ns: *wait_ns,
                    cpu: *cpu,
                    culprit: Culprit {
                        pid: culprit.0,
                        tid: culprit.1,
                        name: name_of(culprit_name).into_owned(),
                        watched: *culprit_followed,
                    },
                }));
            }
            _ => {}
        }
    }
}

/// What the detector says to a window.
fn tell(
    detector: &mut Detector,
    flags: &mut Vec<Flag>,
    incidents: &mut Incidents,
    out: &mut impl FnMut(Record),
) {
    for flag in flags.drain(..) {
        incidents.flag(&flag);
        out(Record::Flag(Box::new(flag)));
    }
    for ignored in detector.take_ignored() {
        out(Record::Ignored(Box::new(ignored)));
    }
}

#[cfg(test)]
mod tests;
