//! A model of an address space, to compare the kernel and slowburn with.
//!
//! It says what each [`Call`] does to the four curves: reserved, committed, resident, faults. Page by page, because that is
//! obviously right and the spaces are small. The workload `script` makes the same calls for real.

use std::{
    collections::BTreeMap,
    io::Write,
    ops::{Add, Range},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Workload;

/// Where the arena begins: so low that the kernel puts nothing there by itself, neither into holes.
pub const ARENA: u64 = 0x20_0000_0000;

/// Most calls in a script.
pub const MOST_CALLS: usize = 256;

/// Pages are numbered. The first numbers are those of the arena; the heap and every mapping whose place the kernel chose
/// have numbers of their own from a multiple of this on.
pub const REGION: u64 = 1 << 32;

/// Number of the first page above the break as it was at first.
pub const HEAP: u64 = REGION;

/// Number of the first page of the first mapping whose place the kernel chose; the next has [`REGION`] more.
pub const ELSEWHERE: u64 = 2 * REGION;

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protection {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// Where to put a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Where the kernel likes.
    Elsewhere,
    /// Here, instead of what is there.
    Over(u64),
    /// Here, unless something is there.
    Free(u64),
}

/// Where to put a mapping that is remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Move {
    /// It stays where it is.
    Stay,
    /// Where the kernel likes.
    Elsewhere,
    /// Here, instead of what is there.
    Over(u64),
}

/// A call. Places and lengths are in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// `mmap`
    Map {
        /// Where.
        place: Place,
        /// How much.
        pages: u64,
        /// What may be done with it.
        protection: Protection,
        /// Is it shared with children, and thus never committed?
        shared: bool,
    },
    /// `munmap`
    Unmap {
        /// From where.
        at: u64,
        /// How much.
        pages: u64,
    },
    /// `mremap`. Only of pages that have been one mapping all the time: beyond that, kernels differ.
    Remap {
        /// From where.
        at: u64,
        /// How much.
        pages: u64,
        /// How much it shall be.
        to_pages: u64,
        /// Where to.
        to: Move,
        /// Leave the old mapping, empty (`MREMAP_DONTUNMAP`).
        keep: bool,
    },
    /// `brk`, to so much above where it was at first.
    Break {
        /// How much.
        pages: u64,
    },
    /// `mprotect`
    Protect {
        /// From where.
        at: u64,
        /// How much.
        pages: u64,
        /// What may be done with it.
        protection: Protection,
    },
    /// `madvise` that the contents are not needed.
    Discard {
        /// From where.
        at: u64,
        /// How much.
        pages: u64,
        /// `MADV_FREE`, for when the kernel needs the memory, instead of `MADV_DONTNEED`.
        lazily: bool,
    },
    /// Not a call: writes to every page that can be written to.
    Touch {
        /// From where.
        at: u64,
        /// How much.
        pages: u64,
    },
}

/// A number of which the kernel promises no more than that it lies between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// At least.
    pub least: u64,
    /// At most.
    pub most: u64,
}

impl Bounds {
    /// Does it keep what was promised?
    pub fn contains(self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

impl Add for Bounds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            least: self.least + other.least,
            most: self.most + other.most,
        }
    }
}

impl From<bool> for Bounds {
    fn from(certain: bool) -> Self {
        Self {
            least: certain.into(),
            most: certain.into(),
        }
    }
}

/// Either.
const PERHAPS: Bounds = Bounds { least: 0, most: 1 };

/// The four curves. Pages, but for the faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Curves {
    /// Address space.
    pub reserved: u64,
    /// Private and writable.
    pub committed: u64,
    /// Has memory.
    pub resident: Bounds,
    /// Minor faults so far.
    pub faults: Bounds,
}

/// A page of address space.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// Pages with the same number, one after the other, have been one mapping all the time.
    mapping: u64,
    protection: Protection,
    /// Of a shared mapping: how many more pages of memory there are from this one on, itself included. A mapping that was
    /// made longer has none for what it gained.
    shared: Option<u64>,
    /// Has it memory?
    resident: Bounds,
    /// Does the next write fault?
    faults: Bounds,
}

impl Page {
    fn is_committed(&self) -> bool {
        self.shared.is_none() && self.protection == Protection::Write
    }

