//! Payloads as types: what the rest of slowburn needs of each event.
//!
//! Command lines are nobody's business and are not here; [`Layout::read`](super::Layout::read) has every field.

use super::{
    guid::group::{HEADER, LOST, MEMORY, PROCESS, SYSTEM, THREAD},
    layout::{Field as F, Id, Layout, Undecoded, layout},
    value::{Ansi, Sid, Utf16, Value},
};

/// What happened to a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It began.
    Start,
    /// It ended.
    End,
    /// It was there when the recording began.
    ThereAtStart,
    /// It was there when the recording ended.
    ThereAtEnd,
    /// It had ended, and something still held on to it when the recording ended.
    Defunct,
}

impl Change {
    fn of(opcode: u8) -> Self {
        match opcode {
            1 => Self::Start,
            2 => Self::End,
            3 => Self::ThereAtStart,
            4 => Self::ThereAtEnd,
            _ => Self::Defunct,
        }
    }
}

/// A decoded payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Payload<'a> {
    /// What was recorded, how, and by whom.
    LogFile(LogFile<'a>),
    /// Which events were enabled.
    Enabled(Enabled),
    /// A processor went from one thread to another.
    Switch(Switch),
    /// A thread is to run.
    Ready(Ready),
    /// A thread.
    Thread(Change, Thread<'a>),
    /// A thread has got a name.
    ThreadName(ThreadName<'a>),
    /// A process.
    Process(Change, Process<'a>),
    /// What the kernel counts of a process.
    Counters(Counters),
    /// Address space was reserved or committed.
    Allocated(Region),
    /// Address space was given back.
    Freed(Region),
    /// Address space that was there already.
    Rundown(Region),
    /// A fault that needed no input.
    Fault(Fault),
    /// A fault that needed input.
    HardFault(HardFault),
    /// The host.
    Host(Host<'a>),
    /// A service, as it stood when the recording ended.
    Service(Service<'a>),
    /// Something could not be delivered.
    Lost(Lost),
    /// An event that is known and not needed.
    Other,
}

/// The header of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFile<'a> {
    /// Size of a buffer in bytes.
    pub buffer_bytes: u32,
    /// Version of Windows, major and minor, as far as it told whoever wrote the recording.
    pub windows: (u8, u8),
    /// Its build, likewise.
    pub build: u32,
    /// Processors.
    pub cpus: u32,
    /// When it ended, in units of 100 ns since 1601; 0 if it was not ended in order.
    pub end_filetime: u64,
    /// How it was written: bit 1 circular, bit 26 compressed, bit 16 written by a program that had read another.
    pub mode: u32,
    /// Buffers in it.
    pub buffers_written: u32,
    /// Size of a pointer in bytes.
    pub pointer_size: u32,
    /// Events that found no room in any buffer.
    pub events_lost: u32,
    /// Clock rate of a processor.
    pub cpu_mhz: u32,
    /// When Windows was started, in units of 100 ns since 1601.
    pub boot_filetime: u64,
    /// Ticks of the performance counter in a second.
    pub frequency: u64,
    /// When it began, in units of 100 ns since 1601.
    pub start_filetime: u64,
    /// What times are in: 1 performance counter, 2 units of 100 ns since 1601, 3 processor cycles.
    pub clock: u32,
    /// Buffers that could not be written.
    pub buffers_lost: u32,
    /// Name of the session.
    pub session: Utf16<'a>,
    /// Name of the file it was written to.
    pub file: Utf16<'a>,
}

/// Which classes of kernel events were enabled: eight masks, each bit a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    /// The masks.
    pub masks: [u32; 8],
}

/// A switch. What the processor was on before it stops there; it need not have been running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// Thread that runs from now on; 0 when idle.
    pub new_tid: u32,
    /// Thread that ran until now; 0 when idle.
    pub old_tid: u32,
    /// Priority of the former.
    pub new_priority: i8,
    /// Priority of the latter.
    pub old_priority: i8,
    /// Why the latter waits, if it does.
    pub old_wait_reason: i8,
    /// What it does now: 1 ready, 2 running, 3 standby, 4 terminated, 5 waiting, 6 transition, 7 deferred ready.
    pub old_state: i8,
}

/// A thread was made ready to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub tid: u32,
    /// Why its priority was changed by that.
    pub adjust_reason: i8,
    /// By how much.
    pub adjust_increment: i8,
    /// Bit 0: from a deferred procedure call; bit 1: its kernel stack is swapped out; bit 2: its process is.
    pub flags: i8,
}

/// A thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread<'a> {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// Which service of a shared process it works for; 0 for none.
    pub service_tag: u32,
    /// Its name; empty if it has none.
    pub name: Utf16<'a>,
}

