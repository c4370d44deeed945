use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::fixture::Fixture;
use super::*;

const NGINX: &str = "0::/system.slice/nginx.service";

#[test]
fn unit_by_name_with_and_without_suffix() {
    let fixture = Fixture::v2();
    fixture.process(812, 1, "nginx").cgroup(NGINX);
    fixture.process(813, 812, "nginx").cgroup(NGINX);
    fixture
        .process(814, 1, "logger")
        .cgroup("0::/system.slice/nginx.service/helpers");
    fixture
        .process(815, 1, "nginx")
        .cgroup("0::/system.slice/nginx.service-old");
    for name in ["nginx", "nginx.service"] {
        let found = one(&service(name), &fixture.host);
        assert_eq!(found.rule, Rule::Unit);
        assert_eq!(found.name, "nginx.service");
        assert_eq!(
            found.cgroup.as_deref(),
            Some(Path::new("/system.slice/nginx.service"))
        );
        assert_eq!(found.why, "cgroup /system.slice/nginx.service");
        assert_eq!(pids(&found.processes), [812, 813, 814]);
        assert_eq!(found.members(&fixture.host), found.processes);
        assert_eq!(found.kernel_names(), Vec::<[u8; 16]>::new());
        assert!(found.can_return());
    }
}

#[test]
fn other_suffixes_are_literal() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "job")
        .cgroup("0::/system.slice/run-r1.scope");
    fixture
        .process(8, 1, "x")
        .cgroup("0::/machine.slice/x.service");
    assert_eq!(
        one(&service("run-r1.scope"), &fixture.host).name,
        "run-r1.scope"
    );
    assert_eq!(
        pids(&one(&service("machine.slice"), &fixture.host).processes),
        [8]
    );
    assert!(matches!(
        failure(&service("x.socket"), &fixture.host),
        AttachError::NotFound { .. }
    ));
}

#[test]
fn escaped_unit() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "x")
        .cgroup("0::/system.slice/_cpu.service");
    assert_eq!(one(&service("cpu"), &fixture.host).name, "cpu.service");
}

#[test]
fn unit_before_process() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "redis")
        .cgroup("0::/user.slice/user-0.slice/session-1.scope");
    fixture
        .process(8, 1, "redis")
        .cgroup("0::/system.slice/redis.service");
    assert_eq!(pids(&one(&service("redis"), &fixture.host).processes), [8]);
    assert!(matches!(
        failure(&Target::Process("redis".into()), &fixture.host),
        AttachError::Ambiguous { .. }
    ));
}

#[test]
fn one_name_under_two_managers() {
    let fixture = Fixture::v2();
    let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service";
    fixture
        .process(7, 1, "sync")
        .cgroup("0::/system.slice/sync.service");
    fixture.process(8, 6, "sync").cgroup(user);
    let error = failure(&service("sync"), &fixture.host);
    assert!(error.is_usage());
    assert_eq!(
        error.to_string(),
        "more than one service named \"sync\" (2 different services):\n  \
         unit sync.service: pid 7, cgroup /system.slice/sync.service\n  \
         unit sync.service: pid 8, cgroup \
         /user.slice/user-1000.slice/user@1000.service/app.slice/sync.service\n\
         use --all to take all of them, or --pid/--cgroup to choose one"
    );
    let all = find(&service("sync"), &fixture.host, true).unwrap();
    let members: Vec<_> = all
        .iter()
        .map(|found| pids(&found.members(&fixture.host)))
        .collect();
    assert_eq!(members, [[7], [8]]);
    let names: Vec<_> = all.iter().map(|found| found.name.as_str()).collect();
    let user =
        "sync.service (/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service)";
    assert_eq!(names, ["sync.service (/system.slice/sync.service)", user]);
}

