//! The detector as a whole, on simulated services. The noise is deterministic: every run sees the same windows.

use super::*;
use crate::stream::{
    DelaySummary, KernelSummary, MemorySummary, ProcessId, ThreadId, ThreadSummary,
};

const MIB: f64 = 1_048_576.0;
const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// xorshift64*, and the sum of twelve as a normal deviate.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A window of process 812 that says nothing but that it was.
fn empty(ts: u64, period: u64) -> Window {
    Window {
        ts: Moment(ts),
        scope: Scope::Process,
        process: ProcessId {
            service: "shop".to_owned(),
            pid: 812,
            created: Moment(START),
        },
        thread: None,
        period_ns: period,
        ended: false,
        delay: Some(DelaySummary::default()),
        memory: MemorySummary::default(),
        threads: None,
        kernel: KernelSummary::default(),
        lost: 0,
        own: None,
    }
}

/// The window with a metric set.
fn with(mut window: Window, metric: Metric, value: f64) -> Window {
    match metric {
        Metric::CommittedBytes => {
            window.memory.standing_committed_bytes = Some(value.max(0.0) as u64);
        }
        Metric::MappedRate => {
            window.memory.reserved_bytes = (value.max(0.0) * window.period_ns as f64 / 1e9) as u64;
        }
        Metric::ThreadsLive => {
            window.threads = Some(ThreadSummary {
                live: value.max(0.0) as u64,
                created: 0,
                exited: 0,
            });
        }
        Metric::DelayP99 => {
            window.delay = Some(DelaySummary {
                count: 1000,
                p99_ns: Some(value.max(0.0) as u64),
                ..DelaySummary::default()
            });
        }
    }
    window
}

fn of_thread(mut window: Window, tid: u32) -> Window {
    window.scope = Scope::Thread;
    window.thread = Some(ThreadId {
        tid,
        name: "worker".to_owned(),
        created: Moment(START),
    });
    window
}

/// Window `i` (from 0) of a series of windows of two seconds.
fn at(i: u64, metric: Metric, value: f64) -> Window {
    with(
        empty(START + (i + 1) * 2 * SECOND, 2 * SECOND),
        metric,
        value,
    )
}

fn committed(i: u64, mib: f64) -> Window {
    at(i, Metric::CommittedBytes, mib * MIB)
}

/// All flags on some windows, each with the number of its window.
fn run(detector: &mut Detector, windows: impl IntoIterator<Item = Window>) -> Vec<(usize, Flag)> {
    let mut all = Vec::new();
    for (i, window) in windows.into_iter().enumerate() {
        let mut flags = Vec::new();
        detector.window(&window, &mut flags);
        all.extend(flags.into_iter().map(|flag| (i, flag)));
    }
    all
}

fn fresh(windows: impl IntoIterator<Item = Window>) -> Vec<(usize, Flag)> {
    run(&mut Detector::new(Config::default()), windows)
}

fn states(flags: &[(usize, Flag)]) -> Vec<FlagState> {
    flags.iter().map(|(_, flag)| flag.state).collect()
}

/// How the runs of a family went.
#[derive(Debug, Default)]
struct Outcome {
    /// Runs with at least one flag.
    flagged: usize,
    /// Flags in all runs.
    flags: usize,
    /// Windows until the first flag, of the runs that have one, sorted.
    delays: Vec<usize>,
}

/// Runs a family of 500 windows with so many seeds. `shape` gives the function of one run: window to value.
fn family<F: FnMut(u64) -> f64>(metric: Metric, seeds: u64, shape: impl Fn(Noise) -> F) -> Outcome {
    let mut outcome = Outcome::default();
    for seed in 1..=seeds {
        let mut value = shape(Noise::new(seed));
        let flags = fresh((0..500).map(|i| at(i, metric, value(i))));
        let raised: Vec<usize> = flags
            .iter()
            .filter(|(_, flag)| flag.state == FlagState::Raised)
            .map(|(i, _)| *i + 1)
            .collect();
        outcome.flagged += usize::from(!raised.is_empty());
        outcome.flags += raised.len();
        outcome.delays.extend(raised.first());
    }
    outcome.delays.sort_unstable();
    outcome
}

