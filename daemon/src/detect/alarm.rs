//! What was said of a metric, and what has to be said now: raised, updated, cleared.

use super::channel::Channel;
use crate::stream::{Evidence, Moment};

/// A progress record each time the rise has grown by half.
const UPDATE_GROWTH: f64 = 1.5;

/// After a climb was raised nothing is raised on the same metric for its horizon, and for this long at least.
const LEAST_QUIET_S: f64 = 3600.0;

/// A climb that was found.
#[derive(Clone, Debug)]
pub struct Climb {
    /// In which channel.
    pub channel: Channel,
    /// In the rings of which level, if that is how it was found.
    pub level: Option<usize>,
    /// Time looked at.
    pub horizon_s: f64,
    /// Level at the beginning, in the channel's unit.
    pub base: f64,
    /// Level at the end.
    pub now: f64,
    /// When it began.
    pub since: Moment,
    /// Why.
    pub evidence: Evidence,
}

/// Which way a metric's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It climbs.
    Raised,
    /// It has climbed much further.
    Updated,
    /// It does not climb any more.
    Cleared,
    /// It climbs as the load does.
    Explained,
}

/// The climb of a metric that is raised.
#[derive(Debug)]
struct Raised {
    climb: Climb,
    /// The rise at the last record.
    reported: f64,
    /// For how long nothing is raised once it is over.
    cool_down_s: f64,
    /// It is over when no look has passed until then.
    until_s: f64,
}

/// Looks at rings that passed are remembered, and some within so many blocks of the latest one's ring must agree. Other
/// levels, lengths and channels of the same metric count, if they look at least half as far: where several agree, one
/// block is enough. (Blocks counted once each: recall 0.974 instead of 0.981, the same false flags.)
const REMEMBERED: usize = 16;
/// How many must agree is a matter of the policy, 3 unless it says otherwise; more may take longer.
const WITHIN_BLOCKS: f64 = 5.0;
const WITHIN_LOOKS: f64 = 3.0;

/// After it was said that the load explains a climb, it is not said again for so long: load comes back every day.
const EXPLAINED_QUIET_S: f64 = 86_400.0;

/// State of a metric.
#[derive(Debug, Default)]
pub struct Alarm {
    raised: Option<Box<Raised>>,
    explained_until_s: f64,
    quiet_until_s: f64,
    /// When looks passed, and the horizons of these, oldest first.
    passed: Vec<(f64, f64)>,
}

impl Alarm {
    /// A look at a ring has passed. Have enough?
    pub fn pass_look(&mut self, now_s: f64, horizon_s: f64, block_s: f64, agree: usize) -> bool {
        if self.passed.len() == REMEMBERED {
            self.passed.remove(0);
        }
        self.passed.push((now_s, horizon_s));
        let more = (agree as f64 / WITHIN_LOOKS).max(1.0);
        let since = now_s - WITHIN_BLOCKS * more * block_s;
        let recent = self
            .passed
            .iter()
            .filter(|(passed_s, horizon)| *passed_s > since && *horizon >= 0.5 * horizon_s);
        recent.count() >= agree
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let raised = self.raised.as_ref();
        self.passed.capacity() * size_of::<(f64, f64)>() + raised.map_or(0, |_| size_of::<Raised>())
    }

    /// Is a climb raised?
    pub fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// The level whose rings raised it, and the channel.
    pub fn source(&self) -> Option<(usize, Channel)> {
        let climb = &self.raised.as_ref()?.climb;
        Some((climb.level?, climb.channel))
    }

    /// Enough looks have passed, but the load explains them. Is that to be said?
    pub fn explained(&mut self, now_s: f64, horizon_s: f64) -> bool {
        let is_news = now_s >= self.explained_until_s && !self.is_raised();
        // As long as it goes on, it is one stretch.
        let until_s = now_s + horizon_s.max(if is_news { EXPLAINED_QUIET_S } else { 0.0 });
        self.explained_until_s = self.explained_until_s.max(until_s);
        is_news
    }

