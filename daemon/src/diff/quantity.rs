//! What is compared besides the histogram of waits, and how it is taken from windows.

use serde::Serialize;

use crate::stream::{Scope, Window};

/// A number that each window has: a count, which becomes a rate, or a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Time spent waiting for a CPU, over all threads.
    Waited,
    /// How often a CPU was got.
    Switches,
    /// CPU time used.
    Cpu,
    /// Address space mapped.
    Mapped,
    /// `mmap` calls.
    MapCalls,
    /// Threads created.
    Created,
    /// Time held back by a CPU quota.
    Throttled,
    /// Time the hypervisor ran something else, over all CPUs of the host.
    Steal,
    /// Private writable address space.
    Committed,
    /// Address space.
    Reserved,
    /// Resident memory.
    Resident,
    /// Live threads.
    Threads,
    /// Open file descriptors.
    Fds,
}

/// All of them.
pub const ALL: [Quantity; 13] = [
    Quantity::Waited,
    Quantity::Switches,
    Quantity::Cpu,
    Quantity::Mapped,
    Quantity::MapCalls,
    Quantity::Created,
    Quantity::Throttled,
    Quantity::Steal,
    Quantity::Committed,
    Quantity::Reserved,
    Quantity::Resident,
    Quantity::Threads,
    Quantity::Fds,
];

/// Those that single threads have.
pub const OF_THREADS: [Quantity; 4] = [
    Quantity::Waited,
    Quantity::Switches,
    Quantity::Mapped,
    Quantity::MapCalls,
];

/// In what a value is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// So many.
    Count,
    /// So many a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Seconds a second: 1 is one thread, or one CPU, all the time.
    Share,
}

impl Quantity {
    /// Is it a level, and not a count over the window?
    pub fn is_level(self) -> bool {
        matches!(
            self,
            Self::Committed | Self::Reserved | Self::Resident | Self::Threads | Self::Fds
        )
    }

    /// Is it of the cgroup or the host, and the same for all processes of them?
    fn is_shared(self) -> bool {
        matches!(self, Self::Throttled | Self::Steal)
    }

    /// In what its values are counted.
    pub fn unit(self) -> Unit {
        match self {
            Self::Waited | Self::Cpu | Self::Throttled | Self::Steal => Unit::Share,
            Self::Switches | Self::MapCalls | Self::Created => Unit::PerSecond,
            Self::Mapped => Unit::BytesPerSecond,
            Self::Committed | Self::Reserved | Self::Resident => Unit::Bytes,
            Self::Threads | Self::Fds => Unit::Count,
        }
    }

    /// Of a window, in nanoseconds, bytes or times; not a number if it was not measured.
    fn of(self, window: &Window, calls_are_hooked: bool) -> f64 {
        let (memory, kernel) = (&window.memory, &window.kernel);
        // Sampled calls are estimates, and what they mapped is in no sum.
        let calls = calls_are_hooked && memory.unmeasured_ns.is_none() && memory.sampled.is_none();
        let delay = window
            .delay
            .as_ref()
            .filter(|delay| delay.unmeasured_ns.is_none());
        let value = match self {
            Self::Waited => delay.map(|delay| delay.sum_ns),
            Self::Switches => delay
                .map(|delay| delay.count + delay.unknown_count)
                .or(kernel.run_count),
            Self::Cpu => kernel.cpu_ns,
            Self::Mapped => calls.then_some(memory.reserved_bytes),
            Self::MapCalls => calls.then_some(memory.map_calls),
            Self::Created => window.threads.as_ref().map(|threads| threads.created),
            Self::Throttled => kernel.throttled_ns,
            Self::Steal => kernel.host_steal_ns,
            Self::Committed => memory.standing_committed_bytes.or(kernel.data_bytes),
            Self::Reserved => memory.standing_reserved_bytes.or(kernel.vm_bytes),
            Self::Resident => kernel.rss_bytes,
            Self::Threads => window.threads.as_ref().map(|threads| threads.live),
            Self::Fds => kernel.fds,
        };
        value.map_or(f64::NAN, |value| value as f64)
    }
}

/// The quantities of the windows that a subject has at the same time. Not a number where one of them was not measured.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    values: [f64; ALL.len()],
    /// Some process still lives.
    lives: bool,
}

impl Values {
    /// Of nobody.
    pub const NONE: Self = Self {
        values: [0.0; ALL.len()],
        lives: false,
    };

    /// Adds a window.
    pub fn add(&mut self, window: &Window, calls_are_hooked: bool) {
        self.lives |= !window.ended;
        for (sum, quantity) in self.values.iter_mut().zip(ALL) {
            let value = quantity.of(window, calls_are_hooked);
            // What has ended holds nothing, and has no accounts either.
            let is_over = window.ended && window.scope == Scope::Process;
            if quantity.is_level() && is_over {
                continue;
            }
            *sum = match (quantity.is_shared(), is_over && value.is_nan()) {
                (_, true) => *sum,
                (true, _) => shared(*sum, value),
                (false, _) => *sum + value,
            };
        }
    }

    /// Of one that did nothing while another had these.
    pub fn idle(while_another: &Self) -> Self {
        let nothing = |value: f64| if value.is_nan() { f64::NAN } else { 0.0 };
        Self {
            values: while_another.values.map(nothing),
            lives: while_another.lives,
        }
    }

    /// Its sum, or its level; `None` if it is not known.
    pub fn get(&self, quantity: Quantity) -> Option<f64> {
        let value = self.values[quantity as usize];
        let is_known = !value.is_nan() && (self.lives || !quantity.is_level());
        is_known.then_some(value)
    }
}

/// The larger one, or none.
fn shared(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() {
        f64::NAN
    } else {
        one.max(other)
    }
}
