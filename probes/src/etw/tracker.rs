//! From events of the Windows kernel to those of slowburn: who is followed, how long they waited, what they did to their memory.
//!
//! A pure function of the events: it reads no clock and does no I/O. The same for recordings and live sessions.

use std::{collections::HashMap, mem};

use slowburn_common::{
    COMM_LEN, Comm,
    histogram::bucket,
    task::{LONG_WAIT_NS, LongWaits, MAX_RIVALS, call},
};

use super::{
    index::MOST_CPUS,
    payload::{Change, Counters, Payload, Process, Region, Switch, Thread},
    regions::Regions,
    survey::{ById, MOST_TASKS, Survey},
    value::{Ansi, Utf16},
    waits::{Ended, Left, Sched},
};
use crate::event::{
    Call, Class, Delays, Event, Life, MemoryFlow, Origin, ProcessAccount, Rival, Standing, Task,
};

/// No address space has room for more: what is larger is damaged.
const MOST_REGION: u64 = 1 << 57;

/// Which tasks are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Processes with these ids.
    Pids(Vec<u32>),
    /// Processes whose program has this name, with or without `.exe`.
    Image(String),
    /// The threads of one service, in a process that it shares with others.
    Tagged {
        /// The process.
        pid: u32,
        /// Mark of the threads.
        tag: u32,
    },
}

/// What is asked for besides windows.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Waits of at least this are events, in nanoseconds.
    pub slow_ns: u64,
    /// Changes of at least this are events, in bytes.
    pub min_mapping_bytes: u64,
}

/// Where and when an event happened.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Nanoseconds since the Unix epoch.
    pub ts: u64,
    /// Processor.
    pub cpu: u16,
    /// Process id and thread id of who caused it, if it says.
    pub thread: Option<(u32, u32)>,
}

/// A process of the host.
#[derive(Debug)]
struct HostProcess {
    life: Life,
    parent: u32,
    name: Comm,
    /// What is counted of it, if it is followed.
    followed: Option<Box<FollowedProcess>>,
    /// It is followed as a whole, not only threads of it.
    is_whole: bool,
}

#[derive(Debug, Default)]
struct FollowedProcess {
    /// Threads of it that are followed.
    threads: u32,
    reserved: Regions,
    committed: Regions,
    /// Changes by whoever could not be told.
    unseen: MemoryFlow,
    cpu_ns: u64,
    minor_faults: u64,
    major_faults: u64,
    counters: Option<Counters>,
    /// What the host says of it, where it can be asked.
    account: Option<ProcessAccount>,
}

/// A thread of the host.
#[derive(Clone, Copy, Debug)]
struct HostThread {
    pid: u32,
    tag: u32,
    name: Comm,
}

/// A thread that is followed.
#[derive(Debug)]
struct Followed {
    task: Task,
    begun_ns: u64,
    sched: Sched,
    delays: Delays,
    memory: MemoryFlow,
}

/// What is recorded, and what not.
#[expect(clippy::struct_excessive_bools, reason = "each stands alone")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Switches.
    pub switches: bool,
    /// Allocations.
    pub regions: bool,
    /// Page faults that need no input.
    pub faults: bool,
    /// Those that do.
    pub hard_faults: bool,
}

/// Follows tasks through events.
#[derive(Debug)]
pub struct Tracker {
    target: Target,
    options: Options,
    sources: Sources,
    processes: ById<HostProcess>,
    threads: ById<HostThread>,
    followed: ById<Box<Followed>>,
    /// Thread on each processor, if it is known.
    cpus: Vec<Option<u32>>,
    /// Waits that began before this moment may have ended and begun again unseen.
    spoilt_until: u64,
    rivals: HashMap<(u32, u32), (LongWaits, Comm)>,
    /// Times that a loss was noticed, since the last window.
    breaks: u64,
    breaks_told: u64,
    negative: u64,
    refused: u64,
}

