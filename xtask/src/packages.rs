//! Packages of the distribution, by apt-get.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::command;

/// Something can't be had on this machine, and that is nobody's fault.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// What is installed before the packages that are asked about.
#[derive(Clone, Copy)]
pub enum Base {
    /// What this machine has.
    Host,
    /// Nothing at all, so that the answer is everything.
    Nothing,
}

impl Base {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Host => &[],
            Self::Nothing => &["-o", "Dir::State::status=/dev/null"],
        }
    }
}

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

/// Fetches the package lists, if that is possible.
pub fn refresh() -> bool {
    if !can_install() {
        return false;
    }
    eprintln!("trying again with fresh package lists");
    // apt-get says on stdout what it does, which is for the results here.
    command::run(apt_get("update").stdout(Stdio::null())).is_ok()
}

/// Packages and all that they need beyond the base.
pub fn closure(packages: &[&str], base: Base) -> Result<Vec<String>> {
    let mut install = apt_get("install");
    install
        .arg("--simulate")
        .args(base.settings())
        .args(packages);
    let text = ask(&mut install)?;
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

/// The first package whose name begins with `prefix` among those that `package` depends on.
pub fn dependency(package: &str, prefix: &str) -> Result<String> {
    let text = ask(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let found = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix));
    match found {
        Some(name) => Ok(name.to_owned()),
        None => bail!(Unavailable(format!(
            "this release's {package} depends on no {prefix}*"
        ))),
    }
}

/// Fetches packages into a directory that it makes, after saying how much that is. apt-get checks what it
/// gets. The base matters here, too: what is installed may be a version that no list has.
pub fn download(what: &str, names: &[String], base: Base, into: &Path) -> Result<()> {
    let apt_get = || {
        let mut command = apt_get("download");
        // Its user "nobody" could not write there.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.args(base.settings()).args(names);
        command
    };
    let list = ask(apt_get().arg("--print-uris"))?;
    let sizes: Vec<u64> = list.lines().filter_map(size_of).collect();
    eprintln!(
        "fetching {what}: {} packages, {} bytes",
        sizes.len(),
        sizes.iter().sum::<u64>()
    );
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    ask(apt_get().current_dir(into)).with_context(|| format!("cannot fetch {what}"))?;
    Ok(())
}

/// Unpacks all packages in a directory over each other, without running their scripts.
pub fn unpack(from: &Path, into: &Path) -> Result<()> {
    for package in files_in(from)? {
        command::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(into))?;
    }
    Ok(())
}

/// Unpacks what a package has under /boot: of a kernel one file in thousands.
pub fn unpack_boot(package: &Path, into: &Path) -> Result<()> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let archive = files.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = Command::new("tar");
    tar.args(["-x", "-f", "-", "--wildcards", "-C"])
        .arg(into)
        .arg("./boot/*")
        .stdin(archive);
    let unpacked = command::run(&mut tar);
    files.wait().context("cannot wait for dpkg-deb")?;
    unpacked
}

/// The paths of what a directory holds, in order.
pub fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

/// What apt-get or apt-cache answers.
fn ask(question: &mut Command) -> Result<String> {
    if command::find_in_path("apt-get").is_none() {
        bail!(Unavailable(
            "there is no apt-get, and it needs Debian's packages".into()
        ));
    }
    let output = question
        .output()
        .with_context(|| format!("cannot start `{}`", command::line(question)))?;
    if !output.status.success() {
        // The command may name a hundred packages, and what it says is as long; one line tells.
        let complaints = String::from_utf8_lossy(&output.stderr);
        let first = complaints.lines().find(|line| line.starts_with("E: "));
        bail!(Unavailable(format!(
            "apt-get says: {} (`apt-get update` may help)",
            first.unwrap_or(complaints.trim())
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The size in `'http://…' name.deb 26713492 SHA256:…`.
fn size_of(line: &str) -> Option<u64> {
    line.starts_with('\'')
        .then(|| line.split(' ').nth(2)?.parse().ok())?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let line = "'http://d/l_1%2b2.deb' l_1%2b2.deb 26713492 SHA256:e7d0";
        assert_eq!(size_of(line), Some(26_713_492));
        assert_eq!(size_of("Reading package lists..."), None);
    }
}
