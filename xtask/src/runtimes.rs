//! The programs that the truth suite runs under real runtimes, built by those compilers that are installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command;

/// Where they are, beside the other programs.
pub const DIRECTORY: &str = "runtimes";

/// The directory they are in.
pub fn directory(bin_dir: &Path) -> PathBuf {
    bin_dir.join(DIRECTORY)
}

/// Builds what can be built from `tests/runtimes`. A test whose
/// program is missing says SKIP.
pub fn build(bin_dir: &Path) -> Result<()> {
    let sources = command::root().join("tests/runtimes");
    let out = directory(bin_dir);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let script = "churn.js";
    fs::copy(sources.join(script), out.join(script))
        .with_context(|| format!("cannot copy {script} to {}", out.display()))?;
    for program in ["churn", "service"] {
        // Static, so that it runs in a guest too.
        let mut go = Command::new("go");
        go.env("CGO_ENABLED", "0")
            .args(["build", "-o"])
            .arg(out.join(format!("{program}-go")))
            .arg(sources.join(format!("{program}.go")));
        compile(&mut go)?;
    }
    let mut javac = Command::new("javac");
    javac.arg("-d").arg(&out);
    javac.args(["Churn.java", "Service.java"].map(|source| sources.join(source)));
    compile(&mut javac)
}

/// Runs a compiler, if there is one.
fn compile(compiler: &mut Command) -> Result<()> {
    let name = compiler.get_program().to_string_lossy().into_owned();
    if command::find_in_path(&name).is_none() {
        eprintln!("test: there is no {name}; the test of its runtime skips");
        return Ok(());
    }
    command::run(compiler)
}
