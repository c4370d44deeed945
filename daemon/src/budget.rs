//! Keeping what slowburn uses within its budget: decides how much is measured.
//!
//! A pure function of what was used: it reads no clock and does no I/O. There is a ladder of steps for calls that change an
//! address space, and one for waits, because what the one costs is not saved on the other. When too much is used, the
//! pair of steps is taken that loses least among those that would fit; when there was room for a while, one step back is
//! tried. What can be known of its cost (waits: from the host's context switches) is known before. Of the rest, nothing tells:
//! it is tried once earlier excess is paid back, and later each time that it fails.

use std::collections::VecDeque;

use crate::stream::{BudgetReason, Cost, MemoryStep, SchedStep, Steps};

/// One mapping call in so many is looked at when they are sampled.
pub const SAMPLED: u32 = 16;

/// CPU time of the daemon for a single event: 200,000 a second took 0.2 of a CPU.
const EVENT_NS: u64 = 1_000;

/// How far back what a step can change is looked at before less is measured.
const RECENT_NS: u64 = 3_000_000_000;

/// For how long there must be room before more is measured.
const QUIET_NS: u64 = 10_000_000_000;

/// Over which time what no step can change is averaged: the end of a window with 2,000 threads takes 30 ms at once.
const BASE_NS: u64 = 30_000_000_000;

/// A step up that is taken back within this time has failed.
const TRIAL_NS: u64 = 60_000_000_000;

/// The longest wait after a step up has failed; it begins with [`QUIET_NS`] and doubles.
const LONGEST_WAIT_NS: u64 = 1_800_000_000_000;

/// What a run of the programs on waits took is believed half as much after this time without any: it depends on what runs.
const HALF_BELIEVED_NS: f64 = 600e9;

/// What was used too much is remembered as so much time of the whole budget, at most.
const DEBT_NS: u64 = 300_000_000_000;

/// Parts of the budget: less is measured when more than this is used ...
const FULL: f64 = 0.9;
/// ... such that no more than this will be, ...
const FITS: f64 = 0.8;
/// ... and more only if no more than this will be.
const ROOM: f64 = 0.7;
/// Steps that save less than this are not worth what they lose.
const WORTH: f64 = 0.05;

/// What may be used, and which steps there are.
#[derive(Clone, Debug)]
pub struct Limits {
    /// CPU time, kernel side included, as a share of one CPU.
    pub share: f64,
    /// For calls, from all to nothing; the first is where it starts.
    pub memory: Vec<MemoryStep>,
    /// For waits.
    pub sched: Vec<SchedStep>,
}

/// What was used since the last tick or change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// For how long.
    pub interval_ns: u64,
    /// CPU time.
    pub cost: Cost,
    /// Single mappings that became events.
    pub mappings: u64,
    /// Single waits that became events.
    pub delays: u64,
    /// Runs of the programs on waits.
    pub sched_runs: u64,
    /// Context switches of the host, while there are no such programs.
    pub switches: Option<u64>,
}

/// A change of what is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Steps until now.
    pub before: Steps,
    /// Steps from now on.
    pub after: Steps,
    /// Why.
    pub reason: BudgetReason,
    /// What was used, ...
    pub cost: Cost,
    /// ... and in which time.
    pub interval_ns: u64,
}

/// Shares of one CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// What no step changes.
    base: f64,
    mappings: f64,
    delays: f64,
    memory: f64,
    sched: f64,
}

