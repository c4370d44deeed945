use std::path::Path;

use super::fixture::Fixture;
use super::*;

fn id(digit: &str) -> String {
    digit.repeat(64 / digit.len())
}

fn container(name: &str) -> Target {
    Target::Container(name.to_owned())
}

fn docker_state(fixture: &Fixture, id: &str, name: &str) {
    let path = format!("var/lib/docker/containers/{id}/config.v2.json");
    fixture.file(
        &path,
        &format!(r#"{{"Name":"/{name}","Config":{{"Labels":{{}}}},"State":1}}"#),
    );
}

#[test]
fn every_layout() {
    let a = id("ab12");
    for path in [
        format!("0::/docker/{a}"),
        format!("0::/system.slice/docker-{a}.scope"),
        format!("0::/kubepods.slice/kubepods-podx.slice/cri-containerd-{a}.scope"),
        format!("0::/kubepods/burstable/pod0f/{a}"),
        format!("0::/system.slice/containerd.service/kubepods-pod0f.slice:cri-containerd:{a}"),
        format!("0::/default/{a}"),
        format!("0::/machine.slice/libpod-{a}.scope/container"),
        format!("0::/system.slice/web.service/libpod-payload-{a}"),
        format!("0::/libpod_parent/libpod-{a}"),
        format!("0::/kubepods.slice/crio-{a}.scope"),
        format!("4:memory:/docker/{a}\n1:name=systemd:/docker/{a}\n0::/"),
        format!("4:memory:/docker/{a}\n1:name=systemd:/\n0::/"),
    ] {
        let fixture = Fixture::hybrid();
        fixture.process(7, 1, "app").cgroup(&path);
        let found = one(&container("ab12"), &fixture.host);
        assert_eq!(found.rule, Rule::Container, "{path}");
        assert_eq!(found.name, "ab12ab12ab12");
        assert_eq!(pids(&found.members(&fixture.host)), [7]);
        assert!(found.accepts(&fixture.host, 7).is_some());
    }
}

#[test]
fn what_is_no_container() {
    let a = id("ab12");
    for path in [
        format!("0::/machine.slice/libpod-conmon-{a}.scope"),
        format!("0::/kubepods.slice/crio-conmon-{a}.scope"),
        format!("0::/docker/{}", &a[..32]),
        "0::/docker/buildkit".to_owned(),
        "0::/default/ab12".to_owned(),
    ] {
        let fixture = Fixture::v2();
        fixture.process(7, 1, "app").cgroup(&path);
        assert!(
            find(&container("ab12"), &fixture.host, false).is_err(),
            "{path}"
        );
    }
}

#[test]
fn docker_name_and_prefixes() {
    let fixture = Fixture::v2();
    let (a, b) = (id("abcd"), id("abce"));
    docker_state(&fixture, &a, "web");
    fixture
        .process(7, 1, "app")
        .cgroup(&format!("0::/docker/{a}"));
    fixture
        .process(8, 7, "app")
        .cgroup(&format!("0::/docker/{a}/nested"));
    fixture
        .process(9, 1, "app")
        .cgroup(&format!("0::/docker/{b}"));
    let found = one(&service("web"), &fixture.host);
    assert_eq!(found.name, "web");
    assert_eq!(
        found.why,
        format!("container abcdabcdabcd in cgroup /docker/{a}")
    );
    assert_eq!(pids(&found.processes), [7, 8]);
    assert_eq!(pids(&one(&container("abce"), &fixture.host).processes), [9]);
    assert_eq!(pids(&one(&container(&a), &fixture.host).processes), [7, 8]);
    // Three digits are too few, upper case is no id.
    for name in ["abc", "ABCD", ""] {
        let error = failure(&container(name), &fixture.host);
        assert!(matches!(error, AttachError::NotFound { .. }), "{name}");
    }
}

#[test]
fn a_prefix_of_several() {
    let fixture = Fixture::v2();
    for (pid, digit) in [(7, "abcdabcd"), (8, "abcdabce")] {
        fixture
            .process(pid, 1, "app")
            .cgroup(&format!("0::/docker/{}", id(digit)));
    }
    let AttachError::Ambiguous { candidates, .. } = failure(&container("abcd"), &fixture.host)
    else {
        panic!("ambiguous");
    };
    assert_eq!(candidates.len(), 2);
    assert_eq!(
        find(&container("abcd"), &fixture.host, true).unwrap().len(),
        2
    );
}

#[test]
fn made_anew_under_its_name() {
    let fixture = Fixture::v2();
    let (a, b) = (id("a"), id("b"));
    docker_state(&fixture, &a, "web");
    fixture.directory(&format!("cgroup/docker/{a}"));
    fixture
        .process(7, 1, "app")
        .cgroup(&format!("0::/docker/{a}"));
    let found = one(&service("web"), &fixture.host);
    assert_eq!(found.cgroup_ids(&fixture.host).len(), 1);

    fixture.exit(7);
    fixture.remove(&format!("cgroup/docker/{a}"));
    fixture.remove(&format!("var/lib/docker/containers/{a}"));
    assert_eq!(found.members(&fixture.host), []);
    assert_eq!(found.cgroup_ids(&fixture.host), Vec::<u64>::new());

    docker_state(&fixture, &b, "web");
    fixture.directory(&format!("cgroup/docker/{b}"));
    fixture
        .process(9, 1, "app")
        .cgroup(&format!("0::/docker/{b}"));
    fixture
        .process(10, 1, "app")
        .cgroup(&format!("0::/docker/{}", id("c")));
    assert_eq!(pids(&found.members(&fixture.host)), [9]);
    assert!(found.accepts(&fixture.host, 9).is_some());
    assert!(found.accepts(&fixture.host, 10).is_none());
    assert_eq!(found.cgroup_ids(&fixture.host).len(), 1);
}

#[test]
fn kubernetes_names() {
    let fixture = Fixture::v2();
    let annotations = |kind: &str, name: &str, pod: &str| {
        format!(
            r#"{{"ociVersion":"1","annotations":{{"io.kubernetes.cri.container-type":"{kind}",
            "io.kubernetes.cri.container-name":"{name}","io.kubernetes.cri.sandbox-name":"{pod}",
            "io.kubernetes.cri.sandbox-namespace":"prod"}}}}"#
        )
    };
    let tasks = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    for (pid, digit, kind, name, pod) in [
        (7, "a", "container", "api", "shop-1"),
        (8, "b", "sandbox", "", "shop-1"),
        (9, "c", "container", "api", "shop-2"),
        (10, "d", "container", "proxy", "shop-2"),
    ] {
        fixture.file(
            &format!("{tasks}/{}/config.json", id(digit)),
            &annotations(kind, name, pod),
        );
        let scope = format!("0::/kubepods.slice/cri-containerd-{}.scope", id(digit));
        fixture.process(pid, 1, "main").cgroup(&scope);
    }
    for (name, pid) in [
        ("proxy", 10),
        ("shop-1", 7),
        ("shop-2/api", 9),
        ("prod/shop-1/api", 7),
        ("bbbb", 8),
    ] {
        assert_eq!(
            pids(&one(&service(name), &fixture.host).processes),
            [pid],
            "{name}"
        );
    }
    for name in ["api", "shop-2"] {
        assert!(matches!(
            failure(&service(name), &fixture.host),
            AttachError::Ambiguous { .. }
        ));
    }
    // The sandbox does nothing: it is not listed.
    let names: Vec<_> = list(&fixture.host)
        .into_iter()
        .map(|found| found.name)
        .collect();
    assert_eq!(names, ["shop-1/api", "shop-2/api", "shop-2/proxy"]);
}