/// First-order autoregression with a standard deviation of one.
fn wandering(mut noise: Noise, rho: f64) -> impl FnMut() -> f64 {
    let mut state = noise.normal();
    move || {
        state = rho * state + (1.0 - rho * rho).sqrt() * noise.normal();
        state
    }
}

/// A leak of the demonstration: 4 MiB/s and 2 threads/s, in windows of two seconds.
fn demonstration(i: u64) -> Window {
    let window = committed(i, 30.0 + 8.0 * i as f64);
    with(
        window,
        Metric::ThreadsLive,
        5.0 + 4.0 * i as f64 + (i % 3) as f64,
    )
}

#[test]
fn a_steady_leak_is_flagged_within_fifty_seconds() {
    let flags = fresh((0..25).map(demonstration));
    assert_eq!(states(&flags[..2]), [FlagState::Raised; 2], "{flags:?}");
    assert!(
        flags[2..]
            .iter()
            .all(|(_, flag)| flag.state == FlagState::Updated),
        "{flags:?}"
    );
    let flag = &flags
        .iter()
        .find(|(_, flag)| flag.metric == Metric::CommittedBytes)
        .expect("a flag on memory")
        .1;
    assert!(
        (flag.evidence.slope_per_hour / MIB - 14_400.0).abs() < 1.0,
        "{flag:?}"
    );
    assert_eq!(flag.evidence.windows, 14);
    // The first window after the warm-up ends at 22:13:28; the third is more than a tenth of the rise above it.
    assert_eq!(
        flag.summary,
        "shop (pid 812): committed memory climbs by 14 GiB/h (95 %: 14 GiB to 14 GiB), from 54 MiB to 158 MiB since 22:13:30Z"
    );
}

#[test]
fn the_same_windows_give_the_same_flags() {
    let lines = || {
        let mut noise = Noise::new(5);
        let flags = fresh((0..300).map(|i| committed(i, 30.0 + i as f64 + 3.0 * noise.normal())));
        flags
            .into_iter()
            .map(|(_, flag)| serde_json::to_string(&flag).expect("a record"))
            .collect::<Vec<_>>()
    };
    assert!(!lines().is_empty());
    assert_eq!(lines(), lines());
}

#[test]
fn healthy_series_are_not_flagged() {
    use Metric::{CommittedBytes as C, DelayP99 as D, MappedRate as M, ThreadsLive as T};
    const FEW: u64 = 20;
    for (metric, base, relative) in [
        (C, 100.0 * MIB, 0.05),
        (T, 50.0, 0.2),
        (M, MIB, 0.5),
        (D, 4e5, 0.5),
    ] {
        for rho in [0.0, 0.5, 0.8] {
            let outcome = family(metric, FEW, |noise| {
                let mut next = wandering(noise, rho);
                move |_| base * (1.0 + relative * next())
            });
            assert_eq!(outcome.flagged, 0, "{metric:?}, rho {rho}: {outcome:?}");
        }
        assert_eq!(
            family(metric, 1, |_| move |_| base).flagged,
            0,
            "{metric:?}, constant"
        );
        assert_eq!(
            family(metric, 1, |_| |_| 0.0).flagged,
            0,
            "{metric:?}, zero"
        );
    }
    let tails = family(D, FEW, |mut noise| {
        move |_| 3e5 * (0.8 * noise.normal()).exp()
    });
    assert_eq!(tails.flagged, 0, "heavy tails: {tails:?}");
}

#[test]
fn steps_spikes_and_short_starts_are_not_climbs() {
    const FEW: u64 = 20;
    const C: Metric = Metric::CommittedBytes;
    let step = family(C, FEW, |mut noise| {
        let when = (15.0 + 400.0 * noise.uniform()) as u64;
        move |i| MIB * (100.0 + f64::from(u8::from(i >= when)) * 40.0 + 0.5 * noise.normal())
    });
    assert_eq!(step.flagged, 0, "step: {step:?}");
    let clean = family(C, FEW, |mut noise| {
        let when = (500.0 * noise.uniform()) as u64;
        move |i| MIB * (100.0 + f64::from(u8::from(i >= when)) * 40.0)
    });
    assert_eq!(clean.flagged, 0, "step without noise: {clean:?}");
    let spike = family(C, FEW, |mut noise| {
        let when = (500.0 * noise.uniform()) as u64;
        move |i| MIB * (100.0 + if i == when { 500.0 } else { 0.0 } + noise.normal())
    });
    assert_eq!(spike.flagged, 0, "spike: {spike:?}");
    for tau in [3.0, 5.0, 10.0, 15.0] {
        let start = family(C, FEW, |mut noise| {
            move |i| MIB * (130.0 - 100.0 * (-(i as f64) / tau).exp() + 0.4 * noise.normal())
        });
        assert_eq!(start.flagged, 0, "start-up of {tau} windows: {start:?}");
    }
}

