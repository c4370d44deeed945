//! A followed task as the daemon knows it, and what it did since it was last looked at.

use std::{
    mem,
    sync::atomic::{Ordering, fence},
};

use slowburn_common::{
    histogram::{BUCKETS, lowest},
    task::{Behind, LATEST, LongWaits, Memory},
};

use super::{
    account,
    tables::{Record, read},
};
use crate::event::{Delays, Event, MemoryFlow, Task, ThreadAccount};

/// How often a task's counts are read anew if it waits meanwhile: a reading takes a microsecond, in which it hardly waits 30 times.
const READINGS: usize = 3;

/// A followed task, as the daemon knows it.
pub struct Tracked {
    /// Who it is.
    pub task: Task,
    /// Slot of the first record of its process.
    pub process_slot: u32,
    /// It is gone, and only its record is still needed.
    pub exited: bool,
    /// What the record held at the last sample.
    delay_count: u64,
    delay_sum_ns: u64,
    unknown_count: u32,
    delays: Vec<(u16, u32)>,
    /// How often the record's latest waits had gone into the histogram by then, and how many of the next were told.
    flushes: u16,
    latest_count: u16,
    /// Of these, what was told.
    moved: u32,
    /// Nothing as long as no wait was long.
    behind: Option<Box<Behind>>,
    /// Waits that were found in their buckets so far.
    found: u64,
    /// Nothing as long as it has made no call.
    memory: Option<Box<Memory>>,
    /// What the kernel's own account was at the last sample.
    account: Option<ThreadAccount>,
}

impl Tracked {
    /// A task that did nothing so far, beyond what the kernel says.
    pub fn new(task: Task, process_slot: u32, account: Option<ThreadAccount>) -> Self {
        Self {
            task,
            process_slot,
            exited: false,
            delay_count: 0,
            delay_sum_ns: 0,
            unknown_count: 0,
            delays: Vec::new(),
            flushes: 0,
            latest_count: 0,
            moved: 0,
            behind: None,
            found: 0,
            memory: None,
            account,
        }
    }

    /// Takes what the task did since the last call; `None` if it did nothing.
    pub fn sample(&mut self, record: Record, page_shift: u32) -> Option<Event> {
        self.task.name = read!(record.task, comm);
        let memory = self.take_memory(read!(record.task, memory), page_shift);
        let waited = self.has_waited(record);
        if !waited && memory.is_empty() {
            return None;
        }
        let (delays, account) = if waited {
            self.take_delays(record)
        } else {
            Default::default()
        };
        Some(Event::Sample {
            task: self.task,
            memory,
            delays,
            account,
        })
    }

    fn take_memory(&mut self, now: Memory, page_shift: u32) -> MemoryFlow {
        let before = self.memory.as_deref().copied().unwrap_or_default();
        if now != before {
            **self.memory.get_or_insert_default() = now;
        }
        flow(&now, &before, page_shift)
    }

    /// The same while the hooks on waits are off, when the record has nothing to say about them. `asks` the kernel for
    /// them, if given; if false, they are in no account. Returns whether they are in one.
    pub fn sample_without_waits(
        &mut self,
        record: Record,
        page_shift: u32,
        asks: Option<bool>,
    ) -> (Option<Event>, bool) {
        self.task.name = read!(record.task, comm);
        let memory = self.take_memory(read!(record.task, memory), page_shift);
        let asks = asks.filter(|_| !self.exited);
        let mut account = None;
        match asks {
            Some(true) => {
                let now = account::schedstat(self.task.process.id, self.task.thread.id);
                account = self.take_account(now);
            }
            // Otherwise it would later be in the account of the window in which the kernel is asked again.
            Some(false) => self.account = None,
            None => {}
        }
        let ran = account.is_some_and(|account| account.run_count > 0);
        let event = (ran || !memory.is_empty()).then(|| Event::Sample {
            task: self.task,
            memory,
            delays: Delays::default(),
            account,
        });
        (event, asks.is_none() || account.is_some())
    }

