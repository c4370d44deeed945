//! The results of the truth tests: kept per cell, and rendered as docs/truth.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{command, matrix, packages};

/// The tree that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    pub id: String,
    /// Whether there were changes that are in no commit.
    pub dirty: bool,
}

impl Commit {
    pub fn now() -> Self {
        let git = |args: &[&str]| {
            command::first_line(Command::new("git").current_dir(command::root()).args(args))
        };
        Self {
            id: git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|_| "unknown".into()),
            // The document is written from the results, and does not change them.
            dirty: git(&["status", "--porcelain", "--", ".", ":!docs/truth.md"])
                .map_or(true, |line| !line.is_empty()),
        }
    }
}

/// The first line of a kept result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    pub cell: String,
    /// What the kernel calls itself; nothing if the cell ended without a verdict.
    pub kernel: Option<String>,
    pub commit: Commit,
    pub date: jiff::Timestamp,
    pub seconds: f64,
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// As `slowburn doctor --json` says it: the chosen and the refused ones, or the error.
    pub hooks: Option<Value>,
}

/// What the truth tests write of one comparison.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Measured(Measured),
    Skipped {
        check: String,
        #[serde(default)]
        hooks: String,
        skipped: String,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct Measured {
    check: String,
    measure: String,
    judge: String,
    /// Not a number if there was nothing to divide by.
    error: Option<f64>,
    unit: Unit,
    goal: f64,
    note: Option<String>,
}

/// What an error is counted in. Each has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Ratio,
    Bytes,
    Count,
    Buckets,
}

const UNITS: [(Unit, &str); 4] = [
    (Unit::Ratio, "Relative errors"),
    (Unit::Count, "Differences of counts"),
    (Unit::Bytes, "Differences in bytes"),
    (Unit::Buckets, "Differences in buckets of the histogram"),
];

/// All that is known of a cell.
struct Kept {
    header: Header,
    entries: Vec<Entry>,
}

/// Where results are kept. Those of some tests only are kept apart, so that they never replace whole ones.
pub fn directory(filtered: bool) -> PathBuf {
    let directory = command::target_dir().join("truth");
    if filtered {
        directory.join("filtered")
    } else {
        directory
    }
}

/// Keeps the result of a cell.
pub fn store(directory: &Path, header: &Header, report: &[String]) -> Result<()> {
    let mut text = serde_json::to_string(header)?;
    for line in report {
        text.push('\n');
        text.push_str(line);
    }
    text.push('\n');
    write(&directory.join(format!("{}.jsonl", header.cell)), &text)
}

/// Writes docs/truth.md from all results that are kept.
pub fn write_document() -> Result<()> {
    let place = command::root().join("docs/truth.md");
    let old = match fs::read_to_string(&place) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", place.display()));
        }
    };
    let mut cells = Vec::new();
    for path in packages::files_in(&directory(false))? {
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            cells.push(parse(&text).with_context(|| {
                format!(
                    "cannot understand {}; remove it, or run its cell again",
                    path.display()
                )
            })?);
        }
    }
    sort(&mut cells);
    write(&place, &document(&cells, &old))?;
    eprintln!("wrote {} from {} cells", place.display(), cells.len());
    Ok(())
}

fn parse(text: &str) -> Result<Kept> {
    let mut lines = text.lines().enumerate();
    let (_, first) = lines.next().context("it is empty")?;
    let entries = lines
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("line {}: {line}", number + 1))
        })
        .collect::<Result<_>>()?;
    Ok(Kept {
        header: serde_json::from_str(first).context("line 1")?,
        entries,
    })
}

/// In the order of the matrix, with what is not in it (this machine) first.
fn sort(cells: &mut [Kept]) {
    let order: Vec<_> = matrix::all_cells().iter().map(matrix::Cell::name).collect();
    cells.sort_by_key(|kept| order.iter().position(|name| *name == kept.header.cell));
}

/// All above this line is written by the command, all below by people.
const MARKER: &str = "<!-- written by hand below -->";

const INTRODUCTION: &str = "\
# How true the numbers are

