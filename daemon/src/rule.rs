//! The rules by which names are looked up, on any system.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which rule found a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The cgroup of a systemd unit.
    Unit,
    /// The cgroup of a container.
    Container,
    /// A cgroup given by its path.
    Cgroup,
    /// The name of a process.
    Process,
    /// A process id.
    Pid,
    /// The services of Windows: the service control manager, or the table in a recording.
    Service,
    /// The scheduled tasks of Windows.
    Task,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unit => "unit",
            Self::Container => "container",
            Self::Cgroup => "cgroup",
            Self::Process => "process",
            Self::Pid => "pid",
            Self::Service => "service",
            Self::Task => "task",
        })
    }
}
