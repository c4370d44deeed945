//! The live source over a system that is made up: see `fake_etw`.
#![cfg(windows)]

#[expect(
    dead_code,
    reason = "what cannot be read is tested in a program of its own"
)]
mod fake_etw;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fake_etw::{
    Fake, FakeEvent, of_recording,
    shop::{self, STORE, TILL},
};
use slowburn_probes::{
    etw::{Recording, Replay, Survey, tracker, writer::Form},
    event::{Class, Event},
    windows::{Losses, Options, SESSION, Source, SourceError, Target, support},
};
use tempfile::TempDir;

const OPTIONS: Options = Options {
    queue_bytes: 64 << 20,
    events: tracker::Options {
        slow_ns: 1_000_000,
        min_mapping_bytes: 1 << 20,
    },
};

fn target() -> Target {
    Target::Image("shop".into())
}

fn start() -> Result<Source, SourceError> {
    Source::start(target(), OPTIONS)
}

fn record(directory: &TempDir, rounds: u32) -> PathBuf {
    let path = directory.path().join("shop.etl");
    shop::write(&path, Form::default(), 100, rounds).expect("the recording can be written");
    path
}

/// What was measured, by thread: waits with their sum and longest, those unknown, and what was committed.
type Sums = BTreeMap<(u32, String), [u64; 5]>;

fn sums(events: &[Event]) -> Sums {
    let mut sums = Sums::new();
    for event in events {
        if let Event::Sample {
            task,
            memory,
            delays,
            ..
        } = event
        {
            let [count, sum, longest, unknown, committed] = sums
                .entry((task.thread.id, task.name().into_owned()))
                .or_default();
            *count += delays
                .counts
                .iter()
                .map(|(_, n)| u64::from(*n))
                .sum::<u64>();
            *sum += delays.sum_ns;
            *longest = delays.max_ns.max(*longest);
            *unknown += delays.unknown;
            *committed += memory.committed;
        }
    }
    sums
}

fn lost(events: &[Event]) -> u64 {
    let lost = events.iter().map(|event| match event {
        Event::Loss {
            class: Class::Trace,
            count,
            ..
        } => *count,
        _ => 0,
    });
    lost.sum()
}

fn replayed(path: &Path) -> Vec<Event> {
    let open = || Recording::open(File::open(path).expect("it is there")).expect("it is one");
    let survey = Survey::of(&mut open()).expect("it can be read");
    let window = Duration::from_hours(1);
    let mut replay = Replay::new(open(), &survey, target(), OPTIONS.events, window);
    let mut events = Vec::new();
    while replay.next(&survey, &mut events).expect("it can be read") {}
    events
}

/// Ends the current window as the daemon does.
fn end_window(source: &mut Source, events: &mut Vec<Event>) {
    source.close_window().expect("the session is there");
    while !source.is_settled() {
        source.drain(events);
        std::thread::sleep(Duration::from_millis(20));
    }
    source.end_window(events).expect("the session is there");
}

/// From the callback to the samples, live and a recording of the same.
#[test]
fn live_and_recorded_are_the_same() {
    let fake = Fake::new();
    let directory = TempDir::new().expect("there is room");
    let path = record(&directory, 50);
    let mut source = start().expect("the session starts");
    source.begin();
    fake.send(SESSION, of_recording(&path));
    fake.delivered(SESSION);
    let mut live = Vec::new();
    end_window(&mut source, &mut live);
    source.stop(&mut live);
    let live_sums = sums(&live);
    assert_eq!(live_sums, sums(&replayed(&path)));
    // Not that both are nothing: 50 waits of 3 ms, 50 MiB.
    let till = &live_sums[&(TILL, "till".into())];
    assert_eq!(till[..3], [50, 150_000_000, 3_000_000]);
    assert_eq!(live_sums[&(STORE, "store".into())][4], 50 << 20);
    assert_eq!(lost(&live), 0);
    assert_eq!(source.losses(), Losses::default());
    let singles = |events: &[Event]| {
        let single = |event: &&Event| matches!(event, Event::Delay { .. } | Event::Mapping { .. });
        let texts = events.iter().filter(single);
        texts.map(|event| format!("{event:?}")).collect::<Vec<_>>()
    };
    assert_eq!(singles(&live), singles(&replayed(&path)));
    assert_eq!(
        fake.flushes(),
        1,
        "the window asks for what is in the buffers"
    );
    assert_eq!(fake.sessions(), [""; 0], "it was stopped");
}

#[test]
fn the_session_is_made_for_bursts() {
    let fake = Fake::new();
    let source = start().expect("the session starts");
    let settings = fake.settings(SESSION);
    // Processes, threads, switches, wake-ups, allocations.
    assert_eq!(settings.flags, 0x1 | 0x2 | 0x10 | 0x800 | 0x4000);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    assert_eq!(settings.buffers, (256, 4 * cpus, 32 * cpus));
    assert_eq!(settings.flush, 1);
    // In real time, and with buffers for each processor.
    assert_eq!(settings.mode & 0x1000_0100, 0x100);
    drop(source);
}

/// Several hundred thousand events at once: nothing is lost, or what is lost is told.
#[test]
fn bursts_are_taken() {
    let fake = Fake::new();
    let directory = TempDir::new().expect("there is room");
    let path = record(&directory, 80_000);
    let events = of_recording(&path);
    let count = events.len();
    assert!(count > 400_000, "{count}");
    let mut source = start().expect("the session starts");
    source.begin();
    let begun = Instant::now();
    fake.send(SESSION, events);
    let mut live = Vec::new();
    while begun.elapsed() < Duration::from_mins(1) && !live_has(&live, 80_000) {
        std::thread::sleep(Duration::from_millis(50));
        source.drain(&mut live);
    }
    let took = begun.elapsed();
    source.stop(&mut live);
    println!(
        "{count} events in {took:?}: {:.0} a second",
        count as f64 / took.as_secs_f64()
    );
    assert_eq!(source.losses(), Losses::default());
    assert_eq!(
        sums(&live)[&(TILL, "till".into())][..2],
        [80_000, 240_000_000_000]
    );
}

