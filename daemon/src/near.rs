//! What the user may have meant: names that look like the one that was not found.

use std::collections::BTreeSet;

/// More suggestions than this are no help.
const SUGGESTIONS: usize = 3;

/// Below this, the Jaro–Winkler similarity of two names is chance.
const SIMILAR: f64 = 0.82;

/// Those of the names that look most like the wanted one, best first.
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