impl Usage {
    fn total(&self) -> f64 {
        self.base + self.mappings + self.delays + self.memory + self.sched
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ladder {
    Memory,
    Sched,
}

/// When a ladder may be climbed again.
#[derive(Clone, Copy, Debug)]
struct Patience {
    not_before_ns: u64,
    wait_ns: u64,
}

/// A step up that may still fail.
#[derive(Clone, Copy, Debug)]
struct Trial {
    ladder: Ladder,
    before: Steps,
    until_ns: u64,
}

/// Decides how much is measured.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    steps: Steps,
    /// Time so far, as the ticks have it.
    now_ns: u64,
    /// Since the last change, at least as far back as is looked at.
    ticks: VecDeque<Tick>,
    base: f64,
    /// CPU time used beyond the budget.
    debt_ns: f64,
    /// CPU time of a run of the programs on waits, as far as it is known.
    sched_run_ns: f64,
    memory: Patience,
    sched: Patience,
    trial: Option<Trial>,
}

impl Budget {
    /// Starts with everything measured.
    pub fn new(limits: Limits) -> Self {
        let steps = Steps {
            memory: limits.memory[0],
            sched: limits.sched[0],
        };
        let patience = Patience {
            not_before_ns: 0,
            wait_ns: QUIET_NS,
        };
        Self {
            limits,
            steps,
            now_ns: 0,
            ticks: VecDeque::new(),
            base: 0.0,
            debt_ns: 0.0,
            sched_run_ns: 0.0,
            memory: patience,
            sched: patience,
            trial: None,
        }
    }

    /// What is measured now.
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// What may be used, as a share of one CPU.
    pub fn share(&self) -> f64 {
        self.limits.share
    }

    /// Takes what was used since the last call, and says if something is to be changed.
    pub fn tick(&mut self, tick: Tick) -> Option<Change> {
        self.note(tick);
        let trial = self.trial.take_if(|trial| trial.until_ns <= self.now_ns);
        if let Some(trial) = trial {
            let patience = self.patience(trial.ladder);
            patience.wait_ns = (patience.wait_ns / 2).max(QUIET_NS);
        }
        let (after, reason) = if self.is_above() {
            (self.step_down(), BudgetReason::Above)
        } else {
            (self.step_up()?, BudgetReason::Room)
        };
        self.change(after, reason)
    }

    /// A step up could not be taken: all is as it was before, and it is tried again later.
    pub fn refused(&mut self, change: &Change) -> Change {
        self.steps = change.before;
        if let Some(trial) = self.trial {
            self.fail(trial);
        }
        Change {
            after: change.before,
            reason: BudgetReason::Refused,
            ..*change
        }
    }

    fn change(&mut self, after: Steps, reason: BudgetReason) -> Option<Change> {
        if after == self.steps {
            return None;
        }
        let before = std::mem::replace(&mut self.steps, after);
        let (cost, interval_ns) = self.used(match reason {
            BudgetReason::Above => RECENT_NS,
            _ => QUIET_NS,
        });
        // What was used until now says nothing about how it will be.
        self.ticks.clear();
        Some(Change {
            before,
            after,
            reason,
            cost,
            interval_ns,
        })
    }

    fn note(&mut self, tick: Tick) {
        self.now_ns += tick.interval_ns;
        let used = tick.cost.total_ns() as f64;
        let allowed = self.limits.share * tick.interval_ns as f64;
        let most = self.limits.share * DEBT_NS as f64;
        self.debt_ns = (self.debt_ns + used - allowed).clamp(0.0, most);
        if tick.sched_runs > 0 {
            self.sched_run_ns = tick.cost.kernel_cpu_ns.sched as f64 / tick.sched_runs as f64;
        } else {
            self.sched_run_ns *= (-(tick.interval_ns as f64) / HALF_BELIEVED_NS).exp2();
        }
        if tick.interval_ns > 0 {
            let weight = tick.interval_ns as f64 / self.now_ns.min(BASE_NS) as f64;
            let base = base_ns(&tick) as f64 / tick.interval_ns as f64;
            self.base += weight.min(1.0) * (base - self.base);
        }
        self.ticks.push_back(tick);
        while self.ticks.len() > 1 && self.time() - self.ticks[0].interval_ns >= QUIET_NS {
            self.ticks.pop_front();
        }
    }

    /// How far back the ticks go.
    fn time(&self) -> u64 {
        self.ticks.iter().map(|tick| tick.interval_ns).sum()
    }

    /// The last ticks, at least so much time of them if there is.
    fn last(&self, time_ns: u64) -> impl Iterator<Item = &Tick> {
        let mut covered = 0;
        self.ticks.iter().rev().take_while(move |tick| {
            let more = covered < time_ns;
            covered += tick.interval_ns;
            more
        })
    }

