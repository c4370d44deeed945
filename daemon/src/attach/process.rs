//! What `/proc` says about single processes: lives, names, ancestry.
//!
//! A process may vanish between any two reads. A process that cannot be read is skipped, never an
//! error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::cgroup::{self, Membership};
use super::host::Host;

/// The kernel keeps 15 characters of a name, and a zero.
pub(super) const COMM_LENGTH: usize = 15;

/// `PF_KTHREAD`: a thread of the kernel itself.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process as it was when it was looked at. Pids are used again: `pid` and `start_ticks` together
/// name one life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundProcess {
    /// Process id (thread group id).
    pub pid: u32,
    /// Its parent's process id; 0 for the first process of a pid namespace.
    pub parent: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// The kernel's name of it (comm), at most 15 characters.
    pub name: String,
}

/// One life of a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub pid: u32,
    pub start_ticks: u64,
}

impl FoundProcess {
    pub(super) fn life(&self) -> Life {
        Life {
            pid: self.pid,
            start_ticks: self.start_ticks,
        }
    }
}

/// The beginning of a file in `/proc`, with a single read in the usual case: these files are read
/// for every process of the host. Nothing of interest here is longer than the limit.
pub(super) fn read_small(path: &Path) -> Option<Vec<u8>> {
    const LIMIT: usize = 16 << 10;
    let mut file = File::open(path).ok()?.take(LIMIT as u64);
    let mut text = Vec::with_capacity(2048);
    file.read_to_end(&mut text).ok()?;
    Some(text)
}

/// What `/proc/PID/stat` says, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Stat {
    pub found: FoundProcess,
    state: u8,
    session: u32,
    terminal: i32,
    threads: u32,
    flags: u64,
}

impl Stat {
    fn read(directory: &Path) -> Option<Self> {
        Self::parse(&read_small(&directory.join("stat"))?)
    }

    /// The name stands in parentheses and may itself hold parentheses, spaces and newlines: it ends
    /// at the last `)`.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse();
        let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in proc(5), where the state is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            found: FoundProcess {
                pid: pid.ok()?,
                parent: field(4)?.parse().ok()?,
                start_ticks: field(22)?.parse().ok()?,
                name,
            },
            state: *field(3)?.as_bytes().first()?,
            session: field(6)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
        })
    }

    pub(super) fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }

    /// A leader that has exited while its other threads still run is shown as a zombie, too, but
    /// with more than one thread: that process lives.
    pub(super) fn is_dead(&self) -> bool {
        match self.state {
            b'Z' => self.threads <= 1,
            b'X' | b'x' => true,
            _ => false,
        }
    }

    /// A shell in a terminal: what is started from it has nothing in common but the person.
    /// (Supervisors lead sessions, too, but without a terminal.)
    pub(super) fn is_terminal_session_leader(&self) -> bool {
        self.session == self.found.pid && self.terminal != 0
    }
}

/// A living process in user space, with its cgroups if they were asked for.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub stat: Stat,
    /// Preferred hierarchy first; see [`cgroup::memberships`].
    pub cgroups: Vec<Membership>,
}

impl Process {
    pub(super) fn read(host: &Host, pid: u32) -> Option<Self> {
        let stat = living(host, pid)?;
        let cgroups = cgroup::memberships(host, pid);
        Some(Self { stat, cgroups })
    }
}

/// The process behind a pid, unless it is dead or the kernel's.
pub(super) fn living(host: &Host, pid: u32) -> Option<Stat> {
    any(host, pid).filter(|stat| !stat.is_kernel_thread() && !stat.is_dead())
}

/// Whatever is behind a pid, also dead processes and kernel threads.
pub(super) fn any(host: &Host, pid: u32) -> Option<Stat> {
    Stat::read(&host.proc.join(pid.to_string()))
}

/// The process that a thread belongs to. `/proc/TID` can be opened for every thread, although only
/// processes are listed.
pub(super) fn leader_of(host: &Host, tid: u32) -> Option<u32> {
    let status = read_small(&host.proc.join(tid.to_string()).join("status"))?;
    String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))
        .and_then(|leader| leader.trim().parse().ok())
}

