//! The commands that are other ones on Windows.

pub mod doctor;
pub mod run;
pub mod service;
pub mod services;

use std::io;

use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use service::default_policy;

use crate::{
    cli::{Command, ServiceAction},
    windows::AttachError,
};

/// Where a command's messages go: a service has no console.
pub fn messages(command: &Command) -> BoxMakeWriter {
    match command {
        Command::Service(service) if matches!(service.action, ServiceAction::Host { .. }) => {
            BoxMakeWriter::new(|| service::EventLog)
        }
        _ => BoxMakeWriter::new(io::stderr),
    }
}

/// Is it the command line that cannot be carried out as it is?
pub fn is_usage(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<AttachError>()
        .is_some_and(AttachError::is_usage)
}
