//! Says what slowly gets worse: windows in, findings out.
//!
//! It sees windows and nothing else: no clock, no I/O, and the same windows give the same flags. What it keeps of a process
//! or of a group of like-named threads is bounded however long it is watched, and so is the number of those.
//!
//! A window becomes a `reading`; readings add up to `block`s, of which rings of doubling length (`levels`, `ring`) keep the
//! last 32. Each time a block is complete, its ring's `shape` is measured and judged (`verdict`); the `ledger` compares
//! days. What passes often enough raises an `alarm`, which becomes a flag here.

mod alarm;
mod block;
mod channel;
mod evidence;
mod excursion;
mod extremes;
mod follow;
mod kinds;
mod ledger;
mod levels;
mod load;
mod median;
mod reading;
mod ring;
mod rules;
mod runaway;
mod score;
mod shape;
mod step;
pub mod summary;
#[cfg(test)]
mod tests;
mod threshold;
mod verdict;
mod waits;
mod watch;

use std::collections::{BTreeMap, btree_map::Entry};

use self::{
    alarm::Change,
    reading::Reading,
    waits::{Reader, Waits},
    watch::{Finding, Scratch, Watch},
};
pub use self::{
    follow::{Follow, Value},
    rules::{Rule, rules},
};
use crate::{
    policy::{Policy, Rules},
    stream::{
        Flag, FlagKind, FlagState, Ignored, Moment, ProcessId, Scope, ThreadGroup, ThreadId, Window,
    },
};

/// Lives that were not heard of for this long are dropped: their last window was lost.
const FORGET_NS: u64 = 3_600_000_000_000;

/// Groups of like-named threads that a process may have. All other threads are in one more.
const MAX_GROUPS: usize = 63;

/// The name of that one.
const OTHER: &str = "(other)";

/// How often such lives are looked for.
const SWEEP_NS: u64 = 600_000_000_000;

/// Sizes of the detector. Its rules are in `verdict`, next to their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Processes and groups of threads followed at the same time; some 25 KiB each once they are a week old.
    pub max_series: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_series: 2048 }
    }
}

/// Watches the windows of processes and threads.
#[derive(Debug)]
pub struct Detector {
    config: Config,
    policy: Policy,
    lives: BTreeMap<Key, Life>,
    /// Processes and groups in all lives.
    series: usize,
    refused: u64,
    tally: Tally,
    next_sweep: Moment,
    /// When the newest window so far ended, of whomever.
    newest: Moment,
    reader: Reader,
    scratch: Scratch,
    findings: Vec<Finding>,
    /// The name of a thread's group.
    name: String,
}

/// A process. Ids come back, so the creation time belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pid: u32,
    created: Moment,
}

/// A process with its groups of like-named threads.
#[derive(Debug)]
struct Life {
    process: ProcessId,
    last: Moment,
    subject: Option<Subject>,
    groups: BTreeMap<String, Group>,
}

/// What flags are about.
#[derive(Debug)]
struct Subject {
    watch: Watch,
    raised: Vec<Flag>,
}

/// Threads of a process whose names differ in numbers only.
#[derive(Debug)]
struct Group {
    subject: Option<Subject>,
    /// The window that is being added up.
    ts: Moment,
    seconds: f64,
    active: u64,
    /// `None` where that of one of them is not known.
    mapped_bytes: Option<u64>,
    waits: Option<Waits>,
    /// The thread whose window came first.
    thread: ThreadId,
}

/// Flags so far, those that are raised now, and what is not flagged.
#[derive(Debug)]
struct Tally {
    flags: u64,
    raised: usize,
    ignoring: Vec<Ignoring>,
    news: Vec<Ignored>,
}

/// A rule of what to ignore, and how often it has applied.
#[derive(Debug)]
struct Ignoring {
    rule: String,
    findings: u64,
}

impl Detector {
    /// A detector that has seen nothing, without a policy.
    pub fn new(config: Config) -> Self {
        Self::with_policy(config, Policy::default())
    }

    /// A detector that has seen nothing.
    pub fn with_policy(config: Config, policy: Policy) -> Self {
        Self {
            config,
            lives: BTreeMap::new(),
            series: 0,
            refused: 0,
            tally: Tally::new(&policy),
            policy,
            next_sweep: Moment::default(),
            newest: Moment::default(),
            reader: Reader::default(),
            scratch: Scratch::default(),
            findings: Vec::new(),
            name: String::new(),
        }
    }

