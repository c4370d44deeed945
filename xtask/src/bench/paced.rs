//! A load whose rates are known: so many threads in so many services that wake each other, map and start threads so
//! many times a second.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// What the kernel calls it, and slowburn is told to look for.
pub const NAME: &str = "slowburn-paced";

/// How much of what, all services together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub services: u64,
    /// Threads that pass turns on: each wakes the next and sleeps, so that a turn is a wake-up and a switch.
    pub threads: u64,
    /// Threads that only exist.
    pub idle: u64,
    /// A second.
    pub turns: u64,
    /// A second.
    pub mappings: u64,
    /// How many there are of them at a time, in each service.
    pub in_flight: u64,
    /// A second, of threads that end at once.
    pub starts: u64,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub turns: u64,
    pub mappings: u64,
}

/// The services.
pub struct Paced(Vec<Worker>);

struct Worker {
    child: Child,
    pid: u32,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Rates {
    /// What this machine does not have room for, and what would give it.
    pub fn missing(&self) -> Option<String> {
        let threads = self.threads + self.idle;
        ["kernel/pid_max", "kernel/threads-max"]
            .into_iter()
            .find_map(|name| {
                let limit = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
                let limit = limit.trim().parse::<u64>().ok()?;
                let name = name.replace('/', ".");
                // The rest of the machine has some as well.
                (threads + 2_000 > limit).then(|| {
                    format!(
                        "{name} is {limit}: sysctl {name}={}",
                        (threads * 4).next_power_of_two()
                    )
                })
            })
    }
}

impl Paced {
    /// Starts them. They begin when told so.
    pub fn start(programs: &Path, scratch: &Path, rates: &Rates) -> Result<Self> {
        let program = scratch.join(NAME);
        let _ = fs::remove_file(&program);
        let workload = programs.join("workload");
        symlink(&workload, &program)
            .with_context(|| format!("cannot make {}", program.display()))?;
        let workers = (0..rates.services).map(|n| Worker::start(&program, rates, n));
        let mut paced = Self(workers.collect::<Result<_>>()?);
        for worker in &mut paced.0 {
            let pid = worker.hear()?["pid"].as_u64();
            worker.pid = pid.context("the load does not say its pid")? as u32;
        }
        Ok(paced)
    }

    /// Lets them begin.
    pub fn begin(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Worker::tell)
    }

    /// What they have done so far.
    pub fn done(&mut self) -> Result<Done> {
        let mut sum = Done::default();
        for worker in &mut self.0 {
            worker.tell()?;
            let facts = worker.hear()?;
            let count = |name: &str| facts[name].as_u64().unwrap_or(0);
            sum.turns += count("turns");
            sum.mappings += count("mappings");
        }
        Ok(sum)
    }

    /// The first of them.
    pub fn pid(&self) -> u32 {
        self.0.first().map_or(0, |worker| worker.pid)
    }

    /// How slowburn attaches to all of them.
    pub fn target(&self) -> Vec<String> {
        if self.0.len() == 1 {
            vec!["--pid".into(), self.pid().to_string()]
        } else {
            vec!["--process".into(), NAME.into(), "--all".into()]
        }
    }
}

impl Worker {
    fn start(program: &PathBuf, rates: &Rates, n: u64) -> Result<Self> {
        // The first ones get what does not divide.
        let share = |whole: u64| whole / rates.services + u64::from(n < whole % rates.services);
        let options = [
            ("--threads", share(rates.threads).max(1)),
            ("--idle", share(rates.idle)),
            ("--turns", share(rates.turns)),
            ("--mappings", share(rates.mappings)),
            ("--in-flight", rates.in_flight.max(1)),
            ("--starts", share(rates.starts)),
        ];
        // Processes with the same parent would be one service. It goes when the load does, and that goes when its input
        // ends.
        let mut command = Command::new("sh");
        command
            .args(["-c", "\"$@\"; exit", "sh"])
            .arg(program)
            .arg("paced");
        for (name, value) in options {
            command.args([name, &value.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&command)))?;
        Ok(Self {
            pid: 0,
            input: child.stdin.take().context("it is piped")?,
            output: BufReader::new(child.stdout.take().context("it is piped")?),
            child,
        })
    }

    fn tell(&mut self) -> Result<()> {
        self.input.write_all(b"go\n").context("the load is gone")
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the load has ended")
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        for Worker {
            mut child, input, ..
        } in self.0.drain(..)
        {
            drop(input);
            let _ = child.wait();
        }
    }
}
