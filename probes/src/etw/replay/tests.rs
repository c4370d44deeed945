//! Replays of recordings whose content is known.

use std::{collections::BTreeMap, io::Cursor};

use super::*;
use crate::{
    etw::{
        payload::{Change, Region},
        target::{Found, NotFound, Wanted, find},
        writer::{Form, Process, Thread, Writer},
    },
    event::{Delays, MemoryFlow, Origin, Standing, Task},
};

const WAITING: i8 = 5;
const READY: i8 = 1;
const MS: i64 = 10_000;

type Memory = Writer<Cursor<Vec<u8>>>;

/// A host where the threads 101 and 102 of process 100, and 201 of process 200, run.
fn host(form: Form) -> Memory {
    let mut writer = Writer::new(Cursor::new(Vec::new()), form).unwrap();
    let t = form.origin;
    for (pid, image) in [(0, "Idle"), (100, "shop.exe"), (200, "hog.exe")] {
        writer
            .process(
                0,
                t,
                Change::ThereAtStart,
                Process {
                    pid,
                    parent: 4,
                    image,
                },
            )
            .unwrap();
    }
    for (pid, tid, name) in [
        (0, 0, ""),
        (100, 101, ""),
        (100, 102, "worker"),
        (200, 201, ""),
    ] {
        writer
            .thread(
                0,
                t,
                Change::ThereAtStart,
                Thread {
                    pid,
                    tid,
                    name,
                    ..Thread::default()
                },
            )
            .unwrap();
    }
    writer
}

fn options() -> Options {
    Options {
        slow_ns: 10_000_000,
        min_mapping_bytes: 1 << 20,
    }
}

fn surveyed(bytes: &[u8]) -> Survey {
    Survey::of(&mut Recording::open(Cursor::new(bytes)).unwrap()).unwrap()
}

/// All events of a replay in windows of a second.
fn events(bytes: &[u8], wanted: &Wanted) -> Vec<Event> {
    let survey = surveyed(bytes);
    let found = find(&survey, wanted).unwrap();
    let recording = Recording::open(Cursor::new(bytes)).unwrap();
    let mut replay = Replay::new(
        recording,
        &survey,
        found.target,
        options(),
        Duration::from_secs(1),
    );
    let mut events = Vec::new();
    while replay.next(&survey, &mut events).unwrap() {}
    events
}

fn shop() -> Wanted {
    Wanted::Process("SHOP".into())
}

/// Waits of each thread.
fn delays(events: &[Event]) -> BTreeMap<u32, Delays> {
    let mut all: BTreeMap<u32, Delays> = BTreeMap::new();
    for event in events {
        if let Event::Sample { task, delays, .. } = event {
            let sum = all.entry(task.thread.id).or_default();
            sum.sum_ns += delays.sum_ns;
            sum.max_ns = sum.max_ns.max(delays.max_ns);
            sum.unknown += delays.unknown;
            sum.moved += delays.moved;
            sum.counts.extend(&delays.counts);
            for (sum, more) in [
                (&mut sum.behind.own, delays.behind.own),
                (&mut sum.behind.idle, delays.behind.idle),
                (&mut sum.behind.others, delays.behind.others),
            ] {
                sum.count += more.count;
                sum.sum_ns += more.sum_ns;
            }
        }
    }
    all
}

fn count(delays: &Delays) -> u32 {
    delays.counts.iter().map(|(_, count)| count).sum()
}

fn forms() -> impl Iterator<Item = Form> {
    let all = [4, 8].into_iter().flat_map(|pointer_size| {
        [false, true].map(|is_compressed| Form {
            pointer_size,
            is_compressed,
            cpus: 3,
            ..Form::default()
        })
    });
    all.flat_map(|form| {
        [
            form,
            Form {
                clock: 2,
                origin: 133_500_000_000_000_000,
                ..form
            },
            Form {
                clock: 3,
                cpu_mhz: 10,
                ..form
            },
        ]
    })
}

