//! `replay` and `inspect` of recordings of Windows whose content is known, from the command line to the stream.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use slowburn_probes::etw::{
    payload::{Change, Region},
    writer::{Form, Process, Thread, Writer},
};
use tempfile::TempDir;

const WAITING: i8 = 5;
/// Ticks in a millisecond.
const MS: i64 = 10_000;

fn slowburn(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slowburn"));
    command
        .args(args)
        .output()
        .expect("slowburn can be started")
}

fn path(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join(name)
}

/// Half a minute of a shop with two threads: one waits 3 ms of each second, the other commits a megabyte in each.
fn record(to: &Path, form: Form) -> std::io::Result<()> {
    record_for(to, form, 30)
}

fn record_for(to: &Path, form: Form, seconds: i64) -> std::io::Result<()> {
    let mut w = Writer::new(File::create(to)?, form)?;
    let t = form.origin;
    w.enabled(t, [0x3, 0x8204])?;
    for (pid, image) in [(0, "Idle"), (100, "shop.exe"), (200, "hog.exe")] {
        w.process(
            0,
            t,
            Change::ThereAtStart,
            Process {
                pid,
                parent: 4,
                image,
            },
        )?;
    }
    for (pid, tid, name) in [
        (0, 0, ""),
        (100, 101, "till"),
        (100, 102, "store"),
        (200, 201, ""),
    ] {
        w.thread(
            0,
            t,
            Change::ThereAtStart,
            Thread {
                pid,
                tid,
                name,
                ..Thread::default()
            },
        )?;
    }
    w.switch(1, t, 0, WAITING, 102)?;
    for second in 0..seconds {
        let t = t + second * 1_000 * MS + 100 * MS;
        w.switch(0, t, 0, WAITING, 201)?;
        w.ready(1, t + MS, 101)?;
        w.switch(0, t + 4 * MS, 201, WAITING, 101)?;
        w.switch(0, t + 5 * MS, 101, WAITING, 0)?;
        let base = 0x1000_0000 + 0x10_0000 * second as u64;
        let flags = Region::RESERVE | Region::COMMIT;
        w.region(
            1,
            t + 6 * MS,
            &Region {
                pid: 100,
                base,
                bytes: 0x10_0000,
                flags,
                committed: 0,
            },
        )?;
    }
    let t = t + 1_000 * seconds * MS;
    let worker = Thread {
        pid: 100,
        tid: 103,
        creator: (100, 102),
        ..Thread::default()
    };
    w.thread(1, t, Change::Start, worker)?;
    w.thread(1, t + 50 * MS, Change::End, worker)?;
    w.service(t + 60 * MS, 100, 9, "Shop", "shop.exe")?;
    w.finish().map(drop)
}

fn forms() -> [Form; 4] {
    [(4, false), (4, true), (8, false), (8, true)].map(|(pointer_size, is_compressed)| Form {
        pointer_size,
        is_compressed,
        ..Form::default()
    })
}

/// The records of a stream, each of which fits the schema.
fn records(text: &[u8]) -> Vec<Value> {
    let schema = include_str!("../../docs/schema/v1.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let schema = jsonschema::validator_for(&schema).expect("the schema is one");
    let text = std::str::from_utf8(text).expect("the stream is text");
    let lines = text.lines().map(|line| {
        let record = serde_json::from_str(line).expect("a line is JSON");
        assert!(schema.is_valid(&record), "{line}");
        record
    });
    lines.collect()
}

#[track_caller]
fn replay(file: &Path, args: &[&str]) -> Vec<Value> {
    let file = file.to_str().expect("the path is text");
    let output = slowburn(&[&["replay", "--quiet", file], args].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    records(&output.stdout)
}

fn of_type<'a>(records: &'a [Value], name: &str) -> Vec<&'a Value> {
    records
        .iter()
        .filter(|record| record["type"] == name)
        .collect()
}

