//! The one table of what lies where in a payload.
//!
//! A row names the fields of an event in their order; from the pointer size of the payload follows where each begins. Names
//! are those of the vendor's documentation, so that rows can be checked against it. A version without a row is never read
//! by the row of another.

use std::ops::RangeInclusive;

use thiserror::Error;

use super::{
    guid::group::{HEADER, LOST, MEMORY, PROCESS, SYSTEM, THREAD},
    value::{Ansi, Sid, Utf16, Value},
};

/// What a payload is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Its class; see [`super::guid::group`].
    pub group: u8,
    /// The event within its class.
    pub opcode: u8,
    /// Version of the event.
    pub version: u8,
}

/// Why a payload was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Undecoded {
    /// An event that is not decoded in any version.
    #[error("not an event that is decoded")]
    Foreign,
    /// Not read by the layout of another version.
    #[error("{event} of version {}, which is not known to this slowburn", id.version)]
    Version {
        /// Name of the event.
        event: &'static str,
        /// Which.
        id: Id,
    },
    /// The payload ends within a field.
    #[error("{event} ends within {field:?}, after {length} bytes")]
    Short {
        /// Name of the event.
        event: &'static str,
        /// Which field.
        field: Field,
        /// Length of the payload.
        length: usize,
    },
    /// More is left than any padding. Usually the pointers have another size than the event's header says.
    #[error("{event} has {excess} bytes more than its fields")]
    Long {
        /// Name of the event.
        event: &'static str,
        /// How much is left.
        excess: usize,
    },
}

/// How a field lies in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Without a sign.
    U8,
    /// Without a sign.
    U16,
    /// Without a sign.
    U32,
    /// Without a sign.
    U64,
    /// With a sign.
    I8,
    /// With a sign.
    I32,
    /// With a sign.
    I64,
    /// As large as a pointer.
    Pointer,
    /// So many bytes.
    Bytes(u16),
    /// Nothing, but what follows begins at a multiple of eight.
    Align8,
    /// Text of so many units of two bytes, of which it may use less.
    Chars(u16),
    /// Text up to a zero.
    Utf16,
    /// Text up to a zero; or nothing, if the payload ends before it.
    Utf16OrEnd,
    /// Text up to a zero, in the host's code page.
    Ansi,
    /// A user: a pointer and attributes that mean nothing outside the kernel, and then the identifier.
    Sid,
}

/// A row of the table.
#[derive(Debug)]
pub struct Layout {
    /// What people call the event.
    pub name: &'static str,
    /// Its class.
    pub group: u8,
    /// The events with this layout.
    pub opcodes: &'static [u8],
    /// Their versions.
    pub versions: RangeInclusive<u8>,
    /// In this order.
    pub fields: &'static [(Field, Shape)],
}

macro_rules! fields {
    ($($name:ident)*) => {
        /// Names of fields, as the vendor's documentation has them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are all there is to say")]
        pub enum Field { $($name,)* }
    };
}

