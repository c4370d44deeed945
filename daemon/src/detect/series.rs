//! One series: the windows it remembers, and whether they climb.
//!
//! Mann-Kendall alone raises a false alarm on nine of ten healthy series when it is asked often enough. It
//! measures here; what decides is the shape of the rise, and that it persists.

use super::{
    Config,
    trend::{Point, Trend, median, trend},
};
use crate::stream::{Evidence, Metric, Moment};

/// Significance that raises. 3.3 deviations are once in 2,000 by chance, for one look at independent points.
const RAISE_Z: f64 = 3.3;

/// A rise of fewer residual deviations than this is noise, with a full ring. With fewer points chance does more,
/// and hides its autocorrelation better: the bound grows inversely, to 15 at 12 points of 60.
const RISE_SIGMA: f64 = 3.0;

/// Evaluations remembered, and how many of them must pass: one lucky window raises nothing.
const EVALUATIONS: u32 = 5;
const PASSES: u32 = 3;

/// A climb is doubted once the newer half of the ring may be level (its interval reaches zero) and has less than
/// this share of the slope that raised the flag: the distance to what raises is the hysteresis. The interval alone,
/// or a lower bound on the significance, cleared noisy leaks three to five times in 500 windows.
const DOUBT_SLOPE: f64 = 0.25;

/// Evaluations in a row that must speak against a climb before it is over.
const AGAINST: u32 = 10;

/// The ring in six parts for the shape: two points each at the least length, ten in a full ring.
const SEGMENTS: usize = 6;

/// Largest share of all rises between segments that one of them may have. A line has a fifth; a step, if it
/// falls between two segments, has all, and half if it falls in the middle of one.
const LARGEST_RISE: f64 = 0.55;

/// Of the five changes between segments, so many must rise by at least a twentieth of the whole. The two halves
/// of a step are two, two steps are four at most only if noise helps.
const RISING: usize = 4;
const RISING_SHARE: f64 = 0.05;

/// Least speed of the last third compared with the first. An exponential that settles has e^(-span/3τ): 0.7 tells
/// it from a line once the ring spans 1.1 time constants. A young ring gets the stricter figure (0.5 time
/// constants), for it is young rings that see start-ups.
const KEEPS_SPEED: f64 = 0.7;
const KEEPS_SPEED_YOUNG: f64 = 0.85;

/// Share of the rise that must lie above everything held before the ring: a sawtooth longer than the ring and
/// noise that wanders come back to where they were, a leak does not.
const NOVELTY: f64 = 0.5;

/// A record of a raised flag's progress each time its rise has grown by half.
const UPDATE_GROWTH: f64 = 1.5;

/// The least rise worth a flag: an absolute one, or a share of the baseline if that is more.
struct Effect {
    absolute: f64,
    share: f64,
}

impl Effect {
    const fn of(metric: Metric) -> Self {
        match metric {
            // glibc takes 132 KiB at a time from the kernel and jemalloc and Go a few times that: a handful of
            // such chunks is no trend. Large services breathe by a percent or two.
            Metric::CommittedBytes => Self {
                absolute: 1_048_576.0,
                share: 0.03,
            },
            // 16 pages a second: less is a thread's stack now and then. Rates vary with load by a quarter.
            Metric::MappedRate => Self {
                absolute: 65_536.0,
                share: 0.3,
            },
            // A pool that gains a worker or two has not begun to leak.
            Metric::ThreadsLive => Self {
                absolute: 3.0,
                share: 0.12,
            },
            // An idle host shows a p99 of 80 us with peaks of 400 us: below 200 us of change nothing is felt.
            Metric::DelayP99 => Self {
                absolute: 200_000.0,
                share: 0.5,
            },
        }
    }

    fn least(&self, baseline: f64) -> f64 {
        self.absolute.max(self.share * baseline)
    }
}

/// What a window changed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which way.
    pub change: Change,
    /// When the climb began.
    pub since: Moment,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Which way a window changed a series' state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It climbs.
    Raised,
    /// It has climbed much further.
    Updated,
    /// It does not climb any more.
    Cleared,
}

