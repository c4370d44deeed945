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
    if record.on_cpu != cpu::ON && record.enqueued_ns == 0 {
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
        if record.on_cpu == cpu::OFF {
            record.unknown_count += 1;
        }
        record.on_cpu = cpu::OFF;
        let waits = preempted || TypedTask::current().is_runnable();
        record.enqueued_ns = if waits { now } else { 0 };
    }
    if let Some(record) = next {
        record.on_cpu = cpu::ON;
        let since = record.enqueued_ns;
        record.enqueued_ns = 0;
        if since == 0 {
            record.unknown_count += 1;
        } else {
            waited(record, since, now, prev_tid);
        }
    }
}

#[inline(always)]
fn waited(record: &mut TaskRecord, since: u64, now: u64, prev_tid: u32) {
    if now < since {
        count(Stat::NegativeWait);
        return;
    }
    let wait = now - since;
    record.delay_count += 1;
    record.delay_sum_ns += wait;
    if wait > record.delay_max_ns {
        record.delay_max_ns = wait;
    }
    let bucket = histogram::bucket(wait);
    // The verifier cannot follow the arithmetic of `bucket`; the check costs it and us one compare.
    if bucket < histogram::BUCKETS {
        record.delays[bucket] = record.delays[bucket].wrapping_add(1);
    }
    if let Some(control) = control()
        && wait >= control.slow_ns
    {
        slow(record, wait, now, prev_tid);
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
