//! Keeps what is followed equal to the service, the task or the processes that were asked for.

use std::collections::HashMap;

use slowburn_probes::windows::{self as probes, RunningProcess, Source, processes};

use super::{
    error::AttachError,
    runs::{Overlap, Runs},
    services::{ServiceRow, services},
    tags,
    target::Target,
    tasks::{self, Task},
};
use crate::{near, rule::Rule};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in the stream.
    pub name: String,
    /// By which rule.
    pub rule: Rule,
    /// What matched, in words.
    pub why: String,
    /// Its processes.
    pub pids: Vec<u32>,
}

/// What is to be looked at once a second.
enum Watched {
    /// A service, by its name.
    Service { name: String, pid: u32 },
    /// A task.
    Task { task: Task, runs: Runs },
    /// Programs of this name, which the source finds by itself.
    Image(String),
    /// Nothing: processes by id.
    Nothing,
}

/// What is followed.
pub struct Scope {
    target: Target,
    found: Option<Found>,
    watched: Watched,
    /// Processes to be followed of which no event has come yet.
    pending: Vec<u32>,
    /// Shared process of the service, and whose threads are to be found in it.
    shared: Option<Shared>,
    owners: HashMap<u32, String>,
}

struct Shared {
    pid: u32,
    others: Vec<String>,
    /// Looks at it that found no thread of the service.
    looks: u32,
}

/// After so many looks, one a second, a service without threads of its own is given up.
const MOST_LOOKS: u32 = 10;

impl Scope {
    /// Looks the target up.
    ///
    /// # Errors
    /// If there is none, or it is not clear which is meant.
    pub fn find(target: Target) -> Result<Self, AttachError> {
        let mut scope = Self::waiting(target);
        scope.look_up()?;
        Ok(scope)
    }

    /// A scope without anything found yet; [`Self::look`] may find it.
    pub fn waiting(target: Target) -> Self {
        Self {
            target,
            found: None,
            watched: Watched::Nothing,
            pending: Vec::new(),
            shared: None,
            owners: HashMap::new(),
        }
    }

    fn look_up(&mut self) -> Result<(), AttachError> {
        let (found, watched) = match &self.target {
            Target::Service(name) => self.service(name)?,
            Target::Process(name) => image(&self.target, name, Vec::new)?,
            Target::Task(name) => task(name)?,
            Target::Pids(pids) => (by_ids(pids)?, Watched::Nothing),
        };
        if let Watched::Service { pid, .. } = watched {
            self.enter(pid)?;
        } else if !matches!(watched, Watched::Image(_)) {
            self.pending.clone_from(&found.pids);
        }
        (self.found, self.watched) = (Some(found), watched);
        Ok(())
    }

    fn service(&self, name: &str) -> Result<(Found, Watched), AttachError> {
        let all = asked()?;
        let Some(row) = all.iter().find(|row| row.is_named(name)) else {
            let names = || all.iter().map(|row| row.name.clone()).collect();
            return image(&self.target, name, names);
        };
        if row.pid == 0 {
            return Err(AttachError::NotRunning {
                service: row.name.clone(),
            });
        }
        let others = sharing(&all, row);
        let why = if others.is_empty() {
            format!("service {:?} is process {}", row.name, row.pid)
        } else {
            format!(
                "service {:?} has threads in process {}, which it shares with {}",
                row.name,
                row.pid,
                others.join(", ")
            )
        };
        let found = Found {
            name: row.name.clone(),
            rule: Rule::Service,
            why,
            pids: vec![row.pid],
        };
        let watched = Watched::Service {
            name: row.name.clone(),
            pid: row.pid,
        };
        Ok((found, watched))
    }

    /// The service runs in this process.
    fn enter(&mut self, pid: u32) -> Result<(), AttachError> {
        let all = asked()?;
        let others = all.iter().find(|row| row.pid == pid);
        let others = others.map_or_else(Vec::new, |row| sharing(&all, row));
        if others.is_empty() {
            self.shared = None;
            self.pending = vec![pid];
        } else {
            self.shared = Some(Shared {
                pid,
                others,
                looks: 0,
            });
        }
        Ok(())
    }

