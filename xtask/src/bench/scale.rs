//! What one event costs however many threads and services there are.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    Outcome, Setting,
    figures::Spread,
    paced::{Paced, Rates},
    watcher::{Counting, Ended, Memory, Watcher},
};

/// Turns a second, with which one CPU of a small machine is busy for a fifth of its time.
const TURNS: u64 = 50_000;

/// Mappings a second.
const MAPPINGS: u64 = 5_000;

const THREADS: [u64; 5] = [10, 100, 1_000, 10_000, 50_000];
const SERVICES: [u64; 3] = [1, 10, 200];
const IN_FLIGHT: u64 = 64;

/// A tenth of the default, so that a window costs the same and there are more of them.
const WINDOW: Duration = Duration::from_secs(1);

/// So many of what.
#[derive(Clone, Copy, Serialize)]
struct Size {
    services: u64,
    threads: u64,
    /// Those that take turns.
    active: u64,
    in_flight: u64,
}

#[derive(Serialize)]
struct Row {
    size: Size,
    attach_seconds: f64,
    turns_per_second: f64,
    /// Programs in the kernel, in nanoseconds for each turn, which is a wake-up and a switch.
    kernel_ns: Spread,
    /// The daemon in user space, in nanoseconds for each window of all threads.
    window_ns: Spread,
    memory: Memory,
    ended: Ended,
}

/// Measures each size.
pub fn run(setting: &Setting) -> Result<Outcome> {
    let mut rows: Vec<Row> = Vec::new();
    let _counting = Counting::start()?;
    for size in sizes() {
        let name = format!("{}x{}", size.threads, size.services);
        if !setting.wants(&name) {
            continue;
        }
        let rates = Rates {
            services: size.services,
            threads: size.active,
            idle: size.threads - size.active,
            turns: TURNS,
            mappings: MAPPINGS,
            in_flight: size.in_flight,
            ..Rates::default()
        };
        if let Some(missing) = rates.missing() {
            println!("SKIP {name}: {missing}");
            continue;
        }
        let row = measure(setting, size, &rates)?;
        if rows.is_empty() {
            print!("{HEADING}");
        }
        print!("{}", row.line());
        rows.push(row);
    }
    let lines: String = rows.iter().map(Row::line).collect();
    Ok(Outcome {
        tables: vec![format!("{HEADING}{lines}")],
        results: serde_json::to_value(rows)?,
    })
}

/// All numbers of threads with all of services, those with many mappings, and those in which only some do anything.
fn sizes() -> Vec<Size> {
    let mut sizes = Vec::new();
    for services in SERVICES {
        for threads in THREADS.into_iter().filter(|threads| *threads >= services) {
            let all = Size {
                services,
                threads,
                active: threads,
                in_flight: 1,
            };
            sizes.push(all);
            if services == 1 {
                sizes.push(Size {
                    in_flight: IN_FLIGHT,
                    ..all
                });
                sizes.push(Size {
                    active: THREADS[0],
                    ..all
                });
            }
        }
    }
    sizes.retain(|size| size.active == size.threads || size.threads > THREADS[0]);
    sizes
}

fn measure(setting: &Setting, size: Size, rates: &Rates) -> Result<Row> {
    let mut load = Paced::start(setting.programs, setting.scratch, rates)?;
    let mut options = load.target();
    let window = format!("{}ms", WINDOW.as_millis());
    options.extend(["--window".into(), window]);
    // The pacing threads and the first one of each service come on top.
    let tasks = (size.threads + 8 * size.services).max(16);
    options.extend(["--max-tasks".into(), tasks.to_string()]);
    let watcher = Watcher::start(setting.programs, &options)?;
    let attach_seconds = watcher.wait_for("start")?;
    load.begin()?;
    watcher.wait_for("window")?;
    // Not where a window ends.
    thread::sleep(WINDOW * 3 / 2);
    let (mut kernel, mut user) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let first = load.done()?;
    let (mut turns, mut cpu, mut programs) = (first.turns, watcher.cpu_ns()?, watcher.programs()?);
    for round in 1..=setting.rounds as u32 {
        thread::sleep((WINDOW * round).saturating_sub(start.elapsed()));
        let now = (load.done()?.turns, watcher.cpu_ns()?, watcher.programs()?);
        kernel.push((now.2.ns - programs.ns) as f64 / (now.0 - turns) as f64);
        user.push((now.1 - cpu) as f64);
        (turns, cpu, programs) = now;
    }
    let turns_per_second = (turns - first.turns) as f64 / start.elapsed().as_secs_f64();
    let spread = |figures: &[f64]| Spread::of(figures).unwrap_or_default();
    Ok(Row {
        size,
        attach_seconds,
        turns_per_second,
        kernel_ns: spread(&kernel),
        window_ns: spread(&user),
        memory: watcher.memory()?,
        ended: watcher.stop()?,
    })
}

const HEADING: &str = "\n\
    | services | threads | that take turns | mappings at a time | turns/s | kernel, ns a turn | daemon, ms a window \
    | us a thread | RSS, MB | its own, MB | kernel's, MB | attached after, s | lost |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

impl Row {
    /// In Markdown.
    fn line(&self) -> String {
        let Self {
            size,
            memory,
            kernel_ns,
            window_ns,
            ..
        } = self;
        let mut line = format!(
            "| {} | {} | {} | {} ",
            size.services, size.threads, size.active, size.in_flight
        );
        let ms = window_ns.median / 1e6;
        let _ = write!(line, "| {:.0} ", self.turns_per_second);
        let _ = write!(
            line,
            "| {:.0} ({:.0} to {:.0}) ",
            kernel_ns.median, kernel_ns.low, kernel_ns.high
        );
        let (low, high) = (window_ns.low / 1e6, window_ns.high / 1e6);
        let _ = write!(line, "| {ms:.2} ({low:.2} to {high:.2}) ");
        let _ = write!(line, "| {:.2} ", ms * 1e3 / size.active as f64);
        for bytes in [memory.rss, memory.anonymous, memory.kernel] {
            let _ = write!(line, "| {:.1} ", bytes as f64 / 1e6);
        }
        line + &format!("| {:.2} | {} |\n", self.attach_seconds, self.ended.losses())
    }
}
