//! Any sequence of calls, made for real, does to the kernel's counts and to slowburn's what it does to a model.

use std::{cell::RefCell, collections::HashMap};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{TestError, TestRunner},
};
use slowburn::stream::{CallName, Mapping, MemorySummary, Moment, ProcessId, Record, ThreadId};
use slowburn_tests::{
    Daemon, Finished, Workload,
    address_space::{
        ARENA, AddressSpace, Call, Curves, HEAP, Move, Place, Protection, REGION, Run, play,
    },
    needs_tracing, settle, status,
};

/// Pages in which calls meet each other.
const ARENA_PAGES: u64 = 40;

/// A page far from all others in the arena. To unmap it changes nothing, and marks where a case begins or ends.
const MARKER: u64 = 1 << 17;

/// Sequences tried.
const CASES: u32 = 300;

/// What to do. It becomes a call once it is known what is there.
#[derive(Clone, Debug)]
enum Step {
    /// In the arena, whatever is there.
    Arena(Call),
    /// To a part of something that is there, anywhere.
    Something { part: Part, what: What },
}

/// A part of a mapping: which, from where, how much.
#[derive(Clone, Debug)]
struct Part {
    mapping: Index,
    first: Index,
    pages: Index,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Unmap,
    Protect(Protection),
    Discard { lazily: bool },
    Touch,
    Remap { to_pages: u64, to: Move },
    Keep { to: Move },
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        1 => Just(Protection::None),
        1 => Just(Protection::Read),
        3 => Just(Protection::Write),
    ]
}

fn at() -> impl Strategy<Value = u64> {
    0..ARENA_PAGES
}

/// Sometimes nothing, sometimes more than there is.
fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 20 => 1..12_u64, 2 => ARENA_PAGES..4 * ARENA_PAGES]
}

fn map() -> impl Strategy<Value = Call> {
    let place = prop_oneof![
        1 => Just(Place::Elsewhere),
        4 => at().prop_map(Place::Over),
        2 => at().prop_map(Place::Free),
    ];
    (place, pages(), protection(), prop::bool::weighted(0.2)).prop_map(
        |(place, pages, protection, shared)| Call::Map {
            place,
            pages,
            protection,
            shared,
        },
    )
}

fn in_arena() -> impl Strategy<Value = Call> {
    let too_much = prop_oneof![20 => pages(), 1 => Just(1 << 48)];
    prop_oneof![
        6 => map(),
        2 => (at(), too_much).prop_map(|(at, pages)| Call::Unmap { at, pages }),
        2 => (0..16_u64).prop_map(|pages| Call::Break { pages }),
        3 => (at(), pages(), protection())
            .prop_map(|(at, pages, protection)| Call::Protect { at, pages, protection }),
        2 => (at(), pages(), any::<bool>())
            .prop_map(|(at, pages, lazily)| Call::Discard { at, pages, lazily }),
        4 => (at(), pages()).prop_map(|(at, pages)| Call::Touch { at, pages }),
    ]
}

fn to() -> impl Strategy<Value = Move> {
    prop_oneof![
        Just(Move::Stay),
        Just(Move::Elsewhere),
        at().prop_map(Move::Over)
    ]
}

fn something() -> impl Strategy<Value = Step> {
    let part =
        (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(mapping, first, pages)| Part {
            mapping,
            first,
            pages,
        });
    let what = prop_oneof![
        1 => Just(What::Unmap),
        1 => protection().prop_map(What::Protect),
        1 => any::<bool>().prop_map(|lazily| What::Discard { lazily }),
        3 => Just(What::Touch),
        5 => (1..16_u64, to()).prop_map(|(to_pages, to)| What::Remap { to_pages, to }),
        1 => to().prop_map(|to| What::Keep { to }),
    ];
    (part, what).prop_map(|(part, what)| Step::Something { part, what })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![2 => in_arena().prop_map(Step::Arena), 1 => something()];
    prop::collection::vec(step, 1..50)
}

