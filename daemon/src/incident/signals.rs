//! What is remembered of each window of a process.

use crate::stream::{LongWaits, Signal, Window};

/// All signals, in the order in which they are kept.
pub const SIGNALS: [Signal; COUNT] = [
    Signal::CommittedBytes,
    Signal::ReservedBytes,
    Signal::RssBytes,
    Signal::ThreadsLive,
    Signal::Fds,
    Signal::MappedRate,
    Signal::ReleasedRate,
    Signal::CreationRate,
    Signal::ExitRate,
    Signal::SwitchRate,
    Signal::Cpus,
    Signal::Waiting,
    Signal::MeanWait,
    Signal::BehindOwn,
    Signal::BehindIdle,
    Signal::BehindOthers,
    Signal::MovedShare,
    Signal::Throttled,
    Signal::Steal,
    Signal::MinorFaultRate,
    Signal::MajorFaultRate,
];

/// Waits in a window from which a share of them says something.
const LEAST_WAITS: u64 = 10;

/// How many there are.
pub const COUNT: usize = 21;

/// A value for each signal; not a number where it was not measured.
pub type Values = [f32; COUNT];

/// Reads them from a window.
pub fn values(window: &Window) -> Values {
    let seconds = window.period_ns as f64 / 1e9;
    let (memory, kernel, threads) = (&window.memory, &window.kernel, window.threads.as_ref());
    let level = |value: Option<u64>| value.map(|value| value as f64);
    let rate = |value: Option<u64>| value.map(|value| value as f64 / seconds);
    let share = |ns: Option<u64>| ns.map(|ns| ns as f64 / window.period_ns as f64);
    let flows = memory.unmeasured_ns.is_none() && memory.sampled.is_none();
    let flow = |bytes: u64| flows.then(|| bytes as f64 / seconds);
    // Waits are known for all of the period or not at all.
    let delay = window
        .delay
        .as_ref()
        .filter(|delay| delay.unmeasured_ns.is_none());
    let waits = delay.map(|delay| delay.count + delay.unknown_count);
    let behind = |whose: fn(&crate::stream::Behind) -> LongWaits| {
        let delay = delay?;
        let long = delay.behind.map(|behind| whose(&behind).sum_ns);
        share(Some(long.unwrap_or(0)))
    };
    SIGNALS.map(|signal| {
        let value = match signal {
            Signal::CommittedBytes => level(memory.standing_committed_bytes.or(kernel.data_bytes)),
            Signal::ReservedBytes => level(memory.standing_reserved_bytes.or(kernel.vm_bytes)),
            Signal::RssBytes => level(kernel.own_rss_bytes()),
            Signal::ThreadsLive => level(threads.map(|t| t.live).or(kernel.threads)),
            Signal::Fds => level(kernel.fds),
            Signal::MappedRate => flow(memory.reserved_bytes),
            Signal::ReleasedRate => flow(memory.released_bytes),
            Signal::CreationRate => rate(threads.map(|t| t.created)),
            Signal::ExitRate => rate(threads.map(|t| t.exited)),
            Signal::SwitchRate => rate(kernel.run_count.or(waits)),
            Signal::Cpus => share(kernel.cpu_ns),
            Signal::Waiting => share(delay.map(|delay| delay.sum_ns)),
            Signal::MeanWait => delay
                .filter(|delay| delay.count > 0)
                .map(|delay| delay.sum_ns as f64 / delay.count as f64),
            Signal::BehindOwn => behind(|behind| behind.own),
            Signal::BehindIdle => behind(|behind| behind.idle),
            Signal::BehindOthers => behind(|behind| behind.others),
            // Of next to none, one is a large share.
            Signal::MovedShare => delay
                .filter(|delay| delay.count >= LEAST_WAITS)
                .and_then(|delay| Some(delay.moved? as f64 / delay.count as f64)),
            Signal::Throttled => share(kernel.throttled_ns),
            Signal::Steal => share(kernel.host_steal_ns),
            Signal::MinorFaultRate => rate(kernel.minor_faults),
            Signal::MajorFaultRate => rate(kernel.major_faults),
        };
        value
            .filter(|value| value.is_finite())
            .map_or(f32::NAN, |value| value as f32)
    })
}
