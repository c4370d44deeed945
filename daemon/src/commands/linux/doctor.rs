//! `slowburn doctor`: what this host supports, what is missing and how to get it.

use anyhow::bail;
use serde_json::json;
use slowburn_probes::linux::{
    Check, Family, Hooks, Limits, Need, Options, Preference, ProbeError, Source, support,
};

use crate::cli::Doctor;

/// A small ring is enough to see whether rings work.
const TRIAL: Limits = Limits {
    ring_bytes: 64 << 10,
    max_tasks: 16,
};

/// Looks at the host, and tries the hooks if it may.
///
/// # Errors
/// If the main job cannot run here.
pub fn run(options: &Doctor) -> anyhow::Result<()> {
    let checks = support().checks;
    let trial = Source::start(Options {
        limits: TRIAL,
        slow_ns: u64::MAX,
        min_mapping_bytes: u64::MAX,
        preference: Preference::default(),
        kernel_log: false,
    })
    .map(|source| source.hooks().clone());
    if options.json {
        print_json(&checks, &trial);
    } else {
        print_text(&checks, &trial);
    }
    if let Some(check) = checks.iter().find(|check| check.required && !check.ok) {
        bail!("the main job cannot run here: {} is missing", check.name);
    }
    match trial {
        Ok(_) => Ok(()),
        Err(error) => bail!("the main job cannot run here: {error}"),
    }
}

fn print_text(checks: &[Check], trial: &Result<Hooks, ProbeError>) {
    for check in checks {
        let mark = if check.ok {
            "ok  "
        } else if check.required {
            "FAIL"
        } else {
            "note"
        };
        println!("{mark}  {}: {}", check.name, check.found);
        if let Some(advice) = &check.advice {
            println!("      {advice}");
        }
    }
    match trial {
        Ok(hooks) => {
            println!("ok    ring buffer, shared tables: made and mapped");
            for need in [Need::Tasks, Need::Sched, Need::Memory] {
                print_hook(hooks, need);
            }
        }
        Err(error) => println!("FAIL  hooks: {error}"),
    }
}

fn print_hook(hooks: &Hooks, need: Need) {
    let family = chosen(hooks, need);
    println!("ok    {need} hooks: {family}");
    for refusal in hooks.refusals.iter().filter(|refusal| refusal.need == need) {
        println!(
            "      {} would be better: {}",
            refusal.family, refusal.reason
        );
    }
    if family == Family::Syscall {
        println!(
            "      system call tracepoints put every thread of the host on the slower system call path"
        );
        println!("      calls of 32-bit programs have none and are not counted");
    }
}

fn chosen(hooks: &Hooks, need: Need) -> Family {
    match need {
        Need::Tasks => hooks.tasks,
        Need::Sched => hooks.sched,
        Need::Memory => hooks.memory,
    }
}

fn print_json(checks: &[Check], trial: &Result<Hooks, ProbeError>) {
    let checks: Vec<_> = checks
        .iter()
        .map(|c| json!({ "name": c.name, "ok": c.ok, "required": c.required, "found": c.found, "advice": c.advice }))
        .collect();
    let hooks = trial.as_ref().ok().map(|hooks| {
        let refused: Vec<_> = hooks
            .refusals
            .iter()
            .map(|r| json!({ "need": r.need.to_string(), "family": r.family.name(), "reason": r.reason }))
            .collect();
        json!({
            "tasks": hooks.tasks.name(),
            "sched": hooks.sched.name(),
            "memory": hooks.memory.name(),
            "refused": refused,
        })
    });
    let error = trial.as_ref().err().map(ToString::to_string);
    println!(
        "{}",
        json!({ "checks": checks, "hooks": hooks, "error": error })
    );
}
