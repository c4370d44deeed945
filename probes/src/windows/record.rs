//! An event as ferrisetw hands it over, and what of it is copied.

use ferrisetw::EventRecord;
use windows::{Win32::System::Diagnostics::Etw::EVENT_RECORD, core::GUID};

use crate::etw::{Guid, Id, clock::unix_ns, guid::group, queue::Arrival, tracker::At};

/// Flag of a header: what the payload has of pointers are four bytes each.
const IS_32_BIT: u16 = 0x20;

// ferrisetw's type is transparent over the system's, without promising it, and shows neither payload nor processor. Its version is pinned.
const _: () = assert!(size_of::<EventRecord>() == size_of::<EVENT_RECORD>());
const _: () = assert!(align_of::<EventRecord>() == align_of::<EVENT_RECORD>());

/// Looks at an event, if it is of a class that is decoded.
pub fn with_arrival<T>(record: &EventRecord, look: impl FnOnce(&Arrival) -> T) -> Option<T> {
    let record = std::ptr::from_ref(record).cast::<EVENT_RECORD>();
    // SAFETY: both types have the same layout (`EventRecord` is transparent over `EVENT_RECORD`, and their sizes and alignments are
    // compared above); the reference does not outlive the one it is of.
    let record = unsafe { &*record };
    let header = &record.EventHeader;
    let length = usize::from(record.UserDataLength);
    let payload = if record.UserData.is_null() || length == 0 {
        &[]
    } else {
        // SAFETY: the system keeps that many bytes there until the callback returns, and `look` returns before.
        unsafe { std::slice::from_raw_parts(record.UserData.cast::<u8>(), length) }
    };
    // SAFETY: both fields of the union are plain numbers of the same size.
    let cpu = unsafe { record.BufferContext.Anonymous.ProcessorIndex };
    let known = |id: u32| id != u32::MAX;
    Some(look(&Arrival {
        at: At {
            ts: unix_ns(u64::try_from(header.TimeStamp).unwrap_or(0)),
            cpu,
            thread: (known(header.ProcessId) && known(header.ThreadId))
                .then_some((header.ProcessId, header.ThreadId)),
        },
        id: Id {
            group: group::of(&guid(&header.ProviderId))?,
            opcode: header.EventDescriptor.Opcode,
            version: header.EventDescriptor.Version,
        },
        pointer_size: if header.Flags & IS_32_BIT == 0 { 8 } else { 4 },
        payload,
    }))
}

/// As our decoder has them.
fn guid(guid: &GUID) -> Guid {
    Guid::new(guid.data1, guid.data2, guid.data3, guid.data4)
}

/// As the system has them.
pub fn system_guid(group: u8) -> GUID {
    let known = group::ALL.iter().find(|(known, _)| *known == group);
    let bytes = known.map_or([0; 16], |(_, guid)| guid.0);
    let number = u128::from_le_bytes(bytes);
    let mut last = [0; 8];
    last.copy_from_slice(&bytes[8..]);
    GUID::from_values(
        number as u32,
        (number >> 32) as u16,
        (number >> 48) as u16,
        last,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_same_names_on_both_sides() {
        for (number, ours) in group::ALL {
            assert_eq!(guid(&system_guid(number)), ours);
        }
    }
}
