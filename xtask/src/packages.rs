//! Packages of the distribution, by apt-get.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Whether packages can be installed without asking for a password.
pub fn can_install() -> bool {
    command::is_root() && command::find_in_path("apt-get").is_some()
}

/// Whether a package is installed.
pub fn is_installed(package: &str) -> bool {
    let status =
        command::first_line(Command::new("dpkg-query").args(["-W", "-f=${Status}", package]));
    status.is_ok_and(|status| status == "install ok installed")
}

/// Installs packages. Their names may be new to a machine that never fetched the lists.
pub fn install(packages: &[&str]) -> Result<()> {
    if command::run(apt_get("install").args(packages)).is_ok() {
        return Ok(());
    }
    eprintln!("trying again with fresh package lists");
    command::run(&mut apt_get("update"))?;
    command::run(apt_get("install").args(packages))
        .with_context(|| format!("cannot install {}", packages.join(" ")))
}

fn apt_get(action: &str) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y", action]);
    if action == "install" {
        command.arg("--no-install-recommends");
    }
    command
}
