//! The values that a flag is about, window by window, as the detector takes them.

use super::{Group, group_name, reading::Reading, waits::Reader};
use crate::stream::{Flag, Metric, Moment, ProcessId, Scope, Window};

/// A value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// When its window ended.
    pub ts: Moment,
    /// How long that was.
    pub seconds: f64,
    /// In the metric's unit.
    pub value: f64,
}

/// Follows a metric of a process, or of its like-named threads.
#[derive(Debug)]
pub struct Follow {
    process: ProcessId,
    /// Name of the group, if it is about threads.
    threads: Option<String>,
    metric: Metric,
    reader: Reader,
    group: Option<Group>,
}

impl Follow {
    /// What the flag is about.
    pub fn new(flag: &Flag) -> Self {
        let of_thread = flag.thread.as_ref().map(|thread| group_name(&thread.name));
        let group = flag.threads.as_ref().map(|threads| threads.name.clone());
        Self {
            process: flag.process.clone(),
            threads: group.or(of_thread).filter(|_| flag.scope == Scope::Thread),
            metric: flag.metric,
            reader: Reader::default(),
            group: None,
        }
    }

    /// The windows that it wants.
    pub fn scope(&self) -> Scope {
        if self.threads.is_some() {
            Scope::Thread
        } else {
            Scope::Process
        }
    }

    /// Takes a window; gives the value that is complete with it. That of threads is complete when the next period begins.
    pub fn window(&mut self, window: &Window) -> Option<Value> {
        let same = (window.process.pid, window.process.created)
            == (self.process.pid, self.process.created);
        if !same || window.period_ns == 0 || window.scope != self.scope() {
            return None;
        }
        let Some(name) = &self.threads else {
            let reading = Reading::of(window, &mut self.reader).filter(|_| !window.ended)?;
            return self.value(&reading);
        };
        let thread = window
            .thread
            .as_ref()
            .filter(|thread| group_name(&thread.name) == *name)?;
        let complete = match &self.group {
            Some(group) if group.ts != window.ts => self.end(),
            _ => None,
        };
        let group = self.group.get_or_insert_with(|| Group::new(thread, window));
        group.add(thread, window, &mut self.reader);
        complete
    }

    /// There are no more windows: the last value of threads.
    pub fn end(&mut self) -> Option<Value> {
        let group = self.group.take()?;
        let reading = Reading::of_threads(group.ts, group.seconds, group.mapped_bytes, group.waits);
        self.value(&reading)
    }

    fn value(&self, reading: &Reading) -> Option<Value> {
        let value = reading.value(self.metric);
        value.is_finite().then_some(Value {
            ts: reading.ts,
            seconds: reading.seconds,
            value,
        })
    }
}