fields! {
    AcquireDepth AcquireTime AdjustIncrement AdjustReason Affinity AllocationGranularity ApplicationId BaseAddress
    BasePriority Bias BoostBitmap BoostFlags BootTime BufferSize BuffersLost BuffersWritten ByteCount CPUSpeed CallerAddress
    CommandLine CommitSizeInBytes ComputerName DaylightBias DaylightDate DaylightName DirectoryTableBase DisplayName
    DomainName EndTime EventVersion EventsLost ExitStatus ExitTime FileObject Flag Flags GroupMask1 GroupMask2 GroupMask3
    GroupMask4 GroupMask5 GroupMask6 GroupMask7 GroupMask8 HandleCount HighestUserAddress HyperThreadingFlag
    ImageFileName InitialTime InterruptCount IoPriorities IoPriority Irql KernelEventVersion LoadOrderGroup Lock LockAddress
    LogFileMode LogFileName LogFileNameString LoggerName MHz MaxFileSize MemSize MemorySpeed NewCpuPriorityFloor NewPriority
    NewThreadId NewThreadPriority NewThreadQuantum NewThreadWaitTime NumberOfProcessors NxEnabled OldCpuPriority OldPriority
    OldThreadId OldThreadPriority OldThreadQuantum OldThreadState OldThreadWaitIdealProcessor OldThreadWaitMode
    OldThreadWaitReason PackageFullName Padding PaeEnabled PageDirectoryBase PageFaultCount PagePriority PageSize
    PagefileUsage ParentId PartitionType PeakPagefileUsage PeakVirtualSize PeakWorkingSetSize PerfFreq PointerSize
    PreviousCState PrivatePageCount ProcessId ProcessName ProcessorArchitecture ProcessorLevel ProcessorRevision
    ProgramCounter ProviderVersion QpcOffsetFromRoot QuotaNonPagedPoolUsage QuotaPagedPoolUsage QuotaPeakNonPagedPoolUsage
    QuotaPeakPagedPoolUsage ReadOffset RegionSize ReleaseTime Reserved ReservedFlags ServiceName ServiceState SessionId
    SessionNameString SpareByte SpinCount SpinLockAddress StackBase StackLimit StandardBias StandardDate StandardName
    StartAddr StartBuffers StartTime SubProcessTag SvchostGroup TThreadId TebBase ThreadFlags ThreadId ThreadName
    TimerResolution UniqueProcessKey UserSID UserStackBase UserStackLimit Version VirtualAddress VirtualSize WaitMode
    WaitTimeInCycles Win32StartAddr WorkingSetSize
}

use Field as F;
use Shape as S;

macro_rules! row {
    ($name:literal, $group:ident $opcodes:expr, v $versions:expr, [$($field:ident $shape:expr),* $(,)?]) => {
        Layout {
            name: $name,
            group: $group,
            opcodes: &$opcodes,
            versions: $versions,
            fields: &[$((F::$field, $shape)),*],
        }
    };
}

