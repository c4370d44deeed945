//! Is a ring one step: level before, and level after?

use super::{
    channel::Channel,
    median::{median, median_of},
    ring::BLOCKS,
    shape::{MAD_TO_SIGMA, MISSING},
};

/// Blocks before and after at least: with three eighths of the ring on each side, both are seen to be level.
const SIDE: usize = 12;

/// Least jump in deviations about the two levels.
pub const SIGMA: f64 = 4.0;

/// Most that a side's quarters may drift, as a share of the jump.
const DRIFT: f64 = 0.35;

/// Blocks that may lie on the wrong side of the middle of the jump.
const WRONG: usize = 2;

/// A step. Levels are logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The first block after it.
    pub at: usize,
    /// Median before.
    pub before: f64,
    /// Median after.
    pub after: f64,
    /// The jump in deviations.
    pub sigmas: f64,
}

/// The least jump that is worth a record, as a logarithm: a fifth of memory, a quarter of threads, half of a rate or wait.
pub fn least(channel: Channel) -> f64 {
    match channel {
        Channel::Committed | Channel::Reserved | Channel::Resident => 0.18,
        Channel::Threads | Channel::Descriptors => 0.25,
        _ => 0.4,
    }
}

/// The same from such a level, of which a little may be half.
pub fn least_from(channel: Channel, before: f64) -> f64 {
    least(channel).max(channel.least_amount().from(before))
}

/// Looks for a step up of at least so much in the middle of a ring of logarithms.
pub fn step(blocks: &[f64; BLOCKS], least: f64) -> Option<Step> {
    let missing = blocks.iter().filter(|value| value.is_nan()).count();
    // The cheap look: are the halves that far apart?
    let apart = median(&blocks[BLOCKS - SIDE..]) - median(&blocks[..SIDE]);
    if missing > MISSING || apart < least || apart.is_nan() {
        return None;
    }
    let at = best_split(blocks)?;
    let (first, second) = blocks.split_at(at);
    let (before, after) = (median(first), median(second));
    let jump = after - before;
    let middle = f64::midpoint(before, after);
    let wrong = first.iter().filter(|value| **value > middle).count()
        + second.iter().filter(|value| **value < middle).count();
    let drift = |part: &[f64]| {
        let quarter = part.len() / 4;
        let ends = [&part[..quarter], &part[part.len() - quarter..]];
        (median(ends[1]) - median(ends[0])).abs()
    };
    let mut distances = blocks.map(|value| (value - before).abs().min((value - after).abs()));
    let sigma = MAD_TO_SIGMA * median_of(&mut distances);
    let found = jump >= least
        && jump > SIGMA * sigma
        && wrong <= WRONG
        && drift(first) < DRIFT * jump
        && drift(second) < DRIFT * jump;
    found.then(|| Step {
        at,
        before,
        after,
        sigmas: jump / sigma.max(1e-3 * jump),
    })
}

/// Where two levels fit best, if that is about the middle.
fn best_split(blocks: &[f64; BLOCKS]) -> Option<usize> {
    const EDGE: usize = 4;
    let known = |part: &[f64]| {
        let known = part.iter().filter(|value| !value.is_nan());
        known.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0))
    };
    let (total, count) = known(blocks);
    let mean = total / count;
    let gain = |at: usize| {
        let (sum, before) = known(&blocks[..at]);
        let excess = sum - before * mean;
        excess * excess / before + excess * excess / (count - before)
    };
    let best = (EDGE..=BLOCKS - EDGE).max_by(|a, b| gain(*a).total_cmp(&gain(*b)))?;
    (SIDE..=BLOCKS - SIDE).contains(&best).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::Noise;

    fn ring(at: usize, height: f64) -> [f64; BLOCKS] {
        std::array::from_fn(|i| {
            2.0 + 0.02 * ((i * 7) % 5) as f64 + if i < at { 0.0 } else { height }
        })
    }

    #[test]
    fn two_levels_are_a_step_where_they_meet() {
        for at in 12..=20 {
            let found = step(&ring(at, 0.5), 0.4).expect("a step");
            assert_eq!(found.at, at);
            assert!((found.after - found.before - 0.5).abs() < 0.03, "{found:?}");
            assert!(found.sigmas > SIGMA);
        }
        assert!(step(&ring(11, 0.5), 0.4).is_none() && step(&ring(21, 0.5), 0.4).is_none());
    }

    #[test]
    fn it_must_be_high_and_up() {
        assert!(step(&ring(16, 0.35), 0.4).is_none());
        assert!(step(&ring(16, -0.5), 0.4).is_none());
        // Noise as high as the step.
        let noisy = std::array::from_fn(|i| ring(16, 0.5)[i] + if i % 2 == 0 { 0.3 } else { -0.3 });
        assert!(step(&noisy, 0.4).is_none());
    }

    #[test]
    fn both_levels_are_flat() {
        let sloping = |before: f64, after: f64| {
            let mut blocks = ring(16, 1.0);
            for (i, value) in blocks.iter_mut().enumerate() {
                *value += if i < 16 {
                    before * i as f64 / 16.0
                } else {
                    after * (i - 16) as f64 / 16.0
                };
            }
            step(&blocks, 0.4).is_some()
        };
        assert!(sloping(0.0, 0.0) && sloping(0.2, 0.0) && sloping(0.0, 0.2));
        assert!(!sloping(0.6, 0.0) && !sloping(0.0, 0.8));
    }

    #[test]
    fn some_blocks_may_be_wrong_or_missing() {
        let mut blocks = ring(16, 1.0);
        (blocks[3], blocks[28]) = (3.0, 2.0);
        assert!(step(&blocks, 0.4).is_some());
        blocks[5] = 3.1;
        assert!(step(&blocks, 0.4).is_none(), "three are on the wrong side");
        let mut missing = ring(16, 1.0);
        for i in (0..20).step_by(2) {
            missing[i] = f64::NAN;
        }
        assert!(step(&missing, 0.4).is_some());
        missing[30] = f64::NAN;
        assert!(step(&missing, 0.4).is_none());
    }

    /// Where the squares about the two means are least, with or without blocks that are missing.
    #[test]
    fn the_split_is_that_of_least_squares() {
        let mut noise = Noise::new(1);
        let squares = |part: &[f64]| {
            let known: Vec<f64> = part
                .iter()
                .copied()
                .filter(|value| !value.is_nan())
                .collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            known
                .iter()
                .map(|value| (value - mean).powi(2))
                .sum::<f64>()
        };
        let mut found = 0;
        for _ in 0..200 {
            let at = 8.0 + 16.0 * noise.uniform();
            let blocks: [f64; BLOCKS] = std::array::from_fn(|i| {
                let level = if (i as f64) < at { 0.0 } else { 1.0 };
                if i % 5 == 2 && noise.uniform() < 0.3 {
                    f64::NAN
                } else {
                    level + 2.0 * noise.uniform()
                }
            });
            let off = |at: usize| squares(&blocks[..at]) + squares(&blocks[at..]);
            let least = (4..=BLOCKS - 4).map(off).fold(f64::INFINITY, f64::min);
            if let Some(best) = best_split(&blocks) {
                found += 1;
                assert!(off(best) <= least + 1e-9, "{best}: {blocks:?}");
            }
        }
        assert!((50..200).contains(&found), "{found}");
    }

    #[test]
    fn waits_must_step_further_than_memory() {
        assert!(
            least(Channel::Committed) < least(Channel::Threads)
                && least(Channel::Threads) < least(Channel::Typical)
        );
    }
}
