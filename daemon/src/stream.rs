//! The JSON stream: one record a line, version 1.
//!
//! These types are the format. The schema in `docs/schema/v1.json` is generated from them, and a test fails
//! when the two differ. Field names follow the OpenTelemetry semantic conventions where those have one;
//! durations end in `_ns`, sizes in `_bytes`. What could not be measured is absent, never zero.

mod incident;
pub mod single;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use slowburn_probes::event::{Call, Class};

pub use self::incident::{Cause, CauseKind, Incident, Moved, Part, Place, Signal};
use crate::{policy::Sensitivity, rule::Rule};

/// Version of the format. Fields may be added within a version; none is removed or changes its meaning.
pub const VERSION: u8 = 1;

/// A line of the stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Version of the format.
    pub v: Version,
    /// What it says.
    #[serde(flatten)]
    pub record: Record,
}

impl From<Record> for Line {
    fn from(record: Record) -> Self {
        Self { v: Version, record }
    }
}

/// The number 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(de::Error::custom(format!(
                "version {other} of the stream is not known to this slowburn (it knows {VERSION})"
            ))),
        }
    }
}

impl JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "const": VERSION })
    }
}

/// A moment, in nanoseconds since the Unix epoch; written as RFC 3339 in UTC with nine decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(de::Error::custom)?;
        u64::try_from(time.as_nanosecond())
            .map(Self)
            .map_err(|_| de::Error::custom("a time before 1970"))
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{9}Z$",
            "description": "RFC 3339, UTC, nanoseconds",
        })
    }
}

/// What a line says.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// The daemon has attached. The first record of a run.
    Start(Box<Start>),
    /// Something happened to a service or one of its processes.
    Target(TargetEvent),
    /// A call changed an address space.
    Mapping(Mapping),
    /// A thread started or ended.
    Thread(Thread),
    /// A single slow wait for a CPU.
    Delay(Delay),
    /// What a process or thread did in a period.
    Window(Box<Window>),
    /// Something is slowly getting worse, or no longer is.
    Flag(Box<Flag>),
    /// What the flags of a service come to.
    Incident(Box<Incident>),
    /// Something was found that the policy does not want flagged.
    Ignored(Box<Ignored>),
    /// slowburn measures less, to stay within its budget, or more again.
    Budget(Box<BudgetChange>),
    /// Events or samples were lost.
    Loss(Loss),
    /// The daemon has detached. The last record of a run.
    Stop(Box<Stop>),
}

impl Record {
    /// Its type, as the stream has it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Target(_) => "target",
            Self::Mapping(_) => "mapping",
            Self::Thread(_) => "thread",
            Self::Delay(_) => "delay",
            Self::Window(_) => "window",
            Self::Flag(_) => "flag",
            Self::Incident(_) => "incident",
            Self::Ignored(_) => "ignored",
            Self::Budget(_) => "budget",
            Self::Loss(_) => "loss",
            Self::Stop(_) => "stop",
        }
    }
}

/// The daemon has attached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// When.
    pub ts: Moment,
    /// Version of slowburn.
    pub version: String,
    /// Where.
    pub host: Host,
    /// How the kernel is observed.
    pub hooks: Hooks,
    /// Sizes and thresholds of this run.
    pub limits: Limits,
    /// The policy file that the run goes by; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyInUse>,
    /// What is watched.
    pub targets: Vec<WatchedService>,
}

/// A policy file, without its path and content, which may be nobody's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyInUse {
    /// SHA-256 of the file, in hexadecimal: what `sha256sum` prints.
    pub sha256: String,
    /// Services that it has settings of their own for.
    pub services: usize,
    /// Rules of what to ignore.
    pub ignoring: usize,
}

/// The host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Kernel release, such as `6.12.0-1-amd64`.
    pub kernel: String,
    /// Kernel build, which names the preemption model.
    pub kernel_build: String,
    /// Processor architecture.
    pub arch: String,
    /// Online CPUs.
    pub cpus: usize,
}

