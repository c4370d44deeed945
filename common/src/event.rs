//! Records sent through the ring buffer.

use crate::Comm;

/// What a record is. Stored in [`Header::kind`].
pub mod kind {
    /// [`super::MappingEvent`]
    pub const MAPPING: u32 = 1;
    /// A task's record was made: [`super::Header`] alone.
    pub const TASK_START: u32 = 2;
    /// A followed task exited: [`super::Header`] alone.
    pub const TASK_EXIT: u32 = 3;
    /// [`super::ExecEvent`]
    pub const EXEC: u32 = 4;
    /// [`super::DelayEvent`]
    pub const DELAY: u32 = 5;
}

/// Start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Monotonic clock, in nanoseconds.
    pub ts: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Slot of the task's record, or [`crate::task::NO_SLOT`].
    pub slot: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
}

/// A call that changed an address space, sent when it has returned successfully.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MappingEvent {
    /// Who and when.
    pub header: Header,
    /// One of [`crate::task::call`].
    pub call: u32,
    /// `prot` of `mmap` and `mprotect`, `advice` of `madvise`, `flags` of `mremap`.
    pub detail: u32,
    /// `flags` of `mmap`.
    pub flags: u32,
    /// The call is one in so many, and the changes are those since the last one that was looked at.
    pub sampled: u32,
    /// Where: the address that the call returned or worked on.
    pub address: u64,
    /// How much, in bytes, as the caller asked; for `brk` the distance moved.
    pub length: u64,
    /// Change of the process's address space, in bytes.
    pub reserved_change: i64,
    /// Change of the process's private writable address space, in bytes.
    pub committed_change: i64,
}

/// A task executed a program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecEvent {
    /// Who and when. The slot is [`crate::task::NO_SLOT`] if the task is not followed.
    pub header: Header,
    /// The task's cgroup in the unified hierarchy; 0 if there is none.
    pub cgroup_id: u64,
    /// Name of the new program.
    pub comm: Comm,
}

/// A single wait for a CPU over the threshold.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DelayEvent {
    /// Who, and when the wait ended.
    pub header: Header,
    /// How long it waited, in nanoseconds.
    pub wait_ns: u64,
    /// The CPU it got at last.
    pub cpu: u32,
    /// Thread id of the task that ran on that CPU until then; 0 for the idle task.
    pub culprit_tid: u32,
    /// Process id of that task.
    pub culprit_tgid: u32,
    /// 1 if that task is followed too.
    pub culprit_is_member: u32,
    /// Name of that task.
    pub culprit_comm: Comm,
}
