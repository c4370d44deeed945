//! The clocks of the kernel side, and their distance to the Unix epoch.

use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that the programs use.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Distance from the monotonic clock to the Unix epoch.
pub fn epoch_ns() -> u64 {
    let wall = nanoseconds(ClockId::Realtime);
    wall.saturating_sub(monotonic_ns())
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Distance from the boot clock to the Unix epoch.
pub fn boot_epoch_ns() -> u64 {
    nanoseconds(ClockId::Realtime).saturating_sub(nanoseconds(ClockId::Boottime))
}

/// Length of the ticks in which `/proc` counts time.
pub fn ns_per_tick() -> u64 {
    1_000_000_000 / procfs::ticks_per_second().max(1)
}