impl Step {
    /// The call, unless it would be one whose effect kernels do not agree on.
    fn resolve(&self, space: &AddressSpace) -> Option<Call> {
        let (part, what) = match self {
            Self::Arena(call) => return Some(*call),
            Self::Something { part, what } => (part.resolve(space)?, *what),
        };
        let Run { at, pages } = part;
        let heap = (HEAP..HEAP + REGION).contains(&at);
        let (to_pages, to, keep) = match what {
            What::Discard { lazily } => return Some(Call::Discard { at, pages, lazily }),
            What::Touch => return Some(Call::Touch { at, pages }),
            // The kernel takes holes in the heap amiss.
            _ if heap => return None,
            What::Unmap => return Some(Call::Unmap { at, pages }),
            What::Protect(protection) => {
                return Some(Call::Protect {
                    at,
                    pages,
                    protection,
                });
            }
            What::Remap { to_pages, to } => (to_pages, to, false),
            What::Keep { to } => (pages, to, true),
        };
        let grows = to_pages > pages;
        let has_room = space.is_free(at + pages..at + to_pages.max(pages));
        let certain = match to {
            Move::Stay => !keep && (!grows || at < REGION),
            // What may stay where it is does.
            Move::Elsewhere => keep || (grows && (at >= REGION || !has_room)),
            Move::Over(to) => to + to_pages <= at || at + pages <= to,
        };
        (certain && !(keep && space.is_shared(at))).then_some(Call::Remap {
            at,
            pages,
            to_pages,
            to,
            keep,
        })
    }
}

impl Part {
    fn resolve(&self, space: &AddressSpace) -> Option<Run> {
        let runs = space.runs();
        if runs.is_empty() {
            return None;
        }
        let run = self.mapping.get(&runs);
        let first = self.first.index(run.pages as usize) as u64;
        let pages = 1 + self.pages.index((run.pages - first) as usize) as u64;
        Some(Run {
            at: run.at + first,
            pages,
        })
    }
}

/// A call and what it should do.
#[derive(Clone, Copy, Debug)]
struct Expected {
    call: Call,
    result: Result<u64, i32>,
    before: Curves,
    after: Curves,
}

/// What a sequence of steps should do, and the removal of all that is left of it.
fn expect(steps: &[Step]) -> Vec<Expected> {
    let mut space = AddressSpace::default();
    let mut expected = Vec::new();
    for step in steps {
        let call = step.resolve(&space);
        expected.extend(call.map(|call| expect_call(&mut space, call)));
    }
    let left = space.runs().into_iter().filter(|run| run.at >= 2 * REGION);
    let mut tidy: Vec<_> = left
        .map(|Run { at, pages }| Call::Unmap { at, pages })
        .collect();
    tidy.push(Call::Unmap {
        at: 0,
        pages: MARKER,
    });
    tidy.push(Call::Break { pages: 0 });
    expected.extend(tidy.into_iter().map(|call| expect_call(&mut space, call)));
    assert_eq!(space.runs(), [], "nothing is left");
    expected
}

fn expect_call(space: &mut AddressSpace, call: Call) -> Expected {
    let before = space.curves();
    let result = space.call(call);
    Expected {
        call,
        result,
        before,
        after: space.curves(),
    }
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Makes the calls, between two markers, and compares the kernel's counts after each.
fn compare(
    workload: &mut Workload,
    marker: u64,
    expected: &[Expected],
) -> Result<(), TestCaseError> {
    let mark = |n| Call::Unmap {
        at: MARKER + 2 * marker + n,
        pages: 1,
    };
    let mut calls = vec![mark(0)];
    calls.extend(expected.iter().map(|expected| expected.call));
    calls.push(mark(1));
    let played = play(workload, &calls);
    prop_assert_eq!(played.calls.len(), calls.len());
    let (before, page) = (played.before, page_size());
    for (n, (expected, (result, now))) in expected.iter().zip(&played.calls[1..]).enumerate() {
        let Curves {
            reserved,
            committed,
            resident,
            faults,
        } = expected.after;
        let what = format!("call {n}: {:?}, {now:?} after {before:?}", expected.call);
        prop_assert_eq!(*result, expected.result, "result, {}", &what);
        prop_assert_eq!(now.vm, before.vm + reserved * page, "VmSize, {}", &what);
        prop_assert_eq!(
            now.data,
            before.data + committed * page,
            "VmData, {}",
            &what
        );
        let more = (now.resident / page).checked_sub(before.resident / page);
        prop_assert!(
            more.is_some_and(|more| resident.contains(more)),
            "Rss by {more:?} pages and not {resident:?}, {what}"
        );
        let faulted = now.faults - before.faults;
        prop_assert!(
            faults.contains(faulted),
            "{faulted} faults and not {faults:?}, {what}"
        );
    }
    Ok(())
}

/// Starts the workload, and has it do all once, so that its own code and memory are there.
fn start() -> Workload {
    let mut workload = Workload::start(&["script"]);
    workload.go();
    let calls = [
        Call::Map {
            place: Place::Elsewhere,
            pages: 2,
            protection: Protection::Write,
            shared: false,
        },
        Call::Map {
            place: Place::Over(0),
            pages: 2,
            protection: Protection::Write,
            shared: true,
        },
        Call::Touch { at: 0, pages: 4 },
        Call::Protect {
            at: 0,
            pages: 1,
            protection: Protection::None,
        },
        Call::Discard {
            at: 1,
            pages: 1,
            lazily: false,
        },
        Call::Remap {
            at: 1,
            pages: 1,
            to_pages: 2,
            to: Move::Over(4),
            keep: false,
        },
        Call::Break { pages: 1 },
        Call::Touch { at: HEAP, pages: 1 },
        Call::Break { pages: 0 },
        Call::Unmap {
            at: 0,
            pages: MARKER,
        },
        Call::Unmap {
            at: 2 * REGION,
            pages: 2,
        },
    ];
    for _ in 0..2 {
        play(&mut workload, &calls);
    }
    workload
}

/// Tries sequences; returns what was expected of each, in order.
fn try_sequences(workload: &mut Workload) -> Vec<Vec<Expected>> {
    let workload = RefCell::new(workload);
    let tried = RefCell::new(Vec::new());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    });
    let result = runner.run(&steps(), |steps| {
        let expected = expect(&steps);
        let marker = tried.borrow().len() as u64;
        tried.borrow_mut().push(expected.clone());
        compare(&mut workload.borrow_mut(), marker, &expected)
    });
    if let Err(TestError::Fail(why, steps)) = &result {
        let calls: Vec<_> = expect(steps).iter().map(|e| e.call).collect();
        panic!("{why}\nof {calls:#?}");
    }
    result.expect("it does not give up");
    tried.into_inner()
}