/// Which form of hook serves each need.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hooks {
    /// Creation, exec and exit of tasks.
    pub tasks: String,
    /// Wake-ups and switches.
    pub sched: String,
    /// Calls that change an address space.
    pub memory: String,
    /// Better forms that this kernel refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedHook>,
}

/// A form of hook that did not work.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusedHook {
    /// What for.
    pub need: String,
    /// Which.
    pub family: String,
    /// What the kernel said.
    pub reason: String,
}

/// Sizes and thresholds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Length of a window.
    pub window_ns: u64,
    /// Single waits of at least this are records; absent if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_ns: Option<u64>,
    /// Mapping calls of at least this are records; absent if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_mapping_bytes: Option<u64>,
    /// Size of the ring buffer.
    pub ring_bytes: u64,
    /// Tasks that can be followed at the same time.
    pub max_tasks: u32,
    /// Largest relative error of a delay read from the histogram.
    pub delay_precision: f64,
    /// CPU time that slowburn may use, kernel side included, as a share of one CPU; absent if it is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_share: Option<f64>,
}

/// A service that is watched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchedService {
    /// Its name.
    #[serde(rename = "service.name")]
    pub service: String,
    /// The rule that matched.
    pub rule: Rule,
    /// What matched, in words.
    pub why: String,
    /// Its processes at the start; empty if it is waited for.
    pub pids: Vec<u32>,
}

/// A process of a service. Its identity is the pid together with the creation time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ProcessId {
    /// The service it belongs to.
    #[serde(rename = "service.name")]
    pub service: String,
    /// Process id, as the host sees it.
    #[serde(rename = "process.pid")]
    pub pid: u32,
    /// When it was created. To 10 ms for processes that ran already.
    #[serde(rename = "process.creation.time")]
    pub created: Moment,
}

/// A thread of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ThreadId {
    /// Thread id, as the host sees it.
    #[serde(rename = "thread.id")]
    pub tid: u32,
    /// The thread's name.
    #[serde(rename = "thread.name")]
    pub name: String,
    /// When it was created.
    #[serde(rename = "thread.creation.time")]
    pub created: Moment,
}

/// Something happened to a service or one of its processes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TargetEvent {
    /// When.
    pub ts: Moment,
    /// What.
    pub event: TargetEventKind,
    /// To which service.
    #[serde(rename = "service.name")]
    pub service: String,
    /// To which of its processes; absent for what happens to the service as a whole.
    #[serde(
        rename = "process.pid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub pid: Option<u32>,
    /// When that process was created.
    #[serde(
        rename = "process.creation.time",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub created: Option<Moment>,
    /// Name of the program it runs.
    #[serde(
        rename = "process.executable.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub name: Option<String>,
    /// More in words, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What happened to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetEventKind {
    /// A process that ran already is followed from now on.
    Found,
    /// A process began: it was forked by, or executed into, the service.
    Started,
    /// A process executed another program. Its address space is a new one.
    Executed,
    /// A process ended.
    Exited,
    /// A process left the service (it moved to another cgroup) and is not followed any more.
    Left,
    /// The service has no process left; slowburn waits for its return.
    Gone,
    /// The service has processes again.
    Returned,
    /// The service does not run yet; slowburn waits for it.
    Waiting,
    /// The service that was waited for is there. `detail` says which rule found it, and what matched.
    Attached,
    /// A scheduled task was to begin, or began, while an earlier instance of it still ran. `detail` says which, and for how long
    /// it had run.
    Overlapped,
}

/// A call that changed an address space.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Mapping {
    /// When it returned.
    pub ts: Moment,
    /// Whose.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Which thread called.
    #[serde(flatten)]
    pub thread: ThreadId,
    /// What.
    pub call: CallName,
    /// Where, in hexadecimal.
    pub address: String,
    /// How much was asked for.
    pub length_bytes: u64,
    /// By how much the address space grew (or shrank); a mapping that replaces another changes nothing.
    pub reserved_change_bytes: i64,
    /// By how much the private writable address space grew (or shrank).
    pub committed_change_bytes: i64,
    /// `prot` of map and protect, `advice` of advise, `flags` of remap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<u32>,
    /// `flags` of map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<u32>,
    /// Only one call in so many was looked at when this one returned; absent if each was. The changes are then those
    /// since the last call that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<u32>,
}

