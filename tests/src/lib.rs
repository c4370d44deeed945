//! What the end-to-end tests have in common: they run the real daemon against the workloads of this
//! package, on the real kernel, and compare the stream with what the kernel says in `/proc`.
//!
//! Nothing here sleeps for a fixed time where it can look whether something has happened.

pub mod address_space;
pub mod cgroup;
pub mod software;

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slowburn::stream::{
    DelaySummary, Line, LossClass, Record, Scope, Stop, TargetEvent, TargetEventKind, Window,
};
use tempfile::TempDir;

/// How long anything may take that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long slowburn may take to end. Detaching is the kernel's: a real-time one takes a second for each hook, and several
/// slowburns wait for each other.
const DETACHING: Duration = Duration::from_mins(3);

/// How often is looked.
const GLANCE: Duration = Duration::from_millis(5);

/// Prints why a test cannot run here, in the form that the runner counts, and returns from it.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        println!("SKIP {}", format_args!($($why)*));
        return;
    }};
}

/// Skips the test where nothing can be traced.
#[macro_export]
macro_rules! needs_tracing {
    () => {
        if let Some(why) = $crate::cannot_trace() {
            $crate::skip!("{why}");
        }
    };
}

/// Why nothing can be traced here, if so. Found out without slowburn's own checks, which are tested too.
pub fn cannot_trace() -> Option<String> {
    // PROC_PID_INIT_INO of the kernel.
    const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
    if !rustix::process::geteuid().is_root() {
        return Some("tracing needs root".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no type information".into());
    }
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if namespace.as_os_str() != INITIAL_PID_NAMESPACE {
        return Some("tracing needs the host's pid namespace".into());
    }
    bpf_refusal().map(|error| format!("the kernel refuses eBPF: {error}"))
}

/// What the kernel says to the smallest program there is: `r0 = 0; exit`.
fn bpf_refusal() -> Option<io::Error> {
    const PROG_LOAD: libc::c_int = 5;
    const RAW_TRACEPOINT: u32 = 17;
    /// The beginning of `union bpf_attr` for loading a program.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u64; 3],
    }
    let code: [u64; 2] = [0xb7, 0x95];
    let load = Load {
        kind: RAW_TRACEPOINT,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 3],
    };
    // SAFETY: the structure and all it points to live until the call returns, and its size is given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Some(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    unsafe { libc::close(fd as libc::c_int) };
    None
}

/// A program of the workspace, as `SLOWBURN_BIN_DIR` or the release build has it.
///
/// # Panics
/// If it was not built.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("SLOWBURN_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build --release -p slowburn -p slowburn-tests --bins`, or say in \
         SLOWBURN_BIN_DIR where the programs are",
        path.display()
    );
    path.canonicalize().expect("its directory is there")
}

/// Runs `slowburn` to its end.
///
/// # Panics
/// If it cannot be started.
pub fn slowburn(args: &[&str]) -> Output {
    Command::new(binary("slowburn"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("slowburn can be started")
}

/// What a program wrote to standard error.
pub fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Looks again and again until there is something.
///
/// # Panics
/// If there is nothing after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: impl Display, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Looks again and again until there is something.
///
/// # Panics
/// If there is nothing by then.
#[track_caller]
pub fn within<T>(limit: Duration, what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(GLANCE);
    }
}

/// A name that no other test uses: short enough for the kernel's names of tasks.
///
/// # Panics
/// If the hint is too long for that.
pub fn unique_name(hint: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "{hint}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    assert!(name.len() <= 15, "{name} is too long for a task");
    name
}

/// Puts a copy of a program elsewhere, readable and executable by all.
///
/// # Panics
/// If that fails.
pub fn install(program: &Path, place: &Path) {
    // A link is enough where it is possible: a fresh copy may be "busy" for a moment, as long as a child that
    // another test just forked has inherited the descriptor.
    if fs::hard_link(program, place).is_err() {
        let copied = Command::new("cp")
            .arg(program)
            .arg(place)
            .status()
            .expect("cp can be started");
        assert!(copied.success(), "cannot copy {}", program.display());
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("the copy is ours");
    }
}

fn signal_process(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a pid is not 0");
    kill_process(pid, signal).expect("the process is a child that was not waited for");
}

/// Waits for a child's end.
#[track_caller]
fn wait(child: &mut Child, limit: Duration, what: &str) -> ExitStatus {
    within(limit, format_args!("{what} ends"), || {
        child.try_wait().expect("it is a child")
    })
}

/// A running `slowburn run`. Killed when dropped.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    output: Option<PathBuf>,
    lines: Vec<Line>,
    read: u64,
}