/// One wait of each kind, as long as it was made.
#[test]
fn delays_as_constructed() {
    for form in forms() {
        let mut w = host(form);
        let t = form.origin + MS;
        // 101 waits for 201 to leave: 3 ms after its wake-up. It is idle before.
        w.switch(0, t, 0, WAITING, 201).unwrap();
        w.switch(1, t, 0, WAITING, 101).unwrap();
        w.switch(1, t + MS, 101, WAITING, 0).unwrap();
        w.ready(1, t + 2 * MS, 101).unwrap();
        w.switch(0, t + 5 * MS, 201, WAITING, 101).unwrap();
        // Preempted by 102, which was never seen before: 2 ms until it is back.
        w.switch(0, t + 6 * MS, 101, READY, 102).unwrap();
        w.switch(0, t + 8 * MS, 102, WAITING, 101).unwrap();
        // Readied on its way out: 4 ms from then on.
        w.ready(2, t + 9 * MS, 101).unwrap();
        w.switch(0, t + 10 * MS, 101, WAITING, 0).unwrap();
        w.switch(0, t + 14 * MS, 0, WAITING, 101).unwrap();
        // Nobody tells why it runs again.
        w.switch(0, t + 15 * MS, 101, WAITING, 0).unwrap();
        w.switch(0, t + 16 * MS, 0, WAITING, 101).unwrap();
        let events = events(&w.finish().unwrap().into_inner(), &shop());
        let delays = delays(&events);
        let of_101 = &delays[&101];
        assert_eq!(
            (count(of_101), of_101.sum_ns, of_101.max_ns),
            (3, 9_000_000, 4_000_000),
            "{form:?}"
        );
        // The first time it was not known either.
        assert_eq!((of_101.unknown, of_101.moved), (2, 1), "{form:?}");
        assert_eq!(
            (of_101.behind.others.count, of_101.behind.others.sum_ns),
            (1, 3_000_000)
        );
        assert_eq!(
            (of_101.behind.own.count, of_101.behind.own.sum_ns),
            (1, 2_000_000)
        );
        assert_eq!(
            (of_101.behind.idle.count, of_101.behind.idle.sum_ns),
            (1, 4_000_000)
        );
        assert_eq!((count(&delays[&102]), delays[&102].unknown), (0, 1));
        assert_eq!(delays.len(), 2, "others are not followed");
        let cpu = events.iter().find_map(|event| match event {
            Event::Process { account, .. } => account.cpu_ns,
            _ => None,
        });
        assert_eq!(cpu, Some(1_000_000 * (1 + 1 + 2 + 2 + 1)), "{form:?}");
    }
}

#[test]
fn slow_waits_name_who_ran() {
    let form = Form::default();
    let mut w = host(form);
    let t = form.origin + MS;
    w.switch(0, t, 0, WAITING, 201).unwrap();
    w.ready(1, t, 102).unwrap();
    w.switch(0, t + 50 * MS, 201, READY, 102).unwrap();
    let bytes = w.finish().unwrap().into_inner();
    let events = events(&bytes, &shop());
    let slow: Vec<_> = events
        .iter()
        .filter(|event| matches!(event, Event::Delay { .. }))
        .collect();
    let [
        Event::Delay {
            task,
            wait_ns,
            cpu,
            culprit,
            culprit_name,
            culprit_followed,
            ..
        },
    ] = slow[..]
    else {
        panic!("{slow:?}");
    };
    assert_eq!(
        (task.name().as_ref(), *wait_ns, *cpu),
        ("worker", 50_000_000, 0)
    );
    assert_eq!(
        (*culprit, &culprit_name[..8], *culprit_followed),
        ((200, 201), b"hog.exe\0".as_slice(), false)
    );
    let survey = surveyed(&bytes);
    let recording = Recording::open(Cursor::new(&bytes)).unwrap();
    let target = find(&survey, &shop()).unwrap().target;
    let mut replay = Replay::new(
        recording,
        &survey,
        target,
        options(),
        Duration::from_secs(1),
    );
    while replay.next(&survey, &mut Vec::new()).unwrap() {}
    let rivals = replay.take_rivals();
    assert_eq!(
        (rivals[0].waiter, rivals[0].process, rivals[0].waits.sum_ns),
        (100, 200, 50_000_000)
    );
    assert_eq!((rivals.len(), replay.take_rivals().len()), (1, 0));
}

