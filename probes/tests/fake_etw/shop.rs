//! A recording of a shop of two threads: one waits, the other commits memory.

use std::{fs::File, io, path::Path};

use slowburn_probes::etw::{
    payload::{Change, Region},
    writer::{Form, Process, Thread, Writer},
};

/// The thread that waits for 3 ms in each round, behind another process.
pub const TILL: u32 = 90_004;
/// The thread that commits a megabyte in each round.
pub const STORE: u32 = 90_008;
/// The process and the thread that are waited for.
const HOG: (u32, u32) = (9_996, 9_992);

const WAITING: i8 = 5;
/// Ticks in a millisecond.
const MS: i64 = 10_000;

/// Writes some rounds of 10 ms in process `pid`.
pub fn write(path: &Path, form: Form, pid: u32, rounds: u32) -> io::Result<()> {
    let t = form.origin;
    let mut w = Writer::new(File::create(path)?, form)?;
    w.enabled(t, [0x3, 0x8204])?;
    for (pid, image) in [(0, "Idle"), (pid, "shop.exe"), (HOG.0, "hog.exe")] {
        let process = Process {
            pid,
            parent: 4,
            image,
        };
        w.process(0, t, Change::ThereAtStart, process)?;
    }
    for (pid, tid, name) in [
        (0, 0, ""),
        (pid, TILL, "till"),
        (pid, STORE, "store"),
        (HOG.0, HOG.1, ""),
    ] {
        let thread = Thread {
            pid,
            tid,
            name,
            ..Thread::default()
        };
        w.thread(0, t, Change::ThereAtStart, thread)?;
    }
    w.switch(1, t, 0, WAITING, STORE)?;
    for round in 0..i64::from(rounds) {
        let t = t + round * 10 * MS + MS;
        w.switch(0, t, 0, WAITING, HOG.1)?;
        w.ready(1, t + MS, TILL)?;
        w.switch(0, t + 4 * MS, HOG.1, WAITING, TILL)?;
        w.switch(0, t + 5 * MS, TILL, WAITING, 0)?;
        let region = Region {
            pid,
            base: 0x1000_0000 + 0x10_0000 * round as u64,
            bytes: 0x10_0000,
            flags: Region::RESERVE | Region::COMMIT,
            committed: 0,
        };
        w.region(1, t + 6 * MS, &region)?;
    }
    w.finish().map(drop)
}
