//! Compiles the kernel side and writes the object that is committed, so that nobody needs the BPF
//! toolchain who does not change the kernel side.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    ebpf_tools::{Compiler, Linker, TARGET, cargo_home, keep_out_settings, say},
    object_file,
    stamp::{self, Stamp},
};

const REMEDY: &str = "run `cargo xtask build-ebpf` and commit probes/ebpf/prebuilt";

/// Compile the kernel side into probes/ebpf/prebuilt
///
/// The object and a stamp with the digest of its sources are committed. What the build needs and does not
/// find is installed: the source of `core` by rustup or else a compiler by apt-get, and bpf-linker by cargo.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail if the committed object is not what its sources make
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.check { check() } else { build() }
}

/// Builds the object if the committed one is not up to date.
pub fn ensure() -> Result<()> {
    let Err(reason) = committed()? else {
        return Ok(());
    };
    say(&format!("{reason}; building it"));
    build().context("cannot build the kernel side")
}

/// Fails if the committed object is not what its sources make.
pub fn check() -> Result<()> {
    let stamp = match committed()? {
        Ok(stamp) => stamp,
        Err(reason) => bail!("{reason}; {REMEDY}"),
    };
    let (object, fresh) = make()?;
    if (&fresh.rustc, &fresh.linker) != (&stamp.rustc, &stamp.linker) {
        // Two compilers do not make the same bytes of the same source.
        say(&format!(
            "the sources build; the bytes cannot be compared, as the committed object was made by rustc {} with bpf-linker {}",
            stamp.rustc, stamp.linker
        ));
    } else if fresh.sha256 != stamp.sha256 {
        let kept = command::target_dir().join("slowburn.bpf.o");
        write(&kept, &object)?;
        bail!(
            "the committed object differs from what its sources make with the same tools ({}); {REMEDY}",
            kept.display()
        );
    } else {
        say("the committed object is what its sources make");
    }
    Ok(())
}

fn build() -> Result<()> {
    let (object, stamp) = make()?;
    // The stamp last: if this is interrupted, it does not match the object and the next run notices.
    write(&object_path(), &object)?;
    write(&stamp_path(), stamp.to_text().as_bytes())?;
    say(&format!(
        "wrote {} ({} bytes)",
        object_path().display(),
        object.len()
    ));
    Ok(())
}

fn object_path() -> PathBuf {
    command::root().join("probes/ebpf/prebuilt/slowburn.bpf.o")
}

fn stamp_path() -> PathBuf {
    command::root().join("probes/ebpf/prebuilt/slowburn.bpf.o.stamp")
}

/// The stamp of the committed object, or why it is not up to date.
fn committed() -> Result<Result<Stamp, &'static str>> {
    let (Some(object), Some(text)) = (read(&object_path())?, read(&stamp_path())?) else {
        return Ok(Err("there is no built kernel side"));
    };
    let Ok(stamp) = Stamp::parse(&String::from_utf8_lossy(&text)) else {
        return Ok(Err("the stamp of the built kernel side is damaged"));
    };
    if stamp.sha256 != stamp::sha256(&object) {
        return Ok(Err(
            "the built kernel side is not the one that its stamp describes",
        ));
    }
    if stamp.digest != stamp::digest_of_sources(command::root())? {
        return Ok(Err(
            "the kernel side's sources have changed since it was built",
        ));
    }
    Ok(Ok(stamp))
}

fn make() -> Result<(Vec<u8>, Stamp)> {
    let digest = stamp::digest_of_sources(command::root())?;
    let compiler = Compiler::find()?;
    let (output, linker) = compile_with_any_linker(&compiler)?;
    if digest != stamp::digest_of_sources(command::root())? {
        bail!(
            "the kernel side's sources changed while they were being compiled; run the command again"
        );
    }
    let bytes = fs::read(&output).with_context(|| format!("cannot read {}", output.display()))?;
    let object = object_file::finish(&bytes)?;
    object_file::check_sections(&object)?;
    let private: Vec<_> = places(&compiler)
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    object_file::check_paths(&object, &private)?;
    let stamp = Stamp {
        digest,
        sha256: stamp::sha256(&object),
        rustc: compiler.version,
        linker: linker.version,
    };
    Ok((object, stamp))
}

/// Compiles with the bpf-linker that is there, and if that one cannot link, with ours.
fn compile_with_any_linker(compiler: &Compiler) -> Result<(PathBuf, Linker)> {
    let linker = Linker::find()?;
    match compile(compiler, &linker)? {
        Outcome::Linked(object) => return Ok((object, linker)),
        Outcome::NotLinked if linker.ours => bail!("bpf-linker failed; its messages are above"),
        Outcome::NotLinked => say(&format!(
            "{} cannot link this; trying our own",
            linker.path.display()
        )),
    }
    let linker = Linker::ours()?;
    match compile(compiler, &linker)? {
        Outcome::Linked(object) => Ok((object, linker)),
        Outcome::NotLinked => bail!("bpf-linker failed; its messages are above"),
    }
}

enum Outcome {
    Linked(PathBuf),
    NotLinked,
}

fn compile(compiler: &Compiler, linker: &Linker) -> Result<Outcome> {
    let target_dir = command::target_dir().join("ebpf");
    let mut cargo = command::cargo();
    keep_out_settings(&mut cargo);
    cargo
        .current_dir(command::root().join("probes/ebpf"))
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker.path)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(compiler))
        // A stable compiler then accepts the unstable features that the BPF target needs.
        .env("RUSTC_BOOTSTRAP", "1");
    if compiler.builds_core {
        cargo.arg("-Zbuild-std=core");
    }
    if let Some(rustc) = &compiler.rustc {
        cargo.env("RUSTC", rustc);
    }
    if let Some(dir) = compiler.llvm_dir()? {
        cargo.env("LD_LIBRARY_PATH", dir);
    }
    let mut link_failed = false;
    let built = command::watch_stderr(&mut cargo, |line| {
        link_failed |= line.contains("linking with `") && line.contains("failed");
    })?;
    if built {
        Ok(Outcome::Linked(
            target_dir.join(TARGET).join("release/slowburn-ebpf"),
        ))
    } else if link_failed {
        Ok(Outcome::NotLinked)
    } else {
        bail!("cannot compile probes/ebpf; the compiler's messages are above")
    }
}

/// The flags for the kernel side, in cargo's encoding that allows for spaces.
fn rustflags(compiler: &Compiler) -> OsString {
    // BTF is made from the debug information. v3 has 32-bit registers and jumps; kernels from 5.1 know it.
    let mut flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"]
        .map(OsString::from)
        .to_vec();
    for (place, name) in places(compiler) {
        flags.push(format!("--remap-path-prefix={place}={name}").into());
    }
    flags.join(std::ffi::OsStr::new("\x1f"))
}

/// The directories of this machine whose files are compiled, and what they are called in the object:
/// the same everywhere.
fn places(compiler: &Compiler) -> Vec<(String, &'static str)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut places = vec![
        (text(&cargo_home()), "cargo"),
        (text(command::root()), "slowburn"),
        (text(&command::target_dir()), "target"),
    ];
    if compiler.builds_core {
        places.push((text(&compiler.sysroot.join("lib/rustlib/src/rust")), "rust"));
    }
    places
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file in one step, so that a build that includes it at the same time sees the old or the new.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&partial, bytes))
        .and_then(|()| fs::rename(&partial, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}
