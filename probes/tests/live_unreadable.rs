//! A session that was started and cannot be read. In a program of its own: ferrisetw 1.2.0 never forgets the context of a session that it could
//! not open, and refuses the next one that happens to be at the same address.
#![cfg(windows)]

#[expect(dead_code, reason = "one test needs little of it")]
mod fake_etw;

use fake_etw::Fake;
use slowburn_probes::{
    etw::tracker,
    windows::{Options, Source, Target},
};

#[test]
fn what_cannot_be_read_is_ended() {
    let fake = Fake::new();
    fake.close_for_readers();
    let options = Options {
        queue_bytes: 1 << 20,
        events: tracker::Options {
            slow_ns: 0,
            min_mapping_bytes: 0,
        },
    };
    let started = Source::start(Target::Pids(vec![4]), options);
    started.err().expect("it cannot be opened");
    assert_eq!(fake.sessions(), [""; 0]);
}
