//! The shape of a ring of blocks: its trend, how sure that is, and how the rise is spread over it.
//!
//! Medians and ranks, so that single wild blocks move nothing. 32 blocks have 496 pairs; all of it takes some 3 us.

use super::{
    median::{median, median_of},
    ring::BLOCKS,
};

/// Makes the median absolute deviation an estimate of a normal distribution's standard deviation.
pub const MAD_TO_SIGMA: f64 = 1.4826;

/// Half-width of a 95 % interval, in standard deviations.
const NORMAL_95: f64 = 1.959_964;

/// Largest autocorrelation corrected for: 39 blocks then say as much as one that is independent.
const MAX_RHO: f64 = 0.95;

/// A rise of so many deviations about the line is no wander of the noise, however much that depends on itself: noise with
/// an autocorrelation of 0.99 stays below 15. What is left of a clean line is rounding and slight bends, which
/// correlate, and would hide just the clearest leaks.
const BEYOND_NOISE: f64 = 30.0;

/// Parts of a ring for the shape, four blocks each.
pub const SEGMENTS: usize = 8;

/// Blocks that may be missing.
pub const MISSING: usize = 10;

/// The parts of a ring: what can be said of its shape without looking at all pairs of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// Median of each part; not a number where a part is missing.
    pub segments: [f64; SEGMENTS],
    /// Largest rise from one part to the next, as a share of all such rises. A line has a seventh, a step up to one.
    pub largest_jump: f64,
    /// How many of the seven changes between parts are rises.
    pub rising: usize,
}

/// What a ring looks like. Values are the channel's; times are in blocks.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its parts.
    pub outline: Outline,
    /// How many blocks.
    pub blocks: usize,
    /// Theil-Sen slope, a block.
    pub slope: f64,
    /// Mann-Kendall statistic without correction.
    pub z: f64,
    /// Its deviation in pairs if there is no trend.
    deviation: f64,
    /// Autocorrelation of what is left when a parabola is taken out. (A line only would punish leaks that quicken.)
    pub rho: f64,
    /// Standard deviation about the line.
    pub sigma: f64,
    /// Squared error of the best line over that of the best single step: above one, a step fits better.
    pub step_over_line: f64,
}

impl Outline {
    /// Of a ring, oldest block first.
    pub fn of(blocks: &[f64]) -> Self {
        let length = blocks.len() / SEGMENTS;
        let segments = std::array::from_fn(|i| median(&blocks[i * length..(i + 1) * length]));
        Self::from_segments(segments)
    }

    /// Of its parts.
    pub fn from_segments(segments: [f64; SEGMENTS]) -> Self {
        let (largest_jump, rising) = rises(&segments);
        Self {
            segments,
            largest_jump,
            rising,
        }
    }

    /// Level of the first quarter.
    pub fn base(&self) -> f64 {
        f64::midpoint(self.segments[0], self.segments[1])
    }

    /// Level of the two parts in the middle.
    pub fn middle(&self) -> f64 {
        f64::midpoint(self.segments[3], self.segments[4])
    }

    /// Level of the last quarter.
    pub fn top(&self) -> f64 {
        f64::midpoint(self.segments[6], self.segments[7])
    }

    /// Speed of the second half compared with that of the first.
    pub fn keeps_speed(&self) -> f64 {
        (self.top() - self.middle()) / (self.middle() - self.base()).max(1e-12)
    }
}

impl Shape {
    /// Measures a ring, oldest block first; blocks that are missing are not a number. `None` if too many are.
    pub fn of(blocks: &[f64], scratch: &mut Vec<f64>) -> Option<Self> {
        let missing = blocks.iter().filter(|value| value.is_nan()).count();
        if missing * BLOCKS > MISSING * blocks.len() {
            return None;
        }
        let known = (blocks.len() - missing) as f64;
        let score = pair_slopes(blocks, scratch);
        let slope = median_of(scratch);
        let deviation = (known * (known - 1.0) * (2.0 * known + 5.0) / 18.0).sqrt();
        let line = |i: usize| slope * i as f64;
        let mut residuals = [f64::NAN; BLOCKS];
        let residuals = &mut residuals[..blocks.len()];
        for (i, (residual, value)) in residuals.iter_mut().zip(blocks).enumerate() {
            *residual = value - line(i);
        }
        let level = median(residuals);
        let mut filled = [f64::NAN; BLOCKS];
        let filled = &mut filled[..blocks.len()];
        for (i, (filled, residual)) in filled.iter_mut().zip(&mut *residuals).enumerate() {
            *residual -= level;
            *filled = level + line(i) + zero_if_missing(*residual);
        }
        let rho = lag_one(residuals);
        for residual in &mut *residuals {
            *residual = residual.abs();
        }
        Some(Self {
            outline: Outline::of(blocks),
            slope,
            z: (score - score.signum()) as f64 / deviation,
            deviation,
            rho,
            sigma: MAD_TO_SIGMA * median_of(residuals),
            blocks: blocks.len(),
            step_over_line: step_over_line(filled),
        })
    }

