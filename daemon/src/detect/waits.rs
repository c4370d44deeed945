//! Waits for a CPU as a small histogram: what the detector keeps of a window's, and of longer times.
//!
//! Four buckets per octave from 256 ns to 34 s instead of sixteen from 1 ns on: a quarter of an octave is far below the
//! least change of a delay that is judged, and a set of series holds one of these a level.

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Decompress, FlushDecompress};
use slowburn_common::histogram::{self, SIGNIFICANT_DIGITS, lowest};

use crate::stream::DelaySummary;

/// Highest bit of the lowest and of the highest bucket's values.
const LOW_BIT: u32 = 8;
const HIGH_BIT: u32 = 35;

const BUCKETS: usize = 1 + (HIGH_BIT - LOW_BIT) as usize * 4;

/// Fewer waits than this have no mean to speak of, none with weight on the long ones, and no tail.
const FOR_MEAN: u64 = 3;
const FOR_HEAVY_MEAN: u64 = 20;
const FOR_TAIL: u64 = 100;

/// The bucket for each bucket of the kernel side.
const FOLD: [u8; histogram::BUCKETS] = {
    let mut fold = [0; histogram::BUCKETS];
    let mut i = 0;
    while i < histogram::BUCKETS {
        fold[i] = bucket(lowest(i)) as u8;
        i += 1;
    }
    fold
};

const fn bucket(ns: u64) -> usize {
    if ns < 1 << LOW_BIT {
        return 0;
    }
    let bit = ns.ilog2();
    if bit >= HIGH_BIT {
        return BUCKETS - 1;
    }
    1 + (bit - LOW_BIT) as usize * 4 + ((ns >> (bit - 2)) & 3) as usize
}

/// Lower end of a bucket. That of the first is put half an octave below its upper end: nothing waits for a nanosecond.
fn lower(bucket: usize) -> f64 {
    let Some(above) = bucket.checked_sub(1) else {
        return f64::from(1 << LOW_BIT) / 2.0;
    };
    let base = (1_u64 << (LOW_BIT as usize + above / 4)) as f64;
    base * (1.0 + (above % 4) as f64 / 4.0)
}

/// Logarithms of the middles of the buckets, and those of the roots of their values' means.
static MIDDLES: std::sync::LazyLock<[f64; BUCKETS]> =
    std::sync::LazyLock::new(|| std::array::from_fn(|i| 0.5 * (lower(i).ln() + lower(i + 1).ln())));

/// Counts of waits.
#[derive(Clone, Debug)]
pub struct Waits {
    counts: [u32; BUCKETS],
}

/// Histograms that are not in use: blocks come and go with every window, and take theirs from here.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "blocks hold them boxed, and they go to and fro"
)]
pub struct Spare(Vec<Box<Waits>>);

impl Spare {
    /// Most that are kept. A window ends one block of each level at most.
    const MOST: usize = 16;

    /// An empty one.
    pub fn take(&mut self) -> Box<Waits> {
        let mut waits = self.0.pop().unwrap_or_default();
        waits.counts.fill(0);
        waits
    }

    /// One that is not needed any more.
    pub fn give(&mut self, waits: Box<Waits>) {
        if self.0.len() < Self::MOST {
            self.0.push(waits);
        }
    }
}

/// What waits are judged by. Logarithms, all of them: of nanoseconds, and of shares. Not a number if there are too few.
#[derive(Clone, Copy, Debug)]
pub struct WaitStatistics {
    /// How many.
    pub count: u64,
    /// Sum of their logarithms.
    pub logs: f64,
    /// Mean logarithm: where most of them are.
    pub typical: f64,
    /// Twice the logarithm of the mean root: long waits weigh more, and none weighs everything.
    pub heavy: f64,
    /// Share of those above 8 times the median.
    pub beyond_8: f64,
    /// Share of those above 32 times the median.
    pub beyond_32: f64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
        }
    }
}