    /// Enough looks have passed.
    pub fn found(&mut self, now_s: f64, climb: Climb, cool_down_s: f64) -> Option<(Change, Climb)> {
        let until_s = now_s + climb.horizon_s;
        let Some(raised) = &mut self.raised else {
            if now_s < self.quiet_until_s {
                return None;
            }
            self.quiet_until_s = now_s + climb.horizon_s.max(LEAST_QUIET_S);
            self.raised = Some(Box::new(Raised {
                climb: climb.clone(),
                reported: climb.now - climb.base,
                cool_down_s,
                until_s,
            }));
            return Some((Change::Raised, climb));
        };
        raised.until_s = raised.until_s.max(until_s);
        if climb.channel != raised.climb.channel {
            return None;
        }
        let rise = climb.now - raised.climb.base;
        if rise < UPDATE_GROWTH * raised.reported {
            return None;
        }
        raised.reported = rise;
        // The climb is measured from where it began, whatever the ring has forgotten.
        let mut climb = climb;
        climb.base = raised.climb.base;
        climb.since = raised.climb.since;
        climb.evidence.baseline = raised.climb.evidence.baseline;
        raised.climb = climb.clone();
        Some((Change::Updated, climb))
    }

    /// Time has passed, and the metric stands there now, if that is known.
    pub fn pass(&mut self, now_s: f64, stands: f64) -> Option<(Change, Climb)> {
        let raised = self.raised.as_ref()?;
        let why = if stands < raised.climb.base {
            "it fell back to where the climb began"
        } else if now_s > raised.until_s {
            "it has stopped rising"
        } else {
            return None;
        };
        let raised = self.raised.take()?;
        self.quiet_until_s = self.quiet_until_s.max(now_s + raised.cool_down_s);
        let mut climb = raised.climb;
        if !stands.is_nan() {
            climb.now = stands;
            climb.evidence.now = climb.channel.unit(stands);
        }
        climb.evidence.cleared_because = Some(why.to_owned());
        climb.evidence.forecast = None;
        Some((Change::Cleared, climb))
    }

