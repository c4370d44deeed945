//! Any bytes as a recording of Windows: read to their end, surveyed and replayed, whatever they are.

#![no_main]

use std::{io::Cursor, time::Duration};

use libfuzzer_sys::fuzz_target;
use slowburn_probes::etw::{
    Recording, Replay, Survey,
    tracker::{Options, Target},
};

/// More events of ours than an event of Windows's can become, and a window each: a replay that makes more does not end.
const MOST_EVENTS: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let open = || Recording::open(Cursor::new(bytes));
    let Ok(mut recording) = open() else { return };
    let Ok(survey) = Survey::of(&mut recording) else {
        return;
    };
    // What it holds is followed, so that nothing of the tracker is left out.
    let pids = survey.processes.keys().copied().take(8).collect();
    let options = Options {
        slow_ns: 0,
        min_mapping_bytes: 0,
    };
    let Ok(recording) = open() else { return };
    let window = Duration::from_secs(10);
    let mut replay = Replay::new(recording, &survey, Target::Pids(pids), options, window);
    let (mut events, mut count) = (Vec::new(), 0);
    while let Ok(true) = replay.next(&survey, &mut events) {
        count += events.len();
        assert!(count < MOST_EVENTS, "it does not end");
        events.clear();
    }
});
