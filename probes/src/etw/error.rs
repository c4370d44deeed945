//! Why a recording cannot be read at all.

use std::io;

use thiserror::Error;

/// Why a recording cannot be read at all, or not any further.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("cannot read the recording at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("this is {0}")]
    Other(&'static str),
    /// Nothing in the beginning is as it should be.
    #[error("this is no recording of Windows events (.etl): {0}")]
    Foreign(String),
    /// A form of compression that is not read.
    #[error(
        "the recording is compressed by {0}, which slowburn does not read: let Windows write it anew with `xperf -i IN.etl -o OUT.etl` or `wpr -merge IN.etl OUT.etl`"
    )]
    Compression(&'static str),
    /// More than there can be, or than there is memory for.
    #[error(
        "the recording has more than {most} {what} (at byte {offset}): it is damaged, or made to harm"
    )]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        most: usize,
        /// Where the last one was.
        offset: u64,
    },
}

/// What people take for a recording, or keep one in.
const OTHERS: &[(&[u8], &str)] = &[
    (
        b"PK\x03\x04",
        "a ZIP archive: unpack it, the recording is in it",
    ),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"MSCF", "a cabinet archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (
        b"ElfFile\0",
        "an event log (.evtx), which has no events of the kernel",
    ),
    (
        b"\x0a\x0d\x0d\x0a",
        "a capture of network traffic (.pcapng)",
    ),
    (b"PERFILE2", "a recording of Linux perf"),
    (b"SQLite format 3\0", "a database"),
    (b"MDMP", "a memory dump"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
];

impl RecordingError {
    /// From what a file begins with, if that is known to be something else.
    pub(super) fn of_foreign(begin: &[u8]) -> Option<Self> {
        let known = OTHERS.iter().find(|(magic, _)| begin.starts_with(magic));
        known.map(|(_, what)| Self::Other(what))
    }
}
