//! Runs the truth tests in guests: Debian's kernels under QEMU, with a real systemd. Nothing is installed on
//! this machine, and root is needed only to fetch package lists where there are none.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use crate::{
    build_ebpf,
    cache::Cache,
    command, guest,
    matrix::{self, Cell},
    packages::{self, Unavailable},
    runtimes,
    test::{self, heading},
    test_output::{Counts, Reader},
    truth_report::{self, Commit, Header},
};

/// Run the truth tests in virtual machines with other kernels
///
/// The machines are emulated by QEMU, which needs no special processor, and run Debian's kernels with a real
/// systemd. What is missing is fetched by apt-get into target/vm, or where `SLOWBURN_VM_CACHE` says; remove
/// that directory to fetch newer packages. Without options it is kernels 6.1 and 6.12 with cgroup v2.
#[derive(clap::Args)]
pub struct Args {
    /// A kernel to boot; may be repeated
    #[arg(long = "kernel", value_parser = PossibleValuesParser::new(matrix::KERNELS.each_ref().map(|k| k.name)))]
    kernels: Vec<String>,
    /// A layout of cgroups; may be repeated
    #[arg(long = "cgroup", value_parser = PossibleValuesParser::new(matrix::LAYOUTS.each_ref().map(|l| l.name)))]
    layouts: Vec<String>,
    /// A lockdown mode; may be repeated
    #[arg(long = "lockdown", value_parser = PossibleValuesParser::new(matrix::LOCKDOWNS.each_ref().map(|l| l.name)))]
    lockdowns: Vec<String>,
    /// Every kernel with every layout and every lockdown mode
    #[arg(long, conflicts_with_all = ["kernels", "layouts", "lockdowns"])]
    all: bool,
    /// This machine, as root; guests too if they are asked for
    #[arg(long)]
    host: bool,
    /// Only tests whose name contains this; the results do not go into the report
    #[arg(long, value_parser = filter)]
    filter: Option<String>,
    /// How many seconds a guest may take
    #[arg(long, default_value_t = SECONDS)]
    timeout: u64,
    /// Write docs/truth.md afterwards, from the newest results of all cells
    #[arg(long)]
    report: bool,
}

/// How long a guest may take. On two slow processors it is 260 s, and with a real-time kernel 670 s.
const SECONDS: u64 = 1_200;

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut outcome = test::Outcome::default();
    run_plan(&Plan::of(args), &mut outcome)?;
    if args.report {
        truth_report::write_document()?;
    }
    Ok(outcome.report(&[]))
}

/// Runs the default guests as one more group of tests.
pub fn run_default(outcome: &mut test::Outcome) -> Result<()> {
    let plan = Plan {
        cells: matrix::cells(&[], &[], &[]),
        host: false,
        filter: None,
        timeout: Duration::from_secs(SECONDS),
    };
    run_plan(&plan, outcome)
}

struct Plan {
    cells: Vec<Cell>,
    host: bool,
    filter: Option<String>,
    timeout: Duration,
}

impl Plan {
    fn of(args: &Args) -> Self {
        let guests =
            !(args.kernels.is_empty() && args.layouts.is_empty() && args.lockdowns.is_empty());
        Self {
            cells: if args.all {
                matrix::all_cells()
            } else if args.host && !guests {
                Vec::new()
            } else {
                matrix::cells(&args.kernels, &args.layouts, &args.lockdowns)
            },
            host: args.host,
            filter: args.filter.clone(),
            timeout: Duration::from_secs(args.timeout),
        }
    }
}

/// A filter travels on the kernel's command line.
fn filter(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
    if text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("it may hold letters, digits, '_' and ':' only".into())
    }
}

/// What a cell has to say at its end.
struct Verdict {
    counts: Counts,
    /// The kernel as it calls itself.
    kernel: String,
    /// The hooks that slowburn chooses there, and the refused ones, as its doctor says.
    hooks: Value,
    /// The truth tests' own report, in lines of JSON.
    report: Vec<String>,
}

fn run_plan(plan: &Plan, outcome: &mut test::Outcome) -> Result<()> {
    build_ebpf::ensure()?;
    let programs = build()?;
    let mut results = Results {
        commit: Commit::now(),
        directory: truth_report::directory(plan.filter.is_some()),
        table: String::new(),
        outcome,
    };
    if plan.host {
        results.take("host", || run_on_host(&programs, plan))?;
    }
    if !plan.cells.is_empty() {
        run_guests(plan, &programs, &mut results)?;
    }
    println!("\n{}", results.table.trim_end());
    Ok(())
}

