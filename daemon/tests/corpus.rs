//! A small corpus: services that are well and services that climb, simulated anew in every run with the same seeds. It takes seconds;
//! `cargo xtask eval` has the large ones.

use slowburn::{
    detect::{Config, Detector},
    histogram::{DelayCounts, Summariser},
    stream::{
        Flag, FlagKind, FlagState, KernelSummary, MemorySummary, Metric, Moment, ProcessId, Scope,
        ThreadSummary, Window,
    },
};
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

const START: f64 = 1.7e9;
const MIB: f64 = 1_048_576.0;
/// Of each shape.
const CASES: u64 = 5;

struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        (low.ln() + self.uniform() * (high / low).ln()).exp()
    }
}

/// What a service does at a share of its time, as multiples of what it usually does.
#[derive(Clone, Copy)]
struct State {
    memory: f64,
    threads: f64,
    mapped: f64,
    wait: f64,
    load: f64,
}

const USUAL: State = State {
    memory: 1.0,
    threads: 1.0,
    mapped: 1.0,
    wait: 1.0,
    load: 1.0,
};

/// A way to behave: its name, the metric that climbs, if one does, and what it does at a share of the time. The numbers are
/// drawn once a case.
struct Behaviour {
    name: &'static str,
    climbs: Option<Metric>,
    at: fn(f64, &[f64; 4]) -> State,
}

fn saw(share: f64, period: f64) -> f64 {
    (share / period).fract()
}

const BEHAVIOURS: [Behaviour; 16] = [
    Behaviour {
        name: "level",
        climbs: None,
        at: |_, _| USUAL,
    },
    Behaviour {
        name: "saw",
        climbs: None,
        at: |t, d| State {
            memory: 1.0 + d[0] * saw(t, 0.01 + 0.05 * d[1]),
            ..USUAL
        },
    },
    Behaviour {
        name: "start",
        climbs: None,
        at: |t, d| State {
            memory: 1.0 - 0.7 * d[0] * (-t / (0.01 + 0.05 * d[1])).exp(),
            ..USUAL
        },
    },
    Behaviour {
        name: "cache",
        climbs: None,
        at: |t, d| State {
            memory: 1.0 + d[0] * (1.0 - (-t / (0.02 + 0.05 * d[1])).exp()),
            ..USUAL
        },
    },
    Behaviour {
        name: "step",
        climbs: None,
        at: |t, d| State {
            memory: if t < 0.3 + 0.4 * d[0] {
                1.0
            } else {
                1.5 + d[1]
            },
            ..USUAL
        },
    },
    Behaviour {
        name: "jobs",
        climbs: None,
        at: |t, d| {
            if saw(t, 0.05 + 0.05 * d[0]) < 0.05 {
                State {
                    mapped: 8.0,
                    wait: 3.0,
                    memory: 1.2,
                    ..USUAL
                }
            } else {
                USUAL
            }
        },
    },
    Behaviour {
        name: "spike",
        climbs: None,
        at: |t, d| {
            if (t - 0.3 - 0.5 * d[0]).abs() < 0.001 {
                State {
                    mapped: 30.0,
                    wait: 10.0,
                    ..USUAL
                }
            } else {
                USUAL
            }
        },
    },
    Behaviour {
        name: "waves",
        climbs: None,
        at: |t, d| {
            let wave = 1.0 + 0.3 * d[0] * (t * (20.0 + 60.0 * d[1])).sin();
            State {
                memory: wave,
                wait: wave,
                load: wave,
                ..USUAL
            }
        },
    },
    Behaviour {
        name: "load",
        climbs: None,
        at: |t, d| {
            let load = 1.0 + d[0] * t;
            State {
                memory: load,
                mapped: load,
                wait: load,
                load,
                ..USUAL
            }
        },
    },
    Behaviour {
        name: "leak",
        climbs: Some(Metric::CommittedBytes),
        at: |t, d| State {
            memory: 1.0 + (0.5 + d[0]) * t,
            ..USUAL
        },
    },
    Behaviour {
        name: "late leak",
        climbs: Some(Metric::CommittedBytes),
        at: |t, d| State {
            memory: 1.0 + (0.5 + d[0]) * (t - 0.4).max(0.0),
            ..USUAL
        },
    },
    Behaviour {
        name: "leak under a saw",
        climbs: Some(Metric::CommittedBytes),
        at: |t, d| State {
            memory: 1.0 + (0.5 + d[0]) * t + 0.4 * saw(t, 0.01 + 0.02 * d[1]),
            ..USUAL
        },
    },
    Behaviour {
        name: "threads",
        climbs: Some(Metric::ThreadsLive),
        at: |t, d| State {
            threads: 1.0 + (1.0 + 4.0 * d[0]) * t,
            ..USUAL
        },
    },
    Behaviour {
        name: "mapping",
        climbs: Some(Metric::MappedRate),
        at: |t, d| State {
            mapped: (t * (1.0 + d[0])).exp(),
            ..USUAL
        },
    },
    Behaviour {
        name: "waits",
        climbs: Some(Metric::Delay),
        at: |t, d| State {
            wait: (t * (1.0 + d[0])).exp(),
            ..USUAL
        },
    },
    Behaviour {
        name: "quickening leak",
        climbs: Some(Metric::CommittedBytes),
        at: |t, d| State {
            memory: 1.0 + (0.6 + d[0]) * t * t,
            ..USUAL
        },
    },
];

