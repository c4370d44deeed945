//! The stamp beside the committed object: which sources it was made of, by what, and its own digest.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// What the object is made of, relative to the root of the repository. A directory counts with all in it.
const SOURCES: [&str; 5] = [
    "common/Cargo.toml",
    "common/src",
    "probes/ebpf/Cargo.lock",
    "probes/ebpf/Cargo.toml",
    "probes/ebpf/src",
];

/// The content of a stamp.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Digest over the sources.
    pub digest: String,
    /// Digest of the object itself.
    pub sha256: String,
    /// Version of the compiler that made it.
    pub rustc: String,
    /// Version of the bpf-linker that linked it.
    pub linker: String,
}

impl Stamp {
    /// Reads a stamp.
    pub fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim().to_owned())
                .with_context(|| format!("the stamp has no line `{name} ...`"))
        };
        Ok(Self {
            digest: field("digest")?,
            sha256: field("sha256")?,
            rustc: field("rustc")?,
            linker: field("bpf-linker")?,
        })
    }

    /// Writes it as text, in the form that [`Stamp::parse`] reads.
    pub fn to_text(&self) -> String {
        let Self {
            digest,
            sha256,
            rustc,
            linker,
        } = self;
        format!("digest {digest}\nsha256 {sha256}\nrustc {rustc}\nbpf-linker {linker}\n")
    }
}

/// Digest over the sources of the object as they are now.
pub fn digest_of_sources(root: &Path) -> Result<String> {
    let mut paths = Vec::new();
    for source in SOURCES {
        collect(root, Path::new(source), &mut paths)
            .with_context(|| format!("cannot list {}", root.join(source).display()))?;
    }
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(&path);
        let content = fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
        let Some(name) = path.to_str() else {
            bail!("{} has a name that is not UTF-8", full.display());
        };
        files.push((name.to_owned(), content));
    }
    Ok(digest_of(files))
}

/// Digest of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn collect(root: &Path, path: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let full = root.join(path);
    if !full.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(full)? {
        let name = entry?.file_name();
        // What editors leave behind is no source.
        if !name.to_string_lossy().starts_with('.') {
            collect(root, &path.join(name), found)?;
        }
    }
    Ok(())
}

/// The order in which a directory lists its files must not matter, and neither name nor content may run
/// into the next one.
fn digest_of(mut files: Vec<(String, Vec<u8>)>) -> String {
    files.sort();
    let mut hasher = Sha256::new();
    for (name, content) in &files {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        list.iter()
            .map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn order_of_files_does_not_matter() {
        let one = digest_of(files(&[("a", "1"), ("b", "2")]));
        let other = digest_of(files(&[("b", "2"), ("a", "1")]));
        assert_eq!(one, other);
    }

    #[test]
    fn every_change_shows() {
        let base = digest_of(files(&[("a", "1"), ("b", "2")]));
        for changed in [
            files(&[("a", "1"), ("b", "3")]),
            files(&[("a", "1"), ("c", "2")]),
            files(&[("a", "1")]),
            files(&[("a", "1"), ("b", "2"), ("c", "")]),
            files(&[("a", "2"), ("b", "1")]),
            files(&[("a", "1b"), ("", "2")]),
        ] {
            assert_ne!(base, digest_of(changed));
        }
    }

    #[test]
    fn finds_the_sources_of_this_repository() {
        let root = crate::command::root();
        let mut paths = Vec::new();
        for source in SOURCES {
            collect(root, Path::new(source), &mut paths).unwrap();
        }
        assert!(paths.contains(&PathBuf::from("probes/ebpf/src/main.rs")));
        assert!(paths.contains(&PathBuf::from("common/src/lib.rs")));
        assert!(
            !paths
                .iter()
                .any(|path| path.starts_with("probes/ebpf/prebuilt"))
        );
    }

    #[test]
    fn stamp_survives_writing_and_reading() {
        let stamp = Stamp {
            digest: "d1".into(),
            sha256: "5a".into(),
            rustc: "1.95.0 (59807616e 2026-04-14)".into(),
            linker: "0.10.2".into(),
        };
        assert_eq!(Stamp::parse(&stamp.to_text()).unwrap(), stamp);
    }

    #[test]
    fn incomplete_stamp_is_an_error() {
        let error = Stamp::parse("digest 00\n").unwrap_err();
        assert!(error.to_string().contains("sha256"), "{error}");
        assert!(Stamp::parse("").is_err());
    }
}
