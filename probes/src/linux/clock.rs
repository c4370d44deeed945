//! The clocks of the kernel side, and their distance to the Unix epoch.

use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that the programs use.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// How often two clocks are read for their distance.
const READINGS: usize = 5;

/// The wall clock has been set if it has moved against the monotonic clock by this much. What is less is the error of
/// reading them one after the other.
const SET_NS: u64 = 1_000_000;

/// Distance from the monotonic clock to the Unix epoch.
pub fn epoch_ns() -> u64 {
    distance(ClockId::Monotonic)
}

/// The same, unless the wall clock has not been set since: as long as it is not, the order of times on the monotonic
/// clock is the order of times since the epoch, and no two of them change places at the end of a window.
pub fn epoch_ns_since(before: u64) -> u64 {
    unless_set(before, epoch_ns())
}

fn unless_set(before: u64, now: u64) -> u64 {
    if now.abs_diff(before) < SET_NS {
        before
    } else {
        now
    }
}

/// Distance from a clock to the Unix epoch. Two clocks cannot be read at once; of several attempts the one counts
/// between whose readings the least time has passed, for one that was interrupted may be milliseconds off.
fn distance(clock: ClockId) -> u64 {
    tightest((0..READINGS).map(|_| {
        let before = nanoseconds(clock);
        let wall = nanoseconds(ClockId::Realtime);
        (before, wall, nanoseconds(clock))
    }))
}

/// From readings of a clock before and after the wall clock.
fn tightest(readings: impl Iterator<Item = (u64, u64, u64)>) -> u64 {
    readings
        .min_by_key(|(before, _, after)| after - before)
        .map_or(0, |(before, wall, after)| {
            wall.saturating_sub(before.midpoint(after))
        })
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Distance from the boot clock to the Unix epoch.
pub fn boot_epoch_ns() -> u64 {
    distance(ClockId::Boottime)
}

/// Length of the ticks in which `/proc` counts time.
pub fn ns_per_tick() -> u64 {
    1_000_000_000 / procfs::ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_reading_does_not_count() {
        let readings = [
            (10, 5_020, 9_000),
            (9_010, 14_015, 9_020),
            (9_030, 23_000, 18_000),
        ];
        assert_eq!(tightest(readings.into_iter()), 5_000);
    }

    #[test]
    fn the_distance_stays_until_the_wall_clock_is_set() {
        assert_eq!(unless_set(5_000, 5_100), 5_000);
        assert_eq!(unless_set(5_100, 5_000), 5_100);
        assert_eq!(unless_set(5_000, 5_000 + SET_NS), 5_000 + SET_NS);
        assert_eq!(unless_set(5_000 + SET_NS, 5_000), 5_000);
    }
}
