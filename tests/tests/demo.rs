//! The bundled demo: slowburn finds what leaks, and nothing else.

use std::{collections::BTreeMap, process::Stdio};

use slowburn::stream::{FlagState, Record, Scope};
use slowburn_tests::{Daemon, binary, needs_tracing};

#[test]
fn demo_is_flagged_for_its_leaks_only() {
    needs_tracing!();
    let mut demo = std::process::Command::new(binary("slowburn-demo"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo can be started");
    let daemon = Daemon::spawn(&[
        "--pid",
        &demo.id().to_string(),
        "--window",
        "2s",
        "--duration",
        "60s",
    ]);
    // Nothing else within the whole time, so the whole time has to pass.
    let waited = std::thread::spawn(move || {
        let mut daemon = daemon;
        daemon.wait_within(
            std::time::Duration::from_secs(90),
            "stop record",
            |record| matches!(record, Record::Stop(_)),
        );
        daemon.finish()
    })
    .join();
    demo.kill().expect("it runs");
    demo.wait().expect("it is a child");
    let Ok(finished) = waited else {
        panic!("see above")
    };
    let mut raised = BTreeMap::new();
    let start = finished.lines.first().map(|line| line.record.clone());
    let Some(Record::Start(start)) = start else {
        panic!("no start")
    };
    for line in &finished.lines {
        if let Record::Flag(flag) = &line.record {
            println!(
                "{:?} after {:.1} s: {}",
                flag.state,
                (flag.ts.0 - start.ts.0) as f64 / 1e9,
                flag.summary
            );
            assert_ne!(
                flag.state,
                FlagState::Cleared,
                "it goes on leaking: {flag:?}"
            );
            if flag.state == FlagState::Raised {
                let metric = serde_json::to_value(flag.metric).expect("it is a name");
                *raised
                    .entry((flag.scope, metric.as_str().unwrap_or_default().to_owned()))
                    .or_insert(0) += 1;
                assert_eq!(flag.process.pid, demo.id());
                assert!(flag.thread.is_none(), "{flag:?}");
            }
        }
    }
    let expected = BTreeMap::from([
        ((Scope::Process, "committed_bytes".to_owned()), 1),
        ((Scope::Process, "threads_live".to_owned()), 1),
    ]);
    assert_eq!(raised, expected);
    assert_eq!(finished.lost(), 0);
}
