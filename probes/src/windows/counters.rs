//! What the host counts of a process, and when it began.

use std::io;

use windows::Win32::{
    Foundation::{CloseHandle, FILETIME, HANDLE},
    System::{
        ProcessStatus::{
            GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS, PROCESS_MEMORY_COUNTERS_EX,
        },
        SystemInformation::{GetSystemTimePreciseAsFileTime, GlobalMemoryStatusEx, MEMORYSTATUSEX},
        Threading::{
            GetProcessHandleCount, GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
        },
    },
};

use crate::{
    etw::clock::unix_ns,
    event::{ProcessAccount, ProcessLimits},
};

/// A process that is asked.
pub(super) struct Asked(HANDLE);

impl Asked {
    /// Opens it, for nothing but questions.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, false, pid) }?;
        Ok(Self(handle))
    }

    /// When it began, in nanoseconds since the Unix epoch.
    pub fn created_ns(&self) -> Option<u64> {
        let [created, ..] = self.times()?;
        Some(unix_ns(created)).filter(|ns| *ns > 0)
    }

    /// Its counters as they stand. What the host does not say is absent.
    pub fn account(&self) -> ProcessAccount {
        let memory = self.memory();
        ProcessAccount {
            rss_bytes: memory.map(|memory| memory.WorkingSetSize as u64),
            // No process is without; who says so does not know.
            data_bytes: memory
                .map(|memory| memory.PrivateUsage as u64)
                .filter(|bytes| *bytes > 0),
            vm_bytes: virtual_bytes(self.0),
            fds: self.handles(),
            limits: ProcessLimits {
                host_memory_bytes: host_memory_bytes(),
                ..ProcessLimits::default()
            },
            ..ProcessAccount::default()
        }
    }

    /// CPU time that it has used, in nanoseconds.
    fn cpu_ns(&self) -> Option<u64> {
        let [_, _, kernel, user] = self.times()?;
        Some((kernel + user) * 100)
    }

    /// When it began and ended, and what it used in and outside the kernel, in units of 100 ns.
    fn times(&self) -> Option<[u64; 4]> {
        let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
        // SAFETY: four pointers to structures that live until the call returns.
        let told = unsafe {
            GetProcessTimes(
                self.0,
                &raw mut created,
                &raw mut exited,
                &raw mut kernel,
                &raw mut user,
            )
        };
        told.ok()?;
        Some([created, exited, kernel, user].map(number))
    }

    fn memory(&self) -> Option<PROCESS_MEMORY_COUNTERS_EX> {
        let mut counters = PROCESS_MEMORY_COUNTERS_EX::default();
        let size = size_of::<PROCESS_MEMORY_COUNTERS_EX>() as u32;
        // SAFETY: the longer structure begins with the shorter one, and has the size that is passed.
        let told = unsafe {
            GetProcessMemoryInfo(
                self.0,
                (&raw mut counters).cast::<PROCESS_MEMORY_COUNTERS>(),
                size,
            )
        };
        told.ok().map(|()| counters)
    }

    fn handles(&self) -> Option<u64> {
        let mut count = 0;
        // SAFETY: the pointer is to a number that lives until the call returns.
        let told = unsafe { GetProcessHandleCount(self.0, &raw mut count) };
        told.ok()
            .map(|()| u64::from(count))
            .filter(|count| *count > 0)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and is not used after this.
        let _ = unsafe { CloseHandle(self.0) };
    }
}

/// What `NtQueryInformationProcess` says of class 3, as far as it is the same on every Windows.
#[repr(C)]
#[derive(Default)]
struct VmCounters {
    peak_virtual_bytes: usize,
    virtual_bytes: usize,
    faults: u32,
    peak_working_set_bytes: usize,
    working_set_bytes: usize,
    pools: [usize; 4],
    pagefile_bytes: usize,
    peak_pagefile_bytes: usize,
}

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtQueryInformationProcess(
        process: HANDLE,
        class: i32,
        information: *mut VmCounters,
        length: u32,
        returned: *mut u32,
    ) -> i32;
}

/// Address space, which no documented call tells for another process.
fn virtual_bytes(process: HANDLE) -> Option<u64> {
    const VM_COUNTERS: i32 = 3;
    let mut counters = VmCounters::default();
    // SAFETY: the structure has the length that is passed, and lives until the call returns.
    let status = unsafe {
        NtQueryInformationProcess(
            process,
            VM_COUNTERS,
            &raw mut counters,
            size_of::<VmCounters>() as u32,
            std::ptr::null_mut(),
        )
    };
    (status >= 0).then_some(counters.virtual_bytes as u64)
}

/// What a process has used of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it began, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// What we have used.
pub fn own_usage() -> Usage {
    let Ok(own) = Asked::open(std::process::id()) else {
        return Usage::default();
    };
    Usage {
        cpu_ns: own.cpu_ns().unwrap_or(0),
        rss_bytes: own.memory().map(|memory| memory.WorkingSetSize as u64),
    }
}

/// Memory of the machine.
pub fn host_memory_bytes() -> Option<u64> {
    let mut status = MEMORYSTATUSEX {
        dwLength: size_of::<MEMORYSTATUSEX>() as u32,
        ..MEMORYSTATUSEX::default()
    };
    // SAFETY: the structure has the length that it says, and lives until the call returns.
    let told = unsafe { GlobalMemoryStatusEx(&raw mut status) };
    told.ok().map(|()| status.ullTotalPhys)
}

/// Nanoseconds since the Unix epoch, by the clock that events have.
pub fn now_ns() -> u64 {
    // SAFETY: takes no pointer.
    unix_ns(number(unsafe { GetSystemTimePreciseAsFileTime() }))
}

fn number(time: FILETIME) -> u64 {
    u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wine knows neither private bytes nor handles.
    fn skipped(account: &ProcessAccount) -> bool {
        let skipped = account.data_bytes.is_none() || account.fds.is_none();
        if skipped {
            println!(
                "SKIP: this system does not say how much memory a process has committed, or how many handles it has"
            );
        }
        skipped
    }

    #[test]
    fn our_own_counters() {
        let own = Asked::open(std::process::id()).expect("we may ask about ourselves");
        let account = own.account();
        let [rss, space] = [account.rss_bytes, account.vm_bytes].map(|bytes| bytes.expect("told"));
        assert!(rss > 100_000 && space > rss, "{account:?}");
        let created = own.created_ns().expect("it is told");
        let now = now_ns();
        let age = now.checked_sub(created);
        assert!(age < Some(600_000_000_000), "{created} {now}");
        assert!(own_usage().cpu_ns < 600_000_000_000);
    }

    #[test]
    fn what_is_committed_is_counted() {
        let own = Asked::open(std::process::id()).expect("we may ask about ourselves");
        let before = own.account();
        if skipped(&before) {
            return;
        }
        let held = vec![1_u8; 64 << 20];
        let after = own.account().data_bytes;
        let least = before.data_bytes.map(|bytes| bytes + (60 << 20));
        assert!(after >= least, "{before:?} {after:?} {}", held.len());
    }
}