#[test]
fn podman_and_crio_names() {
    let fixture = Fixture::v2();
    let storage = "var/lib/containers/storage/overlay-containers";
    let stored = |digit: &str, name: &str| {
        format!(
            r#"[{{"id":"{}","names":["{name}"],"layer":"x","created":"t"}}]"#,
            id(digit)
        )
    };
    fixture.file(&format!("{storage}/containers.json"), &stored("a", "db"));
    fixture.file(
        &format!("{storage}/volatile-containers.json"),
        &stored("b", "once"),
    );
    fixture.file(
        &format!("{storage}/{}/userdata/config.json", id("c")),
        r#"{"annotations":{"io.kubernetes.container.name":"web","io.kubernetes.pod.name":"p",
        "io.kubernetes.pod.namespace":"n","io.kubernetes.cri-o.ContainerType":"container"}}"#,
    );
    for (pid, digit, prefix) in [(7, "a", "libpod"), (8, "b", "libpod"), (9, "c", "crio")] {
        let scope = format!("0::/machine.slice/{prefix}-{}.scope", id(digit));
        fixture.process(pid, 1, "main").cgroup(&scope);
    }
    for (name, pid) in [("db", 7), ("once", 8), ("web", 9), ("n/p/web", 9)] {
        assert_eq!(
            pids(&one(&container(name), &fixture.host).processes),
            [pid],
            "{name}"
        );
    }
}

#[test]
fn containerd_ids_that_are_names() {
    let fixture = Fixture::v2();
    let task = "run/containerd/io.containerd.runtime.v2.task/default/cache";
    fixture.file(&format!("{task}/config.json"), "{}");
    fixture.process(7, 1, "redis").cgroup("0::/default/cache");
    fixture.process(8, 1, "redis").cgroup("0::/default/other");
    let found = one(&service("cache"), &fixture.host);
    assert_eq!(
        (found.rule, pids(&found.processes)),
        (Rule::Container, vec![7])
    );
    assert_eq!(found.name, "cache");
}

#[test]
fn state_that_cannot_be_read_is_no_name() {
    let fixture = Fixture::v2();
    let a = id("a");
    let state = format!("var/lib/docker/containers/{a}/config.v2.json");
    for text in [
        "",
        "{",
        "[]",
        r#"{"Name":7}"#,
        r#"{"Name":null}"#,
        r#"{"Name":"/"}"#,
    ] {
        fixture.file(&state, text);
        fixture
            .process(7, 1, "app")
            .cgroup(&format!("0::/docker/{a}"));
        assert_eq!(
            one(&container("aaaa"), &fixture.host).name,
            "aaaaaaaaaaaa",
            "{text}"
        );
    }
}

#[test]
fn a_container_in_a_container() {
    let fixture = Fixture::v2();
    let (outer, inner) = (id("a"), id("b"));
    let kubelet = format!("/docker/{outer}/kubelet/cri-containerd-{inner}.scope");
    fixture
        .process(7, 1, "systemd")
        .cgroup(&format!("0::/docker/{outer}/init.scope"));
    fixture
        .process(8, 1, "app")
        .cgroup(&format!("0::{kubelet}"));
    assert_eq!(
        pids(&one(&container("aaaa"), &fixture.host).processes),
        [7, 8]
    );
    let found = one(&container("bbbb"), &fixture.host);
    assert_eq!(pids(&found.processes), [8]);
    assert_eq!(found.cgroup.as_deref(), Some(Path::new(&kubelet)));
}
