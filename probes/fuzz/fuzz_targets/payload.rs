//! Any bytes as the payload of any event: four bytes say of which, the others are the payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slowburn_probes::etw::{Id, layout::layout, payload::decode};

fuzz_target!(|bytes: &[u8]| {
    let Some(([group, opcode, version, form], payload)) = bytes.split_first_chunk() else {
        return;
    };
    let id = Id {
        group: *group,
        opcode: *opcode,
        version: *version,
    };
    let pointer_size = if form & 1 == 0 { 4 } else { 8 };
    if let Ok(payload) = decode(id, pointer_size, payload) {
        // Text is read when it is shown.
        let _ = format!("{payload:?}");
    }
    if let Ok(layout) = layout(id) {
        let _ = layout.read(payload, pointer_size, |_, value| {
            let _ = format!("{value:?}");
        });
    }
});
