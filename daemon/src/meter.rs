//! Adds up what tasks do, and turns it into windows.
//!
//! A pure function of the events: it reads no clock and does no I/O.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    mem,
};

use slowburn_common::task::call;
use slowburn_probes::event::{
    Class, Delays, Event, Life, MemoryFlow, Origin, ProcessAccount, Standing, Task, ThreadAccount,
};

use crate::{
    creators::Creators,
    detect::group_name,
    histogram::{DelayCounts, Summariser},
    stream::{
        Creator, DelaySummary, KernelSummary, MemorySummary, Moment, OwnSummary, ProcessId, Rival,
        Scope, ThreadId, ThreadSummary, Window,
    },
};

/// A process and what it did in the current window.
struct Process {
    service: u32,
    /// It began within the current window.
    began: bool,
    live: u64,
    created: u64,
    exited: u64,
    creators: Creators,
    memory: MemoryFlow,
    delays: DelayCounts,
    /// Sum over its threads; `None` once a thread's account is missing.
    waits: Option<ThreadAccount>,
    account: ProcessAccount,
    standing: Option<Standing>,
}

/// A thread and what it did in the current window.
struct Thread {
    task: Task,
    began: bool,
    ended: bool,
    /// Few threads make any calls in a window.
    memory: Option<Box<MemoryFlow>>,
    delays: DelayCounts,
    account: Option<ThreadAccount>,
}

impl Thread {
    fn new(task: &Task) -> Self {
        Self {
            task: *task,
            began: false,
            ended: false,
            memory: None,
            delays: DelayCounts::default(),
            account: None,
        }
    }

    fn is_idle(&self) -> bool {
        // Without hooks on waits, only the kernel knows that it has waited.
        let ran = self.account.is_some_and(|account| account.run_count > 0);
        self.delays.is_empty() && self.memory.is_none() && !ran
    }
}

/// Most processes that may begin and end within one window and still get a window of their own. A fork
/// storm of 1,000 a second fills it in a window of 10 s.
const MAX_BRIEF: usize = 10_000;

/// Adds up events.
#[derive(Default)]
pub struct Meter {
    processes: HashMap<Life, Process>,
    /// Threads that exist or did something in the current window. Idle ones cost nothing: they are made
    /// when the first sample of a window comes.
    threads: BTreeMap<(Life, Life), Box<Thread>>,
    lost: u64,
    /// Single events among them that found the ring buffer full.
    ring_lost: u64,
    gap: Gap,
    own: Option<OwnSummary>,
    /// Processes that began and ended within the current window.
    brief: usize,
    /// Those of them that found no room.
    refused: u64,
    /// By the id of the process that waited.
    rivals: HashMap<u32, Vec<Rival>>,
    summariser: Summariser,
}

/// What was not measured in the current window.
#[derive(Clone, Copy, Default)]
struct Gap {
    waits_ns: u64,
    calls_ns: u64,
    one_in: u32,
    /// The kernel's account of the waits is missing for some thread.
    unaccounted: bool,
}

/// What a task's start or end means for its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first task of a process.
    ProcessBegins,
    /// A further thread.
    ThreadBegins,
    /// A thread ended, others go on.
    ThreadEnds,
    /// The last one ended.
    ProcessEnds,
}

impl Meter {
    /// A task is followed from now on.
    pub fn begin(&mut self, task: &Task, origin: Origin) -> Turn {
        let process = self
            .processes
            .entry(task.process)
            .or_insert_with(|| Process::new(task.service));
        // One that is there without threads has ended in this window, and is back.
        let begins = process.live == 0;
        process.live += 1;
        // What ran already was not created in this window.
        let created = origin != Origin::Found;
        process.created += u64::from(created);
        match self.threads.entry((task.process, task.thread)) {
            // It has ended in this window and is back: found again, or taken over by a thread that executed a program.
            Entry::Occupied(mut thread) => thread.get_mut().ended = false,
            Entry::Vacant(place) if created => {
                place.insert(Box::new(Thread::new(task))).began = true;
            }
            Entry::Vacant(_) => {}
        }
        if begins {
            Turn::ProcessBegins
        } else {
            Turn::ThreadBegins
        }
    }

