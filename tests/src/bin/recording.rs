//! Writes a recording of so many single events to standard output, as `slowburn run --events all` would of a busy host, for
//! `cargo xtask bench replay`.
//!
//! Five services with 68 threads, 20,000 events a second: half of them waits, most others mappings. Every 10 s there are the
//! windows of all processes and threads, with a histogram each, and one of the processes leaks. The events of a period are
//! those of the first one, at later times, so that writing is cheaper than reading.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::Parser;
use fastrand::Rng;
use slowburn::{
    histogram::{DelayCounts, Summariser},
    stream::{
        CallName, Culprit, Delay, KernelSummary, Line, Mapping, MemorySummary, Moment, ProcessId,
        Record, Scope, Stop, StopReason, Thread, ThreadEventKind, ThreadId, ThreadSummary, Window,
    },
};
use slowburn_common::histogram::bucket;
use slowburn_probes::event::Delays;

/// Write a recording to standard output.
#[derive(Parser)]
struct Options {
    /// Single events in it
    events: u64,
}

/// 2026-03-01T00:00:00Z.
const BEGIN: u64 = 1_772_323_200_000_000_000;
/// Length of a window.
const PERIOD: u64 = 10_000_000_000;
/// Between two events.
const STEP: u64 = 50_000;
/// Waits of a thread in a window.
const WAITS: usize = 1000;

/// Name, processes, and the names of their threads.
const SERVICES: [(&str, u32, &[&str], u32); 5] = [
    ("nginx", 4, &["nginx"], 1),
    (
        "redis-server",
        1,
        &[
            "redis-server",
            "bio_close_file",
            "bio_aof",
            "bio_lazy_free",
            "io_thd_1",
        ],
        5,
    ),
    ("postgresql@17-main", 12, &["postgres"], 1),
    (
        "billing-api.service",
        1,
        &["java", "C2 CompilerThre", "G1 Conc#0", "http-nio-8080-e"],
        40,
    ),
    ("worker@3", 1, &["python3", "grpc_global_tim"], 7),
];

struct Process {
    id: ProcessId,
    threads: Vec<ThreadId>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let mut rng = Rng::with_seed(1);
    let processes = processes();
    let mut period = Period::new(&processes, &mut rng);
    let mut windows = Windows::default();
    let mut stdout = io::stdout().lock();
    let (mut left, mut begin) = (options.events, BEGIN);
    while left > 0 {
        let events = left.min(PERIOD / STEP);
        stdout.write_all(period.starting_at(begin, events as usize))?;
        left -= events;
        begin += PERIOD;
        stdout.write_all(&windows.ending_at(begin, &processes, &mut rng))?;
    }
    stdout.write_all(&line(Record::Stop(Box::new(Stop {
        ts: Moment(begin),
        reason: StopReason::Duration,
        ran_ns: begin - BEGIN,
        records: BTreeMap::new(),
        recovered: 0,
        lost: BTreeMap::new(),
        ignored: BTreeMap::new(),
    }))))
}

fn line(record: Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Line::from(record)).expect("records are JSON");
    line.push(b'\n');
    line
}

fn processes() -> Vec<Process> {
    let mut ids = 1200..;
    let mut next = || ids.next().expect("ids do not end");
    let mut processes = Vec::new();
    for (service, count, names, threads) in SERVICES {
        for _ in 0..count {
            let pid = next();
            let created = |id: u32| Moment(BEGIN - 86_400_000_000_000 + u64::from(id) * 10_000_000);
            let threads = (0..threads).map(|n| {
                let tid = if n == 0 { pid } else { next() };
                let name = names[n as usize % names.len()].into();
                ThreadId {
                    tid,
                    name,
                    created: created(tid),
                }
            });
            let threads = threads.collect();
            let id = ProcessId {
                service: service.into(),
                pid,
                created: created(pid),
            };
            processes.push(Process { id, threads });
        }
    }
    processes
}

/// A wait of 1 us to some ms, mostly tens of us.
fn wait(rng: &mut Rng) -> u64 {
    let magnitude = 10.0 + 3.0 * (0..4).map(|_| rng.f64()).sum::<f64>();
    magnitude.exp2() as u64
}

/// The events of a period, and where their moments are.
struct Period {
    lines: Vec<u8>,
    moments: Vec<usize>,
}

impl Period {
    fn new(processes: &[Process], rng: &mut Rng) -> Self {
        let (mut lines, mut moments) = (Vec::new(), Vec::new());
        for _ in 0..PERIOD / STEP {
            let line = line(single_event(processes, rng));
            let name = br#""ts":""#;
            let at = line.windows(name.len()).position(|bytes| bytes == name);
            moments.push(lines.len() + at.expect("every record has a moment") + name.len());
            lines.extend(line);
        }
        Self { lines, moments }
    }

    /// So many of them, as they are when the period begins then.
    fn starting_at(&mut self, begin: u64, events: usize) -> &[u8] {
        let (mut second, mut text) = (0, String::new());
        for (n, &at) in self.moments.iter().take(events).enumerate() {
            let ts = begin + n as u64 * STEP + n as u64 * 7919 % STEP;
            if ts / 1_000_000_000 != second {
                second = ts / 1_000_000_000;
                text = Moment(ts).to_string();
            }
            let moment = &mut self.lines[at..at + text.len()];
            moment.copy_from_slice(text.as_bytes());
            let mut fraction = ts % 1_000_000_000;
            for digit in moment[20..29].iter_mut().rev() {
                *digit = b'0' + (fraction % 10) as u8;
                fraction /= 10;
            }
        }
        let end = self.moments.get(events).map(|at| {
            let before = &self.lines[..*at];
            before
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |end| end + 1)
        });
        &self.lines[..end.unwrap_or(self.lines.len())]
    }
}