/// A call that changes an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallName {
    /// `mmap`
    Map,
    /// `munmap`
    Unmap,
    /// `mremap`
    Remap,
    /// `brk`
    Brk,
    /// `madvise`
    Advise,
    /// `mprotect`
    Protect,
}

impl From<Call> for CallName {
    fn from(call: Call) -> Self {
        match call {
            Call::Map => Self::Map,
            Call::Unmap => Self::Unmap,
            Call::Remap => Self::Remap,
            Call::Brk => Self::Brk,
            Call::Advise => Self::Advise,
            Call::Protect => Self::Protect,
        }
    }
}

/// A thread started or ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Thread {
    /// When.
    pub ts: Moment,
    /// Which of the two.
    pub event: ThreadEventKind,
    /// Whose.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Which.
    #[serde(flatten)]
    pub thread: ThreadId,
    /// The thread that created it.
    #[serde(
        rename = "creator.thread.id",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub creator: Option<u32>,
    /// How long it was followed, for one that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed_ns: Option<u64>,
}

/// What happened to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThreadEventKind {
    /// It was created.
    Started,
    /// It ended.
    Exited,
}

/// A single slow wait for a CPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Delay {
    /// When the wait ended.
    pub ts: Moment,
    /// Whose.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Who waited.
    #[serde(flatten)]
    pub thread: ThreadId,
    /// How long.
    pub wait_ns: u64,
    /// The CPU it got at last.
    pub cpu: u32,
    /// Who ran on that CPU until then.
    pub culprit: Culprit,
}

/// The task that ran while another waited.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Culprit {
    /// Its process id; 0 for the idle task.
    #[serde(rename = "process.pid")]
    pub pid: u32,
    /// Its thread id; 0 for the idle task.
    #[serde(rename = "thread.id")]
    pub tid: u32,
    /// Its name.
    #[serde(rename = "thread.name")]
    pub name: String,
    /// Does it belong to a watched service itself?
    pub watched: bool,
}

/// Whether a window is about a process or one of its threads.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A process: the sum over its threads, those that ended within the window included.
    Process,
    /// One thread.
    Thread,
}

/// What a process or thread did in a period. Windows of threads that did nothing are left out, and so
/// are those of threads that began and ended within it (they are in their process's sums).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// When the period ended.
    pub ts: Moment,
    /// Process or thread.
    pub scope: Scope,
    /// Which process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Which thread, for windows of threads.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// Length of the period.
    pub period_ns: u64,
    /// True in the last window of a process or thread: it ended within the period.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Waits for a CPU that ended within the period; absent if they were not measured at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelaySummary>,
    /// What its calls did to the address space.
    pub memory: MemorySummary,
    /// Threads, for windows of processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<ThreadSummary>,
    /// What the kernel itself says.
    pub kernel: KernelSummary,
    /// Events of any class that were lost in the period, on the whole host; `loss` records tell them apart.
    pub lost: u64,
    /// What slowburn itself used in the period, for whatever it watches; in windows of processes, the same in all of a period.
    #[serde(rename = "self", default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnSummary>,
}

/// What slowburn itself used in a period.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OwnSummary {
    /// CPU time.
    #[serde(flatten)]
    pub cost: Cost,
    /// Resident memory of the daemon at the end of the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Single events that found the ring buffer full.
    pub ring_lost: u64,
    /// How calls that change an address space are measured at the end of the period.
    pub memory: MemoryStep,
    /// How waits are measured at the end of the period.
    pub sched: SchedStep,
}

/// CPU time of slowburn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Of the daemon, its own system calls included.
    pub user_cpu_ns: u64,
    /// Of its programs in the kernel, over all CPUs.
    pub kernel_cpu_ns: KernelCost,
}

