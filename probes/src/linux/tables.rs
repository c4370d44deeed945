//! The maps that the daemon shares with the programs, mapped into its own memory.
//!
//! Reading a task's record is then a memory read, and no system call is made per task. Only the parts
//! of a map that are used are mapped, because mapped pages of a map count as the daemon's
//! resident memory whether they are touched or not.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use slowburn_common::task::{
    Control, Histogram, MEMBERS_PER_ELEMENT, NO_SLOT, SLOTS_PER_ELEMENT, SchedRecord, TaskRecord,
    cpu, origin,
};

use crate::event::{MemoryFlow, ProcessAccount, ThreadAccount};

/// Granularity in which a map is mapped, in bytes; a multiple of every page size up to 64 KiB.
const CHUNK: usize = 256 << 10;

/// An array map, mapped piece by piece into one range of addresses.
struct MappedArray<T> {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
    /// The map's own size: elements, rounded up to whole pages.
    bytes: usize,
    mapped: Vec<bool>,
    elements: u32,
    _elements: PhantomData<*mut T>,
}

// SAFETY: the pointer is owned by the struct, and the memory behind it is shared with the kernel anyway:
// every access is atomic or volatile.
unsafe impl<T> Send for MappedArray<T> {}

impl<T> MappedArray<T> {
    fn new(map: impl AsFd, elements: u32) -> io::Result<Self> {
        let bytes =
            (size_of::<T>() * elements as usize).next_multiple_of(rustix::param::page_size());
        let len = bytes.next_multiple_of(CHUNK);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let base = NonNull::new(base.cast())
            .ok_or_else(|| io::Error::other("mmap returned no address"))?;
        Ok(Self {
            fd: map.as_fd().try_clone_to_owned()?,
            base,
            len,
            bytes,
            mapped: vec![false; len / CHUNK],
            elements,
            _elements: PhantomData,
        })
    }

    /// The element at `index`, mapping what it lies in if that was not used yet; `None` beyond the end.
    fn get(&mut self, index: u32) -> io::Result<Option<NonNull<T>>> {
        if index >= self.elements {
            return Ok(None);
        }
        let start = index as usize * size_of::<T>();
        for chunk in start / CHUNK..=(start + size_of::<T>() - 1) / CHUNK {
            if !self.mapped[chunk] {
                self.map(chunk)?;
            }
        }
        // SAFETY: the element lies within the range, by the check above.
        Ok(Some(unsafe { self.base.add(start) }.cast()))
    }

    fn map(&mut self, chunk: usize) -> io::Result<()> {
        let offset = chunk * CHUNK;
        let len = CHUNK.min(self.bytes - offset);
        // SAFETY: replaces a part of the range that this struct reserved and that nothing points into yet.
        unsafe {
            mmap(
                self.base.as_ptr().add(offset).cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                &self.fd,
                offset as u64,
            )?;
        }
        self.mapped[chunk] = true;
        Ok(())
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the range was reserved by `new`, and no pointer into it outlives the struct.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What is kept about each task, by slot.
pub struct Records {
    sched: MappedArray<SchedRecord>,
    task: MappedArray<TaskRecord>,
    histogram: MappedArray<Histogram>,
}

impl Records {
    /// Maps so many of each.
    pub fn new(
        sched: impl AsFd,
        task: impl AsFd,
        histogram: impl AsFd,
        slots: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            sched: MappedArray::new(sched, slots)?,
            task: MappedArray::new(task, slots)?,
            histogram: MappedArray::new(histogram, slots)?,
        })
    }

    fn get(&mut self, slot: u32) -> io::Result<Option<Record>> {
        let parts = (
            self.sched.get(slot)?,
            self.task.get(slot)?,
            self.histogram.get(slot)?,
        );
        let (Some(sched), Some(task), Some(histogram)) = parts else {
            return Ok(None);
        };
        Ok(Some(Record {
            sched,
            task,
            histogram,
        }))
    }
}

/// The shared tables.
pub struct Tables {
    records: Records,
    slots: MappedArray<[u32; SLOTS_PER_ELEMENT as usize]>,
    members: MappedArray<u64>,
    control: MappedArray<Control>,
}

impl Tables {
    /// Maps the tables.
    pub fn new(
        records: Records,
        slots: (impl AsFd, u32),
        members: (impl AsFd, u32),
        control: impl AsFd,
    ) -> io::Result<Self> {
        Ok(Self {
            records,
            slots: MappedArray::new(slots.0, slots.1)?,
            members: MappedArray::new(members.0, members.1)?,
            control: MappedArray::new(control, 1)?,
        })
    }

    /// How many records there are, slot 0 (never used) included.
    pub fn capacity(&self) -> u32 {
        self.records.sched.elements
    }

    fn control(&mut self) -> io::Result<NonNull<Control>> {
        self.control
            .get(0)?
            .ok_or_else(|| io::Error::other("the control map is empty"))
    }

