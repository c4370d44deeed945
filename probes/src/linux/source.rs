//! The live source: loads the programs, drains their events, and samples the records they keep.

use std::{collections::HashMap, fs, io};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, PerCpuArray, Queue, RingBuf},
};
use aya_log::EbpfLogger;
use rustix::time::{ClockId, clock_gettime};
use slowburn_common::{
    event::{DelayEvent, ExecEvent, Header, MappingEvent, kind},
    stats::Stat,
    task::{MEMBERS_PER_ELEMENT, NO_SLOT, SLOTS_PER_ELEMENT, TaskRecord, origin},
};

use super::{
    account::{self, Accounts},
    error::ProbeError,
    hooks::{self, Hooks, Need, Preference},
    offsets::Offsets,
    seed::{self, map_io},
    support,
    tables::{Record, Tables, read},
};
use crate::event::{
    Call, Class, Delays, Event, Life, MemoryFlow, Origin, Standing, Task, ThreadAccount,
};

/// The compiled kernel side.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SLOWBURN_BPF_OBJECT"));

/// Most events taken from the ring buffer in one go, so that a flood does not keep the daemon
/// from ending a window.
const DRAIN_LIMIT: usize = 65_536;

/// How often, at most, the loss counters are read and the records are looked through.
const HOUSEKEEPING_NS: u64 = 250_000_000;

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

/// A followed task, as the daemon knows it.
struct Tracked {
    task: Task,
    process_slot: u32,
    exited: bool,
    /// What the record held at the last sample.
    delay_count: u64,
    delay_sum_ns: u64,
    delays: Vec<(u16, u32)>,
    memory: slowburn_common::task::Memory,
    /// What the kernel said at the last sample: run-queue delay and count.
    schedstat: Option<(u64, u64)>,
}

/// A followed process.
struct Process {
    life: Life,
    service: u32,
    live: u32,
}

/// The Linux source.
pub struct Source {
    /// Keeps the programs attached; dropping it detaches them.
    _ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    ring: RingBuf<MapData>,
    free_slots: Queue<MapData, u32>,
    stats: PerCpuArray<MapData, u64>,
    followed_cgroups: aya::maps::HashMap<MapData, u64, u32>,
    followed_names: aya::maps::HashMap<MapData, [u8; 16], u32>,
    pub(super) tables: Tables,
    hooks: Hooks,
    options: Options,
    tasks: Vec<Option<Tracked>>,
    processes: HashMap<u32, Process>,
    /// Slots of processes without live threads, to be given back once no record refers to them.
    ended: Vec<u32>,
    accounts: Accounts,
    /// Nanoseconds from the monotonic clock to the Unix epoch.
    epoch_ns: u64,
    /// Nanoseconds from the boot clock to the Unix epoch, once and for all: start times are identities.
    boot_epoch_ns: u64,
    window_start_ns: u64,
    housekeeping_ns: u64,
    lost: [u64; Stat::COUNT],
    pending: Vec<Event>,
    /// The process that is just being let go of.
    leaving: Option<u32>,
    page_shift: u32,
    ns_per_tick: u64,
}