/// A thread's new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadName<'a> {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// The name.
    pub name: Utf16<'a>,
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process<'a> {
    /// Its id.
    pub pid: u32,
    /// Who created it.
    pub parent: u32,
    /// Session of a user; `u32::MAX` for none.
    pub session: u32,
    /// 259 while it lives.
    pub exit_status: i32,
    /// What no other process has as long as Windows runs; 0 if it was not recorded.
    pub key: u64,
    /// As whom it runs.
    pub user: Option<Sid<'a>>,
    /// Name of its program.
    pub image: Ansi<'a>,
    /// When it ended, in units of 100 ns since 1601; only in [`Change::Defunct`].
    pub exit_filetime: u64,
}

/// What the kernel counts of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Which.
    pub pid: u32,
    /// Open handles.
    pub handles: u32,
    /// Page faults of any kind, since it began.
    pub faults: u32,
    /// Address space.
    pub virtual_bytes: u64,
    /// Resident memory.
    pub working_set_bytes: u64,
    /// Private committed memory.
    pub private_bytes: u64,
}

/// A part of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Whose.
    pub pid: u32,
    /// Where it begins.
    pub base: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// What was done: see [`Region::COMMIT`] and its neighbours.
    pub flags: u32,
    /// How much of it is committed; only in [`Payload::Rundown`].
    pub committed: u64,
}

impl Region {
    /// It was committed.
    pub const COMMIT: u32 = 0x1000;
    /// It was reserved.
    pub const RESERVE: u32 = 0x2000;
    /// It is reserved still, and no longer committed.
    pub const DECOMMIT: u32 = 0x4000;
    /// It was given back altogether.
    pub const RELEASE: u32 = 0x8000;
}

/// A fault that needed no input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// 10 transition, 11 zeroed page, 12 copy on write, 13 guard page, 14 input will be needed, 15 access violation.
    pub kind: u8,
    /// Where.
    pub address: u64,
}

/// A fault that needed input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardFault {
    /// Whose.
    pub tid: u32,
    /// Where.
    pub address: u64,
    /// How much was read.
    pub bytes: u32,
}

/// The host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host<'a> {
    /// Its name.
    pub name: Utf16<'a>,
    /// Processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Size of a page.
    pub page_bytes: u32,
    /// Architecture: 0 x86, 9 x64, 12 arm64.
    pub architecture: u16,
}

/// A service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service<'a> {
    /// Its process; 0 if it does not run.
    pub pid: u32,
    /// 4 while it runs.
    pub state: u32,
    /// What its threads are marked with.
    pub tag: u32,
    /// Its name.
    pub name: Utf16<'a>,
    /// Its name for people.
    pub display_name: Utf16<'a>,
    /// Name of its process's program.
    pub image: Utf16<'a>,
}

/// What could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// An event, or some.
    Event,
    /// A whole buffer.
    Buffer,
    /// Part of a file.
    File,
}

/// What is filled from the fields of a payload.
trait Fields<'a>: Default {
    /// Takes those that it needs.
    fn set(&mut self, field: F, value: Value<'a>);
}

