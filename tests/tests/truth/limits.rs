//! What a process may have at most, against what it was given.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use slowburn::stream::{KernelSummary, Record};
use slowburn_tests::{Daemon, Workload, cgroup::Cgroup, needs_tracing, skip};

const ADDRESS_SPACE: u64 = 1 << 41;
const FILES: u64 = 321;
const MEMORY: u64 = 256 << 20;
const TASKS: u64 = 77;
const MORE_TASKS: u64 = 99;

fn give(pid: u32, resource: Resource, limit: u64) {
    let pid = Pid::from_raw(pid as i32).expect("a pid is not 0");
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Some(pid), resource, limit).expect("we are root");
}

/// Of its windows in the stream, what the newest says; nothing is there before the first.
#[track_caller]
fn wait_for(daemon: &mut Daemon, what: &str, is_so: impl Fn(&KernelSummary) -> bool) {
    daemon.wait_for(
        what,
        |record| matches!(record, Record::Window(window) if window.thread.is_none() && is_so(&window.kernel)),
    );
}

#[test]
fn limits_are_those_that_were_given() {
    needs_tracing!();
    let Some(memory) = Cgroup::with("memory") else {
        skip!("no hierarchy of cgroups has the controller for memory");
    };
    // With v2 it is in one cgroup that has both.
    let other = (!memory.has("pids.max")).then(|| Cgroup::with("pids"));
    let tasks = match &other {
        Some(Some(other)) => other,
        Some(None) => skip!("no hierarchy of cgroups has the controller for tasks"),
        None => &memory,
    };
    let of_memory = ["memory.max", "memory.limit_in_bytes"];
    let of_memory = of_memory.into_iter().find(|file| memory.has(file));
    memory.set(of_memory.expect("it has a limit"), &MEMORY.to_string());
    tasks.set("pids.max", &TASKS.to_string());
    let workload = Workload::start(&["idle-threads"]);
    let pid = workload.pid();
    memory.holds(pid);
    tasks.holds(pid);
    give(pid, Resource::As, ADDRESS_SPACE);
    give(pid, Resource::Nofile, FILES);

    let mut daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "200ms"]);
    wait_for(&mut daemon, "the limits", |kernel| {
        kernel.memory_limit_bytes == Some(MEMORY)
            && kernel.tasks_limit == Some(TASKS)
            && kernel.address_space_limit_bytes == Some(ADDRESS_SPACE)
            && kernel.fds_limit == Some(FILES)
    });
    tasks.set("pids.max", &MORE_TASKS.to_string());
    wait_for(&mut daemon, "the new limit", |kernel| {
        kernel.tasks_limit == Some(MORE_TASKS)
    });
    let finished = daemon.stop();
    let host = host_memory();
    for window in finished.process_windows(pid) {
        assert_eq!(window.kernel.host_memory_bytes, Some(host));
        assert_eq!(window.kernel.memory_limit_bytes, Some(MEMORY));
    }
}

/// The machine's memory, in bytes.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let kib = text
        .split_ascii_whitespace()
        .nth(1)
        .expect("it comes first");
    kib.parse::<u64>().expect("a number") << 10
}