    /// What was found, if anything was.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// What the source is to follow from its beginning.
    pub fn begin(&self) -> probes::Target {
        match &self.watched {
            Watched::Image(name) => probes::Target::Image(name.clone()),
            _ => probes::Target::Pids(self.pending.clone()),
        }
    }

    /// Can it come back once it is gone?
    pub fn can_return(&self) -> bool {
        self.found.is_none() || !matches!(self.watched, Watched::Nothing)
    }

    /// Is there nothing left that events are waited for from?
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.shared.is_none()
    }

    /// Looks whether the target is there, has been started anew, or its task has. Returns true if it was found only now.
    ///
    /// # Errors
    /// If threads of a shared process cannot be told apart, or what is there now is not clear.
    pub fn look(&mut self, overlaps: &mut Vec<Overlap>) -> Result<bool, AttachError> {
        if self.found.is_none() {
            return match self.look_up() {
                Ok(()) => Ok(true),
                Err(error) if error.may_appear() => Ok(false),
                Err(error) => Err(error),
            };
        }
        let mut entered = None;
        match &mut self.watched {
            Watched::Service { name, pid } => {
                let all = asked()?;
                let now = all.iter().find(|row| row.name == *name);
                let now = now.map_or(0, |row| row.pid);
                if now != *pid {
                    *pid = now;
                    entered = Some(now);
                }
            }
            Watched::Task { task, runs } => {
                let look = task.look()?;
                overlaps.extend(runs.look(&look));
                let pids = look.instances.iter().map(|instance| instance.pid);
                self.pending = pids.collect();
            }
            Watched::Image(_) | Watched::Nothing => {}
        }
        match entered {
            Some(0) => (self.pending, self.shared) = (Vec::new(), None),
            Some(pid) => self.enter(pid)?,
            None => {}
        }
        Ok(false)
    }

    /// Has the source follow what was found and is not followed yet.
    ///
    /// # Errors
    /// If threads of a shared process cannot be told apart.
    pub fn follow(
        &mut self,
        source: &mut Source,
        out: &mut Vec<slowburn_probes::event::Event>,
    ) -> Result<(), AttachError> {
        match &self.watched {
            Watched::Image(name) => {
                source.retarget(probes::Target::Image(name.clone()), out);
                return Ok(());
            }
            Watched::Service { name, .. } => {
                let name = name.clone();
                if self.shared.is_some() {
                    return self.follow_threads(&name, source, out);
                }
            }
            Watched::Task { .. } | Watched::Nothing => {}
        }
        source.retarget(probes::Target::Pids(self.pending.clone()), out);
        // Once a process is followed, whoever gets its id later is not.
        let followed = source.processes();
        self.pending
            .retain(|pid| followed.iter().all(|life| life.id != *pid));
        source.retarget(probes::Target::Pids(self.pending.clone()), out);
        Ok(())
    }

    fn follow_threads(
        &mut self,
        name: &str,
        source: &mut Source,
        out: &mut Vec<slowburn_probes::event::Event>,
    ) -> Result<(), AttachError> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        let pid = shared.pid;
        let mark = source.tags(pid).into_iter().find(|tag| {
            tags::service_of(pid, *tag).is_some_and(|service| service.eq_ignore_ascii_case(name))
        });
        if let Some(tag) = mark {
            source.retarget(probes::Target::Tagged { pid, tag }, out);
            self.shared = None;
            return Ok(());
        }
        shared.looks += 1;
        if shared.looks < MOST_LOOKS {
            return Ok(());
        }
        Err(AttachError::Shared {
            service: name.to_owned(),
            pid,
            others: std::mem::take(&mut shared.others),
        })
    }

    /// Reads anew which services each process is of.
    pub fn refresh_owners(&mut self) {
        let Ok(all) = services() else { return };
        self.owners.clear();
        for row in all.into_iter().filter(|row| row.pid > 0) {
            let names = self.owners.entry(row.pid).or_default();
            if !names.is_empty() {
                names.push_str(", ");
            }
            names.push_str(&row.name);
        }
    }

    /// The services of a process.
    pub fn owner(&self, pid: u32) -> Option<String> {
        self.owners.get(&pid).cloned()
    }
}

