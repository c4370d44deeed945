//! A workload that makes the calls it is told to, for comparison with a model.
//!
//! Between the first reading and the last it allocates nothing and maps nothing but what it is told to.

use std::{
    ffi::c_void,
    fs::File,
    io::{self, BufRead},
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr,
};

use anyhow::{Context, ensure};
use rustix::{
    io::Errno,
    mm::{
        Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
        mremap, mremap_fixed, munmap,
    },
    param::page_size,
};
use serde_json::{from_str, to_value};
use slowburn_tests::address_space::{
    ARENA, Call, ELSEWHERE, MOST_CALLS, Move, Place, Played, Protection, REGION, Reading,
};

/// Longer than any of the files.
const FILE: usize = 8 << 10;

/// The kernel's files about this process, open all the time.
struct Files {
    status: File,
    rollup: File,
    stat: File,
    buffer: Vec<u8>,
}

impl Files {
    fn open() -> anyhow::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/self/{name}")).context(name.to_owned());
        Ok(Self {
            status: open("status")?,
            rollup: open("smaps_rollup")?,
            stat: open("stat")?,
            // Written to, so that it has memory.
            buffer: vec![1; FILE],
        })
    }

    fn read(&mut self) -> io::Result<Reading> {
        let status = read(&self.status, &mut self.buffer)?;
        let (vm, data) = (kilobytes(status, b"VmSize:"), kilobytes(status, b"VmData:"));
        let resident = kilobytes(read(&self.rollup, &mut self.buffer)?, b"Rss:");
        Ok(Reading {
            vm,
            data,
            resident,
            faults: minor_faults(read(&self.stat, &mut self.buffer)?),
        })
    }
}

fn read<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut length = 0;
    loop {
        match file.read_at(&mut buffer[length..], length as u64)? {
            0 => return Ok(&buffer[..length]),
            more => length += more,
        }
    }
}

/// The first number in some text; 0 if there is none.
fn number(text: &[u8]) -> u64 {
    text.iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

fn kilobytes(text: &[u8], key: &[u8]) -> u64 {
    let mut lines = text.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(key));
    value.map_or(0, number) * 1024
}

/// Field 10, the eighth after the name, which is in parentheses and may hold anything.
fn minor_faults(stat: &[u8]) -> u64 {
    let end = stat.iter().rposition(|byte| *byte == b')').unwrap_or(0);
    let field = stat[end..].split(|byte| *byte == b' ').nth(8);
    field.map_or(0, number)
}

/// Plays scripts until there are no more.
pub fn play() -> anyhow::Result<()> {
    forbid_huge_pages()?;
    let mut player = Player {
        page: page_size() as u64,
        heap: 0,
        elsewhere: Vec::new(),
        zeros: File::open("/dev/zero")?,
    };
    claim_arena()?;
    let mut files = Files::open()?;
    // Written to, so that they have memory.
    let mut outcomes = vec![(Err(1), Reading::default()); MOST_CALLS];
    player.elsewhere = vec![1; MOST_CALLS];
    crate::ready()?;
    for line in io::stdin().lock().lines() {
        let calls: Vec<Call> = from_str(&line?)?;
        ensure!(
            calls.len() <= MOST_CALLS,
            "more calls than there is room for"
        );
        player.elsewhere.clear();
        player.heap = set_break(0).next_multiple_of(player.page);
        let first_break = set_break(0);
        let before = files.read()?;
        for (call, slot) in calls.iter().zip(&mut outcomes) {
            let result = player.call(*call).map_err(Errno::raw_os_error);
            *slot = (result, files.read()?);
        }
        // The allocator shall find its break where it left it.
        ensure!(set_break(first_break) == first_break, "the break is lost");
        let facts = Played {
            before,
            calls: outcomes[..calls.len()].to_vec(),
        };
        crate::say(&to_value(facts)?)?;
    }
    Ok(())
}