impl Daemon {
    /// Starts `slowburn run` with these arguments and an output file of its own, and waits until it has attached.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let mut daemon = Self::spawn(args);
        daemon.wait_for_start();
        daemon
    }

    /// Waits until it has attached.
    ///
    /// # Panics
    /// If it does not in time.
    #[track_caller]
    pub fn wait_for_start(&mut self) {
        self.wait_for("start record", |record| matches!(record, Record::Start(_)));
    }

    /// Starts `slowburn run` with these arguments and an output file of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let output = directory.path().join("stream.jsonl");
        let output_args = ["--output", output.to_str().expect("the path is text")];
        Self::spawn_with(
            &[args, &output_args].concat(),
            directory,
            Some(output.clone()),
            Stdio::null(),
        )
    }

    /// Starts `slowburn run` with an output that the arguments say or that goes to `stdout`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_elsewhere(args: &[&str], stdout: Stdio) -> Self {
        Self::spawn_with(
            args,
            tempfile::tempdir().expect("a directory can be made"),
            None,
            stdout,
        )
    }

    fn spawn_with(
        args: &[&str],
        directory: TempDir,
        output: Option<PathBuf>,
        stdout: Stdio,
    ) -> Self {
        let errors = File::create(directory.path().join("stderr")).expect("the directory is ours");
        // What a test asks for is to be measured, whatever it takes.
        let unlimited: &[&str] = if args.contains(&"--budget") {
            &[]
        } else {
            &["--budget", "none"]
        };
        let child = Command::new(binary("slowburn"))
            .arg("run")
            .args(unlimited)
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(errors)
            .spawn()
            .expect("slowburn can be started");
        Self {
            child,
            directory,
            output,
            lines: Vec::new(),
            read: 0,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, if that was asked for.
    pub fn stdout(&mut self) -> Option<impl Read + use<>> {
        self.child.stdout.take()
    }

    /// The file it writes to.
    ///
    /// # Panics
    /// If it was started with another output.
    pub fn output(&self) -> &Path {
        self.output.as_deref().expect("the output is a file")
    }

    /// Its directory, removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// All whole lines written so far.
    ///
    /// # Panics
    /// If one is not a line of the stream.
    #[track_caller]
    pub fn lines(&mut self) -> &[Line] {
        if let Ok(mut file) = File::open(self.output()) {
            let mut text = String::new();
            file.seek(SeekFrom::Start(self.read))
                .expect("files can be sought in");
            file.read_to_string(&mut text).expect("the stream is text");
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            self.read += whole as u64;
            self.lines.extend(text[..whole].lines().map(parse));
        }
        &self.lines
    }

    /// Waits until there is such a record, and returns it.
    ///
    /// # Panics
    /// If there is none after [`PATIENCE`], or the daemon has ended.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, matches: impl Fn(&Record) -> bool) -> Record {
        self.wait_within(PATIENCE, what, matches)
    }

    /// Waits until there is such a record, and returns it.
    ///
    /// # Panics
    /// If there is none by then, or the daemon has ended.
    #[track_caller]
    pub fn wait_within(
        &mut self,
        limit: Duration,
        what: &str,
        matches: impl Fn(&Record) -> bool,
    ) -> Record {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait().expect("it is a child");
            if let Some(line) = self.lines().iter().find(|line| matches(&line.record)) {
                return line.record.clone();
            }
            assert!(
                ended.is_none(),
                "slowburn ended without {what}: {}",
                self.stderr()
            );
            let types: Vec<_> = self
                .lines
                .iter()
                .map(|line| line.record.type_name())
                .collect();
            assert!(
                start.elapsed() < limit,
                "no {what} within {limit:?}; {} records, the last: {:?}",
                types.len(),
                types.last()
            );
            thread::sleep(GLANCE);
        }
    }

    /// Waits for a process's record of this kind.
    ///
    /// # Panics
    /// If there is none after [`PATIENCE`].
    #[track_caller]
    pub fn wait_for_process(&mut self, pid: u32, kind: TargetEventKind) -> TargetEvent {
        let record = self.wait_for(&format!("{kind:?} of {pid}"), |record| {
            matches!(record, Record::Target(event) if event.event == kind && event.pid == Some(pid))
        });
        let Record::Target(event) = record else {
            unreachable!("it was matched")
        };
        event
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.pid(), signal);
    }

    /// Interrupts it, waits for its end, and returns all that it has written.
    ///
    /// # Panics
    /// If it does not end, or with an error.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.signal(Signal::INT);
        self.finish()
    }

    /// Waits for its end, and returns all that it has written.
    ///
    /// # Panics
    /// If it does not end, or with an error.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.stderr());
        let lines = if self.output.is_some() {
            self.lines().to_vec()
        } else {
            Vec::new()
        };
        Finished {
            lines,
            stderr: self.stderr(),
            daemon: self,
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child, DETACHING, "slowburn")
    }

    /// Kills it at once.
    ///
    /// # Panics
    /// If it has ended before.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is a child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn parse(line: &str) -> Line {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A stream from start to stop.
