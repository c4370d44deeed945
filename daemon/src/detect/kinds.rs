//! Changes that are no climbs: steps, spikes, and what comes back.

use super::{
    channel::Channel,
    excursion::{Excursions, Seen},
    levels::{Completed, Levels},
    median::median,
    reading::Reading,
    ring::BLOCKS,
    step::{Step, least, least_from, step},
    verdict::KNOWN_S,
};

/// Channels that are looked at.
const CHANNELS: [Channel; 4] = [
    Channel::Committed,
    Channel::Threads,
    Channel::Mapped,
    Channel::Typical,
];

/// Excursions are looked for in single windows, and in means of so many: what is narrow shows in the former, what is
/// faint in the latter.
const SMOOTHING: [u32; 3] = [1, 4, 16];

/// A ring must span this share of what is known of the task to show a step: what came and went in a week is none.
const HISTORY: f64 = 1.0 / 16.0;

/// How much of the load's own step explains such a step of a rate or a wait.
const LOAD_FACTOR: f64 = 1.5;

/// What a spike must reach to be worth a record, however far above the usual it is: a process that maps hardly anything, or waits
/// for microseconds, may do so many times as much without anybody noticing. A MiB a second; one that
/// stands; a handful of threads; waits of 100 us.
const SPIKE_REACHES: [f64; CHANNELS.len()] = [1_048_576.0, 4.0, 1_048_576.0, 100_000.0];

/// After a spike nothing is said of others of the process for so long: what brings one brings several, in all that is measured.
const SPIKE_QUIET_S: f64 = 86_400.0;

/// What is periodic is told once; it shows in several channels and smoothings, and as multiples of itself. Something else
/// comes more than so many times as often or as seldom.
const SAME_PERIOD: f64 = 3.0;
const PERIODS: usize = 4;

/// A series at one smoothing.
#[derive(Debug)]
struct Track {
    sum: f64,
    count: u32,
    excursions: Excursions,
}

/// What is known of all channels.
#[derive(Debug)]
pub struct Kinds {
    tracks: [[Track; SMOOTHING.len()]; CHANNELS.len()],
    /// When the last step of each channel was.
    steps: [f64; CHANNELS.len()],
    /// Was a daily rhythm told?
    daily: bool,
    /// Periods that were told; not a number where there is none.
    periods: [f64; PERIODS],
    /// When the last spike was.
    spike_s: f64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight {
    /// A step at such a time.
    Step(f64, Step),
    /// An excursion.
    Excursion(Seen),
}

impl Kinds {
    /// Has seen nothing.
    pub fn new() -> Self {
        let track = |windows| Track {
            sum: 0.0,
            count: 0,
            // A spike is one of single windows.
            excursions: Excursions::new(windows == 1),
        };
        Self {
            tracks: std::array::from_fn(|_| SMOOTHING.map(track)),
            steps: [f64::NEG_INFINITY; CHANNELS.len()],
            daily: false,
            periods: [f64::NAN; PERIODS],
            spike_s: f64::NEG_INFINITY,
        }
    }

    /// Adds a window.
    pub fn add(&mut self, now_s: f64, reading: &Reading, seen: &mut Vec<(Channel, Sight)>) {
        let values = [
            reading.committed.ln(),
            reading.threads.ln(),
            reading.mapped,
            reading.statistics.map_or(f64::NAN, |waits| waits.typical),
        ];
        let before = seen.len();
        for ((channel, value), tracks) in CHANNELS.into_iter().zip(values).zip(&mut self.tracks) {
            if !value.is_finite() {
                continue;
            }
            for (track, windows) in tracks.iter_mut().zip(SMOOTHING) {
                track.sum += value;
                track.count += 1;
                if track.count < windows {
                    continue;
                }
                let mean = std::mem::take(&mut track.sum) / f64::from(windows);
                track.count = 0;
                // Means of more windows scatter less: half of what matters in a single one matters there.
                let least = least(channel) / f64::from(windows).powf(0.25);
                let sample_s = reading.seconds * f64::from(windows);
                let found = track.excursions.add(now_s, sample_s, mean, least);
                let amount = channel.least_amount();
                let found =
                    found.filter(|found| found.peak - found.usual >= amount.from(found.usual));
                seen.extend(found.map(|found| (channel, Sight::Excursion(found))));
            }
        }
        self.keep_news(before, seen);
    }