#[test]
fn the_kernel_counts_as_the_model() {
    let mut workload = start();
    let tried = try_sequences(&mut workload);
    let calls = || tried.iter().flatten();
    for (name, kind) in [
        (
            "map",
            (|call| matches!(call, Call::Map { .. })) as fn(&Call) -> bool,
        ),
        ("unmap", |call| matches!(call, Call::Unmap { .. })),
        ("remap", |call| matches!(call, Call::Remap { .. })),
        ("break", |call| matches!(call, Call::Break { .. })),
        ("protect", |call| matches!(call, Call::Protect { .. })),
        ("discard", |call| matches!(call, Call::Discard { .. })),
        ("touch", |call| matches!(call, Call::Touch { .. })),
    ] {
        let of = |e: &&Expected| kind(&e.call);
        let effective = |e: &&Expected| e.before != e.after;
        let (all, effective) = (
            calls().filter(of).count(),
            calls().filter(of).filter(effective).count(),
        );
        println!("{name}: {all}, of which {effective} had an effect");
        assert!(effective > 10, "{name} was tried");
    }
    let half_way = calls().filter(|e| e.result.is_err() && e.before != e.after);
    let half_way = half_way.count();
    println!("{half_way} failed half-way");
    assert!(half_way > 10, "calls that fail half-way were tried");
    assert!(workload.release().success());
}

/// The change of the address space that a call makes, reserved and committed, in bytes.
fn change(expected: &Expected) -> (i64, i64) {
    let bytes = |before: u64, after: u64| (after as i64 - before as i64) * page_size() as i64;
    let Expected { before, after, .. } = expected;
    (
        bytes(before.reserved, after.reserved),
        bytes(before.committed, after.committed),
    )
}

/// The record that there should be of a call.
fn record(expected: &Expected) -> Option<(CallName, i64, i64)> {
    let name = match expected.call {
        _ if expected.result.is_err() => return None,
        Call::Map { .. } => CallName::Map,
        Call::Unmap { .. } => CallName::Unmap,
        Call::Remap { .. } => CallName::Remap,
        Call::Break { .. } => CallName::Brk,
        Call::Protect { .. } => CallName::Protect,
        Call::Discard { .. } => CallName::Advise,
        Call::Touch { .. } => return None,
    };
    let (reserved, committed) = change(expected);
    Some((name, reserved, committed))
}

/// The records between the markers of each case.
fn by_case<'a>(mappings: &[&'a Mapping]) -> Vec<Vec<&'a Mapping>> {
    let is_marker = |mapping: &&Mapping| {
        let address = u64::from_str_radix(mapping.address.trim_start_matches("0x"), 16);
        address.is_ok_and(|a| (MARKER..2 * MARKER).contains(&(a.wrapping_sub(ARENA) / page_size())))
    };
    let parts = mappings.split(|mapping| is_marker(mapping));
    // Before, a case, between, a case, ..., after.
    parts.skip(1).step_by(2).map(<[_]>::to_vec).collect()
}

