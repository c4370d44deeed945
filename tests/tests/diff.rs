//! Two recordings by the daemon side by side: one of a service that is calm, one of the same service in trouble.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Output},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use slowburn_tests::{
    Daemon, Finished, Workload, binary, needs_tracing, slowburn, stderr_of, unique_name,
};

/// What a service of that name does with so many threads that want one CPU. The windows in which it begins and ends are
/// of no period.
fn record(name: &str, threads: &str) -> Finished {
    let mut workload =
        Workload::start_as(name, &["contend", "--threads", threads, "--seconds", "6"]);
    let daemon = Daemon::start(&["--process", name, "--window", "250ms"]);
    workload.work();
    daemon.stop()
}

fn diff(args: &[&str]) -> Output {
    slowburn(&[&["diff"], args].concat())
}

fn json(args: &[&str]) -> Value {
    let done = diff(&[args, &["--json"]].concat());
    assert!(done.status.success(), "{}", stderr_of(&done));
    serde_json::from_slice(&done.stdout).expect("it is JSON")
}

/// One figure of a report.
#[track_caller]
fn figure<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut figures = report["figures"].as_array().expect("it is a list").iter();
    figures
        .find(|figure| figure["figure"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn part(path: &Path, period: &str) -> String {
    format!("{}{period}", path.display())
}

#[test]
fn contention_is_seen_and_named() {
    needs_tracing!();
    let name = unique_name("till");
    let (calm, contended) = (record(&name, "1"), record(&name, "6"));
    let [a, b] = [&calm, &contended].map(|finished| part(finished.path(), "@+1s..-1s"));

    let report = json(&[&a, &b]);
    println!("{}", report["conclusion"]);
    // What else the machine does may make single windows of the calm one bad, too, but not as bad as five others do.
    for (name, least) in [("waited", 2.0), ("threads", 3.0)] {
        let figure = figure(&report, name);
        assert_eq!(figure["verdict"], "more", "{figure}");
        assert!(
            figure["ratio"]["value"].as_f64().expect("neither is zero") > least,
            "{figure}"
        );
    }
    let threads = figure(&report, "threads");
    let count = |side: &str| threads[side]["mean"].as_f64().map(f64::round);
    assert_eq!((count("a"), count("b")), (Some(2.0), Some(7.0)));
    let longer = &report["delays"][0]["longer"];
    assert!(
        longer["low"].as_f64().expect("there are windows") > 0.6,
        "{longer}"
    );
    assert_eq!(report["figures"][0]["service.name"], name);
    assert!(
        report["new"].as_array().expect("it is a list").is_empty(),
        "the names of threads differ in numbers only: {report}"
    );

    // What windows say, by the stream itself.
    let waits = |finished: &Finished, side: &str| {
        let (begin, end) = (&report[side]["begin"], &report[side]["end"]);
        let within = |window: &&slowburn::stream::Window| {
            let ts = Value::from(window.ts.to_string());
            ts.as_str() > begin.as_str()
                && ts.as_str() <= end.as_str()
                && window.scope == slowburn::stream::Scope::Process
        };
        finished
            .windows()
            .filter(within)
            .filter_map(|window| window.delay.as_ref())
            .map(|delay| delay.count)
            .sum::<u64>()
    };
    assert_eq!(report["delays"][0]["a"]["count"], waits(&calm, "a"));
    assert_eq!(report["delays"][0]["b"]["count"], waits(&contended, "b"));

    let threads = json(&[&a, &b, "--threads"]);
    let waited = figure(&threads, "waited");
    assert_eq!(
        (&waited["threads"], &waited["verdict"]),
        (&"contend-#".into(), &"more".into()),
        "{waited}"
    );
    let processes = json(&[&a, &b, "--process"]);
    assert_eq!(
        figure(&processes, "waited")["process.executable.name"],
        name
    );

    let failed = diff(&[&a, &b, "--fail-on", "worse"]);
    assert_eq!(failed.status.code(), Some(3), "{}", stderr_of(&failed));
    let table = String::from_utf8(failed.stdout).expect("it is text");
    assert!(table.starts_with("B has more of "), "{table}");
    let same = diff(&[&b, &b, "--fail-on", "worse"]);
    let table = String::from_utf8(same.stdout).expect("it is text");
    assert_eq!(same.status.code(), Some(0), "{table}");
    assert!(table.starts_with("No difference is sure"), "{table}");
    assert!(table.contains("note: A and B overlap"), "{table}");
}

#[test]
fn packed_piped_and_plain_are_the_same() {
    needs_tracing!();
    let name = unique_name("till");
    let mut workload = Workload::start_as(&name, &["contend", "--threads", "2", "--seconds", "2"]);
    let daemon = Daemon::start(&["--process", &name, "--window", "100ms"]);
    workload.work();
    let finished = daemon.stop();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let packed = directory.path().join("packed.gz");
    let mut encoder = GzEncoder::new(
        File::create(&packed).expect("it is ours"),
        Compression::fast(),
    );
    encoder
        .write_all(&fs::read(finished.path()).expect("it is there"))
        .expect("there is room");
    encoder.finish().expect("there is room");
    let plain = finished.path().to_str().expect("text");
    let half = format!("{plain}@..+1s");
    let expected = json(&[&half, plain])["figures"].clone();
    assert!(!expected.as_array().expect("it is a list").is_empty());
    assert_eq!(
        json(&[&half, packed.to_str().expect("text")])["figures"],
        expected
    );
    let piped = Command::new(binary("slowburn"))
        .args(["diff", &half, "-", "--json"])
        .stdin(File::open(&packed).expect("it is there"))
        .output()
        .expect("slowburn can be started");
    assert!(piped.status.success(), "{}", stderr_of(&piped));
    let piped: Value = serde_json::from_slice(&piped.stdout).expect("it is JSON");
    assert_eq!(piped["figures"], expected);
}

#[test]
fn what_is_wrong_is_explained() {
    let refuses = |args: &[&str], code: i32, complaint: &str| {
        let done = diff(args);
        let said = stderr_of(&done);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
        assert!(
            said.contains(complaint) && !said.contains("panicked"),
            "{args:?}: {said}"
        );
        assert!(done.stdout.is_empty(), "{args:?}");
    };
    refuses(&["one"], 2, "<B>");
    refuses(
        &["one@soon..", "two"],
        2,
        "START \"soon\" is neither a time of day",
    );
    refuses(&["one", "two@..+x"], 2, "END is no time such as +10m");
    refuses(&["one", "two", "--threshold", "5"], 2, "expected percent");
    refuses(&["one", "two", "--service", "a="], 2, "must not be empty");
    refuses(
        &["one", "two", "--threads", "--process"],
        2,
        "cannot be used with",
    );
    refuses(&["one", "two", "--fail-on", "any"], 2, "worse");
    refuses(&["-", "-@+1m.."], 2, "can be read only once");
    refuses(&["-@-1m..", "two"], 2, "-TIME takes a file");
    refuses(
        &["/nonexistent/one", "two"],
        1,
        "cannot read /nonexistent/one",
    );
    refuses(
        &["/etc/passwd", "two"],
        1,
        "/etc/passwd, line 1 is not a record of slowburn",
    );
    refuses(&["/", "two"], 1, "cannot read /");
    refuses(
        &["/dev/null", "two"],
        1,
        "/dev/null has no window in the whole recording, and none at all",
    );
}