impl Tracker {
    /// Follows what the target names.
    pub fn new(target: Target, options: Options, sources: Sources) -> Self {
        Self {
            target,
            options,
            sources,
            processes: ById::default(),
            threads: ById::default(),
            followed: ById::default(),
            cpus: Vec::new(),
            spoilt_until: 0,
            rivals: HashMap::new(),
            breaks: 0,
            breaks_told: 0,
            negative: 0,
            refused: 0,
        }
    }

    /// What was there when a recording began, as its survey has found out.
    pub fn begin(&mut self, survey: &Survey, out: &mut Vec<Event>) {
        let ts = survey.start_ns;
        let mut processes: Vec<_> = survey
            .processes
            .iter()
            .filter(|(_, row)| row.is_initial)
            .collect();
        processes.sort_unstable_by_key(|(pid, _)| **pid);
        for (pid, row) in &processes {
            let image = Ansi(row.image.as_bytes());
            self.process(
                ts,
                &Process {
                    pid: **pid,
                    parent: row.parent,
                    image,
                    ..Process::default()
                },
                None,
            );
        }
        self.adopt_descendants();
        let mut threads: Vec<_> = survey
            .threads
            .iter()
            .filter(|(_, row)| row.is_initial)
            .collect();
        threads.sort_unstable_by_key(|(tid, _)| **tid);
        for (tid, row) in threads {
            let name: Vec<u8> = row.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let thread = Thread {
                pid: row.pid,
                tid: *tid,
                service_tag: row.tag,
                name: Utf16(&name),
            };
            self.thread(ts, &thread, None, Origin::Found, out);
        }
    }

    /// A process is there. Processes come before their threads.
    fn process(&mut self, ts: u64, process: &Process, creator: Option<(u32, u32)>) {
        if self.processes.len() >= MOST_TASKS && !self.processes.contains_key(&process.pid) {
            self.refused += 1;
            return;
        }
        let parent = self.processes.get(&process.parent);
        let parent = parent.filter(|_| process.parent != process.pid);
        // The id of a parent that is gone may be another's, of one that began later.
        let inherits = parent.is_some_and(|parent| parent.is_whole && parent.life.start_ns <= ts)
            || creator.is_some_and(|(_, tid)| self.followed.contains_key(&tid));
        let is_whole = inherits || self.is_meant(process);
        let name = image_name(process.image.0);
        self.processes.insert(
            process.pid,
            HostProcess {
                life: Life {
                    id: process.pid,
                    start_ns: ts,
                },
                parent: process.parent,
                name,
                followed: None,
                is_whole,
            },
        );
    }

    fn is_meant(&self, process: &Process) -> bool {
        match &self.target {
            Target::Pids(pids) => pids.contains(&process.pid),
            Target::Image(name) => is_image(process.image.0, name),
            Target::Tagged { .. } => false,
        }
    }

    /// A thread is there.
    fn thread(
        &mut self,
        ts: u64,
        thread: &Thread,
        creator: Option<(u32, u32)>,
        origin: Origin,
        out: &mut Vec<Event>,
    ) {
        if self.threads.len() >= MOST_TASKS && !self.threads.contains_key(&thread.tid) {
            self.refused += 1;
            return;
        }
        let Some(process) = self.process_of(ts, thread.pid) else {
            return;
        };
        let name = if thread.name.is_empty() {
            process.name
        } else {
            comm(thread.name)
        };
        let (life, image, is_whole) = (process.life, process.name, process.is_whole);
        self.threads.insert(
            thread.tid,
            HostThread {
                pid: thread.pid,
                tag: thread.service_tag,
                name,
            },
        );
        let is_tagged = self.target
            == Target::Tagged {
                pid: thread.pid,
                tag: thread.service_tag,
            };
        if !is_whole && !is_tagged {
            return;
        }
        let life_of_thread = Life {
            id: thread.tid,
            start_ns: ts,
        };
        self.follow(
            ts,
            life_of_thread,
            (life, image, name),
            creator,
            origin,
            out,
        );
    }

