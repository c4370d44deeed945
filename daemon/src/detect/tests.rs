//! The detector as a whole, on simulated services. The noise is deterministic: every run sees the same windows.

use proptest::prelude::*;

mod follow;
mod policy;
mod rules;

use super::*;
use crate::{
    histogram::{DelayCounts, Summariser},
    stream::{Bound, DelaySummary, KernelSummary, Load, MemorySummary, Metric, ThreadSummary},
};
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

const MIB: f64 = 1_048_576.0;
const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// xorshift64*, and the sum of twelve as a normal deviate.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// A window of process 812, created when it was first seen, that says nothing but that it was.
fn empty(end_s: f64, period_s: f64) -> Window {
    Window {
        ts: Moment(START + (end_s * 1e9) as u64),
        scope: Scope::Process,
        process: ProcessId {
            service: "shop".to_owned(),
            pid: 812,
            created: Moment(START),
        },
        thread: None,
        period_ns: (period_s * 1e9) as u64,
        ended: false,
        delay: Some(DelaySummary::default()),
        memory: MemorySummary::default(),
        threads: None,
        kernel: KernelSummary::default(),
        lost: 0,
        own: None,
    }
}

/// The window of `period_s` that ends at `end_s`, with so much memory.
fn committed(end_s: f64, period_s: f64, mib: f64) -> Window {
    let mut window = empty(end_s, period_s);
    window.memory.standing_committed_bytes = Some((mib.max(0.0) * MIB) as u64);
    window
}

fn of_thread(mut window: Window, name: &str, tid: u32) -> Window {
    window.scope = Scope::Thread;
    window.thread = Some(ThreadId {
        tid,
        name: name.to_owned(),
        created: Moment(START),
    });
    window
}

/// All flags on some windows, with the seconds at which they were raised.
fn run(detector: &mut Detector, windows: impl IntoIterator<Item = Window>) -> Vec<Flag> {
    let mut flags = Vec::new();
    for window in windows {
        detector.window(&window, &mut flags);
    }
    flags
}

fn fresh(windows: impl IntoIterator<Item = Window>) -> Vec<Flag> {
    run(&mut Detector::new(Config::default()), windows)
}

/// Windows of `period_s` for some time, with memory by the seconds.
fn series(
    seconds: f64,
    period_s: f64,
    mut mib: impl FnMut(f64) -> f64,
) -> impl Iterator<Item = Window> {
    (1..=(seconds / period_s) as u32).map(move |i| {
        let end_s = f64::from(i) * period_s;
        committed(end_s, period_s, mib(end_s))
    })
}

fn kinds(flags: &[Flag]) -> Vec<(FlagKind, FlagState)> {
    flags.iter().map(|flag| (flag.kind, flag.state)).collect()
}

fn climbs(flags: &[Flag]) -> usize {
    let raised = |flag: &&Flag| flag.kind == FlagKind::Climb && flag.state == FlagState::Raised;
    flags.iter().filter(raised).count()
}

fn seconds(flag: &Flag) -> f64 {
    (flag.ts.0 - START) as f64 / 1e9
}

#[test]
fn a_leak_is_raised_updated_and_cleared() {
    let mut noise = Noise::new(3);
    let flags = fresh(series(14_400.0, 5.0, |t| {
        200.0 + 0.2 * t.min(3600.0) + 0.5 * noise.normal()
    }));
    let first = &flags[0];
    assert_eq!(kinds(&flags)[0], (FlagKind::Climb, FlagState::Raised));
    assert_eq!(first.metric, Metric::CommittedBytes);
    assert!(seconds(first) < 1800.0, "{first:?}");
    let truth = 0.2 * 3600.0 * MIB;
    let evidence = &first.evidence;
    assert!(
        evidence.slope_low_per_hour < truth && truth < evidence.slope_high_per_hour,
        "{evidence:?}"
    );
    assert!(evidence.score.is_some_and(|score| score > 0.5));
    let forecast = evidence.forecast.expect("it arrives somewhere");
    let doubling_s = evidence.now / MIB / 0.2;
    assert!(
        (forecast.in_ns as f64 / 1e9 / doubling_s - 1.0).abs() < 0.1,
        "{forecast:?}"
    );
    let arrives_s = |slope: f64| evidence.now / slope * 3600.0;
    let (soonest_s, latest_s) = (
        arrives_s(evidence.slope_high_per_hour),
        arrives_s(evidence.slope_low_per_hour),
    );
    assert!(
        (forecast.soonest_ns as f64 / 1e9 / soonest_s - 1.0).abs() < 1e-6
            && forecast
                .latest_ns
                .is_some_and(|ns| (ns as f64 / 1e9 / latest_s - 1.0).abs() < 1e-6),
        "{evidence:?}"
    );
    let last = flags.last().expect("there is a first one");
    assert_eq!(
        (last.kind, last.state),
        (FlagKind::Climb, FlagState::Cleared)
    );
    assert_eq!(
        last.evidence.cleared_because.as_deref(),
        Some("it has stopped rising")
    );
    assert_eq!(climbs(&flags), 1, "{:?}", kinds(&flags));
    assert!(flags.iter().all(|flag| flag.id == "f1"));
}

