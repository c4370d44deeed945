//! Histograms of waits: added up by bucket, summarised and serialised as `HdrHistogram`.

use std::error::Error;

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compress, Compression, FlushCompress, Status};
use hdrhistogram::{
    Histogram,
    serialization::{Serializer, V2Serializer},
};
use slowburn_common::{
    histogram::{HIGHEST, SIGNIFICANT_DIGITS, lowest},
    task,
};
use slowburn_probes::event::Delays;

use crate::stream::{Behind, DelaySummary, LongWaits};

/// Counts of waits by bucket, with their sum and maximum. Only buckets in use take memory: a thread's
/// waits fall into some tens of the hundreds, and there may be thousands of threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayCounts {
    /// Bucket and count, ascending by bucket.
    counts: Vec<(u16, u64)>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
    unknown: u64,
    moved: u64,
    /// Few threads wait long.
    behind: Option<Box<task::Behind>>,
}

impl DelayCounts {
    /// Adds a sample.
    pub fn add(&mut self, delays: &Delays) {
        // Mostly the first of its window: takes as much memory as it needs.
        if self.counts.is_empty() {
            self.counts.reserve_exact(delays.counts.len());
        }
        // Both are in order, and mostly have the same buckets: a step or two each, where a search took seven.
        let mut place = 0;
        for &(bucket, count) in &delays.counts {
            let count = u64::from(count);
            while self.counts.get(place).is_some_and(|(b, _)| *b < bucket) {
                place += 1;
            }
            match self.counts.get_mut(place) {
                Some((b, sum)) if *b == bucket => *sum += count,
                _ => self.counts.insert(place, (bucket, count)),
            }
            self.count += count;
        }
        self.sum_ns += delays.sum_ns;
        self.max_ns = self.max_ns.max(delays.max_ns);
        self.unknown += delays.unknown;
        self.moved += delays.moved;
        if delays.behind != task::Behind::default() {
            let sums = self.behind.get_or_insert_default();
            add_long(&mut sums.own, delays.behind.own);
            add_long(&mut sums.idle, delays.behind.idle);
            add_long(&mut sums.others, delays.behind.others);
        }
    }

    /// Is there nothing to tell? A wait may be summed up in one window and counted in the next, or the other way round.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn add_long(sum: &mut task::LongWaits, more: task::LongWaits) {
    sum.count += more.count;
    sum.sum_ns += more.sum_ns;
}

fn behind(sums: &task::Behind) -> Behind {
    let told = |sum: task::LongWaits| LongWaits {
        count: sum.count,
        sum_ns: sum.sum_ns,
    };
    Behind {
        own: told(sums.own),
        idle: told(sums.idle),
        others: told(sums.others),
    }
}

/// Turns counts into summaries. Holds the buffers that this takes.
pub struct Summariser {
    histogram: Histogram<u64>,
    serializer: V2Serializer,
    /// Kept from one histogram to the next: the library's own serializer makes one for each, which takes 300 KB, and with
    /// those pages given back and taken again a summary took 107 us. Stores only: some 100 bytes would become a seventh
    /// smaller.
    compress: Compress,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

/// An empty histogram with the kernel side's buckets.
///
/// # Panics
/// Never: the bounds are constants that the library accepts.
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST, SIGNIFICANT_DIGITS).expect("constant bounds are valid")
}

impl Default for Summariser {
    fn default() -> Self {
        Self {
            histogram: empty(),
            serializer: V2Serializer::new(),
            compress: Compress::new(Compression::none(), true),
            plain: Vec::new(),
            packed: Vec::new(),
        }
    }
}

impl Summariser {
    /// Summarises counts. Quantiles are the upper ends of their buckets, but never above the maximum.
    pub fn summarise(&mut self, delays: &DelayCounts) -> DelaySummary {
        let mut summary = DelaySummary {
            count: delays.count,
            sum_ns: delays.sum_ns,
            max_ns: delays.max_ns,
            unknown_count: delays.unknown,
            ..DelaySummary::default()
        };
        if delays.count == 0 {
            return summary;
        }
        summary.moved = Some(delays.moved);
        summary.behind = delays.behind.as_deref().map(behind);
        self.histogram.reset();
        for &(bucket, count) in &delays.counts {
            // Every bucket of the kernel side lies within the bounds.
            let _ = self.histogram.record_n(lowest(bucket as usize), count);
        }
        let quantile = |q| {
            Some(
                self.histogram
                    .value_at_quantile(q)
                    .min(delays.max_ns.max(1)),
            )
        };
        summary.p50_ns = quantile(0.5);
        summary.p90_ns = quantile(0.9);
        summary.p99_ns = quantile(0.99);
        summary.p999_ns = quantile(0.999);
        summary.hdr = self.serialise();
        summary
    }

