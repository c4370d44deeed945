//! `slowburn check-config`: is a policy file right, and what does it come to? And how the other commands read it.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::{
    cli::CheckConfig,
    commands::platform,
    policy::{File, Policy},
    stream::PolicyInUse,
};

/// The largest file that is read: 128 services with all there is to set are some 200 KB.
const MOST_BYTES: u64 = 1 << 20;

/// Checks.
///
/// # Errors
/// If the file cannot be read or is not right.
pub fn run(options: &CheckConfig) -> anyhow::Result<()> {
    let Loaded { file, in_use } = read(&options.file)?;
    let mut out = io::stdout().lock();
    let written = if options.show {
        let text = toml::to_string(&file.effective()).context("cannot write the policy")?;
        out.write_all(text.as_bytes())
    } else {
        writeln!(
            out,
            "{} is right: {} with settings of their own, {} of what to ignore",
            options.file.display(),
            counted(in_use.services, "service", "services"),
            counted(in_use.ignoring, "rule", "rules"),
        )
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// A policy file that is right.
pub struct Loaded {
    /// What it says.
    pub file: File,
    /// What the stream says of it.
    pub in_use: PolicyInUse,
}

/// Reads the file that is named, or that of the host if there is one.
///
/// # Errors
/// If it cannot be read, or is not right.
pub fn named_or_default(path: Option<&Path>) -> anyhow::Result<Option<Loaded>> {
    let of_host = platform::default_policy();
    match path {
        Some(path) => read(path).map(Some),
        None if of_host.exists() => read(&of_host).map(Some),
        None => Ok(None),
    }
}

/// Reads a policy file.
///
/// # Errors
/// If it cannot be read, or is not right: then with line, column and key.
pub fn read(path: &Path) -> anyhow::Result<Loaded> {
    let name = path.display();
    let mut bytes = Vec::new();
    let file = fs::File::open(path);
    file.and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the policy {name}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("{name} is larger than {MOST_BYTES} bytes, which no policy is");
    }
    let text = str::from_utf8(&bytes).with_context(|| format!("{name} is not text"))?;
    let file = File::read(text).map_err(|fault| anyhow!("{name}:{fault}"))?;
    let sha256 = Sha256::digest(&bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    let in_use = PolicyInUse {
        sha256,
        services: file.service.len(),
        ignoring: Policy::of(&file).ignoring(),
    };
    Ok(Loaded { file, in_use })
}
