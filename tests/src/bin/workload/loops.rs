//! Workloads that do one thing again and again as fast as they can, and say how long it took.

use std::{hint::black_box, thread, time::Instant};

use clap::ValueEnum;
use rustix::{param::page_size, process::getppid};
use serde_json::json;

use crate::maps::map_and_unmap;

/// What is done.
#[derive(Clone, Copy, ValueEnum)]
pub enum Step {
    /// A system call that does nothing
    Syscall,
    /// Mapping a page and giving it back
    Map,
    /// Starting a thread that ends at once, and waiting for it
    Thread,
}

/// Does it so often.
pub fn run(step: Step, count: u64) -> anyhow::Result<()> {
    crate::ready()?;
    let start = Instant::now();
    for _ in 0..count {
        match step {
            Step::Syscall => {
                black_box(getppid());
            }
            Step::Map => map_and_unmap(page_size())?,
            Step::Thread => {
                if thread::Builder::new().spawn(|| {})?.join().is_err() {
                    anyhow::bail!("a thread panicked");
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    crate::done(&json!({ "count": count, "seconds": seconds }))?;
    Ok(())
}
