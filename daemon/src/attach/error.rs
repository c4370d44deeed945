//! Why nothing could be attached to, in words that help to go on.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup;
use super::service::Service;
use super::target::Target;
use super::unit::{Manager, UnitFile};

/// How many pids of a candidate are shown.
const SHOWN_PIDS: usize = 5;

/// Why a target could not be found.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing that runs now is called that.
    #[error("no {target}{}", suggestion(.near))]
    NotFound {
        /// What was asked for.
        target: Target,
        /// Names of things that run and look similar, best first.
        near: Vec<String>,
    },
    /// There is such a unit, but it does not run.
    #[error("no {target}: {}", stopped(.file))]
    NotRunning {
        /// What was asked for.
        target: Target,
        /// The unit.
        file: UnitFile,
    },
    /// Several services are called that.
    #[error("{}", ambiguity(.target, .candidates))]
    Ambiguous {
        /// What was asked for.
        target: Target,
        /// The services, each of which could be meant.
        candidates: Vec<Service>,
    },
    /// No process has this pid.
    #[error("no process has pid {pid}: it may have exited; `slowburn services` lists what runs")]
    NoSuchPid {
        /// The pid that was asked for.
        pid: u32,
    },
    /// The id is a thread's.
    #[error("{tid} is a thread of process {leader}, not a process: use --pid {leader}")]
    NotALeader {
        /// The id that was asked for.
        tid: u32,
        /// The process that the thread belongs to.
        leader: u32,
    },
    /// The process can never do any work that could be watched.
    #[error("pid {pid} ({name:?}) cannot be attached to: it is {what}")]
    NotAttachable {
        /// The pid that was asked for.
        pid: u32,
        /// The kernel's name of it.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// No such cgroup directory.
    #[error("{}", no_cgroup(.path, .mounts))]
    NoSuchCgroup {
        /// The path that was asked for.
        path: PathBuf,
        /// Where hierarchies are mounted.
        mounts: Vec<PathBuf>,
    },
    /// `/proc` cannot be read.
    #[error("cannot read {}: is /proc mounted?", .path.display())]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl AttachError {
    /// Should the user say more clearly what is meant (exit code 2)?
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Ambiguous { .. } | Self::NotALeader { .. })
    }

    /// Can waiting help? True when nothing runs yet that fits the target.
    pub fn may_appear(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. } | Self::NotRunning { .. } | Self::NoSuchCgroup { .. }
        )
    }
}

fn suggestion(near: &[String]) -> String {
    let quoted: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
    match quoted.as_slice() {
        [] => "; `slowburn services` lists what can be attached to".to_owned(),
        [only] => format!(" (did you mean {only}?)"),
        [first @ .., last] => format!(" (did you mean {} or {last}?)", first.join(", ")),
    }
}

/// Why a unit that exists does not run, and what to do.
fn stopped(file: &UnitFile) -> String {
    let systemctl = match file.manager {
        Manager::System => "systemctl",
        Manager::User(_) => "systemctl --user",
    };
    let unit = cgroup::shown(&file.unit);
    if file.is_masked {
        return format!(
            "{file} is masked and cannot be started; `{systemctl} unmask {unit}` lifts that"
        );
    }
    if file.is_template() {
        let instance = unit.replacen('@', "@NAME", 1);
        return format!(
            "no instance of {file} is running; `{systemctl} start {instance}` starts one, --wait waits for one"
        );
    }
    format!("{file} is not running; `{systemctl} start {unit}` starts it, --wait waits for it")
}

fn no_cgroup(path: &Path, mounts: &[PathBuf]) -> String {
    let mounts: Vec<_> = mounts
        .iter()
        .map(|mount| mount.display().to_string())
        .collect();
    let looked = if mounts.is_empty() {
        "no cgroup hierarchy is mounted".to_owned()
    } else {
        format!("looked below {}", mounts.join(", "))
    };
    format!(
        "no cgroup {:?} ({looked}); `slowburn services` shows the cgroups of services",
        path.display().to_string()
    )
}

fn ambiguity(target: &Target, candidates: &[Service]) -> String {
    let count = candidates.len();
    let mut text = format!("more than one {target} ({count} different services):\n");
    for candidate in candidates {
        let pids = candidate.processes.iter().take(SHOWN_PIDS);
        let pids: Vec<String> = pids.map(|process| process.pid.to_string()).collect();
        let _ = write!(
            text,
            "  {} {}: pid {}",
            candidate.rule,
            cgroup::shown(&candidate.name),
            pids.join(", ")
        );
        if candidate.processes.len() > SHOWN_PIDS {
            let _ = write!(text, " and {} more", candidate.processes.len() - SHOWN_PIDS);
        }
        let cgroup = candidate
            .cgroup
            .as_ref()
            .map(|path| path.display().to_string());
        let cgroup = cgroup.unwrap_or_else(|| "none of its own".to_owned());
        let _ = writeln!(text, ", cgroup {}", cgroup::shown(&cgroup));
    }
    text.push_str("use --all to take all of them, or --pid/--cgroup to choose one");
    text
}