    /// One of these threads (process and thread id) has created a thread of a process. Those of others are not told.
    pub fn created(&mut self, process: Life, (pid, tid): (u32, u32)) {
        if let Some(entry) = self
            .processes
            .get_mut(&process)
            .filter(|_| pid == process.id)
        {
            entry.creators.add(tid);
        }
    }

    /// A followed task is gone.
    pub fn end(&mut self, task: &Task) -> Turn {
        self.end_thread(task);
        let Some(process) = self.processes.get_mut(&task.process) else {
            return Turn::ThreadEnds;
        };
        process.live = process.live.saturating_sub(1);
        process.exited += 1;
        if process.live > 0 {
            return Turn::ThreadEnds;
        }
        if process.began {
            self.brief += 1;
            if self.brief > MAX_BRIEF {
                self.processes.remove(&task.process);
                self.refused += 1;
            }
        }
        Turn::ProcessEnds
    }

    /// Takes the number of processes since the last call that are in no window, because too many began and
    /// ended within it.
    pub fn take_refused(&mut self) -> u64 {
        mem::take(&mut self.refused)
    }

    /// Adds a reading. Other events leave the meter as it is.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Sample {
                task,
                memory,
                delays,
                account,
            } => self.sample(task, memory, delays, *account),
            Event::Process {
                process,
                service,
                account,
                standing,
                unseen,
            } => {
                let entry = self
                    .processes
                    .entry(*process)
                    .or_insert_with(|| Process::new(*service));
                entry.account = *account;
                entry.standing = *standing;
                entry.memory.add(unseen);
            }
            Event::Loss { count, class, .. } => {
                self.lost += count;
                if matches!(class, Class::Mapping | Class::Exec | Class::Delay) {
                    self.ring_lost += count;
                }
            }
            Event::Gap {
                waits_ns,
                calls_ns,
                one_in,
                accounted,
            } => {
                self.gap = Gap {
                    waits_ns: *waits_ns,
                    calls_ns: *calls_ns,
                    one_in: *one_in,
                    unaccounted: *waits_ns > 0 && !accounted,
                }
            }
            _ => {}
        }
    }

    /// What slowburn itself used in the current window.
    pub fn set_own(&mut self, own: OwnSummary) {
        self.own = Some(own);
    }

    /// Behind whom the processes with these ids waited in the current window.
    pub fn set_rivals(&mut self, rivals: HashMap<u32, Vec<Rival>>) {
        self.rivals = rivals;
    }

    fn sample(
        &mut self,
        task: &Task,
        memory: &MemoryFlow,
        delays: &Delays,
        account: Option<ThreadAccount>,
    ) {
        let thread = self.thread(task);
        thread.task = *task;
        if !memory.is_empty() {
            thread.memory.get_or_insert_default().add(memory);
        }
        thread.delays.add(delays);
        let waited = *delays != Delays::default();
        // Sampled more than once in a window only when something changes in how it is measured.
        thread.account = match (thread.account, account) {
            (Some(sum), Some(more)) => Some(added(sum, more)),
            (sum, None) if !waited => sum,
            (_, more) => more,
        };
        if let Some(process) = self.processes.get_mut(&task.process) {
            process.memory.add(memory);
            process.delays.add(delays);
            if waited || account.is_some() {
                process.waits = process
                    .waits
                    .zip(account)
                    .map(|(sum, more)| added(sum, more));
            }
        }
    }

    /// A thread that began in the same window gets no window of its own, and no memory: a service may
    /// start thousands a second. What it did is in its process's sums.
    fn end_thread(&mut self, task: &Task) {
        if self.thread(task).began {
            self.threads.remove(&(task.process, task.thread));
        } else {
            self.thread(task).ended = true;
        }
    }

    fn thread(&mut self, task: &Task) -> &mut Thread {
        self.threads
            .entry((task.process, task.thread))
            .or_insert_with(|| Box::new(Thread::new(task)))
    }

    /// Ends the current window: calls `out` with a window for each process, followed by its threads that did anything.
    pub fn end_window(
        &mut self,
        ts: u64,
        period_ns: u64,
        services: &[String],
        mut out: impl FnMut(Window),
    ) {
        let mut creators = self.take_creators();
        // Each is freed when its window is made.
        let mut threads = mem::take(&mut self.threads).into_values().peekable();
        let mut processes: Vec<_> = self.processes.keys().copied().collect();
        processes.sort_unstable();
        for (n, &life) in processes.iter().enumerate() {
            let common = Common {
                ts: Moment(ts),
                period_ns,
                lost: self.lost,
                gap: self.gap,
                own: self.own.map(|own| OwnSummary {
                    ring_lost: self.ring_lost,
                    ..own
                }),
            };
            let Some(process) = self.processes.get_mut(&life) else {
                continue;
            };
            let id = process_id(life, process.service, services);
            let mut window = process.window(id.clone(), &common, &mut self.summariser);
            // Of two with the same id, it is the later one that is there when this is read.
            let is_last = processes.get(n + 1).is_none_or(|next| next.id != life.id);
            if let Some(delay) = window.delay.as_mut().filter(|_| is_last) {
                delay.rivals = self.rivals.remove(&life.id).unwrap_or_default();
            }
            if let Some((threads, creators)) = window.threads.as_mut().zip(creators.remove(&life)) {
                threads.creators = creators;
            }
            out(window);
            if process.live == 0 {
                self.processes.remove(&life);
            }
            while threads.next_if(|t| t.task.process < life).is_some() {}
            while let Some(thread) = threads.next_if(|t| t.task.process == life) {
                if thread.ended || !thread.is_idle() {
                    out(thread.window(id.clone(), &common, &mut self.summariser));
                }
            }
        }
        self.lost = 0;
        self.ring_lost = 0;
        self.gap = Gap::default();
        self.own = None;
        self.rivals.clear();
        self.brief = 0;
    }

    /// Who created threads, by process. Whoever did has run, and so is among the threads, unless it began and ended in this window.
    fn take_creators(&mut self) -> HashMap<Life, Vec<Creator>> {
        let threads = &self.threads;
        let name = |process: Life, tid| {
            let first = Life {
                id: tid,
                start_ns: 0,
            };
            let (_, thread) = threads.range((process, first)..).next()?;
            let is_it = thread.task.process == process && thread.task.thread.id == tid;
            is_it.then(|| group_name(&thread.task.name()))
        };
        self.processes
            .iter_mut()
            .map(|(life, process)| (*life, process.creators.take(|tid| name(*life, tid))))
            .filter(|(_, creators)| !creators.is_empty())
            .collect()
    }
}