impl Source {
    /// Loads the programs and attaches them. Nothing is followed yet.
    ///
    /// # Errors
    /// If the kernel refuses or lacks something; the error says what to do.
    pub fn start(options: Options) -> Result<Self, ProbeError> {
        if !support::in_initial_pid_namespace() {
            return Err(ProbeError::PidNamespace);
        }
        if let Err(error) = support::ensure_tracefs() {
            tracing::warn!("tracefs is not mounted and cannot be ({error}): classic tracepoints are not available");
        }
        let offsets = Offsets::of_running_kernel()?;
        let btf = Btf::from_sys_fs().map_err(|e| ProbeError::NoBtf(e.to_string()))?;
        let ids = highest_task_id();
        let slots = options.limits.max_tasks + 1;
        let mut ebpf = load(&btf, &offsets, &options, ids, slots)?;
        let mut tables = Tables::new(
            (array(&ebpf, "RECORDS")?.fd(), slots),
            (array(&ebpf, "SLOTS")?.fd(), ids.div_ceil(SLOTS_PER_ELEMENT)),
            (array(&ebpf, "MEMBERS")?.fd(), ids.div_ceil(MEMBERS_PER_ELEMENT)),
            array(&ebpf, "CONTROL")?.fd(),
        )
        .map_err(map_io)?;
        tables.reset_slots().map_err(map_io)?;
        tables.configure(options.slow_ns, options.min_mapping_bytes, false).map_err(map_io)?;

        let logger = options.kernel_log.then(|| EbpfLogger::init(&mut ebpf)).transpose().unwrap_or_else(|error| {
            tracing::warn!("kernel-side log messages are not available: {error}");
            None
        });
        let hooks = attach(&mut ebpf, &btf, options.preference)?;
        let now = monotonic_ns();
        Ok(Self {
            logger,
            ring: take(&mut ebpf, "EVENTS")?,
            free_slots: take(&mut ebpf, "FREE_SLOTS")?,
            stats: take(&mut ebpf, "STATS")?,
            followed_cgroups: take(&mut ebpf, "FOLLOWED_CGROUPS")?,
            followed_names: take(&mut ebpf, "FOLLOWED_NAMES")?,
            _ebpf: ebpf,
            tables,
            hooks,
            options,
            tasks: Vec::new(),
            processes: HashMap::new(),
            ended: Vec::new(),
            accounts: Accounts::new(),
            epoch_ns: epoch_ns(),
            boot_epoch_ns: nanoseconds(ClockId::Realtime).saturating_sub(nanoseconds(ClockId::Boottime)),
            window_start_ns: now,
            housekeeping_ns: now,
            lost: [0; Stat::COUNT],
            pending: Vec::new(),
            leaving: None,
            page_shift: rustix::param::page_size().trailing_zeros(),
            ns_per_tick: 1_000_000_000 / procfs::ticks_per_second().max(1),
        })
    }

    /// The hooks that were chosen.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// The processes that are followed now, with the index of their service.
    pub fn processes(&self) -> impl Iterator<Item = (Life, u32)> {
        self.processes.values().filter(|p| p.live > 0).map(|p| (p.life, p.service))
    }

    /// Now, in nanoseconds since the Unix epoch, by the clock that events are stamped with.
    pub fn now(&self) -> u64 {
        monotonic_ns() + self.epoch_ns
    }

    /// Follows what executes a program inside a cgroup (by its id in the unified hierarchy), from then on.
    ///
    /// # Errors
    /// If the table is full.
    pub fn follow_cgroup(&mut self, id: u64, service: u32) -> Result<(), ProbeError> {
        self.followed_cgroups.insert(id, service, 0).map_err(|e| map_error("the followed cgroups (1,024)", e))
    }

    /// Follows what executes a program with a name, from then on.
    ///
    /// # Errors
    /// If the table is full.
    pub fn follow_name(&mut self, name: [u8; 16], service: u32) -> Result<(), ProbeError> {
        self.followed_names.insert(name, service, 0).map_err(|e| map_error("the followed names (64)", e))
    }

    /// Reports every exec on the host as [`Event::StrangerExec`] unless it is followed, so that
    /// the daemon can match what the kernel side cannot (`argv[0]`, for one).
    ///
    /// # Errors
    /// If the shared settings cannot be mapped.
    pub fn report_execs(&mut self, report: bool) -> Result<(), ProbeError> {
        self.tables.configure(self.options.slow_ns, self.options.min_mapping_bytes, report).map_err(map_io)
    }

