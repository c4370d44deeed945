//! The commands that are other ones on Linux.

pub mod doctor;
pub mod run;
pub mod services;

use crate::attach::AttachError;

/// Is it the command line that cannot be carried out as it is?
pub fn is_usage(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<AttachError>()
        .is_some_and(AttachError::is_usage)
}
