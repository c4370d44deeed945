//! Has the kernel take the times of eBPF programs, and prints those of a process's as a line of JSON for each line of its
//! input.

use std::{env::args, io::stdin};

use anyhow::Context;
use serde_json::{Value, json};
use slowburn_probes::linux::RunTimes;

fn main() -> anyhow::Result<()> {
    let pid = args().nth(1).context("usage: run-times PID")?.parse()?;
    let times = RunTimes::take()?;
    println!("ready");
    for line in stdin().lines() {
        line?;
        let programs = times.of(pid)?;
        let programs: Vec<Value> = programs
            .iter()
            .map(|program| {
                json!({
                    "name": program.name,
                    "runs": program.runs,
                    "ns": program.ns,
                    "instructions": program.instructions,
                    "machine_code_bytes": program.machine_code_bytes,
                })
            })
            .collect();
        println!("{}", Value::from(programs));
    }
    Ok(())
}