/// All that can be read. Rows of one class stand together.
#[rustfmt::skip]
pub static LAYOUTS: &[Layout] = &[
    row!("LogFileHeader", HEADER [0], v 2..=2, [
        BufferSize S::U32, Version S::U32, ProviderVersion S::U32, NumberOfProcessors S::U32, EndTime S::U64, TimerResolution S::U32,
        MaxFileSize S::U32, LogFileMode S::U32, BuffersWritten S::U32, StartBuffers S::U32, PointerSize S::U32, EventsLost S::U32,
        CPUSpeed S::U32, LoggerName S::Pointer, LogFileName S::Pointer,
        Bias S::I32, StandardName S::Chars(32), StandardDate S::Bytes(16), StandardBias S::I32,
        DaylightName S::Chars(32), DaylightDate S::Bytes(16), DaylightBias S::I32,
        Padding S::Align8, BootTime S::U64, PerfFreq S::U64, StartTime S::U64, ReservedFlags S::U32, BuffersLost S::U32,
        SessionNameString S::Utf16OrEnd, LogFileNameString S::Utf16OrEnd]),
    row!("LogFileExtension", HEADER [5, 32], v 2..=2, [
        GroupMask1 S::U32, GroupMask2 S::U32, GroupMask3 S::U32, GroupMask4 S::U32, GroupMask5 S::U32, GroupMask6 S::U32,
        GroupMask7 S::U32, GroupMask8 S::U32, KernelEventVersion S::U32]),
    row!("PartitionInfo", HEADER [80], v 2..=2, [
        EventVersion S::U16, Reserved S::U16, PartitionType S::U32, QpcOffsetFromRoot S::I64]),

    row!("PageFault", MEMORY [10, 11, 12, 13, 14, 15], v 2..=2, [VirtualAddress S::Pointer, ProgramCounter S::Pointer]),
    row!("HardFault", MEMORY [32], v 2..=2, [
        InitialTime S::U64, ReadOffset S::U64, VirtualAddress S::Pointer, FileObject S::Pointer, TThreadId S::U32, ByteCount S::U32]),
    row!("VirtualAlloc", MEMORY [98], v 2..=2, [BaseAddress S::Pointer, RegionSize S::Pointer, ProcessId S::U32, Flags S::U32]),
    row!("VirtualFree", MEMORY [99], v 2..=2, [BaseAddress S::Pointer, RegionSize S::Pointer, ProcessId S::U32, Flags S::U32]),
    row!("VirtualAllocRundown", MEMORY [128, 129], v 2..=2, [
        BaseAddress S::Pointer, RegionSize S::Pointer, ProcessId S::U32, Flags S::U32, CommitSizeInBytes S::Pointer]),

    row!("Process", PROCESS [1, 2, 3, 4], v 1..=1, [
        PageDirectoryBase S::Pointer, ProcessId S::U32, ParentId S::U32, SessionId S::U32, ExitStatus S::I32, UserSID S::Sid, ImageFileName S::Ansi]),
    row!("Process", PROCESS [1, 2, 3, 4, 39], v 2..=2, [
        UniqueProcessKey S::Pointer, ProcessId S::U32, ParentId S::U32, SessionId S::U32, ExitStatus S::I32, UserSID S::Sid, ImageFileName S::Ansi,
        CommandLine S::Utf16]),
    row!("Process", PROCESS [1, 2, 3, 4, 39], v 3..=3, [
        UniqueProcessKey S::Pointer, ProcessId S::U32, ParentId S::U32, SessionId S::U32, ExitStatus S::I32, DirectoryTableBase S::Pointer,
        UserSID S::Sid, ImageFileName S::Ansi, CommandLine S::Utf16]),
    row!("Process", PROCESS [1, 2, 3, 4, 39], v 4..=4, [
        UniqueProcessKey S::Pointer, ProcessId S::U32, ParentId S::U32, SessionId S::U32, ExitStatus S::I32, DirectoryTableBase S::Pointer,
        Flags S::U32, UserSID S::Sid, ImageFileName S::Ansi, CommandLine S::Utf16, PackageFullName S::Utf16, ApplicationId S::Utf16]),
    row!("Process", PROCESS [39], v 5..=5, [
        UniqueProcessKey S::Pointer, ProcessId S::U32, ParentId S::U32, SessionId S::U32, ExitStatus S::I32, DirectoryTableBase S::Pointer,
        Flags S::U32, UserSID S::Sid, ImageFileName S::Ansi, CommandLine S::Utf16, PackageFullName S::Utf16, ApplicationId S::Utf16,
        ExitTime S::U64]),
    row!("ProcessTerminate", PROCESS [11], v 2..=2, [ProcessId S::U32]),
    row!("ProcessCounters", PROCESS [32, 33], v 2..=2, [
        ProcessId S::U32, PageFaultCount S::U32, HandleCount S::U32, Reserved S::U32, PeakVirtualSize S::Pointer, PeakWorkingSetSize S::Pointer,
        PeakPagefileUsage S::Pointer, QuotaPeakPagedPoolUsage S::Pointer, QuotaPeakNonPagedPoolUsage S::Pointer, VirtualSize S::Pointer,
        WorkingSetSize S::Pointer, PagefileUsage S::Pointer, QuotaPagedPoolUsage S::Pointer, QuotaNonPagedPoolUsage S::Pointer,
        PrivatePageCount S::Pointer]),

    row!("Thread", THREAD [1, 2, 3, 4], v 0..=0, [TThreadId S::U32, ProcessId S::U32]),
    row!("Thread", THREAD [1, 3], v 1..=1, [
        ProcessId S::U32, TThreadId S::U32, StackBase S::Pointer, StackLimit S::Pointer, UserStackBase S::Pointer, UserStackLimit S::Pointer,
        StartAddr S::Pointer, Win32StartAddr S::Pointer, WaitMode S::I8]),
    row!("Thread", THREAD [2, 4], v 1..=1, [ProcessId S::U32, TThreadId S::U32]),
    row!("Thread", THREAD [1, 2, 3, 4], v 2..=2, [
        ProcessId S::U32, TThreadId S::U32, StackBase S::Pointer, StackLimit S::Pointer, UserStackBase S::Pointer, UserStackLimit S::Pointer,
        StartAddr S::Pointer, Win32StartAddr S::Pointer, TebBase S::Pointer, SubProcessTag S::U32]),
    // From Windows 10 on, version 3 has a name as well.
    row!("Thread", THREAD [1, 2, 3, 4], v 3..=3, [
        ProcessId S::U32, TThreadId S::U32, StackBase S::Pointer, StackLimit S::Pointer, UserStackBase S::Pointer, UserStackLimit S::Pointer,
        Affinity S::Pointer, Win32StartAddr S::Pointer, TebBase S::Pointer, SubProcessTag S::U32, BasePriority S::U8, PagePriority S::U8,
        IoPriority S::U8, ThreadFlags S::U8, ThreadName S::Utf16OrEnd]),
    row!("Thread", THREAD [1, 2, 3, 4], v 4..=4, [
        ProcessId S::U32, TThreadId S::U32, StackBase S::Pointer, StackLimit S::Pointer, UserStackBase S::Pointer, UserStackLimit S::Pointer,
        Affinity S::Pointer, Win32StartAddr S::Pointer, TebBase S::Pointer, SubProcessTag S::U32, BasePriority S::U8, PagePriority S::U8,
        IoPriority S::U8, ThreadFlags S::U8, ThreadName S::Utf16]),
    row!("CSwitch", THREAD [36], v 1..=1, [
        NewThreadId S::U32, OldThreadId S::U32, NewThreadPriority S::I8, OldThreadPriority S::I8, NewThreadQuantum S::I8, OldThreadQuantum S::I8,
        OldThreadWaitReason S::I8, OldThreadWaitMode S::I8, OldThreadState S::I8, OldThreadWaitIdealProcessor S::I8]),
    row!("CSwitch", THREAD [36], v 2..=2, [
        NewThreadId S::U32, OldThreadId S::U32, NewThreadPriority S::I8, OldThreadPriority S::I8, PreviousCState S::U8, SpareByte S::I8,
        OldThreadWaitReason S::I8, OldThreadWaitMode S::I8, OldThreadState S::I8, OldThreadWaitIdealProcessor S::I8, NewThreadWaitTime S::U32,
        Reserved S::U32]),
    row!("CSwitch", THREAD [36], v 3..=4, [
        NewThreadId S::U32, OldThreadId S::U32, NewThreadPriority S::I8, OldThreadPriority S::I8, PreviousCState S::U8, SpareByte S::I8,
        OldThreadWaitReason S::I8, ThreadFlags S::I8, OldThreadState S::I8, OldThreadWaitIdealProcessor S::I8, NewThreadWaitTime S::U32,
        Reserved S::U32]),
    row!("SpinLock", THREAD [41], v 2..=2, [
        SpinLockAddress S::Pointer, CallerAddress S::Pointer, AcquireTime S::U64, ReleaseTime S::U64, WaitTimeInCycles S::U32, SpinCount S::U32,
        ThreadId S::U32, InterruptCount S::U32, Irql S::U8, AcquireDepth S::U8, Flag S::U8]),
    row!("ThreadPriority", THREAD [48, 49, 51, 52], v 3..=3, [ThreadId S::U32, OldPriority S::U8, NewPriority S::U8, Reserved S::U16]),
    row!("ReadyThread", THREAD [50], v 2..=2, [TThreadId S::U32, AdjustReason S::I8, AdjustIncrement S::I8, Flag S::I8, Reserved S::I8]),
    row!("AutoBoostSetFloor", THREAD [66], v 2..=2, [
        Lock S::Pointer, ThreadId S::U32, NewCpuPriorityFloor S::U8, OldCpuPriority S::U8, IoPriorities S::U8, BoostFlags S::U8]),
    row!("AutoBoostClearFloor", THREAD [67], v 2..=2, [LockAddress S::Pointer, ThreadId S::U32, BoostBitmap S::U16, Reserved S::U16]),
    row!("AutoBoostEntryExhaustion", THREAD [68], v 2..=2, [LockAddress S::Pointer, ThreadId S::U32]),
    row!("ThreadName", THREAD [72], v 2..=2, [ProcessId S::U32, ThreadId S::U32, ThreadName S::Utf16]),

    row!("Cpu", SYSTEM [10], v 3..=3, [
        MHz S::U32, NumberOfProcessors S::U32, MemSize S::U32, PageSize S::U32, AllocationGranularity S::U32, ComputerName S::Chars(256),
        DomainName S::Chars(134), HyperThreadingFlag S::Pointer, HighestUserAddress S::Pointer, ProcessorArchitecture S::U16,
        ProcessorLevel S::U16, ProcessorRevision S::U16, PaeEnabled S::U8, NxEnabled S::U8, MemorySpeed S::U32]),
    row!("Service", SYSTEM [15], v 3..=3, [
        ProcessId S::U32, ServiceState S::U32, SubProcessTag S::U32, ServiceName S::Utf16, DisplayName S::Utf16, ProcessName S::Utf16,
        LoadOrderGroup S::Utf16, SvchostGroup S::Utf16]),

    // Without fields, in any version.
    row!("Lost", LOST [32, 33, 34], v 0..=7, []),
];

