//! Address spaces, compared with the kernel's own count of their pages.

use serde_json::Value;
use slowburn::stream::{CallName, MemorySummary, Record, Window};
use slowburn_tests::{Daemon, Finished, Workload, needs_tracing, number, settle, status};

struct Compared {
    pid: u32,
    finished: Finished,
    facts: Value,
    /// `VmSize` and `VmData` before and afterwards.
    vm: (u64, u64),
    data: (u64, u64),
}

fn compare(workload: &[&str], options: &[&str]) -> Compared {
    let mut workload = Workload::start(workload);
    let pid = workload.pid();
    settle(pid);
    let daemon = Daemon::start(
        &[
            &["--pid", &workload.pid_text(), "--window", "500ms"],
            options,
        ]
        .concat(),
    );
    let before = (status(pid, "VmSize"), status(pid, "VmData"));
    let facts = workload.work();
    let after = (status(pid, "VmSize"), status(pid, "VmData"));
    let finished = daemon.stop();
    Compared {
        pid,
        finished,
        facts,
        vm: (before.0, after.0),
        data: (before.1, after.1),
    }
}

/// A number of a window.
type Field = fn(&MemorySummary) -> u64;

fn sum(windows: &[&Window], field: impl Fn(&MemorySummary) -> u64) -> u64 {
    windows.iter().map(|w| field(&w.memory)).sum()
}

fn accounts_exactly(compared: &Compared) {
    let Compared {
        pid,
        finished,
        facts,
        vm,
        data,
    } = compared;
    let windows = finished.process_windows(*pid);
    let change = |up: u64, down: u64| i128::from(up) - i128::from(down);
    let reserved = change(
        sum(&windows, |m| m.reserved_bytes),
        sum(&windows, |m| m.released_bytes),
    );
    let committed = change(
        sum(&windows, |m| m.committed_bytes),
        sum(&windows, |m| m.decommitted_bytes),
    );
    println!(
        "VmSize {vm:?}, changed by {reserved} in the windows; VmData {data:?}, changed by {committed}; {facts}"
    );
    assert_eq!(
        reserved,
        change(vm.1, vm.0),
        "reserved - released = change of VmSize"
    );
    assert_eq!(
        committed,
        change(data.1, data.0),
        "committed - decommitted = change of VmData"
    );
    let last = windows.last().expect("there are windows");
    assert_eq!(last.memory.standing_reserved_bytes, Some(vm.1));
    assert_eq!(last.kernel.vm_bytes, Some(vm.1));
    assert_eq!(last.memory.standing_committed_bytes, Some(data.1));
    assert_eq!(last.kernel.data_bytes, Some(data.1));
    let calls: [(&str, Field); 8] = [
        ("map", |m| m.map_calls),
        ("unmap", |m| m.unmap_calls),
        ("remap", |m| m.remap_calls),
        ("brk", |m| m.brk_calls),
        ("advise", |m| m.advise_calls),
        ("protect", |m| m.protect_calls),
        ("failed", |m| m.failed_calls),
        ("discarded_bytes", |m| m.discarded_bytes),
    ];
    for (name, field) in calls {
        assert_eq!(sum(&windows, field), number(facts, name), "{name}");
    }
    assert_eq!(finished.lost(), 0);
}

#[test]
fn address_space_adds_up_to_the_byte() {
    needs_tracing!();
    for seed in ["1", "2", "3"] {
        let compared = compare(&["maps", "--seconds", "1", "--seed", seed], &[]);
        for kind in [
            "map", "unmap", "remap", "brk", "advise", "protect", "failed",
        ] {
            assert!(
                number(&compared.facts, kind) > 10,
                "the workload has done some of everything: {}",
                compared.facts
            );
        }
        accounts_exactly(&compared);
    }
}

/// Every single call is a record, and the records add up to the same.
#[test]
fn records_of_calls_add_up_to_the_byte() {
    needs_tracing!();
    let compared = compare(
        &["maps", "--seconds", "1", "--seed", "4"],
        &["--events", "all"],
    );
    accounts_exactly(&compared);
    let mappings: Vec<_> = compared
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
        i128::from(compared.vm.1) - i128::from(compared.vm.0)
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
        assert_eq!(of(call), number(&compared.facts, name), "{name}");
    }
    for mapping in &mappings {
        assert_eq!(
            (mapping.process.pid, mapping.thread.tid),
            (compared.pid, compared.pid)
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
    accounts_exactly(&compare(
        &["maps", "--seconds", "0.5", "--seed", "6", "--fail-last"],
        &[],
    ));
}

/// Calls below the size are in the sums, and are no records.
#[test]
fn smallest_mapping_is_heeded() {
    needs_tracing!();
    let compared = compare(
        &["maps", "--seconds", "1", "--seed", "5"],
        &["--min-mapping", "512KiB"],
    );
    let mut records = 0;
    for line in &compared.finished.lines {
        if let Record::Mapping(mapping) = &line.record {
            let size = mapping
                .length_bytes
                .max(mapping.reserved_change_bytes.unsigned_abs());
            assert!(size >= 512 << 10, "{mapping:?}");
            records += 1;
        }
    }
    assert!(records > 10, "{records}");
    accounts_exactly(&compared);
}
