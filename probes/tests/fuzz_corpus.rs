//! What fuzzing begins with, and inputs of faults that it has found, on every run of the tests.

use std::{fs, io::Cursor, path::Path, time::Duration};

use slowburn_probes::etw::{
    Recording, Replay, Survey,
    tracker::{Options, Target},
};

#[test]
fn recordings_of_the_corpus_are_read_to_their_end() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/reader");
    let (mut all_windows, mut with_events) = (0, 0);
    for file in fs::read_dir(&directory).expect("it is in the repository") {
        let bytes = fs::read(file.expect("it can be listed").path()).expect("it can be read");
        let open = || Recording::open(Cursor::new(bytes.as_slice()));
        let Ok(survey) = open().and_then(|mut recording| Survey::of(&mut recording)) else {
            continue;
        };
        let pids = survey.processes.keys().copied().collect();
        let options = Options {
            slow_ns: 0,
            min_mapping_bytes: 0,
        };
        let window = Duration::from_secs(10);
        let recording = open().expect("it was opened before");
        let mut replay = Replay::new(recording, &survey, Target::Pids(pids), options, window);
        let (mut events, mut windows) = (Vec::new(), 0);
        while replay.next(&survey, &mut events).expect("it is in memory") {
            windows += 1;
            assert!(windows < 100_000, "it does not end");
        }
        all_windows += windows;
        with_events += usize::from(!events.is_empty());
    }
    // Those that the writer has made are whole; of many others there is nothing to read.
    assert!(
        all_windows > 10 && with_events > 6,
        "{all_windows} {with_events}"
    );
}
