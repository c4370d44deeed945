//! Maps and read-only globals, and the few operations on them that every program needs.
//!
//! The sizes here are placeholders: the daemon sets the real ones before it loads the object.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
};
use slowburn_common::{
    Comm,
    stats::Stat,
    task::{
        Control, Histogram, MAX_RIVALS, MEMBERS_PER_ELEMENT, NO_SLOT, Rival, RivalKey,
        SLOTS_PER_ELEMENT, SchedRecord, TaskRecord,
    },
};

/// One bit per thread id: is it one of ours? The first and, for most tasks of a host, the only question.
#[map]
pub static MEMBERS: Array<u64> = Array::with_max_entries(512, BPF_F_MMAPABLE);

/// Slot of each followed thread id, packed. 0 for the others.
#[map]
pub static SLOTS: Array<[u32; SLOTS_PER_ELEMENT as usize]> =
    Array::with_max_entries(2048, BPF_F_MMAPABLE);

/// What wake-ups and switches touch of each followed task, by slot.
#[map]
pub static SCHED: Array<SchedRecord> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// Who each followed task is and what its calls did, by slot.
#[map]
pub static RECORDS: Array<TaskRecord> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// Histogram of the waits of each followed task, by slot.
#[map]
pub static HISTOGRAMS: Array<Histogram> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

/// Which processes had the CPU that those followed waited long for. The daemon empties it once a window; if there are more
/// pairs than that, those whose last wait is longest ago make room.
#[map]
pub static RIVALS: LruHashMap<RivalKey, Rival> = LruHashMap::with_max_entries(MAX_RIVALS, 0);

/// Slots that the daemon gave back after it read the record of a task that is gone.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1024, 0);

/// See [`Control`].
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// See [`Stat`].
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT as u32, 0);

/// Events for the daemon, which drains it on a timer: no program ever wakes it.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Cgroups whose tasks are followed from their next exec on: cgroup id to service index.
#[map]
pub static FOLLOWED_CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);

/// Program names that are followed from their exec on: name to service index.
#[map]
pub static FOLLOWED_NAMES: HashMap<Comm, u32> = HashMap::with_max_entries(64, 0);

// Offsets into the running kernel's structures, from its BTF. The verifier sees them as constants,
// so adding one to a BTF pointer is as good as a field access that the compiler had relocated.

/// Offset of `task_struct.sched_info.run_delay`; `u32::MAX` where the kernel does not keep it.
#[unsafe(no_mangle)]
pub static OFFSET_TASK_RUN_DELAY: Global<u32> = Global::new(0);

/// Offset of `task_struct.sched_info.pcount`, likewise.
#[unsafe(no_mangle)]
pub static OFFSET_TASK_RUN_COUNT: Global<u32> = Global::new(0);

/// `task_struct.pid`
#[unsafe(no_mangle)]
pub static OFFSET_TASK_PID: Global<u32> = Global::new(0);
/// `task_struct.tgid`
#[unsafe(no_mangle)]
pub static OFFSET_TASK_TGID: Global<u32> = Global::new(0);
/// `task_struct.__state`, or `task_struct.state` on kernels that call it that.
#[unsafe(no_mangle)]
pub static OFFSET_TASK_STATE: Global<u32> = Global::new(0);
/// `task_struct.comm`
#[unsafe(no_mangle)]
pub static OFFSET_TASK_COMM: Global<u32> = Global::new(0);
/// `task_struct.start_boottime`
#[unsafe(no_mangle)]
pub static OFFSET_TASK_START: Global<u32> = Global::new(0);
/// `task_struct.mm`
#[unsafe(no_mangle)]
pub static OFFSET_TASK_MM: Global<u32> = Global::new(0);
/// `mm_struct.total_vm`
#[unsafe(no_mangle)]
pub static OFFSET_MM_TOTAL_VM: Global<u32> = Global::new(0);
/// `mm_struct.data_vm`
#[unsafe(no_mangle)]
pub static OFFSET_MM_DATA_VM: Global<u32> = Global::new(0);
/// The first four system call arguments in `pt_regs`.
#[unsafe(no_mangle)]
pub static OFFSET_SYSCALL_ARGS: Global<[u32; 4]> = Global::new([0; 4]);
/// The same of a system call through the 32-bit entry.
#[unsafe(no_mangle)]
pub static OFFSET_COMPAT_ARGS: Global<[u32; 4]> = Global::new([0; 4]);
/// log2 of the page size.
#[unsafe(no_mangle)]
pub static PAGE_SHIFT: Global<u32> = Global::new(12);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(stat: Stat) {
    add(stat, 1);
}

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn add(stat: Stat, number: u64) {
    if let Some(value) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the element belongs to this CPU, and programs are not preempted by others on it.
        unsafe { *value += number }
    }
}

