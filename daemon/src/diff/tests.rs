//! Recordings of which the truth is known.

use std::fmt::Write as _;

use jiff::Timestamp;
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

use super::{
    compare::{Comparison, Figure, Verdict},
    period::Part,
    quantity::Quantity,
    read::read,
    report::Report,
    side::{By, MOST_SUBJECTS, Only},
    table,
};
use crate::{
    histogram::{DelayCounts, Summariser},
    stream::{
        Hooks, Host, KernelSummary, Limits, Line, Loss, LossClass, MemorySummary, Moment,
        ProcessId, Record, Scope, Start, TargetEvent, TargetEventKind, ThreadId, ThreadSummary,
        Window,
    },
};

/// What a service does. Each number is multiplied by a load that wanders, and by noise of its own.
#[derive(Clone, Debug)]
pub struct Load {
    pub service: &'static str,
    pub window_s: f64,
    pub waits_per_s: f64,
    pub typical_ns: f64,
    /// Share of waits that are long, and how many times as long as the others.
    pub tail: (f64, f64),
    pub created_per_s: f64,
    pub committed: f64,
    pub maps_per_s: f64,
    pub fds: u64,
    /// Threads by name that have windows of their own.
    pub threads: Vec<String>,
    /// How much of the load is left after a window, and how far it wanders, as a share.
    pub wander: (f64, f64),
}

impl Default for Load {
    fn default() -> Self {
        Self {
            service: "shop",
            window_s: 10.0,
            waits_per_s: 100.0,
            typical_ns: 20_000.0,
            tail: (0.02, 50.0),
            created_per_s: 1.0,
            committed: 1e8,
            maps_per_s: 50.0,
            fds: 40,
            threads: Vec::new(),
            wander: (0.0, 0.01),
        }
    }
}

/// 2026-01-01T00:00:00Z.
const BEGIN: u64 = 1_767_225_600_000_000_000;

/// Numbers that look random, the same ones for a seed.
pub struct Noise(pub u64);

impl Noise {
    pub fn uniform(&mut self) -> f64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (
            (-2.0 * (1.0 - self.uniform()).ln()).sqrt(),
            std::f64::consts::TAU * self.uniform(),
        );
        radius * angle.cos()
    }
}

struct Writer {
    text: String,
    summariser: Summariser,
    noise: Noise,
    load: f64,
}

/// A recording of so many windows.
pub fn recording(load: &Load, windows: u32, seed: u64) -> String {
    let mut noise = Noise(seed);
    let mut writer = Writer {
        text: String::new(),
        summariser: Summariser::default(),
        load: noise.normal(),
        noise,
    };
    writer.start(load);
    let period = (load.window_s * 1e9) as u64;
    for n in 1..=u64::from(windows) {
        writer.windows(load, BEGIN + n * period, period);
    }
    writer.text
}

impl Writer {
    fn write(&mut self, record: Record) {
        let line = serde_json::to_string(&Line::from(record)).expect("records are JSON");
        writeln!(self.text, "{line}").expect("it is memory");
    }

    fn start(&mut self, load: &Load) {
        self.write(Record::Start(Box::new(Start {
            ts: Moment(BEGIN),
            version: "0".into(),
            host: Host {
                name: "h".into(),
                kernel: "6".into(),
                kernel_build: "b".into(),
                arch: "x86_64".into(),
                cpus: 2,
            },
            hooks: Hooks {
                tasks: "raw".into(),
                sched: "raw".into(),
                memory: "kprobe".into(),
                refused: Vec::new(),
            },
            limits: Limits {
                window_ns: 1,
                slow_ns: None,
                min_mapping_bytes: None,
                ring_bytes: 1,
                max_tasks: 1,
                delay_precision: 0.06,
                budget_share: None,
            },
            policy: None,
            targets: Vec::new(),
        })));
        self.write(Record::Target(target(
            load.service,
            TargetEventKind::Found,
            BEGIN,
        )));
    }

