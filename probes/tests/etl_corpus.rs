//! Recordings and payloads that others have made, against what others have read in them.
//!
//! They are of real machines and not part of the repository: `SLOWBURN_ETL_CORPUS` names the directory that they are in.
//! Without it there is nothing to compare, and the tests say so.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    io::Cursor,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value as Json;
use slowburn_probes::etw::{
    Counts, Event, Field, Id, Recording, Replay, Survey,
    buffer::{self, BufferHeader},
    clock::Clock,
    guid::group,
    header::{Class, Header},
    layout::layout,
    payload::decode,
    tracker::{Options, Target},
    value::Value,
};

/// The directory; says why if there is none.
fn corpus() -> Option<PathBuf> {
    let path = env::var_os("SLOWBURN_ETL_CORPUS").map(PathBuf::from);
    if path.is_none() {
        println!("SKIP: SLOWBURN_ETL_CORPUS does not name a directory of recordings");
    }
    path
}

fn json(path: &Path) -> Json {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// A payload of the collection: what it is, and what is in it.
struct Fixture {
    name: String,
    id: Option<Id>,
    pointer_size: u8,
    payload: Vec<u8>,
    expected: Vec<(String, Json)>,
}

/// Names of providers, and opcodes, that the collection leaves to the reader.
fn id_of(fixture: &Json, name: &str) -> Option<Id> {
    let version = fixture["version"].as_u64();
    let (group, opcode) = match fixture["provider"].as_str() {
        Some("kEventTraceEventProviderId") => (group::HEADER, None),
        Some("kThreadProviderId" | "3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c") => (group::THREAD, None),
        Some("kPageFaultProviderId") => (group::MEMORY, None),
        Some("3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c") => (group::PROCESS, None),
        Some(other) => panic!("{name}: provider {other}"),
        None => {
            let (group, opcode, version) = match name {
                "Kernel_EventTraceV2HeaderEventView" => (group::HEADER, 0, 2),
                "Kernel_EventTraceV2HeaderPartitionInfoExtensionTypeGroup" => {
                    (group::HEADER, 80, 2)
                }
                "Kernel_EventTraceV2HeaderExtensionTypeGroup" => (group::HEADER, 5, 2),
                "Kernel_ProcessV4TypeGroup1EventView" => (group::PROCESS, 1, 4),
                "Kernel_ProcessV2TypeGroup2EventView" => (group::PROCESS, 32, 2),
                "Kernel_ThreadV3TypeGroup1EventView" => (group::THREAD, 3, 3),
                "Kernel_ThreadV4TypeGroup1EventView" => (group::THREAD, 3, 4),
                "Kernel_ThreadV4ContextSwitchEventView" => (group::THREAD, 36, 4),
                "Kernel_ThreadV2SetNameEventView" => (group::THREAD, 72, 2),
                "Kernel_SystemConfigV3CpuEventView" => (group::SYSTEM, 10, 3),
                _ => return None,
            };
            return Some(Id {
                group,
                opcode,
                version,
            });
        }
    };
    let opcode = opcode.or(fixture["opcode"].as_u64()).expect("an opcode") as u8;
    Some(Id {
        group,
        opcode,
        version: version.expect("a version") as u8,
    })
}

fn fixtures(corpus: &Path) -> Vec<Fixture> {
    let all = json(&corpus.join("payload-fixtures.json"));
    let all = all.as_array().expect("an array").iter().map(|fixture| {
        let name = fixture["name"].as_str().expect("a name").to_owned();
        let expected = fixture["expected"]
            .as_object()
            .or(fixture["expected_cpp"].as_object());
        Fixture {
            id: id_of(fixture, &name),
            pointer_size: fixture["pointer_size"].as_u64().expect("a size") as u8,
            payload: bytes(fixture["payload"].as_str().expect("a payload")),
            expected: expected
                .expect("values")
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            name,
        }
    });
    all.collect()
}

/// Small letters without underscores, since each of the three sources of fixtures writes names in its own way, and with
/// the one name of what has several.
fn plain(name: &str, group: u8) -> String {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase();
    let name = name.strip_prefix("timezoneinformation").unwrap_or(&name);
    match (name, group) {
        ("threadid" | "tthreadid", _) => "tid",
        ("newthreadpriority", _) => "newpriority",
        ("oldthreadpriority", _) => "oldpriority",
        ("flags", group::THREAD) => "threadflags",
        ("oldthreadwaitmode" | "spare", _) => "waitmode",
        ("hyperthreadingflag", _) => "hyperthreading",
        ("memsize", _) => "memorysize",
        ("sessionname" | "sessionnamestring", _) => "session",
        ("filename" | "logfilenamestring", _) => "file",
        (name, _) => name,
    }
    .to_owned()
}

/// A number or text as the fixtures write it: decimal, hexadecimal, or an expression of C++.
fn expected(value: &Json) -> String {
    let text = match value {
        Json::String(text) => text.replace('\'', ""),
        other => return other.to_string(),
    };
    if let Some(quoted) = text
        .strip_prefix("std::")
        .and_then(|text| text.split_once('"'))
    {
        return quoted.1.trim_end_matches(['"', ')']).replace("\\\\", "\\");
    }
    let number = text.trim_end_matches("ULL");
    let hex = text
        .strip_prefix("0x")
        .or((text.len() == 16).then_some(number));
    if let Some(number) = hex.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        return number.to_string();
    }
    number.to_owned()
}