#[test]
fn v2_id_is_the_inode_and_changes_with_a_restart() {
    let fixture = Fixture::v2();
    let directory = "cgroup/system.slice/nginx.service";
    fixture.directory(directory);
    fixture.process(812, 1, "nginx").cgroup(NGINX);
    let found = one(&service("nginx"), &fixture.host);
    let inode = || fixture.path(directory).metadata().unwrap().ino();
    assert_eq!(found.cgroup_ids(&fixture.host), [inode()]);

    fixture.remove(directory);
    fixture.exit(812);
    assert_eq!(found.cgroup_ids(&fixture.host), Vec::<u64>::new());
    assert_eq!(found.members(&fixture.host), []);

    // Something else takes the inode number before the unit is back.
    fixture.directory("cgroup/system.slice/other.service");
    fixture.directory(directory);
    fixture.process(900, 1, "nginx").cgroup(NGINX);
    assert_eq!(found.cgroup_ids(&fixture.host), [inode()]);
    assert_eq!(pids(&found.members(&fixture.host)), [900]);
}

#[test]
fn hybrid_prefers_v2() {
    let fixture = Fixture::hybrid();
    fixture.directory("cgroup/unified/system.slice/a.service");
    fixture
        .process(7, 1, "a")
        .cgroup("3:memory:/\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service");
    let found = one(&service("a"), &fixture.host);
    assert_eq!(found.cgroup_ids(&fixture.host).len(), 1);
}

#[test]
fn without_v2_there_is_no_id() {
    for fixture in [Fixture::hybrid(), Fixture::v1()] {
        fixture.directory("cgroup/systemd/system.slice/a.service");
        fixture
            .process(7, 1, "a")
            .cgroup("3:memory:/\n1:name=systemd:/system.slice/a.service");
        let found = one(&service("a"), &fixture.host);
        assert_eq!(found.rule, Rule::Unit);
        assert_eq!(pids(&found.members(&fixture.host)), [7]);
        assert_eq!(found.cgroup_ids(&fixture.host), Vec::<u64>::new());
    }
}

#[test]
fn accepts_by_cgroup() {
    let fixture = Fixture::v2();
    fixture.process(812, 1, "nginx").cgroup(NGINX);
    let found = one(&service("nginx"), &fixture.host);
    fixture
        .process(900, 1, "anything")
        .cgroup("0::/system.slice/nginx.service/x");
    fixture
        .process(901, 812, "nginx")
        .cgroup("0::/system.slice/other.service");
    assert_eq!(found.accepts(&fixture.host, 900).unwrap().pid, 900);
    assert_eq!(found.accepts(&fixture.host, 901), None);
    assert_eq!(found.accepts(&fixture.host, 902), None);
}

#[test]
fn a_unit_of_slowburn_alone_is_nothing() {
    let mut fixture = Fixture::v2();
    fixture
        .process(50, 1, "slowburn")
        .cgroup("0::/system.slice/slowburn.service");
    fixture.host.own_pids = vec![50];
    assert!(matches!(
        failure(&service("slowburn"), &fixture.host),
        AttachError::NotFound { .. }
    ));
    // Another rule may find something under that name.
    fixture.process(60, 1, "slowburn");
    assert_eq!(one(&service("slowburn"), &fixture.host).rule, Rule::Process);
    fixture.exit(60);
    // With something else in it, it is not slowburn that is watched.
    let helper = fixture.process(51, 50, "x");
    helper.cgroup("0::/system.slice/slowburn.service");
    assert_eq!(
        pids(&one(&service("slowburn"), &fixture.host).processes),
        [51]
    );
}

#[test]
fn members_from_the_cgroups_own_list() {
    let fixture = Fixture::hybrid();
    let unit = "system.slice/a.service";
    fixture
        .process(7, 1, "a")
        .cgroup("1:name=systemd:/system.slice/a.service\n0::/");
    let found = one(&service("a"), &fixture.host);
    for pid in [8, 9, 10, 12] {
        fixture.process(pid, 1, "a");
    }
    fixture.process(11, 1, "a").zombie(1);
    // 0 is a process of another pid namespace, 13 has just gone.
    fixture.file(
        &format!("cgroup/systemd/{unit}/cgroup.procs"),
        "0\n7\n8\n13\n11\n",
    );
    fixture.file(
        &format!("cgroup/systemd/{unit}/deeper/still/cgroup.procs"),
        "9\n",
    );
    fixture.file(&format!("cgroup/systemd/{unit}/deeper/cgroup.procs"), "8\n");
    fixture.file(&format!("cgroup/memory/{unit}/cgroup.procs"), "10\n");
    fixture.file("cgroup/systemd/system.slice/b.service/cgroup.procs", "12\n");
    assert_eq!(pids(&found.members(&fixture.host)), [7, 8, 9, 10]);
    // A list that cannot be read (a threaded cgroup has none): every process is asked.
    fixture.remove(&format!("cgroup/memory/{unit}"));
    fixture.directory(&format!("cgroup/memory/{unit}"));
    assert_eq!(pids(&found.members(&fixture.host)), [7]);
}