    fn used(&self, time_ns: u64) -> (Cost, u64) {
        let mut sum = Cost::default();
        let mut interval_ns = 0;
        for tick in self.last(time_ns) {
            interval_ns += tick.interval_ns;
            sum.add(&tick.cost);
        }
        (sum, interval_ns)
    }

    /// What was used in the last ticks, taken as if it had been used within `spread_ns` if that is longer.
    fn usage(&self, time_ns: u64, spread_ns: u64) -> Usage {
        let interval: u64 = self.last(time_ns).map(|tick| tick.interval_ns).sum();
        let interval = interval.max(spread_ns).max(1) as f64;
        let share = |ns: fn(&Tick) -> u64| {
            self.last(time_ns).map(|tick| ns(tick) as f64).sum::<f64>() / interval
        };
        Usage {
            base: self.base,
            mappings: share(|tick| events_ns(tick, tick.mappings)),
            delays: share(|tick| events_ns(tick, tick.delays)),
            memory: share(|tick| tick.cost.kernel_cpu_ns.memory),
            sched: share(|tick| tick.cost.kernel_cpu_ns.sched),
        }
    }

    /// Too much over some seconds, or so much in fewer that it will be.
    fn is_above(&self) -> bool {
        self.usage(RECENT_NS, RECENT_NS).total() > FULL * self.limits.share
    }

    /// The steps that lose least among those that will do, or nearly as cheap as it gets.
    fn step_down(&mut self) -> Steps {
        if let Some(trial) = self.trial {
            self.fail(trial);
            return trial.before;
        }
        let usage = self.usage(RECENT_NS, 0);
        let expected = |steps: &Steps| expected(&usage, self.steps, *steps).total();
        let cheapest = self.poorer().map(|steps| expected(&steps));
        let cheapest = cheapest.fold(f64::INFINITY, f64::min);
        let share = self.limits.share;
        let most = (FITS * share).max(cheapest + WORTH * share);
        let fitting = self.poorer().filter(|steps| expected(steps) <= most);
        let after = fitting
            .min_by_key(|steps| loss(*steps))
            .unwrap_or(self.steps);
        for (ladder, lower) in [
            (Ladder::Memory, after.memory > self.steps.memory),
            (Ladder::Sched, after.sched > self.steps.sched),
        ] {
            if lower {
                let now = self.now_ns;
                let patience = self.patience(ladder);
                patience.not_before_ns = now + patience.wait_ns;
            }
        }
        after
    }

    /// These and all that measure no more.
    fn poorer(&self) -> impl Iterator<Item = Steps> {
        let now = self.steps;
        let memory = self.limits.memory.iter().filter(move |s| **s >= now.memory);
        memory.flat_map(move |memory| {
            let sched = self.limits.sched.iter().filter(move |s| **s >= now.sched);
            sched.map(|sched| Steps {
                memory: *memory,
                sched: *sched,
            })
        })
    }

    /// One step up if there was room for it for a while: waits first.
    fn step_up(&mut self) -> Option<Steps> {
        if self.time() < QUIET_NS {
            return None;
        }
        let mut usage = self.usage(QUIET_NS, 0);
        if self.steps.sched == SchedStep::Off {
            usage.sched = self.expected_sched();
        }
        for ladder in [Ladder::Sched, Ladder::Memory] {
            let Some(after) = self.richer(ladder) else {
                continue;
            };
            let patience = *self.patience(ladder);
            let fits = expected(&usage, self.steps, after).total() <= ROOM * self.limits.share;
            let is_known = ladder == Ladder::Sched && self.steps.sched == SchedStep::Off;
            let affordable = is_known || self.debt_ns == 0.0;
            if fits && affordable && patience.not_before_ns <= self.now_ns {
                self.trial = Some(Trial {
                    ladder,
                    before: self.steps,
                    until_ns: self.now_ns + TRIAL_NS.max(patience.wait_ns),
                });
                return Some(after);
            }
        }
        None
    }

