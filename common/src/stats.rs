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
}

impl Stat {
    /// How many counters there are.
    pub const COUNT: usize = Self::NegativeWait as usize + 1;
}
