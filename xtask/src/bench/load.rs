//! What is measured while somebody traces.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// Something that takes a while, and whose processes are known before it begins.
pub struct Load {
    pub name: &'static str,
    pub what: &'static str,
    kind: Kind,
    /// How often it does one thing.
    count: u64,
}

enum Kind {
    /// What starts it, if something does, and which of the benches of perf, up to the option for how often.
    Perf(&'static [&'static str], &'static [&'static str]),
    /// A workload of the tests.
    Workload(&'static str),
}

/// The worst cases: each does nothing but what somebody hooks.
pub const LOADS: [Load; 5] = [
    Load {
        name: "pipe",
        what: "two processes on one CPU that wake each other through pipes (`perf bench sched pipe`)",
        // On two, a wake-up is mostly the way out of an idle CPU, which is the shorter the more tracing there is to do: with
        // bpftrace three quarters of the time without.
        kind: Kind::Perf(
            &["taskset", "--cpu-list", "0"],
            &["sched", "pipe", "--loop"],
        ),
        count: 300_000,
    },
    Load {
        name: "messaging",
        what: "400 processes that send to each other (`perf bench sched messaging`)",
        kind: Kind::Perf(&[], &["sched", "messaging", "--group", "10", "--nr_loops"]),
        count: 100,
    },
    Load {
        name: "syscall",
        what: "a system call that nobody hooks",
        kind: Kind::Workload("syscall"),
        count: 5_000_000,
    },
    Load {
        name: "map",
        what: "mapping a page and giving it back",
        kind: Kind::Workload("map"),
        count: 500_000,
    },
    Load {
        name: "thread",
        what: "starting a thread and waiting for its end",
        kind: Kind::Workload("thread"),
        count: 20_000,
    },
];

/// A load that waits for the word to begin.
pub struct Prepared {
    child: Child,
    count: u64,
    kind: &'static Kind,
}

impl Load {
    /// What it needs and this machine does not have.
    pub fn missing(&self) -> Option<&'static str> {
        let needs_perf = matches!(self.kind, Kind::Perf(..));
        (needs_perf && command::find_in_path("perf").is_none()).then_some("perf")
    }

    /// Starts it. It begins when told so.
    pub fn prepare(&'static self, programs: &Path) -> Result<Prepared> {
        let mut command = match self.kind {
            // A shell that becomes it, so that a tracer can attach before it begins.
            Kind::Perf(starter, bench) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "read -r _ && exec \"$@\"", "sh"])
                    .args(starter)
                    .args(["perf", "bench", "--format", "simple"])
                    .args(bench)
                    .arg(self.count.to_string());
                shell
            }
            Kind::Workload(step) => {
                let mut workload = Command::new(programs.join("workload"));
                workload.args(["loop", step, "--count", &self.count.to_string()]);
                workload
            }
        };
        let child = command::end_with_us(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&command)))?;
        Ok(Prepared {
            child,
            count: self.count,
            kind: &self.kind,
        })
    }
}

impl Prepared {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it work, and tells how many nanoseconds one of what it does takes.
    pub fn work(mut self) -> Result<f64> {
        let mut input = self.child.stdin.take().context("it is piped")?;
        input.write_all(b"go\n")?;
        let stdout = BufReader::new(self.child.stdout.take().context("it is piped")?);
        let mut seconds = None;
        for line in stdout.lines().map_while(Result::ok) {
            seconds = seconds.or_else(|| self.seconds(&line));
            if seconds.is_some() && matches!(self.kind, Kind::Workload(_)) {
                // It would wait for its input to end.
                break;
            }
        }
        drop(input);
        let status = self.child.wait()?;
        match seconds {
            Some(seconds) if status.success() => Ok(seconds * 1e9 / self.count as f64),
            _ => bail!("a load has failed ({status})"),
        }
    }

    fn seconds(&self, line: &str) -> Option<f64> {
        match self.kind {
            Kind::Perf(..) => line.trim().parse().ok(),
            Kind::Workload(_) => serde_json::from_str::<Value>(line).ok()?["seconds"].as_f64(),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