    fn serialise(&mut self) -> Option<String> {
        match self.pack() {
            Ok(()) => Some(BASE64_STANDARD.encode(&self.packed)),
            Err(error) => {
                tracing::warn!("a histogram could not be serialised: {error}");
                None
            }
        }
    }

    /// The compressed form of version 2: a mark, the length of what follows, and the plain form as a zlib stream
    /// (`HdrHistogram`, `encodeIntoCompressedByteBuffer`).
    fn pack(&mut self) -> Result<(), Box<dyn Error>> {
        const MARK: u32 = 0x1c84_9314;
        const HEADER: usize = 8;
        self.plain.clear();
        self.serializer
            .serialize(&self.histogram, &mut self.plain)?;
        self.packed.clear();
        self.packed.resize(HEADER, 0);
        self.compress.reset();
        loop {
            self.packed.reserve(self.plain.len() + 64);
            let taken = self.compress.total_in() as usize;
            let status = self.compress.compress_vec(
                &self.plain[taken..],
                &mut self.packed,
                FlushCompress::Finish,
            )?;
            if status == Status::StreamEnd {
                break;
            }
        }
        let length = u32::try_from(self.packed.len() - HEADER)?;
        self.packed[..4].copy_from_slice(&MARK.to_be_bytes());
        self.packed[4..HEADER].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hdrhistogram::serialization::Deserializer;
    use proptest::prelude::*;
    use slowburn_common::histogram::{BUCKETS, bucket, highest};

    use super::*;

    fn counts(values: &[u64]) -> DelayCounts {
        let mut counts = DelayCounts::default();
        for &value in values {
            counts.add(&Delays {
                counts: vec![(bucket(value) as u16, 1)],
                sum_ns: value,
                max_ns: value,
                ..Delays::default()
            });
        }
        counts
    }

    #[test]
    fn nothing_waited() {
        let summary = Summariser::default().summarise(&DelayCounts::default());
        assert_eq!(summary, DelaySummary::default());
    }

    /// Waits of every magnitude alike, up to above the highest that has a bucket of its own.
    fn wait() -> impl Strategy<Value = u64> {
        (1..=42_u32, any::<u64>()).prop_map(|(bits, noise)| noise >> (u64::BITS - bits))
    }

    fn waits() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(wait(), 1..200)
    }

    /// As a source gives it: each bucket once, ascending.
    fn sample(values: &[u64]) -> Delays {
        let mut counts = BTreeMap::<u16, u32>::new();
        for &value in values {
            *counts.entry(bucket(value) as u16).or_default() += 1;
        }
        Delays {
            counts: counts.into_iter().collect(),
            sum_ns: values.iter().sum(),
            max_ns: values.iter().copied().max().unwrap_or(0),
            unknown: values.len() as u64 % 3,
            ..Delays::default()
        }
    }

    fn merged(samples: &[Delays]) -> DelayCounts {
        let mut counts = DelayCounts::default();
        for sample in samples {
            counts.add(sample);
        }
        counts
    }

    fn summary(samples: &[Delays]) -> DelaySummary {
        Summariser::default().summarise(&merged(samples))
    }

    fn read_back(summary: &DelaySummary) -> Histogram<u64> {
        let text = summary.hdr.as_ref().expect("something waited");
        let bytes = BASE64_STANDARD.decode(text).expect("it is base64");
        Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .expect("it is a histogram")
    }

    /// In thousandths, so that ranks can be computed without rounding.
    fn quantiles(summary: &DelaySummary) -> [(u64, Option<u64>); 4] {
        [
            (500, summary.p50_ns),
            (900, summary.p90_ns),
            (990, summary.p99_ns),
            (999, summary.p999_ns),
        ]
    }