    fn is_writable(&self) -> bool {
        self.protection == Protection::Write && self.shared != Some(0)
    }

    fn without_memory(mut self) -> Self {
        self.resident = false.into();
        self.faults = true.into();
        self
    }
}

/// Pages that have been one mapping all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub at: u64,
    /// How many.
    pub pages: u64,
}

/// An address space, as it should be.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    pages: BTreeMap<u64, Page>,
    faults: Bounds,
    mappings: u64,
    /// Mappings so far whose place the kernel chose.
    elsewhere: u64,
}

impl AddressSpace {
    /// The curves as they stand.
    pub fn curves(&self) -> Curves {
        let resident = self.pages.values().map(|page| page.resident);
        Curves {
            reserved: self.pages.len() as u64,
            committed: self.pages.values().filter(|p| p.is_committed()).count() as u64,
            resident: resident.fold(Bounds::default(), Bounds::add),
            faults: self.faults,
        }
    }

    /// Ranges that have been one mapping all the time.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::<(Run, u64)>::new();
        for (&at, page) in &self.pages {
            match runs.last_mut() {
                Some((run, mapping)) if run.at + run.pages == at && *mapping == page.mapping => {
                    run.pages += 1;
                }
                _ => runs.push((Run { at, pages: 1 }, page.mapping)),
            }
        }
        runs.into_iter().map(|(run, _)| run).collect()
    }

    /// Is it a page of a shared mapping?
    pub fn is_shared(&self, at: u64) -> bool {
        self.pages
            .get(&at)
            .is_some_and(|page| page.shared.is_some())
    }

    /// Is there nothing?
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.pages.range(range).next().is_none()
    }

    /// Makes a call. Returns what [`Call::Touch`] could write to, and 0 for others, or the error's number.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn call(&mut self, call: Call) -> Result<u64, i32> {
        match call {
            Call::Map {
                place,
                pages,
                protection,
                shared,
            } => self.map(place, pages, protection, shared)?,
            Call::Unmap { at, pages } => self.unmap(at, pages)?,
            Call::Remap {
                at,
                pages,
                to_pages,
                to,
                keep,
            } => self.remap(Run { at, pages }, to_pages, to, keep)?,
            Call::Break { pages } => self.set_break(pages),
            Call::Protect {
                at,
                pages,
                protection,
            } => self.protect(at, pages, protection)?,
            Call::Discard { at, pages, lazily } => self.discard(at, pages, lazily)?,
            Call::Touch { at, pages } => return Ok(self.touch(at, pages)),
        }
        Ok(0)
    }

    fn new_mapping(&mut self) -> u64 {
        self.mappings += 1;
        self.mappings
    }

    fn new_place(&mut self) -> u64 {
        self.elsewhere += 1;
        ELSEWHERE + (self.elsewhere - 1) * REGION
    }

    fn remove(&mut self, range: Range<u64>) {
        self.pages.retain(|at, _| !range.contains(at));
    }

    fn map(
        &mut self,
        place: Place,
        pages: u64,
        protection: Protection,
        shared: bool,
    ) -> Result<(), i32> {
        if pages == 0 {
            return Err(libc::EINVAL);
        }
        let at = match place {
            Place::Elsewhere => self.new_place(),
            Place::Over(at) => at,
            Place::Free(at) if self.is_free(at..at + pages) => at,
            Place::Free(_) => return Err(libc::EEXIST),
        };
        self.remove(at..at + pages);
        let mapping = self.new_mapping();
        for n in 0..pages {
            let page = Page {
                mapping,
                protection,
                shared: shared.then_some(pages - n),
                resident: false.into(),
                faults: true.into(),
            };
            self.pages.insert(at + n, page);
        }
        Ok(())
    }

    /// Holes do not matter, and more than there are addresses is refused.
    fn unmap(&mut self, at: u64, pages: u64) -> Result<(), i32> {
        if pages == 0 || pages >= REGION {
            return Err(libc::EINVAL);
        }
        self.remove(at..at + pages);
        Ok(())
    }

    fn remap(&mut self, from: Run, to_pages: u64, to: Move, keep: bool) -> Result<(), i32> {
        let Run { at, pages } = from;
        if !self.pages.contains_key(&at) {
            return Err(libc::EFAULT);
        }
        let to = match to {
            Move::Stay if to_pages <= pages || self.is_free(at + pages..at + to_pages) => at,
            Move::Stay => return Err(libc::ENOMEM),
            Move::Elsewhere => self.new_place(),
            Move::Over(to) => to,
        };
        let mut moved: Vec<_> = self.pages.range(at..at + pages).map(|(_, p)| *p).collect();
        moved.truncate(to_pages as usize);
        let mut last = *moved.last().expect("it is a mapping that is remapped");
        while (moved.len() as u64) < to_pages {
            last.shared = last.shared.map(|more| more.saturating_sub(1));
            moved.push(last.without_memory());
        }
        if to != at {
            let mapping = self.new_mapping();
            for page in &mut moved {
                page.mapping = mapping;
            }
        }
        if keep {
            for (_, page) in self.pages.range_mut(at..at + pages) {
                *page = page.without_memory();
            }
        } else {
            self.remove(at..at + pages);
        }
        self.remove(to..to + to_pages);
        self.pages.extend((to..).zip(moved));
        Ok(())
    }

    fn set_break(&mut self, pages: u64) {
        self.remove(HEAP + pages..HEAP + REGION);
        for at in HEAP..HEAP + pages {
            self.pages.entry(at).or_insert(Page {
                mapping: 0,
                protection: Protection::Write,
                shared: None,
                resident: false.into(),
                faults: true.into(),
            });
        }
    }

    /// Fails at the first hole, after it has changed what lies before.
    fn protect(&mut self, at: u64, pages: u64, protection: Protection) -> Result<(), i32> {
        // Whether the parts of a mapping are ever joined again is the kernel's affair: they become mappings of their own.
        let mut renamed = None;
        for at in at..at + pages {
            let fresh = self.new_mapping();
            let page = self.pages.get_mut(&at).ok_or(libc::ENOMEM)?;
            if page.protection == protection {
                renamed = None;
                continue;
            }
            let to = match renamed {
                Some((from, to)) if from == page.mapping => to,
                _ => fresh,
            };
            renamed = Some((page.mapping, to));
            page.mapping = to;
            page.protection = protection;
            if page.faults == false.into() {
                page.faults = PERHAPS;
            }
        }
        Ok(())
    }

    /// Leaves out holes, and fails only then. Shared memory cannot be discarded lazily, and stops it at once.
    fn discard(&mut self, at: u64, pages: u64, lazily: bool) -> Result<(), i32> {
        let mut result = Ok(());
        for at in at..at + pages {
            let Some(page) = self.pages.get_mut(&at) else {
                result = Err(libc::ENOMEM);
                continue;
            };
            if lazily && page.shared.is_some() {
                return Err(libc::EINVAL);
            }
            if !lazily {
                *page = page.without_memory();
            } else if page.resident.most > 0 {
                (page.resident, page.faults) = (PERHAPS, PERHAPS);
            }
        }
        result
    }

    fn touch(&mut self, at: u64, pages: u64) -> u64 {
        let mut touched = 0;
        for (_, page) in self.pages.range_mut(at..at + pages) {
            if page.is_writable() {
                touched += 1;
                self.faults = self.faults + page.faults;
                (page.resident, page.faults) = (true.into(), false.into());
            }
        }
        touched
    }
}

/// What the kernel says, in bytes but for the faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// `VmSize`
    pub vm: u64,
    /// `VmData`
    pub data: u64,
    /// `Rss`, by the page tables.
    pub resident: u64,
    /// `minflt`
    pub faults: u64,
}

/// What the workload `script` says of a script.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Played {
    /// What was read before the first call.
    pub before: Reading,
    /// Of each call: what it returned, as [`AddressSpace::call`] does, and what was read after it.
    pub calls: Vec<(Result<u64, i32>, Reading)>,
}

/// Has the workload `script` make calls. It must have been told to go.
///
/// # Panics
/// If it does not answer.
#[track_caller]
pub fn play(workload: &mut Workload, calls: &[Call]) -> Played {
    let line = serde_json::to_string(calls).expect("calls are data");
    let stdin = workload.stdin.as_mut().expect("it was not released");
    writeln!(stdin, "{line}").expect("the workload listens");
    let facts: Value = workload.facts();
    serde_json::from_value(facts).expect("it says what it has played")
}
