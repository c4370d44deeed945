//! Whose the threads of a shared process are: each has a mark, and a call of the system tells the service of a mark.
//!
//! The call is not documented. Where there is none, or it fails, services of shared processes cannot be told apart.

use std::ffi::c_void;

use windows::{
    Win32::{
        Foundation::{HLOCAL, LocalFree},
        System::LibraryLoader::{GetModuleHandleW, GetProcAddress},
    },
    core::{PCWSTR, PWSTR, s, w},
};

/// What is asked, and the answer.
#[repr(C)]
struct Query {
    pid: u32,
    tag: u32,
    /// What the tag is of: 1, a service of a process of its own or of a shared one.
    kind: u32,
    name: PWSTR,
}

type QueryTag = unsafe extern "system" fn(PCWSTR, u32, *mut c_void) -> u32;

/// The name of the service that threads with this mark work for.
pub fn service_of(pid: u32, tag: u32) -> Option<String> {
    const SERVICE_NAME: u32 = 1;
    // SAFETY: both names are constants that end with a zero; the library stays loaded, since we are linked with it.
    let call = unsafe {
        GetProcAddress(
            GetModuleHandleW(w!("advapi32.dll")).ok()?,
            s!("I_QueryTagInformation"),
        )
    }?;
    // SAFETY: this is the call's type, as those who use it know it.
    let call =
        unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, QueryTag>(call) };
    let mut query = Query {
        pid,
        tag,
        kind: 0,
        name: PWSTR::null(),
    };
    // SAFETY: the structure lives until the call returns.
    let code = unsafe { call(PCWSTR::null(), SERVICE_NAME, (&raw mut query).cast()) };
    if code != 0 || query.name.is_null() {
        return None;
    }
    // SAFETY: the system has answered with a name that ends with a zero.
    let name = String::from_utf16_lossy(unsafe { query.name.as_wide() });
    // SAFETY: the name was allocated for us, and is not used after this.
    unsafe { LocalFree(HLOCAL(query.name.0.cast())) };
    Some(name)
}
