//! Waits for a CPU, bucket by bucket, as the stream has them: exact sums however many windows there are.

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{Histogram, serialization::Deserializer};
use slowburn_common::histogram::{BUCKETS, bucket, highest, lowest};

use super::uncertainty::{Interval, Mean, Part, Spread};
use crate::stream::DelaySummary;

/// Waits of a window or bin. Only buckets in use take memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Bucket and count, ascending by bucket.
    counts: Vec<(u16, u64)>,
    max_ns: u64,
}

impl Waits {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.max_ns = self.max_ns.max(other.max_ns);
        for &(bucket, count) in &other.counts {
            self.count(bucket, count);
        }
    }

    fn count(&mut self, bucket: u16, count: u64) {
        match self.counts.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(place) => self.counts[place].1 += count,
            Err(place) => self.counts.insert(place, (bucket, count)),
        }
    }

    fn total(&self) -> f64 {
        self.counts.iter().map(|(_, count)| *count as f64).sum()
    }

    /// Its part of the mean of a value that each bucket has.
    fn part(&self, value: impl Fn(usize) -> f64) -> Part {
        let values = self
            .counts
            .iter()
            .map(|(bucket, count)| *count as f64 * value(usize::from(*bucket)));
        Part {
            sum: values.sum(),
            by: self.total(),
        }
    }
}

/// Reads the histograms of windows.
pub struct Reader {
    deserializer: Deserializer,
    packed: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            deserializer: Deserializer::new(),
            packed: Vec::new(),
        }
    }
}

impl Reader {
    /// Adds a window's waits. `None` if it says that there are some, but not in a form that can be read.
    pub fn add(&mut self, delay: &DelaySummary, waits: &mut Waits) -> Option<()> {
        if delay.count == 0 {
            return Some(());
        }
        self.packed.clear();
        BASE64_STANDARD
            .decode_vec(delay.hdr.as_deref()?, &mut self.packed)
            .ok()?;
        let histogram: Histogram<u64> = self
            .deserializer
            .deserialize(&mut self.packed.as_slice())
            .ok()?;
        for value in histogram.iter_recorded() {
            waits.count(
                bucket(value.value_iterated_to()) as u16,
                value.count_at_value(),
            );
        }
        waits.max_ns = waits.max_ns.max(delay.max_ns);
        Some(())
    }
}

/// All waits of a period.
#[derive(Clone, Debug)]
pub struct Distribution {
    counts: Vec<u64>,
    /// Waits in lower buckets, and half of those in the same one, as a share of all.
    below: Vec<f64>,
    total: u64,
    max_ns: u64,
}

impl Distribution {
    /// Of the bins of a period; `None` if nobody waited.
    pub fn of<'a>(bins: impl Iterator<Item = &'a Waits>) -> Option<Self> {
        let (mut counts, mut max_ns) = (vec![0_u64; BUCKETS], 0);
        for bin in bins {
            max_ns = max_ns.max(bin.max_ns);
            for &(bucket, count) in &bin.counts {
                counts[usize::from(bucket)] += count;
            }
        }
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let mut before = 0.0;
        let below = counts.iter().map(|count| {
            let middle = before + 0.5 * *count as f64;
            before += *count as f64;
            middle / total as f64
        });
        Some(Self {
            below: below.collect(),
            counts,
            total,
            max_ns,
        })
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Logarithm of the wait that a share of all does not exceed, interpolated within its bucket.
    pub fn ln_quantile(&self, share: f64) -> f64 {
        let rank = share.clamp(0.0, 1.0) * self.total as f64;
        let mut before = 0.0;
        for (bucket, count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let count = *count as f64;
            if before + count >= rank {
                let (low, high) = bounds(bucket);
                return (low + (high - low) * (rank - before) / count)
                    .min((self.max_ns.max(1) as f64).ln());
            }
            before += count;
        }
        (self.max_ns.max(1) as f64).ln()
    }

    /// Its interval by Woodruff: that of the share of waits below it, read as waits. `None` if a quantile has fewer
    /// bins than an interval takes. The upper end is infinite if the share may be all.
    pub fn ln_quantile_interval(&self, share: f64, bins: &[Waits], risk: f64) -> Option<Interval> {
        let at = self.ln_quantile(share);
        let beyond = |bucket: usize| {
            let (low, high) = bounds(bucket);
            ((high - at) / (high - low)).clamp(0.0, 1.0)
        };
        let spread = Mean::of(bins.iter().map(|bin| bin.part(beyond)))?.spread?;
        let reach = spread.reach(risk);
        let high = if share + reach < 1.0 {
            self.ln_quantile(share + reach)
        } else {
            f64::INFINITY
        };
        Some(Interval {
            low: self.ln_quantile(share - reach),
            high,
        })
    }

    /// Share of these that are longer than a wait of that bucket, and half of those as long.
    fn longer(&self, bucket: usize) -> f64 {
        1.0 - self.below[bucket]
    }
}

