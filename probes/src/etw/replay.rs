//! A recording as slowburn's events, window by window: what a live source says, from a file.

use std::{
    io::{Read, Seek},
    time::Duration,
};

use super::{
    error::RecordingError,
    recording::{About, Recording},
    survey::{Span, Survey, decoded},
    tracker::{At, Options, Sources, Target, Tracker},
};
use crate::event::{Class, Event, Rival};

/// Windows in a row in which nothing at all happens. What is left of a longer silence is one long window.
const MOST_SILENT: u64 = 100;

/// Events of the recording that are looked at before those that come of them are handed over.
const BATCH: usize = 4_096;

/// Replays a recording.
#[derive(Debug)]
pub struct Replay<R> {
    recording: Recording<R>,
    about: About,
    span: Span,
    tracker: Tracker,
    window_ns: u64,
    /// The current window began then.
    begun_ns: u64,
    /// When the last event of the recording happens.
    end_ns: u64,
    /// What was lost in all, by the recording's header, and how much of that was told.
    lost: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Running,
    Ended,
}

/// What a recording has of that which is not in every recording.
pub fn sources(survey: &Survey) -> Sources {
    let enabled = |word: usize, bit: u32| {
        survey
            .enabled
            .is_some_and(|enabled| enabled.masks[word] & bit != 0)
    };
    Sources {
        switches: survey.holdings.switches > 0,
        // None may have happened, where they would have been recorded.
        regions: survey.holdings.regions > 0 || enabled(1, 0x8000),
        faults: enabled(0, 0x1000),
        hard_faults: enabled(0, 0x3000),
    }
}

impl<R: Read + Seek> Replay<R> {
    /// Of a recording that was surveyed and opened anew.
    pub fn new(
        recording: Recording<R>,
        survey: &Survey,
        target: Target,
        options: Options,
        window: Duration,
    ) -> Self {
        let about = recording.about().clone();
        Self {
            span: Span::of(&about),
            about,
            recording,
            tracker: Tracker::new(target, options, sources(survey)),
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1),
            begun_ns: survey.start_ns,
            end_ns: survey.end_ns,
            lost: survey.lost.events + survey.lost.buffers,
            state: State::New,
        }
    }

    /// Adds the next events: up to the end of a window, at most. False when there are none any more.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next(&mut self, survey: &Survey, out: &mut Vec<Event>) -> Result<bool, RecordingError> {
        match self.state {
            State::New => {
                self.tracker.begin(survey, out);
                self.state = State::Running;
                return Ok(true);
            }
            State::Ended => return Ok(false),
            State::Running => {}
        }
        for _ in 0..BATCH {
            let Some(time) = self.recording.next_time()? else {
                self.end(out);
                return Ok(true);
            };
            let Some(ts) = self.span.time(&self.about, time) else {
                // The survey has counted it.
                self.recording.next_event()?;
                continue;
            };
            if ts.saturating_sub(self.begun_ns) >= self.window_ns {
                self.end_window(ts, out);
                return Ok(true);
            }
            self.event(ts, out)?;
        }
        Ok(true)
    }

    fn event(&mut self, ts: u64, out: &mut Vec<Event>) -> Result<(), RecordingError> {
        let Self {
            recording, tracker, ..
        } = self;
        let Some(event) = recording.next_event()? else {
            return Ok(());
        };
        if event.follows_loss {
            tracker.spoil(ts);
        }
        if let Some(Ok(payload)) = decoded(&event.header, event.payload) {
            let at = At {
                ts,
                cpu: event.cpu,
                thread: event.header.thread,
            };
            tracker.take(&at, &payload, out);
        }
        Ok(())
    }

    /// Ends the window before the event that happens at `next`.
    fn end_window(&mut self, next: u64, out: &mut Vec<Event>) {
        let silent = (next - self.begun_ns) / self.window_ns - 1;
        let windows = if silent > MOST_SILENT { silent } else { 1 };
        let period_ns = windows * self.window_ns;
        self.begun_ns += period_ns;
        self.tracker.end_window(self.begun_ns, period_ns, out);
    }

    /// The last window ends with the last event.
    fn end(&mut self, out: &mut Vec<Event>) {
        self.state = State::Ended;
        let ts = self.end_ns.max(self.begun_ns.saturating_add(1));
        let untold = self.lost.saturating_sub(self.tracker.breaks_told());
        if untold > 0 {
            out.push(Event::Loss {
                ts,
                class: Class::Trace,
                count: untold,
            });
        }
        self.tracker.end_window(ts, ts - self.begun_ns, out);
    }

    /// Takes who was waited behind since the last call.
    pub fn take_rivals(&mut self) -> Vec<Rival> {
        self.tracker.take_rivals()
    }

    /// What could not be read so far.
    pub fn damage(&self) -> &super::Damage {
        self.recording.damage()
    }
}

#[cfg(test)]
mod tests;
