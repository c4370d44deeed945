//! Stand-ins for the calls of Windows that sessions are made of. The linker takes them instead of the system's, so that ferrisetw and all that
//! is ours run as they do on Windows, with events that a test hands in. It proves our side of it, not Windows's.

pub mod shop;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slowburn_probes::etw::{Class, Guid, Recording, guid::group};
use windows::{
    Win32::{
        Foundation::{SetLastError, WIN32_ERROR},
        System::Diagnostics::Etw::{
            EVENT_RECORD, EVENT_TRACE_LOGFILEW, EVENT_TRACE_PROPERTIES, PEVENT_RECORD_CALLBACK,
        },
    },
    core::GUID,
};

const SUCCESS: u32 = 0;
const ACCESS_DENIED: u32 = 5;
const ALREADY_EXISTS: u32 = 183;
const NO_RESOURCES: u32 = 1_450;
const NOT_FOUND: u32 = 4_201;

/// Sessions that this Windows has room for.
const MOST_SESSIONS: usize = 8;

/// An event as it is handed to the callback.
#[derive(Clone, Debug)]
pub struct FakeEvent {
    /// Class.
    pub guid: Guid,
    /// Event within it.
    pub opcode: u8,
    /// Version of it.
    pub version: u8,
    /// In units of 100 ns since 1601.
    pub filetime: i64,
    /// Processor.
    pub cpu: u16,
    /// Process id and thread id.
    pub thread: Option<(u32, u32)>,
    /// Size of a pointer.
    pub pointer_size: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

/// A session.
#[derive(Debug, Default)]
struct Session {
    id: u64,
    /// What it was started with.
    started_with: Settings,
    events: VecDeque<FakeEvent>,
    lost: (u32, u32),
    /// It was stopped; who reads it gets what is left.
    is_stopped: bool,
    is_closed: bool,
    consumer: Option<Consumer>,
}

/// What a session was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is enabled.
    pub flags: u32,
    /// How events are delivered.
    pub mode: u32,
    /// Buffers: size in KiB, how many at least, and at most.
    pub buffers: (u32, u32, u32),
    /// In seconds.
    pub flush: u32,
}

#[derive(Clone, Copy, Debug)]
struct Consumer {
    callback: PEVENT_RECORD_CALLBACK,
    context: usize,
}

#[derive(Debug, Default)]
struct System {
    sessions: BTreeMap<String, Session>,
    /// Ended ones, until their readers have returned.
    ending: Vec<Session>,
    next_id: u64,
    is_forbidden: bool,
    cannot_open: bool,
    flushes: u32,
}

static SYSTEM: Mutex<Option<System>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// The one system of this program: tests that use it run one at a time.
pub struct Fake {
    _only: MutexGuard<'static, ()>,
}

fn with<T>(look: impl FnOnce(&mut System) -> T) -> T {
    let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    let result = look(system.get_or_insert_default());
    CHANGED.notify_all();
    result
}

#[expect(clippy::unused_self, reason = "only who has the one system may")]
impl Fake {
    /// A system without sessions.
    pub fn new() -> Self {
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        with(|system| *system = System::default());
        Self { _only: only }
    }

    /// Starts a session as another program would.
    pub fn leave_behind(&self, name: &str) {
        with(|system| {
            system.next_id += 1;
            let session = Session {
                id: system.next_id,
                ..Session::default()
            };
            system.sessions.insert(name.into(), session);
        });
    }

    /// Names of the sessions.
    pub fn sessions(&self) -> Vec<String> {
        with(|system| system.sessions.keys().cloned().collect())
    }

    /// From now on nobody may start a session.
    pub fn forbid(&self) {
        with(|system| system.is_forbidden = true);
    }

    /// From now on no session can be read.
    pub fn close_for_readers(&self) {
        with(|system| system.cannot_open = true);
    }

    /// What a session was started with.
    pub fn settings(&self, name: &str) -> Settings {
        with(|system| system.sessions[name].started_with)
    }

    /// How often any was flushed.
    pub fn flushes(&self) -> u32 {
        with(|system| system.flushes)
    }

    /// Something happens on the host.
    pub fn send(&self, name: &str, events: impl IntoIterator<Item = FakeEvent>) {
        with(|system| {
            let session = system.sessions.get_mut(name).expect("it was started");
            session.events.extend(events);
        });
    }

    /// A session loses events, and buffers.
    pub fn lose(&self, name: &str, events: u32, buffers: u32) {
        with(|system| {
            let session = system.sessions.get_mut(name).expect("it was started");
            session.lost.0 += events;
            session.lost.1 += buffers;
        });
    }

