//! What the host is, and whether a session can be had on it.

use serde::Serialize;
use windows::{
    Wdk::System::SystemServices::RtlGetVersion,
    Win32::System::SystemInformation::{
        GetNativeSystemInfo, OSVERSIONINFOW, PROCESSOR_ARCHITECTURE_AMD64,
        PROCESSOR_ARCHITECTURE_ARM64, SYSTEM_INFO,
    },
};

use super::{
    control::{SessionInUse, sessions},
    rights::rights,
    session::SESSION,
};

/// Build of Windows 8, the first one with more than one session for the kernel.
const WINDOWS_8: u32 = 9_200;

/// Sessions that may record what the kernel does.
const MOST_OF_KERNEL: usize = 8;

/// Something that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Is it as it should be?
    pub ok: bool,
    /// Can nothing be done without?
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Which Windows this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Version.
    pub major: u32,
    /// Second part of it.
    pub minor: u32,
    /// Build.
    pub build: u32,
    /// Architecture of the machine.
    pub arch: &'static str,
}

/// Asks the system, which tells programs without a manifest the truth here only.
pub fn windows() -> Windows {
    let mut version = OSVERSIONINFOW {
        dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32,
        ..OSVERSIONINFOW::default()
    };
    // SAFETY: the structure has the size that it says, and lives until the call returns. It cannot fail.
    let _ = unsafe { RtlGetVersion(&raw mut version) };
    let mut system = SYSTEM_INFO::default();
    // SAFETY: the structure lives until the call returns.
    unsafe { GetNativeSystemInfo(&raw mut system) };
    // SAFETY: both fields of the union are plain numbers.
    let arch = match unsafe { system.Anonymous.Anonymous.wProcessorArchitecture } {
        PROCESSOR_ARCHITECTURE_AMD64 => "x86_64",
        PROCESSOR_ARCHITECTURE_ARM64 => "aarch64",
        _ => "x86",
    };
    Windows {
        major: version.dwMajorVersion,
        minor: version.dwMinorVersion,
        build: version.dwBuildNumber,
        arch,
    }
}

/// Looks at the host.
pub fn support() -> Vec<Check> {
    let mut checks = vec![build(), elevation(), groups()];
    match sessions() {
        Ok(sessions) => checks.extend([slots(&sessions), leftover(&sessions)]),
        Err(error) => checks.push(Check {
            name: "sessions",
            ok: false,
            required: false,
            found: error.to_string(),
            advice: None,
        }),
    }
    checks
}

fn build() -> Check {
    let windows = windows();
    let ok = windows.build >= WINDOWS_8;
    Check {
        name: "Windows",
        ok,
        required: true,
        found: format!(
            "{}.{}, build {}, {}",
            windows.major, windows.minor, windows.build, windows.arch
        ),
        advice: (!ok).then(|| {
            "slowburn needs Windows 8 or Server 2012; recordings of older ones can be replayed"
                .into()
        }),
    }
}

fn elevation() -> Check {
    let rights = rights();
    let ok = rights.elevated || rights.system;
    Check {
        name: "elevation",
        ok,
        required: true,
        found: if rights.system {
            "runs as the system itself"
        } else if ok {
            "runs with all rights of an administrator"
        } else {
            "runs without the rights of an administrator"
        }
        .into(),
        advice: (!ok).then(|| {
            "start it from an elevated prompt (\"Run as administrator\"), or as a service: `slowburn service install`".into()
        }),
    }
}

fn groups() -> Check {
    let rights = rights();
    let of = |is_member: bool| if is_member { "yes" } else { "no" };
    Check {
        name: "groups",
        ok: rights.administrator,
        required: false,
        found: format!(
            "Administrators: {}, Performance Log Users: {}",
            of(rights.administrator),
            of(rights.performance_log_user)
        ),
        advice: (!rights.administrator && rights.performance_log_user).then(|| {
            "Performance Log Users may control sessions, but not those of the kernel".into()
        }),
    }
}

fn slots(sessions: &[SessionInUse]) -> Check {
    let of_kernel: Vec<&str> = sessions
        .iter()
        .filter(|session| session.of_kernel)
        .map(|session| session.name.as_str())
        .collect();
    let ok = of_kernel.len() < MOST_OF_KERNEL;
    Check {
        name: "sessions",
        ok,
        required: false,
        found: format!(
            "{} in use, of which {} of the kernel{}",
            sessions.len(),
            of_kernel.len(),
            if of_kernel.is_empty() {
                String::new()
            } else {
                format!(" ({})", of_kernel.join(", "))
            }
        ),
        advice: (!ok).then(|| {
            format!(
                "there may be {MOST_OF_KERNEL} of the kernel: end one of them with `logman stop NAME -ets`"
            )
        }),
    }
}

fn leftover(sessions: &[SessionInUse]) -> Check {
    let ours = sessions.iter().find(|session| session.name == SESSION);
    Check {
        name: "own session",
        ok: true,
        required: false,
        found: ours.map_or_else(
            || "none".into(),
            |session| {
                format!(
                    "there is one, with {} KiB of buffers; {} events lost",
                    session.buffers_kib, session.events_lost
                )
            },
        ),
        advice: ours.map(|_| {
            "another slowburn runs, or was ended without warning; the next `slowburn run` ends what is left of it".into()
        }),
    }
}
