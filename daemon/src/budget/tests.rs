use proptest::prelude::*;

use super::*;
use crate::stream::KernelCost;

const SECOND: u64 = 1_000_000_000;

const FULL_STEPS: Steps = Steps {
    memory: MemoryStep::Full,
    sched: SchedStep::Full,
};

fn limits(share: f64) -> Limits {
    Limits {
        share,
        memory: vec![
            MemoryStep::Full,
            MemoryStep::Raised,
            MemoryStep::Sampled,
            MemoryStep::Silent,
            MemoryStep::Off,
        ],
        sched: vec![
            SchedStep::Full,
            SchedStep::Raised,
            SchedStep::Silent,
            SchedStep::Off,
        ],
    }
}

/// What a host does in a second, and what it takes to watch it.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    base_ns: u64,
    tasks_ns: u64,
    mappings: u64,
    mapping_ns: u64,
    /// Of so many mappings one becomes an event.
    per_event: u64,
    /// The same with a higher threshold.
    per_raised_event: u64,
    /// What is left of the cost of a mapping that is not looked at.
    left_out: f64,
    switches: u64,
    switch_ns: u64,
    delays: u64,
    raised_delays: u64,
}

impl Load {
    fn tick(&self, at: Steps) -> Tick {
        let per_event = |per: u64| self.mappings.checked_div(per).unwrap_or(0);
        let (mappings, memory) = match at.memory {
            MemoryStep::Full => (per_event(self.per_event), 1.0),
            MemoryStep::Raised => (per_event(self.per_raised_event), 1.0),
            MemoryStep::Sampled => (
                per_event(self.per_raised_event) / u64::from(SAMPLED),
                self.left_out,
            ),
            MemoryStep::Silent => (0, self.left_out),
            MemoryStep::Off => (0, 0.0),
        };
        let (delays, sched_on) = match at.sched {
            SchedStep::Full => (self.delays, true),
            SchedStep::Raised => (self.raised_delays, true),
            SchedStep::Silent => (0, true),
            SchedStep::Off => (0, false),
        };
        let runs = if sched_on { self.switches * 2 } else { 0 };
        Tick {
            interval_ns: SECOND,
            cost: Cost {
                user_cpu_ns: self.base_ns + (mappings + delays) * EVENT_NS,
                kernel_cpu_ns: KernelCost {
                    tasks: self.tasks_ns,
                    sched: runs * self.switch_ns / 2,
                    memory: ((self.mappings * self.mapping_ns) as f64 * memory) as u64,
                },
            },
            mappings,
            delays,
            sched_runs: runs,
            switches: (!sched_on).then_some(self.switches),
        }
    }

    fn share(&self, at: Steps) -> f64 {
        self.tick(at).cost.total_ns() as f64 / SECOND as f64
    }
}

const CALM: Load = Load {
    base_ns: 500_000,
    tasks_ns: 10_000,
    mappings: 100,
    mapping_ns: 500,
    per_event: 10,
    per_raised_event: 100,
    left_out: 0.1,
    switches: 1_000,
    switch_ns: 400,
    delays: 5,
    raised_delays: 1,
};

/// As many seconds of a load; the changes, with the second in which each came.
fn run(budget: &mut Budget, load: &Load, seconds: u64) -> Vec<(u64, Change)> {
    let ticks = (0..seconds).filter_map(|second| {
        let change = budget.tick(load.tick(budget.steps()))?;
        assert_eq!(change.after, budget.steps());
        Some((second, change))
    });
    ticks.collect()
}

#[test]
fn nothing_changes_within_the_budget() {
    let mut budget = Budget::new(limits(0.01));
    assert_eq!(run(&mut budget, &CALM, 3_600), []);
}

#[test]
fn a_storm_of_switches_costs_waits_and_nothing_else() {
    let mut budget = Budget::new(limits(0.002));
    let storm = Load {
        switches: 500_000,
        ..CALM
    };
    run(&mut budget, &CALM, 60);
    let changes = run(&mut budget, &storm, 3_600);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let (second, change) = changes[0];
    assert!(second < 2);
    assert_eq!(change.reason, BudgetReason::Above);
    assert_eq!(change.after.memory, MemoryStep::Full);
    assert_eq!(change.after.sched, SchedStep::Off);
}

#[test]
fn a_storm_of_mappings_costs_no_waits() {
    let mut budget = Budget::new(limits(0.002));
    let storm = Load {
        mappings: 100_000,
        ..CALM
    };
    let changes = run(&mut budget, &storm, 10);
    assert!(!changes.is_empty());
    assert_eq!(budget.steps().sched, SchedStep::Full);
    assert!(storm.share(budget.steps()) <= 0.002);
}

#[test]
fn single_events_go_first() {
    let mut budget = Budget::new(limits(0.01));
    let storm = Load {
        mappings: 30_000,
        mapping_ns: 100,
        per_event: 1,
        per_raised_event: 10,
        ..CALM
    };
    run(&mut budget, &storm, 30);
    assert_eq!(
        budget.steps(),
        Steps {
            memory: MemoryStep::Raised,
            ..FULL_STEPS
        }
    );
}

#[test]
fn nothing_is_given_up_for_nothing() {
    let mut budget = Budget::new(limits(0.002));
    let idle = Load {
        base_ns: 10_000_000,
        mappings: 1,
        switches: 10,
        delays: 0,
        per_event: 0,
        ..CALM
    };
    assert_eq!(run(&mut budget, &idle, 600), []);
}

