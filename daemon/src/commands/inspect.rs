//! `slowburn inspect`: what a recording of Windows holds, what was lost, and what it lacks for a replay.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::Path,
};

use anyhow::Context;
use serde::Serialize;
use slowburn_probes::etw::{
    Recording, Survey,
    payload::Enabled,
    sources,
    survey::{Holdings, ServiceRow},
};

use crate::{cli::Inspect, figures, stream::Moment};

/// A profile for Windows Performance Recorder, so that whoever has slowburn can record.
const PROFILE: &str = include_str!("../../../docs/windows/slowburn.wprp");

/// Most names that the text lists.
const MOST_NAMES: usize = 12;

/// How to make a recording that has all that is needed.
const RECORD_WITH: [&str; 2] = [
    "slowburn inspect --profile > slowburn.wprp, then on the host: wpr -start slowburn.wprp -filemode, and later: wpr -stop trace.etl",
    "or on the host: xperf -on PROC_THREAD+CSWITCH+DISPATCHER+VIRT_ALLOC -BufferSize 1024 -MinBuffers 64 -MaxBuffers 1024 -f kernel.etl, and later: xperf -stop -d trace.etl",
];

/// Inspects.
///
/// # Errors
/// If the file cannot be read, or is no recording.
pub fn run(options: &Inspect) -> anyhow::Result<()> {
    let text = match &options.file {
        Some(path) => {
            let inspection = Inspection::of(path)?;
            if options.json {
                serde_json::to_string_pretty(&inspection)? + "\n"
            } else {
                inspection.text()
            }
        }
        None => PROFILE.to_owned(),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What a recording holds.
#[derive(Debug, Serialize)]
struct Inspection {
    file: String,
    bytes: u64,
    windows: Windows,
    start: Moment,
    end: Moment,
    duration_ns: u64,
    session: String,
    clock: &'static str,
    buffers: usize,
    compressed: bool,
    circular: bool,
    /// Names of what was enabled; absent if that was not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<Vec<&'static str>>,
    events: u64,
    counts: BTreeMap<String, u64>,
    holds: Holds,
    lost: Lost,
    undecoded: BTreeMap<String, u64>,
    damage: Damaged,
    services: Vec<Service>,
    processes: Vec<Process>,
    missing: Vec<Missing>,
    record_with: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Windows {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    version: String,
    arch: &'static str,
    cpus: u32,
}

/// Events of what a replay takes.
#[derive(Debug, Serialize)]
struct Holds {
    processes: u64,
    threads: u64,
    switches: u64,
    wake_ups: u64,
    allocations: u64,
    faults: u64,
    services: usize,
}

#[derive(Debug, Serialize)]
struct Lost {
    events: u64,
    buffers: u64,
    lossy_buffers: u64,
    told: u64,
}

#[derive(Debug, Serialize)]
struct Damaged {
    places: u64,
    bytes: u64,
    backwards: u64,
    untimely: u64,
    first: Vec<Place>,
}

#[derive(Debug, Serialize)]
struct Place {
    offset: u64,
    what: String,
}

#[derive(Debug, Serialize)]
struct Service {
    name: String,
    pid: u32,
    tag: u32,
    /// Other services are in the same process.
    shared: bool,
}

#[derive(Debug, Serialize)]
struct Process {
    name: String,
    pid: u32,
    initial: bool,
}

/// What a replay would lack.
#[derive(Debug, Serialize)]
struct Missing {
    what: &'static str,
    why: &'static str,
    without: &'static str,
}

impl Inspection {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let survey = Recording::open(file).and_then(|mut recording| Survey::of(&mut recording));
        let survey = survey.with_context(|| path.display().to_string())?;
        Ok(Self::from_survey(path, survey))
    }

    fn from_survey(path: &Path, survey: Survey) -> Self {
        let log = &survey.about.log;
        let missing = missing(&survey);
        Self {
            file: path.display().to_string(),
            bytes: survey.about.bytes,
            windows: Windows {
                host: survey.host.clone().filter(|host| !host.is_empty()),
                version: format!("{}.{}.{}", log.windows.0, log.windows.1, log.build),
                arch: arch(&survey),
                cpus: log.cpus,
            },
            start: Moment(survey.start_ns),
            end: Moment(survey.end_ns),
            duration_ns: survey.end_ns - survey.start_ns,
            session: survey.about.session.clone(),
            clock: match log.clock {
                1 => "performance counter",
                2 => "system time",
                3 => "processor cycles",
                _ => "unknown",
            },
            buffers: survey.about.buffers,
            compressed: log.mode & 0x0400_0000 != 0,
            circular: log.mode & 2 != 0,
            enabled: survey.enabled.as_ref().map(enabled),
            events: survey.counts.total(),
            holds: holds(&survey.holdings, survey.services.len()),
            lost: Lost {
                events: survey.lost.events,
                buffers: survey.lost.buffers,
                lossy_buffers: survey.lost.lossy_buffers,
                told: survey.lost.told,
            },
            damage: damaged(&survey),
            services: services(&survey.services),
            processes: processes(&survey),
            record_with: if missing.is_empty() {
                Vec::new()
            } else {
                RECORD_WITH.to_vec()
            },
            missing,
            undecoded: survey.undecoded,
            counts: survey.counts.by_key(),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "{}: recording of Windows {} ({}, {} processors)",
                self.file, self.windows.version, self.windows.arch, self.windows.cpus
            ),
            format!(
                "when       {} for {}",
                self.start,
                figures::length(self.duration_ns as f64 / 1e9)
            ),
            self.size(),
            format!("holds      {}", self.holds.text()),
        ];
        if let Some(enabled) = &self.enabled {
            lines.push(format!("enabled    {}", or_none(&enabled.join(", "))));
        }
        lines.push(format!("lost       {}", self.lost.text()));
        if !self.damage.is_none() {
            lines.push(format!("damaged    {}", self.damage.text()));
        }
        lines.extend(
            self.undecoded
                .iter()
                .map(|(what, count)| format!("not read   {what}: {count} events")),
        );
        lines.push(format!(
            "services   {}",
            or_none(&names(
                self.services.iter().filter(|s| s.pid > 0).map(|s| &s.name)
            ))
        ));
        lines.push(format!(
            "processes  {}",
            or_none(&names(self.processes.iter().map(|p| &p.name)))
        ));
        lines.extend(
            self.missing
                .iter()
                .map(|m| format!("missing    {} ({}): {}", m.what, m.why, m.without)),
        );
        lines.extend(
            self.record_with
                .iter()
                .map(|how| format!("record     {how}")),
        );
        lines.join("\n") + "\n"
    }

    fn size(&self) -> String {
        let forms = [
            (self.compressed, ", compressed"),
            (self.circular, ", circular"),
        ];
        let forms: String = forms
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, form)| *form)
            .collect();
        let bytes = figures::bytes(self.bytes as f64);
        format!(
            "size       {bytes}, {} buffers, {} events{forms}",
            self.buffers, self.events
        )
    }
}

