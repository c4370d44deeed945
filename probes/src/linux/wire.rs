//! Records of the ring buffer, as they are read out of it.

use slowburn_common::event::{DelayEvent, ExecEvent, Header, MappingEvent, kind};

/// A record of the ring buffer.
pub enum Wire {
    /// A task's record was made.
    TaskStart(Header),
    /// A followed task exited.
    TaskExit(Header),
    /// A task executed a program.
    Exec(ExecEvent),
    /// A call changed an address space.
    Mapping(MappingEvent),
    /// A single wait was over the threshold.
    Delay(DelayEvent),
    /// From an object that does not belong to this daemon; cannot happen with the embedded one.
    Unknown,
}

impl Wire {
    /// Copies a record out of the ring buffer's memory.
    pub fn parse(bytes: &[u8]) -> Self {
        let Some(header) = plain::<Header>(bytes) else {
            return Self::Unknown;
        };
        match header.kind {
            kind::TASK_START => Some(Self::TaskStart(header)),
            kind::TASK_EXIT => Some(Self::TaskExit(header)),
            kind::EXEC => plain(bytes).map(Self::Exec),
            kind::MAPPING => plain(bytes).map(Self::Mapping),
            kind::DELAY => plain(bytes).map(Self::Delay),
            _ => None,
        }
        .unwrap_or(Self::Unknown)
    }
}

/// Types of the ring buffer: integers and arrays of them, for which every bit pattern is valid.
trait Plain: Copy {}
impl Plain for Header {}
impl Plain for ExecEvent {}
impl Plain for MappingEvent {}
impl Plain for DelayEvent {}

/// Copies a value out of the front of a record.
fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, and every bit pattern is a valid `T`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_foreign_records_are_not_read() {
        assert!(matches!(Wire::parse(&[]), Wire::Unknown));
        assert!(matches!(Wire::parse(&[0; 24]), Wire::Unknown));
        let mut delay_header_only = [0; size_of::<Header>()];
        delay_header_only[8] = kind::DELAY as u8;
        assert!(matches!(Wire::parse(&delay_header_only), Wire::Unknown));
    }
}
