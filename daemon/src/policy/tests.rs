use std::collections::BTreeSet;

use clap::Parser;
use proptest::prelude::*;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/policy.md");

fn policy(text: &str) -> Policy {
    Policy::of(&File::read(text).unwrap_or_else(|fault| panic!("{fault}\n{text}")))
}

#[track_caller]
fn refuses(text: &str, fault: &str) {
    let found = File::read(text).expect_err(text).to_string();
    assert!(found.starts_with(fault), "{found}\ninstead of\n{fault}");
}

/// The file in the documentation.
fn documented() -> &'static str {
    let (_, rest) = DOCUMENT.split_once("```toml\n").expect("it has a file");
    rest.split_once("```").expect("which ends").0
}

/// With the examples of what is not set.
fn with_examples() -> String {
    let example = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        key.unwrap_or(line).to_owned() + "\n"
    };
    documented().lines().map(example).collect()
}

fn shown(file: &File) -> String {
    toml::to_string(&file.effective()).expect("a policy is TOML")
}

#[test]
fn the_documented_defaults_are_the_real_ones() {
    let file = File::read(documented()).expect("it is right");
    assert_eq!(shown(&file), shown(&File::default()));
    // They are all there: without them, nothing is set.
    let set = toml::to_string(&file).expect("a policy is TOML");
    for key in [
        "window",
        "budget",
        "events",
        "slow",
        "min_mapping",
        "sensitivity",
        "looks",
        "cool_down",
    ] {
        assert!(set.contains(&format!("\n{key} = ")), "{key}: {set}");
    }
    let examples = with_examples();
    let without = examples.replace("for = \"3 windows\"", "");
    assert_ne!(without, examples);
    let shown_of = |text: &str| shown(&File::read(text).expect("it is right"));
    assert_eq!(shown_of(&without), shown_of(&examples));
}

/// What serde expects in each table is what there is.
#[test]
fn every_key_is_documented() {
    let examples = with_examples();
    File::read(&examples).expect("the examples are right");
    let mut keys = BTreeSet::new();
    for table in [
        "",
        "[run]",
        "[default]",
        "[default.limits]",
        "[default.metrics]",
        "[default.metrics.delay]",
        "[[default.ignore]]",
    ] {
        let fault = File::read(&format!("{table}\nno_such_key = 1")).expect_err("there is none");
        keys.extend(
            fault
                .problem
                .split('`')
                .skip(3)
                .step_by(2)
                .map(str::to_owned),
        );
    }
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        let word = |character: char| character.is_alphanumeric() || character == '_';
        assert!(
            examples
                .split(|character| !word(character))
                .any(|part| part == key),
            "{key}"
        );
    }
}

