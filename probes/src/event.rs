//! The vocabulary between a source and the rest of slowburn.
//!
//! Times (`ts`) are nanoseconds since the Unix epoch; a source converts its own clock once, so that
//! nobody after it needs to read one.

use slowburn_common::{
    Comm,
    task::{Behind, LongWaits, call},
};

/// Identity of a task or process. An id alone is not one: ids are recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Life {
    /// Process or thread id, as the host sees it.
    pub id: u32,
    /// When it started, in nanoseconds since the Unix epoch. Tasks found already running carry the
    /// resolution of the operating system's process list (10 ms on Linux).
    pub start_ns: u64,
}

/// A task, and all that a record about it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// The thread.
    pub thread: Life,
    /// Its process.
    pub process: Life,
    /// Index of the service it belongs to.
    pub service: u32,
    /// The thread's name.
    pub name: Comm,
}

impl Task {
    /// The thread's name as text.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        name_of(&self.name)
    }
}

/// A kernel name as text: up to the first zero, with what is not UTF-8 replaced.
pub fn name_of(comm: &Comm) -> std::borrow::Cow<'_, str> {
    let end = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end])
}

/// How a task came to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was running already.
    Found,
    /// A followed process created it as a thread.
    Thread,
    /// A followed process created it as a process.
    Fork,
    /// It executed a program in a followed cgroup.
    Cgroup,
    /// It executed a program with a followed name.
    Name,
}

/// A call that changes an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `mmap`
    Map,
    /// `munmap`
    Unmap,
    /// `mremap`
    Remap,
    /// `brk`
    Brk,
    /// `madvise`
    Advise,
    /// `mprotect`
    Protect,
}

impl Call {
    /// From its number in the kernel side's records.
    pub fn from_wire(number: u32) -> Option<Self> {
        Some(match number {
            call::MAP => Self::Map,
            call::UNMAP => Self::Unmap,
            call::REMAP => Self::Remap,
            call::BRK => Self::Brk,
            call::ADVISE => Self::Advise,
            call::PROTECT => Self::Protect,
            _ => return None,
        })
    }
}

/// What calls did to an address space, over some period. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFlow {
    /// Address space gained.
    pub reserved: u64,
    /// Address space given back.
    pub released: u64,
    /// Private writable address space gained.
    pub committed: u64,
    /// Private writable address space given back.
    pub decommitted: u64,
    /// Bytes whose contents were advised away; the address space stays.
    pub discarded: u64,
    /// Successful calls, indexed by [`slowburn_common::task::call`].
    pub calls: [u64; call::COUNT],
    /// Calls that failed.
    pub failed_calls: u64,
}

impl MemoryFlow {
    /// Adds another period or task. What a damaged recording says may be too much for a number.
    pub fn add(&mut self, other: &Self) {
        let bytes = [
            (&mut self.reserved, other.reserved),
            (&mut self.released, other.released),
            (&mut self.committed, other.committed),
            (&mut self.decommitted, other.decommitted),
            (&mut self.discarded, other.discarded),
        ];
        for (mine, theirs) in bytes {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in self.calls.iter_mut().zip(other.calls) {
            *mine += theirs;
        }
        self.failed_calls += other.failed_calls;
    }

    /// Did anything happen?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Waits for a CPU over some period: counts by bucket of [`slowburn_common::histogram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Bucket and count, ascending, no bucket twice, no zero counts.
    pub counts: Vec<(u16, u32)>,
    /// Sum of the waits in nanoseconds.
    pub sum_ns: u64,
    /// Longest wait in nanoseconds.
    pub max_ns: u64,
    /// Times it got a CPU although it was not seen to become runnable; not among the counts.
    pub unknown: u64,
    /// Waits that ended on another CPU than the task had left.
    pub moved: u64,
    /// Long waits, by who had the CPU until they ended: no more than there are among the counts, and no longer ones than in
    /// the sum.
    pub behind: Behind,
}

/// A process that had the CPU until long waits of another one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Id of the process that waited.
    pub waiter: u32,
    /// Id of the one that had the CPU.
    pub process: u32,
    /// Name of its thread that had it last.
    pub name: Comm,
    /// The waits.
    pub waits: LongWaits,
}

/// What the kernel itself says about a thread, as the change over a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadAccount {
    /// Time spent waiting for a CPU.
    pub run_delay_ns: u64,
    /// Number of times it got a CPU after waiting.
    pub run_count: u64,
}

/// What the kernel itself says about a process. Gauges as they stand, counters as the change over a
/// period. What could not be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessAccount {
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Of that, what is neither of files nor shared.
    pub anonymous_bytes: Option<u64>,
    /// Address space.
    pub vm_bytes: Option<u64>,
    /// Private writable address space.
    pub data_bytes: Option<u64>,
    /// Live threads.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub fds: Option<u64>,
    /// CPU time used (counter).
    pub cpu_ns: Option<u64>,
    /// Page faults served without I/O (counter).
    pub minor_faults: Option<u64>,
    /// Page faults that needed I/O (counter).
    pub major_faults: Option<u64>,
    /// Time the process's cgroup was kept from running by its CPU quota (counter).
    pub throttled_ns: Option<u64>,
    /// Periods in which that happened (counter).
    pub throttled_periods: Option<u64>,
    /// Time the hypervisor ran something else, all CPUs of the host together (counter).
    pub host_steal_ns: Option<u64>,
    /// What it may have at most.
    pub limits: ProcessLimits,
}

