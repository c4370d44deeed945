//! What the daemon itself takes while it follows 2,000 threads, how fast it comes and goes, and whether it grows.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Outcome, Setting,
    figures::Spread,
    paced::{Paced, Rates},
    watcher::{Ended, Memory, Watcher},
};
use crate::command;

const THREADS: u64 = 2_000;

/// The default.
const WINDOW: Duration = Duration::from_secs(10);

/// While something is done.
struct Case {
    name: &'static str,
    rates: Rates,
    options: &'static [&'static str],
}

const BASE: Rates = Rates {
    services: 1,
    threads: THREADS,
    idle: 0,
    turns: 0,
    mappings: 0,
    in_flight: 1,
    starts: 0,
};

const CASES: [Case; 5] = [
    Case {
        name: "1k",
        rates: Rates {
            turns: 1_000,
            ..BASE
        },
        options: &[],
    },
    Case {
        name: "50k",
        rates: Rates {
            turns: 50_000,
            ..BASE
        },
        options: &[],
    },
    Case {
        // With CPUs that are busy most of the time, there are nearly two switches in a turn. At more than 400,000 turns two CPUs
        // do nothing else, and what is measured is how the daemon gets one of them.
        name: "500k",
        rates: Rates {
            turns: 300_000,
            ..BASE
        },
        options: &[],
    },
    Case {
        name: "mappings",
        rates: Rates {
            mappings: 100_000,
            ..BASE
        },
        options: &[],
    },
    Case {
        name: "mappings-all",
        rates: Rates {
            mappings: 100_000,
            ..BASE
        },
        options: &["--events", "all"],
    },
];

#[derive(Serialize)]
struct Row {
    name: &'static str,
    switches_per_second: f64,
    mappings_per_second: f64,
    /// Of one CPU, for each window.
    share: Spread,
    /// In user mode, of all of that.
    user_share: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    memory: Memory,
    ended: Ended,
}

/// Measures all that was asked for.
pub fn run(setting: &Setting) -> Result<Outcome> {
    let mut tables = Vec::new();
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| setting.wants(case.name)) {
        println!("\n== daemon: {} ==", case.name);
        let row = measure(setting, case)?;
        print!("{HEADING}{}", row.line());
        rows.push(row);
    }
    if !rows.is_empty() {
        let lines: String = rows.iter().map(Row::line).collect();
        tables.push(format!("{HEADING}{lines}"));
    }
    let mut results = json!({ "load": rows });
    if setting.wants("attach") {
        println!("\n== daemon: attach ==");
        let visits = visits(setting)?;
        tables.push(visits.table());
        print!("{}", visits.table());
        results["attach"] = serde_json::to_value(visits)?;
    }
    if setting.wants("churn") {
        println!("\n== daemon: churn ==");
        let churn = churn(setting)?;
        tables.push(churn.table());
        print!("{}", churn.table());
        results["churn"] = serde_json::to_value(churn)?;
    }
    Ok(Outcome { tables, results })
}

fn measure(setting: &Setting, case: &Case) -> Result<Row> {
    let mut load = Paced::start(setting.programs, setting.scratch, &case.rates)?;
    let mut options = load.target();
    options.extend(case.options.iter().map(ToString::to_string));
    load.begin()?;
    let watcher = Watcher::start(setting.programs, &options)?;
    // Not where a window ends, and not the first one.
    thread::sleep(WINDOW * 3 / 2);
    let mut shares = Vec::new();
    let start = Instant::now();
    let (first, switches, written) = (load.done()?, switches()?, watcher.written());
    let (first_cpu, first_user) = (watcher.cpu_ns()?, user_ticks(watcher.pid())?);
    let mut cpu = first_cpu;
    for round in 1..=setting.rounds as u32 {
        thread::sleep((WINDOW * round).saturating_sub(start.elapsed()));
        let now = watcher.cpu_ns()?;
        shares.push((now - cpu) as f64 / WINDOW.as_nanos() as f64);
        cpu = now;
    }
    let seconds = start.elapsed().as_secs_f64();
    let each_second = |now: u64, before: u64| (now - before) as f64 / seconds;
    let (done, records) = (load.done()?, watcher.written());
    let user = user_ticks(watcher.pid())?;
    let ticks = |(user, system): (u64, u64)| user + system;
    Ok(Row {
        name: case.name,
        switches_per_second: each_second(self::switches()?, switches),
        mappings_per_second: each_second(done.mappings, first.mappings),
        share: Spread::of(&shares).unwrap_or_default(),
        user_share: (user.0 - first_user.0) as f64
            / (ticks(user) - ticks(first_user)).max(1) as f64,
        records_per_second: each_second(records.0, written.0),
        megabytes_per_second: each_second(records.1, written.1) / 1e6,
        memory: watcher.memory()?,
        ended: watcher.stop()?,
    })
}

