//! Finding, or else installing, what compiles and links the kernel side: a compiler that has `core` for
//! the BPF target or its source, and bpf-linker.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{command, packages};

/// The target of the kernel side.
pub const TARGET: &str = "bpfel-unknown-none";

/// The bpf-linker that is installed if there is none. Its LLVM must not be older than the compiler's.
const LINKER_VERSION: &str = "0.10.2";

/// Packages of Debian and Ubuntu with a compiler that has `core` for the BPF target ready.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler for the BPF target.
pub struct Compiler {
    /// The program, where it is not the one that cargo takes by itself.
    pub rustc: Option<PathBuf>,
    /// Whether `core` must be built from its source.
    pub builds_core: bool,
    /// Where the compiler has its libraries.
    pub sysroot: PathBuf,
    /// Its version, as `rustc --version` says.
    pub version: String,
}

impl Compiler {
    /// Finds one, and installs what is missing if it can.
    pub fn find() -> Result<Self> {
        if let Some(compiler) = Self::active()? {
            return Ok(compiler);
        }
        if let Some(compiler) = Self::debian()? {
            return Ok(compiler);
        }
        bail!(
            "the kernel side needs a Rust compiler with `core` for {TARGET} or with the source of `core`, and \
             there is neither. Do one of these and run the command again:\n  \
             rustup component add rust-src        (any toolchain of rustup)\n  \
             sudo apt-get install {}        (Debian, Ubuntu)",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    /// The compiler that builds the rest of slowburn, if the source of `core` is there.
    fn active() -> Result<Option<Self>> {
        let Some(program) = command::find_in_path("rustc") else {
            return Ok(None);
        };
        let sysroot = sysroot(&program)?;
        let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !source.exists()
            && let Some(rustup) = command::find_in_path("rustup")
        {
            say("adding the source of `core`: rustup component add rust-src");
            // Without network, or for a toolchain that rustup does not manage, there is still another way.
            if let Err(error) =
                command::run(Command::new(rustup).args(["component", "add", "rust-src"]))
            {
                say(&format!("{error:#}"));
            }
        }
        if !source.exists() {
            return Ok(None);
        }
        let version = version(&program)?;
        say(&format!(
            "rustc {version}, building core from {}",
            source.parent().unwrap_or(&source).display()
        ));
        Ok(Some(Self {
            rustc: None,
            builds_core: true,
            sysroot,
            version,
        }))
    }

    /// The distribution's compiler, with its package of `core` for the BPF target.
    fn debian() -> Result<Option<Self>> {
        let program = Path::new(DEBIAN_RUSTC);
        let usable = || -> Result<Option<PathBuf>> {
            if !command::is_program(program) {
                return Ok(None);
            }
            let sysroot = sysroot(program)?;
            Ok(has_core(&sysroot.join("lib/rustlib").join(TARGET).join("lib")).then_some(sysroot))
        };
        let mut found = usable()?;
        if found.is_none() && packages::can_install() {
            say(&format!(
                "installing {} with apt-get",
                DEBIAN_PACKAGES.join(" ")
            ));
            if let Err(error) = packages::install(&DEBIAN_PACKAGES) {
                say(&format!("{error:#}"));
            }
            found = usable()?;
        }
        let Some(sysroot) = found else {
            return Ok(None);
        };
        let version = version(program)?;
        say(&format!(
            "rustc {version} of {DEBIAN_RUSTC}, with its core for {TARGET}"
        ));
        Ok(Some(Self {
            rustc: Some(program.to_owned()),
            builds_core: false,
            sysroot,
            version,
        }))
    }

    /// A directory for `LD_LIBRARY_PATH` in which bpf-linker finds this compiler's LLVM.
    ///
    /// bpf-linker brings none. It takes the first file called libLLVM* from that variable's directories,
    /// then from the `lib` beside those in `PATH`, and that may be any version. One older than the
    /// compiler cannot read what the compiler wrote.
    pub fn llvm_dir(&self) -> Result<Option<PathBuf>> {
        let rustc = self.sysroot.join("bin/rustc");
        let Ok(output) = Command::new("ldd").arg(&rustc).output() else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(library) = llvm_among(&text) else {
            return Ok(None);
        };
        let dir = command::target_dir().join("tools/llvm");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let link = dir.join("libLLVM.so");
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(library)) {
            return Ok(Some(dir));
        }
        let _ = fs::remove_file(&link);
        symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))?;
        Ok(Some(dir))
    }
}