    fn windows(&mut self, load: &Load, ts: u64, period_ns: u64) {
        let (alike, far) = load.wander;
        self.load = alike * self.load + (1.0 - alike * alike).sqrt() * self.noise.normal();
        let window = self.window(load, (far * self.load).exp(), ts, period_ns);
        self.write(Record::Window(Box::new(window.clone())));
        for (n, name) in load.threads.iter().enumerate() {
            let thread = ThreadId {
                tid: 8 + n as u32,
                name: name.clone(),
                created: Moment(BEGIN),
            };
            self.write(Record::Window(Box::new(Window {
                scope: Scope::Thread,
                thread: Some(thread),
                threads: None,
                ..window.clone()
            })));
        }
    }

    fn window(&mut self, load: &Load, busy: f64, ts: u64, period_ns: u64) -> Window {
        let seconds = period_ns as f64 / 1e9;
        let mut some = |rate: f64| {
            (rate * busy * (1.0 + 0.01 * self.noise.normal()))
                .round()
                .max(0.0) as u64
        };
        let (waits, created) = (
            some(load.waits_per_s * seconds),
            some(load.created_per_s * seconds),
        );
        let (maps, committed) = (some(load.maps_per_s * seconds), some(load.committed));
        let mut sample = Delays::default();
        let mut counts = std::collections::BTreeMap::<u16, u32>::new();
        for _ in 0..waits {
            let long = if self.noise.uniform() < load.tail.0 {
                load.tail.1
            } else {
                1.0
            };
            let wait = (load.typical_ns * busy * long * (0.5 * self.noise.normal()).exp()) as u64;
            *counts.entry(bucket(wait) as u16).or_default() += 1;
            sample.sum_ns += wait;
            sample.max_ns = sample.max_ns.max(wait);
        }
        sample.counts = counts.into_iter().collect();
        let mut delays = DelayCounts::default();
        delays.add(&sample);
        Window {
            ts: Moment(ts),
            scope: Scope::Process,
            process: process(load.service),
            thread: None,
            period_ns,
            ended: false,
            delay: Some(self.summariser.summarise(&delays)),
            memory: MemorySummary {
                map_calls: maps,
                reserved_bytes: maps * 4096,
                standing_committed_bytes: Some(committed),
                ..MemorySummary::default()
            },
            threads: Some(ThreadSummary {
                live: 7,
                created,
                exited: created,
                ..ThreadSummary::default()
            }),
            kernel: KernelSummary {
                fds: Some(load.fds),
                ..KernelSummary::default()
            },
            lost: 0,
            own: None,
        }
    }
}

fn process(service: &str) -> ProcessId {
    ProcessId {
        service: service.to_owned(),
        pid: 7,
        created: Moment(BEGIN),
    }
}

fn target(service: &str, event: TargetEventKind, ts: u64) -> TargetEvent {
    TargetEvent {
        ts: Moment(ts),
        event,
        service: service.to_owned(),
        pid: Some(7),
        created: Some(Moment(BEGIN)),
        name: Some(format!("{service}d")),
        detail: None,
    }
}

/// Compares two texts.
fn diff_by(by: By, only: [Only; 2], a: &str, b: &str) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let [one, other] = [("a", a), ("b", b)].map(|(name, text)| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("it is ours");
        path
    });
    let part = |path: &std::path::Path| {
        path.to_str()
            .expect("text")
            .parse::<Part>()
            .expect("it is one")
    };
    let [only_a, only_b] = only;
    let sides = [
        read(&part(&one), by, only_a)?,
        read(&part(&other), by, only_b)?,
    ];
    Report::of([&one, &other], sides, 0.05)
}

fn diff(a: &Load, b: &Load) -> Report {
    diff_by(
        By::Service,
        [None, None],
        &recording(a, 120, 1),
        &recording(b, 120, 2),
    )
    .expect("they can be compared")
}

