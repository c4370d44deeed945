//! Following processes that run already: they are found in `/proc`, while the fork, exec and exit hooks are
//! attached and may change the same tables at the same time.
//!
//! The order makes it safe. A task is published by an atomic exchange of its slot, so that of the daemon
//! and the fork hook only one makes a record. Afterwards the daemon looks whether the task began to exit
//! in the meantime, because then the exit hook may have run before there was anything to clean up.
//! And the threads are listed again until the list holds nothing new, since a thread that was not
//! followed yet may have created others.

use std::{
    collections::HashSet,
    fs, io, iter,
    sync::atomic::{AtomicU32, Ordering},
};

use procfs::{FromRead, process::Stat};
use slowburn_common::{COMM_LEN, Comm, task::NO_SLOT};

use super::{
    account,
    clock::monotonic_ns,
    error::ProbeError,
    source::Source,
    tables::{TaskIdentity, read},
};

/// Flag of a task that has begun to exit (`PF_EXITING`), in field 9 of `/proc/PID/stat`. It is set
/// before the exit tracepoint fires.
const PF_EXITING: u32 = 4;

/// How often the threads of a process are listed before giving up on one that makes them faster than
/// they can be listed. By then nearly all are followed, and those create followed ones.
const MAX_ROUNDS: usize = 20;

impl Source {
    /// Follows a running process: all its threads, and all that they create from now on.
    ///
    /// Following a process again does no harm.
    ///
    /// # Errors
    /// If the process is gone or cannot be read, or a table is full.
    pub fn follow(&mut self, pid: u32, service: u32) -> Result<(), ProbeError> {
        let gone = |source| ProbeError::Process {
            what: "the threads",
            pid,
            source,
        };
        let process_slot = self.follow_first(pid, service)?;
        let mut seen = HashSet::from([pid]);
        for _ in 0..MAX_ROUNDS {
            let mut fresh = false;
            for tid in task_ids(pid).map_err(gone)? {
                if seen.insert(tid) {
                    fresh = true;
                    self.follow_task(pid, tid, service, process_slot)?;
                }
            }
            if !fresh {
                break;
            }
        }
        Ok(())
    }

    /// Follows the first thread of a process that runs, and returns the slot of the process. That is the
    /// leader, unless it has ended and left the process to its other threads.
    fn follow_first(&mut self, pid: u32, service: u32) -> Result<u32, ProbeError> {
        let others = task_ids(pid).unwrap_or_default();
        for tid in iter::once(pid).chain(others) {
            if let Some(slot) = self.follow_task(pid, tid, service, NO_SLOT)? {
                return Ok(slot);
            }
            // Somebody else made the record: a fork or exec hook, or an earlier call.
            let slot = self.published_slot(tid)?;
            if slot != NO_SLOT {
                return Ok(read!(self.record(slot)?.task, process_slot));
            }
        }
        Err(ProbeError::Process {
            what: "any thread",
            pid,
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// Follows one task. `None` if it is followed already, or gone.
    fn follow_task(
        &mut self,
        pid: u32,
        tid: u32,
        service: u32,
        process_slot: u32,
    ) -> Result<Option<u32>, ProbeError> {
        let Some(stat) = read_stat(pid, tid) else {
            return Ok(None);
        };
        if self.published_slot(tid)? != NO_SLOT {
            return Ok(None);
        }
        let slot = self.take_slot()?;
        let is_leader = process_slot == NO_SLOT;
        let (vm_bytes, data_bytes) = is_leader
            .then(|| account::address_space(pid))
            .flatten()
            .unwrap_or_default();
        let identity = TaskIdentity {
            tid,
            tgid: pid,
            start_boot_ns: stat.starttime * self.ns_per_tick(),
            born_ns: monotonic_ns(),
            process_slot: if is_leader { slot } else { process_slot },
            service,
            comm: comm(&stat.comm),
            vm_pages: vm_bytes >> self.page_shift(),
            data_pages: data_bytes >> self.page_shift(),
        };
        self.record(slot)?.fill(&identity);
        if !self.publish(tid, slot)? {
            self.give_back(slot)?;
            return Ok(None);
        }
        self.settle(pid, tid, slot, &stat)?;
        Ok(Some(slot))
    }

    /// A task is published. If it has begun to exit, or has gone and come back as another, nobody may
    /// ever take it off the tables again, so that is done here.
    fn settle(&mut self, pid: u32, tid: u32, slot: u32, before: &Stat) -> Result<(), ProbeError> {
        let alive = read_stat(pid, tid).is_some_and(|now| now.starttime == before.starttime);
        if !alive {
            self.unpublish(tid, slot)?;
        }
        self.started(slot)?;
        if !alive {
            self.departed(slot)?;
        }
        Ok(())
    }

    /// Publishes a slot for a task id, unless another is published for it already.
    fn publish(&mut self, tid: u32, slot: u32) -> Result<bool, ProbeError> {
        let exchanged =
            self.place_of(tid)?
                .compare_exchange(NO_SLOT, slot, Ordering::SeqCst, Ordering::SeqCst);
        if exchanged.is_err() {
            return Ok(false);
        }
        self.kernel.tables.set_member(tid, true).map_err(map_io)?;
        Ok(true)
    }

    /// Takes a task off the tables, unless its exit hook was faster.
    pub(super) fn unpublish(&mut self, tid: u32, slot: u32) -> Result<(), ProbeError> {
        let Some(place) = self.kernel.tables.slot_of(tid).map_err(map_io)? else {
            return Ok(());
        };
        if place
            .compare_exchange(slot, NO_SLOT, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.kernel.tables.set_member(tid, false).map_err(map_io)?;
            self.record(slot)?.mark_exited(monotonic_ns());
        }
        Ok(())
    }

    fn published_slot(&mut self, tid: u32) -> Result<u32, ProbeError> {
        Ok(self.place_of(tid)?.load(Ordering::SeqCst))
    }

    /// The place in the table that holds the slot of a task.
    fn place_of(&mut self, tid: u32) -> Result<&AtomicU32, ProbeError> {
        let place = self.kernel.tables.slot_of(tid).map_err(map_io)?;
        place.ok_or(ProbeError::IdBeyondTable(tid))
    }
}

/// Mapping a part of a table failed.
pub(super) fn map_io(source: io::Error) -> ProbeError {
    ProbeError::Map {
        what: "mapping a shared table".into(),
        source,
        hint: "Lower --max-tasks.",
    }
}

/// Ids of the threads that a process has now.
fn task_ids(pid: u32) -> io::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        ids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    Ok(ids)
}

/// A task's stat, if it is there and has not begun to exit.
pub(super) fn read_stat(pid: u32, tid: u32) -> Option<Stat> {
    let stat = Stat::from_file(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let exiting = stat.flags & PF_EXITING != 0 || matches!(stat.state, 'Z' | 'X' | 'x');
    (!exiting).then_some(stat)
}

fn comm(name: &str) -> Comm {
    let mut comm = [0; COMM_LEN];
    for (to, from) in comm[..COMM_LEN - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    comm
}
