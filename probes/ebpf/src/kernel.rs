//! Reading the kernel's structures.
//!
//! A pointer that carries BTF (an argument of a `tp_btf` program, or the current task) is read
//! directly: the verifier checks each load and turns it into one that cannot fault, and it is allowed
//! under every lockdown mode. Other pointers go through `bpf_probe_read_kernel`.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel};
use slowburn_common::Comm;

use crate::maps::{
    OFFSET_MM_DATA_VM, OFFSET_MM_TOTAL_VM, OFFSET_TASK_COMM, OFFSET_TASK_MM, OFFSET_TASK_PID,
    OFFSET_TASK_RUN_COUNT, OFFSET_TASK_RUN_DELAY, OFFSET_TASK_START, OFFSET_TASK_STATE,
    OFFSET_TASK_TGID,
};

/// Reads a field of a structure behind a pointer that the verifier knows the type of.
///
/// # Safety
/// `base` must carry BTF, and `offset` must come from a read-only global, so that the verifier sees a
/// constant and checks the access against the type.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const c_void, offset: u32) -> T {
    // Volatile, so that the compiler neither merges nor splits loads: the verifier checks whole fields.
    // SAFETY: the verifier rejects the program if the access does not fit the structure.
    unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
}

/// A `task_struct`, and how its fields may be read.
pub trait Task: Copy {
    /// Reads a 32-bit field.
    fn u32(self, offset: u32) -> u32;
    /// Reads a 64-bit field.
    fn u64(self, offset: u32) -> u64;
    /// Reads the address space's size and its private writable part, in pages.
    fn mm_pages(self) -> (u64, u64);

    /// Thread id in the initial pid namespace.
    #[inline(always)]
    fn tid(self) -> u32 {
        self.u32(OFFSET_TASK_PID.load())
    }
    /// Process id in the initial pid namespace.
    #[inline(always)]
    fn tgid(self) -> u32 {
        self.u32(OFFSET_TASK_TGID.load())
    }
    /// Start time on the boot clock.
    #[inline(always)]
    fn start_boot_ns(self) -> u64 {
        self.u64(OFFSET_TASK_START.load())
    }
    /// The task's name.
    #[inline(always)]
    fn comm(self) -> Comm {
        let offset = OFFSET_TASK_COMM.load();
        comm_from(self.u64(offset), self.u64(offset + 8))
    }
}

/// Puts a name together from the two words it was read in.
#[inline(always)]
pub fn comm_from(low: u64, high: u64) -> Comm {
    let mut comm = [0; 16];
    comm[..8].copy_from_slice(&low.to_ne_bytes());
    comm[8..].copy_from_slice(&high.to_ne_bytes());
    comm
}

/// A task behind a BTF pointer.
#[derive(Clone, Copy)]
pub struct TypedTask(*const c_void);

impl TypedTask {
    /// # Safety
    /// `task` must be a BTF pointer to a `task_struct`.
    #[inline(always)]
    pub unsafe fn new(task: *const c_void) -> Self {
        Self(task)
    }

    /// The task that runs now.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no preconditions; it returns a BTF pointer.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// The kernel's own account of the task's waits, as far as they have ended: how often it got a CPU, and nanoseconds
    /// waited; `None` where it keeps none.
    #[inline(always)]
    pub fn run_account(self) -> Option<(u64, u64)> {
        // Constants to the verifier, which leaves out what cannot be reached.
        let (count, delay) = (OFFSET_TASK_RUN_COUNT.load(), OFFSET_TASK_RUN_DELAY.load());
        (delay != u32::MAX).then(|| (self.u64(count), self.u64(delay)))
    }

    /// Is the task still runnable, so that it waits for a CPU when it is switched out?
    ///
    /// To be asked at its switch-out. The raw state is compared with 0: masking it would turn `TASK_WAKING`
    /// into "running". It is read from the task and not from the tracepoint's `prev_state`, which kernels
    /// before 6.16 leave stale when a pending signal keeps the task on the run-queue. Nobody else can make
    /// the task runnable in between, since a waker waits until it has left the CPU.
    #[inline(always)]
    pub fn is_runnable(self) -> bool {
        // `__state` is an int; `state` was a long of which the lower half holds every bit in use.
        self.u32(OFFSET_TASK_STATE.load()) == 0
    }
}

impl Task for TypedTask {
    #[inline(always)]
    fn u32(self, offset: u32) -> u32 {
        // SAFETY: a BTF pointer, by the contract of `new`; the offset comes from a read-only global.
        unsafe { load(self.0, offset) }
    }
    #[inline(always)]
    fn u64(self, offset: u32) -> u64 {
        // SAFETY: as above.
        unsafe { load(self.0, offset) }
    }
    #[inline(always)]
    fn mm_pages(self) -> (u64, u64) {
        // SAFETY: as above; `mm` carries BTF because it was loaded through a BTF pointer.
        unsafe {
            let mm: *const c_void = load(self.0, OFFSET_TASK_MM.load());
            if mm.is_null() {
                return (0, 0);
            }
            (
                load(mm, OFFSET_MM_TOTAL_VM.load()),
                load(mm, OFFSET_MM_DATA_VM.load()),
            )
        }
    }
}

/// A task behind a plain kernel address.
#[derive(Clone, Copy)]
pub struct UntypedTask(*const c_void);

impl UntypedTask {
    /// A task from an argument of a raw tracepoint.
    #[inline(always)]
    pub fn new(task: *const c_void) -> Self {
        Self(task)
    }

    #[inline(always)]
    fn read<T: Default>(base: *const c_void, offset: u32) -> T {
        // SAFETY: the helper checks the address; a failed read gives the default, which no caller takes for a task.
        unsafe { bpf_probe_read_kernel(base.add(offset as usize).cast::<T>()).unwrap_or_default() }
    }
}

impl Task for UntypedTask {
    #[inline(always)]
    fn u32(self, offset: u32) -> u32 {
        Self::read(self.0, offset)
    }
    #[inline(always)]
    fn u64(self, offset: u32) -> u64 {
        Self::read(self.0, offset)
    }
    #[inline(always)]
    fn mm_pages(self) -> (u64, u64) {
        let mm = Self::read::<u64>(self.0, OFFSET_TASK_MM.load()) as *const c_void;
        if mm.is_null() {
            return (0, 0);
        }
        (
            Self::read(mm, OFFSET_MM_TOTAL_VM.load()),
            Self::read(mm, OFFSET_MM_DATA_VM.load()),
        )
    }
}