#[test]
fn waiting_for_a_unit() {
    let fixture = Fixture::v2();
    let target = service("nginx");
    assert!(poll(&target, &fixture.host, false).unwrap().is_none());
    assert_eq!(target.kernel_names(), [*b"nginx\0\0\0\0\0\0\0\0\0\0\0"]);
    let cgroup = Target::Cgroup("/system.slice/nginx.service".into());
    assert!(poll(&cgroup, &fixture.host, false).unwrap().is_none());
    fixture.directory("cgroup/system.slice/nginx.service");
    assert!(poll(&cgroup, &fixture.host, false).unwrap().is_some());
    fixture.process(7, 1, "nginx").cgroup(NGINX);
    assert_eq!(
        poll(&target, &fixture.host, false).unwrap().unwrap()[0].rule,
        Rule::Unit
    );
    assert!(poll(&Target::Pids(vec![99]), &fixture.host, false).is_err());
}

#[test]
fn not_found_suggests() {
    let fixture = Fixture::v2();
    fixture
        .process(7, 1, "postgres")
        .cgroup("0::/system.slice/postgresql.service");
    let error = failure(&Target::Unit("pg".into()), &fixture.host);
    assert_eq!(
        error.to_string(),
        "no running unit named \"pg\" (did you mean \"postgresql.service\"?)"
    );
    assert!(error.may_appear() && !error.is_usage());
    let error = failure(&service("zookeeper"), &fixture.host);
    assert_eq!(
        error.to_string(),
        "no service named \"zookeeper\"; `slowburn services` lists what can be attached to"
    );
}

#[test]
fn list_has_units_then_containers_then_the_rest() {
    let mut fixture = Fixture::v2();
    let id = "a".repeat(64);
    fixture.process(1, 0, "systemd").cgroup("0::/init.scope");
    fixture.process(7, 1, "nginx").cgroup(NGINX);
    fixture
        .process(8, 1, "sleep")
        .cgroup(&format!("0::/system.slice/docker-{id}.scope"));
    let session = "0::/user.slice/user-0.slice/session-1.scope";
    fixture.process(9, 1, "server").cgroup(session);
    fixture.process(10, 9, "worker").cgroup(session);
    fixture.process(11, 1, "bash").cgroup(session);
    fixture.process(12, 11, "slowburn").cgroup(session);
    fixture.process(13, 2, "kworker").kernel_thread();
    fixture.host.own_pids = vec![12, 11];
    let found = list(&fixture.host);
    let names: Vec<_> = found
        .iter()
        .map(|found| (found.rule, found.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            (Rule::Unit, "nginx.service"),
            (Rule::Container, "aaaaaaaaaaaa"),
            (Rule::Process, "server"),
            (Rule::Process, "worker"),
        ]
    );
    assert_eq!(pids(&found[2].processes), [9, 10]);
}

#[test]
fn instances_of_a_template() {
    let fixture = Fixture::v2();
    let slice = "0::/system.slice/system-job.slice";
    for (pid, instance) in [(7, "a"), (8, "b-c")] {
        let process = fixture.process(pid, 1, "job");
        process.cgroup(&format!("{slice}/job@{instance}.service"));
    }
    assert_eq!(pids(&one(&service("job@a"), &fixture.host).processes), [7]);
    for template in ["job@", "job@.service"] {
        let said = failure(&service(template), &fixture.host).to_string();
        assert!(said.contains("unit job@a.service: pid 7,"), "{said}");
        assert!(said.contains("unit job@b-c.service: pid 8,"), "{said}");
        let all = find(&service(template), &fixture.host, true).unwrap();
        let names: Vec<_> = all.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["job@a.service", "job@b-c.service"]);
    }
    fixture.exit(7);
    assert_eq!(pids(&one(&service("job@"), &fixture.host).processes), [8]);
}

