//! Workloads that change their address space.

use std::{
    ffi::c_void,
    io, ptr, thread,
    time::{Duration, Instant},
};

use rustix::{
    mm::{
        Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
        mremap, munmap,
    },
    param::page_size,
};
use serde_json::json;

use crate::random::Random;

/// Pages in which mappings are replaced, cut and changed.
const ARENA: usize = 16_384;

/// Mappings held beside the arena.
const HELD: usize = 64;

/// Calls in a row, between two short sleeps.
const BURST: u32 = 64;

/// Most calls.
const MOST: u64 = 1_000_000;

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

impl Counts {
    fn all(&self) -> u64 {
        self.map + self.unmap + self.remap + self.brk + self.advise + self.protect + self.failed
    }
}

/// A range in the arena.
#[derive(Clone, Copy)]
struct Range {
    start: *mut c_void,
    bytes: usize,
}

struct Maps {
    page: usize,
    arena: *mut c_void,
    /// Address and length; allocated once, so that the allocator makes no call of its own.
    held: Vec<Range>,
    first_break: usize,
    random: Random,
    counts: Counts,
}

/// All kinds of calls, at random, some of which fail.
pub fn random(seconds: Duration, seed: u64, fail_last: bool) -> anyhow::Result<()> {
    let page = page_size();
    // SAFETY: a new mapping, wherever the kernel wants it.
    let arena = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            ARENA * page,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    };
    let mut maps = Maps {
        page,
        arena,
        held: Vec::with_capacity(HELD),
        first_break: set_break(0),
        random: Random::new(seed),
        counts: Counts::default(),
    };
    crate::ready()?;
    let start = Instant::now();
    while start.elapsed() < seconds && maps.counts.all() < MOST {
        for _ in 0..BURST {
            maps.step();
        }
        thread::sleep(Duration::from_millis(1));
    }
    // The allocator shall find its break where it left it.
    let back = maps.first_break;
    maps.move_break(back);
    if fail_last {
        maps.fail_half_way();
    }
    let Counts {
        map,
        unmap,
        remap,
        brk,
        advise,
        protect,
        failed,
        discarded_bytes,
    } = maps.counts;
    crate::done(&json!({
        "map": map,
        "unmap": unmap,
        "remap": remap,
        "brk": brk,
        "advise": advise,
        "protect": protect,
        "failed": failed,
        "discarded_bytes": discarded_bytes,
    }))?;
    Ok(())
}

impl Maps {
    fn step(&mut self) {
        match self.random.below(12) {
            0 | 1 => self.map_anywhere(),
            2 => self.map_over(),
            3 | 4 => self.unmap_range(),
            5 => self.unmap_part_of_held(),
            6 | 7 => self.remap(),
            8 => {
                let up = self.random.below(256) * self.page + self.random.below(self.page);
                let to = self.first_break + up;
                self.move_break(to);
            }
            9 => self.advise(),
            10 => self.protect(),
            _ => self.fail(),
        }
    }

    fn tally(result: rustix::io::Result<()>, counter: &mut u64, failed: &mut u64) -> bool {
        *if result.is_ok() { counter } else { failed } += 1;
        result.is_ok()
    }

