//! The records of a tiny kernel's whole history are what they should be, whatever the history.

mod kernel;

use std::collections::BTreeMap;

use kernel::{Action, Kernel, Told, WindowTold, actions};
use proptest::prelude::*;
use slowburn_probes::event::{Event, Life};

use super::*;
use crate::{
    detect::Config,
    stream::{Moment, ProcessId, Scope},
};

fn pipeline() -> Pipeline {
    let names = kernel::SERVICES.map(str::to_owned);
    Pipeline::new(&names, true, Detector::new(Config::default()))
}

fn life(id: u32, created: Moment) -> Life {
    Life {
        id,
        start_ns: created.0,
    }
}

fn process_life(id: &ProcessId) -> Life {
    life(id.pid, id.created)
}

/// A record in the form that the tiny kernel foretells it in. Flags are the detector's affair.
fn told(record: &Record) -> Option<Told> {
    Some(match record {
        Record::Target(target) => Told::Target {
            ts: target.ts.0,
            kind: target.event,
            service: target.service.clone(),
            process: target
                .pid
                .zip(target.created)
                .map(|(pid, at)| life(pid, at)),
        },
        Record::Thread(thread) => Told::Thread {
            ts: thread.ts.0,
            kind: thread.event,
            process: process_life(&thread.process),
            thread: life(thread.thread.tid, thread.thread.created),
        },
        Record::Mapping(mapping) => Told::Mapping {
            ts: mapping.ts.0,
            process: process_life(&mapping.process),
            thread: life(mapping.thread.tid, mapping.thread.created),
        },
        Record::Window(window) => Told::Window(WindowTold {
            ts: window.ts.0,
            process: process_life(&window.process),
            thread: window.thread.as_ref().map(|t| life(t.tid, t.created)),
            ended: window.ended,
            threads: window
                .threads
                .as_ref()
                .map(|t| (t.live, t.created, t.exited)),
            waits: window.delay.as_ref().unwrap().count,
            wait_ns: window.delay.as_ref().unwrap().sum_ns,
            reserved: window.memory.reserved_bytes,
        }),
        Record::Flag(_) | Record::Incident(_) => return None,
        other => panic!("{other:?}"),
    })
}

fn play(history: &[Action]) -> Result<Vec<Record>, TestCaseError> {
    let mut kernel = Kernel::default();
    let mut pipeline = pipeline();
    let mut records = Vec::new();
    for action in history
        .iter()
        .chain([&Action::EndWindow, &Action::EndWindow])
    {
        let (events, expected) = kernel.act(action);
        let from = records.len();
        for event in &events {
            pipeline.event(event, &mut |record| records.push(record));
        }
        let got: Vec<_> = records[from..].iter().filter_map(told).collect();
        prop_assert_eq!(got, expected, "of {:?}: {:?}", action, events);
        prop_assert_eq!(pipeline.live_processes(), kernel.followed_processes());
        prop_assert_eq!(pipeline.any_alive(), kernel.followed_processes() > 0);
    }
    Ok(records)
}

/// What docs/json.md says about the order of records and their times.
fn times_are_as_promised(records: &[Record]) -> Result<(), TestCaseError> {
    let mut ended = 0;
    let mut latest = 0;
    let mut of_thread = BTreeMap::<(Life, Life), u64>::new();
    for told in records.iter().filter_map(told) {
        match told {
            Told::Window(window) => {
                prop_assert!(window.ts >= ended, "the ends of windows ascend");
                prop_assert!(
                    window.ts >= latest,
                    "what was written before a window is no later"
                );
                ended = window.ts;
            }
            Told::Target { ts, .. } => latest = latest.max(ts),
            Told::Thread {
                ts,
                process,
                thread,
                ..
            }
            | Told::Mapping {
                ts,
                process,
                thread,
            } => {
                latest = latest.max(ts);
                let before = of_thread.insert((process, thread), ts).unwrap_or(0);
                prop_assert!(before <= ts, "the records of a thread are in order");
            }
        }
    }
    Ok(())
}

/// Begin and end in turns, and all windows between them: none after the last.
fn lives_are_told_once(records: &[Record]) -> Result<(), TestCaseError> {
    let mut alive = BTreeMap::<Life, bool>::new();
    let mut closed = BTreeMap::<Life, bool>::new();
    for told in records.iter().filter_map(told) {
        match told {
            Told::Target {
                kind,
                process: Some(process),
                ..
            } => {
                let begins = match kind {
                    TargetEventKind::Found | TargetEventKind::Started => true,
                    TargetEventKind::Exited | TargetEventKind::Left => false,
                    _ => continue,
                };
                let was_alive = alive.insert(process, begins).unwrap_or(false);
                prop_assert_ne!(was_alive, begins, "{:?} of {:?}", kind, process);
                if begins {
                    closed.insert(process, false);
                }
            }
            Told::Window(window) if window.thread.is_none() => {
                prop_assert_eq!(closed.get(&window.process), Some(&false), "{:?}", window);
                prop_assert_eq!(window.ended, !alive[&window.process]);
                closed.insert(window.process, window.ended);
            }
            _ => {}
        }
    }
    for (process, alive) in alive {
        prop_assert_eq!(
            closed[&process],
            !alive,
            "the last window of {:?} says so",
            process
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_is_told_as_it_happened(history in actions()) {
        let records = play(&history)?;
        times_are_as_promised(&records)?;
        lives_are_told_once(&records)?;
    }
}

/// A program whose name matches is followed, then found to be another one and left, and then executes the right one.
#[test]
fn a_process_that_is_back_within_a_window_is_alive() {
    let mut kernel = Kernel::default();
    let mut pipeline = pipeline();
    let mut records = Vec::new();
    for action in [
        Action::begin(Origin::Name),
        Action::leave(),
        Action::come_back(),
    ] {
        for event in kernel.act(&action).0 {
            pipeline.event(&event, &mut |record| records.push(record));
        }
    }
    assert!(pipeline.any_alive());
    let kinds: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Target(target) => Some(target.event),
            _ => None,
        })
        .collect();
    let expected = [
        TargetEventKind::Started,
        TargetEventKind::Left,
        TargetEventKind::Gone,
        TargetEventKind::Returned,
        TargetEventKind::Found,
    ];
    assert_eq!(kinds, expected);
}

/// The first thread, known for long, ends because another executes a program and becomes it, and then exits at once.
#[test]
fn the_first_thread_has_a_last_window_after_an_exec_by_another() {
    let (process, other) = (Life { id: 1, start_ns: 1 }, Life { id: 2, start_ns: 2 });
    let task = |thread| Task {
        thread,
        process,
        service: 0,
        name: [0; 16],
    };
    let start = |thread, origin| Event::TaskStart {
        ts: 1,
        task: task(thread),
        origin,
        creator: None,
    };
    let exit = |thread| Event::TaskExit {
        ts: 1,
        task: task(thread),
        followed_ns: 0,
        alive: false,
    };
    let end = || Event::WindowEnd {
        ts: 2,
        period_ns: 1,
    };
    let history = [
        start(process, Origin::Found),
        start(other, Origin::Found),
        end(),
        exit(process),
        start(process, Origin::Thread),
        exit(other),
        exit(process),
        end(),
    ];
    let mut pipeline = pipeline();
    let mut last_windows = Vec::new();
    for event in &history {
        pipeline.event(event, &mut |record| match record {
            Record::Window(window) if window.ended && window.scope == Scope::Thread => {
                last_windows.extend(window.thread.map(|thread| thread.tid));
            }
            _ => {}
        });
    }
    assert_eq!(last_windows, [1, 2]);
}