#[test]
fn a_service_as_it_was_recorded() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(&directory, "shop.etl");
    for form in forms() {
        record(&file, form).expect("it can be written");
        let records = replay(
            &file,
            &[
                "--service",
                "shop",
                "--min-mapping",
                "64KiB",
                "--slow",
                "1ms",
            ],
        );
        let start = &records[0];
        assert_eq!(start["targets"][0]["rule"], "service");
        assert_eq!(start["targets"][0]["pids"], json!([100]));
        assert_eq!(
            (&start["host"]["kernel"], &start["hooks"]["sched"]),
            (&json!("Windows 10.0.22631"), &json!("etw"))
        );
        let windows = of_type(&records, "window");
        let whole: Vec<_> = windows
            .iter()
            .filter(|window| window["scope"] == "process")
            .collect();
        assert_eq!(whole.len(), 4, "three of ten seconds, and the rest");
        for window in &whole[..3] {
            let (delay, memory) = (&window["delay"], &window["memory"]);
            assert_eq!(
                (&delay["count"], &delay["sum_ns"], &delay["max_ns"]),
                (&json!(10), &json!(30_000_000), &json!(3_000_000))
            );
            assert_eq!(
                delay["behind"]["others"],
                json!({"count": 10, "sum_ns": 30_000_000})
            );
            assert_eq!(delay["rivals"][0]["name"], "hog.exe");
            assert_eq!(
                (&memory["committed_bytes"], &memory["map_calls"]),
                (&json!(10 << 20), &json!(10))
            );
            assert_eq!(
                window["threads"],
                json!({"live": 2, "created": 0, "exited": 0})
            );
        }
        // The one runs for 1 ms of each second, the other all the time.
        assert_eq!(
            whole[1]["kernel"]["cpu_ns"],
            10_000_000_000_u64 + 10 * 1_000_000
        );
        assert_eq!(
            whole[3]["threads"],
            json!({"live": 2, "created": 1, "exited": 1})
        );
        let mappings = of_type(&records, "mapping");
        assert_eq!(
            (mappings.len(), &mappings[0]["thread.name"]),
            (30, &json!("store"))
        );
        let delays = of_type(&records, "delay");
        assert_eq!(
            (delays.len(), &delays[0]["culprit"]["thread.name"]),
            (30, &json!("hog.exe"))
        );
        let threads: Vec<_> = of_type(&records, "thread")
            .iter()
            .map(|thread| thread["event"].clone())
            .collect();
        assert_eq!(threads, ["started", "exited"]);
        let stop = records.last().expect("a last record");
        assert_eq!(
            (&stop["reason"], &stop["lost"]),
            (&json!("end_of_recording"), &json!({}))
        );
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for record in &records[..records.len() - 1] {
            *counts
                .entry(record["type"].as_str().expect("a type").into())
                .or_default() += 1;
        }
        assert_eq!(stop["records"], json!(counts));
    }
}

/// However it is named, and whichever way it is asked for.
#[test]
fn the_same_by_name_and_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(&directory, "shop.recording");
    record(&file, Form::default()).expect("it can be written");
    let windows = |args: &[&str]| -> Vec<Value> {
        let records = replay(&file, args);
        let windows = of_type(&records, "window")
            .into_iter()
            .cloned()
            .map(|mut window| {
                window
                    .as_object_mut()
                    .expect("an object")
                    .remove("service.name");
                window
            });
        windows.collect()
    };
    let by_service = windows(&["--service", "Shop"]);
    assert!(by_service.len() > 4);
    assert_eq!(windows(&["--process", "shop"]), by_service);
    assert_eq!(windows(&["--pid", "100"]), by_service);
    assert_ne!(windows(&["--pid", "200"]), by_service);
}

/// The stream that comes out is a recording of slowburn's own.
#[test]
fn what_comes_out_can_be_replayed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, stream) = (path(&directory, "shop.etl"), path(&directory, "shop.jsonl"));
    record_for(&file, Form::default(), 900).expect("it can be written");
    let first = replay(&file, &["--service", "Shop", "--window", "2s"]);
    let lines: Vec<String> = first.iter().map(ToString::to_string).collect();
    std::fs::write(&stream, lines.join("\n") + "\n").expect("it can be written");
    assert_eq!(replay(&stream, &[]), first);
    assert!(
        first.iter().any(|record| record["type"] == "flag"),
        "a megabyte a second is noticed"
    );
}

#[test]
fn what_a_recording_holds() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(&directory, "shop.etl");
    for form in forms() {
        record(&file, form).expect("it can be written");
        let output = slowburn(&["inspect", "--json", file.to_str().expect("text")]);
        let inspection: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(inspection["counts"]["PERF group05 op36 v4"], 91);
        assert_eq!(inspection["counts"]["PERF group02 op98 v2"], 30);
        assert_eq!(inspection["holds"]["switches"], 91);
        assert_eq!(
            inspection["enabled"],
            json!([
                "process",
                "thread",
                "context_switch",
                "dispatcher",
                "virtual_alloc"
            ])
        );
        assert_eq!(
            (&inspection["missing"], &inspection["damage"]["places"]),
            (&json!([]), &json!(0))
        );
        assert_eq!(
            inspection["services"][0],
            json!({"name": "Shop", "pid": 100, "tag": 9, "shared": false})
        );
        assert_eq!(
            inspection["windows"]["arch"],
            if form.pointer_size == 4 {
                "x86"
            } else {
                "x86_64"
            }
        );
    }
    let text = slowburn(&["inspect", file.to_str().expect("text")]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(
        text.contains("91 switches, 30 wake-ups, 30 allocations") && !text.contains("missing"),
        "{text}"
    );
    let profile = slowburn(&["inspect", "--profile"]).stdout;
    assert!(String::from_utf8_lossy(&profile).contains("<Keyword Value=\"ReadyThread\"/>"));
}

