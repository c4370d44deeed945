use super::fixture::Fixture;
use super::*;

fn process(name: &str) -> Target {
    Target::Process(name.to_owned())
}

fn is_ambiguous(name: &str, fixture: &Fixture) -> bool {
    matches!(
        find(&process(name), &fixture.host, false),
        Err(AttachError::Ambiguous { .. })
    )
}

#[test]
fn comm_and_descendants() {
    let fixture = Fixture::v2();
    fixture.process(812, 1, "nginx");
    fixture.process(813, 812, "nginx");
    fixture.process(814, 812, "nginx");
    fixture.process(815, 814, "helper");
    fixture.process(816, 815, "helper");
    fixture.process(817, 1, "nginx-exporter");
    let found = one(&service("nginx"), &fixture.host);
    assert_eq!(found.rule, Rule::Process);
    assert_eq!(found.name, "nginx");
    assert_eq!(found.cgroup, None);
    assert_eq!(pids(&found.processes), [812, 813, 814, 815, 816]);
    assert_eq!(
        found.why,
        "comm \"nginx\" of pid 812 and 4 of its descendants"
    );
    assert_eq!(found.members(&fixture.host), found.processes);
    assert_eq!(found.kernel_names(), [*b"nginx\0\0\0\0\0\0\0\0\0\0\0"]);
    assert_eq!(found.cgroup_ids(&fixture.host), Vec::<u64>::new());
    assert!(found.can_return());
}

#[test]
fn executable_and_first_argument() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "MainThread")
        .exe("/opt/app/server (deleted)")
        .args(&["x"]);
    fixture
        .process(8, 1, "14/main")
        .exe("/usr/lib/pg")
        .args(&["postgres: 14/main: walwriter"]);
    fixture.process(9, 1, "x").args(&["-zsh"]);
    fixture
        .process(10, 1, "y")
        .args(&["cat", "server", "postgres"]);
    let found = one(&process("server"), &fixture.host);
    assert_eq!(found.why, "executable \"server\" of pid 7");
    let found = one(&process("postgres"), &fixture.host);
    assert_eq!(found.why, "argv[0] \"postgres\" of pid 8");
    assert_eq!(pids(&one(&process("zsh"), &fixture.host).processes), [9]);
    assert!(find(&process(""), &fixture.host, false).is_err());
}

#[test]
fn names_that_the_kernel_cuts() {
    let name = "telemetry-collector";
    let comm = "telemetry-colle";
    let matches = |exe: Option<&str>, args: &[&str]| {
        let fixture = Fixture::v2();
        let mut fake = fixture.process(7, 1, comm);
        if let Some(exe) = exe {
            fake = fake.exe(exe);
        }
        if !args.is_empty() {
            fake.args(args);
        }
        find(&process(name), &fixture.host, false).is_ok()
    };
    assert!(matches(Some("/bin/telemetry-collector"), &["other"]));
    assert!(matches(Some("/bin/other"), &["telemetry-collector"]));
    assert!(matches(None, &[]));
    assert!(matches(
        Some("/usr/bin/python3"),
        &["python3", "/opt/telemetry-collector", "-v"]
    ));
    assert!(!matches(
        Some("/bin/telemetry-collegue"),
        &["/bin/telemetry-collegue"]
    ));
    let fixture = Fixture::v2();
    fixture.process(7, 1, comm);
    let found = one(&process(name), &fixture.host);
    assert_eq!(found.kernel_names(), [*b"telemetry-colle\0"]);
    assert_eq!(process(name).kernel_names(), found.kernel_names());
    // What the kernel shows is a name, too.
    assert_eq!(pids(&one(&process(comm), &fixture.host).processes), [7]);
}

#[test]
fn who_never_matches() {
    let mut fixture = Fixture::v2();
    fixture.process(10, 2, "job").kernel_thread();
    fixture.process(11, 1, "job").zombie(1);
    fixture.process(12, 1, "sudo").args(&["job"]);
    fixture.process(13, 12, "slowburn").args(&["job"]);
    fixture.host.own_pids = vec![13, 12];
    assert!(matches!(
        failure(&process("job"), &fixture.host),
        AttachError::NotFound { .. }
    ));
    // The first thread has exited, others have not.
    fixture.process(14, 1, "job").zombie(3);
    let found = one(&process("job"), &fixture.host);
    assert_eq!(pids(&found.processes), [14]);
    for pid in [10, 11, 12, 13] {
        assert_eq!(found.accepts(&fixture.host, pid), None, "{pid}");
    }
}

#[test]
fn slowburn_below_the_service_is_left_out() {
    let mut fixture = Fixture::v2();
    fixture.process(10, 1, "tmux");
    fixture.process(11, 10, "bash");
    fixture.process(12, 11, "slowburn");
    fixture.host.own_pids = vec![12, 11];
    assert_eq!(
        pids(&one(&process("tmux"), &fixture.host).processes),
        [10, 11]
    );
}

