//! A recording of Windows through the pipeline: from its events on, everything is as it is live.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use slowburn_probes::{
    etw::{
        self, Recording, Survey, is_recording as begins_like_one,
        survey::{MOST_TASKS, ServiceRow},
        target::{Found, find},
        tracker::Options,
    },
    event::Event,
};

use super::{BUFFER, open_output, usage};
use crate::{
    cli::{self, Events, Replay},
    commands::{check_config, inspect},
    detect::{Config, Detector},
    pipeline::Pipeline,
    policy::Policy,
    rivals,
    rule::Rule,
    sink::Terminal,
    stream::{
        Hooks, Host, Limits, Line, Moment, PolicyInUse, Record, RefusedHook, Start, Stop,
        StopReason, WatchedService,
    },
};

/// Is this a recording of Windows, or meant to be one?
pub fn is_recording(path: &Path) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("etl"))
    {
        return true;
    }
    // A pipe is not read ahead of: what was read would be missing later.
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let mut begin = [0; 72];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begins_like_one(&begin)
}

/// Replays.
///
/// # Errors
/// If the file is no recording, has not what is asked for, or the output cannot be written.
pub fn run(options: &Replay) -> anyhow::Result<()> {
    let Some(wanted) = options.wanted() else {
        usage(
            "a recording of Windows is of everything that ran there: choose with --service, --process or --pid; `slowburn inspect` lists what it has",
        )
    };
    let config = options
        .config
        .as_deref()
        .map(check_config::read)
        .transpose()?;
    let (policy, in_use) = match config {
        Some(config) => (Policy::of(&config.file), Some(config.in_use)),
        None => (Policy::default(), None),
    };
    let name = options.file.display().to_string();
    let open = || File::open(&options.file).with_context(|| format!("cannot read {name}"));
    let survey = Recording::open(open()?).and_then(|mut recording| Survey::of(&mut recording));
    let survey = survey.with_context(|| name.clone())?;
    if survey.about.clock.is_none() {
        bail!(
            "{name} has times of an unknown clock ({})",
            survey.about.log.clock
        );
    }
    let found = find(&survey, &wanted)?;
    if survey.holdings.threads == 0 {
        bail!(
            "{name} has no events of threads, so that nothing can be followed: `slowburn inspect` says how to record"
        );
    }
    let path = cli::file(&options.output);
    let mut terminal = Terminal::new(options.quiet, path.is_none() && io::stdout().is_terminal());
    introduce(&survey, &found, &mut terminal);
    let (output, output_name) = open_output(path.as_deref())?;
    let replay = Session {
        replay: etw::Replay::new(
            Recording::open(open()?)?,
            &survey,
            found.target.clone(),
            thresholds(options),
            options.window,
        ),
        pipeline: Pipeline::new(
            std::slice::from_ref(&found.name),
            options.events != Events::None,
            Detector::with_policy(Config::default(), policy),
        ),
        sinks: Sinks {
            output: BufWriter::with_capacity(BUFFER, output),
            terminal,
            records: BTreeMap::new(),
            error: None,
        },
        survey: &survey,
    };
    match replay.run(start(options, &survey, &found, in_use)) {
        Ok(()) => Ok(()),
        Err(End::Recording(error)) => Err(error).context(name),
        // Who read the output has seen enough.
        Err(End::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(End::Output(error)) => {
            Err(error).with_context(|| format!("cannot write to {output_name}"))
        }
    }
}

/// Why a replay ended before the recording did.
enum End {
    Recording(etw::RecordingError),
    Output(io::Error),
}

/// What whoever started it should know before.
fn introduce(survey: &Survey, found: &Found, terminal: &mut Terminal) {
    terminal.say(&found.why);
    let lacks = inspect::lacks(survey);
    if !lacks.is_empty() {
        tracing::warn!("the recording lacks {lacks}; `slowburn inspect` says how to record");
    }
    let lost = survey.lost;
    if lost.events + lost.buffers + lost.lossy_buffers > 0 {
        tracing::warn!(
            "{} events and {} buffers were lost when it was recorded",
            lost.events,
            lost.buffers
        );
    }
    let damage = &survey.damage;
    if let Some(first) = damage.places.first() {
        tracing::warn!(
            "the recording is damaged in {} places, the first: {first}; what can be read of it is replayed",
            damage.count
        );
    }
    for (what, count) in &survey.undecoded {
        tracing::warn!("{count} events are left out: {what}");
    }
}

fn thresholds(options: &Replay) -> Options {
    let (slow_ns, min_mapping_bytes) = match options.events {
        Events::All => (0, 0),
        Events::Slow => (options.slow.as_nanos() as u64, options.min_mapping),
        Events::None => (u64::MAX, u64::MAX),
    };
    Options {
        slow_ns,
        min_mapping_bytes,
    }
}

/// A replay, from its first record to its last.
struct Session<'a> {
    replay: etw::Replay<File>,
    pipeline: Pipeline,
    sinks: Sinks,
    survey: &'a Survey,
}

