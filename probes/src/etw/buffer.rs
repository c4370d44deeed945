//! Headers of buffers, of which a recording is a sequence.

/// Length of the header of a buffer.
pub const HEADER: usize = 72;

/// The header of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferHeader {
    /// From this buffer to the next one, in bytes.
    pub size: u32,
    /// How much of it is in use, this header included; before it was compressed, if it was.
    pub filled: u32,
    /// Processor on which its events happened.
    pub cpu: u16,
    /// Its state; in the first buffer, by what all of them are compressed.
    pub state: u32,
    /// See [`flag`].
    pub flags: u16,
    /// What it holds: 0 events, 2 switches in a compact form, 4 the first one, 6 nothing.
    pub kind: u16,
}

/// Flags of a buffer.
pub mod flag {
    /// Events were lost before or while it was filled.
    pub const EVENTS_LOST: u16 = 2;
    /// A buffer was lost before.
    pub const BUFFER_LOST: u16 = 4;
    /// The number of the processor has 16 bits.
    pub const WIDE_CPU: u16 = 0x20;
    /// What follows the header is compressed.
    pub const COMPRESSED: u16 = 0x40;
}

/// The buffer holds switches in a compact form that is not documented.
pub const COMPACT_SWITCHES: u16 = 2;

/// The highest kind of buffer that is known.
pub const HIGHEST_KIND: u16 = 7;

impl BufferHeader {
    /// Any 72 bytes are a header, of sorts.
    pub fn read(bytes: &[u8; HEADER]) -> Self {
        let half = |at| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let flags = half(0x34);
        let cpu = half(0x28);
        Self {
            size: word(0),
            filled: word(0x30),
            cpu: if flags & flag::WIDE_CPU == 0 {
                cpu & 0xff
            } else {
                cpu
            },
            state: word(0x2c),
            flags,
            kind: half(0x36),
        }
    }

    /// Is there more behind it than it says itself?
    pub fn is_compressed(&self) -> bool {
        self.flags & flag::COMPRESSED != 0
    }

    /// Was anything lost that should have been in it, or before it?
    pub fn follows_loss(&self) -> bool {
        self.flags & (flag::EVENTS_LOST | flag::BUFFER_LOST) != 0
    }
}
