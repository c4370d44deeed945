//! Our session: one with a name of its own, so that what a crash has left behind is found and ended.

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use ferrisetw::{
    EventRecord, SchemaLocator,
    provider::{Provider, kernel_providers::KernelProvider},
    trace::{KernelTrace, LoggingMode, TraceProperties, TraceTrait},
};
use windows::{
    Win32::{
        Foundation::{
            CloseHandle, ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, GetLastError, HANDLE,
        },
        System::Threading::CreateMutexW,
    },
    core::{PCWSTR, w},
};

use super::{
    control::{self, SessionLosses},
    error::SourceError,
    record::{system_guid, with_arrival},
};
use crate::etw::{
    guid::group::{LOST, MEMORY, PROCESS, THREAD},
    queue::Queue,
};

/// Name of the session. There is one of slowburn's on a host.
pub const SESSION: &str = "slowburn";

/// What is enabled, by the class that it comes under. One provider for each: ferrisetw hands an event to all that have its class.
const ENABLED: [(u8, u32); 4] = [
    (PROCESS, 0x1),
    // Threads, switches, wake-ups.
    (THREAD, 0x2 | 0x10 | 0x800),
    // Allocations.
    (MEMORY, 0x4000),
    (LOST, 0),
];

/// Size of a buffer in KiB. A processor that switches 100,000 times a second fills one in 0.06 s.
const BUFFER_KIB: u32 = 256;
/// Buffers of each processor, at first and at most.
const LEAST_BUFFERS: u32 = 4;
const MOST_BUFFERS: u32 = 32;
/// Most memory for buffers altogether, in KiB. They are not pageable.
const MOST_KIB: u32 = 512 << 10;
/// How long an event waits at most for its buffer to be handed over.
const FLUSH: Duration = Duration::from_secs(1);

/// Is there a session of ours that a panic would leave behind?
static STARTED: AtomicBool = AtomicBool::new(false);

/// Held by the slowburn that has the session, so that another one does not take it for what a crash has left.
const MUTEX: PCWSTR = w!(r"Global\slowburn-session");

/// The mutex, as long as it is ours.
struct Only(HANDLE);

impl Only {
    fn take() -> Result<Self, SourceError> {
        // SAFETY: the name is a constant that ends with a zero.
        match unsafe { CreateMutexW(None, true, MUTEX) } {
            Ok(mutex) => {
                // SAFETY: nothing was called since that could have changed it.
                let is_taken = unsafe { GetLastError() } == ERROR_ALREADY_EXISTS;
                let only = Self(mutex);
                if is_taken {
                    Err(SourceError::Second)
                } else {
                    Ok(only)
                }
            }
            // Made by somebody with other rights.
            Err(error) if error.code() == ERROR_ACCESS_DENIED.to_hresult() => {
                Err(SourceError::Second)
            }
            Err(error) => Err(SourceError::Mutex(error.into())),
        }
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and is not used after this.
        if let Err(error) = unsafe { CloseHandle(self.0) } {
            tracing::debug!("cannot close a mutex: {error}");
        }
    }
}

/// A running session.
pub struct Session {
    trace: Option<KernelTrace>,
    reader: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    lost: SessionLosses,
    _only: Only,
}

impl Session {
    /// Starts it. What is left of one that was not stopped is ended before; returns whether there was one.
    pub fn start(queue: &Queue, cpus: u32) -> Result<(Self, bool), SourceError> {
        let only = Only::take()?;
        let was_stale = control::stop(SESSION)?;
        stop_on_panic();
        let mut builder = KernelTrace::new()
            .named(SESSION.into())
            .set_trace_properties(properties(cpus));
        for (group, flags) in ENABLED {
            builder = builder.enable(provider(group, flags, queue.clone()));
        }
        STARTED.store(true, Ordering::SeqCst);
        let started = builder.start().map_err(|error| {
            // It may have been started and not been opened.
            let error = SourceError::library("start", error);
            let _ = control::stop(SESSION);
            STARTED.store(false, Ordering::SeqCst);
            error
        });
        let (trace, handle) = started?;
        let ended = Arc::new(AtomicBool::new(false));
        let mut session = Self {
            trace: Some(trace),
            reader: None,
            ended: Arc::clone(&ended),
            lost: SessionLosses::default(),
            _only: only,
        };
        let reader = Builder::new().name("slowburn-etw".into()).spawn(move || {
            if let Err(error) = KernelTrace::process_from_handle(handle) {
                let error = SourceError::library("read", error);
                tracing::error!("{error}");
            }
            ended.store(true, Ordering::SeqCst);
        });
        session.reader = Some(reader.map_err(SourceError::Thread)?);
        Ok((session, was_stale))
    }

    /// Events that were lost since the last call. A lost buffer counts as one: nobody knows what was in it.
    pub fn take_lost(&mut self) -> Result<u64, SourceError> {
        let now = control::losses(SESSION)?;
        let before = std::mem::replace(&mut self.lost, now);
        let since = |now: u32, before: u32| u64::from(now.wrapping_sub(before));
        Ok(since(now.events, before.events) + since(now.buffers, before.buffers))
    }

    /// Has somebody else ended it?
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends it. When this returns, all its events are in the queue.
    pub fn stop(&mut self) {
        let Some(trace) = self.trace.take() else {
            return;
        };
        // This first: once ferrisetw has closed its end, it drops what is still on its way.
        let stopped = control::stop(SESSION);
        STARTED.store(false, Ordering::SeqCst);
        match stopped {
            Ok(_) => {
                if self
                    .reader
                    .take()
                    .is_some_and(|reader| reader.join().is_err())
                {
                    tracing::error!("the thread that reads the session's events has panicked");
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
        drop(trace);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

fn properties(cpus: u32) -> TraceProperties {
    let most = MOST_KIB / BUFFER_KIB;
    TraceProperties {
        buffer_size: BUFFER_KIB,
        min_buffer: (cpus * LEAST_BUFFERS).min(most),
        max_buffer: (cpus * MOST_BUFFERS).min(most),
        flush_timer: FLUSH,
        // Without the default's NO_PER_PROCESSOR_BUFFERING, which has all processors wait for one buffer.
        log_file_mode: LoggingMode::EVENT_TRACE_REAL_TIME_MODE,
    }
}

fn provider(group: u8, flags: u32, queue: Queue) -> Provider {
    let provider = KernelProvider::new(system_guid(group), flags);
    let copy = move |record: &EventRecord, _: &SchemaLocator| {
        with_arrival(record, |arrival| queue.push(arrival));
    };
    Provider::kernel(&provider).add_callback(copy).build()
}

/// A session outlives its program. Whatever thread panics, ours is ended first.
fn stop_on_panic() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            stop_if_started();
            before(panic);
        }));
    });
}

/// Ends the session if there is one. For those who end the program without unwinding.
pub fn stop_if_started() {
    if STARTED.swap(false, Ordering::SeqCst) {
        let _ = control::stop(SESSION);
    }
}
