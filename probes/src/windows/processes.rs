//! The process list of the host.

use std::io;

use windows::Win32::{
    Foundation::{CloseHandle, HANDLE},
    System::Diagnostics::ToolHelp::{
        CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW,
        TH32CS_SNAPPROCESS,
    },
};

/// A process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningProcess {
    /// Its id.
    pub pid: u32,
    /// Id of who created it, which may be gone.
    pub parent: u32,
    /// Its threads.
    pub threads: u32,
    /// Name of its program.
    pub image: String,
}

/// All processes of the host, in the order of their ids.
///
/// # Errors
/// If the system does not say.
pub fn processes() -> io::Result<Vec<RunningProcess>> {
    // SAFETY: takes no pointer.
    let list = Snapshot(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) }?);
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..PROCESSENTRY32W::default()
    };
    let mut all = Vec::new();
    // SAFETY: the entry has the size that it says, and lives until the call returns.
    let mut found = unsafe { Process32FirstW(list.0, &raw mut entry) }.is_ok();
    while found {
        all.push(running(&entry));
        // SAFETY: as above.
        found = unsafe { Process32NextW(list.0, &raw mut entry) }.is_ok();
    }
    all.sort_unstable_by_key(|process| process.pid);
    Ok(all)
}

fn running(entry: &PROCESSENTRY32W) -> RunningProcess {
    let length = entry.szExeFile.iter().position(|unit| *unit == 0);
    let image = &entry.szExeFile[..length.unwrap_or(entry.szExeFile.len())];
    RunningProcess {
        pid: entry.th32ProcessID,
        parent: entry.th32ParentProcessID,
        threads: entry.cntThreads,
        image: String::from_utf16_lossy(image),
    }
}

struct Snapshot(HANDLE);

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and is not used after this.
        let _ = unsafe { CloseHandle(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_in_the_list() {
        let all = processes().expect("the list can be read");
        let own = all.iter().find(|process| process.pid == std::process::id());
        let own = own.expect("we run");
        assert!(own.threads >= 1);
        assert!(own.image.contains(".exe"), "{}", own.image);
        assert!(all.is_sorted_by_key(|process| process.pid));
    }
}
