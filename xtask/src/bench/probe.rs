//! What each kernel-side program takes in a run, by the kernel's own account: with each family of hooks, of those that
//! are followed and of others, above a program that does nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    Outcome, Setting,
    figures::{Spread, in_turn},
    load::{LOADS, Prepared},
    tracer::{self, Tracing},
};
use crate::command;

/// Programs that are attached while the loads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Contender {
    /// Some that do nothing.
    Empty,
    /// slowburn's, of some families.
    Slowburn {
        hooks: &'static str,
        /// Are the loads followed?
        follows: bool,
    },
}

impl Contender {
    fn start(self, setting: &Setting, loads: &[Prepared]) -> Result<Tracing> {
        let (programs, scratch) = (setting.programs, setting.scratch);
        match self {
            Self::Empty => tracer::empty(programs),
            Self::Slowburn { hooks, follows } => {
                let more = ["--hooks", hooks];
                if follows {
                    let pids: Vec<_> = loads.iter().map(Prepared::pid).collect();
                    tracer::slowburn(programs, scratch, &pids, &more)
                } else {
                    tracer::slowburn_elsewhere(programs, scratch, &more)
                }
            }
        }
    }
}

/// Families, side by side: each for tasks and waits with one for memory.
const HOOKS: [&str; 3] = [
    "sched=tp_btf,mem=syscall",
    "sched=raw,mem=fexit",
    "sched=classic,mem=kprobe",
];

/// The loads that make programs run: switches and wake-ups, mappings, lives of tasks.
const NAMES: [&str; 3] = ["pipe", "map", "thread"];

/// What the kernel says of a program, between two readings.
#[derive(Clone, Debug, Deserialize)]
struct Program {
    name: String,
    runs: u64,
    ns: u64,
    instructions: u32,
    machine_code_bytes: u32,
}

/// A program with one of the contenders.
#[derive(Serialize)]
struct Row {
    program: String,
    followed: bool,
    /// In one round.
    runs: u64,
    ns: Spread,
    above_empty: Spread,
    instructions: u32,
    machine_code_bytes: u32,
}

/// Runs in a round below which a mean says nothing.
const ENOUGH: u64 = 10_000;

/// Measures all families that this kernel has.
pub fn run(setting: &Setting) -> Result<Outcome> {
    println!("\n== probe: each program's runs, by the kernel's account ==");
    let contenders = contenders(setting)?;
    let rounds = in_turn(&contenders, setting.rounds, |contender| {
        measure(setting, *contender)
    })?;
    let empty: Vec<f64> = rounds[0].iter().map(mean_of_switch).collect();
    let mut rows = Vec::new();
    for (contender, rounds) in contenders.iter().zip(&rounds) {
        if let Contender::Slowburn { follows, .. } = contender {
            rows.extend(summarise(rounds, *follows, &empty));
        }
    }
    let table = table(&rows, Spread::of(&empty));
    print!("{table}");
    Ok(Outcome {
        tables: vec![table],
        results: serde_json::to_value(rows)?,
    })
}

/// The first is the one that does nothing. Families that the kernel refuses are left out, and said.
fn contenders(setting: &Setting) -> Result<Vec<Contender>> {
    let mut contenders = vec![Contender::Empty];
    for hooks in HOOKS {
        let mut hooks = hooks;
        if tracer::slowburn_elsewhere(setting.programs, setting.scratch, &["--hooks", hooks])
            .is_err()
        {
            let (sched, memory) = hooks.split_once(',').context("it has a comma")?;
            println!("SKIP {memory}: this kernel refuses it");
            hooks = sched;
        }
        for follows in [true, false] {
            contenders.push(Contender::Slowburn { hooks, follows });
        }
    }
    Ok(contenders)
}

