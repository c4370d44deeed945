//! Counters that the kernel side keeps, one set per CPU.

/// Indices into the per-CPU counter array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// Mapping events that found the ring buffer full.
    MappingLost,
    /// Task starts and exits that found the ring buffer full. The daemon recovers them from the records.
    TaskLost,
    /// Exec events that found the ring buffer full.
    ExecLost,
    /// Slow-wait events that found the ring buffer full.
    DelayLost,
    /// Tasks that should have been followed but found every record in use.
    NoSlot,
    /// Tasks whose id lies beyond the tables, because `pid_max` was raised after the start.
    TidBeyondTable,
    /// Waits thrown away because the clock of another CPU made them negative.
    NegativeWait,
    /// Runs of the programs on calls that change an address space, whosever call it was.
    MemoryRuns,
    /// Nanoseconds that timed runs of the programs on wake-ups and switches took for followed tasks. One run in
    /// [`TIMED_SCHED`] is timed.
    SchedTimedNs,
    /// Nanoseconds that timed runs of the programs on starts and exits took for followed tasks: of those whose id is a
    /// multiple of [`TIMED_TASKS`].
    TasksTimedNs,
    /// Nanoseconds that timed runs of the programs on returning calls took for followed tasks. One run in
    /// [`TIMED_MEMORY`] is timed.
    MemoryTimedNs,
}

/// Of so many runs for followed tasks one is timed. Reading the clock three times, as that takes, is some 110 ns on the
/// machine this was written on: 0.4 ns a run.
pub const TIMED_SCHED: u64 = 256;

/// The same for starts and exits, which take longer.
pub const TIMED_TASKS: u64 = 16;

/// The same for returning calls, of which there are fewer.
pub const TIMED_MEMORY: u64 = 64;

impl Stat {
    /// How many counters there are.
    pub const COUNT: usize = Self::MemoryTimedNs as usize + 1;
}