    /// How far the line rises over the ring.
    pub fn rise(&self) -> f64 {
        self.slope * (self.blocks - 1) as f64
    }

    /// Mann-Kendall's statistic for as many blocks as are independent.
    pub fn significance(&self) -> f64 {
        if self.rise() > BEYOND_NOISE * self.sigma {
            return self.z;
        }
        self.z * ((1.0 - self.rho) / (1.0 + self.rho)).sqrt()
    }

    /// The 95 % interval of the slope of these same blocks, widened for autocorrelation.
    pub fn interval(&self, blocks: &[f64], scratch: &mut Vec<f64>) -> (f64, f64) {
        pair_slopes(blocks, scratch);
        let widening = ((1.0 + self.rho) / (1.0 - self.rho)).sqrt();
        interval(scratch, NORMAL_95 * self.deviation * widening)
    }
}

fn zero_if_missing(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

/// The slopes of all pairs, into `slopes`. Returns Mann-Kendall's score: rising pairs less falling ones.
fn pair_slopes(blocks: &[f64], slopes: &mut Vec<f64>) -> i64 {
    slopes.clear();
    let mut score = 0;
    for (i, a) in blocks.iter().enumerate() {
        for (j, b) in blocks.iter().enumerate().skip(i + 1) {
            let change = b - a;
            if !change.is_nan() {
                score += i64::from(change > 0.0) - i64::from(change < 0.0);
                slopes.push(change / (j - i) as f64);
            }
        }
    }
    score
}

/// Sen's interval: the slopes whose ranks lie `half` pairs about the middle, or the extremes.
fn interval(slopes: &mut [f64], half: f64) -> (f64, f64) {
    let middle = slopes.len() as f64 / 2.0;
    let last = slopes.len().saturating_sub(1);
    let below = (middle - half / 2.0).floor().max(1.0) as usize - 1;
    let above = ((middle + half / 2.0).ceil() as usize).min(last);
    let low = *slopes
        .select_nth_unstable_by(below.min(last), f64::total_cmp)
        .1;
    let high = *slopes.select_nth_unstable_by(above, f64::total_cmp).1;
    (low, high)
}

/// Autocorrelation from one block to the next of what is left without a parabola.
fn lag_one(residuals: &[f64]) -> f64 {
    let count = residuals.len();
    let mut left = [0.0; BLOCKS];
    let left = &mut left[..count];
    for (left, residual) in left.iter_mut().zip(residuals) {
        *left = zero_if_missing(*residual);
    }
    let place = |i: usize| i as f64 - (count - 1) as f64 / 2.0;
    let mean_square = (0..count).map(|i| place(i).powi(2)).sum::<f64>() / count as f64;
    let shapes: [&dyn Fn(usize) -> f64; 3] =
        [&|_| 1.0, &place, &|i| place(i).powi(2) - mean_square];
    for shape in shapes {
        let power: f64 = (0..count).map(|i| shape(i).powi(2)).sum();
        let share: f64 = (0..count).map(|i| shape(i) * left[i]).sum::<f64>() / power;
        for (i, value) in left.iter_mut().enumerate() {
            *value -= share * shape(i);
        }
    }
    let power: f64 = left.iter().map(|value| value * value).sum();
    let product: f64 = left.windows(2).map(|pair| pair[0] * pair[1]).sum();
    (product / power.max(1e-12)).clamp(0.0, MAX_RHO)
}

/// The largest rise between parts as a share of all, and how many there are.
fn rises(segments: &[f64; SEGMENTS]) -> (f64, usize) {
    let changes = segments.windows(2).map(|pair| pair[1] - pair[0]);
    let rises = changes.filter(|change| *change > 0.0);
    let (mut total, mut largest, mut count) = (0.0, 0.0_f64, 0);
    for rise in rises {
        total += rise;
        largest = largest.max(rise);
        count += 1;
    }
    (largest / f64::max(total, 1e-12), count)
}

/// How much better the best step fits than the best line.
fn step_over_line(blocks: &[f64]) -> f64 {
    const LEAST: usize = 4;
    let count = blocks.len() as f64;
    let mean = blocks.iter().sum::<f64>() / count;
    let centred = || blocks.iter().map(|value| value - mean);
    let total: f64 = centred().map(|value| value * value).sum();
    let place = |i: usize| i as f64 - (count - 1.0) / 2.0;
    let shared: f64 = centred()
        .enumerate()
        .map(|(i, value)| place(i) * value)
        .sum();
    let spread: f64 = (0..blocks.len()).map(|i| place(i).powi(2)).sum();
    let (mut sum, mut gain) = (0.0, 0.0_f64);
    for (i, value) in centred().enumerate() {
        if (LEAST..=blocks.len() - LEAST).contains(&i) {
            let (before, after) = (i as f64, count - i as f64);
            gain = gain.max(sum * sum / before + sum * sum / after);
        }
        sum += value;
    }
    (total - shared * shared / spread) / (total - gain).max(1e-12 + 1e-9 * total)
}