fn run_guests(plan: &Plan, programs: &Programs, results: &mut Results) -> Result<()> {
    let machine = match Machine::prepare(programs) {
        Ok(machine) => Ok(machine),
        Err(error) if error.is::<Unavailable>() => Err(format!("{error:#}")),
        Err(error) => return Err(error),
    };
    for cell in &plan.cells {
        results.take(&cell.name(), || match &machine {
            Ok(machine) => machine.run(cell, plan),
            Err(why) => bail!(Unavailable(why.clone())),
        })?;
    }
    Ok(())
}

/// What the cells have come to so far.
struct Results<'a> {
    commit: Commit,
    directory: PathBuf,
    table: String,
    outcome: &'a mut test::Outcome,
}

impl Results<'_> {
    /// Runs a cell and takes what comes of it. What can't be run here is skipped and keeps its old report;
    /// what ends without a verdict has failed, and no older report shall pass for it.
    fn take(&mut self, name: &str, run: impl FnOnce() -> Result<Verdict>) -> Result<()> {
        heading(name);
        let start = Instant::now();
        let ended = run();
        let seconds = start.elapsed().as_secs_f64().round();
        let (counts, failure) = judge(&ended);
        let line = match &ended {
            Ok(_) => counts.to_string(),
            Err(error) if error.is::<Unavailable>() => format!("SKIP {error:#}"),
            Err(_) => "no verdict".into(),
        };
        println!("{name}: {line} in {seconds} s");
        let _ = writeln!(self.table, "{name:<28} {line} in {seconds} s");
        self.outcome.add(name, counts, failure);
        if ended.as_ref().is_err_and(anyhow::Error::is::<Unavailable>) {
            return Ok(());
        }
        let verdict = ended.ok();
        let header = Header {
            cell: name.into(),
            kernel: verdict.as_ref().map(|verdict| verdict.kernel.clone()),
            commit: self.commit.clone(),
            date: jiff::Timestamp::now().round(jiff::Unit::Second)?,
            seconds,
            passed: counts.passed,
            failed: counts.failed,
            skipped: counts.skipped,
            hooks: verdict.as_ref().map(|verdict| verdict.hooks.clone()),
        };
        let report = verdict.map_or_else(Vec::new, |verdict| verdict.report);
        truth_report::store(&self.directory, &header, &report)
    }
}

/// What a cell adds to the counts, and in which words it failed.
fn judge(ended: &Result<Verdict>) -> (Counts, Option<String>) {
    let mut counts = Counts::default();
    match ended {
        Ok(verdict) => {
            let failed = verdict.counts.failed > 0;
            (verdict.counts, failed.then(|| "see above".into()))
        }
        Err(error) if error.is::<Unavailable>() => {
            counts.skipped = 1;
            (counts, None)
        }
        Err(error) => {
            counts.failed = 1;
            (counts, Some(format!("no verdict: {error:#}")))
        }
    }
}

/// What was built.
struct Programs {
    /// Where the daemon and the workloads are.
    directory: PathBuf,
    truth: PathBuf,
}

const TRUTH: &str = "truth";

/// Builds the programs as `cargo xtask test` does, and the tests.
fn build() -> Result<Programs> {
    Ok(Programs {
        directory: test::build_programs()?,
        truth: build_truth()?,
    })
}

fn build_truth() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args([
        "test",
        "--package",
        "slowburn-tests",
        "--locked",
        // Emulated, and with much to read, they take a third longer without.
        "--release",
        "--test",
        TRUTH,
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed; see above", command::line(&cargo));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == TRUTH)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo does not say where it has put the truth tests")
}

fn run_on_host(programs: &Programs, plan: &Plan) -> Result<Verdict> {
    let report = truth_report::directory(true).join("host.report");
    fs::create_dir_all(truth_report::directory(true))
        .and_then(|()| File::create(&report))
        .with_context(|| format!("cannot write {}", report.display()))?;
    let settings = [
        ("SLOWBURN_BIN_DIR", programs.directory.clone().into()),
        ("SLOWBURN_TRUTH_REPORT", report.clone().into()),
    ];
    let mut tests = test::as_root(&programs.truth, &settings)?;
    tests
        .args(["--test-threads=1", "--show-output"])
        .args(&plan.filter);
    let mut reader = Reader::default();
    let succeeded = command::watch_stdout(&mut tests, |line| reader.line(line))?;
    let counts = reader.finished();
    if !succeeded && counts.failed == 0 {
        bail!("`{}` failed without saying why", command::line(&tests));
    }
    // Its status says whether tracing works; what it prints is the same.
    let doctor = test::as_root(&programs.directory.join("slowburn"), &[])?
        .args(["doctor", "--json"])
        .output()?;
    let text = fs::read_to_string(&report)?;
    Ok(Verdict {
        counts,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        hooks: hooks(&String::from_utf8_lossy(&doctor.stdout)),
        report: text.lines().map(str::to_owned).collect(),
    })
}

