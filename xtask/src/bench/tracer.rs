//! Who traces while something is measured.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::command;

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracer {
    /// Nobody: what the others are compared with.
    Nothing,
    /// Programs that do nothing where slowburn's are.
    Empty,
    /// slowburn, attached to something else.
    SlowburnElsewhere,
    /// The same without hooks on memory, which are system call tracepoints where a kernel has nothing better.
    SlowburnElsewhereNoMemory,
    /// slowburn, attached to what is measured.
    Slowburn,
    /// The same with a record for each single event.
    SlowburnAll,
    /// The run-queue script with three probes.
    Bpftrace,
    /// `perf sched record`.
    PerfSched,
}

impl Tracer {
    pub const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Empty,
        Self::SlowburnElsewhere,
        Self::SlowburnElsewhereNoMemory,
        Self::Slowburn,
        Self::SlowburnAll,
        Self::Bpftrace,
        Self::PerfSched,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Empty => "empty programs",
            Self::SlowburnElsewhere => "slowburn, another service",
            Self::SlowburnElsewhereNoMemory => "slowburn, another service, mem=none",
            Self::Slowburn => "slowburn",
            Self::SlowburnAll => "slowburn --events all",
            Self::Bpftrace => "bpftrace script",
            Self::PerfSched => "perf sched record",
        }
    }

    /// What it needs and this machine does not have.
    pub fn missing(self) -> Option<&'static str> {
        let program = match self {
            Self::Bpftrace => "bpftrace",
            Self::PerfSched => "perf",
            _ => return None,
        };
        command::find_in_path(program).is_none().then_some(program)
    }

    /// Starts it, and waits until it has attached.
    pub fn start(self, programs: &Path, scratch: &Path, target: u32) -> Result<Tracing> {
        let slowburn = |more: &[&str]| slowburn(programs, scratch, &[target], more);
        match self {
            Self::Nothing => Ok(Tracing::default()),
            Self::Empty => empty(programs),
            Self::SlowburnElsewhere => slowburn_elsewhere(programs, scratch, &[]),
            Self::SlowburnElsewhereNoMemory => {
                slowburn_elsewhere(programs, scratch, &["--hooks", "mem=none"])
            }
            Self::Slowburn => slowburn(&[]),
            Self::SlowburnAll => slowburn(&["--events", "all"]),
            Self::Bpftrace => {
                let mut bpftrace = Command::new("bpftrace");
                bpftrace
                    .args(["-f", "json", "-e", RUN_QUEUE])
                    .env("BPFTRACE_MAP_KEYS_MAX", "100000");
                Tracing::of(bpftrace, &Ready::Says("attached_probes"))
            }
            Self::PerfSched => {
                let output = scratch.join("perf.data");
                let mut perf = Command::new("perf");
                perf.args(["sched", "record", "--all-cpus", "--output"])
                    .arg(&output);
                Tracing::of(perf, &Ready::Output(output.as_path()))
            }
        }
    }
}

/// Attaches programs that do nothing.
pub fn empty(programs: &Path) -> Result<Tracing> {
    Tracing::of(
        Command::new(programs.join("empty-programs")),
        &Ready::Says("attached"),
    )
}

/// Attaches slowburn to processes.
pub fn slowburn(programs: &Path, scratch: &Path, pids: &[u32], more: &[&str]) -> Result<Tracing> {
    let output = scratch.join("events.jsonl");
    let mut command = Command::new(programs.join("slowburn"));
    // A load that does nothing but what is hooked would soon have the hooks taken off.
    command.args(["run", "--quiet", "--budget", "none"]);
    for pid in pids {
        command.args(["--pid", &pid.to_string()]);
    }
    command.args(more).arg("--output").arg(&output);
    Tracing::of(command, &Ready::Output(output.as_path()))
}

/// Attaches slowburn to a process that does nothing.
pub fn slowburn_elsewhere(programs: &Path, scratch: &Path, more: &[&str]) -> Result<Tracing> {
    let mut elsewhere = Command::new("sleep");
    let mut elsewhere = command::end_with_us(elsewhere.arg("infinity"))
        .spawn()
        .context("cannot start sleep")?;
    let mut tracing = slowburn(programs, scratch, &[elsewhere.id()], more);
    match &mut tracing {
        Ok(tracing) => tracing.elsewhere = Some(elsewhere),
        Err(_) => elsewhere.kill()?,
    }
    tracing
}

/// Time from a wake-up, or from a switch out of a task that could go on, to the switch in, as a histogram.
const RUN_QUEUE: &str = "
    tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @since[args->pid] = nsecs; }
    tracepoint:sched:sched_switch {
        if (args->prev_state == 0) { @since[args->prev_pid] = nsecs; }
        $since = @since[args->next_pid];
        if ($since) { @waits = hist((nsecs - $since) / 1000); }
        delete(@since[args->next_pid]);
    }
    END { clear(@since); }";

/// How a tracer shows that it has attached.
enum Ready<'a> {
    /// A line of its standard output has this.
    Says(&'static str),
    /// There is something in a file.
    Output(&'a Path),
}

/// How long it may take to attach.
const PATIENCE: Duration = Duration::from_mins(1);

/// A tracer that is attached.
#[derive(Default)]
pub struct Tracing {
    child: Option<Child>,
    /// Ends some of them when it is closed.
    input: Option<ChildStdin>,
    elsewhere: Option<Child>,
}

impl Tracing {
    fn of(mut command: Command, ready: &Ready) -> Result<Self> {
        if let Ready::Output(path) = ready {
            let _ = fs::remove_file(path);
        }
        let says = matches!(ready, Ready::Says(_));
        let mut child = command::end_with_us(&mut command)
            .stdin(Stdio::piped())
            .stdout(if says { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&command)))?;
        let input = child.stdin.take();
        let start = Instant::now();
        match ready {
            Ready::Says(word) => {
                let stdout = BufReader::new(child.stdout.take().context("it is piped")?);
                let mut lines = stdout.lines().map_while(Result::ok);
                if !lines.by_ref().any(|line| line.contains(word)) {
                    bail!("`{}` does not attach", command::line(&command));
                }
                thread::spawn(move || lines.for_each(drop));
            }
            Ready::Output(path) => {
                while path.metadata().map_or(0, |meta| meta.len()) == 0 {
                    if start.elapsed() > PATIENCE || child.try_wait()?.is_some() {
                        bail!("`{}` does not attach", command::line(&command));
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        Ok(Self {
            child: Some(child),
            input,
            elsewhere: None,
        })
    }

    /// Its process; none if nobody traces.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Detaches it.
    pub fn stop(mut self) -> Result<()> {
        drop(self.input.take());
        if let Some(child) = &mut self.child {
            let pid = Pid::from_child(child);
            // It may have ended with its input.
            let _ = kill_process(pid, Signal::INT);
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        for mut child in self.child.take().into_iter().chain(self.elsewhere.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
