//! The live source: loads the programs, drains their events, and samples the records they keep.

use std::{collections::HashMap, io, mem};

use slowburn_common::{
    event::{ExecEvent, Header},
    stats::Stat,
    task::{NO_SLOT, origin},
};

use super::{
    account::{self, Accounts},
    clock::{boot_epoch_ns, epoch_ns, epoch_ns_since, monotonic_ns, ns_per_tick},
    error::ProbeError,
    hooks::{Hooks, Preference},
    load::{Loaded, load, map_error},
    rehook::Coverage,
    rivals,
    seed::{self, map_io},
    tables::{Pages, Record, read},
    tracked::Tracked,
    wire::Wire,
};
use crate::event::{
    Call, Class, Event, Life, MemoryFlow, Origin, Rival, Standing, Task, ThreadAccount,
};

/// Most events taken from the ring buffer in one go: some 2 MB, whatever the size of the ring.
const DRAIN_LIMIT: usize = 8_192;

/// Tasks sampled in one go: samples of all at once would be most of the memory that the daemon takes.
const SAMPLE_LIMIT: usize = 256;

/// How often, at most, the loss counters are read, and the records are looked through if something was lost.
const HOUSEKEEPING_NS: u64 = 250_000_000;

/// A task that exited this long ago, and whose exit event has not come, is taken from its record: the event was
/// lost. Before that it may only be late, behind others that are about the same task and need its record.
const LATE_NS: u64 = 1_000_000_000;

/// Sizes that are fixed once the programs are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the ring buffer: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Tasks that can be followed at the same time.
    pub max_tasks: u32,
}

/// How to load and what to report.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sizes.
    pub limits: Limits,
    /// A single wait of at least this is an event; `u64::MAX` for none.
    pub slow_ns: u64,
    /// A mapping call of at least this is an event; `u64::MAX` for none.
    pub min_mapping_bytes: u64,
    /// Hooks to use instead of the best.
    pub preference: Preference,
    /// Let the kernel side log (it costs time in the paths that log).
    pub kernel_log: bool,
}

/// A followed process.
struct Process {
    life: Life,
    service: u32,
    live: u32,
    /// Address space at the end of the last window, by the calls seen until then.
    pages: Pages,
}

/// The Linux source.
pub struct Source {
    pub(super) kernel: Loaded,
    pub(super) options: Options,
    pub(super) coverage: Coverage,
    pub(super) reports_execs: bool,
    tasks: Vec<Option<Tracked>>,
    processes: HashMap<u32, Process>,
    /// Slots of processes without live threads, to be given back once no record refers to them.
    ended: Vec<u32>,
    accounts: Accounts,
    /// Nanoseconds from the monotonic clock to the Unix epoch.
    epoch_ns: u64,
    /// Nanoseconds from the boot clock to the Unix epoch, once and for all: start times are identities.
    boot_epoch_ns: u64,
    pub(super) window_start_ns: u64,
    housekeeping_ns: u64,
    /// The slot at which sampling goes on.
    next_sample: usize,
    /// How many starts and exits were lost when that was last looked at, and when that had grown, until all records of
    /// then were looked through.
    untold: u64,
    untold_since_ns: Option<u64>,
    /// The kernel side's counters at the last reading.
    lost: [u64; Stat::COUNT],
    pending: Vec<Event>,
    /// Tasks that ended while they were being found: slot, identity, and when that was seen. They are told in the order of
    /// time among what is in the ring buffer. That may begin with a process that they created, and a service that has it
    /// was never without one.
    departed: Vec<(u32, Life, u64)>,
    page_shift: u32,
    ns_per_tick: u64,
}

