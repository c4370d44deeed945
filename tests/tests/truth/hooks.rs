//! Which families of hooks this kernel offers: every check is made with each of them.

use std::{collections::BTreeMap, env, process::Stdio, sync::LazyLock, thread};

use slowburn_tests::{Workload, needs_tracing, slowburn, stderr_of};

use crate::report;

/// Families for waits and threads.
const SCHED: [&str; 3] = ["tp_btf", "raw", "classic"];
/// Families for memory.
const MEMORY: [&str; 3] = ["fexit", "kprobe", "syscall"];

/// What the kernel said to each family: nothing, or why not. All are tried side by side.
static REFUSALS: LazyLock<BTreeMap<&str, Option<String>>> = LazyLock::new(|| {
    let workload = Workload::start(&["idle-threads"]);
    let pid = workload.pid_text();
    let families = [("sched", SCHED), ("mem", MEMORY)];
    let all = families
        .iter()
        .flat_map(|(need, families)| families.map(|family| (*need, family)));
    thread::scope(|scope| {
        let tried: Vec<_> = all
            .map(|(need, family)| {
                let hooks = format!("{need}={family}");
                let pid = &pid;
                (family, scope.spawn(move || refusal(pid, &hooks)))
            })
            .collect();
        tried
            .into_iter()
            .map(|(family, tried)| (family, tried.join().expect("it does not panic")))
            .collect()
    })
});

/// Why these hooks cannot be used here, if so.
fn refusal(pid: &str, hooks: &str) -> Option<String> {
    let args = ["--pid", pid, "--hooks", hooks, "--duration", "100ms"];
    let output = slowburn(&[&["run", "--output", "/dev/null"], &args[..]].concat());
    (!output.status.success()).then(|| stderr_of(&output).trim().to_owned())
}

/// A loop over no families would be a check that cannot fail.
#[track_caller]
fn available(need: &str, families: [&'static str; 3]) -> Vec<String> {
    let available: Vec<_> = families
        .into_iter()
        .filter(|family| REFUSALS[family].is_none())
        .map(|family| format!("{need}={family}"))
        .collect();
    assert!(
        !available.is_empty(),
        "no family is available: {:?}",
        *REFUSALS
    );
    available
}

/// The families for waits and threads that work here, as `--hooks` takes them. Nothing is hooked for memory: a guest takes
/// 4 s to attach and detach such hooks, and each check would pay that.
pub fn sched() -> Vec<String> {
    let mut families = available("sched", SCHED);
    for family in &mut families {
        *family += ",";
        *family += WITHOUT_MEMORY;
    }
    families
}

/// For checks to which memory does not matter.
pub const WITHOUT_MEMORY: &str = "mem=none";

/// The families for memory that work here, as `--hooks` takes them.
pub fn memory() -> Vec<String> {
    available("mem", MEMORY)
}

/// Every kernel offers one of each, and those that are expected of this one.
#[test]
fn expected_families_are_available() {
    needs_tracing!();
    for (family, refusal) in &*REFUSALS {
        match refusal {
            None => println!("{family}: available"),
            Some(why) => report::skipped("hooks", family, why),
        }
    }
    let expected = env::var("SLOWBURN_TRUTH_HOOKS_EXPECTED").unwrap_or_default();
    for family in expected.split(',').filter(|family| !family.is_empty()) {
        assert_eq!(REFUSALS[family], None, "{family} has to be available here");
    }
    println!("used for the checks: {:?} and {:?}", sched(), memory());
}

/// `slowburn doctor` names the family that `slowburn run` uses, and each better one with the reason against it.
#[test]
fn doctor_says_what_is_used_and_why() {
    needs_tracing!();
    let output = std::process::Command::new(slowburn_tests::binary("slowburn"))
        .arg("doctor")
        .stdin(Stdio::null())
        .output()
        .expect("slowburn can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (need, families) in [("sched", SCHED), ("memory", MEMORY)] {
        let best = families.iter().find(|family| REFUSALS[*family].is_none());
        let best = best.expect("one is available");
        assert!(text.contains(&format!("{need} hooks: {best}")), "{text}");
        for better in families.iter().take_while(|family| *family != best) {
            let line = text
                .lines()
                .find(|line| line.contains(&format!("{better} would be better: ")));
            let reason = line.and_then(|line| line.split_once("better: "));
            assert!(
                reason.is_some_and(|(_, why)| !why.trim().is_empty()),
                "{text}"
            );
        }
    }
}