Each number that slowburn reports is compared with one that was come by in another way: the kernel's own counters, a raw
recording of its tracepoints, or what the workload knows of itself. These are the results, one column per system.

This part is written by `cargo xtask vm --report` from the newest run of each system, and says at which commit that was; changes
here are lost. `cargo xtask vm --all --host --report` measures everything again. The guests are emulated processors, several
times slower than a real one.
";

const REST: &str =
    "\n\n## What is known not to be measured right\n\nNothing has been written yet.\n";

/// The document, with the hand-written part of the old one.
fn document(cells: &[Kept], old: &str) -> String {
    let by_hand = old.split_once(MARKER).map_or(REST, |(_, rest)| rest);
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Systems\n\n");
    systems(cells, &mut text);
    text.push_str("\n## Hooks\n\n");
    hooks(cells, &mut text);
    for (unit, title) in UNITS {
        measures(cells, unit, title, &mut text);
    }
    skips(cells, &mut text);
    let _ = write!(text, "\n{MARKER}{by_hand}");
    text
}

fn systems(cells: &[Kept], text: &mut String) {
    text.push_str("| system | kernel | passed | failed | skipped | measured at | on | seconds |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for Kept { header, .. } in cells {
        let Header {
            cell,
            commit,
            passed,
            failed,
            skipped,
            seconds,
            ..
        } = header;
        let dirty = if commit.dirty { " and changes" } else { "" };
        let kernel = header.kernel.as_deref().unwrap_or("**no verdict**");
        let date = header.date.strftime("%Y-%m-%d");
        let id = &commit.id;
        let _ = writeln!(
            text,
            "| {cell} | {kernel} | {passed} | {failed} | {skipped} | {id}{dirty} | {date} | {seconds:.0} |"
        );
    }
}

/// Which hooks slowburn chooses, and why not better ones.
fn hooks(cells: &[Kept], text: &mut String) {
    text.push_str("| system | tasks | sched | memory | refused |\n|---|---|---|---|---|\n");
    for Kept { header, .. } in cells {
        let hooks = header.hooks.clone().unwrap_or_default();
        let chosen =
            ["tasks", "sched", "memory"].map(|need| hooks[need].as_str().unwrap_or("none"));
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            header.cell,
            chosen.join(" | "),
            refused(&hooks)
        );
    }
}

fn refused(hooks: &Value) -> String {
    let word = |value: &Value| in_cell(value.as_str().unwrap_or_default());
    let refused = hooks["refused"].as_array().into_iter().flatten();
    let reasons = refused.map(|r| format!("{}: {}", word(&r["family"]), word(&r["reason"])));
    let reasons: Vec<_> = reasons.collect();
    // There is an error if nothing could be chosen.
    if reasons.is_empty() {
        word(&hooks["error"])
    } else {
        reasons.join("; ")
    }
}

/// What is compared with what: check, measure, judge.
type Row<'a> = (&'a str, &'a str, &'a str);

/// The table of a kind of measure: the worst error of each.
fn measures(cells: &[Kept], unit: Unit, title: &str, text: &mut String) {
    let of = |kept: &Kept| {
        let measured = kept.entries.iter().filter_map(|entry| match entry {
            Entry::Measured(measured) if measured.unit == unit => Some(measured.clone()),
            _ => None,
        });
        measured.collect::<Vec<_>>()
    };
    let columns: Vec<_> = cells.iter().map(of).collect();
    let mut rows: BTreeMap<Row, BTreeSet<&str>> = BTreeMap::new();
    for measured in columns.iter().flatten() {
        let notes = rows.entry(row(measured)).or_default();
        notes.extend(measured.note.as_deref());
    }
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n## {title}\n\nThe worst over all repetitions and hooks. ✗: beyond the goal.\n"
    );
    text.push_str("| measure | goal |");
    for Kept { header, .. } in cells {
        let _ = write!(text, " {} |", header.cell.replace('-', "<br>"));
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(cells.len()));
    for (row, notes) in rows {
        line(row, &notes, &columns, text);
    }
}