/// All living processes in user space, from one pass over `/proc`.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub processes: BTreeMap<u32, Process>,
}

impl Snapshot {
    /// Of nobody.
    pub(super) fn empty() -> Self {
        Self {
            processes: BTreeMap::new(),
        }
    }

    /// Names and ancestry only: one small file a process.
    pub(super) fn plain(host: &Host) -> Self {
        Self::take(host, |_| Vec::new())
    }

    /// With the cgroups: two small files a process.
    pub(super) fn with_cgroups(host: &Host) -> Self {
        Self::take(host, |pid| cgroup::memberships(host, pid))
    }

    fn take(host: &Host, cgroups: impl Fn(u32) -> Vec<Membership>) -> Self {
        let entries = fs::read_dir(&host.proc).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let processes = pids.filter_map(|pid| {
            let stat = living(host, pid)?;
            let cgroups = cgroups(pid);
            Some((pid, Process { stat, cgroups }))
        });
        Self {
            processes: processes.collect(),
        }
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The parent, if it is still the one that the child was born to: a "parent" younger than its
    /// child got the pid of a parent that has exited.
    pub(super) fn parent(&self, child: &FoundProcess) -> Option<&Stat> {
        let parent = &self.get(child.parent)?.stat;
        (parent.found.start_ticks <= child.start_ticks && child.parent != child.pid)
            .then_some(parent)
    }

    /// Does one of its ancestors fulfil the condition?
    pub(super) fn has_ancestor(&self, process: &FoundProcess, is: impl Fn(u32) -> bool) -> bool {
        let mut current = process;
        // Bounded, because a snapshot taken while pids are used again may show a circle.
        for _ in 0..self.processes.len() {
            let Some(parent) = self.parent(current) else {
                return false;
            };
            if is(parent.found.pid) {
                return true;
            }
            current = &parent.found;
        }
        false
    }

    /// Who has which children.
    pub(super) fn children(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for process in self.processes.values() {
            if let Some(parent) = self.parent(&process.stat.found) {
                let siblings = children.entry(parent.found.pid).or_default();
                siblings.push(process.stat.found.pid);
            }
        }
        children
    }

    /// The given processes, ascending by pid. Those that are gone are left out, and slowburn itself:
    /// it cannot watch itself.
    pub(super) fn found(
        &self,
        host: &Host,
        pids: impl IntoIterator<Item = u32>,
    ) -> Vec<FoundProcess> {
        let pids: BTreeSet<u32> = pids.into_iter().filter(|pid| !host.is_self(*pid)).collect();
        let processes = pids.iter().filter_map(|pid| self.get(*pid));
        processes
            .map(|process| process.stat.found.clone())
            .collect()
    }
}

/// The processes and everything below them.
pub(super) fn with_descendants(
    roots: impl IntoIterator<Item = u32>,
    children: &BTreeMap<u32, Vec<u32>>,
) -> BTreeSet<u32> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<u32> = roots.into_iter().collect();
    while let Some(pid) = pending.pop() {
        if reached.insert(pid) {
            pending.extend(children.get(&pid).into_iter().flatten());
        }
    }
    reached
}

/// Which of a process's names it was known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameKind {
    Comm,
    Executable,
    Argument,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Comm => "comm",
            Self::Executable => "executable",
            Self::Argument => "argv[0]",
        })
    }
}

