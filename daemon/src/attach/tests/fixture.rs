//! Small trees that look like `/proc`, cgroup hierarchies and runtimes' state.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::attach::{Hierarchy, Host};

pub struct Fixture {
    root: TempDir,
    pub host: Host,
}

impl Fixture {
    pub fn v2() -> Self {
        Self::new(&[("cgroup", None)])
    }

    pub fn hybrid() -> Self {
        Self::new(&[
            ("cgroup/unified", None),
            ("cgroup/systemd", Some("name=systemd")),
            ("cgroup/memory", Some("memory")),
        ])
    }

    pub fn v1() -> Self {
        Self::new(&[
            ("cgroup/systemd", Some("name=systemd")),
            ("cgroup/memory", Some("memory")),
        ])
    }

    fn new(hierarchies: &[(&str, Option<&str>)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(root.path()).unwrap();
        let hierarchy = |(mount, controllers): &(&str, Option<&str>)| {
            fs::create_dir_all(path.join(mount)).unwrap();
            match controllers {
                None => Hierarchy::v2(path.join(mount)),
                Some(controllers) => Hierarchy::v1(path.join(mount), &[controllers]),
            }
        };
        let host = Host {
            root: path.clone(),
            proc: path.join("proc"),
            var_lib: path.join("var/lib"),
            run: path.join("run"),
            cgroups: hierarchies.iter().map(hierarchy).collect(),
            own_pids: Vec::new(),
        };
        fs::create_dir_all(&host.proc).unwrap();
        Self { root, host }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.root.path()).unwrap().join(path)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes a symbolic link, with the directories above it. An absolute target means one in the tree.
    pub fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub fn directory(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).unwrap();
    }

    /// Puts a process into the tree: in the root cgroup, with neither executable nor arguments that
    /// could be read, until said otherwise.
    pub fn process(&self, pid: u32, parent: u32, comm: &str) -> Process {
        let process = Process {
            directory: self.path(&format!("proc/{pid}")),
            pid,
            parent,
            comm: comm.to_owned(),
            state: 'S',
            session: 0,
            terminal: 0,
            flags: 0x0040_0000,
            threads: 1,
            start: u64::from(pid) * 10,
        };
        fs::create_dir_all(&process.directory).unwrap();
        fs::write(
            process.directory.join("status"),
            format!("Name:\t{comm}\nTgid:\t{pid}\n"),
        )
        .unwrap();
        process.write().cgroup("0::/")
    }

    pub fn exit(&self, pid: u32) {
        self.remove(&format!("proc/{pid}"));
    }
}

pub struct Process {
    directory: PathBuf,
    pid: u32,
    parent: u32,
    comm: String,
    state: char,
    session: u32,
    terminal: i32,
    flags: u64,
    threads: u32,
    start: u64,
}

impl Process {
    fn write(self) -> Self {
        let Self {
            pid,
            parent,
            comm,
            state,
            session,
            terminal,
            flags,
            threads,
            start,
            ..
        } = &self;
        let text = format!(
            "{pid} ({comm}) {state} {parent} {pid} {session} {terminal} -1 {flags} 0 0 0 0 0 0 0 0 \
             20 0 {threads} 0 {start} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        fs::write(self.directory.join("stat"), text).unwrap();
        self
    }

    pub fn cgroup(self, lines: &str) -> Self {
        fs::write(self.directory.join("cgroup"), format!("{lines}\n")).unwrap();
        self
    }

    pub fn exe(self, target: &str) -> Self {
        symlink(target, self.directory.join("exe")).unwrap();
        self
    }

    pub fn args(self, arguments: &[&str]) -> Self {
        fs::write(self.directory.join("cmdline"), arguments.join("\0") + "\0").unwrap();
        self
    }

    pub fn start(mut self, ticks: u64) -> Self {
        self.start = ticks;
        self.write()
    }

    pub fn zombie(mut self, threads: u32) -> Self {
        self.state = 'Z';
        self.threads = threads;
        self.write()
    }

    pub fn kernel_thread(mut self) -> Self {
        self.flags |= 0x0020_0000;
        self.write()
    }

    /// A session leader, with a terminal or without.
    pub fn session_leader(mut self, terminal: i32) -> Self {
        self.session = self.pid;
        self.terminal = terminal;
        self.write()
    }
}