fn mappings(finished: &Finished) -> Vec<&Mapping> {
    let records = finished.lines.iter().map(|line| &line.record);
    records
        .filter_map(|record| match record {
            Record::Mapping(mapping) => Some(mapping),
            _ => None,
        })
        .collect()
}

fn gains_and_losses(changes: impl Iterator<Item = i64> + Clone) -> (u64, u64) {
    let gained = changes.clone().filter(|c| *c > 0).sum::<i64>();
    let lost = changes.filter(|c| *c < 0).sum::<i64>();
    (gained as u64, lost.unsigned_abs())
}

/// What docs/json.md says about the order of records and their times.
fn times_are_as_promised(finished: &Finished) {
    let (mut window_end, mut latest) = (Moment(0), Moment(0));
    let mut of_thread = HashMap::new();
    let mut own = |of: &ProcessId, thread: &ThreadId, ts| {
        let before = of_thread.insert((of.clone(), thread.tid, thread.created), ts);
        assert!(before.is_none_or(|before| before <= ts), "{thread:?}");
        ts
    };
    for line in &finished.lines {
        latest = latest.max(match &line.record {
            Record::Window(window) => {
                assert!(window.ts >= window_end, "the ends of windows ascend");
                assert!(window.ts >= latest, "what was written before is no later");
                window_end = window.ts;
                continue;
            }
            Record::Mapping(record) => own(&record.process, &record.thread, record.ts),
            Record::Delay(record) => own(&record.process, &record.thread, record.ts),
            Record::Thread(record) => own(&record.process, &record.thread, record.ts),
            Record::Target(record) => record.ts,
            Record::Loss(record) => record.ts,
            _ => continue,
        });
    }
    assert!(
        of_thread.len() == 1 && window_end > Moment(0),
        "there were records of each kind"
    );
}

#[test]
fn slowburn_counts_as_the_model() {
    needs_tracing!();
    let mut workload = start();
    let pid = workload.pid();
    settle(pid);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--window",
        "250ms",
        "--events",
        "all",
    ]);
    let before = (status(pid, "VmSize"), status(pid, "VmData"));
    let tried = try_sequences(&mut workload);
    settle(pid);
    let after = (status(pid, "VmSize"), status(pid, "VmData"));
    let finished = daemon.stop();
    assert_eq!(finished.lost(), 0);

    times_are_as_promised(&finished);
    let mappings = mappings(&finished);
    let cases = by_case(&mappings);
    assert_eq!(cases.len(), tried.len());
    for (mappings, expected) in cases.iter().zip(&tried) {
        let got: Vec<_> = mappings
            .iter()
            .map(|m| (m.call, m.reserved_change_bytes, m.committed_change_bytes))
            .collect();
        let expected: Vec<_> = expected.iter().filter_map(record).collect();
        assert_eq!(got, expected);
    }

    // A call that fails half-way has no record, and yet its effect is in the sums.
    let failed = tried
        .iter()
        .flatten()
        .filter(|e| e.result.is_err())
        .map(change);
    let records = mappings
        .iter()
        .map(|m| (m.reserved_change_bytes, m.committed_change_bytes));
    let changes = records.chain(failed);
    let windows = finished.process_windows(pid);
    let sum =
        |field: fn(&MemorySummary) -> u64| windows.iter().map(|w| field(&w.memory)).sum::<u64>();
    let reserved = (sum(|m| m.reserved_bytes), sum(|m| m.released_bytes));
    let committed = (sum(|m| m.committed_bytes), sum(|m| m.decommitted_bytes));
    println!(
        "{} windows, {} records, {reserved:?}, {committed:?}",
        windows.len(),
        mappings.len()
    );
    assert_eq!(
        reserved,
        gains_and_losses(changes.clone().map(|(reserved, _)| reserved))
    );
    assert_eq!(
        committed,
        gains_and_losses(changes.map(|(_, committed)| committed))
    );
    assert_eq!(after.0 + reserved.1, before.0 + reserved.0, "VmSize");
    assert_eq!(after.1 + committed.1, before.1 + committed.0, "VmData");
    let failures = tried.iter().flatten().filter(|e| e.result.is_err()).count() as u64;
    assert_eq!(sum(|m| m.failed_calls), failures);
}
