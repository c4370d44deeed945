//! The source of events on Windows: a session of the kernel's tracing facility (ETW), read in real time through ferrisetw.

mod control;
mod counters;
mod error;
mod processes;
mod record;
mod rights;
mod session;
mod source;
mod support;

pub use self::{
    control::{SessionInUse, sessions},
    counters::{Usage, own_usage},
    error::SourceError,
    processes::{RunningProcess, processes},
    session::SESSION,
    source::{Losses, Options, Source},
    support::{Check, Windows, support, windows},
};
pub use crate::etw::tracker::Target;
