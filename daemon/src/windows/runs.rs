//! Runs of a scheduled task: which instances there are, and whether one is still running when the next is due.
//!
//! A pure function of what the scheduler says once a second.

use std::collections::BTreeMap;

/// Seconds in a day: times of the scheduler are in days.
const DAY: f64 = 86_400.0;

/// An instance of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What no other instance has.
    pub id: String,
    /// Its process.
    pub pid: u32,
}

/// What the scheduler says of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The time now, in days of the scheduler's clock.
    pub now: f64,
    /// When it is to run next, likewise; 0 for never.
    pub next: f64,
    /// Its instances.
    pub instances: Vec<Instance>,
}

/// An instance was still running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Its process.
    pub pid: u32,
    /// In words.
    pub detail: String,
}

/// The runs of a task.
#[derive(Debug, Default)]
pub struct Runs {
    /// When each instance was first seen.
    running: BTreeMap<String, (u32, f64)>,
    /// When the next one is due.
    next: f64,
    looked: bool,
}

impl Runs {
    /// Takes what the scheduler says; returns what has overlapped since the last look.
    pub fn look(&mut self, look: &Look) -> Vec<Overlap> {
        self.running
            .retain(|id, _| look.instances.iter().any(|instance| instance.id == *id));
        let mut overlaps = Vec::new();
        let mut began = false;
        for instance in &look.instances {
            if self.running.contains_key(&instance.id) {
                continue;
            }
            began = true;
            if self.looked {
                overlaps.extend(self.beside(instance, look.now));
            }
            self.running
                .insert(instance.id.clone(), (instance.pid, look.now));
        }
        if self.looked && !began {
            overlaps.extend(self.left_out(look));
        }
        (self.next, self.looked) = (look.next, true);
        overlaps
    }

    /// An instance has begun beside an earlier one.
    fn beside(&self, instance: &Instance, now: f64) -> Option<Overlap> {
        let (pid, since) = self.oldest()?;
        let detail = format!(
            "process {pid}, of an earlier instance, had run for {} when another one began as process {}",
            ran(now - since),
            instance.pid
        );
        Some(Overlap { pid, detail })
    }

    /// An instance was due and has not begun: the scheduler leaves it out, or has it wait for the one that runs.
    fn left_out(&self, look: &Look) -> Option<Overlap> {
        let was_due = self.next > 0.0 && self.next <= look.now;
        let moved_on = look.next > self.next || look.next <= 0.0;
        let (pid, since) = self.oldest().filter(|_| was_due && moved_on)?;
        let detail = format!(
            "process {pid} had run for {} when the next instance was due, which did not begin",
            ran(self.next - since)
        );
        (since < self.next).then_some(Overlap { pid, detail })
    }

    fn oldest(&self) -> Option<(u32, f64)> {
        self.running
            .values()
            .copied()
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }
}

fn ran(days: f64) -> String {
    let seconds = (days * DAY).round().max(0.0) as u64;
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: u32, next: u32, instances: &[u32]) -> Look {
        let instances = instances.iter().map(|pid| Instance {
            id: format!("{{{pid}}}"),
            pid: *pid,
        });
        Look {
            now: f64::from(second) / DAY,
            next: f64::from(next) / DAY,
            instances: instances.collect(),
        }
    }

    fn told(runs: &mut Runs, look: &Look) -> Vec<String> {
        runs.look(look)
            .into_iter()
            .map(|overlap| overlap.detail)
            .collect()
    }

    #[test]
    fn runs_one_after_the_other_do_not_overlap() {
        let mut runs = Runs::default();
        for (second, next, pids) in [
            (0, 60, &[7][..]),
            (30, 60, &[]),
            (61, 120, &[8]),
            (90, 120, &[]),
            (121, 180, &[]),
        ] {
            assert_eq!(
                told(&mut runs, &look(second, next, pids)),
                [""; 0],
                "{second}"
            );
        }
    }

    #[test]
    fn a_second_instance_beside_the_first() {
        let mut runs = Runs::default();
        assert_eq!(told(&mut runs, &look(0, 60, &[7])), [""; 0]);
        assert_eq!(
            told(&mut runs, &look(61, 120, &[7, 8])),
            [
                "process 7, of an earlier instance, had run for 1m 1s when another one began as process 8"
            ]
        );
        assert_eq!(
            told(&mut runs, &look(62, 120, &[7, 8])),
            [""; 0],
            "it is told once"
        );
    }

    #[test]
    fn an_instance_that_the_scheduler_has_left_out() {
        let mut runs = Runs::default();
        assert_eq!(told(&mut runs, &look(0, 60, &[])), [""; 0]);
        assert_eq!(told(&mut runs, &look(10, 60, &[7])), [""; 0]);
        assert_eq!(
            told(&mut runs, &look(60, 120, &[7])),
            ["process 7 had run for 50s when the next instance was due, which did not begin"]
        );
        assert_eq!(told(&mut runs, &look(61, 120, &[7])), [""; 0]);
    }

    #[test]
    fn what_began_when_it_was_due_is_no_overlap() {
        let mut runs = Runs::default();
        assert_eq!(told(&mut runs, &look(59, 60, &[])), [""; 0]);
        assert_eq!(told(&mut runs, &look(60, 120, &[7])), [""; 0]);
        // Somebody has changed its times.
        assert_eq!(told(&mut runs, &look(61, 90, &[7])), [""; 0]);
    }
}
