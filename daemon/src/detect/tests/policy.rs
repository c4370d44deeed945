//! What a policy changes.

use super::*;
use crate::{
    policy::{
        File,
        Sensitivity::{High, Low, Normal},
    },
    stream::{Bound, Metric},
};

fn detector(policy: &str) -> Detector {
    let file = File::read(policy).unwrap_or_else(|fault| panic!("{fault}"));
    Detector::with_policy(Config::default(), Policy::of(&file))
}

/// Windows of 10 s with so many open files.
fn files(counts: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Window> {
    (1..).zip(counts).map(|(i, count)| {
        let mut window = empty(10.0 * f64::from(i), 10.0);
        window.kernel.fds = Some(count);
        window
    })
}

#[test]
fn a_threshold_is_raised_and_cleared_by_windows_in_a_row() {
    let policy = "[default.metrics.fds]\nabove = 100\nfor = \"3 windows\"";
    let counts = [
        50, 101, 101, 100, 120, 130, 140, 150, 90, 101, 90, 90, 90, 90,
    ];
    let flags = run(&mut detector(policy), files(counts));
    assert_eq!(
        kinds(&flags),
        [
            (FlagKind::Threshold, FlagState::Raised),
            (FlagKind::Threshold, FlagState::Cleared)
        ]
    );
    let (raised, cleared) = (&flags[0], &flags[1]);
    assert_eq!((seconds(raised), seconds(cleared)), (70.0, 130.0));
    assert_eq!(raised.since.0 - START, 40 * SECOND);
    assert_eq!((raised.id.as_str(), cleared.id.as_str()), ("f1", "f1"));
    let evidence = &raised.evidence;
    assert_eq!((evidence.above, evidence.windows), (Some(100.0), 3));
    assert_eq!((evidence.baseline, evidence.now), (120.0, 140.0));
    assert_eq!(
        raised.summary,
        "shop (pid 812): number of open files is above 100 for 3 windows in a row, now 140, since 22:14:00Z"
    );
    // A window without a value says nothing.
    let mut gap: Vec<Window> = files([101, 101, 0, 101]).collect();
    gap[2].kernel.fds = None;
    assert_eq!(run(&mut detector(policy), gap).len(), 1);
}

#[test]
fn a_threshold_cools_down_and_ends_with_its_process() {
    let policy = "[default.metrics.fds]\nabove = 100\nfor = \"1 window\"\ncool_down = \"1m\"";
    let mut detector = detector(policy);
    let counts = [101, 50, 101, 101, 101, 101, 101, 101, 101];
    let flags = run(&mut detector, files(counts));
    let times: Vec<f64> = flags.iter().map(seconds).collect();
    assert_eq!(times, [10.0, 20.0, 80.0]);
    assert_eq!(detector.raised(), 1);
    let mut last = empty(100.0, 10.0);
    last.ended = true;
    let flags = run(&mut detector, [last]);
    assert_eq!(kinds(&flags), [(FlagKind::Threshold, FlagState::Cleared)]);
    let why = flags[0].evidence.cleared_because.as_deref();
    assert_eq!((why, detector.raised()), (Some("the process ended"), 0));
}

#[test]
fn thresholds_of_waits_hold_for_groups_of_threads() {
    let mut summariser = Summariser::default();
    let windows = (1..=5).flat_map(|i| {
        let end_s = 10.0 * f64::from(i);
        let mut window = of_thread(empty(end_s, 10.0), "worker-1", 900);
        window.delay = Some(waits(&mut summariser, 8_000_000, 10));
        [empty(end_s, 10.0), window]
    });
    let flags = run(
        &mut detector("[default.metrics.delay]\nabove = \"5ms\""),
        windows,
    );
    assert_eq!(kinds(&flags), [(FlagKind::Threshold, FlagState::Raised)]);
    assert!(flags[0].threads.is_some());
    assert!((7e6..9e6).contains(&flags[0].evidence.now), "{flags:?}");
}

/// Memory that is committed and becomes resident.
fn resident_leak() -> impl Iterator<Item = Window> {
    series(3600.0, 5.0, |t| 100.0 + 0.1 * t).map(|mut window| {
        window.kernel.rss_bytes = window.memory.standing_committed_bytes;
        window
    })
}

#[test]
fn what_is_ignored_is_told_once_counted_and_hides_nothing() {
    let usual = fresh(resident_leak());
    assert_eq!(
        (climbs(&usual), usual[0].metric),
        (1, Metric::CommittedBytes)
    );

    let mut detector = detector("[[default.ignore]]\nmetric = \"committed_bytes\"");
    let flags = run(&mut detector, resident_leak());
    assert_eq!((climbs(&flags), flags[0].metric), (1, Metric::RssBytes));
    assert_eq!((flags[0].id.as_str(), flags[0].ts), ("f1", usual[0].ts));
    let mut told: Vec<Ignored> = detector.take_ignored().collect();
    let told = told.pop().filter(|_| told.is_empty()).expect("once");
    assert_eq!(
        (told.ts, told.summary),
        (usual[0].ts, usual[0].summary.clone())
    );
    let other = resident_leak().map(|mut window| {
        window.process.pid = 5;
        window
    });
    run(&mut detector, other);
    assert_eq!(detector.take_ignored().count(), 0);
    let counts: Vec<(String, u64)> = detector.take_ignored_counts().into_iter().collect();
    assert_eq!(counts, [("metric = \"committed_bytes\"".to_owned(), 2)]);
    assert!(detector.take_ignored_counts().is_empty());
    assert_eq!(detector.raised(), 2);
}

#[test]
fn sensitivity_is_how_much_must_rise() {
    // By so much in 6.4 hours, which is the first ring that is long enough for it; 3 % are worth a flag.
    let rising = |sensitivity: &str, share: f64| {
        let policy = format!("[default]\nsensitivity = \"{sensitivity}\"");
        let mut noise = Noise::new(5);
        let leak = series(9.0 * 3600.0, 30.0, |t| {
            200.0 * (1.0 + share * t / 23_040.0) + 0.02 * noise.normal()
        });
        let flags = run(&mut detector(&policy), leak);
        flags.first().map(|flag| flag.evidence.sensitivity)
    };
    assert_eq!(
        (rising("high", 0.02), rising("normal", 0.02)),
        (Some(High), None)
    );
    assert_eq!(
        (rising("normal", 0.04), rising("low", 0.04)),
        (Some(Normal), None)
    );
    assert_eq!(rising("low", 0.12), Some(Low));
}

#[test]
fn more_looks_take_longer() {
    let first = |looks: u32| {
        let flags = run(
            &mut detector(&format!("[default]\nlooks = {looks}")),
            resident_leak(),
        );
        seconds(flags.first().expect("it leaks"))
    };
    let times = [1, 3, 6, 12].map(first);
    assert!(
        times.is_sorted() && times[0] < times[1] && times[1] < times[3],
        "{times:?}"
    );
}

#[test]
fn a_limit_that_is_known_is_what_is_forecast() {
    let forecast = |policy: &str, kernel: Option<u64>| {
        let leak = resident_leak().map(|mut window| {
            window.kernel.memory_limit_bytes = kernel;
            window
        });
        let flags = run(&mut detector(policy), leak);
        let forecast = flags[0].evidence.forecast.expect("it arrives");
        (forecast.reaches, (forecast.level / MIB).round())
    };
    let policy = "[default.limits]\nmemory = \"1GiB\"";
    assert_eq!(forecast(policy, None), (Bound::Limit, 1024.0));
    assert_eq!(forecast(policy, Some(4 << 30)), (Bound::Limit, 1024.0));
    assert_eq!(forecast(policy, Some(512 << 20)), (Bound::Limit, 512.0));
    assert_eq!(forecast("", None).0, Bound::Doubling);
}

#[test]
fn after_a_clear_nothing_is_raised_until_it_has_cooled_down() {
    // Two hours up, one below the beginning, three up again and far beyond.
    let again = || {
        series(21_600.0, 5.0, |t| match t {
            ..7200.0 => 200.0 + 0.1 * t,
            7200.0..10_800.0 => 100.0,
            _ => 100.0 + 0.4 * (t - 10_800.0),
        })
    };
    let raised = |policy: &str| {
        let flags = run(&mut detector(policy), again());
        let raised = |flag: &&Flag| flag.kind == FlagKind::Climb && flag.state == FlagState::Raised;
        flags.iter().filter(raised).map(seconds).collect::<Vec<_>>()
    };
    let usual = raised("");
    let later = raised("[default]\ncool_down = \"3h\"");
    let never = raised("[default]\ncool_down = \"1day\"");
    assert_eq!(
        (usual.len(), later.len(), never.len()),
        (2, 2, 1),
        "{usual:?} {later:?}"
    );
    assert!(
        usual[1] < 7200.0 + 10_800.0 && later[1] >= 7200.0 + 10_800.0,
        "{usual:?} {later:?}"
    );
}