#[inline]
fn fill<'a, T: Fields<'a>>(
    layout: &Layout,
    pointer_size: u8,
    payload: &'a [u8],
) -> Result<T, Undecoded> {
    let mut filled = T::default();
    layout.read(payload, pointer_size, |field, value| {
        filled.set(field, value);
    })?;
    Ok(filled)
}

/// Decodes a payload; `pointer_size` is 4 or 8.
///
/// # Errors
/// If the event is none that is decoded, has an unknown version, or does not fit its layout.
pub fn decode(id: Id, pointer_size: u8, payload: &[u8]) -> Result<Payload<'_>, Undecoded> {
    let layout = layout(id)?;
    macro_rules! filled {
        () => {
            fill(layout, pointer_size, payload)?
        };
    }
    Ok(match (id.group, id.opcode) {
        // What comes most often, first.
        (THREAD, 36) => Payload::Switch(filled!()),
        (THREAD, 50) => Payload::Ready(filled!()),
        (MEMORY, 98) => Payload::Allocated(filled!()),
        (MEMORY, 99) => Payload::Freed(filled!()),
        (MEMORY, 10..=15) => Payload::Fault(Fault {
            kind: id.opcode,
            ..filled!()
        }),
        (MEMORY, 32) => Payload::HardFault(filled!()),
        (MEMORY, 128 | 129) => Payload::Rundown(filled!()),
        (THREAD, 1..=4) => Payload::Thread(Change::of(id.opcode), filled!()),
        (THREAD, 72) => Payload::ThreadName(filled!()),
        (PROCESS, 1..=4 | 39) => Payload::Process(Change::of(id.opcode), filled!()),
        (PROCESS, 32 | 33) => Payload::Counters(filled!()),
        (HEADER, 0) => Payload::LogFile(filled!()),
        (HEADER, 5 | 32) => Payload::Enabled(filled!()),
        (SYSTEM, 10) => Payload::Host(filled!()),
        (SYSTEM, 15) => Payload::Service(filled!()),
        (LOST, 32) => Payload::Lost(Lost::Event),
        (LOST, 33) => Payload::Lost(Lost::Buffer),
        (LOST, _) => Payload::Lost(Lost::File),
        _ => {
            layout.read(payload, pointer_size, |_, _| {})?;
            Payload::Other
        }
    })
}

