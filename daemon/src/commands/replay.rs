//! `slowburn replay`: a recorded stream through windows, detector and sinks again.
//!
//! The windows of the recording go to the detector as they did live, and the flags come out anew; those in
//! the recording are left out. Everything else passes through.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::Path,
};

use anyhow::Context;

use crate::{
    cli::{self, Replay},
    detect::{Config, Detector},
    pipeline::Pipeline,
    sink::{JsonOutput, OutputOptions, Terminal},
    stream::{Line, Record},
};

/// Replays.
///
/// # Errors
/// If the recording cannot be read or is not one, or the output cannot be written.
pub fn run(options: &Replay) -> anyhow::Result<()> {
    let path = cli::file(&options.output);
    let terminal = Terminal::new(options.quiet, path.is_none() && io::stdout().is_terminal());
    let output = JsonOutput::open(OutputOptions {
        path,
        rotation: None,
    })?;
    let mut replayer = Replayer {
        pipeline: Pipeline::new(&[], true, Detector::new(Config::default())),
        output,
        terminal,
        flags: 0,
    };
    let name = options.file.display().to_string();
    for (number, line) in (1..).zip(open(&options.file)?.lines()) {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line)
            .with_context(|| format!("{name}, line {number}, is not a record of slowburn"))?;
        replayer.record(line.record);
        if replayer.output.is_closed() {
            return Ok(());
        }
    }
    let lost = replayer.output.finish();
    anyhow::ensure!(lost == 0, "{lost} records could not be written");
    Ok(())
}

struct Replayer {
    pipeline: Pipeline,
    output: JsonOutput,
    terminal: Terminal,
    /// Flags made anew since the last run of the recording ended.
    flags: u64,
}

impl Replayer {
    fn record(&mut self, record: Record) {
        let Self {
            pipeline,
            output,
            terminal,
            flags,
        } = self;
        let mut out = |record: Record| {
            terminal.record(&record);
            *flags += u64::from(matches!(record, Record::Flag(_)));
            output.record_waiting(record);
        };
        match record {
            Record::Window(window) => pipeline.window(*window, &mut out),
            Record::Flag(_) => {}
            // A recording may hold several runs: each ends with counts of its own, of which those of the flags are made anew.
            Record::Stop(mut stop) => {
                let flags = std::mem::take(flags);
                stop.records.remove("flag");
                if flags > 0 {
                    stop.records.insert("flag".into(), flags);
                }
                terminal.record(&Record::Stop(stop.clone()));
                output.record_waiting(Record::Stop(stop));
            }
            other => out(other),
        }
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}