/// What the doctor says of hooks, or why there are none.
fn hooks(doctor: &str) -> Value {
    let mut said: Value = serde_json::from_str(doctor).unwrap_or_default();
    if said["hooks"].is_object() {
        said["hooks"].take()
    } else {
        json!({ "error": said["error"] })
    }
}

/// All that guests have in common.
struct Machine {
    cache: Cache,
    qemu: Qemu,
    initrd: PathBuf,
}

/// With 1,280 MiB a guest does not start: the archives (400 MB) are there twice for a moment, and what is
/// unpacked may fill half of the memory only.
const MEMORY_MIB: &str = "2048";

/// Kernel arguments for all guests. There are few, as they shall be like other machines: turning off
/// mitigations, self-tests and security modules saves 0.3 s of the 5.2 s that a start takes. An emulated
/// clock that is late on a busy machine shall not be given up for a worse one. After a panic it shall end.
const ARGUMENTS: &str = "console=ttyS0 panic=-1 quiet systemd.show_status=auto systemd.condition-needs-update=0 \
    tsc=reliable no_timer_check";

/// How long a guest may say nothing before it is taken for dead, which happens without a word in its console. No
/// test takes half as long, and there is a line after each.
const SILENCE: Duration = Duration::from_secs(150);

/// How the last line of a guest begins; the status of the tests and the kernel's name follow.
const VERDICT: &str = "guest ended: ";

impl Machine {
    fn prepare(programs: &Programs) -> Result<Self> {
        let cache = Cache::open()?;
        let qemu = Qemu::find(&cache)?;
        let initrd = cache.place("initrd");
        write_initrd(&cache.packages()?, programs, &initrd)?;
        Ok(Self {
            cache,
            qemu,
            initrd,
        })
    }

    /// A guest that ends without a verdict gets a second chance, which is said: emulated processors now and then run
    /// stale code when the kernel patches its own (`guest/run-truth.sh`). They then take turns, so that none runs while another
    /// patches. What slowburn does wrong shows again.
    fn run(&self, cell: &Cell, plan: &Plan) -> Result<Verdict> {
        self.attempt(cell, plan, Processors::AtOnce)
            .or_else(|error| {
                println!(
                    "{}: no verdict: {error:#}; once more, with processors that take turns",
                    cell.name()
                );
                self.attempt(cell, plan, Processors::InTurn)
            })
    }

    fn attempt(&self, cell: &Cell, plan: &Plan, processors: Processors) -> Result<Verdict> {
        let kernel = self.cache.kernel(cell.kernel)?;
        let directory = self.cache.place("console").join(cell.name());
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut qemu = self.qemu.command();
        self.configure(&mut qemu, processors, &kernel, &arguments(cell, plan));
        let ended = watch(qemu.current_dir(&directory), plan.timeout);
        if ended.is_err() {
            println!("the end of its console:");
            let console = lines_of(&directory.join("console"));
            for line in &console[console.len().saturating_sub(30)..] {
                println!("  {line}");
            }
        }
        let (counts, kernel) = ended?;
        let mut report = lines_of(&directory.join("report")).into_iter();
        Ok(Verdict {
            counts,
            kernel,
            hooks: report.next().map_or(Value::Null, |line| hooks(&line)),
            report: report.collect(),
        })
    }

    /// What is the same for all guests, except the kernel. The serial ports are the kernel's console, what
    /// the tests print, and their report.
    fn configure(
        &self,
        qemu: &mut Command,
        processors: Processors,
        kernel: &Path,
        arguments: &str,
    ) {
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        // What /dev/kvm of a nested machine offers may hang its guests; emulation always works.
        .args(["-accel", processors.accelerator()])
        .args(["-machine", "q35,hpet=off"])
        .args(["-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"])
        .args(["-smp", "2", "-m", MEMORY_MIB])
        .args(["-serial", "file:console"])
        .args(["-serial", "stdio"])
        .args(["-serial", "file:report"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&self.initrd)
        .args(["-append", arguments])
        .stdin(Stdio::null());
    }
}

/// How a guest's processors are emulated.
#[derive(Clone, Copy)]
enum Processors {
    /// Each by a thread of its own.
    AtOnce,
    /// All by the same thread.
    InTurn,
}

impl Processors {
    fn accelerator(self) -> &'static str {
        match self {
            Self::AtOnce => "tcg,thread=multi",
            Self::InTurn => "tcg,thread=single",
        }
    }
}

