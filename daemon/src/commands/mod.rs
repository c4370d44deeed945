//! The commands, one file each.

pub mod check_config;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod inspect;
pub mod replay;
pub mod run;
pub mod schema;
pub mod services;

use std::process::ExitCode;

use crate::attach::AttachError;

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
    match error.downcast_ref::<AttachError>() {
        Some(error) if error.is_usage() => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}