impl Cost {
    /// Adds another period.
    pub fn add(&mut self, other: &Self) {
        self.user_cpu_ns += other.user_cpu_ns;
        self.kernel_cpu_ns.tasks += other.kernel_cpu_ns.tasks;
        self.kernel_cpu_ns.sched += other.kernel_cpu_ns.sched;
        self.kernel_cpu_ns.memory += other.kernel_cpu_ns.memory;
    }

    /// All of it.
    pub fn total_ns(&self) -> u64 {
        let kernel = &self.kernel_cpu_ns;
        self.user_cpu_ns + kernel.tasks + kernel.sched + kernel.memory
    }
}

/// CPU time of the programs in the kernel, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelCost {
    /// Creation, exec and exit of tasks.
    pub tasks: u64,
    /// Wake-ups and switches.
    pub sched: u64,
    /// Calls that change an address space.
    pub memory: u64,
}

/// How calls that change an address space are measured, from all to nothing.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MemoryStep {
    /// As asked for.
    Full,
    /// Only larger mappings are records.
    Raised,
    /// Besides, only one call in so many is looked at. Sizes stay whole.
    Sampled,
    /// Besides, no mapping is a record.
    Silent,
    /// No call is looked at. Sizes are read from `/proc` once a window.
    Off,
}

/// How waits for a CPU are measured, from all to nothing.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SchedStep {
    /// As asked for.
    Full,
    /// Only longer waits are records.
    Raised,
    /// No wait is a record.
    Silent,
    /// No wait is measured.
    Off,
}

/// slowburn measures less, to stay within its budget, or more again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BudgetChange {
    /// When the change was complete.
    pub ts: Moment,
    /// Why.
    pub reason: BudgetReason,
    /// Steps until then.
    pub before: Steps,
    /// Steps from then on.
    pub after: Steps,
    /// Single waits of at least this are records from then on; absent if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_ns: Option<u64>,
    /// Mapping calls of at least this are records from then on; absent if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_mapping_bytes: Option<u64>,
    /// One mapping call in so many is looked at from then on; absent if each is, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<u32>,
    /// The budget, as a share of one CPU.
    pub budget_share: f64,
    /// What was used, as a share of one CPU.
    pub used_share: f64,
    /// For how long that was measured.
    pub interval_ns: u64,
    /// What it was used for.
    #[serde(flatten)]
    pub cost: Cost,
    /// The change as a sentence.
    pub summary: String,
}

/// Where slowburn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Steps {
    /// For calls that change an address space.
    pub memory: MemoryStep,
    /// For waits.
    pub sched: SchedStep,
}

/// Why slowburn measures less or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetReason {
    /// More was used than the budget allows, or soon would be.
    Above,
    /// There has been room for more for a while.
    Room,
    /// The hooks could not be put back: the kernel refuses.
    Refused,
}

/// Waits for a CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DelaySummary {
    /// Part of the period in which they were not measured, to stay within the budget; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured_ns: Option<u64>,
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// How often a CPU was got although the beginning of the wait was not seen; not in `count`. With it, `count`
    /// is the kernel's own `run_count`.
    #[serde(default)]
    pub unknown_count: u64,
    /// Quantiles, to the histogram's precision; absent if there was no wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ns: Option<u64>,
    /// 90 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90_ns: Option<u64>,
    /// 99 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    /// 99.9 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999_ns: Option<u64>,
    /// The whole histogram: `HdrHistogram` V2, compressed, base64. Values in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdr: Option<String>,
    /// Waits that ended on another CPU than the one before; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<u64>,
    /// Who had the CPU until the long ones ended; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
    /// In windows of processes: up to five other processes that most of the time of long waits was spent behind, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<Rival>,
}

/// Long waits (of 100 us or more) by who had the CPU until they ended. Others may have had it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Behind {
    /// A thread of the same process.
    pub own: LongWaits,
    /// Nobody: the CPU was idle.
    pub idle: LongWaits,
    /// Any other.
    pub others: LongWaits,
}

/// Waits of 100 us or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LongWaits {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
}

