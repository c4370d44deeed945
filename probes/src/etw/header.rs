//! Headers of events in a recording.
//!
//! There are some ten kinds. Each begins with four bytes of which the third is the kind and the fourth says that it is a header; where the
//! first two are the event's version, they hide how many counter values stand between header and payload.

use thiserror::Error;

use super::{
    guid::{Guid, group},
    layout::Id,
};

/// What an event is, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// From the kernel, with the thread that caused it.
    System {
        /// Its class.
        group: u8,
        /// The event within its class.
        opcode: u8,
        /// Its version.
        version: u8,
    },
    /// From the kernel, without a thread.
    Performance {
        /// Its class.
        group: u8,
        /// The event within its class.
        opcode: u8,
        /// Its version.
        version: u8,
    },
    /// From a provider of the older form.
    Classic {
        /// Its class.
        guid: Guid,
        /// The event within its class.
        opcode: u8,
        /// Its version.
        version: u16,
    },
    /// The same, about an object.
    Instance {
        /// The event within its class, which is known by a number that means nothing outside the recorded host.
        opcode: u8,
        /// Its version.
        version: u16,
    },
    /// From a provider with a manifest.
    Manifest {
        /// The provider.
        guid: Guid,
        /// The event.
        id: u16,
        /// What it is about.
        opcode: u8,
        /// Its version.
        version: u8,
    },
    /// A message of a tracing preprocessor.
    Message,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the event is.
    pub class: Class,
    /// When it happened, by the recording's clock; `None` if it does not say.
    pub time: Option<i64>,
    /// Process id and thread id, where the header has them and they mean anything.
    pub thread: Option<(u32, u32)>,
    /// Size of a pointer in the payload. It need not be that of the recording.
    pub pointer_size: u8,
    /// Length of the event in bytes, header included, without padding.
    pub length: usize,
    /// Where its payload begins.
    pub payload: usize,
}

/// What is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes that every header has are not there.
    #[error("no event begins with the bytes {0:#010x}")]
    Marker(u32),
    /// A kind of header that is not known, so that its length is not known either.
    #[error("a header of the unknown kind {0:#04x}")]
    Kind(u8),
    /// Shorter than its own header, or longer than what is there.
    #[error("an event of {length} bytes where at least {least} and at most {most} can be")]
    Length {
        /// What the header says.
        length: usize,
        /// Length of the header.
        least: usize,
        /// What is there.
        most: usize,
    },
}

/// Flag in the fourth byte: this is a header.
const IS_HEADER: u8 = 0x80;
/// Flag in the fourth byte: of an event. Otherwise, of a message.
const IS_EVENT: u8 = 0x40;
/// In the version's upper byte: the address of the sampled instruction follows the header.
const HAS_ADDRESS: u16 = 0x8000;
/// In the version's upper byte: so many counter values follow the header.
const COUNTERS: u16 = 0x0700;

impl Header {
    /// From the beginning of an event, with all that is left of its buffer.
    ///
    /// # Errors
    /// If this is no header, or the event is longer than what is there.
    #[inline]
    pub fn read(event: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed::Length {
            length: event.len(),
            least: 8,
            most: event.len(),
        };
        let bytes: &[u8; 8] = event.first_chunk().ok_or(short)?;
        let [_, _, kind, flags, ..] = *bytes;
        if flags & IS_HEADER == 0 {
            return Err(Malformed::Marker(u32_at(event, 0)));
        }
        if flags & IS_EVENT == 0 {
            return message(event);
        }
        match kind {
            1..=4 => system(event, kind),
            0x10 | 0x11 => performance(event, kind),
            0x0a | 0x14 => classic(event, kind),
            0x0b | 0x15 => instance(event, kind),
            0x12 | 0x13 => manifest(event, kind),
            _ => Err(Malformed::Kind(kind)),
        }
    }

    /// When an event happened of which only the beginning is there.
    pub(super) fn time(begin: &[u8]) -> Option<i64> {
        let at = match (begin.get(2)?, begin.get(3)? & (IS_HEADER | IS_EVENT)) {
            (0x10 | 0x11, 0xc0) => 8,
            (1..=4 | 0x0a | 0x0b | 0x12..=0x15, 0xc0) => 16,
            _ => return None,
        };
        (begin.len() >= at + 8).then(|| time_at(begin, at))
    }

    /// What the payload is of, if it may be one that is decoded.
    pub fn id(&self) -> Option<Id> {
        match self.class {
            Class::System {
                group,
                opcode,
                version,
            }
            | Class::Performance {
                group,
                opcode,
                version,
            } => Some(Id {
                group,
                opcode,
                version,
            }),
            Class::Classic {
                guid,
                opcode,
                version,
            } => Some(Id {
                group: group::of(&guid)?,
                opcode,
                version: u8::try_from(version).unwrap_or(u8::MAX),
            }),
            Class::Instance { .. } | Class::Manifest { .. } | Class::Message => None,
        }
    }
}