    /// Feeds one window; appends the flags that it raises, updates or clears. Windows of threads follow that of their process.
    pub fn window(&mut self, window: &Window, flags: &mut Vec<Flag>) {
        self.sweep(window.ts, flags);
        let key = Key {
            pid: window.process.pid,
            created: window.process.created,
        };
        match (window.scope, &window.thread) {
            (Scope::Process, _) if window.ended => {
                self.end(key, window.ts, "the process ended", flags);
            }
            (Scope::Process, _) => self.process(key, window, flags),
            (Scope::Thread, Some(thread)) => self.thread(key, thread, window),
            (Scope::Thread, None) => {}
        }
    }

    /// Windows that found no series to go to since the last call, because the table is full.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Findings that were ignored by a rule for the first time, since the last call.
    pub fn take_ignored(&mut self) -> impl Iterator<Item = Ignored> {
        self.tally.news.drain(..)
    }

    /// How many findings were ignored by each rule, at the end of a run: they are told anew in the next one.
    pub fn take_ignored_counts(&mut self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for ignoring in &mut self.tally.ignoring {
            let findings = std::mem::take(&mut ignoring.findings);
            if findings > 0 {
                *counts.entry(ignoring.rule.clone()).or_default() += findings;
            }
        }
        counts
    }

    /// Flags that are raised now.
    pub fn raised(&self) -> usize {
        self.tally.raised
    }

    /// Bytes that it keeps, about.
    pub fn heap_bytes(&self) -> usize {
        let of_subject = |subject: &Option<Subject>| {
            subject
                .as_ref()
                .map_or(0, |subject| subject.watch.heap_bytes())
        };
        self.lives
            .values()
            .map(|life| {
                let groups = life
                    .groups
                    .values()
                    .map(|group| size_of::<Group>() + of_subject(&group.subject));
                size_of::<Life>() + of_subject(&life.subject) + groups.sum::<usize>()
            })
            .sum()
    }

    fn process(&mut self, key: Key, window: &Window, flags: &mut Vec<Flag>) {
        let Some(reading) = Reading::of(window, &mut self.reader) else {
            return;
        };
        let room = self.series < self.config.max_series;
        let life = match self.lives.entry(key) {
            Entry::Occupied(life) => life.into_mut(),
            Entry::Vacant(place) if room => place.insert(Life {
                process: window.process.clone(),
                last: Moment::default(),
                subject: None,
                groups: BTreeMap::new(),
            }),
            Entry::Vacant(_) => {
                self.refused += 1;
                return;
            }
        };
        if life.subject.is_some() && window.ts <= life.last {
            return;
        }
        life.last = window.ts;
        let subject = life.subject.get_or_insert_with(|| {
            self.series += 1;
            let rules = self.policy.rules(&window.process.service, None);
            Subject::new(Watch::new(&reading, window.process.created, rules))
        });
        subject
            .watch
            .add(&reading, &mut self.scratch, &mut self.findings);
        if !self.findings.is_empty() {
            let about = About {
                ts: window.ts,
                process: &life.process,
                thread: None,
                threads: None,
            };
            subject.tell(&about, &mut self.findings, &mut self.tally, flags);
        }
        for (name, group) in &mut life.groups {
            let rules = || self.policy.rules(&life.process.service, Some(name));
            group.close(rules, &mut self.scratch, &mut self.findings);
            if !self.findings.is_empty() {
                group.tell(
                    name,
                    &life.process,
                    &mut self.findings,
                    &mut self.tally,
                    flags,
                );
            }
            group.begin(window);
        }
    }

    /// Adds a thread's window to its group's. What that comes to is judged when the process's next window comes.
    fn thread(&mut self, key: Key, thread: &ThreadId, window: &Window) {
        let Some(life) = self.lives.get_mut(&key) else {
            self.refused += u64::from(self.series >= self.config.max_series);
            return;
        };
        if window.period_ns == 0 || window.ts < life.last {
            return;
        }
        write_group_name(&thread.name, &mut self.name);
        if !life.groups.contains_key(&self.name) && life.groups.len() >= MAX_GROUPS {
            OTHER.clone_into(&mut self.name);
        }
        if !life.groups.contains_key(&self.name) {
            if self.series >= self.config.max_series {
                self.refused += 1;
                return;
            }
            self.series += 1;
            life.groups
                .insert(self.name.clone(), Group::new(thread, window));
        }
        if let Some(group) = life.groups.get_mut(&self.name) {
            group.add(thread, window, &mut self.reader);
        }
    }

