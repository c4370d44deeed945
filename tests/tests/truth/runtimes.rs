//! Real allocators and runtimes, followed from their first instruction: what stands at the end is what the kernel
//! says, and every thread has its creator.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use slowburn::stream::{MemorySummary, Window};
use slowburn_tests::{Workload, binary, eventually, needs_tracing, skip, tasks, unique_name};

use crate::{
    creators, hooks,
    report::{Measure, Unit, require},
    watch::{Account, Watched, Watchers},
};

/// A program that begins stopped, so that it is followed from its first instruction. Killed when dropped.
struct Runtime(Child);

impl Runtime {
    fn begin(command: &[&str]) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell can be started");
        let runtime = Self(child);
        runtime.wait_until_stopped();
        runtime
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid is not 0");
        kill_process(pid, signal).expect("it is a child");
    }

    fn wait_until_stopped(&self) {
        let pid = self.pid();
        eventually("all its threads have stopped", || {
            let stopped = |tid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
                stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
            };
            tasks(pid).into_iter().map(stopped).collect::<Option<()>>()
        });
    }

    /// Lets it work until it says that it is done, and stops it.
    fn work(&mut self) {
        self.signal(Signal::CONT);
        let stdout = self.0.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it is text");
        assert_eq!(line.trim(), "done", "the runtime has ended early");
        self.signal(Signal::STOP);
        self.wait_until_stopped();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program built from `tests/runtimes`, or why there is none.
fn built(name: &str) -> Option<PathBuf> {
    let path = binary("slowburn").with_file_name("runtimes").join(name);
    path.is_file().then_some(path)
}

/// The first of these that is installed.
fn installed(candidates: &[&str]) -> Option<PathBuf> {
    candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

fn follow(name: &str, command: &[&str]) {
    let check = format!("runtimes::{name}");
    let mut runtime = Runtime::begin(command);
    let pid = runtime.pid();
    let watchers = Watchers::start(pid, hooks::memory(), &["--window", "500ms"]);
    let births = Births::start();
    runtime.work();
    let theirs = births.map(|births| births.below(pid));
    let after = Account::read(pid);
    // A window that begins and ends while nothing runs.
    thread::sleep(Duration::from_millis(1_100));
    for (hooks, finished) in watchers.stop() {
        let windows = finished.process_windows(pid);
        let last = windows.last().expect("there are windows");
        standing(&check, &hooks, last, &after);
        threads(&check, &hooks, last, &after);
        if let Some(theirs) = &theirs {
            let ours = creators::told(&finished, pid);
            creators::compare(&check, &hooks, "task_newtask", &ours, theirs);
        }
        assert!(windows.iter().map(|w| w.memory.map_calls).sum::<u64>() > 10);
        assert_eq!(finished.lost(), 0);
    }
}

fn standing(check: &str, hooks: &str, last: &Window, kernel: &Account) {
    type Field = fn(&MemorySummary) -> Option<u64>;
    let fields: [(&str, Field, u64); 2] = [
        ("VmSize", |m| m.standing_reserved_bytes, kernel.vm_bytes),
        ("VmData", |m| m.standing_committed_bytes, kernel.data_bytes),
    ];
    for (measure, ours, theirs) in fields {
        let ours = ours(&last.memory).expect("a process has it");
        require(&Measure {
            check,
            hooks,
            quantity: measure,
            judge: "/proc",
            ours: ours as f64,
            theirs: theirs as f64,
            error: ours.abs_diff(theirs) as f64,
            unit: Unit::Bytes,
            goal: 0.0,
        });
    }
}

fn threads(check: &str, hooks: &str, last: &Window, kernel: &Account) {
    let ours = last.threads.as_ref().expect("a process has threads").live;
    let theirs = kernel.waits.len() as u64;
    require(&Measure {
        check,
        hooks,
        quantity: "live threads",
        judge: "/proc",
        ours: ours as f64,
        theirs: theirs as f64,
        error: ours.abs_diff(theirs) as f64,
        unit: Unit::Count,
        goal: 0.0,
    });
}

/// The kernel's own event of each new task.
struct Births(PathBuf);

impl Births {
    fn start() -> Option<Self> {
        let instance = Path::new("/sys/kernel/tracing/instances").join(unique_name("sbb"));
        fs::create_dir(&instance).ok()?;
        let births = Self(instance);
        fs::write(births.0.join("events/task/task_newtask/enable"), "1").expect("it is ours");
        Some(births)
    }

    /// The threads of a process, with their creators.
    fn below(self, pid: u32) -> BTreeMap<u32, u32> {
        const CLONE_THREAD: u64 = 0x10000;
        let text = fs::read(self.0.join("trace")).expect("it is ours");
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut family = BTreeSet::from([pid]);
        let mut creators = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((creator, child, flags)) = birth(line) else {
                continue;
            };
            if family.contains(&creator) && flags & CLONE_THREAD != 0 {
                family.insert(child);
                creators.insert(child, creator);
            }
        }
        creators
    }
}

impl Drop for Births {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Creator, new task and the flags of `clone` in
/// `  VM Thread-12   [001] ..... 10.000100: task_newtask: pid=13 comm=java clone_flags=3d0f00 oom_score_adj=0`.
fn birth(line: &str) -> Option<(u32, u32, u64)> {
    let (head, fields) = line.split_once(": task_newtask: ")?;
    let (task, _) = head.split_once(" [")?;
    let (_, creator) = task.trim_end().rsplit_once('-')?;
    let (child, rest) = fields.strip_prefix("pid=")?.split_once(' ')?;
    let (_, flags) = rest.rsplit_once("clone_flags=")?;
    let flags = u64::from_str_radix(flags.split(' ').next()?, 16).ok()?;
    Some((creator.parse().ok()?, child.parse().ok()?, flags))
}

#[test]
fn births_are_read_right() {
    let line = "  VM Thread-12     [001] ..... 10.000100: task_newtask: pid=13 comm=a b clone_flags=3d0f00 oom_score_adj=0";
    assert_eq!(birth(line), Some((12, 13, 0x003d_0f00)));
}

/// The C library's allocator, with its arenas.
#[test]
fn glibc() {
    needs_tracing!();
    for watched in Watched::run_each(hooks::memory(), &["heap"], &[]) {
        heap_is_exact("runtimes::glibc", &watched);
    }
}

#[test]
fn jemalloc() {
    needs_tracing!();
    let Some(library) = installed(&["/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"]) else {
        skip!("libjemalloc2 is not installed");
    };
    let preload = format!("LD_PRELOAD={}", library.display());
    let workload = Workload::start_under(&unique_name("sb"), &["env", &preload], &["heap"]);
    for watched in Watched::watch(hooks::memory(), workload, &[], Workload::work) {
        heap_is_exact("runtimes::jemalloc", &watched);
    }
}

fn heap_is_exact(check: &str, watched: &Watched) {
    let windows = watched.finished.process_windows(watched.pid);
    let last = windows.last().expect("there are windows");
    standing(check, &watched.hooks, last, &watched.after);
    let calls: u64 = windows
        .iter()
        .map(|w| w.memory.map_calls + w.memory.brk_calls + w.memory.protect_calls)
        .sum();
    assert!(calls > 10, "{calls} calls");
    assert_eq!(watched.finished.lost(), 0);
}

#[test]
fn go() {
    needs_tracing!();
    let Some(program) = built("churn-go") else {
        skip!("there was no Go to build the program with");
    };
    follow("go", &[program.to_str().expect("it is text")]);
}

#[test]
fn java() {
    needs_tracing!();
    let (Some(java), Some(class)) = (installed(&["/usr/bin/java"]), built("Churn.class")) else {
        skip!("there is no Java");
    };
    let classes = class.parent().and_then(Path::to_str).expect("it is text");
    follow(
        "java",
        &[
            java.to_str().expect("it is text"),
            "-cp",
            classes,
            "-Xmx256m",
            "Churn",
        ],
    );
}

#[test]
fn node() {
    needs_tracing!();
    let (Some(node), Some(script)) = (installed(&["/usr/bin/node"]), built("churn.js")) else {
        skip!("there is no node");
    };
    follow(
        "node",
        &[
            node.to_str().expect("it is text"),
            script.to_str().expect("it is text"),
        ],
    );
}
