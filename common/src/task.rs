//! The record kept for each task (thread) of a target.

use core::mem::offset_of;

use crate::{Comm, histogram::BUCKETS};

/// Slot number that means "no record".
///
/// Slot 0 is never given out, so that a zeroed table says "not one of ours".
pub const NO_SLOT: u32 = 0;

/// How a task came to be followed. Stored in [`TaskRecord::origin`].
pub mod origin {
    /// Not in use; the record is free.
    pub const NONE: u32 = 0;
    /// Found in `/proc` by the daemon.
    pub const FOUND: u32 = 1;
    /// A new thread of a followed process.
    pub const THREAD: u32 = 2;
    /// A new process, forked by a followed one.
    pub const FORK: u32 = 3;
    /// Executed a program inside a followed cgroup.
    pub const CGROUP: u32 = 4;
    /// Executed a program with a followed name.
    pub const NAME: u32 = 5;
}

/// Whether a task runs on a CPU. Stored in [`SchedRecord::on_cpu`].
pub mod cpu {
    /// Not seen to be switched in or out yet.
    pub const UNKNOWN: u8 = 0;
    /// It runs.
    pub const ON: u8 = 1;
    /// It does not.
    pub const OFF: u8 = 2;
    /// It runs, and how long it had waited is not known: nobody told when that began.
    pub const ON_UNTOLD: u8 = 3;
}

/// A wait of at least this many nanoseconds is long: it is booked on whoever had the CPU until it ended. Shorter ones come by
/// the million, and are mostly the work of getting from one task to another.
pub const LONG_WAIT_NS: u64 = 100_000;

/// Long waits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongWaits {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub sum_ns: u64,
}

/// A task's long waits by who had the CPU until they ended. Those whose end was not traced are not among them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// A thread of the same process.
    pub own: LongWaits,
    /// The idle task.
    pub idle: LongWaits,
    /// Any other.
    pub others: LongWaits,
}

/// Most pairs of a process that waited long and another one that had the CPU, between two readings.
pub const MAX_RIVALS: u32 = 1_024;

/// Who waited long, and who had the CPU until then: process ids in the initial pid namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RivalKey {
    /// The process that waited.
    pub waiter: u32,
    /// The one that had the CPU.
    pub rival: u32,
}

/// The waits of such a pair.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rival {
    /// The waits.
    pub waits: LongWaits,
    /// Name of the thread that had the CPU last.
    pub comm: Comm,
}

/// Calls that change an address space, as indices into [`Memory::calls`].
pub mod call {
    /// `mmap`
    pub const MAP: u32 = 0;
    /// `munmap`
    pub const UNMAP: u32 = 1;
    /// `mremap`
    pub const REMAP: u32 = 2;
    /// `brk`
    pub const BRK: u32 = 3;
    /// `madvise`
    pub const ADVISE: u32 = 4;
    /// `mprotect`
    pub const PROTECT: u32 = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// What a task's own calls did to its address space since the record was made. Pages, not bytes.
///
/// Written by the task itself when a call returns, so there is one writer at a time. The page counts
/// are the change of the kernel's own `mm->total_vm` (reserved, released) and `mm->data_vm`
/// (committed: private and writable) since the last call of any thread of the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Address space gained.
    pub reserved_pages: u64,
    /// Address space given back.
    pub released_pages: u64,
    /// Private writable address space gained.
    pub committed_pages: u64,
    /// Private writable address space given back (unmapped, or made read-only or inaccessible).
    pub decommitted_pages: u64,
    /// Pages named in `MADV_DONTNEED` and `MADV_FREE`: their contents may go, the address space stays.
    pub discarded_pages: u64,
    /// Calls that succeeded, by [`call`].
    pub calls: [u64; call::COUNT],
    /// Calls that failed, of any kind.
    pub failed_calls: u64,
}

/// Which of a task's calls are looked at when only one in `n`, a power of two, is: at random, so that a program which
/// does the same few calls in turn has each of them looked at as often.
#[must_use]
pub const fn is_sampled(nth: u64, n: u64) -> bool {
    // The finalizer of splitmix64 (Steele, Lea, Flood 2014): each bit of the result depends on all of the number's.
    let mut mixed = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) & (n - 1) == 0
}

/// How many waits a task's [`SchedRecord`] holds until they go into its [`Histogram`] together.
pub const LATEST: usize = 30;

/// What each wake-up and switch of a task touches, in an array that the daemon maps into its own memory: one cache line,
/// whence the alignment, and a second one at the end of a wait. 32 of both are in a page, so that those of thousands of tasks
/// stay within reach.
///
/// The records of a task, which are this one, its [`TaskRecord`] and its [`Histogram`], lie in the same slot of three arrays
/// and belong to one life of one task. Whoever makes them (the fork hook, the exec hook or the daemon) fills the identity
/// before publishing the slot; after that each field has one writer at a time, because a task is woken and switched under
/// its run-queue's lock and makes its own calls. Only the process-wide page counts are shared by threads, and they are
/// exchanged atomically.
#[repr(C, align(64))]
pub struct SchedRecord {
    /// When it last became runnable, on the monotonic clock; 0 when it is not waiting for a CPU.
    pub enqueued_ns: u64,
    /// Number of completed waits.
    pub delay_count: u64,
    /// Sum of all waits in nanoseconds.
    pub delay_sum_ns: u64,
    /// Longest wait since the daemon last took (zeroed) it, in nanoseconds.
    pub delay_max_ns: u64,
    /// The kernel's own sum of the task's waits (`sched_info.run_delay`) when it last left a CPU, plus one; 0 as long as
    /// it was not seen to. That of a new task is known: it has not waited yet. The length of a wait that was not traced is
    /// what that sum has grown by.
    pub kernel_delay_ns: u64,
    /// How often the task had got a CPU by then, by the kernel's own count (`sched_info.pcount`).
    pub kernel_run_count: u64,
    /// Number of times it got a CPU without having been seen to become runnable, or without having been seen to
    /// get it (some kernels leave out a switch now and then), and the kernel's own account could not tell how long
    /// it had waited either. It wraps; readers take differences.
    pub unknown_count: u32,
    /// Number of waits that ended on another CPU than the task had left. It wraps; readers take differences.
    pub moved: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The CPU that it left last, plus one; 0 if it was not seen to leave any.
    pub last_cpu: u16,
    /// One of [`cpu`]: a wake-up of a task that runs starts no wait.
    pub on_cpu: u8,
    /// 1 when the task has got another name since the record's was read.
    pub renamed: u8,

