//! What there is to attach to on Windows: services by the service control manager, scheduled tasks, processes.

mod error;
mod runs;
mod scope;
mod services;
mod tags;
mod target;
mod tasks;

pub use self::{
    error::AttachError,
    scope::{Found, Scope},
    services::{ServiceRow, services},
    target::Target,
};