    /// Another program ends a session.
    pub fn end(&self, name: &str) {
        with(|system| assert!(stop(system, name), "it was started"));
    }

    /// Waits until all that was sent has been handed to the callback.
    pub fn delivered(&self, name: &str) {
        for _ in 0..1_000 {
            if with(|system| system.sessions[name].events.is_empty()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody takes the events");
    }
}

/// The kernel's events of a recording, as a live session has them.
pub fn of_recording(path: &Path) -> Vec<FakeEvent> {
    let file = File::open(path).expect("the recording is there");
    let mut recording = Recording::open(file).expect("it is one");
    let clock = recording.about().clock.expect("its clock is known");
    let mut events = Vec::new();
    while let Some(event) = recording.next_event().expect("it can be read") {
        let (Class::System {
            group,
            opcode,
            version,
        }
        | Class::Performance {
            group,
            opcode,
            version,
        }) = event.header.class
        else {
            continue;
        };
        let known = group::ALL.iter().find(|(number, _)| *number == group);
        let Some((_, guid)) = known.filter(|_| group != group::HEADER) else {
            continue;
        };
        events.push(FakeEvent {
            guid: *guid,
            opcode,
            version,
            filetime: (clock.ns(event.time) / 100 + 116_444_736_000_000_000) as i64,
            cpu: event.cpu,
            thread: event.header.thread,
            pointer_size: event.header.pointer_size,
            payload: event.payload.to_vec(),
        });
    }
    events
}

fn stop(system: &mut System, name: &str) -> bool {
    let Some(mut session) = system.sessions.remove(name) else {
        return false;
    };
    session.is_stopped = true;
    system.ending.push(session);
    true
}

impl System {
    fn by_id(&mut self, id: u64) -> Option<&mut Session> {
        let all = self.sessions.values_mut().chain(&mut self.ending);
        all.into_iter().find(|session| session.id == id)
    }
}

/// # Safety
/// A name ends with a zero.
unsafe fn text(name: *const u16) -> String {
    let mut length = 0;
    // SAFETY: as the caller promises.
    unsafe {
        while *name.add(length) != 0 {
            length += 1;
        }
        String::from_utf16_lossy(std::slice::from_raw_parts(name, length))
    }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn StartTraceW(
    handle: *mut u64,
    name: *const u16,
    properties: *mut EVENT_TRACE_PROPERTIES,
) -> u32 {
    // SAFETY: the caller is ferrisetw, which passes what it owns.
    let (name, properties) = unsafe { (text(name), &*properties) };
    with(|system| {
        if system.is_forbidden {
            return ACCESS_DENIED;
        }
        if system.sessions.contains_key(&name) {
            return ALREADY_EXISTS;
        }
        if system.sessions.len() >= MOST_SESSIONS {
            return NO_RESOURCES;
        }
        system.next_id += 1;
        let session = Session {
            id: system.next_id,
            started_with: Settings {
                flags: properties.EnableFlags.0,
                mode: properties.LogFileMode,
                buffers: (
                    properties.BufferSize,
                    properties.MinimumBuffers,
                    properties.MaximumBuffers,
                ),
                flush: properties.FlushTimer,
            },
            ..Session::default()
        };
        system.sessions.insert(name, session);
        // SAFETY: as above.
        unsafe { *handle = system.next_id };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn ControlTraceW(
    handle: u64,
    name: *const u16,
    properties: *mut EVENT_TRACE_PROPERTIES,
    control: u32,
) -> u32 {
    const QUERY: u32 = 0;
    const STOP: u32 = 1;
    const FLUSH: u32 = 3;
    with(|system| {
        let by_id = |system: &System| {
            let found = system.sessions.iter().find(|(_, one)| one.id == handle);
            found.map(|(name, _)| name.clone())
        };
        let name = if name.is_null() {
            by_id(system)
        } else {
            // SAFETY: whoever calls passes a name that ends with a zero.
            Some(unsafe { text(name) })
        };
        let Some(name) = name.filter(|name| system.sessions.contains_key(name)) else {
            return NOT_FOUND;
        };
        match control {
            QUERY => {
                // SAFETY: whoever calls passes properties of its own.
                let properties = unsafe { &mut *properties };
                let session = &system.sessions[&name];
                (properties.EventsLost, properties.RealTimeBuffersLost) = session.lost;
            }
            STOP => {
                stop(system, &name);
            }
            FLUSH => system.flushes += 1,
            other => panic!("nobody is to ask for {other}"),
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn OpenTraceW(file: *mut EVENT_TRACE_LOGFILEW) -> u64 {
    // SAFETY: the caller is ferrisetw, which passes what it owns.
    let (name, consumer) = unsafe {
        let consumer = Consumer {
            callback: (*file).Anonymous2.EventRecordCallback,
            context: (*file).Context as usize,
        };
        (text((*file).LoggerName.0), consumer)
    };
    with(|system| {
        let is_closed = system.cannot_open;
        if let Some(session) = system.sessions.get_mut(&name).filter(|_| !is_closed) {
            session.consumer = Some(consumer);
            session.id
        } else {
            // SAFETY: sets a number of this thread's.
            unsafe { SetLastError(WIN32_ERROR(ACCESS_DENIED)) };
            u64::MAX
        }
    })
}

/// Events that are handed over between two looks at whether the session goes on.
const BATCH: usize = 1_024;

#[unsafe(no_mangle)]
unsafe extern "system" fn ProcessTrace(
    handles: *const u64,
    count: u32,
    _start: *const u64,
    _end: *const u64,
) -> u32 {
    assert_eq!(count, 1, "there is one session");
    // SAFETY: there is one, as the count says.
    let id = unsafe { *handles };
    loop {
        let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, consumer) = loop {
            let all = system.get_or_insert_default();
            let Some(session) = all.by_id(id) else {
                return NOT_FOUND;
            };
            if session.is_closed || (session.is_stopped && session.events.is_empty()) {
                all.ending.retain(|session| session.id != id);
                return SUCCESS;
            }
            if !session.events.is_empty() {
                let most = session.events.len().min(BATCH);
                let batch: Vec<_> = session.events.drain(..most).collect();
                break (batch, session.consumer.expect("it was opened"));
            }
            let waited = CHANGED.wait_timeout(system, Duration::from_millis(100));
            system = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(system);
        for event in &batch {
            deliver(event, consumer);
        }
    }
}

fn deliver(event: &FakeEvent, consumer: Consumer) {
    const IS_32_BIT: u16 = 0x20;
    const IS_64_BIT: u16 = 0x40;
    let mut record = EVENT_RECORD::default();
    let header = &mut record.EventHeader;
    header.ProviderId = GUID::from_u128(in_order(&event.guid));
    header.EventDescriptor.Opcode = event.opcode;
    header.EventDescriptor.Version = event.version;
    header.TimeStamp = event.filetime;
    (header.ProcessId, header.ThreadId) = event.thread.unwrap_or((u32::MAX, u32::MAX));
    header.Flags = if event.pointer_size == 4 {
        IS_32_BIT
    } else {
        IS_64_BIT
    };
    record.BufferContext.Anonymous.ProcessorIndex = event.cpu;
    // A copy at an odd address, which is as much as Windows promises.
    let mut copy = vec![0];
    copy.extend_from_slice(&event.payload);
    record.UserData = copy[1..].as_mut_ptr().cast();
    record.UserDataLength = event.payload.len() as u16;
    record.UserContext = consumer.context as *mut _;
    let callback = consumer.callback.expect("ferrisetw has one");
    // SAFETY: the record and its payload live until the callback returns.
    unsafe { callback(&raw mut record) };
}

/// A GUID as the number that it is written as.
fn in_order(guid: &Guid) -> u128 {
    let text: String = guid.to_string().replace('-', "");
    u128::from_str_radix(&text, 16).expect("it is hexadecimal")
}

#[unsafe(no_mangle)]
unsafe extern "system" fn CloseTrace(handle: u64) -> u32 {
    with(|system| {
        if let Some(session) = system.by_id(handle) {
            session.is_closed = true;
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn QueryAllTracesW(
    properties: *mut *mut EVENT_TRACE_PROPERTIES,
    room: u32,
    count: *mut u32,
) -> u32 {
    with(|system| {
        let all = system.sessions.iter().take(room as usize);
        for (index, (name, session)) in all.enumerate() {
            // SAFETY: whoever calls passes so many pointers, each to properties that have room for a name where they say.
            unsafe {
                let one = *properties.add(index);
                (*one).EnableFlags.0 = session.started_with.flags;
                (*one).EventsLost = session.lost.0;
                let at = one.byte_add((*one).LoggerNameOffset as usize).cast::<u16>();
                for (place, unit) in name.encode_utf16().chain([0]).enumerate() {
                    *at.add(place) = unit;
                }
            }
        }
        // SAFETY: as above.
        unsafe { *count = system.sessions.len() as u32 };
        SUCCESS
    })
}
