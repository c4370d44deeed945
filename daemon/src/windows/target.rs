//! What the user asked for.

use std::fmt;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service, by its name or its name for people; or else processes with that name.
    Service(String),
    /// Processes by the name of their program.
    Process(String),
    /// A scheduled task, by its path or the last part of it.
    Task(String),
    /// These processes.
    Pids(Vec<u32>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service or process named {name:?}"),
            Self::Process(name) => write!(f, "process named {name:?}"),
            Self::Task(name) => write!(f, "scheduled task named {name:?}"),
            Self::Pids(pids) => write!(f, "process among the pids {pids:?}"),
        }
    }
}