impl Holds {
    fn text(&self) -> String {
        let all = [
            (self.threads, "of threads"),
            (self.processes, "of processes"),
            (self.switches, "switches"),
            (self.wake_ups, "wake-ups"),
            (self.allocations, "allocations"),
            (self.services as u64, "services"),
        ];
        all.map(|(count, what)| format!("{count} {what}"))
            .join(", ")
    }
}

impl Lost {
    fn text(&self) -> String {
        if self.events + self.buffers + self.lossy_buffers + self.told == 0 {
            return "nothing, as far as it tells".into();
        }
        format!(
            "{} events and {} buffers; {} buffers say that some were",
            self.events + self.told,
            self.buffers,
            self.lossy_buffers
        )
    }
}

impl Damaged {
    fn is_none(&self) -> bool {
        self.places + self.backwards + self.untimely == 0
    }

    fn text(&self) -> String {
        let first = self
            .first
            .iter()
            .take(3)
            .map(|place| format!("{} at byte {}", place.what, place.offset));
        let first: Vec<String> = first.collect();
        format!(
            "{} places, {} bytes left out, {} events back in time, {} at impossible times{}{}",
            self.places,
            self.bytes,
            self.backwards,
            self.untimely,
            if first.is_empty() { "" } else { ": " },
            first.join("; ")
        )
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// The first few, each once.
fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let mut all: Vec<&str> = all
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    let more = all.len().saturating_sub(MOST_NAMES);
    all.truncate(MOST_NAMES);
    let more = if more > 0 {
        format!(" and {more} more (--json has all)")
    } else {
        String::new()
    };
    all.join(", ") + &more
}

/// Architecture of the host.
pub fn arch(survey: &Survey) -> &'static str {
    match (survey.architecture, survey.about.log.pointer_size) {
        (Some(0), _) | (None, 4) => "x86",
        (Some(5), _) => "arm",
        (Some(12), _) => "arm64",
        _ => "x86_64",
    }
}

