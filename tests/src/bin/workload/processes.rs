//! Workloads that start processes.

use std::{
    env,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    process::{Pid, WaitOptions, waitpid},
    thread::gettid,
};
use serde_json::{Value, json};

/// Children that end at once, one after the other.
pub fn forks(count: u64, exec: bool) -> anyhow::Result<()> {
    crate::ready()?;
    for _ in 0..count {
        if exec {
            anyhow::ensure!(
                Command::new("/bin/true").status()?.success(),
                "/bin/true failed"
            );
        } else {
            fork_once()?;
        }
    }
    crate::done(&json!({ "forks": count }))?;
    Ok(())
}

fn fork_once() -> anyhow::Result<()> {
    // SAFETY: there is only one thread, and the child does nothing but end.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    let pid = Pid::from_raw(pid).ok_or_else(io::Error::last_os_error)?;
    waitpid(Some(pid), WaitOptions::empty())?;
    Ok(())
}

/// A child that has a child, and so on. Each lives as long as its parent.
pub fn family(depth: u64, early: bool) -> anyhow::Result<()> {
    let mut descendants = if early { Some(descend(depth)?) } else { None };
    crate::ready()?;
    if descendants.is_none() {
        descendants = Some(descend(depth)?);
    }
    let (child, pids) = descendants.unwrap_or_default();
    crate::done(&json!({ "pids": pids }))?;
    if let Some(mut child) = child {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

/// Starts a child with descendants of its own. Returns their pids, the child's first.
fn descend(depth: u64) -> anyhow::Result<(Option<Child>, Vec<u64>)> {
    if depth == 0 {
        return Ok((None, Vec::new()));
    }
    let mut child = Command::new(env::current_exe()?)
        .args(["family", "--early", "--depth", &(depth - 1).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pids = vec![u64::from(child.id())];
    if let (Some(stdin), Some(stdout)) = (&mut child.stdin, child.stdout.take()) {
        let mut lines = BufReader::new(stdout).lines();
        lines.next().transpose()?;
        io::Write::write_all(stdin, b"go\n")?;
        let facts: Value = serde_json::from_str(&lines.next().transpose()?.unwrap_or_default())?;
        pids.extend(
            facts["pids"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64),
        );
    }
    Ok((Some(child), pids))
}

/// A thread that is not the first one executes this program anew: it takes over the first one's id.
pub fn exec_thread(executed: bool, pause: bool) -> anyhow::Result<()> {
    if executed {
        crate::done(&json!({ "executed": true, "pid": std::process::id() }))?;
        return Ok(());
    }
    crate::ready()?;
    let program = env::current_exe()?;
    let thread = thread::spawn(move || {
        let tid = gettid().as_raw_nonzero().get();
        if let Err(error) = crate::say(&json!({ "tid": tid, "pid": std::process::id() })) {
            return error;
        }
        if pause && let Err(error) = crate::next_word() {
            return error;
        }
        Command::new(program)
            .args(["exec-thread", "--executed"])
            .exec()
    });
    match thread.join() {
        Ok(error) => Err(error.into()),
        Err(_) => anyhow::bail!("the thread panicked"),
    }
}
