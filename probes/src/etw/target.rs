//! Names of services and processes, as a recording has them.

use thiserror::Error;

use super::{
    survey::{ServiceRow, Survey},
    tracker::{Target, is_image},
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A service, or else a process, of this name.
    Service(String),
    /// Processes whose program has this name.
    Process(String),
    /// Processes with these ids.
    Pids(Vec<u32>),
}

/// Which rule found a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The table of services.
    Service,
    /// The name of a program.
    Process,
    /// An id.
    Pid,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What to follow.
    pub target: Target,
    /// Its name in the stream.
    pub name: String,
    /// By which rule.
    pub rule: Rule,
    /// What matched, in words.
    pub why: String,
    /// Its processes when the recording began.
    pub pids: Vec<u32>,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotFound {
    /// Neither a service nor a program.
    #[error(
        "the recording has neither a service nor a process named {0:?}{1}: `slowburn inspect` lists what it has"
    )]
    Service(String, String),
    /// In the table, without a process.
    #[error(
        "the service {0:?} did not run when the recording ended, and what its process had been is not recorded: choose with --process or --pid"
    )]
    NotRunning(String),
    /// No program.
    #[error("the recording has no process named {0:?}: `slowburn inspect` lists what it has")]
    Process(String),
    /// No process.
    #[error("the recording has no process {0}: `slowburn inspect` lists what it has")]
    Pid(u32),
}

/// Finds a target.
///
/// # Errors
/// If nothing in the recording has this name or id.
pub fn find(survey: &Survey, wanted: &Wanted) -> Result<Found, NotFound> {
    match wanted {
        Wanted::Service(name) => service(survey, name),
        Wanted::Process(name) => {
            process(survey, name).ok_or_else(|| NotFound::Process(name.clone()))
        }
        Wanted::Pids(pids) => by_ids(survey, pids),
    }
}

fn service(survey: &Survey, name: &str) -> Result<Found, NotFound> {
    let is_named = |row: &&ServiceRow| is_same(&row.name, name) || is_same(&row.display_name, name);
    let mut rows = survey.services.iter().filter(is_named);
    let Some(first) = rows.next() else {
        let hint = if survey.services.is_empty() {
            ", and no table of services"
        } else {
            ""
        };
        return process(survey, name).ok_or_else(|| NotFound::Service(name.into(), hint.into()));
    };
    // A table may be in a recording twice.
    let row = if first.pid == 0 {
        rows.find(|row| row.pid > 0)
    } else {
        Some(first)
    };
    let row = row.ok_or_else(|| NotFound::NotRunning(first.name.clone()))?;
    let mut others: Vec<&str> = survey
        .services
        .iter()
        .filter(|other| other.pid == row.pid)
        .map(|other| other.name.as_str())
        .collect();
    others.retain(|other| !is_same(other, &row.name));
    others.sort_unstable();
    others.dedup();
    let (target, why) = if others.is_empty() {
        (
            Target::Pids(vec![row.pid]),
            format!("service {:?} is process {}", row.name, row.pid),
        )
    } else {
        let shares = format!(
            "service {:?} has the threads marked {} in process {}, which it shares with {}",
            row.name,
            row.tag,
            row.pid,
            others.join(", ")
        );
        (
            Target::Tagged {
                pid: row.pid,
                tag: row.tag,
            },
            shares,
        )
    };
    Ok(Found {
        target,
        name: row.name.clone(),
        rule: Rule::Service,
        why,
        pids: vec![row.pid],
    })
}

fn is_same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn process(survey: &Survey, name: &str) -> Option<Found> {
    let named = survey
        .processes
        .iter()
        .filter(|(_, row)| is_image(row.image.as_bytes(), name));
    let mut named: Vec<_> = named.collect();
    named.sort_unstable_by_key(|(pid, _)| **pid);
    let (_, first) = named.first()?;
    let initial = named
        .iter()
        .filter(|(_, row)| row.is_initial)
        .map(|(pid, _)| **pid);
    Some(Found {
        target: Target::Image(name.to_owned()),
        name: first.image.clone(),
        rule: Rule::Process,
        why: format!("{:?} is the program of {}", first.image, count(named.len())),
        pids: initial.collect(),
    })
}

fn by_ids(survey: &Survey, pids: &[u32]) -> Result<Found, NotFound> {
    let mut names = Vec::new();
    for pid in pids {
        let row = survey.processes.get(pid);
        let has_threads = || survey.threads.values().any(|thread| thread.pid == *pid);
        if row.is_none() && !has_threads() {
            return Err(NotFound::Pid(*pid));
        }
        names.extend(
            row.map(|row| row.image.clone())
                .filter(|image| !image.is_empty()),
        );
    }
    let initial = |pid: &&u32| survey.processes.get(pid).is_none_or(|row| row.is_initial);
    Ok(Found {
        target: Target::Pids(pids.to_vec()),
        name: names
            .first()
            .cloned()
            .unwrap_or_else(|| format!("pid {}", pids.first().copied().unwrap_or(0))),
        rule: Rule::Pid,
        why: format!("{} given by id", count(pids.len())),
        pids: pids.iter().filter(initial).copied().collect(),
    })
}

fn count(processes: usize) -> String {
    format!(
        "{processes} {}",
        if processes == 1 {
            "process"
        } else {
            "processes"
        }
    )
}
