//! Running a workload under the daemon, between two readings of the kernel's own accounts.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::Value;
use slowburn::stream::Window;
use slowburn_tests::{
    Daemon, Finished, Schedstat, Workload, delay_of, schedstat, settle, status, tasks,
};

/// Waits by thread.
pub type Waits = BTreeMap<u32, Schedstat>;

/// What the kernel says of a process at one moment.
#[derive(Clone, Debug)]
pub struct Account {
    pub waits: Waits,
    pub vm_bytes: u64,
    pub data_bytes: u64,
}

impl Account {
    /// Reads it.
    #[track_caller]
    pub fn read(pid: u32) -> Self {
        let waits = tasks(pid)
            .into_iter()
            .filter_map(|tid| Some((tid, schedstat(pid, tid)?)));
        Self {
            waits: waits.collect(),
            vm_bytes: status(pid, "VmSize"),
            data_bytes: status(pid, "VmData"),
        }
    }
}

/// One slowburn with each family of hooks, all on the same process: it takes a third of the time that one after the other
/// would, most of which is attaching and detaching.
pub struct Watchers(Vec<(String, Daemon)>);

impl Watchers {
    /// Starts them side by side. The families are as `--hooks` takes them.
    #[track_caller]
    pub fn start(pid: u32, families: Vec<String>, options: &[&str]) -> Self {
        let pid = pid.to_string();
        let spawn = |hooks: String| {
            let basics = ["--pid", &pid, "--hooks", &hooks];
            let daemon = Daemon::spawn(&[&basics[..], options].concat());
            (hooks, daemon)
        };
        let mut all: Vec<_> = families.into_iter().map(spawn).collect();
        for (_, daemon) in &mut all {
            daemon.wait_for_start();
        }
        Self(all)
    }

    /// Stops them side by side.
    #[track_caller]
    pub fn stop(self) -> Vec<(String, Finished)> {
        for (_, daemon) in &self.0 {
            daemon.signal(Signal::INT);
        }
        let finish = |(hooks, daemon): (String, Daemon)| (hooks, daemon.finish());
        self.0.into_iter().map(finish).collect()
    }
}

/// A workload that has been watched from before it began until after it ended.
pub struct Watched {
    /// The hooks that it was watched with, as `--hooks` takes them.
    pub hooks: String,
    pub pid: u32,
    pub before: Account,
    pub after: Account,
    pub facts: Value,
    pub finished: Finished,
}

impl Watched {
    /// Watches a workload that sleeps before and afterwards, so that both sides have counted the same.
    #[track_caller]
    pub fn run(workload: &[&str], options: &[&str]) -> Self {
        let auto = vec!["auto".to_owned()];
        let mut watched = Self::run_with(auto, workload, options, Workload::work);
        watched.remove(0)
    }

    /// The same with each family of hooks.
    #[track_caller]
    pub fn run_each(families: Vec<String>, workload: &[&str], options: &[&str]) -> Vec<Self> {
        Self::run_with(families, workload, options, Workload::work)
    }

    /// The same, with something else to do while it works.
    #[track_caller]
    pub fn run_with(
        families: Vec<String>,
        workload: &[&str],
        options: &[&str],
        work: impl FnOnce(&mut Workload) -> Value,
    ) -> Vec<Self> {
        Self::watch(families, Workload::start(workload), options, work)
    }

    /// The same with a workload that sleeps already.
    #[track_caller]
    pub fn watch(
        families: Vec<String>,
        mut workload: Workload,
        options: &[&str],
        work: impl FnOnce(&mut Workload) -> Value,
    ) -> Vec<Self> {
        let pid = workload.pid();
        settle(pid);
        let window: &[&str] = if options.contains(&"--window") {
            &[]
        } else {
            &["--window", "500ms"]
        };
        let watchers = Watchers::start(pid, families, &[options, window].concat());
        let before = Account::read(pid);
        let facts = work(&mut workload);
        let after = Account::read(pid);
        let watched = |(hooks, finished)| Self {
            hooks,
            pid,
            before: before.clone(),
            after: after.clone(),
            facts: facts.clone(),
            finished,
        };
        watchers.stop().into_iter().map(watched).collect()
    }

    /// What the kernel has counted for each thread meanwhile.
    pub fn kernel_waits(&self) -> Waits {
        let since = |tid: &u32, now: &Schedstat| {
            let then = self.before.waits.get(tid);
            Schedstat {
                run_delay_ns: now.run_delay_ns - then.map_or(0, |then| then.run_delay_ns),
                run_count: now.run_count - then.map_or(0, |then| then.run_count),
            }
        };
        self.after
            .waits
            .iter()
            .map(|(tid, now)| (*tid, since(tid, now)))
            .collect()
    }

    /// The threads of the workload's crew, by name.
    pub fn crew(&self) -> BTreeMap<String, u32> {
        let threads = self.facts["threads"].as_array().expect("a list");
        threads
            .iter()
            .map(|thread| {
                let name = thread["name"].as_str().expect("text").to_owned();
                (name, slowburn_tests::number(thread, "tid") as u32)
            })
            .collect()
    }

    /// What a thread of the crew has said.
    pub fn result(&self, name: &str) -> &Value {
        let threads = self.facts["threads"].as_array().expect("a list");
        let thread = threads.iter().find(|thread| thread["name"] == name);
        &thread.unwrap_or_else(|| panic!("no thread {name}"))["result"]
    }
}

/// What our windows say of waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Waits whose length is known.
    pub count: u64,
    /// All of them, as the kernel counts them.
    pub with_unknown: u64,
    pub sum_ns: u64,
}

/// Adds up the waits of some windows.
pub fn total<'a>(windows: impl IntoIterator<Item = &'a Window>) -> Ours {
    windows
        .into_iter()
        .fold(Ours::default(), |sum, window| Ours {
            count: sum.count + delay_of(window).count,
            with_unknown: sum.with_unknown
                + delay_of(window).count
                + delay_of(window).unknown_count,
            sum_ns: sum.sum_ns + delay_of(window).sum_ns,
        })
}