pub struct Finished {
    /// All its lines.
    pub lines: Vec<Line>,
    /// What was written to standard error.
    pub stderr: String,
    /// Keeps the directory.
    daemon: Daemon,
}

impl Finished {
    /// The text of the stream.
    ///
    /// # Panics
    /// If it is not there.
    pub fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("the output is there")
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.daemon.output()
    }

    /// All windows.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.lines.iter().filter_map(|line| match &line.record {
            Record::Window(window) => Some(&**window),
            _ => None,
        })
    }

    /// The windows of a process.
    pub fn process_windows(&self, pid: u32) -> Vec<&Window> {
        self.windows()
            .filter(|w| w.scope == Scope::Process && w.process.pid == pid)
            .collect()
    }

    /// The windows of a thread.
    pub fn thread_windows(&self, tid: u32) -> Vec<&Window> {
        self.windows()
            .filter(|w| w.thread.as_ref().is_some_and(|thread| thread.tid == tid))
            .collect()
    }

    /// What happened to services and processes.
    pub fn target_events(&self) -> Vec<&TargetEvent> {
        let events = self.lines.iter().filter_map(|line| match &line.record {
            Record::Target(event) => Some(event),
            _ => None,
        });
        events.collect()
    }

    /// Every record that is about a process or thread says when that was created.
    ///
    /// # Panics
    /// If one does not.
    #[track_caller]
    pub fn identities_are_whole(&self) {
        let mut bad = Vec::new();
        for line in self.text().lines() {
            if line.contains(".creation.time\":\"1970") || line.contains("\"service.name\":\"\"") {
                bad.push(line.to_owned());
            }
        }
        assert!(
            bad.is_empty(),
            "{} of {} records are about nobody, such as {}",
            bad.len(),
            self.lines.len(),
            bad[0]
        );
    }

    /// The last record.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn stop_record(&self) -> &Stop {
        match self.lines.last().map(|line| &line.record) {
            Some(Record::Stop(stop)) => stop,
            other => panic!("the last record is no stop: {other:?}"),
        }
    }

    /// Everything lost over the whole run, except records of waits: with `--events all` there is one for every wait,
    /// and the kernel here and there does not trace one, which is counted as lost; and except runs that the kernel has left
    /// out, which happens on busy machines whatever we do.
    pub fn lost(&self) -> u64 {
        let lost = &self.stop_record().lost;
        lost.iter()
            .filter(|(class, _)| !matches!(class, LossClass::Delay | LossClass::SkippedRun))
            .map(|(_, count)| count)
            .sum()
    }
}

/// The waits of a window.
///
/// # Panics
/// If they were not measured.
#[track_caller]
pub fn delay_of(window: &Window) -> &DelaySummary {
    window.delay.as_ref().expect("waits were measured")
}

/// A running workload. Killed when dropped.
pub struct Workload {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The pid that it has, as the host sees it.
    pid: u32,
    name: String,
    _directory: TempDir,
}