    /// Sets the thresholds for events, and whether execs of strangers are reported.
    pub fn configure(
        &mut self,
        slow_ns: u64,
        min_mapping_bytes: u64,
        report_execs: bool,
    ) -> io::Result<()> {
        let control = self.control()?.as_ptr();
        // SAFETY: the element is mapped and aligned; the programs only read these fields.
        unsafe {
            (&raw mut (*control).slow_ns).write_volatile(slow_ns);
            (&raw mut (*control).min_mapping_bytes).write_volatile(min_mapping_bytes);
            (&raw mut (*control).report_execs).write_volatile(u32::from(report_execs));
        }
        Ok(())
    }

    /// Has the programs look at one mapping call in so many, a power of two.
    pub fn sample_mappings(&mut self, one_in: u32) -> io::Result<()> {
        let control = self.control()?.as_ptr();
        // SAFETY: as in `configure`.
        unsafe { (&raw mut (*control).mapping_sample).write_volatile(u64::from(one_in)) };
        Ok(())
    }

    /// Makes slot 1 the first to be given out.
    pub fn reset_slots(&mut self) -> io::Result<()> {
        self.next_slot()?.store(NO_SLOT + 1, Ordering::SeqCst);
        Ok(())
    }

    fn next_slot(&mut self) -> io::Result<&AtomicU32> {
        let control = self.control()?.as_ptr();
        // SAFETY: mapped, aligned, and only changed atomically while programs run.
        Ok(unsafe { AtomicU32::from_ptr(&raw mut (*control).next_slot) })
    }

    /// One more than the highest slot ever given out.
    pub fn used(&mut self) -> io::Result<u32> {
        let capacity = self.capacity();
        Ok(self.next_slot()?.load(Ordering::SeqCst).min(capacity))
    }

    /// A slot that was never given out.
    pub fn take_unused(&mut self) -> io::Result<Option<u32>> {
        let capacity = self.capacity();
        let next = self.next_slot()?;
        if next.load(Ordering::SeqCst) >= capacity {
            return Ok(None);
        }
        let slot = next.fetch_add(1, Ordering::SeqCst);
        Ok((slot < capacity).then_some(slot))
    }

    /// The record in a slot.
    pub fn record(&mut self, slot: u32) -> io::Result<Option<Record>> {
        if slot == NO_SLOT {
            return Ok(None);
        }
        self.records.get(slot)
    }

    /// The slot of a thread id, as an atomic shared with the programs; `None` beyond the table.
    pub fn slot_of(&mut self, tid: u32) -> io::Result<Option<&AtomicU32>> {
        let Some(element) = self.slots.get(tid / SLOTS_PER_ELEMENT)? else {
            return Ok(None);
        };
        // SAFETY: the remainder is below the element's length; the word is only changed atomically.
        Ok(Some(unsafe {
            AtomicU32::from_ptr(
                element
                    .cast::<u32>()
                    .add((tid % SLOTS_PER_ELEMENT) as usize)
                    .as_ptr(),
            )
        }))
    }