#[test]
fn names_are_shown_so_that_they_can_be_copied() {
    let fixture = Fixture::v2();
    let process = fixture.process(7, 1, "x");
    process.cgroup("0::/system.slice/a\\x2db.service");
    let found = one(&service("a\\x2db"), &fixture.host);
    assert_eq!(found.why, "cgroup /system.slice/a\\x2db.service");
    let process = fixture.process(8, 1, "x");
    process.cgroup("0::/system.slice/a\u{1b}[2Jb.service");
    let found = one(&service("a\u{1b}[2Jb"), &fixture.host);
    assert_eq!(found.why, "cgroup /system.slice/a\\u{1b}[2Jb.service");
}

/// A unit with a file, and names that are links to it.
fn nginx() -> Fixture {
    let fixture = Fixture::v2();
    fixture.process(812, 1, "nginx").cgroup(NGINX);
    fixture.file("usr/lib/systemd/system/nginx.service", "[Service]\n");
    fixture
}

#[test]
fn aliases_in_every_place() {
    const FILE: &str = "usr/lib/systemd/system/nginx.service";
    for directory in [
        "etc/systemd/system",
        "run/systemd/system",
        "usr/local/lib/systemd/system",
        "usr/lib/systemd/system",
    ] {
        let up = "../".repeat(directory.split('/').count());
        for target in [format!("/{FILE}"), format!("{up}{FILE}")] {
            let fixture = nginx();
            fixture.link(&format!("{directory}/web.service"), &target);
            for name in ["web", "web.service"] {
                let found = one(&service(name), &fixture.host);
                assert_eq!(found.name, "nginx.service", "{directory} {target}");
                assert_eq!(found.rule, Rule::Unit);
                assert_eq!(
                    found.why,
                    "alias \"web.service\", cgroup /system.slice/nginx.service"
                );
                assert_eq!(pids(&found.processes), [812]);
            }
        }
    }
}

#[test]
fn chains_and_circles_of_aliases() {
    let fixture = nginx();
    let directory = "etc/systemd/system";
    for (name, target) in [
        ("web", "/usr/lib/systemd/system/nginx.service"),
        ("www", "web.service"),
        ("one", "two.service"),
        ("two", "one.service"),
        ("self", "self.service"),
        ("gone", "/nowhere/gone.service"),
    ] {
        fixture.link(&format!("{directory}/{name}.service"), target);
    }
    assert_eq!(one(&service("www"), &fixture.host).name, "nginx.service");
    for name in ["one", "self", "gone", "../system/web", "nothing"] {
        assert!(
            find(&service(name), &fixture.host, false).is_err(),
            "{name}"
        );
    }
}

/// The first directory decides, and a link out of all of them gives a file another place, not a unit another name.
#[test]
fn what_is_no_alias() {
    let fixture = nginx();
    fixture.file("etc/systemd/system/web.service", "[Service]\n");
    fixture.link(
        "run/systemd/system/web.service",
        "/usr/lib/systemd/system/nginx.service",
    );
    fixture.file("opt/own.service", "[Service]\n");
    fixture.link("etc/systemd/system/linked.service", "/opt/own.service");
    let process = fixture.process(7, 1, "x");
    process.cgroup("0::/system.slice/own.service");
    for name in ["web", "linked"] {
        let said = failure(&service(name), &fixture.host).to_string();
        assert!(said.contains("is not running"), "{said}");
    }
    let process = fixture.process(8, 1, "x");
    process.cgroup("0::/system.slice/linked.service");
    let found = one(&service("linked"), &fixture.host);
    assert_eq!(found.why, "cgroup /system.slice/linked.service");
}