/// Whether a directory of libraries has a compiled `core`.
fn has_core(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// The path of LLVM's library in what ldd prints.
fn llvm_among(ldd: &str) -> Option<&str> {
    let line = ldd
        .lines()
        .find(|line| line.trim_start().starts_with("libLLVM"))?;
    line.split_once("=> ")?
        .1
        .split_whitespace()
        .next()
        .filter(|path| path.starts_with('/'))
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    Ok(command::first_line(Command::new(rustc).args(["--print", "sysroot"]))?.into())
}

/// What a program says to `--version`, without its name.
fn version(program: &Path) -> Result<String> {
    let line = command::first_line(Command::new(program).arg("--version"))?;
    Ok(line
        .split_once(' ')
        .map_or(line.as_str(), |(_, version)| version)
        .to_owned())
}

/// A bpf-linker.
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// Its version, as `bpf-linker --version` says.
    pub version: String,
    /// Whether it is in the project's own tool directory.
    pub ours: bool,
}

impl Linker {
    /// Finds one that starts, and installs ours if there is none.
    pub fn find() -> Result<Self> {
        let elsewhere = [
            command::find_in_path("bpf-linker"),
            Some(cargo_home().join("bin/bpf-linker")),
        ];
        for path in elsewhere.into_iter().flatten() {
            if let Some(linker) = Self::at(path, false) {
                return Ok(linker);
            }
        }
        Self::ours()
    }

    /// The one in the project's tool directory, installed if it is not there yet.
    pub fn ours() -> Result<Self> {
        let tools = command::target_dir().join("tools");
        let path = tools.join("bin/bpf-linker");
        if let Some(linker) = Self::at(path.clone(), true) {
            return Ok(linker);
        }
        say(&format!(
            "installing bpf-linker {LINKER_VERSION} into {}, which takes a minute or two",
            tools.display()
        ));
        let mut install = command::cargo();
        keep_out_settings(&mut install);
        // Built in a temporary directory, which cargo removes.
        install.env_remove("CARGO_TARGET_DIR");
        install.args([
            "install",
            "bpf-linker",
            "--locked",
            "--force",
            "--version",
            LINKER_VERSION,
            "--root",
        ]);
        command::run(install.arg(&tools)).context(
            "cannot install bpf-linker, which the kernel side is linked with; \
             if there is no network, put a bpf-linker on PATH",
        )?;
        Self::at(path.clone(), true)
            .with_context(|| format!("{} was installed but does not start", path.display()))
    }

    fn at(path: PathBuf, ours: bool) -> Option<Self> {
        if !command::is_program(&path) {
            return None;
        }
        match version(&path) {
            Ok(version) => {
                say(&format!("bpf-linker {version} at {}", path.display()));
                Some(Self {
                    path,
                    version,
                    ours,
                })
            }
            Err(error) => {
                say(&format!("not using {}: {error:#}", path.display()));
                None
            }
        }
    }
}

/// Takes from a command the user's settings that would change what is compiled, or with what.
pub fn keep_out_settings(command: &mut Command) {
    const PREFIXES: [&str; 4] = [
        "RUSTC",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
    ];
    const NAMES: [&str; 8] = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if NAMES.contains(&&*text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// Where cargo keeps its registry.
pub fn cargo_home() -> PathBuf {
    let set = env::var_os("CARGO_HOME").filter(|value| !value.is_empty());
    set.map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| OsString::from("/"))).join(".cargo"),
        PathBuf::from,
    )
}

/// Says what is being done: this command may install things and takes its time.
pub fn say(what: &str) {
    eprintln!("build-ebpf: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_llvm_in_the_output_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x00007f5a)\n\
                    \tlibc.so.6 => /usr/lib/libc.so.6 (0x00007f59)\n";
        assert_eq!(llvm_among(text), Some("/usr/lib/libLLVM.so.22.1"));
        assert_eq!(llvm_among("\tlibLLVM.so.22.1 => not found\n"), None);
        assert_eq!(llvm_among("\tnot a dynamic executable\n"), None);
    }
}
