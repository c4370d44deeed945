//! A tiny kernel with few ids and a source that watches it: it makes a history's events, and foretells the records.

use std::collections::BTreeMap;

use proptest::prelude::*;
use slowburn_common::histogram::bucket;
use slowburn_probes::event::{
    Call, Delays, Event, Life, MemoryFlow, Origin, ProcessAccount, Task, ThreadAccount,
};

use crate::stream::{TargetEventKind, ThreadEventKind};

/// Names of the services.
pub const SERVICES: [&str; 2] = ["one", "two"];

/// So few ids that they are used again and again.
const IDS: u32 = 6;

/// What may happen.
#[derive(Clone, Debug)]
pub enum Action {
    /// A process is followed from now on: forked, found, or by its exec.
    Begin { origin: Origin, service: u32 },
    /// A process gets another thread.
    Clone { process: usize, origin: Origin },
    /// A thread works.
    Work {
        thread: usize,
        wait_ns: u64,
        reserved: u64,
    },
    /// What a thread did is read before its window ends.
    Sample { thread: usize },
    /// A call is an event of its own, which was made on another CPU some time before those that came before it.
    Single { thread: usize, late_ns: u64 },
    /// A thread ends. If that is lost, it is told later on.
    Exit { thread: usize, lost: bool },
    /// Lost exits are found.
    Recover,
    /// A thread executes a program, which ends all others of its process.
    Exec { thread: usize },
    /// A process is not followed any more.
    Leave { process: usize },
    /// One that has left is found again.
    ComeBack { process: usize },
    /// A window ends.
    EndWindow,
}

impl Action {
    /// A process begins.
    pub fn begin(origin: Origin) -> Self {
        Self::Begin { origin, service: 0 }
    }

    /// The only process leaves.
    pub fn leave() -> Self {
        Self::Leave { process: 0 }
    }

    /// And comes back.
    pub fn come_back() -> Self {
        Self::ComeBack { process: 0 }
    }
}

/// Histories.
pub fn actions() -> impl Strategy<Value = Vec<Action>> {
    let any_index = any::<usize>;
    let origin = prop::sample::select(vec![
        Origin::Found,
        Origin::Fork,
        Origin::Fork,
        Origin::Cgroup,
        Origin::Name,
    ]);
    let of_thread = prop::sample::select(vec![Origin::Thread, Origin::Thread, Origin::Found]);
    let action = prop_oneof![
        3 => (origin, 0..SERVICES.len() as u32)
            .prop_map(|(origin, service)| Action::Begin { origin, service }),
        5 => (any_index(), of_thread).prop_map(|(process, origin)| Action::Clone { process, origin }),
        5 => (any_index(), 0..100_u64, 0..3_u64)
            .prop_map(|(thread, wait_ns, reserved)| Action::Work { thread, wait_ns, reserved }),
        2 => any_index().prop_map(|thread| Action::Sample { thread }),
        3 => (any_index(), 0..200_u64).prop_map(|(thread, late_ns)| Action::Single { thread, late_ns }),
        5 => (any_index(), prop::bool::weighted(0.2)).prop_map(|(thread, lost)| Action::Exit { thread, lost }),
        1 => Just(Action::Recover),
        2 => any_index().prop_map(|thread| Action::Exec { thread }),
        1 => any_index().prop_map(|process| Action::Leave { process }),
        1 => any_index().prop_map(|process| Action::ComeBack { process }),
        3 => Just(Action::EndWindow),
    ];
    prop::collection::vec(action, 1..60)
}

/// A record, as far as it is foretold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Target {
        ts: u64,
        kind: TargetEventKind,
        service: String,
        process: Option<Life>,
    },
    Thread {
        ts: u64,
        kind: ThreadEventKind,
        process: Life,
        thread: Life,
    },
    Mapping {
        ts: u64,
        process: Life,
        thread: Life,
    },
    Window(WindowTold),
}

/// A window, as far as it is foretold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowTold {
    pub ts: u64,
    pub process: Life,
    pub thread: Option<Life>,
    pub ended: bool,
    /// Live, created and exited ones.
    pub threads: Option<(u64, u64, u64)>,
    pub waits: u64,
    pub wait_ns: u64,
    pub reserved: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deeds {
    waits: u64,
    wait_ns: u64,
    reserved: u64,
}

impl Deeds {
    fn add(&mut self, other: Self) {
        self.waits += other.waits;
        self.wait_ns += other.wait_ns;
        self.reserved += other.reserved;
    }
}