#[test]
fn what_run_does_is_what_the_policy_shows() {
    let run = |args: &[&str]| {
        let args = ["slowburn", "run", "--pid", "1"]
            .iter()
            .chain(args)
            .copied();
        match cli::Cli::try_parse_from(args).expect("it is right").command {
            cli::Command::Run(run) => *run,
            _ => unreachable!("the arguments say run"),
        }
    };
    let mut usual = run(&[]);
    let expected = format!("{usual:?}");
    File::default().effective().run.apply(&mut usual, |_| false);
    assert_eq!(format!("{usual:?}"), expected);

    let file = File::read(
        "[run]\nwindow = \"2s\"\nbudget = \"none\"\nevents = \"all\"\nslow = \"1ms\"\nmin_mapping = \"2MiB\"",
    );
    let set = file.expect("it is right").run;
    let mut options = run(&[]);
    set.apply(&mut options, |_| false);
    let given = run(&[
        "--window",
        "2s",
        "--budget",
        "none",
        "--events",
        "all",
        "--slow",
        "1ms",
        "--min-mapping",
        "2MiB",
    ]);
    assert_eq!(format!("{options:?}"), format!("{given:?}"));
    // The ids that clap has for them.
    let mut options = run(&[]);
    let ids = BTreeSet::from(["window", "budget", "events", "slow", "min_mapping"]);
    set.apply(&mut options, |id| ids.contains(id));
    assert_eq!(format!("{options:?}"), expected);
    let command = <cli::Cli as clap::CommandFactory>::command();
    let command = command.find_subcommand("run").expect("there is one");
    for id in ids {
        assert!(
            command
                .get_arguments()
                .any(|argument| argument.get_id() == id),
            "{id}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    refuses(
        "[default]\nsensitivty = \"low\"",
        "2:1: default.sensitivty: unknown field `sensitivty`",
    );
    let near = |text: &str| File::read(text).expect_err(text).near;
    assert_eq!(
        near("[default]\nsensitivty = \"low\"").as_deref(),
        Some("sensitivity")
    );
    assert_eq!(
        near("[default.metric.delay]\nlooks = 2").as_deref(),
        Some("metrics")
    );
    assert_eq!(
        near("[[default.ignore]]\nmetric = \"dely\"").as_deref(),
        Some("delay")
    );
    assert_eq!(near("[default]\nquorum = 3"), None);
    refuses(
        "\n[default]\n  sensitivity = \"medium\"",
        "3:17: default.sensitivity: unknown variant `medium`",
    );
    refuses("[default.limits\nmemory = 5", "1:16: unclosed table");
    refuses(
        "[default.limits]\nmemory = 500",
        "2:10: default.limits.memory: invalid type: integer `500`, expected a size such as \"512MiB\"",
    );
    refuses(
        "[default.limits]\nmemory = \"0B\"",
        "2:10: default.limits.memory: \"0B\" must be between",
    );
    refuses(
        "[default.limits]\nthreads = 0",
        "2:11: default.limits.threads: 0 must be between 1",
    );
    refuses(
        "[default]\nlooks = 17",
        "2:9: default.looks: 17 must be between 1 and 16",
    );
    refuses(
        "[default]\ncool_down = \"1y\"",
        "2:13: default.cool_down: \"1y\" must be between",
    );
    refuses(
        "[default.metrics.delay]\nabove = \"5MiB\"",
        "2:9: default.metrics.delay.above: \"5MiB\" cannot be read",
    );
    refuses(
        "[default.metrics.delay_tail]\nabove = \"100%\"",
        "2:9: default.metrics.delay_tail.above: \"100%\" must be",
    );
    refuses(
        "[default.metrics.creation_rate]\nabove = nan",
        "2:9: default.metrics.creation_rate.above: NaN must be",
    );
    refuses(
        "[default.metrics.fds]\nabove = 5\nfor = \"0 windows\"",
        "3:7: default.metrics.fds.for: \"0 windows\" must be 1",
    );
    refuses(
        "[default.metrics.fds]\nabove = 5\nfor = \"5m\"",
        "3:7: default.metrics.fds.for: \"5m\" cannot be read",
    );
    refuses(
        "[default.metrics.fds]\nfor = \"3 windows\"",
        "1:1: default.metrics.fds: `for` is for how long",
    );
    refuses(
        "[[default.ignore]]",
        "1:1: default.ignore[0]: nothing is named",
    );
    refuses(
        "[default]\nname = \"a\"",
        "1:1: default: `name` is for [[service]]",
    );
    refuses(
        "[[service]]\nname = \"a[\"",
        "2:8: service[0].name: \"a[\" cannot be read: unclosed",
    );
    refuses(
        "[[service]]\nlooks = 2",
        "1:1: service: service[0] has no `name`",
    );
    refuses(
        "[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"",
        "1:1: service: service[1] has the name of service[0], \"a\"",
    );
    refuses(
        "[run]\nwindow = \"0s\"",
        "2:10: run.window: \"0s\" must be between",
    );
    refuses(&"[[service]]\n".repeat(129), "1:1: service: there are 129");
}

#[test]
fn the_nearest_setting_counts() {
    let policy = policy(
        r#"
        [default]
        sensitivity = "high"
        cool_down = "1h"
        metrics.delay.sensitivity = "normal"
        metrics.delay.above = "5ms"
        metrics.fds.above = 100
        limits.threads = 50
        [[service]]
        name = "shop-db"
        metrics.delay.looks = 5
        [[service]]
        name = "shop*"
        sensitivity = "low"
        metrics.delay.sensitivity = "high"
        metrics.fds = { above = 200, for = "1 window" }
        limits.memory = "1GiB"
        "#,
    );
    let of = |service: &str, metric| *policy.rules(service, None).of(metric);
    let (low, normal, high) = (Sensitivity::Low, Sensitivity::Normal, Sensitivity::High);
    for (service, metric, sensitivity, looks) in [
        ("other", Metric::Fds, high, 3),
        ("other", Metric::Delay, normal, 3),
        ("shop-db", Metric::Delay, normal, 5),
        ("shop-db", Metric::Fds, high, 3),
        ("shop-web", Metric::Delay, high, 3),
        ("shop-web", Metric::DelayTail, low, 3),
        ("shop-web", Metric::Fds, low, 3),
    ] {
        let rules = of(service, metric);
        assert_eq!(
            (rules.sensitivity, rules.looks),
            (sensitivity, looks),
            "{service} {metric:?}"
        );
        assert!((rules.cool_down_s - 3600.0).abs() < 1e-9);
    }
    let threshold = |above, windows| Some(Threshold { above, windows });
    assert_eq!(of("shop-web", Metric::Fds).threshold, threshold(200.0, 1));
    assert_eq!(of("shop-web", Metric::Delay).threshold, threshold(5e6, 3));
    assert_eq!(of("shop-db", Metric::Fds).threshold, threshold(100.0, 3));
    assert_eq!(of("shop-db", Metric::RssBytes).threshold, None);
    let rules = policy.rules("shop-web", None);
    assert_eq!(
        (rules.limits().threads, rules.limits().memory),
        (Some(50.0), Some(1_073_741_824.0))
    );
}

#[test]
fn rules_of_what_to_ignore_add_up_and_the_first_counts() {
    let policy = policy(
        r#"
        [default]
        ignore = [{ kind = "spike" }, { metric = "delay", threads = "worker-*" }]
        [[service]]
        name = "shop"
        ignore = [{ kind = "spike", metric = "fds" }, { metric = "fds" }]
        "#,
    );
    let by = |service: &str, threads, metric, kind| {
        policy.rules(service, threads).ignored_by(metric, kind)
    };
    assert_eq!(by("other", None, Metric::Fds, FlagKind::Spike), Some(0));
    assert_eq!(by("other", None, Metric::Fds, FlagKind::Climb), None);
    assert_eq!(by("other", None, Metric::Delay, FlagKind::Climb), None);
    assert_eq!(
        by("other", Some("worker-#"), Metric::Delay, FlagKind::Climb),
        Some(1)
    );
    assert_eq!(
        by("other", Some("gc"), Metric::Delay, FlagKind::Climb),
        None
    );
    assert_eq!(by("shop", None, Metric::Fds, FlagKind::Spike), Some(0));
    assert_eq!(by("shop", None, Metric::Fds, FlagKind::Climb), Some(3));
    assert_eq!(
        policy.ignoring_words(1),
        "metric = \"delay\", threads = \"worker-*\""
    );
    assert_eq!(
        policy.ignoring_words(3),
        "service \"shop\": metric = \"fds\""
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is shown is a file that says the same.
    #[test]
    fn sizes_and_times_are_written_as_they_are_read(bytes in 1_u64..1 << 50, bits in 0_u32..50, us in 1_u64..3_600_000_000) {
        let time = humantime::format_duration(std::time::Duration::from_micros(us));
        let size = (bytes >> bits).max(1) << bits;
        let text = format!("[default]\nmetrics.delay.above = \"{time}\"\nlimits.memory = \"{size}B\"");
        let file = File::read(&text).expect("it is right");
        let again = File::read(&shown(&file)).expect("what is shown is right");
        prop_assert_eq!(shown(&again), shown(&file));
        let rules = Policy::of(&again).rules("", None);
        prop_assert_eq!(rules.limits().memory, Some(size as f64));
        prop_assert_eq!(rules.of(Metric::Delay).threshold.map(|threshold| threshold.above), Some(us as f64 * 1e3));
    }

    /// Whatever is in the file.
    #[test]
    fn nothing_panics(text in "(\\[|\\]|default|service|metrics|delay|above|=|\"|5ms|\n|\\.|#|\\PC){0,40}") {
        if let Err(fault) = File::read(&text) {
            prop_assert!(fault.line >= 1 && fault.column >= 1);
        }
    }
}