    /// What the kernel says about its waits since the last reading.
    fn take_account(&mut self, now: Option<ThreadAccount>) -> Option<ThreadAccount> {
        let before = self.account;
        self.account = now.or(before);
        let (before, now) = before.zip(now)?;
        Some(ThreadAccount {
            run_delay_ns: now.run_delay_ns.checked_sub(before.run_delay_ns)?,
            run_count: now.run_count.checked_sub(before.run_count)?,
        })
    }

    /// Is there anything about its waits that was not taken yet? A wait is counted before its bucket is filled, so
    /// that the last reading may have come between the two.
    fn has_waited(&self, record: Record) -> bool {
        let count = read!(record.sched, delay_count);
        count != self.delay_count
            || count != self.found
            || read!(record.sched, unknown_count) != self.unknown_count
    }

    fn take_delays(&mut self, record: Record) -> (Delays, Option<ThreadAccount>) {
        // Booked last, and read first.
        let (moved, behind) = (read!(record.sched, moved), read!(record.task, behind));
        // The sums first, then the buckets: what is added in between shows in the next sample's sum.
        let (count, sum_ns) = (
            read!(record.sched, delay_count),
            read!(record.sched, delay_sum_ns),
        );
        let unknown_count = read!(record.sched, unknown_count);
        let account = self.take_account(record.kernel_account());
        let counts = self.take_counts(record, count).unwrap_or_default();
        let found = counts.iter().map(|(_, n)| u64::from(*n)).sum::<u64>();
        self.found += found;
        let sum_ns_now = sum_ns.wrapping_sub(self.delay_sum_ns);
        // The longest wait may have been taken with the last sample although its bucket was not filled yet.
        let at_least = counts
            .last()
            .map_or(0, |(bucket, _)| lowest(*bucket as usize));
        let delays = Delays {
            counts,
            sum_ns: sum_ns_now,
            max_ns: record.take_delay_max().max(at_least),
            unknown: u64::from(unknown_count.wrapping_sub(self.unknown_count)),
            moved: self.take_moved(moved, found),
            behind: self.take_behind(&behind, found, sum_ns_now),
        };
        self.delay_count = count;
        self.delay_sum_ns = sum_ns;
        self.unknown_count = unknown_count;
        (delays, account)
    }

    /// What was added to the counts by bucket; nothing if the latest waits go into the histogram again and again meanwhile, and it
    /// comes with the next sample.
    fn take_counts(&mut self, record: Record, count: u64) -> Option<Vec<(u16, u32)>> {
        (0..READINGS).find_map(|_| {
            let flushes = read!(record.sched, flushes);
            let (latest, latest_count) = (
                read!(record.sched, latest),
                read!(record.sched, latest_count),
            );
            // The number of flushes wraps after a million waits.
            let is_same =
                flushes == self.flushes && count.wrapping_sub(self.delay_count) <= LATEST as u64;
            let whole = (!is_same).then(|| read!(record.histogram, 0));
            // What was read before and after a flush does not belong together.
            fence(Ordering::Acquire);
            if flushes % 2 != 0 || read!(record.sched, flushes) != flushes {
                return None;
            }
            let latest = latest.get(..latest_count.into())?;
            let told = mem::replace(&mut self.latest_count, latest_count);
            self.flushes = flushes;
            Some(match whole {
                None => take_latest(latest.get(told.into()..)?, &mut self.delays),
                Some(mut counts) => {
                    for bucket in latest {
                        if let Some(count) = counts.get_mut(usize::from(*bucket)) {
                            *count = count.wrapping_add(1);
                        }
                    }
                    take_added(&counts, &mut self.delays)
                }
            })
        })
    }