#[test]
fn aliases_of_templates() {
    let fixture = Fixture::v2();
    fixture.file("usr/lib/systemd/system/real@.service", "[Service]\n");
    fixture.link(
        "etc/systemd/system/other@.service",
        "/usr/lib/systemd/system/real@.service",
    );
    fixture.link(
        "etc/systemd/system/default.service",
        "/usr/lib/systemd/system/real@x.service",
    );
    for (pid, instance) in [(7, "x"), (8, "y")] {
        let process = fixture.process(pid, 1, "job");
        process.cgroup(&format!(
            "0::/system.slice/system-real.slice/real@{instance}.service"
        ));
    }
    assert_eq!(
        pids(&one(&service("other@x"), &fixture.host).processes),
        [7]
    );
    assert_eq!(
        pids(&one(&service("default"), &fixture.host).processes),
        [7]
    );
    assert!(failure(&service("other@"), &fixture.host).is_usage());
    let said = failure(&service("other@z"), &fixture.host).to_string();
    assert!(
        said.contains("real@z.service") && said.contains("is not running"),
        "{said}"
    );
}

#[test]
fn units_of_users() {
    let fixture = Fixture::v2();
    fixture.file(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\ntester:x:1000:1000::/home/tester:/bin/sh\n",
    );
    let user = |uid: u32| format!("0::/user.slice/user-{uid}.slice/user@{uid}.service");
    for uid in [1000, 1001] {
        let process = fixture.process(uid, 1, "systemd");
        process.cgroup(&format!("{}/init.scope", user(uid)));
        let process = fixture.process(uid + 10, uid, "sync");
        process.cgroup(&format!("{}/app.slice/sync{uid}.service", user(uid)));
    }
    let found = one(&service("sync1000"), &fixture.host);
    assert!(
        found
            .why
            .ends_with("/app.slice/sync1000.service, user tester (uid 1000)"),
        "{}",
        found.why
    );
    let found = one(&service("sync1001"), &fixture.host);
    assert!(
        found.why.ends_with(", the user with uid 1001"),
        "{}",
        found.why
    );
    // Only the manager that reads a link knows the name.
    fixture.file(
        "home/tester/.config/systemd/user/sync1000.service",
        "[Service]\n",
    );
    fixture.link(
        "home/tester/.config/systemd/user/s.service",
        "sync1000.service",
    );
    fixture.link("etc/systemd/system/t.service", "sync1000.service");
    fixture.file("etc/systemd/system/sync1000.service", "[Service]\n");
    let found = one(&service("s"), &fixture.host);
    assert!(
        found
            .why
            .starts_with("alias \"s.service\", cgroup /user.slice/"),
        "{}",
        found.why
    );
    let said = failure(&service("t"), &fixture.host).to_string();
    assert!(
        said.contains("`systemctl start sync1000.service`"),
        "{said}"
    );
    // The manager itself is a unit of the system.
    assert_eq!(
        one(&service("user@1000"), &fixture.host).why,
        "cgroup /user.slice/user-1000.slice/user@1000.service"
    );
    fixture.file("run/user/1000/systemd/user/asleep.service", "[Service]\n");
    let said = failure(&service("asleep"), &fixture.host).to_string();
    assert!(
        said.contains("`systemctl --user start asleep.service`"),
        "{said}"
    );
}

#[test]
fn units_that_do_not_run() {
    let fixture = Fixture::v2();
    fixture.file("usr/lib/systemd/system/nginx.service", "[Service]\n");
    fixture.link(
        "etc/systemd/system/web.service",
        "/usr/lib/systemd/system/nginx.service",
    );
    let path = fixture.path("usr/lib/systemd/system/nginx.service");
    let path = path.display();
    for name in ["nginx", "web"] {
        let error = failure(&Target::Unit(name.into()), &fixture.host);
        assert_eq!(
            error.to_string(),
            format!(
                "no running unit named {name:?}: nginx.service ({path}) is not running; \
                 `systemctl start nginx.service` starts it, --wait waits for it"
            )
        );
        assert!(error.may_appear() && !error.is_usage());
    }
    fixture.file("usr/lib/systemd/system/job@.service", "[Service]\n");
    let said = failure(&service("job@"), &fixture.host).to_string();
    assert!(
        said.contains("`systemctl start job@NAME.service` starts one"),
        "{said}"
    );
    fixture.link("etc/systemd/system/cron.service", "/dev/null");
    fixture.file("etc/systemd/system/atd.service", "");
    for name in ["cron", "atd"] {
        let said = failure(&service(name), &fixture.host).to_string();
        assert!(
            said.contains("is masked and cannot be started; `systemctl unmask "),
            "{said}"
        );
    }
    // What runs comes first, whatever the files say.
    let process = fixture.process(7, 1, "x");
    process.cgroup("0::/system.slice/cron.service");
    assert_eq!(one(&service("cron"), &fixture.host).rule, Rule::Unit);
    // A process may be called like a unit that does not run.
    fixture.process(8, 1, "nginx");
    assert_eq!(one(&service("nginx"), &fixture.host).rule, Rule::Process);
}

