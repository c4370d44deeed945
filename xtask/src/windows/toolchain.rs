//! A compiler with the standard library for a target of Windows: rustup's where it reaches its servers, or else Debian's, with which
//! the library is built from its source.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::GNU;
use crate::{
    command,
    ebpf_tools::keep_out_settings,
    packages::{self, Unavailable},
};

/// Debian's packages of a compiler, of the source of its library, and of clippy.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
const DEBIAN_BIN: &str = "/usr/bin";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";

/// What links for the GNU target.
const LINKER: (&str, &str) = ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32");

/// A compiler, for one target.
pub struct Toolchain {
    target: &'static str,
    library: Library,
}

/// Where the standard library for the target is.
enum Library {
    /// The compiler has it.
    Installed,
    /// Built from its source, once.
    Built(PathBuf),
    /// Checked only: cargo builds it along.
    Along,
}

impl Toolchain {
    /// Finds one, and installs what is missing if it can.
    pub fn find(target: &'static str) -> Result<Self> {
        if let Some(library) = of_rustup(target)? {
            return Ok(Self { target, library });
        }
        let library = of_debian(target)?;
        Ok(Self { target, library })
    }

    /// A cargo that compiles for the target.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = match &self.library {
            Library::Installed => command::cargo(),
            Library::Built(_) | Library::Along => debian(subcommand),
        };
        match &self.library {
            Library::Installed => keep_out_settings(&mut cargo),
            Library::Built(sysroot) => {
                let flags = format!("--sysroot={}", sysroot.display());
                cargo.env(variable(self.target, "RUSTFLAGS"), &flags);
                cargo.env(variable(self.target, "RUSTDOCFLAGS"), &flags);
            }
            Library::Along => {
                cargo.env("RUSTC_BOOTSTRAP", "1");
                cargo.env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort,test");
            }
        }
        cargo.args([subcommand, "--target", self.target]);
        cargo.env("CARGO_TARGET_DIR", self.cargo_target_dir());
        cargo
    }

    /// Where cargo puts what it builds for the target.
    pub fn target_dir(&self) -> PathBuf {
        self.cargo_target_dir().join(self.target)
    }

    /// What two compilers have built must not be mixed.
    fn cargo_target_dir(&self) -> PathBuf {
        match self.library {
            Library::Installed => command::target_dir(),
            Library::Built(_) | Library::Along => command::target_dir().join("windows"),
        }
    }
}

/// Cargo's variable for a setting of a target.
pub fn variable(target: &str, setting: &str) -> String {
    let target = target.to_uppercase().replace('-', "_");
    format!("CARGO_TARGET_{target}_{setting}")
}

/// Makes sure that there is a linker for the GNU target.
pub fn linker() -> Result<()> {
    let (program, package) = LINKER;
    provide(
        program,
        || command::find_in_path(program).is_some(),
        &[package],
    )
}

/// Makes sure that a program is there, by installing packages if need be.
pub fn provide(program: &str, is_there: impl Fn() -> bool, names: &[&str]) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    let listed = names.join(" ");
    if !packages::can_install() {
        bail!(Unavailable(format!(
            "there is no {program}; `apt-get install --no-install-recommends {listed}` as root brings it"
        )));
    }
    eprintln!("windows: installing {listed} with apt-get");
    packages::install(names).map_err(|error| Unavailable(format!("{error:#}")))?;
    if !is_there() {
        bail!("{listed} is installed, and there is no {program} all the same");
    }
    Ok(())
}

/// rustup's compiler, if that is the one in use.
fn of_rustup(target: &str) -> Result<Option<Library>> {
    let (Some(rustup), Some(rustc)) = (
        command::find_in_path("rustup"),
        command::find_in_path("rustc"),
    ) else {
        return Ok(None);
    };
    let sysroot = command::first_line(Command::new(&rustc).args(["--print", "sysroot"]))?;
    let library = Path::new(&sysroot).join("lib/rustlib").join(target);
    if !library.exists() {
        eprintln!("windows: adding the standard library: rustup target add {target}");
        // Without network, or for a toolchain that rustup does not manage, there is still another way.
        if let Err(error) = command::run(Command::new(rustup).args(["target", "add", target])) {
            eprintln!("windows: {error:#}");
        }
    }
    Ok(library.exists().then_some(Library::Installed))
}

fn of_debian(target: &str) -> Result<Library> {
    let source = Path::new(DEBIAN_SOURCE);
    let cargo = Path::new(DEBIAN_BIN).join("cargo");
    if !source.exists() || !command::is_program(&cargo) {
        let names = DEBIAN_PACKAGES.join(" ");
        if !packages::can_install() {
            bail!(Unavailable(format!(
                "there is no standard library for {target}; `rustup target add {target}`, or as root \
                 `apt-get install --no-install-recommends {names}` brings one"
            )));
        }
        eprintln!("windows: installing {names} with apt-get");
        packages::install(&DEBIAN_PACKAGES).map_err(|error| Unavailable(format!("{error:#}")))?;
    }
    if target == GNU {
        linker()?;
        return build_library(target).map(Library::Built);
    }
    Ok(Library::Along)
}

/// Builds the standard library, unless this compiler's has been built. Takes a minute or two.
fn build_library(target: &str) -> Result<PathBuf> {
    let rustc = Path::new(DEBIAN_BIN).join("rustc");
    let mut ask = Command::new(&rustc);
    let version = ask.arg("-vV").output().context("cannot start rustc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let sysroot = command::target_dir().join("windows/sysroot");
    let stamp = sysroot.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|built| built == version) {
        return Ok(sysroot);
    }
    eprintln!("windows: building the standard library for {target} from {DEBIAN_SOURCE}");
    let work = command::target_dir().join("windows/std");
    let mut cargo = debian("build");
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zforce-unstable-if-unmarked")
        .env("__CARGO_DEFAULT_LIB_METADATA", "stablestd")
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--features", "panic-unwind,backtrace", "--target", target])
        .arg("--target-dir")
        .arg(&work)
        .arg("--manifest-path")
        .arg(Path::new(DEBIAN_SOURCE).join("sysroot/Cargo.toml"));
    command::run(&mut cargo)?;
    let libraries = sysroot.join("lib/rustlib").join(target).join("lib");
    let _ = fs::remove_dir_all(&sysroot);
    fs::create_dir_all(&libraries)
        .with_context(|| format!("cannot make {}", libraries.display()))?;
    for file in packages::files_in(&work.join(target).join("release/deps"))? {
        if let Some(name) = file
            .file_name()
            .filter(|_| file.extension().is_some_and(|end| end == "rlib"))
        {
            fs::copy(&file, libraries.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    fs::write(&stamp, version).with_context(|| format!("cannot write {}", stamp.display()))?;
    let _ = fs::remove_dir_all(&work);
    Ok(sysroot)
}

/// Debian's cargo with its compiler, whatever rustup would take.
fn debian(subcommand: &str) -> Command {
    let bin = Path::new(DEBIAN_BIN);
    // Cargo looks for its subcommands where rustup puts its own, before anywhere else.
    let program = if subcommand == "clippy" {
        "cargo-clippy"
    } else {
        "cargo"
    };
    let mut cargo = command::cargo_of(bin.join(program));
    keep_out_settings(&mut cargo);
    let others = std::env::var_os("PATH").unwrap_or_default();
    let mut path = bin.as_os_str().to_owned();
    path.push(":");
    path.push(others);
    cargo
        .env("PATH", path)
        .env("CARGO", bin.join("cargo"))
        .env("RUSTC", bin.join("rustc"))
        .env_remove("RUSTUP_TOOLCHAIN");
    cargo
}