/// A climb that was reported.
#[derive(Clone, Copy, Debug)]
struct Climb {
    since: Moment,
    /// Level at its beginning.
    baseline: f64,
    /// Slope when it was raised.
    slope: f64,
    /// Rise at the last record.
    reported: f64,
    /// Evaluations in a row that spoke against it.
    against: u32,
}

/// One metric of one process or thread.
#[derive(Debug)]
pub struct Series {
    effect: Effect,
    /// Time of the first point; the others count from here.
    origin: Moment,
    /// The last points, oldest first.
    points: Vec<Point>,
    /// The value that left the ring last.
    left: f64,
    /// Highest level that two successive points before the ring held. One point is a spike.
    ceiling: f64,
    /// The last evaluations, newest in the lowest bit.
    passed: u32,
    climb: Option<Climb>,
}

impl std::fmt::Debug for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} or {} %", self.absolute, self.share * 100.0)
    }
}

impl Series {
    /// An empty series that begins at `origin`.
    pub fn new(metric: Metric, origin: Moment) -> Self {
        Self {
            effect: Effect::of(metric),
            origin,
            points: Vec::new(),
            left: f64::NEG_INFINITY,
            ceiling: f64::NEG_INFINITY,
            passed: 0,
            climb: None,
        }
    }

    /// Adds a value and says what it changed. Times that do not rise and values that are not finite are skipped.
    pub fn feed(
        &mut self,
        ts: Moment,
        value: f64,
        config: &Config,
        scratch: &mut Vec<f64>,
    ) -> Option<Finding> {
        let x = ts.0.checked_sub(self.origin.0)? as f64 / 1e9;
        if !value.is_finite() || self.points.last().is_some_and(|last| x <= last.x) {
            return None;
        }
        self.remember(Point { x, y: value }, config.horizon);
        if self.points.len() < config.min_windows.max(2 * SEGMENTS) {
            return None;
        }
        match self.climb {
            Some(climb) => self.follow(climb, scratch),
            None => self.judge(config, scratch),
        }
    }

    fn remember(&mut self, point: Point, horizon: usize) {
        if self.points.len() >= horizon.max(2 * SEGMENTS) {
            let old = self.points.remove(0).y;
            self.ceiling = self.ceiling.max(old.min(self.left));
            self.left = old;
        }
        self.points.push(point);
    }

    /// Nothing is raised: does it climb?
    fn judge(&mut self, config: &Config, scratch: &mut Vec<f64>) -> Option<Finding> {
        let found = if self.may_climb(scratch) {
            trend(&self.points, scratch)
        } else {
            None
        };
        let found = found.filter(|found| self.climbs(found, config, scratch));
        self.passed = (self.passed << 1 | u32::from(found.is_some())) & ((1 << EVALUATIONS) - 1);
        let found = found.filter(|_| self.passed.count_ones() >= PASSES)?;

        self.passed = 0;
        let climb = Climb {
            since: self.onset(&found),
            baseline: found.first,
            slope: found.slope,
            reported: found.rise(),
            against: 0,
        };
        self.climb = Some(climb);
        Some(self.finding(Change::Raised, climb, &found, None))
    }

    /// The cheap look that spares flat series the full one: is the last quarter's median above the first's by half
    /// the least rise? (On a line the medians lie three quarters of the rise apart.)
    fn may_climb(&self, scratch: &mut Vec<f64>) -> bool {
        let quarter = self.points.len() / 4;
        let first = level(&self.points[..quarter], scratch);
        let last = level(&self.points[self.points.len() - quarter..], scratch);
        last - first >= 0.5 * self.effect.least(first)
    }

    fn climbs(&self, found: &Trend, config: &Config, scratch: &mut Vec<f64>) -> bool {
        let missing = config.horizon as f64 / self.points.len() as f64;
        let significant = found.significance() > RAISE_Z
            && found.low > 0.0
            && found.rise() > RISE_SIGMA * missing.max(1.0) * found.sigma;
        significant
            && found.rise() >= self.effect.least(found.first)
            && found.last >= self.ceiling + NOVELTY * found.rise()
            && self.rises_throughout(scratch)
            && self.keeps_its_speed(config, scratch)
    }