    /// Follows a thread of a process that is known.
    fn follow(
        &mut self,
        ts: u64,
        thread: Life,
        (process, image, name): (Life, Comm, Comm),
        creator: Option<(u32, u32)>,
        origin: Origin,
        out: &mut Vec<Event>,
    ) {
        let task = Task {
            thread,
            process,
            service: 0,
            name,
        };
        let is_new = origin != Origin::Found;
        let sched = if is_new {
            Sched::New {
                since: ts,
                is_ready: false,
            }
        } else {
            self.sched_of(thread.id, ts)
        };
        let followed = Followed {
            task,
            begun_ns: ts,
            sched,
            delays: Delays::default(),
            memory: MemoryFlow::default(),
        };
        let Some(process) = self.processes.get_mut(&process.id) else {
            return;
        };
        let counted = process.followed.get_or_insert_default();
        // A process is told under the name of its program, whatever its first thread is called.
        let is_first = counted.threads == 0;
        counted.threads += 1;
        self.followed.insert(thread.id, Box::new(followed));
        let origin = if is_new && is_first {
            Origin::Fork
        } else {
            origin
        };
        let task = if is_first {
            Task {
                name: image,
                ..task
            }
        } else {
            task
        };
        out.push(Event::TaskStart {
            ts,
            task,
            origin,
            creator,
        });
    }

    /// One that was there already may be on a processor now.
    fn sched_of(&self, tid: u32, ts: u64) -> Sched {
        let cpu = self.cpus.iter().position(|on| *on == Some(tid));
        cpu.map_or(Sched::Unknown, |cpu| Sched::On {
            cpu: cpu as u16,
            since: ts,
            is_ready: false,
        })
    }

    /// The process of a thread. One of which nothing was told was there all the time.
    fn process_of(&mut self, ts: u64, pid: u32) -> Option<&mut HostProcess> {
        if !self.processes.contains_key(&pid) {
            self.process(
                ts,
                &Process {
                    pid,
                    ..Process::default()
                },
                None,
            );
        }
        self.processes.get_mut(&pid)
    }

    /// Takes an event, and adds what comes of it.
    pub fn take(&mut self, at: &At, payload: &Payload, out: &mut Vec<Event>) {
        match payload {
            Payload::Switch(switch) => self.switch(at, switch, out),
            Payload::Ready(ready) => {
                if let Some(thread) = self.followed.get_mut(&ready.tid) {
                    thread.sched.ready(at.ts);
                }
            }
            Payload::Thread(change, thread) => self.thread_changes(at, *change, thread, out),
            Payload::ThreadName(named) => self.rename(named.tid, named.name),
            Payload::Process(change, process) => self.process_changes(at, *change, process, out),
            Payload::Allocated(region) | Payload::Freed(region) | Payload::Rundown(region)
                if region.bytes > MOST_REGION =>
            {
                self.breaks += 1;
            }
            Payload::Allocated(region) => self.allocated(at, region, out),
            Payload::Freed(region) => self.freed(at, region, out),
            Payload::Rundown(region) => {
                if let Some(process) = self.counted(region.pid) {
                    process.reserved.add(region.base, region.bytes);
                    // Where in it, nobody tells.
                    process
                        .committed
                        .add(region.base, region.committed.min(region.bytes));
                }
            }
            Payload::Fault(_) => {
                if let Some(process) = self.running(at).and_then(|tid| self.counted_of_thread(tid))
                {
                    process.minor_faults += 1;
                }
            }
            Payload::HardFault(fault) => {
                if let Some(process) = self.counted_of_thread(fault.tid) {
                    process.major_faults += 1;
                }
            }
            Payload::Counters(counters) => {
                if let Some(process) = self.counted(counters.pid) {
                    process.counters = Some(*counters);
                }
            }
            _ => {}
        }
    }

    fn process_changes(
        &mut self,
        at: &At,
        change: Change,
        process: &Process,
        out: &mut Vec<Event>,
    ) {
        match change {
            Change::Start => {
                self.end_process(at.ts, process.pid, out);
                self.process(at.ts, process, at.thread.or(Some((process.parent, 0))));
            }
            Change::End => self.end_process(at.ts, process.pid, out),
            Change::ThereAtStart | Change::ThereAtEnd => {
                if !self.processes.contains_key(&process.pid) {
                    self.process(at.ts, process, None);
                }
            }
            Change::Defunct => {}
        }
    }

