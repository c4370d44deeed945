//! Run-queue delay: from the moment a task becomes runnable to the moment it gets a CPU.
//!
//! A wait begins when the task is woken (or, for a new one, made runnable for the first time) and when
//! it is switched out while still runnable. It ends when the task is switched in.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use slowburn_common::{
    Comm,
    event::{DelayEvent, Header, kind},
    histogram,
    stats::Stat,
    task::{TaskRecord, cpu},
};

use crate::{
    kernel::{Task, TypedTask},
    maps::{control, count, emit, is_member, record_of, slot_of},
};

/// A task was woken, or a new one put on a run-queue. It is the woken task that counts: `current` is
/// the waker, or whoever was interrupted.
#[inline(always)]
pub fn woken(tid: u32) {
    let Some(record) = record_of(tid) else { return };
    // Waking a task that runs already starts no wait, and nothing would end it. One that waits
    // already (preempted between setting its state and blocking) keeps its earlier start.
    let runs = matches!(record.on_cpu, cpu::ON | cpu::ON_UNTOLD);
    if !runs && record.enqueued_ns == 0 {
        // SAFETY: the helper has no preconditions.
        record.enqueued_ns = unsafe { bpf_ktime_get_ns() };
    }
}

/// One task leaves a CPU and another gets it. `prev` is still the current task.
#[inline(always)]
pub fn switched(prev_tid: u32, preempted: bool, next_tid: u32) {
    // Pid 0 is every CPU's idle task at once; it waits for nothing.
    let prev = if prev_tid == 0 {
        None
    } else {
        record_of(prev_tid)
    };
    let next = if next_tid == 0 {
        None
    } else {
        record_of(next_tid)
    };
    if prev.is_none() && next.is_none() {
        return;
    }
    // Taken after the records were found, so that it cannot lie before a stamp they hold from this CPU.
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(record) = prev {
        leaves(record);
        let waits = preempted || TypedTask::current().is_runnable();
        record.enqueued_ns = if waits { now } else { 0 };
    }
    if let Some(record) = next {
        let since = record.enqueued_ns;
        record.enqueued_ns = 0;
        record.on_cpu = if since == 0 { cpu::ON_UNTOLD } else { cpu::ON };
        if since != 0 {
            waited(record, since, now, prev_tid);
        }
    }
}

/// The current task leaves its CPU, or ends. Some kernels now and then trace neither a wake-up nor the switch that
/// follows it (seen on a virtual machine, where the idle task or the migration thread had run before: up to one in
/// 300 switches, some of them after milliseconds of waiting). How long the task had waited before it ran is then told
/// by the kernel's own account, which has been brought up to date when it got the CPU.
#[inline(always)]
pub fn leaves(record: &mut TaskRecord) {
    let current = TypedTask::current();
    let total = current.run_delay_ns().map_or(0, kernel_delay);
    if matches!(record.on_cpu, cpu::OFF | cpu::ON_UNTOLD) {
        let before = record.kernel_delay_ns;
        if before == 0 || total < before {
            record.unknown_count += 1;
        } else {
            book(record, total - before);
            // There is no event to tell: when it ended and behind whom is not known.
            if let Some(control) = control()
                && total - before >= control.slow_ns
            {
                count(Stat::DelayLost);
            }
        }
    }
    record.kernel_delay_ns = total;
    record.on_cpu = cpu::OFF;
    if record.renamed != 0 {
        record.renamed = 0;
        record.comm = current.comm();
    }
}

/// What the kernel's own account says, as [`TaskRecord::kernel_delay_ns`] has it.
#[inline(always)]
pub fn kernel_delay(run_delay_ns: u64) -> u64 {
    run_delay_ns + 1
}

#[inline(always)]
fn waited(record: &mut TaskRecord, since: u64, now: u64, prev_tid: u32) {
    if now < since {
        count(Stat::NegativeWait);
        return;
    }
    let wait = now - since;
    book(record, wait);
    if let Some(control) = control()
        && wait >= control.slow_ns
    {
        slow(record, wait, now, prev_tid);
    }
}

/// Counts a wait.
#[inline(always)]
fn book(record: &mut TaskRecord, wait_ns: u64) {
    record.delay_count += 1;
    record.delay_sum_ns += wait_ns;
    if wait_ns > record.delay_max_ns {
        record.delay_max_ns = wait_ns;
    }
    let bucket = histogram::bucket(wait_ns);
    // The verifier cannot follow the arithmetic of `bucket`; the check costs it and us one compare.
    if bucket < histogram::BUCKETS {
        record.delays[bucket] = record.delays[bucket].wrapping_add(1);
    }
}

/// Reports a single slow wait, with the task that held the CPU until now.
#[inline(always)]
fn slow(record: &TaskRecord, wait_ns: u64, now: u64, prev_tid: u32) {
    let culprit = TypedTask::current();
    // SAFETY: the pointer comes from a successful lookup.
    let slot = slot_of(record.tid).map_or(0, |slot| unsafe { *slot });
    let culprit_comm: Comm = culprit.comm();
    emit(
        DelayEvent {
            header: Header {
                ts: now,
                kind: kind::DELAY,
                slot,
                tid: record.tid,
                tgid: record.tgid,
            },
            wait_ns,
            // SAFETY: the helper has no preconditions.
            cpu: unsafe { bpf_get_smp_processor_id() },
            culprit_tid: prev_tid,
            culprit_tgid: culprit.tgid(),
            culprit_is_member: u32::from(is_member(prev_tid)),
            culprit_comm,
        },
        Stat::DelayLost,
    );
}
