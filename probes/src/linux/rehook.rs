//! Measuring less, and more again, while tasks are followed: thresholds, sampling, and hooks taken off and put back.
//!
//! Programs that are taken off stay loaded. What the records say of the moment (waiting, on a CPU, in a call) goes stale
//! meanwhile and is forgotten before they come back: a wait that began an hour ago would otherwise end now.

use std::mem;

use rustix::thread::{MembarrierCommand, membarrier};

use super::{
    clock::monotonic_ns,
    cost::{Cost, Host},
    error::ProbeError,
    hooks::Need,
    seed::map_io,
    source::Source,
    tables::Record,
    tracked::Tracked,
};
use crate::event::Event;

/// When the hooks of a need were off.
#[derive(Default)]
struct Off {
    /// Since when they are, on the monotonic clock.
    since: Option<u64>,
    /// For how long they were in the current window, before they were put back.
    gap_ns: u64,
}

impl Off {
    fn back(&mut self, window_start_ns: u64, now: u64) {
        self.gap_ns += self.ns(window_start_ns, now);
        self.since = None;
    }

    /// How long they were off in the window that ends now.
    fn end_window(&mut self, window_start_ns: u64, now: u64) -> u64 {
        mem::take(&mut self.gap_ns) + self.ns(window_start_ns, now)
    }

    fn ns(&self, window_start_ns: u64, now: u64) -> u64 {
        self.since
            .map_or(0, |since| now - since.max(window_start_ns))
    }
}

/// What is measured at the moment, and what was not in the current window.
pub struct Coverage {
    waits: Off,
    calls: Off,
    /// One mapping call in so many is looked at; now, and at the sparsest in the current window.
    one_in: u32,
    sparsest: u32,
    /// Most threads whose waits are read from `/proc` in a window without hooks on them.
    most_accounts: u32,
    /// Without hooks on waits: is the kernel asked for those of the threads that are sampled now? `None` between windows.
    asks: Option<bool>,
    /// Was it, in the current window, for all of them?
    accounted: bool,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            waits: Off::default(),
            calls: Off::default(),
            one_in: 1,
            sparsest: 1,
            most_accounts: u32::MAX,
            asks: None,
            accounted: true,
        }
    }
}

impl Coverage {
    /// Takes what a task did since the last call; `None` if it did nothing.
    pub fn sample(&mut self, tracked: &mut Tracked, record: Record, shift: u32) -> Option<Event> {
        if self.waits.since.is_none() {
            return tracked.sample(record, shift);
        }
        let (event, accounted) = tracked.sample_without_waits(record, shift, self.asks);
        self.accounted &= accounted;
        event
    }

    /// What was not measured in the window that ends now, if anything; starts the next one.
    pub fn end_window(&mut self, start_ns: u64, now: u64) -> Option<Event> {
        let waits_ns = self.waits.end_window(start_ns, now);
        let calls_ns = self.calls.end_window(start_ns, now);
        let one_in = mem::replace(&mut self.sparsest, self.one_in);
        let accounted = mem::replace(&mut self.accounted, true);
        (waits_ns > 0 || calls_ns > 0 || one_in > 1).then_some(Event::Gap {
            waits_ns,
            calls_ns,
            one_in,
            accounted,
        })
    }
}

