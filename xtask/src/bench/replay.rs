//! What a replay costs: a large recording through a pipe, and a smaller one in turn with reading and writing it plainly.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Outcome, Setting,
    figures::{Spread, in_turn},
};
use crate::command;

/// Single events of the large recording. It goes through a pipe, not to a disk: 18 GB would measure that.
const LARGE: u64 = 50_000_000;
/// Those of the recording that is replayed in turn, which the page cache holds.
const SMALL: u64 = 2_000_000;

/// What a program used.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Usage {
    wall_s: f64,
    user_s: f64,
    system_s: f64,
    peak_rss_bytes: u64,
}

impl Usage {
    fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

/// Measures both.
pub fn run(setting: &Setting) -> Result<Outcome> {
    let (mut tables, mut results) = (Vec::new(), json!({}));
    if setting.wants("pipe") {
        let usage = through_pipe(setting)?;
        tables.push(pipe_table(&usage));
        results["pipe"] = json!({ "events": LARGE, "usage": usage });
    }
    if setting.wants("file") {
        let rows = compare(setting)?;
        tables.push(file_table(&rows));
        results["file"] = json!({ "events": SMALL, "rows": rows });
    }
    print!("{}", tables.concat());
    Ok(Outcome { tables, results })
}

/// Writes a recording to standard output.
fn recording(setting: &Setting, events: u64) -> Command {
    let mut command = Command::new(setting.programs.join("recording"));
    command::end_with_us(&mut command).arg(events.to_string());
    command
}

/// Runs a program and tells what it used. It writes nothing to standard output.
fn measure(setting: &Setting, program: &str, args: &[&Path], stdin: Stdio) -> Result<Usage> {
    let mut command = Command::new(setting.programs.join("measured"));
    command::end_with_us(&mut command)
        .arg(setting.programs.join(program))
        .args(args)
        .stdin(stdin);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", command::line(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", command::line(&command), output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn through_pipe(setting: &Setting) -> Result<Usage> {
    println!("\n== replay: {LARGE} events through a pipe ==");
    let mut writer = recording(setting, LARGE).stdout(Stdio::piped()).spawn()?;
    let pipe = writer.stdout.take().context("it is piped")?;
    let args = ["replay", "-", "--quiet", "--output", "/dev/null"].map(Path::new);
    let usage = measure(setting, "slowburn", &args, pipe.into())?;
    let status = writer.wait()?;
    if !status.success() {
        bail!("the recording was not written to its end ({status})");
    }
    Ok(usage)
}

fn pipe_table(usage: &Usage) -> String {
    let millions = |seconds: f64| LARGE as f64 / seconds / 1e6;
    format!(
        "\n| replay of {} million events through a pipe, discarded | |\n|---|---|\n\
         | wall | {:.1} s: {:.1} million events a second |\n\
         | CPU, user and system | {:.1} s and {:.1} s: {:.1} million events a second on a core |\n\
         | peak of resident memory | {:.1} MB |\n",
        LARGE / 1_000_000,
        usage.wall_s,
        millions(usage.wall_s),
        usage.user_s,
        usage.system_s,
        millions(usage.cpu_s()),
        usage.peak_rss_bytes as f64 / 1e6,
    )
}

/// Who reads a recording, and where to.
#[derive(Clone, Copy, Serialize)]
struct Reader {
    name: &'static str,
    replays: bool,
    discards: bool,
}

/// The last one is the one that the others are compared with.
const READERS: [Reader; 3] = [
    Reader {
        name: "replay, discarded",
        replays: true,
        discards: true,
    },
    Reader {
        name: "replay to a file",
        replays: true,
        discards: false,
    },
    Reader {
        name: "serde_json, read and written, discarded",
        replays: false,
        discards: true,
    },
];

impl Reader {
    fn read(&self, setting: &Setting, recording: &Path) -> Result<Usage> {
        let file = setting.scratch.join("replayed.jsonl");
        let output = if self.discards {
            Path::new("/dev/null")
        } else {
            &file
        };
        let (program, args) = if self.replays {
            let [replay, quiet, to] = ["replay", "--quiet", "--output"].map(Path::new);
            ("slowburn", vec![replay, recording, quiet, to, output])
        } else {
            ("plain-replay", vec![recording, output])
        };
        let usage = measure(setting, program, &args, Stdio::null());
        if !self.discards {
            let (written, read) = (fs::metadata(&file)?.len(), fs::metadata(recording)?.len());
            fs::remove_file(&file)?;
            if written < read {
                bail!("{read} bytes were replayed, and {written} came out");
            }
        }
        usage
    }
}

#[derive(Serialize)]
struct Row {
    reader: Reader,
    /// User and system time an event.
    cpu_ns: Spread,
    wall_ns: Spread,
    /// The CPU time of the plain way to ours, in the same round.
    plain_takes: Spread,
    figures: Vec<Usage>,
}

/// A file that is removed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn compare(setting: &Setting) -> Result<Vec<Row>> {
    println!("\n== replay: {SMALL} events of a file, in turn ==");
    let file = Scratch(setting.scratch.join("recording.jsonl"));
    let to = File::create(&file.0).with_context(|| format!("cannot write {}", file.0.display()))?;
    command::run(recording(setting, SMALL).stdout(to))?;
    let usages = in_turn(&READERS, setting.rounds, |reader| {
        reader.read(setting, &file.0)
    })?;
    let each = |usages: &[Usage], seconds: fn(&Usage) -> f64| -> Vec<f64> {
        usages
            .iter()
            .map(|usage| seconds(usage) * 1e9 / SMALL as f64)
            .collect()
    };
    let plain = usages.last().map(|usages| each(usages, Usage::cpu_s));
    let plain = plain.unwrap_or_default();
    let rows = READERS
        .into_iter()
        .zip(usages)
        .filter_map(|(reader, usages)| {
            let cpu = each(&usages, Usage::cpu_s);
            Some(Row {
                reader,
                cpu_ns: Spread::of(&cpu)?,
                wall_ns: Spread::of(&each(&usages, |usage| usage.wall_s))?,
                plain_takes: Spread::of_ratios(&plain, &cpu)?,
                figures: usages,
            })
        });
    Ok(rows.collect())
}

fn file_table(rows: &[Row]) -> String {
    let mut text = String::from(
        "\n| an event of a file | CPU ns | wall ns | million a second on a core | plain serde_json, in CPU time |\n\
         |---|---|---|---|---|\n",
    );
    for row in rows {
        let (cpu, wall) = (row.cpu_ns, row.wall_ns);
        let _ = writeln!(
            text,
            "| {} | {:.0} ({:.0} to {:.0}) | {:.0} ({:.0} to {:.0}) | {:.2} | {} |",
            row.reader.name,
            cpu.median,
            cpu.low,
            cpu.high,
            wall.median,
            wall.low,
            wall.high,
            1e3 / cpu.median,
            row.plain_takes
        );
    }
    text
}