    /// Position of a quantile among so many values in order.
    fn rank(thousandths: u64, count: u64) -> u64 {
        (u128::from(count) * u128::from(thousandths)).div_ceil(1000) as u64
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values(mut values in waits()) {
            let summary = Summariser::default().summarise(&counts(&values));
            values.sort_unstable();
            prop_assert_eq!(summary.count, values.len() as u64);
            for (thousandths, got) in quantiles(&summary) {
                let value = values[rank(thousandths, summary.count) as usize - 1];
                let expected = highest(bucket(value)).min(summary.max_ns.max(1));
                prop_assert_eq!(got, Some(expected), "{}/1000", thousandths);
            }
        }

        /// With counts as they are after weeks, a rank that is off by one still shows.
        #[test]
        fn ranks_are_exact_for_large_counts(
            counts in prop::collection::btree_map(0..BUCKETS as u16, 1..=u32::MAX, 1..20),
        ) {
            let counts: Vec<_> = counts.into_iter().collect();
            let sample = Delays { counts: counts.clone(), sum_ns: 1, max_ns: u64::MAX, ..Delays::default() };
            let summary = summary(&[sample]);
            let read = read_back(&summary);
            prop_assert_eq!(read.len(), summary.count);
            for (thousandths, got) in quantiles(&summary) {
                let rank = rank(thousandths, summary.count);
                let mut below = 0;
                let at = counts.iter().find(|(_, count)| {
                    below += u64::from(*count);
                    below >= rank
                });
                let expected = highest(usize::from(at.expect("ranks do not exceed the count").0));
                prop_assert_eq!(got, Some(expected), "{}/1000", thousandths);
                prop_assert_eq!(read.value_at_quantile(thousandths as f64 / 1000.0), expected);
            }
        }

        /// However waits are split into samples, and in whatever order these come.
        #[test]
        fn merged_is_as_if_never_split(
            (samples, shuffled) in prop::collection::vec(prop::collection::vec(wait(), 0..20), 1..12)
                .prop_flat_map(|samples| (Just(samples.clone()), Just(samples).prop_shuffle())),
        ) {
            let samples: Vec<_> = samples.iter().map(|values| sample(values)).collect();
            let values = shuffled.concat();
            let mut whole = sample(&values);
            whole.unknown = samples.iter().map(|sample| sample.unknown).sum();
            let shuffled: Vec<_> = shuffled.iter().map(|values| sample(values)).collect();
            let expected = summary(&[whole]);
            prop_assert_eq!(expected.count, values.len() as u64);
            prop_assert_eq!(expected.sum_ns, values.iter().sum::<u64>());
            prop_assert_eq!(expected.max_ns, values.iter().copied().max().unwrap_or(0));
            prop_assert_eq!(&summary(&samples), &expected);
            prop_assert_eq!(&summary(&shuffled), &expected);
        }

        /// What readers of the stream are told they may do, in any order and grouping.
        #[test]
        fn histograms_of_windows_may_be_added(parts in prop::collection::vec(waits(), 1..6)) {
            let all = read_back(&summary(&[sample(&parts.concat())]));
            let windows: Vec<_> = parts.iter().map(|part| read_back(&summary(&[sample(part)]))).collect();
            let add = |mut to: Histogram<u64>, from: &Histogram<u64>| {
                to.add(from).expect("they have the same bounds");
                to
            };
            let leftwards = windows.iter().fold(empty(), add);
            let backwards = windows.iter().rev().fold(empty(), add);
            let by_halves = {
                let (some, others) = windows.split_at(windows.len() / 2);
                add(some.iter().fold(empty(), add), &others.iter().fold(empty(), add))
            };
            prop_assert_eq!(&leftwards, &all);
            prop_assert_eq!(&backwards, &all);
            prop_assert_eq!(&by_halves, &all);
        }

        #[test]
        fn serialised_form_reads_back(values in waits()) {
            let summary = summary(&[sample(&values)]);
            let read = read_back(&summary);
            prop_assert_eq!(read.len(), values.len() as u64);
            let mut expected = BTreeMap::<usize, u64>::new();
            for value in values {
                *expected.entry(bucket(value)).or_default() += 1;
            }
            for b in 0..BUCKETS {
                prop_assert_eq!(read.count_at(lowest(b)), expected.get(&b).copied().unwrap_or(0));
            }
        }
    }
}