/// A process that had the CPU until long waits of another one ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rival {
    /// Its id.
    pub pid: u32,
    /// The name of the thread that was seen last.
    pub name: String,
    /// The unit or container that it belongs to, by its cgroup; absent if it is gone, or in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The waits.
    #[serde(flatten)]
    pub waits: LongWaits,
}

/// What calls did to an address space in a period, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemorySummary {
    /// Address space gained.
    pub reserved_bytes: u64,
    /// Private writable address space gained.
    pub committed_bytes: u64,
    /// Address space given back.
    pub released_bytes: u64,
    /// Private writable address space given back.
    pub decommitted_bytes: u64,
    /// Named in `MADV_DONTNEED` and `MADV_FREE`: the contents may go, the address space stays.
    pub discarded_bytes: u64,
    /// Successful `mmap` calls.
    pub map_calls: u64,
    /// Successful `munmap` calls.
    pub unmap_calls: u64,
    /// Successful `mremap` calls.
    pub remap_calls: u64,
    /// Successful `brk` calls that asked for a move.
    pub brk_calls: u64,
    /// Successful `madvise` calls.
    pub advise_calls: u64,
    /// Successful `mprotect` calls.
    pub protect_calls: u64,
    /// Failed calls of all these kinds.
    pub failed_calls: u64,
    /// The address space at the end of the period, from the calls seen; for windows of processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_reserved_bytes: Option<u64>,
    /// The private writable address space at the end of the period, from the calls seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_committed_bytes: Option<u64>,
    /// Part of the period in which no call was looked at, to stay within the budget; absent if there is none. Calls, and
    /// `discarded_bytes`, are those of the rest. Sizes are whole, but what was gained and given back again is in neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured_ns: Option<u64>,
    /// At least for a part of the period, only one call in so many was looked at: calls, and `discarded_bytes`, are
    /// estimates. Sizes are as with `unmeasured_ns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<u32>,
}

/// Threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadSummary {
    /// Alive at the end of the period.
    pub live: u64,
    /// Created within it.
    pub created: u64,
    /// Ended within it.
    pub exited: u64,
    /// Which threads of the process created those, most first; at most four. Whoever has ended in the same period, or came after
    /// 64 others, is not named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub creators: Vec<Creator>,
}

/// Threads that created others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Creator {
    /// Their name, with `#` for each number in it.
    pub name: String,
    /// How many they created.
    pub threads: u64,
}

impl KernelSummary {
    /// Resident memory that only this process has, if the kernel tells it apart; all of it if not. Memory that is shared becomes
    /// resident in whoever touches it: a database's writer comes to have its whole cache, without taking any.
    pub fn own_rss_bytes(&self) -> Option<u64> {
        self.anonymous_bytes.or(self.rss_bytes)
    }
}

/// The kernel's own numbers: counters as their change over the period, gauges as they stand at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KernelSummary {
    /// Resident memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Of that, what is neither of files nor shared (`RssAnon`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_bytes: Option<u64>,
    /// Address space (`VmSize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_bytes: Option<u64>,
    /// Private writable address space (`VmData`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Live threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Open file descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds: Option<u64>,
    /// Time spent waiting for a CPU, by the account that `schedstat` shows, up to when each thread last left one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_delay_ns: Option<u64>,
    /// How often a CPU was got after waiting, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_count: Option<u64>,
    /// CPU time used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Page faults served without I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Page faults that needed I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Time the process's cgroup was held back by its CPU quota. It looks like waiting, and is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_ns: Option<u64>,
    /// Quota periods in which that happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_periods: Option<u64>,
    /// Time the hypervisor ran something else, over all CPUs. It is not in the waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_steal_ns: Option<u64>,
    /// Most memory that the process's cgroup may use, or a cgroup above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Most tasks that these may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_limit: Option<u64>,
    /// Largest address space that the process may have (`RLIMIT_AS`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_space_limit_bytes: Option<u64>,
    /// Most file descriptors that it may have open (`RLIMIT_NOFILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds_limit: Option<u64>,
    /// Memory of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_memory_bytes: Option<u64>,
}

