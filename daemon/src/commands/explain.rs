//! `slowburn explain`: one flag of a recording, with all that it rests on.
//!
//! The recording is read twice: for the flags, and then for the windows of the one that is asked for. What is kept of it is
//! bounded, however long it is.

mod chart;
mod report;
mod series;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, bail};
use memchr::{memchr, memmem::Finder};
use serde::Serialize;
use terminal_size::terminal_size_of;

use self::{report::Style, series::Series};
use crate::{
    cli::Explain,
    detect::Follow,
    near,
    recording::Recording,
    stream::{Flag, FlagKind, FlagState, Line, Metric, Moment, Record, Scope},
};

/// Columns where there is no terminal.
const USUAL_WIDTH: usize = 80;

/// Flags that are listed, and records of one that are shown: one that is updated has grown by half each time.
const MOST_FLAGS: usize = 100_000;
const MOST_RECORDS: usize = 200;

/// Explains a flag, or lists them all.
///
/// # Errors
/// If the recording cannot be read or is not one, or has no such flag, or several.
pub fn run(options: &Explain) -> anyhow::Result<()> {
    let flags = Flags::of(&options.from)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match &options.flag {
        None => flags.list(options, &mut out),
        Some(id) => {
            let story = flags.find(id, &options.from)?;
            let series = series_of(&story, &options.from)?;
            if options.json {
                report::print_json(&story, &series, &mut out)
            } else {
                report::print(&story, &series, style(options), &mut out)
            }
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn style(options: &Explain) -> Style {
    let stdout = io::stdout();
    let width = terminal_size_of(&stdout).map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0));
    let unicode = !options.ascii && shows_unicode(|name| env::var(name).ok());
    Style {
        width: width.clamp(40, 200),
        glyphs: if unicode {
            chart::UNICODE
        } else {
            chart::ASCII
        },
    }
}

/// By the first of these variables that says anything, as the C library has it.
fn shows_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names
        .into_iter()
        .filter_map(variable)
        .find(|locale| !locale.is_empty());
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// A flag from its first record to its last.
pub struct Story {
    /// In which run of the recording, from 1.
    run: u32,
    /// In order.
    records: Vec<Flag>,
}

impl Story {
    /// The record that raised it, unless the recording begins later.
    fn first(&self) -> &Flag {
        &self.records[0]
    }

    fn last(&self) -> &Flag {
        &self.records[self.records.len() - 1]
    }

    /// The time to show: what the flag is about, and half as much before and after.
    fn span(&self) -> (Moment, Moment) {
        let begins = |flag: &Flag| {
            let horizon = flag.evidence.horizon_ns.unwrap_or(0);
            flag.since.0.min(flag.ts.0.saturating_sub(horizon))
        };
        let begin = self.records.iter().map(begins).min().unwrap_or(0);
        let end = self.last().ts.0.max(begin);
        // A spike is over within some windows, which may be of an hour; ten minutes show what is usual around it.
        let around = ((end - begin) / 2).max(600_000_000_000);
        (
            Moment(begin.saturating_sub(around)),
            Moment(end.saturating_add(around)),
        )
    }
}

/// All flags of a recording.
#[derive(Default)]
struct Flags {
    runs: Runs,
    stories: Vec<Story>,
    places: BTreeMap<(u32, String), usize>,
    /// Records of flags that there was no room for.
    left_out: u64,
}

/// A recording may hold several runs, each with flags of its own.
#[derive(Default)]
struct Runs {
    any: bool,
    more: u32,
}

impl Runs {
    /// A run begins with a `start`; what comes before the first one is the rest of another run.
    fn note(&mut self, is_start: bool) {
        self.more += u32::from(is_start && self.any);
        self.any = true;
    }

    fn run(&self) -> u32 {
        1 + self.more
    }
}

impl Flags {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let mut flags = Self::default();
        let wanted =
            |line: &[u8]| kind_of(line).is_none_or(|kind| matches!(kind, b"flag" | b"start"));
        read(path, wanted, |record| {
            flags.runs.note(matches!(record, Some(Record::Start(_))));
            if let Some(Record::Flag(flag)) = record {
                flags.add(*flag);
            }
        })?;
        Ok(flags)
    }

    fn add(&mut self, flag: Flag) {
        let run = self.runs.run();
        let key = (run, flag.id.clone());
        if let Some(place) = self.places.get(&key) {
            let records = &mut self.stories[*place].records;
            if records.len() == MOST_RECORDS {
                records.pop();
                self.left_out += 1;
            }
            records.push(flag);
        } else if self.stories.len() < MOST_FLAGS {
            self.places.insert(key, self.stories.len());
            let records = vec![flag];
            self.stories.push(Story { run, records });
        } else {
            self.left_out += 1;
        }
    }

    /// The flag with such an id, or with such a run and id.
    fn find(mut self, wanted: &str, path: &Path) -> anyhow::Result<Story> {
        let found = self.stories.iter().enumerate().filter(|(_, story)| {
            let id = &story.first().id;
            id == wanted || format!("{}:{id}", story.run) == wanted
        });
        let found: Vec<usize> = found.map(|(place, _)| place).collect();
        match found.as_slice() {
            [only] => Ok(self.stories.swap_remove(*only)),
            [] => bail!("{}", self.unknown(wanted, path)),
            several => {
                let names = several
                    .iter()
                    .map(|place| format!("{}:{wanted}", self.stories[*place].run));
                let names: Vec<String> = names.collect();
                bail!(
                    "{} has several runs with a flag {wanted:?}: say which, {}",
                    path.display(),
                    names.join(" or ")
                )
            }
        }
    }

    fn unknown(&self, wanted: &str, path: &Path) -> String {
        let path = path.display();
        let count = self.stories.len();
        let (Some(first), Some(last)) = (self.stories.first(), self.stories.last()) else {
            return format!("no flag {wanted:?}: {path} has none at all");
        };
        let ids: BTreeSet<String> = self
            .stories
            .iter()
            .map(|story| story.first().id.clone())
            .collect();
        let near = match near::best(wanted, ids).as_slice() {
            [] => String::new(),
            near => format!(" (did you mean {}?)", near.join(" or ")),
        };
        let (first, last) = (&first.first().id, &last.first().id);
        let range = if count == 1 {
            format!("one flag, {first}")
        } else {
            format!("{count} flags, {first} to {last}")
        };
        format!("no flag {wanted:?}{near}: {path} has {range}; without an id, they are listed")
    }

    fn list(&self, options: &Explain, out: &mut impl Write) -> io::Result<()> {
        if options.json {
            for story in &self.stories {
                serde_json::to_writer(&mut *out, &Listed::of(story)).map_err(io::Error::from)?;
                writeln!(out)?;
            }
        } else {
            self.table(out)?;
        }
        if self.left_out > 0 {
            tracing::warn!(
                "{} records of flags are left out: {MOST_FLAGS} flags, with {MOST_RECORDS} records each, are the most that are kept",
                self.left_out
            );
        }
        Ok(())
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        if self.stories.is_empty() {
            return writeln!(out, "no flags");
        }
        let several = self.runs.run() > 1;
        let listed: Vec<Listed> = self.stories.iter().map(Listed::of).collect();
        let name = |flag: &Listed| {
            if several {
                format!("{}:{}", flag.run, flag.id)
            } else {
                flag.id.to_owned()
            }
        };
        let rows = listed.iter().map(|flag| {
            let raised = jiff::Timestamp::from_nanosecond(i128::from(flag.raised.0));
            [
                name(flag),
                raised.map_or_else(|_| flag.raised.to_string(), |time| format!("{time:.0}")),
                word(flag.state),
                word(flag.kind),
                word(flag.metric),
                flag.service.to_owned(),
                flag.summary.to_owned(),
            ]
        });
        let head = [
            "ID", "RAISED", "STATE", "KIND", "METRIC", "SERVICE", "SUMMARY",
        ];
        let rows: Vec<[String; 7]> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
        let wide: [usize; 7] = std::array::from_fn(|at| {
            rows.iter()
                .map(|row| row[at].chars().count())
                .max()
                .unwrap_or(0)
        });
        for row in &rows {
            let mut line = Vec::new();
            for (cell, wide) in row.iter().zip(wide) {
                let _ = write!(line, "{cell:wide$}  ");
            }
            out.write_all(line.trim_ascii_end())?;
            writeln!(out)?;
        }
        Ok(())
    }
}