fn asked() -> Result<Vec<ServiceRow>, AttachError> {
    services().map_err(|source| AttachError::System {
        whom: "the service control manager",
        source,
    })
}

fn running() -> Result<Vec<RunningProcess>, AttachError> {
    processes().map_err(|source| AttachError::System {
        whom: "Windows which processes there are",
        source,
    })
}

/// The other services in the same process.
fn sharing(all: &[ServiceRow], row: &ServiceRow) -> Vec<String> {
    all.iter()
        .filter(|other| other.pid == row.pid && other.name != row.name)
        .map(|other| other.name.clone())
        .collect()
}

fn image(
    target: &Target,
    name: &str,
    others: impl FnOnce() -> Vec<String>,
) -> Result<(Found, Watched), AttachError> {
    let all = running()?;
    let is_named = |image: &str| {
        let (image, name) = (image.to_lowercase(), name.to_lowercase());
        image == name || image.strip_suffix(".exe") == Some(&name)
    };
    let named: Vec<_> = all.iter().filter(|one| is_named(&one.image)).collect();
    let Some(first) = named.first() else {
        let candidates = all.iter().map(|one| one.image.clone()).chain(others());
        return Err(AttachError::NotFound {
            target: target.clone(),
            near: near::best(name, candidates.collect()),
        });
    };
    let found = Found {
        name: first.image.clone(),
        rule: Rule::Process,
        why: format!("{:?} is the program of {}", first.image, count(named.len())),
        pids: named.iter().map(|one| one.pid).collect(),
    };
    Ok((found, Watched::Image(name.to_owned())))
}

fn task(name: &str) -> Result<(Found, Watched), AttachError> {
    let task = tasks::find(name)?;
    let look = task.look()?;
    let mut runs = Runs::default();
    runs.look(&look);
    let pids: Vec<u32> = look.instances.iter().map(|instance| instance.pid).collect();
    // It need not run now: its next run is waited for.
    let why = if pids.is_empty() {
        format!("the task {:?} does not run now", task.path)
    } else {
        format!("the task {:?} runs as {}", task.path, count(pids.len()))
    };
    let found = Found {
        name: task.path.clone(),
        rule: Rule::Task,
        why,
        pids,
    };
    Ok((found, Watched::Task { task, runs }))
}

fn by_ids(pids: &[u32]) -> Result<Found, AttachError> {
    let all = running()?;
    let mut names = Vec::new();
    for pid in pids {
        let one = all.iter().find(|one| one.pid == *pid);
        names.push(
            one.ok_or(AttachError::NoSuchPid { pid: *pid })?
                .image
                .clone(),
        );
    }
    Ok(Found {
        name: names.swap_remove(0),
        rule: Rule::Pid,
        why: format!("{} given by id", count(pids.len())),
        pids: pids.to_vec(),
    })
}

fn count(processes: usize) -> String {
    let noun = if processes == 1 {
        "process"
    } else {
        "processes"
    };
    format!("{processes} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(target: Target) -> Result<Found, AttachError> {
        Scope::find(target).map(|scope| scope.found.expect("it was found"))
    }

    #[test]
    fn we_are_found_by_id_and_by_name() {
        let own = std::process::id();
        let by_id = find(Target::Pids(vec![own])).expect("we run");
        assert_eq!((by_id.rule, by_id.pids), (Rule::Pid, vec![own]));
        let name = by_id.name.trim_end_matches(".exe").to_uppercase();
        let by_name = find(Target::Service(name)).expect("we run");
        assert_eq!(by_name.rule, Rule::Process);
        assert!(by_name.pids.contains(&own));
    }

    #[test]
    fn what_is_not_there_is_an_error_that_helps() {
        let error = find(Target::Pids(vec![4_000_000_003])).expect_err("no process has this id");
        assert!(
            error
                .to_string()
                .starts_with("no process has pid 4000000003"),
            "{error}"
        );
        let error =
            find(Target::Process("serviceses.exe".into())).expect_err("nothing is called that");
        assert!(error.may_appear() && !error.is_usage(), "{error}");
        assert!(
            error.to_string().contains("did you mean \"services.exe\""),
            "{error}"
        );
    }
}