impl Waits {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// Adds waits by the kernel side's buckets.
    fn count(&mut self, index: usize, count: u64) {
        if let Some(place) = FOLD.get(index) {
            let sum = &mut self.counts[usize::from(*place)];
            *sum = sum.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// What they are judged by.
    pub fn statistics(&self) -> WaitStatistics {
        let mut count = 0;
        let (mut logs, mut roots) = (0.0, 0.0);
        for (waits, middle) in self.counts.iter().zip(MIDDLES.iter()) {
            if *waits > 0 {
                count += u64::from(*waits);
                logs += f64::from(*waits) * middle;
                roots += f64::from(*waits) * (0.5 * middle).exp();
            }
        }
        let enough = |least: u64, value: f64| if count >= least { value } else { f64::NAN };
        let total = count as f64;
        let median = if count >= FOR_TAIL {
            self.median(total)
        } else {
            f64::NAN
        };
        WaitStatistics {
            count,
            logs,
            typical: enough(FOR_MEAN, logs / total),
            heavy: enough(FOR_HEAVY_MEAN, 2.0 * (roots / total).ln()),
            beyond_8: enough(FOR_TAIL, self.beyond(median + 8.0_f64.ln(), total)),
            beyond_32: enough(FOR_TAIL, self.beyond(median + 32.0_f64.ln(), total)),
        }
    }

    /// Logarithm of the median, interpolated within its bucket.
    fn median(&self, total: f64) -> f64 {
        let mut below = 0.0;
        for (i, waits) in self.counts.iter().enumerate() {
            let waits = f64::from(*waits);
            if below + waits >= 0.5 * total && waits > 0.0 {
                let (low, high) = (lower(i).ln(), lower(i + 1).ln());
                return low + (high - low) * (0.5 * total - below) / waits;
            }
            below += waits;
        }
        f64::NAN
    }

    /// Logarithm of the share of waits in buckets whose middle is above a bound. Half a wait more than there are, so that
    /// none has a logarithm, too.
    fn beyond(&self, bound: f64, total: f64) -> f64 {
        let long: f64 = self
            .counts
            .iter()
            .zip(MIDDLES.iter())
            .filter(|(_, middle)| **middle >= bound)
            .map(|(waits, _)| f64::from(*waits))
            .sum();
        ((long + 0.5) / (total + 1.0)).ln()
    }
}

/// Reads the histograms of windows. Holds the buffers that this takes.
#[derive(Debug)]
pub struct Reader {
    inflate: Decompress,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(true),
            packed: Vec::new(),
            plain: Vec::new(),
        }
    }
}

impl Reader {
    /// Adds a window's waits. `None` if it says that there are some, but not in a form that can be read.
    pub fn add(&mut self, delay: &DelaySummary, waits: &mut Waits) -> Option<()> {
        if delay.count == 0 {
            return Some(());
        }
        self.unpack(delay.hdr.as_deref()?)?;
        let mut counts = Counts::new(&self.plain)?;
        while !counts.rest.is_empty() {
            let (index, count) = counts.next()?;
            waits.count(index, count);
        }
        Some(())
    }

    /// The plain form: see `Summariser`, which writes it.
    fn unpack(&mut self, hdr: &str) -> Option<()> {
        const HEADER: usize = 8;
        /// All buckets with nine bytes each, and the header.
        const LONGEST: usize = 9 * histogram::BUCKETS + 40;
        self.packed.clear();
        BASE64_STANDARD.decode_vec(hdr, &mut self.packed).ok()?;
        self.plain.clear();
        self.plain.reserve(LONGEST);
        self.inflate.reset(true);
        self.inflate
            .decompress_vec(
                self.packed.get(HEADER..)?,
                &mut self.plain,
                FlushDecompress::Finish,
            )
            .ok()?;
        Some(())
    }
}