fn row(measured: &Measured) -> Row<'_> {
    (&measured.check, &measured.measure, &measured.judge)
}

fn line(of: Row, notes: &BTreeSet<&str>, columns: &[Vec<Measured>], text: &mut String) {
    let all: Vec<Vec<&Measured>> = columns
        .iter()
        .map(|column| column.iter().filter(|m| row(m) == of).collect())
        .collect();
    let (check, measure, judge) = of;
    let _ = write!(
        text,
        "| {}, by {} (`{check}`)",
        in_cell(measure),
        in_cell(judge)
    );
    for note in notes {
        let _ = write!(text, "; {}", in_cell(note));
    }
    let _ = write!(text, " | {} |", goals(all.iter().flatten().copied()));
    for column in all {
        let _ = write!(text, " {} |", worst(&column));
    }
    text.push('\n');
}

/// They differ where the judge's own error depends on how long the waits were.
fn goals<'a>(measured: impl Iterator<Item = &'a Measured>) -> String {
    let mut all: Vec<_> = measured.map(|m| (m.goal, m.unit)).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let ends = [all.first(), all.last()].map(|end| end.map(|(goal, unit)| number(*goal, *unit)));
    match ends {
        [Some(lowest), Some(highest)] if lowest == highest => lowest,
        [Some(lowest), Some(highest)] => format!("{lowest} to {highest}"),
        _ => String::new(),
    }
}

fn worst(measured: &[&Measured]) -> String {
    // Without a number it is worse than any.
    let size = |m: &Measured| m.error.map_or(f64::INFINITY, f64::abs);
    let missed = measured.iter().any(|m| size(m) > m.goal);
    let worst = measured.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
    match worst {
        None => "–".into(),
        Some(m) if missed => format!("**{}** ✗", number(size(m), m.unit)),
        Some(m) => number(size(m), m.unit),
    }
}

