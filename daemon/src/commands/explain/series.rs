//! A series of any length as a bounded number of bins.

use crate::{detect::Value, stream::Moment};

/// Kept of a series: some for each column of the widest terminal.
const BINS: usize = 2048;

/// What the windows of a stretch of time have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// The lowest value.
    pub low: f64,
    /// The highest.
    pub high: f64,
    sum: f64,
    windows: f64,
}

impl Bin {
    fn of(value: f64) -> Self {
        Self {
            low: value,
            high: value,
            sum: value,
            windows: 1.0,
        }
    }

    fn add(&mut self, other: &Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.sum += other.sum;
        self.windows += other.windows;
    }

    /// The mean of the windows.
    pub fn mean(&self) -> f64 {
        self.sum / self.windows
    }
}

fn add(bin: &mut Option<Bin>, other: &Bin) {
    match bin {
        Some(bin) => bin.add(other),
        None => *bin = Some(*other),
    }
}

/// The series between two moments.
#[derive(Debug)]
pub struct Series {
    begin: u64,
    end: u64,
    /// The first window's beginning and the last one's end, as far as they are between the two.
    known: (u64, u64),
    bins: Vec<Option<Bin>>,
}

/// The part of a series of which something is known, in equal stretches.
#[derive(Debug)]
pub struct Columns {
    /// When the first one begins.
    pub from: Moment,
    /// When the last one ends.
    pub to: Moment,
    /// None where nothing is known.
    pub bins: Vec<Option<Bin>>,
}

impl Series {
    /// Nothing yet.
    pub fn new(begin: Moment, end: Moment) -> Self {
        Self {
            begin: begin.0,
            end: end.0.max(begin.0.saturating_add(BINS as u64)),
            known: (u64::MAX, 0),
            bins: vec![None; BINS],
        }
    }

    /// Adds a window, to each bin that it has a share in.
    pub fn add(&mut self, value: &Value) {
        let end = value.ts.0.min(self.end);
        let begin = value.ts.0.saturating_sub((value.seconds * 1e9) as u64);
        let begin = begin.max(self.begin);
        if begin >= end {
            return;
        }
        self.known = (self.known.0.min(begin), self.known.1.max(end));
        let (first, last) = (self.place(begin), self.place(end - 1));
        for bin in &mut self.bins[first..=last] {
            add(bin, &Bin::of(value.value));
        }
    }

    fn place(&self, moment: u64) -> usize {
        let (passed, span) = (moment - self.begin, self.end - self.begin);
        (u128::from(passed) * BINS as u128 / u128::from(span)) as usize
    }

    /// So many stretches of the time between the first window and the last; `None` without any.
    pub fn columns(&self, count: usize) -> Option<Columns> {
        let first = self.bins.iter().position(Option::is_some)?;
        let last = self.bins.iter().rposition(Option::is_some)?;
        let known = &self.bins[first..=last];
        let column = |at: usize| {
            let begin = at * known.len() / count;
            let end = ((at + 1) * known.len() / count).max(begin + 1);
            let mut column = None;
            for bin in known[begin..end].iter().flatten() {
                add(&mut column, bin);
            }
            column
        };
        Some(Columns {
            from: Moment(self.known.0),
            to: Moment(self.known.1),
            bins: (0..count).map(column).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(ts: u64, seconds: f64, value: f64) -> Value {
        Value {
            ts: Moment(ts),
            seconds,
            value,
        }
    }

    #[test]
    fn windows_fill_what_they_span() {
        let mut series = Series::new(Moment(0), Moment(2_048_000_000_000));
        assert!(series.columns(10).is_none());
        // From 100 to 200 and from 300 to 400 s of 2048.
        series.add(&value(200_000_000_000, 100.0, 5.0));
        series.add(&value(400_000_000_000, 100.0, 9.0));
        let columns = series.columns(3).expect("two windows");
        assert_eq!(
            (columns.from.0, columns.to.0),
            (100_000_000_000, 400_000_000_000)
        );
        let means: Vec<_> = columns
            .bins
            .iter()
            .map(|bin| bin.map(|bin| bin.mean()))
            .collect();
        assert_eq!(means, [Some(5.0), None, Some(9.0)]);
        let one = series.columns(1).expect("two windows").bins[0].expect("known");
        assert_eq!((one.low, one.mean(), one.high), (5.0, 7.0, 9.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_windows_are_within_bounds(
            begin in 0_u64..1 << 62,
            span in 0_u64..1 << 62,
            windows in proptest::collection::vec((any::<u64>(), 0.0_f64..1e9, -1e9_f64..1e9), 0..20),
            count in 1_usize..300,
        ) {
            let mut series = Series::new(Moment(begin), Moment(begin + span));
            for (ts, seconds, level) in &windows {
                series.add(&value(*ts, *seconds, *level));
            }
            if let Some(columns) = series.columns(count) {
                prop_assert_eq!(columns.bins.len(), count);
                prop_assert!(columns.from < columns.to && columns.from.0 >= begin);
                for bin in columns.bins.iter().flatten() {
                    prop_assert!(bin.low <= bin.mean() + 1e-3 && bin.mean() <= bin.high + 1e-3);
                }
            }
        }
    }
}
