//! Which causes an incident may have, and how likely each is: one function a cause, with its evidence.
//!
//! A cause that nothing flagged suggests is not weighed at all. `docs/patterns.md` says what each means and what to do.

use super::{
    case::{Case, Weight},
    facts::Facts,
    lives::{Overlap, Renewal},
    rhythm::Meeting,
};
use crate::{
    figures,
    stream::{Cause, CauseKind, Flag, FlagKind, Metric, Rival, Signal},
};

const MEMORY: [Metric; 3] = [
    Metric::CommittedBytes,
    Metric::RssBytes,
    Metric::ReservedBytes,
];
const WAITS: [Metric; 3] = [Metric::Delay, Metric::DelayTail, Metric::DelayP99];

/// A thread that does nothing has its stack and a few structures resident, and up to 8 MiB of stack reserved.
const STACK: f64 = 10.0 * 1_048_576.0;

/// What is so many times as much as before was next to nothing.
const FROM_NOTHING: f64 = 1000.0;

/// What was seen besides flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sightings<'a> {
    /// A job that still ran when it was started again.
    pub overlap: Option<&'a Overlap>,
    /// A restart after which the service is another.
    pub renewal: Option<&'a Renewal>,
    /// Two things that come at regular intervals and meet.
    pub meeting: Option<&'a Meeting>,
}

/// The causes, likeliest first.
pub fn weigh(facts: &Facts<'_>, seen: Sightings<'_>, pid: u32) -> Vec<Cause> {
    let rules: [Rule; 13] = [
        leaked_memory,
        address_space_growth,
        allocation_churn,
        thread_leak,
        creation_churn,
        descriptor_leak,
        own_pressure,
        other_service,
        quota_throttling,
        steal,
        migration_storm,
        periodic_job,
        more_load,
    ];
    let flagged = rules
        .into_iter()
        .filter_map(|rule| rule(facts, pid))
        .map(|case| led(case, facts));
    let sighted = [
        seen.overlap.map(overlapping_job),
        seen.renewal.map(new_version),
        seen.meeting.map(resonance),
    ];
    let mut causes: Vec<Cause> = flagged
        .chain(sighted.into_iter().flatten())
        .map(Case::close)
        .collect();
    causes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    causes
}

/// What leads is what the others may follow from. That alone is no evidence: several causes show in the same metrics.
fn led(mut case: Case, facts: &Facts<'_>) -> Case {
    let leads = facts
        .flags
        .first()
        .is_some_and(|lead| metrics(case.cause()).contains(&lead.metric));
    if leads && case.is_supported() {
        case.supported(Weight::Slight, "it is about what was flagged first");
    }
    case
}

/// The metrics in which a cause shows of itself.
fn metrics(cause: CauseKind) -> &'static [Metric] {
    match cause {
        CauseKind::LeakedMemory | CauseKind::AddressSpaceGrowth => &MEMORY,
        CauseKind::AllocationChurn => &[Metric::MappedRate],
        CauseKind::ThreadLeak => &[Metric::ThreadsLive],
        CauseKind::CreationChurn => &[Metric::CreationRate],
        CauseKind::DescriptorLeak => &[Metric::Fds],
        CauseKind::OwnPressure
        | CauseKind::OtherService
        | CauseKind::QuotaThrottling
        | CauseKind::Steal
        | CauseKind::MigrationStorm => &WAITS,
        CauseKind::PeriodicJob
        | CauseKind::OverlappingJob
        | CauseKind::Resonance
        | CauseKind::NewVersion
        | CauseKind::MoreLoad => &[],
    }
}

