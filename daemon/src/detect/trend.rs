//! Robust statistics of a short series: Theil-Sen slope with its interval, Mann-Kendall, residual scale.
//!
//! Medians and ranks only, so that a fifth of wild values moves nothing. All of it is O(n²) in the number of
//! points, which is 60 at most: 1,770 pairs.

/// Half-width of a 95 % interval, in standard deviations.
const NORMAL_95: f64 = 1.959_964;

/// Makes the median absolute deviation an estimate of a normal distribution's standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Largest autocorrelation corrected for. At 0.95, 39 points say as much as one independent point would.
const MAX_RHO: f64 = 0.95;

/// Share of the residuals' variance that a bend must explain to count as the shape of the rise. Noise with an
/// autocorrelation of 0.8 bends too, but seldom that cleanly.
const BEND_SHARE: f64 = 0.75;

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Time in seconds.
    pub x: f64,
    /// Value.
    pub y: f64,
}

/// A rise of so many residual deviations is no wander of the noise, however much that depends on itself from one
/// window to the next: the correction for autocorrelation is then left out. Without this, a leak of 4.15 MiB a
/// window that became one of 4.02 was not flagged within a minute, for that bend was all its noise. Noise with an
/// autocorrelation of 0.99 stays below 15.
const BEYOND_NOISE: f64 = 30.0;

/// The trend of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Theil-Sen slope, per second.
    pub slope: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// Level of the fitted line at the first point.
    pub first: f64,
    /// Level of the fitted line at the last point.
    pub last: f64,
    /// Standard deviation about the line, from the median absolute deviation.
    pub sigma: f64,
    /// Mann-Kendall statistic, corrected for ties and for the autocorrelation of the residuals.
    pub z: f64,
    /// The same without the correction for autocorrelation.
    pub z_uncorrected: f64,
}

impl Trend {
    /// How far the line rises from the first point to the last.
    pub fn rise(&self) -> f64 {
        self.last - self.first
    }

    /// The statistic to decide by: corrected for autocorrelation, unless the rise is beyond all noise.
    pub fn significance(&self) -> f64 {
        if self.rise() > BEYOND_NOISE * self.sigma {
            self.z_uncorrected
        } else {
            self.z
        }
    }
}

/// Measures the trend. `None` for fewer than three points, and for values that are not finite. The times must
/// rise strictly. `scratch` is only there to be reused.
pub fn trend(points: &[Point], scratch: &mut Vec<f64>) -> Option<Trend> {
    let (first, last) = (points.first()?, points.last()?);
    let usable = points.len() >= 3
        && points
            .iter()
            .all(|point| point.x.is_finite() && point.y.is_finite())
        && points.windows(2).all(|pair| pair[0].x < pair[1].x);
    if !usable {
        return None;
    }
    let deviation = score_variance(points, scratch).sqrt();
    let score = pair_slopes(points, scratch);
    let middle = median(scratch)?;

    // The slopes are ready; the residuals need the buffer too, and fit behind them.
    let pairs = scratch.len();
    scratch.extend(
        points
            .iter()
            .map(|point| point.y - middle * (point.x - first.x)),
    );
    let level = median(&mut scratch[pairs..])?;
    let fitted = |point: &Point| level + middle * (point.x - first.x);
    let rho = lag_one(points, fitted);
    for (residual, point) in scratch[pairs..].iter_mut().zip(points) {
        *residual = (point.y - fitted(point)).abs();
    }
    let sigma = MAD_TO_SIGMA * median(&mut scratch[pairs..])?;
    scratch.truncate(pairs);

    let widening = ((1.0 + rho) / (1.0 - rho)).sqrt();
    let (low, high) = interval(scratch, NORMAL_95 * deviation * widening);
    Some(Trend {
        slope: middle,
        low,
        high,
        first: level,
        last: fitted(last),
        sigma,
        z: standardise(score, deviation) / widening,
        z_uncorrected: standardise(score, deviation),
    })
}

/// The median. `None` if there are no values. Reorders them.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if !even {
        return Some(upper);
    }
    let lower = below.iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(lower, upper))
}

/// The slopes of all pairs, into `slopes`. Returns Mann-Kendall's score: rising pairs less falling ones.
fn pair_slopes(points: &[Point], slopes: &mut Vec<f64>) -> i64 {
    slopes.clear();
    let mut score = 0;
    for (i, a) in points.iter().enumerate() {
        for b in &points[i + 1..] {
            let change = b.y - a.y;
            score += i64::from(change > 0.0) - i64::from(change < 0.0);
            slopes.push(change / (b.x - a.x));
        }
    }
    score
}

