//! Address spaces changed by other ways than the six native calls: the same calls through the 32-bit entry, and calls
//! that are not counted.

use std::fs;

use slowburn_tests::{needs_tracing, number};

use crate::{
    hooks,
    memory::{calls, counts_are_exact, sizes_are_exact},
    report,
    watch::Watched,
};

/// With the function of the call hooked, calls through the 32-bit entry are like native ones. System call tracepoints do
/// not fire for them: what they did is booked with the next native call, and they are not counted.
#[test]
fn calls_through_the_32_bit_entry() {
    const CHECK: &str = "compat::calls_through_the_32_bit_entry";
    needs_tracing!();
    let workload = [&["compat", "--native-last"][..], oldest_mmap()].concat();
    for watched in Watched::run_each(hooks::memory(), &workload, &[]) {
        if watched.facts["entry"] == false {
            report::skipped(CHECK, &watched.hooks, "the kernel has no 32-bit entry");
            continue;
        }
        sizes_are_exact(CHECK, &watched);
        let counts = calls(&watched).map(|(_, count)| count);
        if watched.hooks == "mem=syscall" {
            assert_eq!(counts, [1, 0, 0, 0, 0, 0, 0, 0], "only the native mmap");
        } else {
            counts_are_exact(&watched);
            assert!(
                counts.iter().all(|count| *count > 10),
                "the workload has done some of everything: {counts:?}"
            );
        }
    }
}

/// The oldest form of `mmap` has its arguments in memory, which may not be read under lockdown for confidentiality: it is
/// not counted there.
fn oldest_mmap() -> &'static [&'static str] {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        &["--no-oldest"]
    } else {
        &[]
    }
}

/// Shared memory and protection by key: the last call is one that is not counted.
#[test]
fn shared_memory_and_keys() {
    const CHECK: &str = "compat::shared_memory_and_keys";
    needs_tracing!();
    for workload in [&["shared"][..], &["shared", "--detach"]] {
        for watched in Watched::run_each(hooks::memory(), workload, &[]) {
            sizes_are_exact(CHECK, &watched);
            let (before, after) = (&watched.before, &watched.after);
            assert!(
                after.data_bytes > before.data_bytes,
                "pkey_mprotect made memory writable"
            );
            assert_eq!(
                after.vm_bytes > before.vm_bytes,
                number(&watched.facts, "kept") > 0
            );
            let counts = calls(&watched).map(|(_, count)| count);
            assert_eq!(counts, [0, 0, 0, 0, 0, 1, 0, 0], "only pkey_mprotect");
        }
    }
}