fn message(event: &[u8]) -> Result<Header, Malformed> {
    let length = checked(event, u16_at(event, 0), 8)?;
    Ok(Header {
        class: Class::Message,
        time: None,
        thread: None,
        pointer_size: 8,
        length,
        payload: 8,
    })
}

fn system(event: &[u8], kind: u8) -> Result<Header, Malformed> {
    let is_compact = kind > 2;
    let least = if is_compact { 24 } else { 32 };
    let (length, payload) = kernel(event, least)?;
    Ok(Header {
        class: Class::System {
            group: event[7],
            opcode: event[6],
            version: event[0],
        },
        time: Some(time_at(event, 16)),
        thread: Some((u32_at(event, 12), u32_at(event, 8))),
        pointer_size: if kind % 2 == 1 { 4 } else { 8 },
        length,
        payload,
    })
}

fn performance(event: &[u8], kind: u8) -> Result<Header, Malformed> {
    let (length, payload) = kernel(event, 16)?;
    Ok(Header {
        class: Class::Performance {
            group: event[7],
            opcode: event[6],
            version: event[0],
        },
        time: Some(time_at(event, 8)),
        thread: None,
        pointer_size: if kind == 0x10 { 4 } else { 8 },
        length,
        payload,
    })
}

/// Length of an event from the kernel, and where its payload begins.
fn kernel(event: &[u8], header: usize) -> Result<(usize, usize), Malformed> {
    let version = u16_at(event, 0);
    let values = usize::from((version & COUNTERS) >> 8) + usize::from(version & HAS_ADDRESS != 0);
    let payload = header + 8 * values;
    Ok((checked(event, u16_at(event, 4), payload)?, payload))
}

fn classic(event: &[u8], kind: u8) -> Result<Header, Malformed> {
    let length = checked(event, u16_at(event, 0), 48)?;
    Ok(Header {
        class: Class::Classic {
            guid: guid_at(event, 24),
            opcode: event[4],
            version: u16_at(event, 6),
        },
        time: Some(time_at(event, 16)),
        thread: Some((u32_at(event, 12), u32_at(event, 8))),
        pointer_size: if kind == 0x0a { 4 } else { 8 },
        length,
        payload: 48,
    })
}

fn instance(event: &[u8], kind: u8) -> Result<Header, Malformed> {
    let payload = if kind == 0x0b { 72 } else { 88 };
    let length = checked(event, u16_at(event, 0), payload)?;
    Ok(Header {
        class: Class::Instance {
            opcode: event[4],
            version: u16_at(event, 6),
        },
        time: Some(time_at(event, 16)),
        thread: Some((u32_at(event, 12), u32_at(event, 8))),
        pointer_size: if kind == 0x0b { 4 } else { 8 },
        length,
        payload,
    })
}

/// What may stand between this header and its payload (an activity, a stack) is left in the payload, which nobody reads.
fn manifest(event: &[u8], kind: u8) -> Result<Header, Malformed> {
    let length = checked(event, u16_at(event, 0), 80)?;
    Ok(Header {
        class: Class::Manifest {
            guid: guid_at(event, 24),
            id: u16_at(event, 40),
            opcode: event[45],
            version: event[42],
        },
        time: Some(time_at(event, 16)),
        thread: Some((u32_at(event, 12), u32_at(event, 8))),
        pointer_size: if kind == 0x12 { 4 } else { 8 },
        length,
        payload: 80,
    })
}