/// Versions that the index has room for; no event is known in a higher one.
const VERSIONS: usize = 8;

/// The row of each event, plus one: by group, opcode and version. A recording has millions of events, and 40 rows to look
/// through for each would take longer than to read it.
static INDEX: [[[u8; VERSIONS]; 256]; 6] = index();

const fn place_of(group: u8) -> Option<usize> {
    match group {
        HEADER => Some(0),
        MEMORY => Some(1),
        PROCESS => Some(2),
        THREAD => Some(3),
        SYSTEM => Some(4),
        LOST => Some(5),
        _ => None,
    }
}

const fn index() -> [[[u8; VERSIONS]; 256]; 6] {
    let mut index = [[[0; VERSIONS]; 256]; 6];
    let mut row = 0;
    while row < LAYOUTS.len() {
        let layout = &LAYOUTS[row];
        let Some(place) = place_of(layout.group) else {
            panic!("a row of a group that has no place in the index");
        };
        let mut n = 0;
        while n < layout.opcodes.len() {
            let mut version = *layout.versions.start();
            while version <= *layout.versions.end() {
                let entry = &mut index[place][layout.opcodes[n] as usize][version as usize];
                assert!(*entry == 0, "two rows for the same event and version");
                *entry = row as u8 + 1;
                version += 1;
            }
            n += 1;
        }
        row += 1;
    }
    index
}

