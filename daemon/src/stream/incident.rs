//! Incidents: what the flags of one service within one stretch come to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FlagState, Moment, Rival};

/// The flags of a service that were raised within one stretch, what moved with them, where, and why that may be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// When this was concluded: the end of a window.
    pub ts: Moment,
    /// The same in all records about one incident; unique within a stream.
    pub id: String,
    /// Raised with its first flag, updated with further ones or another likeliest cause, cleared when no climb is left.
    pub state: FlagState,
    /// Of which service.
    #[serde(rename = "service.name")]
    pub service: String,
    /// When the first of what was flagged began, as far as can be told.
    pub since: Moment,
    /// Ids of its flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// What changed in that time, the largest change first. Of the process that was flagged first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
    /// Where.
    #[serde(default)]
    pub place: Place,
    /// What it may be due to, likeliest first.
    pub causes: Vec<Cause>,
    /// The incident as a sentence.
    pub summary: String,
}

/// Something that changed in the course of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// What.
    pub signal: Signal,
    /// Its level before, in the unit of the signal.
    pub before: f64,
    /// Its level now.
    pub now: f64,
    /// Rank correlation (Spearman) with what was flagged first; absent where too little is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// How much later than what was flagged first it had gone a quarter of its way; negative if earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ns: Option<i64>,
}

/// A number about a process, by the window.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Private writable address space, in bytes.
    CommittedBytes,
    /// Address space, in bytes.
    ReservedBytes,
    /// Resident memory, in bytes.
    RssBytes,
    /// Live threads.
    ThreadsLive,
    /// Open file descriptors.
    Fds,
    /// Address space mapped, in bytes a second.
    MappedRate,
    /// Address space given back, in bytes a second.
    ReleasedRate,
    /// Threads created a second.
    CreationRate,
    /// Threads that ended a second.
    ExitRate,
    /// How often a CPU was got, a second.
    SwitchRate,
    /// CPUs used.
    Cpus,
    /// Threads waiting for a CPU, on average.
    Waiting,
    /// Mean wait for a CPU, in nanoseconds.
    MeanWait,
    /// Threads in long waits behind threads of the same process, on average.
    BehindOwn,
    /// Threads in long waits that an idle CPU ended, on average.
    BehindIdle,
    /// Threads in long waits behind others, on average.
    BehindOthers,
    /// Share of waits that ended on another CPU.
    MovedShare,
    /// Share of the time in which its cgroup was held back by a CPU quota.
    Throttled,
    /// CPUs that the hypervisor kept for others.
    Steal,
    /// Page faults a second that needed no I/O.
    MinorFaultRate,
    /// Page faults a second that did.
    MajorFaultRate,
}

/// Where in a service something happens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// Its processes with flags, by id; the one flagged first comes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<u32>,
    /// Threads with most of what was flagged first, by names with `#` for each number; most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<Part>,
    /// Threads that created most of the new ones lately, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub creators: Vec<Part>,
    /// What a call that maps memory took lately, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_bytes: Option<u64>,
    /// Other processes that had the CPU when its long waits ended, over the last windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<Rival>,
}

/// A part of something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Whose.
    pub name: String,
    /// Its share of the whole.
    pub share: f64,
}

/// What an incident may be due to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cause {
    /// What.
    pub cause: CauseKind,
    /// How likely, from 0 to 1. Several causes may hold at once: these need not add up to one.
    pub confidence: f64,
    /// What speaks for it.
    #[serde(rename = "for", default, skip_serializing_if = "Vec::is_empty")]
    pub supporting: Vec<String>,
    /// What speaks against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// Commands that would tell more, the next one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

/// Causes that are told apart. `docs/patterns.md` has what they mean and what to do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Memory is taken, used, and not given back.
    LeakedMemory,
    /// Address space grows without becoming resident: harmless.
    AddressSpaceGrowth,
    /// More and more is mapped and given back.
    AllocationChurn,
    /// Threads are started and do not end.
    ThreadLeak,
    /// More and more short-lived threads.
    CreationChurn,
    /// Files are opened and not closed.
    DescriptorLeak,
    /// The service's own threads wait for each other.
    OwnPressure,
    /// The CPUs are taken by others.
    OtherService,
    /// The CPU quota of its cgroup is used up.
    QuotaThrottling,
    /// The hypervisor gives the CPUs to other machines.
    Steal,
    /// Something comes at regular intervals.
    PeriodicJob,
    /// A job still runs when it is started again.
    OverlappingJob,
    /// Two things that come at regular intervals meet.
    Resonance,
    /// Threads are moved from CPU to CPU.
    MigrationStorm,
    /// It is so since the service was started anew.
    NewVersion,
    /// The service has more to do.
    MoreLoad,
}