impl<'a> Fields<'a> for LogFile<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::BufferSize => self.buffer_bytes = value.number() as u32,
            F::ProviderVersion => self.build = value.number() as u32,
            F::NumberOfProcessors => self.cpus = value.number() as u32,
            F::EndTime => self.end_filetime = value.number(),
            F::LogFileMode => self.mode = value.number() as u32,
            F::BuffersWritten => self.buffers_written = value.number() as u32,
            F::PointerSize => self.pointer_size = value.number() as u32,
            F::EventsLost => self.events_lost = value.number() as u32,
            F::CPUSpeed => self.cpu_mhz = value.number() as u32,
            F::BootTime => self.boot_filetime = value.number(),
            F::PerfFreq => self.frequency = value.number(),
            F::StartTime => self.start_filetime = value.number(),
            F::ReservedFlags => self.clock = value.number() as u32,
            F::BuffersLost => self.buffers_lost = value.number() as u32,
            F::SessionNameString => self.session = value.utf16(),
            F::LogFileNameString => self.file = value.utf16(),
            F::Version => self.windows = (value.number() as u8, (value.number() >> 8) as u8),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Switch {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::NewThreadId => self.new_tid = value.number() as u32,
            F::OldThreadId => self.old_tid = value.number() as u32,
            F::NewThreadPriority => self.new_priority = value.number() as i8,
            F::OldThreadPriority => self.old_priority = value.number() as i8,
            F::OldThreadWaitReason => self.old_wait_reason = value.number() as i8,
            F::OldThreadState => self.old_state = value.number() as i8,
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Ready {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::TThreadId => self.tid = value.number() as u32,
            F::AdjustReason => self.adjust_reason = value.number() as i8,
            F::AdjustIncrement => self.adjust_increment = value.number() as i8,
            F::Flag => self.flags = value.number() as i8,
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Thread<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::TThreadId => self.tid = value.number() as u32,
            F::SubProcessTag => self.service_tag = value.number() as u32,
            F::ThreadName => self.name = value.utf16(),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for ThreadName<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::ThreadId => self.tid = value.number() as u32,
            F::ThreadName => self.name = value.utf16(),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Process<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::ParentId => self.parent = value.number() as u32,
            F::SessionId => self.session = value.number() as u32,
            F::ExitStatus => self.exit_status = value.number() as i32,
            F::UniqueProcessKey => self.key = value.number(),
            F::ImageFileName => self.image = value.ansi(),
            F::ExitTime => self.exit_filetime = value.number(),
            F::UserSID => {
                self.user = if let Value::Sid(user) = value {
                    user
                } else {
                    None
                }
            }
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Counters {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::HandleCount => self.handles = value.number() as u32,
            F::PageFaultCount => self.faults = value.number() as u32,
            F::VirtualSize => self.virtual_bytes = value.number(),
            F::WorkingSetSize => self.working_set_bytes = value.number(),
            F::PrivatePageCount => self.private_bytes = value.number(),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Region {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::BaseAddress => self.base = value.number(),
            F::RegionSize => self.bytes = value.number(),
            F::Flags => self.flags = value.number() as u32,
            F::CommitSizeInBytes => self.committed = value.number(),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for HardFault {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::TThreadId => self.tid = value.number() as u32,
            F::VirtualAddress => self.address = value.number(),
            F::ByteCount => self.bytes = value.number() as u32,
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Host<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ComputerName => self.name = value.utf16(),
            F::NumberOfProcessors => self.cpus = value.number() as u32,
            F::MemSize => self.memory_mib = value.number() as u32,
            F::PageSize => self.page_bytes = value.number() as u32,
            F::ProcessorArchitecture => self.architecture = value.number() as u16,
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Service<'a> {
    fn set(&mut self, field: F, value: Value<'a>) {
        match field {
            F::ProcessId => self.pid = value.number() as u32,
            F::ServiceState => self.state = value.number() as u32,
            F::SubProcessTag => self.tag = value.number() as u32,
            F::ServiceName => self.name = value.utf16(),
            F::DisplayName => self.display_name = value.utf16(),
            F::ProcessName => self.image = value.utf16(),
            _ => {}
        }
    }
}

impl<'a> Fields<'a> for Fault {
    fn set(&mut self, field: F, value: Value<'a>) {
        if field == F::VirtualAddress {
            self.address = value.number();
        }
    }
}

impl<'a> Fields<'a> for Enabled {
    fn set(&mut self, field: F, value: Value<'a>) {
        const MASKS: [F; 8] = [
            F::GroupMask1,
            F::GroupMask2,
            F::GroupMask3,
            F::GroupMask4,
            F::GroupMask5,
            F::GroupMask6,
            F::GroupMask7,
            F::GroupMask8,
        ];
        if let Some(n) = MASKS.iter().position(|mask| *mask == field) {
            self.masks[n] = value.number() as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(group: u8, opcode: u8, version: u8) -> Id {
        Id {
            group,
            opcode,
            version,
        }
    }

    /// What is written one after the other.
    fn payload(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    }

    /// With pointers of this size.
    fn pointers(values: &[u64], size: usize) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes()[..size].to_vec())
            .collect()
    }

    #[test]
    fn switches_of_each_version() {
        let begin = [7, 0, 0, 0, 9, 1, 0, 0, 12, 0xff, 2, 0, 31, 1, 5, 3];
        let expected = Switch {
            new_tid: 7,
            old_tid: 265,
            new_priority: 12,
            old_priority: -1,
            old_wait_reason: 31,
            old_state: 5,
        };
        let whole = payload(&[&begin, &[0; 8]]);
        for version in 1..=4 {
            let payload = if version == 1 {
                &whole[..16]
            } else {
                &whole[..]
            };
            assert_eq!(
                decode(id(THREAD, 36, version), 8, payload),
                Ok(Payload::Switch(expected))
            );
        }
        for version in [0, 5, 8, 255] {
            let error = decode(id(THREAD, 36, version), 8, &whole).unwrap_err();
            let expected =
                format!("CSwitch of version {version}, which is not known to this slowburn");
            assert_eq!(error.to_string(), expected);
        }
        let short = decode(id(THREAD, 36, 2), 8, &whole[..23]).unwrap_err();
        assert_eq!(
            short.to_string(),
            "CSwitch ends within Reserved, after 23 bytes"
        );
    }

    #[test]
    fn threads_with_and_without_names() {
        for size in [4, 8] {
            let ids = [3, 0, 0, 0, 4, 0, 0, 0];
            let pointers = pointers(&[1, 2, 3, 4, 5, 6, 7], size);
            let rest = [9, 0, 0, 0, 8, 5, 2, 0];
            let plain = payload(&[&ids, &pointers, &rest]);
            let thread = Thread {
                pid: 3,
                tid: 4,
                service_tag: 9,
                name: Utf16::default(),
            };
            let size = size as u8;
            let of = |change| Ok(Payload::Thread(change, thread));
            assert_eq!(decode(id(THREAD, 1, 3), size, &plain), of(Change::Start));
            assert_eq!(
                decode(id(THREAD, 4, 3), size, &plain),
                of(Change::ThereAtEnd)
            );
            assert!(
                decode(id(THREAD, 4, 4), size, &plain).is_err(),
                "version 4 has a name"
            );
            let named = payload(&[&plain, &utf16("waiter")]);
            for version in [3, 4] {
                let Ok(Payload::Thread(Change::End, thread)) =
                    decode(id(THREAD, 2, version), size, &named)
                else {
                    panic!("it is the end of a thread")
                };
                assert_eq!(
                    (thread.tid, thread.name.to_string().as_str()),
                    (4, "waiter")
                );
            }
        }
        let swapped = decode(id(THREAD, 1, 0), 4, &[4, 0, 0, 0, 3, 0, 0, 0]);
        let thread = Thread {
            pid: 3,
            tid: 4,
            ..Thread::default()
        };
        assert_eq!(swapped, Ok(Payload::Thread(Change::Start, thread)));
    }

    /// Of version 3, with and without an identifier of a user.
    fn process(size: usize, user: &[u8]) -> Vec<u8> {
        payload(&[
            &pointers(&[0x1234], size),
            &[8, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 3, 1, 0, 0],
            &pointers(&[0x99], size),
            user,
            b"shop.exe\0",
            &utf16("\"shop.exe\" --secret"),
        ])
    }

    #[test]
    fn processes_and_their_users() {
        let sid = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
        for size in [4, 8] {
            let users = [
                (payload(&[&pointers(&[0xffff, 0], size), &sid]), "S-1-5-18"),
                (payload(&[&pointers(&[0, 0], size), &sid]), "S-1-5-18"),
                (vec![0; 4], ""),
            ];
            for (user, name) in users {
                let payload = process(size, &user);
                let decoded = decode(id(PROCESS, 1, 3), size as u8, &payload);
                let Ok(Payload::Process(Change::Start, process)) = decoded else {
                    panic!("{decoded:?}")
                };
                assert_eq!(
                    (process.pid, process.parent, process.exit_status),
                    (8, 7, 259)
                );
                assert_eq!(
                    (process.key, process.image.to_string().as_str()),
                    (0x1234, "shop.exe")
                );
                assert_eq!(
                    process
                        .user
                        .map(|user| user.to_string())
                        .unwrap_or_default(),
                    name
                );
            }
        }
    }

    /// Recordings hold such, written by 32-bit programs. The pid would be half a pointer.
    #[test]
    fn pointers_of_another_size_are_noticed() {
        let sid = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
        for pointer in [0, 0xffff] {
            let user = payload(&[&pointers(&[pointer, 0], 8), &sid]);
            let process = process(8, &user);
            let decoded = decode(id(PROCESS, 1, 3), 4, &process);
            assert!(
                matches!(
                    decoded,
                    Err(Undecoded::Long { .. } | Undecoded::Short { .. })
                ),
                "{decoded:?}"
            );
        }
    }

    #[test]
    fn memory() {
        for size in [4, 8] {
            let region = payload(&[
                &pointers(&[0x3b_4000, 0x6000], size),
                &[4, 24, 0, 0, 0, 0x30, 0, 0],
            ]);
            let expected = Region {
                pid: 0x1804,
                base: 0x3b_4000,
                bytes: 0x6000,
                flags: Region::COMMIT | Region::RESERVE,
                committed: 0,
            };
            let size = size as u8;
            assert_eq!(
                decode(id(MEMORY, 98, 2), size, &region),
                Ok(Payload::Allocated(expected))
            );
            assert_eq!(
                decode(id(MEMORY, 99, 2), size, &region),
                Ok(Payload::Freed(expected))
            );
            let rundown = payload(&[&region, &pointers(&[0x2000], size.into())]);
            let expected = Region {
                committed: 0x2000,
                ..expected
            };
            assert_eq!(
                decode(id(MEMORY, 129, 2), size, &rundown),
                Ok(Payload::Rundown(expected))
            );
        }
        let fault = [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[0; 8]].concat();
        let expected = Fault {
            kind: 11,
            address: 0x0807_0605_0403_0201,
        };
        assert_eq!(
            decode(id(MEMORY, 11, 2), 8, &fault),
            Ok(Payload::Fault(expected))
        );
    }

    #[test]
    fn others() {
        let service = payload(&[
            &[5, 0, 0, 0, 4, 0, 0, 0, 17, 0, 0, 0],
            &utf16("Dnscache"),
            &utf16("DNS Client"),
            &utf16("svchost.exe"),
            &utf16(""),
            &utf16("NetworkService"),
        ]);
        let Ok(Payload::Service(service)) = decode(id(SYSTEM, 15, 3), 8, &service) else {
            panic!("it is a service")
        };
        assert_eq!((service.pid, service.state, service.tag), (5, 4, 17));
        assert!(service.name.is_like("dnscache"));
        assert_eq!(
            decode(id(LOST, 33, 1), 8, &[]),
            Ok(Payload::Lost(Lost::Buffer))
        );
        assert_eq!(decode(id(THREAD, 48, 3), 8, &[0; 8]), Ok(Payload::Other));
        for foreign in [id(THREAD, 37, 2), id(0x14, 10, 2), id(HEADER, 8, 2)] {
            assert_eq!(decode(foreign, 8, &[0; 8]), Err(Undecoded::Foreign));
        }
        let masks: Vec<u8> = (1..=9_u32).flat_map(u32::to_le_bytes).collect();
        let enabled = Enabled {
            masks: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        assert_eq!(
            decode(id(HEADER, 5, 2), 8, &masks),
            Ok(Payload::Enabled(enabled))
        );
    }

    /// Whatever is in them, and wherever they end.
    #[test]
    fn no_payload_is_too_strange() {
        let mut random = 1_u64;
        let mut next = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as u8
        };
        for _ in 0..200 {
            let zeros = next() % 4;
            let payload: Vec<u8> = (0..200)
                .map(|_| if next() % 4 < zeros { 0 } else { next() })
                .collect();
            for layout in super::super::layout::LAYOUTS {
                for length in [0, 1, 8, 35, 72, 199, 200] {
                    for size in [4, 8] {
                        let id = id(layout.group, layout.opcodes[0], *layout.versions.start());
                        let _ = decode(id, size, &payload[..length]);
                    }
                }
            }
        }
    }
}