fn single_event(processes: &[Process], rng: &mut Rng) -> Record {
    let of = &processes[rng.usize(..processes.len())];
    let thread = of.threads[rng.usize(..of.threads.len())].clone();
    let (ts, process) = (Moment(BEGIN), of.id.clone());
    match rng.u32(..100) {
        0..50 => Record::Delay(Delay {
            ts,
            process,
            thread,
            wait_ns: wait(rng),
            cpu: rng.u32(..16),
            culprit: culprit(processes, rng),
        }),
        50..95 => Record::Mapping(mapping(ts, process, thread, rng)),
        _ => {
            let started = rng.bool();
            Record::Thread(Thread {
                ts,
                event: if started {
                    ThreadEventKind::Started
                } else {
                    ThreadEventKind::Exited
                },
                process,
                creator: started.then_some(thread.tid),
                followed_ns: (!started).then(|| rng.u64(..PERIOD)),
                thread,
            })
        }
    }
}

fn culprit(processes: &[Process], rng: &mut Rng) -> Culprit {
    if rng.bool() {
        return Culprit {
            pid: 0,
            tid: 0,
            name: format!("swapper/{}", rng.u32(..16)),
            watched: false,
        };
    }
    let other = &processes[rng.usize(..processes.len())];
    let name = other.threads[0].name.clone();
    Culprit {
        pid: other.id.pid,
        tid: other.id.pid,
        name,
        watched: true,
    }
}

fn mapping(ts: Moment, process: ProcessId, thread: ThreadId, rng: &mut Rng) -> Mapping {
    use CallName::{Advise, Brk, Map, Protect, Remap, Unmap};
    let call = [Map, Map, Map, Unmap, Unmap, Remap, Brk, Advise, Protect][rng.usize(..9)];
    let length = 4096 << rng.u32(..12);
    let change = match call {
        Map | Remap | Brk => length as i64,
        Unmap => -(length as i64),
        Advise | Protect => 0,
    };
    Mapping {
        ts,
        process,
        thread,
        call,
        address: format!("{:#x}", 0x7f00_0000_0000 | rng.u64(..1 << 40) & !0xfff),
        length_bytes: length,
        reserved_change_bytes: change,
        committed_change_bytes: if rng.bool() { change } else { 0 },
        detail: (!matches!(call, Unmap | Brk)).then_some(3),
        flags: (call == Map).then_some(34),
        sampled: None,
    }
}

/// Makes windows.
#[derive(Default)]
struct Windows {
    summariser: Summariser,
    /// Periods so far.
    periods: u64,
}

impl Windows {
    /// Of all processes and threads.
    fn ending_at(&mut self, ts: u64, processes: &[Process], rng: &mut Rng) -> Vec<u8> {
        self.periods += 1;
        let mut lines = Vec::new();
        for process in processes {
            let mut sum = DelayCounts::default();
            let mut of_threads = Vec::new();
            for thread in &process.threads {
                let waits = waits(rng);
                sum.add(&waits);
                let mut counts = DelayCounts::default();
                counts.add(&waits);
                of_threads.push(self.window(ts, process, Some(thread), &counts));
            }
            lines.extend(line(self.window(ts, process, None, &sum)));
            lines.extend(of_threads.into_iter().flat_map(line));
        }
        lines
    }

    fn window(
        &mut self,
        ts: u64,
        process: &Process,
        thread: Option<&ThreadId>,
        delays: &DelayCounts,
    ) -> Record {
        let leaked = if process.id.service == "worker@3" {
            self.periods << 20
        } else {
            0
        };
        let standing = thread.is_none().then_some((1 << 30) + leaked);
        let threads = process.threads.len() as u64;
        Record::Window(Box::new(Window {
            ts: Moment(ts),
            scope: if thread.is_some() {
                Scope::Thread
            } else {
                Scope::Process
            },
            process: process.id.clone(),
            thread: thread.cloned(),
            period_ns: PERIOD,
            ended: false,
            delay: Some(self.summariser.summarise(delays)),
            own: None,
            memory: MemorySummary {
                reserved_bytes: 64 << 20,
                committed_bytes: 32 << 20,
                released_bytes: 64 << 20,
                decommitted_bytes: 31 << 20,
                map_calls: 1500,
                unmap_calls: 1000,
                standing_reserved_bytes: standing,
                standing_committed_bytes: standing,
                ..MemorySummary::default()
            },
            threads: thread.is_none().then_some(ThreadSummary {
                live: threads,
                created: 0,
                exited: 0,
                ..ThreadSummary::default()
            }),
            kernel: KernelSummary {
                rss_bytes: standing,
                run_count: Some(WAITS as u64),
                cpu_ns: Some(PERIOD / 100),
                minor_faults: Some(300),
                ..KernelSummary::default()
            },
            lost: 0,
        }))
    }
}

/// The waits of a thread in a window.
fn waits(rng: &mut Rng) -> Delays {
    let waits: Vec<_> = (0..WAITS).map(|_| wait(rng)).collect();
    let mut counts = BTreeMap::<u16, u32>::new();
    for wait in &waits {
        *counts.entry(bucket(*wait) as u16).or_default() += 1;
    }
    Delays {
        counts: counts.into_iter().collect(),
        sum_ns: waits.iter().sum(),
        max_ns: waits.iter().copied().max().unwrap_or(0),
        ..Delays::default()
    }
}