/// What a process may have at most. What has no limit is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Memory of its cgroup, and of those above it.
    pub memory_bytes: Option<u64>,
    /// Tasks of these.
    pub tasks: Option<u64>,
    /// Address space (`RLIMIT_AS`).
    pub address_space_bytes: Option<u64>,
    /// Open file descriptors (`RLIMIT_NOFILE`).
    pub fds: Option<u64>,
    /// Memory of the machine.
    pub host_memory_bytes: Option<u64>,
}

/// Address space as the source itself has it for a process, as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Address space.
    pub reserved_bytes: u64,
    /// Private writable address space.
    pub committed_bytes: u64,
}

/// A class of events, for counting what was made and what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Single mapping calls.
    Mapping,
    /// Program executions.
    Exec,
    /// Single slow waits.
    Delay,
    /// Whole tasks: every record was in use.
    Task,
    /// Waits thrown away because the clocks of two CPUs disagreed.
    NegativeWait,
    /// Runs of programs that the kernel has left out, for whatever process of the host.
    SkippedRun,
    /// Events of the operating system that its tracing facility has lost.
    Trace,
}

/// Something that happened, or a reading.
#[derive(Clone, Debug)]
pub enum Event {
    /// A task is followed from now on.
    TaskStart {
        /// When.
        ts: u64,
        /// Which.
        task: Task,
        /// Why.
        origin: Origin,
        /// Who created it, if that was seen: process id and thread id.
        creator: Option<(u32, u32)>,
    },
    /// A task is not followed any more: it is gone, or no longer belongs to its service.
    TaskExit {
        /// When.
        ts: u64,
        /// Which.
        task: Task,
        /// How long it was followed, in nanoseconds.
        followed_ns: u64,
        /// Does it go on living, without being followed?
        alive: bool,
    },
    /// A followed task executed a program; its address space is a new one.
    Exec {
        /// When.
        ts: u64,
        /// Which; the name is the new one.
        task: Task,
    },
    /// A task that is not followed executed a program. Only while names are matched.
    StrangerExec {
        /// When.
        ts: u64,
        /// Its process id.
        pid: u32,
    },
    /// A call changed an address space.
    Mapping {
        /// When it returned.
        ts: u64,
        /// Who called.
        task: Task,
        /// What.
        call: Call,
        /// Where.
        address: u64,
        /// How much was asked for, in bytes.
        length: u64,
        /// `prot`, `advice` or `flags`, by the call.
        detail: u32,
        /// `flags` of a map.
        flags: u32,
        /// Change of the address space in bytes.
        reserved_change: i64,
        /// Change of the private writable address space in bytes.
        committed_change: i64,
        /// One call in so many is looked at.
        one_in: u32,
    },
    /// A single wait over the threshold.
    Delay {
        /// When it ended.
        ts: u64,
        /// Who waited.
        task: Task,
        /// How long.
        wait_ns: u64,
        /// Which CPU it got.
        cpu: u32,
        /// Process id and thread id of who ran there until then; 0 for the idle task.
        culprit: (u32, u32),
        /// Name of who ran there until then.
        culprit_name: Comm,
        /// Is the culprit followed too?
        culprit_followed: bool,
    },
    /// What a task did since its last sample.
    Sample {
        /// Who.
        task: Task,
        /// Its calls.
        memory: MemoryFlow,
        /// Its waits.
        delays: Delays,
        /// What the kernel says over the same period, if it can be read.
        account: Option<ThreadAccount>,
    },
    /// What the kernel says about a process, once a window.
    Process {
        /// Any task of it.
        process: Life,
        /// Index of its service.
        service: u32,
        /// The kernel's own counters.
        account: ProcessAccount,
        /// Our own.
        standing: Option<Standing>,
        /// Changes of its address space that no call of a task was seen to make.
        unseen: MemoryFlow,
    },
    /// Events that were made and could not be delivered since the last such event.
    Loss {
        /// When it was noticed.
        ts: u64,
        /// What.
        class: Class,
        /// How many.
        count: u64,
    },
    /// Part of the window that ends next was not measured, to save CPU time.
    Gap {
        /// For how long waits were not, in nanoseconds.
        waits_ns: u64,
        /// For how long calls were not: their effect on sizes is known all the same.
        calls_ns: u64,
        /// At the sparsest, one mapping call in so many was looked at; the counts are scaled.
        one_in: u32,
        /// Was the kernel asked for the waits of every thread instead?
        accounted: bool,
    },
    /// A window ends here. All that belongs to it came before.
    WindowEnd {
        /// When.
        ts: u64,
        /// How long it was, by a clock that does not jump, in nanoseconds.
        period_ns: u64,
    },
}
