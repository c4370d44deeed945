//! Measures what slowburn uses, and has the source measure as much as the budget allows.

use std::time::Duration;

use slowburn_probes::{
    event::Event,
    linux::{Family, Need, ProbeError, Source},
};

use crate::{
    budget::{Budget, Change, Limits, SAMPLED, Tick},
    cli::{Events, Run},
    own_cost::{OwnCost, rss_bytes},
    stream::{BudgetChange, BudgetReason, MemoryStep, Moment, OwnSummary, SchedStep, Steps},
};

/// How often is measured, and something may change.
pub const TICK: Duration = Duration::from_secs(1);

/// By how much thresholds are raised.
const SLOW_RAISED: u64 = 10;
const MAPPING_RAISED: u64 = 16;

/// Time for reading what the kernel says about the waits of a thread, and the part of the budget that this may take.
const ACCOUNT_NS: f64 = 5_000.0;
const ACCOUNTS: f64 = 0.25;

/// A drain that finds nothing, waking up for it included, and the part of the budget that drains may take.
const DRAIN_NS: f64 = 100_000.0;
const DRAINS: f64 = 0.25;

/// With a small budget the ring buffer is drained less often, but for what must be found soon still four times a second.
pub fn drain_interval(usual: Duration, share: Option<f64>) -> Duration {
    let cheapest = share.map_or(0.0, |share| DRAIN_NS / (share * DRAINS));
    usual.max(Duration::from_nanos(cheapest as u64).min(Duration::from_millis(250)))
}

/// From which size on a single event is one; `u64::MAX` for none.
#[derive(Clone, Copy)]
pub struct Thresholds {
    /// For waits.
    pub slow_ns: u64,
    /// For mapping calls.
    pub min_mapping_bytes: u64,
}

impl Thresholds {
    /// As the command line has them.
    pub fn of(options: &Run) -> Self {
        let (slow_ns, min_mapping_bytes) = match options.events {
            Events::All => (0, 0),
            Events::Slow => (options.slow.as_nanos() as u64, options.min_mapping),
            Events::None => (u64::MAX, u64::MAX),
        };
        Self {
            slow_ns,
            min_mapping_bytes,
        }
    }

    /// The next higher ones: those of `--events slow` if all events are wanted, otherwise as many times these.
    fn raised(options: &Run) -> Self {
        let slow_ns = options.slow.as_nanos() as u64;
        let (slow_times, mapping_times) = match options.events {
            Events::All => (1, 1),
            _ => (SLOW_RAISED, MAPPING_RAISED),
        };
        Self {
            slow_ns: slow_ns.saturating_mul(slow_times),
            min_mapping_bytes: options.min_mapping.saturating_mul(mapping_times),
        }
    }
}

/// Keeps a source within its budget.
pub struct Throttle {
    budget: Option<Budget>,
    /// By how many steps each need is measured where there is no budget.
    unlimited: Steps,
    asked: Thresholds,
    raised: Thresholds,
    since_tick: OwnCost,
    since_window: OwnCost,
    /// The host's context switches until the last tick.
    switches: Option<u64>,
    /// Single events since the last tick.
    mappings: u64,
    delays: u64,
}

impl Throttle {
    /// For a source that measures everything.
    ///
    /// # Errors
    /// If the kernel side's counters cannot be read.
    pub fn new(options: &Run, source: &mut Source) -> Result<Self, ProbeError> {
        let limits = |share| limits(options, source.hooks().memory, share);
        let unlimited = limits(1.0);
        let budget = options.budget.0.map(|share| Budget::new(limits(share)));
        if let Some(share) = options.budget.0 {
            let threads = share * options.window.as_nanos() as f64 * ACCOUNTS / ACCOUNT_NS;
            source.limit_accounts(threads as u32);
        }
        Ok(Self {
            budget,
            unlimited: Steps {
                memory: unlimited.memory[0],
                sched: unlimited.sched[0],
            },
            asked: Thresholds::of(options),
            raised: Thresholds::raised(options),
            since_tick: OwnCost::start(source)?,
            since_window: OwnCost::start(source)?,
            switches: None,
            mappings: 0,
            delays: 0,
        })
    }

