//! What the times in a recording mean.

use super::payload::LogFile;

/// Units of 100 ns from 1601 to 1970.
const UNIX_EPOCH: i64 = 116_444_736_000_000_000;

/// Units of 100 ns in a second.
const FILETIMES: u64 = 10_000_000;

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// Turns times of a recording into nanoseconds since the Unix epoch.
///
/// All are offset from one moment that is known by both clocks, so that differences are exactly those of the recording's
/// clock, which drifts from that on the wall: by 1.8 s in 8 h in one recording at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// A moment, by the recording's clock.
    origin: i64,
    /// The same, in nanoseconds since the Unix epoch.
    origin_ns: u64,
    /// Ticks in a second.
    frequency: u64,
}

/// Nanoseconds since the Unix epoch, for a time of the host's.
pub fn unix_ns(filetime: u64) -> u64 {
    let since = i64::try_from(filetime)
        .unwrap_or(i64::MAX)
        .saturating_sub(UNIX_EPOCH);
    u64::try_from(since).unwrap_or(0).saturating_mul(100)
}

impl Clock {
    /// Of a recording whose header was written at `origin`, by its own clock. `None` if the header names no clock that is known,
    /// or one without a frequency.
    pub fn of(header: &LogFile, origin: i64) -> Option<Self> {
        let ticks = |frequency| Self {
            origin,
            origin_ns: unix_ns(header.start_filetime),
            frequency,
        };
        let clock = match header.clock {
            1 => ticks(header.frequency),
            2 => Self {
                origin: UNIX_EPOCH,
                origin_ns: 0,
                frequency: FILETIMES,
            },
            3 => ticks(u64::from(header.cpu_mhz) * 1_000_000),
            _ => return None,
        };
        // Beyond that, a fraction of a second in ticks times the nanoseconds of one would overflow.
        (1..=u64::MAX / NANOS)
            .contains(&clock.frequency)
            .then_some(clock)
    }

    /// Nanoseconds since the Unix epoch.
    #[inline]
    pub fn ns(&self, time: i64) -> u64 {
        let ticks = time.saturating_sub(self.origin);
        let (size, frequency) = (ticks.unsigned_abs(), self.frequency);
        let ns = if frequency == FILETIMES {
            size.saturating_mul(100)
        } else {
            (size / frequency)
                .saturating_mul(NANOS)
                .saturating_add(size % frequency * NANOS / frequency)
        };
        if ticks < 0 {
            self.origin_ns.saturating_sub(ns)
        } else {
            self.origin_ns.saturating_add(ns)
        }
    }

    /// Units of 100 ns since 1601.
    pub fn filetime(&self, time: i64) -> u64 {
        self.ns(time) / 100 + UNIX_EPOCH.unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(clock: u32) -> LogFile<'static> {
        LogFile {
            clock,
            frequency: 3_117_777,
            cpu_mhz: 2_500,
            start_filetime: 130_371_670_762_939_437,
            ..LogFile::default()
        }
    }

    #[test]
    fn each_clock() {
        let start = unix_ns(130_371_670_762_939_437);
        assert_eq!(start, 1_392_693_476_293_943_700);
        let counter = Clock::of(&header(1), 1_000).unwrap();
        assert_eq!(counter.ns(1_000), start);
        assert_eq!(
            counter.ns(1_000 + 3_117_777 * 86_400 + 1),
            start + 86_400 * NANOS + 320
        );
        assert_eq!(counter.ns(1_000 - 3_117_777), start - NANOS);
        assert_eq!(counter.filetime(1_000), 130_371_670_762_939_437);
        let system = Clock::of(&header(2), 1_000).unwrap();
        assert_eq!(system.ns(130_371_670_762_939_437), start);
        let cycles = Clock::of(&header(3), 0).unwrap();
        assert_eq!(cycles.ns(2_500_000_001), start + NANOS);
    }

    /// Whatever a damaged header and event say.
    #[test]
    fn nothing_overflows() {
        for clock in 0..5 {
            for frequency in [0, 1, u64::MAX / NANOS, u64::MAX] {
                for start_filetime in [0, u64::MAX] {
                    let header = LogFile {
                        clock,
                        frequency,
                        start_filetime,
                        cpu_mhz: u32::MAX,
                        ..LogFile::default()
                    };
                    for time in [i64::MIN, 0, i64::MAX] {
                        for origin in [i64::MIN, 0, i64::MAX] {
                            Clock::of(&header, origin).map(|clock| clock.filetime(time));
                        }
                    }
                }
            }
        }
    }
}