fn added(a: ThreadAccount, b: ThreadAccount) -> ThreadAccount {
    ThreadAccount {
        run_delay_ns: a.run_delay_ns + b.run_delay_ns,
        run_count: a.run_count + b.run_count,
    }
}

/// What all windows of one period have in common.
struct Common {
    ts: Moment,
    period_ns: u64,
    lost: u64,
    gap: Gap,
    own: Option<OwnSummary>,
}

impl Common {
    /// Waits, unless they were not measured at all.
    fn delay(&self, delays: &DelayCounts, summariser: &mut Summariser) -> Option<DelaySummary> {
        let unmeasured_ns = (self.gap.waits_ns > 0).then_some(self.gap.waits_ns);
        (self.gap.waits_ns < self.period_ns || self.gap.waits_ns == 0).then(|| DelaySummary {
            unmeasured_ns,
            ..summariser.summarise(delays)
        })
    }

    fn memory(&self, flow: &MemoryFlow, standing: Option<Standing>) -> MemorySummary {
        MemorySummary {
            unmeasured_ns: (self.gap.calls_ns > 0).then_some(self.gap.calls_ns),
            sampled: (self.gap.one_in > 1).then_some(self.gap.one_in),
            ..memory(flow, standing)
        }
    }
}

impl Process {
    fn new(service: u32) -> Self {
        Self {
            service,
            began: true,
            live: 0,
            created: 0,
            exited: 0,
            creators: Creators::default(),
            memory: MemoryFlow::default(),
            delays: DelayCounts::default(),
            waits: Some(ThreadAccount::default()),
            account: ProcessAccount::default(),
            standing: None,
        }
    }

