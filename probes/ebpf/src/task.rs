//! The lives of tasks: who is followed from when to when.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
        bpf_ktime_get_ns,
    },
};
use aya_log_ebpf::debug;
use slowburn_common::{
    Comm,
    event::{ExecEvent, Header, kind},
    stats::{Stat, TIMED_TASKS},
    task::{MEMBERS_PER_ELEMENT, NO_SLOT, SchedRecord, TaskRecord, cpu, origin},
};

use crate::{
    atomic,
    kernel::{Task, TypedTask},
    maps::{
        CONTROL, FOLLOWED_CGROUPS, FOLLOWED_NAMES, FREE_SLOTS, MEMBERS, SCHED, control, count,
        emit, is_member, record_in, record_of, sched_in, slot, slot_of,
    },
    sched,
    timer::Timer,
};

/// Deepest cgroup level looked at when an exec is matched against the followed cgroups.
const CGROUP_LEVELS: i32 = 12;

/// Identity of a task that is about to be followed.
struct Newcomer {
    tid: u32,
    tgid: u32,
    start_boot_ns: u64,
    creator_tid: u32,
    creator_tgid: u32,
    /// [`NO_SLOT`] if it starts a process.
    process_slot: u32,
    service: u32,
    origin: u32,
    comm: Comm,
    vm_pages: u64,
    data_pages: u64,
}

/// A task was created, and all about it can be read from itself.
#[inline(always)]
pub fn created_as_told(ctx: &impl EbpfContext, child: impl Task) {
    created(
        ctx,
        child,
        child.tid(),
        child.tgid(),
        child.start_boot_ns(),
        child.comm(),
    );
}

/// A task was created. The current task is its creator; the new one has not run yet.
#[inline(always)]
pub fn created(
    ctx: &impl EbpfContext,
    child: impl Task,
    tid: u32,
    tgid: u32,
    start_boot_ns: u64,
    comm: Comm,
) {
    let current = TypedTask::current();
    let creator_tid = current.tid();
    let Some(creator) = record_of(creator_tid) else {
        return;
    };
    let is_thread = tgid == creator.tgid;
    let (vm_pages, data_pages) = if is_thread { (0, 0) } else { child.mm_pages() };
    let timer = timer_of(tid);
    follow(
        ctx,
        &Newcomer {
            tid,
            tgid,
            start_boot_ns,
            creator_tid,
            creator_tgid: creator.tgid,
            process_slot: if is_thread {
                creator.process_slot
            } else {
                NO_SLOT
            },
            service: creator.service,
            origin: if is_thread {
                origin::THREAD
            } else {
                origin::FORK
            },
            comm,
            vm_pages,
            data_pages,
        },
    );
    stop(timer);
}

/// A timer for one task in [`TIMED_TASKS`].
#[inline(always)]
fn timer_of(tid: u32) -> Option<Timer> {
    u64::from(tid)
        .is_multiple_of(TIMED_TASKS)
        .then(Timer::start)
}

#[inline(always)]
fn stop(timer: Option<Timer>) {
    if let Some(timer) = timer {
        timer.stop(Stat::TasksTimedNs);
    }
}

/// A task exits. It is the current task.
#[inline(always)]
pub fn exited() {
    let current = TypedTask::current();
    let tid = current.tid();
    if is_member(tid) {
        let timer = timer_of(tid);
        ended(current, tid);
        stop(timer);
    }
}

#[inline(always)]
fn ended(current: TypedTask, tid: u32) {
    let Some(place) = slot_of(tid) else { return };
    // Off the tables first, so that nothing follows the id into its next life.
    leave(tid);
    // SAFETY: the place comes from a successful lookup, is aligned, and is shared with the daemon,
    // which also uses atomics on it.
    let slot = unsafe { atomic::swap32(place, NO_SLOT) };
    let (Some(sched), Some(record)) = (sched_in(slot), record_in(slot)) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    sched::leaves(slot, sched, current, sched::this_cpu());
    record.exit_ns = now;
    emit(
        Header {
            ts: now,
            kind: kind::TASK_EXIT,
            slot,
            tid,
            tgid: record.tgid,
        },
        Stat::TaskLost,
    );
}