/// A huge page comes with one fault, and is resident as a whole.
fn forbid_huge_pages() -> io::Result<()> {
    // SAFETY: changes nothing but how memory is provided.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes sure that nobody else is there.
fn claim_arena() -> anyhow::Result<()> {
    let start = ptr::without_provenance_mut(ARENA as usize);
    let bytes = 1 << 30;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: new mappings only, and gone again before anything can refer to them.
    unsafe {
        let got = mmap_anonymous(start, bytes, ProtFlags::empty(), flags)?;
        munmap(got, bytes)?;
        ensure!(got == start, "the arena is not where it should be");
    }
    Ok(())
}

fn set_break(to: u64) -> u64 {
    // SAFETY: never below where it was at first, which is what the allocator may use.
    unsafe { libc::syscall(libc::SYS_brk, to) as u64 }
}

struct Player {
    page: u64,
    /// The first whole page above the break.
    heap: u64,
    /// Addresses of the mappings whose place the kernel chose.
    elsewhere: Vec<u64>,
    zeros: File,
}

impl Player {
    /// The address of a page; nothing for a mapping that there should be and is not.
    fn address(&self, page: u64) -> Result<*mut c_void, Errno> {
        let base = match page / REGION {
            0 => ARENA,
            1 => self.heap,
            n => *self
                .elsewhere
                .get((n - ELSEWHERE / REGION) as usize)
                .ok_or(Errno::FAULT)?,
        };
        let address = base + page % REGION * self.page;
        Ok(ptr::without_provenance_mut(address as usize))
    }

    fn bytes(&self, pages: u64) -> usize {
        (pages * self.page) as usize
    }

    fn call(&mut self, call: Call) -> Result<u64, Errno> {
        match call {
            Call::Map {
                place,
                pages,
                protection,
                shared,
            } => self.map(place, pages, protection, shared)?,
            // SAFETY: only what the scripts have mapped, to which nothing refers; so for all calls below.
            Call::Unmap { at, pages } => unsafe { munmap(self.address(at)?, self.bytes(pages))? },
            Call::Remap {
                at,
                pages,
                to_pages,
                to,
                keep,
            } => self.remap(
                self.address(at)?,
                self.bytes(pages),
                self.bytes(to_pages),
                to,
                keep,
            )?,
            Call::Break { pages } => {
                let to = self.heap + pages * self.page;
                if set_break(to) != to {
                    return Err(Errno::NOMEM);
                }
            }
            Call::Protect {
                at,
                pages,
                protection,
            } => {
                let flags = match protection {
                    Protection::None => MprotectFlags::empty(),
                    Protection::Read => MprotectFlags::READ,
                    Protection::Write => MprotectFlags::READ | MprotectFlags::WRITE,
                };
                // SAFETY: as above.
                unsafe { mprotect(self.address(at)?, self.bytes(pages), flags)? }
            }
            Call::Discard { at, pages, lazily } => {
                let advice = if lazily {
                    Advice::LinuxFree
                } else {
                    Advice::LinuxDontNeed
                };
                // SAFETY: as above.
                unsafe { madvise(self.address(at)?, self.bytes(pages), advice)? }
            }
            Call::Touch { at, pages } => return self.touch(at, pages),
        }
        Ok(0)
    }

    fn map(
        &mut self,
        place: Place,
        pages: u64,
        protection: Protection,
        shared: bool,
    ) -> Result<(), Errno> {
        let (start, fixed) = match place {
            Place::Elsewhere => (ptr::null_mut(), MapFlags::empty()),
            Place::Over(at) => (self.address(at)?, MapFlags::FIXED),
            Place::Free(at) => (self.address(at)?, MapFlags::FIXED_NOREPLACE),
        };
        let protection = match protection {
            Protection::None => ProtFlags::empty(),
            Protection::Read => ProtFlags::READ,
            Protection::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let kind = if shared {
            MapFlags::SHARED
        } else {
            MapFlags::PRIVATE
        };
        // SAFETY: as in `call`.
        let got = unsafe { mmap_anonymous(start, self.bytes(pages), protection, kind | fixed)? };
        if place == Place::Elsewhere {
            self.elsewhere.push(got.addr() as u64);
        }
        Ok(())
    }

    fn remap(
        &mut self,
        start: *mut c_void,
        bytes: usize,
        to_bytes: usize,
        to: Move,
        keep: bool,
    ) -> Result<(), Errno> {
        let keep = if keep {
            MremapFlags::DONTUNMAP
        } else {
            MremapFlags::empty()
        };
        let may_move = MremapFlags::MAYMOVE | keep;
        // SAFETY: as in `call`.
        let got = unsafe {
            match to {
                Move::Stay => mremap(start, bytes, to_bytes, MremapFlags::empty())?,
                Move::Elsewhere => mremap_anywhere(start, bytes, to_bytes, may_move)?,
                Move::Over(at) => {
                    mremap_fixed(start, bytes, to_bytes, may_move, self.address(at)?)?
                }
            }
        };
        if to == Move::Elsewhere {
            self.elsewhere.push(got.addr() as u64);
        }
        Ok(())
    }

    /// Has the kernel write, which cannot be hit by a signal.
    fn touch(&self, at: u64, pages: u64) -> Result<u64, Errno> {
        let mut touched = 0;
        for page in at..at + pages {
            // SAFETY: as in `call`. The kernel writes one byte, or says that it cannot.
            let written = unsafe { libc::read(self.zeros.as_raw_fd(), self.address(page)?, 1) };
            touched += u64::from(written == 1);
        }
        Ok(touched)
    }
}

/// With `MREMAP_DONTUNMAP` the kernel takes the fifth argument as a hint, which `rustix` leaves to chance.
///
/// # Safety
/// As for `mremap`.
unsafe fn mremap_anywhere(
    start: *mut c_void,
    bytes: usize,
    to_bytes: usize,
    flags: MremapFlags,
) -> Result<*mut c_void, Errno> {
    // SAFETY: the caller sees to it.
    let got = unsafe { libc::syscall(libc::SYS_mremap, start, bytes, to_bytes, flags.bits(), 0) };
    if got == -1 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(ptr::without_provenance_mut(got as usize))
}