fn live_has(events: &[Event], delays: usize) -> bool {
    let delay = |event: &&Event| matches!(event, Event::Delay { .. });
    events.iter().filter(delay).count() >= delays
}

#[test]
fn what_the_queue_has_no_room_for_is_told() {
    let fake = Fake::new();
    let directory = TempDir::new().expect("there is room");
    let events = of_recording(&record(&directory, 2_000));
    let count = events.len() as u64;
    let options = Options {
        queue_bytes: 100_000,
        ..OPTIONS
    };
    let mut source = Source::start(target(), options).expect("the session starts");
    source.begin();
    fake.send(SESSION, events);
    fake.delivered(SESSION);
    let mut live = Vec::new();
    end_window(&mut source, &mut live);
    let losses = source.losses();
    assert!(losses.queue > 0 && losses.queue < count, "{losses:?}");
    assert_eq!(losses.session, 0);
    assert_eq!(lost(&live), losses.queue);
    source.stop(&mut live);
}

#[test]
fn what_the_session_has_lost_is_told_once_and_spoils_waits() {
    let fake = Fake::new();
    let directory = TempDir::new().expect("there is room");
    let events = of_recording(&record(&directory, 3));
    let mut source = start().expect("the session starts");
    source.begin();
    fake.lose(SESSION, 70, 3);
    fake.send(SESSION, events);
    fake.delivered(SESSION);
    let mut live = Vec::new();
    end_window(&mut source, &mut live);
    assert_eq!(lost(&live), 73);
    end_window(&mut source, &mut live);
    assert_eq!(lost(&live), 73, "it is told once");
    fake.lose(SESSION, 1, 0);
    source.stop(&mut live);
    assert_eq!(lost(&live), 74, "also what was lost at the end");
    let all = Losses {
        session: 74,
        queue: 0,
    };
    assert_eq!(source.losses(), all);
}

/// What a crash leaves behind: sessions outlive their programs.
#[test]
fn what_is_left_of_an_earlier_session_is_ended() {
    let fake = Fake::new();
    fake.leave_behind(SESSION);
    fake.leave_behind("somebody else's");
    let source = start().expect("the session starts");
    assert!(source.was_stale);
    assert_eq!(fake.sessions(), [SESSION, "somebody else's"]);
    drop(source);
    assert_eq!(fake.sessions(), ["somebody else's"]);
    assert!(!start().expect("the session starts").was_stale);
}

#[test]
fn a_second_slowburn_does_not_end_the_first() {
    let fake = Fake::new();
    let first = start().expect("the session starts");
    let second = start().err().expect("there is one");
    assert!(matches!(second, SourceError::Second), "{second}");
    assert!(!first.has_ended());
    assert_eq!(fake.sessions(), [SESSION]);
    drop(first);
    start().expect("there is none any more");
}

#[test]
fn a_panic_ends_the_session() {
    let fake = Fake::new();
    let source = start().expect("the session starts");
    let panicked = std::thread::spawn(|| panic!("made up")).join();
    assert!(panicked.is_err());
    assert_eq!(fake.sessions(), [""; 0]);
    drop(source);
}

#[test]
fn somebody_else_ending_it_is_noticed() {
    let fake = Fake::new();
    let mut source = start().expect("the session starts");
    assert!(!source.has_ended());
    fake.end(SESSION);
    let begun = Instant::now();
    while !source.has_ended() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(source.has_ended());
    let error = source.end_window(&mut Vec::new()).expect_err("it is gone");
    assert!(
        error
            .to_string()
            .starts_with("cannot query the tracing session"),
        "{error}"
    );
}

#[test]
fn without_rights_there_is_one_sentence() {
    let fake = Fake::new();
    fake.forbid();
    let error = start().err().expect("nobody may");
    assert!(matches!(error, SourceError::NotElevated), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn without_a_slot_it_is_told_who_has_them() {
    let fake = Fake::new();
    for n in 1..=8 {
        fake.leave_behind(&format!("session {n}"));
    }
    let error = start().err().expect("there is no room").to_string();
    assert!(
        error.contains("8 are in use (session 1, session 2"),
        "{error}"
    );
    let checks = support();
    let slots = checks.iter().find(|check| check.name == "sessions");
    let found = &slots.expect("doctor looks at them").found;
    assert!(found.starts_with("8 in use"), "{found}");
}

/// Events of unknown versions and damaged payloads are left out, and nothing else is.
#[test]
fn what_cannot_be_decoded_does_no_harm() {
    let fake = Fake::new();
    let directory = TempDir::new().expect("there is room");
    let events = of_recording(&record(&directory, 20));
    let mixed = events.into_iter().flat_map(|event| {
        let unknown = FakeEvent {
            version: 99,
            ..event.clone()
        };
        let cut = FakeEvent {
            payload: event.payload[..event.payload.len() / 2].to_vec(),
            ..event.clone()
        };
        let foreign = FakeEvent {
            opcode: 250,
            ..event.clone()
        };
        [unknown, cut, event, foreign]
    });
    let mut source = start().expect("the session starts");
    source.begin();
    fake.send(SESSION, mixed);
    fake.delivered(SESSION);
    let mut live = Vec::new();
    source.stop(&mut live);
    assert_eq!(sums(&live)[&(TILL, "till".into())][..2], [20, 60_000_000]);
}
