//! The kernel's raw timeline of wake-ups and switches, as tracefs tells it: the judge of short waits.
//!
//! It knows nothing of slowburn, and shows microseconds. On some virtual machines it lacks wake-ups
//! and switches that come from the idle task; how many waits it has is compared with `schedstat`
//! before it is believed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use slowburn_tests::unique_name;

const ROOT: &str = "/sys/kernel/tracing";

/// For each CPU. A second of two pairs of threads that wake each other fills about 10 MB.
const BUFFER_KB: &str = "65536";

/// A recording under way. Gone when dropped.
struct Timeline(PathBuf);

/// What it says of each thread whose name matched.
pub type Recording = BTreeMap<u32, Recorded>;

/// What it says of one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorded {
    /// How often it was put on a CPU: as many waits have ended, whether or not it was seen how they began.
    pub runs: u64,
    /// Waits that were seen to begin and to end.
    pub waits: u64,
    pub sum_ns: u64,
    pub longest_ns: u64,
}

/// How many waits the kernel's own account lacks at most of those that a thread had: it leaves out those of one that is
/// preempted on its way to sleep. Seen: 27 of 1,070 of a thread that forks, in a guest.
const LACKS: f64 = 0.05;

/// How many waits a thread had, and by how many ours are off. Neither judge has one too many; where there is only the
/// kernel's own account, ours may have what that lacks.
pub fn count_waits(ours: u64, schedstat: u64, runs: Option<u64>) -> (u64, f64) {
    let theirs = schedstat.max(runs.unwrap_or_default());
    let lacking = match runs {
        Some(_) => 0.0,
        None => theirs as f64 * LACKS,
    };
    let missed = theirs.saturating_sub(ours) as f64;
    let more = ours.saturating_sub(theirs) as f64;
    (theirs, missed.max(more - lacking))
}

/// Does something while the tasks whose names begin with one of these are recorded. No recording where there is no
/// tracefs, or if its buffer was too small.
pub fn record<T>(names: &[&str], work: impl FnOnce() -> T) -> (T, Option<Recording>) {
    let timeline = Timeline::start(names);
    let done = work();
    let recording = timeline.and_then(|timeline| timeline.finish(names));
    (done, recording)
}