type Rule = fn(&Facts<'_>, u32) -> Option<Case>;

/// How much of what was committed became resident.
fn resident_share(facts: &Facts<'_>) -> Option<f64> {
    let committed = facts.change(Signal::CommittedBytes).rise()?;
    let reserved = facts.change(Signal::ReservedBytes).rise()?;
    let resident = facts.change(Signal::RssBytes).rise()?;
    let grown = if committed > 0.0 { committed } else { reserved };
    (grown > 0.0).then(|| resident / grown)
}

/// Of what grew.
fn sizes(facts: &Facts<'_>) -> String {
    let rise = |signal| facts.change(signal).rise().unwrap_or(0.0);
    let each = facts.place.mapping_bytes.map_or_else(String::new, |each| {
        format!(", by {} a call lately", figures::bytes(each as f64))
    });
    format!(
        "committed memory rose by {}, resident memory by {}{each}",
        figures::bytes(rise(Signal::CommittedBytes)),
        figures::bytes(rise(Signal::RssBytes))
    )
}

fn leaked_memory(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let flag = facts.climb(&MEMORY)?;
    let mut case = Case::open(CauseKind::LeakedMemory);
    match resident_share(facts) {
        Some(share) if share >= 0.5 => {
            case.supported(
                Weight::Strong,
                format!("resident memory follows: {}", sizes(facts)),
            );
        }
        Some(share) if share < 0.2 => {
            case.opposed(Weight::Strong, format!("it is not used: {}", sizes(facts)));
        }
        _ if flag.metric == Metric::RssBytes => {
            case.supported(Weight::Clear, "resident memory climbs");
        }
        _ => {}
    }
    if let Some(bytes) = bytes_per_thread(facts) {
        case.opposed(
            Weight::Strong,
            format!("it comes with the threads, {} each", figures::bytes(bytes)),
        );
    }
    if facts.flag(&[Metric::MappedRate]).is_none() {
        case.supported(Weight::Slight, "no more is mapped a second than before");
    }
    case.next(format!(
        "slowburn run --pid {pid} --events all --min-mapping 64KiB --output mappings.jsonl"
    ));
    case.next(format!(
        "grep -A 3 -E '^Rss|^Anonymous' /proc/{pid}/smaps_rollup"
    ));
    Some(case)
}

/// What each further thread takes, if the threads are what grew and that explains the memory.
fn bytes_per_thread(facts: &Facts<'_>) -> Option<f64> {
    facts.climb(&[Metric::ThreadsLive])?;
    let threads = facts.change(Signal::ThreadsLive).rise()?;
    let committed = facts.change(Signal::CommittedBytes).rise()?;
    let each = committed / threads;
    (threads >= 2.0 && each > 0.0 && each <= STACK).then_some(each)
}

fn address_space_growth(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let grown = [Metric::CommittedBytes, Metric::ReservedBytes];
    facts.climb(&grown)?;
    let mut case = Case::open(CauseKind::AddressSpaceGrowth);
    match resident_share(facts) {
        Some(share) if share < 0.2 => case.supported(
            Weight::Strong,
            format!(
                "what is reserved is not used, and costs nothing: {}",
                sizes(facts)
            ),
        ),
        Some(share) if share >= 0.5 => {
            case.opposed(Weight::Strong, format!("it is used: {}", sizes(facts)));
        }
        _ => {}
    }
    if facts.flag(&[Metric::RssBytes]).is_some() {
        case.opposed(Weight::Clear, "resident memory climbs, too");
    }
    if bytes_per_thread(facts).is_some() {
        case.opposed(Weight::Strong, "the threads it belongs to are many more");
    }
    case.next(format!(
        "grep -E '^VmSize|^VmData|^VmRSS' /proc/{pid}/status"
    ));
    Some(case)
}

fn allocation_churn(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    facts.lasting(&[Metric::MappedRate])?;
    let mut case = Case::open(CauseKind::AllocationChurn);
    let (mapped, released) = (
        facts.change(Signal::MappedRate),
        facts.change(Signal::ReleasedRate),
    );
    if let (Some(mapped), Some(released)) = (mapped.now, released.now) {
        let text = format!(
            "{}/s are mapped and {}/s given back",
            figures::bytes(mapped),
            figures::bytes(released)
        );
        if released > 0.8 * mapped {
            case.supported(Weight::Strong, text);
        } else {
            case.opposed(Weight::Clear, text);
        }
    }
    if facts.climb(&MEMORY).is_some() {
        case.opposed(Weight::Slight, "memory climbs, too");
    }
    if let Some(bytes) = bytes_per_start(facts) {
        case.opposed(
            Weight::Strong,
            format!(
                "it comes with the new threads, {} each",
                figures::bytes(bytes)
            ),
        );
    }
    grows(&mut case, facts, Signal::MinorFaultRate, "page faults");
    case.next(format!(
        "perf trace -s -e mmap,munmap,madvise,brk -p {pid} -- sleep 10"
    ));
    Some(case)
}

/// What is mapped for each further new thread, if there are more of them and that explains the mappings.
fn bytes_per_start(facts: &Facts<'_>) -> Option<f64> {
    facts.flag(&[Metric::CreationRate, Metric::ThreadsLive])?;
    let starts = facts.change(Signal::CreationRate).rise()?;
    let each = facts.change(Signal::MappedRate).rise()? / starts;
    (starts > 0.0 && each > 0.0 && each <= STACK).then_some(each)
}

/// That something rose by a quarter speaks slightly for it.
fn grows(case: &mut Case, facts: &Facts<'_>, signal: Signal, what: &str) {
    let change = facts.change(signal);
    if let (Some(before), Some(now)) = (change.before, change.now)
        && now > 1.25 * before
        && now > 0.1
    {
        case.supported(
            Weight::Slight,
            format!(
                "{what}: from {} to {} a second",
                figures::digits(before),
                figures::digits(now)
            ),
        );
    }
}

fn thread_leak(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    facts.climb(&[Metric::ThreadsLive])?;
    let mut case = Case::open(CauseKind::ThreadLeak);
    let (created, ended) = (
        facts.change(Signal::CreationRate).now,
        facts.change(Signal::ExitRate).now,
    );
    if let (Some(created), Some(ended)) = (created, ended) {
        let text = format!(
            "{created:.2} threads a second are started{}, {ended:.2} end",
            creators(facts)
        );
        if created > ended {
            case.supported(Weight::Strong, text);
        } else {
            case.opposed(Weight::Clear, text);
        }
    }
    if let Some(bytes) = bytes_per_thread(facts) {
        case.supported(
            Weight::Clear,
            format!("memory grows with them, by {} each", figures::bytes(bytes)),
        );
    }
    case.next(format!(
        "ls /proc/{pid}/task | wc -l; sort /proc/{pid}/task/*/comm | uniq -c | sort -rn | head"
    ));
    case.next(format!("cat /proc/{pid}/task/*/wchan | sort | uniq -c; gdb -p {pid} -batch -ex 'thread apply all bt'"));
    Some(case)
}

/// By whom threads are started.
fn creators(facts: &Facts<'_>) -> String {
    let first = facts.place.creators.first();
    first.map_or_else(String::new, |creator| match creator.share {
        0.995.. => format!(", all of them by {}", creator.name),
        share => format!(", {} of them by {}", figures::percent(share), creator.name),
    })
}

fn creation_churn(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    facts.lasting(&[Metric::CreationRate])?;
    let mut case = Case::open(CauseKind::CreationChurn);
    let (created, ended) = (
        facts.change(Signal::CreationRate).now,
        facts.change(Signal::ExitRate).now,
    );
    if let (Some(created), Some(ended)) = (created, ended) {
        let text = format!(
            "{created:.2} threads a second are started{}, {ended:.2} end",
            creators(facts)
        );
        if ended > 0.8 * created {
            case.supported(Weight::Strong, text);
        } else {
            case.opposed(Weight::Clear, text);
        }
    }
    if facts.flag(&[Metric::ThreadsLive]).is_some() {
        case.opposed(Weight::Clear, "the number of threads changes, too");
    }
    case.next(format!("slowburn run --pid {pid} --events all --output threads.jsonl # thread records have the creator"));
    Some(case)
}

fn descriptor_leak(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let flag = facts.climb(&[Metric::Fds])?;
    let mut case = Case::open(CauseKind::DescriptorLeak);
    case.supported(
        Weight::Strong,
        format!(
            "open files: from {} to {}, above all levels before",
            figures::digits(flag.evidence.baseline),
            figures::digits(flag.evidence.now)
        ),
    );
    if facts.flag(&[Metric::ThreadsLive]).is_some() {
        case.opposed(Weight::Slight, "threads grow, too: each may hold its file");
    }
    case.next(format!("ls -l /proc/{pid}/fd | awk '{{print $NF}}' | sed 's/[0-9]\\+/#/g' | sort | uniq -c | sort -rn | head"));
    case.next(format!(
        "lsof -p {pid} | awk '{{print $5}}' | sort | uniq -c"
    ));
    Some(case)
}

/// The flag on waits, unless it says no more than that they come at regular intervals.
fn waits<'a>(facts: &Facts<'a>) -> Option<&'a Flag> {
    facts.flag(&WAITS)
}

