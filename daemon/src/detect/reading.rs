//! What the detector takes from a window.

use super::{
    channel::NO_RATE,
    waits::{Reader, WaitStatistics, Waits},
};
use crate::stream::{Moment, Window};

/// Values of a window, or of the windows of like-named threads. Not a number where there is none.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it ended.
    pub ts: Moment,
    /// How long it was.
    pub seconds: f64,
    /// Private writable address space.
    pub committed: f64,
    /// Address space.
    pub reserved: f64,
    /// Resident memory.
    pub resident: f64,
    /// Live threads.
    pub threads: f64,
    /// Open file descriptors.
    pub descriptors: f64,
    /// Logarithm of the bytes mapped a second.
    pub mapped: f64,
    /// Threads created.
    pub created: Option<u64>,
    /// Waits for a CPU; `None` if they cannot be read.
    pub waits: Option<Waits>,
    /// Statistics of these.
    pub statistics: Option<WaitStatistics>,
    /// How often it got a CPU.
    pub switches: Option<u64>,
    /// CPU time used, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Most memory that it may use, if that is known.
    pub memory_limit: Option<f64>,
    /// Most threads, likewise.
    pub tasks_limit: Option<f64>,
}

impl Reading {
    /// Of a window; `None` for one without a period.
    pub fn of(window: &Window, reader: &mut Reader) -> Option<Self> {
        if window.period_ns == 0 {
            return None;
        }
        let seconds = window.period_ns as f64 / 1e9;
        let (memory, kernel) = (&window.memory, &window.kernel);
        let gauge = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
        let waits = waits(window, reader);
        let statistics = waits.as_ref().map(Waits::statistics);
        let threads = window
            .threads
            .map(|threads| threads.live)
            .or(kernel.threads);
        Some(Self {
            ts: window.ts,
            seconds,
            committed: gauge(memory.standing_committed_bytes.or(kernel.data_bytes)),
            reserved: gauge(memory.standing_reserved_bytes.or(kernel.vm_bytes)),
            resident: gauge(kernel.rss_bytes),
            threads: gauge(threads),
            descriptors: gauge(kernel.fds),
            mapped: mapped(mapped_bytes(window), seconds),
            created: window.threads.map(|threads| threads.created),
            switches: statistics.map(|waits| waits.count).or(kernel.run_count),
            statistics,
            waits,
            cpu_ns: kernel.cpu_ns,
            memory_limit: kernel.memory_limit_bytes.map(|bytes| bytes as f64),
            tasks_limit: kernel.tasks_limit.map(|tasks| tasks as f64),
        })
    }

    /// Of like-named threads, which have waits and calls only.
    pub fn of_threads(
        ts: Moment,
        seconds: f64,
        mapped_bytes: Option<u64>,
        waits: Option<Waits>,
    ) -> Self {
        let statistics = waits.as_ref().map(Waits::statistics);
        Self {
            ts,
            seconds,
            committed: f64::NAN,
            reserved: f64::NAN,
            resident: f64::NAN,
            threads: f64::NAN,
            descriptors: f64::NAN,
            mapped: mapped(mapped_bytes, seconds),
            created: None,
            switches: statistics.map(|waits| waits.count),
            statistics,
            waits,
            cpu_ns: None,
            memory_limit: None,
            tasks_limit: None,
        }
    }
}

/// Its waits; `None` if they were not measured for all of it, or cannot be read.
pub fn waits(window: &Window, reader: &mut Reader) -> Option<Waits> {
    let delay = window.delay.as_ref()?;
    if delay.unmeasured_ns.is_some() {
        return None;
    }
    let mut waits = Waits::default();
    reader.add(delay, &mut waits)?;
    Some(waits)
}

/// What it mapped; `None` where not each call was looked at: what was mapped and given back again is missing then.
pub fn mapped_bytes(window: &Window) -> Option<u64> {
    let memory = &window.memory;
    let whole = memory.unmeasured_ns.is_none() && memory.sampled.is_none();
    whole.then_some(memory.reserved_bytes)
}

fn mapped(bytes: Option<u64>, seconds: f64) -> f64 {
    bytes.map_or(f64::NAN, |bytes| (bytes as f64 / seconds + NO_RATE).ln())
}