/// Context switches of the whole machine since it was started.
fn switches() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let count = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    count
        .and_then(|count| count.trim().parse().ok())
        .context("no ctxt in /proc/stat")
}

/// CPU time in user mode and in the kernel, in clock ticks.
fn user_ticks(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let mut ticks = fields
        .split(' ')
        .skip(11)
        .filter_map(|field| field.parse().ok());
    ticks.next().zip(ticks.next()).context("no times in stat")
}

const HEADING: &str = "\n\
    | load | switches/s | mappings/s | CPU, % of one core | of that in user mode | records/s | MB/s | RSS, MB | its own, MB \
    | lost | recovered |\n\
    |---|---|---|---|---|---|---|---|---|---|---|\n";

impl Row {
    fn line(&self) -> String {
        let Spread { median, low, high } = self.share;
        let mut line = format!(
            "| {} | {:.0} | {:.0} ",
            self.name, self.switches_per_second, self.mappings_per_second
        );
        let percent = |share: f64| share * 100.0;
        let _ = write!(
            line,
            "| {:.3} ({:.3} to {:.3}) ",
            percent(median),
            percent(low),
            percent(high)
        );
        let _ = write!(line, "| {:.0} % ", percent(self.user_share));
        let _ = write!(
            line,
            "| {:.0} | {:.2} ",
            self.records_per_second, self.megabytes_per_second
        );
        let memory = self.memory;
        let _ = write!(
            line,
            "| {:.1} | {:.1} ",
            memory.rss as f64 / 1e6,
            memory.anonymous as f64 / 1e6
        );
        let ended = &self.ended;
        line + &format!("| {} | {} |\n", ended.losses(), ended.recovered)
    }
}