/// What a loss may have spoilt is unknown, and nothing is made up.
#[test]
fn losses_spoil_what_they_may() {
    let form = Form {
        cpus: 2,
        ..Form::default()
    };
    let mut w = host(form);
    let t = form.origin + MS;
    w.switch(0, t, 0, WAITING, 101).unwrap();
    w.switch(1, t, 0, WAITING, 102).unwrap();
    w.switch(1, t + MS, 102, WAITING, 0).unwrap();
    w.ready(1, t + 2 * MS, 102).unwrap();
    // On processor 0 it was not 101 any more.
    w.switch(0, t + 3 * MS, 201, WAITING, 0).unwrap();
    w.switch(1, t + 4 * MS, 0, WAITING, 102).unwrap();
    w.switch(1, t + 5 * MS, 102, WAITING, 0).unwrap();
    w.ready(1, t + 6 * MS, 102).unwrap();
    w.switch(1, t + 7 * MS, 0, WAITING, 102).unwrap();
    w.switch(0, t + 8 * MS, 0, WAITING, 101).unwrap();
    let events = events(&w.finish().unwrap().into_inner(), &shop());
    let delays = delays(&events);
    assert_eq!(
        (
            count(&delays[&102]),
            delays[&102].sum_ns,
            delays[&102].unknown
        ),
        (1, 1_000_000, 2)
    );
    assert_eq!((count(&delays[&101]), delays[&101].unknown), (0, 2));
    let lost: u64 = events
        .iter()
        .map(|event| {
            if let Event::Loss {
                class: Class::Trace,
                count,
                ..
            } = event
            {
                *count
            } else {
                0
            }
        })
        .sum();
    assert_eq!(lost, 1);
}

#[test]
fn buffers_that_tell_of_losses() {
    let form = Form {
        cpus: 2,
        ..Form::default()
    };
    let mut w = host(form);
    let t = form.origin + MS;
    w.switch(0, t, 0, WAITING, 101).unwrap();
    w.switch(0, t + MS, 101, WAITING, 0).unwrap();
    w.ready(0, t + 2 * MS, 101).unwrap();
    w.flush(0).unwrap();
    w.lose(0, 7);
    // Between the two, it may have run and been made ready again.
    w.switch(0, t + 9 * MS, 0, WAITING, 101).unwrap();
    let events = events(&w.finish().unwrap().into_inner(), &shop());
    assert_eq!(
        (count(&delays(&events)[&101]), delays(&events)[&101].unknown),
        (0, 2)
    );
    let lost: u64 = events
        .iter()
        .map(|event| {
            if let Event::Loss {
                class: Class::Trace,
                count,
                ..
            } = event
            {
                *count
            } else {
                0
            }
        })
        .sum();
    assert_eq!(lost, 7, "as many as the header counts");
}

fn flow(events: &[Event]) -> MemoryFlow {
    let mut sum = MemoryFlow::default();
    for event in events {
        match event {
            Event::Sample { memory, .. } => sum.add(memory),
            Event::Process { unseen, .. } => sum.add(unseen),
            _ => {}
        }
    }
    sum
}