/// Classes of kernel events, as bits of the masks.
const CLASSES: [(usize, u32, &str); 10] = [
    (0, 0x1, "process"),
    (0, 0x2, "thread"),
    (0, 0x4, "image"),
    (0, 0x1000, "page_faults"),
    (0, 0x2000, "hard_faults"),
    (1, 0x2, "profile"),
    (1, 0x4, "context_switch"),
    (1, 0x100, "compact_context_switch"),
    (1, 0x200, "dispatcher"),
    (1, 0x8000, "virtual_alloc"),
];

fn enabled(enabled: &Enabled) -> Vec<&'static str> {
    let is_on = |(word, bit, _): &&(usize, u32, &str)| enabled.masks[*word] & bit != 0;
    CLASSES
        .iter()
        .filter(is_on)
        .map(|(_, _, name)| *name)
        .collect()
}

fn holds(holdings: &Holdings, services: usize) -> Holds {
    Holds {
        processes: holdings.processes,
        threads: holdings.threads,
        switches: holdings.switches,
        wake_ups: holdings.readies,
        allocations: holdings.regions,
        faults: holdings.faults,
        services,
    }
}

fn damaged(survey: &Survey) -> Damaged {
    let damage = &survey.damage;
    let first = damage.places.iter().map(|place| Place {
        offset: place.offset,
        what: place.what.clone(),
    });
    Damaged {
        places: damage.count,
        bytes: damage.bytes,
        backwards: damage.backwards,
        untimely: survey.untimely,
        first: first.collect(),
    }
}

fn services(rows: &[ServiceRow]) -> Vec<Service> {
    let mut hosted: BTreeMap<u32, usize> = BTreeMap::new();
    for row in rows {
        *hosted.entry(row.pid).or_default() += 1;
    }
    let services = rows.iter().map(|row| Service {
        name: row.name.clone(),
        pid: row.pid,
        tag: row.tag,
        shared: row.pid > 0 && hosted[&row.pid] > 1,
    });
    services.collect()
}

fn processes(survey: &Survey) -> Vec<Process> {
    let all = survey.processes.iter().map(|(pid, row)| Process {
        name: row.image.clone(),
        pid: *pid,
        initial: row.is_initial,
    });
    let mut all: Vec<_> = all.collect();
    all.sort_unstable_by_key(|process| process.pid);
    all
}

/// What a replay would lack, and why that is.
fn missing(survey: &Survey) -> Vec<Missing> {
    let holds = &survey.holdings;
    let is_on = |class: &str| {
        let masks = survey.enabled.as_ref();
        masks.map(|masks| enabled(masks).contains(&class))
    };
    let why = |class: &str| match is_on(class) {
        Some(true) => "enabled, but there are none",
        Some(false) => "not enabled",
        None => "not in the recording",
    };
    let is_compact =
        survey.about.compact_buffers > 0 || is_on("compact_context_switch") == Some(true);
    let switches = if is_compact {
        "recorded in a compact form that is not documented"
    } else {
        why("context_switch")
    };
    let all = [
        (
            holds.processes > 0,
            "processes",
            why("process"),
            "processes have no names",
        ),
        (
            holds.threads > 0,
            "threads",
            why("thread"),
            "nothing can be followed",
        ),
        (holds.switches > 0, "switches", switches, "no delays"),
        (
            holds.readies > 0,
            "wake-ups",
            why("dispatcher"),
            "delays after preemption only",
        ),
        (
            sources(survey).regions,
            "allocations",
            why("virtual_alloc"),
            "no memory curves",
        ),
    ];
    let missing = all.into_iter().filter(|(is_there, ..)| !is_there);
    missing
        .map(|(_, what, why, without)| Missing { what, why, without })
        .collect()
}

/// What a replay of a recording would lack, in words; empty if nothing.
pub fn lacks(survey: &Survey) -> String {
    let missing = missing(survey);
    let each: Vec<_> = missing
        .iter()
        .map(|m| format!("{} ({}): {}", m.what, m.why, m.without))
        .collect();
    each.join("; ")
}