/// The layout of an event.
///
/// # Errors
/// If there is none, for this version or at all.
pub fn layout(id: Id) -> Result<&'static Layout, Undecoded> {
    let place = place_of(id.group).ok_or(Undecoded::Foreign)?;
    let rows = &INDEX[place][usize::from(id.opcode)];
    if let Some(row @ 1..) = rows.get(usize::from(id.version)).copied() {
        return Ok(&LAYOUTS[usize::from(row) - 1]);
    }
    let other = rows
        .iter()
        .find(|row| **row > 0)
        .ok_or(Undecoded::Foreign)?;
    let event = LAYOUTS[usize::from(*other) - 1].name;
    Err(Undecoded::Version { event, id })
}

/// What may be left of a payload when all its fields have been read: padding, and what was in the buffer before.
const MOST_PADDING: usize = 8;

impl Layout {
    /// Reads all fields, in order. `pointer_size` is 4 or 8.
    ///
    /// # Errors
    /// If the payload is too short, or so long that the row cannot be the right one. Fields before that have been passed on.
    #[inline]
    pub fn read<'a>(
        &self,
        payload: &'a [u8],
        pointer_size: u8,
        mut take: impl FnMut(Field, Value<'a>),
    ) -> Result<(), Undecoded> {
        let mut bytes = Bytes {
            all: payload,
            at: 0,
            pointer_size,
        };
        for (field, shape) in self.fields {
            let short = Undecoded::Short {
                event: self.name,
                field: *field,
                length: payload.len(),
            };
            take(*field, bytes.value(*shape).ok_or(short)?);
        }
        let excess = payload.len() - bytes.at;
        // Where an event has no text, its size tells its version too, and later ones may have been given more.
        if excess > MOST_PADDING && self.has_text() {
            return Err(Undecoded::Long {
                event: self.name,
                excess,
            });
        }
        Ok(())
    }

