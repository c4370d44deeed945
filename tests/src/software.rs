//! Real services to attach to, started on ports and in directories of their own: nginx, redis, postgresql, and programs of
//! `tests/runtimes`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{binary, eventually, unique_name};

/// A service of its own, in a directory of its own. Killed with all its children when dropped.
pub struct Software {
    child: Child,
    name: String,
    directory: TempDir,
    port: u16,
    /// Where postgresql's programs are, and who may run them.
    postgres: Option<(PathBuf, u32)>,
}

impl Drop for Software {
    fn drop(&mut self) {
        // The process group holds the children too.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Software {
    /// Starts a program under a name that nothing else on the host has: the kernel names a process after the
    /// link it was started by.
    fn start(
        program: &Path,
        directory: TempDir,
        port: u16,
        user: Option<u32>,
        args: &[String],
    ) -> Self {
        let name = unique_name("sbs");
        let link = directory.path().join(&name);
        symlink(program, &link).expect("a link can be made");
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
            port,
            postgres: None,
        }
    }

    /// nginx with two workers that answer `hello`; `None` if it is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn nginx() -> Option<Self> {
        let program = installed(&["/usr/sbin/nginx"])?;
        let (directory, port) = (open_directory(), free_port());
        let root = directory.path().display().to_string();
        let configuration = format!(
            "daemon off; user root; worker_processes 2; pid {root}/pid; error_log {root}/error;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; keepalive_requests 10000000; server {{ listen 127.0.0.1:{port}; return 200 hello; }} }}\n"
        );
        fs::write(directory.path().join("conf"), configuration).expect("it is ours");
        let args = ["-p", &root, "-c", &format!("{root}/conf")].map(String::from);
        Some(Self::start(&program, directory, port, None, &args).listening())
    }

    /// redis without persistence; `None` if it is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn redis() -> Option<Self> {
        let program = installed(&["/usr/bin/redis-server"])?;
        let (directory, port) = (open_directory(), free_port());
        let args = ["--port", &port.to_string(), "--save", ""].map(String::from);
        Some(Self::start(&program, directory, port, None, &args).listening())
    }

    /// postgresql with the tables of pgbench; `None` if they, or its user, are not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn postgresql() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let programs = versions
            .map(|version| version.path().join("bin"))
            .find(|bin| bin.join("pgbench").is_file())?;
        let user = user_id("postgres")?;
        let (directory, port) = (open_directory(), free_port());
        let data = directory.path().join("data").display().to_string();
        let sockets = directory.path().display().to_string();
        let made = as_user(&programs, user, "initdb", &["-D", &data, "--no-sync"]);
        assert!(made.status.success(), "initdb has failed");
        let port_text = port.to_string();
        let args = [
            "-D",
            &data,
            "-p",
            &port_text,
            "-k",
            &sockets,
            "-c",
            "fsync=off",
        ]
        .map(String::from);
        let program = programs.join("postgres");
        let mut service = Self::start(&program, directory, port, Some(user), &args);
        service.postgres = Some((programs, user));
        eventually("postgresql is ready", || {
            service
                .pgbench(&["-i", "-q"])
                .status
                .success()
                .then_some(())
        });
        Some(service)
    }

    /// A program of `tests/runtimes`, as it was built; `None` if it was not.
    ///
    /// # Panics
    /// If it does not start.
    pub fn runtime(program: &str, args: &[&str]) -> Option<Self> {
        let built = binary("slowburn").with_file_name("runtimes").join(program);
        let args: Vec<String> = args.iter().copied().map(String::from).collect();
        built
            .is_file()
            .then(|| Self::start(&built, open_directory(), 0, None, &args))
    }

    /// A class of `tests/runtimes`, in a JVM with so many MiB of heap; `None` if there is none.
    ///
    /// # Panics
    /// If it does not start.
    pub fn java(class: &str, heap_mib: u32, args: &[&str]) -> Option<Self> {
        let classes = binary("slowburn").with_file_name("runtimes");
        let program = installed(&["/usr/bin/java"])?.canonicalize().ok()?;
        classes.join(format!("{class}.class")).is_file().then(|| {
            let mut all = vec![
                format!("-Xmx{heap_mib}m"),
                "-cp".to_owned(),
                classes.display().to_string(),
                class.to_owned(),
            ];
            all.extend(args.iter().copied().map(String::from));
            Self::start(&program, open_directory(), 0, None, &all)
        })
    }

    fn listening(self) -> Self {
        drop(self.connect());
        self
    }

    /// The name it runs under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn connect(&self) -> TcpStream {
        eventually("the service listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        })
    }

    /// Runs pgbench against it.
    ///
    /// # Panics
    /// If it is no postgresql.
    pub fn pgbench(&self, args: &[&str]) -> Output {
        let (programs, user) = self.postgres.as_ref().expect("it is a postgresql");
        let (sockets, port) = (
            self.directory.path().display().to_string(),
            self.port.to_string(),
        );
        let connection = ["-h", &sockets, "-p", &port, "-U", "postgres", "postgres"];
        as_user(programs, *user, "pgbench", &[args, &connection].concat())
    }
}

/// Asks once over a connection.
///
/// # Panics
/// If the service closes it.
pub fn ask(stream: &mut TcpStream, question: &[u8], answered: impl Fn(&[u8]) -> bool) {
    stream.write_all(question).expect("the service reads");
    let (mut have, mut buffer) = (0, [0; 16 << 10]);
    while !answered(&buffer[..have]) {
        let read = stream
            .read(&mut buffer[have..])
            .expect("the service answers");
        assert!(read > 0, "the service closed the connection");
        have += read;
    }
}

/// The first of these programs that is installed.
fn installed(candidates: &[&str]) -> Option<PathBuf> {
    candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

fn user_id(name: &str) -> Option<u32> {
    let passwords = fs::read_to_string("/etc/passwd").ok()?;
    passwords.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn as_user(programs: &Path, user: u32, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(programs.join(program));
    command
        .args(args)
        .uid(user)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command.output().expect("it runs")
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
