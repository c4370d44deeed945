//! Standard input and output as files, which are read and written without locks and buffers of their own.

use std::{fs::File, io};

#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(windows)]
use std::os::windows::io::AsHandle;

use anyhow::Context;

/// Standard input.
///
/// # Errors
/// If it is closed.
pub fn input() -> anyhow::Result<File> {
    #[cfg(unix)]
    let input = io::stdin().as_fd().try_clone_to_owned();
    #[cfg(windows)]
    let input = io::stdin().as_handle().try_clone_to_owned();
    Ok(input.context("there is no standard input")?.into())
}

/// Standard output.
///
/// # Errors
/// If it is closed.
pub fn output() -> anyhow::Result<File> {
    #[cfg(unix)]
    let output = io::stdout().as_fd().try_clone_to_owned();
    #[cfg(windows)]
    let output = io::stdout().as_handle().try_clone_to_owned();
    Ok(output.context("there is no standard output")?.into())
}
