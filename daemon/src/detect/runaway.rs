//! Leaks that are too fast for rings: memory or threads that quadruple within minutes.
//!
//! Rings judge nothing by less than five minutes. What will have doubled again within five minutes cannot wait for that.
//! The price is that only a rise like a ruler's passes: hardly any noise, no bend, and nothing like it before.

/// Windows looked at, and skipped at the beginning: the first one may be any part of a start.
const KEPT: usize = 32;
const LEAST: usize = 16;
const WARM_UP: u32 = 1;

/// It must have quadrupled since the first window kept, and double again so soon.
pub const GROWTH: f64 = 4.0;
pub const DOUBLES_WITHIN_S: f64 = 300.0;

/// Speed of the second half compared with the first. A start-up that settles at less than 20 times its first level has
/// quadrupled only when it has gone a sixth of its time constant, and then this is 0.94.
pub const KEEPS_SPEED: std::ops::Range<f64> = 0.95..1.5;

/// Most that the levels may deviate from the line, as a share of the rise. A single step has 0.3.
const NOISE: f64 = 0.04;

/// The last windows of something that stands.
#[derive(Debug)]
pub struct Runaway {
    seen: u32,
    seconds: Vec<f64>,
    levels: Vec<f32>,
}

/// A rise that is too fast to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fast {
    /// When it began, and its level then.
    pub begin_s: f64,
    /// See there.
    pub base: f64,
    /// Level now.
    pub now: f64,
    /// A second.
    pub slope: f64,
    /// Half-width of its 95 % interval.
    pub error: f64,
    /// In standard errors.
    pub z: f64,
    /// Second half compared with the first.
    pub keeps_speed: f64,
    /// Windows looked at.
    pub windows: usize,
}

