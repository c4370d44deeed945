use super::super::owner;
use super::fixture::Fixture;

/// A process in this cgroup, and whose it is.
fn owner_in(fixture: &Fixture, cgroup: &str) -> Option<String> {
    fixture.process(7, 1, "app").cgroup(cgroup);
    owner(&fixture.host, 7)
}

#[test]
fn the_innermost_unit_or_container() {
    let id = "ab12".repeat(16);
    let user = "/user.slice/user-1000.slice/user@1000.service";
    for (cgroup, expected) in [
        ("0::/system.slice/redis.service".to_owned(), "redis.service"),
        (
            format!("0::{user}/app.slice/tool.service/worker"),
            "tool.service",
        ),
        (
            format!("0::/system.slice/docker-{id}.scope"),
            "ab12ab12ab12",
        ),
        (format!("0::/docker/{id}\n1:name=systemd:/"), "ab12ab12ab12"),
        (
            "4:memory:/\n1:name=systemd:/system.slice/cron.service\n0::/".to_owned(),
            "cron.service",
        ),
        // By hand, so that nothing smaller makes it one with others.
        (
            "0::/user.slice/user-0.slice/session-3.scope".to_owned(),
            "session-3.scope",
        ),
    ] {
        let found = owner_in(&Fixture::hybrid(), &cgroup);
        assert_eq!(found.as_deref(), Some(expected), "{cgroup}");
    }
}

#[test]
fn a_container_by_its_name() {
    let (fixture, id) = (Fixture::v2(), "ab12".repeat(16));
    fixture.file(
        &format!("var/lib/docker/containers/{id}/config.v2.json"),
        r#"{"Name":"/cache","Config":{"Labels":{}},"State":1}"#,
    );
    let found = owner_in(&fixture, &format!("0::/system.slice/docker-{id}.scope"));
    assert_eq!(found.as_deref(), Some("cache"));
}

#[test]
fn nothing_of_what_is_gone_or_in_none() {
    let fixture = Fixture::v2();
    assert_eq!(owner(&fixture.host, 7), None);
    assert_eq!(owner_in(&fixture, "0::/"), None);
}