    /// Drops what was told before, of what was seen from `before` on.
    fn keep_news(&mut self, before: usize, seen: &mut Vec<(Channel, Sight)>) {
        let mut at = before;
        while let Some((channel, sight)) = seen.get(at) {
            let is_news = match sight {
                Sight::Step(..) => true,
                Sight::Excursion(excursion) => self.is_news(*channel, excursion),
            };
            if is_news {
                at += 1;
            } else {
                seen.remove(at);
            }
        }
    }

    fn is_news(&mut self, channel: Channel, seen: &Seen) -> bool {
        let Some(every_s) = seen.every_s else {
            let place = CHANNELS.iter().position(|known| *known == channel);
            let reaches = place.is_some_and(|place| seen.peak >= SPIKE_REACHES[place].ln());
            let is_news = reaches && seen.began_s > self.spike_s + SPIKE_QUIET_S;
            if is_news {
                self.spike_s = seen.began_s;
            }
            return is_news;
        };
        let same = |told: &f64| (every_s / told).ln().abs() < SAME_PERIOD.ln();
        let free = self.periods.iter().position(|told| told.is_nan());
        let Some(free) = free.filter(|_| !self.periods.iter().any(same)) else {
            return false;
        };
        self.periods[free] = every_s;
        true
    }

    /// Looks for steps in the rings that have a new block.
    pub fn look(
        &mut self,
        levels: &Levels,
        completed: Completed,
        seen: &mut Vec<(Channel, Sight)>,
    ) {
        for (channel, last_s) in CHANNELS.into_iter().zip(&mut self.steps) {
            if let Some((at_s, step)) = find(levels, completed, channel, *last_s) {
                *last_s = at_s;
                seen.push((channel, Sight::Step(at_s, step)));
            }
        }
    }

    /// Something has a daily rhythm. Is that news? What else has one follows the same days.
    pub fn is_daily(&mut self) -> bool {
        !std::mem::replace(&mut self.daily, true)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let tracks = self.tracks.iter().flatten();
        tracks.map(|track| track.excursions.heap_bytes()).sum()
    }
}

/// A step in the middle of a ring that is news.
fn find(
    levels: &Levels,
    completed: Completed,
    channel: Channel,
    last_s: f64,
) -> Option<(f64, Step)> {
    let Completed { level, position } = completed;
    let block_s = levels.block_s(level);
    let history_s = (position + 1) as f64 * block_s;
    let oldest = (position + 1).checked_sub(BLOCKS as u64)?;
    if (BLOCKS as f64) * block_s < HISTORY * history_s.min(KNOWN_S) {
        return None;
    }
    let logarithm = |value: f64| {
        if channel.is_floor() {
            value.max(1.0).ln() + 0.0 * value
        } else {
            value
        }
    };
    let values = levels.blocks(completed, channel)?.map(logarithm);
    let step = step(&values, least(channel))?;
    if step.after - step.before < least_from(channel, step.before) {
        return None;
    }
    let at_s = (oldest + step.at as u64) as f64 * block_s;
    let record = levels.record(completed, channel);
    let record = if channel.is_floor() {
        record.max(1.0).ln()
    } else {
        record
    };
    // The coarser rings see it again.
    let is_news = at_s > last_s + 4.0 * block_s && step.after > record;
    (is_news && !explained(levels, completed, channel, &step)).then_some((at_s, step))
}

/// Has the load stepped as far at the same time?
fn explained(levels: &Levels, completed: Completed, channel: Channel, step: &Step) -> bool {
    let load = levels.blocks(completed, Channel::Load);
    let Some(load) = load.filter(|_| !channel.is_floor()) else {
        return false;
    };
    let jump = median(&load[step.at..]) - median(&load[..step.at]);
    step.after - step.before <= LOAD_FACTOR * jump
}