    /// [Buckets](crate::histogram::bucket) of the waits that are not in the histogram yet, oldest first. With 10,000 tasks that
    /// take turns, to reach the right bucket of the right histogram takes 200 ns, most of a switch.
    pub latest: [u16; LATEST],
    /// How many there are.
    pub latest_count: u16,
    /// Counts up before they are moved to the histogram, and once more afterwards: it is odd meanwhile, and what was read
    /// before and after a change does not belong together. It wraps.
    pub flushes: u16,
}

/// Who a task is and what its calls did: what is needed when it begins, ends, executes a program or makes such a call,
/// and once a window. See [`SchedRecord`].
#[repr(C, align(64))]
pub struct TaskRecord {
    /// One of [`origin`].
    pub origin: u32,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// When the task exited, on the monotonic clock, in nanoseconds; 0 while it lives.
    pub exit_ns: u64,
    /// The task's name.
    pub comm: Comm,
    /// When the task started, on the boot clock (`CLOCK_BOOTTIME`), in nanoseconds. The daemon's own
    /// entries carry the 10 ms resolution of `/proc/PID/stat`.
    pub start_boot_ns: u64,
    /// When the record was made, on the monotonic clock, in nanoseconds.
    pub born_ns: u64,
    /// Thread id of the task that created this one; 0 if not known.
    pub creator_tid: u32,
    /// Process id of the task that created this one; 0 if not known.
    pub creator_tgid: u32,
    /// Slot of the record that holds the process-wide page counts: the first one of its process.
    pub process_slot: u32,
    /// Index of the service it belongs to, as the daemon numbers them.
    pub service: u32,

    /// Calls on its address space that it has made, looked at or not.
    pub calls_made: u64,
    /// What its calls did.
    pub memory: Memory,

    /// Who it waited behind.
    pub behind: Behind,

    /// Process-wide: `mm->total_vm` as last seen, in pages. Valid in the record of `process_slot`.
    pub vm_pages: u64,
    /// Process-wide: `mm->data_vm` as last seen, in pages. Valid in the record of `process_slot`.
    pub data_pages: u64,
}

/// Counts of a task's waits by [`bucket`](crate::histogram::bucket), but for the latest. They wrap; readers take differences.
/// From 32 ns on, the waits of one octave share a cache line. See [`SchedRecord`].
#[repr(C, align(64))]
pub struct Histogram(pub [u32; BUCKETS]);

/// What the records of a task take, in bytes.
pub const RECORD_BYTES: usize =
    size_of::<SchedRecord>() + size_of::<TaskRecord>() + size_of::<Histogram>();

const _: () = assert!(
    offset_of!(SchedRecord, latest) == 64 && size_of::<SchedRecord>() == 128,
    "a switch touches one cache line of it, and the end of a wait the other"
);

/// State shared between the daemon and the programs, in a mapped array of one element.
#[repr(C)]
pub struct Control {
    /// The lowest slot never given out. Slots given back go through the free queue.
    pub next_slot: u32,
    /// 1 when execs of tasks that are not followed are reported too, so that names can be matched.
    pub report_execs: u32,
    /// A single wait of at least this many nanoseconds is an event of its own.
    pub slow_ns: u64,
    /// A mapping call that moves or names at least this many bytes is an event of its own.
    pub min_mapping_bytes: u64,
    /// Of each task's calls on its address space one in so many is looked at, and counts for all: a power of two, or 0
    /// for all of them. What calls have changed is booked with the next that is looked at.
    pub mapping_sample: u64,
}

/// Slots packed into one element of the table from tid to slot: array elements are rounded up to 8
/// bytes and looked up one at a time, so packing halves the table and keeps neighbours on one line.
pub const SLOTS_PER_ELEMENT: u32 = 16;

/// Bits in one element of the membership bitmap.
pub const MEMBERS_PER_ELEMENT: u32 = 64;

#[cfg(test)]
mod tests {
    use super::is_sampled;

    /// A program that does the same calls in turn must not have always the same one looked at.
    #[test]
    fn every_call_of_a_cycle_is_sampled_as_often() {
        const CALLS: u64 = 1 << 20;
        for n in [2, 16, 64, 1024] {
            for cycle in 1..=12 {
                for phase in 0..cycle {
                    let sampled = (0..CALLS)
                        .filter(|call| call % cycle == phase && is_sampled(*call, n))
                        .count();
                    let expected = (CALLS / cycle / n) as f64;
                    // Four standard deviations, of what chance would give.
                    let off = (sampled as f64 - expected).abs() / expected.sqrt();
                    assert!(
                        off < 4.0,
                        "1 in {n}, call {phase} of {cycle}: {sampled}, not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_in_one_is_all() {
        assert!((0..1_000).all(|call| is_sampled(call, 1)));
    }
}