/// A word as the stream has it.
fn word(value: impl Serialize) -> String {
    let text = serde_json::to_value(value).unwrap_or_default();
    text.as_str().unwrap_or_default().to_owned()
}

/// A flag in the list.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    run: u32,
    raised: Moment,
    state: FlagState,
    kind: FlagKind,
    metric: Metric,
    #[serde(rename = "service.name")]
    service: &'a str,
    records: usize,
    summary: &'a str,
}

impl<'a> Listed<'a> {
    fn of(story: &'a Story) -> Self {
        let (first, last) = (story.first(), story.last());
        Self {
            id: &first.id,
            run: story.run,
            raised: first.ts,
            state: last.state,
            kind: first.kind,
            metric: first.metric,
            service: &first.process.service,
            records: story.records.len(),
            summary: &last.summary,
        }
    }
}

/// The values that the flag is about, around its time.
fn series_of(story: &Story, path: &Path) -> anyhow::Result<Series> {
    let (begin, end) = story.span();
    let mut series = Series::new(begin, end);
    let mut follow = Follow::new(story.first());
    let process = format!("\"process.pid\":{},", story.first().process.pid);
    let process = Finder::new(&process);
    let scope = match follow.scope() {
        Scope::Process => Finder::new("\"scope\":\"process\""),
        Scope::Thread => Finder::new("\"scope\":\"thread\""),
    };
    let wanted = |line: &[u8]| match kind_of(line) {
        Some(b"window") => scope.find(line).is_some() && process.find(line).is_some(),
        kind => kind.is_none_or(|kind| kind == b"start"),
    };
    let mut runs = Runs::default();
    read(path, wanted, |record| {
        runs.note(matches!(record, Some(Record::Start(_))));
        if let Some(Record::Window(window)) = record
            && runs.run() == story.run
        {
            follow
                .window(&window)
                .iter()
                .for_each(|value| series.add(value));
        }
    })?;
    follow.end().iter().for_each(|value| series.add(value));
    Ok(series)
}

