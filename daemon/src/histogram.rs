//! Histograms of waits: added up by bucket, summarised and serialised as `HdrHistogram`.

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Serializer, V2DeflateSerializer},
};
use slowburn_common::histogram::{HIGHEST, SIGNIFICANT_DIGITS, lowest};
use slowburn_probes::event::Delays;

use crate::stream::DelaySummary;

/// Counts of waits by bucket, with their sum and maximum. Only buckets in use take memory: a thread's
/// waits fall into some tens of the hundreds, and there may be thousands of threads.
#[derive(Clone, Debug, Default)]
pub struct DelayCounts {
    /// Bucket and count, ascending by bucket.
    counts: Vec<(u16, u64)>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
    unknown: u64,
}

impl DelayCounts {
    /// Adds a sample.
    pub fn add(&mut self, delays: &Delays) {
        for &(bucket, count) in &delays.counts {
            let count = u64::from(count);
            match self.counts.binary_search_by_key(&bucket, |(b, _)| *b) {
                Ok(place) => self.counts[place].1 += count,
                Err(place) => self.counts.insert(place, (bucket, count)),
            }
            self.count += count;
        }
        self.sum_ns += delays.sum_ns;
        self.max_ns = self.max_ns.max(delays.max_ns);
        self.unknown += delays.unknown;
    }

    /// Has the task never been seen to get a CPU?
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.unknown == 0
    }
}

/// Turns counts into summaries. Holds the buffers that this takes.
pub struct Summariser {
    histogram: Histogram<u64>,
    serializer: V2DeflateSerializer,
    bytes: Vec<u8>,
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
            serializer: V2DeflateSerializer::new(),
            bytes: Vec::new(),
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
        self.bytes.clear();
        match self.serializer.serialize(&self.histogram, &mut self.bytes) {
            Ok(_) => Some(BASE64_STANDARD.encode(&self.bytes)),
            Err(error) => {
                tracing::warn!("a histogram could not be serialised: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use proptest::prelude::*;
    use slowburn_common::histogram::{bucket, highest};

    use super::*;

    fn counts(values: &[u64]) -> DelayCounts {
        let mut counts = DelayCounts::default();
        for &value in values {
            counts.add(&Delays {
                counts: vec![(bucket(value) as u16, 1)],
                sum_ns: value,
                max_ns: value,
                unknown: 0,
            });
        }
        counts
    }

    #[test]
    fn nothing_waited() {
        let summary = Summariser::default().summarise(&DelayCounts::default());
        assert_eq!(summary, DelaySummary::default());
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values(mut values in prop::collection::vec(0..=HIGHEST, 1..200)) {
            let summary = Summariser::default().summarise(&counts(&values));
            values.sort_unstable();
            prop_assert_eq!(summary.count, values.len() as u64);
            for (q, got) in [(0.5, summary.p50_ns), (0.9, summary.p90_ns), (0.99, summary.p99_ns)] {
                let rank = ((q * values.len() as f64).ceil() as usize).max(1) - 1;
                let expected = highest(bucket(values[rank])).min(summary.max_ns.max(1));
                prop_assert_eq!(got.unwrap(), expected, "quantile {}", q);
            }
        }

        #[test]
        fn serialised_form_reads_back(values in prop::collection::vec(0..=HIGHEST, 1..200)) {
            let summary = Summariser::default().summarise(&counts(&values));
            let bytes = BASE64_STANDARD.decode(summary.hdr.unwrap()).unwrap();
            let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            prop_assert_eq!(read.len(), values.len() as u64);
            for value in values {
                prop_assert!(read.count_at(value) >= 1);
            }
        }
    }
}
