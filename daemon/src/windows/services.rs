//! The services that run, and their processes.

use std::io;

use windows::{
    Win32::Security::SC_HANDLE,
    Win32::System::Services::{
        CloseServiceHandle, ENUM_SERVICE_STATUS_PROCESSW, EnumServicesStatusExW, OpenSCManagerW,
        SC_ENUM_PROCESS_INFO, SC_MANAGER_ENUMERATE_SERVICE, SERVICE_STATE_ALL, SERVICE_WIN32,
    },
    core::{PCWSTR, PWSTR},
};

/// Most memory for the list: a host with 1,000 services takes some 200 KB.
const MOST_BYTES: u32 = 16 << 20;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub display_name: String,
    /// Its process; 0 if it does not run.
    pub pid: u32,
}

impl ServiceRow {
    /// Is it called that?
    pub fn is_named(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.name.to_lowercase() == name || self.display_name.to_lowercase() == name
    }
}

/// All services of the host.
///
/// # Errors
/// If the service control manager does not say.
pub fn services() -> io::Result<Vec<ServiceRow>> {
    // SAFETY: no names are passed: those of this machine are meant.
    let manager =
        unsafe { OpenSCManagerW(PCWSTR::null(), PCWSTR::null(), SC_MANAGER_ENUMERATE_SERVICE) }?;
    let manager = Manager(manager);
    let mut needed = 64 << 10;
    loop {
        // Aligned for the structures in it.
        let mut buffer = vec![0_u64; needed as usize / 8 + 1];
        let mut count = 0;
        let size = buffer.len() * 8;
        // SAFETY: the bytes are those of the buffer, which lives on; zeroes are bytes, too.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), size) };
        // SAFETY: all pointers are to what lives until the call returns.
        let told = unsafe {
            EnumServicesStatusExW(
                manager.0,
                SC_ENUM_PROCESS_INFO,
                SERVICE_WIN32,
                SERVICE_STATE_ALL,
                Some(bytes),
                &raw mut needed,
                &raw mut count,
                None,
                PCWSTR::null(),
            )
        };
        match told {
            Ok(()) => {
                // SAFETY: the system has put so many structures at the beginning of the buffer, which is aligned for them, and
                // their names behind them.
                let rows = unsafe {
                    let rows = buffer.as_ptr().cast::<ENUM_SERVICE_STATUS_PROCESSW>();
                    std::slice::from_raw_parts(rows, count as usize)
                };
                return Ok(rows.iter().map(row).collect());
            }
            // More were made meanwhile, or the first guess was too small.
            Err(_) if needed > 0 && size + (needed as usize) < MOST_BYTES as usize => {
                needed += size as u32 + 4_096;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn row(row: &ENUM_SERVICE_STATUS_PROCESSW) -> ServiceRow {
    ServiceRow {
        name: text(row.lpServiceName),
        display_name: text(row.lpDisplayName),
        pid: row.ServiceStatusProcess.dwProcessId,
    }
}

fn text(name: PWSTR) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: a name in the buffer of the call above, which ends with a zero.
    String::from_utf16_lossy(unsafe { name.as_wide() })
}

struct Manager(SC_HANDLE);

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and is not used after this.
        let _ = unsafe { CloseServiceHandle(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_listed_with_their_names() {
        let all = services().expect("the service control manager answers");
        assert!(!all.is_empty());
        assert!(all.iter().all(|service| !service.name.is_empty()));
        let first = &all[0];
        assert!(first.is_named(&first.name.to_uppercase()));
        assert!(!first.is_named("no such service"));
    }
}