#[track_caller]
fn figure(report: &Report, figure: Figure) -> &Comparison {
    let found = report
        .figures
        .iter()
        .find(|comparison| comparison.figure == figure);
    found.unwrap_or_else(|| panic!("no {figure:?} in {:?}", report.figures))
}

/// Those that differ.
fn differences(report: &Report) -> Vec<(Figure, Verdict)> {
    let differ = report
        .figures
        .iter()
        .filter(|figure| matches!(figure.verdict, Verdict::More | Verdict::Less));
    differ
        .map(|figure| (figure.figure, figure.verdict))
        .collect()
}

#[track_caller]
fn ratio(report: &Report, of: Figure, expected: f64, within: f64) {
    let ratio = figure(report, of).ratio.expect("neither is zero");
    assert!(
        (ratio.value / expected).ln().abs() < within,
        "{of:?}: {ratio:?}, not {expected}"
    );
    let (low, high) = (
        ratio.low.expect("there are windows"),
        ratio.high.expect("there is an end"),
    );
    assert!(
        low <= expected * 1.000_001 && expected <= high * 1.000_001,
        "{of:?}: {ratio:?}, not {expected}"
    );
}

#[test]
fn identical_periods_are_the_same() {
    // Their 99th percentile is known within 5 % only with so many waits.
    let load = Load {
        waits_per_s: 2000.0,
        ..Load::default()
    };
    let text = recording(&load, 120, 1);
    let report = diff_by(By::Service, [None, None], &text, &text).expect("they can be compared");
    for figure in &report.figures {
        assert_eq!(figure.verdict, Verdict::Same, "{figure:?}");
        assert!(
            (figure.ratio.expect("none is zero").value - 1.0).abs() < 1e-9,
            "{figure:?}"
        );
    }
    assert!(report.figures.len() >= 9, "{:?}", report.figures);
    let longer = report.delays[0].longer;
    assert!(
        (longer.probability - 0.5).abs() < 1e-9 && longer.cliffs_delta.abs() < 1e-9,
        "{longer:?}"
    );
    assert!(
        report.conclusion.starts_with("No difference is sure"),
        "{}",
        report.conclusion
    );
    assert!(!report.is_worse());
}

#[test]
fn waits_that_are_a_fifth_longer_are_more() {
    let after = Load {
        typical_ns: 24_000.0,
        ..Load::default()
    };
    let report = diff(&Load::default(), &after);
    ratio(&report, Figure::Delay, 1.2, 0.02);
    ratio(&report, Figure::Quantity(Quantity::Waited), 1.2, 0.05);
    assert_eq!(figure(&report, Figure::Delay).verdict, Verdict::More);
    // Of normal logarithms 0.18 apart with a deviation of 0.5: Phi(0.182 / (0.5 sqrt 2)) = 0.602; a tail of 2 % takes
    // a little of it.
    let longer = report.delays[0].longer;
    assert!((longer.probability - 0.598).abs() < 0.01, "{longer:?}");
    assert!(longer.low.expect("there are windows") > 0.58, "{longer:?}");
    let others = differences(&report)
        .into_iter()
        .filter(|(figure, _)| matches!(figure, Figure::Quantity(q) if *q != Quantity::Waited));
    assert_eq!(others.count(), 0, "{:?}", report.figures);
    assert!(report.is_worse());
    let back = diff(&after, &Load::default());
    assert_eq!(figure(&back, Figure::Delay).verdict, Verdict::Less);
    assert!(!back.is_worse());
}

#[test]
fn tails_alone_are_seen() {
    let after = Load {
        tail: (0.02, 100.0),
        ..Load::default()
    };
    let report = diff(&Load::default(), &after);
    assert_eq!(figure(&report, Figure::Delay).verdict, Verdict::Same);
    assert_eq!(figure(&report, Figure::DelayP99).verdict, Verdict::More);
    ratio(&report, Figure::DelayP99, 2.0, 0.1);
    ratio(&report, Figure::DelayP999, 2.0, 0.2);
    assert!((report.delays[0].longer.probability - 0.5).abs() < 0.01);
}

