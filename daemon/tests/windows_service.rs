//! The cycle of the service, by the service control manager: installed, started, stopped, removed. The service is this program, with a
//! made-up system to trace (`fake_etw`).

#[cfg(windows)]
#[path = "../../probes/tests/fake_etw/mod.rs"]
#[expect(
    dead_code,
    reason = "nothing happens on the system that the service traces"
)]
mod fake_etw;

#[cfg(not(windows))]
fn main() {}

#[cfg(windows)]
fn main() {
    if std::env::args().nth(1).as_deref() == Some("service") {
        return windows::be_the_service();
    }
    // As other tests have it, for who counts them.
    println!("running 1 test");
    windows::cycle();
    println!("test cycle ... ok\n");
    println!(
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    );
}

#[cfg(windows)]
mod windows {
    use std::{fs, path::PathBuf, thread::sleep, time::Duration};

    use clap::Parser;
    use serde_json::Value;
    use slowburn::{
        cli::{Cli, Command},
        commands::platform::service,
    };

    pub fn be_the_service() {
        carry_out(&std::env::args().collect::<Vec<_>>()).expect("the service ends in order");
    }

    fn carry_out(words: &[String]) -> anyhow::Result<()> {
        let Command::Service(options) = Cli::try_parse_from(words)?.command else {
            unreachable!("the arguments say service");
        };
        service::run(&options)
    }

    fn slowburn(words: &[&str]) -> anyhow::Result<()> {
        let words = ["slowburn", "service"].iter().chain(words);
        carry_out(&words.map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn output() -> PathBuf {
        service::default_policy().with_file_name("events.jsonl")
    }

    pub fn cycle() {
        let _ = slowburn(&["uninstall"]);
        let _ = fs::remove_file(output());
        let error = slowburn(&["start"])
            .expect_err("it is not installed")
            .to_string();
        assert!(error.contains("not installed"), "{error}");
        slowburn(&[
            "install",
            "--",
            "--service",
            "services",
            "--window",
            "500ms",
        ])
        .expect("it can be installed");
        assert!(service::default_policy().exists());
        slowburn(&["install", "--", "--pid", "4"]).expect_err("it is there already");
        slowburn(&["status"]).expect("it is installed");
        slowburn(&["start"]).expect("it can be started");
        sleep(Duration::from_secs(3));
        slowburn(&["status"]).expect("it is installed");
        slowburn(&["stop"]).expect("it can be stopped");
        let text = fs::read_to_string(output()).expect("there is output");
        let records: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect();
        let (first, last) = (&records[0], records.last().expect("there are records"));
        assert_eq!(first["type"], "start");
        assert_eq!(
            (&last["type"], &last["reason"]),
            (&"stop".into(), &"signal".into())
        );
        assert!(last["ran_ns"].as_u64() > Some(2_000_000_000), "{last}");
        slowburn(&["uninstall"]).expect("it can be removed");
        slowburn(&["status"]).expect_err("it is gone");
        assert!(output().exists(), "what it has written stays");
    }
}
