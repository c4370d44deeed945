//! Times far above the usual level, and back: spikes, and what comes at regular intervals.

use super::{median::median_of, shape::MAD_TO_SIGMA};

/// Samples kept of the usual level, over all of the time since it was taken for the usual one: when they are too many, every
/// other one is dropped, and from then on half as many are taken.
const KEPT: usize = 32;

/// Samples before anything is said.
const LEAST_KEPT: usize = 12;

/// What is so far above the usual level, in deviations, is an excursion; a spike is more.
pub const EXCURSION_SIGMA: f64 = 5.0;
pub const SPIKE_SIGMA: f64 = 8.0;

/// Most samples of a spike.
const SPIKE_LENGTH: u32 = 6;

/// Least of a spike, as a logarithm, if the least of an excursion is smaller: a third more.
const SPIKE_LEAST: f64 = 0.3;

/// Beginnings of excursions that are remembered; all of the gaps between them must be within a quarter of their median to
/// be called regular. Four gaps of a process without memory are once in 2,000.
const STARTS: usize = 5;
const REGULAR: f64 = 0.25;

/// Excursions of this many samples, and longer than what the usual level was taken from, are the usual level.
const MOVED: u32 = 64;

/// Something that was seen. Levels are logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// How often it comes, if it does; otherwise it is a spike.
    pub every_s: Option<f64>,
    /// When it began.
    pub began_s: f64,
    /// The usual level.
    pub usual: f64,
    /// The highest one.
    pub peak: f64,
    /// How far that is, in deviations.
    pub sigmas: f64,
}

/// Follows one series of logarithms.
#[derive(Debug)]
pub struct Excursions {
    kept: Vec<f32>,
    /// One in so many samples is kept.
    stride: u32,
    skipped: u32,
    usual: f64,
    sigma: f64,
    /// Samples of the excursion that goes on, its peak, and its beginning.
    above: u32,
    peak: f64,
    began_s: f64,
    /// When the last ones began.
    starts: [f64; STARTS],
    count: u32,
    /// The highest spike that was told.
    told: f64,
    /// The period that was told.
    every_s: f64,
}

impl Excursions {
    /// Has seen nothing.
    pub fn new() -> Self {
        Self {
            kept: Vec::new(),
            stride: 1,
            skipped: 0,
            usual: f64::NAN,
            sigma: f64::NAN,
            above: 0,
            peak: f64::NEG_INFINITY,
            began_s: 0.0,
            starts: [f64::NAN; STARTS],
            count: 0,
            told: f64::NEG_INFINITY,
            every_s: f64::NAN,
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.kept.capacity() * size_of::<f32>()
    }

    /// Adds a sample; `least` is the least rise worth the name.
    pub fn add(&mut self, now_s: f64, value: f64, least: f64) -> Option<Seen> {
        if value.is_nan() {
            return None;
        }
        let bound = self.usual + least.max(EXCURSION_SIGMA * self.sigma);
        if self.kept.len() >= LEAST_KEPT && value > bound {
            self.rise(now_s, value);
            return None;
        }
        let seen = self.fall(least);
        self.keep(value);
        seen
    }

    fn rise(&mut self, now_s: f64, value: f64) {
        if self.above == 0 {
            self.began_s = now_s;
            self.peak = value;
        }
        self.above += 1;
        self.peak = self.peak.max(value);
        let taken = self.stride * self.kept.len() as u32;
        if self.above > MOVED.max(taken) {
            *self = Self {
                every_s: self.every_s,
                ..Self::new()
            };
        }
    }

    /// The series is back at its usual level.
    fn fall(&mut self, least: f64) -> Option<Seen> {
        let lasted = std::mem::take(&mut self.above);
        if lasted == 0 {
            return None;
        }
        self.starts.rotate_left(1);
        self.starts[STARTS - 1] = self.began_s;
        self.count += 1;
        let height = self.peak - self.usual;
        let seen = Seen {
            every_s: None,
            began_s: self.began_s,
            usual: self.usual,
            peak: self.peak,
            sigmas: height / self.sigma.max(1e-3 * height),
        };
        if let Some(every_s) = self.regular() {
            let known = (every_s / self.every_s - 1.0).abs() < REGULAR;
            self.every_s = every_s;
            return (!known).then_some(Seen {
                every_s: Some(every_s),
                ..seen
            });
        }
        let is_spike =
            lasted <= SPIKE_LENGTH && height > SPIKE_LEAST.max(least).max(SPIKE_SIGMA * self.sigma);
        // What comes again and again is no news, unless it is much higher.
        let is_news = self.count <= 3 || height > 1.5 * self.told;
        if !is_spike || !is_news || !self.every_s.is_nan() {
            return None;
        }
        self.told = self.told.max(height);
        Some(seen)
    }

    /// The gap between excursions, if it is always about the same.
    fn regular(&self) -> Option<f64> {
        let mut gaps: [f64; STARTS - 1] =
            std::array::from_fn(|i| self.starts[i + 1] - self.starts[i]);
        if gaps.iter().any(|gap| gap.is_nan()) {
            return None;
        }
        let median = median_of(&mut gaps);
        let regular = gaps
            .iter()
            .all(|gap| (gap - median).abs() < REGULAR * median);
        regular.then_some(median)
    }

    fn keep(&mut self, value: f64) {
        self.skipped += 1;
        if self.skipped < self.stride {
            return;
        }
        self.skipped = 0;
        if self.kept.len() == KEPT {
            let mut odd = false;
            self.kept.retain(|_| {
                odd = !odd;
                odd
            });
            self.stride *= 2;
        }
        self.kept.push(value as f32);
        let mut values: Vec<f64> = self.kept.iter().map(|value| f64::from(*value)).collect();
        self.usual = median_of(&mut values);
        for value in &mut values {
            *value = (*value - self.usual).abs();
        }
        self.sigma = MAD_TO_SIGMA * median_of(&mut values);
    }
}
