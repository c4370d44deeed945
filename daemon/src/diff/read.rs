//! Reads a recording, whatever its size, into a side.

use std::{
    fs::File,
    io::{Cursor, Read},
    path::Path,
};

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::{
    period::{Part, Period},
    side::{By, Only, Side},
};
use crate::{
    recording::{Block, Recording},
    standard,
    stream::{CallName, Line, Moment, ProcessId, single},
};

/// Where the time of a record as slowburn writes it begins, by its type.
const OF_MAPPING: &[u8] = br#"{"v":1,"type":"mapping","ts":""#;
const OF_WINDOW: &[u8] = br#"{"v":1,"type":"window","ts":""#;

/// Length of a moment.
const MOMENT: usize = "2026-01-01T00:00:00.000000000Z".len();

/// Any record.
#[derive(Deserialize)]
struct Stamped {
    ts: Moment,
}

/// What is needed of a mapping record.
#[derive(Deserialize)]
struct MappingHead<'a> {
    ts: Moment,
    #[serde(rename = "service.name")]
    service: &'a str,
    call: CallName,
    length_bytes: u64,
}

/// What is needed of a thread's window where threads are not compared.
#[derive(Deserialize)]
struct ThreadHead {
    ts: Moment,
    period_ns: u64,
    #[serde(rename = "service.name")]
    service: String,
    #[serde(rename = "process.pid")]
    pid: u32,
    #[serde(rename = "process.creation.time")]
    created: Moment,
    #[serde(rename = "thread.name")]
    thread: String,
}

/// Reads a part of a recording.
///
/// # Errors
/// If it cannot be read, is no recording, or has no window in the period.
pub fn read(part: &Part, by: By, only: Only) -> anyhow::Result<Side> {
    let end = if part.needs_end() {
        last_moment(part)?
    } else {
        Moment::default()
    };
    let (source, name) = open(&part.file)?;
    let mut lines = Lines {
        name,
        number: 1,
        part,
        end,
        bounds: None,
        side: Side::new(by, only),
    };
    lines.read(source)?;
    let Lines { name, side, .. } = lines;
    if side.facts.windows == 0 {
        bail!("{name} has no window {}", side.what_is_there());
    }
    Ok(side)
}

/// Opens a recording, compressed by gzip or not.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, String)> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let (mut file, name) = if path.as_os_str() == "-" {
        (standard::input()?, "standard input".to_owned())
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        (file, path.display().to_string())
    };
    let mut first = Vec::new();
    let begin = Read::by_ref(&mut file)
        .take(GZIP.len() as u64)
        .read_to_end(&mut first);
    begin.with_context(|| format!("cannot read {name}"))?;
    let is_packed = first == GZIP;
    let whole = Cursor::new(first).chain(file);
    let source: Box<dyn Read> = if is_packed {
        Box::new(MultiGzDecoder::new(whole))
    } else {
        Box::new(whole)
    };
    Ok((source, name))
}

/// When the last whole record was made.
fn last_moment(part: &Part) -> anyhow::Result<Moment> {
    let (source, name) = open(&part.file)?;
    let mut recording = Recording::new(source);
    let mut last = None;
    while let Some(block) = recording
        .next_block()
        .with_context(|| format!("cannot read {name}"))?
    {
        let lines = block.lines.trim_ascii_end().rsplit(|byte| *byte == b'\n');
        let mut moments = lines.filter_map(|line| serde_json::from_slice::<Stamped>(line).ok());
        last = moments.next().map(|record| record.ts).or(last);
    }
    last.with_context(|| format!("{name} has no record in it"))
}

/// The period as text, which is how moments are compared in lines that are not read.
struct Bounds {
    start: String,
    end: String,
}

impl Bounds {
    fn of(period: Period) -> Self {
        let text = |moment: Option<Moment>, otherwise: &str| {
            moment.map_or_else(|| otherwise.to_owned(), |m| m.to_string())
        };
        Self {
            start: text(period.start, "0"),
            end: text(period.end, "9"),
        }
    }

    fn have(&self, moment: &[u8]) -> bool {
        moment >= self.start.as_bytes() && moment < self.end.as_bytes()
    }
}

struct Lines<'a> {
    /// Of the recording.
    name: String,
    /// Of the line that is looked at, from 1.
    number: u64,
    part: &'a Part,
    /// Of the recording, where that matters.
    end: Moment,
    /// Known with the first record.
    bounds: Option<Bounds>,
    side: Side,
}

