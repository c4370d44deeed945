//! Wine, with a prefix of its own below `target/`, and what this one lacks of Windows.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::toolchain::{provide, variable};
use crate::command;

/// The packages of wine.
const PACKAGES: [&str; 2] = ["wine", "wine64"];

/// Starts programs of 64 bits, without asking for one of 32 bits.
const PROGRAM: &str = "/usr/lib/wine/wine64";

/// Rust's standard library takes random numbers from a library that wine 8 does not have.
const SHIM: &str = r"
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE at, SIZE_T left)
{
    while (left) {
        ULONG some = left > 0x40000000 ? 0x40000000 : (ULONG)left;
        if (!SystemFunction036(at, some)) return FALSE;
        at += some;
        left -= some;
    }
    return TRUE;
}
";

/// A wine that is ready.
pub struct Wine {
    prefix: PathBuf,
}

impl Wine {
    /// Finds it, or installs it, and makes a prefix.
    pub fn find() -> Result<Self> {
        provide("wine", || command::is_program(PROGRAM.as_ref()), &PACKAGES)?;
        let wine = Self {
            prefix: command::target_dir().join("windows/wine"),
        };
        wine.prepare()?;
        Ok(wine)
    }

    /// Has a cargo run programs of the target.
    pub fn runs(&self, cargo: &mut Command, target: &str) {
        cargo.env(variable(target, "RUNNER"), PROGRAM);
        self.settings(cargo);
    }

    /// Ends what wine has left running, which otherwise waits for more programs.
    pub fn end(&self) {
        let mut server = Command::new("/usr/lib/wine/wineserver64");
        self.settings(&mut server);
        let _ = server.args(["--kill"]).stderr(Stdio::null()).status();
    }

    fn settings(&self, program: &mut Command) {
        program
            .env("WINEPREFIX", &self.prefix)
            .env("WINEARCH", "win64")
            // It says what it lacks of Windows, by the line.
            .env("WINEDEBUG", "-all")
            // It would ask whether to install these.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=;winemenubuilder.exe=d");
    }

    fn prepare(&self) -> Result<()> {
        let system = self.prefix.join("drive_c/windows/system32");
        let shim = system.join("bcryptprimitives.dll");
        if shim.exists() {
            return Ok(());
        }
        eprintln!("windows: making a wine prefix in {}", self.prefix.display());
        fs::create_dir_all(&self.prefix)
            .with_context(|| format!("cannot make {}", self.prefix.display()))?;
        for words in [&["wineboot", "--init"][..], &["winecfg", "-v", "win10"]] {
            let mut program = Command::new(PROGRAM);
            self.settings(&mut program);
            program.args(words);
            command::run(program.stdout(Stdio::null()).stderr(Stdio::null()))?;
        }
        let source = self.prefix.join("shim.c");
        fs::write(&source, SHIM).with_context(|| format!("cannot write {}", source.display()))?;
        let mut compiler = Command::new("x86_64-w64-mingw32-gcc");
        compiler
            .args(["-O2", "-shared", "-nostartfiles", "-Wl,--entry=0", "-o"])
            .arg(&shim)
            .arg(&source)
            .args(["-ladvapi32", "-lkernel32"]);
        command::run(&mut compiler)
    }
}