/// Mean logarithm of the waits of bins, in nanoseconds.
pub fn mean_log(bins: &[Waits]) -> Option<Mean> {
    Mean::of(bins.iter().map(|bin| {
        bin.part(|bucket| {
            let (low, high) = bounds(bucket);
            0.5 * (low + high)
        })
    }))
}

/// Probability that a random wait of `b` is longer than one of `a`, ties by halves (Mann and Whitney; A of Vargha and
/// Delaney). Its spread is that of bins, not of waits (Obuchowski): each is judged by where its waits are among those
/// of the other period.
pub fn longer(
    a: (&[Waits], &Distribution),
    b: (&[Waits], &Distribution),
) -> Option<(f64, Option<Spread>)> {
    let of_a = Mean::of(a.0.iter().map(|bin| bin.part(|bucket| b.1.longer(bucket))))?;
    let of_b = Mean::of(b.0.iter().map(|bin| bin.part(|bucket| a.1.below[bucket])))?;
    let spread = of_a
        .spread
        .zip(of_b.spread)
        .map(|(a, b)| a.of_difference(b));
    Some((of_b.value, spread))
}

/// Logarithms of the ends of a bucket. Nothing waits for less than a nanosecond.
fn bounds(bucket: usize) -> (f64, f64) {
    let low = lowest(bucket).max(1) as f64;
    (low.ln(), (highest(bucket) as f64 + 1.0).max(low).ln())
}

#[cfg(test)]
#[expect(missing_docs, reason = "tests have none")]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Waits by their lengths.
    pub fn of_lengths(lengths: impl IntoIterator<Item = u64>) -> Waits {
        let mut waits = Waits::default();
        for length in lengths {
            waits.count(bucket(length) as u16, 1);
            waits.max_ns = waits.max_ns.max(length);
        }
        waits
    }

    fn distribution(bins: &[Waits]) -> Distribution {
        Distribution::of(bins.iter()).expect("there are waits")
    }

    proptest! {
        /// Against all pairs.
        #[test]
        fn longer_is_by_pairs(
            a in prop::collection::vec(prop::collection::vec(1..3_000_u64, 1..8), 1..6),
            b in prop::collection::vec(prop::collection::vec(1..3_000_u64, 1..8), 1..6),
        ) {
            let (mut wins, mut pairs) = (0.0, 0.0);
            for x in a.iter().flatten() {
                for y in b.iter().flatten() {
                    pairs += 1.0;
                    wins += match bucket(*y).cmp(&bucket(*x)) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            let bins = |lengths: Vec<Vec<u64>>| lengths.into_iter().map(of_lengths).collect::<Vec<_>>();
            let (a, b) = (bins(a), bins(b));
            let (value, spread) = longer((&a, &distribution(&a)), (&b, &distribution(&b))).expect("there are waits");
            prop_assert!((value - wins / pairs).abs() < 1e-9);
            prop_assert_eq!(spread.is_some(), a.len() >= 5 && b.len() >= 5);
        }

        /// To the width of a bucket.
        #[test]
        fn quantiles_are_those_of_the_waits(
            mut lengths in prop::collection::vec(1..10_000_000_u64, 1..200), share in 0.01..1.0_f64,
        ) {
            let distribution = distribution(&[of_lengths(lengths.clone())]);
            lengths.sort_unstable();
            let rank = (share * lengths.len() as f64).ceil() as usize;
            let (low, high) = bounds(bucket(lengths[rank.max(1) - 1]));
            let read = distribution.ln_quantile(share);
            prop_assert!((low - 1e-9..=high + 1e-9).contains(&read), "{read} {low} {high}");
        }
    }

    #[test]
    fn a_quantile_is_as_sure_as_its_bins_agree() {
        let calm: Vec<Waits> = (0..40)
            .map(|_| of_lengths((1..=1000).map(|n| n * 100)))
            .collect();
        let rough: Vec<Waits> = (0..40_u64)
            .map(|bin| of_lengths((1..=1000).map(|n| n * (50 + 100 * (bin * 7 % 10) / 9))))
            .collect();
        let width = |bins: &[Waits]| {
            let interval = distribution(bins)
                .ln_quantile_interval(0.99, bins, 0.05)
                .expect("40 bins");
            interval.high - interval.low
        };
        assert!(width(&calm) < 0.01, "{}", width(&calm));
        assert!(
            width(&rough) > 0.05 && width(&rough) < 1.0,
            "{}",
            width(&rough)
        );
        let few = &rough[..4];
        assert!(
            distribution(few)
                .ln_quantile_interval(0.99, few, 0.05)
                .is_none()
        );
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let delay = |hdr: Option<&str>| DelaySummary {
            count: 5,
            hdr: hdr.map(str::to_owned),
            ..DelaySummary::default()
        };
        for hdr in [None, Some("!"), Some(""), Some("AAAA")] {
            let mut waits = Waits::default();
            assert!(
                Reader::default().add(&delay(hdr), &mut waits).is_none(),
                "{hdr:?}"
            );
        }
        let mut waits = Waits::default();
        assert!(
            Reader::default()
                .add(&DelaySummary::default(), &mut waits)
                .is_some()
        );
        assert_eq!(waits, Waits::default());
    }
}