impl Lines<'_> {
    fn read(&mut self, source: impl Read) -> anyhow::Result<()> {
        let mut recording = Recording::new(source);
        loop {
            match recording.next_block() {
                Ok(Some(block)) => self.block(block)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(anyhow::Error::from(error).context(self.place())),
            }
        }
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.name, self.number)
    }

    /// Single events are found to be valid where they lie, and only mappings are read.
    fn block(&mut self, block: Block) -> anyhow::Result<()> {
        let mut rest = block.lines;
        while !rest.is_empty() {
            let known = self
                .bounds
                .is_some()
                .then(|| single::line_length(rest))
                .flatten();
            let end = known.or_else(|| {
                rest.iter()
                    .position(|byte| *byte == b'\n')
                    .map(|end| end + 1)
            });
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            let is_last = after.is_empty() && block.is_cut;
            let read = if known.is_some() {
                self.single(line)
            } else {
                self.line(line)
            };
            match read {
                // What a killed daemon leaves.
                Err(_) if is_last => self.side.facts.is_cut = true,
                read => {
                    read.with_context(|| format!("{} is not a record of slowburn", self.place()))?;
                }
            }
            self.number += 1;
            rest = after;
        }
        Ok(())
    }

    /// A single event that is valid.
    fn single(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if self.is_within(line, OF_MAPPING) {
            let mapping: MappingHead = serde_json::from_slice(line)?;
            self.side.mapping(
                mapping.ts,
                mapping.service,
                mapping.call,
                mapping.length_bytes,
            );
        }
        Ok(())
    }

    /// Is it such a record, and of the period?
    fn is_within(&self, line: &[u8], prefix: &[u8]) -> bool {
        let moment = line
            .strip_prefix(prefix)
            .and_then(|rest| rest.get(..MOMENT));
        moment
            .zip(self.bounds.as_ref())
            .is_some_and(|(moment, bounds)| bounds.have(moment))
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        // Its end is none of its own: what is cut off shall be said to be.
        let text = str::from_utf8(line.trim_ascii_end())?;
        if self.bounds.is_none() {
            let first: Stamped = serde_json::from_str(text)?;
            let period = self.part.period(first.ts, self.end)?;
            self.side.set_period(period);
            self.bounds = Some(Bounds::of(period));
        }
        if !self.side.is_by_threads() && is_of_thread(line) {
            let head: ThreadHead = serde_json::from_str(text)?;
            let process = ProcessId {
                service: head.service,
                pid: head.pid,
                created: head.created,
            };
            self.side
                .thread_seen(head.ts, head.period_ns, &process, &head.thread);
            return Ok(());
        }
        let line: Line = serde_json::from_str(text)?;
        self.side.record(&line.record);
        Ok(())
    }
}

/// Is it the window of a thread, as slowburn writes it?
fn is_of_thread(line: &[u8]) -> bool {
    let scope = line
        .strip_prefix(OF_WINDOW)
        .and_then(|rest| rest.get(MOMENT..));
    scope.is_some_and(|rest| rest.starts_with(br#"","scope":"thread","#))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::diff::tests::{Load, recording};

    fn side(text: &[u8], period: &str) -> anyhow::Result<Side> {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path().join("recording");
        fs::write(&path, text).expect("it is ours");
        let part = format!("{}{period}", path.display())
            .parse()
            .expect("it is one");
        read(&part, By::Service, None)
    }

    fn windows(text: &[u8], period: &str) -> u64 {
        side(text, period)
            .unwrap_or_else(|error| panic!("{error:#}"))
            .facts
            .windows
    }

    #[test]
    fn a_recording_may_be_packed() {
        let plain = recording(&Load::default(), 20, 1);
        let mut packed = Vec::new();
        // As `cat a.gz b.gz` makes it.
        for half in [&plain[..1000], &plain[1000..]] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(half.as_bytes()).expect("it is memory");
            packed.extend(encoder.finish().expect("it is memory"));
        }
        assert_eq!(windows(plain.as_bytes(), ""), 20);
        assert_eq!(windows(&packed, ""), 20);
        assert_eq!(windows(&packed, "@-1m.."), 6);
        let error = side(&packed[..packed.len() / 2], "")
            .err()
            .expect("it is broken");
        assert!(format!("{error:#}").contains("cannot read on"), "{error:#}");
    }

    #[test]
    fn a_period_is_a_part_of_it() {
        let text = recording(&Load::default(), 60, 1);
        for (period, expected) in [
            ("", 60),
            ("@+1m..", 54),
            ("@..+1m", 6),
            ("@-1m..", 6),
            ("@+1m..-1m", 48),
            ("@00:05..", 30),
            ("@..00:05", 30),
            ("@2026-01-01T00:01:00Z..2026-01-01T00:02:00Z", 6),
        ] {
            assert_eq!(windows(text.as_bytes(), period), expected, "{period}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = recording(&Load::default(), 6, 1);
        let fails = |text: &str, period: &str, complaint: &str| {
            let error = side(text.as_bytes(), period).err().expect(complaint);
            let said = format!("{error:#}");
            assert!(said.contains(complaint), "{said}");
        };
        fails("", "", "has no window");
        fails("", "@-1m..", "has no record");
        fails("hello\n", "", "line 1 is not a record of slowburn");
        fails(
            &text.replacen(r#""type":"window""#, r#""type":"widow""#, 1),
            "",
            "is not a record of slowburn: unknown variant `widow`",
        );
        fails(
            &text,
            "@+1h..",
            "from 2026-01-01T01:00:00Z: it has windows of shop, from 2026-01-01T00:00:00Z to 2026-01-01T00:01:00Z",
        );
        fails(&text, "@2026-01-01T02:00:00Z..+10s", "not after its start");
    }

    #[test]
    fn a_cut_last_line_is_said() {
        let text = recording(&Load::default(), 6, 1);
        let whole = side(text.as_bytes(), "").expect("it is whole");
        assert!(!whole.facts.is_cut);
        let cut = side(&text.as_bytes()[..text.len() - 30], "").expect("most of it is whole");
        assert!(cut.facts.is_cut);
    }
}