/// Is this a name of the process? The cheapest evidence is looked at first; the command line last,
/// because reading it can wait for a lock of the process.
pub(super) fn match_name(host: &Host, process: &FoundProcess, name: &str) -> Option<NameKind> {
    if name.is_empty() {
        return None;
    }
    if process.name == name {
        return Some(NameKind::Comm);
    }
    let executable = executable(host, process.pid);
    if executable.as_deref() == Some(name) {
        return Some(NameKind::Executable);
    }
    let arguments = first_arguments(host, process.pid);
    if arguments
        .first()
        .is_some_and(|first| program_names(first).contains(&name))
    {
        return Some(NameKind::Argument);
    }
    let cut =
        name.len() > COMM_LENGTH && name.as_bytes()[..COMM_LENGTH] == *process.name.as_bytes();
    // A script's comm is its own name, but its executable and argv[0] are the interpreter's: the
    // script is then one of the next arguments.
    let is_script = || {
        arguments
            .iter()
            .skip(1)
            .any(|argument| base_name(argument) == name)
    };
    // Arguments alone may be missing: a process in the middle of exec has none yet.
    let is_unknown = executable.is_none() && arguments.is_empty();
    (cut && (is_unknown || is_script())).then_some(NameKind::Comm)
}

/// Base name of the executable file, which may have been replaced since.
pub(super) fn executable(host: &Host, pid: u32) -> Option<String> {
    let target = fs::read_link(host.proc.join(pid.to_string()).join("exe")).ok()?;
    let name = target.file_name()?.to_string_lossy();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

/// At most the first three arguments. Never shown to anybody: command lines
/// may hold secrets.
fn first_arguments(host: &Host, pid: u32) -> Vec<String> {
    let page = read_small(&host.proc.join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let arguments = page.split(|byte| *byte == 0).take(3);
    let arguments = arguments.filter(|argument| !argument.is_empty());
    arguments
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// The names that an `argv[0]` may stand for: `/usr/sbin/nginx`, `nginx: worker process`,
/// `/usr/bin/redis-server *:6379`, `-bash`, and a path that holds spaces.
fn program_names(argument: &str) -> [&str; 2] {
    let first_word = argument.split_ascii_whitespace().next().unwrap_or_default();
    [first_word, argument].map(|text| {
        let name = base_name(text).trim_end_matches(':');
        name.strip_prefix('-').unwrap_or(name)
    })
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let text =
            b"77 (a) R 1 (b\n) S 5 77 76 34816 -1 4194304 0 0 0 0 0 0 0 0 20 0 3 0 999 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.found.name, "a) R 1 (b\n");
        assert_eq!((stat.found.pid, stat.found.parent), (77, 5));
        assert_eq!(stat.found.start_ticks, 999);
        assert_eq!((stat.session, stat.terminal, stat.threads), (76, 34816, 3));
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn broken_stat_is_no_process() {
        for text in [
            "",
            "1",
            "1 (a",
            "1 (a)",
            "1 )a( S 1",
            "1 (a) S 1 2 3",
            "x (a) S 1 1 1 0 0 0",
        ] {
            assert!(Stat::parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_cut_stat_is_no_panic() {
        let text = b"77 (a) S 5 77 76 34816 -1 4194304 0 0 0 0 0 0 0 0 20 0 3 0 999";
        for length in 0..text.len() {
            let _ = Stat::parse(&text[..length]);
        }
    }

    #[test]
    fn dead_unless_other_threads_run() {
        let stat = |state: &str, threads: u32| {
            let text = format!("7 (a) {state} 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 9 0 0");
            Stat::parse(text.as_bytes()).unwrap()
        };
        assert!(stat("Z", 1).is_dead());
        assert!(!stat("Z", 2).is_dead());
        assert!(stat("X", 1).is_dead());
        assert!(!stat("S", 1).is_dead());
        assert!(!stat("D", 1).is_dead());
    }

    #[test]
    fn names_in_argv0() {
        for (argument, name) in [
            ("/usr/sbin/nginx", "nginx"),
            ("nginx: master process /usr/sbin/nginx", "nginx"),
            ("postgres:", "postgres"),
            ("/usr/bin/redis-server 127.0.0.1:6379", "redis-server"),
            ("-bash", "bash"),
            ("/opt/My App/bin/the server", "the server"),
        ] {
            assert!(program_names(argument).contains(&name), "{argument:?}");
        }
        assert!(!program_names("nginx: worker process").contains(&"worker"));
    }
}