    /// Stops following a process that lives on.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn unfollow(&mut self, pid: u32) -> Result<(), ProbeError> {
        let slots: Vec<_> = (0..).zip(&self.tasks).filter_map(|(slot, tracked)| {
            let tracked = tracked.as_ref()?;
            (tracked.task.process.id == pid && !tracked.exited).then_some((slot, tracked.task.thread.id))
        }).collect();
        self.leaving = Some(pid);
        for (slot, tid) in slots {
            self.unpublish(tid, slot)?;
            self.finished(slot)?;
        }
        self.leaving = None;
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
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        out.append(&mut self.pending);
        let mut taken = 0;
        while taken < DRAIN_LIMIT {
            // Copied out, so that its place in the ring is free again before it is worked on.
            let Some(event) = self.ring.next().map(|item| Wire::parse(&item)) else { break };
            taken += 1;
            self.handle(event)?;
            out.append(&mut self.pending);
        }
        if monotonic_ns() - self.housekeeping_ns >= HOUSEKEEPING_NS {
            self.keep_house()?;
            out.append(&mut self.pending);
        }
        Ok(taken == DRAIN_LIMIT)
    }

    /// Ends a window: drains, samples every task and process, and appends [`Event::WindowEnd`].
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn end_window(&mut self, out: &mut Vec<Event>) -> Result<(), ProbeError> {
        while self.drain(out)? {}
        self.keep_house()?;
        for slot in 1..self.tasks.len() as u32 {
            if self.tasks[slot as usize].as_ref().is_some_and(|t| !t.exited) {
                self.sample(slot)?;
            }
        }
        self.account_processes()?;
        out.append(&mut self.pending);
        let now = monotonic_ns();
        self.epoch_ns = epoch_ns();
        out.push(Event::WindowEnd {
            ts: now + self.epoch_ns,
            period_ns: now - self.window_start_ns,
        });
        self.window_start_ns = now;
        Ok(())
    }

    fn account_processes(&mut self) -> Result<(), ProbeError> {
        self.accounts.start_window();
        let alive: Vec<_> = self.processes.iter().filter(|(_, p)| p.live > 0).map(|(slot, p)| (*slot, p.life, p.service)).collect();
        for (slot, process, service) in alive {
            let record = self.record(slot)?;
            let (vm, data) = (read!(record, vm_pages), read!(record, data_pages));
            let event = Event::Process {
                process,
                service,
                account: self.accounts.read(process),
                // Zero only where /proc could not be read at the start and nothing was mapped since.
                standing: (vm != 0).then(|| Standing {
                    reserved_bytes: vm << self.page_shift,
                    committed_bytes: data << self.page_shift,
                }),
            };
            self.pending.push(event);
        }
        let processes = &self.processes;
        self.accounts.keep(|life| processes.values().any(|p| p.life == *life));
        Ok(())
    }

    /// Reads the loss counters, recovers tasks whose events were lost, and gives back slots.
    fn keep_house(&mut self) -> Result<(), ProbeError> {
        self.housekeeping_ns = monotonic_ns();
        self.read_losses()?;
        for slot in NO_SLOT + 1..self.tables.used().map_err(map_io)? {
            let record = self.record(slot)?;
            if !record.in_use() || self.tasks.get(slot as usize).is_some_and(|t| t.as_ref().is_some_and(|t| t.exited)) {
                continue;
            }
            let exited = read!(record, exit_ns) != 0;
            let known = self.tasks.get(slot as usize).is_some_and(Option::is_some);
            if exited {
                self.finished(slot)?;
            } else if !known && self.is_published(record, slot)? {
                self.started(slot)?;
            }
        }
        self.free_ended()
    }

    /// A record that is being filled is not published yet.
    fn is_published(&mut self, record: Record, slot: u32) -> Result<bool, ProbeError> {
        let place = self.tables.slot_of(read!(record, tid)).map_err(map_io)?;
        Ok(place.is_some_and(|p| p.load(std::sync::atomic::Ordering::SeqCst) == slot))
    }

    /// Gives back the slots of processes that have no live threads left. Called after all records were
    /// looked through, so that no thread of theirs is still unknown.
    fn free_ended(&mut self) -> Result<(), ProbeError> {
        for slot in std::mem::take(&mut self.ended) {
            if self.processes.get(&slot).is_some_and(|p| p.live == 0) {
                self.processes.remove(&slot);
                self.tasks[slot as usize] = None;
                self.give_back(slot)?;
            }
        }
        Ok(())
    }

    fn read_losses(&mut self) -> Result<(), ProbeError> {
        const CLASSES: [(Stat, Class); 7] = [
            (Stat::MappingLost, Class::Mapping),
            (Stat::ExecLost, Class::Exec),
            (Stat::DelayLost, Class::Delay),
            (Stat::NoSlot, Class::Task),
            (Stat::TidBeyondTable, Class::Task),
            (Stat::NegativeWait, Class::NegativeWait),
            (Stat::UnpairedReturn, Class::UnpairedReturn),
        ];
        let ts = self.now();
        for (stat, class) in CLASSES {
            let values = self.stats.get(&(stat as u32), 0).map_err(|e| map_error("the counters", e))?;
            let total: u64 = values.iter().sum();
            let before = std::mem::replace(&mut self.lost[stat as usize], total);
            if total > before {
                self.pending.push(Event::Loss { ts, class, count: total - before });
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Wire) -> Result<(), ProbeError> {
        match event {
            Wire::TaskStart(header) => self.started(header.slot),
            Wire::TaskExit(header) => {
                let record = self.record(header.slot)?;
                if read!(record, tid) == header.tid && read!(record, exit_ns) != 0 {
                    self.finished(header.slot)?;
                }
                Ok(())
            }
            Wire::Exec(event) => self.executed(&event),
            Wire::Mapping(event) => {
                let Some(call) = Call::from_wire(event.call) else { return Ok(()) };
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
            self.pending.push(Event::StrangerExec { ts, pid: event.header.tgid });
            return Ok(());
        }
        let record = self.record(slot)?;
        if read!(record, tid) != event.header.tid {
            return Ok(());
        }
        self.started(slot)?;
        if self.tasks[slot as usize].as_ref().is_some_and(|t| t.task.thread.id != event.header.tid) {
            self.took_over_leader(slot)?;
        }
        if let Some(tracked) = &mut self.tasks[slot as usize] {
            tracked.task.name = event.comm;
            self.pending.push(Event::Exec { ts, task: tracked.task });
        }
        Ok(())
    }

    /// A thread executed a program and thereby became the first thread of its process. To everybody
    /// outside, the thread it was has ended and the process goes on.
    fn took_over_leader(&mut self, slot: u32) -> Result<(), ProbeError> {
        self.sample(slot)?;
        let Some(tracked) = self.tasks[slot as usize].take() else { return Ok(()) };
        let record = self.record(slot)?;
        self.pending.push(Event::TaskExit {
            ts: self.now(),
            task: tracked.task,
            followed_ns: monotonic_ns().saturating_sub(read!(record, born_ns)),
            alive: false,
        });
        if let Some(process) = self.processes.get_mut(&tracked.process_slot) {
            process.live = process.live.saturating_sub(1);
        }
        self.started(slot)
    }

    /// The task an event is about.
    fn task_of(&mut self, header: &Header) -> Result<Task, ProbeError> {
        if header.slot != NO_SLOT && read!(self.record(header.slot)?, tid) == header.tid {
            self.started(header.slot)?;
            if let Some(tracked) = &self.tasks[header.slot as usize] {
                return Ok(tracked.task);
            }
        }
        // It exited, and its record was read and given back, before its last event came to its turn.
        Ok(Task {
            thread: Life { id: header.tid, start_ns: 0 },
            process: Life { id: header.tgid, start_ns: 0 },
            service: 0,
            name: [0; 16],
        })
    }

    /// A record was made: takes note of the task, once.
    pub(super) fn started(&mut self, slot: u32) -> Result<(), ProbeError> {
        let index = slot as usize;
        if self.tasks.len() <= index {
            self.tasks.resize_with(index + 1, || None);
        }
        let record = self.record(slot)?;
        if self.tasks[index].is_some() || !record.in_use() {
            return Ok(());
        }
        let tracked = self.tracked(record, slot)?;
        let task = tracked.task;
        let process_slot = tracked.process_slot;
        self.tasks[index] = Some(tracked);
        let process = self.processes.entry(process_slot).or_insert(Process {
            life: task.process,
            service: task.service,
            live: 0,
        });
        process.live += 1;
        if process.live == 1 {
            self.accounts.baseline(task.process);
        }
        let creator = (read!(record, creator_tgid), read!(record, creator_tid));
        self.pending.push(Event::TaskStart {
            ts: read!(record, born_ns) + self.epoch_ns,
            task,
            origin: origin_of(read!(record, origin)),
            creator: (creator.1 != 0).then_some(creator),
        });
        Ok(())
    }

    fn tracked(&mut self, record: Record, slot: u32) -> Result<Tracked, ProbeError> {
        let process_slot = read!(record, process_slot);
        let leader = self.record(process_slot)?;
        let thread = Life { id: read!(record, tid), start_ns: read!(record, start_boot_ns) + self.boot_epoch_ns };
        let pid = read!(record, tgid);
        let process = if process_slot == slot {
            Life { id: pid, start_ns: thread.start_ns }
        } else {
            Life { id: pid, start_ns: read!(leader, start_boot_ns) + self.boot_epoch_ns }
        };
        // A task that the fork hook saw began at zero. The others have waited before; what they waited
        // between being published and this reading is missing from the kernel's side of their first window.
        let schedstat = match read!(record, origin) {
            origin::THREAD | origin::FORK => Some((0, 0)),
            _ => account::schedstat(pid, thread.id),
        };
        Ok(Tracked {
            task: Task {
                thread,
                process,
                service: read!(record, service),
                name: read!(record, comm),
            },
            process_slot,
            exited: false,
            delay_count: 0,
            delay_sum_ns: 0,
            delays: Vec::new(),
            memory: slowburn_common::task::Memory::default(),
            schedstat,
        })
    }

    /// A task has exited: takes its last sample, and gives its slot back.
    pub(super) fn finished(&mut self, slot: u32) -> Result<(), ProbeError> {
        self.started(slot)?;
        let record = self.record(slot)?;
        let Some(tracked) = &mut self.tasks[slot as usize] else { return Ok(()) };
        if tracked.exited {
            return Ok(());
        }
        tracked.exited = true;
        let (task, process_slot) = (tracked.task, tracked.process_slot);
        self.sample(slot)?;
        let exit_ns = read!(record, exit_ns);
        self.pending.push(Event::TaskExit {
            ts: exit_ns + self.epoch_ns,
            task,
            followed_ns: exit_ns.saturating_sub(read!(record, born_ns)),
            alive: self.leaving == Some(task.process.id),
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

    /// Takes what a task did since its last sample.
    fn sample(&mut self, slot: u32) -> Result<(), ProbeError> {
        let record = self.record(slot)?;
        let shift = self.page_shift;
        let Some(tracked) = &mut self.tasks[slot as usize] else { return Ok(()) };
        tracked.task.name = read!(record, comm);
        let memory_now = read!(record, memory);
        let memory = flow(&memory_now, &tracked.memory, shift);
        tracked.memory = memory_now;
        let waited = read!(record, delay_count) != tracked.delay_count;
        if !waited && memory.is_empty() {
            return Ok(());
        }
        let (delays, account) = if waited { tracked.take_delays(record) } else { Default::default() };
        self.pending.push(Event::Sample { task: tracked.task, memory, delays, account });
        Ok(())
    }

    pub(super) fn record(&mut self, slot: u32) -> Result<Record, ProbeError> {
        self.tables
            .record(slot)
            .map_err(map_io)?
            .ok_or_else(|| map_io(io::Error::other(format!("no record in slot {slot}"))))
    }

    /// A slot for a task found in `/proc`.
    pub(super) fn take_slot(&mut self) -> Result<u32, ProbeError> {
        match self.free_slots.pop(0) {
            Ok(slot) => Ok(slot),
            Err(_) => self.tables.take_unused().map_err(map_io)?.ok_or(ProbeError::NoSlot(self.options.limits.max_tasks)),
        }
    }

    /// Clears a record and gives its slot back to the programs.
    pub(super) fn give_back(&mut self, slot: u32) -> Result<(), ProbeError> {
        self.record(slot)?.clear();
        self.free_slots.push(slot, 0).map_err(|e| map_error("the free slots", e))
    }

    pub(super) fn page_shift(&self) -> u32 {
        self.page_shift
    }

    pub(super) fn ns_per_tick(&self) -> u64 {
        self.ns_per_tick
    }
}

impl Tracked {
    fn take_delays(&mut self, record: Record) -> (Delays, Option<ThreadAccount>) {
        // The sums first, then the buckets: what is added in between shows in the next sample's sum.
        let (count, sum_ns) = (read!(record, delay_count), read!(record, delay_sum_ns));
        // SAFETY of the reads is in the macro; each bucket is one word and grows only.
        let buckets = read!(record, delays);
        // Read at once after, so that both speak of the same period.
        let schedstat = if self.exited { None } else { account::schedstat(self.task.process.id, self.task.thread.id) };
        let account = self.schedstat.zip(schedstat).and_then(|(before, now)| {
            Some(ThreadAccount {
                run_delay_ns: now.0.checked_sub(before.0)?,
                run_count: now.1.checked_sub(before.1)?,
            })
        });
        self.schedstat = schedstat;
        let now: Vec<_> = (0..).zip(buckets).filter(|(_, count)| *count != 0).collect();
        let delays = Delays {
            counts: difference(&now, &self.delays),
            sum_ns: sum_ns.wrapping_sub(self.delay_sum_ns),
            max_ns: record.take_delay_max(),
        };
        self.delay_count = count;
        self.delay_sum_ns = sum_ns;
        self.delays = now;
        (delays, account)
    }
}

/// What was added to a histogram. Both are ascending by bucket, and buckets never vanish except by wrapping to 0.
fn difference(now: &[(u16, u32)], before: &[(u16, u32)]) -> Vec<(u16, u32)> {
    let mut before = before.iter().peekable();
    now.iter()
        .filter_map(|&(bucket, count)| {
            while before.peek().is_some_and(|(b, _)| *b < bucket) {
                before.next();
            }
            let old = before.next_if(|(b, _)| *b == bucket).map_or(0, |(_, count)| *count);
            let added = count.wrapping_sub(old);
            (added != 0).then_some((bucket, added))
        })
        .collect()
}

fn flow(now: &slowburn_common::task::Memory, before: &slowburn_common::task::Memory, shift: u32) -> MemoryFlow {
    let bytes = |now: u64, before: u64| now.wrapping_sub(before) << shift;
    MemoryFlow {
        reserved: bytes(now.reserved_pages, before.reserved_pages),
        released: bytes(now.released_pages, before.released_pages),
        committed: bytes(now.committed_pages, before.committed_pages),
        decommitted: bytes(now.decommitted_pages, before.decommitted_pages),
        discarded: bytes(now.discarded_pages, before.discarded_pages),
        calls: std::array::from_fn(|i| now.calls[i].wrapping_sub(before.calls[i])),
        failed_calls: now.failed_calls.wrapping_sub(before.failed_calls),
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

/// A record of the ring buffer.
enum Wire {
    TaskStart(Header),
    TaskExit(Header),
    Exec(ExecEvent),
    Mapping(MappingEvent),
    Delay(DelayEvent),
    /// From an object that does not belong to this daemon; cannot happen with the embedded one.
    Unknown,
}

impl Wire {
    fn parse(bytes: &[u8]) -> Self {
        let Some(header) = plain::<Header>(bytes) else { return Self::Unknown };
        match header.kind {
            kind::TASK_START => Some(Self::TaskStart(header)),
            kind::TASK_EXIT => Some(Self::TaskExit(header)),
            kind::EXEC => plain(bytes).map(Self::Exec),
            kind::MAPPING => plain(bytes).map(Self::Mapping),
            kind::DELAY => plain(bytes).map(Self::Delay),
            _ => None,
        }
        .unwrap_or(Self::Unknown)
    }
}

/// Types of the ring buffer: integers and arrays of them, for which every bit pattern is valid.
trait Plain: Copy {}
impl Plain for Header {}
impl Plain for ExecEvent {}
impl Plain for MappingEvent {}
impl Plain for DelayEvent {}

/// Copies a value out of the front of a record.
fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, and every bit pattern is a valid `T`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Now, on the clock that the programs use.
pub(super) fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Distance from the monotonic clock to the Unix epoch.
fn epoch_ns() -> u64 {
    let wall = nanoseconds(ClockId::Realtime);
    wall.saturating_sub(monotonic_ns())
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One more than the highest task id that the kernel gives out.
fn highest_task_id() -> u32 {
    let read = fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    // 4,194,304 is the highest that a 64-bit kernel allows.
    read.and_then(|text| text.trim().parse().ok()).unwrap_or(4 << 20)
}

fn load(btf: &Btf, offsets: &Offsets, options: &Options, ids: u32, slots: u32) -> Result<Ebpf, ProbeError> {
    let page_shift = rustix::param::page_size().trailing_zeros();
    let log_level = if options.kernel_log { 0xff_u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .map_max_entries("RECORDS", slots)
        .map_max_entries("FREE_SLOTS", slots)
        .map_max_entries("SLOTS", ids.div_ceil(SLOTS_PER_ELEMENT))
        .map_max_entries("MEMBERS", ids.div_ceil(MEMBERS_PER_ELEMENT))
        .map_max_entries("EVENTS", options.limits.ring_bytes)
        .override_global("OFFSET_TASK_PID", &offsets.task_pid, true)
        .override_global("OFFSET_TASK_TGID", &offsets.task_tgid, true)
        .override_global("OFFSET_TASK_STATE", &offsets.task_state, true)
        .override_global("OFFSET_TASK_COMM", &offsets.task_comm, true)
        .override_global("OFFSET_TASK_START", &offsets.task_start, true)
        .override_global("OFFSET_TASK_MM", &offsets.task_mm, true)
        .override_global("OFFSET_MM_TOTAL_VM", &offsets.mm_total_vm, true)
        .override_global("OFFSET_MM_DATA_VM", &offsets.mm_data_vm, true)
        .override_global("OFFSET_SYSCALL_ARGS", &offsets.syscall_args, true)
        .override_global("PAGE_SHIFT", &page_shift, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    loader.load(OBJECT).map_err(|error| load_error(error, options, slots))
}

fn load_error(error: EbpfError, options: &Options, slots: u32) -> ProbeError {
    let EbpfError::MapError(MapError::CreateError { name, io_error, .. }) = &error else {
        return ProbeError::Object(Box::new(error));
    };
    let refused = io_error.kind() == io::ErrorKind::PermissionDenied;
    if refused && !rustix::process::geteuid().is_root() {
        return ProbeError::NotPermitted;
    }
    let (bytes, hint) = match name.to_string().as_str() {
        "EVENTS" => (options.limits.ring_bytes as usize, "Lower --ring-size."),
        "RECORDS" => (slots as usize * size_of::<TaskRecord>(), "Lower --max-tasks."),
        _ if refused => return ProbeError::Refused(io_error.to_string()),
        _ => (0, "If RLIMIT_MEMLOCK is small (kernels before 5.11): ulimit -l unlimited."),
    };
    ProbeError::Map {
        what: format!("{name}, {} KiB", bytes / 1024),
        source: io::Error::new(io_error.kind(), io_error.to_string()),
        hint,
    }
}

/// The hooks on tasks first: processes are looked up after they are in place, so that none slips through.
fn attach(ebpf: &mut Ebpf, btf: &Btf, preference: Preference) -> Result<Hooks, ProbeError> {
    let mut refusals = Vec::new();
    let mut attach = |need| hooks::attach(ebpf, btf, need, preference, &mut refusals);
    let tasks = attach(Need::Tasks)?;
    let memory = attach(Need::Memory)?;
    let sched = attach(Need::Sched)?;
    Ok(Hooks { tasks, sched, memory, refusals })
}

fn array<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a MapData, ProbeError> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(ProbeError::Object(Box::new(EbpfError::NoBTF))),
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbeError> {
    let map = ebpf.take_map(name).ok_or_else(|| ProbeError::Object(Box::new(EbpfError::MapError(MapError::InvalidName { name: name.into() }))))?;
    T::try_from(map).map_err(|e| map_error(name, e))
}

fn map_error(what: &str, error: MapError) -> ProbeError {
    ProbeError::Map {
        what: what.into(),
        source: io::Error::other(error.to_string()),
        hint: "This should not happen: please report it.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_histograms() {
        assert_eq!(difference(&[(1, 5), (7, 2)], &[]), [(1, 5), (7, 2)]);
        assert_eq!(difference(&[(1, 5), (4, 1), (7, 2)], &[(1, 5), (7, 1)]), [(4, 1), (7, 1)]);
        assert_eq!(difference(&[(3, 1)], &[(3, u32::MAX)]), [(3, 2)], "counts wrap");
    }

    #[test]
    fn short_or_foreign_records_are_not_read() {
        assert!(matches!(Wire::parse(&[]), Wire::Unknown));
        assert!(matches!(Wire::parse(&[0; 24]), Wire::Unknown));
        let mut delay_header_only = [0; size_of::<Header>()];
        delay_header_only[8] = kind::DELAY as u8;
        assert!(matches!(Wire::parse(&delay_header_only), Wire::Unknown));
    }
}
