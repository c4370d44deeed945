//! Workloads that start processes.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    process::{Pid, WaitOptions, waitpid},
    thread::gettid,
};
use serde_json::{Value, json};

use crate::counted::Counted;

/// Children that end at once, one after the other. Those that execute nothing read what the kernel has counted
/// for them as the last thing they do.
pub fn forks(count: u64, exec: bool) -> anyhow::Result<()> {
    crate::ready()?;
    let mut total = Counted::default();
    for _ in 0..count {
        if exec {
            anyhow::ensure!(
                Command::new("/bin/true").status()?.success(),
                "/bin/true failed"
            );
        } else {
            total += child_counts(None)?;
        }
    }
    crate::done(
        &json!({ "forks": count, "run_count": total.run_count, "run_delay_ns": total.run_delay_ns }),
    )?;
    Ok(())
}

/// Children one after the other which all get the same process id.
pub fn reuse(count: u64) -> anyhow::Result<()> {
    crate::ready()?;
    // An id that is free: that of a child that has just ended.
    // SAFETY: there is only one thread, and the child does nothing but end.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    reap(pid)?;
    let mut total = Counted::default();
    for _ in 0..count {
        total += child_counts(Some(pid))?;
    }
    crate::done(
        &json!({ "pid": pid, "lives": count, "run_count": total.run_count, "run_delay_ns": total.run_delay_ns }),
    )?;
    Ok(())
}

/// Runs a child that reads, as the last thing it does, what the kernel has counted for it. The child can have an
/// id of our choice.
fn child_counts(id: Option<i32>) -> anyhow::Result<Counted> {
    // In shared memory: a pipe would wake the parent, and the child might wait once more.
    // SAFETY: a new mapping, wherever the kernel wants it.
    let shared = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size_of::<Counted>(),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )?
    };
    let place = shared.cast::<Counted>();
    let pid = match id {
        // SAFETY: there is only one thread, and the child makes system calls only before it ends.
        None => unsafe { libc::fork() },
        Some(id) => fork_as(id)?,
    };
    if pid == 0 {
        let code = match Counted::read(c"/proc/self/schedstat") {
            Ok(counted) => {
                // SAFETY: the mapping is as large as that, aligned, and the parent looks later.
                unsafe { place.write_volatile(counted) };
                0
            }
            Err(_) => 1,
        };
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let code = reap(pid)?;
    // SAFETY: zeroes or what the child wrote; the child has ended.
    let counted = unsafe { place.read_volatile() };
    // SAFETY: the mapping is ours and nothing refers to it.
    unsafe { munmap(shared, size_of::<Counted>())? };
    anyhow::ensure!(code == Some(0), "a child cannot read its schedstat");
    Ok(counted)
}

/// Forks a child with this process id, which has to be free. Somebody else may have it for a moment.
fn fork_as(id: i32) -> io::Result<i32> {
    for _ in 0..100 {
        let wish = [id];
        // SAFETY: all zeroes is a valid value of this structure of numbers.
        let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
        clone.exit_signal = libc::SIGCHLD as u64;
        clone.set_tid = wish.as_ptr() as u64;
        clone.set_tid_size = 1;
        // SAFETY: like fork, since no memory is shared; the structure and the id live until the call returns.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const clone,
                size_of::<libc::clone_args>(),
            )
        };
        if pid >= 0 {
            return Ok(pid as i32);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(io::Error::other("the process id is never free"))
}

/// Waits for a child: its exit code, if it exited.
fn reap(pid: i32) -> io::Result<Option<i32>> {
    let pid = Pid::from_raw(pid)
        .filter(|_| pid > 0)
        .ok_or_else(io::Error::last_os_error)?;
    let status = waitpid(Some(pid), WaitOptions::empty())?;
    Ok(status.and_then(|(_, status)| status.exit_status()))
}

/// Children that borrow our address space and our only thread until they end, and change the address space.
/// Every second time they execute /bin/true instead of ending.
pub fn vforks(count: u64) -> anyhow::Result<()> {
    const PAGES: usize = 3;
    const STACK: usize = 64 << 10;
    extern "C" fn borrow(execute: *mut libc::c_void) -> libc::c_int {
        let bytes = PAGES * rustix::param::page_size();
        // SAFETY: a new mapping, wherever the kernel wants it, to which nothing will refer.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return 1;
        }
        if !execute.is_null() {
            let arguments = [c"/bin/true".as_ptr(), std::ptr::null()];
            // SAFETY: the arguments end with a null pointer. Returns only if it fails.
            unsafe { libc::execv(arguments[0], arguments.as_ptr()) };
            return 1;
        }
        0
    }
    crate::ready()?;
    let mut stack = vec![0_u8; STACK];
    for n in 0..count {
        let execute = if n % 2 == 1 {
            std::ptr::without_provenance_mut(1)
        } else {
            std::ptr::null_mut()
        };
        // SAFETY: the stack is the child's until it ends, which is before this call returns.
        let pid = unsafe {
            libc::clone(
                borrow,
                stack.as_mut_ptr_range().end.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                execute,
            )
        };
        reap(pid)?;
    }
    let left = count * (PAGES * rustix::param::page_size()) as u64;
    crate::done(&json!({ "vforks": count, "left_bytes": left }))?;
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
        stdin.write_all(b"go\n")?;
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
