//! Events of the Windows kernel (ETW), whichever system this runs on: the payloads, and the recordings (`.etl`) they come in.
//!
//! Nothing here is `unsafe`, and nothing is copied that can be borrowed. All input is suspect: what cannot be read is an
//! error or is counted, with the offset where a recording has it.

pub mod buffer;
pub mod clock;
pub mod counts;
pub mod damage;
mod error;
pub mod guid;
pub mod header;
mod index;
pub mod layout;
pub mod live;
pub mod payload;
pub mod queue;
mod recording;
mod regions;
mod replay;
pub mod survey;
pub mod target;
pub mod tracker;
pub mod value;
mod waits;
#[cfg(any(test, feature = "etl-writer"))]
pub mod writer;
pub mod xpress;

pub use self::{
    counts::Counts,
    damage::Damage,
    error::RecordingError,
    guid::Guid,
    header::{Class, Header},
    layout::{Field, Id, Layout, Undecoded},
    payload::Payload,
    recording::{About, Event, Recording, is_recording},
    replay::{Replay, sources},
    survey::Survey,
};
