//! What the detector takes: memory by age, and none that it asks for anew while nothing happens. And the same for the same.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use slowburn::{
    detect::{Config, Detector},
    histogram::{DelayCounts, Summariser},
    stream::{
        DelaySummary, KernelSummary, MemorySummary, Moment, ProcessId, Scope, ThreadId,
        ThreadSummary, Window,
    },
};
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;
const KIB: usize = 1024;

/// Counts what a thread asks for: tests run side by side.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator as they come; the counters are cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get().wrapping_add(layout.size())));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get().wrapping_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Windows of one process of which all is known, with noise; some of its threads.
struct Service {
    random: u64,
    pid: u32,
    summariser: Summariser,
}

impl Service {
    fn new(pid: u32) -> Self {
        Self {
            random: u64::from(pid).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            pid,
            summariser: Summariser::default(),
        }
    }

    /// A number below a bound.
    fn random(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn waits(&mut self) -> DelaySummary {
        let mut counts = DelayCounts::default();
        let of = |this: &mut Self| {
            let ns = 5_000 << this.random(6);
            (
                bucket(ns + this.random(ns)) as u16,
                1 + this.random(40) as u32,
            )
        };
        let counted: std::collections::BTreeMap<u16, u32> = (0..12).map(|_| of(self)).collect();
        counts.add(&Delays {
            sum_ns: counted.values().map(|count| u64::from(*count)).sum(),
            counts: counted.into_iter().collect(),
            max_ns: 400_000,
            ..Delays::default()
        });
        self.summariser.summarise(&counts)
    }

    fn window(&mut self, number: u64, period_s: u64) -> Window {
        let memory = (300 << 20) + self.random(3 << 20);
        Window {
            ts: Moment(START + number * period_s * SECOND),
            scope: Scope::Process,
            process: ProcessId {
                service: "shop".to_owned(),
                pid: self.pid,
                created: Moment(START),
            },
            thread: None,
            period_ns: period_s * SECOND,
            ended: false,
            delay: Some(self.waits()),
            memory: MemorySummary {
                reserved_bytes: (10 << 20) + self.random(3 << 20),
                standing_committed_bytes: Some(memory),
                standing_reserved_bytes: Some(2 * memory),
                ..MemorySummary::default()
            },
            threads: Some(ThreadSummary {
                live: 40 + self.random(4),
                created: self.random(3),
                exited: self.random(3),
                ..ThreadSummary::default()
            }),
            kernel: KernelSummary {
                rss_bytes: Some(memory / 2),
                fds: Some(90 + self.random(9)),
                cpu_ns: Some(SECOND + self.random(SECOND / 3)),
                ..KernelSummary::default()
            },
            lost: 0,
            own: None,
        }
    }

    fn thread(&mut self, number: u64, period_s: u64, tid: u32, name: String) -> Window {
        Window {
            scope: Scope::Thread,
            thread: Some(ThreadId {
                tid,
                name,
                created: Moment(START),
            }),
            threads: None,
            memory: MemorySummary::default(),
            kernel: KernelSummary::default(),
            ..self.window(number, period_s)
        }
    }
}

fn feed(detector: &mut Detector, window: &Window) {
    let mut flags = Vec::new();
    detector.window(window, &mut flags);
}

#[test]
fn a_task_takes_no_more_than_25_kib_once_it_is_a_week_old() {
    let mut service = Service::new(7);
    let mut detector = Detector::new(Config::default());
    // Until half a minute, ten minutes, a week and a month; the most in each time.
    let ages = [6, 120, 120_960, 518_400];
    let mut most = [0; 4];
    for number in 1..=ages[3] {
        let window = service.window(number, 5);
        feed(&mut detector, &window);
        let age = ages.iter().filter(|age| number > **age).count();
        most[age] = detector.heap_bytes().max(most[age]);
    }
    println!("{most:?} bytes");
    assert!(most[0] <= 4 * KIB, "{most:?}");
    assert!(most[1] <= 17 * KIB, "{most:?}");
    // On the fourth day there is a level more than later.
    assert!(most[2] <= 27 * KIB, "{most:?}");
    assert!(most[3] <= 25 * KIB, "{most:?}");
}

/// `heap_bytes` is what the table's bound rests on: it must not leave anything out.
#[test]
fn what_it_says_that_it_takes_is_what_it_takes() {
    let mut detector = Detector::new(Config { max_series: 20_000 });
    let mut services: Vec<Service> = (1..=200).map(Service::new).collect();
    // Once, so that the buffers of this test are not counted.
    for service in &mut services {
        for number in 0..20 {
            service.window(number, 5);
        }
    }
    feed(&mut detector, &Service::new(9_999).window(1, 5));
    let before = BYTES.get();
    for number in 1..=300 {
        for service in &mut services {
            let window = service.window(number, 5);
            feed(&mut detector, &window);
        }
    }
    let (taken, said) = (BYTES.get() - before, detector.heap_bytes());
    let ratio = taken as f64 / said as f64;
    assert!((0.9..1.15).contains(&ratio), "{taken} bytes, said {said}");
}

#[test]
fn nothing_is_asked_for_while_nothing_happens() {
    let mut service = Service::new(3);
    let mut detector = Detector::new(Config::default());
    let mut flags = Vec::with_capacity(64);
    let mut days = |detector: &mut Detector, from: u64, to: u64| {
        let mut calls = 0;
        for number in from..to {
            let mut windows = vec![service.window(number, 30)];
            for tid in 0..4 {
                windows.push(service.thread(number, 30, tid, format!("worker-{tid}")));
            }
            windows.push(service.thread(number, 30, 9, "main".to_owned()));
            let before = CALLS.get();
            for window in &windows {
                detector.window(window, &mut flags);
            }
            calls += CALLS.get() - before;
        }
        calls
    };
    let young = days(&mut detector, 1, 5 * 2880);
    assert!(young > 0, "the allocator counts");
    let old = days(&mut detector, 5 * 2880, 6 * 2880);
    assert!(flags.is_empty(), "{flags:?}");
    // In 17,280 windows: a ring has room for twice as many blocks whenever it is full, and a level is begun when the age doubles.
    assert!(old <= 12, "{old} allocations on the sixth day");
}

#[test]
fn ten_thousand_threads_of_one_process_lose_nothing_and_stay_small() {
    let mut service = Service::new(11);
    let mut detector = Detector::new(Config::default());
    let before = BYTES.get();
    for number in 1..=40 {
        let window = service.window(number, 5);
        feed(&mut detector, &window);
        for tid in 0..10_000_u32 {
            // Letters only: names with numbers would be alike.
            let letter = |place: u32| char::from(b'a' + (tid / 26_u32.pow(place) % 26) as u8);
            let name: String = (0..3).map(letter).collect();
            let window = service.thread(number, 5, tid, name);
            feed(&mut detector, &window);
        }
    }
    let taken = BYTES.get() - before;
    assert_eq!(detector.take_refused(), 0);
    assert!(taken < 2 << 20, "{taken} bytes for 64 groups");
}

#[test]
fn ten_thousand_processes_fit_into_256_mib() {
    let mut detector = Detector::new(Config { max_series: 10_000 });
    let mut service = Service::new(1);
    let before = BYTES.get();
    // Windows of four hours: all levels that a week has.
    for number in 1..=170 {
        let mut window = service.window(number, 14_400);
        for pid in 1..=10_000 {
            window.process.pid = pid;
            feed(&mut detector, &window);
        }
    }
    let taken = BYTES.get() - before;
    println!("{} MiB for 10,000 processes", taken >> 20);
    assert_eq!(detector.take_refused(), 0);
    assert!(taken < 256 << 20, "{taken}");
}

#[test]
fn the_same_windows_give_the_same_bytes() {
    let run = || {
        let mut service = Service::new(5);
        let mut detector = Detector::new(Config::default());
        let mut flags = Vec::new();
        for number in 1..=2_000 {
            let mut window = service.window(number, 10);
            let grown = number * 200_000;
            window.memory.standing_committed_bytes = Some((300 << 20) + grown);
            detector.window(&window, &mut flags);
            for tid in 0..3 {
                let thread = service.thread(number, 10, tid, format!("w{tid}"));
                detector.window(&thread, &mut flags);
            }
        }
        serde_json::to_string(&flags).expect("flags are JSON")
    };
    let first = run();
    assert!(first.contains("committed_bytes"), "{first}");
    assert_eq!(first, run());
}