#[test]
fn bytes_as_constructed() {
    for form in forms() {
        let mut w = host(form);
        let t = form.origin + MS;
        let region = |base, bytes, flags| Region {
            pid: 100,
            base,
            bytes,
            flags,
            committed: 0,
        };
        w.rundown(
            0,
            t,
            &Region {
                committed: 0x3000,
                ..region(0x9_0000, 0x1_0000, Region::RESERVE)
            },
        )
        .unwrap();
        w.switch(0, t, 0, WAITING, 102).unwrap();
        let steps = [
            region(0x10_0000, 0x20_0000, Region::RESERVE | Region::COMMIT),
            region(0x40_0000, 0x10_0000, Region::RESERVE),
            region(0x40_0000, 0x8000, Region::COMMIT),
            // Half of it is committed already.
            region(0x40_4000, 0x8000, Region::COMMIT),
            region(0x40_0000, 0x2000, Region::DECOMMIT),
            region(0x10_0000, 0x20_0000, Region::RELEASE),
            // Of the reservation, not all is committed.
            region(0x40_0000, 0x10_0000, Region::RELEASE),
            region(0x9_0000, 0x1_0000, Region::RELEASE),
        ];
        for (n, region) in (1..).zip(&steps) {
            w.region(0, t + n, region).unwrap();
        }
        // Another's, and one by nobody who is known.
        w.region(
            0,
            t + 20,
            &Region {
                pid: 200,
                ..steps[0]
            },
        )
        .unwrap();
        w.region(1, t + 21, &region(0x80_0000, 0x1000, Region::RESERVE))
            .unwrap();
        let events = events(&w.finish().unwrap().into_inner(), &shop());
        let flow = flow(&events);
        assert_eq!(flow.reserved, 0x20_0000 + 0x10_0000 + 0x1000, "{form:?}");
        assert_eq!(flow.committed, 0x20_0000 + 0x8000 + 0x4000);
        assert_eq!(flow.decommitted, 0x2000 + 0x20_0000 + 0xa000 + 0x3000);
        assert_eq!(flow.released, 0x20_0000 + 0x10_0000 + 0x1_0000);
        assert_eq!(flow.calls, [5, 3, 0, 0, 1, 0]);
        let standing = events.iter().rev().find_map(|event| match event {
            Event::Process { standing, .. } => *standing,
            _ => None,
        });
        // That of nobody who is known, which is reserved only.
        let expected = Standing {
            reserved_bytes: 0x1000,
            committed_bytes: 0,
        };
        assert_eq!(standing, Some(expected));
        let large: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Mapping {
                    task,
                    length,
                    committed_change,
                    ..
                } => Some((task.thread.id, *length, *committed_change)),
                _ => None,
            })
            .collect();
        let expected = [
            (102, 0x20_0000, 0x20_0000),
            (102, 0x10_0000, 0),
            (102, 0x20_0000, -0x20_0000),
            (102, 0x10_0000, -0xa000),
        ];
        assert_eq!(large, expected);
    }
}

/// A beginning or end: kind, thread id, name, origin, creator.
type Turn = (char, u32, String, Option<Origin>, Option<(u32, u32)>);

/// Beginnings and ends of tasks.
fn lives(events: &[Event]) -> Vec<Turn> {
    let named = |task: &Task| (task.thread.id, task.name().into_owned());
    let lives = events.iter().filter_map(|event| match event {
        Event::TaskStart {
            task,
            origin,
            creator,
            ..
        } => {
            let (tid, name) = named(task);
            Some(('+', tid, name, Some(*origin), *creator))
        }
        Event::TaskExit { task, .. } => {
            let (tid, name) = named(task);
            Some(('-', tid, name, None, None))
        }
        _ => None,
    });
    lives.collect()
}

/// A thread begins, whose creator is the thread 201 of process 200 unless it is another.
fn begins(w: &mut Memory, time: i64, pid: u32, tid: u32, creator: Option<(u32, u32)>) {
    let creator = creator.unwrap_or((200, 201));
    let thread = Thread {
        pid,
        tid,
        creator,
        ..Thread::default()
    };
    w.thread(1, time, Change::Start, thread).unwrap();
}

fn process(w: &mut Memory, time: i64, change: Change, pid: u32, parent: u32, image: &str) {
    w.process(1, time, change, Process { pid, parent, image })
        .unwrap();
}

