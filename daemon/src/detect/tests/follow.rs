//! What a flag is explained with is what the detector has seen.

use super::*;

fn flag(windows: impl IntoIterator<Item = Window>, metric: Metric) -> Flag {
    let flags = fresh(windows);
    let found = flags.into_iter().find(|flag| flag.metric == metric);
    found.expect("it climbs")
}

fn follow(flag: &Flag, windows: &[Window]) -> Vec<(f64, f64)> {
    let mut follow = Follow::new(flag);
    let mut values: Vec<Value> = windows
        .iter()
        .filter_map(|window| follow.window(window))
        .collect();
    values.extend(follow.end());
    let seconds = |value: &Value| (value.ts.0 - START) as f64 / 1e9;
    values
        .iter()
        .map(|value| (seconds(value), value.value))
        .collect()
}

#[test]
fn the_windows_of_the_process_have_the_values() {
    let mut windows: Vec<Window> = series(1800.0, 5.0, |t| 100.0 + 0.1 * t).collect();
    let flag = flag(windows.clone(), Metric::CommittedBytes);
    windows.truncate(3);
    let mut other = windows[0].clone();
    other.process.pid = 5;
    let mut again = windows[1].clone();
    again.process.created.0 += 1;
    let mut last = windows[2].clone();
    last.ended = true;
    windows.extend([other, again, of_thread(windows[0].clone(), "a", 9), last]);
    let mib = |value: f64| (value * MIB).floor();
    assert_eq!(
        follow(&flag, &windows),
        [(5.0, mib(100.5)), (10.0, mib(101.0)), (15.0, mib(101.5))]
    );
}

#[test]
fn the_windows_of_like_named_threads_are_added_up() {
    let mut summariser = Summariser::default();
    let mut windows = Vec::new();
    for i in 1..=400_u32 {
        let end_s = 10.0 * f64::from(i);
        windows.push(empty(end_s, 10.0));
        for (tid, name) in [(900, "worker-1"), (901, "worker-22"), (902, "other")] {
            let mut window = of_thread(empty(end_s, 10.0), name, tid);
            let slower = if tid == 901 { 4.0 } else { 1.0 };
            let ns = slower * 20_000.0 * (f64::from(i) / 200.0).exp();
            window.delay = Some(waits(&mut summariser, ns as u64, 50));
            windows.push(window);
        }
    }
    let all = fresh(windows.clone());
    let named = |flag: &&Flag| {
        flag.threads
            .as_ref()
            .is_some_and(|threads| threads.name == "worker-#")
    };
    let flag = all.iter().find(named).expect("they wait longer");
    let values = follow(flag, &windows);
    assert_eq!(values.len(), 400);
    // The geometric mean of one and four times as much is twice as much; a bucket of the detector is a quarter octave.
    for (seconds, value) in values {
        let truth = 40_000.0 * (seconds / 2000.0).exp();
        assert!(
            (value / truth).ln().abs() < 0.13,
            "{seconds} s: {value} is not {truth}"
        );
    }
}

/// What the detector has raised has passed all that is said of its rules.
#[track_caller]
fn has_passed(flags: &[Flag]) -> usize {
    let raised = flags.iter().filter(|flag| flag.state == FlagState::Raised);
    for flag in raised.clone() {
        let text = serde_json::to_string(flag).expect("a flag is JSON");
        serde_json::from_str::<Flag>(&text).expect("which can be read again");
        let rules = rules(flag);
        assert!(!rules.is_empty(), "{flag:?}");
        for rule in &rules {
            assert_ne!(rule.passed, Some(false), "{rule:?} of {flag:?}");
        }
    }
    raised.count()
}

#[test]
fn what_was_raised_has_passed_its_rules() {
    let mut noise = Noise::new(8);
    let slow = |t: f64| 200.0 + 0.2 * t + 0.5 * noise.normal();
    assert!(has_passed(&fresh(series(7200.0, 5.0, slow))) > 0);
    assert!(has_passed(&fresh(series(120.0, 2.0, |t| 20.0 + 2.0 * t))) > 0);
    let day = 86_400.0;
    let flags = fresh(series(5.0 * day, 60.0, |t| {
        1000.0 + 300.0 * (std::f64::consts::TAU * t / day).sin() + 40.0 * t / day
    }));
    assert!(
        has_passed(&flags) >= 2,
        "a climb from day to day, and the rhythm"
    );
    // To the last bit the same every day.
    let flags = fresh((1..=4 * 144).map(|i| {
        let mut window = empty(600.0 * f64::from(i), 600.0);
        let live = if (i - 1) / 6 % 24 < 12 { 20 } else { 40 };
        window.threads = Some(ThreadSummary {
            live,
            created: 0,
            exited: 0,
            ..ThreadSummary::default()
        });
        window
    }));
    assert!(has_passed(&flags) > 0 && flags.iter().any(|flag| flag.kind == FlagKind::Periodic));
    let mut noise = Noise::new(9);
    let step = |t: f64| if t < 3600.0 { 200.0 } else { 300.0 } + noise.normal();
    assert!(has_passed(&fresh(series(7200.0, 5.0, step))) > 0);
    let mut summariser = Summariser::default();
    let waiting = (1..=400_u32).map(|i| {
        let mut window = empty(10.0 * f64::from(i), 10.0);
        let ns = 20_000.0 * (f64::from(i) / 200.0).exp();
        window.delay = Some(waits(&mut summariser, ns as u64, 50));
        window
    });
    assert!(has_passed(&fresh(waiting)) > 0);
}
