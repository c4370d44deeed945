//! `slowburn doctor` on Windows: build, rights, sessions in use.

use anyhow::bail;
use serde_json::json;
use slowburn_probes::windows::{Check, sessions, support};

use crate::cli::Doctor;

/// Looks at the host.
///
/// # Errors
/// If the main job cannot run here.
pub fn run(options: &Doctor) -> anyhow::Result<()> {
    let checks = support();
    if options.json {
        let in_use = sessions().unwrap_or_default();
        println!("{}", json!({ "checks": checks, "sessions": in_use }));
    } else {
        checks.iter().for_each(print);
    }
    if let Some(check) = checks.iter().find(|check| check.required && !check.ok) {
        bail!(
            "the main job cannot run here: {}: {}",
            check.name,
            check.found
        );
    }
    Ok(())
}

fn print(check: &Check) {
    let mark = match (check.ok, check.required) {
        (true, _) => "ok  ",
        (false, true) => "FAIL",
        (false, false) => "note",
    };
    println!("{mark}  {}: {}", check.name, check.found);
    if let Some(advice) = &check.advice {
        println!("      {advice}");
    }
}
