//! A followed task as the daemon knows it, and what it did since it was last looked at.

use slowburn_common::{histogram::lowest, task::Memory};

use super::{
    account,
    tables::{Record, read},
};
use crate::event::{Delays, Event, MemoryFlow, Task, ThreadAccount};

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
    unknown_count: u64,
    delays: Vec<(u16, u32)>,
    memory: Memory,
    /// What the kernel said at the last sample: run-queue delay and count.
    schedstat: Option<(u64, u64)>,
}

impl Tracked {
    /// A task that did nothing so far, beyond what the kernel says.
    pub fn new(task: Task, process_slot: u32, schedstat: Option<(u64, u64)>) -> Self {
        Self {
            task,
            process_slot,
            exited: false,
            delay_count: 0,
            delay_sum_ns: 0,
            unknown_count: 0,
            delays: Vec::new(),
            memory: Memory::default(),
            schedstat,
        }
    }

    /// Takes what the task did since the last call; `None` if it did nothing.
    pub fn sample(&mut self, record: Record, page_shift: u32) -> Option<Event> {
        self.task.name = read!(record, comm);
        let memory_now = read!(record, memory);
        let memory = flow(&memory_now, &self.memory, page_shift);
        self.memory = memory_now;
        let waited = read!(record, delay_count) != self.delay_count
            || read!(record, unknown_count) != self.unknown_count;
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

    fn take_delays(&mut self, record: Record) -> (Delays, Option<ThreadAccount>) {
        // The sums first, then the buckets: what is added in between shows in the next sample's sum.
        let (count, sum_ns) = (read!(record, delay_count), read!(record, delay_sum_ns));
        let unknown_count = read!(record, unknown_count);
        let buckets = read!(record, delays);
        // Read at once after, so that both speak of the same period.
        let schedstat = if self.exited {
            None
        } else {
            account::schedstat(self.task.process.id, self.task.thread.id)
        };
        let account = self.schedstat.zip(schedstat).and_then(|(before, now)| {
            Some(ThreadAccount {
                run_delay_ns: now.0.checked_sub(before.0)?,
                run_count: now.1.checked_sub(before.1)?,
            })
        });
        self.schedstat = schedstat;
        let now: Vec<_> = (0..)
            .zip(buckets)
            .filter(|(_, count)| *count != 0)
            .collect();
        let counts = difference(&now, &self.delays);
        // The longest wait may have been taken with the last sample although its bucket was not filled yet.
        let at_least = counts
            .last()
            .map_or(0, |(bucket, _)| lowest(*bucket as usize));
        let delays = Delays {
            counts,
            sum_ns: sum_ns.wrapping_sub(self.delay_sum_ns),
            max_ns: record.take_delay_max().max(at_least),
            unknown: unknown_count.wrapping_sub(self.unknown_count),
        };
        self.delay_count = count;
        self.delay_sum_ns = sum_ns;
        self.unknown_count = unknown_count;
        self.delays = now;
        (delays, account)
    }
}

/// What was added to a histogram. Both are ascending by bucket, and buckets never vanish except by wrapping to 0.
fn difference(now: &[(u16, u32)], before: &[(u16, u32)]) -> Vec<(u16, u32)> {
    let mut before = before.iter().peekable();
    now.iter()
        .filter_map(|&(bucket, count)| {
            while before.peek().is_some_and(|(b, _)| *b < bucket) {
                before.next();
            }
            let old = before
                .next_if(|(b, _)| *b == bucket)
                .map_or(0, |(_, count)| *count);
            let added = count.wrapping_sub(old);
            (added != 0).then_some((bucket, added))
        })
        .collect()
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
    use super::*;

    #[test]
    fn difference_of_histograms() {
        assert_eq!(difference(&[(1, 5), (7, 2)], &[]), [(1, 5), (7, 2)]);
        assert_eq!(
            difference(&[(1, 5), (4, 1), (7, 2)], &[(1, 5), (7, 1)]),
            [(4, 1), (7, 1)]
        );
        assert_eq!(
            difference(&[(3, 1)], &[(3, u32::MAX)]),
            [(3, 2)],
            "counts wrap"
        );
    }
}
