//! Outputs that are renamed, full, or closed.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
};

use rustix::process::Signal;
use slowburn::stream::{Line, LossClass, Record};
use slowburn_tests::{Daemon, Workload, eventually, needs_tracing, number};

fn lines(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "{} ends with a whole line",
        path.display()
    );
    text.lines()
        .map(|line| serde_json::from_str(line).expect("every line is whole"))
        .collect()
}

fn count_by_stop(lines: &[Line]) -> u64 {
    match lines.last().map(|line| &line.record) {
        Some(Record::Stop(stop)) => stop.records.values().sum(),
        other => panic!("no stop: {other:?}"),
    }
}

#[test]
fn reopens_on_sighup() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let mut daemon = Daemon::start(&["--pid", &workload.pid_text(), "--window", "100ms"]);
    daemon.wait_for("window", |record| matches!(record, Record::Window(_)));
    let (path, renamed) = (
        daemon.output().to_owned(),
        daemon.directory().join("renamed"),
    );
    fs::rename(&path, &renamed).expect("they are in the same directory");
    daemon.signal(Signal::HUP);
    eventually("the new file has lines", || {
        fs::metadata(&path)
            .is_ok_and(|file| file.len() > 0)
            .then_some(())
    });
    let old = lines(&renamed);
    daemon.signal(Signal::INT);
    assert!(daemon.wait().success());
    assert_eq!(
        lines(&renamed).len(),
        old.len(),
        "nothing more goes to the old file"
    );
    let new = lines(&path);
    assert!(matches!(old[0].record, Record::Start(_)));
    assert_eq!(
        count_by_stop(&new) as usize,
        old.len() + new.len() - 1,
        "no record is lost between the two"
    );
}

#[test]
fn rotates_by_size() {
    needs_tracing!();
    let mut workload = Workload::start(&["mappings", "--rate", "4000", "--seconds", "1"]);
    let args = [
        "--pid",
        &workload.pid_text(),
        "--window",
        "100ms",
        "--events",
        "all",
        "--rotate-size",
        "256KiB",
        "--rotate-keep",
        "2",
    ];
    let mut daemon = Daemon::start(&args);
    let made = workload.work();
    daemon.signal(Signal::INT);
    assert!(daemon.wait().success(), "{}", daemon.stderr());
    let path = daemon.output().to_owned();
    let numbered = |n: u32| path.with_file_name(format!("stream.jsonl.{n}"));
    for old in [numbered(1), numbered(2)] {
        let size = fs::metadata(&old).expect("it was kept").len();
        // At most a block of 64 KiB, or what came in 50 ms, too late.
        assert!(
            (256 << 10..1 << 20).contains(&size),
            "{}: {size} bytes",
            old.display()
        );
        assert!(!lines(&old).is_empty());
    }
    assert!(!numbered(3).exists(), "only two are kept");
    let newest = lines(&path);
    let kept = newest.len() + lines(&numbered(1)).len() + lines(&numbered(2)).len();
    let written = count_by_stop(&newest);
    assert!(
        written >= number(&made, "map") * 2 && kept as u64 <= written,
        "{kept} of {written}"
    );
}

#[test]
fn goes_on_when_the_disk_is_full() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let args = [
        "--pid",
        &workload.pid_text(),
        "--window",
        "100ms",
        "--output",
        "/dev/full",
        "--duration",
        "1s",
    ];
    let mut daemon = Daemon::spawn_elsewhere(&args, Stdio::null());
    let status = daemon.wait();
    let said = daemon.stderr();
    println!("{said}");
    assert!(status.success(), "{status}: {said}");
    assert!(
        said.contains("/dev/full") && said.contains("No space left on device"),
        "{said}"
    );
    let lost = said.lines().find_map(|line| {
        line.split_once("records lost: ")?
            .1
            .split(',')
            .next()?
            .parse::<u64>()
            .ok()
    });
    assert!(
        lost.is_some_and(|lost| lost > 0),
        "it says how many: {said}"
    );
    assert!(
        said.contains("stopped after"),
        "it went on to its end: {said}"
    );
    assert!(
        said.lines()
            .filter(|line| line.contains("No space left"))
            .count()
            <= 2,
        "once, not for every block: {said}"
    );
}