/// Shares of long waits by who had the CPU: own threads, nobody, others. `None` if there are next to none.
fn shares(facts: &Facts<'_>) -> Option<[f64; 3]> {
    let rise = |signal: Signal| {
        let change = facts.change(signal);
        // What has been there before does not explain what is new.
        Some((change.now? - change.before.unwrap_or(0.0)).max(0.0))
    };
    let parts = [
        rise(Signal::BehindOwn)?,
        rise(Signal::BehindIdle)?,
        rise(Signal::BehindOthers)?,
    ];
    let total: f64 = parts.iter().sum();
    (total > 1e-4).then(|| parts.map(|part| part / total))
}

fn own_pressure(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    waits(facts)?;
    let mut case = Case::open(CauseKind::OwnPressure);
    if let Some([own, _, _]) = shares(facts) {
        let text = format!(
            "{} of the additional time in long waits is behind threads of the process itself",
            figures::percent(own)
        );
        if own >= 0.5 {
            case.supported(Weight::Strong, text);
        } else if own < 0.25 {
            case.opposed(Weight::Strong, text);
        } else {
            case.opposed(Weight::Slight, text);
        }
    }
    let cpus = facts.change(Signal::Cpus);
    if let (Some(before), Some(now)) = (cpus.before, cpus.now) {
        let text = format!("it uses {now:.2} CPUs instead of {before:.2}");
        if now > 1.25 * before {
            case.supported(Weight::Slight, text);
        } else if now < 0.8 * before {
            case.opposed(Weight::Slight, text);
        }
    }
    if facts.flag(&[Metric::ThreadsLive]).is_some() {
        case.supported(Weight::Slight, "there are more threads");
    }
    held_back(&mut case, facts);
    moved_about(&mut case, facts);
    case.next(format!("pidstat -t -u -w -p {pid} 5 1"));
    case.next("slowburn services # CPUs that the service may use".to_owned());
    Some(case)
}