/// The daemon's settings.
#[inline(always)]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// Is this thread id followed? The element is looked up by a few inlined instructions.
#[inline(always)]
pub fn is_member(tid: u32) -> bool {
    match MEMBERS.get(tid / MEMBERS_PER_ELEMENT) {
        Some(word) => (*word >> (tid % MEMBERS_PER_ELEMENT)) & 1 == 1,
        None => false,
    }
}

/// The place in the table that holds the slot of a thread id.
#[inline(always)]
pub fn slot_of(tid: u32) -> Option<*mut u32> {
    let element = SLOTS.get_ptr_mut(tid / SLOTS_PER_ELEMENT)?;
    // SAFETY: the remainder is below the length of the element, which the verifier sees by the mask
    // that the division by a power of two compiles to.
    Some(unsafe {
        element
            .cast::<u32>()
            .add((tid % SLOTS_PER_ELEMENT) as usize)
    })
}

/// The slot of a thread id; [`NO_SLOT`] if it is not followed.
#[inline(always)]
pub fn slot(tid: u32) -> u32 {
    if is_member(tid) { member(tid) } else { NO_SLOT }
}

/// The slot of a thread id that is followed; [`NO_SLOT`] if it was until just now.
#[inline(always)]
pub fn member(tid: u32) -> u32 {
    // SAFETY: the pointer comes from a successful lookup.
    slot_of(tid).map_or(NO_SLOT, |slot| unsafe { *slot })
}

/// The record in a slot; none for [`NO_SLOT`].
#[inline(always)]
pub fn record_in(slot: u32) -> Option<&'static mut TaskRecord> {
    if slot == NO_SLOT {
        return None;
    }
    let record = RECORDS.get_ptr_mut(slot)?;
    // SAFETY: array elements live as long as the map. See `SchedRecord` for who may write which field.
    Some(unsafe { &mut *record })
}

/// The record of a thread id, if it is followed.
#[inline(always)]
pub fn record_of(tid: u32) -> Option<&'static mut TaskRecord> {
    record_in(slot(tid))
}

/// What wake-ups and switches touch of the task in a slot; none for [`NO_SLOT`].
#[inline(always)]
pub fn sched_in(slot: u32) -> Option<&'static mut SchedRecord> {
    if slot == NO_SLOT {
        return None;
    }
    let record = SCHED.get_ptr_mut(slot)?;
    // SAFETY: as in `record_in`.
    Some(unsafe { &mut *record })
}

/// The histogram of the task in a slot.
#[inline(always)]
pub fn histogram_in(slot: u32) -> Option<&'static mut Histogram> {
    let histogram = HISTOGRAMS.get_ptr_mut(slot)?;
    // SAFETY: as in `record_in`.
    Some(unsafe { &mut *histogram })
}

/// Sends an event, or counts it as lost if the ring buffer is full.
///
/// Never wakes the daemon: an event that finds an up-to-date reader would otherwise cost the traced
/// CPU an inter-processor interrupt, over a microsecond.
#[inline(always)]
pub fn emit<T: 'static>(event: T, lost: Stat) {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(lost),
    }
}