impl Workload {
    /// Starts a workload under a name that nothing else has, and waits until it is ready to begin.
    ///
    /// # Panics
    /// If it does not get there.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Self::start_as(&unique_name("sb"), args)
    }

    /// Starts a workload under a given name.
    ///
    /// # Panics
    /// If it does not get ready.
    #[track_caller]
    pub fn start_as(name: &str, args: &[&str]) -> Self {
        Self::start_under(name, &[], args)
    }

    /// Starts a workload through a program that starts others, such as `unshare`: the first arguments.
    ///
    /// # Panics
    /// If it does not get ready.
    #[track_caller]
    pub fn start_under(name: &str, prefix: &[&str], args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let program = directory.path().join(name);
        install(&binary("workload"), &program);
        let mut command = match prefix {
            [] => Command::new(&program),
            [wrapper, rest @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(rest).arg(&program);
                command
            }
        };
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let pid = child.id();
        let mut workload = Self {
            child,
            stdin,
            lines,
            pid,
            name: name.into(),
            _directory: directory,
        };
        let ready = workload.facts();
        assert_eq!(ready["ready"], true, "{ready}");
        if !prefix.is_empty() {
            workload.pid = eventually("the wrapper's child is there", || named_below(pid, name));
        }
        workload
    }

    /// Its process id, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The same as text, for arguments.
    pub fn pid_text(&self) -> String {
        self.pid.to_string()
    }

    /// The name it runs under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets it begin, or go on.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn go(&mut self) {
        self.stdin
            .as_mut()
            .expect("it was not released")
            .write_all(b"go\n")
            .expect("the workload listens");
    }

    /// The next line that it says.
    ///
    /// # Panics
    /// If there is none after [`PATIENCE`].
    #[track_caller]
    pub fn facts(&mut self) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
            }
            Err(error) => panic!("the workload {} says nothing: {error}", self.name),
        }
    }

    /// Lets it work, and returns what it says afterwards, once all its threads sleep.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn work(&mut self) -> Value {
        self.go();
        let facts = self.facts();
        settle(self.pid);
        facts
    }

    /// Lets it end, and waits for that.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn release(mut self) -> ExitStatus {
        self.stdin = None;
        wait(&mut self.child, PATIENCE, "the workload")
    }

    /// Kills it at once.
    ///
    /// # Panics
    /// If it has ended before.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is a child");
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stdin = None;
        if self.pid != self.child.id()
            && let Some(pid) = Pid::from_raw(self.pid as i32)
            && comm(self.pid).as_deref() == Some(&self.name)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel's name of a process.
pub fn comm(pid: u32) -> Option<String> {
    Some(
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()?
            .trim_end()
            .to_owned(),
    )
}

/// A process with this name among a process and its descendants.
fn named_below(pid: u32, name: &str) -> Option<u32> {
    if comm(pid).as_deref() == Some(name) {
        return Some(pid);
    }
    children(pid)
        .into_iter()
        .find_map(|child| named_below(child, name))
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let of = |tid: u32| {
        fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default()
    };
    tasks(pid)
        .into_iter()
        .flat_map(|tid| numbers(&of(tid)))
        .collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The threads of a process; none if it is gone.
pub fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// What `/proc/PID/task/TID/schedstat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedstat {
    /// Time spent waiting for a CPU.
    pub run_delay_ns: u64,
    /// How often it got one.
    pub run_count: u64,
}

/// The kernel's own account of a thread's waits.
pub fn schedstat(pid: u32, tid: u32) -> Option<Schedstat> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut fields = text
        .split_ascii_whitespace()
        .map(|field| field.parse().ok());
    let (_, run_delay_ns, run_count) = (fields.next()??, fields.next()??, fields.next()??);
    let _: u64 = run_delay_ns;
    Some(Schedstat {
        run_delay_ns,
        run_count,
    })
}

/// A number in `/proc/PID/status`: in bytes if it has the unit kB.
///
/// # Panics
/// If the process is gone, or there is no such number.
#[track_caller]
pub fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .expect("every status has it");
    let mut words = value.split_ascii_whitespace();
    let number: u64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .expect("it is a number");
    if words.next() == Some("kB") {
        number * 1024
    } else {
        number
    }
}

/// Waits until all threads of a process sleep and have not run for a moment.
///
/// # Panics
/// If they do not.
#[track_caller]
pub fn settle(pid: u32) {
    let state = || -> Option<Vec<(u32, Schedstat)>> {
        let asleep = |tid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.starts_with('S').then_some(())
        };
        tasks(pid)
            .into_iter()
            .map(|tid| asleep(tid).and(Some((tid, schedstat(pid, tid)?))))
            .collect()
    };
    eventually(format_args!("all threads of {pid} sleep"), || {
        let before = state()?;
        thread::sleep(GLANCE * 2);
        (!before.is_empty() && state()? == before).then_some(())
    });
}

/// A whole number in what a workload says.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn number(facts: &Value, key: &str) -> u64 {
    facts[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {key} in {facts}"))
}
