//! Who had the CPU that a task waited long for.
//!
//! Only long waits come here, so that short ones pay for no more than a compare. What is known is who had it last: others may
//! have had it before, while the same wait lasted.

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use slowburn_common::task::{LongWaits, Rival, RivalKey};

use crate::{
    atomic,
    kernel::{Task, TypedTask},
    maps::{RIVALS, record_in},
};

/// Books a long wait of the task in a slot, which ends now, by the current task, which still has the CPU. A function of its
/// own in the object as well, since all the rest of a switch is one.
#[inline(never)]
pub fn long(slot: u32, wait_ns: u64) {
    let Some(record) = record_in(slot) else {
        return;
    };
    let current = TypedTask::current();
    let tgid = current.tgid();
    if tgid == record.tgid {
        add(&mut record.behind.own, wait_ns);
    } else if tgid == 0 {
        add(&mut record.behind.idle, wait_ns);
    } else {
        add(&mut record.behind.others, wait_ns);
        let key = RivalKey {
            waiter: record.tgid,
            rival: tgid,
        };
        add_rival(&key, current, wait_ns);
    }
}

#[inline(always)]
fn add(waits: &mut LongWaits, wait_ns: u64) {
    waits.count += 1;
    waits.sum_ns += wait_ns;
}

/// Threads of the waiting process do this on several CPUs at once.
#[inline(always)]
fn add_rival(key: &RivalKey, current: TypedTask, wait_ns: u64) {
    let comm = current.comm();
    let mut rival = RIVALS.get_ptr_mut(key);
    if rival.is_none() {
        let nothing = Rival {
            waits: LongWaits {
                count: 0,
                sum_ns: 0,
            },
            comm,
        };
        // Refused if another CPU was faster, and then that one's is there.
        let _ = RIVALS.insert(key, &nothing, u64::from(BPF_NOEXIST));
        rival = RIVALS.get_ptr_mut(key);
    }
    let Some(rival) = rival else { return };
    // SAFETY: the pointer comes from a successful lookup; the counters are only changed atomically. Of a name that is
    // written twice at once, either half may stay.
    unsafe {
        atomic::add(ptr::addr_of_mut!((*rival).waits.count), 1);
        atomic::add(ptr::addr_of_mut!((*rival).waits.sum_ns), wait_ns);
        (*rival).comm = comm;
    }
}