    /// Anything between a page and a mebibyte, readable and writable or neither.
    fn map_anywhere(&mut self) {
        if self.held.len() == HELD {
            let at = self.random.below(HELD);
            let Range { start, bytes } = self.held.swap_remove(at);
            // SAFETY: the mapping is ours and nothing refers to it.
            let result = unsafe { munmap(start, bytes) };
            Self::tally(result, &mut self.counts.unmap, &mut self.counts.failed);
        }
        // The last page only in part: the kernel rounds up.
        let bytes = (1 + self.random.below(256)) * self.page - self.random.below(self.page);
        let protection = self.protection();
        // SAFETY: a new mapping, wherever the kernel wants it.
        let result =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) };
        if let Ok(start) = result {
            self.held.push(Range { start, bytes });
        }
        Self::tally(
            result.map(drop),
            &mut self.counts.map,
            &mut self.counts.failed,
        );
    }

    fn protection(&mut self) -> ProtFlags {
        if self.random.below(3) == 0 {
            ProtFlags::empty()
        } else {
            ProtFlags::READ | ProtFlags::WRITE
        }
    }

    fn range(&mut self) -> Range {
        let first = self.random.below(ARENA);
        let pages = 1 + self.random.below((ARENA - first).min(512));
        Range {
            start: self.arena.wrapping_byte_add(first * self.page),
            bytes: pages * self.page,
        }
    }

    /// Over what is there: Go's way of committing what it has reserved.
    fn map_over(&mut self) {
        let Range { start, bytes } = self.range();
        let protection = self.protection();
        // SAFETY: within the arena, to whose contents nothing refers.
        let result = unsafe {
            mmap_anonymous(
                start,
                bytes,
                protection,
                MapFlags::PRIVATE | MapFlags::FIXED,
            )
        };
        Self::tally(
            result.map(drop),
            &mut self.counts.map,
            &mut self.counts.failed,
        );
    }

    /// Part of the arena, holes and all.
    fn unmap_range(&mut self) {
        let Range { start, bytes } = self.range();
        // SAFETY: within the arena, to whose contents nothing refers.
        let result = unsafe { munmap(start, bytes) };
        Self::tally(result, &mut self.counts.unmap, &mut self.counts.failed);
    }

    fn unmap_part_of_held(&mut self) {
        let Some(Range { start, bytes }) = self.some_held() else {
            return;
        };
        let pages = bytes.div_ceil(self.page);
        let first = self.random.below(pages);
        // SAFETY: part of a mapping that is ours and to which nothing refers.
        let result = unsafe { munmap(start.wrapping_byte_add(first * self.page), self.page) };
        Self::tally(result, &mut self.counts.unmap, &mut self.counts.failed);
    }

    fn some_held(&mut self) -> Option<Range> {
        if self.held.is_empty() {
            return None;
        }
        let at = self.random.below(self.held.len());
        Some(self.held[at])
    }

    /// Grows, shrinks and moves. Fails where the mapping has got a hole.
    fn remap(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len());
        let Range { start, bytes } = self.held[at];
        let to = (1 + self.random.below(512)) * self.page;
        let flags = if self.random.below(2) == 0 {
            MremapFlags::MAYMOVE
        } else {
            MremapFlags::empty()
        };
        // SAFETY: the mapping is ours and nothing refers to it.
        let result = unsafe { mremap(start, bytes, to, flags) };
        if let Ok(start) = result {
            self.held[at] = Range { start, bytes: to };
        }
        Self::tally(
            result.map(drop),
            &mut self.counts.remap,
            &mut self.counts.failed,
        );
    }

    fn move_break(&mut self, to: usize) {
        let moved = set_break(to) == to;
        *if moved {
            &mut self.counts.brk
        } else {
            &mut self.counts.failed
        } += 1;
    }

    fn advise(&mut self) {
        let Range { start, bytes } = self.range();
        let (advice, discards) = match self.random.below(3) {
            0 => (Advice::LinuxDontNeed, true),
            1 => (Advice::LinuxFree, true),
            _ => (Advice::Random, false),
        };
        // SAFETY: within the arena, to whose contents nothing refers.
        let result = unsafe { madvise(start, bytes, advice) };
        if Self::tally(result, &mut self.counts.advise, &mut self.counts.failed) && discards {
            self.counts.discarded_bytes += bytes as u64;
        }
    }

    fn protect(&mut self) {
        let Range { start, bytes } = self.range();
        let protection = if self.random.below(2) == 0 {
            MprotectFlags::empty()
        } else {
            MprotectFlags::READ | MprotectFlags::WRITE
        };
        // SAFETY: within the arena, to whose contents nothing refers.
        let result = unsafe { mprotect(start, bytes, protection) };
        Self::tally(result, &mut self.counts.protect, &mut self.counts.failed);
    }

    /// A call that fails after it has done half of its work: the first page is no longer writable, the second
    /// is not there.
    fn fail_half_way(&mut self) {
        let (start, bytes) = (self.arena, 3 * self.page);
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: within the arena, to whose contents nothing refers.
        let mapped =
            unsafe { mmap_anonymous(start, bytes, writable, MapFlags::PRIVATE | MapFlags::FIXED) };
        Self::tally(
            mapped.map(drop),
            &mut self.counts.map,
            &mut self.counts.failed,
        );
        // SAFETY: as above.
        let unmapped = unsafe { munmap(start.wrapping_byte_add(self.page), self.page) };
        Self::tally(unmapped, &mut self.counts.unmap, &mut self.counts.failed);
        // SAFETY: as above.
        let refused = unsafe { mprotect(start, bytes, MprotectFlags::empty()) };
        assert!(refused.is_err(), "the kernel has to refuse this");
        self.counts.failed += 1;
    }

    /// Calls that the kernel refuses whatever is mapped.
    fn fail(&mut self) {
        let odd = self.arena.wrapping_byte_add(1);
        let nobody = ptr::null_mut();
        let refused = match self.random.below(7) {
            // SAFETY: refused: a length of zero.
            0 => unsafe { mmap_anonymous(nobody, 0, ProtFlags::READ, MapFlags::PRIVATE) }.map(drop),
            // SAFETY: refused: more than there are addresses.
            1 => unsafe { mmap_anonymous(nobody, 1 << 60, ProtFlags::READ, MapFlags::PRIVATE) }
                .map(drop),
            // SAFETY: refused: not the beginning of a page.
            2 => unsafe { munmap(odd, self.page) },
            // SAFETY: refused: not the beginning of a page.
            3 => unsafe { mremap(odd, self.page, self.page, MremapFlags::MAYMOVE) }.map(drop),
            // SAFETY: refused: not the beginning of a page.
            4 => unsafe { madvise(odd, self.page, Advice::LinuxDontNeed) },
            // SAFETY: refused: not the beginning of a page.
            5 => unsafe { mprotect(odd, self.page, MprotectFlags::READ) },
            _ => {
                // Asking is not counted; asking for too much is a failure.
                set_break(0);
                self.move_break(usize::MAX >> 1);
                return;
            }
        };
        assert!(refused.is_err(), "the kernel has to refuse this");
        self.counts.failed += 1;
    }
}

/// Moves the break, and returns where it is then.
fn set_break(to: usize) -> usize {
    // SAFETY: never below where it was at first, which is what the allocator may use.
    unsafe { libc::syscall(libc::SYS_brk, to) as usize }
}

/// Maps and unmaps a page at a steady rate, paced by the millisecond.
pub fn steady(rate: u64, seconds: Duration) -> anyhow::Result<()> {
    let page = page_size();
    let total = (rate as f64 * seconds.as_secs_f64()) as u64;
    crate::ready()?;
    let start = Instant::now();
    let mut made = 0;
    while made < total {
        let due = ((start.elapsed().as_secs_f64() * rate as f64) as u64).min(total);
        while made < due {
            map_and_unmap(page)?;
            made += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    crate::done(&json!({ "map": made, "unmap": made, "seconds": start.elapsed().as_secs_f64() }))?;
    Ok(())
}

/// Maps so many bytes and gives them back.
pub fn map_and_unmap(bytes: usize) -> io::Result<()> {
    // SAFETY: a new mapping, which is gone before anything can refer to it.
    unsafe {
        let start = mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?;
        munmap(start, bytes)?;
    }
    Ok(())
}
