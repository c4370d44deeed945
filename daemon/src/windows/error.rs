//! Why nothing could be attached to, in words that help to go on.

use std::io;

use super::target::Target;

/// Why a target could not be found.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing is called that.
    #[error("no {target}{}", suggestion(.near))]
    NotFound {
        /// What was asked for.
        target: Target,
        /// Names that look similar, best first.
        near: Vec<String>,
    },
    /// There is such a service, but it does not run.
    #[error("service {service:?} is not running; --wait waits for it")]
    NotRunning {
        /// Which.
        service: String,
    },
    /// Several tasks are called that.
    #[error("more than one scheduled task is named {name:?}: {}; say which one with its path", .paths.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Paths of the tasks.
        paths: Vec<String>,
    },
    /// No process has this pid.
    #[error("no process has pid {pid}: it may have exited; `slowburn services` lists services")]
    NoSuchPid {
        /// The pid that was asked for.
        pid: u32,
    },
    /// Threads of a shared process cannot be told apart.
    #[error(
        "service {service:?} shares process {pid} with {}, and this Windows does not tell whose its threads are: --pid {pid} follows them all",
        .others.join(", ")
    )]
    Shared {
        /// The service.
        service: String,
        /// Its process.
        pid: u32,
        /// The other services in it.
        others: Vec<String>,
    },
    /// A manager does not answer.
    #[error("cannot ask {whom}: {source}")]
    System {
        /// Whom.
        whom: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl AttachError {
    /// Should the user say more clearly what is meant (exit code 2)?
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }

    /// Can waiting help?
    pub fn may_appear(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotRunning { .. })
    }
}

fn suggestion(near: &[String]) -> String {
    let quoted: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
    if quoted.is_empty() {
        "; `slowburn services` lists services".into()
    } else {
        format!(" (did you mean {}?)", quoted.join(" or "))
    }
}
