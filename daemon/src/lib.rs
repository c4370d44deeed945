//! The slowburn daemon: scope, meter, window, detector, sinks and commands.
//!
//! The program is a thin `main` around this library, so that the tests can use the types of the stream.

#[cfg(target_os = "linux")]
pub mod attach;
pub mod budget;
pub mod cli;
pub mod commands;
mod creators;
pub mod detect;
pub mod diff;
mod figures;
pub mod histogram;
pub mod incident;
pub mod meter;
mod near;
#[cfg(target_os = "linux")]
pub mod own_cost;
pub mod pipeline;
pub mod policy;
#[cfg(target_os = "linux")]
pub mod privileges;
pub mod recording;
pub mod rivals;
mod rule;
#[cfg(target_os = "linux")]
pub mod scope;
pub mod sink;
mod standard;
pub mod stream;
#[cfg(target_os = "linux")]
pub mod throttle;
#[cfg(windows)]
pub mod windows;