/// A saw of up to ten windows is never flagged. The first tooth of a longer one is a leak until it falls; what
/// must hold is that it is taken back then, and that no later tooth is flagged.
#[test]
fn a_sawtooth_is_flagged_once_at_most() {
    let saw = |period: f64| {
        family(Metric::CommittedBytes, 20, move |mut noise| {
            let phase = noise.uniform();
            move |i| MIB * (100.0 + 60.0 * (i as f64 / period + phase).fract() + noise.normal())
        })
    };
    for period in [3.0, 5.0, 10.0] {
        assert_eq!(saw(period).flagged, 0, "period {period}");
    }
    for period in [20.0, 80.0, 150.0] {
        let outcome = saw(period);
        assert_eq!(
            outcome.flags, outcome.flagged,
            "period {period}: {outcome:?}"
        );
    }
    let flags = fresh((0..500).map(|i| committed(i, 100.0 + 0.75 * (i % 80) as f64)));
    assert_eq!(
        states(&flags).last(),
        Some(&FlagState::Cleared),
        "{flags:?}"
    );
}

#[test]
fn a_long_climb_gives_few_updates() {
    let flags = fresh((0..500).map(|i| committed(i, 30.0 + i as f64)));
    assert!(flags.iter().all(|(_, flag)| flag.id == "f1"), "{flags:?}");
    assert_eq!(flags[0].1.state, FlagState::Raised);
    // From 13 windows' rise to 480: log 37 / log 1.5.
    let updates = flags
        .iter()
        .filter(|(_, flag)| flag.state == FlagState::Updated)
        .count();
    assert!(
        (6..=9).contains(&updates) && flags.len() == updates + 1,
        "{flags:?}"
    );
    assert!(flags.iter().all(|(_, flag)| flag.since == flags[0].1.since));
}

#[test]
fn a_leak_that_stops_is_cleared_and_one_that_returns_is_another() {
    let level = |i: u64| {
        30.0 + if i < 100 {
            i as f64
        } else {
            100.0 + i.saturating_sub(300) as f64
        }
    };
    let mut noise = Noise::new(3);
    let mut detector = Detector::new(Config::default());
    let flags = run(
        &mut detector,
        (0..400).map(|i| committed(i, level(i) + 0.3 * noise.normal())),
    );
    let ends: Vec<_> = flags
        .iter()
        .filter(|(_, flag)| flag.state != FlagState::Updated)
        .collect();
    let [(_, first), (stopped, cleared), (again, second)] = ends[..] else {
        panic!("{flags:?}")
    };
    assert_eq!(
        (first.state, cleared.state, second.state),
        (FlagState::Raised, FlagState::Cleared, FlagState::Raised)
    );
    assert_eq!(
        (first.id.as_str(), cleared.id.as_str(), second.id.as_str()),
        ("f1", "f1", "f2")
    );
    assert!(
        (100..160).contains(stopped) && (300..360).contains(again),
        "{stopped} {again}"
    );
    assert_eq!(
        cleared.evidence.cleared_because.as_deref(),
        Some("it has stopped rising")
    );
    assert!(
        cleared
            .summary
            .contains("no longer climbs: it has stopped rising; it went from"),
        "{}",
        cleared.summary
    );
    assert_eq!(detector.raised(), 1);
}

#[test]
fn a_fall_below_the_beginning_clears_at_once() {
    let flags = fresh((0..60).map(|i| committed(i, if i < 50 { 30.0 + i as f64 } else { 20.0 })));
    let (window, flag) = flags.last().expect("a flag");
    assert_eq!((flag.state, *window), (FlagState::Cleared, 51), "{flags:?}");
    assert_eq!(
        flag.evidence.cleared_because.as_deref(),
        Some("it fell back to where the climb began")
    );
}