/// Variance of Mann-Kendall's score if there is no trend, less what ties take from it. Zero if all are equal.
fn score_variance(points: &[Point], scratch: &mut Vec<f64>) -> f64 {
    let term = |count: usize| {
        let count = count as f64;
        count * (count - 1.0) * (2.0 * count + 5.0) / 18.0
    };
    scratch.clear();
    scratch.extend(points.iter().map(|point| point.y));
    scratch.sort_unstable_by(f64::total_cmp);
    let ties: f64 = scratch
        .chunk_by(|a, b| a.total_cmp(b).is_eq())
        .map(|equal| term(equal.len()))
        .sum();
    (term(points.len()) - ties).max(0.0)
}

/// The score in standard deviations, with the continuity correction.
fn standardise(score: i64, deviation: f64) -> f64 {
    if deviation > 0.0 {
        (score - score.signum()) as f64 / deviation
    } else {
        0.0
    }
}

/// Sen's interval: the slopes whose ranks lie `half` pairs about the middle. If that is more than there are (the
/// score is then within two deviations of nothing, and no decision rests on it), the extremes.
fn interval(slopes: &mut [f64], half: f64) -> (f64, f64) {
    let pairs = slopes.len();
    let middle = pairs as f64 / 2.0;
    let below = (middle - half / 2.0).floor().max(1.0) as usize - 1;
    let above = ((middle + half / 2.0).ceil() as usize).min(pairs - 1);
    let low = *slopes.select_nth_unstable_by(below, f64::total_cmp).1;
    let high = *slopes.select_nth_unstable_by(above, f64::total_cmp).1;
    (low, high)
}

