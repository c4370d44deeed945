//! What only one of the two periods has.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::side::{CALLS, Facts, SIZES};

/// Calls are few or many by chance: of a kind that one period has none of, the other must have had so many, had it
/// been as long.
const FEWEST_CALLS: f64 = 5.0;

/// Calls by number, as the stream names them.
const NAMES: [&str; CALLS] = ["map", "unmap", "remap", "brk", "advise", "protect"];

/// Something that only one of the two periods has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Novel {
    /// What kind of thing.
    pub kind: Kind,
    /// Of which service, unless it is one.
    #[serde(rename = "service.name")]
    pub service: String,
    /// Which.
    pub name: String,
    /// In how many windows it was, or how many calls there were.
    pub count: u64,
}

/// What may be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A service.
    Service,
    /// Processes of that name.
    Process,
    /// Threads of that name, with `#` for each number.
    Threads,
    /// A kind of call.
    Call,
    /// A kind of call of that size.
    Mapping,
}

/// What `one` has and `other` has not.
pub fn only_in(one: &Facts, other: &Facts) -> Vec<Novel> {
    let mut novel = Vec::new();
    for (name, service) in one
        .services
        .iter()
        .filter(|(_, service)| service.windows > 0)
    {
        if other
            .services
            .get(name)
            .is_none_or(|service| service.windows == 0)
        {
            novel.push(Novel {
                kind: Kind::Service,
                service: name.clone(),
                name: name.clone(),
                count: service.windows,
            });
        }
    }
    // What belongs to a new service is not said once more.
    let in_both = |service: &str| {
        [one, other]
            .iter()
            .all(|side| side.services.get(service).is_some_and(|s| s.windows > 0))
    };
    let processes = only(&one.processes, &other.processes, |(service, _)| {
        in_both(service)
    });
    novel.extend(processes.map(|((service, name), count)| Novel {
        kind: Kind::Process,
        service: service.clone(),
        name: name.clone(),
        count,
    }));
    let known: BTreeSet<_> = other.processes.keys().collect();
    let of_known = |(service, process, _): &(String, String, String)| {
        known.contains(&(service.clone(), process.clone()))
    };
    let threads = only(&one.threads, &other.threads, of_known);
    novel.extend(threads.map(|((service, _, group), count)| Novel {
        kind: Kind::Threads,
        service: service.clone(),
        name: group.clone(),
        count,
    }));
    for service in one.services.keys().filter(|service| in_both(service)) {
        calls(service, one, other, &mut novel);
    }
    novel
}

fn only<'a, K: Ord>(
    one: &'a BTreeMap<K, u64>,
    other: &'a BTreeMap<K, u64>,
    counts: impl Fn(&K) -> bool + 'a,
) -> impl Iterator<Item = (&'a K, u64)> {
    let missing = one
        .iter()
        .filter(move |(key, _)| !other.contains_key(key) && counts(key));
    missing.map(|(key, count)| (key, *count))
}

fn calls(name: &str, one: &Facts, other: &Facts, novel: &mut Vec<Novel>) {
    let (here, there) = (&one.services[name], &other.services[name]);
    let scale = other.observed_ns as f64 / one.observed_ns.max(1) as f64;
    let is_new = |here: u64, there: u64| there == 0 && here as f64 * scale.min(1.0) >= FEWEST_CALLS;
    let mut push = |kind: Kind, name_of: String, count: u64| {
        novel.push(Novel {
            kind,
            service: name.to_owned(),
            name: name_of,
            count,
        });
    };
    let counts = here.calls.iter().zip(&there.calls);
    for (name, (here, there)) in NAMES.iter().zip(counts) {
        if other.calls_unmeasured == 0 && is_new(*here, *there) {
            push(Kind::Call, (*name).to_owned(), *here);
        }
    }
    // Smaller ones may have been no records in one of them.
    let Some(least) = one
        .least_mapping
        .zip(other.least_mapping)
        .map(|(a, b)| a.max(b).max(1))
    else {
        return;
    };
    let whole = if least.is_power_of_two() {
        least.ilog2()
    } else {
        least.ilog2() + 1
    };
    for (call, name) in NAMES.iter().enumerate() {
        for size in whole as usize..SIZES {
            let count = here.sizes[call][size];
            if is_new(count, there.sizes[call][size]) {
                push(Kind::Mapping, format!("{name} of {}", bytes(size)), count);
            }
        }
    }
}

/// From a power of two to the next.
fn bytes(size: usize) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let show = |size: usize| format!("{} {}", 1_u64 << (size % 10), UNITS[(size / 10).min(6)]);
    format!("{} to {}", show(size), show(size + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::side::Service;

    fn facts(calls: [u64; CALLS], large: u64) -> Facts {
        let mut service = Service {
            windows: 10,
            calls,
            ..Service::default()
        };
        service.sizes[0][26] = large;
        let mut facts = Facts {
            observed_ns: 100_000_000_000,
            least_mapping: Some(1 << 20),
            ..Facts::default()
        };
        facts.services.insert("shop".into(), service);
        facts.processes.insert(("shop".into(), "shopd".into()), 10);
        facts
    }

    fn names(one: &Facts, other: &Facts) -> Vec<String> {
        only_in(one, other)
            .into_iter()
            .map(|novel| novel.name)
            .collect()
    }

    #[test]
    fn few_calls_are_not_new() {
        let (before, after) = (facts([9, 0, 0, 0, 0, 0], 0), facts([9, 0, 0, 4, 5, 0], 5));
        assert_eq!(
            names(&after, &before),
            ["advise", "map of 64 MiB to 128 MiB"]
        );
        assert!(names(&before, &after).is_empty());
        let mut short = facts([9, 0, 0, 0, 0, 0], 0);
        short.observed_ns /= 10;
        assert!(
            names(&after, &short).is_empty(),
            "five calls in a period are half a call in a tenth of it"
        );
    }

    #[test]
    fn sizes_that_one_did_not_record_are_not_new() {
        let (before, mut after) = (facts([0; CALLS], 0), facts([0; CALLS], 9));
        assert_eq!(names(&after, &before), ["map of 64 MiB to 128 MiB"]);
        after.least_mapping = Some((64 << 20) + 1);
        assert!(names(&after, &before).is_empty());
        after.least_mapping = None;
        assert!(names(&after, &before).is_empty());
    }

    #[test]
    fn what_belongs_to_something_new_is_not_said_twice() {
        let (before, mut after) = (facts([0; CALLS], 0), facts([0; CALLS], 0));
        let group = |service: &str, process: &str| {
            (service.to_owned(), process.to_owned(), "pool-#".to_owned())
        };
        after.threads.insert(group("shop", "helper"), 3);
        after.threads.insert(group("shop", "shopd"), 3);
        after.processes.insert(("shop".into(), "helper".into()), 3);
        after.services.insert(
            "till".into(),
            Service {
                windows: 3,
                ..Service::default()
            },
        );
        after.processes.insert(("till".into(), "tilld".into()), 3);
        let kinds: Vec<_> = only_in(&after, &before)
            .into_iter()
            .map(|novel| (novel.kind, novel.name))
            .collect();
        let expected = [
            (Kind::Service, "till"),
            (Kind::Process, "helper"),
            (Kind::Threads, "pool-#"),
        ];
        assert_eq!(kinds, expected.map(|(kind, name)| (kind, name.to_owned())));
    }
}