#[test]
fn the_end_of_a_life_clears_its_flags_and_those_of_its_threads() {
    let mut detector = Detector::new(Config::default());
    let climbing = |i| of_thread(at(i, Metric::MappedRate, MIB * (1.0 + i as f64)), 9);
    run(
        &mut detector,
        (0..30).flat_map(|i| [demonstration(i), climbing(i)]),
    );
    assert_eq!(detector.raised(), 3);
    let flags = run(
        &mut detector,
        [Window {
            ended: true,
            ..at(30, Metric::CommittedBytes, 0.0)
        }],
    );
    assert_eq!(states(&flags), [FlagState::Cleared; 3]);
    assert!(
        flags
            .iter()
            .all(|(_, flag)| flag.evidence.cleared_because.as_deref() == Some("the process ended")),
        "{flags:?}"
    );
    assert_eq!(
        (detector.raised(), detector.series, detector.lives.len()),
        (0, 0, 0)
    );
    // The thread's last window may come after the process's.
    assert!(
        run(
            &mut detector,
            [Window {
                ended: true,
                ..climbing(30)
            }]
        )
        .is_empty()
    );
    assert!(detector.lives.is_empty());
}

#[test]
fn the_end_of_a_thread_leaves_its_process_alone() {
    let mut detector = Detector::new(Config::default());
    let climbing = |i| of_thread(at(i, Metric::MappedRate, MIB * (1.0 + i as f64)), 9);
    let raised = run(
        &mut detector,
        (0..30).flat_map(|i| [demonstration(i), climbing(i)]),
    );
    let of_the_thread: Vec<_> = raised
        .iter()
        .filter(|(_, flag)| flag.scope == Scope::Thread && flag.state == FlagState::Raised)
        .collect();
    let [(_, flag)] = of_the_thread[..] else {
        panic!("{raised:?}")
    };
    assert!(
        flag.summary
            .starts_with("shop (pid 812), thread worker (tid 9): mapping rate climbs by "),
        "{}",
        flag.summary
    );
    let flags = run(
        &mut detector,
        [Window {
            ended: true,
            ..climbing(30)
        }],
    );
    assert_eq!(
        flags[0].1.evidence.cleared_because.as_deref(),
        Some("the thread ended")
    );
    assert_eq!((flags.len(), detector.raised()), (1, 2));
}

#[test]
fn a_restart_begins_afresh() {
    let mut detector = Detector::new(Config::default());
    assert!(run(&mut detector, (0..12).map(demonstration)).is_empty());
    let restarted = |i| {
        let mut window = demonstration(i);
        window.process.created = Moment(START + 24 * SECOND);
        window
    };
    let flags = run(&mut detector, (12..40).map(restarted));
    // Warm-up of 3, 12 points, and two more evaluations.
    assert!(
        flags.iter().all(|(i, _)| *i >= 16) && detector.raised() == 2,
        "{flags:?}"
    );
}

#[test]
fn a_life_whose_last_window_was_lost_is_dropped_in_time() {
    let mut detector = Detector::new(Config::default());
    run(&mut detector, (0..25).map(demonstration));
    let later = |seconds| {
        let mut window = empty(START + seconds * SECOND, SECOND);
        window.process.pid = 5;
        window
    };
    assert!(run(&mut detector, [later(1800)]).is_empty());
    let flags = run(&mut detector, [later(5400)]);
    assert_eq!(states(&flags), [FlagState::Cleared; 2]);
    assert_eq!(detector.raised(), 0);
}

#[test]
fn missing_values_are_no_values() {
    // Every third window has a p99; the others have too few waits for one.
    let delay = |i: u64| {
        let mut window = at(i, Metric::DelayP99, 3e5 + 1e5 * i as f64);
        window.delay.as_mut().unwrap().count = if i.is_multiple_of(3) { 50 } else { 49 };
        window
    };
    let flags = fresh((0..90).map(delay));
    assert_eq!(flags[0].1.metric, Metric::DelayP99);
    assert!(flags[0].0 > 3 * 12, "{flags:?}");
    assert!(fresh((0..200).map(|i| empty(START + (i + 1) * SECOND, SECOND))).is_empty());
    // The kernel's figure steps in for a standing one that is not known.
    let kernel = |i: u64| {
        let mut window = empty(START + (i + 1) * SECOND, SECOND);
        window.kernel.data_bytes = Some((30 + i) << 20);
        window
    };
    assert_eq!(
        fresh((0..25).map(kernel))[0].1.metric,
        Metric::CommittedBytes
    );
}

