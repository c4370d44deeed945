use std::fmt::Write as _;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

/// The beginning of 2026, in seconds.
const BEGIN: u64 = 1_767_225_600;

fn moment(seconds: u64) -> Moment {
    Moment((BEGIN + seconds) * 1_000_000_000)
}

/// The window of 10 s of a process that ends then, with so many bytes committed.
fn window(seconds: u64, pid: u32, bytes: u64) -> String {
    let ts = moment(seconds);
    let begun = moment(0);
    let calls = [
        "map", "unmap", "remap", "brk", "advise", "protect", "failed",
    ];
    let calls = calls.map(|call| format!(r#""{call}_calls":0"#)).join(",");
    let flows = [
        "reserved",
        "committed",
        "released",
        "decommitted",
        "discarded",
    ];
    let flows = flows.map(|flow| format!(r#""{flow}_bytes":0"#)).join(",");
    format!(
        r#"{{"v":1,"type":"window","ts":"{ts}","scope":"process","service.name":"shop","process.pid":{pid},"process.creation.time":"{begun}","period_ns":10000000000,"memory":{{{flows},{calls},"standing_committed_bytes":{bytes}}},"kernel":{{}},"lost":0}}"#
    ) + "\n"
}

/// A record of a climb, looked at for 2,560 s.
fn flag(id: &str, seconds: u64, state: &str, evidence: &str) -> String {
    let (ts, since, begun) = (moment(seconds), moment(600), moment(0));
    format!(
        r#"{{"v":1,"type":"flag","ts":"{ts}","id":"{id}","state":"{state}","kind":"climb","metric":"committed_bytes","scope":"process","service.name":"shop","process.pid":812,"process.creation.time":"{begun}","since":"{since}","evidence":{{{evidence}}},"summary":"shop (pid 812): committed memory climbs"}}"#
    ) + "\n"
}

const MIB: f64 = 1_048_576.0;

/// 100 MiB, from the 600th second on 0.1 MiB a second more, up and down by 4.
fn level(seconds: u64) -> f64 {
    let wave = if seconds % 40 < 20 { 4.0 } else { -4.0 };
    100.0 + 0.1 * seconds.saturating_sub(600) as f64 + wave
}

fn evidence(seconds: u64) -> String {
    let at = |seconds: f64| MIB * (100.0 + 0.1 * (seconds - 600.0).max(0.0));
    let begin = seconds as f64 - 2560.0;
    let part = |part: f64| at(begin + 2560.0 * (part + 0.5) / 8.0);
    let levels: Vec<String> = (0..8).map(|i| part(f64::from(i)).to_string()).collect();
    let (base, now) = (
        f64::midpoint(part(0.0), part(1.0)),
        f64::midpoint(part(6.0), part(7.0)),
    );
    let slope = 360.0 * MIB;
    format!(
        r#""baseline":{base},"now":{now},"slope_per_hour":{slope},"slope_low_per_hour":{},"slope_high_per_hour":{},"z":7.8,"windows":256,"score":0.81,"horizon_ns":2560000000000,"levels":[{}],"noise":0.06,"keeps_speed":1.0,"record_before":{},"load_ratio":1.05,"forecast":{{"reaches":"limit","level":1073741824.0,"in_ns":6300000000000,"soonest_ns":5900000000000,"latest_ns":6900000000000}},"against":["there was more to do: 1.05 times as many switches"]"#,
        0.9 * slope,
        1.12 * slope,
        levels.join(","),
        at(0.0) + 6.0 * MIB,
    )
}

/// A leak that is raised and updated, and another process beside it.
fn raised() -> String {
    recording(false)
}

/// Is it cleared, too?
fn recording(is_cleared: bool) -> String {
    let mut text = String::new();
    for seconds in (10..=7200).step_by(10) {
        text += &window(seconds, 812, (level(seconds) * MIB) as u64);
        text += &window(seconds, 99, 7 << 30);
        match seconds {
            3400 => text += &flag("f1", seconds, "raised", &evidence(seconds)),
            4800 => text += &flag("f1", seconds, "updated", &evidence(seconds)),
            5600 if is_cleared => {
                let cleared = r#""cleared_because":"it has stopped rising","#;
                let plain = evidence(4800);
                let (plain, _) = plain.split_once(r#","forecast""#).expect("it has one");
                text += &flag("f1", seconds, "cleared", &(cleared.to_owned() + plain));
            }
            _ => {}
        }
    }
    text
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), text).expect("it is ours");
    file
}

fn explained(text: &str, wanted: &str, glyphs: chart::Glyphs) -> String {
    let file = file(text);
    let story = Flags::of(file.path()).and_then(|flags| flags.find(wanted, file.path()));
    let story = story.expect("there is one");
    let series = series_of(&story, file.path()).expect("it can be read");
    let mut out = Vec::new();
    let style = Style { width: 80, glyphs };
    report::print(&story, &series, style, &mut out).expect("memory can be written");
    String::from_utf8(out).expect("it is text")
}

#[track_caller]
fn is_golden(text: &str, golden: &str, name: &str) {
    if text != golden {
        // To be looked at, and put in its place if it is right.
        let path = env::temp_dir().join(name);
        std::fs::write(&path, text).expect("temporary files can be written");
        panic!("not as in {name}, see {}:\n{text}", path.display());
    }
}

#[test]
fn a_climb_is_explained() {
    let text = explained(&recording(true), "f1", chart::UNICODE);
    is_golden(&text, include_str!("golden.txt"), "golden.txt");
    let text = explained(&raised(), "f1", chart::ASCII);
    assert!(text.is_ascii());
    is_golden(&text, include_str!("golden-ascii.txt"), "golden-ascii.txt");
    assert!(
        text.lines()
            .all(|line| line.len() <= 80 || !line.contains('|'))
    );
}

/// However it is written, and with lines that are no windows of it between.
#[test]
fn any_json_is_read() {
    let plain = raised();
    let other = plain.replace("\"v\":1,\"type\"", "\"v\" : 1, \"type\"");
    assert_ne!(plain, other);
    assert_eq!(
        explained(&other, "f1", chart::ASCII),
        explained(&plain, "f1", chart::ASCII)
    );
}

fn error(text: &str, wanted: &str) -> String {
    let file = file(text);
    let found = Flags::of(file.path()).and_then(|flags| flags.find(wanted, file.path()));
    let error = found.err().expect("there is none");
    format!("{error:#}").replace(&file.path().display().to_string(), "FILE")
}

#[test]
fn unknown_flags_are_named() {
    let flags: String = (1..=12)
        .map(|i| flag(&format!("f{i}"), 100 + i, "raised", &evidence(4000)))
        .collect();
    assert_eq!(
        error(&flags, "f99"),
        "no flag \"f99\" (did you mean f9?): FILE has 12 flags, f1 to f12; without an id, they are listed"
    );
    assert_eq!(error("", "f1"), "no flag \"f1\": FILE has none at all");
    let broken = format!("{flags}hello\n{flags}");
    assert!(
        error(&broken, "f1").starts_with("FILE, line 13, is not a record of slowburn: expected")
    );
}

/// As a file that several runs have appended to.
#[test]
fn flags_of_several_runs_are_told_apart() {
    let start = r#"{"v":1,"type":"start","ts":"2026-01-01T00:00:00.000000000Z","version":"0.1.0","host":{"name":"h","kernel":"k","kernel_build":"b","arch":"a","cpus":1},"hooks":{"tasks":"t","sched":"s","memory":"m"},"limits":{"window_ns":1,"ring_bytes":1,"max_tasks":1,"delay_precision":0.1},"targets":[]}"#;
    let run = |seconds| {
        format!(
            "{start}\n{}",
            flag("f1", seconds, "raised", &evidence(4000))
        )
    };
    let text = run(3000) + &run(4000);
    assert_eq!(
        error(&text, "f1"),
        "FILE has several runs with a flag \"f1\": say which, 1:f1 or 2:f1"
    );
    let file = file(&text);
    let find = |wanted: &str| {
        let story = Flags::of(file.path()).and_then(|flags| flags.find(wanted, file.path()));
        story.expect("it is clear").first().ts
    };
    assert_eq!((find("1:f1"), find("2:f1")), (moment(3000), moment(4000)));
}

#[test]
fn a_line_that_is_being_written_is_no_error() {
    let text = raised();
    let cut = file(&(text.clone() + &window(7210, 812, 1)[..300]));
    assert_eq!(Flags::of(cut.path()).expect("it is read").stories.len(), 1);
    let cut = file(&(text + "{\"v\":1,\"ty"));
    assert_eq!(Flags::of(cut.path()).expect("it is read").stories.len(), 1);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut text = String::new();
    for i in 0..1000 {
        text += &flag(
            "f1",
            3000 + i,
            if i == 0 { "raised" } else { "updated" },
            &evidence(4000),
        );
    }
    let file = file(&text);
    let flags = Flags::of(file.path()).expect("it is read");
    assert_eq!(
        (flags.stories[0].records.len(), flags.left_out),
        (MOST_RECORDS, 800)
    );
    assert_eq!(
        (flags.stories[0].first().ts, flags.stories[0].last().ts),
        (moment(3000), moment(3999))
    );
}

#[test]
fn the_locale_says_what_is_shown() {
    let shows = |set: &[(&str, &str)]| {
        shows_unicode(|name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    assert!(shows(&[("LANG", "en_US.UTF-8")]) && shows(&[("LC_CTYPE", "C.utf8")]));
    assert!(shows(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")]));
    assert!(!shows(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]) && !shows(&[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the evidence says.
    #[test]
    fn odd_flags_do_no_harm(
        kind in "climb|step|spike|periodic|threshold",
        metric in "committed_bytes|mapped_rate|delay|delay_tail|delay_p99|fds|creation_rate",
        numbers in proptest::collection::vec(prop_oneof![Just(0.0), any::<i32>().prop_map(f64::from), any::<f64>().prop_filter("JSON has none", |n| n.is_finite())], 14),
        levels in 0_usize..10,
        seconds in 0_u64..1 << 33,
        whole in any::<u64>(),
    ) {
        let mut evidence = format!(r#""windows":{}"#, whole >> 40);
        let names = ["baseline", "now", "slope_per_hour", "slope_low_per_hour", "slope_high_per_hour", "z", "score", "noise", "keeps_speed", "record_before", "load_ratio", "hours_higher", "above"];
        for (at, (name, number)) in names.iter().zip(&numbers).enumerate() {
            if at < 6 || whole >> at & 1 == 1 {
                let _ = write!(evidence, ",\"{name}\":{number:e}");
            }
        }
        let levels: Vec<String> = numbers.iter().cycle().take(levels).map(|level| format!("{level:e}")).collect();
        let _ = write!(evidence, r#","levels":[{}],"horizon_ns":{whole},"forecast":{{"reaches":"limit","level":{:e},"in_ns":{whole},"soonest_ns":{whole}}}"#, levels.join(","), numbers[13]);
        let text = flag("f1", seconds, "raised", &evidence)
            .replace("\"climb\"", &format!("\"{kind}\""))
            .replace("committed_bytes", &metric);
        let windows: String = (0..5).map(|i| window(seconds.saturating_sub(i * 10), 812, whole >> i)).collect();
        let text = explained(&(text + &windows), "f1", chart::ASCII);
        prop_assert!(text.starts_with("f1: "));
    }
}