    /// Closes a life.
    fn end(&mut self, key: Key, ts: Moment, why: &str, flags: &mut Vec<Flag>) {
        let Some(mut life) = self.lives.remove(&key) else {
            return;
        };
        self.series -= life.groups.len() + usize::from(life.subject.is_some());
        if let Some(mut subject) = life.subject.take() {
            let about = About {
                ts,
                process: &life.process,
                thread: None,
                threads: None,
            };
            subject.watch.end(why, &mut self.findings);
            subject.tell(&about, &mut self.findings, &mut self.tally, flags);
        }
        for (name, group) in &mut life.groups {
            if let Some(subject) = &mut group.subject {
                subject.watch.end(why, &mut self.findings);
                group.ts = ts;
                group.tell(
                    name,
                    &life.process,
                    &mut self.findings,
                    &mut self.tally,
                    flags,
                );
            }
        }
    }

    /// Drops the lives that were not heard of for long, now and then. While nobody was heard of, because the machine slept or
    /// slowburn did not run, nobody was silent: what counts is the time until the window before this one.
    fn sweep(&mut self, now: Moment, flags: &mut Vec<Flag>) {
        let until = self.newest;
        self.newest = until.max(now);
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = Moment(now.0.saturating_add(SWEEP_NS));
        let silent = |life: &Life| until.0.saturating_sub(life.last.0) > FORGET_NS;
        let silent: Vec<Key> = self
            .lives
            .iter()
            .filter(|(_, life)| silent(life))
            .map(|(key, _)| *key)
            .collect();
        for key in silent {
            self.end(key, now, "nothing was heard of it for an hour", flags);
        }
    }
}

/// A name with `#` for each number in it: `worker-12` and `worker-3` are alike.
pub fn group_name(name: &str) -> String {
    let mut group = String::with_capacity(name.len());
    write_group_name(name, &mut group);
    group
}

/// The same into what was there before.
fn write_group_name(name: &str, group: &mut String) {
    group.clear();
    for character in name.chars() {
        if !character.is_ascii_digit() {
            group.push(character);
        } else if !group.ends_with('#') {
            group.push('#');
        }
    }
}

impl Group {
    fn new(thread: &ThreadId, window: &Window) -> Self {
        Self {
            subject: None,
            ts: window.ts,
            seconds: window.period_ns as f64 / 1e9,
            active: 0,
            mapped_bytes: Some(0),
            waits: Some(Waits::default()),
            thread: thread.clone(),
        }
    }

    fn add(&mut self, thread: &ThreadId, window: &Window, reader: &mut Reader) {
        // Of several, the first one stands for all.
        if self.active == 0 && self.thread != *thread {
            self.thread.clone_from(thread);
        }
        self.active += 1;
        self.mapped_bytes = self
            .mapped_bytes
            .zip(reading::mapped_bytes(window))
            .map(|(sum, bytes)| sum + bytes);
        let more = reading::waits(window, reader);
        self.waits = self.waits.take().zip(more).map(|(mut sum, more)| {
            sum.add(&more);
            sum
        });
    }

    /// Judges what has been added up.
    fn close(
        &mut self,
        rules: impl FnOnce() -> Rules,
        scratch: &mut Scratch,
        findings: &mut Vec<Finding>,
    ) {
        let waits = self.waits.replace(Waits::default());
        let mapped_bytes = self.mapped_bytes.replace(0);
        let reading = Reading::of_threads(self.ts, self.seconds, mapped_bytes, waits);
        let created = self.thread.created;
        let subject = self
            .subject
            .get_or_insert_with(|| Subject::new(Watch::new(&reading, created, rules())));
        subject.watch.add(&reading, scratch, findings);
    }

    /// Makes records of what was found.
    fn tell(
        &mut self,
        name: &str,
        process: &ProcessId,
        findings: &mut Vec<Finding>,
        tally: &mut Tally,
        flags: &mut Vec<Flag>,
    ) {
        let about = About {
            ts: self.ts,
            process,
            thread: self.alone(),
            threads: Some(self.named(name)),
        };
        if let Some(subject) = &mut self.subject {
            subject.tell(&about, findings, tally, flags);
        }
    }

    /// Begins with the windows of this period.
    fn begin(&mut self, window: &Window) {
        self.ts = window.ts;
        self.seconds = window.period_ns as f64 / 1e9;
        self.active = 0;
    }

