//! Names of event classes.

use std::fmt;

/// A GUID, as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the parts as they are written.
    pub const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first three parts are numbers, which lie in memory with their last byte first.
        const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        for (n, at) in ORDER.into_iter().enumerate() {
            let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02x}", self.0[at])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Classes of kernel events. A recording names them by these numbers, a live session by GUIDs.
pub mod group {
    use super::Guid;

    /// The recording itself.
    pub const HEADER: u8 = 0x00;
    /// Page faults, virtual memory.
    pub const MEMORY: u8 = 0x02;
    /// Processes.
    pub const PROCESS: u8 = 0x03;
    /// Threads and scheduling.
    pub const THREAD: u8 = 0x05;
    /// What the host is, and its services.
    pub const SYSTEM: u8 = 0x0b;
    /// Events that a session could not deliver. The kernel has no such group: live sessions and some recordings tell of them
    /// under a GUID only.
    pub const LOST: u8 = 0xff;

    /// Each group that is decoded, with its GUID.
    pub const ALL: [(u8, Guid); 6] = [
        (
            HEADER,
            Guid::new(
                0x68fd_d900,
                0x4a3e,
                0x11d1,
                [0x84, 0xf4, 0x00, 0x00, 0xf8, 0x04, 0x64, 0xe3],
            ),
        ),
        (
            MEMORY,
            Guid::new(
                0x3d6f_a8d3,
                0xfe05,
                0x11d0,
                [0x9d, 0xda, 0x00, 0xc0, 0x4f, 0xd7, 0xba, 0x7c],
            ),
        ),
        (
            PROCESS,
            Guid::new(
                0x3d6f_a8d0,
                0xfe05,
                0x11d0,
                [0x9d, 0xda, 0x00, 0xc0, 0x4f, 0xd7, 0xba, 0x7c],
            ),
        ),
        (
            THREAD,
            Guid::new(
                0x3d6f_a8d1,
                0xfe05,
                0x11d0,
                [0x9d, 0xda, 0x00, 0xc0, 0x4f, 0xd7, 0xba, 0x7c],
            ),
        ),
        (
            SYSTEM,
            Guid::new(
                0x0185_3a65,
                0x418f,
                0x4f36,
                [0xae, 0xfc, 0xdc, 0x0f, 0x1d, 0x2f, 0xd2, 0x35],
            ),
        ),
        (
            LOST,
            Guid::new(
                0x6a39_9ae0,
                0x4bc6,
                0x4de9,
                [0x87, 0x0b, 0x36, 0x57, 0xf8, 0x94, 0x7e, 0x7e],
            ),
        ),
    ];

    /// The group of a class, if it is one of the kernel's that are decoded.
    pub fn of(guid: &Guid) -> Option<u8> {
        ALL.iter()
            .find(|(_, known)| known == guid)
            .map(|(group, _)| *group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_usual() {
        let (_, thread) = group::ALL[3];
        assert_eq!(thread.to_string(), "3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c");
        assert_eq!(group::of(&thread), Some(group::THREAD));
        assert_eq!(group::of(&Guid([0; 16])), None);
    }
}