/// A number with as many digits as matter.
fn number(value: f64, unit: Unit) -> String {
    if value.is_infinite() {
        return "?".into();
    }
    let (value, sign) = match unit {
        Unit::Ratio => (value * 100.0, " %"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        0.0 => 0,
        v if v < 0.1 => 3,
        v if v < 1.0 => 2,
        v if v < 10.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let short = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{short}{sign}")
}

/// What was not compared, and why.
fn skips(cells: &[Kept], text: &mut String) {
    let mut reasons: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for kept in cells {
        for entry in &kept.entries {
            if let Entry::Skipped {
                check,
                hooks,
                skipped,
            } = entry
            {
                let cells = reasons.entry((check, hooks, skipped)).or_default();
                cells.insert(&kept.header.cell);
            }
        }
    }
    if reasons.is_empty() {
        return;
    }
    text.push_str("\n## Skipped\n\n| check | hooks | why | where |\n|---|---|---|---|\n");
    for ((check, hooks, why), cells) in reasons {
        let cells: Vec<_> = cells.into_iter().collect();
        let _ = writeln!(
            text,
            "| `{check}` | {hooks} | {} | {} |",
            in_cell(why),
            cells.join(", ")
        );
    }
}

/// Text as it may be in a table: one line, without the sign that ends a column.
fn in_cell(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|")
}

/// Writes a file in one step, so that what is there is whole.
fn write(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&partial, text))
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"cell":"6.1-v2-none","kernel":"6.1.0-amd64","commit":{"id":"0123456789","dirty":true},
        "date":"2026-11-21T06:00:00Z","seconds":34.4,"passed":4,"failed":1,"skipped":2,
        "hooks":{"tasks":"tp_btf","sched":"tp_btf","memory":"kprobe","refused":[{"need":"memory","family":"fexit","reason":"no | such\nthing"}]}}"#;

    fn cell(name: &str, lines: &[&str]) -> Kept {
        let header = HEADER.replace('\n', " ").replace("6.1-v2-none", name);
        parse(&[&[header.as_str()], lines].concat().join("\n")).unwrap()
    }

    fn measured(check: &str, error: &str, unit: &str, goal: f64) -> String {
        format!(
            r#"{{"check":"{check}","hooks":"sched=raw","measure":"waits","judge":"schedstat","ours":1.0,"theirs":1.0,
               "error":{error},"unit":"{unit}","goal":{goal}}}"#
        )
        .replace('\n', " ")
    }

    #[test]
    fn worst_of_all_repetitions_is_shown() {
        let lines = ["0.0004", "-0.002", "0.001"].map(|error| measured("a", error, "ratio", 0.01));
        let text = document(&[cell("host", &lines.each_ref().map(String::as_str))], "");
        let row = "| waits, by schedstat (`a`) | 1 % | 0.2 % |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn missed_goals_are_marked() {
        for (error, unit, goal, shown) in [
            ("0.031", "ratio", 0.01, "**3.1 %** ✗"),
            ("null", "ratio", 0.01, "**?** ✗"),
            ("-3.0", "count", 0.0, "**3** ✗"),
            ("0.0", "bytes", 0.0, "0"),
            ("4096.0", "bytes", 8192.0, "4096"),
        ] {
            let line = measured("a", error, unit, goal);
            let text = document(&[cell("host", &[&line])], "");
            let end = format!(" | {shown} |\n");
            assert!(text.contains(&end), "{error} {unit}: {text}");
        }
    }

    #[test]
    fn each_kind_of_measure_has_a_table_with_all_cells() {
        let (ratio, count) = (
            measured("a", "0.1", "ratio", 1.0),
            measured("b", "1", "count", 1.0),
        );
        let text = document(
            &[cell("host", &[&ratio]), cell("6.1-v2-none", &[&count])],
            "",
        );
        assert!(
            text.contains("| measure | goal | host | 6.1<br>v2<br>none |"),
            "{text}"
        );
        assert!(text.contains("(`a`) | 100 % | 10 % | – |"), "{text}");
        assert!(text.contains("(`b`) | 1 | – | 1 |"), "{text}");
        assert!(!text.contains("Differences in bytes"), "{text}");
    }

    #[test]
    fn systems_hooks_and_skips_are_listed() {
        let skip = r#"{"check":"a","hooks":"mem=fexit","skipped":"no | fexit"}"#;
        let text = document(&[cell("6.1-v2-none", &[skip, skip])], "");
        for row in [
            "| 6.1-v2-none | 6.1.0-amd64 | 4 | 1 | 2 | 0123456789 and changes | 2026-11-21 | 34 |",
            r"| 6.1-v2-none | tp_btf | tp_btf | kprobe | fexit: no \| such thing |",
            r"| `a` | mem=fexit | no \| fexit | 6.1-v2-none |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
    }

    #[test]
    fn system_without_hooks_says_why() {
        let mut kept = cell("6.1-v2-none", &[]);
        kept.header.hooks = Some(serde_json::json!({ "error": "no way to hook" }));
        let text = document(&[kept], "");
        let row = "| 6.1-v2-none | none | none | none | no way to hook |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn hand_written_part_is_kept() {
        let first = document(&[], "");
        assert!(first.ends_with(REST));
        let by_hand = format!("{first}\nKnown: nothing.\n");
        let second = document(&[cell("host", &[])], &by_hand);
        assert!(second.ends_with(&format!("{MARKER}{REST}\nKnown: nothing.\n")));
        assert_eq!(second.matches(MARKER).count(), 1);
    }

    #[test]
    fn cells_are_in_the_order_of_the_matrix() {
        let mut cells =
            ["6.12-v2-none", "6.1-v1-none", "6.1-v2-none", "host"].map(|n| cell(n, &[]));
        sort(&mut cells);
        let names = cells.map(|kept| kept.header.cell);
        assert_eq!(
            names,
            ["host", "6.1-v2-none", "6.1-v1-none", "6.12-v2-none"]
        );
    }

    #[test]
    fn damaged_results_are_named() {
        let text = format!("{}\n{{\"check\":1}}", HEADER.replace('\n', " "));
        let error = format!("{:#}", parse(&text).err().unwrap());
        assert!(error.contains("line 2"), "{error}");
    }
}