    /// Makes the window and starts the next one.
    fn window(
        &mut self,
        process: ProcessId,
        common: &Common,
        summariser: &mut Summariser,
    ) -> Window {
        let delay = common.delay(&mem::take(&mut self.delays), summariser);
        let account = mem::take(&mut self.account);
        self.began = false;
        let waits = self.waits.replace(ThreadAccount::default());
        let waits = waits.filter(|_| !common.gap.unaccounted);
        Window {
            ts: common.ts,
            scope: Scope::Process,
            process,
            thread: None,
            period_ns: common.period_ns,
            ended: self.live == 0,
            delay,
            memory: common.memory(&mem::take(&mut self.memory), self.standing.take()),
            threads: Some(ThreadSummary {
                live: self.live,
                created: mem::take(&mut self.created),
                exited: mem::take(&mut self.exited),
                creators: Vec::new(),
            }),
            kernel: kernel(&account, waits),
            lost: common.lost,
            own: common.own,
        }
    }
}

impl Thread {
    fn window(&self, process: ProcessId, common: &Common, summariser: &mut Summariser) -> Window {
        Window {
            ts: common.ts,
            scope: Scope::Thread,
            process,
            thread: Some(thread_id(&self.task)),
            period_ns: common.period_ns,
            ended: self.ended,
            delay: common.delay(&self.delays, summariser),
            memory: common.memory(
                self.memory.as_deref().unwrap_or(&MemoryFlow::default()),
                None,
            ),
            threads: None,
            kernel: kernel(&ProcessAccount::default(), self.account),
            lost: common.lost,
            own: None,
        }
    }
}

/// The identity of a process, as the stream has it.
pub fn process_id(life: Life, service: u32, services: &[String]) -> ProcessId {
    ProcessId {
        service: services.get(service as usize).cloned().unwrap_or_default(),
        pid: life.id,
        created: Moment(life.start_ns),
    }
}

/// The identity of a thread, as the stream has it.
pub fn thread_id(task: &Task) -> ThreadId {
    ThreadId {
        tid: task.thread.id,
        name: task.name().into_owned(),
        created: Moment(task.thread.start_ns),
    }
}

fn memory(flow: &MemoryFlow, standing: Option<Standing>) -> MemorySummary {
    let calls = |number: u32| flow.calls[number as usize];
    MemorySummary {
        reserved_bytes: flow.reserved,
        committed_bytes: flow.committed,
        released_bytes: flow.released,
        decommitted_bytes: flow.decommitted,
        discarded_bytes: flow.discarded,
        map_calls: calls(call::MAP),
        unmap_calls: calls(call::UNMAP),
        remap_calls: calls(call::REMAP),
        brk_calls: calls(call::BRK),
        advise_calls: calls(call::ADVISE),
        protect_calls: calls(call::PROTECT),
        failed_calls: flow.failed_calls,
        standing_reserved_bytes: standing.map(|s| s.reserved_bytes),
        standing_committed_bytes: standing.map(|s| s.committed_bytes),
        ..MemorySummary::default()
    }
}