/// Each kind of memory arrives at a limit of its own; files and threads at theirs.
#[test]
fn climbs_arrive_at_their_limits() {
    let forecast = |metric: Metric, set: fn(&mut Window, f64)| {
        let flags = fresh((1..=1440).map(|i| {
            let end_s = 5.0 * f64::from(i);
            let mut window = empty(end_s, 5.0);
            window.kernel.memory_limit_bytes = Some(900 << 20);
            window.kernel.tasks_limit = Some(500);
            window.kernel.fds_limit = Some(512);
            window.kernel.address_space_limit_bytes = Some(2 << 30);
            window.kernel.host_memory_bytes = Some(16 << 30);
            set(&mut window, 1.0 + end_s / 3600.0);
            window
        }));
        let flag = flags.iter().find(|flag| flag.metric == metric);
        let forecast = flag.and_then(|flag| flag.evidence.forecast);
        let forecast = forecast.unwrap_or_else(|| panic!("{metric:?}: {flags:?}"));
        assert_eq!(forecast.reaches, Bound::Limit, "{metric:?}");
        forecast.level
    };
    let rss = forecast(Metric::RssBytes, |window, times| {
        window.kernel.rss_bytes = Some((times * 250.0 * MIB) as u64);
    });
    let committed = forecast(Metric::CommittedBytes, |window, times| {
        window.memory.standing_committed_bytes = Some((times * 250.0 * MIB) as u64);
        window.memory.standing_reserved_bytes = Some((times * 250.0 * MIB) as u64 + (1 << 30));
    });
    let fds = forecast(Metric::Fds, |window, times| {
        window.kernel.fds = Some((times * 100.0) as u64);
    });
    let threads = forecast(Metric::ThreadsLive, |window, times| {
        window.kernel.threads = Some((times * 100.0) as u64);
    });
    let gib = 1024.0 * MIB;
    let near = |level: f64, expected: f64| (level / expected - 1.0).abs() < 1e-3;
    assert!(
        near(rss, 900.0 * MIB) && near(committed, gib),
        "{rss} {committed}"
    );
    assert!(near(fds, 512.0) && near(threads, 500.0), "{fds} {threads}");
}

#[test]
fn a_fall_below_the_beginning_clears() {
    let flags = fresh(series(7200.0, 5.0, |t| {
        if t < 3600.0 { 200.0 + 0.2 * t } else { 150.0 }
    }));
    let last = flags.last().expect("a leak");
    assert_eq!(
        last.evidence.cleared_because.as_deref(),
        Some("it fell back to where the climb began")
    );
    assert!((3600.0..4000.0).contains(&seconds(last)), "{last:?}");
}

#[test]
fn what_cannot_wait_is_raised_within_a_minute() {
    let flags = fresh((1..=30).map(|i| {
        let mut window = committed(2.0 * f64::from(i), 2.0, 20.0 + 4.0 * f64::from(i));
        window.threads = Some(ThreadSummary {
            live: 4 + 2 * i as u64,
            created: 2,
            exited: 0,
            ..ThreadSummary::default()
        });
        window
    }));
    assert_eq!(climbs(&flags), 2, "{flags:?}");
    assert!(flags.iter().all(|flag| flag.state != FlagState::Cleared));
    assert_eq!(
        flags[0].summary.split(" since").next(),
        Some(
            "shop (pid 812): number of threads climbs by 3600/h (95 %: 3600 to 3600), from 8 to 38"
        ),
        "{flags:?}"
    );
}

/// A sixteenth of half a year is longer than the longest ring.
#[test]
fn what_was_well_for_half_a_year_may_still_begin_to_leak() {
    let day = 86_400.0;
    let mut noise = Noise::new(12);
    let flags = fresh(series(190.0 * day, 600.0, |t| {
        500.0 + 100.0 * ((t - 180.0 * day) / day).max(0.0) + noise.normal()
    }));
    assert_eq!(climbs(&flags), 1, "{flags:?}");
    assert!(
        (180.0 * day..181.5 * day).contains(&seconds(&flags[0])),
        "{flags:?}"
    );
}