    /// What the programs on waits would use, by the host's context switches: each takes a wake-up and a switch.
    fn expected_sched(&self) -> f64 {
        let switches: u64 = self.last(QUIET_NS).filter_map(|tick| tick.switches).sum();
        2.0 * switches as f64 * self.sched_run_ns / self.time().max(1) as f64
    }

    fn richer(&self, ladder: Ladder) -> Option<Steps> {
        let now = self.steps;
        Some(match ladder {
            Ladder::Memory => Steps {
                memory: *self.limits.memory.iter().rev().find(|s| **s < now.memory)?,
                ..now
            },
            Ladder::Sched => Steps {
                sched: *self.limits.sched.iter().rev().find(|s| **s < now.sched)?,
                ..now
            },
        })
    }

    /// A step up has failed: the next is tried later than this one was.
    fn fail(&mut self, trial: Trial) {
        self.trial = None;
        let now = self.now_ns;
        let patience = self.patience(trial.ladder);
        patience.wait_ns = (patience.wait_ns * 2).min(LONGEST_WAIT_NS);
        patience.not_before_ns = now + patience.wait_ns;
    }

    fn patience(&mut self, ladder: Ladder) -> &mut Patience {
        match ladder {
            Ladder::Memory => &mut self.memory,
            Ladder::Sched => &mut self.sched,
        }
    }
}

/// CPU time of the daemon for events of one kind.
fn events_ns(tick: &Tick, count: u64) -> u64 {
    let all = tick.mappings + tick.delays;
    if all == 0 {
        return 0;
    }
    let user = tick.cost.user_cpu_ns.min(all.saturating_mul(EVENT_NS));
    (u128::from(user) * u128::from(count) / u128::from(all)) as u64
}

fn base_ns(tick: &Tick) -> u64 {
    let events = events_ns(tick, tick.mappings + tick.delays);
    tick.cost.user_cpu_ns - events + tick.cost.kernel_cpu_ns.tasks
}

/// What will be used after a change. Of what is not measured now, only the waits are known: they are in `usage` as if they were.
fn expected(usage: &Usage, from: Steps, to: Steps) -> Usage {
    let scaled = |used: f64, from: f64, to: f64| if from > 0.0 { used * to / from } else { 0.0 };
    let mapping = |steps: Steps| mapping_parts(steps.memory);
    let sched = match (from.sched, to.sched) {
        (_, SchedStep::Off) => 0.0,
        _ => usage.sched,
    };
    Usage {
        base: usage.base,
        mappings: scaled(usage.mappings, mapping(from).0, mapping(to).0),
        delays: scaled(usage.delays, delay_part(from.sched), delay_part(to.sched)),
        memory: scaled(usage.memory, mapping(from).1, mapping(to).1),
        sched,
    }
}

/// Which part of the events, and of the time of the programs, is left at a step. How many events a higher threshold leaves
/// depends on the service, and what a call that is left out still costs on the hooks; wrong by a factor of four, either
/// leads to one step more.
fn mapping_parts(step: MemoryStep) -> (f64, f64) {
    match step {
        MemoryStep::Full => (1.0, 1.0),
        MemoryStep::Raised => (0.125, 1.0),
        MemoryStep::Sampled => (0.125 / f64::from(SAMPLED), 0.25),
        MemoryStep::Silent => (0.0, 0.25),
        MemoryStep::Off => (0.0, 0.0),
    }
}

fn delay_part(step: SchedStep) -> f64 {
    match step {
        SchedStep::Full => 1.0,
        SchedStep::Raised => 0.125,
        SchedStep::Silent | SchedStep::Off => 0.0,
    }
}

/// How much is lost: single events before counts, counts before hooks, and waits last, which nothing else tells as well.
fn loss(steps: Steps) -> u32 {
    let memory = match steps.memory {
        MemoryStep::Full => 0,
        MemoryStep::Raised => 1,
        MemoryStep::Sampled => 3,
        MemoryStep::Silent => 4,
        MemoryStep::Off => 8,
    };
    let sched = match steps.sched {
        SchedStep::Full => 0,
        SchedStep::Raised => 1,
        SchedStep::Silent => 2,
        SchedStep::Off => 16,
    };
    memory + sched
}

#[cfg(test)]
mod tests;
