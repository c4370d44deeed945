//! What a process's signals were, from its first window to now, in a fixed number of bins.
//!
//! When there are too many, each two become one: a day of windows is known by the quarter of an hour, the last hour no
//! better. That is enough, because what is flagged spans a sixteenth of what is known at least.

use super::signals::{COUNT, Values};
use crate::stream::Moment;

/// Bins at most: 20 KB.
const BINS: usize = 256;

/// Means of the signals over equal times.
#[derive(Clone, Debug)]
pub struct History {
    origin: Moment,
    bin_ns: u64,
    bins: Vec<Values>,
    /// The bin that is being filled: sums and how many values.
    sums: [f64; COUNT],
    counts: [u32; COUNT],
}

impl History {
    /// Begins with a window of such a length that ends then.
    pub fn new(ts: Moment, period_ns: u64) -> Self {
        Self {
            origin: Moment(ts.0.saturating_sub(period_ns)),
            bin_ns: period_ns.max(1),
            bins: Vec::new(),
            sums: [0.0; COUNT],
            counts: [0; COUNT],
        }
    }

    /// Adds a window that ends then. Time without windows is unknown.
    pub fn add(&mut self, ts: Moment, period_ns: u64, values: &Values) {
        let middle =
            ts.0.saturating_sub(self.origin.0)
                .saturating_sub(period_ns / 2);
        while middle / self.bin_ns >= BINS as u64 {
            self.halve();
        }
        let place = (middle / self.bin_ns) as usize;
        while self.bins.len() < place {
            self.complete();
        }
        for ((sum, count), value) in self.sums.iter_mut().zip(&mut self.counts).zip(values) {
            if !value.is_nan() {
                *sum += f64::from(*value);
                *count += 1;
            }
        }
    }

    fn complete(&mut self) {
        self.bins.push(self.filling());
        self.sums = [0.0; COUNT];
        self.counts = [0; COUNT];
    }

    fn filling(&self) -> Values {
        std::array::from_fn(|i| (self.sums[i] / f64::from(self.counts[i])) as f32)
    }

    /// Bins of twice the length.
    fn halve(&mut self) {
        let is_odd = self.bins.len() % 2 == 1;
        // The first half of the bin that is being filled is complete: it goes back to the sums.
        let half = if is_odd { self.bins.pop() } else { None };
        self.bins = self
            .bins
            .chunks_exact(2)
            .map(|two| mean(&two[0], &two[1]))
            .collect();
        self.bin_ns *= 2;
        if let Some(half) = half {
            for (i, value) in half
                .into_iter()
                .enumerate()
                .filter(|(_, value)| !value.is_nan())
            {
                // As many windows as in the other half, or one.
                let weight = self.counts[i].max(1);
                self.sums[i] += f64::from(value) * f64::from(weight);
                self.counts[i] += weight;
            }
        }
    }

    /// When it begins.
    pub fn begin(&self) -> Moment {
        self.origin
    }

    /// Length of a bin.
    pub fn bin_ns(&self) -> u64 {
        self.bin_ns
    }

    /// A signal from one time to another, a value a bin; not a number where nothing is known.
    pub fn signal(&self, place: usize, from: Moment, to: Moment) -> Vec<f64> {
        let bin = |moment: Moment| (moment.0.saturating_sub(self.origin.0) / self.bin_ns) as usize;
        let filling = self.filling();
        let all = self.bins.iter().chain([&filling]);
        let last = (bin(to) + 1).saturating_sub(bin(from));
        all.skip(bin(from))
            .take(last)
            .map(|values| f64::from(values[place]))
            .collect()
    }
}

fn mean(a: &Values, b: &Values) -> Values {
    std::array::from_fn(|i| match (a[i].is_nan(), b[i].is_nan()) {
        (true, _) => b[i],
        (_, true) => a[i],
        _ => f32::midpoint(a[i], b[i]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn filled(windows: u64, value: impl Fn(u64) -> f32) -> History {
        let mut history = History::new(Moment(SECOND), SECOND);
        for i in 1..=windows {
            history.add(Moment(i * SECOND), SECOND, &[value(i); COUNT]);
        }
        history
    }

    #[test]
    fn bins_are_windows_as_long_as_there_is_room() {
        let history = filled(BINS as u64, |i| i as f32);
        assert_eq!(history.bin_ns(), SECOND);
        let all = history.signal(0, Moment(0), Moment(BINS as u64 * SECOND));
        assert_eq!(all, (1..=BINS).map(|i| i as f64).collect::<Vec<_>>());
        let part = history.signal(0, Moment(10 * SECOND), Moment(12 * SECOND));
        assert_eq!(part, [11.0, 12.0, 13.0]);
    }

    #[test]
    fn means_stay_what_they_are_however_long_it_goes_on() {
        for windows in [257_u64, 300, 511, 512, 1000, 5000] {
            let history = filled(windows, |i| i as f32);
            let all = history.signal(3, Moment(0), Moment(windows * SECOND));
            assert!(
                all.len() <= BINS && all.len() >= BINS / 2,
                "{windows}: {}",
                all.len()
            );
            let bin = history.bin_ns() / SECOND;
            for (place, mean) in all[..all.len() - 1].iter().enumerate() {
                let first = place as f64 * bin as f64;
                let expected = first + f64::midpoint(bin as f64, 1.0);
                assert!(
                    (mean - expected).abs() < 1e-3,
                    "{windows} {place}: {mean}, {expected}"
                );
            }
        }
    }

    #[test]
    fn what_is_missing_is_no_number() {
        let mut history = filled(4, |_| 1.0);
        history.add(Moment(8 * SECOND), SECOND, &[2.0; COUNT]);
        let all = history.signal(0, Moment(0), Moment(9 * SECOND));
        assert_eq!(all.len(), 8);
        assert!(all[4..7].iter().all(|value| value.is_nan()), "{all:?}");
        assert!((all[7] - 2.0).abs() < 1e-6);
    }
}
