//! What fuzzing begins with, and inputs of faults that it has found, on every run of the tests.

use std::{fs, io::Cursor, path::Path, time::Duration};

use slowburn_probes::etw::{
    Recording, Replay, Survey,
    tracker::{Options, Target},
};

#[test]
fn recordings_of_the_corpus_are_read_to_their_end() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/reader");
    let (mut windows, mut written_windows) = (0, 0);
    for file in fs::read_dir(&directory).expect("it is in the repository") {
        let path = file.expect("it can be listed").path();
        let bytes = fs::read(&path).expect("it can be read");
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
        let (mut events, before) = (Vec::new(), windows);
        while replay.next(&survey, &mut events).expect("it is in memory") {
            windows += 1;
            assert!(windows < 100_000, "it does not end");
        }
        if !is_found_by_the_fuzzer(&path) {
            assert!(!events.is_empty(), "{}", path.display());
            written_windows += windows - before;
        }
    }
    assert!(written_windows > 10, "{written_windows}");
}

/// It names what it finds by the SHA-1 of it. In much of that there is nothing to replay; the others have names of ours, and are whole.
fn is_found_by_the_fuzzer(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() == 40 && name.iter().all(u8::is_ascii_hexdigit)
}
