//! What is in a guest: Debian's packages in one archive that is kept, and our own files and programs in a
//! second that is made anew for each run. The kernel unpacks both into memory, one over the other.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cpio::newc;

use crate::packages;

/// The packages that a guest consists of, with all that they need.
pub const PACKAGES: [&str; 16] = [
    "systemd",
    "dbus",
    // A user's own systemd.
    "libpam-systemd",
    "dbus-user-session",
    // For the tests' shell lines.
    "bash",
    "coreutils",
    "dash",
    "grep",
    "mount",
    "procps",
    "sed",
    "util-linux",
    // Otherwise its rival comes, with all of Perl.
    "usr-is-merged",
    // An allocator and the runtimes that behave unlike the C library. With them a start takes 4.9 s, without
    // 3.9 s; they are not worth an archive of their own.
    "libjemalloc2",
    "openjdk-17-jre-headless",
    "nodejs",
];

/// What is in those packages and is never looked at. It costs time and memory at every boot.
pub const LEFT_OUT: [&str; 13] = [
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/fonts",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/zsh",
    "usr/lib/udev",
    // Run each time that unit files are read anew, a dozen programs; there is nothing for them to find here.
    "usr/lib/systemd/system-generators",
    "usr/lib/x86_64-linux-gnu/gconv",
];

// Whoever asks may. A session is registered with systemd, as on a real host.
const PAM_AUTH: &str = "auth required pam_permit.so\n";
const PAM_ACCOUNT: &str = "account required pam_permit.so\n";
const PAM_PASSWORD: &str = "password required pam_permit.so\n";
const PAM_SESSION: &str = "session required pam_permit.so\nsession optional pam_systemd.so\n";

const PASSWD: &str = "\
root:*:0:0::/root:/bin/bash
messagebus:*:100:100::/nonexistent:/usr/sbin/nologin
tester:*:1000:1000::/home/tester:/bin/bash
nobody:*:65534:65534::/nonexistent:/usr/sbin/nologin
";

const GROUP: &str = "\
root:x:0:
tty:x:5:
utmp:x:43:
systemd-journal:x:99:
messagebus:x:100:
tester:x:1000:
nogroup:x:65534:
";

const SWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n";

/// With one, systemd does not take this for the first boot, at which it would set things up.
const MACHINE_ID: &str = "5105b112000000000000000000000001\n";

const SERVICE: &str = include_str!("guest/truth.service");
const SCRIPT: &str = include_str!("guest/run-truth.sh");

/// Text files of ours: path, mode, content. They are what the packages' scripts would have made.
const FILES: [(&str, u32, &str); 13] = [
    ("etc/passwd", 0o644, PASSWD),
    ("etc/group", 0o644, GROUP),
    ("etc/nsswitch.conf", 0o644, SWITCH),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
    ("etc/hostname", 0o644, "guest\n"),
    ("etc/machine-id", 0o444, MACHINE_ID),
    ("etc/pam.d/common-auth", 0o644, PAM_AUTH),
    ("etc/pam.d/common-account", 0o644, PAM_ACCOUNT),
    ("etc/pam.d/common-password", 0o644, PAM_PASSWORD),
    ("etc/pam.d/common-session", 0o644, PAM_SESSION),
    (
        "etc/pam.d/common-session-noninteractive",
        0o644,
        PAM_SESSION,
    ),
    ("etc/systemd/system/truth.service", 0o644, SERVICE),
    ("usr/local/bin/run-truth", 0o755, SCRIPT),
];

const LINKS: [(&str, &str); 10] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("var/run", "/run"),
    ("init", "usr/lib/systemd/systemd"),
    (
        "etc/systemd/system/default.target",
        "/usr/lib/systemd/system/multi-user.target",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/truth.service",
        "../truth.service",
    ),
    // There is nobody to log in, and on a serial port it would wait for udev.
    ("etc/systemd/system/getty.target", "/dev/null"),
    ("usr/bin/java", "../lib/jvm/java-17-openjdk-amd64/bin/java"),
];

const DIRECTORIES: [(&str, u32); 10] = [
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("root", 0o700),
    ("home/tester", 0o755),
    ("mnt", 0o755),
    ("payload", 0o755),
];

/// The user that is no system user.
const TESTER: (&str, u32) = ("home/tester", 1000);