impl Source {
    /// Loads the programs and attaches them. Nothing is followed yet.
    ///
    /// # Errors
    /// If the kernel refuses or lacks something; the error says what to do.
    pub fn start(options: Options) -> Result<Self, ProbeError> {
        let kernel = load(&options)?;
        let now = monotonic_ns();
        Ok(Self {
            kernel,
            options,
            coverage: Coverage::default(),
            reports_execs: false,
            tasks: Vec::new(),
            processes: HashMap::new(),
            ended: Vec::new(),
            accounts: Accounts::new(),
            epoch_ns: epoch_ns(),
            boot_epoch_ns: boot_epoch_ns(),
            window_start_ns: now,
            housekeeping_ns: now,
            next_sample: 0,
            untold: 0,
            untold_since_ns: None,
            lost: [0; Stat::COUNT],
            pending: Vec::new(),
            departed: Vec::new(),
            page_shift: rustix::param::page_size().trailing_zeros(),
            ns_per_tick: ns_per_tick(),
        })
    }

    /// Starts the first window anew, and tells when that is, in nanoseconds since the Unix epoch.
    pub fn begin(&mut self) -> u64 {
        self.window_start_ns = monotonic_ns();
        self.window_start_ns + self.epoch_ns
    }

    /// The hooks that were chosen.
    pub fn hooks(&self) -> &Hooks {
        &self.kernel.hooks
    }

    /// The processes that are followed now, with the index of their service.
    pub fn processes(&self) -> impl Iterator<Item = (Life, u32)> {
        self.processes
            .values()
            .filter(|p| p.live > 0)
            .map(|p| (p.life, p.service))
    }

    /// How many tasks are followed now.
    pub(super) fn live_tasks(&self) -> u32 {
        self.processes.values().map(|p| p.live).sum()
    }

    /// Now, in nanoseconds since the Unix epoch, by the clock that events are stamped with.
    pub fn now(&self) -> u64 {
        monotonic_ns() + self.epoch_ns
    }

    /// Follows what executes a program inside one of these cgroups (ids in the unified hierarchy, each with the
    /// index of its service), from then on, and no longer what does in others. To be called again when a cgroup
    /// is made anew.
    ///
    /// # Errors
    /// If there are more than the table holds.
    pub fn follow_cgroups(&mut self, cgroups: &[(u64, u32)]) -> Result<(), ProbeError> {
        let full = |e| map_error("the followed cgroups (1,024)", &e);
        let table = &mut self.kernel.followed_cgroups;
        let stale: Vec<u64> = table
            .keys()
            .filter_map(Result::ok)
            .filter(|id| !cgroups.iter().any(|(wanted, _)| wanted == id))
            .collect();
        for id in stale {
            table.remove(&id).map_err(full)?;
        }
        for (id, service) in cgroups {
            table.insert(id, service, 0).map_err(full)?;
        }
        Ok(())
    }