/// How long, and in what windows.
const LENGTHS: [(f64, f64); 5] = [
    (14_400.0, 10.0),
    (7200.0, 10.0),
    (21_600.0, 20.0),
    (43_200.0, 60.0),
    (86_400.0, 120.0),
];

fn flags(behaviour: &Behaviour, seed: u64) -> Vec<Flag> {
    let mut noise = Noise((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let drawn: [f64; 4] = std::array::from_fn(|_| noise.uniform());
    let (length_s, window_s) = LENGTHS[seed as usize % LENGTHS.len()];
    let memory = noise.between(50.0, 2000.0) * MIB;
    let scatter = noise.between(0.002, 0.015);
    let (threads, rate, wait) = (
        noise.between(10.0, 200.0),
        noise.between(1e5, 1e7),
        noise.between(5e3, 1e5),
    );
    let load = noise.between(20.0, 400.0) * window_s;
    let mut detector = Detector::new(Config::default());
    let mut summariser = Summariser::default();
    let mut flags = Vec::new();
    for i in 1..=(length_s / window_s) as u32 {
        let end_s = f64::from(i) * window_s;
        let state = (behaviour.at)(end_s / length_s, &drawn);
        let mut counts = DelayCounts::default();
        let waits = (load * state.load * (1.0 + 0.05 * noise.normal())).max(8.0);
        let each = std::array::from_fn::<(u16, u32), 24, _>(|part| {
            let ns = wait
                * state.wait
                * (0.6 * (part as f64 - 11.5) / 6.0 + 0.05 * noise.normal()).exp();
            (bucket(ns as u64) as u16, (waits / 24.0) as u32 + 1)
        });
        counts.add(&Delays {
            counts: each.to_vec(),
            sum_ns: 1,
            max_ns: 1,
            ..Delays::default()
        });
        let mut window = Window {
            ts: Moment(((START + end_s) * 1e9) as u64),
            scope: Scope::Process,
            process: ProcessId {
                service: behaviour.name.to_owned(),
                pid: 1,
                created: Moment((START * 1e9) as u64),
            },
            thread: None,
            period_ns: (window_s * 1e9) as u64,
            ended: false,
            delay: Some(summariser.summarise(&counts)),
            memory: MemorySummary::default(),
            threads: Some(ThreadSummary {
                live: (threads * state.threads) as u64,
                created: 1,
                exited: 1,
                ..ThreadSummary::default()
            }),
            kernel: KernelSummary::default(),
            lost: 0,
            own: None,
        };
        window.memory.standing_committed_bytes =
            Some((memory * state.memory * (1.0 + scatter * noise.normal())) as u64);
        window.memory.reserved_bytes =
            (rate * window_s * state.mapped * (0.2 * noise.normal()).exp()) as u64;
        detector.window(&window, &mut flags);
    }
    flags.retain(|flag| flag.state == FlagState::Raised);
    flags
}

#[test]
fn climbs_are_found_and_little_else() {
    let (mut climbs, mut found, mut healthy, mut wrong) = (0, 0, 0, Vec::new());
    let mut missed = Vec::new();
    for behaviour in &BEHAVIOURS {
        for seed in 0..CASES {
            let raised: Vec<Metric> = flags(behaviour, seed)
                .into_iter()
                .filter(|flag| flag.kind == FlagKind::Climb)
                .map(|flag| flag.metric)
                .collect();
            let right = |metric: &Metric| Some(*metric) == behaviour.climbs;
            if let Some(metric) = behaviour.climbs {
                climbs += 1;
                if raised.contains(&metric) {
                    found += 1;
                } else {
                    missed.push((behaviour.name, seed));
                }
            } else {
                healthy += 1;
            }
            if !raised.iter().all(right) {
                wrong.push((behaviour.name, seed, raised));
            }
        }
    }
    println!(
        "{found} of {climbs} climbs, {} of {} others: {missed:?} {wrong:?}",
        wrong.len(),
        healthy
    );
    assert!(
        found * 100 >= 97 * climbs,
        "{found} of {climbs}: {missed:?}"
    );
    assert!(wrong.len() * 100 <= 5 * (healthy + climbs), "{wrong:?}");
}

#[test]
fn what_is_no_climb_has_its_name_and_others_have_none() {
    let named = |name: &str, kind: FlagKind| {
        let behaviour = BEHAVIOURS
            .iter()
            .find(|behaviour| behaviour.name == name)
            .expect("a behaviour");
        (0..CASES)
            .filter(|seed| flags(behaviour, *seed).iter().any(|flag| flag.kind == kind))
            .count()
    };
    let all = CASES as usize;
    assert_eq!(named("step", FlagKind::Step), all);
    assert_eq!(named("spike", FlagKind::Spike), all);
    assert_eq!(named("jobs", FlagKind::Periodic), all);
    for kind in [FlagKind::Step, FlagKind::Spike, FlagKind::Periodic] {
        assert_eq!(named("level", kind), 0, "{kind:?}");
        assert!(named("waves", kind) <= 1, "{kind:?}");
    }
}
