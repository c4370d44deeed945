//! Recordings that the writer of the tests has made, read by an independent parser: what it writes is what Windows would.
//!
//! The parser is `dissect.etl`, a package for Python; `SLOWBURN_DISSECT_PYTHON` names an interpreter that has it. Without it
//! there is nothing to compare with, and the test says so.

use std::{collections::BTreeMap, env, fs, io::Cursor, path::Path, process::Command};

use slowburn_probes::etw::{
    Class, Recording,
    payload::{Change, Region},
    writer::{Form, Process, Thread, Writer},
};

/// Prints each event as a line: header kind, class, opcode, version, time, payload.
const SCRIPT: &str = r#"
import sys
from dissect.etl import ETL
kinds = {"SystemHeader": "SYS", "PerfinfoTraceHeader": "PERF"}
for event in ETL(open(sys.argv[1], "rb")):
    h = event.header
    f = h.header
    print(kinds[type(h).__name__], f.Group, f.OpCode, f.Version & 0xff, f.TimeDelta, bytes(h.payload).hex())
"#;

/// Some of all events, on all processors, in buffers of which each has several.
fn written(form: Form) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), form).expect("memory can be written");
    let mut time = form.origin;
    let mut write = |writer: &mut Writer<Cursor<Vec<u8>>>| {
        for n in 0..400_u32 {
            let cpu = (n % u32::from(form.cpus)) as u16;
            time += 7;
            let thread = Thread {
                pid: n,
                tid: n + 1,
                creator: (2, 3),
                service_tag: 5,
                name: "waiter",
            };
            let region = Region {
                pid: n,
                base: 0x1000,
                bytes: 0x2000,
                flags: Region::COMMIT,
                committed: 0x1000,
            };
            writer.thread(cpu, time, Change::Start, thread)?;
            writer.process(
                cpu,
                time,
                Change::ThereAtStart,
                Process {
                    pid: n,
                    parent: 1,
                    image: "shop.exe",
                },
            )?;
            writer.switch(cpu, time + 1, n, 5, n + 1)?;
            writer.ready(cpu, time + 2, n)?;
            writer.region(cpu, time + 3, &region)?;
            writer.rundown(cpu, time + 4, &region)?;
            writer.thread_name(cpu, time + 5, n, n + 1, "w\u{e4}iter")?;
        }
        writer.service(time + 7, 5, 6, "Dnscache", "svchost.exe")?;
        writer.enabled(time + 8, [3, 0x204])
    };
    write(&mut writer).expect("memory can be written");
    writer.finish().expect("memory can be written").into_inner()
}

fn ours(bytes: &[u8]) -> BTreeMap<String, u32> {
    let mut recording = Recording::open(Cursor::new(bytes)).expect("a recording");
    let mut lines = BTreeMap::new();
    while let Some(event) = recording.next_event().expect("memory can be read") {
        let (kind, group, opcode, version) = match event.header.class {
            Class::System {
                group,
                opcode,
                version,
            } => ("SYS", group, opcode, version),
            Class::Performance {
                group,
                opcode,
                version,
            } => ("PERF", group, opcode, version),
            other => panic!("no {other} was written"),
        };
        let payload = event
            .payload
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let line = format!("{kind} {group} {opcode} {version} {} {payload}", event.time);
        *lines.entry(line).or_default() += 1;
    }
    assert!(recording.damage().is_none());
    lines
}

fn theirs(python: &Path, file: &Path) -> BTreeMap<String, u32> {
    let output = Command::new(python)
        .arg("-c")
        .arg(SCRIPT)
        .arg(file)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines = BTreeMap::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}

#[test]
fn an_independent_parser_reads_the_same() {
    let Some(python) = env::var_os("SLOWBURN_DISSECT_PYTHON") else {
        println!("SKIP: SLOWBURN_DISSECT_PYTHON does not name a Python that has dissect.etl");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    for pointer_size in [4, 8] {
        for is_compressed in [false, true] {
            for cpus in [1, 5] {
                let form = Form {
                    pointer_size,
                    is_compressed,
                    cpus,
                    ..Form::default()
                };
                let bytes = written(form);
                let file = directory.path().join("written.etl");
                fs::write(&file, &bytes).expect("the file can be written");
                let (ours, theirs) = (ours(&bytes), theirs(Path::new(&python), &file));
                assert_eq!(ours.values().sum::<u32>(), 1 + 7 * 400 + 2);
                assert!(ours == theirs, "{form:?}");
            }
        }
    }
}