    /// What was added to the moves, of so many waits at most. They are booked after the wait and read before it, so that there
    /// is never one without a wait, but that may have been in the last sample already. It is then told with the next wait.
    fn take_moved(&mut self, now: u32, waits: u64) -> u64 {
        let added = u64::from(now.wrapping_sub(self.moved)).min(waits);
        self.moved = self.moved.wrapping_add(added as u32);
        added
    }

    /// What was added to the long waits, likewise.
    fn take_behind(&mut self, now: &Behind, waits: u64, sum_ns: u64) -> Behind {
        if *now == Behind::default() {
            return Behind::default();
        }
        let told = self.behind.get_or_insert_default();
        let mut room = LongWaits {
            count: waits,
            sum_ns,
        };
        Behind {
            own: take_long(&mut told.own, now.own, &mut room),
            idle: take_long(&mut told.idle, now.idle, &mut room),
            others: take_long(&mut told.others, now.others, &mut room),
        }
    }
}

/// Adds waits to counts by bucket that were taken before, and tells them likewise.
fn take_latest(latest: &[u16], kept: &mut Vec<(u16, u32)>) -> Vec<(u16, u32)> {
    let mut added: Vec<(u16, u32)> = Vec::new();
    for &bucket in latest {
        add_one(&mut added, bucket);
        add_one(kept, bucket);
    }
    added
}

/// Adds a wait to ascending counts by bucket.
fn add_one(counts: &mut Vec<(u16, u32)>, bucket: u16) {
    match counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
        Ok(place) => counts[place].1 = counts[place].1.wrapping_add(1),
        Err(place) => counts.insert(place, (bucket, 1)),
    }
}

/// What was added to long waits since these were told, and tells it, in so far as there is room.
fn take_long(told: &mut LongWaits, now: LongWaits, room: &mut LongWaits) -> LongWaits {
    let taken = LongWaits {
        count: now.count.wrapping_sub(told.count).min(room.count),
        sum_ns: now.sum_ns.wrapping_sub(told.sum_ns).min(room.sum_ns),
    };
    told.count = told.count.wrapping_add(taken.count);
    told.sum_ns = told.sum_ns.wrapping_add(taken.sum_ns);
    room.count -= taken.count;
    room.sum_ns -= taken.sum_ns;
    taken
}

/// What was added to a histogram since these counts were taken of it. They are then those of now: ascending, and of every
/// bucket that ever was in use, because one that has wrapped to 0 was added to.
fn take_added(now: &[u32; BUCKETS], kept: &mut Vec<(u16, u32)>) -> Vec<(u16, u32)> {
    let mut added = Vec::with_capacity(kept.len());
    let mut place = 0;
    for (bucket, &count) in (0..).zip(now) {
        let before = match kept.get_mut(place) {
            Some((b, before)) if *b == bucket => mem::replace(before, count),
            // Nine of ten, mostly.
            _ if count == 0 => continue,
            _ => {
                kept.insert(place, (bucket, count));
                0
            }
        };
        place += 1;
        if count != before {
            added.push((bucket, count.wrapping_sub(before)));
        }
    }
    added.shrink_to_fit();
    added
}