#[test]
fn a_moment_is_no_storm() {
    let mut budget = Budget::new(limits(0.01));
    run(&mut budget, &CALM, 30);
    let moment = Load {
        switches: 35_000,
        base_ns: 50_000_000,
        ..CALM
    };
    assert_eq!(run(&mut budget, &moment, 1), []);
    assert_eq!(run(&mut budget, &CALM, 60), []);
}

#[test]
fn waits_are_back_as_soon_as_the_host_is_quiet_and_the_rest_when_it_is_paid() {
    let mut budget = Budget::new(limits(0.002));
    let storm = Load {
        switches: 500_000,
        mappings: 100_000,
        ..CALM
    };
    run(&mut budget, &storm, 60);
    assert_eq!(budget.steps().memory, MemoryStep::Off);
    assert_eq!(budget.steps().sched, SchedStep::Off);
    run(&mut budget, &CALM, 15);
    assert_eq!(budget.steps().sched, SchedStep::Silent);
    let changes = run(&mut budget, &CALM, 1_200);
    assert!(
        changes.iter().all(|(_, c)| c.reason == BudgetReason::Room),
        "{changes:?}"
    );
    assert_eq!(budget.steps(), FULL_STEPS);
}

/// The hooks on calls are tried again and again as long as the storm lasts, more and more seldom.
#[test]
fn what_cannot_be_known_is_tried_more_and_more_seldom() {
    let mut budget = Budget::new(limits(0.01));
    let storm = Load {
        mappings: 200_000,
        left_out: 0.5,
        ..CALM
    };
    let changes = run(&mut budget, &storm, 7_200);
    let tries: Vec<u64> = changes
        .iter()
        .filter(|(_, change)| change.reason == BudgetReason::Room)
        .map(|(second, _)| *second)
        .collect();
    assert!((5..=12).contains(&tries.len()), "{tries:?}");
    let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(budget.steps().memory, MemoryStep::Off);
}

#[test]
fn a_refusal_is_told_and_tried_later() {
    let mut budget = Budget::new(limits(0.002));
    let storm = Load {
        switches: 500_000,
        ..CALM
    };
    run(&mut budget, &storm, 5);
    let mut refusals = 0;
    for _ in 0..600 {
        if let Some(change) = budget.tick(CALM.tick(budget.steps())) {
            let refused = budget.refused(&change);
            assert_eq!(
                (refused.before, refused.after),
                (change.before, change.before)
            );
            assert_eq!(budget.steps().sched, SchedStep::Off);
            refusals += 1;
        }
    }
    assert!((2..=6).contains(&refusals), "{refusals}");
}

fn load() -> impl Strategy<Value = Load> {
    let memory = (
        0..300_000_u64,
        50..2_000_u64,
        0..50_u64,
        1..20_u64,
        0.01..0.9_f64,
    );
    let sched = (0..600_000_u64, 50..1_500_u64, 0..20_000_u64, 0.0..1.0_f64);
    (0..8_000_000_u64, 0..2_000_000_u64, memory, sched).prop_map(
        |(base_ns, tasks_ns, memory, sched)| Load {
            base_ns,
            tasks_ns,
            mappings: memory.0,
            mapping_ns: memory.1,
            per_event: memory.2,
            per_raised_event: memory.2 * memory.3,
            left_out: memory.4,
            switches: sched.0,
            switch_ns: sched.1,
            delays: sched.2,
            raised_delays: (sched.2 as f64 * sched.3) as u64,
        },
    )
}

proptest! {
    /// Under a load that stays as it is: within ten seconds it fits, or nothing is left to give up; over time it fits on the
    /// average, all tries included; and the steps are few.
    #[test]
    fn constant_load_fits_and_is_left_alone(load in load(), share in 0.0005..0.1_f64) {
        let mut budget = Budget::new(limits(share));
        run(&mut budget, &load, 10);
        let cheapest = Steps { memory: MemoryStep::Off, sched: SchedStep::Off };
        let least = load.share(cheapest);
        let settled = load.share(budget.steps());
        prop_assert!(
            settled <= share.max(least + 0.1 * share),
            "{settled} of {share}, at least {least}, at {:?}", budget.steps()
        );
        let mut used = 0.0;
        let mut changes = 0;
        let mut late_changes = 0;
        for second in 0..7_200 {
            used += load.share(budget.steps());
            let changed = budget.tick(load.tick(budget.steps())).is_some();
            changes += u32::from(changed);
            late_changes += u32::from(changed && second >= 3_600);
        }
        let mean = used / 7_200.0;
        prop_assert!(mean <= 1.1 * share.max(least + 0.1 * share), "{mean} of {share}, at least {least}");
        prop_assert!(changes <= 60 && late_changes <= 16, "{changes}, of which late {late_changes}");
    }

    /// After any storm, everything is measured again some time.
    #[test]
    fn everything_is_back_when_it_is_quiet(storm in load(), share in 0.002..0.1_f64, seconds in 1..600_u64) {
        let mut budget = Budget::new(limits(share));
        run(&mut budget, &storm, seconds);
        run(&mut budget, &CALM, 4_000);
        prop_assert_eq!(budget.steps(), FULL_STEPS);
    }
}
