//! A workload that changes its address space through the kernel's 32-bit entry, as a 32-bit program would.

use std::{arch::asm, ffi::c_void, fs, io, ptr};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    param::page_size,
};
use serde_json::json;

/// How often everything is done.
const ROUNDS: u32 = 50;

/// What the kernel shall ignore: it gets 64-bit registers and looks at their lower halves.
const UPPER_HALF: u64 = 0xdead_beef << 32;

/// Numbers of calls at the 32-bit entry.
mod number {
    pub const GETPID: u32 = 20;
    pub const BRK: u32 = 45;
    pub const OLD_MMAP: u32 = 90;
    pub const MUNMAP: u32 = 91;
    pub const MPROTECT: u32 = 125;
    pub const MREMAP: u32 = 163;
    pub const MMAP2: u32 = 192;
    pub const MADVISE: u32 = 219;
}

const NONE: u32 = 0;
const READ_WRITE: u32 = 3;
const ANYWHERE: u32 = 0x22;
const FIXED: u32 = 0x32;
const NO_FILE: u32 = u32::MAX;
const MAY_MOVE: u32 = 1;
const DONT_NEED: u32 = 4;

/// Makes a call through the 32-bit entry, with up to five arguments. The error is the kernel's number.
///
/// # Safety
/// As for the call.
unsafe fn int80(number: u32, args: [u32; 5]) -> Result<u32, u32> {
    let [first, second, third, fourth, fifth] = args.map(|arg| UPPER_HALF | u64::from(arg));
    let result: u64;
    // SAFETY: registers are kept or told, those that some kernels clear among them. rbx and rbp are not to be had
    // as operands: the one is swapped for the call, and a sixth argument of 0 is put into the other. The partner
    // is named, since the compiler might choose one of these two.
    unsafe {
        asm!(
            "push rbp",
            "xor ebp, ebp",
            "xchg rbx, r12",
            "int 0x80",
            "xchg rbx, r12",
            "pop rbp",
            inout("r12") first => _,
            inout("rax") u64::from(number) => result,
            inout("rcx") second => _,
            inout("rdx") third => _,
            inout("rsi") fourth => _,
            inout("rdi") fifth => _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    let result = result as u32;
    let error = result.wrapping_neg();
    if (1..4096).contains(&error) {
        Err(error)
    } else {
        Ok(result)
    }
}

/// Does the kernel have the entry? A child tries, as the answer may be a signal.
fn has_entry() -> io::Result<bool> {
    // SAFETY: the child makes two system calls and nothing else.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: asking for the own id has no preconditions, and the child ends here.
        unsafe {
            let missing = int80(number::GETPID, [0; 5]) != Ok(libc::getpid().cast_unsigned());
            libc::_exit(missing.into());
        }
    }
    let mut status = 0;
    // SAFETY: the child is ours and was not waited for.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// Successful calls by kind, and failed ones of all kinds.
#[derive(Default)]
struct Counts {
    map: u64,
    unmap: u64,
    remap: u64,
    brk: u64,
    advise: u64,
    protect: u64,
    failed: u64,
    discarded_bytes: u64,
}

struct Compat {
    page: u32,
    /// A page that a 32-bit address reaches, for arguments in memory.
    block: *mut [u32; 6],
    /// Whether to use the form of mmap that has its arguments in memory.
    oldest: bool,
    counts: Counts,
}

/// All six calls, some of which fail, through the 32-bit entry.
pub fn calls(native_last: bool, oldest: bool) -> anyhow::Result<()> {
    let entry = has_entry()?;
    let page = page_size();
    let mut compat = Compat {
        page: u32::try_from(page)?,
        block: map_low(page)?.cast(),
        oldest,
        counts: Counts::default(),
    };
    let room = free_low(1024 * page)?;
    let process = Process::own()?;
    crate::ready()?;
    if entry {
        for round in 0..ROUNDS {
            compat.round(round);
        }
        compat.with_break_at(room, &process);
    }
    if native_last {
        compat.native();
    }
    let counts = &compat.counts;
    crate::done(&json!({
        "entry": entry,
        "map": counts.map,
        "unmap": counts.unmap,
        "remap": counts.remap,
        "brk": counts.brk,
        "advise": counts.advise,
        "protect": counts.protect,
        "failed": counts.failed,
        "discarded_bytes": counts.discarded_bytes,
    }))?;
    Ok(())
}

/// A mapping that a 32-bit address reaches.
fn map_low(bytes: usize) -> io::Result<*mut c_void> {
    let flags = MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT.cast_unsigned());
    // SAFETY: a new mapping, where the kernel wants it among the lower addresses.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    };
    Ok(start?)
}

/// Addresses below 4 GiB at which nothing is. The kernel looks for room elsewhere when it is free to choose.
fn free_low(bytes: usize) -> anyhow::Result<u32> {
    let start = map_low(bytes)?;
    // SAFETY: the mapping was just made and nothing refers to it.
    unsafe { munmap(start, bytes)? };
    Ok(u32::try_from(start.addr())?)
}

impl Compat {
    /// Everything once, among it calls that the kernel refuses. What is left is larger by some pages.
    fn round(&mut self, round: u32) {
        let page = self.page;
        // The last page only in part: the kernel rounds up.
        let first = self.map(0, 16 * page - 5, READ_WRITE, ANYWHERE);
        let second = if self.oldest {
            self.map_by_block(8 * page, NONE, 0)
        } else {
            self.map(0, 8 * page, NONE, ANYWHERE)
        };
        self.map(first + 4 * page, 2 * page, NONE, FIXED);
        self.protect(second + page, 3 * page, READ_WRITE);
        // Only what is one mapping can be moved: not what was replaced in the middle.
        let third = self.remap(first + 6 * page, 10 * page, 24 * page);
        self.advise(third, 4 * page);
        self.unmap(third + 8 * page, 4 * page);
        // Half of it is done before the hole is met.
        self.protect(third + 6 * page, 4 * page, NONE);
        if round % 2 == 1 {
            self.unmap(second, 8 * page);
        }
        self.refused();
    }

    fn refused(&mut self) {
        let (odd, page) = (1, self.page);
        self.map(0, 0, READ_WRITE, ANYWHERE);
        self.unmap(odd, page);
        self.remap(odd, page, page);
        self.advise(odd, page);
        self.protect(odd, page, READ_WRITE);
        if !self.oldest {
            return;
        }
        self.map_by_block(page, READ_WRITE, odd);
        // SAFETY: refused: there are no arguments where nothing is.
        let nowhere = unsafe { int80(number::OLD_MMAP, [0x10, 0, 0, 0, 0]) };
        self.tally(nowhere, |counts| &mut counts.map);
    }

    fn tally(
        &mut self,
        result: Result<u32, u32>,
        counter: impl Fn(&mut Counts) -> &mut u64,
    ) -> Option<u32> {
        *match result {
            Ok(_) => counter(&mut self.counts),
            Err(_) => &mut self.counts.failed,
        } += 1;
        result.ok()
    }

    fn map(&mut self, at: u32, bytes: u32, protection: u32, flags: u32) -> u32 {
        // SAFETY: a new mapping, or one over what is ours and to which nothing refers.
        let result = unsafe { int80(number::MMAP2, [at, bytes, protection, flags, NO_FILE]) };
        self.tally(result, |counts| &mut counts.map)
            .unwrap_or_default()
    }

    /// The call of old, with its arguments in memory.
    fn map_by_block(&mut self, bytes: u32, protection: u32, offset: u32) -> u32 {
        let args = [0, bytes, protection, ANYWHERE, NO_FILE, offset];
        // SAFETY: the block is ours, writable and large enough.
        unsafe { self.block.write(args) };
        // SAFETY: a new mapping, where the kernel wants it.
        let result = unsafe { int80(number::OLD_MMAP, [self.block.addr() as u32, 0, 0, 0, 0]) };
        self.tally(result, |counts| &mut counts.map)
            .unwrap_or_default()
    }

    fn unmap(&mut self, at: u32, bytes: u32) {
        // SAFETY: the mapping is ours and nothing refers to it.
        let result = unsafe { int80(number::MUNMAP, [at, bytes, 0, 0, 0]) };
        self.tally(result, |counts| &mut counts.unmap);
    }

    fn remap(&mut self, at: u32, bytes: u32, to: u32) -> u32 {
        // SAFETY: the mapping is ours and nothing refers to it.
        let result = unsafe { int80(number::MREMAP, [at, bytes, to, MAY_MOVE, 0]) };
        self.tally(result, |counts| &mut counts.remap)
            .unwrap_or_default()
    }

    fn advise(&mut self, at: u32, bytes: u32) {
        // SAFETY: the mapping is ours and nothing refers to its contents.
        let result = unsafe { int80(number::MADVISE, [at, bytes, DONT_NEED, 0, 0]) };
        if self.tally(result, |counts| &mut counts.advise).is_some() {
            self.counts.discarded_bytes += u64::from(bytes);
        }
    }

    fn protect(&mut self, at: u32, bytes: u32, protection: u32) {
        // SAFETY: the mapping is ours and nothing refers to it.
        let result = unsafe { int80(number::MPROTECT, [at, bytes, protection, 0, 0]) };
        self.tally(result, |counts| &mut counts.protect);
    }

    /// Moves the break up and down where a 32-bit address reaches it. Our own is higher, and the allocator shall
    /// find it where it left it.
    fn with_break_at(&mut self, room: u32, process: &Process) {
        if process.set_break(room.into(), room.into()).is_ok() {
            for up in 1..=ROUNDS {
                self.move_break(room + 7 * up * self.page + up);
                self.move_break(room + 3 * up * self.page);
            }
            process
                .set_break(process.start_break, end_break())
                .expect("it was there before");
        }
        // Asking is not counted; asking for less than there is at first is a failure.
        // SAFETY: only asks.
        let _ = unsafe { int80(number::BRK, [0; 5]) };
        self.move_break(self.page);
    }

    fn move_break(&mut self, to: u32) {
        // SAFETY: nothing refers to what is between.
        let moved = unsafe { int80(number::BRK, [to, 0, 0, 0, 0]) } == Ok(to);
        let result = if moved { Ok(to) } else { Err(0) };
        self.tally(result, |counts| &mut counts.brk);
    }

    /// One call through the native entry.
    fn native(&mut self) {
        // SAFETY: a new mapping, wherever the kernel wants it.
        let mapped = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                self.page as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        self.tally(mapped.map(|_| 0).map_err(|_| 0), |counts| &mut counts.map);
    }
}

/// Where the allocator has the break.
fn end_break() -> u64 {
    // SAFETY: only asks where it is.
    (unsafe { libc::sbrk(0) }).addr() as u64
}

/// Where the kernel believes the parts of this process to be. They can only be changed together.
struct Process {
    /// Beginnings and ends of code and data.
    segments: [u64; 4],
    start_break: u64,
    /// Where the stack begins.
    stack: u64,
    /// Beginnings and ends of arguments and environment.
    strings: [u64; 4],
}

/// The kernel's `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    segments: [u64; 4],
    start_break: u64,
    end_break: u64,
    stack: u64,
    strings: [u64; 4],
    auxiliary: *const u64,
    auxiliary_bytes: u32,
    executable: u32,
}

impl Process {
    /// As `/proc/self/stat` says.
    fn own() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // Fields are numbered from 1, and the third is the first behind the name.
        let field = |number: usize| anyhow::Ok(fields[number - 3].parse::<u64>()?);
        Ok(Self {
            segments: [field(26)?, field(27)?, field(45)?, field(46)?],
            start_break: field(47)?,
            stack: field(28)?,
            strings: [field(48)?, field(49)?, field(50)?, field(51)?],
        })
    }

    /// Tells the kernel another range for the break, which takes no capability.
    fn set_break(&self, start: u64, end: u64) -> io::Result<()> {
        let map = MemoryMap {
            segments: self.segments,
            start_break: start,
            end_break: end,
            stack: self.stack,
            strings: self.strings,
            auxiliary: ptr::null(),
            auxiliary_bytes: 0,
            executable: NO_FILE,
        };
        // SAFETY: the structure lives until the call returns, and its size is given.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const map,
                size_of::<MemoryMap>(),
                0,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
