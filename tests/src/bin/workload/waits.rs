//! Workloads whose threads wait for a CPU.

use std::{
    hint::spin_loop,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    sync::{Arc, Barrier, mpsc::channel},
    thread::{self, Builder},
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::json;

/// The first CPU that may be used, alone.
fn one_cpu() -> anyhow::Result<CpuSet> {
    let allowed = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.ok_or_else(|| anyhow::anyhow!("no CPU may be used"))?);
    Ok(one)
}

/// Threads that compete for one CPU, with sleeps and yields of different lengths. Each waits again and
/// again until another has worked for a while.
pub fn contend(threads: u64, seconds: Duration) -> anyhow::Result<()> {
    let cpu = one_cpu()?;
    let begin = Arc::new(Barrier::new(threads as usize + 1));
    let (sender, finished) = channel();
    for n in 0..threads {
        let (begin, sender) = (Arc::clone(&begin), sender.clone());
        Builder::new().name(format!("contend-{n}")).spawn(move || {
            let pinned = sched_setaffinity(None, &cpu).is_ok();
            let tid = gettid().as_raw_nonzero().get();
            begin.wait();
            begin.wait();
            let turns = compete(n, seconds);
            let _ = sender.send(json!({ "tid": tid, "name": format!("contend-{n}"), "turns": turns, "pinned": pinned }));
            loop {
                thread::park();
            }
        })?;
    }
    begin.wait();
    crate::ready()?;
    begin.wait();
    let facts: Vec<_> = finished.iter().take(threads as usize).collect();
    crate::done(&json!({ "threads": facts }))?;
    Ok(())
}

fn compete(n: u64, seconds: Duration) -> u64 {
    let start = Instant::now();
    let mut turns = 0;
    while start.elapsed() < seconds {
        turns += 1;
        let turn = Instant::now();
        while turn.elapsed() < Duration::from_micros(300 + 200 * (n % 4)) {
            spin_loop();
        }
        if turns % 3 == 0 {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(200));
        }
    }
    turns
}

/// Pairs of threads that pass a byte to and fro.
pub fn pingpong(pairs: u64, seconds: Duration) -> anyhow::Result<()> {
    let begin = Arc::new(Barrier::new(pairs as usize * 2 + 1));
    let (sender, finished) = channel();
    for n in 0..pairs {
        let (reader_a, writer_b) = pipe()?;
        let (reader_b, writer_a) = pipe()?;
        for (side, reader, writer) in [("ping", reader_a, writer_a), ("pong", reader_b, writer_b)] {
            let (begin, sender) = (Arc::clone(&begin), sender.clone());
            let name = format!("{side}-{n}");
            Builder::new().name(name.clone()).spawn(move || {
                let tid = gettid().as_raw_nonzero().get();
                begin.wait();
                begin.wait();
                let rounds = if side == "ping" {
                    ping(reader, writer, seconds)
                } else {
                    pong(reader, writer)
                };
                let _ = sender.send(json!({ "tid": tid, "name": name, "rounds": rounds }));
                loop {
                    thread::park();
                }
            })?;
        }
    }
    begin.wait();
    crate::ready()?;
    begin.wait();
    let facts: Vec<_> = finished.iter().take(pairs as usize * 2).collect();
    crate::done(&json!({ "threads": facts }))?;
    Ok(())
}

/// The pipes are closed when it returns, which ends the other side.
fn ping(mut reader: PipeReader, mut writer: PipeWriter, seconds: Duration) -> u64 {
    let start = Instant::now();
    let mut rounds = 0;
    let mut byte = [0];
    while start.elapsed() < seconds
        && writer.write_all(&byte).is_ok()
        && reader.read_exact(&mut byte).is_ok()
    {
        rounds += 1;
    }
    rounds
}

fn pong(mut reader: PipeReader, mut writer: PipeWriter) -> u64 {
    let mut rounds = 0;
    let mut byte = [0];
    while reader.read_exact(&mut byte).is_ok() && writer.write_all(&byte).is_ok() {
        rounds += 1;
    }
    rounds
}