fn arguments(cell: &Cell, plan: &Plan) -> String {
    let mut arguments = format!(
        "{ARGUMENTS} {} {}",
        cell.layout.arguments, cell.lockdown.arguments
    );
    for (name, value) in [
        ("SLOWBURN_BIN_DIR", "/payload"),
        ("SLOWBURN_TRUTH_REPORT", "/run/report.jsonl"),
        ("SLOWBURN_TRUTH_HOOKS_EXPECTED", &cell.hooks().join(",")),
        ("SLOWBURN_TRUTH_GUEST", &cell.name()),
        (
            "SLOWBURN_TRUTH_FILTER",
            plan.filter.as_deref().unwrap_or_default(),
        ),
    ] {
        let _ = write!(arguments, " systemd.setenv={name}={value}");
    }
    arguments
}

/// Runs a guest to its end, shows what its tests print, and returns their counts and the kernel's name.
/// QEMU's own status says nothing: it is 0 after a panic, too.
fn watch(qemu: &mut Command, timeout: Duration) -> Result<(Counts, String)> {
    let mut child = command::end_with_us(qemu)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::line(qemu)))?;
    let lines = lines_from(child.stdout.take());
    let mut end = Instant::now() + timeout;
    let mut silent = Instant::now() + SILENCE;
    let mut reader = Reader::default();
    let mut verdict = None;
    let ended = loop {
        let patience = end.min(silent);
        match lines.recv_timeout(patience.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                silent = Instant::now() + SILENCE;
                if let Some(text) = line.strip_prefix(VERDICT) {
                    verdict = Some(text.to_owned());
                    // It has only to turn itself off.
                    end = Instant::now() + Duration::from_secs(15);
                } else {
                    println!("{line}");
                    reader.line(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    end_guest(&mut child)?;
    let counts = reader.finished();
    let verdict = verdict.as_deref().and_then(|text| text.split_once(' '));
    match verdict {
        Some((status, kernel)) if status == "0" || counts.failed > 0 => {
            Ok((counts, kernel.to_owned()))
        }
        Some((status, _)) => bail!(
            "the tests ended with status {status} and no failure; if they do not start, this machine's C library \
             is newer than the guest's: remove the cache directory to fetch packages anew"
        ),
        None if ended => bail!("the guest ended before its tests did"),
        None if silent < end => bail!("the guest said nothing for {} s", SILENCE.as_secs()),
        None => bail!(
            "the guest took more than {} s; see --timeout",
            timeout.as_secs()
        ),
    }
}

fn end_guest(child: &mut Child) -> Result<()> {
    // Without effect on one that has ended.
    let _ = child.kill();
    child.wait().context("cannot wait for QEMU")?;
    Ok(())
}

/// The lines that can be read from a stream, as they come.
fn lines_from(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream?);
        let mut bytes = Vec::new();
        while stream.read_until(b'\n', &mut bytes).ok()? > 0 {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            sender.send(line).ok()?;
            bytes.clear();
        }
        Some(())
    });
    receiver
}

fn lines_of(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::to_owned).collect()
}

/// QEMU, of this machine or unpacked into the cache.
enum Qemu {
    Installed(PathBuf),
    Unpacked(PathBuf),
}

impl Qemu {
    const PROGRAM: &str = "qemu-system-x86_64";

    fn find(cache: &Cache) -> Result<Self> {
        if let Some(program) = command::find_in_path(Self::PROGRAM) {
            return Ok(Self::Installed(program));
        }
        Ok(Self::Unpacked(cache.qemu()?))
    }

    fn command(&self) -> Command {
        let root = match self {
            Self::Installed(program) => return Command::new(program),
            Self::Unpacked(root) => root,
        };
        let mut command = Command::new(root.join("usr/bin").join(Self::PROGRAM));
        let libraries = ["usr/lib", "lib"].map(|lib| root.join(lib).join("x86_64-linux-gnu"));
        if let Ok(path) = env::join_paths(libraries) {
            command.env("LD_LIBRARY_PATH", path);
        }
        for directory in ["qemu", "seabios"] {
            command
                .arg("-L")
                .arg(root.join("usr/share").join(directory));
        }
        command
    }
}

/// Writes what a guest unpacks into its memory.
fn write_initrd(archive: &Path, programs: &Programs, initrd: &Path) -> Result<()> {
    let program = |name: &str| (name.to_owned(), programs.directory.join(name));
    let mut payload = vec![
        program("slowburn"),
        program("slowburn-demo"),
        program("workload"),
        (TRUTH.to_owned(), programs.truth.clone()),
    ];
    for path in packages::files_in(&runtimes::directory(&programs.directory))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        payload.push((format!("{}/{name}", runtimes::DIRECTORY), path.clone()));
    }
    let written = File::open(archive).and_then(|mut packages| {
        let mut out = File::create(initrd)?;
        io::copy(&mut packages, &mut out)?;
        guest::archive_payload(&payload, &mut out)
    });
    written.with_context(|| format!("cannot write {}", initrd.display()))
}