    /// Sets or clears a thread id's bit in the membership bitmap.
    pub fn set_member(&mut self, tid: u32, member: bool) -> io::Result<()> {
        let Some(word) = self.members.get(tid / MEMBERS_PER_ELEMENT)? else {
            return Ok(());
        };
        // SAFETY: mapped, aligned, and only changed atomically.
        let word = unsafe { AtomicU64::from_ptr(word.as_ptr()) };
        let bit = 1 << (tid % MEMBERS_PER_ELEMENT);
        if member {
            word.fetch_or(bit, Ordering::SeqCst);
        } else {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// All that is kept about a task, shared with the programs. To look at one part of it touches no other.
#[derive(Clone, Copy)]
pub struct Record {
    pub(super) sched: NonNull<SchedRecord>,
    pub(super) task: NonNull<TaskRecord>,
    pub(super) histogram: NonNull<Histogram>,
}

/// Reads one field of a part. The programs may be writing it, hence volatile; words are not torn on 64-bit machines.
macro_rules! read {
    ($part:expr, $($field:tt)+) => {
        // SAFETY: `Record`s point into mapped, aligned elements for as long as the tables live.
        unsafe { (&raw const (*$part.as_ptr()).$($field)+).read_volatile() }
    };
}
pub(super) use read;

impl Record {
    /// Is the record in use?
    pub fn in_use(self) -> bool {
        read!(self.task, origin) != origin::NONE
    }

    /// Fills a record for a task found in `/proc`. The slot must not be published yet.
    pub fn fill(self, identity: &TaskIdentity) {
        // SAFETY: as in `read!`; nobody else knows of the slot.
        unsafe {
            (*self.sched.as_ptr()).tid = identity.tid;
            let record = &mut *self.task.as_ptr();
            record.tgid = identity.tgid;
            record.start_boot_ns = identity.start_boot_ns;
            record.born_ns = identity.born_ns;
            record.process_slot = identity.process_slot;
            record.service = identity.service;
            record.comm = identity.comm;
            record.vm_pages = identity.vm_pages;
            record.data_pages = identity.data_pages;
            record.origin = origin::FOUND;
        }
    }

    /// Zeroes all of it, so that its slot can be given out again.
    pub fn clear(self) {
        // SAFETY: as in `read!`; the task is gone and the slot unpublished, so that no program uses it.
        unsafe {
            self.sched.as_ptr().write_bytes(0, 1);
            self.task.as_ptr().write_bytes(0, 1);
            self.histogram.as_ptr().write_bytes(0, 1);
        }
    }

    /// The kernel's own account of the task's waits when it last left a CPU; `None` as long as it has not.
    pub fn kernel_account(self) -> Option<ThreadAccount> {
        let run_delay_ns = read!(self.sched, kernel_delay_ns).checked_sub(1)?;
        Some(ThreadAccount {
            run_delay_ns,
            run_count: read!(self.sched, kernel_run_count),
        })
    }

    /// Takes the longest wait since the last call.
    pub fn take_delay_max(self) -> u64 {
        // A program may be comparing with the old maximum at this moment. What it then leaves out is
        // shorter than that maximum, and what it stores belongs to the next period.
        // SAFETY: as in `read!`.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.sched.as_ptr()).delay_max_ns) }
            .swap(0, Ordering::Relaxed)
    }

    /// The address space of the process whose first record this is, by the calls seen.
    pub fn pages(self) -> Pages {
        Pages {
            vm: read!(self.task, vm_pages),
            data: read!(self.task, data_pages),
        }
    }

    /// Takes over the kernel's own figures where they are still those that were read before. Returns the change.
    pub fn adopt(self, before: Pages, kernel: Pages) -> PagesChange {
        let record = self.task.as_ptr();
        // SAFETY: as in `read!`; the programs change these fields atomically too.
        let (vm, data) = unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*record).vm_pages),
                AtomicU64::from_ptr(&raw mut (*record).data_pages),
            )
        };
        let adopt = |field: &AtomicU64, before: u64, kernel: u64| {
            match field.compare_exchange(before, kernel, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => kernel.wrapping_sub(before) as i64,
                // A call has returned meanwhile, and has booked it.
                Err(_) => 0,
            }
        };
        PagesChange {
            vm: adopt(vm, before.vm, kernel.vm),
            data: adopt(data, before.data, kernel.data),
        }
    }

    /// Forgets whether and since when the task waits, and where it ran. What it waited before its next switch is then not known.
    pub fn forget_wait(self) {
        let record = self.sched.as_ptr();
        // SAFETY: as in `read!`; the programs that use these fields are off their hooks, but for those on the end of a
        // task, which only read them.
        unsafe {
            (&raw mut (*record).enqueued_ns).write_volatile(0);
            (&raw mut (*record).on_cpu).write_volatile(cpu::UNKNOWN);
            (&raw mut (*record).kernel_delay_ns).write_volatile(0);
            (&raw mut (*record).last_cpu).write_volatile(0);
        }
    }

    /// Marks the task as exited, for one that was found exiting.
    pub fn mark_exited(self, now_ns: u64) {
        // SAFETY: as in `read!`.
        unsafe { (&raw mut (*self.task.as_ptr()).exit_ns).write_volatile(now_ns) }
    }
}

/// Size of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// All of it.
    pub vm: u64,
    /// What is private and writable.
    pub data: u64,
}

impl Pages {
    /// What `/proc` says; `None` for a process that has none any more.
    pub fn of(account: &ProcessAccount, page_shift: u32) -> Option<Self> {
        Some(Self {
            vm: account.vm_bytes? >> page_shift,
            data: account.data_bytes? >> page_shift,
        })
    }
}

/// Change of the size of an address space, in pages.
#[derive(Clone, Copy, Debug)]
pub struct PagesChange {
    vm: i64,
    data: i64,
}

impl PagesChange {
    /// In bytes, gained and given back.
    pub fn flow(self, page_shift: u32) -> MemoryFlow {
        let gained = |pages: i64| (pages.max(0) as u64) << page_shift;
        MemoryFlow {
            reserved: gained(self.vm),
            released: gained(-self.vm),
            committed: gained(self.data),
            decommitted: gained(-self.data),
            ..MemoryFlow::default()
        }
    }
}

/// Identity of a task found in `/proc`.
pub struct TaskIdentity {
    /// Thread id.
    pub tid: u32,
    /// Process id.
    pub tgid: u32,
    /// Start on the boot clock.
    pub start_boot_ns: u64,
    /// Now, on the monotonic clock.
    pub born_ns: u64,
    /// Slot of the process's first record.
    pub process_slot: u32,
    /// Index of the service.
    pub service: u32,
    /// Name.
    pub comm: slowburn_common::Comm,
    /// Address space, in pages.
    pub vm_pages: u64,
    /// Private writable address space, in pages.
    pub data_pages: u64,
}
