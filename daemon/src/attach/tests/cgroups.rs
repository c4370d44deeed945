use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use super::fixture::Fixture;
use super::*;
use crate::attach::Hierarchy;

fn cgroup(path: impl Into<PathBuf>) -> Target {
    Target::Cgroup(path.into())
}

#[test]
fn absolute_relative_and_inside() {
    let fixture = Fixture::v2();
    fixture.directory("cgroup/batch/jobs");
    fixture.process(7, 1, "a").cgroup("0::/batch/jobs");
    fixture.process(8, 1, "b").cgroup("0::/batch/jobs/deeper");
    fixture.process(9, 1, "c").cgroup("0::/batch/jobs2");
    let mounted = fixture.path("cgroup/batch/jobs");
    let inode = mounted.metadata().unwrap().ino();
    for path in [
        mounted,
        "/batch/jobs".into(),
        "batch/jobs".into(),
        "/batch/jobs/".into(),
        "./batch//jobs/.".into(),
    ] {
        let found = one(&cgroup(&path), &fixture.host);
        assert_eq!(found.rule, Rule::Cgroup, "{path:?}");
        assert_eq!(
            found.cgroup.as_deref(),
            Some("/batch/jobs".as_ref()),
            "{path:?}"
        );
        assert_eq!(found.name, "jobs");
        assert_eq!(pids(&found.processes), [7, 8]);
        assert_eq!(found.cgroup_ids(&fixture.host), [inode]);
    }
}

#[test]
fn the_root_holds_everything() {
    let fixture = Fixture::v2();
    fixture.process(7, 1, "a").cgroup("0::/batch/jobs");
    for path in ["/".into(), fixture.path("cgroup")] {
        let found = one(&cgroup(path), &fixture.host);
        assert_eq!(
            (found.name.as_str(), pids(&found.processes)),
            ("/", vec![7])
        );
    }
}

#[test]
fn an_empty_cgroup_is_found() {
    let fixture = Fixture::v2();
    fixture.directory("cgroup/soon");
    assert_eq!(one(&cgroup("soon"), &fixture.host).processes, []);
}

#[test]
fn no_such_cgroup() {
    let fixture = Fixture::v2();
    fixture.directory("outside");
    fixture.file("cgroup/file", "");
    for path in ["/absent", "", "../outside", "/file", "/../outside"] {
        let error = failure(&cgroup(path), &fixture.host);
        assert!(
            matches!(error, AttachError::NoSuchCgroup { .. }),
            "{path}: {error}"
        );
        assert!(error.may_appear());
        assert!(error.to_string().contains("looked below"), "{error}");
    }
}

#[test]
fn a_v1_controller_that_alone_knows_the_cgroup() {
    let fixture = Fixture::hybrid();
    fixture.directory("cgroup/memory/batch");
    fixture
        .process(7, 1, "a")
        .cgroup("4:memory:/batch\n1:name=systemd:/\n0::/");
    fixture
        .process(8, 1, "b")
        .cgroup("4:memory:/\n1:name=systemd:/batch\n0::/");
    // The link that systemd makes for each controller of a shared hierarchy.
    symlink("memory", fixture.path("cgroup/mem")).unwrap();
    for path in ["/batch".into(), fixture.path("cgroup/mem/batch")] {
        let found = one(&cgroup(path), &fixture.host);
        assert_eq!(pids(&found.members(&fixture.host)), [7]);
        assert_eq!(found.cgroup_ids(&fixture.host), Vec::<u64>::new());
    }
}

#[test]
fn mounts_of_all_setups() {
    let systemd = "24 1 0:21 / /proc rw - proc proc rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        50 31 0:38 /docker/x /var/bind/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
        broken - cgroup line\n";
    assert_eq!(
        Hierarchy::mounted(systemd),
        [
            Hierarchy::v2("/sys/fs/cgroup/unified"),
            Hierarchy::v1("/sys/fs/cgroup/systemd", &["name=systemd"]),
            Hierarchy::v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
        ]
    );
    assert_eq!(Hierarchy::mounted(""), []);
}

#[test]
fn in_a_container_the_mount_shows_a_part() {
    let mut fixture = Fixture::v2();
    fixture.host.cgroups[0].root = "/docker/x".to_owned();
    fixture.directory("cgroup/part");
    fixture.process(7, 1, "a").cgroup("0::/docker/x/part");
    let found = one(&cgroup(fixture.path("cgroup/part")), &fixture.host);
    assert_eq!(found.cgroup.as_deref(), Some("/docker/x/part".as_ref()));
    assert_eq!(pids(&found.processes), [7]);
    assert_eq!(found.cgroup_ids(&fixture.host).len(), 1);
    let found = one(&cgroup(fixture.path("cgroup")), &fixture.host);
    assert_eq!(found.cgroup.as_deref(), Some("/docker/x".as_ref()));
}