enum Node {
    Directory(u32),
    Link(String),
    /// Mode and where it is on this machine.
    Copy(u32, PathBuf),
    Text(u32, &'static str),
}

/// Files by path. The order of the keys puts a directory before what it holds, as the kernel needs it.
#[derive(Default)]
struct Tree(BTreeMap<String, Node>);

/// Writes the archive of all packages in a directory, which are unpacked beside them for the time being.
pub fn archive_packages(debs: &Path, archive: &Path) -> Result<()> {
    let unpacked = debs.join("unpacked");
    packages::unpack(debs, &unpacked)?;
    let mut tree = Tree::default();
    tree.collect(&unpacked, "")?;
    File::create(archive)
        .and_then(|mut file| tree.write(&mut file))
        .with_context(|| format!("cannot write {}", archive.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// Writes the archive of our own files and of these programs.
pub fn archive_payload(programs: &[(String, PathBuf)], out: &mut impl Write) -> io::Result<()> {
    let mut tree = Tree::default();
    for (path, mode) in DIRECTORIES {
        tree.add(path, Node::Directory(mode));
    }
    for (path, target) in LINKS {
        tree.add(path, Node::Link(target.into()));
    }
    for (path, mode, text) in FILES {
        tree.add(path, Node::Text(mode, text));
    }
    for (name, source) in programs {
        tree.add(
            &format!("payload/{name}"),
            Node::Copy(0o755, source.clone()),
        );
    }
    tree.write(out)
}

impl Tree {
    /// Adds a node and the directories above it.
    fn add(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            self.0
                .entry(path[..end].into())
                .or_insert(Node::Directory(0o755));
        }
        self.0.insert(path.into(), node);
    }

    /// Adds what a directory holds, except what is left out.
    fn collect(&mut self, directory: &Path, inside: &str) -> Result<()> {
        for source in packages::files_in(directory)? {
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let path = merged(&format!("{inside}{name}"));
            if LEFT_OUT.contains(&path.as_str()) {
                continue;
            }
            let node = Node::of(&source)
                .with_context(|| format!("cannot look at {}", source.display()))?;
            let is_directory = matches!(node, Node::Directory(_));
            self.add(&path, node);
            if is_directory {
                self.collect(&source, &format!("{path}/"))?;
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        for (number, (path, node)) in self.0.iter().enumerate() {
            node.write(path, number as u32 + 1, &mut out)?;
        }
        newc::trailer(&mut out)?.flush()
    }
}

impl Node {
    fn of(source: &Path) -> io::Result<Self> {
        let meta = source.symlink_metadata()?;
        let mode = meta.permissions().mode() & 0o7777;
        Ok(if meta.is_dir() {
            Self::Directory(mode)
        } else if meta.is_symlink() {
            Self::Link(fs::read_link(source)?.to_string_lossy().into_owned())
        } else {
            Self::Copy(mode, source.to_owned())
        })
    }

    fn write(&self, path: &str, number: u32, out: &mut impl Write) -> io::Result<()> {
        let owner = if path == TESTER.0 { TESTER.1 } else { 0 };
        let entry = |mode| {
            newc::Builder::new(path)
                .ino(number)
                .uid(owner)
                .gid(owner)
                .mode(mode)
        };
        match self {
            Self::Directory(mode) => finish(entry(0o040_000 | mode), b"", out),
            Self::Link(target) => finish(entry(0o120_777), target.as_bytes(), out),
            Self::Text(mode, text) => finish(entry(0o100_000 | mode), text.as_bytes(), out),
            Self::Copy(mode, source) => finish(entry(0o100_000 | mode), &fs::read(source)?, out),
        }
    }
}

fn finish(entry: newc::Builder, content: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut writer = entry.write(out, content.len() as u32);
    writer.write_all(content)?;
    writer.finish().map(drop)
}

/// Where a path of a package goes: a few packages still hold `/lib` and its like, which are links in a guest.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if ["bin", "sbin", "lib", "lib64"].contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_they_hold() {
        let mut tree = Tree::default();
        tree.add("usr/lib/a", Node::Text(0o644, "text"));
        tree.add("usr/lib-b", Node::Link("lib".into()));
        let paths: Vec<_> = tree.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["usr", "usr/lib", "usr/lib-b", "usr/lib/a"]);
    }

    #[test]
    fn old_directories_are_merged() {
        assert_eq!(merged("lib/systemd/systemd"), "usr/lib/systemd/systemd");
        assert_eq!(merged("lib64"), "usr/lib64");
        assert_eq!(merged("usr/lib/a"), "usr/lib/a");
        assert_eq!(merged("library"), "library");
    }

    #[test]
    fn archive_can_be_read_again() {
        let mut archive = Vec::new();
        Node::Text(0o755, "hello")
            .write("a", 1, &mut archive)
            .unwrap();
        let mut reader = newc::Reader::new(archive.as_slice()).unwrap();
        let mut content = String::new();
        io::Read::read_to_string(&mut reader, &mut content).unwrap();
        assert_eq!(
            (reader.entry().name(), reader.entry().mode(), &*content),
            ("a", 0o100_755, "hello")
        );
    }
}