#[test]
fn windows_may_have_any_length() {
    let mut noise = Noise::new(11);
    let mut ts = START;
    let mut uneven = |slope: f64| {
        let period = (1.0 + 59.0 * noise.uniform()) as u64;
        ts += period * SECOND;
        let seconds = ((ts - START) / SECOND) as f64;
        with(
            empty(ts, period * SECOND),
            Metric::CommittedBytes,
            MIB * (50.0 + slope * seconds + 0.3 * noise.normal()),
        )
    };
    assert!(fresh((0..200).map(|_| uneven(0.0))).is_empty());
    let flags = fresh((0..40).map(|_| uneven(0.5)));
    let slope = flags[0].1.evidence.slope_per_hour / MIB;
    assert!((slope - 1800.0).abs() < 20.0, "{flags:?}");
}

#[test]
fn odd_windows_do_no_harm() {
    let mut detector = Detector::new(Config::default());
    // Twice the same, backwards, at the beginning and end of time, without a period, of no thread.
    let times = [START, START, START - SECOND, 0, u64::MAX, START + SECOND];
    let windows = times.iter().flat_map(|ts| {
        let window = with(empty(*ts, 0), Metric::CommittedBytes, 1e18);
        [
            window.clone(),
            Window {
                scope: Scope::Thread,
                ..window
            },
        ]
    });
    for _ in 0..20 {
        assert!(run(&mut detector, windows.clone()).is_empty());
    }
    // Repeated and returning windows add nothing to a climb.
    let doubled =
        fresh((0..30).flat_map(|i| [demonstration(i), demonstration(i), demonstration(i / 2)]));
    let single = fresh((0..30).map(demonstration));
    let records = |flags: &[(usize, Flag)]| {
        flags
            .iter()
            .map(|(_, flag)| flag.summary.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(records(&doubled), records(&single));
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut detector = Detector::new(Config {
        max_series: 10,
        ..Config::default()
    });
    let window = |i: u64, tid: u32| of_thread(at(i, Metric::MappedRate, MIB), tid);
    for i in 0..5 {
        run(&mut detector, (0..25).map(|tid| window(i, tid)));
    }
    // Ten threads have a place and one series each; fifteen are refused in each of five windows.
    assert_eq!((detector.series, detector.lives.len()), (10, 10));
    assert_eq!(detector.take_refused(), 75);
    assert_eq!(detector.take_refused(), 0);
    // A place that is left is given away.
    run(
        &mut detector,
        [Window {
            ended: true,
            ..window(5, 0)
        }],
    );
    run(&mut detector, (6..10).map(|i| window(i, 24)));
    assert_eq!((detector.series, detector.take_refused()), (10, 0));
    // Two series a life: the table of series is full before that of lives.
    let mut detector = Detector::new(Config {
        max_series: 3,
        ..Config::default()
    });
    run(
        &mut detector,
        (0..4).flat_map(|i| {
            [1, 2].map(|tid| {
                of_thread(
                    with(at(i, Metric::MappedRate, MIB), Metric::DelayP99, 1e6),
                    tid,
                )
            })
        }),
    );
    assert_eq!((detector.series, detector.take_refused()), (3, 1));
}

/// The demo service: no noise at all, but its leak becomes 3 % slower once the heap's thresholds have adapted.
#[test]
fn a_bend_without_noise_is_flagged_in_time() {
    let level = |i: u64| 30.0 + 4.15 * i.min(13) as f64 + 4.02 * i.saturating_sub(13) as f64;
    let flags = fresh((0..30).map(|i| committed(i, level(i))));
    assert!(flags[0].0 < 25, "raised at window {}", flags[0].0);
    assert!(flags[0].1.evidence.z > 3.3, "{flags:?}");
}
