//! Run-queue delay: from the moment a task becomes runnable to the moment it gets a CPU.
//!
//! A wait begins when the task is woken (or, for a new one, made runnable for the first time) and when
//! it is switched out while still runnable. It ends when the task is switched in.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use slowburn_common::{
    Comm,
    event::{DelayEvent, Header, kind},
    histogram,
    stats::{Stat, TIMED_SCHED},
    task::{Histogram, LATEST, LONG_WAIT_NS, NO_SLOT, SchedRecord, cpu},
};

use crate::{
    behind,
    kernel::{Task, TypedTask},
    maps::{control, count, emit, histogram_in, is_member, member, record_in, sched_in, slot},
    timer::Timer,
};

/// A task was woken, or a new one put on a run-queue. It is the woken task that counts: `current` is
/// the waker, or whoever was interrupted.
#[inline(always)]
pub fn woken(tid: u32) {
    let Some(record) = sched_in(slot(tid)) else {
        return;
    };
    if is_timed(record) {
        let timer = Timer::start();
        wake(record);
        timer.stop(Stat::SchedTimedNs);
    } else {
        wake(record);
    }
}

#[inline(always)]
fn wake(record: &mut SchedRecord) {
    // Waking a task that runs already starts no wait, and nothing would end it. One that waits
    // already (preempted between setting its state and blocking) keeps its earlier start.
    let runs = matches!(record.on_cpu, cpu::ON | cpu::ON_UNTOLD);
    if !runs && record.enqueued_ns == 0 {
        // SAFETY: the helper has no preconditions.
        record.enqueued_ns = unsafe { bpf_ktime_get_ns() };
    }
}

/// Is it the turn of this record's task to have a run timed? That of each comes after as many waits as with any other,
/// and among tasks that wait a few times only, as many have theirs.
#[inline(always)]
fn is_timed(record: &SchedRecord) -> bool {
    (record.delay_count + u64::from(record.tid)).is_multiple_of(TIMED_SCHED)
}

/// One task leaves a CPU and another gets it. `prev` is still the current task; it is asked for only if it is followed.
#[inline(always)]
pub fn switched(prev_tid: u32, prev: impl FnOnce() -> TypedTask, preempted: bool, next_tid: u32) {
    // Most switches on a host are from one stranger to another, and that is found out before anything else. Pid 0, which is
    // every CPU's idle task at once and waits for nothing, is never followed.
    let (leaves_one, gets_one) = (is_member(prev_tid), is_member(next_tid));
    if !leaves_one && !gets_one {
        return;
    }
    let left = if leaves_one {
        member(prev_tid)
    } else {
        NO_SLOT
    };
    let next = if gets_one { member(next_tid) } else { NO_SLOT };
    let (left, next) = ((left, sched_in(left)), (next, sched_in(next)));
    let Some(record) = next.1.as_deref().or(left.1.as_deref()) else {
        return;
    };
    if is_timed(record) {
        let timer = Timer::start();
        switch(left, prev, preempted, next);
        timer.stop(Stat::SchedTimedNs);
    } else {
        switch(left, prev, preempted, next);
    }
}

/// A slot, [`NO_SLOT`] for a stranger, and what is in it. (Of one in which nothing is, the slot has a value nonetheless: an
/// option of both is copied together, and the verifier rejects copies of what has none.)
type Place<'a> = (u32, Option<&'a mut SchedRecord>);

#[inline(always)]
fn switch(
    (left_slot, mut left): Place,
    prev: impl FnOnce() -> TypedTask,
    preempted: bool,
    (next_slot, next): Place,
) {
    let cpu = this_cpu();
    let mut waits = false;
    if let Some(record) = &mut left {
        let prev = prev();
        waits = preempted || prev.is_runnable();
        leaves(left_slot, record, prev, cpu);
    }
    let since = next.as_ref().map_or(0, |record| record.enqueued_ns);
    // Half of this program's time is taking the time: who goes to sleep and leaves the CPU to a stranger needs none.
    // Taken after the records were found, so that it cannot lie before a stamp they hold from this CPU.
    let now = if waits || since != 0 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    } else {
        0
    };
    if let Some(record) = left {
        record.enqueued_ns = if waits { now } else { 0 };
    }
    if let Some(record) = next {
        record.enqueued_ns = 0;
        record.on_cpu = if since == 0 { cpu::ON_UNTOLD } else { cpu::ON };
        if since != 0 {
            waited(next_slot, record, cpu, since, now);
        }
    }
}

