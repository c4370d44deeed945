//! Labelled workloads for the end-to-end tests. Each does something that can be counted, and says
//! afterwards how much of it there was.
//!
//! The conversation is always the same: the workload prints a line when it is ready, works when it has
//! read a line, prints a line of facts, and lives on until its standard input is closed, so that `/proc`
//! can be read before and after. Every workload is bounded in time and in count, but for those of benchmarks that work as long as
//! they are listened to.

mod age;
mod compat;
mod counted;
mod crew;
mod gaps;
mod heap;
mod loops;
mod maps;
mod paced;
mod processes;
mod random;
mod script;
mod shared;
mod threads;
mod waits;

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Workloads for the tests of slowburn.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Changes the address space in all ways there are, at random
    Maps {
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// End with a call that fails after it has changed something
        #[arg(long)]
        fail_last: bool,
    },
    /// Makes the calls of each line that it reads, and says after each line what the kernel made of them
    Script,
    /// Changes the address space through the kernel's 32-bit entry
    Compat {
        /// End with a call through the native one
        #[arg(long)]
        native_last: bool,
        /// Do without the oldest form of mmap, which has its arguments in memory
        #[arg(long)]
        no_oldest: bool,
    },
    /// Attaches and detaches shared memory, and changes protections by key
    Shared {
        /// Detach all of it again
        #[arg(long)]
        detach: bool,
    },
    /// Maps and unmaps a page so many times a second
    Mappings {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: u64,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Works at given rates, with as many threads as there may be, as long as its input lasts
    Paced(paced::Rates),
    /// Notes when it is disturbed, as long as its input lasts
    Gaps,
    /// Does one thing again and again as fast as it can
    Loop {
        #[arg(value_enum)]
        step: loops::Step,
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        count: u64,
    },
    /// Starts so many threads a second, which end at once
    Threads {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        rate: u64,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
        /// Do not join them
        #[arg(long)]
        detached: bool,
    },
    /// Has threads that do nothing
    IdleThreads {
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=20_000))]
        count: u64,
        /// So many more once it begins
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=20_000))]
        later: u64,
    },
    /// Has threads that start threads all the time, from before it says that it is ready
    Spawners {
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=2_000))]
        threads: u64,
    },
    /// Gets worse in a known way, or looks like it
    Age {
        course: age::Course,
        #[arg(long, default_value = "60", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has threads that compete for one CPU
    Contend {
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
        threads: u64,
        #[arg(long, default_value = "2", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has pairs of threads that wake each other
    Pingpong {
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
        pairs: u64,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has threads that give way to each other all the time
    Yields {
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
        threads: u64,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has threads of different nice values that preempt each other
    Preempted {
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has busy threads that move from CPU to CPU
    Migrate {
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Wakes a thread that often has not gone to sleep yet
    Wakes {
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has threads that signals interrupt
    Signals {
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Has threads that take blocks from the heap and give them back
    Heap {
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
        threads: u64,
        #[arg(long, default_value = "1", value_parser = seconds)]
        seconds: Duration,
    },
    /// Keeps a thread waiting behind a real-time thread for known times
    Hog,
    /// Starts threads one after the other that live for microseconds
    Brief {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        count: u64,
    },
    /// Has threads that start threads that start threads
    Creators {
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=8))]
        width: u64,
    },
    /// Forks children one after the other that get the same process id
    Reuse {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        count: u64,
    },
    /// Has children that borrow its address space and change it
    Vforks {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        count: u64,
    },
    /// Forks children that end at once, or execute /bin/true
    Forks {
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        count: u64,
        #[arg(long)]
        exec: bool,
    },
    /// Has a child, which has a child, and so on
    Family {
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=10))]
        depth: u64,
        /// Have them before saying that all is ready
        #[arg(long)]
        early: bool,
    },
    /// Has a thread that is not the first one execute this program anew
    ExecThread {
        /// Wait for another word before that
        #[arg(long)]
        pause: bool,
        #[arg(long, hide = true)]
        executed: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Options::parse().workload {
        Workload::Maps {
            seconds,
            seed,
            fail_last,
        } => maps::random(seconds, seed, fail_last),
        Workload::Script => script::play(),
        Workload::Compat {
            native_last,
            no_oldest,
        } => compat::calls(native_last, !no_oldest),
        Workload::Shared { detach } => shared::calls(detach),
        Workload::Paced(rates) => paced::run(&rates),
        Workload::Gaps => gaps::run(),
        Workload::Loop { step, count } => loops::run(step, count),
        Workload::Mappings { rate, seconds } => maps::steady(rate, seconds),
        Workload::Threads {
            rate,
            seconds,
            detached,
        } => threads::short(rate, seconds, detached),
        Workload::IdleThreads { count, later } => threads::idle(count, later),
        Workload::Spawners { threads } => threads::spawners(threads),
        Workload::Age { course, seconds } => age::age(course, seconds),
        Workload::Contend { threads, seconds } => waits::contend(threads, seconds),
        Workload::Pingpong { pairs, seconds } => waits::pingpong(pairs, seconds),
        Workload::Yields { threads, seconds } => waits::yields(threads, seconds),
        Workload::Preempted { seconds } => waits::preempted(seconds),
        Workload::Migrate { seconds } => waits::migrate(seconds),
        Workload::Wakes { seconds } => waits::wakes(seconds),
        Workload::Signals { seconds } => waits::signals(seconds),
        Workload::Heap { threads, seconds } => heap::churn(threads, seconds),
        Workload::Hog => waits::hog(),
        Workload::Brief { count } => threads::brief(count),
        Workload::Creators { width } => threads::creators(width),
        Workload::Reuse { count } => processes::reuse(count),
        Workload::Vforks { count } => processes::vforks(count),
        Workload::Forks { count, exec } => processes::forks(count, exec),
        Workload::Family { depth, early } => processes::family(depth, early),
        Workload::ExecThread { executed, pause } => processes::exec_thread(executed, pause),
    }
}

/// No workload may run for longer than this.
const LONGEST: u64 = 180;

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST as f64 => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("must be a number of seconds up to {LONGEST}")),
    }
}

/// Says that all is prepared, and waits for the word to begin.
fn ready() -> io::Result<()> {
    say(&json!({ "ready": true, "pid": std::process::id() }))?;
    next_word().map(drop)
}

/// Says what was done, and waits until nobody listens any more.
fn done(facts: &Value) -> io::Result<()> {
    say(facts)?;
    while next_word()? {}
    Ok(())
}

fn say(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{value}")?;
    stdout.flush()
}

/// Reads a line. False at the end.
fn next_word() -> io::Result<bool> {
    let mut line = String::new();
    Ok(io::stdin().lock().read_line(&mut line)? > 0)
}