/// Runs all loads, and tells what the programs took meanwhile.
fn measure(setting: &Setting, contender: Contender) -> Result<BTreeMap<String, Program>> {
    let loads = LOADS.iter().filter(|load| NAMES.contains(&load.name));
    let loads: Vec<Prepared> = loads
        .map(|load| load.prepare(setting.programs))
        .collect::<Result<_>>()?;
    let tracing = contender.start(setting, &loads)?;
    let pid = tracing.pid().context("somebody traces")?;
    let mut times = RunTimes::take(setting.programs, pid)?;
    let before = times.read()?;
    for load in loads {
        load.work()?;
    }
    let mut all = times.read()?;
    for (name, program) in &mut all {
        if let Some(before) = before.get(name) {
            program.runs -= before.runs;
            program.ns -= before.ns;
        }
    }
    tracing.stop()?;
    Ok(all)
}

/// Of the empty program at switches.
fn mean_of_switch(all: &BTreeMap<String, Program>) -> f64 {
    let switch = all
        .values()
        .find(|program| program.name.contains("switch") || program.name.contains("_swi"));
    switch.map_or(f64::NAN, |program| program.ns as f64 / program.runs as f64)
}

fn summarise(rounds: &[BTreeMap<String, Program>], followed: bool, empty: &[f64]) -> Vec<Row> {
    let Some(last) = rounds.last() else {
        return Vec::new();
    };
    let rows = last.values().filter_map(|program| {
        let of_name: Vec<_> = rounds
            .iter()
            .filter_map(|all| all.get(&program.name))
            .collect();
        if of_name.iter().any(|program| program.runs < ENOUGH) {
            return None;
        }
        let means: Vec<f64> = of_name
            .iter()
            .map(|program| program.ns as f64 / program.runs as f64)
            .collect();
        let above: Vec<f64> = means
            .iter()
            .zip(empty)
            .map(|(ns, empty)| ns - empty)
            .collect();
        Some(Row {
            program: program.name.clone(),
            followed,
            runs: program.runs,
            ns: Spread::of(&means)?,
            above_empty: Spread::of(&above)?,
            instructions: program.instructions,
            machine_code_bytes: program.machine_code_bytes,
        })
    });
    rows.collect()
}

fn table(rows: &[Row], empty: Option<Spread>) -> String {
    let mut text = String::from(
        "\n| program | followed | ns above an empty one | instructions | machine code |\n|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row {
            program,
            above_empty: Spread { median, low, high },
            instructions,
            machine_code_bytes,
            ..
        } = row;
        let followed = if row.followed { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "| {program} | {followed} | {median:.0} ({low:.0} to {high:.0}) | {instructions} | {machine_code_bytes} B |"
        );
    }
    if let Some(Spread { median, low, high }) = empty {
        let _ = writeln!(
            text,
            "\nAn empty program: {median:.0} ns ({low:.0} to {high:.0}), most of which is taking the time."
        );
    }
    text
}

/// The helper that has the kernel take times.
struct RunTimes {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunTimes {
    fn take(programs: &Path, pid: u32) -> Result<Self> {
        let mut helper = Command::new(programs.join("run-times"));
        let mut child = command::end_with_us(helper.arg(pid.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start run-times")?;
        let input = child.stdin.take().context("it is piped")?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        if lines.next().is_none() {
            bail!("the kernel does not take the times of programs");
        }
        Ok(Self {
            child,
            input,
            lines,
        })
    }

    /// By name. Two programs whose names begin with the same 15 bytes count as one.
    fn read(&mut self) -> Result<BTreeMap<String, Program>> {
        self.input.write_all(b"\n")?;
        let line = self.lines.next().context("run-times has ended")??;
        let mut all = BTreeMap::<String, Program>::new();
        for program in serde_json::from_str::<Vec<Program>>(&line)? {
            match all.get_mut(&program.name) {
                Some(same) => {
                    same.runs += program.runs;
                    same.ns += program.ns;
                }
                None => drop(all.insert(program.name.clone(), program)),
            }
        }
        Ok(all)
    }
}

impl Drop for RunTimes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
