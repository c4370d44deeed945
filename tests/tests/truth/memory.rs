//! Address spaces, compared with the kernel's own count of their pages.

use std::{thread, time::Duration};

use slowburn::stream::{CallName, LossClass, MemorySummary, Record, Window};
use slowburn_tests::{needs_tracing, number};

use crate::{
    hooks,
    report::{Measure, Unit, require},
    watch::Watched,
};

/// A number of a window.
type Field = fn(&MemorySummary) -> u64;

fn sum(windows: &[&Window], field: impl Fn(&MemorySummary) -> u64) -> u64 {
    windows.iter().map(|w| field(&w.memory)).sum()
}

/// Sums of the windows and standing figures against `/proc`.
pub fn sizes_are_exact(check: &str, watched: &Watched) {
    let windows = watched.finished.process_windows(watched.pid);
    let (before, after) = (&watched.before, &watched.after);
    let exact = |quantity, up: Field, down: Field, kernel: (u64, u64)| {
        let ours = sum(&windows, up) as f64 - sum(&windows, down) as f64;
        let theirs = kernel.1 as f64 - kernel.0 as f64;
        require(&Measure {
            check,
            hooks: &watched.hooks,
            quantity,
            judge: "/proc",
            ours,
            theirs,
            error: (ours - theirs).abs(),
            unit: Unit::Bytes,
            goal: 0.0,
        });
    };
    exact(
        "change of VmSize",
        |m| m.reserved_bytes,
        |m| m.released_bytes,
        (before.vm_bytes, after.vm_bytes),
    );
    exact(
        "change of VmData",
        |m| m.committed_bytes,
        |m| m.decommitted_bytes,
        (before.data_bytes, after.data_bytes),
    );
    let last = windows.last().expect("there are windows");
    assert_eq!(last.memory.standing_reserved_bytes, Some(after.vm_bytes));
    assert_eq!(last.kernel.vm_bytes, Some(after.vm_bytes));
    assert_eq!(last.memory.standing_committed_bytes, Some(after.data_bytes));
    assert_eq!(last.kernel.data_bytes, Some(after.data_bytes));
    assert_eq!(watched.finished.lost(), 0);
}

