//! The directory of the service: its policy and its output, for administrators and the system only. The stream says what services do,
//! which is not everybody's business.

use std::{env, io, path::PathBuf, ptr};

use anyhow::Context;
use windows::{
    Win32::{
        Foundation::{ERROR_ALREADY_EXISTS, HLOCAL, LocalFree},
        Security::{
            Authorization::{
                ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
            },
            DACL_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
            SECURITY_ATTRIBUTES, SetFileSecurityW,
        },
        Storage::FileSystem::CreateDirectoryW,
    },
    core::{HSTRING, PCWSTR, w},
};

/// Everything for the system and administrators, also in what is made in it; nothing is inherited.
const ACCESS: PCWSTR = w!("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)");

/// The policy of a new service.
const POLICY: &str = "\
# The policy of slowburn: what to flag, and defaults for its options.
# `slowburn check-config` says whether it is right, and with --show what it comes to.
";

/// Where it is.
pub fn path() -> PathBuf {
    let data = env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
    PathBuf::from(data).join("slowburn")
}

/// Makes it, or makes sure that it is for administrators only, with a policy that says nothing yet.
pub fn make() -> anyhow::Result<PathBuf> {
    let path = path();
    protected(&path)
        .with_context(|| format!("cannot make {} for administrators only", path.display()))?;
    let policy = super::default_policy();
    if !policy.exists() {
        std::fs::write(&policy, POLICY)
            .with_context(|| format!("cannot write {}", policy.display()))?;
    }
    Ok(path)
}

fn protected(path: &std::path::Path) -> io::Result<()> {
    let mut descriptor = PSECURITY_DESCRIPTOR::default();
    // SAFETY: the text is a constant that ends with a zero; the descriptor is written to before it is used.
    unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            ACCESS,
            SDDL_REVISION_1,
            &raw mut descriptor,
            None,
        )?;
    }
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: false.into(),
    };
    let name = HSTRING::from(path);
    // SAFETY: the name ends with a zero; it, the attributes and the descriptor live until the calls return.
    let made = unsafe { CreateDirectoryW(&name, Some(ptr::from_ref(&attributes))) };
    let result = match made {
        Err(error) if error.code() == ERROR_ALREADY_EXISTS.to_hresult() => {
            // Somebody may have made it for everybody, before we came.
            let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
            // SAFETY: as above.
            unsafe { SetFileSecurityW(&name, what, descriptor) }.ok()
        }
        made => made,
    };
    // SAFETY: the descriptor was allocated for us, and is not used after this.
    unsafe { LocalFree(HLOCAL(descriptor.0)) };
    Ok(result?)
}
