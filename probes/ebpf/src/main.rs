//! Kernel-side programs of slowburn.
//!
//! Each hook exists in several forms, best first, and the daemon loads the first that the running
//! kernel accepts. The forms differ in how they get at their arguments, here; what they do is in
//! `sched` (with `behind`), `task` and `memory`.
//!
//! Scheduler and task hooks: `btf_*` (`tp_btf`, fields read directly), `raw_*` (raw tracepoint,
//! fields read by helper), `tp_*` (classic tracepoint, fields from its record).
//! Memory hooks, on the return of system calls: `fexit_*`, `kretprobe_*`, `exit_*` (system call tracepoints).
//! The first two also as `*_compat_*`, for calls through the kernel's 32-bit entry.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod behind;
mod kernel;
mod maps;
mod memory;
mod sched;
mod task;
mod timer;

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_task_pt_regs,
    },
    macros::{btf_tracepoint, fexit, kretprobe, raw_tracepoint, tracepoint},
    programs::{
        BtfTracePointContext, FExitContext, RawTracePointContext, RetProbeContext,
        TracePointContext,
    },
};
use kernel::{Task, TypedTask, UntypedTask, comm_from, load};
use slowburn_common::task::call;

/// Bit in the `prev_state` of the classic `sched_switch` that says "preempted" (`TASK_REPORT_MAX`, since 4.14).
const PREV_STATE_PREEMPTED: u64 = 0x100;

// --- tp_btf ---

/// # Safety
/// The `n`th argument must be a pointer to a `task_struct`.
#[inline(always)]
unsafe fn typed_task(ctx: &BtfTracePointContext, n: usize) -> TypedTask {
    // SAFETY: arguments of a tp_btf program carry BTF.
    unsafe { TypedTask::new(ctx.arg::<*const c_void>(n)) }
}

#[btf_tracepoint(function = "sched_wakeup")]
pub fn btf_sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: sched_wakeup(task)
    sched::woken(unsafe { typed_task(&ctx, 0) }.tid());
    0
}

#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn btf_sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: sched_wakeup_new(task)
    sched::woken(unsafe { typed_task(&ctx, 0) }.tid());
    0
}

#[btf_tracepoint(function = "sched_switch")]
pub fn btf_sched_switch(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: sched_switch(preempt, prev, next, ...)
    let (prev, next) = unsafe { (typed_task(&ctx, 1), typed_task(&ctx, 2)) };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    sched::switched(prev.tid(), || prev, preempted, next.tid());
    0
}

#[btf_tracepoint(function = "task_newtask")]
pub fn btf_task_newtask(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: task_newtask(task, clone_flags)
    let child = unsafe { typed_task(&ctx, 0) };
    task::created_as_told(&ctx, child);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn btf_sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    // sched_process_exec(task, old_pid, bprm)
    task::executed(&ctx, ctx.arg::<u64>(1) as u32);
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn btf_sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    task::exited();
    0
}

#[btf_tracepoint(function = "task_rename")]
pub fn btf_task_rename(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: task_rename(task, comm)
    task::to_be_renamed(unsafe { typed_task(&ctx, 0) }.tid());
    0
}

// --- nothing ---
//
// What it costs to be called at all: loaded by the benchmark only.

#[btf_tracepoint(function = "sched_wakeup")]
pub fn empty_sched_wakeup(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn empty_sched_wakeup_new(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[btf_tracepoint(function = "sched_switch")]
pub fn empty_sched_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}

// --- raw tracepoints ---

#[inline(always)]
fn untyped_task(ctx: &RawTracePointContext, n: usize) -> UntypedTask {
    UntypedTask::new(ctx.arg::<*const c_void>(n))
}

#[raw_tracepoint(tracepoint = "sched_wakeup")]
pub fn raw_sched_wakeup(ctx: RawTracePointContext) -> i32 {
    sched::woken(untyped_task(&ctx, 0).tid());
    0
}

#[raw_tracepoint(tracepoint = "sched_wakeup_new")]
pub fn raw_sched_wakeup_new(ctx: RawTracePointContext) -> i32 {
    sched::woken(untyped_task(&ctx, 0).tid());
    0
}

#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn raw_sched_switch(ctx: RawTracePointContext) -> i32 {
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    // The task that leaves is the current one, so that its id needs no read.
    let prev_tid = bpf_get_current_pid_tgid() as u32;
    sched::switched(
        prev_tid,
        TypedTask::current,
        preempted,
        untyped_task(&ctx, 2).tid(),
    );
    0
}

