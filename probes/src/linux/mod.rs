//! The Linux source: eBPF programs, their maps, and the kernel's own counters in `/proc`.

mod account;
mod clock;
mod cost;
mod entry;
mod error;
mod floor;
mod hooks;
mod limits;
mod load;
mod offsets;
mod rehook;
mod rivals;
mod run_time;
mod seed;
mod skipped;
mod source;
mod support;
mod tables;
mod tracked;
mod wire;

pub use cost::{Cost, ProgramCost};
pub use error::ProbeError;
pub use floor::Floor;
pub use hooks::{Family, Hooks, Need, Preference, Refusal};
pub use run_time::{RunTime, RunTimes};
pub use source::{Limits, Options, Source};
pub use support::{Check, Support, support};