/// A quota that holds the service back explains waits behind its own threads, too: all of them wait for the same period.
fn held_back(case: &mut Case, facts: &Facts<'_>) {
    if throttled(facts) >= 0.02 {
        case.opposed(Weight::Clear, "a CPU quota holds the service back");
    }
}

/// Threads that are sent to each other's CPUs wait behind each other there.
fn moved_about(case: &mut Case, facts: &Facts<'_>) {
    let change = facts.change(Signal::MovedShare);
    if let (Some(before), Some(now)) = (change.before, change.now)
        && is_storm(before, now)
    {
        case.opposed(Weight::Clear, "threads are moved from CPU to CPU");
    }
}

fn is_storm(before: f64, now: f64) -> bool {
    now >= 0.2 && now > 2.0 * before
}

fn throttled(facts: &Facts<'_>) -> f64 {
    let change = facts.change(Signal::Throttled);
    change.now.unwrap_or(0.0) - change.before.unwrap_or(0.0)
}

fn name(rival: &Rival) -> String {
    let process = format!("{} (pid {})", rival.name, rival.pid);
    match &rival.service {
        Some(service) => format!("{service}, {process}"),
        None => process,
    }
}

fn other_service(facts: &Facts<'_>, _: u32) -> Option<Case> {
    waits(facts)?;
    let mut case = Case::open(CauseKind::OtherService);
    let share = shares(facts).map(|[_, _, others]| others);
    let total: u64 = facts
        .place
        .rivals
        .iter()
        .map(|rival| rival.waits.sum_ns)
        .sum();
    let first = facts.place.rivals.first();
    let whose = first.map(|rival| {
        let part = rival.waits.sum_ns as f64 / total.max(1) as f64;
        format!(", {} of it behind {}", figures::percent(part), name(rival))
    });
    if let Some(share) = share {
        let text = format!(
            "{} of the additional time in long waits is behind other processes{}",
            figures::percent(share),
            whose.unwrap_or_default()
        );
        if share >= 0.5 {
            case.supported(Weight::Strong, text);
        } else if share < 0.25 {
            case.opposed(Weight::Strong, text);
        } else {
            case.opposed(Weight::Slight, text);
        }
    }
    held_back(&mut case, facts);
    if let Some(rival) = first {
        case.next(format!(
            "systemctl status {}; cat /proc/{}/cgroup",
            rival.pid, rival.pid
        ));
    }
    case.next("systemd-cgtop --cpu=percentage --order=cpu -n 2".to_owned());
    Some(case)
}

