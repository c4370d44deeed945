//! How high a series has been: the highest values of equal stretches of all of its past, and what they say of higher ones.

/// Stretches kept: when they are too many, each two become one of twice the length.
const KEPT: usize = 32;

/// Values before anything can be said.
const LEAST: u32 = 24;

/// So many of the highest stretches are the tail.
const TAIL: usize = 8;

/// A value is beyond the past if in as much time again fewer than this many such values are to be expected.
const EXPECTED: f64 = 0.01;

/// The past of a series of logarithms.
#[derive(Debug)]
pub struct Extremes {
    maxima: Vec<f32>,
    /// Values in a stretch, and in the one that is being filled.
    length: u32,
    filled: u32,
    highest: f32,
    seen: u32,
}

impl Extremes {
    /// Has seen nothing.
    pub fn new() -> Self {
        Self {
            maxima: Vec::new(),
            length: 1,
            filled: 0,
            highest: f32::NEG_INFINITY,
            seen: 0,
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.maxima.capacity() * size_of::<f32>()
    }

    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.seen = self.seen.saturating_add(1);
        self.highest = self.highest.max(value as f32);
        self.filled += 1;
        if self.filled < self.length {
            return;
        }
        if self.maxima.len() == KEPT {
            for i in 0..KEPT / 2 {
                self.maxima[i] = self.maxima[2 * i].max(self.maxima[2 * i + 1]);
            }
            self.maxima.truncate(KEPT / 2);
            self.length *= 2;
        }
        if self.filled == self.length {
            self.maxima.push(self.highest);
            (self.filled, self.highest) = (0, f32::NEG_INFINITY);
        }
    }

    /// What a value must exceed to be more than the past leads to expect; `None` as long as there is too little of it.
    ///
    /// At least, it is the highest of all. And it lies beyond where the tail ends: tails of rates and waits fall off as a
    /// power, which is exponentially for their logarithms, by the tail's mean excess (Hill's estimate).
    pub fn bound(&self) -> Option<f64> {
        if self.seen < LEAST {
            return None;
        }
        let mut highest = [f32::NEG_INFINITY; KEPT + 1];
        let count = self.maxima.len();
        highest[..count].copy_from_slice(&self.maxima);
        highest[count] = self.highest;
        let known = if self.filled > 0 { count + 1 } else { count };
        let highest = &mut highest[..known];
        highest.sort_unstable_by(|a, b| b.total_cmp(a));
        let from = f64::from(highest[TAIL]);
        let excess = highest[..TAIL].iter().map(|value| f64::from(*value) - from);
        let mean = excess.sum::<f64>() / TAIL as f64;
        let end = from + mean * (TAIL as f64 / EXPECTED).ln();
        Some(end.max(f64::from(highest[0])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::Noise;

    fn of(values: impl IntoIterator<Item = f64>) -> Extremes {
        let mut extremes = Extremes::new();
        for value in values {
            extremes.add(value);
        }
        extremes
    }

    #[test]
    fn nothing_is_known_of_a_short_past() {
        assert_eq!(of([0.0; 23]).bound(), None);
        assert_eq!(of([0.0; 24]).bound(), Some(0.0));
    }

    /// All of the past counts, however long ago, and the stretch that is being filled.
    #[test]
    fn the_highest_of_all_is_never_forgotten() {
        for at in [0, 1, 31, 32, 33, 500, 9_998, 9_999] {
            let mut values = vec![0.0; 10_000];
            values[at] = 3.0;
            let extremes = of(values);
            assert!(extremes.bound().is_some_and(|bound| bound >= 3.0), "{at}");
            assert!(extremes.maxima.len() <= KEPT && extremes.maxima.capacity() <= 2 * KEPT);
        }
    }

    /// Of exponential tails a bound is passed about as often as it says: once in a hundred times the past.
    #[test]
    fn a_tail_is_seldom_passed() {
        let mut noise = Noise::new(1);
        let mut exponential = || -(1.0 - noise.uniform()).ln();
        let mut passed = 0;
        for _ in 0..500 {
            let past = of((0..512).map(|_| exponential()));
            let bound = past.bound().expect("512 values");
            passed += (0..512).filter(|_| exponential() > bound).count();
        }
        // 5 of 500 if the tail were known; it is estimated from eight values.
        assert!((1..40).contains(&passed), "{passed}");
    }
}