    /// The task is gone.
    pub fn end(&mut self, why: &str) -> Option<(Change, Climb)> {
        let mut climb = self.raised.take()?.climb;
        climb.evidence.cleared_because = Some(why.to_owned());
        climb.evidence.forecast = None;
        Some((Change::Cleared, climb))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::evidence::nothing;

    fn climb(base: f64, now: f64, horizon_s: f64) -> Climb {
        let mut evidence = nothing();
        evidence.baseline = base;
        Climb {
            channel: Channel::Committed,
            level: Some(3),
            horizon_s,
            base,
            now,
            since: Moment(now as u64),
            evidence,
        }
    }

    #[test]
    fn three_looks_within_five_blocks_agree() {
        let agree = |looks: &[(f64, f64)]| {
            let mut alarm = Alarm::default();
            let passed: Vec<bool> = looks
                .iter()
                .map(|(now, horizon)| alarm.pass_look(*now, *horizon, 10.0, 3))
                .collect();
            passed.last() == Some(&true)
        };
        assert!(agree(&[(10.0, 320.0), (20.0, 320.0), (30.0, 320.0)]));
        assert!(agree(&[(10.0, 320.0), (10.0, 240.0), (10.0, 480.0)]));
        assert!(!agree(&[(20.0, 320.0), (30.0, 320.0)]));
        // Longer ago, or much shorter.
        assert!(agree(&[(11.0, 320.0), (20.0, 320.0), (60.0, 320.0)]));
        assert!(!agree(&[(10.0, 320.0), (20.0, 320.0), (60.0, 320.0)]));
        assert!(agree(&[(10.0, 160.0), (20.0, 160.0), (30.0, 320.0)]));
        assert!(!agree(&[(10.0, 159.0), (20.0, 159.0), (30.0, 320.0)]));
        let mut alarm = Alarm::default();
        for now in 0..100 {
            alarm.pass_look(f64::from(now) * 1000.0, 320.0, 10.0, 3);
        }
        assert_eq!(alarm.passed.len(), REMEMBERED);
    }

    #[test]
    fn a_climb_is_raised_once_and_updated_when_it_has_grown_by_half() {
        let mut alarm = Alarm::default();
        let change = |found: Option<(Change, Climb)>| found.map(|(change, _)| change);
        assert!(!alarm.is_raised() && alarm.source().is_none());
        assert_eq!(
            change(alarm.found(0.0, climb(100.0, 200.0, 1000.0), 0.0)),
            Some(Change::Raised)
        );
        assert!(alarm.is_raised());
        assert_eq!(alarm.source(), Some((3, Channel::Committed)));
        assert_eq!(
            change(alarm.found(10.0, climb(150.0, 249.0, 1000.0), 0.0)),
            None
        );
        let (change_now, updated) = alarm
            .found(20.0, climb(150.0, 251.0, 1000.0), 0.0)
            .expect("half as much again");
        assert_eq!(change_now, Change::Updated);
        // It began where it began.
        assert!(
            (updated.base - 100.0).abs() < 1e-9 && (updated.evidence.baseline - 100.0).abs() < 1e-9
        );
        assert_eq!(updated.since, Moment(200));
        assert_eq!(
            change(alarm.found(30.0, climb(150.0, 320.0, 1000.0), 0.0)),
            None
        );
        let other = Climb {
            channel: Channel::Resident,
            ..climb(100.0, 900.0, 1000.0)
        };
        assert_eq!(change(alarm.found(30.0, other, 0.0)), None);
    }

    #[test]
    fn it_is_cleared_a_horizon_after_the_last_look_or_below_its_beginning() {
        let mut alarm = Alarm::default();
        alarm.found(0.0, climb(100.0, 200.0, 1000.0), 0.0);
        alarm.found(500.0, climb(100.0, 210.0, 1000.0), 0.0);
        assert!(alarm.pass(1400.0, 205.0).is_none());
        let (change, cleared) = alarm.pass(1501.0, 205.0).expect("a horizon has passed");
        assert_eq!(change, Change::Cleared);
        assert_eq!(
            cleared.evidence.cleared_because.as_deref(),
            Some("it has stopped rising")
        );
        assert!((cleared.evidence.now - 205.0).abs() < 1e-9);
        assert!(alarm.pass(1502.0, 1.0).is_none(), "nothing is raised");
        // Not again for an hour, or the horizon if that is longer.
        assert!(
            alarm
                .found(3599.0, climb(100.0, 200.0, 1000.0), 0.0)
                .is_none()
        );
        assert!(
            alarm
                .found(3600.0, climb(100.0, 200.0, 8000.0), 0.0)
                .is_some()
        );
        assert!(alarm.pass(3601.0, f64::NAN).is_none());
        let (_, cleared) = alarm.pass(3601.0, 99.0).expect("it fell");
        assert!(
            cleared
                .evidence
                .cleared_because
                .is_some_and(|why| why.contains("fell back"))
        );
        assert!(
            alarm
                .found(11_599.0, climb(100.0, 200.0, 8000.0), 0.0)
                .is_none()
        );
        assert!(
            alarm
                .found(11_600.0, climb(100.0, 200.0, 8000.0), 0.0)
                .is_some()
        );
        let (change, ended) = alarm.end("gone").expect("raised");
        assert_eq!(
            (change, ended.evidence.cleared_because.as_deref()),
            (Change::Cleared, Some("gone"))
        );
        assert!(alarm.end("gone").is_none());
    }

    #[test]
    fn load_is_told_once_a_day_and_once_a_stretch() {
        let mut alarm = Alarm::default();
        let day = EXPLAINED_QUIET_S;
        assert!(alarm.explained(0.0, 3600.0));
        assert!(!alarm.explained(day - 1.0, 3600.0), "it goes on");
        assert!(!alarm.explained(day + 3000.0, 3600.0), "and on");
        assert!(alarm.explained(day + 7000.0, 3600.0));
        let mut raised = Alarm::default();
        raised.found(0.0, climb(100.0, 200.0, 1000.0), 0.0);
        assert!(!raised.explained(10.0, 3600.0));
    }
}