    /// Takes which processes had the CPU that followed ones waited long for, since the last call.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn take_rivals(&mut self) -> Result<Vec<Rival>, ProbeError> {
        rivals::take(&mut self.kernel.rivals)
    }

    /// Counts a process that should have been followed and found no room.
    pub fn count_refused(&mut self) {
        self.pending.push(Event::Loss {
            ts: self.now(),
            class: Class::Task,
            count: 1,
        });
    }

    /// Follows what executes a program with a name, from then on.
    ///
    /// # Errors
    /// If the table is full.
    pub fn follow_name(&mut self, name: [u8; 16], service: u32) -> Result<(), ProbeError> {
        self.kernel
            .followed_names
            .insert(name, service, 0)
            .map_err(|e| map_error("the followed names (64)", &e))
    }

    /// Reports every exec on the host as [`Event::StrangerExec`] unless it is followed, so that
    /// the daemon can match what the kernel side cannot (`argv[0]`, for one).
    ///
    /// # Errors
    /// If the shared settings cannot be mapped.
    pub fn report_execs(&mut self, report: bool) -> Result<(), ProbeError> {
        self.reports_execs = report;
        self.kernel
            .tables
            .configure(self.options.slow_ns, self.options.min_mapping_bytes, report)
            .map_err(map_io)
    }

    /// Stops following a process that lives on.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn unfollow(&mut self, pid: u32) -> Result<(), ProbeError> {
        let slots: Vec<_> = (0..)
            .zip(&self.tasks)
            .filter_map(|(slot, tracked)| {
                let tracked = tracked.as_ref()?;
                (tracked.task.process.id == pid && !tracked.exited)
                    .then_some((slot, tracked.task.thread.id))
            })
            .collect();
        for (slot, tid) in slots {
            self.unpublish(tid, slot)?;
            self.let_go(slot, true)?;
        }
        Ok(())
    }

    /// Does the process run, and has not begun to exit?
    pub fn is_running(pid: u32) -> bool {
        seed::read_stat(pid, pid).is_some()
    }

    /// Appends what has happened since the last call. Returns true if there is more to drain at once.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn drain(&mut self, out: &mut Vec<Event>) -> Result<bool, ProbeError> {
        if let Some(logger) = &mut self.kernel.logger {
            logger.flush();
        }
        self.hand_over(out);
        let mut taken = 0;
        while taken < DRAIN_LIMIT {
            // Copied out, so that its place in the ring is free again before it is worked on.
            let Some(event) = self.kernel.ring.next().map(|item| Wire::parse(&item)) else {
                break;
            };
            taken += 1;
            self.handle(&event)?;
            out.append(&mut self.pending);
        }
        let more = taken == DRAIN_LIMIT;
        if !more {
            self.tell_departed(u64::MAX)?;
            out.append(&mut self.pending);
        }
        if monotonic_ns() - self.housekeeping_ns >= HOUSEKEEPING_NS {
            self.keep_house()?;
            out.append(&mut self.pending);
        }
        Ok(more)
    }

    /// Passes on what is pending. When a service is found, that is an event for each of its threads.
    pub fn hand_over(&mut self, out: &mut Vec<Event>) {
        if out.is_empty() {
            mem::swap(out, &mut self.pending);
        } else {
            out.append(&mut self.pending);
        }
        self.pending.shrink_to(DRAIN_LIMIT);
    }

    /// Ends a window, some tasks at a time: samples them, and returns true if there are more to sample at once. After the
    /// last one, samples every process and appends [`Event::WindowEnd`]. What is still in the ring buffer, beyond one
    /// last drain, belongs to the next.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn end_window(&mut self, out: &mut Vec<Event>) -> Result<bool, ProbeError> {
        if self.next_sample == 0 {
            self.drain(out)?;
            self.look_through(monotonic_ns().saturating_sub(LATE_NS))?;
            self.ask_for_accounts();
        }
        let end = (self.next_sample + SAMPLE_LIMIT).min(self.tasks.len());
        for slot in self.next_sample..end {
            if self.tasks[slot].as_ref().is_some_and(|t| !t.exited) {
                self.sample(slot as u32)?;
            }
        }
        let more = end < self.tasks.len();
        self.next_sample = if more { end } else { 0 };
        if more {
            self.hand_over(out);
            return Ok(true);
        }
        self.asked_for_accounts();
        self.account_processes()?;
        self.read_skipped();
        out.append(&mut self.pending);
        let now = monotonic_ns();
        out.extend(self.coverage.end_window(self.window_start_ns, now));
        self.epoch_ns = epoch_ns_since(self.epoch_ns);
        out.push(Event::WindowEnd {
            ts: now + self.epoch_ns,
            period_ns: now - self.window_start_ns,
        });
        self.window_start_ns = now;
        Ok(false)
    }

    /// Recovers all that was lost, however late it may only be. To be called once nothing more is to come.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn recover_all(&mut self, out: &mut Vec<Event>) -> Result<(), ProbeError> {
        while self.drain(out)? {}
        self.look_through(u64::MAX)?;
        out.append(&mut self.pending);
        Ok(())
    }

    /// Reads what the kernel says about each process. Where that differs from what the calls have told, and no call has
    /// returned since the last window ended, the address space has changed without a call that is hooked (a stack that
    /// grew, shared memory, a child that borrows it): the change is booked on the process. Were it booked at once, that
    /// of a call which is just returning could be among it, and the call would seem to have changed nothing.
    fn account_processes(&mut self) -> Result<(), ProbeError> {
        self.accounts.start_window();
        let alive: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, p)| p.live > 0)
            .map(|(slot, p)| (*slot, p.life, p.service, p.pages))
            .collect();
        for (slot, process, service, before) in alive {
            let record = self.record(slot)?;
            let mut pages = record.pages();
            let account = self.accounts.read(process);
            let mut unseen = MemoryFlow::default();
            if pages == before
                && pages.vm != 0
                && let Some(kernel) = Pages::of(&account, self.page_shift)
            {
                unseen = record.adopt(pages, kernel).flow(self.page_shift);
                pages = record.pages();
            }
            if let Some(process) = self.processes.get_mut(&slot) {
                process.pages = pages;
            }
            self.pending.push(Event::Process {
                process,
                service,
                account,
                // Zero only where /proc could not be read at the start and nothing was mapped since.
                standing: (pages.vm != 0).then(|| Standing {
                    reserved_bytes: pages.vm << self.page_shift,
                    committed_bytes: pages.data << self.page_shift,
                }),
                unseen,
            });
        }
        let processes = &self.processes;
        self.accounts
            .keep(|life| processes.values().any(|p| p.life == *life));
        Ok(())
    }

    /// Reads the loss counters, and gives back slots. If starts or exits were lost, the records tell which: they are looked
    /// through until all that had exited by then were so a second ago. Else there is nothing to be found in them, and
    /// with 50,000 tasks a look at all of them takes 7 ms.
    fn keep_house(&mut self) -> Result<(), ProbeError> {
        self.housekeeping_ns = monotonic_ns();
        self.read_losses()?;
        let untold = self.lost[Stat::TaskLost as usize] + self.lost[Stat::ExecLost as usize];
        if mem::replace(&mut self.untold, untold) != untold {
            self.untold_since_ns = Some(self.housekeeping_ns);
        }
        let Some(since_ns) = self.untold_since_ns else {
            return self.free_ended();
        };
        let exited_before_ns = self.housekeeping_ns.saturating_sub(LATE_NS);
        if exited_before_ns >= since_ns {
            self.untold_since_ns = None;
        }
        self.recover(exited_before_ns)
    }

    /// The same, but looks through the records whatever was lost.
    fn look_through(&mut self, exited_before_ns: u64) -> Result<(), ProbeError> {
        self.keep_house()?;
        self.recover(exited_before_ns)
    }

    /// Recovers tasks whose events were lost, and gives back slots.
    fn recover(&mut self, exited_before_ns: u64) -> Result<(), ProbeError> {
        for slot in NO_SLOT + 1..self.kernel.tables.used().map_err(map_io)? {
            self.recover_one(slot, exited_before_ns)?;
        }
        self.free_ended()
    }

    /// Takes note of a task whose start or exit was not told.
    fn recover_one(&mut self, slot: u32, exited_before_ns: u64) -> Result<(), ProbeError> {
        let record = self.record(slot)?;
        let known = self.tasks.get(slot as usize).and_then(Option::as_ref);
        if !record.in_use() || known.is_some_and(|tracked| tracked.exited) {
            return Ok(());
        }
        let is_known = known.is_some();
        match read!(record.task, exit_ns) {
            0 if is_known || !self.is_published(record, slot)? => Ok(()),
            0 => self.started(slot),
            exit_ns if exit_ns <= exited_before_ns => self.finished(slot),
            _ => Ok(()),
        }
    }

    /// A record that is being filled is not published yet.
    fn is_published(&mut self, record: Record, slot: u32) -> Result<bool, ProbeError> {
        let place = self
            .kernel
            .tables
            .slot_of(read!(record.sched, tid))
            .map_err(map_io)?;
        Ok(place.is_some_and(|p| p.load(std::sync::atomic::Ordering::SeqCst) == slot))
    }

    /// Gives back the slots of processes that have no live threads left. Called when no start is untold, or all records
    /// were looked through, so that no thread of theirs is still unknown.
    fn free_ended(&mut self) -> Result<(), ProbeError> {
        for slot in mem::take(&mut self.ended) {
            if self.processes.get(&slot).is_some_and(|p| p.live == 0) {
                self.processes.remove(&slot);
                self.tasks[slot as usize] = None;
                self.give_back(slot)?;
            }
        }
        Ok(())
    }

    fn read_losses(&mut self) -> Result<(), ProbeError> {
        const CLASSES: [(Stat, Class); 6] = [
            (Stat::MappingLost, Class::Mapping),
            (Stat::ExecLost, Class::Exec),
            (Stat::DelayLost, Class::Delay),
            (Stat::NoSlot, Class::Task),
            (Stat::TidBeyondTable, Class::Task),
            (Stat::NegativeWait, Class::NegativeWait),
        ];
        let ts = self.now();
        for (stat, class) in CLASSES {
            let before = self.lost[stat as usize];
            let total = self.count_of(stat)?;
            if total > before {
                self.pending.push(Event::Loss {
                    ts,
                    class,
                    count: total - before,
                });
            }
        }
        self.count_of(Stat::TaskLost)?;
        Ok(())
    }

    fn read_skipped(&mut self) {
        let count = self.kernel.skipped.take();
        if count > 0 {
            self.pending.push(Event::Loss {
                ts: self.now(),
                class: Class::SkippedRun,
                count,
            });
        }
    }

    /// Reads a counter of the kernel side, and remembers it.
    fn count_of(&mut self, stat: Stat) -> Result<u64, ProbeError> {
        let values = self.kernel.stats.get(&(stat as u32), 0);
        let values = values.map_err(|e| map_error("the counters", &e))?;
        let total = values.iter().sum();
        self.lost[stat as usize] = total;
        Ok(total)
    }

    /// Starts and exits of tasks that found the ring buffer full, so far. They were taken from the records
    /// instead, and nothing is missing.
    pub fn recovered(&self) -> u64 {
        self.lost[Stat::TaskLost as usize]
    }

    fn handle(&mut self, event: &Wire) -> Result<(), ProbeError> {
        match event {
            Wire::TaskStart(header) => {
                self.tell_departed(header.ts)?;
                self.started_as(header.slot, header.tid)
            }
            Wire::TaskExit(header) => {
                let record = self.record(header.slot)?;
                if read!(record.sched, tid) == header.tid && read!(record.task, exit_ns) != 0 {
                    self.finished(header.slot)?;
                }
                Ok(())
            }
            Wire::Exec(event) => self.executed(event),
            Wire::Mapping(event) => {
                let Some(call) = Call::from_wire(event.call) else {
                    return Ok(());
                };
                let task = self.task_of(&event.header)?;
                self.pending.push(Event::Mapping {
                    ts: event.header.ts + self.epoch_ns,
                    task,
                    call,
                    address: event.address,
                    length: event.length,
                    detail: event.detail,
                    flags: event.flags,
                    reserved_change: event.reserved_change,
                    committed_change: event.committed_change,
                    one_in: event.sampled,
                });
                Ok(())
            }
            Wire::Delay(event) => {
                let task = self.task_of(&event.header)?;
                self.pending.push(Event::Delay {
                    ts: event.header.ts + self.epoch_ns,
                    task,
                    wait_ns: event.wait_ns,
                    cpu: event.cpu,
                    culprit: (event.culprit_tgid, event.culprit_tid),
                    culprit_name: event.culprit_comm,
                    culprit_followed: event.culprit_is_member != 0,
                });
                Ok(())
            }
            Wire::Unknown => Ok(()),
        }
    }

    fn executed(&mut self, event: &ExecEvent) -> Result<(), ProbeError> {
        let ts = event.header.ts + self.epoch_ns;
        let slot = event.header.slot;
        if slot == NO_SLOT {
            self.pending.push(Event::StrangerExec {
                ts,
                pid: event.header.tgid,
            });
            return Ok(());
        }
        let record = self.record(slot)?;
        if read!(record.sched, tid) != event.header.tid {
            return Ok(());
        }
        self.started(slot)?;
        if self.tasks[slot as usize]
            .as_ref()
            .is_some_and(|t| t.task.thread.id != event.header.tid)
        {
            self.took_over_leader(slot, event.header.ts)?;
        }
        if let Some(tracked) = &mut self.tasks[slot as usize] {
            tracked.task.name = event.comm;
            self.pending.push(Event::Exec {
                ts,
                task: tracked.task,
            });
        }
        Ok(())
    }

    /// A thread executed a program and thereby took over the id of its process's first thread, which has
    /// ended by then, as all the others have. The process goes on.
    fn took_over_leader(&mut self, slot: u32, exec_ns: u64) -> Result<(), ProbeError> {
        self.sample(slot)?;
        let Some(mut tracked) = self.tasks[slot as usize].take() else {
            return Ok(());
        };
        let thread = tracked.task;
        let leader_slot = mem::replace(&mut tracked.process_slot, slot);
        // Those whose exit was lost as well: later on, nothing would tell any more which process they were of.
        for ended in self.slots_of(Some(leader_slot))? {
            self.finished(ended)?;
        }
        let ts = exec_ns + self.epoch_ns;
        let followed_ns = exec_ns.saturating_sub(read!(self.record(slot)?.task, born_ns));
        tracked.task.thread = thread.process;
        // The new identity begins before the old one ends, so that the process is never without a thread.
        self.pending.push(Event::TaskStart {
            ts,
            task: tracked.task,
            origin: Origin::Thread,
            creator: None,
        });
        self.pending.push(Event::TaskExit {
            ts,
            task: thread,
            followed_ns,
            alive: false,
        });
        self.tasks[slot as usize] = Some(tracked);
        self.processes.remove(&leader_slot);
        self.processes.insert(
            slot,
            Process {
                life: thread.process,
                service: thread.service,
                live: 1,
                pages: Pages::default(),
            },
        );
        self.tasks[leader_slot as usize] = None;
        self.give_back(leader_slot)
    }

    /// Slots of whole records, also of tasks whose start was not told: of one process, or of all.
    pub(super) fn slots_of(&mut self, process_slot: Option<u32>) -> Result<Vec<u32>, ProbeError> {
        let mut slots = Vec::new();
        for slot in NO_SLOT + 1..self.kernel.tables.used().map_err(map_io)? {
            let record = self.record(slot)?;
            if record.in_use()
                && process_slot.is_none_or(|wanted| wanted == read!(record.task, process_slot))
                && (read!(record.task, exit_ns) != 0 || self.is_published(record, slot)?)
            {
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// A process is about to be told to have ended with its last thread. If starts were lost since they were last
    /// looked for, it may have others.
    fn find_untold(&mut self, process_slot: u32) -> Result<(), ProbeError> {
        let ends = self
            .processes
            .get(&process_slot)
            .is_some_and(|p| p.live == 1);
        let lost_before = self.lost[Stat::TaskLost as usize];
        if ends && self.count_of(Stat::TaskLost)? != lost_before {
            for slot in self.slots_of(None)? {
                self.started(slot)?;
            }
        }
        Ok(())
    }

    /// The task an event is about.
    fn task_of(&mut self, header: &Header) -> Result<Task, ProbeError> {
        if header.slot != NO_SLOT && read!(self.record(header.slot)?.sched, tid) == header.tid {
            self.started(header.slot)?;
        }
        if let Some(Some(tracked)) = self.tasks.get(header.slot as usize)
            && tracked.task.thread.id == header.tid
        {
            return Ok(tracked.task);
        }
        // It exited, and its record was read and given back, before its last event came to its turn.
        Ok(Task {
            thread: Life {
                id: header.tid,
                start_ns: 0,
            },
            process: Life {
                id: header.tgid,
                start_ns: 0,
            },
            service: 0,
            name: [0; 16],
        })
    }

    /// A record was made: takes note of the task, once.
    pub(super) fn started(&mut self, slot: u32) -> Result<(), ProbeError> {
        let tid = read!(self.record(slot)?.sched, tid);
        self.started_as(slot, tid)
    }

    /// The same for a task that had this id when its record was made.
    fn started_as(&mut self, slot: u32, tid: u32) -> Result<(), ProbeError> {
        let index = slot as usize;
        if self.tasks.len() <= index {
            self.tasks.resize_with(index + 1, || None);
        }
        let record = self.record(slot)?;
        if self.tasks[index].is_some() || !record.in_use() {
            return Ok(());
        }
        let tracked = self.tracked(record, slot, tid)?;
        let task = tracked.task;
        let process_slot = tracked.process_slot;
        self.tasks[index] = Some(tracked);
        let process = self.processes.entry(process_slot).or_insert(Process {
            life: task.process,
            service: task.service,
            live: 0,
            pages: Pages::default(),
        });
        process.live += 1;
        if process.live == 1 {
            self.accounts.baseline(task.process);
        }
        let creator = (
            read!(record.task, creator_tgid),
            read!(record.task, creator_tid),
        );
        self.pending.push(Event::TaskStart {
            ts: read!(record.task, born_ns) + self.epoch_ns,
            task,
            origin: origin_of(read!(record.task, origin)),
            creator: (creator.1 != 0).then_some(creator),
        });
        Ok(())
    }

    fn tracked(&mut self, record: Record, slot: u32, tid: u32) -> Result<Tracked, ProbeError> {
        let pid = read!(record.task, tgid);
        // It has executed a program in the meantime, and taken over the first thread's id and process.
        let took_over = tid != read!(record.sched, tid);
        let process_slot = if took_over {
            self.process_slot(pid).unwrap_or(slot)
        } else {
            read!(record.task, process_slot)
        };
        let first = self.record(process_slot)?;
        let process = Life {
            id: pid,
            start_ns: read!(first.task, start_boot_ns) + self.boot_epoch_ns,
        };
        let thread = Life {
            id: tid,
            start_ns: if took_over {
                read!(record.task, born_ns) + self.epoch_ns
            } else {
                read!(record.task, start_boot_ns) + self.boot_epoch_ns
            },
        };
        // A task that the fork hook saw began at zero. The others have waited before.
        let account = match read!(record.task, origin) {
            origin::THREAD | origin::FORK => Some(ThreadAccount::default()),
            _ => account::schedstat(pid, tid),
        };
        let task = Task {
            thread,
            process,
            service: read!(record.task, service),
            name: read!(record.task, comm),
        };
        Ok(Tracked::new(task, process_slot, account))
    }

    /// The slot of a followed process that lives.
    fn process_slot(&self, pid: u32) -> Option<u32> {
        let mut living = self
            .processes
            .iter()
            .filter(|(_, process)| process.live > 0);
        living
            .find(|(_, process)| process.life.id == pid)
            .map(|(slot, _)| *slot)
    }

    /// A task has exited.
    pub(super) fn finished(&mut self, slot: u32) -> Result<(), ProbeError> {
        self.let_go(slot, false)
    }

    /// A task has exited while it was being found.
    pub(super) fn departed(&mut self, slot: u32) -> Result<(), ProbeError> {
        let exit_ns = read!(self.record(slot)?.task, exit_ns);
        let tracked = self.tasks.get(slot as usize).and_then(Option::as_ref);
        let departed = tracked.map(|tracked| (slot, tracked.task.thread, exit_ns));
        self.departed.extend(departed);
        Ok(())
    }

    /// Ends those that were gone by then, unless the exit hook was faster: then the slot may be another task's.
    fn tell_departed(&mut self, by_ns: u64) -> Result<(), ProbeError> {
        let told = |departed: &mut (u32, Life, u64)| departed.2 < by_ns;
        let told: Vec<_> = self.departed.extract_if(.., told).collect();
        for (slot, life, _) in told {
            let tracked = self.tasks[slot as usize].as_ref();
            if tracked.is_some_and(|tracked| tracked.task.thread == life) {
                self.finished(slot)?;
            }
        }
        Ok(())
    }

    /// A task is not followed any more: takes its last sample, and gives its slot back.
    fn let_go(&mut self, slot: u32, alive: bool) -> Result<(), ProbeError> {
        self.started(slot)?;
        let record = self.record(slot)?;
        let Some(tracked) = &mut self.tasks[slot as usize] else {
            return Ok(());
        };
        if tracked.exited {
            return Ok(());
        }
        tracked.exited = true;
        let (task, process_slot) = (tracked.task, tracked.process_slot);
        self.find_untold(process_slot)?;
        self.sample(slot)?;
        let exit_ns = read!(record.task, exit_ns);
        self.pending.push(Event::TaskExit {
            ts: exit_ns + self.epoch_ns,
            task,
            followed_ns: exit_ns.saturating_sub(read!(record.task, born_ns)),
            alive,
        });
        if let Some(process) = self.processes.get_mut(&process_slot) {
            process.live = process.live.saturating_sub(1);
            if process.live == 0 {
                self.ended.push(process_slot);
            }
        }
        if process_slot != slot {
            self.tasks[slot as usize] = None;
            self.give_back(slot)?;
        }
        Ok(())
    }

    /// Takes what each task did since its last sample.
    pub(super) fn sample_all(&mut self) -> Result<(), ProbeError> {
        for slot in 1..self.tasks.len() as u32 {
            if self.tasks[slot as usize]
                .as_ref()
                .is_some_and(|t| !t.exited)
            {
                self.sample(slot)?;
            }
        }
        Ok(())
    }

    /// Takes what a task did since its last sample.
    fn sample(&mut self, slot: u32) -> Result<(), ProbeError> {
        let record = self.record(slot)?;
        let sample = self.tasks[slot as usize]
            .as_mut()
            .and_then(|tracked| self.coverage.sample(tracked, record, self.page_shift));
        self.pending.extend(sample);
        Ok(())
    }

    pub(super) fn record(&mut self, slot: u32) -> Result<Record, ProbeError> {
        self.kernel
            .tables
            .record(slot)
            .map_err(map_io)?
            .ok_or_else(|| map_io(io::Error::other(format!("no record in slot {slot}"))))
    }

    /// A slot for a task found in `/proc`.
    pub(super) fn take_slot(&mut self) -> Result<u32, ProbeError> {
        match self.kernel.free_slots.pop(0) {
            Ok(slot) => Ok(slot),
            Err(_) => self
                .kernel
                .tables
                .take_unused()
                .map_err(map_io)?
                .ok_or(ProbeError::NoSlot(self.options.limits.max_tasks)),
        }
    }

    /// Clears a record and gives its slot back to the programs.
    pub(super) fn give_back(&mut self, slot: u32) -> Result<(), ProbeError> {
        self.record(slot)?.clear();
        self.kernel
            .free_slots
            .push(slot, 0)
            .map_err(|e| map_error("the free slots", &e))
    }

    pub(super) fn page_shift(&self) -> u32 {
        self.page_shift
    }

    pub(super) fn ns_per_tick(&self) -> u64 {
        self.ns_per_tick
    }
}

fn origin_of(number: u32) -> Origin {
    match number {
        origin::THREAD => Origin::Thread,
        origin::FORK => Origin::Fork,
        origin::CGROUP => Origin::Cgroup,
        origin::NAME => Origin::Name,
        _ => Origin::Found,
    }
}