/// What a thread of the highest priority has noted that nobody should disturb.
struct Gaps {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// In microseconds: between two readings of the clock, a mapping, and after the end of a sleep.
#[derive(Clone, Copy, Serialize)]
struct Disturbed {
    gap: f64,
    call: f64,
    late: f64,
}

impl Gaps {
    fn start(programs: &Path) -> Result<Self> {
        let mut command = Command::new(programs.join("workload"));
        let mut child = command::end_with_us(command.arg("gaps"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the workload")?;
        let mut gaps = Self {
            input: child.stdin.take().context("it is piped")?,
            output: BufReader::new(child.stdout.take().context("it is piped")?),
            child,
        };
        gaps.hear()?;
        gaps.input.write_all(b"go\n")?;
        Ok(gaps)
    }

    /// Since the last call.
    fn take(&mut self) -> Result<Disturbed> {
        self.input.write_all(b"say\n")?;
        let facts = self.hear()?;
        let us = |name: &str| facts[name].as_f64().map(|ns| ns / 1e3);
        Ok(Disturbed {
            gap: us("gap_ns").context("no gap")?,
            call: us("call_ns").context("no call")?,
            late: us("late_ns").context("no delay")?,
        })
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Attaching and detaching, again and again.
#[derive(Default, Serialize)]
struct Visits {
    attach_seconds: Vec<f64>,
    /// Until the first record that is not about slowburn or its target.
    first_event_seconds: Vec<f64>,
    detach_seconds: Vec<f64>,
    nobody: Vec<Disturbed>,
    attaching: Vec<Disturbed>,
    attached: Vec<Disturbed>,
    detaching: Vec<Disturbed>,
}

fn visits(setting: &Setting) -> Result<Visits> {
    let rates = Rates {
        turns: 1_000,
        starts: 100,
        ..BASE
    };
    let mut load = Paced::start(setting.programs, setting.scratch, &rates)?;
    load.begin()?;
    let mut gaps = Gaps::start(setting.programs)?;
    let mut visits = Visits::default();
    for _ in 0..setting.rounds {
        gaps.take()?;
        thread::sleep(Duration::from_millis(500));
        visits.nobody.push(gaps.take()?);
        let watcher = Watcher::start(setting.programs, &load.target())?;
        visits.attaching.push(gaps.take()?);
        visits.attach_seconds.push(watcher.wait_for("start")?);
        visits.first_event_seconds.push(watcher.wait_for("thread")?);
        thread::sleep(Duration::from_millis(500));
        visits.attached.push(gaps.take()?);
        visits.detach_seconds.push(watcher.stop()?.seconds);
        visits.detaching.push(gaps.take()?);
    }
    Ok(visits)
}

impl Visits {
    fn table(&self) -> String {
        let mut text = String::from("\n| from to | median, s | quartiles |\n|---|---|---|\n");
        for (name, figures) in [
            ("start to attached", &self.attach_seconds),
            ("start to first event", &self.first_event_seconds),
            ("SIGINT to exit", &self.detach_seconds),
        ] {
            let Spread { median, low, high } = Spread::of(figures).unwrap_or_default();
            let _ = writeln!(text, "| {name} | {median:.3} | {low:.3} to {high:.3} |");
        }
        text += "\n| a thread beside, longest in us | between two readings of the clock | a mapping | late after a sleep |\n\
            |---|---|---|---|\n";
        for (name, disturbed) in [
            ("nobody, 0.5 s", &self.nobody),
            ("while attaching", &self.attaching),
            ("attached, 0.5 s", &self.attached),
            ("while detaching", &self.detaching),
        ] {
            let _ = write!(text, "| {name} ");
            for figure in [
                |d: &Disturbed| d.gap,
                |d: &Disturbed| d.call,
                |d: &Disturbed| d.late,
            ] {
                let figures: Vec<_> = disturbed.iter().map(figure).collect();
                let Spread { median, low, high } = Spread::of(&figures).unwrap_or_default();
                let _ = write!(text, "| {median:.0} ({low:.0} to {high:.0}) ");
            }
            text += "|\n";
        }
        text
    }
}

/// Memory while a thread begins and ends each millisecond.
#[derive(Serialize)]
struct Churn {
    /// Minutes after the first window, and bytes.
    memory: Vec<(f64, Memory)>,
    ended: Ended,
}

/// How often memory is read.
const READING: Duration = Duration::from_secs(5);

fn churn(setting: &Setting) -> Result<Churn> {
    let rates = Rates {
        threads: 100,
        turns: 1_000,
        starts: 1_000,
        ..BASE
    };
    let mut load = Paced::start(setting.programs, setting.scratch, &rates)?;
    load.begin()?;
    let watcher = Watcher::start(setting.programs, &load.target())?;
    watcher.wait_for("window")?;
    let start = Instant::now();
    let mut memory = Vec::new();
    while start.elapsed() < setting.churn {
        let now = watcher.memory()?;
        memory.push((start.elapsed().as_secs_f64() / 60.0, now));
        println!(
            "{:>4.0} s: RSS {:.2} MB, its own {:.2} MB",
            start.elapsed().as_secs_f64(),
            now.rss as f64 / 1e6,
            now.anonymous as f64 / 1e6
        );
        thread::sleep(READING);
    }
    Ok(Churn {
        memory,
        ended: watcher.stop()?,
    })
}

impl Churn {
    /// By how much it grows in the second half, in bytes a minute.
    fn slope(&self, bytes: fn(&Memory) -> u64) -> f64 {
        let half = &self.memory[self.memory.len() / 2..];
        let points: Vec<_> = half
            .iter()
            .map(|(at, memory)| (*at, bytes(memory) as f64))
            .collect();
        slope(&points)
    }

    fn table(&self) -> String {
        let mut text = String::from("\n| minutes | RSS, MB | its own, MB |\n|---|---|---|\n");
        for (at, memory) in self.memory.iter().step_by((self.memory.len() / 12).max(1)) {
            let _ = writeln!(
                text,
                "| {at:.1} | {:.2} | {:.2} |",
                memory.rss as f64 / 1e6,
                memory.anonymous as f64 / 1e6
            );
        }
        let (rss, own) = (self.slope(|m| m.rss), self.slope(|m| m.anonymous));
        // A page a minute would be 2 GB in a year.
        let verdict = if own.abs() < 4096.0 {
            "flat"
        } else {
            "not flat"
        };
        text + &format!(
            "\nSecond half: RSS {:+.1} KB a minute, its own {:+.1} KB a minute: {verdict}. Lost: {}; recovered: {}.\n",
            rss / 1e3,
            own / 1e3,
            self.ended.losses(),
            self.ended.recovered
        )
    }
}

/// Least squares; 0 for fewer than two points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let above: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let below: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_that_of_a_line() {
        assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
        assert!(slope(&[(0.0, 5.0)]).abs() < 1e-9);
    }
}
