//! One process, or one group of like-named threads: its rings, its days, and what was said of it.

use super::{
    alarm::{Alarm, Change, Climb},
    channel::{Channel, JUDGED},
    evidence,
    kinds::{Kinds, Sight},
    ledger::{DayOverDay, Ledger},
    levels::{Completed, Levels},
    load,
    median::{median, median_of},
    reading::Reading,
    ring::BLOCKS,
    runaway::{Fast, Runaway},
    shape::{Outline, Shape},
    threshold::{Streak, Thresholds},
    verdict::{Context, Verdict, judge, may_be_long_enough, may_climb},
    waits::Spare,
};
use crate::{
    policy::{Rules, Sensitivity},
    stream::{Evidence, FlagKind, Metric, Moment},
};

const DAY_S: f64 = 86_400.0;

/// Lengths at which a ring is looked at: with levels a factor of two apart, horizons are at most half apart.
const LOOKS: [usize; 2] = [BLOCKS, BLOCKS / 4 * 3];

/// For how long a climb stays raised that was too fast for rings.
const FAST_HOLDS_S: f64 = 600.0;

/// Windows after which it is looked at what is no climb: what a process does at first is not usual, and most live shortly.
const SETTLED: u32 = 6;

/// Metrics that share an alarm: one finding about delays is enough. Climbs that the policy does not want flagged have as
/// many of their own, so that they keep nothing else from being flagged.
const ALARMS: usize = 8;

/// A finding about a metric.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which way it changed.
    pub change: Change,
    /// What it is.
    pub kind: FlagKind,
    /// Of what.
    pub metric: Metric,
    /// When it began.
    pub since: Moment,
    /// Why.
    pub evidence: Evidence,
}

/// Buffers used by every evaluation.
#[derive(Debug, Default)]
pub struct Scratch {
    slopes: Vec<f64>,
    completed: Vec<Completed>,
    seen: Vec<(Channel, Sight)>,
    spare: Spare,
}

/// A process, or a group of threads.
#[derive(Debug)]
pub struct Watch {
    levels: Levels,
    ledger: Box<Ledger>,
    /// From when on it has settled.
    kinds: Option<Box<Kinds>>,
    /// Windows until then.
    unsettled: u32,
    /// Of committed memory and of threads.
    runaways: [Runaway; 2],
    /// Its age when the first window began.
    age_s: f64,
    window_s: f64,
    alarms: [Alarm; 2 * ALARMS],
    rules: Rules,
    thresholds: Thresholds,
}

/// Which alarm a channel's findings go to, unless they are ignored.
fn alarm_of(channel: Channel) -> usize {
    match channel {
        Channel::Committed => 0,
        Channel::Reserved => 1,
        Channel::Resident => 2,
        Channel::Threads => 3,
        Channel::Descriptors => 4,
        Channel::Mapped => 5,
        Channel::Created => 6,
        _ => 7,
    }
}

impl Watch {
    /// Begins with the first window of something that was created then.
    pub fn new(first: &Reading, created: Moment, rules: Rules) -> Self {
        let levels = Levels::new(first);
        let begin = levels.moment(0.0);
        Self {
            age_s: begin.0.saturating_sub(created.0) as f64 / 1e9,
            window_s: first.seconds,
            levels,
            ledger: Box::new(Ledger::new()),
            kinds: None,
            unsettled: SETTLED,
            runaways: [Runaway::new(), Runaway::new()],
            alarms: std::array::from_fn(|_| Alarm::default()),
            thresholds: Thresholds::new(&rules),
            rules,
        }
    }

    /// What is asked of it.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Which alarm a channel's findings go to.
    fn alarm_for(&self, channel: Channel) -> usize {
        let ignored = self.rules.ignored_by(channel.metric(), FlagKind::Climb);
        alarm_of(channel) + if ignored.is_some() { ALARMS } else { 0 }
    }

    /// How much evidence is asked for.
    fn sensitivity(&self, channel: Channel) -> Sensitivity {
        self.rules.of(channel.metric()).sensitivity
    }

