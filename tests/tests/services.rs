//! Real services, each attached to by name while it works: nginx, redis, postgresql.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use slowburn::stream::{Record, Scope, TargetEventKind};
use slowburn_tests::{
    Daemon, delay_of, eventually, needs_tracing, schedstat, skip, tasks, unique_name,
};
use tempfile::TempDir;

/// How long a service is kept busy.
const BUSY: Duration = Duration::from_secs(4);

/// A service of its own, in a directory of its own. Killed with all its children when dropped.
struct Service {
    child: Child,
    name: String,
    directory: TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        // The process group holds the children too.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts a program under a name that nothing else on the host has: the kernel names a process after the
    /// link it was started by.
    fn start(program: &Path, directory: TempDir, user: Option<u32>, args: &[String]) -> Self {
        let name = unique_name("sbs");
        let link = directory.path().join(&name);
        std::os::unix::fs::symlink(program, &link).expect("a link can be made");
        let mut command = Command::new(&link);
        command.args(args).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = user {
            command.uid(user);
        }
        let child = command.spawn().expect("the service starts");
        Self {
            child,
            name,
            directory,
        }
    }

    fn attach(&self) -> Daemon {
        let mut daemon = Daemon::start(&["--service", &self.name, "--window", "1s"]);
        daemon.wait_for_process(self.child.id(), TargetEventKind::Found);
        daemon
    }
}

/// The first of these programs that is installed.
fn installed(candidates: &[&str]) -> Option<PathBuf> {
    candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

/// A directory that other users may enter.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    directory
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

fn connect(port: u16) -> TcpStream {
    eventually("the service listens", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    })
}

/// Asks again and again over one connection, for as long as the service is to be busy. Returns how often.
fn ask(port: u16, question: &[u8], answered: impl Fn(&[u8]) -> bool) -> u64 {
    let mut stream = connect(port);
    let (begin, mut answers, mut buffer) = (Instant::now(), 0, [0; 16 << 10]);
    while begin.elapsed() < BUSY {
        stream.write_all(question).expect("the service reads");
        let mut have = 0;
        while !answered(&buffer[..have]) {
            let read = stream
                .read(&mut buffer[have..])
                .expect("the service answers");
            assert!(
                read > 0,
                "the service closed the connection after {answers} answers"
            );
            have += read;
        }
        answers += 1;
    }
    answers
}

/// Watches a service while it works, and compares the waits of all its threads with the kernel's account.
fn watch(service: &Service, work: impl FnOnce() -> u64) {
    let mut daemon = service.attach();
    let pids: Vec<u32> = daemon
        .lines()
        .iter()
        .filter_map(|line| match &line.record {
            Record::Target(event) => event.pid,
            _ => None,
        })
        .collect();
    let read = || -> Vec<((u32, u32), u64)> {
        pids.iter()
            .flat_map(|pid| tasks(*pid).into_iter().map(move |tid| (*pid, tid)))
            .filter_map(|(pid, tid)| Some(((pid, tid), schedstat(pid, tid)?.run_count)))
            .collect()
    };
    let before = read();
    let answers = work();
    let after = read();
    let finished = daemon.stop();
    for ((pid, tid), now) in after {
        let then = before.iter().find(|(task, _)| *task == (pid, tid));
        let kernel = now - then.map_or(0, |(_, count)| *count);
        let windows = finished.thread_windows(tid);
        let ours: u64 = windows
            .iter()
            .map(|w| delay_of(w).count + delay_of(w).unknown_count)
            .sum();
        // Services do not stand still at the edges: what they do of their own accord between two readings.
        let bound = (kernel / 100).max(20);
        assert!(
            ours.abs_diff(kernel) <= bound,
            "thread {tid}: {ours} waits, the kernel counted {kernel}"
        );
    }
    assert!(pids.contains(&service.child.id()));
    // Those that were forked to do the work are in it too.
    let processes = finished.windows().filter(|w| w.scope == Scope::Process);
    let waits: u64 = processes.map(|w| delay_of(w).count).sum();
    println!(
        "{}: {answers} answers, {waits} waits in {} processes",
        service.name,
        pids.len()
    );
    assert!(answers > 100, "it was kept busy: {answers}");
    assert!(waits > 100, "it waited: {waits}");
    assert_eq!(finished.lost(), 0);
    finished.identities_are_whole();
}

#[test]
fn nginx() {
    needs_tracing!();
    let Some(program) = installed(&["/usr/sbin/nginx"]) else {
        skip!("nginx is not installed");
    };
    let (directory, port) = (open_directory(), free_port());
    let root = directory.path().display().to_string();
    let configuration = format!(
        "daemon off; user root; worker_processes 2; pid {root}/pid; error_log {root}/error;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; keepalive_requests 10000000; server {{ listen 127.0.0.1:{port}; return 200 hello; }} }}\n"
    );
    fs::write(directory.path().join("conf"), configuration).expect("it is ours");
    let args = [
        "-p".into(),
        root.clone(),
        "-c".into(),
        format!("{root}/conf"),
    ];
    let service = Service::start(&program, directory, None, &args);
    drop(connect(port));
    watch(&service, || {
        ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", |answer| {
            answer.ends_with(b"hello")
        })
    });
}

#[test]
fn redis() {
    needs_tracing!();
    let Some(program) = installed(&["/usr/bin/redis-server"]) else {
        skip!("redis-server is not installed");
    };
    let (directory, port) = (open_directory(), free_port());
    let args = [
        "--port".into(),
        port.to_string(),
        "--save".into(),
        String::new(),
    ];
    let service = Service::start(&program, directory, None, &args);
    drop(connect(port));
    watch(&service, || {
        ask(port, b"INCR x\r\n", |answer| answer.ends_with(b"\r\n"))
    });
}

#[test]
fn postgresql() {
    needs_tracing!();
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let Some(programs) = versions
        .map(|v| v.path().join("bin"))
        .find(|bin| bin.join("pgbench").is_file())
    else {
        skip!("postgresql with pgbench is not installed");
    };
    let passwords = fs::read_to_string("/etc/passwd").expect("there are users");
    let id = passwords.lines().find_map(|line| {
        line.strip_prefix("postgres:")?
            .split(':')
            .nth(1)?
            .parse()
            .ok()
    });
    let Some(user) = id else {
        skip!("there is no user postgres");
    };
    let (directory, port) = (open_directory(), free_port().to_string());
    let data = directory.path().join("data").display().to_string();
    let sockets = directory.path().display().to_string();
    let as_user = |program: &str, args: &[&str]| {
        let mut command = Command::new(programs.join(program));
        command
            .args(args)
            .uid(user)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command.output().expect("it runs")
    };
    assert!(
        as_user("initdb", &["-D", &data, "--no-sync"])
            .status
            .success()
    );
    let args = ["-D", &data, "-p", &port, "-k", &sockets, "-c", "fsync=off"].map(String::from);
    let service = Service::start(&programs.join("postgres"), directory, Some(user), &args);
    assert!(service.directory.path().is_dir());
    let connection = ["-h", &sockets, "-p", &port, "-U", "postgres", "postgres"];
    let bench = |args: &[&str]| as_user("pgbench", &[args, &connection].concat());
    eventually("postgresql is ready", || {
        bench(&["-i", "-q"]).status.success().then_some(())
    });
    watch(&service, || {
        let output = bench(&["-c", "4", "-T", "4"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("number of transactions actually processed: "));
        line.and_then(|n| n.split('/').next()?.trim().parse().ok())
            .unwrap_or(0)
    });
}
