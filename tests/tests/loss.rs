//! Every call is either a record or counted as lost.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use slowburn_tests::{Daemon, Workload, needs_tracing, number};

/// Records of calls, and what is lost by the stream's own account. Reads bytes: the streams are large.
#[derive(Debug, Default)]
struct Seen {
    map: u64,
    unmap: u64,
    others: u64,
    lost: u64,
    lost_mappings: u64,
}

fn count(path: &Path) -> Seen {
    let mut seen = Seen::default();
    let mut file =
        BufReader::with_capacity(1 << 20, File::open(path).expect("the output is there"));
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).expect("it can be read") == 0 {
            return seen;
        }
        if line.starts_with(br#"{"v":1,"type":"mapping""#) {
            // The call comes after the names and times, some 300 bytes into the line.
            let call = line[200..]
                .windows(8)
                .position(|w| w == br#""call":""#)
                .expect("every mapping has it");
            match &line[200 + call + 8..][..4] {
                b"map\"" => seen.map += 1,
                b"unma" => seen.unmap += 1,
                _ => seen.others += 1,
            }
        } else if line.starts_with(br#"{"v":1,"type":"loss""#) {
            let value: serde_json::Value = serde_json::from_slice(&line).expect("it is JSON");
            seen.lost += number(&value, "count");
            if value["class"] == "mapping" {
                seen.lost_mappings += number(&value, "count");
            }
        }
    }
}

/// Floods the ring with 100,000 pairs of calls a second, for three seconds.
fn flood(options: &[&str]) -> Seen {
    let mut workload = Workload::start(&["mappings", "--rate", "100000", "--seconds", "3"]);
    let pid = workload.pid_text();
    let mut daemon = Daemon::start(
        &[
            &["--pid", &pid, "--events", "all", "--window", "1s"],
            options,
        ]
        .concat(),
    );
    let facts = workload.work();
    daemon.signal(rustix::process::Signal::INT);
    assert!(daemon.wait().success(), "{}", daemon.stderr());
    let seen = count(daemon.output());
    println!("{facts}: {seen:?}");
    let made = number(&facts, "map") + number(&facts, "unmap");
    assert_eq!(made, 600_000);
    assert_eq!(
        seen.map + seen.unmap + seen.others + seen.lost_mappings,
        made,
        "{seen:?}"
    );
    assert_eq!(seen.others, 0);
    seen
}

#[test]
fn default_ring_loses_nothing() {
    needs_tracing!();
    let seen = flood(&[]);
    assert_eq!(seen.lost, 0);
    assert_eq!((seen.map, seen.unmap), (300_000, 300_000));
}

#[test]
fn small_ring_counts_what_it_loses() {
    needs_tracing!();
    let seen = flood(&["--ring-size", "4KiB"]);
    assert!(
        seen.lost_mappings > 0,
        "4 KiB cannot hold 50 ms of this: {seen:?}"
    );
    assert!(
        seen.map + seen.unmap > 0,
        "and yet some come through: {seen:?}"
    );
}

/// Losing records is not losing sums.
#[test]
fn windows_are_exact_whatever_is_lost() {
    needs_tracing!();
    let mut workload = Workload::start(&["mappings", "--rate", "50000", "--seconds", "1"]);
    let daemon = Daemon::start(&[
        "--pid",
        &workload.pid_text(),
        "--events",
        "all",
        "--ring-size",
        "4KiB",
        "--window",
        "300ms",
    ]);
    let facts = workload.work();
    let finished = daemon.stop();
    let windows = finished.process_windows(workload.pid());
    assert_eq!(
        windows.iter().map(|w| w.memory.map_calls).sum::<u64>(),
        number(&facts, "map")
    );
    assert_eq!(
        windows.iter().map(|w| w.memory.unmap_calls).sum::<u64>(),
        number(&facts, "unmap")
    );
    let lost: u64 = windows.iter().map(|w| w.lost).sum();
    assert!(
        lost > 0 && lost <= finished.lost(),
        "windows say what was lost meanwhile: {lost} of {}",
        finished.lost()
    );
}
