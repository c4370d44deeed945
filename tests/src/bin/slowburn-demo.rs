//! The bundled demo service: it leaks memory and threads on purpose, and says so.
//!
//! It maps and touches memory that it never gives back, and starts threads that never end, at a steady
//! rate, beside some healthy work: a worker that allocates and frees, and a ticker. slowburn should flag
//! the memory and the threads, and nothing else.

use std::{hint::black_box, io, thread, time::Duration};

use clap::Parser;

/// A small service that leaks memory and threads on purpose.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// KiB of memory leaked per second
    #[arg(long, default_value_t = 2048)]
    memory: usize,
    /// Threads leaked per second
    #[arg(long, default_value_t = 1.0)]
    threads: f64,
    /// Most threads leaked in total, so that a forgotten demo does no harm
    #[arg(long, default_value_t = 600)]
    max_threads: usize,
    /// Most MiB of memory leaked in total
    #[arg(long, default_value_t = 2048)]
    max_memory: usize,
}

/// Leaks happen in steps this long.
const STEP: Duration = Duration::from_millis(250);

fn main() -> io::Result<()> {
    let options = Options::parse();
    eprintln!(
        "slowburn-demo (pid {}): leaking {} KiB of memory and {} threads a second, on purpose",
        std::process::id(),
        options.memory,
        options.threads
    );
    thread::Builder::new()
        .name("worker".into())
        .spawn(healthy_work)?;
    leak(&options)
}

/// Allocates and frees what it allocated: no leak.
fn healthy_work() {
    loop {
        let buffer = vec![1_u8; 256 << 10];
        black_box(&buffer);
        drop(buffer);
        thread::sleep(Duration::from_millis(20));
    }
}

fn leak(options: &Options) -> io::Result<()> {
    let mut leaked = Vec::new();
    let mut threads = 0;
    for step in 1_u32.. {
        thread::sleep(STEP);
        let seconds = f64::from(step) * STEP.as_secs_f64();
        let due_bytes =
            ((options.memory as f64 * seconds) as usize * 1024).min(options.max_memory << 20);
        let have = leaked.iter().map(Vec::len).sum::<usize>();
        if due_bytes > have {
            leaked.push(vec![7_u8; due_bytes - have]);
        }
        let due_threads = ((options.threads * seconds) as usize).min(options.max_threads);
        while threads < due_threads {
            thread::Builder::new().name("leaked".into()).spawn(|| {
                loop {
                    thread::park();
                }
            })?;
            threads += 1;
        }
    }
    Ok(())
}
