//! Times far above the usual level, and back: spikes, and what comes at regular intervals.

use super::{
    extremes::Extremes,
    median::{median, median_of},
    shape::MAD_TO_SIGMA,
};

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

/// Gaps between the beginnings of excursions that are remembered, and that are asked for at least.
const GAPS: usize = 10;
const LEAST_GAPS: usize = 4;

/// Gaps are regular if chance would make as many so equal with less than this probability, divided by the square of how
/// many excursions there have been: over a life without end, that adds up to a fifth of it. No gap may be further from
/// their median than this.
const CHANCE: f64 = 0.01;
const IRREGULAR: f64 = 0.35;

/// Shortest median gap, in samples: excursions must end before they can come again, which alone makes short gaps equal.
const SHORTEST: f64 = 6.0;

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
    usual: f32,
    sigma: f32,
    /// Samples of the excursion that goes on, its peak, and when it began, or the last one did.
    above: u32,
    peak: f32,
    began_s: f64,
    /// From the beginning of one to that of the next, and how many there were.
    gaps: [f32; GAPS],
    count: u32,
    /// How high it has been, if spikes are looked for.
    past: Option<Box<Extremes>>,
}

impl Excursions {
    /// Has seen nothing. Is it to look for spikes, too?
    pub fn new(spikes: bool) -> Self {
        Self {
            kept: Vec::new(),
            stride: 1,
            skipped: 0,
            usual: f32::NAN,
            sigma: f32::NAN,
            above: 0,
            peak: f32::NEG_INFINITY,
            began_s: f64::NAN,
            gaps: [f32::NAN; GAPS],
            count: 0,
            past: spikes.then(|| Box::new(Extremes::new())),
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let past = self.past.as_ref();
        let past = past.map_or(0, |past| size_of::<Extremes>() + past.heap_bytes());
        self.kept.capacity() * size_of::<f32>() + past
    }

    /// Adds a sample of such a length; `least` is the least rise worth the name.
    pub fn add(&mut self, now_s: f64, sample_s: f64, value: f64, least: f64) -> Option<Seen> {
        if value.is_nan() {
            return None;
        }
        let (usual, sigma) = self.usual();
        let bound = usual + least.max(EXCURSION_SIGMA * sigma);
        if self.kept.len() >= LEAST_KEPT && value > bound {
            self.rise(now_s, value);
            return None;
        }
        let seen = self.fall(sample_s, least);
        self.remember(value);
        self.keep(value);
        seen
    }

    /// The usual level, and its deviation.
    fn usual(&self) -> (f64, f64) {
        (f64::from(self.usual), f64::from(self.sigma))
    }

    fn rise(&mut self, now_s: f64, value: f64) {
        if self.above == 0 {
            self.gaps.rotate_left(1);
            self.gaps[GAPS - 1] = (now_s - self.began_s) as f32;
            self.began_s = now_s;
            self.peak = f32::NEG_INFINITY;
        }
        self.above += 1;
        self.peak = self.peak.max(value as f32);
        let taken = self.stride * self.kept.len() as u32;
        if self.above > MOVED.max(taken) {
            *self = Self::new(self.past.is_some());
        }
    }

    /// The series is back at its usual level.
    fn fall(&mut self, sample_s: f64, least: f64) -> Option<Seen> {
        let lasted = std::mem::take(&mut self.above);
        if lasted == 0 {
            return None;
        }
        self.count += 1;
        let peak = f64::from(self.peak);
        let (usual, sigma) = self.usual();
        let height = peak - usual;
        let every_s = regular(&self.gaps, f64::from(self.count), sample_s);
        let high = SPIKE_LEAST.max(least).max(SPIKE_SIGMA * sigma);
        let past = self.past.as_ref().and_then(|past| past.bound());
        let beyond = past.is_some_and(|bound| peak > bound);
        let is_spike = lasted <= SPIKE_LENGTH && height > high && beyond;
        self.remember(peak);
        (every_s.is_some() || is_spike).then(|| Seen {
            every_s,
            began_s: self.began_s,
            usual,
            peak,
            sigmas: height / sigma.max(1e-3 * height),
        })
    }

    fn remember(&mut self, value: f64) {
        if let Some(past) = &mut self.past {
            past.add(value);
        }
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
        let mut values = [f64::NAN; KEPT];
        for (value, kept) in values.iter_mut().zip(&self.kept) {
            *value = f64::from(*kept);
        }
        let values = &mut values[..self.kept.len()];
        let usual = median_of(values);
        for value in &mut *values {
            *value = (*value - usual).abs();
        }
        self.usual = usual as f32;
        self.sigma = (MAD_TO_SIGMA * median_of(values)) as f32;
    }
}

/// The gap between excursions, if the last ones are more equal than chance makes them. `count` is how many there have been.
///
/// What comes without memory has exponential gaps. Such a gap is within a share `d` of their median with a probability of
/// (2^d - 2^-d) / 2, and all of them are within `d` of one of them at most as often as the product below says.
fn regular(gaps: &[f32; GAPS], count: f64, sample_s: f64) -> Option<f64> {
    let gaps = gaps.map(f64::from);
    (LEAST_GAPS..=GAPS).find_map(|last| {
        let gaps = &gaps[GAPS - last..];
        if gaps[0].is_nan() {
            return None;
        }
        let median = median(gaps);
        let off = |gap: &f64| (gap / median - 1.0).abs();
        // Gaps are whole samples: equal ones may differ by half of one.
        let most = gaps.iter().map(off).fold(0.5 * sample_s / median, f64::max);
        let within = (most.exp2() - (-most).exp2()) / 2.0;
        let chance = last as f64 * within.powi(last as i32 - 1);
        let regular =
            most <= IRREGULAR && chance * count.powi(2) < CHANCE && median >= SHORTEST * sample_s;
        regular.then_some(median)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::Noise;

    /// All that is seen in samples of a second of noise with what comes on top, as a logarithm.
    fn seen(samples: u32, mut on_top: impl FnMut(u32) -> f64) -> Vec<Seen> {
        let mut excursions = Excursions::new(true);
        let noise = |i: u32| 0.02 * f64::from((i * 7) % 5);
        (0..samples)
            .filter_map(|i| excursions.add(f64::from(i), 1.0, 5.0 + noise(i) + on_top(i), 0.4))
            .collect()
    }

    #[test]
    fn a_spike_is_above_all_that_was_before_and_short() {
        let spikes = seen(400, |i| if (200..203).contains(&i) { 1.5 } else { 0.0 });
        assert_eq!(spikes.len(), 1, "{spikes:?}");
        let spike = spikes[0];
        assert_eq!((spike.every_s, spike.began_s), (None, 200.0));
        assert!((spike.usual - 5.04).abs() < 1e-6 && (spike.peak - 6.58).abs() < 0.05);
        // Seven windows are no spike, and less than a third more is none.
        assert!(seen(400, |i| f64::from(u8::from((200..207).contains(&i)))).is_empty());
        assert!(seen(400, |i| if i == 200 { 0.38 } else { 0.0 }).is_empty());
        // One as high as the one before is what this series does, one of twice the height is not.
        let again = |second: f64| {
            let spikes = seen(400, move |i| match i {
                100 => 1.5,
                307 => second,
                _ => 0.0,
            });
            spikes.len()
        };
        assert_eq!((again(1.4), again(3.0)), (1, 2));
    }

    #[test]
    fn a_new_level_is_taken_for_the_usual_one() {
        assert!(seen(4000, |i| f64::from(u8::from(i > 100))).is_empty());
        let after = seen(4000, |i| {
            f64::from(u8::from(i > 100)) + f64::from(u8::from(i == 3000))
        });
        assert_eq!(after.len(), 1, "{after:?}");
        assert!((after[0].usual - 6.04).abs() < 1e-6, "{after:?}");
    }

    #[test]
    fn jobs_are_periodic_and_chance_is_not() {
        let regular = seen(700, |i| f64::from(u8::from(i > 60 && i % 100 < 3)));
        let every: Vec<f64> = regular.iter().filter_map(|seen| seen.every_s).collect();
        assert!(
            !every.is_empty() && every.iter().all(|every| (every - 100.0).abs() < 1e-6),
            "{regular:?}"
        );
        assert!(
            (regular[0].began_s - 100.0).abs() < 1e-6,
            "the first is a spike: {regular:?}"
        );
        let told = |seen: &[Seen]| seen.iter().filter(|seen| seen.every_s.is_some()).count();
        assert_eq!(
            told(&seen(450, |i| f64::from(u8::from(i % 100 < 3)))),
            0,
            "three gaps"
        );
        // Memoryless, at all rates.
        let mut false_ones = 0;
        for rate in [8.0, 16.0, 40.0, 100.0, 300.0] {
            for seed in 1..=20_u64 {
                let mut noise = Noise::new(seed);
                let chance = seen(4000, |_| f64::from(u8::from(noise.uniform() * rate < 1.0)));
                false_ones += usize::from(told(&chance) > 0);
            }
        }
        assert!(false_ones <= 3, "{false_ones} of 100");
    }
}