impl Source {
    /// What the programs have cost so far.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn cost(&mut self) -> Result<Cost, ProbeError> {
        let on_waits = self.coverage.waits.since.is_none();
        self.kernel.costs.read(&self.kernel.stats, on_waits)
    }

    /// Context switches of the whole host since it was started.
    pub fn host_switches() -> Option<u64> {
        Some(Host::now()?.switches)
    }

    /// Changes from which size on a wait or a mapping call is an event of its own; `u64::MAX` for none.
    ///
    /// # Errors
    /// If the shared settings cannot be mapped.
    pub fn set_thresholds(
        &mut self,
        slow_ns: u64,
        min_mapping_bytes: u64,
    ) -> Result<(), ProbeError> {
        self.options.slow_ns = slow_ns;
        self.options.min_mapping_bytes = min_mapping_bytes;
        self.report_execs(self.reports_execs)
    }

    /// Looks at one mapping call in so many, a power of two, from now on, and counts it as all of them. Sizes stay whole,
    /// because a call that is looked at books what has changed since the last one.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn sample_mappings(&mut self, one_in: u32) -> Result<(), ProbeError> {
        self.kernel.tables.sample_mappings(one_in).map_err(map_io)?;
        self.coverage.one_in = one_in;
        self.coverage.sparsest = self.coverage.sparsest.max(one_in);
        Ok(())
    }

    /// At the end of a window without hooks on waits, asks the kernel for those of up to so many threads. With more, of none.
    pub fn limit_accounts(&mut self, threads: u32) {
        self.coverage.most_accounts = threads;
    }

    /// Takes the hooks of a need off. Tasks are always followed: theirs stay.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn detach(&mut self, need: Need, out: &mut Vec<Event>) -> Result<(), ProbeError> {
        let now = monotonic_ns();
        let Some(hooked) = self.kernel.hooked.get_mut(&need) else {
            return Ok(());
        };
        match need {
            Need::Sched if self.coverage.waits.since.is_none() => {
                hooked.detach();
                wait_for_programs();
                // All that was counted. From here on, only the hook on the end of a task says anything about waits.
                self.drain_all(out)?;
                self.sample_all()?;
                self.coverage.waits.since = Some(now);
            }
            Need::Memory if self.coverage.calls.since.is_none() => {
                hooked.detach_in_background();
                self.coverage.calls.since = Some(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts the hooks of a need back.
    ///
    /// # Errors
    /// [`ProbeError::NotBack`] if the kernel does not let them; then they stay off.
    pub fn attach(&mut self, need: Need, out: &mut Vec<Event>) -> Result<(), ProbeError> {
        match need {
            Need::Sched if self.coverage.waits.since.is_some() => {
                // Those that ended until now are sampled as without hooks: their last record claims a wait that is none.
                self.drain_all(out)?;
                self.sample_with_accounts()?;
                self.forget_waits()?;
                self.put_back(need)?;
                let start = self.window_start_ns;
                self.coverage.waits.back(start, monotonic_ns());
            }
            Need::Memory if self.coverage.calls.since.is_some() => {
                self.put_back(need)?;
                let start = self.window_start_ns;
                self.coverage.calls.back(start, monotonic_ns());
            }
            _ => {}
        }
        Ok(())
    }

    /// Has all records forget what has gone stale. A task that the hook on creation makes a record for in this moment keeps what
    /// that says: it has not run yet.
    fn forget_waits(&mut self) -> Result<(), ProbeError> {
        wait_for_programs();
        for slot in self.slots_of(None)? {
            self.record(slot)?.forget_wait();
        }
        Ok(())
    }

    /// Puts the hooks of a need back.
    fn put_back(&mut self, need: Need) -> Result<(), ProbeError> {
        let Some(hooked) = self.kernel.hooked.get_mut(&need) else {
            return Ok(());
        };
        hooked.wait_until_detached();
        let attached = hooked.attach(&mut self.kernel.ebpf);
        attached.map_err(|reason| ProbeError::NotBack { need, reason })
    }

    /// Takes what each task did since its last sample. Without hooks on waits, the kernel is asked for them, unless there are
    /// too many threads.
    fn sample_with_accounts(&mut self) -> Result<(), ProbeError> {
        self.ask_for_accounts();
        let sampled = self.sample_all();
        self.coverage.asks = None;
        sampled
    }

    /// Has the samples that follow say what the kernel knows of the waits, where nothing else does.
    pub(super) fn ask_for_accounts(&mut self) {
        self.coverage.asks = Some(self.live_tasks() <= self.coverage.most_accounts);
    }

    /// Between windows, samples do without.
    pub(super) fn asked_for_accounts(&mut self) {
        self.coverage.asks = None;
    }

    fn drain_all(&mut self, out: &mut Vec<Event>) -> Result<(), ProbeError> {
        while self.drain(out)? {}
        Ok(())
    }
}

/// Returns once no program that was taken off its hook before runs any more: they run where the kernel's read-copy-update
/// waits for them, and this call waits for that. Where it is refused (`nohz_full`), the time that hooks stay off is long enough.
fn wait_for_programs() {
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        tracing::debug!("membarrier: {error}");
    }
}
