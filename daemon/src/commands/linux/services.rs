//! `slowburn services`: what could be attached to.

use std::io::{self, Write};

use serde_json::json;

use crate::{
    attach::{Host, Service, list},
    cli::Services,
};

/// Pids shown of each service.
const SHOWN_PIDS: usize = 6;

/// Lists the services.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn run(options: &Services) -> anyhow::Result<()> {
    let services = list(&Host::live()?);
    let mut out = io::stdout().lock();
    let written = if options.json {
        as_json(&services, &mut out)
    } else {
        as_table(&services, &mut out)
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn as_table(services: &[Service], out: &mut impl Write) -> io::Result<()> {
    let width = services
        .iter()
        .map(|s| s.name.chars().count())
        .max()
        .unwrap_or(0)
        .clamp(7, 48);
    writeln!(
        out,
        "{:<width$}  {:<9}  {:<30}  WHY",
        "SERVICE", "RULE", "PIDS"
    )?;
    for service in services {
        let mut pids: Vec<_> = service
            .processes
            .iter()
            .take(SHOWN_PIDS)
            .map(|p| p.pid.to_string())
            .collect();
        if service.processes.len() > SHOWN_PIDS {
            pids.push(format!("+{}", service.processes.len() - SHOWN_PIDS));
        }
        let rule = service.rule.to_string();
        writeln!(
            out,
            "{:<width$}  {rule:<9}  {:<30}  {}",
            service.name,
            pids.join(","),
            service.why
        )?;
    }
    Ok(())
}

fn as_json(services: &[Service], out: &mut impl Write) -> io::Result<()> {
    for service in services {
        let pids: Vec<_> = service.processes.iter().map(|p| p.pid).collect();
        let line = json!({
            "service.name": service.name,
            "rule": service.rule,
            "pids": pids,
            "cgroup": service.cgroup,
            "why": service.why,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
