//! A live source: a session's events, window by window, with what the host counts of each process that is followed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    control,
    counters::{Asked, now_ns},
    error::SourceError,
    processes::processes,
    session::{SESSION, Session},
};
use crate::{
    etw::{
        live::Live,
        queue::{Block, Queue},
        tracker::{self, Target},
    },
    event::{Event, Life, Rival},
};

/// For how long events of a window may still come when it has ended: from the buffers, which are flushed then, through the callback.
const GRACE: Duration = Duration::from_millis(200);

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for events that have come and were not looked at yet. While they are, as much again is used.
    pub queue_bytes: usize,
    /// From which size on waits and allocations are events.
    pub events: tracker::Options,
}

/// Events lost since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// By the system: buffers were full, or not read in time.
    pub session: u64,
    /// By ourselves: the queue was full.
    pub queue: u64,
}

/// The source.
pub struct Source {
    session: Session,
    queue: Queue,
    live: Live,
    block: Block,
    /// Events of the next window that came while the current one was being ended.
    later: Block,
    most_bytes: usize,
    window: Window,
    losses: Losses,
    /// What is left of an earlier session was found, and ended.
    pub was_stale: bool,
}

/// The current window.
struct Window {
    begun: Instant,
    /// When it ends, since when that is known: by the clock of events, and by one that does not jump.
    ending: Option<(u64, Instant)>,
}

impl Source {
    /// Starts a session that follows the target.
    ///
    /// # Errors
    /// If the rights are missing, no slot is free, or the system refuses.
    pub fn start(target: Target, options: Options) -> Result<Self, SourceError> {
        let queue = Queue::new(options.queue_bytes);
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        let (session, was_stale) = Session::start(&queue, cpus)?;
        Ok(Self {
            session,
            queue,
            live: Live::new(target, options.events),
            block: Block::default(),
            later: Block::default(),
            most_bytes: options.queue_bytes,
            window: Window {
                begun: Instant::now(),
                ending: None,
            },
            losses: Losses::default(),
            was_stale,
        })
    }

    /// Begins the first window. Returns when that is, in nanoseconds since the Unix epoch.
    pub fn begin(&mut self) -> u64 {
        self.window.begun = Instant::now();
        now_ns()
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        now_ns()
    }

    /// Has somebody else ended the session?
    pub fn has_ended(&self) -> bool {
        self.session.has_ended()
    }

    /// Takes what has come.
    pub fn drain(&mut self, out: &mut Vec<Event>) {
        let refused = self.queue.take(&mut self.block);
        let until = self.window.ending.map_or(u64::MAX, |(ns, _)| ns);
        self.live
            .take(&self.block, until, &mut self.later, created, out);
        if refused.count > 0 {
            self.losses.queue += refused.count;
            self.live.lose(now_ns(), refused.count, out);
        }
    }

    /// Ends the window here. Its events are asked for; when they have come, [`Self::is_settled`].
    ///
    /// # Errors
    /// If the session is gone.
    pub fn close_window(&mut self) -> Result<(), SourceError> {
        self.window.ending = Some((now_ns(), Instant::now()));
        control::flush(SESSION)
    }

    /// Is the window ending, and is it time for [`Self::end_window`]?
    ///
    /// It is, too, when what came for the next window has grown as large as the queue may be.
    pub fn is_settled(&self) -> bool {
        let is_full = self.later.bytes() >= self.most_bytes;
        let ending = self.window.ending;
        ending.is_some_and(|(_, since)| is_full || since.elapsed() >= GRACE)
    }

    /// Tells what belongs to the window as a whole, and begins the next one.
    ///
    /// # Errors
    /// If the session is gone.
    pub fn end_window(&mut self, out: &mut Vec<Event>) -> Result<(), SourceError> {
        self.drain(out);
        let lost = self.session.take_lost()?;
        self.finish_window(lost, out);
        Ok(())
    }

    fn finish_window(&mut self, lost: u64, out: &mut Vec<Event>) {
        let (ts, at) = self
            .window
            .ending
            .take()
            .unwrap_or_else(|| (now_ns(), Instant::now()));
        self.losses.session += lost;
        self.live.lose(ts, lost, out);
        self.note_accounts();
        let period = at.duration_since(self.window.begun);
        self.window.begun = at;
        let tracker = self.live.tracker();
        tracker.end_window(ts, period.as_nanos() as u64, out);
        for (why, count) in self.live.take_undecoded() {
            tracing::warn!("{count} events are left out: {why}");
        }
        let later = std::mem::take(&mut self.later);
        self.live
            .take(&later, u64::MAX, &mut self.later, created, out);
    }

    /// What the host counts of each process that is followed.
    fn note_accounts(&mut self) {
        let lives = self.live.tracker().processes();
        if lives.is_empty() {
            return;
        }
        let threads: HashMap<u32, u32> = processes().map_or_else(
            |error| {
                tracing::warn!("cannot read the process list: {error}");
                HashMap::new()
            },
            |all| all.iter().map(|one| (one.pid, one.threads)).collect(),
        );
        for life in lives {
            // One that has ended meanwhile, or may not be asked, has no counters.
            let Ok(asked) = Asked::open(life.id) else {
                continue;
            };
            let mut account = asked.account();
            account.threads = threads.get(&life.id).map(|count| u64::from(*count));
            self.live.tracker().note_account(life.id, account);
        }
    }

    /// Stops the session, and takes what was still on its way into the last window, which ends now.
    pub fn stop(&mut self, out: &mut Vec<Event>) {
        self.window.ending = None;
        let lost = self.session.take_lost().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            0
        });
        self.session.stop();
        let later = std::mem::take(&mut self.later);
        self.live
            .take(&later, u64::MAX, &mut self.later, created, out);
        self.drain(out);
        self.finish_window(lost, out);
    }

    /// Follows what the target names from now on, besides what is followed already.
    pub fn retarget(&mut self, target: Target, out: &mut Vec<Event>) {
        let ts = self.now();
        self.live.tracker().retarget(ts, target, out);
    }

    /// From which size on waits and allocations are events.
    pub fn set_events(&mut self, events: tracker::Options) {
        self.live.tracker().set_options(events);
    }

    /// Marks of a process's threads, each once.
    pub fn tags(&mut self, pid: u32) -> Vec<u32> {
        self.live.tracker().tags(pid)
    }

    /// Processes that are followed.
    pub fn processes(&mut self) -> Vec<Life> {
        self.live.tracker().processes()
    }

    /// Takes who was waited behind since the last call.
    pub fn take_rivals(&mut self) -> Vec<Rival> {
        self.live.tracker().take_rivals()
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        self.losses
    }
}

/// When a process began that runs already.
fn created(pid: u32) -> Option<u64> {
    Asked::open(pid).ok()?.created_ns()
}