#[test]
fn a_leak_under_a_daily_rhythm_shows_from_day_to_day() {
    let day = 86_400.0;
    let flags = fresh(series(5.0 * day, 60.0, |t| {
        let phase = std::f64::consts::TAU * t / day;
        1000.0 + 300.0 * phase.sin() + 40.0 * t / day
    }));
    let days = |flag: &&Flag| flag.evidence.hours_higher.is_some();
    let found = flags.iter().find(days).expect("days are compared");
    assert!(
        (3.0 * day..3.2 * day).contains(&seconds(found)),
        "{found:?}"
    );
    let slope = found.evidence.slope_per_hour / MIB * 24.0;
    assert!((slope - 40.0).abs() < 4.0, "{found:?}");
    assert!(flags.iter().any(|flag| flag.kind == FlagKind::Periodic));
}

/// Fifty minutes are a new level of what is known for two, and not of what is known for a day.
#[test]
fn what_comes_and_goes_is_no_step() {
    let steps_at = |begin: f64| {
        let mut noise = Noise::new(5);
        let flags = fresh(series(begin + 7200.0, 5.0, |t| {
            let is_up = (begin..begin + 3000.0).contains(&t);
            500.0 + if is_up { 300.0 } else { 0.0 } + noise.normal()
        }));
        flags
            .iter()
            .filter(|flag| flag.kind == FlagKind::Step)
            .count()
    };
    assert_eq!((steps_at(7200.0), steps_at(86_400.0)), (1, 0));
}

/// Flags on memory, over twelve hours, when all of these have grown so many times at their end.
fn grown(memory: f64, switches: f64, cpu: Option<f64>) -> Vec<Flag> {
    let mut summariser = Summariser::default();
    let mut noise = Noise::new(9);
    let windows = (1..=1440_u32).map(move |i| {
        let t = f64::from(i) * 30.0;
        let times = |end: f64| 1.0 + (end - 1.0) * t / 43_200.0;
        let mut window = committed(t, 30.0, 300.0 * times(memory) + noise.normal());
        window.delay = Some(waits(
            &mut summariser,
            20_000,
            (3000.0 * times(switches) + 30.0 * noise.normal()) as u32,
        ));
        window.kernel.cpu_ns =
            cpu.map(|cpu| (1e9 * times(cpu) * (1.0 + 0.01 * noise.normal())) as u64);
        window
    });
    let mut flags = fresh(windows);
    flags.retain(|flag| flag.metric == Metric::CommittedBytes && flag.state != FlagState::Updated);
    flags
}

#[test]
fn growth_that_follows_the_load_is_said_and_not_flagged() {
    let flags = grown(2.0, 2.0, None);
    assert_eq!(kinds(&flags), [(FlagKind::Climb, FlagState::Explained)]);
    let evidence = &flags[0].evidence;
    assert_eq!(evidence.load, Some(Load::Switches));
    assert!(
        evidence
            .load_ratio
            .is_some_and(|ratio| ratio > evidence.now / evidence.baseline),
        "{evidence:?}"
    );
    assert!(
        flags[0].summary.contains("climbs as the load does"),
        "{}",
        flags[0].summary
    );
    // The same growth without the load, or with far less of it.
    for load in [1.0, 1.2] {
        let flags = grown(2.0, load, None);
        assert_eq!(
            kinds(&flags),
            [(FlagKind::Climb, FlagState::Raised)],
            "{load}"
        );
    }
}

/// A collector has more to do the larger the heap is: that is the leak, and not the load.
#[test]
fn what_a_leak_costs_does_not_explain_it() {
    for flags in [
        grown(2.0, 1.0, Some(2.0)),
        grown(2.0, 1.0, Some(3.0)),
        grown(2.0, 1.2, Some(2.0)),
    ] {
        assert_eq!(
            kinds(&flags),
            [(FlagKind::Climb, FlagState::Raised)],
            "{flags:?}"
        );
    }
}

/// Who has more to do does more a switch: CPU time may show a little more of the load than the switches.
#[test]
fn cpu_time_is_load_where_a_switch_costs_the_same() {
    let explained_by = |flags: &[Flag]| match flags {
        [flag] if flag.state == FlagState::Explained => flag.evidence.load,
        _ => None,
    };
    assert_eq!(explained_by(&grown(1.8, 1.5, None)), None);
    assert_eq!(explained_by(&grown(1.8, 1.5, Some(1.8))), Some(Load::Cpu));
}