#[test]
fn one_service_by_unit_or_container() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "php")
        .cgroup("0::/system.slice/web.service");
    fixture
        .process(8, 1, "php")
        .cgroup("0::/system.slice/web.service/pool");
    let found = one(&process("php"), &fixture.host);
    assert_eq!(
        found.cgroup.as_deref(),
        Some("/system.slice/web.service".as_ref())
    );
    assert_eq!(pids(&found.processes), [7, 8]);
    fixture
        .process(9, 1, "php")
        .cgroup("0::/system.slice/other.service");
    assert!(is_ambiguous("php", &fixture));

    let container = format!("0::/docker/{}", "a".repeat(64));
    let fixture = Fixture::v2();
    fixture.process(7, 1, "php").cgroup(&container);
    fixture
        .process(8, 1, "php")
        .cgroup(&format!("{container}/x"));
    assert_eq!(pids(&one(&process("php"), &fixture.host).processes), [7, 8]);
}

#[test]
fn sessions_and_user_managers_are_no_service() {
    for cgroup in [
        "0::/user.slice/user-1000.slice/session-3.scope",
        "0::/init.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/init.scope",
        "0::/",
    ] {
        let fixture = Fixture::v2();
        fixture.process(7, 1, "node").cgroup(cgroup);
        fixture.process(8, 1, "node").cgroup(cgroup);
        assert!(is_ambiguous("node", &fixture), "{cgroup}");
    }
}

#[test]
fn one_service_by_parent() {
    // A supervisor is a session leader without a terminal.
    let fixture = Fixture::v2();
    fixture.process(5, 1, "supervisord").session_leader(0);
    fixture.process(7, 5, "worker");
    fixture.process(8, 5, "worker");
    assert_eq!(
        pids(&one(&process("worker"), &fixture.host).processes),
        [7, 8]
    );

    let fixture = Fixture::v2();
    fixture.process(5, 1, "bash").session_leader(34816);
    fixture.process(7, 5, "worker");
    fixture.process(8, 5, "worker");
    assert!(is_ambiguous("worker", &fixture));
}

#[test]
fn a_parent_younger_than_its_child_is_none() {
    let fixture = Fixture::v2();
    fixture.process(5, 1, "node").start(5000);
    fixture.process(7, 5, "node").start(100);
    assert!(is_ambiguous("node", &fixture));
    // Two that claim to be each other's parents.
    let fixture = Fixture::v2();
    fixture.process(5, 7, "node").start(100);
    fixture.process(7, 5, "node").start(100);
    fixture.process(8, 8, "node").start(100);
    assert_eq!(pids(&one(&process("node"), &fixture.host).processes), [8]);
}

#[test]
fn all_keeps_each_to_its_own() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "node")
        .cgroup("0::/system.slice/a.service");
    fixture.process(8, 1, "node");
    fixture.process(5, 1, "super");
    fixture.process(20, 5, "node");
    fixture.process(21, 5, "node");
    let all = find(&process("node"), &fixture.host, true).unwrap();
    let names: Vec<_> = all.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["node (a.service)", "node (pid 20)", "node (pid 8)"]);
    let members = || -> Vec<_> {
        all.iter()
            .map(|found| pids(&found.members(&fixture.host)))
            .collect()
    };
    assert_eq!(members(), [vec![7], vec![20, 21], vec![8]]);
    assert_eq!(
        all.iter().map(Service::can_return).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert!(all.iter().all(|found| found.kernel_names().is_empty()));

    // The unit is restarted, the supervisor starts another worker, pid 8 is used again.
    fixture.exit(7);
    fixture.exit(8);
    fixture
        .process(30, 1, "node")
        .cgroup("0::/system.slice/a.service");
    fixture.process(31, 5, "node");
    fixture.process(8, 1, "node").start(99_999);
    assert_eq!(members(), [vec![30], vec![20, 21, 31], vec![]]);
    let accepts = |pid: u32| -> Vec<bool> {
        all.iter()
            .map(|found| found.accepts(&fixture.host, pid).is_some())
            .collect()
    };
    assert_eq!(accepts(30), [true, false, false]);
    assert_eq!(accepts(31), [false, true, false]);
    assert_eq!(accepts(8), [false, false, false]);
}

#[test]
fn accepts_by_any_name() {
    let fixture = Fixture::v2();
    fixture.process(7, 1, "node");
    let found = one(&process("node"), &fixture.host);
    fixture.process(8, 1, "x").exe("/usr/bin/node");
    fixture.process(9, 7, "helper");
    assert_eq!(found.accepts(&fixture.host, 8).unwrap().name, "x");
    assert_eq!(found.accepts(&fixture.host, 9), None);
}

#[test]
fn odd_entries_in_proc_are_skipped() {
    let fixture = Fixture::v2();
    fixture.directory("proc/77");
    fixture.directory("proc/self");
    fixture.file("proc/78/stat", "nonsense");
    fixture.file("proc/uptime", "1 2");
    fixture.process(7, 1, "node");
    fixture.exit(7);
    fixture.process(8, 1, "node");
    assert_eq!(pids(&one(&process("node"), &fixture.host).processes), [8]);
}

#[test]
fn no_arguments_are_shown() {
    let fixture = Fixture::v2();
    for pid in [7, 8] {
        fixture
            .process(pid, 1, "x")
            .args(&["tool", "--password=hunter2"]);
    }
    let shown = format!("{}", failure(&process("tool"), &fixture.host));
    let debug = format!("{:?}", find(&process("tool"), &fixture.host, true).unwrap());
    assert!(!shown.contains("hunter2") && !debug.contains("hunter2"));
}
