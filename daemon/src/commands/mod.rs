//! The commands, one file each. Those that are other ones on each system are in directories of their own.

pub mod check_config;
pub mod diff;
pub mod explain;
pub mod inspect;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod live;
pub mod replay;
pub mod schema;
#[cfg(windows)]
pub mod windows;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
pub use linux as platform;
#[cfg(windows)]
pub use windows as platform;

/// Exit code for a command line that cannot be carried out as it is.
const USAGE: u8 = 2;

/// Prints an error with its causes, and tells the exit code: 2 for usage, 1 for failure.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("slowburn: {text}");
    if platform::is_usage(error) {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}