/// Something is slowly getting worse, or no longer is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Flag {
    /// When it was decided: the end of the window that tipped the scale.
    pub ts: Moment,
    /// The same in all records about one finding; unique within a stream.
    pub id: String,
    /// Raised, updated or cleared.
    pub state: FlagState,
    /// What kind of change.
    pub kind: FlagKind,
    /// Of what.
    pub metric: Metric,
    /// Process or thread.
    pub scope: Scope,
    /// Which process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Which thread, for flags on threads.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// Which threads, for flags on several of like name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<ThreadGroup>,
    /// When the climb began, as far as can be told.
    pub since: Moment,
    /// Why it was decided.
    pub evidence: Evidence,
    /// The finding as a sentence.
    pub summary: String,
}

/// Threads of a process whose names differ in numbers only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadGroup {
    /// Their name, with `#` for each number.
    pub name: String,
    /// How many did anything in the last window.
    pub active: u64,
}

/// State of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlagState {
    /// New.
    Raised,
    /// Still so, with new figures.
    Updated,
    /// No longer so.
    Cleared,
    /// It climbs, but no more than the load does. A single record about a stretch of time, and no alarm: nothing is raised by it and nothing
    /// to be cleared.
    Explained,
}

/// Kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlagKind {
    /// It rises steadily.
    Climb,
    /// It rose at once, and stays there. A single record, `raised`.
    Step,
    /// It was far above its usual level for some windows. A single record, `raised`.
    Spike,
    /// It comes back at regular intervals, or every day. A single record, `raised`.
    Periodic,
    /// It was above a threshold of the policy for some windows in a row.
    Threshold,
}

/// What a flag is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Private writable address space, in bytes.
    CommittedBytes,
    /// Address space mapped per second, in bytes per second.
    MappedRate,
    /// Live threads.
    ThreadsLive,
    /// 99th percentile of the run-queue delay, in nanoseconds. In recordings of earlier versions only: `delay` and
    /// `delay_tail` see the whole histogram.
    DelayP99,
    /// Address space, in bytes.
    ReservedBytes,
    /// Resident memory, in bytes.
    RssBytes,
    /// Threads created per second.
    CreationRate,
    /// Open file descriptors.
    Fds,
    /// Run-queue delay, in nanoseconds: the geometric mean, or one that gives long waits more weight.
    Delay,
    /// Share of waits that are many times as long as the median.
    DelayTail,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::CommittedBytes,
        Self::MappedRate,
        Self::ThreadsLive,
        Self::DelayP99,
        Self::ReservedBytes,
        Self::RssBytes,
        Self::CreationRate,
        Self::Fds,
        Self::Delay,
        Self::DelayTail,
    ];
}

/// What a flag rests on. Values in the metric's unit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Level at the beginning of the windows looked at.
    pub baseline: f64,
    /// Level at their end.
    pub now: f64,
    /// Slope per hour (Theil-Sen).
    pub slope_per_hour: f64,
    /// Lower end of the slope's 95 % interval.
    pub slope_low_per_hour: f64,
    /// Upper end of the slope's 95 % interval.
    pub slope_high_per_hour: f64,
    /// Mann-Kendall statistic, corrected for autocorrelation: standard deviations from "no trend".
    pub z: f64,
    /// Number of windows looked at.
    pub windows: usize,
    /// Why it was cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared_because: Option<String>,
    /// Probability that the flag is right: how often flags like it were, on labelled services of which half climbed. Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The time looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon_ns: Option<u64>,
    /// Its levels in equal parts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<f64>,
    /// Standard deviation about the line, as a share of the rise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Speed of the second half of that time compared with the first: below 1 it settles, above it quickens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_speed: Option<f64>,
    /// Highest level held before the time looked at; absent if nothing is known of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_before: Option<f64>,
    /// How many times as much the service had to do at the end, at most; absent if no more than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ratio: Option<f64>,
    /// By what that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// For a climb from day to day: share of hours that are higher than the same hour of the day before, on the worse
    /// of two days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours_higher: Option<f64>,
    /// For what is periodic: its period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ns: Option<u64>,
    /// What is left if it goes on like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// What spoke against it, though not enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// For a threshold: the level that was exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// How much evidence the policy asks for; absent if it is the usual.
    #[serde(default, skip_serializing_if = "Sensitivity::is_normal")]
    pub sensitivity: Sensitivity,
}