fn checked(event: &[u8], length: u16, least: usize) -> Result<usize, Malformed> {
    let length = usize::from(length);
    if (least..=event.len()).contains(&length) {
        return Ok(length);
    }
    Err(Malformed::Length {
        length,
        least,
        most: event.len(),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |four| u32::from_le_bytes(*four))
}

fn time_at(bytes: &[u8], at: usize) -> i64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |eight| i64::from_le_bytes(*eight))
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    Guid(bytes[at..].first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of a certain kind and so many bytes, which count up from where its first eight end.
    fn event(begin: [u8; 8], length: usize) -> Vec<u8> {
        let mut event = begin.to_vec();
        event.extend((0..).take(length - 8));
        event
    }

    #[test]
    fn kernel_headers() {
        let system = event([2, 0, 2, 0xc0, 40, 0, 36, 5], 48);
        let header = Header::read(&system).unwrap();
        assert_eq!(
            header.class,
            Class::System {
                group: 5,
                opcode: 36,
                version: 2
            }
        );
        assert_eq!(header.thread, Some((0x0706_0504, 0x0302_0100)));
        assert_eq!(header.time, Some(0x0f0e_0d0c_0b0a_0908));
        assert_eq!(
            (header.pointer_size, header.length, header.payload),
            (8, 40, 32)
        );
        let compact = event([2, 0, 3, 0xc0, 24, 0, 36, 5], 24);
        let header = Header::read(&compact).unwrap();
        assert_eq!(
            (header.pointer_size, header.length, header.payload),
            (4, 24, 24)
        );
        let short = event([2, 0, 0x11, 0xc0, 40, 0, 36, 5], 48);
        let header = Header::read(&short).unwrap();
        assert_eq!(
            header.class,
            Class::Performance {
                group: 5,
                opcode: 36,
                version: 2
            }
        );
        assert_eq!(
            (header.thread, header.time),
            (None, Some(0x0706_0504_0302_0100))
        );
        assert_eq!(
            (header.pointer_size, header.length, header.payload),
            (8, 40, 16)
        );
    }

    /// The payload begins behind them.
    #[test]
    fn counter_values_are_skipped() {
        for (flags, payload) in [(0, 16), (2, 32), (0x82, 40), (0x87, 80), (0x80, 24)] {
            let event = event([4, flags, 0x11, 0xc0, 104, 0, 36, 5], 104);
            let header = Header::read(&event).unwrap();
            assert_eq!(header.payload, payload, "{flags:#x}");
            assert_eq!(
                header.class,
                Class::Performance {
                    group: 5,
                    opcode: 36,
                    version: 4
                }
            );
        }
        let event = event([4, 7, 0x11, 0xc0, 64, 0, 36, 5], 64);
        assert!(matches!(
            Header::read(&event),
            Err(Malformed::Length {
                length: 64,
                least: 72,
                ..
            })
        ));
    }

    #[test]
    fn headers_with_a_guid() {
        let mut classic = event([50, 0, 0x0a, 0xc0, 7, 1, 3, 0], 56);
        let (_, thread) = group::ALL[3];
        classic[24..40].copy_from_slice(&thread.0);
        let header = Header::read(&classic).unwrap();
        assert_eq!(
            header.class,
            Class::Classic {
                guid: thread,
                opcode: 7,
                version: 3
            }
        );
        assert_eq!(
            (header.pointer_size, header.length, header.payload),
            (4, 50, 48)
        );
        assert_eq!(
            header.id(),
            Some(Id {
                group: group::THREAD,
                opcode: 7,
                version: 3
            })
        );
        classic[7] = 1;
        let version = Header::read(&classic).unwrap().id().unwrap().version;
        assert_eq!(version, 255, "not 3");
        let mut manifest = event([80, 0, 0x13, 0xc0, 0, 0, 0, 0], 80);
        manifest[24..48].copy_from_slice(&[[9; 16].as_slice(), &[5, 1, 6, 0, 0, 8, 0, 0]].concat());
        let header = Header::read(&manifest).unwrap();
        let expected = Class::Manifest {
            guid: Guid([9; 16]),
            id: 0x105,
            opcode: 8,
            version: 6,
        };
        assert_eq!((header.class, header.id()), (expected, None));
    }

    #[test]
    fn others() {
        let header = Header::read(&event([16, 0, 0, 0x90, 0, 0, 0, 0], 16)).unwrap();
        assert_eq!((header.class, header.length), (Class::Message, 16));
        let header = Header::read(&event([88, 0, 0x15, 0xc0, 4, 0, 2, 0], 88)).unwrap();
        assert_eq!(
            header.class,
            Class::Instance {
                opcode: 4,
                version: 2
            }
        );
        let unknown = event([88, 0, 0x30, 0xc0, 4, 0, 2, 0], 88);
        assert_eq!(Header::read(&unknown), Err(Malformed::Kind(0x30)));
        assert_eq!(
            Header::read(&[1, 2, 3, 4, 5, 6, 7, 8]),
            Err(Malformed::Marker(0x0403_0201))
        );
    }

    /// However little is there, and whatever its length claims to be.
    #[test]
    fn nothing_is_read_beyond_the_end() {
        for kind in 0..=0x20 {
            for flags in [0x80, 0x90, 0xc0] {
                for length in 0..=96_usize {
                    let whole = event([length as u8, 7, kind, flags, length as u8, 0, 36, 5], 96);
                    for there in 0..=96 {
                        if let Ok(header) = Header::read(&whole[..there]) {
                            assert!(header.payload <= header.length && header.length <= there);
                        }
                    }
                }
            }
        }
    }
}