/// The counts of a plain `HdrHistogram`: after a header, `ZigZag` LEB128 numbers, of which negative ones skip empty buckets.
struct Counts<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> Counts<'a> {
    /// `None` for a histogram with other buckets than ours.
    fn new(plain: &'a [u8]) -> Option<Self> {
        const HEADER: usize = 40;
        let digits = plain.get(12..16)?;
        let ours = u32::from_be_bytes(digits.try_into().ok()?) == u32::from(SIGNIFICANT_DIGITS);
        ours.then_some(Self {
            rest: plain.get(HEADER..)?,
            index: 0,
        })
    }

    /// The next bucket, or the last one of those that are skipped, with its count. `None` if it ends within a number.
    fn next(&mut self) -> Option<(usize, u64)> {
        let number = self.number()?;
        let value = (number >> 1) as i64 ^ -((number & 1) as i64);
        let skipped = value.min(0).unsigned_abs() as usize;
        self.index = self.index.saturating_add(skipped.max(1));
        Some((self.index - 1, value.max(0) as u64))
    }

    /// Seven bits a byte, lowest first; a ninth byte has eight.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for i in 0..9 {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            if i == 8 {
                return Some(number | u64::from(*byte) << 56);
            }
            number |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slowburn_probes::event::Delays;

    use super::*;
    use crate::histogram::{DelayCounts, Summariser};

    fn summary(counts: &std::collections::BTreeMap<u16, u32>) -> DelaySummary {
        let mut sum = DelayCounts::default();
        sum.add(&Delays {
            counts: counts
                .iter()
                .map(|(bucket, count)| (*bucket, *count))
                .collect(),
            sum_ns: 1,
            max_ns: u64::MAX,
            ..Delays::default()
        });
        Summariser::default().summarise(&sum)
    }

    proptest! {
        /// What a window holds is read back bucket by bucket, and windows add up.
        #[test]
        fn windows_are_read_back(
            counts in prop::collection::btree_map(0..histogram::BUCKETS as u16, 1..1_000_000_u32, 0..60),
        ) {
            let mut expected = Waits::default();
            for (bucket, count) in &counts {
                expected.count(usize::from(*bucket), u64::from(*count));
            }
            let mut read = Waits::default();
            prop_assert!(Reader::default().add(&summary(&counts), &mut read).is_some());
            prop_assert_eq!(&read.counts, &expected.counts);
        }
    }

    #[test]
    fn statistics_follow_the_waits() {
        let mut waits = Waits::default();
        waits.count(histogram::bucket(20_000), 990);
        let calm = waits.statistics();
        assert!(
            (calm.typical.exp() / 20_000.0 - 1.0).abs() < 0.13,
            "{calm:?}"
        );
        waits.count(histogram::bucket(2_000_000), 10);
        let tail = waits.statistics();
        assert!((tail.beyond_32.exp() - 0.01).abs() < 0.001, "{tail:?}");
        assert!(
            tail.typical - calm.typical < 0.06 && tail.heavy > calm.heavy,
            "{tail:?}"
        );
        let mut few = Waits::default();
        few.count(histogram::bucket(20_000), 2);
        assert!(few.statistics().typical.is_nan());
    }

    /// It lies within a bucket, where the waits that are below it end.
    #[test]
    fn the_median_is_where_half_of_the_waits_are_below() {
        for (from, until) in [(10_000, 30_000), (10_000, 31_000), (400_000, 3_200_000)] {
            let mut waits = Waits::default();
            for part in 0..4_000 {
                waits.count(histogram::bucket(from + part * (until - from) / 4_000), 1);
            }
            let median = waits.median(4_000.0).exp();
            let expected = (from + until) as f64 / 2.0;
            assert!(
                (median / expected - 1.0).abs() < 0.03,
                "{median} {expected}"
            );
        }
    }

    #[test]
    fn what_is_no_histogram_of_ours_is_refused() {
        let mut reader = Reader::default();
        let mut waits = Waits::default();
        for hdr in [
            None,
            Some("!"),
            Some(""),
            Some("AAAA"),
            Some("HISTFAAAAAN42mNgYGAAAAADAAE="),
        ] {
            let delay = DelaySummary {
                count: 5,
                hdr: hdr.map(str::to_owned),
                ..DelaySummary::default()
            };
            assert!(reader.add(&delay, &mut waits).is_none(), "{hdr:?}");
        }
        assert!(reader.add(&DelaySummary::default(), &mut waits).is_some());
    }
}
