//! Workloads that start threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, Builder, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{counted::Counted, crew::own_tid};

/// There may be thousands of threads.
const STACK: usize = 64 << 10;

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(work)
}

/// Blocks for good.
fn sleep_for_good() -> ! {
    loop {
        thread::park();
    }
}

/// Threads that end at once.
pub fn short(rate: u64, seconds: Duration, detached: bool) -> anyhow::Result<()> {
    let total = (rate as f64 * seconds.as_secs_f64()) as u64;
    crate::ready()?;
    let start = Instant::now();
    let mut made = 0;
    while made < total {
        let due = ((start.elapsed().as_secs_f64() * rate as f64) as u64).min(total);
        while made < due {
            let thread = spawn("short", || {})?;
            if !detached && thread.join().is_err() {
                anyhow::bail!("a thread panicked");
            }
            made += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    crate::done(&json!({ "created": made, "seconds": start.elapsed().as_secs_f64() }))?;
    Ok(())
}

/// Threads that do nothing: some from the start, some later.
pub fn idle(count: u64, later: u64) -> anyhow::Result<()> {
    for _ in 0..count {
        spawn("idle", sleep_for_good)?;
    }
    crate::ready()?;
    let (sender, runs) = channel();
    for _ in 0..later {
        let sender = sender.clone();
        spawn("later", move || {
            let _ = sender.send(());
            sleep_for_good();
        })?;
        runs.recv()?;
    }
    crate::done(&json!({ "threads": 1 + count + later }))?;
    Ok(())
}

/// Threads that start threads that end at once, and one each that stays, until told to stop.
pub fn spawners(threads: u64) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let stopped = Arc::new(AtomicU64::new(0));
    for _ in 0..threads {
        let (stop, made, stopped) = (Arc::clone(&stop), Arc::clone(&made), Arc::clone(&stopped));
        spawn("spawner", move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(thread) = spawn("brief", || {}) {
                    made.fetch_add(1, Ordering::Relaxed);
                    let _ = thread.join();
                }
            }
            if spawn("stays", sleep_for_good).is_ok() {
                made.fetch_add(1, Ordering::Relaxed);
            }
            stopped.fetch_add(1, Ordering::Release);
            sleep_for_good();
        })?;
    }
    crate::ready()?;
    stop.store(true, Ordering::Relaxed);
    while stopped.load(Ordering::Acquire) < threads {
        thread::sleep(Duration::from_millis(1));
    }
    crate::done(&json!({ "threads": 1 + 2 * threads, "created": made.load(Ordering::Relaxed) }))?;
    Ok(())
}

/// Threads that live for some microseconds and read, as the last thing they do, what the kernel has counted for them.
pub fn brief(count: u64) -> anyhow::Result<()> {
    crate::ready()?;
    let mut total = Counted::default();
    for _ in 0..count {
        let thread = spawn("brief", total_of_own)?;
        match thread.join() {
            Ok(counted) => total += counted?,
            Err(_) => anyhow::bail!("a thread panicked"),
        }
    }
    crate::done(
        &json!({ "threads": count, "run_count": total.run_count, "run_delay_ns": total.run_delay_ns }),
    )?;
    Ok(())
}

fn total_of_own() -> io::Result<Counted> {
    Counted::read(c"/proc/thread-self/schedstat")
}

/// Threads that start threads that start threads. Says who started whom.
pub fn creators(width: u64) -> anyhow::Result<()> {
    fn below(width: u64, depth: u64, pairs: &Sender<(i32, i32)>) {
        let creator = own_tid();
        for _ in 0..width {
            let sender = pairs.clone();
            let child = spawn("creator", move || {
                let _ = sender.send((own_tid(), creator));
                if depth > 1 {
                    below(width, depth - 1, &sender);
                }
                drop(sender);
                sleep_for_good();
            });
            if child.is_err() {
                return;
            }
        }
    }
    crate::ready()?;
    let (sender, pairs) = channel();
    below(width, 3, &sender);
    let expected = width + width.pow(2) + width.pow(3);
    let pairs: Vec<_> = pairs.iter().take(expected as usize).collect();
    crate::done(&json!({ "creators": pairs }))?;
    Ok(())
}
