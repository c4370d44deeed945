//! Sessions as the system knows them: asked, flushed and ended by name.

use std::mem::offset_of;

use serde::Serialize;
use windows::{
    Win32::System::Diagnostics::Etw::{
        CONTROLTRACE_HANDLE, ControlTraceW, EVENT_TRACE_CONTROL, EVENT_TRACE_CONTROL_FLUSH,
        EVENT_TRACE_CONTROL_QUERY, EVENT_TRACE_CONTROL_STOP, EVENT_TRACE_PROPERTIES,
        QueryAllTracesW,
    },
    core::{HSTRING, PCWSTR},
};

use super::error::SourceError;

/// Longest name of a session or a file, in characters, the end included: what the documentation says.
const LONGEST: usize = 1_024;

/// Most sessions that Windows has: 64, and a registry value may say more, up to 256.
const MOST_SESSIONS: usize = 256;

/// Codes of the system.
const SUCCESS: u32 = 0;
const NOT_FOUND: u32 = 4_201;
const MORE_DATA: u32 = 234;

/// What `EVENT_TRACE_PROPERTIES` must be followed by: room for two names.
#[repr(C)]
#[derive(Clone)]
struct Properties {
    head: EVENT_TRACE_PROPERTIES,
    name: [u16; LONGEST],
    file: [u16; LONGEST],
}

impl Properties {
    fn new() -> Box<Self> {
        let mut head = EVENT_TRACE_PROPERTIES::default();
        head.Wnode.BufferSize = size_of::<Self>() as u32;
        head.LoggerNameOffset = offset_of!(Self, name) as u32;
        head.LogFileNameOffset = offset_of!(Self, file) as u32;
        Box::new(Self {
            head,
            name: [0; LONGEST],
            file: [0; LONGEST],
        })
    }
}

/// A session that somebody has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionInUse {
    /// Its name.
    pub name: String,
    /// Whether it records what the kernel does: there may be eight of these.
    pub of_kernel: bool,
    /// Memory of its buffers in KiB.
    pub buffers_kib: u64,
    /// Events that it has lost.
    pub events_lost: u32,
}

/// What a session has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionLosses {
    /// Events that found no room in any buffer.
    pub events: u32,
    /// Buffers that were not read in time.
    pub buffers: u32,
}

fn control(name: &str, what: EVENT_TRACE_CONTROL) -> Result<Box<Properties>, u32> {
    let mut properties = Properties::new();
    let name = HSTRING::from(name);
    // SAFETY: the name ends with a zero and lives until the call returns; the properties have the size that they say, and the offsets
    // of both names lie within.
    let code = unsafe {
        ControlTraceW(
            CONTROLTRACE_HANDLE::default(),
            PCWSTR(name.as_ptr()),
            &raw mut properties.head,
            what,
        )
    };
    if code.0 == SUCCESS || code.0 == MORE_DATA {
        Ok(properties)
    } else {
        Err(code.0)
    }
}

/// Ends a session. False if there is none of that name.
pub fn stop(name: &str) -> Result<bool, SourceError> {
    match control(name, EVENT_TRACE_CONTROL_STOP) {
        Ok(_) => Ok(true),
        Err(NOT_FOUND) => Ok(false),
        Err(code) => Err(SourceError::system("end", code)),
    }
}

/// Has a session hand over what is in its buffers.
pub fn flush(name: &str) -> Result<(), SourceError> {
    control(name, EVENT_TRACE_CONTROL_FLUSH)
        .map(drop)
        .map_err(|code| SourceError::system("flush", code))
}

/// What a session has lost since it was started.
pub fn losses(name: &str) -> Result<SessionLosses, SourceError> {
    let properties = control(name, EVENT_TRACE_CONTROL_QUERY)
        .map_err(|code| SourceError::system("query", code))?;
    Ok(SessionLosses {
        events: properties.head.EventsLost,
        buffers: properties.head.RealTimeBuffersLost,
    })
}

/// All sessions of the host.
///
/// # Errors
/// If the system does not say.
pub fn sessions() -> Result<Vec<SessionInUse>, SourceError> {
    let mut all: Vec<_> = (0..MOST_SESSIONS).map(|_| Properties::new()).collect();
    let mut pointers: Vec<*mut EVENT_TRACE_PROPERTIES> =
        all.iter_mut().map(|one| &raw mut one.head).collect();
    let mut count = 0;
    // SAFETY: each pointer is to properties that have the size they say and live until the call returns.
    let code = unsafe { QueryAllTracesW(&mut pointers, &raw mut count) };
    if code.0 != SUCCESS && code.0 != MORE_DATA {
        return Err(SourceError::system("list", code.0));
    }
    all.truncate(count as usize);
    Ok(all.iter().map(|one| in_use(one)).collect())
}

fn in_use(properties: &Properties) -> SessionInUse {
    // EVENT_TRACE_SYSTEM_LOGGER_MODE
    const OF_KERNEL: u32 = 0x0200_0000;
    let length = properties.name.iter().position(|unit| *unit == 0);
    let name = &properties.name[..length.unwrap_or(LONGEST)];
    let head = &properties.head;
    SessionInUse {
        name: String::from_utf16_lossy(name),
        of_kernel: head.LogFileMode & OF_KERNEL != 0 || head.EnableFlags.0 != 0,
        buffers_kib: u64::from(head.BufferSize) * u64::from(head.NumberOfBuffers),
        events_lost: head.EventsLost,
    }
}