fn shown(value: Value) -> String {
    match value {
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Utf16(text) => text.to_string(),
        Value::Ansi(text) => text.to_string(),
        Value::Sid(Some(sid)) => sid.to_string(),
        Value::Sid(None) => String::new(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
    }
}

/// Parts of fields that a payload has as one, and the length, which is no field.
fn is_part(name: &str, found: &[(Field, Value)]) -> Option<bool> {
    let value_of = |field| {
        found
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, value)| *value)
    };
    let date = |field, part: &str, expected: u16| {
        let Some(Value::Bytes(bytes)) = value_of(field) else {
            return false;
        };
        let parts = [
            "year",
            "month",
            "day_of_week",
            "day",
            "hour",
            "minute",
            "second",
            "milliseconds",
        ];
        let n = 2 * parts
            .iter()
            .position(|known| *known == part)
            .expect("part of a date");
        u16::from_le_bytes([bytes[n], bytes[n + 1]]) == expected
    };
    let (name, expected) = name.split_once('=').expect("a pair");
    let number = || expected.parse().expect("a number");
    let sid = || value_of(Field::UserSID).map(shown).unwrap_or_default();
    let version = || value_of(Field::Version).map_or(0, Value::number);
    Some(match name {
        "os_version_major" => version() as u8 == number() as u8,
        "os_version_minor" => (version() >> 8) as u8 == number() as u8,
        "sp_version_major" => (version() >> 16) as u8 == number() as u8,
        "sp_version_minor" => (version() >> 24) as u8 == number() as u8,
        "log_file_mode().count" => {
            value_of(Field::LogFileMode)?.number().count_ones() == u32::from(number())
        }
        "user_sid().revision" => sid().starts_with("S-1-5-"),
        "dynamic_size" | "user_sid().identifier_authority" | "user_sid_token_user" => true,
        "user_sid().sub_authority_count" => sid().matches('-').count() == 2 + usize::from(number()),
        _ if name.starts_with("user_sid().") => true,
        _ => {
            let (zone, part) = name.split_once("_date().")?;
            match zone.strip_prefix("time_zone_information().")? {
                "standard" => date(Field::StandardDate, part, number()),
                _ => date(Field::DaylightDate, part, number()),
            }
        }
    })
}

