//! Loads the kernel-side object: sets sizes and offsets, attaches the hooks, and takes the maps.

use std::{collections::BTreeMap, fs, io};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, Queue, RingBuf},
};
use aya_log::EbpfLogger;
use slowburn_common::{
    Comm,
    task::{MEMBERS_PER_ELEMENT, RECORD_BYTES, SLOTS_PER_ELEMENT},
};

use super::{
    cost::Costs,
    entry::Calibration,
    error::ProbeError,
    hooks::{self, Family, Hooked, Hooks, Need, Preference},
    offsets::Offsets,
    rivals::Rivals,
    seed::map_io,
    skipped::Skipped,
    source::Options,
    support,
    tables::{Records, Tables},
};

/// The compiled kernel side.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SLOWBURN_BPF_OBJECT"));

/// Attached programs, and the maps that they share with the daemon.
pub struct Loaded {
    /// The programs.
    pub ebpf: Ebpf,
    /// What holds them in place, by need; dropping it detaches them.
    pub hooked: BTreeMap<Need, Hooked>,
    /// What they cost.
    pub costs: Costs,
    /// Runs of them that were left out.
    pub skipped: Skipped,
    /// Takes the kernel side's log messages, if there are any.
    pub logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Events.
    pub ring: RingBuf<MapData>,
    /// Slots given back.
    pub free_slots: Queue<MapData, u32>,
    /// Counters.
    pub stats: PerCpuArray<MapData, u64>,
    /// Cgroup ids to services.
    pub followed_cgroups: HashMap<MapData, u64, u32>,
    /// Program names to services.
    pub followed_names: HashMap<MapData, Comm, u32>,
    /// Who was waited behind.
    pub rivals: Rivals,
    /// Mapped tables.
    pub tables: Tables,
    /// What was chosen.
    pub hooks: Hooks,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        hooks::detach(&mut self.hooked);
    }
}

/// Loads and attaches the programs. Nothing is followed yet.
///
/// # Errors
/// If the kernel refuses or lacks something; the error says what to do.
pub fn load(options: &Options) -> Result<Loaded, ProbeError> {
    if !support::in_initial_pid_namespace() {
        return Err(ProbeError::PidNamespace);
    }
    let offsets = Offsets::of_running_kernel()?;
    let ids = highest_task_id();
    let slots = options.limits.max_tasks + 1;
    let mut ebpf = load_object(&offsets, options, ids, slots)?;
    // Only now: the loader parses one of its own, and each takes 20 MB.
    let btf = Btf::from_sys_fs().map_err(|e| ProbeError::NoBtf(e.to_string()))?;
    let tables = map_tables(&ebpf, options, ids, slots).map_err(map_io)?;
    let logger = options
        .kernel_log
        .then(|| EbpfLogger::init(&mut ebpf))
        .transpose();
    let logger = logger.unwrap_or_else(|error| {
        tracing::warn!("kernel-side log messages are not available: {error}");
        None
    });
    if let Err(error) = support::ensure_tracefs() {
        tracing::warn!(
            "tracefs is not mounted and cannot be ({error}): classic tracepoints are not available"
        );
    }
    let calibration = Calibration::begin();
    let (hooks, hooked) = attach(&mut ebpf, &btf, options.preference)?;
    let entry_ns = calibration.end();
    tracing::debug!(entry_ns, "what a program takes for a stranger");
    Ok(Loaded {
        logger,
        ring: take(&mut ebpf, "EVENTS")?,
        free_slots: take(&mut ebpf, "FREE_SLOTS")?,
        stats: take(&mut ebpf, "STATS")?,
        followed_cgroups: take(&mut ebpf, "FOLLOWED_CGROUPS")?,
        followed_names: take(&mut ebpf, "FOLLOWED_NAMES")?,
        rivals: take(&mut ebpf, "RIVALS")?,
        skipped: Skipped::of(&ebpf),
        costs: Costs::new(entry_ns),
        ebpf,
        hooked,
        tables,
        hooks,
    })
}

fn map_tables(ebpf: &Ebpf, options: &Options, ids: u32, slots: u32) -> io::Result<Tables> {
    let mut tables = Tables::new(
        Records::new(
            array(ebpf, "SCHED")?.fd(),
            array(ebpf, "RECORDS")?.fd(),
            array(ebpf, "HISTOGRAMS")?.fd(),
            slots,
        )?,
        (array(ebpf, "SLOTS")?.fd(), ids.div_ceil(SLOTS_PER_ELEMENT)),
        (
            array(ebpf, "MEMBERS")?.fd(),
            ids.div_ceil(MEMBERS_PER_ELEMENT),
        ),
        array(ebpf, "CONTROL")?.fd(),
    )?;
    tables.reset_slots()?;
    tables.configure(options.slow_ns, options.min_mapping_bytes, false)?;
    Ok(tables)
}