fn kernel(account: &ProcessAccount, waits: Option<ThreadAccount>) -> KernelSummary {
    KernelSummary {
        rss_bytes: account.rss_bytes,
        anonymous_bytes: account.anonymous_bytes,
        vm_bytes: account.vm_bytes,
        data_bytes: account.data_bytes,
        threads: account.threads,
        fds: account.fds,
        run_delay_ns: waits.map(|w| w.run_delay_ns),
        run_count: waits.map(|w| w.run_count),
        cpu_ns: account.cpu_ns,
        minor_faults: account.minor_faults,
        major_faults: account.major_faults,
        throttled_ns: account.throttled_ns,
        throttled_periods: account.throttled_periods,
        host_steal_ns: account.host_steal_ns,
        memory_limit_bytes: account.limits.memory_bytes,
        tasks_limit: account.limits.tasks,
        address_space_limit_bytes: account.limits.address_space_bytes,
        fds_limit: account.limits.fds,
        host_memory_bytes: account.limits.host_memory_bytes,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(pid: u32, tid: u32, start_ns: u64) -> Task {
        Task {
            thread: Life { id: tid, start_ns },
            process: Life {
                id: pid,
                start_ns: 1,
            },
            service: 0,
            name: *b"worker\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn sample(task: Task, waits: u32, reserved: u64) -> Event {
        Event::Sample {
            task,
            memory: MemoryFlow {
                reserved,
                ..MemoryFlow::default()
            },
            delays: Delays {
                counts: vec![(10, waits)],
                sum_ns: u64::from(waits) * 10,
                max_ns: 10,
                ..Delays::default()
            },
            account: Some(ThreadAccount {
                run_delay_ns: u64::from(waits) * 10,
                run_count: u64::from(waits),
            }),
        }
    }

    fn windows(meter: &mut Meter) -> Vec<Window> {
        let mut windows = Vec::new();
        meter.end_window(1_000, 1_000, &["svc".into()], |w| windows.push(w));
        windows
    }

    #[test]
    fn process_is_the_sum_of_its_threads() {
        let mut meter = Meter::default();
        assert_eq!(
            meter.begin(&task(1, 1, 1), Origin::Found),
            Turn::ProcessBegins
        );
        assert_eq!(
            meter.begin(&task(1, 2, 5), Origin::Thread),
            Turn::ThreadBegins
        );
        meter.add(&sample(task(1, 1, 1), 3, 100));
        meter.add(&sample(task(1, 2, 5), 4, 50));
        let got = windows(&mut meter);
        assert_eq!(got.len(), 3);
        assert_eq!(got[0].scope, Scope::Process);
        assert_eq!(got[0].process.service, "svc");
        assert_eq!(got[0].delay.as_ref().unwrap().count, 7);
        assert_eq!(got[0].memory.reserved_bytes, 150);
        assert_eq!(got[0].kernel.run_count, Some(7));
        assert_eq!(
            got[0].threads,
            Some(ThreadSummary {
                live: 2,
                created: 1,
                exited: 0,
                ..ThreadSummary::default()
            })
        );
        assert_eq!(
            got[1].delay.as_ref().unwrap().count + got[2].delay.as_ref().unwrap().count,
            7
        );
        assert_eq!(got[1].thread.as_ref().unwrap().name, "worker");
    }

    #[test]
    fn short_lived_threads_are_in_the_sum_only() {
        let mut meter = Meter::default();
        meter.begin(&task(1, 1, 1), Origin::Found);
        meter.begin(&task(1, 2, 5), Origin::Thread);
        meter.add(&sample(task(1, 2, 5), 4, 50));
        assert_eq!(meter.end(&task(1, 2, 5)), Turn::ThreadEnds);
        let got = windows(&mut meter);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].delay.as_ref().unwrap().count, 4);
        assert_eq!(
            got[0].threads,
            Some(ThreadSummary {
                live: 1,
                created: 1,
                exited: 1,
                ..ThreadSummary::default()
            })
        );
        assert_eq!(got[0].kernel.run_count, Some(4), "the dead thread's too");
        let next = windows(&mut meter);
        assert_eq!(
            next[0].delay.as_ref().unwrap().count,
            0,
            "a window starts empty"
        );
        assert_eq!(next[0].kernel.run_count, Some(0));
    }

    #[test]
    fn recycled_ids_are_different_lives() {
        let mut meter = Meter::default();
        meter.begin(&task(1, 1, 1), Origin::Found);
        meter.begin(&task(1, 2, 5), Origin::Thread);
        windows(&mut meter);
        meter.end(&task(1, 2, 5));
        meter.begin(&task(1, 2, 9), Origin::Thread);
        meter.add(&sample(task(1, 2, 9), 1, 0));
        let got = windows(&mut meter);
        let ended: Vec<_> = got
            .iter()
            .filter(|w| w.scope == Scope::Thread)
            .map(|w| w.ended)
            .collect();
        assert_eq!(ended, [true, false]);
    }

    #[test]
    fn last_window_of_a_process_says_so() {
        let mut meter = Meter::default();
        meter.begin(&task(1, 1, 1), Origin::Found);
        windows(&mut meter);
        assert_eq!(meter.end(&task(1, 1, 1)), Turn::ProcessEnds);
        let got = windows(&mut meter);
        assert!(got[0].ended);
        assert!(windows(&mut meter).is_empty());
    }

    #[test]
    fn a_fork_storm_is_bounded_and_counted() {
        let mut meter = Meter::default();
        for n in 0..MAX_BRIEF as u64 + 5 {
            let mut brief = task(7, 7, 1);
            brief.process.start_ns = n;
            meter.begin(&brief, Origin::Fork);
            assert_eq!(meter.end(&brief), Turn::ProcessEnds);
        }
        assert_eq!(meter.take_refused(), 5);
        assert_eq!(windows(&mut meter).len(), MAX_BRIEF);
        assert_eq!(meter.take_refused(), 0);
    }

    #[test]
    fn a_wait_summed_in_one_window_and_counted_in_another_is_in_both() {
        let mut meter = Meter::default();
        meter.begin(&task(1, 1, 1), Origin::Found);
        let Event::Sample { task, memory, .. } = sample(task(1, 1, 1), 0, 0) else {
            unreachable!("it is a sample")
        };
        let delays = Delays {
            sum_ns: 10,
            max_ns: 10,
            ..Delays::default()
        };
        meter.add(&Event::Sample {
            task,
            memory,
            delays,
            account: None,
        });
        let sums: Vec<_> = windows(&mut meter)
            .iter()
            .map(|w| w.delay.as_ref().unwrap().sum_ns)
            .collect();
        assert_eq!(sums, [10, 10], "of the process and of its thread");
    }

    /// All numbers of a flow, in a certain order.
    fn numbers(memory: &MemorySummary) -> [u64; 12] {
        [
            memory.reserved_bytes,
            memory.released_bytes,
            memory.committed_bytes,
            memory.decommitted_bytes,
            memory.discarded_bytes,
            memory.map_calls,
            memory.unmap_calls,
            memory.remap_calls,
            memory.brk_calls,
            memory.advise_calls,
            memory.protect_calls,
            memory.failed_calls,
        ]
    }

    fn flow(n: [u64; 12]) -> MemoryFlow {
        MemoryFlow {
            reserved: n[0],
            released: n[1],
            committed: n[2],
            decommitted: n[3],
            discarded: n[4],
            calls: [n[5], n[6], n[7], n[8], n[9], n[10]],
            failed_calls: n[11],
        }
    }

    /// A thread, what it did, and whether a window ends then.
    type Step = (u32, [u64; 12], (u16, u32), u64, bool);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (
            1..4_u32,
            prop::array::uniform12(prop_oneof![3 => Just(0), 1 => 0..1_000_u64]),
            (0..500_u16, 0..5_u32),
            0..3_u64,
            prop::bool::weighted(0.3),
        );
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        /// Wherever windows end, those of a thread, and those of the process, add up to all that was done.
        #[test]
        fn windows_add_up_wherever_they_end(steps in steps()) {
            let mut meter = Meter::default();
            // Index 0 is the process.
            let mut expected = [([0; 12], [0; 3]); 4];
            let mut got = expected;
            let add = |sums: &mut ([u64; 12], [u64; 3]), memory: [u64; 12], waits: [u64; 3]| {
                sums.0.iter_mut().zip(memory).for_each(|(sum, more)| *sum += more);
                sums.1.iter_mut().zip(waits).for_each(|(sum, more)| *sum += more);
            };
            for tid in 1..4 {
                meter.begin(&task(1, tid, 1), Origin::Found);
            }
            for (n, (tid, memory, (bucket, count), unknown, ends)) in steps.iter().enumerate() {
                let waits = [u64::from(*count), n as u64, *unknown];
                for index in [0, *tid as usize] {
                    add(&mut expected[index], *memory, waits);
                }
                meter.add(&Event::Sample {
                    task: task(1, *tid, 1),
                    memory: flow(*memory),
                    delays: Delays {
                        counts: (*count > 0).then_some((*bucket, *count)).into_iter().collect(),
                        sum_ns: n as u64,
                        max_ns: n as u64,
                        unknown: *unknown,
                        ..Delays::default()
                    },
                    account: None,
                });
                if *ends || n + 1 == steps.len() {
                    for window in windows(&mut meter) {
                        let index = window.thread.as_ref().map_or(0, |thread| thread.tid as usize);
                        let delay = window.delay.as_ref().unwrap();
                        let waits = [delay.count, delay.sum_ns, delay.unknown_count];
                        add(&mut got[index], numbers(&window.memory), waits);
                    }
                }
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn losses_are_shown_once() {
        let mut meter = Meter::default();
        meter.begin(&task(1, 1, 1), Origin::Found);
        meter.add(&Event::Loss {
            ts: 1,
            class: Class::Mapping,
            count: 5,
        });
        assert_eq!(windows(&mut meter)[0].lost, 5);
        assert_eq!(windows(&mut meter)[0].lost, 0);
    }
}
