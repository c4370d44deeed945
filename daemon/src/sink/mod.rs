//! Where records go.

mod json;
mod terminal;

pub use json::{JsonOutput, OutputError, OutputOptions, Rotation};
pub use terminal::Terminal;
