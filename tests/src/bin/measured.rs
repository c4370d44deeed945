//! Runs a program and says on standard output, as JSON, how long it took, the CPU time of all its threads, and the most memory
//! that was resident. A program of its own, because the last of these never falls below what the process had that started it.

use std::{
    io,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Context;
use clap::Parser;
use serde_json::json;

/// Run a program and say what it used.
#[derive(Parser)]
struct Options {
    /// The program and its arguments. What it writes to standard output goes to standard error
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Options { command } = Options::parse();
    let begin = Instant::now();
    let child = Command::new(&command[0])
        .args(&command[1..])
        .stdout(io::stderr())
        .spawn()
        .with_context(|| format!("cannot start {}", command[0]))?;
    let (status, usage) = wait(child.id())?;
    let wall = begin.elapsed();
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    println!(
        "{}",
        json!({
            "wall_s": wall.as_secs_f64(),
            "user_s": seconds(usage.ru_utime),
            "system_s": seconds(usage.ru_stime),
            // Linux has KiB here.
            "peak_rss_bytes": usage.ru_maxrss << 10,
        })
    );
    Ok(if status == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wait(pid: u32) -> io::Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: it is a plain structure of numbers, for which zeros are valid.
    let mut usage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to our own variables, which live until it returns.
    let pid = unsafe { libc::wait4(pid as i32, &raw mut status, 0, &raw mut usage) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((status, usage))
}