    /// Not one step or two, but on most of the way.
    fn rises_throughout(&self, scratch: &mut Vec<f64>) -> bool {
        let mut levels = [0.0; SEGMENTS];
        for (i, level_of_segment) in levels.iter_mut().enumerate() {
            *level_of_segment = level(self.part(i, SEGMENTS), scratch);
        }
        let rises = || levels.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0));
        let total: f64 = rises().sum();
        let largest = rises().fold(0.0, f64::max);
        let rising = rises().filter(|rise| *rise > RISING_SHARE * total).count();
        largest <= LARGEST_RISE * total && rising >= RISING
    }

    /// Not the bend of a start-up or a cache that fills.
    fn keeps_its_speed(&self, config: &Config, scratch: &mut Vec<f64>) -> bool {
        let mut third = |i| {
            let part = self.part(i, 3);
            let x = part.iter().map(|point| point.x).sum::<f64>() / part.len() as f64;
            (x, level(part, scratch))
        };
        let (first, middle, last) = (third(0), third(1), third(2));
        let speed = |a: (f64, f64), b: (f64, f64)| (b.1 - a.1) / (b.0 - a.0);
        let share = if self.points.len() < config.horizon {
            KEEPS_SPEED_YOUNG
        } else {
            KEEPS_SPEED
        };
        speed(middle, last) >= share * speed(first, middle)
    }

    /// Part `i` of `parts` of about the same length.
    fn part(&self, i: usize, parts: usize) -> &[Point] {
        let count = self.points.len();
        &self.points[count * i / parts..count * (i + 1) / parts]
    }

    /// The last point no higher than a tenth of the rise above the baseline.
    fn onset(&self, found: &Trend) -> Moment {
        let bound = found.first + 0.1 * found.rise();
        let x = self
            .points
            .iter()
            .rev()
            .find(|point| point.y <= bound)
            .or(self.points.first())
            .map_or(0.0, |point| point.x);
        Moment(self.origin.0 + (x * 1e9).round() as u64)
    }

    /// A climb is raised: does it go on?
    fn follow(&mut self, mut climb: Climb, scratch: &mut Vec<f64>) -> Option<Finding> {
        let count = self.points.len();
        let found = trend(&self.points, scratch)?;
        let recent = trend(&self.points[count / 2..], scratch)?;
        let against = recent.low <= 0.0 && recent.slope < DOUBT_SLOPE * climb.slope;
        climb.against = if against { climb.against + 1 } else { 0 };
        self.climb = Some(climb);

        // Three points, for a single dip is not a return.
        if level(&self.points[count - 3..], scratch) < climb.baseline {
            return Some(self.clear(climb, &found, "it fell back to where the climb began"));
        }
        if climb.against >= AGAINST {
            return Some(self.clear(climb, &found, "it has stopped rising"));
        }
        let rise = found.last - climb.baseline;
        if against || rise < UPDATE_GROWTH * climb.reported {
            return None;
        }
        climb.reported = rise;
        self.climb = Some(climb);
        Some(self.finding(Change::Updated, climb, &found, None))
    }

    /// Ends a climb. The next one must show itself in new points, above the level reached now.
    fn clear(&mut self, climb: Climb, found: &Trend, why: &str) -> Finding {
        let finding = self.finding(Change::Cleared, climb, found, Some(why.to_owned()));
        self.ceiling = self.ceiling.max(found.last);
        self.points.clear();
        self.climb = None;
        finding
    }

    fn finding(
        &self,
        change: Change,
        climb: Climb,
        found: &Trend,
        cleared_because: Option<String>,
    ) -> Finding {
        const HOUR: f64 = 3600.0;
        let evidence = Evidence {
            baseline: climb.baseline,
            now: found.last,
            slope_per_hour: found.slope * HOUR,
            slope_low_per_hour: found.low * HOUR,
            slope_high_per_hour: found.high * HOUR,
            z: found.significance(),
            windows: self.points.len(),
            cleared_because,
        };
        Finding {
            change,
            since: climb.since,
            evidence,
        }
    }
}

/// Median level of some points; not a number if there are none, which fails every comparison.
fn level(points: &[Point], scratch: &mut Vec<f64>) -> f64 {
    scratch.clear();
    scratch.extend(points.iter().map(|point| point.y));
    median(scratch).unwrap_or(f64::NAN)
}