fn quota_throttling(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let rise = throttled(facts);
    waits(facts).filter(|_| facts.change(Signal::Throttled).now.is_some())?;
    let mut case = Case::open(CauseKind::QuotaThrottling);
    let change = facts.change(Signal::Throttled);
    let text = format!(
        "its cgroup is held back for {} of the time, {} before",
        figures::percent(change.now.unwrap_or(0.0)),
        figures::percent(change.before.unwrap_or(0.0))
    );
    if rise >= 0.02 {
        case.supported(Weight::Strong, text);
        case.supported(Weight::Clear, "that begins with the waits");
    } else {
        case.opposed(Weight::Strong, text);
    }
    case.next(format!(
        "cat /sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup | tail -1)/cpu.{{max,stat}}"
    ));
    Some(case)
}

fn steal(facts: &Facts<'_>, _: u32) -> Option<Case> {
    let change = facts.change(Signal::Steal);
    waits(facts).filter(|_| change.now.is_some())?;
    let mut case = Case::open(CauseKind::Steal);
    let rise = change.now.unwrap_or(0.0) - change.before.unwrap_or(0.0);
    let text = format!(
        "the hypervisor keeps {:.2} CPUs for others, {:.2} before",
        change.now.unwrap_or(0.0),
        change.before.unwrap_or(0.0)
    );
    // A twentieth of a CPU: less is in no statistic of waits.
    if rise >= 0.05 {
        case.supported(Weight::Strong, text);
    } else {
        case.opposed(Weight::Strong, text);
    }
    case.next("vmstat 5 3 # the column st".to_owned());
    Some(case)
}

fn migration_storm(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let change = facts.change(Signal::MovedShare);
    waits(facts)?;
    let (before, now) = (change.before?, change.now?);
    let mut case = Case::open(CauseKind::MigrationStorm);
    let text = format!(
        "{} of its waits end on another CPU, {} before",
        figures::percent(now),
        figures::percent(before)
    );
    if is_storm(before, now) {
        case.supported(Weight::Strong, text);
    } else {
        case.opposed(Weight::Strong, text);
    }
    case.next(format!(
        "taskset -acp {pid}; perf stat -e migrations -p {pid} -- sleep 10"
    ));
    Some(case)
}