#[test]
fn stops_when_nobody_reads() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let mut daemon = Daemon::spawn_elsewhere(
        &["--pid", &workload.pid_text(), "--window", "100ms"],
        Stdio::piped(),
    );
    let mut first = String::new();
    BufReader::new(daemon.stdout().expect("it is piped"))
        .read_line(&mut first)
        .expect("there is a line");
    assert!(first.starts_with(r#"{"v":1,"type":"start""#), "{first}");
    let status = daemon.wait();
    assert!(status.success(), "{status}: {}", daemon.stderr());
    assert!(!daemon.stderr().contains("panicked"), "{}", daemon.stderr());
}

#[test]
fn standard_output_gets_the_same_stream() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let args = [
        "--pid",
        &workload.pid_text(),
        "--window",
        "100ms",
        "--duration",
        "500ms",
        "--quiet",
    ];
    let mut daemon = Daemon::spawn_elsewhere(&args, Stdio::piped());
    let stdout = BufReader::new(daemon.stdout().expect("it is piped"));
    let lines: Vec<Line> = stdout
        .lines()
        .map(|line| serde_json::from_str(&line.expect("it is text")).expect("a record"))
        .collect();
    assert!(daemon.wait().success());
    assert_eq!(daemon.stderr(), "", "quiet");
    assert_eq!(count_by_stop(&lines) as usize, lines.len() - 1);
}

#[test]
fn file_is_not_for_everybody() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let daemon = Daemon::start(&["--pid", &workload.pid_text(), "--duration", "200ms"]);
    let finished = daemon.finish();
    let mode = fs::metadata(finished.path())
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777;
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let umask = status
        .lines()
        .find_map(|line| u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok());
    assert_eq!(mode, 0o640 & !umask.unwrap_or(0o022), "{mode:o}");
}

#[test]
fn appends_to_what_is_there() {
    needs_tracing!();
    let workload = Workload::start(&["idle-threads"]);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("stream.jsonl");
    for runs in 1..=2 {
        let args = [
            "--pid",
            &workload.pid_text(),
            "--duration",
            "200ms",
            "--output",
            path.to_str().expect("text"),
        ];
        assert!(
            Daemon::spawn_elsewhere(&args, Stdio::null())
                .wait()
                .success()
        );
        let starts = lines(&path)
            .iter()
            .filter(|line| matches!(line.record, Record::Start(_)))
            .count();
        assert_eq!(starts, runs);
    }
}

/// A reader that is too slow costs records, and they are counted; the daemon is not held up.
#[test]
fn slow_reader_loses_visibly() {
    needs_tracing!();
    let mut workload = Workload::start(&["mappings", "--rate", "50000", "--seconds", "1"]);
    let args = [
        "--pid",
        &workload.pid_text(),
        "--window",
        "200ms",
        "--events",
        "all",
        "--quiet",
    ];
    let mut daemon = Daemon::spawn_elsewhere(&args, Stdio::piped());
    let mut stdout = BufReader::new(daemon.stdout().expect("it is piped"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("there is a line");
    // Nobody reads while it works: some 40 MB, of which 16 are kept.
    let facts = workload.work();
    daemon.signal(Signal::INT);
    let rest: Vec<Line> = stdout
        .lines()
        .map(|line| serde_json::from_str(&line.expect("it is text")).expect("whole lines"))
        .collect();
    assert!(daemon.wait().success(), "{}", daemon.stderr());
    let received = rest
        .iter()
        .filter(|line| matches!(line.record, Record::Mapping(_)))
        .count() as u64;
    let Some(Record::Stop(stop)) = rest.last().map(|line| &line.record) else {
        panic!("no stop")
    };
    let lost = stop.lost.get(&LossClass::Output).copied().unwrap_or(0);
    let ring = stop.lost.get(&LossClass::Mapping).copied().unwrap_or(0);
    let made = number(&facts, "map") + number(&facts, "unmap");
    println!("{received} of {made} received, {lost} lost at the output, {ring} in the ring");
    assert!(lost > 0);
    let all: u64 = stop.records.values().sum();
    assert_eq!(
        all,
        rest.len() as u64 + lost,
        "the first line, the rest but stop, and what was lost"
    );
    assert!(received + ring + lost >= made);
}
