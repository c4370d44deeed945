//! Whose rights we have.

use windows::Win32::{
    Foundation::{BOOL, CloseHandle, HANDLE, PSID},
    Security::{
        CheckTokenMembership, CreateWellKnownSid, GetTokenInformation, TOKEN_ELEVATION,
        TOKEN_QUERY, TokenElevation, WELL_KNOWN_SID_TYPE, WinBuiltinAdministratorsSid,
        WinBuiltinPerfLoggingUsersSid, WinLocalSystemSid,
    },
    System::Threading::{GetCurrentProcess, OpenProcessToken},
};

/// Longest identifier of a user or group, in bytes.
const LONGEST: usize = 68;

/// What we may.
#[expect(clippy::struct_excessive_bools, reason = "each stands alone")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// We run with all that an administrator may.
    pub elevated: bool,
    /// We are a service of the system's own account.
    pub system: bool,
    /// We are among the administrators, and use it.
    pub administrator: bool,
    /// We are among those who may control sessions, though not those of the kernel.
    pub performance_log_user: bool,
}

/// Ours.
pub fn rights() -> Rights {
    Rights {
        elevated: is_elevated().unwrap_or(false),
        system: is_member(WinLocalSystemSid).unwrap_or(false),
        administrator: is_member(WinBuiltinAdministratorsSid).unwrap_or(false),
        performance_log_user: is_member(WinBuiltinPerfLoggingUsersSid).unwrap_or(false),
    }
}

fn is_elevated() -> windows::core::Result<bool> {
    let mut token = HANDLE::default();
    // SAFETY: the handle of the process is a constant, and the token's is written to before it is used.
    unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) }?;
    let mut elevation = TOKEN_ELEVATION::default();
    let mut returned = 0;
    // SAFETY: the structure has the size that is passed, and lives until the call returns.
    let told = unsafe {
        GetTokenInformation(
            token,
            TokenElevation,
            Some((&raw mut elevation).cast()),
            size_of::<TOKEN_ELEVATION>() as u32,
            &raw mut returned,
        )
    };
    // SAFETY: the handle is ours, and is not used after this.
    unsafe { CloseHandle(token) }?;
    told.map(|()| elevation.TokenIsElevated != 0)
}

fn is_member(group: WELL_KNOWN_SID_TYPE) -> windows::core::Result<bool> {
    // Aligned for what it holds.
    let mut sid = [0_u32; LONGEST / 4];
    let mut length = size_of_val(&sid) as u32;
    let sid = PSID(sid.as_mut_ptr().cast());
    let mut member = BOOL::default();
    // SAFETY: the buffer has the length that is passed, and lives until both calls have returned.
    unsafe {
        CreateWellKnownSid(group, PSID::default(), sid, &raw mut length)?;
        CheckTokenMembership(HANDLE::default(), sid, &raw mut member)?;
    }
    Ok(member.as_bool())
}