#[raw_tracepoint(tracepoint = "task_newtask")]
pub fn raw_task_newtask(ctx: RawTracePointContext) -> i32 {
    let child = untyped_task(&ctx, 0);
    task::created_as_told(&ctx, child);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn raw_sched_process_exec(ctx: RawTracePointContext) -> i32 {
    task::executed(&ctx, ctx.arg::<u64>(1) as u32);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn raw_sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    task::exited();
    0
}

#[raw_tracepoint(tracepoint = "task_rename")]
pub fn raw_task_rename(ctx: RawTracePointContext) -> i32 {
    task::to_be_renamed(untyped_task(&ctx, 0).tid());
    0
}

// --- classic tracepoints ---
//
// Their records have kept these layouts since before eBPF; the daemon compares them with the
// format files in tracefs before it loads one of these programs.

/// Reads a field of a tracepoint's record. The verifier knows the record and checks the offset.
///
/// # Safety
/// `offset` must be a constant within the record.
#[inline(always)]
unsafe fn field<T: Copy>(ctx: &TracePointContext, offset: usize) -> T {
    use aya_ebpf::EbpfContext;
    // SAFETY: the verifier rejects an access beyond the record.
    unsafe { ctx.as_ptr().add(offset).cast::<T>().read_volatile() }
}

#[tracepoint(category = "sched", name = "sched_wakeup")]
pub fn tp_sched_wakeup(ctx: TracePointContext) -> u32 {
    // SAFETY: comm[16] at 8, pid at 24
    sched::woken(unsafe { field(&ctx, 24) });
    0
}

#[tracepoint(category = "sched", name = "sched_wakeup_new")]
pub fn tp_sched_wakeup_new(ctx: TracePointContext) -> u32 {
    // SAFETY: as sched_wakeup
    sched::woken(unsafe { field(&ctx, 24) });
    0
}

#[tracepoint(category = "sched", name = "sched_switch")]
pub fn tp_sched_switch(ctx: TracePointContext) -> u32 {
    // SAFETY: prev_pid at 24, prev_state at 32, next_pid at 56
    let (prev_tid, prev_state, next_tid) = unsafe {
        (
            field::<u32>(&ctx, 24),
            field::<u64>(&ctx, 32),
            field::<u32>(&ctx, 56),
        )
    };
    let preempted = prev_state & PREV_STATE_PREEMPTED != 0;
    sched::switched(prev_tid, TypedTask::current, preempted, next_tid);
    0
}

#[tracepoint(category = "task", name = "task_newtask")]
pub fn tp_task_newtask(ctx: TracePointContext) -> u32 {
    const CLONE_THREAD: u64 = 0x10000;
    // SAFETY: pid at 8, comm[16] at 12, clone_flags at 32
    let (tid, comm, flags) = unsafe {
        (
            field::<u32>(&ctx, 8),
            comm_from(word(&ctx, 12), word(&ctx, 20)),
            field::<u64>(&ctx, 32),
        )
    };
    let current = TypedTask::current();
    let tgid = if flags & CLONE_THREAD == 0 {
        tid
    } else {
        current.tgid()
    };
    // The record has no start time, but this is the moment. For the same reason a new process's address
    // space is taken from its parent: it is a copy.
    // SAFETY: the helper has no preconditions.
    task::created(
        &ctx,
        current,
        tid,
        tgid,
        unsafe { bpf_ktime_get_boot_ns() },
        comm,
    );
    0
}

/// Reads eight bytes at an offset that is a multiple of four only, in two loads that the verifier accepts.
///
/// # Safety
/// As [`field`].
#[inline(always)]
unsafe fn word(ctx: &TracePointContext, offset: usize) -> u64 {
    // SAFETY: passed on.
    let (low, high) = unsafe { (field::<u32>(ctx, offset), field::<u32>(ctx, offset + 4)) };
    u64::from(low) | u64::from(high) << 32
}

#[tracepoint(category = "sched", name = "sched_process_exec")]
pub fn tp_sched_process_exec(ctx: TracePointContext) -> u32 {
    // SAFETY: filename at 8, pid at 12, old_pid at 16
    task::executed(&ctx, unsafe { field(&ctx, 16) });
    0
}

#[tracepoint(category = "sched", name = "sched_process_exit")]
pub fn tp_sched_process_exit(_ctx: TracePointContext) -> u32 {
    task::exited();
    0
}

#[tracepoint(category = "task", name = "task_rename")]
pub fn tp_task_rename(ctx: TracePointContext) -> u32 {
    // SAFETY: pid at 8. Kernels from 6.17 have dropped it, and the daemon does not load this program there.
    task::to_be_renamed(unsafe { field::<u32>(&ctx, 8) });
    0
}

// --- memory ---

/// The first four arguments of the system call that returns, from the registers with which the thread entered the kernel.
///
/// # Safety
/// The offsets must come from a read-only global.
#[inline(always)]
unsafe fn registers(offsets: [u32; 4]) -> [u64; 4] {
    // SAFETY: the helper takes the current task, and returns a BTF pointer to its `pt_regs`.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const c_void;
    // SAFETY: passed on.
    unsafe {
        [
            load(regs, offsets[0]),
            load(regs, offsets[1]),
            load(regs, offsets[2]),
            load(regs, offsets[3]),
        ]
    }
}

/// Arguments of a native call: the registers as they are.
#[inline(always)]
fn native(args: [u64; 4]) -> [u64; 4] {
    args
}

/// Arguments of a call through the 32-bit entry. The upper halves are what a 64-bit caller happened to have
/// there, and the kernel does not look at them either.
#[inline(always)]
fn compat(args: [u64; 4]) -> [u64; 4] {
    let [first, second, third, fourth] = args;
    let low = |arg: u64| u64::from(arg as u32);
    [low(first), low(second), low(third), low(fourth)]
}

/// Arguments of the 32-bit `mmap` of old, which is given the address of a block of them.
#[inline(always)]
fn compat_block(args: [u64; 4]) -> [u64; 4] {
    let block = compat(args)[0] as *const [u32; 4];
    // SAFETY: the helper checks the address. What cannot be read (the kernel could not either, or has yet to
    // bring it in) is told as 0; the page counts do not depend on it.
    let args = unsafe { aya_ebpf::helpers::bpf_probe_read_user(block) }.unwrap_or_default();
    args.map(u64::from)
}

/// The forms of the hook on the return of one system call that sit on its function.
macro_rules! function_hook {
    ($call:expr, $offsets:ident, $args:ident, $fexit:ident, $kretprobe:ident) => {
        #[fexit]
        pub fn $fexit(ctx: FExitContext) -> i32 {
            // SAFETY: a read-only global.
            let args = || $args(unsafe { registers(maps::$offsets.load()) });
            // The hooked function is __ARCH_sys_*(const struct pt_regs *regs).
            memory::returned($call, args, ctx.arg::<u64>(1));
            0
        }

        #[kretprobe]
        pub fn $kretprobe(ctx: RetProbeContext) -> u32 {
            // SAFETY: as above.
            let args = || $args(unsafe { registers(maps::$offsets.load()) });
            memory::returned($call, args, ctx.ret::<u64>());
            0
        }
    };
}

/// The three forms of the hook on the return of one system call.
macro_rules! memory_hook {
    ($call:expr, $fexit:ident, $kretprobe:ident, $exit:ident) => {
        function_hook!($call, OFFSET_SYSCALL_ARGS, native, $fexit, $kretprobe);

        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            // SAFETY: a read-only global.
            let args = || unsafe { registers(maps::OFFSET_SYSCALL_ARGS.load()) };
            // SAFETY: struct syscall_trace_exit: common fields, number at 8, result at 16.
            memory::returned($call, args, unsafe { field::<u64>(&ctx, 16) });
            0
        }
    };
}

