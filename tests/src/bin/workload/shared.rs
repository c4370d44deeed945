//! A workload that changes its address space by calls that are not counted, or are by another's name.

use std::{ffi::c_void, io, ptr};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous},
    param::page_size,
};
use serde_json::json;

/// Pages of the shared segment.
const PAGES: usize = 100;

/// How often it is attached.
const TIMES: usize = 5;

/// System V shared memory, attached and detached, and `pkey_mprotect` without a key.
pub fn calls(detach: bool) -> anyhow::Result<()> {
    let page = page_size();
    let segment = segment(PAGES * page)?;
    // SAFETY: a new mapping, wherever the kernel wants it.
    let private = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            PAGES * page,
            ProtFlags::empty(),
            MapFlags::PRIVATE,
        )?
    };
    crate::ready()?;
    let mut attached = [ptr::null_mut(); TIMES];
    for place in &mut attached {
        *place = attach(segment)?;
    }
    // The segment goes with the last process that uses it, however that ends.
    remove(segment)?;
    let kept = if detach { 0 } else { TIMES / 2 };
    for place in &attached[kept..] {
        detach_from(*place)?;
    }
    protect(private, 3 * page)?;
    // The last call is none that is counted.
    detach_from(ptr::null_mut()).expect_err("nothing is attached there");
    crate::done(&json!({ "attached": TIMES, "kept": kept, "protect": 1 }))?;
    Ok(())
}

fn checked(result: isize) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A new segment of shared memory.
fn segment(bytes: usize) -> io::Result<libc::c_int> {
    // SAFETY: makes a segment and changes no memory of ours.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, 0o600) };
    checked(id as isize).map(|()| id)
}

fn attach(segment: libc::c_int) -> io::Result<*mut c_void> {
    // SAFETY: a new mapping, wherever the kernel wants it.
    let place = unsafe { libc::shmat(segment, ptr::null(), 0) };
    checked(place.addr().cast_signed()).map(|()| place)
}

fn remove(segment: libc::c_int) -> io::Result<()> {
    // SAFETY: this command takes no buffer.
    checked(unsafe { libc::shmctl(segment, libc::IPC_RMID, ptr::null_mut()) } as isize)
}

fn detach_from(place: *mut c_void) -> io::Result<()> {
    // SAFETY: nothing refers to the mapping.
    checked(unsafe { libc::shmdt(place) } as isize)
}

/// Makes memory writable by the call that takes a key, without one.
fn protect(start: *mut c_void, bytes: usize) -> io::Result<()> {
    const NO_KEY: libc::c_int = -1;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the mapping is ours and nothing refers to it.
    let result = unsafe { libc::syscall(libc::SYS_pkey_mprotect, start, bytes, writable, NO_KEY) };
    checked(result as isize)
}
