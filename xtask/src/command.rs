//! Running other programs, and saying what failed when they do.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

/// The directory of the repository.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // What `cargo run` says now, before what was true at compile time: the repository may have moved
        // since, or share its target directory with another checkout.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        package
            .parent()
            .map_or_else(|| package.clone(), Path::to_owned)
    });
    &ROOT
}

/// Where cargo puts what it builds. Every cargo started here is told so by [`cargo`], so that a setting
/// in a configuration file of the user's cannot put it where we don't look.
pub fn target_dir() -> PathBuf {
    // Relative to the working directory, as for cargo itself.
    env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .and_then(|value| std::path::absolute(value).ok())
        .unwrap_or_else(|| root().join("target"))
}

/// A cargo for this workspace.
pub fn cargo() -> Command {
    // `CARGO` is the cargo that runs us, of the toolchain that the user chose.
    cargo_of(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The same, of another toolchain.
pub fn cargo_of(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target_dir());
    // What cargo says to the program it runs about that program is not meant for the next cargo.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let about_us = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        if about_us.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command with our own output, and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and returns the first line of its standard output.
pub fn first_line(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!(
            "`{}` failed ({status}): {}",
            line(command),
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Ends a program that is about to be started when we end, however we do.
pub fn end_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec this makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) }
}

/// Runs a command while showing each line of its standard output and handing it to `seen`. Returns whether
/// the command succeeded.
pub fn watch_stdout(command: &mut Command, mut seen: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        pass_on(stdout, &mut io::stdout(), &mut seen)?;
    }
    Ok(child.wait()?.success())
}

/// Like [`watch_stdout`], for standard error.
pub fn watch_stderr(command: &mut Command, mut seen: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    if let Some(stderr) = child.stderr.take() {
        pass_on(stderr, &mut io::stderr(), &mut seen)?;
    }
    Ok(child.wait()?.success())
}

fn pass_on(from: impl Read, to: &mut impl Write, seen: &mut impl FnMut(&str)) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    while from.read_until(b'\n', &mut bytes)? > 0 {
        to.write_all(&bytes)?;
        to.flush()?;
        seen(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
    Ok(())
}

/// The path of a program that a shell would find under this name.
pub fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| is_program(candidate))
}

/// Whether this is a file that somebody may execute.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether we are root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The command as one would type it, near enough for a message.
pub fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", line(command))
}