/// The type of a line in the form in which slowburn writes it; `None` for any other form.
fn kind_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(br#"{"v":1,"type":""#)?;
    Some(&rest[..memchr(b'"', rest)?])
}

/// Reads a recording: each line that is wanted as the record that it is, all others as nothing.
fn read(
    path: &Path,
    wanted: impl Fn(&[u8]) -> bool,
    mut take: impl FnMut(Option<Record>),
) -> anyhow::Result<()> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        bail!("{name} is not a file: a recording is read twice, so that a pipe will not do");
    }
    let mut recording = Recording::new(file);
    let mut number = 1_u64;
    while let Some(block) = recording
        .next_block()
        .with_context(|| format!("{name}, line {number}"))?
    {
        let mut rest = block.lines;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            match record(line, &wanted) {
                Ok(record) => take(record),
                Err(_) if line.trim_ascii().is_empty() => {}
                // As `kill -9` leaves it, or while it is written.
                Err(_) if block.is_cut && rest.is_empty() => {
                    tracing::warn!("{name} ends within line {number}, as if cut off");
                }
                Err(error) => {
                    return Err(error.context(format!(
                        "{name}, line {number}, is not a record of slowburn"
                    )));
                }
            }
            number += 1;
        }
    }
    Ok(())
}

fn record(line: &[u8], wanted: &impl Fn(&[u8]) -> bool) -> anyhow::Result<Option<Record>> {
    let line = line.trim_ascii();
    if !wanted(line) {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(line)?;
    Ok(Some(line.record))
}

#[cfg(test)]
mod tests;
