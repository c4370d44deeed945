//! What guests are made of: fetched once, and kept in a directory until that is removed.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    command, guest,
    matrix::Kernel,
    packages::{self, Base, Unavailable},
    stamp,
};

/// The directory, which no other process uses meanwhile: guests at the same time would measure each other.
pub struct Cache {
    directory: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens what `SLOWBURN_VM_CACHE` names, or `target/vm`, when nobody else uses it.
    pub fn open() -> Result<Self> {
        let directory = env::var_os("SLOWBURN_VM_CACHE")
            .filter(|value| !value.is_empty())
            .map_or_else(|| command::target_dir().join("vm"), PathBuf::from);
        // QEMU is started elsewhere.
        let directory = std::path::absolute(directory)?;
        let path = directory.join("lock");
        let lock = fs::create_dir_all(&directory)
            .and_then(|()| File::create(&path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        if lock.try_lock().is_err() {
            eprintln!(
                "waiting for another `cargo xtask vm` that uses {}",
                directory.display()
            );
            lock.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// The path of something in the cache.
    pub fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory that QEMU and what it needs beyond this machine's packages is unpacked into. It is not
    /// installed: on some machines, that removes other packages.
    pub fn qemu(&self) -> Result<PathBuf> {
        const PACKAGE: &str = "qemu-system-x86";
        let place = self.place(&format!("qemu-{}", key(&[PACKAGE])));
        once(&place, |partial| {
            let names = packages::closure(&[PACKAGE], Base::Host)?;
            let debs = partial.join("debs");
            packages::download("QEMU", &names, Base::Host, &debs)?;
            packages::unpack(&debs, partial)?;
            remove(&debs)
        })?;
        Ok(place)
    }

    /// The archive of the packages that every guest consists of.
    pub fn packages(&self) -> Result<PathBuf> {
        let inputs = [&guest::PACKAGES[..], &guest::LEFT_OUT].concat();
        let place = self.place(&format!("guest-{}.cpio", key(&inputs)));
        let debs = self.place("debs.partial");
        once(&place, |partial| {
            let names = packages::closure(&guest::PACKAGES, Base::Nothing)?;
            remove(&debs)?;
            packages::download("the guests' packages", &names, Base::Nothing, &debs)?;
            guest::archive_packages(&debs, partial)?;
            remove(&debs)
        })?;
        Ok(place)
    }

    /// The image of a kernel.
    pub fn kernel(&self, kernel: &Kernel) -> Result<PathBuf> {
        let place = self.place(&format!(
            "kernel-{}-{}",
            kernel.name,
            key(&[kernel.package])
        ));
        once(&place, |partial| {
            let image = packages::dependency(kernel.package, kernel.image)?;
            let what = format!("kernel {}", kernel.name);
            packages::download(&what, &[image], Base::Nothing, partial)?;
            for deb in packages::files_in(partial)? {
                packages::unpack_boot(&deb, partial)?;
                remove(&deb)?;
            }
            Ok(())
        })?;
        packages::files_in(&place.join("boot"))?
            .into_iter()
            .find(|path| path.to_string_lossy().contains("vmlinuz"))
            .with_context(|| format!("there is no kernel in {}; remove it", place.display()))
    }
}

/// A name for what is made of these packages on this release of the distribution.
fn key(inputs: &[&str]) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut digest = stamp::sha256(format!("{release}\n{}", inputs.join("\n")).as_bytes());
    digest.truncate(12);
    digest
}

/// Makes a file or directory unless it is there: `make` works in another place, so that what is there is
/// whole. It is tried twice, as a machine may have no package lists, or ones that name what is long gone.
fn once(place: &Path, make: impl Fn(&Path) -> Result<()>) -> Result<()> {
    if place.exists() {
        return Ok(());
    }
    let mut partial = place.to_owned().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let attempt = || remove(&partial).and_then(|()| make(&partial));
    let result = match attempt() {
        Err(error) if error.is::<Unavailable>() && packages::refresh() => attempt(),
        other => other,
    };
    if result.is_err() {
        remove(&partial)?;
    }
    result?;
    fs::rename(&partial, place).with_context(|| format!("cannot make {}", place.display()))
}

/// Removes a file or directory that may be there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
