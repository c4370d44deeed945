//! Threads that begin together, and say what they did.

use std::{
    sync::{Arc, Barrier, mpsc::channel},
    thread::{self, Builder},
};

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

/// What a thread does, and what it says about it.
pub type Work = Box<dyn FnOnce() -> Value + Send>;

/// Starts a thread for each of these, lets them work together, says what they said, with their names and
/// thread ids, and keeps them asleep afterwards.
pub fn work(members: Vec<(String, Work)>) -> anyhow::Result<()> {
    let count = members.len();
    let begin = Arc::new(Barrier::new(count + 1));
    let (sender, finished) = channel();
    for (name, work) in members {
        let (begin, sender) = (Arc::clone(&begin), sender.clone());
        Builder::new().name(name.clone()).spawn(move || {
            begin.wait();
            begin.wait();
            let result = work();
            let _ = sender.send(json!({ "tid": own_tid(), "name": name, "result": result }));
            loop {
                thread::park();
            }
        })?;
    }
    begin.wait();
    crate::ready()?;
    begin.wait();
    let facts: Vec<_> = finished.iter().take(count).collect();
    crate::done(&json!({ "threads": facts }))?;
    Ok(())
}

/// The calling thread's id.
pub fn own_tid() -> i32 {
    gettid().as_raw_nonzero().get()
}

/// The CPUs that may be used.
pub fn cpus() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    anyhow::ensure!(!cpus.is_empty(), "no CPU may be used");
    Ok(cpus)
}

/// Keeps the calling thread on one CPU. False if that is refused.
pub fn pin(cpu: usize) -> bool {
    sched_setaffinity(None, &only(cpu)).is_ok()
}

/// Keeps another thread on one CPU. False if that is refused.
pub fn pin_thread(tid: i32, cpu: usize) -> bool {
    sched_setaffinity(Pid::from_raw(tid), &only(cpu)).is_ok()
}

fn only(cpu: usize) -> CpuSet {
    let mut one = CpuSet::new();
    one.set(cpu);
    one
}