/// The hook on one system call through the kernel's 32-bit entry. It has functions of its own there, and no
/// tracepoint: the kernel fires none, as its numbers mean other calls.
macro_rules! compat_hook {
    ($call:expr, $args:ident, $fexit:ident, $kretprobe:ident) => {
        function_hook!($call, OFFSET_COMPAT_ARGS, $args, $fexit, $kretprobe);
    };
}

/// The three forms of the hook on the return of a call that is not counted. Were its effect left to the next
/// counted call, that one's record would claim it.
macro_rules! uncounted_hook {
    ($fexit:ident, $kretprobe:ident, $exit:ident) => {
        #[fexit]
        pub fn $fexit(_ctx: FExitContext) -> i32 {
            memory::changed();
            0
        }

        #[kretprobe]
        pub fn $kretprobe(_ctx: RetProbeContext) -> u32 {
            memory::changed();
            0
        }

        #[tracepoint]
        pub fn $exit(_ctx: TracePointContext) -> u32 {
            memory::changed();
            0
        }
    };
}

memory_hook!(call::MAP, fexit_mmap, kretprobe_mmap, exit_mmap);
memory_hook!(call::UNMAP, fexit_munmap, kretprobe_munmap, exit_munmap);
memory_hook!(call::REMAP, fexit_mremap, kretprobe_mremap, exit_mremap);
memory_hook!(call::BRK, fexit_brk, kretprobe_brk, exit_brk);
memory_hook!(call::ADVISE, fexit_madvise, kretprobe_madvise, exit_madvise);
memory_hook!(
    call::PROTECT,
    fexit_mprotect,
    kretprobe_mprotect,
    exit_mprotect
);

compat_hook!(
    call::MAP,
    compat_block,
    fexit_compat_mmap,
    kretprobe_compat_mmap
);
compat_hook!(
    call::MAP,
    compat,
    fexit_compat_mmap_pgoff,
    kretprobe_compat_mmap_pgoff
);
compat_hook!(
    call::UNMAP,
    compat,
    fexit_compat_munmap,
    kretprobe_compat_munmap
);
compat_hook!(
    call::REMAP,
    compat,
    fexit_compat_mremap,
    kretprobe_compat_mremap
);
compat_hook!(call::BRK, compat, fexit_compat_brk, kretprobe_compat_brk);
compat_hook!(
    call::ADVISE,
    compat,
    fexit_compat_madvise,
    kretprobe_compat_madvise
);
compat_hook!(
    call::PROTECT,
    compat,
    fexit_compat_mprotect,
    kretprobe_compat_mprotect
);

// The protection key changes nothing here.
memory_hook!(
    call::PROTECT,
    fexit_pkey_mprotect,
    kretprobe_pkey_mprotect,
    exit_pkey_mprotect
);
uncounted_hook!(fexit_shmat, kretprobe_shmat, exit_shmat);
uncounted_hook!(fexit_shmdt, kretprobe_shmdt, exit_shmdt);

/// Lets the programs use the helpers that the kernel keeps for GPL-compatible code.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