/// So many waits of one length.
fn waits(summariser: &mut Summariser, ns: u64, count: u32) -> DelaySummary {
    let mut counts = DelayCounts::default();
    counts.add(&Delays {
        counts: vec![(bucket(ns) as u16, count)],
        sum_ns: ns * u64::from(count),
        max_ns: ns,
        ..Delays::default()
    });
    summariser.summarise(&counts)
}

#[test]
fn waits_of_like_named_threads_are_judged_together() {
    let mut summariser = Summariser::default();
    let mut windows = Vec::new();
    for i in 1..=400_u32 {
        let end_s = 10.0 * f64::from(i);
        windows.push(empty(end_s, 10.0));
        for tid in 0..3 {
            let mut window = of_thread(empty(end_s, 10.0), &format!("worker-{tid}"), 900 + tid);
            let ns = 20_000.0 * (f64::from(i) / 200.0).exp();
            window.delay = Some(waits(&mut summariser, ns as u64, 50));
            windows.push(window);
        }
    }
    let mut detector = Detector::new(Config::default());
    let flags = run(&mut detector, windows);
    assert_eq!(climbs(&flags), 1, "{flags:?}");
    let flag = &flags[0];
    assert_eq!((flag.metric, flag.scope), (Metric::Delay, Scope::Thread));
    let group = flag.threads.as_ref().expect("several threads");
    assert_eq!((group.name.as_str(), group.active), ("worker-#", 3));
    assert!(
        flag.summary
            .contains("threads worker-#: run-queue delay climbs"),
        "{}",
        flag.summary
    );
    assert_eq!((detector.series, detector.raised()), (2, 1));
}

#[test]
fn the_end_of_a_life_clears_its_flags_and_a_restart_begins_afresh() {
    let mut detector = Detector::new(Config::default());
    let leak = || series(1800.0, 5.0, |t| 100.0 + 0.1 * t);
    assert_eq!(climbs(&run(&mut detector, leak())), 1);
    let mut last = empty(1805.0, 5.0);
    last.ended = true;
    let flags = run(&mut detector, [last]);
    assert_eq!(kinds(&flags), [(FlagKind::Climb, FlagState::Cleared)]);
    assert_eq!((detector.raised(), detector.series), (0, 0));
    let again = leak().map(|mut window| {
        window.ts.0 += 1810 * SECOND;
        window.process.created.0 += 1810 * SECOND;
        window
    });
    assert_eq!(climbs(&run(&mut detector, again)), 1);
}

#[test]
fn a_life_whose_last_window_was_lost_is_dropped_in_time() {
    let mut detector = Detector::new(Config::default());
    run(&mut detector, series(1800.0, 5.0, |t| 100.0 + 0.1 * t));
    let others = (1..=9).map(|n| {
        let mut other = empty(1800.0 + 700.0 * f64::from(n), 5.0);
        other.process.pid = 5;
        other
    });
    let flags = run(&mut detector, others);
    assert_eq!(kinds(&flags), [(FlagKind::Climb, FlagState::Cleared)]);
    assert_eq!(detector.series, 1);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut detector = Detector::new(Config { max_series: 3 });
    let window = |pid| {
        let mut window = committed(5.0, 5.0, 1.0);
        window.process.pid = pid;
        window
    };
    run(&mut detector, (0..5).map(window));
    assert_eq!((detector.series, detector.take_refused()), (3, 2));
    assert_eq!(detector.take_refused(), 0);
}

#[test]
fn odd_windows_do_no_harm() {
    let mut detector = Detector::new(Config::default());
    for ts in [START, START, START - SECOND, 0, u64::MAX, START + SECOND] {
        for period in [0, 1, SECOND, u64::MAX] {
            let mut window = committed(0.0, 1.0, 1e9);
            window.ts = Moment(ts);
            window.period_ns = period;
            window.delay = Some(DelaySummary {
                count: 7,
                hdr: Some("no histogram".to_owned()),
                ..DelaySummary::default()
            });
            run(&mut detector, [window.clone(), of_thread(window, "", 1)]);
        }
    }
}

/// A machine that slept, or a recording with a hole: what rises afterwards was as high before.
#[test]
fn the_past_is_known_after_a_night_without_windows() {
    let evening = || series(7200.0, 5.0, |t| 500.0 + 300.0 * (t / 600.0).sin());
    let morning = || {
        let rise = series(1800.0, 5.0, |t| 200.0 + 580.0 * t / 1800.0);
        rise.map(|mut window| {
            window.ts.0 += 10 * 3600 * SECOND;
            window
        })
    };
    assert_eq!(climbs(&fresh(evening().chain(morning()))), 0);
    assert_eq!(climbs(&fresh(morning())), 1, "nothing is known of it");
}