/// The current task has executed a program.
#[inline(always)]
pub fn executed(ctx: &impl EbpfContext, old_tid: u32) {
    let current = TypedTask::current();
    let tid = current.tid();
    let tgid = current.tgid();
    if old_tid != tid {
        adopt_leader(old_tid, tid);
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let comm = bpf_get_current_comm().unwrap_or_default();
    if let Some(record) = record_of(tid) {
        // A new address space: what came before is gone without having been released.
        let (vm_pages, data_pages) = current.mm_pages();
        record.vm_pages = vm_pages;
        record.data_pages = data_pages;
        record.comm = comm;
    } else if let Some((service, origin)) = followed_since_exec(&comm) {
        let (vm_pages, data_pages) = current.mm_pages();
        follow(
            ctx,
            &Newcomer {
                tid,
                tgid,
                start_boot_ns: current.start_boot_ns(),
                creator_tid: 0,
                creator_tgid: 0,
                process_slot: NO_SLOT,
                service,
                origin,
                comm,
                vm_pages,
                data_pages,
            },
        );
    } else if control().is_none_or(|control| control.report_execs == 0) {
        return;
    }
    emit(
        ExecEvent {
            header: Header {
                ts: now,
                kind: kind::EXEC,
                slot: slot(tid),
                tid,
                tgid,
            },
            // SAFETY: the helper has no preconditions.
            cgroup_id: unsafe { bpf_get_current_cgroup_id() },
            comm,
        },
        Stat::ExecLost,
    );
}

/// A task gets another name. It is read when the task next leaves its CPU, because the new one is in a string to which no
/// typed pointer leads, and other pointers may not be read under lockdown for confidentiality.
#[inline(always)]
pub fn to_be_renamed(tid: u32) {
    if let Some(sched) = sched_in(slot(tid)) {
        sched.renamed = 1;
    }
}

/// An exec by a thread that is not the leader makes it take over the leader's id; the leader has
/// exited by then. The record goes with the thread.
#[inline(always)]
fn adopt_leader(old_tid: u32, tid: u32) {
    if !is_member(old_tid) {
        return;
    }
    let (Some(old_place), Some(place)) = (slot_of(old_tid), slot_of(tid)) else {
        return;
    };
    leave(old_tid);
    // SAFETY: both places come from successful lookups; see `exited`.
    let slot = unsafe { atomic::swap32(old_place, NO_SLOT) };
    let (Some(sched), Some(record)) = (sched_in(slot), record_in(slot)) else {
        return;
    };
    sched.tid = tid;
    record.process_slot = slot;
    // By now the thread carries the leader's start time too: it is the same life of the process.
    record.start_boot_ns = TypedTask::current().start_boot_ns();
    // SAFETY: as above.
    unsafe { atomic::swap32(place, slot) };
    join(tid);
}

/// Does the current task belong to something followed, by its cgroup or its new name?
#[inline(always)]
fn followed_since_exec(comm: &Comm) -> Option<(u32, u32)> {
    for level in 0..CGROUP_LEVELS {
        // SAFETY: the helper has no preconditions; it returns 0 below the task's own level.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is read at once and never changed in place.
        if let Some(service) = unsafe { FOLLOWED_CGROUPS.get(&id) } {
            return Some((*service, origin::CGROUP));
        }
    }
    // SAFETY: as above.
    unsafe { FOLLOWED_NAMES.get(comm) }.map(|service| (*service, origin::NAME))
}

/// Makes a record for a task and publishes it.
#[inline(always)]
fn follow(ctx: &impl EbpfContext, new: &Newcomer) {
    let Some(place) = slot_of(new.tid) else {
        count(Stat::TidBeyondTable);
        return;
    };
    let Some(slot) = take_slot() else {
        count(Stat::NoSlot);
        debug!(ctx, "no free record for task {}", new.tid);
        return;
    };
    let (Some(sched), Some(record)) = (sched_in(slot), record_in(slot)) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    fill(sched, record, new, slot, now);
    // The daemon may have found the task in /proc in the meantime; then its record stands.
    // SAFETY: see `exited`.
    if unsafe { atomic::compare_swap32(place, NO_SLOT, slot) } != NO_SLOT {
        unfill(sched, record);
        let _ = FREE_SLOTS.push(slot, 0);
        return;
    }
    join(new.tid);
    debug!(ctx, "following task {} of process {}", new.tid, new.tgid);
    emit(
        Header {
            ts: now,
            kind: kind::TASK_START,
            slot,
            tid: new.tid,
            tgid: new.tgid,
        },
        Stat::TaskLost,
    );
}

/// The daemon zeroes records before it gives their slot back, so only what is not zero is written.
#[inline(always)]
fn fill(sched: &mut SchedRecord, record: &mut TaskRecord, new: &Newcomer, slot: u32, now: u64) {
    sched.tid = new.tid;
    record.tgid = new.tgid;
    record.start_boot_ns = new.start_boot_ns;
    record.born_ns = now;
    record.creator_tid = new.creator_tid;
    record.creator_tgid = new.creator_tgid;
    record.process_slot = if new.process_slot == NO_SLOT {
        slot
    } else {
        new.process_slot
    };
    record.service = new.service;
    record.comm = new.comm;
    record.vm_pages = new.vm_pages;
    record.data_pages = new.data_pages;
    record.origin = new.origin;
    if matches!(new.origin, origin::THREAD | origin::FORK) {
        // It has not run yet, so that even its first wait is told by the kernel's own account if nothing else tells of it.
        sched.on_cpu = cpu::OFF;
        sched.kernel_delay_ns = sched::kernel_delay(0);
    }
}

/// Zeroes what whoever fills records that were given back relies on to be zero.
#[inline(always)]
fn unfill(sched: &mut SchedRecord, record: &mut TaskRecord) {
    record.origin = origin::NONE;
    (record.creator_tid, record.creator_tgid) = (0, 0);
    sched.on_cpu = cpu::UNKNOWN;
    sched.kernel_delay_ns = 0;
}

/// A slot for a new record: one given back, or the next that was never used.
#[inline(always)]
fn take_slot() -> Option<u32> {
    if let Ok(Some(slot)) = FREE_SLOTS.pop() {
        return Some(slot);
    }
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: the pointer comes from a successful lookup and stays valid; the daemon uses atomics on it too.
    let slot = unsafe {
        let next = ptr::addr_of_mut!((*control).next_slot);
        // Looked at first, so that a full table does not count up for ever.
        let _ = SCHED.get_ptr(next.read_volatile())?;
        atomic::fetch_add32(next, 1)
    };
    SCHED.get_ptr(slot).map(|_| slot)
}

/// Sets a task's bit in the membership bitmap. Atomic: neighbours in the word come and go on other CPUs.
#[inline(always)]
fn join(tid: u32) {
    if let Some(word) = MEMBERS.get_ptr_mut(tid / MEMBERS_PER_ELEMENT) {
        // SAFETY: the pointer comes from a successful lookup; the daemon uses atomics on it too.
        unsafe { atomic::or(word, 1 << (tid % MEMBERS_PER_ELEMENT)) }
    }
}

/// Clears a task's bit in the membership bitmap.
#[inline(always)]
fn leave(tid: u32) {
    if let Some(word) = MEMBERS.get_ptr_mut(tid / MEMBERS_PER_ELEMENT) {
        // SAFETY: as in `join`.
        unsafe { atomic::and(word, !(1 << (tid % MEMBERS_PER_ELEMENT))) }
    }
}
