//! Where records go.

mod json;
mod terminal;

pub use json::{JsonOutput, OutputError, OutputOptions, Rotation, open_file};
pub use terminal::Terminal;