impl Runaway {
    /// Has seen nothing.
    pub fn new() -> Self {
        Self {
            seen: 0,
            seconds: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// Adds a window.
    pub fn add(&mut self, now_s: f64, level: f64) -> Option<Fast> {
        if level.is_nan() {
            return None;
        }
        self.seen = self.seen.saturating_add(1);
        if self.seen <= WARM_UP {
            return None;
        }
        if self.levels.len() == KEPT {
            self.seconds.remove(0);
            self.levels.remove(0);
        }
        self.seconds.push(now_s);
        self.levels.push(level as f32);
        let (begin_s, first) = self.points().next()?;
        // The cheap look: one comparison a window.
        if self.levels.len() < LEAST || level < GROWTH * first || first <= 0.0 {
            return None;
        }
        self.measure(begin_s, first, level)
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let levels = self.levels.iter().map(|level| f64::from(*level));
        self.seconds.iter().copied().zip(levels)
    }

    fn measure(&self, begin_s: f64, first: f64, level: f64) -> Option<Fast> {
        let count = self.levels.len() as f64;
        let x0 = self.points().map(|(x, _)| x).sum::<f64>() / count;
        let y0 = self.points().map(|(_, y)| y).sum::<f64>() / count;
        let spread: f64 = self.points().map(|(x, _)| (x - x0).powi(2)).sum();
        let shared: f64 = self.points().map(|(x, y)| (x - x0) * (y - y0)).sum();
        let slope = shared / spread;
        let off = |(x, y): (f64, f64)| (y - y0 - slope * (x - x0)).powi(2);
        let variance = self.points().map(off).sum::<f64>() / (count - 2.0);
        let error = (variance / spread).sqrt();
        let keeps_speed = self.keeps_speed();
        let rises = self.levels.windows(2).filter(|pair| pair[1] >= pair[0]);
        let steady = rises.count() + 1 >= self.levels.len() - 1;
        let fast = slope * DOUBLES_WITHIN_S >= level;
        let quiet = variance.sqrt() <= NOISE * (level - first);
        let straight = quiet && steady && KEEPS_SPEED.contains(&keeps_speed);
        (fast && straight).then_some(Fast {
            begin_s,
            base: first,
            now: level,
            slope,
            error: 1.96 * error,
            z: slope / error.max(1e-6 * slope),
            keeps_speed,
            windows: self.levels.len(),
        })
    }

    /// From the levels of the first, middle and last three windows: single ones come a little early or late.
    fn keeps_speed(&self) -> f64 {
        let level = |at: usize| {
            let part = self.points().skip(at).take(3);
            let sum = part.fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
            (sum.0 / 3.0, sum.1 / 3.0)
        };
        let last = self.levels.len() - 3;
        let (a, b, c) = (level(0), level(last / 2), level(last));
        ((c.1 - b.1) / (c.0 - b.0)) / ((b.1 - a.1) / (b.0 - a.0)).max(1e-12)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.seconds.capacity() * size_of::<f64>() + self.levels.capacity() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of such a length with these levels; the first rise that is found, and after how many windows.
    fn found(seconds: f64, levels: impl IntoIterator<Item = f64>) -> Option<(usize, Fast)> {
        let mut runaway = Runaway::new();
        levels.into_iter().enumerate().find_map(|(i, level)| {
            let fast = runaway.add(seconds * (i + 1) as f64, level)?;
            Some((i + 1, fast))
        })
    }

    #[test]
    fn a_straight_rise_to_four_times_the_level_cannot_wait() {
        let (windows, fast) =
            found(2.0, (0..40).map(|i| 100.0 + 50.0 * f64::from(i))).expect("a runaway");
        // 150 is the first level kept: it has quadrupled at 600, and 16 windows are asked for.
        assert_eq!((windows, fast.windows), (17, 16));
        assert!((fast.base - 150.0).abs() < 1e-9 && (fast.now - 900.0).abs() < 1e-9);
        assert!(
            (fast.begin_s - 4.0).abs() < 1e-9 && (fast.slope - 25.0).abs() < 1e-6,
            "{fast:?}"
        );
        assert!(
            fast.error < 1e-3 && fast.z > 1e5 && (fast.keeps_speed - 1.0).abs() < 1e-6,
            "{fast:?}"
        );
        // With a fifth of the speed it has quadrupled only later.
        let (windows, fast) =
            found(2.0, (0..40).map(|i| 200.0 + 30.0 * f64::from(i))).expect("a runaway");
        assert_eq!((windows, fast.windows), (25, 24));
    }

    #[test]
    fn what_is_slower_can_wait() {
        // It doubles again in more than five minutes.
        assert!(found(30.0, (0..40).map(|i| 100.0 + 50.0 * f64::from(i))).is_none());
        assert!(found(10.0, (0..40).map(|i| 100.0 + 50.0 * f64::from(i))).is_some());
        // It does not quadruple within 32 windows.
        assert!(found(2.0, (0..80).map(|i| 500.0 + 40.0 * f64::from(i))).is_none());
        assert!(
            found(2.0, (0..80).map(|_| f64::NAN)).is_none()
                && found(2.0, (0..80).map(f64::from).map(|i| -i)).is_none()
        );
    }

    #[test]
    fn bends_steps_and_noise_are_no_lines() {
        let settles =
            |tau: f64| (0..60).map(move |i| 100.0 + 3000.0 * (1.0 - (-f64::from(i) / tau).exp()));
        assert!(found(2.0, settles(40.0)).is_none());
        assert!(
            found(2.0, (0..60).map(|i| 100.0 * 1.2_f64.powi(i))).is_none(),
            "it quickens"
        );
        assert!(found(2.0, (0..60).map(|i| if i < 20 { 100.0 } else { 900.0 })).is_none());
        let noisy = |share: f64| {
            (0..60).map(move |i| {
                100.0 + 50.0 * f64::from(i) * if i % 2 == 0 { 1.0 } else { 1.0 - share }
            })
        };
        assert!(found(2.0, noisy(0.0)).is_some() && found(2.0, noisy(0.3)).is_none());
        // One fall is forgiven, two are not.
        let falls = |at: [i32; 2]| {
            (0..18).map(move |i| 100.0 + 50.0 * f64::from(if at.contains(&i) { i - 2 } else { i }))
        };
        assert!(found(2.0, falls([9, 9])).is_some() && found(2.0, falls([7, 11])).is_none());
    }
}