    /// Adds a window; appends what it changes.
    pub fn add(&mut self, reading: &Reading, scratch: &mut Scratch, findings: &mut Vec<Finding>) {
        let now_s = self.levels.seconds(reading.ts);
        scratch.completed.clear();
        self.levels
            .add(reading, &mut scratch.completed, &mut scratch.spare);
        for completed in &scratch.completed {
            for channel in JUDGED {
                match self.look(channel, *completed, reading, &mut scratch.slopes) {
                    Some((climb, false)) => self.found(channel, now_s, climb, findings),
                    Some((climb, true)) => findings.push(finding((Change::Explained, climb))),
                    None => {}
                }
            }
            self.pass(*completed, now_s, findings);
            if let Some(kinds) = &mut self.kinds {
                kinds.look(&self.levels, *completed, &mut scratch.seen);
            }
        }
        self.run_away(now_s, reading, findings);
        match &mut self.kinds {
            Some(kinds) => kinds.add(now_s, reading, &mut scratch.seen),
            None if self.unsettled > 0 => self.unsettled -= 1,
            None => self.kinds = Some(Box::new(Kinds::new())),
        }
        if self.ledger.add(now_s, reading) {
            self.compare_days(now_s, findings);
        }
        for (channel, sight) in scratch.seen.drain(..) {
            self.see(channel, &sight, findings);
        }
        let tell = |streak| findings.push(beyond(&streak, "it is below for as long"));
        self.thresholds.add(reading, &self.rules, tell);
    }

    /// Is anything too fast for rings?
    fn run_away(&mut self, now_s: f64, reading: &Reading, findings: &mut Vec<Finding>) {
        let levels = [
            (Channel::Committed, reading.committed),
            (Channel::Threads, reading.threads),
        ];
        for (place, (channel, level)) in levels.into_iter().enumerate() {
            if let Some(fast) = self.runaways[place].add(now_s, level) {
                let climb = self.fast_climb(channel, now_s, &fast, self.limit(channel, reading));
                self.found(channel, now_s, climb, findings);
            }
        }
    }

    fn fast_climb(&self, channel: Channel, now_s: f64, fast: &Fast, limit: Option<f64>) -> Climb {
        Climb {
            channel,
            level: None,
            // By then there are rings that can tell whether it goes on.
            horizon_s: FAST_HOLDS_S.max(now_s - fast.begin_s),
            base: fast.base,
            now: fast.now,
            since: self.levels.moment(fast.begin_s),
            evidence: evidence::of_fast(fast, now_s, limit),
        }
    }

    /// An hour is complete.
    fn compare_days(&mut self, now_s: f64, findings: &mut Vec<Finding>) {
        let days = {
            let demand = |channel| self.sensitivity(channel).demand();
            self.ledger.climbs(demand)
        };
        for days in days.into_iter().flatten() {
            self.found(days.channel, now_s, self.day_climb(&days, now_s), findings);
        }
        for rhythm in self.ledger.rhythms() {
            if self.kinds.as_mut().is_some_and(|kinds| kinds.is_daily()) {
                let since = self.levels.moment((now_s - DAY_S).max(0.0));
                let evidence = evidence::of_rhythm(&rhythm, self.window_s);
                findings.push(event(FlagKind::Periodic, rhythm.channel, since, evidence));
            }
        }
    }

    /// The most that there may be, by the kernel or by the policy: whichever comes first.
    fn limit(&self, channel: Channel, reading: &Reading) -> Option<f64> {
        let (kernel, known) = (&reading.limits, self.rules.limits());
        let (kernel, policy) = match channel {
            Channel::Committed => (kernel.committed, known.memory),
            Channel::Reserved => (kernel.reserved, None),
            Channel::Resident => (kernel.resident, known.memory),
            Channel::Threads => (kernel.threads, known.threads),
            Channel::Descriptors => (kernel.descriptors, known.fds),
            _ => return None,
        };
        // The lesser of two, of which one may not be a number, is the other.
        let limit = kernel.min(policy.unwrap_or(f64::NAN));
        (!limit.is_nan()).then_some(limit)
    }