#[track_caller]
fn check_fields(fixture: &Fixture, id: Id) {
    let Fixture {
        name,
        pointer_size,
        payload,
        ..
    } = fixture;
    let layout = layout(id).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = Vec::new();
    layout
        .read(payload, *pointer_size, |field, value| {
            found.push((field, value));
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    decode(id, *pointer_size, payload).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (field, value) in &fixture.expected {
        let wanted = expected(value);
        if let Some(is_right) = is_part(&format!("{field}={wanted}"), &found) {
            assert!(is_right, "{name}: {field} is not {wanted}");
            continue;
        }
        let key = plain(field, id.group);
        let same = |(known, _): &&(Field, Value)| plain(&format!("{known:?}"), id.group) == key;
        let (_, value) = found
            .iter()
            .find(same)
            .unwrap_or_else(|| panic!("{name} has no {field}"));
        assert_eq!(shown(*value), wanted, "{name}: {field}");
    }
}

/// Of those that are not payloads but headers.
fn check_header(fixture: &Fixture) {
    let Fixture { name, payload, .. } = fixture;
    if name == "WmiBufferHeader" {
        let header = BufferHeader::read(
            payload
                .first_chunk::<{ buffer::HEADER }>()
                .expect("72 bytes"),
        );
        assert_eq!(
            (header.size, header.filled, header.cpu, header.kind),
            (65_536, 440, 0, 4)
        );
        return;
    }
    // A header claims the length of its event.
    let mut event = payload.clone();
    event.resize(512, 0);
    let header = Header::read(&event).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = |key: &str| {
        let value = fixture.expected.iter().find(|(name, _)| name == key);
        value.map(|(_, value)| expected(value))
    };
    let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
    let length = number("packet().size").or_else(|| number("size"));
    assert_eq!(Some(header.length as u64), length, "{name}");
    assert_eq!(header.payload, payload.len(), "{name}");
    assert_eq!(header.pointer_size, 8, "{name}");
    if let Some(time) = number("system_time").or_else(|| number("timestamp")) {
        assert_eq!(header.time, Some(time as i64), "{name}");
    }
    if let (Some(pid), Some(tid)) = (number("process_id"), number("thread_id")) {
        assert_eq!(header.thread, Some((pid as u32, tid as u32)), "{name}");
    }
    match header.class {
        Class::System {
            opcode, version, ..
        }
        | Class::Performance {
            opcode, version, ..
        } => {
            assert_eq!(number("packet().type"), Some(u64::from(opcode)), "{name}");
            assert_eq!(number("version"), Some(u64::from(version)), "{name}");
        }
        Class::Classic {
            opcode, version, ..
        } => {
            assert_eq!(
                number("trace_class().type"),
                Some(u64::from(opcode)),
                "{name}"
            );
            assert_eq!(
                number("trace_class().version"),
                Some(u64::from(version)),
                "{name}"
            );
        }
        Class::Manifest { id, opcode, .. } => {
            assert_eq!(
                number("event_descriptor().id"),
                Some(u64::from(id)),
                "{name}"
            );
            assert_eq!(
                number("event_descriptor().opcode"),
                Some(u64::from(opcode)),
                "{name}"
            );
        }
        other => panic!("{name} is no {other:?}"),
    }
}

#[test]
fn payloads_that_others_have_read() {
    let Some(corpus) = corpus() else { return };
    let all = fixtures(&corpus);
    for fixture in &all {
        match fixture.id {
            Some(id) => check_fields(fixture, id),
            None => check_header(fixture),
        }
    }
    assert_eq!(all.len(), 83);
}

/// Recordings that another parser has read too.
fn recordings(corpus: &Path, oracle: &str, extension: &str) -> Vec<(String, PathBuf)> {
    let entries =
        fs::read_dir(corpus.join("oracle")).expect("the directory of the other parser's results");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names = names.filter_map(|name| {
        Some(
            name.strip_prefix(oracle)?
                .strip_suffix(extension)?
                .to_owned(),
        )
    });
    let mut all: Vec<_> = names
        .map(|name| (name.clone(), corpus.join(name + ".etl")))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "there are results for no recording");
    all
}

fn open(path: &Path) -> Recording<fs::File> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Recording::open(file).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn events_are_counted_as_by_another_parser() {
    let Some(corpus) = corpus() else { return };
    for (name, path) in recordings(&corpus, "counts-", ".json") {
        let mut recording = open(&path);
        let mut counts = Counts::default();
        let mut last = i64::MIN;
        while let Some(event) = recording.next_event().expect("it can be read") {
            counts.add(event.header.class);
            assert!(event.time >= last, "{name}: back in time");
            last = event.time;
        }
        assert!(
            recording.damage().is_none(),
            "{name}: {:?}",
            recording.damage()
        );
        let oracle = json(&corpus.join(format!("oracle/counts-{name}.json")));
        assert_eq!(Some(counts.total()), oracle["total"].as_u64(), "{name}");
        assert_eq!(
            Some(recording.about().buffers as u64),
            oracle["buffers"].as_u64(),
            "{name}"
        );
        let expected = oracle["counts"].as_object().expect("counts").iter();
        let expected: BTreeMap<_, _> = expected
            .map(|(key, count)| (key.clone(), count.as_u64().expect("a count")))
            .collect();
        assert_eq!(counts.by_key(), expected, "{name}");
        println!("{name}: {} events", oracle["total"]);
    }
}

/// What the other parser has made of a field. It gives users as objects, and images in hexadecimal.
fn is_same(field: Field, value: Value, other: &Json) -> bool {
    match (field, value) {
        (Field::UserSID, Value::Sid(sid)) => {
            let text = other.as_str().unwrap_or_default();
            let list = text
                .split_once("subAuthorities=[")
                .map(|(_, list)| list.trim_end_matches(['>', ']']));
            let list = list.unwrap_or_default().replace(", ", "-");
            sid.is_some_and(|sid| sid.to_string() == format!("S-1-5-{list}"))
        }
        (Field::ImageFileName, Value::Ansi(text)) => {
            other.as_str().is_some_and(|hex| bytes(hex) == text.0)
        }
        (_, Value::Signed(value)) => other.as_i64() == Some(value),
        (_, Value::Unsigned(value)) => other.as_u64() == Some(value),
        (_, value) => other.as_str() == Some(&shown(value)),
    }
}

/// Its line of an event.
fn key(line: &Json) -> (u64, u64, u64, i64, Vec<u8>) {
    let number = |name: &str| line[name].as_u64().expect("a number");
    let payload = bytes(line["payload"].as_str().expect("a payload"));
    (
        number("group"),
        number("op"),
        number("ver"),
        line["raw_ts"].as_i64().expect("a time"),
        payload,
    )
}

fn check_line(name: &str, event: &Event, clock: &Clock, line: &Json) {
    let thread = event.header.thread;
    let other = |field: &str| line[field].as_u64().map(|id| id as u32);
    assert_eq!(
        thread.map(|(pid, _)| pid),
        other("hdr_pid"),
        "{name}: {line}"
    );
    assert_eq!(
        thread.map(|(_, tid)| tid),
        other("hdr_tid"),
        "{name}: {line}"
    );
    assert_eq!(
        Some(clock.filetime(event.time)),
        line["filetime"].as_u64(),
        "{name}: {line}"
    );
    let id = event.header.id().expect("of the kernel");
    let fields = line["fields"].as_object().expect("fields");
    let mut same = 0;
    let read = layout(id).expect("a layout").read(
        event.payload,
        event.header.pointer_size,
        |field, value| {
            match fields.get(&format!("{field:?}")) {
                Some(other) => {
                    assert!(
                        is_same(field, value, other),
                        "{name}: {field:?} is {value:?} here: {line}"
                    );
                    same += 1;
                }
                // It does not read the names of threads that have one.
                None => assert_eq!(field, Field::ThreadName, "{name}: {line}"),
            }
        },
    );
    read.unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
    assert_eq!(same, fields.len(), "{name}: {line}");
}

#[test]
fn fields_are_read_as_by_another_parser() {
    let Some(corpus) = corpus() else { return };
    for (name, path) in recordings(&corpus, "fields-", ".jsonl") {
        let text =
            fs::read_to_string(corpus.join(format!("oracle/fields-{name}.jsonl"))).expect("lines");
        let lines = text.lines().filter(|line| !line.is_empty());
        let lines: Vec<Json> = lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let mut expected: HashMap<_, _> = lines.iter().map(|line| (key(line), line)).collect();
        let count = expected.len();
        let mut recording = open(&path);
        let clock = recording.about().clock.expect("a clock");
        while let Some(event) = recording.next_event().expect("it can be read") {
            let Some(id) = event.header.id() else {
                continue;
            };
            let key = (
                id.group.into(),
                id.opcode.into(),
                id.version.into(),
                event.time,
                event.payload.to_vec(),
            );
            if let Some(line) = expected.remove(&key) {
                check_line(&name, &event, &clock, line);
            }
        }
        assert_eq!(
            expected.len(),
            0,
            "{name}: not found: {:?}",
            expected.keys().next()
        );
        println!("{name}: {count} events with all their fields");
    }
}

/// Everything that is done with a recording, whatever is in it. Tells how many events there were.
fn read_all(bytes: &[u8]) -> u64 {
    let open = || Recording::open(Cursor::new(bytes));
    let Ok(survey) = open().and_then(|mut recording| Survey::of(&mut recording)) else {
        return 0;
    };
    let pids: Vec<u32> = survey.processes.keys().copied().collect();
    let options = Options {
        slow_ns: 0,
        min_mapping_bytes: 0,
    };
    let mut events = Vec::new();
    if let Ok(recording) = open() {
        let window = Duration::from_secs(10);
        let mut replay = Replay::new(recording, &survey, Target::Pids(pids), options, window);
        while replay.next(&survey, &mut events).is_ok_and(|more| more) {
            events.clear();
        }
    }
    survey.counts.total()
}

/// Real recordings with a bit flipped or an end cut off: no panic, no end that does not come, and not many more events than there were.
#[test]
fn damaged_real_recordings() {
    let Some(corpus) = corpus() else { return };
    let small = fs::read(corpus.join("win10-10586-x86-smallEtlFile-XPRESS.etl"))
        .expect("the small recording");
    let mut bytes = small.clone();
    for bit in 0..8 * small.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read_all(&bytes) < 100, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..small.len() {
        read_all(&small[..length]);
    }
    let large = fs::read(corpus.join("srv2022-20348-x64-DynamicEvents-XPRESS.etl"))
        .expect("the large recording");
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 20) as usize % below
    };
    for _ in 0..40 {
        let mut bytes = large.clone();
        for _ in 0..20 {
            bytes[next(large.len())] ^= next(256) as u8;
        }
        bytes.truncate(large.len() - next(1_000));
        assert!(read_all(&bytes) < 40_000);
    }
}