impl Timeline {
    /// None where there is no tracefs.
    fn start(names: &[&str]) -> Option<Self> {
        let instance = Path::new(ROOT).join("instances").join(unique_name("sbt"));
        fs::create_dir(&instance).ok()?;
        let timeline = Self(instance);
        timeline.set("buffer_size_kb", BUFFER_KB);
        // What the timestamps of slowburn are, so that both see the same jumps of the clock.
        timeline.set("trace_clock", "mono");
        let filter = |fields: &[&str]| {
            let terms = names.iter().flat_map(|name| {
                fields
                    .iter()
                    .map(move |field| format!("{field} ~ \"{name}*\""))
            });
            terms.collect::<Vec<_>>().join(" || ")
        };
        for (event, fields) in [
            ("sched_wakeup", &["comm"][..]),
            ("sched_wakeup_new", &["comm"]),
            ("sched_switch", &["prev_comm", "next_comm"]),
        ] {
            timeline.set(&format!("events/sched/{event}/filter"), &filter(fields));
            timeline.set(&format!("events/sched/{event}/enable"), "1");
        }
        Some(timeline)
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Ends the recording. None if the buffer was too small.
    fn finish(self, names: &[&str]) -> Option<Recording> {
        self.set("tracing_on", "0");
        let text = fs::read(self.0.join("trace")).expect("the instance is ours");
        let text = String::from_utf8_lossy(&text);
        is_whole(&text).then(|| waits(&text, names))
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// `# entries-in-buffer/entries-written: 12/12   #P:2`
fn is_whole(text: &str) -> bool {
    let header = text
        .lines()
        .find_map(|line| line.strip_prefix("# entries-in-buffer/entries-written: "));
    let numbers = header.and_then(|rest| rest.split_whitespace().next()?.split_once('/'));
    numbers.is_some_and(|(have, written)| have == written)
}

fn waits(text: &str, names: &[&str]) -> Recording {
    let mut recorded = Recording::new();
    // Since when a thread waits.
    let mut since: BTreeMap<u32, u64> = BTreeMap::new();
    let mut running: BTreeMap<u32, bool> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((head, fields)) = line.split_once(": sched_") else {
            continue;
        };
        let now = head
            .rsplit(' ')
            .next()
            .and_then(nanoseconds)
            .unwrap_or_else(|| panic!("no time in {line}"));
        let field = |key: &str| {
            let value = fields.split(' ').find_map(|word| word.strip_prefix(key));
            value.unwrap_or_else(|| panic!("no {key} in {line}"))
        };
        let id = |key: &str| field(key).parse::<u32>().expect("an id is a number");
        if fields.starts_with("switch") {
            let (prev, next) = (id("prev_pid="), id("next_pid="));
            running.insert(prev, false);
            if field("prev_state=").starts_with('R') {
                since.insert(prev, now);
            } else {
                since.remove(&prev);
            }
            running.insert(next, true);
            let start = since.remove(&next);
            // Of the others only those switches are here that lead from a thread that matched.
            let name = field("next_comm=");
            if !names.iter().any(|start| name.starts_with(start)) {
                continue;
            }
            let entry = recorded.entry(next).or_default();
            entry.runs += 1;
            if let Some(start) = start {
                entry.waits += 1;
                entry.sum_ns += now - start;
                entry.longest_ns = entry.longest_ns.max(now - start);
            }
        } else if running.get(&id("pid=")) != Some(&true) {
            since.entry(id("pid=")).or_insert(now);
        }
    }
    recorded
}

/// `123.456789`, in seconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, micros) = text.split_once('.')?;
    Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?) * 1_000)
}

#[test]
fn waits_that_only_schedstat_counts() {
    assert_eq!(count_waits(1_000, 1_000, None), (1_000, 0.0));
    assert_eq!(count_waits(1_052, 1_000, None), (1_000, 2.0));
    assert_eq!(count_waits(1_012, 1_000, Some(1_010)), (1_010, 2.0));
    assert_eq!(count_waits(995, 1_000, None), (1_000, 5.0));
}

#[test]
fn timeline_is_read_right() {
    let text = "# entries-in-buffer/entries-written: 6/6   #P:2\n\
        <idle>-0 [000] dNh4. 10.000100: sched_wakeup: comm=a pid=7 prio=120 target_cpu=000\n\
        <idle>-0 [000] d..2. 10.000150: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=a next_pid=7 next_prio=120\n\
        b-8 [001] d..2. 10.000160: sched_wakeup: comm=a pid=7 prio=120 target_cpu=000\n\
        a-7 [000] d..2. 10.000200: sched_switch: prev_comm=a prev_pid=7 prev_prio=120 prev_state=R+ ==> next_comm=b next_pid=8 next_prio=120\n\
        b-8 [000] d..2. 10.001200: sched_switch: prev_comm=b prev_pid=8 prev_prio=120 prev_state=S ==> next_comm=a next_pid=7 next_prio=120\n\
        a-7 [000] d..2. 11.000000: sched_switch: prev_comm=a prev_pid=7 prev_prio=120 prev_state=S ==> next_comm=swapper/0 next_pid=0 next_prio=120\n";
    assert!(is_whole(text));
    assert!(!is_whole(&text.replace("6/6", "6/7")));
    let found = waits(text, &["a", "b"]);
    let a = found[&7];
    assert_eq!((a.runs, a.waits, a.sum_ns), (2, 2, 1_050_000));
    assert_eq!(a.longest_ns, 1_000_000);
    let b = found[&8];
    assert_eq!((b.runs, b.waits), (1, 0), "b was not seen to wait");
    assert_eq!(waits(text, &["a"]).len(), 1, "nobody asked for b");
}