    /// Is there a limit?
    pub fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Starts the first tick anew: finding what is to be followed does not happen again.
    ///
    /// # Errors
    /// If the kernel side's counters cannot be read.
    pub fn begin(&mut self, source: &mut Source) -> Result<(), ProbeError> {
        self.since_tick.take(source).map(drop)
    }

    /// Takes note of an event.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Mapping { .. } => self.mappings += 1,
            Event::Delay { .. } => self.delays += 1,
            _ => {}
        }
    }

    /// Ends a window: what was used in it.
    ///
    /// # Errors
    /// If the kernel side's counters cannot be read.
    pub fn end_window(&mut self, source: &mut Source) -> Result<OwnSummary, ProbeError> {
        let used = self.since_window.take(source)?;
        let steps = self.budget.as_ref().map_or(self.unlimited, Budget::steps);
        Ok(OwnSummary {
            cost: used.cost,
            rss_bytes: rss_bytes(),
            ring_lost: 0,
            memory: steps.memory,
            sched: steps.sched,
        })
    }

    /// Measures what was used since the last call, and changes what the source measures if that is needed. What the source
    /// has to tell first is appended to `events`.
    ///
    /// # Errors
    /// If a table cannot be read or mapped.
    pub fn tick(
        &mut self,
        source: &mut Source,
        events: &mut Vec<Event>,
    ) -> Result<Option<BudgetChange>, ProbeError> {
        let Some(budget) = &mut self.budget else {
            return Ok(None);
        };
        let used = self.since_tick.take(source)?;
        let switches = (budget.steps().sched == SchedStep::Off)
            .then(Source::host_switches)
            .flatten();
        let before = std::mem::replace(&mut self.switches, switches);
        let change = budget.tick(Tick {
            interval_ns: used.interval_ns,
            cost: used.cost,
            mappings: std::mem::take(&mut self.mappings),
            delays: std::mem::take(&mut self.delays),
            sched_runs: used.sched_runs,
            switches: switches.zip(before).map(|(now, before)| now - before),
        });
        let Some(change) = change else {
            return Ok(None);
        };
        let (change, refusal) = self.carry_out(change, source, events)?;
        // What the change itself took says nothing about how it will be.
        self.since_tick.take(source)?;
        Ok(Some(self.record(&change, refusal, source.now())))
    }

    /// Returns what came of it, and why if that is nothing.
    fn carry_out(
        &mut self,
        change: Change,
        source: &mut Source,
        events: &mut Vec<Event>,
    ) -> Result<(Change, Option<ProbeError>), ProbeError> {
        match self.apply(change.after, source, events) {
            Err(error @ ProbeError::NotBack { .. }) => {
                self.apply(change.before, source, events)?;
                let budget = self.budget.as_mut();
                let change = budget.map_or(change, |budget| budget.refused(&change));
                Ok((change, Some(error)))
            }
            applied => applied.map(|()| (change, None)),
        }
    }

    /// Has the source measure like that. Cheap first: detaching may take a second, in which events would pile up.
    fn apply(
        &self,
        steps: Steps,
        source: &mut Source,
        events: &mut Vec<Event>,
    ) -> Result<(), ProbeError> {
        let thresholds = self.thresholds(steps);
        source.set_thresholds(thresholds.slow_ns, thresholds.min_mapping_bytes)?;
        source.sample_mappings(one_in(steps))?;
        let waits = steps.sched != SchedStep::Off;
        let calls = steps.memory != MemoryStep::Off;
        for (need, hooked) in [(Need::Sched, waits), (Need::Memory, calls)] {
            if hooked {
                source.attach(need, events)?;
            } else {
                source.detach(need, events)?;
            }
        }
        Ok(())
    }

    fn thresholds(&self, steps: Steps) -> Thresholds {
        Thresholds {
            slow_ns: match steps.sched {
                SchedStep::Full => self.asked.slow_ns,
                SchedStep::Raised => self.raised.slow_ns,
                SchedStep::Silent | SchedStep::Off => u64::MAX,
            },
            min_mapping_bytes: match steps.memory {
                MemoryStep::Full => self.asked.min_mapping_bytes,
                MemoryStep::Raised | MemoryStep::Sampled => self.raised.min_mapping_bytes,
                MemoryStep::Silent | MemoryStep::Off => u64::MAX,
            },
        }
    }

    fn record(&self, change: &Change, refusal: Option<ProbeError>, now: u64) -> BudgetChange {
        let thresholds = self.thresholds(change.after);
        let shown = |threshold: u64| (threshold < u64::MAX).then_some(threshold);
        let used_share = change.cost.total_ns() as f64 / change.interval_ns.max(1) as f64;
        let budget_share = self.budget.as_ref().map_or(0.0, Budget::share);
        let mut record = BudgetChange {
            ts: Moment(now),
            reason: change.reason,
            before: change.before,
            after: change.after,
            slow_ns: shown(thresholds.slow_ns),
            min_mapping_bytes: shown(thresholds.min_mapping_bytes),
            sampled: Some(one_in(change.after)).filter(|one_in| *one_in > 1),
            budget_share,
            used_share,
            interval_ns: change.interval_ns,
            cost: change.cost,
            summary: String::new(),
        };
        record.summary = refusal.map_or_else(|| sentence(&record), |error| error.to_string());
        record
    }
}

