//! Who made which thread, against what the workload says and what the kernel's own event says.

use std::collections::BTreeMap;

use slowburn::stream::{Record, ThreadEventKind};
use slowburn_tests::{Finished, needs_tracing};

use crate::{
    hooks,
    report::{Measure, Unit, require},
    watch::Watched,
};

/// Thread and creator, as our records say.
pub fn told(finished: &Finished, pid: u32) -> BTreeMap<u32, u32> {
    let threads = finished.lines.iter().filter_map(|line| match &line.record {
        Record::Thread(thread) if thread.process.pid == pid => Some(thread),
        _ => None,
    });
    threads
        .filter(|thread| thread.event == ThreadEventKind::Started)
        .filter_map(|thread| Some((thread.thread.tid, thread.creator?)))
        .collect()
}

/// Threads whose creator is another one by our account, or that only one side knows.
pub fn compare(
    check: &str,
    hooks: &str,
    judge: &str,
    ours: &BTreeMap<u32, u32>,
    theirs: &BTreeMap<u32, u32>,
) {
    let wrong = theirs
        .iter()
        .filter(|(tid, creator)| ours.get(tid) != Some(creator))
        .count();
    let made_up = ours.keys().filter(|tid| !theirs.contains_key(tid)).count();
    require(&Measure {
        check,
        hooks,
        quantity: "creators of threads",
        judge,
        ours: ours.len() as f64,
        theirs: theirs.len() as f64,
        error: (wrong + made_up) as f64,
        unit: Unit::Count,
        goal: 0.0,
    });
}

#[test]
fn threads_that_start_threads() {
    needs_tracing!();
    for watched in Watched::run_each(hooks::sched(), &["creators", "--width", "4"], &[]) {
        let pairs = watched.facts["creators"].as_array().expect("a list");
        let number = |value: &serde_json::Value| value.as_u64().expect("an id") as u32;
        let theirs: BTreeMap<_, _> = pairs
            .iter()
            .map(|pair| (number(&pair[0]), number(&pair[1])))
            .collect();
        assert_eq!(theirs.len(), 4 + 16 + 64);
        let ours = told(&watched.finished, watched.pid);
        compare(
            "creators::threads_that_start_threads",
            &watched.hooks,
            "the threads themselves",
            &ours,
            &theirs,
        );
        let last = watched
            .finished
            .process_windows(watched.pid)
            .pop()
            .expect("windows");
        let live = last.threads.as_ref().expect("a process has threads").live;
        require(&Measure {
            check: "creators::threads_that_start_threads",
            hooks: &watched.hooks,
            quantity: "live threads",
            judge: "/proc",
            ours: live as f64,
            theirs: watched.after.waits.len() as f64,
            error: live.abs_diff(watched.after.waits.len() as u64) as f64,
            unit: Unit::Count,
            goal: 0.0,
        });
    }
}