/// A thread that is followed.
#[derive(Clone, Copy, Debug)]
struct Thread {
    task: Task,
    /// It has ended, which is not told yet.
    exited_at: Option<u64>,
    /// Done and not sampled yet.
    pending: Deeds,
    /// When it was last heard of.
    last_ts: u64,
}

/// What a window will say about a process or thread.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    deeds: Deeds,
    /// Was it there already, or found?
    known_before: bool,
    live: u64,
    created: u64,
    exited: u64,
}

/// The kernel, and what was told of it.
#[derive(Default)]
pub struct Kernel {
    clock: u64,
    threads: Vec<Thread>,
    /// Processes that live and are not followed, by their threads.
    left: Vec<Vec<Thread>>,
    processes: BTreeMap<Life, Period>,
    by_thread: BTreeMap<(Life, Life), Period>,
    live_in_service: [u64; SERVICES.len()],
    seen: [bool; SERVICES.len()],
    events: Vec<Event>,
    told: Vec<Told>,
}

impl Kernel {
    /// Lets something happen, if it can. Returns the events of it, and the records that should come of them.
    pub fn act(&mut self, action: &Action) -> (Vec<Event>, Vec<Told>) {
        self.clock += 100;
        match action {
            Action::Begin { origin, service } => self.begin_process(*origin, *service),
            Action::Clone { process, origin } => self.clone_thread(*process, *origin),
            Action::Work {
                thread,
                wait_ns,
                reserved,
            } => {
                if let Some(thread) = self.living(*thread) {
                    // A sum may be read before its wait is counted, and the other way round.
                    let waits = u64::from(*wait_ns % 3 != 0);
                    self.threads[thread].pending.add(Deeds {
                        waits,
                        wait_ns: *wait_ns,
                        reserved: *reserved,
                    });
                }
            }
            Action::Sample { thread } => {
                if let Some(thread) = self.living(*thread) {
                    self.sample(thread);
                }
            }
            Action::Single { thread, late_ns } => self.single(*thread, *late_ns),
            Action::Exit { thread, lost } => {
                if let Some(thread) = self.living(*thread) {
                    self.threads[thread].exited_at = Some(self.clock);
                    if !lost {
                        self.tell_exit(thread, false);
                    }
                }
            }
            Action::Recover => self.recover(|_| true),
            Action::Exec { thread } => self.exec(*thread),
            Action::Leave { process } => self.leave(*process),
            Action::ComeBack { process } => self.come_back(*process),
            Action::EndWindow => self.end_window(),
        }
        (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.told),
        )
    }

    /// As far as was told.
    pub fn followed_processes(&self) -> u64 {
        self.processes.values().filter(|p| p.live > 0).count() as u64
    }

    fn living(&self, index: usize) -> Option<usize> {
        let living: Vec<_> = (0..self.threads.len())
            .filter(|n| self.threads[*n].exited_at.is_none())
            .collect();
        (!living.is_empty()).then(|| living[index % living.len()])
    }

    /// A living thread of a process that is followed.
    fn process(&self, index: usize) -> Option<Task> {
        self.living(index).map(|n| self.threads[n].task)
    }

    /// An id that nobody has. A first thread that has ended keeps its id until its process does.
    fn free_id(&self) -> Option<u32> {
        let living = self.threads.iter().filter(|t| t.exited_at.is_none());
        let used: Vec<_> = living
            .chain(self.left.iter().flatten())
            .flat_map(|t| [t.task.thread.id, t.task.process.id])
            .collect();
        (1..=IDS).find(|id| !used.contains(id))
    }

    fn begin_process(&mut self, origin: Origin, service: u32) {
        if let Some(id) = self.free_id() {
            let life = Life {
                id,
                start_ns: self.clock,
            };
            self.follow(life, life, service, origin);
        }
    }

    fn clone_thread(&mut self, process: usize, origin: Origin) {
        if let (Some(of), Some(id)) = (self.process(process), self.free_id()) {
            let thread = Life {
                id,
                start_ns: self.clock,
            };
            self.follow(thread, of.process, of.service, origin);
        }
    }

    fn follow(&mut self, thread: Life, process: Life, service: u32, origin: Origin) {
        let task = Task {
            thread,
            process,
            service,
            name: [b'x'; 16],
        };
        self.tell_start(task, origin);
        self.threads.push(Thread {
            task,
            exited_at: None,
            pending: Deeds::default(),
            last_ts: self.clock,
        });
    }

    fn tell_start(&mut self, task: Task, origin: Origin) {
        let (ts, found) = (self.clock, origin == Origin::Found);
        self.events.push(Event::TaskStart {
            ts,
            task,
            origin,
            creator: None,
        });
        let process = self.processes.entry(task.process).or_default();
        let is_first = process.live == 0;
        process.live += 1;
        process.created += u64::from(!found);
        if found {
            self.by_thread
                .entry((task.process, task.thread))
                .or_default()
                .known_before = true;
        }
        let thread = self
            .by_thread
            .entry((task.process, task.thread))
            .or_default();
        thread.live = 1;
        if is_first {
            let service = task.service as usize;
            self.live_in_service[service] += 1;
            let is_back = self.live_in_service[service] == 1 && self.seen[service];
            self.seen[service] = true;
            if is_back {
                self.tell_target(ts, TargetEventKind::Returned, &task, false);
            }
            let kind = if found {
                TargetEventKind::Found
            } else {
                TargetEventKind::Started
            };
            self.tell_target(ts, kind, &task, true);
        } else if !found {
            self.tell_thread(ts, ThreadEventKind::Started, &task);
        }
    }

    fn tell_target(&mut self, ts: u64, kind: TargetEventKind, task: &Task, of_process: bool) {
        self.told.push(Told::Target {
            ts,
            kind,
            service: SERVICES[task.service as usize].into(),
            process: of_process.then_some(task.process),
        });
    }

    fn tell_thread(&mut self, ts: u64, kind: ThreadEventKind, task: &Task) {
        self.told.push(Told::Thread {
            ts,
            kind,
            process: task.process,
            thread: task.thread,
        });
    }

    /// Tells that a thread is not followed any more, and forgets it.
    fn tell_exit(&mut self, n: usize, alive: bool) {
        self.sample(n);
        let Thread {
            task, exited_at, ..
        } = self.threads.remove(n);
        let ts = exited_at.unwrap_or(self.clock);
        self.events.push(Event::TaskExit {
            ts,
            task,
            followed_ns: 0,
            alive,
        });
        let key = (task.process, task.thread);
        let thread = self.by_thread.get_mut(&key).expect("it was told to begin");
        thread.live = 0;
        if !thread.known_before {
            // It began within this window, and is in the sums of its process only.
            self.by_thread.remove(&key);
        }
        let process = self
            .processes
            .get_mut(&task.process)
            .expect("it was told to begin");
        process.live -= 1;
        process.exited += 1;
        let ends = process.live == 0;
        let is_process = ends && task.thread.id == task.process.id;
        if !alive && !is_process {
            self.tell_thread(ts, ThreadEventKind::Exited, &task);
        }
        if ends {
            let kind = if alive {
                TargetEventKind::Left
            } else {
                TargetEventKind::Exited
            };
            self.tell_target(ts, kind, &task, true);
            let live = &mut self.live_in_service[task.service as usize];
            *live -= 1;
            if *live == 0 {
                self.tell_target(ts, TargetEventKind::Gone, &task, false);
            }
        }
    }

    /// Tells what a thread did since it was last asked.
    fn sample(&mut self, n: usize) {
        let Thread { task, pending, .. } = self.threads[n];
        if pending == Deeds::default() {
            return;
        }
        self.threads[n].pending = Deeds::default();
        for period in [
            self.processes.get_mut(&task.process),
            self.by_thread.get_mut(&(task.process, task.thread)),
        ] {
            period.expect("it was told to begin").deeds.add(pending);
        }
        let counts = (pending.waits > 0).then_some((bucket(40) as u16, pending.waits as u32));
        self.events.push(Event::Sample {
            task,
            memory: MemoryFlow {
                reserved: pending.reserved,
                ..MemoryFlow::default()
            },
            delays: Delays {
                counts: counts.into_iter().collect(),
                sum_ns: pending.wait_ns,
                max_ns: pending.wait_ns,
                ..Delays::default()
            },
            account: Some(ThreadAccount::default()),
        });
    }

    fn single(&mut self, thread: usize, late_ns: u64) {
        let Some(n) = self.living(thread) else { return };
        let thread = &mut self.threads[n];
        // A thread is on one CPU at a time: its own events are in order.
        let ts = (self.clock - late_ns.min(self.clock)).max(thread.last_ts);
        thread.last_ts = ts;
        let task = thread.task;
        self.events.push(Event::Mapping {
            ts,
            task,
            call: Call::Map,
            address: 0,
            length: 0,
            detail: 0,
            flags: 0,
            reserved_change: 0,
            committed_change: 0,
            one_in: 1,
        });
        self.told.push(Told::Mapping {
            ts,
            process: task.process,
            thread: task.thread,
        });
    }

    fn recover(&mut self, which: impl Fn(&Task) -> bool) {
        while let Some(n) = self
            .threads
            .iter()
            .position(|t| t.exited_at.is_some() && which(&t.task))
        {
            self.tell_exit(n, false);
        }
    }

    /// All others end first. One that was not the first thread becomes it, if need be for a second time.
    fn exec(&mut self, thread: usize) {
        let Some(n) = self.living(thread) else { return };
        let mut task = self.threads[n].task;
        // Of the same identity as its process.
        let (process, first) = (task.process, task.process);
        let is_other = |t: &Task| t.process == process && t.thread != task.thread;
        let clock = self.clock;
        for other in self.threads.iter_mut().filter(|t| is_other(&t.task)) {
            other.exited_at.get_or_insert(clock);
        }
        let takes_over = task.thread != first;
        self.recover(|t| is_other(t) && !(takes_over && t.thread == first));
        if takes_over {
            let n = self.place_of(&task);
            self.sample(n);
            self.recover(is_other);
            let n = self.place_of(&task);
            self.follow(first, process, task.service, Origin::Thread);
            self.threads[n].exited_at = Some(clock);
            self.tell_exit(n, false);
            task.thread = first;
        }
        self.events.push(Event::Exec { ts: clock, task });
        self.tell_target(clock, TargetEventKind::Executed, &task, true);
    }

    fn place_of(&self, task: &Task) -> usize {
        let mut places = self.threads.iter();
        places
            .position(|t| t.task == *task)
            .expect("it is followed")
    }

    fn leave(&mut self, process: usize) {
        let Some(Task { process, .. }) = self.process(process) else {
            return;
        };
        self.recover(|t| t.process == process);
        let mut leavers = Vec::new();
        while let Some(n) = self.threads.iter().position(|t| t.task.process == process) {
            self.sample(n);
            leavers.push(self.threads[n]);
            self.tell_exit(n, true);
        }
        self.left.push(leavers);
    }

    fn come_back(&mut self, process: usize) {
        if self.left.is_empty() {
            return;
        }
        let threads = self.left.swap_remove(process % self.left.len());
        for Thread { task, .. } in threads {
            self.follow(task.thread, task.process, task.service, Origin::Found);
        }
    }

    fn end_window(&mut self) {
        for n in 0..self.threads.len() {
            self.sample(n);
        }
        let ts = self.clock;
        let followed = self.processes.iter().filter(|(_, p)| p.live > 0);
        self.events
            .extend(followed.map(|(process, _)| Event::Process {
                process: *process,
                service: 0,
                account: ProcessAccount::default(),
                standing: None,
                unseen: MemoryFlow::default(),
            }));
        self.events.push(Event::WindowEnd { ts, period_ns: 1 });
        for (life, process) in &self.processes {
            let threads = Some((process.live, process.created, process.exited));
            self.told.push(window(ts, *life, None, process, threads));
            let of_process = self.by_thread.iter().filter(|((of, _), _)| of == life);
            for ((_, thread), period) in of_process {
                if period.live == 0 || period.deeds != Deeds::default() {
                    self.told
                        .push(window(ts, *life, Some(*thread), period, None));
                }
            }
        }
        for periods in [
            self.processes.values_mut().collect::<Vec<_>>(),
            self.by_thread.values_mut().collect(),
        ] {
            for period in periods {
                *period = Period {
                    live: period.live,
                    known_before: true,
                    ..Period::default()
                };
            }
        }
        self.processes.retain(|_, process| process.live > 0);
        self.by_thread.retain(|_, thread| thread.live > 0);
    }
}

fn window(
    ts: u64,
    process: Life,
    thread: Option<Life>,
    period: &Period,
    threads: Option<(u64, u64, u64)>,
) -> Told {
    let Deeds {
        waits,
        wait_ns,
        reserved,
    } = period.deeds;
    Told::Window(WindowTold {
        ts,
        process,
        thread,
        ended: period.live == 0,
        threads,
        waits,
        wait_ns,
        reserved,
    })
}