    /// A change that is no climb. Where a climb is raised, it is part of that.
    fn see(&self, channel: Channel, sight: &Sight, findings: &mut Vec<Finding>) {
        if self.alarms[alarm_of(channel)].is_raised() {
            return;
        }
        let (kind, began_s) = match sight {
            Sight::Step(at_s, _) => (FlagKind::Step, *at_s),
            Sight::Excursion(seen) if seen.every_s.is_some() => (FlagKind::Periodic, seen.began_s),
            Sight::Excursion(seen) => (FlagKind::Spike, seen.began_s),
        };
        let evidence = evidence::of_sight(channel, sight);
        findings.push(event(kind, channel, self.levels.moment(began_s), evidence));
    }

    /// Clears what is raised.
    pub fn end(&mut self, why: &str, findings: &mut Vec<Finding>) {
        let ended = self.alarms.iter_mut().filter_map(|alarm| alarm.end(why));
        findings.extend(ended.map(finding));
        findings.extend(self.thresholds.end().map(|streak| beyond(&streak, why)));
    }

    /// Looks at a ring that has a new block, whole and at its last three quarters. Gives the climb if enough looks have
    /// passed, and whether the load explains it.
    fn look(
        &mut self,
        channel: Channel,
        completed: Completed,
        reading: &Reading,
        slopes: &mut Vec<f64>,
    ) -> Option<(Climb, bool)> {
        LOOKS
            .into_iter()
            .find_map(|length| self.look_at(length, channel, completed, reading, slopes))
    }

    fn look_at(
        &mut self,
        length: usize,
        channel: Channel,
        completed: Completed,
        reading: &Reading,
        slopes: &mut Vec<f64>,
    ) -> Option<(Climb, bool)> {
        let Completed { level, position } = completed;
        let unit_s = self.levels.block_s(level);
        let (horizon_s, history_s) = (unit_s * length as f64, (position + 1) as f64 * unit_s);
        if history_s < horizon_s || !may_be_long_enough(channel, horizon_s, history_s) {
            return None;
        }
        let all = self.levels.blocks(completed, channel)?;
        let (before, blocks) = all.split_at(BLOCKS - length);
        let context = Context {
            horizon_s,
            age_s: self.age_s + history_s,
            history_s,
            record: self.levels.record(completed, channel).max(held(before)),
            limit: self.limit(channel, reading),
            demand: self.sensitivity(channel).demand(),
        };
        let verdict = self.judge(channel, completed, blocks, &context, slopes)?;
        let agree = self.rules.of(channel.metric()).looks;
        let alarm = &mut self.alarms[self.alarm_for(channel)];
        let told = if verdict.explained {
            alarm.explained(history_s, horizon_s)
        } else {
            alarm.pass_look(history_s, horizon_s, unit_s, agree)
        };
        if !told {
            return None;
        }
        let interval = verdict.shape.interval(blocks, slopes);
        let outline = &verdict.shape.outline;
        let evidence = evidence::of_ring(channel, &verdict, interval, &context, self.window_s);
        let climb = Climb {
            channel,
            level: Some(level),
            horizon_s,
            base: outline.base(),
            now: outline.top(),
            since: self.onset(completed, blocks, outline),
            evidence,
        };
        Some((climb, verdict.explained))
    }

    fn judge(
        &self,
        channel: Channel,
        completed: Completed,
        blocks: &[f64],
        context: &Context,
        slopes: &mut Vec<f64>,
    ) -> Option<Verdict> {
        if !may_climb(channel, &Outline::of(blocks), context) {
            return None;
        }
        let shape = Shape::of(blocks, slopes)?;
        judge(channel, shape, context, || {
            let ring = |load| self.levels.blocks(completed, load);
            load::rise(blocks.len(), ring, slopes)
        })
    }

    /// End of the last block that is no higher than a tenth of the rise above the base, or the beginning of the ring.
    fn onset(&self, completed: Completed, blocks: &[f64], outline: &Outline) -> Moment {
        let Completed { level, position } = completed;
        let bound = outline.base() + 0.1 * (outline.top() - outline.base());
        let last = blocks.iter().rposition(|value| *value <= bound);
        let begin = position + 1 - blocks.len() as u64 + last.map_or(0, |at| at as u64 + 1);
        self.levels
            .moment(begin as f64 * self.levels.block_s(level))
    }