    fn thread_changes(&mut self, at: &At, change: Change, thread: &Thread, out: &mut Vec<Event>) {
        match change {
            Change::Start => {
                self.end_thread(at.ts, thread.tid, out);
                self.thread(at.ts, thread, at.thread, Origin::Thread, out);
            }
            Change::End => self.end_thread(at.ts, thread.tid, out),
            Change::ThereAtStart | Change::ThereAtEnd => {
                if !self.threads.contains_key(&thread.tid) {
                    self.thread(at.ts, thread, None, Origin::Found, out);
                }
            }
            Change::Defunct => {}
        }
    }

    fn rename(&mut self, tid: u32, name: Utf16) {
        let name = comm(name);
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.name = name;
        }
        if let Some(thread) = self.followed.get_mut(&tid) {
            thread.task.name = name;
        }
    }

    /// What is left of a process when it ends, or when another one has got its id.
    fn end_process(&mut self, ts: u64, pid: u32, out: &mut Vec<Event>) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        // Its threads have been told to end before, unless that was lost.
        if process
            .followed
            .as_ref()
            .is_some_and(|followed| followed.threads > 0)
        {
            let left = self
                .followed
                .iter()
                .filter(|(_, thread)| thread.task.process.id == pid);
            let mut left: Vec<u32> = left.map(|(tid, _)| *tid).collect();
            left.sort_unstable();
            for tid in left {
                self.end_thread(ts, tid, out);
            }
        }
        self.processes.remove(&pid);
    }

    fn end_thread(&mut self, ts: u64, tid: u32, out: &mut Vec<Event>) {
        self.threads.remove(&tid);
        let Some(mut thread) = self.followed.remove(&tid) else {
            return;
        };
        if let (Sched::On { since, .. }, Some(process)) =
            (thread.sched, self.counted(thread.task.process.id))
        {
            process.cpu_ns = process.cpu_ns.saturating_add(ts.saturating_sub(since));
        }
        out.extend(thread.sample());
        let mut is_last = false;
        if let Some(process) = self.counted(thread.task.process.id) {
            process.threads = process.threads.saturating_sub(1);
            is_last = process.threads == 0;
        }
        if is_last {
            out.extend(self.account(thread.task.process.id));
        }
        out.push(Event::TaskExit {
            ts,
            task: thread.task,
            followed_ns: ts.saturating_sub(thread.begun_ns),
            alive: false,
        });
    }

    fn counted(&mut self, pid: u32) -> Option<&mut FollowedProcess> {
        self.processes.get_mut(&pid)?.followed.as_deref_mut()
    }

    fn counted_of_thread(&mut self, tid: u32) -> Option<&mut FollowedProcess> {
        let pid = self.followed.get(&tid)?.task.process.id;
        self.counted(pid)
    }

    /// Thread that caused an event: the one that it names, or else the one on its processor.
    fn running(&self, at: &At) -> Option<u32> {
        let named = at.thread.map(|(_, tid)| tid).filter(|tid| *tid != u32::MAX);
        named.or_else(|| self.cpus.get(usize::from(at.cpu)).copied().flatten())
    }

    /// Events were lost: waits that had begun before may not be what they seem.
    pub fn spoil(&mut self, ts: u64) {
        self.breaks += 1;
        self.spoilt_until = self.spoilt_until.max(ts);
    }

    /// The same, where it was told how many.
    pub fn forget_waits(&mut self, ts: u64) {
        self.spoilt_until = self.spoilt_until.max(ts);
    }

    fn switch(&mut self, at: &At, switch: &Switch, out: &mut Vec<Event>) {
        if at.cpu >= MOST_CPUS {
            return;
        }
        let cpu = usize::from(at.cpu);
        if self.cpus.len() <= cpu {
            self.cpus.resize(cpu + 1, None);
        }
        let before = self.cpus[cpu].replace(switch.new_tid);
        if let Some(before) = before.filter(|before| *before != switch.old_tid) {
            self.spoil(at.ts);
            // Nobody saw it leave.
            if let Some(thread) = self.followed.get_mut(&before) {
                thread.sched = Sched::Unknown;
            }
        }
        if let Some(thread) = self.followed.get_mut(&switch.old_tid) {
            let pid = thread.task.process.id;
            match thread.sched.switch_out(at.ts, at.cpu, switch.old_state) {
                Left::Ran { since } => {
                    if let Some(process) = self.counted(pid) {
                        let ran = at.ts.saturating_sub(since);
                        process.cpu_ns = process.cpu_ns.saturating_add(ran);
                    }
                }
                Left::Untold => {}
                Left::Impossible => {
                    thread.delays.unknown += 1;
                    self.spoil(at.ts);
                }
            }
        }
        if self.followed.contains_key(&switch.new_tid) {
            self.switch_in(at, switch, out);
        }
    }

    fn switch_in(&mut self, at: &At, switch: &Switch, out: &mut Vec<Event>) {
        let Some(thread) = self.followed.get_mut(&switch.new_tid) else {
            return;
        };
        let (begin, moved) = match thread.sched.switch_in(at.ts, at.cpu) {
            Ended::Since { begin, moved } if begin >= self.spoilt_until => (begin, moved),
            Ended::Since { .. } | Ended::Unknown => {
                thread.delays.unknown += 1;
                return;
            }
            Ended::Impossible => {
                thread.delays.unknown += 1;
                self.spoil(at.ts);
                return;
            }
        };
        let Some(wait_ns) = at.ts.checked_sub(begin) else {
            self.negative += 1;
            return;
        };
        book_wait(&mut thread.delays, wait_ns);
        thread.delays.moved += u64::from(moved);
        let task = thread.task;
        if wait_ns >= LONG_WAIT_NS.min(self.options.slow_ns) {
            self.long_wait(at, wait_ns, &task, switch.old_tid, out);
        }
    }

    /// Who had the processor until then.
    fn long_wait(
        &mut self,
        at: &At,
        wait_ns: u64,
        task: &Task,
        culprit: u32,
        out: &mut Vec<Event>,
    ) {
        let idle = HostThread {
            pid: 0,
            tag: 0,
            name: Comm::default(),
        };
        let found = self.threads.get(&culprit).copied().filter(|_| culprit != 0);
        let HostThread { pid, name, .. } = found.unwrap_or(idle);
        let is_idle = culprit == 0 || (found.is_some() && pid == 0);
        if wait_ns >= LONG_WAIT_NS {
            self.book_behind(wait_ns, task, pid, name, is_idle);
        }
        if wait_ns >= self.options.slow_ns {
            out.push(Event::Delay {
                ts: at.ts,
                task: *task,
                wait_ns,
                cpu: u32::from(at.cpu),
                culprit: if is_idle { (0, 0) } else { (pid, culprit) },
                culprit_name: name,
                culprit_followed: self.followed.contains_key(&culprit),
            });
        }
    }

    fn book_behind(&mut self, wait_ns: u64, task: &Task, pid: u32, name: Comm, is_idle: bool) {
        let Some(thread) = self.followed.get_mut(&task.thread.id) else {
            return;
        };
        let behind = &mut thread.delays.behind;
        let is_own = pid == task.process.id;
        let waits = match (is_idle, is_own) {
            (true, _) => &mut behind.idle,
            (_, true) => &mut behind.own,
            _ => &mut behind.others,
        };
        waits.count += 1;
        waits.sum_ns = waits.sum_ns.saturating_add(wait_ns);
        if is_idle || is_own {
            return;
        }
        let key = (task.process.id, pid);
        if self.rivals.len() < MAX_RIVALS as usize || self.rivals.contains_key(&key) {
            let (waits, last) = self.rivals.entry(key).or_default();
            waits.count += 1;
            waits.sum_ns = waits.sum_ns.saturating_add(wait_ns);
            *last = name;
        }
    }

    fn allocated(&mut self, at: &At, region: &Region, out: &mut Vec<Event>) {
        let Some(process) = self.counted(region.pid) else {
            return;
        };
        let mut flow = MemoryFlow::default();
        if region.flags & Region::RESERVE != 0 {
            flow.reserved = region.bytes;
            process.reserved.add(region.base, region.bytes);
        }
        if region.flags & Region::COMMIT != 0 {
            flow.committed = process.committed.add(region.base, region.bytes);
        }
        self.book(at, region, Call::Map, flow, out);
    }

    fn freed(&mut self, at: &At, region: &Region, out: &mut Vec<Event>) {
        let Some(process) = self.counted(region.pid) else {
            return;
        };
        let is_released = region.flags & Region::RELEASE != 0;
        let flow = MemoryFlow {
            decommitted: process.committed.remove(region.base, region.bytes),
            released: if is_released { region.bytes } else { 0 },
            ..MemoryFlow::default()
        };
        if is_released {
            process.reserved.remove(region.base, region.bytes);
        }
        let call = if is_released {
            Call::Unmap
        } else {
            Call::Advise
        };
        self.book(at, region, call, flow, out);
    }

    /// Books a change on the thread that made it, or else on the process.
    fn book(
        &mut self,
        at: &At,
        region: &Region,
        call: Call,
        mut flow: MemoryFlow,
        out: &mut Vec<Event>,
    ) {
        flow.calls[number(call)] = 1;
        let thread = self.running(at).and_then(|tid| self.followed.get_mut(&tid));
        let Some(thread) = thread.filter(|thread| thread.task.process.id == region.pid) else {
            // In a process of several services, what others do is none of this one's.
            if let Some(process) = self
                .processes
                .get_mut(&region.pid)
                .filter(|process| process.is_whole)
                && let Some(counted) = &mut process.followed
            {
                counted.unseen.add(&flow);
            }
            return;
        };
        thread.memory.add(&flow);
        if region.bytes >= self.options.min_mapping_bytes {
            out.push(Event::Mapping {
                ts: at.ts,
                task: thread.task,
                call,
                address: region.base,
                length: region.bytes,
                detail: region.flags,
                flags: region.flags,
                reserved_change: flow
                    .reserved
                    .cast_signed()
                    .saturating_sub_unsigned(flow.released),
                committed_change: flow
                    .committed
                    .cast_signed()
                    .saturating_sub_unsigned(flow.decommitted),
                one_in: 1,
            });
        }
    }

    /// Ends a window: what each followed task did in it.
    pub fn end_window(&mut self, ts: u64, period_ns: u64, out: &mut Vec<Event>) {
        let mut tids: Vec<u32> = self.followed.keys().copied().collect();
        tids.sort_unstable();
        let mut pids = Vec::new();
        for tid in tids {
            let Some(thread) = self.followed.get_mut(&tid) else {
                continue;
            };
            let pid = thread.task.process.id;
            pids.push(pid);
            out.extend(thread.sample());
            if let Sched::On { since, .. } = &mut thread.sched {
                let ran = ts.saturating_sub(*since);
                *since = ts.max(*since);
                if let Some(process) = self.counted(pid) {
                    process.cpu_ns = process.cpu_ns.saturating_add(ran);
                }
            }
        }
        pids.sort_unstable();
        pids.dedup();
        for pid in pids {
            out.extend(self.account(pid));
        }
        self.tell_losses(ts, out);
        let none = |is_recorded: bool| if is_recorded { 0 } else { period_ns };
        let (waits_ns, calls_ns) = (none(self.sources.switches), none(self.sources.regions));
        if waits_ns > 0 || calls_ns > 0 {
            out.push(Event::Gap {
                waits_ns,
                calls_ns,
                one_in: 1,
                accounted: false,
            });
        }
        out.push(Event::WindowEnd { ts, period_ns });
    }

    fn tell_losses(&mut self, ts: u64, out: &mut Vec<Event>) {
        let breaks = mem::take(&mut self.breaks);
        self.breaks_told += breaks;
        let all = [
            (Class::Trace, breaks),
            (Class::NegativeWait, mem::take(&mut self.negative)),
            (Class::Task, mem::take(&mut self.refused)),
        ];
        let all = all.into_iter().filter(|(_, count)| *count > 0);
        out.extend(all.map(|(class, count)| Event::Loss { ts, class, count }));
    }

    /// What is known of a process as a whole.
    fn account(&mut self, pid: u32) -> Option<Event> {
        let sources = self.sources;
        let process = self.processes.get_mut(&pid)?;
        let counted = process.followed.as_deref_mut()?;
        self.refused += counted.reserved.take_refused() + counted.committed.take_refused();
        let only = |is_recorded: bool, value: &mut u64| is_recorded.then(|| mem::take(value));
        let recorded = counted.counters.take().map(|counters| ProcessAccount {
            rss_bytes: Some(counters.working_set_bytes),
            vm_bytes: Some(counters.virtual_bytes),
            data_bytes: Some(counters.private_bytes),
            fds: Some(u64::from(counters.handles)),
            ..ProcessAccount::default()
        });
        let asked = counted.account.take();
        // What was there before is in the host's own counters only.
        let anchored = asked.and_then(|asked| {
            Some(Standing {
                reserved_bytes: asked.vm_bytes?,
                committed_bytes: asked.data_bytes?,
            })
        });
        let seen = Standing {
            reserved_bytes: counted.reserved.total(),
            committed_bytes: counted.committed.total(),
        };
        Some(Event::Process {
            process: process.life,
            service: 0,
            account: ProcessAccount {
                cpu_ns: only(sources.switches, &mut counted.cpu_ns),
                minor_faults: only(sources.faults, &mut counted.minor_faults),
                major_faults: only(sources.hard_faults, &mut counted.major_faults),
                ..asked.or(recorded).unwrap_or_default()
            },
            standing: sources.regions.then(|| anchored.unwrap_or(seen)),
            unseen: mem::take(&mut counted.unseen),
        })
    }

    /// Takes who was waited behind since the last call.
    pub fn take_rivals(&mut self) -> Vec<Rival> {
        let all = mem::take(&mut self.rivals).into_iter();
        let all = all.map(|((waiter, process), (waits, name))| Rival {
            waiter,
            process,
            name,
            waits,
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|rival| (rival.waiter, rival.process));
        all
    }

    /// How often a loss was noticed, as far as it has been told.
    pub fn breaks_told(&self) -> u64 {
        self.breaks_told + self.breaks
    }

    /// Processes that are followed now, in the order of their ids.
    pub fn processes(&self) -> Vec<Life> {
        let followed = self.processes.values().filter(|process| {
            let counted = process.followed.as_ref();
            counted.is_some_and(|counted| counted.threads > 0)
        });
        let mut lives: Vec<_> = followed.map(|process| process.life).collect();
        lives.sort_unstable();
        lives
    }

    /// Marks of a process's threads, each once.
    pub fn tags(&self, pid: u32) -> Vec<u32> {
        let threads = self.threads.values().filter(|thread| thread.pid == pid);
        let mut tags: Vec<_> = threads.map(|thread| thread.tag).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.retain(|tag| *tag != 0);
        tags
    }

    /// What the host says of a process, for the window that ends next.
    pub fn note_account(&mut self, pid: u32, account: ProcessAccount) {
        if let Some(process) = self.counted(pid) {
            process.account = Some(account);
        }
    }

    /// From which size on waits and allocations are events.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Follows what the target names from now on, besides what is followed already.
    pub fn retarget(&mut self, ts: u64, target: Target, out: &mut Vec<Event>) {
        self.target = target;
        if let Target::Pids(pids) = &self.target {
            for pid in pids {
                if let Some(process) = self.processes.get_mut(pid) {
                    process.is_whole = true;
                }
            }
        }
        self.adopt_descendants();
        let is_meant = |tid: &u32, thread: &HostThread| {
            let is_tagged = self.target
                == Target::Tagged {
                    pid: thread.pid,
                    tag: thread.tag,
                };
            let process = self.processes.get(&thread.pid);
            !self.followed.contains_key(tid)
                && (is_tagged || process.is_some_and(|process| process.is_whole))
        };
        let mut new: Vec<_> = self
            .threads
            .iter()
            .filter(|(tid, thread)| is_meant(tid, thread))
            .map(|(tid, thread)| (*tid, *thread))
            .collect();
        new.sort_unstable_by_key(|(tid, _)| *tid);
        for (tid, thread) in new {
            let Some(process) = self.processes.get(&thread.pid) else {
                continue;
            };
            let (life, image) = (process.life, process.name);
            let of_thread = Life {
                id: tid,
                start_ns: ts,
            };
            let names = (life, image, thread.name);
            self.follow(ts, of_thread, names, None, Origin::Found, out);
        }
    }

    /// Children belong to their parents, whatever order they are told in.
    fn adopt_descendants(&mut self) {
        loop {
            let is_child = |child: &HostProcess| {
                let parent = self.processes.get(&child.parent);
                !child.is_whole
                    && child.parent != child.life.id
                    && parent.is_some_and(|parent| {
                        parent.is_whole && parent.life.start_ns <= child.life.start_ns
                    })
            };
            let children: Vec<u32> = self
                .processes
                .iter()
                .filter(|(_, child)| is_child(child))
                .map(|(pid, _)| *pid)
                .collect();
            for pid in &children {
                if let Some(child) = self.processes.get_mut(pid) {
                    child.is_whole = true;
                }
            }
            if children.is_empty() {
                return;
            }
        }
    }

    /// How many tasks are followed now.
    pub fn followed(&self) -> usize {
        self.followed.len()
    }
}