#[test]
fn counts_and_levels_that_change_are_seen() {
    let after = Load {
        created_per_s: 2.0,
        committed: 1.2e8,
        maps_per_s: 40.0,
        fds: 41,
        ..Load::default()
    };
    let report = diff(&Load::default(), &after);
    for (quantity, expected, verdict) in [
        (Quantity::Created, 2.0, Verdict::More),
        (Quantity::Committed, 1.2, Verdict::More),
        (Quantity::MapCalls, 0.8, Verdict::Less),
        (Quantity::Mapped, 0.8, Verdict::Less),
        (Quantity::Fds, 41.0 / 40.0, Verdict::Same),
    ] {
        ratio(&report, Figure::Quantity(quantity), expected, 0.02);
        assert_eq!(
            figure(&report, Figure::Quantity(quantity)).verdict,
            verdict,
            "{quantity:?}"
        );
    }
    // The surest and largest first.
    let order: Vec<_> = report
        .figures
        .iter()
        .map(|figure| figure.figure)
        .take(3)
        .collect();
    assert_eq!(order[0], Figure::Quantity(Quantity::Created), "{order:?}");
    assert!(
        report.conclusion.contains("shop threads created is more"),
        "{}",
        report.conclusion
    );
}

#[test]
fn from_nothing_there_is_no_ratio() {
    let none = Load {
        created_per_s: 0.0,
        ..Load::default()
    };
    let report = diff(&none, &Load::default());
    let created = figure(&report, Figure::Quantity(Quantity::Created));
    assert_eq!(
        (created.verdict, created.ratio.is_none()),
        (Verdict::More, true)
    );
    let back = diff(&Load::default(), &none);
    assert_eq!(
        figure(&back, Figure::Quantity(Quantity::Created)).verdict,
        Verdict::Less
    );
    let both = diff(&none, &none);
    assert!(
        both.figures
            .iter()
            .all(|figure| figure.figure != Figure::Quantity(Quantity::Created))
    );
    // A single thread in all the time may be chance.
    let once = recording(&none, 60, 1).replacen(r#""created":0"#, r#""created":1"#, 1);
    let report = diff_by(By::Service, [None, None], &recording(&none, 60, 2), &once)
        .expect("they can be compared");
    assert_eq!(
        figure(&report, Figure::Quantity(Quantity::Created)).verdict,
        Verdict::Unclear
    );
}

/// Windows of a second and of ten of the same service.
#[test]
fn windows_of_other_lengths_say_the_same() {
    let short = Load {
        window_s: 1.0,
        ..Load::default()
    };
    let (a, b) = (
        recording(&short, 600, 1),
        recording(&Load::default(), 60, 2),
    );
    let report = diff_by(By::Service, [None, None], &a, &b).expect("they can be compared");
    assert_eq!(differences(&report), [], "{:?}", report.figures);
    ratio(&report, Figure::Quantity(Quantity::Created), 1.0, 0.05);
    assert_eq!((report.a.windows, report.b.windows), (600, 60));
    let created = figure(&report, Figure::Quantity(Quantity::Created));
    assert_eq!(
        (created.a.bins, created.b.bins),
        (50, 60),
        "bins of 12 windows of a second"
    );
}

#[test]
fn few_windows_have_no_interval() {
    let after = Load {
        typical_ns: 200_000.0,
        ..Load::default()
    };
    let (a, b) = (recording(&Load::default(), 4, 1), recording(&after, 60, 2));
    let report = diff_by(By::Service, [None, None], &a, &b).expect("they can be compared");
    let delay = figure(&report, Figure::Delay);
    assert_eq!(delay.verdict, Verdict::Unclear);
    assert_eq!(
        delay.why.as_deref(),
        Some("A has 4 windows of it; an interval takes 5")
    );
    let ratio = delay.ratio.expect("neither is zero");
    assert!(ratio.low.is_none() && ratio.value > 8.0, "{ratio:?}");
    assert!(report.delays[0].longer.low.is_none());
    assert!(!report.is_worse());
}

#[test]
fn what_is_new_and_gone_is_named() {
    let threads = |names: &[&str]| Load {
        threads: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Load::default()
    };
    let (a, b) = (
        recording(&threads(&["pool-1", "pool-2", "gc"]), 20, 1),
        recording(&threads(&["pool-7", "flusher"]), 20, 2),
    );
    let report = diff_by(By::Threads, [None, None], &a, &b).expect("they can be compared");
    let names = |novel: &[super::novel::Novel]| {
        novel
            .iter()
            .map(|novel| novel.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&report.gone), names(&report.new)),
        (vec!["gc".to_owned()], vec!["flusher".to_owned()])
    );
    // Two threads of a group against one.
    let waits = figure(&report, Figure::Quantity(Quantity::Switches));
    assert_eq!(waits.subject.threads.as_deref(), Some("pool-#"));
    assert_eq!(waits.subject.process.as_deref(), Some("shopd"));
    ratio(&report, Figure::Quantity(Quantity::Switches), 0.5, 0.03);
    // The same is said where threads are not compared.
    let report = diff_by(By::Service, [None, None], &a, &b).expect("they can be compared");
    assert_eq!(
        (names(&report.gone), names(&report.new)),
        (vec!["gc".to_owned()], vec!["flusher".to_owned()])
    );
}

