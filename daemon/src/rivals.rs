//! Who was waited behind, as windows tell it.

use std::collections::HashMap;

use slowburn_probes::event::{self, name_of};

use crate::stream::{LongWaits, Rival};

/// Most rivals that the window of a process names.
const MOST: usize = 5;

/// By the process that waited, those behind which it waited longest, longest first. `owner` tells what a process is part of, and
/// is asked for those only.
pub fn by_waiter(
    seen: Vec<event::Rival>,
    mut owner: impl FnMut(u32) -> Option<String>,
) -> HashMap<u32, Vec<Rival>> {
    let mut waiters: HashMap<u32, Vec<event::Rival>> = HashMap::new();
    for rival in seen {
        waiters.entry(rival.waiter).or_default().push(rival);
    }
    // One process may be in the way of many.
    let mut owners: HashMap<u32, Option<String>> = HashMap::new();
    let mut told = |rival: event::Rival| Rival {
        pid: rival.process,
        name: name_of(&rival.name).into_owned(),
        service: owners
            .entry(rival.process)
            .or_insert_with(|| owner(rival.process))
            .clone(),
        waits: LongWaits {
            count: rival.waits.count,
            sum_ns: rival.waits.sum_ns,
        },
    };
    let worst = waiters.into_iter().map(|(waiter, mut rivals)| {
        rivals.sort_unstable_by_key(|rival| (u64::MAX - rival.waits.sum_ns, rival.process));
        rivals.truncate(MOST);
        (waiter, rivals.into_iter().map(&mut told).collect())
    });
    worst.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(waiter: u32, process: u32, sum_ns: u64) -> event::Rival {
        event::Rival {
            waiter,
            process,
            name: *b"hog\0\0\0\0\0\0\0\0\0\0\0\0\0",
            waits: slowburn_common::task::LongWaits { count: 2, sum_ns },
        }
    }

    #[test]
    fn the_longest_are_told_of_each() {
        let mut all: Vec<_> = (1..=8)
            .map(|n| seen(100, n, u64::from(n) * 1_000))
            .collect();
        all.extend([seen(200, 8, 7), seen(200, 3, 7)]);
        let mut asked = Vec::new();
        let told = by_waiter(all, |pid| {
            asked.push(pid);
            (pid == 8).then(|| "hog.service".to_owned())
        });
        let pids =
            |waiter: u32| -> Vec<_> { told[&waiter].iter().map(|rival| rival.pid).collect() };
        assert_eq!(pids(100), [8, 7, 6, 5, 4]);
        assert_eq!(pids(200), [3, 8], "of equal ones, the lower pid first");
        assert_eq!(told[&100][0].service.as_deref(), Some("hog.service"));
        assert_eq!(told[&100][0].name, "hog");
        assert_eq!(told[&100][0].waits.sum_ns, 8_000);
        asked.sort_unstable();
        assert_eq!(
            asked,
            [3, 4, 5, 6, 7, 8],
            "each once, and none that is not told"
        );
    }
}
