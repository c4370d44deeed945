//! Calls that change an address space, counted when they return.
//!
//! What a call did is not computed from its arguments: `munmap` may cover holes, `MAP_FIXED` may
//! replace, `mremap` and `brk` may do less than asked. Instead the kernel's own page counts of the
//! address space are read when the call returns, and the change since the last call of any thread
//! of the process is booked. The changes therefore add up to the kernel's count exactly; what two
//! threads do at the same instant may be booked to either.

use core::ptr;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use slowburn_common::{
    event::{Header, MappingEvent, kind},
    stats::{Stat, TIMED_MEMORY},
    task::{TaskRecord, call, is_sampled},
};

use crate::{
    atomic,
    kernel::{Task, TypedTask},
    maps::{PAGE_SHIFT, control, count, emit, record_in, slot},
    timer::Timer,
};

/// Highest value that a call's return stands for an error with.
const MAX_ERRNO: u64 = 4095;

const MADV_DONTNEED: u64 = 4;
const MADV_FREE: u64 = 8;
const MADV_DONTNEED_LOCKED: u64 = 24;

/// A thread that is followed and makes a call.
struct Caller {
    tid: u32,
    slot: u32,
    record: &'static mut TaskRecord,
}

/// The calling thread, if it is followed.
#[inline(always)]
fn caller() -> Option<Caller> {
    count(Stat::MemoryRuns);
    let tid = bpf_get_current_pid_tgid() as u32;
    let slot = slot(tid);
    let record = record_in(slot)?;
    Some(Caller { tid, slot, record })
}

/// Is this call of the task's one that is looked at? To be asked once a call.
#[inline(always)]
fn is_looked_at(record: &mut TaskRecord) -> bool {
    record.calls_made += 1;
    let sample = sample();
    sample == 1 || is_sampled(record.calls_made, sample)
}

/// One call in so many is looked at.
#[inline(always)]
fn sample() -> u64 {
    control().map_or(1, |control| control.mapping_sample.max(1))
}

/// A call has returned. What it was asked for still stands in the registers with which the thread entered the kernel, so
/// that nothing has to be hooked there: `args` reads them.
#[inline(always)]
pub fn returned(call: u32, args: impl FnOnce() -> [u64; 4], result: u64) {
    let Some(caller) = caller() else { return };
    if !is_looked_at(caller.record) {
        return;
    }
    if (caller.record.calls_made + u64::from(caller.tid)).is_multiple_of(TIMED_MEMORY) {
        let timer = Timer::start();
        note(caller, call, args(), result);
        timer.stop(Stat::MemoryTimedNs);
    } else {
        note(caller, call, args(), result);
    }
}

/// A call that is not counted has returned.
#[inline(always)]
pub fn changed() {
    if let Some(caller) = caller() {
        book(caller.record);
    }
}

/// Notes what a call did.
#[inline(always)]
fn note(caller: Caller, call: u32, args: [u64; 4], result: u64) {
    let Caller { tid, slot, record } = caller;
    let [address, length, third, fourth] = args;
    let failed = if call == call::BRK {
        // brk answers with the break it leaves behind, moved or not; brk(0) only asks.
        if address == 0 {
            return;
        }
        result != address
    } else {
        result > u64::MAX - MAX_ERRNO
    };
    // A call that failed half-way, such as an mprotect over a hole, has changed something all the same.
    let (reserved, committed) = book(record);
    let sample = sample();
    if failed {
        record.memory.failed_calls += sample;
        return;
    }
    if let Some(calls) = record.memory.calls.get_mut(call as usize) {
        *calls += sample;
    }
    let shift = PAGE_SHIFT.load();
    if call == call::ADVISE && matches!(third, MADV_DONTNEED | MADV_FREE | MADV_DONTNEED_LOCKED) {
        record.memory.discarded_pages += sample * length.div_ceil(1 << shift);
    }
    let reserved_change = reserved << shift;
    let (address, length, detail, flags) = match call {
        call::MAP => (result, length, third, fourth),
        call::REMAP => (result, third, fourth, 0),
        call::BRK => (result, reserved_change.unsigned_abs(), 0, 0),
        _ => (address, length, third, 0),
    };
    let Some(control) = control() else { return };
    if length.max(reserved_change.unsigned_abs()) < control.min_mapping_bytes {
        return;
    }
    emit(
        MappingEvent {
            header: Header {
                // SAFETY: the helper has no preconditions.
                ts: unsafe { bpf_ktime_get_ns() },
                kind: kind::MAPPING,
                slot,
                tid,
                tgid: record.tgid,
            },
            call,
            detail: detail as u32,
            flags: flags as u32,
            sampled: sample as u32,
            address,
            length,
            reserved_change,
            committed_change: committed << shift,
        },
        Stat::MappingLost,
    );
}

/// Books the change of the address space since the last call of the process, in pages.
#[inline(always)]
fn book(record: &mut TaskRecord) -> (i64, i64) {
    let (vm_pages, data_pages) = TypedTask::current().mm_pages();
    let Some(process) = record_in(record.process_slot) else {
        return (0, 0);
    };
    // Threads of the process may be in here on several CPUs; each change is booked once.
    // SAFETY: the fields are aligned, live as long as the map, and are only exchanged atomically.
    let (vm_before, data_before) = unsafe {
        (
            atomic::swap(ptr::addr_of_mut!(process.vm_pages), vm_pages),
            atomic::swap(ptr::addr_of_mut!(process.data_pages), data_pages),
        )
    };
    let reserved = vm_pages.wrapping_sub(vm_before) as i64;
    let committed = data_pages.wrapping_sub(data_before) as i64;
    let memory = &mut record.memory;
    if reserved >= 0 {
        memory.reserved_pages += reserved as u64;
    } else {
        memory.released_pages += reserved.unsigned_abs();
    }
    if committed >= 0 {
        memory.committed_pages += committed as u64;
    } else {
        memory.decommitted_pages += committed.unsigned_abs();
    }
    (reserved, committed)
}