/// The rest is replayed, and the damage is said.
#[test]
fn a_cut_recording() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(&directory, "shop.etl");
    record(
        &file,
        Form {
            buffer_bytes: 1024,
            ..Form::default()
        },
    )
    .expect("it can be written");
    let whole = std::fs::read(&file).expect("it can be read");
    std::fs::write(&file, &whole[..whole.len() * 2 / 3]).expect("it can be written");
    let name = file.to_str().expect("text");
    let output = slowburn(&["replay", name, "--process", "shop"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("damaged in"),
        "{said}"
    );
    assert!(of_type(&records(&output.stdout), "window").len() > 3);
    let inspection = slowburn(&["inspect", name]).stdout;
    let inspection = String::from_utf8_lossy(&inspection);
    assert!(
        inspection.contains("buffers are missing from the end at byte"),
        "{inspection}"
    );
}

#[track_caller]
fn refuses(args: &[&str], code: i32, words: &str) {
    let output = slowburn(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(
        said.contains(words) && !said.contains("panicked"),
        "{args:?}: {said}"
    );
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn what_cannot_be_replayed_is_explained() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, other) = (path(&directory, "shop.etl"), path(&directory, "other.etl"));
    let stream = path(&directory, "stream.jsonl");
    record(&file, Form::default()).expect("it can be written");
    let (name, other_name) = (file.to_str().expect("text"), other.to_str().expect("text"));
    refuses(
        &["replay", name],
        2,
        "choose with --service, --process or --pid",
    );
    refuses(
        &["replay", name, "--pid", "1", "--process", "a"],
        2,
        "cannot be used with",
    );
    refuses(
        &["replay", name, "--service", "nginx"],
        1,
        "neither a service nor a process named \"nginx\"",
    );
    refuses(&["replay", name, "--pid", "999"], 1, "no process 999");
    refuses(&["inspect"], 2, "FILE");
    refuses(&["inspect", "/nowhere.etl"], 1, "cannot read /nowhere.etl");
    std::fs::write(&other, b"PK\x03\x04 and so on").expect("it can be written");
    refuses(&["inspect", other_name], 1, "a ZIP archive: unpack it");
    refuses(
        &["replay", other_name, "--pid", "1"],
        1,
        "a ZIP archive: unpack it",
    );
    std::fs::write(&stream, b"{}\n").expect("it can be written");
    refuses(
        &["replay", stream.to_str().expect("text"), "--service", "a"],
        2,
        "are for recordings of Windows",
    );
}

/// What comes out does not depend on the system. With `SLOWBURN_REPLAYS` set to a directory, each system leaves there what it has replayed, and
/// compares it with what others have left: recordings of known content, and those in `SLOWBURN_ETL_CORPUS`.
#[test]
fn replays_are_the_same_on_every_system() {
    let Some(directory) = std::env::var_os("SLOWBURN_REPLAYS") else {
        println!("SKIP: SLOWBURN_REPLAYS does not name a directory for comparing replays");
        return;
    };
    let all = PathBuf::from(directory);
    let own = all.join(std::env::consts::OS);
    std::fs::create_dir_all(&own).expect("it can be made");
    let written = tempfile::tempdir().expect("a directory");
    for (n, form) in forms().into_iter().enumerate() {
        let file = path(&written, &format!("written{n}.etl"));
        record_for(&file, form, 900).expect("it can be written");
        keep(
            &file,
            &["--service", "Shop", "--events", "all", "--window", "2s"],
            &own,
        );
    }
    let corpus = std::env::var_os("SLOWBURN_ETL_CORPUS").map(PathBuf::from);
    let files = corpus
        .iter()
        .flat_map(|corpus| std::fs::read_dir(corpus).expect("it is there"));
    for file in files.map(|file| file.expect("it can be listed").path()) {
        if file.extension().is_some_and(|extension| extension == "etl") {
            keep(&file, &["--process", "svchost"], &own);
        }
    }
    let others = std::fs::read_dir(&all).expect("it is there");
    let mut compared = 0;
    for other in others.map(|other| other.expect("it can be listed").path()) {
        for file in std::fs::read_dir(&other).expect("it is there") {
            let file = file.expect("it can be listed");
            let read = |path: &Path| std::fs::read(path).unwrap_or_default();
            let (theirs, ours) = (read(&file.path()), read(&own.join(file.file_name())));
            assert!(
                theirs == ours,
                "{} and {} differ",
                file.path().display(),
                own.display()
            );
            compared += usize::from(other != own);
        }
    }
    println!("{compared} files of other systems are the same");
}

/// Leaves what `replay` and `inspect` say of a recording.
fn keep(file: &Path, args: &[&str], own: &Path) {
    let name = file
        .file_name()
        .expect("it has a name")
        .to_str()
        .expect("text");
    let directory = file.parent().expect("it is in a directory");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slowburn"));
        let output = command.current_dir(directory).args(args).output();
        let output = output.expect("slowburn can be started");
        let mut text = output.stdout;
        text.extend_from_slice(format!("\nexit code {:?}\n", output.status.code()).as_bytes());
        text
    };
    let replayed = run(&[&["replay", "--quiet", name], args].concat());
    std::fs::write(own.join(format!("{name}.jsonl")), replayed).expect("it can be written");
    let inspected = run(&["inspect", "--json", name]);
    std::fs::write(own.join(format!("{name}.json")), inspected).expect("it can be written");
}
