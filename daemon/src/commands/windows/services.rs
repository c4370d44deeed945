//! `slowburn services` on Windows: the services that run, by the service control manager.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde_json::json;

use crate::{
    cli::Services,
    windows::{ServiceRow, services},
};

/// Lists the services.
///
/// # Errors
/// If the service control manager does not answer.
pub fn run(options: &Services) -> anyhow::Result<()> {
    let mut running = services()?;
    running.retain(|service| service.pid > 0);
    running.sort_by(|one, other| one.name.cmp(&other.name));
    let mut out = io::stdout().lock();
    let written = if options.json {
        as_json(&running, &mut out)
    } else {
        as_table(&running, &mut out)
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn as_table(services: &[ServiceRow], out: &mut impl Write) -> io::Result<()> {
    let mut sharing: BTreeMap<u32, usize> = BTreeMap::new();
    for service in services {
        *sharing.entry(service.pid).or_default() += 1;
    }
    let width = services
        .iter()
        .map(|service| service.name.chars().count())
        .max();
    let width = width.unwrap_or(0).clamp(7, 48);
    writeln!(out, "{:<width$}  {:<8}  WHY", "SERVICE", "PID")?;
    for service in services {
        let others = sharing.get(&service.pid).map_or(0, |count| count - 1);
        let shares = match others {
            0 => String::new(),
            1 => ", in a process with one other".to_owned(),
            _ => format!(", in a process with {others} others"),
        };
        writeln!(
            out,
            "{:<width$}  {:<8}  {}{shares}",
            service.name, service.pid, service.display_name
        )?;
    }
    Ok(())
}

fn as_json(services: &[ServiceRow], out: &mut impl Write) -> io::Result<()> {
    for service in services {
        let line = json!({
            "service.name": service.name,
            "rule": "service",
            "pids": [service.pid],
            "why": service.display_name,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
