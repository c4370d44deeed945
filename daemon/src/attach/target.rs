//! What the user asked for.

use std::fmt;
use std::path::PathBuf;

use super::process::COMM_LENGTH;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A unit, a container or a process of that name, whichever there is, in this order.
    Service(String),
    /// A systemd unit; `.service` is added to a name without a unit's suffix.
    Unit(String),
    /// A container, by name or by the beginning of its id.
    Container(String),
    /// A cgroup: a directory below a cgroup mount, or a path inside a hierarchy.
    Cgroup(PathBuf),
    /// Processes by name: comm, executable or `argv[0]`.
    Process(String),
    /// These processes.
    Pids(Vec<u32>),
}

impl Target {
    /// For waiting: comms (zero-padded) that a process may have at exec when the target appears. A
    /// hit is a hint to call [`super::find`] at once, and nothing more: the name may be met in
    /// another way, and others may have the comm. Empty when a name in the kernel is no help.
    pub fn kernel_names(&self) -> Vec<[u8; 16]> {
        match self {
            Self::Service(name) | Self::Process(name) => vec![kernel_name(name)],
            _ => Vec::new(),
        }
    }
}

/// A name as the kernel keeps it: cut to 15 bytes, filled with zeros.
pub(super) fn kernel_name(name: &str) -> [u8; 16] {
    let mut comm = [0; COMM_LENGTH + 1];
    for (to, from) in comm.iter_mut().zip(name.bytes().take(COMM_LENGTH)) {
        *to = from;
    }
    comm
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service named {name:?}"),
            Self::Unit(name) => write!(f, "running unit named {name:?}"),
            Self::Container(name) => write!(f, "running container with the name or id {name:?}"),
            Self::Cgroup(path) => write!(f, "cgroup {:?}", path.display().to_string()),
            Self::Process(name) => write!(f, "process named {name:?}"),
            Self::Pids(pids) => write!(f, "process among the pids {pids:?}"),
        }
    }
}
