//! Workloads that start threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Builder, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

/// There may be thousands of threads.
const STACK: usize = 64 << 10;

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(work)
}

/// Blocks for good.
fn sleep_for_good() {
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
    for _ in 0..later {
        spawn("later", sleep_for_good)?;
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
