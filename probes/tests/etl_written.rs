//! Recordings that the writer of the tests has made: read by an independent parser, and with real switches in them.
//!
//! The parser is `dissect.etl`, a package for Python; `SLOWBURN_DISSECT_PYTHON` names an interpreter that has it. Without it
//! there is nothing to compare with, and the test says so.

use std::{
    collections::BTreeMap, env, fs, io::Cursor, path::Path, process::Command, time::Duration,
};

use slowburn_probes::{
    etw::{
        Class, Id, Recording, Replay, Survey,
        guid::group,
        payload::{Change, Region},
        tracker::{Options, Target},
        writer::{Form, Kind, Process, Thread, Writer},
    },
    event,
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

/// A switch of a real recording, of which there is nothing else.
struct Real {
    cpu: u16,
    time: i64,
    payload: Vec<u8>,
    new: u32,
    old: u32,
}

/// Ninety-six real switches of four processors, one after the other.
fn real_switches() -> Option<Vec<Real>> {
    let Some(corpus) = env::var_os("SLOWBURN_ETL_CORPUS") else {
        println!("SKIP: SLOWBURN_ETL_CORPUS does not name a directory of recordings");
        return None;
    };
    let text = fs::read_to_string(Path::new(&corpus).join("cswitch_win7x64_window.json"))
        .expect("the switches");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let all = all["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| {
            let number = |name: &str| event[name].as_u64().expect("a number");
            let hex = event["payload"].as_str().expect("a payload");
            let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            Real {
                cpu: number("cpu") as u16,
                time: number("ts") as i64,
                payload: (0..hex.len()).step_by(2).map(digits).collect(),
                new: number("new_tid") as u32,
                old: number("old_tid") as u32,
            }
        });
    Some(all.collect())
}

/// The sum of the waits of a process to which all threads belong, in microseconds as the switches have them; how many
/// these are, how many are unknown, and for how long its threads ran. Each thread is made ready so long before it runs, if at all.
fn replayed(switches: &[Real], ready_before: Option<i64>) -> (u64, u64, u64, u64) {
    let origin = switches[0].time - 1_000;
    let form = Form {
        cpus: 4,
        frequency: 1_000_000,
        origin,
        ..Form::default()
    };
    let mut writer = Writer::new(Cursor::new(Vec::new()), form).expect("memory can be written");
    let write = |writer: &mut Writer<Cursor<Vec<u8>>>| {
        let process = Process {
            pid: 7,
            parent: 4,
            image: "all.exe",
        };
        writer.process(0, origin, Change::ThereAtStart, process)?;
        let mut tids: Vec<u32> = switches
            .iter()
            .flat_map(|switch| [switch.new, switch.old])
            .collect();
        tids.sort_unstable();
        tids.dedup();
        for tid in tids.into_iter().filter(|tid| *tid > 0) {
            writer.thread(
                0,
                origin,
                Change::ThereAtStart,
                Thread {
                    pid: 7,
                    tid,
                    ..Thread::default()
                },
            )?;
        }
        let id = Id {
            group: group::THREAD,
            opcode: 36,
            version: 2,
        };
        for switch in switches {
            if let Some(before) = ready_before.filter(|_| switch.new > 0) {
                writer.ready(switch.cpu, switch.time - before, switch.new)?;
            }
            writer.event(
                switch.cpu,
                Kind::Performance,
                id,
                switch.time,
                &switch.payload,
            )?;
        }
        std::io::Result::Ok(())
    };
    write(&mut writer).expect("memory can be written");
    let bytes = writer.finish().expect("memory can be written").into_inner();
    let open = || Recording::open(Cursor::new(&bytes)).expect("a recording");
    let survey = Survey::of(&mut open()).expect("memory can be read");
    let options = Options {
        slow_ns: u64::MAX,
        min_mapping_bytes: u64::MAX,
    };
    let mut replay = Replay::new(
        open(),
        &survey,
        Target::Pids(vec![7]),
        options,
        Duration::from_secs(10),
    );
    let mut events = Vec::new();
    while replay
        .next(&survey, &mut events)
        .expect("memory can be read")
    {}
    let (mut sum, mut count, mut unknown, mut ran) = (0, 0, 0, 0);
    for event in &events {
        match event {
            event::Event::Sample { delays, .. } => {
                sum += delays.sum_ns / 1_000;
                count += delays
                    .counts
                    .iter()
                    .map(|(_, count)| u64::from(*count))
                    .sum::<u64>();
                unknown += delays.unknown;
            }
            event::Event::Process { account, .. } => ran += account.cpu_ns.unwrap_or(0) / 1_000,
            event::Event::Loss { .. } => panic!("nothing was lost: {event:?}"),
            _ => {}
        }
    }
    (sum, count, unknown, ran)
}

/// On each processor, the thread that leaves is the one that came, which is what losses are told by: there are none. All threads leave in
/// order to wait, and nothing tells when they were woken.
#[test]
fn real_switches_give_the_waits_that_follow_from_them() {
    let Some(switches) = real_switches() else {
        return;
    };
    let mut on = [None; 4];
    let (mut ran, mut first) = (0, 0);
    for switch in &switches {
        if let Some(since) = on[usize::from(switch.cpu)].take() {
            ran += switch.time - since;
        }
        if switch.new > 0 {
            first += 1;
            on[usize::from(switch.cpu)] = Some(switch.time);
        }
    }
    // Those that run at the end do so until the last event.
    let end = switches.last().expect("there are some").time;
    ran += on
        .into_iter()
        .flatten()
        .map(|since| end - since)
        .sum::<i64>();
    assert_eq!((switches.len(), first), (96, 48));
    assert_eq!(replayed(&switches, None), (0, 0, 48, ran as u64));
    // None of them is off its processor for less than 53 us.
    assert_eq!(replayed(&switches, Some(40)), (48 * 40, 48, 0, ran as u64));
}
