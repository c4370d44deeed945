//! Software that people run: healthy under load that is steady or has a daily rhythm, and a Go service with each of its leaks.

use std::{
    f64::consts::TAU,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use slowburn::stream::{CauseKind, FlagKind, FlagState};
use slowburn_tests::{
    Daemon, needs_tracing, skip,
    software::{Software, ask},
};

use crate::judge::{FASTER, Judgement, WINDOW, are_asked_for, judge, summaries};

/// How long what is healthy is watched.
const HEALTHY: Duration = Duration::from_mins(3);

/// How long what leaks does so, from its start.
const LEAKING: Duration = Duration::from_secs(75);

/// A minute is a day, for load with a daily rhythm.
const DAY: Duration = Duration::from_mins(1);
const FASTER_BY_DAYS: u64 = 1_440;

/// Requests a second, on average.
const RATE: f64 = 300.0;

/// How the load goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    Steady,
    Daily,
}

impl Load {
    fn rate(self, since: Duration) -> f64 {
        match self {
            Self::Steady => RATE,
            Self::Daily => {
                let day = since.as_secs_f64() / DAY.as_secs_f64();
                RATE * (1.0 + 0.6 * (TAU * day).sin())
            }
        }
    }

    fn faster(self) -> u64 {
        match self {
            Self::Steady => FASTER,
            Self::Daily => FASTER_BY_DAYS,
        }
    }
}

/// Watches a service for so long while somebody works with it.
fn watch(service: &Software, length: Duration, work: impl FnOnce(Instant) + Send) -> String {
    thread::scope(|scope| {
        let end = Instant::now() + length;
        scope.spawn(move || work(end));
        thread::sleep(Duration::from_secs(2));
        let options = ["--window", WINDOW, "--events", "none", "--quiet"];
        let daemon = Daemon::start(&[&["--process", service.name()], options.as_slice()].concat());
        thread::sleep(end.saturating_duration_since(Instant::now()));
        daemon.stop().text()
    })
}

/// Asks over one connection at the load's rate.
fn keep_asking(
    mut stream: TcpStream,
    load: Load,
    end: Instant,
    question: &[u8],
    answered: impl Fn(&[u8]) -> bool,
) {
    let begin = Instant::now();
    while Instant::now() < end {
        ask(&mut stream, question, &answered);
        thread::sleep(Duration::from_secs_f64(1.0 / load.rate(begin.elapsed())));
    }
}

/// Nothing climbs, and nothing has become another. That something recurs, or was out of the ordinary once, is true of most
/// services, and is no alarm.
#[track_caller]
fn is_healthy(name: &str, judgement: &Judgement) {
    let wrong = judgement.flags.iter().filter(|flag| {
        let is_alarm = matches!(flag.kind, FlagKind::Climb | FlagKind::Step);
        is_alarm && flag.state == FlagState::Raised
    });
    let wrong: Vec<_> = wrong.map(|flag| flag.summary.as_str()).collect();
    assert!(wrong.is_empty(), "{name} is healthy: {wrong:#?}");
    println!(
        "{name}: no climb, no step; {} other flags",
        judgement.flags.len()
    );
}

/// Both loads, one after the other.
fn serves(name: &str, service: &Software, question: &[u8], answered: fn(&[u8]) -> bool) {
    for load in [Load::Steady, Load::Daily] {
        let stream = service.connect();
        let recording = watch(service, HEALTHY, |end| {
            keep_asking(stream, load, end, question, answered);
        });
        let name = format!("{name}-{load:?}");
        is_healthy(&name, &judge(&name, &recording, load.faster()));
    }
}

#[test]
fn nginx() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let Some(service) = Software::nginx() else {
        skip!("nginx is not installed");
    };
    let question = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    serves("nginx", &service, question, |answer| {
        answer.ends_with(b"hello")
    });
}

#[test]
fn redis() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let Some(service) = Software::redis() else {
        skip!("redis-server is not installed");
    };
    serves("redis", &service, b"INCR x\r\n", |answer| {
        answer.ends_with(b"\r\n")
    });
}

#[test]
fn postgresql() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let Some(service) = Software::postgresql() else {
        skip!("postgresql with pgbench, or its user, is not installed");
    };
    for load in [Load::Steady, Load::Daily] {
        let recording = watch(&service, HEALTHY, |end| {
            let begin = Instant::now();
            while Instant::now() < end {
                // Connections of five seconds.
                let rate = load.rate(begin.elapsed()).to_string();
                let output = service.pgbench(&["-n", "-c", "4", "-T", "5", "-R", &rate]);
                assert!(output.status.success(), "pgbench has failed");
            }
        });
        let name = format!("postgresql-{load:?}");
        is_healthy(&name, &judge(&name, &recording, load.faster()));
    }
}

#[test]
fn a_jvm_that_warms_up() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let seconds = (HEALTHY.as_secs() + 5).to_string();
    let Some(service) = Software::java("Service", 128, &[&seconds]) else {
        skip!("there is no Java");
    };
    let recording = watch(&service, HEALTHY, |_| ());
    is_healthy("java", &judge("java", &recording, FASTER));
}

/// A Go service for so long.
fn go(how: &str, length: Duration) -> Option<Judgement> {
    let seconds = (length.as_secs() + 2).to_string();
    let service = Software::runtime("service-go", &[how, &seconds])?;
    let recording = watch(&service, length, |_| ());
    Some(judge(&format!("go-{how}"), &recording, FASTER))
}

#[test]
fn a_healthy_go_service() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let Some(judgement) = go("none", HEALTHY) else {
        skip!("there is no Go");
    };
    is_healthy("go", &judgement);
}

#[test]
fn a_go_service_that_leaks() {
    needs_tracing!();
    if !are_asked_for() {
        return;
    }
    let leaks = [
        ("parked", CauseKind::ThreadLeak),
        ("timers", CauseKind::LeakedMemory),
        ("map", CauseKind::LeakedMemory),
        ("bodies", CauseKind::DescriptorLeak),
    ];
    for (how, cause) in leaks {
        let Some(judgement) = go(how, LEAKING) else {
            skip!("there is no Go");
        };
        let last = judgement.incidents.last();
        let first = last.and_then(|last| last.causes.first());
        let found = first.map(|first| first.cause);
        let text = summaries(&judgement.incidents);
        assert_eq!(found, Some(cause), "{how}: {text}");
        println!("go, {how}: {text}");
    }
}
