//! slowburn as it is measured itself: what it takes of the machine, and what it has written when.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use crate::command;

/// How long it may take to attach or to write something.
const PATIENCE: Duration = Duration::from_mins(1);

/// slowburn while it runs.
pub struct Watcher {
    child: Child,
    started: Instant,
    written: Arc<Mutex<Written>>,
    reader: Option<JoinHandle<()>>,
}

/// What it has written.
#[derive(Default)]
struct Written {
    records: u64,
    bytes: u64,
    /// When the first record of each type came.
    first: BTreeMap<String, Instant>,
    /// The last record.
    stop: Option<Value>,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident, records of tasks included as far as they were looked at.
    pub rss: u64,
    /// Its own.
    pub anonymous: u64,
    /// What the kernel holds for its tables and programs.
    pub kernel: u64,
}

/// What the programs in the kernel have cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Programs {
    pub runs: u64,
    pub ns: u64,
}

/// How it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// From the signal to the end of the process, in seconds.
    pub seconds: f64,
    /// By class.
    pub lost: BTreeMap<String, u64>,
    pub recovered: u64,
}

impl Watcher {
    /// Starts it, and waits until it has attached.
    pub fn start(programs: &Path, options: &[String]) -> Result<Self> {
        let mut command = Command::new(programs.join("slowburn"));
        // With a budget, a load like these would have hooks taken off.
        let fixed = ["run", "--quiet", "--budget", "none"];
        command.args(fixed).args(options);
        let started = Instant::now();
        let mut child = command::end_with_us(&mut command)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&command)))?;
        let written = Arc::new(Mutex::new(Written::default()));
        let stdout = child.stdout.take().context("it is piped")?;
        let noted = Arc::clone(&written);
        let watcher = Self {
            child,
            started,
            written,
            reader: Some(thread::spawn(move || read(stdout, &noted))),
        };
        watcher
            .wait_for("start")
            .context("slowburn does not attach")?;
        Ok(watcher)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first record of a type, and tells how many seconds after its start it came.
    pub fn wait_for(&self, record: &str) -> Result<f64> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let first = self.with_written(|written| written.first.get(record).copied());
            if let Some(first) = first {
                return Ok((first - self.started).as_secs_f64());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("slowburn writes no {record} record")
    }

    /// Records and bytes so far.
    pub fn written(&self) -> (u64, u64) {
        self.with_written(|written| (written.records, written.bytes))
    }

    fn with_written<T>(&self, look: impl FnOnce(&Written) -> T) -> T {
        look(&self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// CPU time of all its threads, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(self.proc("task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let ns = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            sum += ns.context("schedstat begins with a number")?;
        }
        Ok(sum)
    }

    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(self.proc("status"))?;
        let bytes = |key| number_after(&status, key).map(|kib| kib * 1024);
        let files = self.descriptors("map_id:")?.into_values();
        let programs = self.descriptors("prog_id:")?.into_values();
        let memlock = files
            .chain(programs)
            .filter_map(|info| number_after(&info, "memlock:"));
        Ok(Memory {
            rss: bytes("VmRSS:").context("no VmRSS")?,
            anonymous: bytes("RssAnon:").context("no RssAnon")?,
            kernel: memlock.sum(),
        })
    }

    /// What its programs have cost since they were loaded; nothing is counted without [`Counting`].
    pub fn programs(&self) -> Result<Programs> {
        let mut sum = Programs::default();
        for info in self.descriptors("prog_id:")?.into_values() {
            sum.runs += number_after(&info, "run_cnt:").unwrap_or(0);
            sum.ns += number_after(&info, "run_time_ns:").unwrap_or(0);
        }
        Ok(sum)
    }

    /// What the kernel says about its descriptors of a kind, by the id that this line tells: each thing once.
    fn descriptors(&self, id: &str) -> Result<BTreeMap<u64, String>> {
        let mut found = BTreeMap::new();
        for descriptor in fs::read_dir(self.proc("fdinfo"))? {
            let info = fs::read_to_string(descriptor?.path()).unwrap_or_default();
            // Links tell the ids of their programs, but not what those cost.
            if let Some(id) = number_after(&info, id)
                && info.contains("memlock:")
            {
                found.insert(id, info);
            }
        }
        Ok(found)
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid()).into()
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(mut self) -> Result<Ended> {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let stop = self.with_written(|written| written.stop.clone());
        let stop = stop.context("slowburn has ended without a last record")?;
        Ok(Ended {
            seconds,
            lost: serde_json::from_value(stop["lost"].clone()).context("losses by class")?,
            recovered: stop["recovered"].as_u64().unwrap_or(0),
        })
    }
}

impl Ended {
    /// What was lost, in a few words.
    pub fn losses(&self) -> String {
        let each = self
            .lost
            .iter()
            .map(|(class, count)| format!("{count} {class}"));
        let all: Vec<_> = each.collect();
        if all.is_empty() {
            "nothing".into()
        } else {
            all.join(", ")
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stdout: ChildStdout, written: &Mutex<Written>) {
    let mut stdout = BufReader::with_capacity(1 << 20, stdout);
    let mut line = Vec::new();
    let mut seen = BTreeSet::new();
    while stdout
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        written.records += 1;
        written.bytes += line.len() as u64;
        if let Some(kind) = kind(&line) {
            if !seen.contains(kind) {
                seen.insert(kind.to_owned());
                written.first.insert(kind.to_owned(), Instant::now());
            }
            if kind == "stop" {
                written.stop = serde_json::from_slice(&line).ok();
            }
        }
        line.clear();
    }
}

/// The type of a record. There may be hundreds of thousands a second, too many to parse them all.
fn kind(line: &[u8]) -> Option<&str> {
    let key = b"\"type\":\"";
    let start = line.windows(key.len()).position(|part| part == key)? + key.len();
    let length = line[start..].iter().position(|byte| *byte == b'"')?;
    str::from_utf8(&line[start..start + length]).ok()
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Has the kernel count what programs cost, as long as it is there. That takes two readings of a clock for each run.
pub struct Counting {
    before: String,
}

const COUNTING: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Counting {
    pub fn start() -> Result<Self> {
        let before =
            fs::read_to_string(COUNTING).with_context(|| format!("cannot read {COUNTING}"))?;
        fs::write(COUNTING, "1").with_context(|| format!("cannot write {COUNTING}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(COUNTING, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_a_type() {
        assert_eq!(
            kind(br#"{"v":1,"type":"window","ts":"..."}"#),
            Some("window")
        );
        assert_eq!(kind(b"{}"), None);
    }

    #[test]
    fn numbers_are_found_by_their_lines() {
        let info = "pos:\t0\nprog_id:\t12\nmemlock:\t4096\nrun_cnt:\t7\n";
        assert_eq!(number_after(info, "run_cnt:"), Some(7));
        assert_eq!(number_after("VmRSS:\t  123 kB\n", "VmRSS:"), Some(123));
        assert_eq!(number_after(info, "map_id:"), None);
    }
}
