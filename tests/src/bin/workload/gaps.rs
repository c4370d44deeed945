//! A thread that nobody should disturb, and that notes when somebody does.

use std::{
    hint::spin_loop,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Builder},
    time::{Duration, Instant},
};

use rustix::param::page_size;
use serde_json::{Value, json};

use crate::{
    crew::{cpus, pin},
    maps::map_and_unmap,
};

/// A real-time thread that never slept would be stopped for 50 ms of each second.
const WORK: Duration = Duration::from_millis(8);
const REST: Duration = Duration::from_millis(2);

/// The longest so far, in nanoseconds.
#[derive(Default)]
struct Longest {
    gap: AtomicU64,
    call: AtomicU64,
    delay: AtomicU64,
}

impl Longest {
    fn take(&self) -> Value {
        let take = |longest: &AtomicU64| longest.swap(0, Ordering::Relaxed);
        json!({ "gap_ns": take(&self.gap), "call_ns": take(&self.call), "late_ns": take(&self.delay) })
    }
}

/// Reads the clock all the time on one CPU, with mappings in between, and says at each word what the longest time
/// between two readings was since the last word, the longest mapping, and how late it woke from a sleep.
pub fn run() -> anyhow::Result<()> {
    let longest = Arc::new(Longest::default());
    let cpu = *cpus()?.last().unwrap_or(&0);
    crate::ready()?;
    let noted = Arc::clone(&longest);
    Builder::new().name("gaps".into()).spawn(move || {
        pin(cpu);
        if let Err(error) = become_real_time() {
            eprintln!("other threads come in between: no real-time priority: {error}");
        }
        loop {
            note_gaps(&noted);
            let due = Instant::now() + REST;
            thread::sleep(REST);
            note(&noted.delay, due.elapsed());
        }
    })?;
    while crate::next_word()? {
        crate::say(&longest.take())?;
    }
    Ok(())
}

fn note_gaps(longest: &Longest) {
    let start = Instant::now();
    let mut last = start;
    let mut readings = 0_u64;
    while last - start < WORK {
        spin_loop();
        let now = Instant::now();
        note(&longest.gap, now - last);
        last = now;
        readings += 1;
        if readings.is_multiple_of(64) {
            let _ = map_and_unmap(page_size());
            last = Instant::now();
            note(&longest.call, last - now);
        }
    }
}

fn note(longest: &AtomicU64, time: Duration) {
    longest.fetch_max(time.as_nanos() as u64, Ordering::Relaxed);
}

fn become_real_time() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the argument lives until the call returns; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