fn periodic_job(facts: &Facts<'_>, pid: u32) -> Option<Case> {
    let flag = facts
        .flags
        .iter()
        .find(|flag| flag.kind == FlagKind::Periodic)?;
    let every = flag.evidence.every_ns?;
    let mut case = Case::open(CauseKind::PeriodicJob);
    case.supported(
        Weight::Clear,
        format!(
            "it comes every {}, last at {}",
            figures::length(every as f64 / 1e9),
            figures::time_of_day(flag.since, flag.ts)
        ),
    );
    let waits = WAITS.contains(&flag.metric);
    match (facts.place.rivals.first(), shares(facts)) {
        (Some(rival), Some([_, _, others])) if waits && others >= 0.5 => case.supported(
            Weight::Clear,
            format!("meanwhile the CPU is {}'s", name(rival)),
        ),
        (_, Some([own, _, _])) if waits && own >= 0.5 => {
            case.supported(Weight::Slight, "meanwhile the CPU is its own threads'");
        }
        _ => {}
    }
    if facts.flags.iter().any(|flag| flag.kind == FlagKind::Climb) {
        case.opposed(
            Weight::Slight,
            "something climbs, too, which a job alone does not explain",
        );
    }
    case.next("systemctl list-timers --all; crontab -l".to_owned());
    case.next(format!(
        "slowburn run --pid {pid} --events all --slow 1ms --output waits.jsonl"
    ));
    Some(case)
}

fn more_load(facts: &Facts<'_>, _: u32) -> Option<Case> {
    let flag = facts.flags.first()?;
    let rates = [Metric::MappedRate, Metric::CreationRate];
    let may = rates.contains(&flag.metric) || WAITS.contains(&flag.metric);
    let load = facts.change(Signal::SwitchRate).ratio().filter(|_| may)?;
    let own = flag.evidence.now / flag.evidence.baseline;
    // From next to nothing there is no ratio to compare with.
    if load < 1.25 || own > FROM_NOTHING {
        return None;
    }
    let mut case = Case::open(CauseKind::MoreLoad);
    let text =
        format!("it gets a CPU {load:.1} times as often, and this is {own:.1} times as much");
    if load >= own {
        case.supported(Weight::Clear, text);
    } else {
        case.opposed(Weight::Clear, text);
    }
    Some(case)
}

fn overlapping_job(overlap: &Overlap) -> Case {
    let mut case = Case::open(CauseKind::OverlappingJob);
    case.supported(
        Weight::Strong,
        format!(
            "{} is started every {} and still ran at its next start, {} times in a row; {} run now",
            overlap.name,
            figures::length(overlap.every_ns as f64 / 1e9),
            overlap.in_a_row,
            overlap.running
        ),
    );
    if overlap.longer > 1.25 {
        case.supported(
            Weight::Clear,
            format!(
                "its last run took {:.1} times as long as the first one seen",
                overlap.longer
            ),
        );
    }
    case.next(format!("pgrep -a {}", overlap.name));
    case.next("flock -n /run/lock/JOB COMMAND # lets one run at a time".to_owned());
    case
}

fn new_version(renewal: &Renewal) -> Case {
    let mut case = Case::open(CauseKind::NewVersion);
    for (signal, before, now) in &renewal.differences {
        case.supported(
            Weight::Clear,
            format!(
                "at the same age, {}: {} before the restart, {} since",
                super::words::name(*signal),
                super::words::quantity(*signal, *before),
                super::words::quantity(*signal, *now)
            ),
        );
    }
    if renewal.lives_alike >= 2 {
        case.supported(
            Weight::Clear,
            format!("the {} lives before were alike", renewal.lives_alike),
        );
    }
    case.next("journalctl -u SERVICE --since today | grep -i -E 'start|version'".to_owned());
    case
}

fn resonance(meeting: &Meeting) -> Case {
    let mut case = Case::open(CauseKind::Resonance);
    case.supported(
        Weight::Clear,
        format!(
            "{} comes every {}, {} every {}, and they meet",
            meeting.one,
            figures::length(meeting.one_ns as f64 / 1e9),
            meeting.other,
            figures::length(meeting.other_ns as f64 / 1e9)
        ),
    );
    if meeting.apart < 0.1 {
        case.supported(
            Weight::Clear,
            format!(
                "they begin within {} of the period",
                figures::percent(meeting.apart)
            ),
        );
    }
    case.next("systemctl list-timers --all # move one of them by half a period".to_owned());
    case
}