    /// The thread, if it is the only one.
    fn alone(&self) -> Option<ThreadId> {
        (self.active == 1).then(|| self.thread.clone())
    }

    fn named(&self, name: &str) -> ThreadGroup {
        ThreadGroup {
            name: name.to_owned(),
            active: self.active,
        }
    }
}

/// What a finding is about.
struct About<'a> {
    ts: Moment,
    process: &'a ProcessId,
    thread: Option<ThreadId>,
    threads: Option<ThreadGroup>,
}

impl Subject {
    fn new(watch: Watch) -> Self {
        Self {
            watch,
            raised: Vec::new(),
        }
    }

    /// Makes records of what was found, and keeps those that are raised.
    fn tell(
        &mut self,
        about: &About<'_>,
        findings: &mut Vec<Finding>,
        tally: &mut Tally,
        flags: &mut Vec<Flag>,
    ) {
        for finding in findings.drain(..) {
            let rules = self.watch.rules();
            match rules.ignored_by(finding.metric, finding.kind) {
                Some(place) => tally.ignore(place, about, &finding),
                None => flags.push(self.record(about, finding, tally)),
            }
        }
    }

    fn record(&mut self, about: &About<'_>, finding: Finding, tally: &mut Tally) -> Flag {
        // The others are over when they are told.
        let lasts = matches!(finding.kind, FlagKind::Climb | FlagKind::Threshold);
        let known = self
            .raised
            .iter()
            .position(|flag| (flag.metric, flag.kind) == (finding.metric, finding.kind))
            .filter(|_| lasts && matches!(finding.change, Change::Updated | Change::Cleared));
        let mut flag = match known {
            Some(at) => self.raised.swap_remove(at),
            None => about.raise(tally, &finding),
        };
        flag.ts = about.ts;
        flag.state = match finding.change {
            Change::Raised => FlagState::Raised,
            Change::Updated => FlagState::Updated,
            Change::Explained => FlagState::Explained,
            Change::Cleared => FlagState::Cleared,
        };
        flag.since = finding.since;
        flag.evidence = finding.evidence;
        flag.summary = summary::sentence(&flag);
        if lasts {
            match flag.state {
                FlagState::Raised => tally.raised += 1,
                FlagState::Updated | FlagState::Explained => {}
                FlagState::Cleared => tally.raised -= 1,
            }
            if matches!(flag.state, FlagState::Raised | FlagState::Updated) {
                self.raised.push(flag.clone());
            }
        }
        flag
    }
}

impl Tally {
    fn new(policy: &Policy) -> Self {
        let ignoring = (0..policy.ignoring()).map(|place| Ignoring {
            rule: policy.ignoring_words(place).to_owned(),
            findings: 0,
        });
        Self {
            flags: 0,
            raised: 0,
            ignoring: ignoring.collect(),
            news: Vec::new(),
        }
    }

    /// Counts what is not flagged. A climb is one finding, however often it is updated.
    fn ignore(&mut self, place: usize, about: &About<'_>, finding: &Finding) {
        if finding.change != Change::Raised {
            return;
        }
        let ignoring = &mut self.ignoring[place];
        ignoring.findings += 1;
        if ignoring.findings == 1 {
            let flag = about.flag(finding);
            self.news.push(Ignored {
                ts: flag.ts,
                rule: ignoring.rule.clone(),
                kind: flag.kind,
                metric: flag.metric,
                summary: summary::sentence(&flag),
                process: flag.process,
                threads: flag.threads,
            });
        }
    }
}

impl About<'_> {
    /// The first record of a flag.
    fn raise(&self, tally: &mut Tally, finding: &Finding) -> Flag {
        tally.flags += 1;
        Flag {
            id: format!("f{}", tally.flags),
            ..self.flag(finding)
        }
    }

    /// What was found, without a name.
    fn flag(&self, finding: &Finding) -> Flag {
        Flag {
            ts: self.ts,
            id: String::new(),
            state: FlagState::Raised,
            kind: finding.kind,
            metric: finding.metric,
            scope: if self.threads.is_some() {
                Scope::Thread
            } else {
                Scope::Process
            },
            process: self.process.clone(),
            thread: self.thread.clone(),
            threads: self.threads.clone(),
            since: finding.since,
            evidence: finding.evidence.clone(),
            summary: String::new(),
        }
    }
}
