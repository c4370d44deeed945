//! What this host supports, found out by looking and trying.

use std::{fs, io, path::PathBuf};

use rustix::mount::{MountFlags, mount};

/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO`), an ABI of the kernel.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// One finding about the host.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Is it there?
    pub ok: bool,
    /// Can the main job run without it?
    pub required: bool,
    /// What was found.
    pub found: String,
    /// How to get it, where it is missing.
    pub advice: Option<String>,
}

/// All findings that need no program to be loaded.
#[derive(Clone, Debug)]
pub struct Support {
    /// In the order in which they matter.
    pub checks: Vec<Check>,
}

/// Looks at the host.
pub fn support() -> Support {
    Support {
        checks: vec![
            kernel(),
            privileges(),
            pid_namespace(),
            btf(),
            tracefs(),
            lockdown(),
            schedstat(),
        ],
    }
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let (release, machine) = (
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
    );
    let ok = machine == "x86_64";
    Check {
        name: "kernel",
        ok,
        required: true,
        found: format!("Linux {release} on {machine}"),
        advice: (!ok).then(|| "only x86_64 is supported so far".into()),
    }
}

fn privileges() -> Check {
    let root = rustix::process::geteuid().is_root();
    Check {
        name: "privileges",
        ok: root,
        required: false,
        found: if root { "root".into() } else { format!("user {}", rustix::process::geteuid().as_raw()) },
        advice: (!root).then(|| "run with sudo, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH".into()),
    }
}

/// Does this process see the host's process ids?
pub fn in_initial_pid_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Unreadable means that /proc is not what it seems; the programs' ids decide then.
    fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == INITIAL_PID_NAMESPACE)
}

fn pid_namespace() -> Check {
    let ok = in_initial_pid_namespace();
    Check {
        name: "pid namespace",
        ok,
        required: true,
        found: if ok { "the host's" } else { "one of its own" }.into(),
        advice: (!ok).then(|| "run on the host, or in a container with --pid=host".into()),
    }
}

fn btf() -> Check {
    let size = fs::metadata("/sys/kernel/btf/vmlinux").map(|m| m.len());
    Check {
        name: "kernel type information (BTF)",
        ok: size.is_ok(),
        required: true,
        found: match &size {
            Ok(bytes) => format!("/sys/kernel/btf/vmlinux, {} KiB", bytes / 1024),
            Err(e) => format!("/sys/kernel/btf/vmlinux: {e}"),
        },
        advice: size
            .is_err()
            .then(|| "use a kernel built with CONFIG_DEBUG_INFO_BTF=y".into()),
    }
}

fn tracefs() -> Check {
    let place = tracefs_mount();
    Check {
        name: "tracefs",
        ok: place.is_some(),
        required: false,
        found: place
            .as_ref()
            .map_or("not mounted".into(), |p| p.display().to_string()),
        advice: place.is_none().then(|| {
            "mounted at the first run as root, or: mount -t tracefs tracefs /sys/kernel/tracing"
                .into()
        }),
    }
}

fn lockdown() -> Check {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown")
        .ok()
        .and_then(|text| {
            let start = text.find('[')? + 1;
            let end = text[start..].find(']')? + start;
            Some(text[start..end].to_owned())
        });
    let strict = mode.as_deref() == Some("confidentiality");
    Check {
        name: "lockdown",
        ok: !strict,
        required: false,
        found: mode.unwrap_or_else(|| "not shown".into()),
        advice: strict
            .then(|| "confidentiality forbids some hooks; lockdown=integrity allows all".into()),
    }
}

fn schedstat() -> Check {
    let readable = fs::read_to_string("/proc/self/task/self/schedstat")
        .or_else(|_| fs::read_to_string("/proc/self/schedstat"))
        .is_ok_and(|text| text.split_whitespace().count() == 3);
    Check {
        name: "schedstat",
        ok: readable,
        required: false,
        found: if readable {
            "per-thread run-queue delay in /proc"
        } else {
            "not built in"
        }
        .into(),
        advice: (!readable).then(|| {
            "without CONFIG_SCHED_INFO the kernel's own delay cannot be shown beside ours".into()
        }),
    }
}

/// Where tracefs is mounted.
pub fn tracefs_mount() -> Option<PathBuf> {
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .map(PathBuf::from)
        .find(|place| place.join("events").is_dir())
}

/// Mounts tracefs where it belongs, if it is not mounted.
///
/// # Errors
/// If it cannot be mounted. Hooks that do without it still work.
pub fn ensure_tracefs() -> io::Result<()> {
    if tracefs_mount().is_some() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", "/sys/kernel/tracing", "tracefs", flags, None)?;
    tracing::info!("mounted tracefs at /sys/kernel/tracing");
    Ok(())
}

/// Compares the fields of a tracepoint's record with what a program was written for.
///
/// # Errors
/// Says which field differs, or that the tracepoint does not exist.
pub fn check_format(category: &str, name: &str, fields: &[(&str, u32)]) -> Result<(), String> {
    let root = tracefs_mount().ok_or("tracefs is not mounted")?;
    let path = root.join("events").join(category).join(name).join("format");
    let format = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    for (field, offset) in fields {
        match offset_in(&format, field) {
            Some(found) if found == *offset => {}
            Some(found) => return Err(format!("field {field} is at {found}, not at {offset}")),
            None => return Err(format!("no field {field}")),
        }
    }
    Ok(())
}

/// The offset of a field in a tracepoint's format file, in lines such as
/// `field:char comm[16]; offset:8; size:16; signed:0;` with tabs between.
fn offset_in(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';');
        let declaration = parts.next()?.strip_prefix("field:")?;
        let name = declaration.rsplit(' ').next()?.split('[').next()?;
        (name == field).then_some(())?;
        parts.next()?.trim().strip_prefix("offset:")?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: sched_wakeup\nID: 375\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;\n";

    #[test]
    fn finds_offsets_of_plain_and_array_fields() {
        assert_eq!(offset_in(FORMAT, "pid"), Some(24));
        assert_eq!(offset_in(FORMAT, "comm"), Some(8));
        assert_eq!(offset_in(FORMAT, "success"), None);
    }
}