#[test]
fn a_unit_whose_cgroup_was_just_made() {
    let user = "user.slice/user-1000.slice/user@1000.service";
    for (fixture, mount) in [
        (Fixture::v2(), "cgroup"),
        (Fixture::hybrid(), "cgroup/unified"),
    ] {
        fixture.file("usr/lib/systemd/system/nginx.service", "[Service]\n");
        fixture.link(
            "etc/systemd/system/web.service",
            "/usr/lib/systemd/system/nginx.service",
        );
        fixture.directory(&format!("{mount}/system.slice/other.service/nginx.service"));
        let made = |name: &str| -> Vec<String> {
            let found = begun(&service(name), &fixture.host);
            found.iter().map(|service| service.why.clone()).collect()
        };
        assert_eq!(
            made("nginx"),
            Vec::<String>::new(),
            "not below another service"
        );
        fixture.directory(&format!("{mount}/system.slice/nginx.service"));
        assert_eq!(made("nginx"), ["cgroup /system.slice/nginx.service"]);
        assert_eq!(
            made("web"),
            ["alias \"web.service\", cgroup /system.slice/nginx.service"]
        );
        assert!(begun(&Target::Process("nginx".into()), &fixture.host).is_empty());
        fixture.directory(&format!("{mount}/{user}/app.slice/nginx.service"));
        assert_eq!(made("nginx").len(), 2);
        assert_eq!(
            made("web").len(),
            1,
            "the user's manager knows no such name"
        );
        let found = begun(&service("nginx.service"), &fixture.host).remove(0);
        assert_eq!(found.cgroup_ids(&fixture.host).len(), 1);
        assert_eq!(found.processes, []);
    }
    assert!(begun(&service("nginx"), &Fixture::v1().host).is_empty());
}

#[test]
fn where_cgroups_are_made() {
    let fixture = Fixture::v2();
    for directory in [
        "cgroup/system.slice/system-job.slice/job@a.service/below.slice",
        "cgroup/user.slice/user-7.slice/user@7.service/app.slice",
        "cgroup/init.scope",
    ] {
        fixture.directory(directory);
    }
    let mut found = nurseries(&fixture.host);
    found.sort();
    let expected = [
        "cgroup",
        "cgroup/system.slice",
        "cgroup/system.slice/system-job.slice",
        "cgroup/user.slice",
        "cgroup/user.slice/user-7.slice",
        "cgroup/user.slice/user-7.slice/user@7.service",
        "cgroup/user.slice/user-7.slice/user@7.service/app.slice",
    ];
    assert_eq!(found, expected.map(|path| fixture.path(path)));
    // Of a service that is gone, with its slice: as deep as there are directories.
    let process = fixture.process(7, 1, "job");
    process.cgroup("0::/system.slice/system-x.slice/x@a.service");
    let unit = one(&service("x@a"), &fixture.host);
    let mut above = unit.nurseries(&fixture.host);
    above.sort();
    assert_eq!(
        above,
        ["cgroup", "cgroup/system.slice"].map(|path| fixture.path(path))
    );
    assert!(nurseries(&Fixture::v1().host).is_empty());
}

#[test]
fn hears_of_new_cgroups() {
    let directory = tempfile::tempdir().unwrap();
    let watch = CgroupWatch::new().unwrap();
    let descriptor = watch.descriptor().unwrap();
    let is_heard = || rustix::io::read(&descriptor, &mut [0_u8; 256]).is_ok();
    watch.watch([directory.path().to_owned(), directory.path().join("gone")]);
    assert!(!is_heard());
    let make = |name: &str| std::fs::create_dir(directory.path().join(name)).unwrap();
    make("a");
    assert!(is_heard());
    make("b");
    watch.clear();
    assert!(!is_heard(), "it was cleared");
}