impl Session<'_> {
    fn run(mut self, start: Start) -> Result<(), End> {
        let started = start.ts.0;
        self.sinks.record(Record::Start(Box::new(start)));
        let mut events = Vec::new();
        while self
            .replay
            .next(self.survey, &mut events)
            .map_err(End::Recording)?
        {
            if let Some(Event::WindowEnd { .. }) = events.last() {
                let owner = |pid| owner(&self.survey.services, pid);
                let rivals = rivals::by_waiter(self.replay.take_rivals(), owner);
                self.pipeline.set_rivals(rivals);
            }
            for event in events.drain(..) {
                self.pipeline
                    .event(&event, &mut |record| self.sinks.record(record));
            }
            self.sinks.check()?;
        }
        let stop = Stop {
            ts: Moment(self.survey.end_ns),
            reason: StopReason::EndOfRecording,
            ran_ns: self.survey.end_ns - started,
            records: self.sinks.records.clone(),
            recovered: 0,
            lost: self.pipeline.lost().clone(),
            ignored: self.pipeline.take_ignored(),
        };
        self.sinks.record(Record::Stop(Box::new(stop)));
        self.sinks.check()?;
        self.sinks.output.flush().map_err(End::Output)
    }
}

/// The services of a process.
fn owner(services: &[ServiceRow], pid: u32) -> Option<String> {
    let names = services
        .iter()
        .filter(|row| row.pid == pid && pid > 0)
        .map(|row| row.name.as_str());
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Everything that records go to.
struct Sinks {
    output: BufWriter<File>,
    terminal: Terminal,
    records: BTreeMap<String, u64>,
    /// Why nothing is written any more.
    error: Option<io::Error>,
}

impl Sinks {
    fn record(&mut self, record: Record) {
        self.terminal.record(&record);
        *self.records.entry(record.type_name().into()).or_default() += 1;
        if self.error.is_none() {
            let line = serde_json::to_writer(&mut self.output, &Line::from(record));
            self.error = line
                .map_err(io::Error::from)
                .and_then(|()| self.output.write_all(b"\n"))
                .err();
        }
    }

    fn check(&mut self) -> Result<(), End> {
        self.error
            .take()
            .map_or(Ok(()), |error| Err(End::Output(error)))
    }
}

fn start(options: &Replay, survey: &Survey, found: &Found, policy: Option<PolicyInUse>) -> Start {
    let log = &survey.about.log;
    let sources = etw::sources(survey);
    let (slow, all) = (
        options.events == Events::Slow,
        options.events == Events::All,
    );
    let shown = |value: u64| if slow { Some(value) } else { all.then_some(0) };
    let of = |is_there: bool| if is_there { "etw" } else { "none" }.to_owned();
    Start {
        ts: Moment(survey.start_ns),
        version: env!("CARGO_PKG_VERSION").into(),
        host: Host {
            name: survey.host.clone().unwrap_or_default(),
            kernel: format!("Windows {}.{}.{}", log.windows.0, log.windows.1, log.build),
            kernel_build: String::new(),
            arch: inspect::arch(survey).into(),
            cpus: log.cpus as usize,
        },
        hooks: Hooks {
            tasks: of(true),
            sched: of(sources.switches),
            memory: of(sources.regions),
            refused: Vec::<RefusedHook>::new(),
        },
        limits: Limits {
            window_ns: options.window.as_nanos() as u64,
            slow_ns: shown(options.slow.as_nanos() as u64),
            min_mapping_bytes: shown(options.min_mapping),
            ring_bytes: 0,
            max_tasks: MOST_TASKS as u32,
            delay_precision: 1.0 / 16.0,
            budget_share: None,
        },
        policy,
        targets: vec![WatchedService {
            service: found.name.clone(),
            rule: match found.rule {
                etw::target::Rule::Service => Rule::Service,
                etw::target::Rule::Process => Rule::Process,
                etw::target::Rule::Pid => Rule::Pid,
            },
            why: found.why.clone(),
            pids: found.pids.clone(),
        }],
    }
}