impl Followed {
    /// What it did since the last sample, if anything.
    fn sample(&mut self) -> Option<Event> {
        let (memory, delays) = (mem::take(&mut self.memory), mem::take(&mut self.delays));
        if memory.is_empty() && delays == Delays::default() {
            return None;
        }
        Some(Event::Sample {
            task: self.task,
            memory,
            delays,
            account: None,
        })
    }
}

/// Books a wait.
fn book_wait(delays: &mut Delays, wait_ns: u64) {
    let bucket = bucket(wait_ns) as u16;
    match delays
        .counts
        .binary_search_by_key(&bucket, |(bucket, _)| *bucket)
    {
        Ok(place) => delays.counts[place].1 += 1,
        Err(place) => delays.counts.insert(place, (bucket, 1)),
    }
    delays.sum_ns = delays.sum_ns.saturating_add(wait_ns);
    delays.max_ns = delays.max_ns.max(wait_ns);
}

fn number(call: Call) -> usize {
    let number = match call {
        Call::Map => call::MAP,
        Call::Unmap => call::UNMAP,
        Call::Remap => call::REMAP,
        Call::Brk => call::BRK,
        Call::Advise => call::ADVISE,
        Call::Protect => call::PROTECT,
    };
    number as usize
}

/// A name as records keep it: cut to 15 bytes, at the end of a character.
fn comm(name: Utf16) -> Comm {
    let mut comm = Comm::default();
    let mut length = 0;
    for c in name.chars().filter(|c| *c != '\0') {
        let end = length + c.len_utf8();
        if end >= COMM_LEN {
            break;
        }
        c.encode_utf8(&mut comm[length..end]);
        length = end;
    }
    comm
}

fn image_name(image: &[u8]) -> Comm {
    let mut comm = Comm::default();
    for (to, from) in comm[..COMM_LEN - 1].iter_mut().zip(image) {
        *to = *from;
    }
    comm
}

/// Has a program this name, apart from case, with or without its suffix?
pub fn is_image(image: &[u8], name: &str) -> bool {
    let image = String::from_utf8_lossy(image).to_lowercase();
    let name = name.to_lowercase();
    image == name || image.strip_suffix(".exe") == Some(&name)
}
