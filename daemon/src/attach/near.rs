//! What the user may have meant: names of running things that look like the one that was not found.

use std::collections::BTreeSet;

use super::cgroup;
use super::container;
use super::host::Host;
use super::process::{self, Snapshot};
use super::target::Target;

/// More suggestions than this are no help.
const SUGGESTIONS: usize = 3;

/// Below this, the Jaro–Winkler similarity of two names is chance.
const SIMILAR: f64 = 0.82;

/// The names that look most like the target, best first.
pub(super) fn suggestions(target: &Target, host: &Host, snapshot: &Snapshot) -> Vec<String> {
    let (wanted, candidates) = match target {
        Target::Unit(name) => (name, units(host, snapshot)),
        Target::Container(name) => (name, containers(host, snapshot)),
        Target::Process(name) => (name, processes(host, snapshot)),
        Target::Service(name) => {
            let mut all = units(host, snapshot);
            all.append(&mut containers(host, snapshot));
            all.append(&mut processes(host, snapshot));
            (name, all)
        }
        Target::Cgroup(_) | Target::Pids(_) => return Vec::new(),
    };
    best(wanted, candidates)
}

pub(crate) fn best(wanted: &str, candidates: BTreeSet<String>) -> Vec<String> {
    let scored = candidates
        .into_iter()
        .filter_map(|name| Some((score(wanted, &name)?, name)));
    let mut scored: Vec<(f64, String)> = scored.collect();
    // Of equals the longer one: `nginx.service` before `nginx`.
    scored.sort_by(|(score, name), (other_score, other)| {
        let by_score = other_score.total_cmp(score);
        by_score
            .then(other.len().cmp(&name.len()))
            .then(name.cmp(other))
    });
    // The other one then says nothing new: the name would find the unit.
    let mut names: Vec<String> = Vec::new();
    for (_, name) in scored {
        if !names.iter().any(|known| stem(known) == stem(&name)) {
            names.push(name);
        }
    }
    names.truncate(SUGGESTIONS);
    names
}

fn units(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let paths = cgroup::service_units(host, snapshot).into_keys();
    paths
        .filter_map(|path| Some(cgroup::unescape(path.rsplit('/').next()?).to_owned()))
        .collect()
}

fn containers(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let running = container::running(host, snapshot).into_iter();
    running
        .filter(|found| !found.is_sandbox())
        .map(|found| found.display_name())
        .collect()
}

fn processes(host: &Host, snapshot: &Snapshot) -> BTreeSet<String> {
    let others = snapshot
        .processes
        .iter()
        .filter(|(pid, _)| !host.is_own(**pid));
    others
        .flat_map(|(pid, process)| {
            // The executable's name is the whole one where comm is cut.
            [
                Some(process.stat.found.name.clone()),
                process::executable(host, *pid),
            ]
        })
        .flatten()
        .collect()
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".service")
        .or_else(|| name.strip_suffix(".scope"))
        .unwrap_or(name)
}

/// How much a name looks like the wanted one, between 0 and 1: an abbreviation (`pg` for
/// `postgres`), a part (`redis` for `redis-server`), or a slip of the finger.
fn score(wanted: &str, name: &str) -> Option<f64> {
    let wanted = stem(wanted).to_lowercase();
    let name = stem(name).to_lowercase();
    if wanted.is_empty() || name.is_empty() {
        return None;
    }
    let (short, long) = if wanted.len() <= name.len() {
        (&wanted, &name)
    } else {
        (&name, &wanted)
    };
    let share = short.len() as f64 / long.len() as f64;
    // One letter is the beginning of everything.
    let long_enough = short.len() > 1;
    let contained = if long_enough && long.starts_with(short.as_str()) {
        0.9 + share / 10.0
    } else if short.len() > 2 && long.contains(short.as_str()) {
        0.8 + share / 10.0
    } else {
        0.0
    };
    // The parts of a compound name count for themselves, a little less than the whole.
    let parts = name.split(['-', '_', '@', '.', '/']);
    let similarity = parts
        .filter(|part| part.len() > 2)
        .map(|part| strsim::jaro_winkler(&wanted, part) - 0.01)
        .fold(strsim::jaro_winkler(&wanted, &name), f64::max);
    let similar = if similarity >= SIMILAR {
        similarity
    } else {
        0.0
    };
    let abbreviated = abbreviation(&wanted, &name).unwrap_or(0.0);
    let score = contained.max(similar).max(abbreviated);
    (score > 0.0).then_some(score)
}

/// All letters in order, the first one first: the closer together, the better.
fn abbreviation(short: &str, long: &str) -> Option<f64> {
    if short.len() < 2 || short.as_bytes()[0] != long.as_bytes()[0] {
        return None;
    }
    let mut letters = long.char_indices();
    let mut end = 0;
    for wanted in short.chars() {
        end = letters.find(|(_, letter)| *letter == wanted)?.0 + 1;
    }
    Some(0.5 + 0.3 * short.len() as f64 / end as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: [&str; 14] = [
        "postgresql@14-main.service",
        "postgres",
        "nginx.service",
        "nginx",
        "redis-server",
        "packagekitd",
        "ssh.service",
        "sshd",
        "systemd-journald.service",
        "systemd",
        "cron.service",
        "dockerd",
        "mysqld",
        "bash",
    ];

    fn near(wanted: &str) -> Vec<String> {
        best(wanted, RUNNING.map(str::to_owned).into())
    }

    #[test]
    fn abbreviations_typos_parts() {
        for (wanted, first) in [
            ("pg", "postgresql@14-main.service"),
            ("postgresql", "postgresql@14-main.service"),
            ("ngnix", "nginx.service"),
            ("NGINX", "nginx.service"),
            ("redis", "redis-server"),
            ("reids", "redis-server"),
            ("journald", "systemd-journald.service"),
            ("mysql", "mysqld"),
            ("docker", "dockerd"),
            ("docker.service", "dockerd"),
        ] {
            assert_eq!(
                near(wanted).first().map(String::as_str),
                Some(first),
                "{wanted}: {:?}",
                near(wanted)
            );
        }
    }

    #[test]
    fn nothing_where_nothing_is_near() {
        assert_eq!(near("zookeeper"), Vec::<String>::new());
        assert_eq!(near(""), Vec::<String>::new());
        assert_eq!(near("\u{e9}"), Vec::<String>::new());
    }

    #[test]
    fn at_most_three() {
        assert!(near("s").len() <= SUGGESTIONS);
        assert!(near("sys").len() <= SUGGESTIONS);
    }
}