/// A task, which is the current one, leaves its CPU, or ends. Some kernels now and then trace neither a wake-up nor the
/// switch that follows it (seen on a virtual machine, where the idle task or the migration thread had run before: up to
/// one in 300 switches, some of them after milliseconds of waiting). How long the task had waited before it ran is then
/// told by the kernel's own account, which has been brought up to date when it got the CPU.
#[inline(always)]
pub fn leaves(slot: u32, record: &mut SchedRecord, current: TypedTask, cpu: u16) {
    let (run_count, total) = current
        .run_account()
        .map_or((0, 0), |(count, delay_ns)| (count, kernel_delay(delay_ns)));
    if matches!(record.on_cpu, cpu::OFF | cpu::ON_UNTOLD) {
        let before = record.kernel_delay_ns;
        if before == 0 || total < before {
            record.unknown_count += 1;
        } else {
            book(slot, record, cpu, total - before);
            // There is no event to tell: when it ended and behind whom is not known.
            if let Some(control) = control()
                && total - before >= control.slow_ns
            {
                count(Stat::DelayLost);
            }
        }
    }
    record.kernel_delay_ns = total;
    record.kernel_run_count = run_count;
    record.on_cpu = cpu::OFF;
    record.last_cpu = cpu;
    if record.renamed != 0 {
        record.renamed = 0;
        if let Some(record) = record_in(slot) {
            record.comm = current.comm();
        }
    }
}

/// What the kernel's own account says, as [`SchedRecord::kernel_delay_ns`] has it.
#[inline(always)]
pub fn kernel_delay(run_delay_ns: u64) -> u64 {
    run_delay_ns + 1
}

#[inline(always)]
fn waited(slot: u32, record: &mut SchedRecord, cpu: u16, since: u64, now: u64) {
    if now < since {
        count(Stat::NegativeWait);
        return;
    }
    let wait = now - since;
    book(slot, record, cpu, wait);
    if wait >= LONG_WAIT_NS {
        behind::long(slot, wait);
    }
    if let Some(control) = control()
        && wait >= control.slow_ns
    {
        slow(slot, record, wait, now);
    }
}

/// The CPU that this runs on, as [`SchedRecord::last_cpu`] has it.
#[inline(always)]
pub fn this_cpu() -> u16 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() as u16 + 1 }
}

/// Counts a wait that ended on this CPU.
#[inline(always)]
fn book(slot: u32, record: &mut SchedRecord, cpu: u16, wait_ns: u64) {
    record.delay_count += 1;
    record.delay_sum_ns += wait_ns;
    if wait_ns > record.delay_max_ns {
        record.delay_max_ns = wait_ns;
    }
    // It is always less than that; the verifier does not know.
    let place = usize::from(record.latest_count);
    if place < LATEST {
        // In this order, for whoever reads meanwhile.
        // SAFETY: both are fields of the record.
        unsafe {
            (&raw mut record.latest[place]).write_volatile(histogram::bucket(wait_ns) as u16);
            (&raw mut record.latest_count).write_volatile(place as u16 + 1);
        }
    }
    if place == LATEST - 1 {
        flush(slot, record);
    }
    // Last, so that whoever reads this first finds no more moves than waits.
    if record.last_cpu != 0 && record.last_cpu != cpu {
        record.moved = record.moved.wrapping_add(1);
    }
}

/// Moves the latest waits of the task in a slot to its histogram. A function of its own in the object as well, since few
/// switches need it.
#[inline(never)]
fn flush(slot: u32, record: &mut SchedRecord) {
    let Some(Histogram(counts)) = histogram_in(slot) else {
        return;
    };
    let flushes = &raw mut record.flushes;
    // SAFETY: fields of the record. Volatile, so that all of it happens between the two changes of `flushes`.
    unsafe {
        flushes.write_volatile(record.flushes.wrapping_add(1));
        for n in 0..LATEST {
            let bucket = usize::from((&raw const record.latest[n]).read_volatile());
            // The verifier knows nothing of what was stored; the check costs it and us one compare.
            if bucket < histogram::BUCKETS {
                let count = &raw mut counts[bucket];
                count.write_volatile(count.read_volatile().wrapping_add(1));
            }
        }
        (&raw mut record.latest_count).write_volatile(0);
        flushes.write_volatile(record.flushes.wrapping_add(1));
    }
}

/// Reports a single slow wait, with the task that held the CPU until now.
#[inline(always)]
fn slow(slot: u32, waiter: &SchedRecord, wait_ns: u64, now: u64) {
    let Some(record) = record_in(slot) else {
        return;
    };
    let culprit = TypedTask::current();
    let culprit_tid = culprit.tid();
    let culprit_comm: Comm = culprit.comm();
    emit(
        DelayEvent {
            header: Header {
                ts: now,
                kind: kind::DELAY,
                slot,
                tid: waiter.tid,
                tgid: record.tgid,
            },
            wait_ns,
            // SAFETY: the helper has no preconditions.
            cpu: unsafe { bpf_get_smp_processor_id() },
            culprit_tid,
            culprit_tgid: culprit.tgid(),
            culprit_is_member: u32::from(is_member(culprit_tid)),
            culprit_comm,
        },
        Stat::DelayLost,
    );
}
