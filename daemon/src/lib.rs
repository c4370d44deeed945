//! The slowburn daemon: scope, meter, window, detector, sinks and commands.
//!
//! The program is a thin `main` around this library, so that the tests can use the types of the stream.

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
pub mod own_cost;
pub mod pipeline;
pub mod policy;
pub mod privileges;
pub mod recording;
pub mod rivals;
pub mod scope;
pub mod sink;
pub mod stream;
pub mod throttle;