/// One more than the highest task id that the kernel gives out.
fn highest_task_id() -> u32 {
    let read = fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    // 4,194,304 is the highest that a 64-bit kernel allows.
    read.and_then(|text| text.trim().parse().ok())
        .unwrap_or(4 << 20)
}

fn load_object(
    offsets: &Offsets,
    options: &Options,
    ids: u32,
    slots: u32,
) -> Result<Ebpf, ProbeError> {
    let page_shift = rustix::param::page_size().trailing_zeros();
    let log_level = if options.kernel_log { 0xff_u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("SCHED", slots)
        .map_max_entries("RECORDS", slots)
        .map_max_entries("HISTOGRAMS", slots)
        .map_max_entries("FREE_SLOTS", slots)
        .map_max_entries("SLOTS", ids.div_ceil(SLOTS_PER_ELEMENT))
        .map_max_entries("MEMBERS", ids.div_ceil(MEMBERS_PER_ELEMENT))
        .map_max_entries("EVENTS", options.limits.ring_bytes)
        .override_global("OFFSET_TASK_PID", &offsets.task_pid, true)
        .override_global("OFFSET_TASK_TGID", &offsets.task_tgid, true)
        .override_global("OFFSET_TASK_STATE", &offsets.task_state, true)
        .override_global("OFFSET_TASK_COMM", &offsets.task_comm, true)
        .override_global("OFFSET_TASK_START", &offsets.task_start, true)
        .override_global("OFFSET_TASK_RUN_DELAY", &offsets.task_run_delay, true)
        .override_global("OFFSET_TASK_RUN_COUNT", &offsets.task_run_count, true)
        .override_global("OFFSET_TASK_MM", &offsets.task_mm, true)
        .override_global("OFFSET_MM_TOTAL_VM", &offsets.mm_total_vm, true)
        .override_global("OFFSET_MM_DATA_VM", &offsets.mm_data_vm, true)
        .override_global("OFFSET_SYSCALL_ARGS", &offsets.syscall_args, true)
        .override_global("OFFSET_COMPAT_ARGS", &offsets.compat_args, true)
        .override_global("PAGE_SHIFT", &page_shift, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    loader
        .load(OBJECT)
        .map_err(|error| load_error(error, options, slots))
}

fn load_error(error: EbpfError, options: &Options, slots: u32) -> ProbeError {
    let EbpfError::MapError(MapError::CreateError { name, io_error, .. }) = &error else {
        return ProbeError::Object(Box::new(error));
    };
    let refused = io_error.kind() == io::ErrorKind::PermissionDenied;
    if refused && !rustix::process::geteuid().is_root() {
        return ProbeError::NotPermitted;
    }
    let (bytes, hint) = match name.as_ref() {
        "EVENTS" => (options.limits.ring_bytes as usize, "Lower --ring-size."),
        "SCHED" | "RECORDS" | "HISTOGRAMS" => (slots as usize * RECORD_BYTES, "Lower --max-tasks."),
        _ if refused => return ProbeError::Refused(io_error.to_string()),
        _ => (
            0,
            "If RLIMIT_MEMLOCK is small (kernels before 5.11): ulimit -l unlimited.",
        ),
    };
    ProbeError::Map {
        what: format!("{name}, {} KiB", bytes / 1024),
        source: io::Error::new(io_error.kind(), io_error.to_string()),
        hint,
    }
}

/// The hooks on tasks first: processes are looked up after they are in place, so that none slips through.
fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    preference: Preference,
) -> Result<(Hooks, BTreeMap<Need, Hooked>), ProbeError> {
    let mut refusals = Vec::new();
    let mut hooked = BTreeMap::new();
    let mut attach = |need| -> Result<Family, ProbeError> {
        let (family, links) = hooks::attach(ebpf, btf, need, preference, &mut refusals)?;
        hooked.insert(need, links);
        Ok(family)
    };
    let tasks = attach(Need::Tasks)?;
    let memory = attach(Need::Memory)?;
    let sched = attach(Need::Sched)?;
    let hooks = Hooks {
        tasks,
        sched,
        memory,
        refusals,
    };
    Ok((hooks, hooked))
}

fn array<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<&'a MapData> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(io::Error::other(format!("the object has no array {name}"))),
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, ProbeError> {
    let map = ebpf.take_map(name).ok_or_else(|| {
        ProbeError::Object(Box::new(EbpfError::MapError(MapError::InvalidName {
            name: name.into(),
        })))
    })?;
    T::try_from(map).map_err(|e| map_error(name, &e))
}

/// Using a map failed, although it could be made.
pub fn map_error(what: &str, error: &MapError) -> ProbeError {
    ProbeError::Map {
        what: what.into(),
        source: io::Error::other(error.to_string()),
        hint: "This should not happen: please report it.",
    }
}
