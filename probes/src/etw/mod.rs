//! Events of the Windows kernel (ETW), whichever system this runs on: the payloads, and the recordings (`.etl`) they come in.
//!
//! Nothing here is `unsafe`, and nothing is copied that can be borrowed. All input is suspect: what cannot be read is an
//! error or is counted, with the offset where a recording has it.

pub mod buffer;
pub mod clock;
pub mod guid;
pub mod header;
pub mod layout;
pub mod payload;
pub mod value;
pub mod xpress;

pub use self::{
    guid::Guid,
    layout::{Field, Id, Layout, Undecoded},
    payload::Payload,
};