fn flow(now: &Memory, before: &Memory, shift: u32) -> MemoryFlow {
    let bytes = |now: u64, before: u64| now.wrapping_sub(before) << shift;
    MemoryFlow {
        reserved: bytes(now.reserved_pages, before.reserved_pages),
        released: bytes(now.released_pages, before.released_pages),
        committed: bytes(now.committed_pages, before.committed_pages),
        decommitted: bytes(now.decommitted_pages, before.decommitted_pages),
        discarded: bytes(now.discarded_pages, before.discarded_pages),
        calls: std::array::from_fn(|i| now.calls[i].wrapping_sub(before.calls[i])),
        failed_calls: now.failed_calls.wrapping_sub(before.failed_calls),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use proptest::prelude::*;
    use slowburn_common::{
        histogram::bucket,
        task::{Histogram, SchedRecord, TaskRecord},
    };

    use super::*;
    use crate::event::Life;

    /// What is kept about a task, in our own memory.
    struct Kept {
        sched: Box<SchedRecord>,
        task: Box<TaskRecord>,
        histogram: Box<Histogram>,
    }

    impl Kept {
        /// Books a wait's bucket as the kernel side does.
        fn note(&mut self, wait_ns: u64) {
            let sched = &mut *self.sched;
            sched.latest[usize::from(sched.latest_count)] = bucket(wait_ns) as u16;
            sched.latest_count += 1;
            if usize::from(sched.latest_count) == LATEST {
                for bucket in sched.latest {
                    let count = &mut self.histogram.0[usize::from(bucket)];
                    *count = count.wrapping_add(1);
                }
                sched.latest_count = 0;
                sched.flushes = sched.flushes.wrapping_add(2);
            }
        }

        fn record(&mut self) -> Record {
            Record {
                sched: NonNull::from(&mut *self.sched),
                task: NonNull::from(&mut *self.task),
                histogram: NonNull::from(&mut *self.histogram),
            }
        }
    }

    /// A record, and who it is about; both belong to nobody.
    fn nobody() -> (Kept, Tracked) {
        // SAFETY: every bit pattern is valid.
        let record = unsafe {
            Kept {
                sched: Box::new_zeroed().assume_init(),
                task: Box::new_zeroed().assume_init(),
                histogram: Box::new_zeroed().assume_init(),
            }
        };
        let life = Life { id: 0, start_ns: 0 };
        let task = Task {
            thread: life,
            process: life,
            service: 0,
            name: [0; 16],
        };
        (record, Tracked::new(task, 0, None))
    }

    fn delays_of(tracked: &mut Tracked, kept: &mut Kept) -> Option<Delays> {
        match tracked.sample(kept.record(), 12)? {
            Event::Sample { delays, .. } => Some(delays),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wait_read_before_its_bucket_was_filled_is_found_later() {
        let (mut record, mut tracked) = nobody();
        (record.sched.delay_count, record.sched.delay_sum_ns) = (1, 40);
        let first = delays_of(&mut tracked, &mut record).expect("it waited");
        assert_eq!((first.counts.len(), first.sum_ns), (0, 40));
        record.note(40);
        let second = delays_of(&mut tracked, &mut record).expect("its bucket is filled now");
        assert_eq!((second.counts.len(), second.sum_ns), (1, 0));
        assert!(
            delays_of(&mut tracked, &mut record).is_none(),
            "and that is all"
        );
    }

    #[test]
    fn nothing_is_taken_while_the_latest_go_into_the_histogram() {
        let (mut record, mut tracked) = nobody();
        (record.sched.delay_count, record.sched.delay_sum_ns) = (1, 40);
        record.note(40);
        record.sched.flushes = 1;
        let first = delays_of(&mut tracked, &mut record).expect("it waited");
        assert_eq!((first.counts.len(), first.sum_ns), (0, 40));
        record.histogram.0[bucket(40)] = 1;
        (record.sched.latest_count, record.sched.flushes) = (0, 2);
        let second = delays_of(&mut tracked, &mut record).expect("they are there now");
        assert_eq!(second.counts, [(bucket(40) as u16, 1)]);
    }

    /// So many waits later the number of flushes is the same again, and the latest are others.
    #[test]
    fn the_number_of_flushes_wraps() {
        let (mut record, mut tracked) = nobody();
        let mut wait = |times: u64| {
            for _ in 0..times {
                record.sched.delay_count += 1;
                record.note(40);
            }
            let delays = delays_of(&mut tracked, &mut record).expect("it waited");
            delays
                .counts
                .iter()
                .map(|(_, n)| u64::from(*n))
                .sum::<u64>()
        };
        assert_eq!(wait(5), 5);
        let round = (1 << 15) * LATEST as u64;
        assert_eq!(wait(round), round);
        assert_eq!(wait(round + 7), round + 7);
    }

    fn buckets(counts: &[(u16, u32)]) -> [u32; BUCKETS] {
        let mut buckets = [0; BUCKETS];
        for &(bucket, count) in counts {
            buckets[usize::from(bucket)] = count;
        }
        buckets
    }

    #[test]
    fn difference_of_histograms() {
        let now = buckets(&[(1, 5), (4, 1), (7, 2)]);
        let added =
            |now: &[u32; BUCKETS], before: &[(u16, u32)]| take_added(now, &mut before.to_vec());
        assert_eq!(added(&now, &[]), [(1, 5), (4, 1), (7, 2)]);
        assert_eq!(added(&now, &[(1, 5), (7, 1)]), [(4, 1), (7, 1)]);
        assert_eq!(
            added(&buckets(&[(3, 1)]), &[(3, u32::MAX)]),
            [(3, 2)],
            "counts wrap"
        );
        assert_eq!(
            added(&buckets(&[]), &[(3, u32::MAX)]),
            [(3, 1)],
            "also to exactly 0"
        );
    }

    /// Additions to a few buckets, many of which make a count wrap, some to exactly 0.
    fn additions() -> impl Strategy<Value = Vec<(usize, u32)>> {
        let bucket = prop_oneof![0..3_usize, BUCKETS - 3..BUCKETS];
        let count = prop_oneof![
            0..3_u32,
            u32::MAX - 2..=u32::MAX,
            Just(1 << 31),
            any::<u32>()
        ];
        prop::collection::vec((bucket, count), 0..12)
    }

    proptest! {
        /// The kernel side's counts go on from anywhere, and wrap. Between two readings they are added to by
        /// less than they can hold; then the readings' differences are what was added.
        #[test]
        fn wrapping_counts_lose_nothing(start in additions(), periods in prop::collection::vec(additions(), 1..6)) {
            let mut now = [0_u32; BUCKETS];
            for (bucket, count) in start {
                now[bucket] = now[bucket].wrapping_add(count);
            }
            let mut kept = Vec::new();
            take_added(&now, &mut kept);
            for period in periods {
                let mut expected = [0_u32; BUCKETS];
                for (bucket, count) in period {
                    if let Some(sum) = expected[bucket].checked_add(count) {
                        expected[bucket] = sum;
                        now[bucket] = now[bucket].wrapping_add(count);
                    }
                }
                let expected: Vec<_> = (0..).zip(expected).filter(|(_, count)| *count != 0).collect();
                prop_assert_eq!(take_added(&now, &mut kept), expected);
            }
        }

        /// Waits are booked step by step, as the kernel side does, and the record is read before any of the steps.
        #[test]
        fn waits_are_told_once_whenever_they_are_read(waits in prop::collection::vec((0..1_000_u64, prop_oneof![3 => Just(0), 1 => 0..32_u8]), 1..300)) {
            let (mut record, mut tracked) = nobody();
            let mut told = Vec::new();
            for &(wait, reads) in &waits {
                for step in 0..5 {
                    if reads & 1 << step != 0 {
                        told.extend(delays_of(&mut tracked, &mut record));
                    }
                    match step {
                        0 => record.sched.delay_count += 1,
                        1 => record.sched.delay_sum_ns += wait,
                        2 => record.sched.delay_max_ns = record.sched.delay_max_ns.max(wait),
                        3 => record.note(wait),
                        _ => {}
                    }
                }
            }
            told.extend(delays_of(&mut tracked, &mut record));
            prop_assert!(delays_of(&mut tracked, &mut record).is_none());
            let mut expected = [0_u32; BUCKETS];
            let mut got = [0_u32; BUCKETS];
            for (wait, _) in &waits {
                expected[bucket(*wait)] += 1;
            }
            for (bucket, count) in told.iter().flat_map(|delays| &delays.counts) {
                got[usize::from(*bucket)] += count;
            }
            prop_assert_eq!(got, expected);
            let sum: u64 = told.iter().map(|delays| delays.sum_ns).sum();
            prop_assert_eq!(sum, waits.iter().map(|(wait, _)| wait).sum::<u64>());
            let max = told.iter().map(|delays| delays.max_ns).max();
            prop_assert_eq!(max, waits.iter().map(|(wait, _)| *wait).max());
        }

        /// Moves and long waits are booked after the wait; whenever they are read, a sample tells no more of them than its waits
        /// allow, and nothing is told twice or never.
        #[test]
        fn no_more_is_behind_than_waited(waits in prop::collection::vec((0..1_000_000_u64, 0..64_u8, 0..4_u8), 1..50)) {
            let (mut record, mut tracked) = nobody();
            let mut told = Vec::new();
            // The last one, behind nobody, is read when it is whole.
            for &(wait, reads, kind) in waits.iter().chain([&(1 << 32, 0, 4)]) {
                for step in 0..6 {
                    if reads & 1 << step != 0 {
                        told.extend(delays_of(&mut tracked, &mut record));
                    }
                    let behind = &mut record.task.behind;
                    let long = [&mut behind.own, &mut behind.idle, &mut behind.others];
                    match step {
                        0 => record.sched.delay_count += 1,
                        1 => record.sched.delay_sum_ns += wait,
                        2 => record.note(wait),
                        3 => record.sched.moved += u32::from(kind & 1),
                        4 => for part in long.into_iter().skip(kind.into()).take(1) {
                            part.count += 1;
                            part.sum_ns += wait;
                        }
                        _ => {}
                    }
                }
            }
            told.extend(delays_of(&mut tracked, &mut record));
            let mut sums = Behind::default();
            for delays in &told {
                let parts = [delays.behind.own, delays.behind.idle, delays.behind.others];
                let waits: u64 = delays.counts.iter().map(|(_, n)| u64::from(*n)).sum();
                prop_assert!(parts.iter().map(|part| part.count).sum::<u64>() <= waits);
                prop_assert!(parts.iter().map(|part| part.sum_ns).sum::<u64>() <= delays.sum_ns);
                prop_assert!(delays.moved <= waits);
                for (sum, part) in [&mut sums.own, &mut sums.idle, &mut sums.others].into_iter().zip(parts) {
                    sum.count += part.count;
                    sum.sum_ns += part.sum_ns;
                }
            }
            prop_assert_eq!(sums, record.task.behind);
            let moved: u64 = told.iter().map(|delays| delays.moved).sum();
            prop_assert_eq!(moved, u64::from(record.sched.moved));
        }

        /// Whenever the record is read, the changes between the readings add up to all that happened.
        #[test]
        fn flows_add_up(steps in prop::collection::vec(prop::array::uniform12(0..1_000_u64), 1..10), start: u64) {
            let memory = |n: &[u64; 12]| Memory {
                reserved_pages: n[0],
                released_pages: n[1],
                committed_pages: n[2],
                decommitted_pages: n[3],
                discarded_pages: n[4],
                calls: std::array::from_fn(|i| n[5 + i]),
                failed_calls: n[11],
            };
            let first = [start; 12];
            let (mut before, mut now) = (first, first);
            let mut sum = MemoryFlow::default();
            for step in &steps {
                for (counter, more) in now.iter_mut().zip(step) {
                    *counter = counter.wrapping_add(*more);
                }
                sum.add(&flow(&memory(&now), &memory(&before), 12));
                before = now;
            }
            prop_assert_eq!(sum, flow(&memory(&now), &memory(&first), 12));
            let reserved: u64 = steps.iter().map(|step| step[0]).sum();
            let failed: u64 = steps.iter().map(|step| step[11]).sum();
            prop_assert_eq!((sum.reserved, sum.failed_calls), (reserved << 12, failed));
        }
    }
}
