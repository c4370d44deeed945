//! Address spaces changed by other ways than the six native calls, compared with the kernel's own count of
//! their pages: the same calls through the 32-bit entry, and calls that are not counted. In each form of the
//! memory hooks that the kernel accepts.

use serde_json::Value;
use slowburn::stream::{MemorySummary, Window};
use slowburn_tests::{
    Daemon, Workload, needs_tracing, number, settle, skip, slowburn, status, stderr_of,
};

/// What the kernel and the stream say about one workload.
struct Told {
    windows: Vec<Window>,
    facts: Value,
    /// By how much `VmSize` and `VmData` changed.
    vm_change: i128,
    data_change: i128,
}

fn told(workload: &[&str], family: &str) -> Told {
    let mut workload = Workload::start(workload);
    let pid = workload.pid();
    settle(pid);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--window",
        "500ms",
        "--hooks",
        &format!("mem={family}"),
    ]);
    let sizes = || ["VmSize", "VmData"].map(|key| i128::from(status(pid, key)));
    let before = sizes();
    let facts = workload.work();
    let after = sizes();
    let finished = daemon.stop();
    assert_eq!(finished.lost(), 0);
    let told = Told {
        windows: finished.process_windows(pid).into_iter().cloned().collect(),
        facts,
        vm_change: after[0] - before[0],
        data_change: after[1] - before[1],
    };
    println!(
        "{family}: VmSize changed by {}, in the windows by {}; VmData by {}, in the windows by {}; {}",
        told.vm_change,
        told.booked_vm(),
        told.data_change,
        told.booked_data(),
        told.facts
    );
    told
}

impl Told {
    fn sum(&self, field: impl Fn(&MemorySummary) -> u64) -> u64 {
        self.windows.iter().map(|w| field(&w.memory)).sum()
    }

    fn booked_vm(&self) -> i128 {
        i128::from(self.sum(|m| m.reserved_bytes)) - i128::from(self.sum(|m| m.released_bytes))
    }

    fn booked_data(&self) -> i128 {
        i128::from(self.sum(|m| m.committed_bytes)) - i128::from(self.sum(|m| m.decommitted_bytes))
    }

    #[track_caller]
    fn sums_are_exact(&self) {
        assert_eq!(self.booked_vm(), self.vm_change, "VmSize");
        assert_eq!(self.booked_data(), self.data_change, "VmData");
    }

    /// Calls by kind, as the stream has them.
    fn calls(&self) -> [(&'static str, u64); 8] {
        [
            ("map", self.sum(|m| m.map_calls)),
            ("unmap", self.sum(|m| m.unmap_calls)),
            ("remap", self.sum(|m| m.remap_calls)),
            ("brk", self.sum(|m| m.brk_calls)),
            ("advise", self.sum(|m| m.advise_calls)),
            ("protect", self.sum(|m| m.protect_calls)),
            ("failed", self.sum(|m| m.failed_calls)),
            ("discarded_bytes", self.sum(|m| m.discarded_bytes)),
        ]
    }

    #[track_caller]
    fn counts_are_exact(&self) {
        for (name, count) in self.calls() {
            assert_eq!(count, number(&self.facts, name), "{name}");
        }
    }
}

/// Why the memory hooks cannot have this form here, if so.
fn refusal(family: &str) -> Option<String> {
    let own = std::process::id().to_string();
    let hooks = format!("mem={family}");
    let tried = slowburn(&[
        "run",
        "--pid",
        &own,
        "--hooks",
        &hooks,
        "--duration",
        "100ms",
        "--output",
        "/dev/null",
    ]);
    if tried.status.success() {
        return None;
    }
    let words = stderr_of(&tried);
    assert!(words.contains("no way to hook"), "{words}");
    Some(words.lines().collect::<Vec<_>>().join(" "))
}

/// Skips the test where the memory hooks cannot have this form.
macro_rules! needs_family {
    ($family:expr) => {
        needs_tracing!();
        if let Some(why) = refusal($family) {
            skip!("{}: {why}", $family);
        }
    };
}

/// Calls through the 32-bit entry, hooked like native ones.
fn compat_calls_are_hooked(family: &str) {
    needs_family!(family);
    for workload in [&["compat"][..], &["compat", "--native-last"]] {
        let told = told(workload, family);
        told.sums_are_exact();
        told.counts_are_exact();
        if told.facts["entry"] == false {
            skip!("the kernel has no 32-bit entry");
        }
        for (name, count) in told.calls() {
            assert!(
                count > 10,
                "the workload has done some of everything: {name}"
            );
        }
    }
}

#[test]
fn compat_calls_are_hooked_by_fexit() {
    compat_calls_are_hooked("fexit");
}

#[test]
fn compat_calls_are_hooked_by_kprobe() {
    compat_calls_are_hooked("kprobe");
}

/// The kernel fires no system call tracepoint for such calls. What they did is booked with the next call that
/// is hooked, and they are not counted.
#[test]
fn compat_calls_are_booked_with_the_next_one_by_syscall() {
    let family = "syscall";
    needs_family!(family);
    let unseen = told(&["compat"], family);
    if unseen.facts["entry"] == false {
        skip!("the kernel has no 32-bit entry");
    }
    assert_eq!(unseen.calls().map(|(_, count)| count), [0; 8]);
    assert_ne!(unseen.vm_change, 0);
    let told = told(&["compat", "--native-last"], family);
    told.sums_are_exact();
    let native = told.calls().map(|(_, count)| count);
    assert_eq!(native, [1, 0, 0, 0, 0, 0, 0, 0], "only the native mmap");
}

/// Shared memory and protection by key: the last call is one that is not counted.
fn other_calls_are_booked(family: &str) {
    needs_family!(family);
    for workload in [&["shared"][..], &["shared", "--detach"]] {
        let told = told(workload, family);
        told.sums_are_exact();
        assert!(told.data_change > 0, "pkey_mprotect made memory writable");
        assert_eq!(told.vm_change > 0, number(&told.facts, "kept") > 0);
        let calls = told.calls().map(|(_, count)| count);
        assert_eq!(calls, [0, 0, 0, 0, 0, 1, 0, 0], "only pkey_mprotect");
    }
}

#[test]
fn other_calls_are_booked_by_fexit() {
    other_calls_are_booked("fexit");
}

#[test]
fn other_calls_are_booked_by_kprobe() {
    other_calls_are_booked("kprobe");
}

#[test]
fn other_calls_are_booked_by_syscall() {
    other_calls_are_booked("syscall");
}
