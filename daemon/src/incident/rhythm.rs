//! Two things that come at regular intervals, and meet.

use crate::stream::{Flag, FlagKind, Moment};

/// Periods that are whole multiples of each other to this are in step.
const IN_STEP: f64 = 0.05;

/// Up to so many times.
const MOST_TIMES: f64 = 4.0;

/// They meet if they begin within this share of the longer period.
const MEET: f64 = 0.15;

/// Something that comes at regular intervals.
#[derive(Clone, Debug)]
pub struct Beat {
    /// What.
    pub name: String,
    /// Of which process, and is it the process as a whole?
    pub pid: u32,
    pub is_process: bool,
    /// How often.
    pub every_ns: u64,
    /// When it came last.
    pub last: Moment,
}

/// Two of them that meet.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    pub one: String,
    pub one_ns: u64,
    pub other: String,
    pub other_ns: u64,
    /// How far apart they begin, as a share of the longer period.
    pub apart: f64,
}

/// Those that were flagged. Flags on one thing (a process, or its threads of one name) are one.
pub fn beats(flags: &[Flag]) -> Vec<Beat> {
    let mut beats: Vec<Beat> = Vec::new();
    for flag in flags.iter().filter(|flag| flag.kind == FlagKind::Periodic) {
        let Some(every_ns) = flag.evidence.every_ns else {
            continue;
        };
        let name = match &flag.threads {
            Some(threads) => format!("threads {}", threads.name),
            None => format!("process {}", flag.process.pid),
        };
        if beats.iter().all(|beat| beat.name != name) {
            beats.push(Beat {
                name,
                pid: flag.process.pid,
                is_process: flag.threads.is_none(),
                every_ns,
                last: flag.since,
            });
        }
    }
    beats
}

/// The first pair that is in step and meets.
pub fn meeting(beats: &[Beat]) -> Option<Meeting> {
    let mut pairs = beats
        .iter()
        .enumerate()
        .flat_map(|(i, one)| beats[i + 1..].iter().map(move |other| (one, other)));
    pairs.find_map(|(one, other)| meet(one, other))
}

fn meet(one: &Beat, other: &Beat) -> Option<Meeting> {
    let (long, short) = (
        one.every_ns.max(other.every_ns),
        one.every_ns.min(other.every_ns),
    );
    let times = long as f64 / short.max(1) as f64;
    let in_step = (times - times.round()).abs() <= IN_STEP * times && times <= MOST_TIMES + IN_STEP;
    // Where the shorter one is in its own period when the other begins.
    let between = one.last.0.abs_diff(other.last.0) % short.max(1);
    let apart = between.min(short - between) as f64 / long as f64;
    // What a process does its threads do, and one job may keep several of them busy: that is one thing.
    let is_one = one.pid == other.pid && (one.is_process || other.is_process || times < 1.5);
    (in_step && !is_one && apart <= MEET).then(|| Meeting {
        one: one.name.clone(),
        one_ns: one.every_ns,
        other: other.name.clone(),
        other_ns: other.every_ns,
        apart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(name: &str, every_s: u64, last_s: u64) -> Beat {
        Beat {
            name: name.to_owned(),
            pid: u32::from(name.as_bytes()[0]),
            is_process: false,
            every_ns: every_s * 1_000_000_000,
            last: Moment(last_s * 1_000_000_000),
        }
    }

    #[test]
    fn who_is_in_step_meets() {
        let met = meeting(&[beat("a", 60, 1000), beat("b", 61, 1002)]).unwrap();
        assert!(met.apart < 0.04, "{met:?}");
        assert!(meeting(&[beat("a", 120, 1000), beat("b", 60, 1063)]).is_some());
    }

    #[test]
    fn who_is_not_does_not() {
        assert_eq!(meeting(&[beat("a", 60, 1000)]), None);
        assert_eq!(
            meeting(&[beat("a", 60, 1000), beat("b", 60, 1030)]),
            None,
            "in turns"
        );
        assert_eq!(meeting(&[beat("a", 60, 1000), beat("b", 85, 1000)]), None);
        assert_eq!(meeting(&[beat("a", 60, 1000), beat("b", 600, 1000)]), None);
        assert_eq!(
            meeting(&[beat("a1", 60, 1000), beat("a2", 60, 1000)]),
            None,
            "one job"
        );
        assert!(meeting(&[beat("a1", 60, 1000), beat("a2", 120, 1000)]).is_some());
    }
}
