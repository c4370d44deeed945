//! What the detector takes from a window.

use super::{
    channel::{Channel, NO_RATE},
    waits::{Reader, WaitStatistics, Waits},
};
use crate::stream::{KernelSummary, Metric, Moment, Window};

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
    /// The most that there may be of each.
    pub limits: Limits,
}

/// The most that there may be. Not a number where none is known.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Committed memory: what of the address space may still be added to it, and the machine has.
    pub committed: f64,
    /// Address space.
    pub reserved: f64,
    /// Resident memory: of the cgroup, or of the machine.
    pub resident: f64,
    /// Threads.
    pub threads: f64,
    /// Open file descriptors.
    pub descriptors: f64,
}

impl Limits {
    /// None is known.
    pub const UNKNOWN: Self = Self {
        committed: f64::NAN,
        reserved: f64::NAN,
        resident: f64::NAN,
        threads: f64::NAN,
        descriptors: f64::NAN,
    };

    /// Of a process that has so much committed and reserved.
    fn of(kernel: &KernelSummary, committed: f64, reserved: f64) -> Self {
        let machine = gauge(kernel.host_memory_bytes);
        let address_space = gauge(kernel.address_space_limit_bytes);
        Self {
            // What is committed grows within the address space, of which it is a part.
            committed: (address_space - (reserved - committed).max(0.0)).min(machine),
            reserved: address_space,
            resident: gauge(kernel.memory_limit_bytes).min(machine),
            threads: gauge(kernel.tasks_limit),
            descriptors: gauge(kernel.fds_limit),
        }
    }
}

impl Reading {
    /// Of a window; `None` for one without a period.
    pub fn of(window: &Window, reader: &mut Reader) -> Option<Self> {
        if window.period_ns == 0 {
            return None;
        }
        let seconds = window.period_ns as f64 / 1e9;
        let (memory, kernel) = (&window.memory, &window.kernel);
        let committed = gauge(memory.standing_committed_bytes.or(kernel.data_bytes));
        let reserved = gauge(memory.standing_reserved_bytes.or(kernel.vm_bytes));
        let waits = waits(window, reader);
        let statistics = waits.as_ref().map(Waits::statistics);
        let threads = window
            .threads
            .as_ref()
            .map(|threads| threads.live)
            .or(kernel.threads);
        Some(Self {
            ts: window.ts,
            seconds,
            committed,
            reserved,
            resident: gauge(kernel.own_rss_bytes()),
            threads: gauge(threads),
            descriptors: gauge(kernel.fds),
            mapped: mapped(mapped_bytes(window), seconds),
            created: window.threads.as_ref().map(|threads| threads.created),
            switches: statistics.map(|waits| waits.count).or(kernel.run_count),
            statistics,
            waits,
            cpu_ns: kernel.cpu_ns,
            limits: Limits::of(kernel, committed, reserved),
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
            limits: Limits::UNKNOWN,
        }
    }
}

impl Reading {
    /// The value of a metric, in its unit; not a number if there is none, or for the metric of earlier versions. Of the two
    /// shares of long waits, that of those 8 times as long as the median.
    pub fn value(&self, metric: Metric) -> f64 {
        let waits = |of: fn(&WaitStatistics) -> f64| self.statistics.as_ref().map_or(f64::NAN, of);
        match metric {
            Metric::CommittedBytes => self.committed,
            Metric::ReservedBytes => self.reserved,
            Metric::RssBytes => self.resident,
            Metric::ThreadsLive => self.threads,
            Metric::Fds => self.descriptors,
            Metric::MappedRate => Channel::Mapped.unit(self.mapped),
            Metric::CreationRate => self
                .created
                .map_or(f64::NAN, |created| created as f64 / self.seconds),
            Metric::Delay => waits(|waits| waits.typical.exp()),
            Metric::DelayTail => waits(|waits| waits.beyond_8.exp()),
            Metric::DelayP99 => f64::NAN,
        }
    }
}

fn gauge(value: Option<u64>) -> f64 {
    value.map_or(f64::NAN, |value| value as f64)
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