fn one_in(steps: Steps) -> u32 {
    match steps.memory {
        MemoryStep::Sampled | MemoryStep::Silent => SAMPLED,
        _ => 1,
    }
}

/// The steps that make a difference.
fn limits(options: &Run, memory: Family, share: f64) -> Limits {
    let events = options.events != Events::None;
    let mut limits = Limits {
        share,
        memory: vec![MemoryStep::Full],
        sched: vec![SchedStep::Full],
    };
    if memory == Family::None {
        limits.memory = vec![MemoryStep::Off];
    } else {
        let steps = [
            (MemoryStep::Raised, events),
            (MemoryStep::Sampled, true),
            (MemoryStep::Silent, events),
            (MemoryStep::Off, true),
        ];
        let steps = steps.iter().filter(|(_, there_is)| *there_is);
        limits.memory.extend(steps.map(|(step, _)| *step));
    }
    if events {
        limits.sched.extend([SchedStep::Raised, SchedStep::Silent]);
    }
    limits.sched.push(SchedStep::Off);
    limits
}

/// What has changed, for a person.
fn sentence(change: &BudgetChange) -> String {
    let mut parts = Vec::new();
    if change.before.memory != change.after.memory {
        parts.push(match change.after.memory {
            MemoryStep::Full => "all mapping calls".to_owned(),
            MemoryStep::Raised => "larger mappings as single events".to_owned(),
            MemoryStep::Sampled => format!("one mapping call in {SAMPLED}"),
            MemoryStep::Silent => "mapping calls without single events".to_owned(),
            MemoryStep::Off => "no mapping calls".to_owned(),
        });
    }
    if change.before.sched != change.after.sched {
        parts.push(
            match change.after.sched {
                SchedStep::Full => "all waits",
                SchedStep::Raised => "longer waits as single events",
                SchedStep::Silent => "waits without single events",
                SchedStep::Off => "no waits",
            }
            .to_owned(),
        );
    }
    let more = match change.reason {
        BudgetReason::Above => "less",
        BudgetReason::Room | BudgetReason::Refused => "more",
    };
    format!(
        "budget: {:.2} % of a CPU used of {:.2} %; measuring {more} from now on: {}",
        change.used_share * 100.0,
        change.budget_share * 100.0,
        parts.join(", ")
    )
}