/// Autocorrelation of the residuals from one point to the next, within 0 and [`MAX_RHO`]. The bend of a rise that
/// quickens is taken out first if it is most of what the line leaves: it is no noise then, and would hide exactly
/// the leaks that matter most.
fn lag_one(points: &[Point], fitted: impl Fn(&Point) -> f64) -> f64 {
    let count = points.len() as f64;
    let mean = |value: &dyn Fn(&Point) -> f64| points.iter().map(value).sum::<f64>() / count;
    let centre = mean(&|point| point.x);
    let spread = mean(&|point| (point.x - centre).powi(2));
    let bend = |point: &Point| (point.x - centre).powi(2) - spread;
    let off_line = |point: &Point| point.y - fitted(point);
    let off_level = mean(&off_line);
    let off_power = mean(&|point| (off_line(point) - off_level).powi(2));
    let (shared, bend_power) = (
        mean(&|point| bend(point) * off_line(point)),
        mean(&|point| bend(point).powi(2)),
    );
    let explains = shared > 0.0 && shared * shared > BEND_SHARE * bend_power * off_power;
    let quickens = if explains { shared / bend_power } else { 0.0 };

    let residual = |point: &Point| off_line(point) - quickens * bend(point);
    let level = mean(&residual);
    let power = mean(&|point| (residual(point) - level).powi(2));
    // Rounding errors about a perfect line correlate too: below a billionth of the values they are nothing.
    let size = points.iter().map(|point| point.y.abs()).fold(0.0, f64::max);
    if power.sqrt() <= 1e-9 * size {
        return 0.0;
    }
    let product: f64 = points
        .windows(2)
        .map(|pair| (residual(&pair[0]) - level) * (residual(&pair[1]) - level))
        .sum();
    // Estimated from n points it comes out low by (1 + 3ρ)/n (Kendall): at 20 points 0.8 would pass for 0.63.
    let estimate = product / (count * power);
    ((estimate * count + 1.0) / (count - 3.0).max(1.0)).clamp(0.0, MAX_RHO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::Noise;

    fn series(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        values
            .into_iter()
            .enumerate()
            .map(|(i, y)| Point { x: i as f64, y })
            .collect()
    }

    fn measure(points: &[Point]) -> Trend {
        trend(points, &mut Vec::new()).expect("a usable series")
    }

    #[test]
    fn a_line_is_measured_exactly() {
        let found = measure(&series((0..30).map(|i| 5.0 + 2.0 * f64::from(i))));
        for (value, expected) in [
            (found.slope, 2.0),
            (found.low, 2.0),
            (found.high, 2.0),
            (found.first, 5.0),
            (found.last, 63.0),
        ] {
            assert!((value - expected).abs() < 1e-9, "{found:?}");
        }
        assert!(found.sigma < 1e-9, "{found:?}");
    }

    #[test]
    fn times_may_be_uneven() {
        let points: Vec<Point> = [0.0, 1.0, 5.0, 6.0, 30.0, 31.5]
            .map(|x| Point {
                x,
                y: 7.0 - 0.5 * x,
            })
            .to_vec();
        let found = measure(&points);
        assert!(
            (found.slope + 0.5).abs() < 1e-12 && found.z < 0.0,
            "{found:?}"
        );
    }

    #[test]
    fn a_fifth_of_outliers_moves_little() {
        let found = measure(&series(
            (0..50).map(|i| if i % 5 == 2 { 1e6 } else { 3.0 * f64::from(i) }),
        ));
        assert!((found.slope - 3.0).abs() < 0.5, "{found:?}");
        assert!(found.first.abs() < 15.0, "{found:?}");
    }

    #[test]
    fn mann_kendall_agrees_with_calculation_by_hand() {
        // 1 2 3 4 5: score 10, variance 5·4·15/18 = 16.667, z = 9/4.0825.
        let score_and_deviation = |values: &[f64]| {
            let points = series(values.iter().copied());
            (
                pair_slopes(&points, &mut Vec::new()),
                score_variance(&points, &mut Vec::new()).sqrt(),
            )
        };
        let (score, deviation) = score_and_deviation(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(score, 10);
        assert!((standardise(score, deviation) - 2.204_54).abs() < 1e-4);
        // 1 2 2 3 3 3: 15 pairs less one tie of 2 and three of 3: score 11; variance
        // (6·5·17 − 2·1·9 − 3·2·11)/18 = (510 − 18 − 66)/18 = 23.667, z = 10/4.8648.
        let (score, deviation) = score_and_deviation(&[1.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        assert_eq!(score, 11);
        assert!((standardise(score, deviation) - 2.055_58).abs() < 1e-4);
        // 3 1 2: pairs −, −, +: score −1, which the continuity correction makes nothing.
        let (score, deviation) = score_and_deviation(&[3.0, 1.0, 2.0]);
        assert_eq!(score, -1);
        assert!(standardise(score, deviation).abs() < 1e-12);
    }

    #[test]
    fn a_rise_that_quickens_stays_significant() {
        let found = measure(&series((0..60).map(|i| f64::from(i * i))));
        assert!(found.z > 10.0, "{found:?}");
        let settling = measure(&series((0..60).map(|i| -f64::from((60 - i) * (60 - i)))));
        assert!(settling.z < 3.0, "{settling:?}");
    }

    #[test]
    fn equal_values_have_no_trend() {
        let found = measure(&series([4.0; 20]));
        assert_eq!((found.slope, found.z, found.sigma), (0.0, 0.0, 0.0));
    }

    #[test]
    fn unusable_series_are_refused() {
        assert_eq!(trend(&series([1.0, 2.0]), &mut Vec::new()), None);
        assert_eq!(trend(&[], &mut Vec::new()), None);
        assert_eq!(
            trend(&series([1.0, f64::NAN, 3.0, 4.0]), &mut Vec::new()),
            None
        );
        assert_eq!(trend(&[Point { x: 1.0, y: 1.0 }; 5], &mut Vec::new()), None);
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn autocorrelation_takes_significance_away() {
        let mut noise = Noise::new(7);
        let white = measure(&series(
            (0..60).map(|i| f64::from(i) + 5.0 * noise.normal()),
        ));
        let mut state = 0.0;
        let wandering = measure(&series((0..60).map(|i| {
            state = 0.9 * state + 2.0 * noise.normal();
            f64::from(i) + state
        })));
        assert!(
            white.z > 6.0 && wandering.z < white.z - 2.0,
            "{white:?} {wandering:?}"
        );
    }

    #[test]
    fn the_interval_covers_the_true_slope() {
        let covered = |points: u32, rho: f64| {
            let runs = (1..=200).filter(|seed| {
                let mut noise = Noise::new(*seed);
                let mut state = 0.0;
                let found = measure(&series((0..points).map(|i| {
                    state = rho * state + noise.normal();
                    0.3 * f64::from(i) + state
                })));
                found.low <= 0.3 && 0.3 <= found.high
            });
            runs.count()
        };
        let counts = [
            covered(12, 0.0),
            covered(30, 0.0),
            covered(60, 0.0),
            covered(60, 0.5),
        ];
        println!("covered of 200: {counts:?}");
        assert!(counts.iter().all(|count| *count >= 180), "{counts:?}");
    }
}
