//! What is said of the rules that a flag passed.

use super::*;
use crate::stream::Evidence;

/// A flag of such a kind on memory, with evidence of this test's making.
fn flag(kind: FlagKind, change: impl FnOnce(&mut Evidence)) -> Flag {
    let leak = series(3600.0, 5.0, |t| 200.0 + 0.2 * t);
    let mut flag = fresh(leak).remove(0);
    flag.kind = kind;
    flag.evidence = evidence::nothing();
    change(&mut flag.evidence);
    flag
}

/// Name, value, what was demanded, and whether it passed.
fn told(flag: &Flag) -> Vec<(&'static str, String, String, Option<bool>)> {
    let rules = rules(flag).into_iter();
    rules
        .map(|rule| (rule.name, rule.value, rule.demanded, rule.passed))
        .collect()
}

fn line(
    name: &'static str,
    value: &str,
    demanded: &str,
    passed: impl Into<Option<bool>>,
) -> (&'static str, String, String, Option<bool>) {
    (name, value.into(), demanded.into(), passed.into())
}

#[test]
fn of_a_step() {
    let step = |now: f64, z: f64| {
        told(&flag(FlagKind::Step, |evidence| {
            evidence.baseline = 400.0 * MIB;
            evidence.now = now * MIB;
            evidence.z = z;
        }))
    };
    assert_eq!(
        step(600.0, 12.3),
        [
            line("height", "12 deviations", "above 4", true),
            line("rise", "50 %", "above 20 %", true)
        ]
    );
    assert_eq!(
        step(460.0, 3.9),
        [
            line("height", "3.9 deviations", "above 4", false),
            line("rise", "15 %", "above 20 %", false)
        ]
    );
}

#[test]
fn of_a_fast_rise() {
    let fast = |now: f64, per_hour: f64, keeps_speed: f64| {
        told(&flag(FlagKind::Climb, |evidence| {
            evidence.baseline = 100.0;
            evidence.now = now;
            evidence.slope_per_hour = per_hour;
            evidence.keeps_speed = Some(keeps_speed);
        }))
    };
    assert_eq!(
        fast(500.0, 18_000.0, 1.02),
        [
            line("growth", "5.0 times", "at least 4 times", true),
            line("doubles again in", "1m 40s", "at most 5m", true),
            line("keeps speed", "1.02", "0.95 to 1.50", true)
        ]
    );
    assert_eq!(
        fast(300.0, 1800.0, 0.9),
        [
            line("growth", "3.0 times", "at least 4 times", false),
            line("doubles again in", "10m", "at most 5m", false),
            line("keeps speed", "0.90", "0.95 to 1.50", false)
        ]
    );
}

#[test]
fn of_days() {
    let days = |higher: f64, low: f64| {
        told(&flag(FlagKind::Climb, |evidence| {
            evidence.baseline = 100.0;
            evidence.now = 150.0;
            evidence.hours_higher = Some(higher);
            evidence.slope_low_per_hour = low;
            evidence.slope_high_per_hour = 2.0;
        }))
    };
    let [higher, rise, smaller] = &days(0.9, 1.0)[..] else {
        panic!("three rules");
    };
    assert_eq!(higher, &line("hours higher", "90 %", "at least 85 %", true));
    assert_eq!(
        (rise.0, &*rise.1, rise.3),
        ("rise in two days", "50 %", None)
    );
    assert_eq!(
        (smaller.0, &*smaller.1, smaller.3),
        ("smaller rise of the two", "50 % of the larger", Some(true))
    );
    let passed: Vec<_> = days(0.5, 0.1).iter().map(|rule| rule.3).collect();
    assert_eq!(passed, [Some(false), None, Some(false)]);
}

#[test]
fn of_what_is_no_climb() {
    let spike = told(&flag(FlagKind::Spike, |evidence| evidence.z = 8.1));
    assert_eq!(spike, [line("height", "8.1 deviations", "above 8", true)]);
    let periodic = told(&flag(FlagKind::Periodic, |evidence| evidence.z = 4.9));
    assert_eq!(
        periodic,
        [line("height", "4.9 deviations", "above 5", false)]
    );
    let daily = told(&flag(FlagKind::Periodic, |evidence| {
        evidence.every_ns = Some(86_400 * SECOND);
        evidence.windows = 1440;
        evidence.z = 7.5;
    }));
    assert_eq!(
        daily,
        [line(
            "correlation of days (z)",
            "7.5",
            "a correlation above 0.6",
            None
        )]
    );
    let threshold = |now: f64| {
        told(&flag(FlagKind::Threshold, |evidence| {
            evidence.now = now * MIB;
            evidence.above = Some(100.0 * MIB);
            evidence.windows = 3;
        }))
    };
    let above = "above 100 MiB for 3 windows";
    assert_eq!(threshold(120.0), [line("level", "120 MiB", above, true)]);
    assert_eq!(threshold(100.0), [line("level", "100 MiB", above, false)]);
}

/// A straight leak of 0.2 MiB a second: what is told of it follows from that and from the time looked at.
#[test]
fn of_a_ring() {
    let flag = fresh(series(3600.0, 5.0, |t| 200.0 + 0.2 * t)).remove(0);
    let rules = told(&flag);
    let value = |name: &str| {
        let found = rules.iter().find(|rule| rule.0 == name);
        found.unwrap_or_else(|| panic!("{name}: {rules:?}"))
    };
    assert!(rules.iter().all(|rule| rule.3 != Some(false)), "{rules:?}");
    let horizon_s = flag.evidence.horizon_ns.expect("a ring") as f64 / 1e9;
    let rise = 0.2 * horizon_s * MIB;
    let told_rise = &value("rise").1;
    assert_eq!(told_rise, &summary::quantity(Metric::CommittedBytes, rise));
    assert_eq!(value("time looked at").1, crate::figures::length(horizon_s));
    assert_eq!(value("parts that rise").1, "7 of 7");
    assert_eq!(value("keeps speed").1, "1.00");
    assert_eq!(
        value("load"),
        &line("load", "no more than before", "explains no rise", true)
    );
}
