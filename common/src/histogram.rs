//! The log-linear histogram that the kernel side fills.
//!
//! The buckets are exactly those of an `HdrHistogram` with one significant digit, a lowest discernible
//! value of 1 and 32 sub-buckets: values below 32 have a bucket each, and above that every power of
//! two is cut into 16. The relative width of a bucket is therefore at most 1/16 (6.25 %), and turning
//! the counts into an `HdrHistogram` moves no sample to another rank.

/// Sub-buckets per power of two.
const SUB_BUCKETS: usize = 16;
/// log2 of [`SUB_BUCKETS`].
const SUB_BUCKET_BITS: u32 = 4;
/// Values below this have a bucket of their own.
const LINEAR: usize = 2 * SUB_BUCKETS;
/// Position of the highest bit that the histogram resolves: 2^39 ns is 9 minutes and 9 seconds.
const TOP_BIT: u32 = 38;

/// How many buckets there are.
pub const BUCKETS: usize = LINEAR + (TOP_BIT - SUB_BUCKET_BITS) as usize * SUB_BUCKETS;

/// The highest value with a bucket of its own; anything above is counted in the last bucket.
pub const HIGHEST: u64 = (1 << (TOP_BIT + 1)) - 1;

/// Significant decimal digits of the equivalent `HdrHistogram`.
pub const SIGNIFICANT_DIGITS: u8 = 1;

/// Position of the highest set bit of `value`, which must not be 0.
///
/// BPF has no count-leading-zeros instruction and the compiler's expansion of `leading_zeros` takes
/// about 40 instructions; this takes 6 compares, and is constant-foldable all the same.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call between BPF programs costs more than this does"
)]
const fn top_bit(mut value: u64) -> u32 {
    let mut bit = 0;
    if value >> 32 != 0 {
        value >>= 32;
        bit += 32;
    }
    if value >> 16 != 0 {
        value >>= 16;
        bit += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        bit += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        bit += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        bit += 2;
    }
    if value >> 1 != 0 {
        bit += 1;
    }
    bit
}

/// The bucket that `value` belongs to; always below [`BUCKETS`].
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call between BPF programs costs more than this does"
)]
pub const fn bucket(value: u64) -> usize {
    if value < LINEAR as u64 {
        return value as usize;
    }
    if value > HIGHEST {
        return BUCKETS - 1;
    }
    let octave = top_bit(value) - SUB_BUCKET_BITS;
    octave as usize * SUB_BUCKETS + (value >> octave) as usize
}

/// The lowest value that falls into `bucket`.
///
/// # Panics
/// In debug builds, if `bucket` is not below [`BUCKETS`].
pub const fn lowest(bucket: usize) -> u64 {
    debug_assert!(bucket < BUCKETS);
    if bucket < LINEAR {
        return bucket as u64;
    }
    let octave = bucket / SUB_BUCKETS - 1;
    ((bucket % SUB_BUCKETS + SUB_BUCKETS) as u64) << octave
}

/// The highest value that falls into `bucket` (without the clamped ones, for the last bucket).
pub const fn highest(bucket: usize) -> u64 {
    if bucket + 1 == BUCKETS {
        return HIGHEST;
    }
    lowest(bucket + 1) - 1
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous_and_ascending() {
        for b in 0..BUCKETS {
            assert_eq!(bucket(lowest(b)), b, "lowest value of bucket {b}");
            assert_eq!(bucket(highest(b)), b, "highest value of bucket {b}");
        }
        assert_eq!(lowest(0), 0);
        assert_eq!(highest(BUCKETS - 1), HIGHEST);
    }

    /// Values of every magnitude alike: of uniform ones, not one in a million would have its own bucket.
    fn value() -> impl Strategy<Value = u64> {
        (0..=u64::BITS, any::<u64>()).prop_map(|(bits, noise)| match bits {
            0 => 0,
            _ => (noise | 1 << 63) >> (u64::BITS - bits),
        })
    }

    /// Those that are not clamped.
    fn resolved_value() -> impl Strategy<Value = u64> {
        value().prop_filter("clamped", |value| *value <= HIGHEST)
    }

    /// Where an octave ends and the next begins, mistakes by one show.
    #[test]
    fn powers_of_two_and_their_neighbours() {
        for bit in 0..u64::BITS {
            let power = 1_u64 << bit;
            assert_eq!(top_bit(power), bit);
            for value in [power - 1, power, power + 1] {
                let expected = if value > HIGHEST {
                    BUCKETS - 1
                } else {
                    (0..BUCKETS)
                        .find(|&b| (lowest(b)..=highest(b)).contains(&value))
                        .expect("every value up to the highest has a bucket")
                };
                assert_eq!(bucket(value), expected, "{value}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn highest_set_bit(value in value()) {
            prop_assume!(value != 0);
            prop_assert_eq!(top_bit(value), value.ilog2());
        }

        #[test]
        fn value_lies_within_its_bucket(value in value()) {
            let b = bucket(value);
            prop_assert!(b < BUCKETS);
            prop_assert!(lowest(b) <= value);
            prop_assert!(value <= highest(b) || (value > HIGHEST && b == BUCKETS - 1));
        }

        #[test]
        fn greater_values_are_in_no_lower_bucket(a in value(), b in value()) {
            prop_assert_eq!(bucket(a.max(b)), bucket(a).max(bucket(b)));
        }

        #[test]
        fn precision_is_one_sixteenth(value in resolved_value()) {
            let b = bucket(value);
            let width = highest(b) - lowest(b) + 1;
            prop_assert!(width == 1 || width * 16 <= lowest(b));
        }

        #[test]
        fn buckets_are_those_of_hdrhistogram(value in resolved_value()) {
            let h = Histogram::<u64>::new_with_bounds(1, HIGHEST, SIGNIFICANT_DIGITS).unwrap();
            let b = bucket(value);
            prop_assert_eq!(h.lowest_equivalent(value), lowest(b));
            prop_assert_eq!(h.highest_equivalent(value), highest(b));
        }
    }
}
