//! Signals and causes in words.

use crate::{
    figures,
    stream::{CauseKind, Signal},
};

/// What a signal is.
pub fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::CommittedBytes => "committed memory",
        Signal::ReservedBytes => "address space",
        Signal::RssBytes => "resident memory",
        Signal::ThreadsLive => "threads",
        Signal::Fds => "open files",
        Signal::MappedRate => "mapped a second",
        Signal::ReleasedRate => "given back a second",
        Signal::CreationRate => "new threads a second",
        Signal::ExitRate => "threads that end a second",
        Signal::SwitchRate => "switches a second",
        Signal::Cpus => "CPUs used",
        Signal::Waiting => "threads waiting for a CPU",
        Signal::MeanWait => "mean wait for a CPU",
        Signal::BehindOwn => "threads in long waits behind own ones",
        Signal::BehindIdle => "threads in long waits behind an idle CPU",
        Signal::BehindOthers => "threads in long waits behind others",
        Signal::MovedShare => "waits that end on another CPU",
        Signal::Throttled => "time held back by a quota",
        Signal::Steal => "CPUs kept by the hypervisor",
        Signal::MinorFaultRate => "page faults a second",
        Signal::MajorFaultRate => "page faults with I/O a second",
    }
}

/// A value of a signal with its unit.
pub fn quantity(signal: Signal, value: f64) -> String {
    match signal {
        Signal::CommittedBytes | Signal::ReservedBytes | Signal::RssBytes => figures::bytes(value),
        Signal::MappedRate | Signal::ReleasedRate => format!("{}/s", figures::bytes(value)),
        Signal::MeanWait => figures::time(value),
        Signal::MovedShare | Signal::Throttled => figures::percent(value),
        Signal::Cpus
        | Signal::Waiting
        | Signal::BehindOwn
        | Signal::BehindIdle
        | Signal::BehindOthers
        | Signal::Steal => format!("{value:.2}"),
        _ => figures::digits(value),
    }
}

/// What a cause is.
pub fn cause(cause: CauseKind) -> &'static str {
    match cause {
        CauseKind::LeakedMemory => "leaked memory",
        CauseKind::AddressSpaceGrowth => "address space that grows without being used (harmless)",
        CauseKind::AllocationChurn => "more and more is mapped and given back",
        CauseKind::ThreadLeak => "leaked threads",
        CauseKind::CreationChurn => "more and more short-lived threads",
        CauseKind::DescriptorLeak => "leaked file descriptors",
        CauseKind::OwnPressure => "its own threads wait for each other",
        CauseKind::OtherService => "other processes take the CPUs",
        CauseKind::QuotaThrottling => "its CPU quota is used up",
        CauseKind::Steal => "the hypervisor gives its CPUs to others",
        CauseKind::PeriodicJob => "a job that comes at regular intervals",
        CauseKind::OverlappingJob => "a job that overlaps its own next run",
        CauseKind::Resonance => "two things that come at regular intervals and meet",
        CauseKind::MigrationStorm => "threads are moved from CPU to CPU",
        CauseKind::NewVersion => "it is another since its restart",
        CauseKind::MoreLoad => "it has more to do",
    }
}