#[test]
fn threads_and_children_as_constructed() {
    for form in forms() {
        let mut w = host(form);
        let t = form.origin + MS;
        begins(&mut w, t, 100, 103, None);
        w.thread_name(0, t + 1, 100, 103, "a name that is much too long")
            .unwrap();
        let thread = Thread {
            pid: 100,
            tid: 103,
            ..Thread::default()
        };
        w.thread(0, t + 2, Change::End, thread).unwrap();
        // The id is used again.
        begins(&mut w, t + 3, 200, 103, None);
        process(&mut w, t + 4, Change::Start, 300, 100, "child.exe");
        begins(&mut w, t + 5, 300, 301, Some((100, 102)));
        // One of the same name later, and another's child.
        process(&mut w, t + 6, Change::Start, 400, 200, "Shop.EXE");
        begins(&mut w, t + 7, 400, 401, None);
        process(&mut w, t + 8, Change::Start, 500, 200, "other.exe");
        begins(&mut w, t + 9, 500, 501, None);
        // An end that does not tell of its thread.
        process(&mut w, t + 10, Change::End, 400, 200, "Shop.EXE");
        let events = events(&w.finish().unwrap().into_inner(), &shop());
        let start =
            |tid, name: &str, origin, creator| ('+', tid, name.to_owned(), Some(origin), creator);
        let end = |tid, name: &str| ('-', tid, name.to_owned(), None, None);
        let expected = [
            start(101, "shop.exe", Origin::Found, None),
            start(102, "worker", Origin::Found, None),
            start(103, "shop.exe", Origin::Thread, Some((200, 201))),
            end(103, "a name that is "),
            start(301, "child.exe", Origin::Fork, Some((100, 102))),
            start(401, "Shop.EXE", Origin::Fork, Some((200, 201))),
            end(401, "Shop.EXE"),
        ];
        assert_eq!(lives(&events), expected, "{form:?}");
    }
}

/// The table of services is at the end, and so is a thread that was there all the time.
#[test]
fn services_that_share_a_process() {
    let form = Form::default();
    let mut w = host(form);
    let t = form.origin;
    w.process(
        0,
        t,
        Change::ThereAtStart,
        Process {
            pid: 600,
            parent: 4,
            image: "svchost.exe",
        },
    )
    .unwrap();
    for (tid, service_tag) in [(601, 7), (602, 8), (603, 0)] {
        w.thread(
            0,
            t,
            Change::ThereAtStart,
            Thread {
                pid: 600,
                tid,
                service_tag,
                ..Thread::default()
            },
        )
        .unwrap();
    }
    let new = Thread {
        pid: 600,
        tid: 604,
        service_tag: 7,
        creator: (600, 601),
        name: "",
    };
    w.thread(0, t + 5, Change::Start, new).unwrap();
    w.thread(
        0,
        t + 6,
        Change::ThereAtEnd,
        Thread {
            pid: 600,
            tid: 605,
            service_tag: 7,
            ..Thread::default()
        },
    )
    .unwrap();
    for (name, pid, tag) in [
        ("Dnscache", 600, 7),
        ("Dhcp", 600, 8),
        ("ShopService", 100, 9),
        ("Spooler", 0, 10),
    ] {
        w.service(t + 9, pid, tag, name, "svchost.exe").unwrap();
    }
    let bytes = w.finish().unwrap().into_inner();
    let service = |name: &str| Wanted::Service(name.into());
    let tids = |name: &str| -> Vec<u32> {
        lives(&events(&bytes, &service(name)))
            .iter()
            .map(|life| life.1)
            .collect()
    };
    assert_eq!(tids("dnscache"), [601, 605, 604]);
    assert_eq!(tids("DHCP"), [602]);
    assert_eq!(
        tids("ShopService"),
        [101, 102],
        "one that has its process for itself"
    );
    assert_eq!(tids("hog"), [201], "no service of that name, but a process");
    let survey = surveyed(&bytes);
    let Found {
        name, why, pids, ..
    } = find(&survey, &service("dnscache")).unwrap();
    assert_eq!(
        (name.as_str(), pids.as_slice()),
        ("Dnscache", [600].as_slice())
    );
    assert_eq!(
        why,
        "service \"Dnscache\" has the threads marked 7 in process 600, which it shares with Dhcp"
    );
    let not_found = |wanted| find(&survey, &wanted).unwrap_err();
    assert_eq!(
        not_found(service("spooler")),
        NotFound::NotRunning("Spooler".into())
    );
    assert_eq!(
        not_found(service("nginx")),
        NotFound::Service("nginx".into(), String::new())
    );
    assert_eq!(
        not_found(Wanted::Process("nginx".into())),
        NotFound::Process("nginx".into())
    );
    assert_eq!(not_found(Wanted::Pids(vec![100, 999])), NotFound::Pid(999));
}

