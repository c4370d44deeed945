//! What can go wrong between the daemon and the kernel, in words that say what to do.

use std::io;

use thiserror::Error;

use super::hooks::{Need, Refusal};

/// Why the kernel side could not be set up or used.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Missing privileges.
    #[error(
        "loading eBPF programs needs root (or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE): run it with sudo"
    )]
    NotPermitted,
    /// Root, and still refused.
    #[error(
        "the kernel refuses eBPF to root here ({0}): inside a container, run with --privileged --pid=host; under lockdown=confidentiality, boot with lockdown=integrity"
    )]
    Refused(String),
    /// Not in the initial pid namespace.
    #[error(
        "slowburn runs in a pid namespace of its own, where process ids are not those of the kernel: start it on the host, or in a container with --pid=host"
    )]
    PidNamespace,
    /// No type information.
    #[error(
        "this kernel has no type information at /sys/kernel/btf/vmlinux ({0}): it must be built with CONFIG_DEBUG_INFO_BTF=y, as the kernels of current distributions are"
    )]
    NoBtf(String),
    /// A type or field that every supported kernel has.
    #[error(
        "the kernel's type information has no {0}: this kernel is older than 5.15 or heavily modified, and is not supported"
    )]
    MissingField(String),
    /// Embedded object.
    #[error("the kernel-side object could not be prepared: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    /// A map could not be made.
    #[error("the kernel refused a table ({what}): {source}. {hint}")]
    Map {
        /// Which, and how large.
        what: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// No form of a hook works.
    #[error("no way to hook {need} works on this kernel: {}", list(.refusals))]
    NoHook {
        /// What for.
        need: Need,
        /// What was tried.
        refusals: Vec<Refusal>,
    },
    /// Hooks that were taken off to save CPU time cannot be put back.
    #[error(
        "the hooks on {need} could not be put back ({reason}); they stay off. It takes CAP_BPF and CAP_PERFMON, and kernel 5.13 for fexit"
    )]
    NotBack {
        /// What for.
        need: Need,
        /// What the kernel said.
        reason: String,
    },
    /// Something about a process could not be read.
    #[error("cannot read {what} of process {pid}: {source}")]
    Process {
        /// What.
        what: &'static str,
        /// Of which process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// Every record is in use.
    #[error("all {0} task records are in use: raise --max-tasks")]
    NoSlot(u32),
    /// A task id beyond the tables.
    #[error(
        "task {0} has an id beyond the tables (kernel.pid_max was raised since the start): restart slowburn"
    )]
    IdBeyondTable(u32),
}

fn list(refusals: &[Refusal]) -> String {
    let each: Vec<_> = refusals
        .iter()
        .map(|r| format!("{}: {}", r.family, r.reason))
        .collect();
    each.join("; ")
}
