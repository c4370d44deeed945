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

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(value: impl FnMut(usize) -> f64) -> [f64; BLOCKS] {
        std::array::from_fn(value)
    }

    fn shape(blocks: &[f64]) -> Shape {
        Shape::of(blocks, &mut Vec::new()).expect("no blocks are missing")
    }

    /// Noise without trend and with next to no autocorrelation.
    fn noise(i: usize) -> f64 {
        [0.3, -0.9, 0.8, -0.1, -0.6, 0.9, -0.4, 0.1][(i + i / 8 * 3) % 8]
    }

    #[test]
    fn a_line_is_a_line() {
        let shape = shape(&ring(|i| 10.0 + 2.0 * i as f64));
        assert!((shape.slope - 2.0).abs() < 1e-9 && (shape.rise() - 62.0).abs() < 1e-9);
        assert!(shape.sigma < 1e-9 && shape.step_over_line < 1e-6);
        // All 496 pairs rise; one is taken off for continuity.
        let deviation = (32.0_f64 * 31.0 * 69.0 / 18.0).sqrt();
        assert!(
            (shape.z - 495.0 / deviation).abs() < 1e-9
                && (shape.significance() - shape.z).abs() < 1e-9
        );
        let outline = &shape.outline;
        assert!(
            (outline.base() - 17.0).abs() < 1e-9
                && (outline.middle() - 41.0).abs() < 1e-9
                && (outline.top() - 65.0).abs() < 1e-9
        );
        assert_eq!(outline.rising, 7);
        assert!(
            (outline.largest_jump - 1.0 / 7.0).abs() < 1e-9
                && (outline.keeps_speed() - 1.0).abs() < 1e-9
        );
    }

    #[test]
    fn a_step_is_better_fitted_by_a_step() {
        let step = shape(&ring(|i| if i < 16 { 1.0 } else { 5.0 } + 0.1 * noise(i)));
        assert!(step.step_over_line > 5.0, "{step:?}");
        assert!(step.outline.largest_jump > 0.9, "{step:?}");
        let line = shape(&ring(|i| i as f64 + noise(i)));
        assert!(line.step_over_line < 0.5, "{line:?}");
        // At the edge, a step of three blocks is not looked for.
        let edge = shape(&ring(|i| if i < 3 { 0.0 } else { 1.0 }));
        assert!(edge.step_over_line < step.step_over_line);
    }

    #[test]
    fn noise_is_measured_about_the_line_and_significance_is_small() {
        let flat = shape(&ring(|i| 100.0 + noise(i)));
        assert!(
            flat.z.abs() < 1.5 && (0.3..1.2).contains(&flat.sigma),
            "{flat:?}"
        );
        let rising = shape(&ring(|i| 100.0 + i as f64 + noise(i)));
        assert!(
            (rising.slope - 1.0).abs() < 0.05 && (0.3..1.2).contains(&rising.sigma),
            "{rising:?}"
        );
        assert!(rising.rho < 0.3, "{rising:?}");
        let falling = shape(&ring(|i| 100.0 - i as f64));
        assert!(
            falling.z < -8.0 && falling.rise() < -30.0 && falling.outline.rising == 0,
            "{falling:?}"
        );
    }

    /// Waves about the line are correlated noise: they make a trend less sure. A parabola is no noise.
    #[test]
    fn what_depends_on_itself_counts_less() {
        let waves = shape(&ring(|i| 0.2 * i as f64 + 3.0 * (i as f64 * 0.7).sin()));
        assert!(
            waves.rho > 0.5 && waves.significance() < 0.6 * waves.z,
            "{waves:?}"
        );
        // Whatever it is measured in.
        for unit in [1e-3, 1e3] {
            let same = shape(&ring(|i| {
                unit * (0.2 * i as f64 + 3.0 * (i as f64 * 0.7).sin())
            }));
            assert!((same.rho - waves.rho).abs() < 1e-9, "{same:?}");
        }
        let bend = shape(&ring(|i| (i * i) as f64 / 31.0 + noise(i)));
        assert!(bend.rho < 0.3, "{bend:?}");
        assert!(bend.outline.keeps_speed() > 1.5, "{bend:?}");
        let clean = shape(&ring(|i| (i * i) as f64));
        assert!(clean.rho <= MAX_RHO);
    }

    #[test]
    fn some_blocks_may_be_missing() {
        let mut blocks = ring(|i| 3.0 * i as f64);
        for i in [1, 2, 9, 10, 15, 16, 23, 24, 30, 31] {
            blocks[i] = f64::NAN;
        }
        let known = shape(&blocks);
        assert!(
            (known.slope - 3.0).abs() < 1e-9 && known.step_over_line < 0.2,
            "{known:?}"
        );
        let deviation = (22.0_f64 * 21.0 * 49.0 / 18.0).sqrt();
        assert!(
            (known.z - (22.0 * 21.0 / 2.0 - 1.0) / deviation).abs() < 1e-9,
            "{known:?}"
        );
        blocks[5] = f64::NAN;
        assert!(Shape::of(&blocks, &mut Vec::new()).is_none());
        // Of 24 blocks, seven and no more.
        let mut shorter = blocks[..24].to_vec();
        shorter[5] = 15.0;
        shorter[1] = 3.0;
        assert!(Shape::of(&shorter, &mut Vec::new()).is_some());
        shorter[3..5].fill(f64::NAN);
        assert!(Shape::of(&shorter, &mut Vec::new()).is_none());
    }

    #[test]
    fn the_interval_holds_the_slope_and_is_wider_for_what_depends_on_itself() {
        let blocks = ring(|i| i as f64 + noise(i));
        let exact = shape(&blocks);
        let (low, high) = exact.interval(&blocks, &mut Vec::new());
        assert!(low < 1.0 && 1.0 < high && high - low < 0.2, "{low} {high}");
        let correlated = Shape { rho: 0.8, ..exact };
        let (lower, higher) = correlated.interval(&blocks, &mut Vec::new());
        assert!(lower < low && higher > high && higher - lower > 2.0 * (high - low));
    }
}
