//! The commands that are other ones on Linux.

pub mod doctor;
pub mod run;
pub mod services;

use std::{io, path::PathBuf};

use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::{attach::AttachError, cli::Command};

/// The policy that is read if no other is named.
pub fn default_policy() -> PathBuf {
    "/etc/slowburn/slowburn.toml".into()
}

/// Where a command's messages go.
pub fn messages(_: &Command) -> BoxMakeWriter {
    BoxMakeWriter::new(io::stderr)
}

/// Is it the command line that cannot be carried out as it is?
pub fn is_usage(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<AttachError>()
        .is_some_and(AttachError::is_usage)
}