/// Calls by kind, as the stream has them, under the names that the workloads give them.
pub fn calls(watched: &Watched) -> [(&'static str, u64); 8] {
    let windows = watched.finished.process_windows(watched.pid);
    let of = |name, field: Field| (name, sum(&windows, field));
    [
        of("map", |m| m.map_calls),
        of("unmap", |m| m.unmap_calls),
        of("remap", |m| m.remap_calls),
        of("brk", |m| m.brk_calls),
        of("advise", |m| m.advise_calls),
        of("protect", |m| m.protect_calls),
        of("failed", |m| m.failed_calls),
        of("discarded_bytes", |m| m.discarded_bytes),
    ]
}

/// Calls, of any process, that the kernel has kept from us.
fn skipped(watched: &Watched) -> u64 {
    let lost = &watched.finished.stop_record().lost;
    lost.get(&LossClass::SkippedRun).copied().unwrap_or(0)
}

/// The stream has as many calls as the workload says, but for those that the kernel has kept from us, which it counts
/// for all processes of the machine together.
pub fn counts_are_exact(watched: &Watched) {
    let skipped = skipped(watched);
    let mut missing = 0;
    for (name, count) in calls(watched) {
        let made = number(&watched.facts, name);
        if name == "discarded_bytes" && skipped > 0 {
            assert!(count <= made, "{name}: {count} of {made}");
        } else {
            missing += made
                .checked_sub(count)
                .unwrap_or_else(|| panic!("{name}: {count} of {made}"));
        }
    }
    assert!(
        missing <= skipped,
        "{missing} calls are missing; the kernel admits to {skipped}"
    );
}

/// Runs the workload with each family of hooks.
fn with_each_family(check: &str, workload: &[&str], options: &[&str], also: impl Fn(&Watched)) {
    for watched in Watched::run_each(hooks::memory(), workload, options) {
        sizes_are_exact(&format!("memory::{check}"), &watched);
        counts_are_exact(&watched);
        also(&watched);
    }
}

#[test]
fn address_space_adds_up_to_the_byte() {
    needs_tracing!();
    let workload = ["maps", "--seconds", "1.5", "--seed", "1"];
    with_each_family(
        "address_space_adds_up_to_the_byte",
        &workload,
        &[],
        |watched| {
            for kind in [
                "map", "unmap", "remap", "brk", "advise", "protect", "failed",
            ] {
                assert!(
                    number(&watched.facts, kind) > 10,
                    "the workload has done some of everything: {}",
                    watched.facts
                );
            }
        },
    );
}

/// Every single call is a record, and the records add up to the same.
#[test]
fn records_of_calls_add_up_to_the_byte() {
    needs_tracing!();
    let workload = ["maps", "--seconds", "1", "--seed", "4"];
    let options = ["--events", "all"];
    with_each_family(
        "records_of_calls_add_up_to_the_byte",
        &workload,
        &options,
        records_add_up,
    );
}

fn records_add_up(watched: &Watched) {
    let mappings: Vec<_> = watched
        .finished
        .lines
        .iter()
        .filter_map(|line| match &line.record {
            Record::Mapping(mapping) => Some(mapping),
            _ => None,
        })
        .collect();
    let change: i64 = mappings.iter().map(|m| m.reserved_change_bytes).sum();
    assert_eq!(
        i128::from(change),
        i128::from(watched.after.vm_bytes) - i128::from(watched.before.vm_bytes)
    );
    let of = |call: CallName| mappings.iter().filter(|m| m.call == call).count() as u64;
    let kinds = [
        ("map", CallName::Map),
        ("unmap", CallName::Unmap),
        ("remap", CallName::Remap),
        ("brk", CallName::Brk),
        ("advise", CallName::Advise),
        ("protect", CallName::Protect),
    ];
    for (name, call) in kinds {
        let made = number(&watched.facts, name);
        let least = made.saturating_sub(skipped(watched));
        assert!(
            (least..=made).contains(&of(call)),
            "{name}: {} of {made}",
            of(call)
        );
    }
    for mapping in &mappings {
        assert_eq!(
            (mapping.process.pid, mapping.thread.tid),
            (watched.pid, watched.pid)
        );
        assert!(mapping.address.starts_with("0x"), "{mapping:?}");
        assert_eq!(
            mapping.flags.is_some(),
            mapping.call == CallName::Map,
            "{mapping:?}"
        );
    }
}

/// `mprotect` may fail half-way, and what it has done by then stays done.
#[test]
fn failed_calls_that_changed_something_are_accounted() {
    needs_tracing!();
    let workload = ["maps", "--seconds", "0.5", "--seed", "6", "--fail-last"];
    with_each_family(
        "failed_calls_that_changed_something_are_accounted",
        &workload,
        &[],
        |_| {},
    );
}

/// Calls below the size are in the sums, and are no records.
#[test]
fn smallest_mapping_is_heeded() {
    needs_tracing!();
    let workload = ["maps", "--seconds", "1", "--seed", "5"];
    let options = ["--min-mapping", "512KiB"];
    with_each_family(
        "smallest_mapping_is_heeded",
        &workload,
        &options,
        |watched| {
            let mut records = 0;
            for line in &watched.finished.lines {
                if let Record::Mapping(mapping) = &line.record {
                    let size = mapping
                        .length_bytes
                        .max(mapping.reserved_change_bytes.unsigned_abs());
                    assert!(size >= 512 << 10, "{mapping:?}");
                    records += 1;
                }
            }
            assert!(records > 10, "{records}");
        },
    );
}

/// Nothing is hooked: sizes come from the kernel, window by window, and no call is counted.
#[test]
fn sizes_without_hooks() {
    needs_tracing!();
    let workload = ["maps", "--seconds", "0.5", "--seed", "7"];
    let families = vec![hooks::WITHOUT_MEMORY.to_owned()];
    let watched = Watched::run_with(families, &workload, &[], |workload| {
        let facts = workload.work();
        thread::sleep(Duration::from_secs(2));
        facts
    });
    for watched in watched {
        sizes_are_exact("memory::sizes_without_hooks", &watched);
        assert_eq!(calls(&watched).map(|(_, count)| count), [0; 8]);
    }
}
