//! A subject over a period: bins of windows, of which there are never too many.

use std::mem;

use super::{
    quantity::{ALL, Quantity, Values},
    uncertainty::Part,
    waits::Waits,
};

/// Bins that a series has at most. When it has them, neighbours are added up: a week of windows of 10 s becomes 237
/// bins of 43 minutes. The histogram of a bin takes 1 to 3 KB.
pub const MOST_BINS: usize = 256;

/// One or more windows in a row.
#[derive(Clone, Debug, Default)]
pub struct Bin {
    /// Windows.
    windows: u64,
    /// How long they were together.
    seconds: f64,
    /// Of each quantity: counts by the seconds in which it was counted, levels times seconds by seconds.
    parts: [Part; ALL.len()],
    /// Waits for a CPU.
    waits: Waits,
}

impl Bin {
    fn add(&mut self, other: &Self) {
        self.windows += other.windows;
        self.seconds += other.seconds;
        for (sum, more) in self.parts.iter_mut().zip(&other.parts) {
            sum.sum += more.sum;
            sum.by += more.by;
        }
        self.waits.add(&other.waits);
    }
}

/// Bins in order.
#[derive(Clone, Debug)]
pub struct Series {
    bins: Vec<Bin>,
    /// Windows in each bin, but for the last one.
    each: u64,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            bins: Vec::new(),
            each: 1,
        }
    }
}

impl Series {
    /// Adds what happened in so many seconds.
    pub fn add(&mut self, seconds: f64, values: &Values, waits: Waits) {
        let part = |quantity: Quantity| {
            let Some(value) = values.get(quantity) else {
                return Part::default();
            };
            // Nanoseconds by nanoseconds.
            let factor = match quantity.unit() {
                super::quantity::Unit::Share => 1e-9,
                _ if quantity.is_level() => seconds,
                _ => 1.0,
            };
            Part {
                sum: value * factor,
                by: seconds,
            }
        };
        let bin = Bin {
            windows: 1,
            seconds,
            parts: ALL.map(part),
            waits,
        };
        match self.bins.last_mut() {
            Some(last) if last.windows < self.each => last.add(&bin),
            _ => self.push(bin),
        }
    }

    fn push(&mut self, bin: Bin) {
        if self.bins.len() == MOST_BINS {
            self.coarsen(2);
        }
        self.bins.push(bin);
    }

    /// Adds up so many bins each.
    pub fn coarsen(&mut self, times: usize) {
        let bins = mem::take(&mut self.bins);
        self.bins = bins
            .chunks(times)
            .map(|bins| {
                let mut sum = bins[0].clone();
                bins[1..].iter().for_each(|bin| sum.add(bin));
                sum
            })
            .collect();
        self.each *= times as u64;
    }

    /// What is left of a bin at the end says as much as its length: if that is less than half, it goes to the one
    /// before.
    pub fn finish(&mut self) {
        if let [.., before, last] = self.bins.as_mut_slice()
            && 2 * last.windows < self.each
        {
            before.add(last);
            self.bins.pop();
        }
    }

    /// Windows in it.
    pub fn windows(&self) -> u64 {
        self.bins.iter().map(|bin| bin.windows).sum()
    }

    /// Length of its bins.
    pub fn bin_seconds(&self) -> f64 {
        let seconds: f64 = self.bins.iter().map(|bin| bin.seconds).sum();
        seconds / self.windows().max(1) as f64 * self.each as f64
    }

    /// How many of them.
    pub fn bins(&self) -> usize {
        self.bins.len()
    }

    /// A quantity's part in each bin.
    pub fn parts(&self, quantity: Quantity) -> impl Iterator<Item = Part> {
        self.bins
            .iter()
            .map(move |bin| bin.parts[quantity as usize])
    }

    /// The waits of each bin.
    pub fn waits(&self) -> impl Iterator<Item = &Waits> {
        self.bins.iter().map(|bin| &bin.waits)
    }
}

/// Makes the bins of both about as long as the longer ones: how much bins differ depends on their length.
pub fn align(one: &mut Series, other: &mut Series) {
    let times = (one.bin_seconds() / other.bin_seconds()).round();
    let back = (other.bin_seconds() / one.bin_seconds()).round();
    if times >= 2.0 {
        other.coarsen(times as usize);
        other.finish();
    } else if back >= 2.0 {
        one.coarsen(back as usize);
        one.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{uncertainty::Mean, waits::tests::of_lengths};

    fn series(windows: u64, seconds: f64) -> Series {
        let mut series = Series::default();
        for n in 0..windows {
            series.add(seconds, &Values::NONE, of_lengths([n + 1]));
        }
        series.finish();
        series
    }

    /// A hundred thousand windows take what 256 do, and nothing of them is lost.
    #[test]
    fn there_are_never_too_many_bins() {
        for windows in [1, 255, 256, 257, 1000, 100_000] {
            let series = series(windows, 2.0);
            assert!(
                series.bins() <= MOST_BINS && (windows < 256 || series.bins() >= MOST_BINS / 2),
                "{windows}: {}",
                series.bins()
            );
            assert_eq!(series.windows(), windows);
            let created = Mean::of(series.parts(Quantity::Created)).expect("there are seconds");
            assert!(created.value.abs() < 1e-12);
            let by: f64 = series.parts(Quantity::Created).map(|part| part.by).sum();
            assert!((by - 2.0 * windows as f64).abs() < 1e-6);
            let mut all = Waits::default();
            series.waits().for_each(|waits| all.add(waits));
            assert_eq!(all, of_lengths(1..=windows), "{windows}");
        }
    }

    #[test]
    fn bins_of_both_are_as_long() {
        for (seconds, expected) in [(1.0, 60), (10.0, 60), (4.0, 60), (1.3, 60)] {
            let (mut short, mut long) = (series(600, 1.0), series(60, seconds));
            align(&mut short, &mut long);
            let ratio = short.bin_seconds() / long.bin_seconds();
            assert!((0.6..=1.5).contains(&ratio), "{seconds}: {ratio}");
            assert!(long.bins() <= expected);
            assert_eq!((short.windows(), long.windows()), (600, 60));
        }
    }
}