/// Threads that did nothing have no window.
#[test]
fn idle_threads_have_waited_for_nothing() {
    let load = Load {
        threads: vec!["pool-1".into()],
        ..Load::default()
    };
    let whole = recording(&load, 60, 1);
    let mut number = 0;
    let half: String = whole
        .lines()
        .filter(|line| {
            number += u32::from(line.contains(r#""scope":"thread""#));
            !line.contains(r#""scope":"thread""#) || number % 2 == 1
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let report = diff_by(By::Threads, [None, None], &whole, &half).expect("they can be compared");
    ratio(&report, Figure::Quantity(Quantity::Switches), 0.5, 0.03);
    assert_eq!(figure(&report, Figure::Delay).verdict, Verdict::Same);
}

#[test]
fn gaps_losses_and_restarts_are_said() {
    let text = recording(&Load::default(), 30, 1);
    let ts = |n: u64| {
        Timestamp::from_nanosecond(i128::from(BEGIN + n * 10_000_000_000))
            .expect("it is one")
            .to_string()
    };
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !(10..15).any(|n| line.contains(&format!("\"ts\":\"{}", &ts(n)[..19]))))
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 2 + 25);
    for record in [
        Record::Target(target(
            "shop",
            TargetEventKind::Exited,
            BEGIN + 95_000_000_000,
        )),
        Record::Target(target(
            "shop",
            TargetEventKind::Started,
            BEGIN + 145_000_000_000,
        )),
        Record::Loss(Loss {
            ts: Moment(BEGIN + 200_000_000_000),
            class: LossClass::Mapping,
            count: 12,
        }),
    ] {
        lines.push(serde_json::to_string(&Line::from(record)).expect("records are JSON"));
    }
    lines.push(lines[0].replace("T00:00:00.", "T00:02:25."));
    let report =
        diff_by(By::Service, [None, None], &text, &lines.join("\n")).expect("they can be compared");
    assert_eq!((report.b.gaps.count, report.b.gaps.ns), (1, 50_000_000_000));
    assert_eq!((report.a.gaps.count, report.a.lost.len()), (0, 0));
    assert_eq!(report.b.lost.get(&LossClass::Mapping), Some(&12));
    assert_eq!((report.lives[0].b.began, report.lives[0].b.ended), (1, 1));
    let mut shown = Vec::new();
    table::write(&report, &mut shown).expect("it is memory");
    let shown = String::from_utf8(shown).expect("it is text");
    for text in [
        "1 gaps of 50 s",
        "LOST: 12 mapping",
        "B 1 began, 1 ended",
        "note: B: 12 losses",
        "note: B: slowburn was started again 1 times",
    ] {
        assert!(shown.contains(text), "no {text:?} in {shown}");
    }
}

#[test]
fn services_of_other_names_can_be_compared() {
    let green = Load {
        service: "shop-green",
        ..Load::default()
    };
    let (a, b) = (recording(&Load::default(), 60, 1), recording(&green, 60, 2));
    let error =
        diff_by(By::Service, [None, None], &a, &b).expect_err("they have nothing in common");
    assert!(
        error
            .to_string()
            .contains("A has shop, and B has shop-green"),
        "{error}"
    );
    let only = |name: &str| Some((name.to_owned(), "both".to_owned()));
    let report = diff_by(By::Service, [only("shop"), only("shop-green")], &a, &b)
        .expect("they can be compared");
    assert_eq!(differences(&report), []);
    assert_eq!(report.figures[0].subject.service, "both");
    let error = diff_by(By::Service, [only("till"), None], &a, &b).expect_err("there is none");
    assert!(
        error
            .to_string()
            .contains("no window of till in the whole recording: it has windows of shop, from"),
        "{error}"
    );
}

#[test]
fn further_subjects_are_counted() {
    let letters = |n: usize| {
        format!(
            "t{}{}",
            (b'a' + (n / 26) as u8) as char,
            (b'a' + (n % 26) as u8) as char
        )
    };
    let load = Load {
        threads: (0..MOST_SUBJECTS + 10).map(letters).collect(),
        waits_per_s: 1.0,
        ..Load::default()
    };
    let text = recording(&load, 6, 1);
    let report = diff_by(By::Threads, [None, None], &text, &text).expect("they can be compared");
    let note = "A: 60 windows of further subjects than the first 256 are not compared";
    assert!(
        report.notes.iter().any(|said| said == note),
        "{:?}",
        report.notes
    );
}

/// Nothing has changed in these, and everything wanders: of all figures of a report together, one may be called
/// different in one report of twenty.
#[test]
fn halves_of_the_same_are_seldom_different() {
    let load = |alike| Load {
        waits_per_s: 30.0,
        wander: (alike, 0.2),
        ..Load::default()
    };
    let after = Load {
        typical_ns: 30_000.0,
        ..load(0.5)
    };
    let reports = 200;
    for alike in [0.0, 0.5, 0.8] {
        let different = (0..reports).filter(|seed| {
            let whole = recording(&load(alike), 120, 1000 + seed);
            // The header and the first half; all but that.
            let lines: Vec<&str> = whole.lines().collect();
            let (a, b) = (
                lines[..62].join("\n"),
                [&lines[..2], &lines[62..]].concat().join("\n"),
            );
            let report = diff_by(By::Service, [None, None], &a, &b).expect("they can be compared");
            !differences(&report).is_empty()
        });
        let different = different.count() as u64;
        println!("{different} of {reports} reports at {alike}");
        assert!(
            different * 100 <= 7 * reports,
            "{different} of {reports} at {alike}"
        );
    }
    // Not for want of power: delays that are half again as long are told from the same noise.
    let found = (0..reports).filter(|seed| {
        let (a, b) = (
            recording(&load(0.5), 60, 5000 + seed),
            recording(&after, 60, 9000 + seed),
        );
        let report = diff_by(By::Service, [None, None], &a, &b).expect("they can be compared");
        figure(&report, Figure::Delay).verdict == Verdict::More
    });
    let found = found.count() as u64;
    println!("{found} of {reports} shifts found");
    assert!(found * 100 >= 90 * reports, "{found} of {reports}");
}
