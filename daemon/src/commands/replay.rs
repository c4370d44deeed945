//! `slowburn replay`: a recorded stream through the detector and the sinks again.
//!
//! The windows of the recording go to the detector as they did live, and what it says comes out anew; what it said in the
//! recording is left out. Everything else passes through, byte for byte. Each line is found to be a record first: the
//! single events, of which there may be billions, by [`single`], all others by reading them.
//!
//! There is no thread for writing, as the daemon has: nothing is lost by waiting for the output, and handing blocks over
//! costs more than it gains.

mod windows;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use clap::{CommandFactory, error::ErrorKind};
use same_file::Handle;

use crate::{
    cli::{self, Cli, Replay},
    commands::check_config,
    detect::{Config, Detector},
    pipeline::Pipeline,
    policy::Policy,
    recording::{Block, Recording, RecordingError},
    sink::{Terminal, open_file},
    standard,
    stream::{Line, LossClass, Record, Stop, Window, single},
};

/// What is written at once, where records stand alone between windows. Longer runs of lines go straight to the output.
const BUFFER: usize = 64 << 10;

/// Replays.
///
/// # Errors
/// If the recording cannot be read or is not one, or the output cannot be written. In the first case everything before has
/// been replayed.
pub fn run(options: &Replay) -> anyhow::Result<()> {
    if windows::is_recording(&options.file) {
        return windows::run(options);
    }
    if options.wanted().is_some() {
        usage(
            "all services of a recorded stream are replayed: --service, --process and --pid are for recordings of Windows",
        );
    }
    let path = cli::file(&options.output);
    let terminal = Terminal::new(options.quiet, path.is_none() && io::stdout().is_terminal());
    let policy = match &options.config {
        Some(path) => Policy::of(&check_config::read(path)?.file),
        None => Policy::default(),
    };
    let (source, source_name) = open_source(&options.file)?;
    let (output, output_name) = open_output(path.as_deref())?;
    if is_same_file(&source, &output)? {
        bail!("{source_name} cannot be replayed into itself: name another file with --output");
    }
    let output = BufWriter::with_capacity(BUFFER, output);
    let mut replayer = Replayer::new(source_name, output, terminal, policy);
    let end = replayer.replay(source);
    match (end, replayer.output.flush()) {
        (Err(End::Output(error)), _) | (_, Err(error)) => match error.kind() {
            // Who read the output has seen enough.
            io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error).with_context(|| format!("cannot write to {output_name}")),
        },
        (Err(End::Recording(error)), Ok(())) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Ends with an error that is the user's.
fn usage(complaint: &str) -> ! {
    Cli::command()
        .error(ErrorKind::ValueValidation, complaint)
        .exit()
}

fn open_source(path: &Path) -> anyhow::Result<(File, String)> {
    if path.as_os_str() == "-" {
        return Ok((standard::input()?, "standard input".into()));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((file, path.display().to_string()))
}

fn open_output(path: Option<&Path>) -> anyhow::Result<(File, String)> {
    let Some(path) = path else {
        return Ok((standard::output()?, "standard output".into()));
    };
    let name = path.display().to_string();
    let file = open_file(path).with_context(|| format!("cannot write to {name}"))?;
    Ok((file, name))
}

/// What is appended to while it is read has no end.
fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    // Windows has nothing to say about a pipe.
    let is_file = |file: &File| file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file(one) || !is_file(other) {
        return Ok(false);
    }
    let handle = |file: &File| Handle::from_file(file.try_clone()?);
    Ok(handle(one)? == handle(other)?)
}

/// Why a replay ended before the recording did.
#[derive(Debug)]
enum End {
    Recording(anyhow::Error),
    Output(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

struct Replayer<W> {
    /// Of the recording.
    name: String,
    /// Of the line that is looked at, from 1.
    number: u64,
    pipeline: Pipeline,
    output: W,
    terminal: Terminal,
    /// What was said anew since the last run of the recording ended, by type.
    said: BTreeMap<&'static str, u64>,
    /// There were windows that it was not said yet what they come to.
    unsettled: bool,
}

impl<W: Write> Replayer<W> {
    fn new(name: String, output: W, terminal: Terminal, policy: Policy) -> Self {
        Self {
            name,
            number: 1,
            pipeline: Pipeline::new(&[], true, Detector::with_policy(Config::default(), policy)),
            output,
            terminal,
            said: BTreeMap::new(),
            unsettled: false,
        }
    }

    fn replay(&mut self, source: impl Read) -> Result<(), End> {
        let mut recording = Recording::new(source);
        while let Some(block) = recording.next_block().map_err(|error| self.unread(error))? {
            self.block(block)?;
        }
        self.settle()
    }

    /// Lines that are known at a glance are written together.
    fn block(&mut self, block: Block) -> Result<(), End> {
        let mut rest = block.lines;
        loop {
            let mut known = 0;
            while let Some(length) = single::line_length(&rest[known..]) {
                known += length;
                self.number += 1;
            }
            let (lines, unknown) = rest.split_at(known);
            if known > 0 {
                self.settle()?;
            }
            self.output.write_all(lines)?;
            let Some(end) = unknown.iter().position(|byte| *byte == b'\n') else {
                return Ok(());
            };
            let (line, after) = unknown.split_at(end + 1);
            self.line(line, block.is_cut)?;
            self.number += 1;
            rest = after;
        }
    }

    fn line(&mut self, line: &[u8], is_cut: bool) -> Result<(), End> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let record =
            read(line).map_err(|error| End::Recording(error.context(self.complaint(is_cut))))?;
        match &record {
            // What the detector says is said anew.
            Record::Flag(_) | Record::Incident(_) | Record::Ignored(_) => return Ok(()),
            Record::Loss(loss) if loss.class == LossClass::Series => return Ok(()),
            Record::Stop(stop) => return self.stop(stop.clone()),
            _ => {}
        }
        // What windows come to is said after the last one of a period, as it is live.
        let goes_on = |window: &Window| self.pipeline.is_of_the_same_period(window);
        if !matches!(&record, Record::Window(window) if goes_on(window)) {
            self.settle()?;
        }
        self.terminal.record(&record);
        self.output.write_all(line)?;
        match record {
            Record::Window(window) => self.window(&window),
            Record::Target(event) => {
                self.pipeline.hear(&event);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn window(&mut self, window: &Window) -> Result<(), End> {
        self.unsettled = true;
        let mut said = Vec::new();
        self.pipeline.judge(window, &mut |record| said.push(record));
        self.say(said)
    }

    fn say(&mut self, said: Vec<Record>) -> Result<(), End> {
        for record in said {
            *self.said.entry(record.type_name()).or_default() += 1;
            self.write(record)?;
        }
        Ok(())
    }

    /// What the last windows come to.
    fn settle(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(());
        }
        let mut said = Vec::new();
        self.pipeline.settle(&mut |record| said.push(record));
        self.say(said)
    }

    /// A recording may hold several runs: each ends with counts of its own, of which those of what is said anew are.
    fn stop(&mut self, mut stop: Box<Stop>) -> Result<(), End> {
        self.settle()?;
        for kind in ["flag", "ignored", "incident"] {
            stop.records.remove(kind);
            if let Some(count) = self.said.get(kind) {
                stop.records.insert(kind.into(), *count);
            }
        }
        self.said.clear();
        stop.ignored = self.pipeline.take_ignored();
        self.write(Record::Stop(stop))
    }

    fn write(&mut self, record: Record) -> Result<(), End> {
        self.terminal.record(&record);
        serde_json::to_writer(&mut self.output, &Line::from(record)).map_err(io::Error::from)?;
        Ok(self.output.write_all(b"\n")?)
    }

    fn unread(&self, error: RecordingError) -> End {
        let place = format!("{}, line {}", self.name, self.number);
        End::Recording(anyhow::Error::from(error).context(place))
    }

    fn complaint(&self, is_cut: bool) -> String {
        let Self { name, number, .. } = self;
        if is_cut {
            format!(
                "{name} ends within line {number}, as if cut off; everything before it has been replayed"
            )
        } else {
            format!("{name}, line {number}, is not a record of slowburn")
        }
    }
}

fn read(line: &[u8]) -> anyhow::Result<Record> {
    // Its end is none of its own: what is cut off shall be said to be.
    let text = str::from_utf8(line.trim_ascii_end())?;
    let line: Result<Line, _> = serde_json::from_str(text);
    // There is but one line for serde.
    line.map(|line| line.record).map_err(|error| {
        anyhow::anyhow!(error.to_string().replace(" at line 1 column", " at column"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::LONGEST_LINE;

    const WHO: &str = r#""service.name":"s","process.pid":7,"process.creation.time":"2026-01-01T00:00:00.000000000Z","thread.id":8,"thread.name":"t","thread.creation.time":"2026-01-01T00:00:00.000000000Z""#;

    /// A single event as the daemon writes it.
    fn event(n: u32) -> String {
        format!(
            r#"{{"v":1,"type":"thread","ts":"2026-01-01T00:00:00.{n:09}Z","event":"started",{WHO}}}"#
        )
    }

    /// The window of a process that gains two threads in each, in an order of its own.
    fn climbing(n: u32) -> String {
        let calls = [
            "map", "unmap", "remap", "brk", "advise", "protect", "failed",
        ];
        let flows = [
            "reserved",
            "committed",
            "released",
            "decommitted",
            "discarded",
        ];
        let calls = calls.map(|call| format!(r#""{call}_calls":0"#)).join(",");
        let flows = flows.map(|flow| format!(r#""{flow}_bytes":0"#)).join(",");
        let (minute, second, live) = (n / 6, n % 6 * 10, 10 + 2 * n);
        format!(
            r#"{{"type":"window", "v":1,"unknown":[n\u2026],"ts":"2026-01-01T00:{minute:02}:{second:02}.000000000Z","scope":"process",{WHO},"period_ns":10000000000,"delay":{{"count":0,"sum_ns":0,"max_ns":0}},"memory":{{{flows},{calls}}},"threads":{{"live":{live},"created":2,"exited":0}},"kernel":{{}},"lost":0}}"#
        )
        .replace(r"[n\u2026]", r#"["\u2026"]"#)
    }

    fn stop(flags: usize, incidents: usize) -> String {
        let records = [("flag", flags), ("incident", incidents), ("window", 1)];
        let records = records.into_iter().filter(|(_, count)| *count > 0);
        let records: BTreeMap<_, _> = records.collect();
        let records = serde_json::to_string(&records).expect("it is JSON");
        format!(
            r#"{{"v":1,"type":"stop","ts":"2026-01-01T01:00:00.000000000Z","reason":"signal","ran_ns":1,"records":{records},"recovered":0,"lost":{{}}}}"#
        )
    }

    /// What comes out, and in which words it ended.
    fn replay(recording: &[u8]) -> (Vec<u8>, Result<(), String>) {
        let mut replayer = Replayer::new(
            "file".into(),
            Vec::new(),
            Terminal::new(true, true),
            Policy::default(),
        );
        let end = replayer.replay(recording).map_err(|end| match end {
            End::Recording(error) => format!("{error:#}"),
            End::Output(error) => panic!("{error}"),
        });
        (replayer.output, end)
    }

    #[track_caller]
    fn passes(recording: &str) {
        let (output, end) = replay(recording.as_bytes());
        assert_eq!(end, Ok(()));
        assert_eq!(String::from_utf8_lossy(&output), recording);
    }

    /// The lines before are replayed, and the last one is complained about.
    #[track_caller]
    fn refuses(line: &[u8], complaint: &str) {
        let before = event(1) + "\n\n" + &event(2) + "\n";
        let (output, end) = replay(&[before.as_bytes(), line, b"\n", event(3).as_bytes()].concat());
        let end = end.expect_err(complaint);
        assert!(
            end.starts_with("file, line 4") && end.contains(complaint),
            "{end}"
        );
        assert_eq!(
            String::from_utf8_lossy(&output),
            event(1) + "\n" + &event(2) + "\n"
        );
    }

    #[test]
    fn lines_pass_byte_for_byte_however_they_are_written() {
        let plain = event(1);
        assert!(single::line_length((plain.clone() + "\n").as_bytes()).is_some());
        let moved = plain
            .replace(r#","event":"started""#, "")
            .replace(r#","process.pid""#, r#","event":"started","process.pid""#);
        let others = [
            plain.replace(r#"{"v":1,"type":"thread","#, r#"{"type":"thread","v":1,"#),
            moved,
            plain.replace(':', ": ").replace(": 00", ":00"),
            format!("  {plain}\t"),
            plain.clone() + "\r",
            plain.replace(r#""t""#, r#""\"\u0001\\\n""#),
            plain.replace(r#""t""#, "\"\u{e9}\u{65e5}\""),
            plain.replace('}', r#","added":{"later":[1,2.5e-3,null]}}"#),
        ];
        for other in &others {
            assert_ne!(other, &plain);
            passes(&format!("{plain}\n{other}\n{plain}\n"));
        }
        passes(&(others.join("\n") + "\n"));
    }

    #[test]
    fn blank_lines_are_left_out() {
        let (output, end) = replay(format!("\n{}\r\n\r\n \n{}\n\n", event(1), event(2)).as_bytes());
        assert_eq!(end, Ok(()));
        assert_eq!(output, format!("{}\r\n{}\n", event(1), event(2)).as_bytes());
    }

    #[test]
    fn what_is_no_record_is_an_error_with_its_line() {
        let plain = event(1);
        refuses(
            b"hello",
            "is not a record of slowburn: expected value at column 1",
        );
        refuses(b"{}", "missing field");
        refuses(b"[1]", "is not a record of slowburn");
        refuses(b"\xff", "invalid utf-8");
        refuses(
            plain.replace("thread\"", "thrust\"").as_bytes(),
            "unknown variant `thrust`",
        );
        refuses(
            plain.replace(r#""v":1"#, r#""v":2"#).as_bytes(),
            "version 2 of the stream",
        );
        refuses(
            plain.replace("started", "stopped").as_bytes(),
            "unknown variant `stopped`",
        );
        refuses(
            plain.replace(":8,", ":-8,").as_bytes(),
            "is not a record of slowburn",
        );
        refuses(
            plain.replace("01-01T", "02-30T").as_bytes(),
            "is not a record of slowburn",
        );
        refuses(
            plain.replace(r#""process.pid":7,"#, "").as_bytes(),
            "missing field `process.pid`",
        );
        refuses((plain.clone() + &plain).as_bytes(), "trailing characters");
        refuses(&plain.as_bytes()[..100], "EOF while parsing");
        refuses(&vec![b' '; LONGEST_LINE], "longer than 16777216 bytes");
    }

    /// What a killed daemon leaves: cut off anywhere.
    #[test]
    fn a_cut_last_line_is_an_error_after_all_before_it() {
        let (before, last) = (event(1) + "\n", event(2));
        for cut in 1..last.len() {
            let (output, end) = replay((before.clone() + &last[..cut]).as_bytes());
            let end = end.expect_err("half a line is no record");
            assert!(end.starts_with("file ends within line 2, "), "{cut}: {end}");
            assert_eq!(output, before.as_bytes());
        }
        let (output, end) = replay((before.clone() + &last).as_bytes());
        assert_eq!(end, Ok(()), "only the end of the line is missing");
        assert_eq!(output, (before + &last + "\n").as_bytes());
    }

    /// With windows between single events, over several blocks.
    #[test]
    fn runs_are_replayed_one_after_the_other() {
        let events: String = (0..2000).map(|n| event(n) + "\n").collect();
        let run = |from: u32| -> String {
            let windows = (from..from + 40).map(|n| climbing(n) + "\n" + &events);
            windows.chain([stop(0, 0) + "\n"]).collect()
        };
        let recording = run(0) + &run(40);
        let (output, end) = replay(recording.as_bytes());
        assert_eq!(end, Ok(()));
        let output = String::from_utf8(output).expect("it is text");
        let is = |line: &str, kind: &str| line.contains(&format!(r#""type":"{kind}""#));
        let said = |line: &str| is(line, "flag") || is(line, "incident");
        let (stops, others): (Vec<&str>, Vec<&str>) =
            output.lines().partition(|line| is(line, "stop"));
        let passed: Vec<&str> = others.into_iter().filter(|line| !said(line)).collect();
        let expected: Vec<_> = recording
            .lines()
            .filter(|line| !line.contains(r#""type":"stop""#))
            .collect();
        assert!(
            passed == expected,
            "all but flags, incidents and stops come out as they went in"
        );
        let count = |lines: &[&str], kind| lines.iter().filter(|line| is(line, kind)).count();
        let all: Vec<&str> = output.lines().collect();
        let end = all.iter().position(|line| is(line, "stop"));
        let (first, second) = all.split_at(end.expect("two runs"));
        assert!(count(first, "flag") > 0 && count(first, "incident") > 0);
        let counted = |run| stop(count(run, "flag"), count(run, "incident"));
        assert_eq!(stops, [counted(first), counted(second)]);
        // What was replayed is a recording of the same.
        let (again, end) = replay(output.as_bytes());
        assert_eq!(end, Ok(()));
        assert!(String::from_utf8_lossy(&again) == output);
    }

    /// The detector says anew that it has no room.
    #[test]
    fn what_the_detector_lost_is_left_out() {
        let loss = |class| {
            format!(
                r#"{{"v":1,"type":"loss","ts":"2026-01-01T00:00:00.000000000Z","class":"{class}","count":7}}"#
            )
        };
        let (output, end) = replay(format!("{}\n{}\n", loss("series"), loss("mapping")).as_bytes());
        assert_eq!(end, Ok(()));
        assert_eq!(output, (loss("mapping") + "\n").as_bytes());
    }
}
