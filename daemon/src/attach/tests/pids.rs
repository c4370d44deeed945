use super::fixture::Fixture;
use super::*;

#[test]
fn pids_with_their_descendants() {
    let fixture = Fixture::v2();
    fixture.process(7, 1, "a");
    fixture.process(8, 7, "b");
    fixture.process(9, 1, "c");
    fixture.process(10, 1, "d");
    let found = one(&Target::Pids(vec![9, 7, 9]), &fixture.host);
    assert_eq!(found.rule, Rule::Pid);
    assert_eq!(found.name, "c");
    assert_eq!(found.why, "pids 7, 9 and 1 of their descendants");
    assert_eq!(pids(&found.processes), [7, 8, 9]);
    assert!(!found.can_return());
    assert!(found.accepts(&fixture.host, 9).is_some());
    assert!(found.accepts(&fixture.host, 10).is_none());

    // Another process with the pid is another process.
    fixture.process(9, 1, "c").start(99_999);
    assert_eq!(pids(&found.members(&fixture.host)), [7, 8]);
    assert!(found.accepts(&fixture.host, 9).is_none());
    fixture.exit(7);
    assert_eq!(found.members(&fixture.host), []);
}

#[test]
fn why_a_pid_cannot_be_attached_to() {
    let mut fixture = Fixture::v2();
    fixture.process(7, 1, "a");
    fixture.process(8, 2, "kswapd").kernel_thread();
    fixture.process(9, 1, "gone").zombie(1);
    fixture.process(10, 7, "a");
    fixture.file("proc/10/status", "Name:\ta\nTgid:\t7\n");
    fixture.process(11, 1, "slowburn");
    fixture.host.own_pids = vec![11];
    for (pid, text) in [
        (
            6,
            "no process has pid 6: it may have exited; `slowburn services` lists what runs",
        ),
        (
            8,
            "pid 8 (\"kswapd\") cannot be attached to: it is a thread of the kernel",
        ),
        (
            9,
            "pid 9 (\"gone\") cannot be attached to: it is dead already, its parent has not \
             noticed yet",
        ),
        (
            10,
            "10 is a thread of process 7, not a process: use --pid 7",
        ),
        (
            11,
            "pid 11 (\"slowburn\") cannot be attached to: it is slowburn itself",
        ),
    ] {
        let error = failure(&Target::Pids(vec![7, pid]), &fixture.host);
        assert_eq!(error.to_string(), text);
        assert!(!error.may_appear());
    }
    assert!(find(&Target::Pids(Vec::new()), &fixture.host, false).is_err());
}