/// Ends of windows, in milliseconds since the beginning, and how long they were.
fn windows(bytes: &[u8]) -> Vec<(u64, u64)> {
    let start = surveyed(bytes).start_ns;
    let ends = events(bytes, &shop())
        .into_iter()
        .filter_map(|event| match event {
            Event::WindowEnd { ts, period_ns } => {
                Some(((ts - start) / 1_000_000, period_ns / 1_000_000))
            }
            _ => None,
        });
    ends.collect()
}

#[test]
fn windows_follow_one_another() {
    let form = Form::default();
    let mut w = host(form);
    let mut at = |ms: i64| w.switch(0, form.origin + ms * MS, 0, WAITING, 0).unwrap();
    at(500);
    at(3_200);
    at(4_000);
    let bytes = w.finish().unwrap().into_inner();
    assert_eq!(
        windows(&bytes),
        [
            (1_000, 1_000),
            (2_000, 1_000),
            (3_000, 1_000),
            (4_000, 1_000),
            (4_000, 0)
        ]
    );
}

/// Not a window for each second of a silence of days.
#[test]
fn a_long_silence_is_one_window() {
    let form = Form::default();
    let mut w = host(form);
    w.switch(0, form.origin + 864_000_500 * MS, 0, WAITING, 0)
        .unwrap();
    let bytes = w.finish().unwrap().into_inner();
    let windows = windows(&bytes);
    assert_eq!(
        windows,
        [
            (863_999_000, 863_999_000),
            (864_000_000, 1_000),
            (864_000_500, 500)
        ]
    );
}

/// What is not recorded is not said to be zero.
#[test]
fn what_is_not_recorded_is_absent() {
    let form = Form::default();
    let gaps = |bytes: &[u8]| -> Vec<(u64, u64)> {
        let gaps = events(bytes, &shop())
            .into_iter()
            .filter_map(|event| match event {
                Event::Gap {
                    waits_ns, calls_ns, ..
                } => Some((waits_ns, calls_ns)),
                _ => None,
            });
        gaps.collect()
    };
    let w = |masks: Option<[u32; 2]>, switches: bool| {
        let mut w = host(form);
        if let Some(masks) = masks {
            w.enabled(form.origin, masks).unwrap();
        }
        if switches {
            w.switch(0, form.origin + 500 * MS, 0, WAITING, 101)
                .unwrap();
        }
        w.thread_name(0, form.origin + 1_000 * MS, 1, 1, "")
            .unwrap();
        w.finish().unwrap().into_inner()
    };
    let second = 1_000_000_000;
    assert_eq!(gaps(&w(None, false))[0], (second, second));
    assert_eq!(
        gaps(&w(Some([3, 0x8000]), false))[0],
        (second, 0),
        "there were none"
    );
    assert_eq!(gaps(&w(None, true))[0], (0, second));
    assert!(gaps(&w(Some([3, 0x8004]), true)).is_empty());
}