#[test]
fn windows_may_be_longer_than_what_is_forgotten_after() {
    let level = |t: f64| 500.0 + 0.01 * t;
    let windows = series(200.0 * 7200.0, 7200.0, level);
    assert_eq!(climbs(&fresh(windows)), 1);
}

#[test]
fn state_is_bounded() {
    let mut detector = Detector::new(Config::default());
    let mut noise = Noise::new(4);
    run(
        &mut detector,
        series(7.0 * 86_400.0, 5.0, |_| 500.0 + noise.normal()),
    );
    assert!(
        detector.heap_bytes() < 25 * 1024,
        "{}",
        detector.heap_bytes()
    );
}

/// A shape of memory over an hour, in MiB.
fn healthy() -> impl Strategy<Value = (u64, f64, f64)> {
    (any::<u64>(), 20.0..4000.0, 0.0..0.05)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the level, and with noise of up to a twentieth of it.
    #[test]
    fn a_level_is_never_flagged((seed, level, noise) in healthy(), period in 1_u32..60) {
        let mut random = Noise::new(seed);
        let flags = fresh(series(7200.0, f64::from(period), |_| level * (1.0 + noise * random.normal())));
        prop_assert_eq!(climbs(&flags), 0, "{:?}", flags);
        let constant = fresh(series(7200.0, f64::from(period), |_| level));
        prop_assert!(constant.is_empty(), "{:?}", constant);
    }

    /// A clean leak is found before it has trebled, in windows of any length.
    #[test]
    fn a_clean_leak_is_always_flagged(level in 20.0..4000.0, hours in 0.5..3.0, period in 1_u32..60) {
        let slope = level / (hours * 3600.0);
        let flags = fresh(series(2.0 * hours * 3600.0, f64::from(period), |t| level + slope * t));
        prop_assert_eq!(climbs(&flags), 1, "{:?}", flags);
    }

    /// One jump, whenever and however high, is a step, once, and no climb.
    #[test]
    fn a_staircase_of_one_is_a_step(seed: u64, at in 1800.0..5400.0, height in 1.3..4.0) {
        let mut random = Noise::new(seed);
        let flags = fresh(series(7200.0, 5.0, |t| {
            500.0 * if t < at { 1.0 } else { height } * (1.0 + 0.01 * random.normal())
        }));
        prop_assert_eq!(kinds(&flags), vec![(FlagKind::Step, FlagState::Raised)], "{:?}", flags);
        let since = (flags[0].since.0 - START) as f64 / 1e9;
        prop_assert!((since - at).abs() < 60.0, "{} for {}", since, at);
    }

    /// What memory is measured in, and when it was, make no difference.
    #[test]
    fn scale_and_time_do_not_matter(seed: u64, slope in 0.0..0.1, scale in 2_u32..8, shift in 0_u64..1_000_000) {
        let leak = || {
            let mut random = Noise::new(seed);
            series(3600.0, 5.0, move |t| 256.0 + slope * t + random.normal().round())
        };
        let base = kinds(&fresh(leak()));
        let scaled = leak().map(|mut window| {
            window.memory.standing_committed_bytes = window.memory.standing_committed_bytes.map(|b| b << scale);
            window
        });
        // The least leak of all is an absolute one.
        if slope == 0.0 || slope > 0.01 {
            prop_assert_eq!(&kinds(&fresh(scaled)), &base);
        }
        let shifted = leak().map(|mut window| {
            window.ts.0 += shift * SECOND;
            window.process.created.0 += shift * SECOND;
            window
        });
        prop_assert_eq!(&kinds(&fresh(shifted)), &base);
    }

    /// Half as long windows, or a tenth of them missing: a leak is a leak.
    #[test]
    fn window_length_and_gaps_do_not_matter(seed: u64, slope in 0.1..0.3) {
        let leak = |period| {
            let mut random = Noise::new(seed);
            series(7200.0, period, move |t| 256.0 + slope * t + random.normal())
        };
        prop_assert_eq!(climbs(&fresh(leak(10.0))), 1);
        prop_assert_eq!(climbs(&fresh(leak(5.0))), 1);
        let mut random = Noise::new(seed ^ 1);
        let gaps = leak(5.0).filter(move |_| random.uniform() > 0.1);
        prop_assert_eq!(climbs(&fresh(gaps)), 1);
    }
}