    fn day_climb(&self, days: &DayOverDay, now_s: f64) -> Climb {
        let unit = |value: f64| {
            if days.channel.is_floor() {
                value.exp()
            } else {
                value
            }
        };
        let (base, now) = (unit(days.before), unit(days.now));
        let in_units = DayOverDay {
            before: days.channel.unit(base),
            now: days.channel.unit(now),
            ..*days
        };
        Climb {
            channel: days.channel,
            level: None,
            horizon_s: 3.0 * DAY_S,
            base,
            now,
            since: self.levels.moment((now_s - 2.0 * DAY_S).max(0.0)),
            evidence: evidence::of_days(&in_units, self.window_s),
        }
    }

    /// Tells the alarm; appends what that changes.
    fn found(
        &mut self,
        channel: Channel,
        now_s: f64,
        mut climb: Climb,
        findings: &mut Vec<Finding>,
    ) {
        // Memory that is committed is reserved, too, and becomes resident where it is used: one finding is enough.
        let follows = matches!(channel, Channel::Reserved | Channel::Resident);
        if follows && self.alarms[alarm_of(Channel::Committed)].is_raised() {
            return;
        }
        climb.evidence.sensitivity = self.sensitivity(channel);
        let cool_down_s = self.rules.of(channel.metric()).cool_down_s;
        let change = self.alarms[self.alarm_for(channel)].found(now_s, climb, cool_down_s);
        findings.extend(change.map(finding));
    }

    /// A block is complete: what is raised may be over.
    fn pass(&mut self, completed: Completed, now_s: f64, findings: &mut Vec<Finding>) {
        let levels = &self.levels;
        let finest = levels.finest();
        for alarm in &mut self.alarms {
            let source = alarm.source().filter(|(level, _)| *level >= finest);
            let Some((level, channel)) = source else {
                if completed.level == finest {
                    findings.extend(alarm.pass(now_s, f64::NAN).map(finding));
                }
                continue;
            };
            if level != completed.level {
                continue;
            }
            let blocks = levels.blocks(completed, channel);
            let stands = blocks.map_or(f64::NAN, |blocks| median(&blocks[BLOCKS - 3..]));
            findings.extend(alarm.pass(now_s, stands).map(finding));
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let kinds = self.kinds.as_ref();
        self.levels.heap_bytes()
            + size_of::<Ledger>()
            + self.ledger.heap_bytes()
            + self.runaways.iter().map(Runaway::heap_bytes).sum::<usize>()
            + self.thresholds.heap_bytes()
            + self.alarms.iter().map(Alarm::heap_bytes).sum::<usize>()
            + kinds.map_or(0, |kinds| size_of::<Kinds>() + kinds.heap_bytes())
    }
}

/// The highest level that three blocks in a row held; a single one is a spike.
fn held(blocks: &[f64]) -> f64 {
    blocks
        .windows(3)
        .map(|three| median_of(&mut [three[0], three[1], three[2]]))
        .filter(|level| !level.is_nan())
        .fold(f64::NEG_INFINITY, f64::max)
}

fn finding((change, climb): (Change, Climb)) -> Finding {
    Finding {
        change,
        kind: FlagKind::Climb,
        metric: climb.channel.metric(),
        since: climb.since,
        evidence: climb.evidence,
    }
}

/// Above a threshold, or not any more.
fn beyond(streak: &Streak, why: &str) -> Finding {
    let mut evidence = evidence::of_threshold(streak);
    if !streak.is_above {
        evidence.cleared_because = Some(why.to_owned());
    }
    Finding {
        change: if streak.is_above {
            Change::Raised
        } else {
            Change::Cleared
        },
        kind: FlagKind::Threshold,
        metric: streak.metric,
        since: streak.since,
        evidence,
    }
}

/// What happened once.
fn event(kind: FlagKind, channel: Channel, since: Moment, evidence: Evidence) -> Finding {
    Finding {
        change: Change::Raised,
        kind,
        metric: channel.metric(),
        since,
        evidence,
    }
}