    /// A payload of which a pointer of the wrong size makes nonsense, instead of one that is too short.
    fn has_text(&self) -> bool {
        self.fields
            .iter()
            .any(|(_, shape)| matches!(shape, S::Utf16 | S::Ansi))
    }
}

/// A payload that is being read.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
    pointer_size: u8,
}

impl<'a> Bytes<'a> {
    #[inline]
    fn value(&mut self, shape: Shape) -> Option<Value<'a>> {
        Some(match shape {
            S::U8 => Value::Unsigned(u64::from(self.take::<1>()?[0])),
            S::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(self.take()?))),
            S::U32 => Value::Unsigned(u64::from(u32::from_le_bytes(self.take()?))),
            S::U64 => Value::Unsigned(u64::from_le_bytes(self.take()?)),
            S::I8 => Value::Signed(i64::from(i8::from_le_bytes(self.take()?))),
            S::I32 => Value::Signed(i64::from(i32::from_le_bytes(self.take()?))),
            S::I64 => Value::Signed(i64::from_le_bytes(self.take()?)),
            S::Pointer if self.pointer_size == 4 => return self.value(S::U32),
            S::Pointer => return self.value(S::U64),
            S::Bytes(length) => Value::Bytes(self.slice(usize::from(length))?),
            S::Align8 => {
                self.slice(self.at.next_multiple_of(8) - self.at)?;
                Value::Unsigned(0)
            }
            S::Chars(units) => {
                let text = self.slice(2 * usize::from(units))?;
                Value::Utf16(Utf16(&text[..2 * units_before_zero(text)]))
            }
            S::Utf16OrEnd if self.at == self.all.len() => Value::Utf16(Utf16::default()),
            S::Utf16 | S::Utf16OrEnd => self.utf16()?,
            S::Ansi => self.ansi()?,
            S::Sid => self.sid()?,
        })
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.all[self.at..].first_chunk()?;
        self.at += N;
        Some(bytes)
    }

    #[inline]
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let slice = self.all[self.at..].get(..length)?;
        self.at += length;
        Some(slice)
    }

    fn utf16(&mut self) -> Option<Value<'a>> {
        let rest = &self.all[self.at..];
        let length = 2 * units_before_zero(rest);
        self.slice(length + 2)?;
        Some(Value::Utf16(Utf16(&rest[..length])))
    }

    fn ansi(&mut self) -> Option<Value<'a>> {
        let rest = &self.all[self.at..];
        let length = rest.iter().position(|byte| *byte == 0)?;
        self.slice(length + 1)?;
        Some(Value::Ansi(Ansi(&rest[..length])))
    }

    /// Where there is no user, four bytes are zero and stand for all of it. Some recordings have a null pointer and an
    /// identifier all the same: it is taken if it looks like one.
    fn sid(&mut self) -> Option<Value<'a>> {
        let before = self.at;
        let found = self
            .slice(2 * usize::from(self.pointer_size))
            .and_then(|_| self.well_formed_sid());
        if found.is_none() {
            self.at = before;
            self.take().filter(|none| *none == [0; 4])?;
        }
        Some(Value::Sid(found))
    }

    fn well_formed_sid(&mut self) -> Option<Sid<'a>> {
        let [revision, count, 0, 0, 0, 0, _, _] = *self.all[self.at..].first_chunk()? else {
            return None;
        };
        if revision != 1 || count > 15 {
            return None;
        }
        self.slice(8 + 4 * usize::from(count)).map(Sid)
    }
}

/// Units of two bytes before one that is zero, or all of them.
fn units_before_zero(text: &[u8]) -> usize {
    let mut units = text.chunks_exact(2);
    units
        .position(|unit| unit == [0, 0])
        .unwrap_or(text.len() / 2)
}
