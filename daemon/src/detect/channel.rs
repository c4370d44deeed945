//! What is judged: the channels of a series set, what one is worth, and what limits it.

use crate::stream::Metric;

/// Added to rates of bytes before their logarithm is taken: below it, they are nothing.
pub const NO_RATE: f64 = 1024.0;

/// One number a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Floor of the private writable address space.
    Committed,
    /// Floor of the address space.
    Reserved,
    /// Floor of the resident memory.
    Resident,
    /// Floor of the number of live threads.
    Threads,
    /// Floor of the number of open file descriptors.
    Descriptors,
    /// Mean logarithm of the address space mapped a second.
    Mapped,
    /// Logarithm of the threads created a second.
    Created,
    /// Mean logarithm of the waits.
    Typical,
    /// Logarithm of their mean root, doubled.
    Heavy,
    /// Logarithm of the share of waits above 8 times their median.
    Beyond8,
    /// Above 32 times.
    Beyond32,
    /// Logarithm of the switches a second: how often it got a CPU, which is how much it had to do.
    Load,
    /// Logarithm of the CPU time a second.
    Cpu,
}

/// How many channels there are.
pub const CHANNELS: usize = 13;

/// Those that may be flagged, in their order.
pub const JUDGED: [Channel; CHANNELS - 2] = [
    Channel::Committed,
    Channel::Reserved,
    Channel::Resident,
    Channel::Threads,
    Channel::Descriptors,
    Channel::Mapped,
    Channel::Created,
    Channel::Typical,
    Channel::Heavy,
    Channel::Beyond8,
    Channel::Beyond32,
];

/// The least rise that is worth a flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// In the channel's own unit.
    pub absolute: f64,
    /// As a share of the baseline, for floors.
    pub share: f64,
}

/// A rise that is worth a record, in the metric's unit; 0 is any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastAmount(f64);

impl LeastAmount {
    /// As a rise of the logarithm from such a one.
    pub fn from(self, before: f64) -> f64 {
        if self.0 > 0.0 {
            (self.0 / before.exp()).ln_1p()
        } else {
            0.0
        }
    }
}

impl Effect {
    /// For such a baseline.
    pub fn least(self, baseline: f64) -> f64 {
        self.absolute.max(self.share * baseline.abs())
    }
}

impl Channel {
    /// Is it the floor of something that stands, and not the logarithm of something that flows?
    pub fn is_floor(self) -> bool {
        matches!(
            self,
            Self::Committed | Self::Reserved | Self::Resident | Self::Threads | Self::Descriptors
        )
    }

    /// What is flagged.
    pub fn metric(self) -> Metric {
        match self {
            Self::Committed => Metric::CommittedBytes,
            Self::Reserved => Metric::ReservedBytes,
            Self::Resident => Metric::RssBytes,
            Self::Threads => Metric::ThreadsLive,
            Self::Descriptors => Metric::Fds,
            Self::Mapped => Metric::MappedRate,
            Self::Created => Metric::CreationRate,
            Self::Typical | Self::Heavy | Self::Load | Self::Cpu => Metric::Delay,
            Self::Beyond8 | Self::Beyond32 => Metric::DelayTail,
        }
    }

    /// A value of the channel in the metric's unit.
    pub fn unit(self, value: f64) -> f64 {
        match self {
            Self::Mapped => (value.exp() - NO_RATE).max(0.0),
            channel if channel.is_floor() => value,
            _ => value.exp(),
        }
    }

    /// The channel's value of one in the metric's unit.
    pub fn of_unit(self, value: f64) -> f64 {
        match self {
            Self::Mapped => (value + NO_RATE).ln(),
            channel if channel.is_floor() => value,
            _ => value.ln(),
        }
    }

    /// The least that a step or an excursion must come to in the metric's unit, for logarithms. A mean wait is longer by a few
    /// microseconds as soon as anybody else runs: a redis' went from 4.1 us to 7.2 when others began to work beside it. What climbs
    /// is looked at for longer, and needs no such bound: with it, climbs of waits of 10 us were found late.
    pub fn least_amount(self) -> LeastAmount {
        LeastAmount(match self {
            Self::Typical | Self::Heavy => 5_000.0,
            _ => 0.0,
        })
    }

    /// The least rise that is worth a flag.
    pub fn effect(self) -> Effect {
        let (absolute, share) = match self {
            // Large services breathe by a percent or two. glibc takes 132 KiB at a time from the kernel, jemalloc and
            // Go a few times that: less than a MiB is a handful of such chunks.
            Self::Committed | Self::Reserved | Self::Resident => (1_048_576.0, 0.03),
            // A pool that gains a worker or two has not begun to leak.
            Self::Threads | Self::Descriptors => (2.0, 0.12),
            // By 28 %: load varies by a quarter.
            Self::Mapped | Self::Typical | Self::Heavy => (0.25, 0.0),
            // By 57 %: creations are few, and come in bursts.
            Self::Created => (0.45, 0.0),
            // By 65 % and a doubling: shares of a hundredth are small counts.
            Self::Beyond8 => (0.5, 0.0),
            Self::Beyond32 => (0.7, 0.0),
            Self::Load | Self::Cpu => (0.1, 0.0),
        };
        Effect { absolute, share }
    }

    /// How much of the load's own relative rise explains such a rise here: memory holds requests in proportion to the load,
    /// rates and waits grow faster than it. On the first day, with no other to compare with, and later. Zero: load
    /// does not explain it, since a share of waits does not depend on their number.
    pub fn load_factor(self, first_day: bool) -> f64 {
        match self {
            Self::Beyond8 | Self::Beyond32 | Self::Load | Self::Cpu => 0.0,
            Self::Mapped | Self::Created => 1.3,
            Self::Typical | Self::Heavy => 1.5,
            _ if first_day => 1.0,
            _ => 0.6,
        }
    }
}