/// What tells how much a service has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// How often it got a CPU.
    Switches,
    /// Its CPU time. Only where a switch costs as much as before: what gets worse takes more CPU time, too.
    Cpu,
}

/// When a climb arrives somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// What is arrived at.
    pub reaches: Bound,
    /// The level there, in the metric's unit.
    pub level: f64,
    /// How long it takes.
    pub in_ns: u64,
    /// How long at the upper end of the slope's interval.
    pub soonest_ns: u64,
    /// How long at its lower end; absent if that is no rise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_ns: Option<u64>,
}

/// Where a climb arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The limit of the process or of its cgroup.
    Limit,
    /// Twice the level of now. No limit is known.
    Doubling,
}

/// Something was found that the policy does not want flagged. Told once for each rule of what to ignore; how many there were in
/// all is in `stop`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ignored {
    /// When it was found first.
    pub ts: Moment,
    /// The rule of the policy.
    pub rule: String,
    /// What kind of change.
    pub kind: FlagKind,
    /// Of what.
    pub metric: Metric,
    /// In which process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// In which of its threads, where it is not the whole process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<ThreadGroup>,
    /// The finding as a sentence.
    pub summary: String,
}

/// Something was lost.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// When it was noticed.
    pub ts: Moment,
    /// What.
    pub class: LossClass,
    /// How many since the last such record.
    pub count: u64,
}

/// What can be lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LossClass {
    /// Mapping records: the ring buffer was full. The windows' sums are not affected.
    Mapping,
    /// Executions of programs: a process may have been noticed late.
    Exec,
    /// Delay records: the ring buffer was full, or the kernel did not trace when the wait began or ended. The windows'
    /// histograms have these waits.
    Delay,
    /// Whole tasks: more than `--max-tasks` at the same time.
    Task,
    /// Waits thrown away because the clocks of two CPUs disagreed.
    NegativeWait,
    /// Runs of programs that the kernel has left out, for whatever process of the host: so many calls may be missing from
    /// the counts. Sizes and the number of waits are not affected.
    SkippedRun,
    /// Events that the tracing facility of Windows has lost, or times that this was noticed: waits that may be spoilt by it are
    /// in `delay.unknown_count`.
    Trace,
    /// Records that could not be written to the output.
    Output,
    /// Series of windows that the detector had no room for.
    Series,
    /// Windows of processes that began and ended within one, of which there were more than 10,000.
    Window,
}

impl From<Class> for LossClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Mapping => Self::Mapping,
            Class::Exec => Self::Exec,
            Class::Delay => Self::Delay,
            Class::Task => Self::Task,
            Class::NegativeWait => Self::NegativeWait,
            Class::SkippedRun => Self::SkippedRun,
            Class::Trace => Self::Trace,
        }
    }
}

/// The daemon has detached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stop {
    /// When.
    pub ts: Moment,
    /// Why.
    pub reason: StopReason,
    /// How long it ran.
    pub ran_ns: u64,
    /// Records of each type, this one not included.
    pub records: BTreeMap<String, u64>,
    /// Starts and exits of tasks that found the ring buffer full and were taken from the task records instead.
    #[serde(default)]
    pub recovered: u64,
    /// What was lost over the whole run, by class; empty if nothing.
    pub lost: BTreeMap<LossClass, u64>,
    /// What the policy does not want flagged: findings by the rule that they were ignored by; absent if there were none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ignored: BTreeMap<String, u64>,
}

/// Why the daemon stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// SIGINT or SIGTERM.
    Signal,
    /// `--duration` is over.
    Duration,
    /// The target is gone, and cannot or shall not be waited for.
    TargetGone,
    /// The reader of the output has gone.
    OutputClosed,
    /// The end of a recording.
    EndOfRecording,
    /// The kernel side failed.
    Error,
}
