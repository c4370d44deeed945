//! `slowburn run` on Windows: attach to a service, a task or processes, and stream what they do.

use std::time::Duration;

use anyhow::{Context, bail};
use slowburn_probes::{
    etw::tracker,
    event::Event,
    windows::{Options, Source, Usage, own_usage, windows},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    cli::{self, Events, Run},
    commands::{
        check_config::Loaded,
        live::{self, Sinks},
    },
    detect::{Config, Detector},
    pipeline::Pipeline,
    policy::Policy,
    rivals,
    stream::{
        Cost, Hooks, Host, KernelCost, Limits, MemoryStep, Moment, OwnSummary, PolicyInUse, Record,
        SchedStep, Start, StopReason, TargetEventKind, WatchedService,
    },
    windows::{AttachError, Found, Scope},
};

/// How often events are taken from the queue. At 300,000 a second of 60 bytes, 50 ms are 1 MB of it.
const DRAIN: Duration = Duration::from_millis(50);

/// How often managers are asked whether the target was started anew.
const LOOK: Duration = Duration::from_secs(1);

/// Somebody else than the console wants the run to end: the service control manager.
pub static STOP: Notify = Notify::const_new();

/// Attaches and streams until told to stop.
///
/// # Errors
/// If the target is not found or not clear, the rights are missing, or the output cannot be opened.
pub fn run(options: &Run, config: Option<Loaded>, _kernel_log: bool) -> anyhow::Result<()> {
    if options.budget.0.is_some()
        && options.budget.0 != cli::budget(cli::BUDGET).ok().and_then(|usual| usual.0)
    {
        tracing::warn!(
            "no budget is kept on Windows yet: `self` in windows says what slowburn uses"
        );
    }
    let target = options.attach.target();
    let scope = match Scope::find(target.clone()) {
        Err(error) if options.wait && error.may_appear() => Scope::waiting(target),
        found => found?,
    };
    let source = Source::start(scope.begin(), source_options(options))?;
    if source.was_stale {
        tracing::warn!("a session that an earlier slowburn had left behind was ended");
    }
    let mut session = Session::new(options, source, scope, config, Sinks::open(options)?);
    live::runtime()?.block_on(session.run())
}

fn source_options(options: &Run) -> Options {
    let (slow_ns, min_mapping_bytes) = match options.events {
        Events::All => (0, 0),
        Events::Slow => (options.slow.as_nanos() as u64, options.min_mapping),
        Events::None => (u64::MAX, u64::MAX),
    };
    Options {
        queue_bytes: options.tuning.ring_size as usize,
        events: tracker::Options {
            slow_ns,
            min_mapping_bytes,
        },
    }
}

/// A run, from attaching to detaching.
struct Session<'a> {
    options: &'a Run,
    source: Source,
    scope: Scope,
    pipeline: Pipeline,
    sinks: Sinks,
    events: Vec<Event>,
    policy: Option<PolicyInUse>,
    started: u64,
    /// The target has been seen alive.
    was_alive: bool,
    used: Usage,
    queue_lost: u64,
}

impl<'a> Session<'a> {
    fn new(
        options: &'a Run,
        mut source: Source,
        scope: Scope,
        config: Option<Loaded>,
        sinks: Sinks,
    ) -> Self {
        let policy = config
            .as_ref()
            .map_or_else(Policy::default, |config| Policy::of(&config.file));
        Self {
            options,
            started: source.begin(),
            source,
            pipeline: Pipeline::new(
                &names(scope.found()),
                options.events != Events::None,
                Detector::with_policy(Config::default(), policy),
            ),
            scope,
            sinks,
            events: Vec::new(),
            policy: config.map(|config| config.in_use),
            was_alive: false,
            used: own_usage(),
            queue_lost: 0,
        }
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        self.begin();
        let reason = self.stream().await;
        // After an error, too, what was seen until then is written.
        self.source.stop(&mut self.events);
        self.own_summary();
        self.process();
        self.stop(*reason.as_ref().unwrap_or(&StopReason::Error));
        reason.map(drop)
    }

    /// Drains and ends windows until there is a reason to stop.
    async fn stream(&mut self) -> anyhow::Result<StopReason> {
        let mut signals = Signals::new().context("cannot watch for the console's signals")?;
        let start = Instant::now();
        let mut drains = live::every(start, DRAIN);
        let mut windows = live::every(start, self.options.window);
        let mut looks = live::every(start, LOOK);
        let end = self.options.duration.map(|duration| start + duration);
        loop {
            tokio::select! {
                biased;
                () = signals.any() => return Ok(StopReason::Signal),
                () = STOP.notified() => return Ok(StopReason::Signal),
                () = sleep_until(end.unwrap_or(start)), if end.is_some() => return Ok(StopReason::Duration),
                _ = windows.tick() => self.source.close_window()?,
                _ = looks.tick() => self.look()?,
                _ = drains.tick() => self.drain()?,
            }
            if self.sinks.output.is_closed() {
                return Ok(StopReason::OutputClosed);
            }
            if self.target_is_gone() {
                return Ok(StopReason::TargetGone);
            }
            if self.source.has_ended() {
                bail!(
                    "somebody has ended the tracing session (`logman stop`?), so that no more events come"
                );
            }
        }
    }

    /// Gone for good, or gone at all if that is what the user waits for.
    fn target_is_gone(&self) -> bool {
        self.was_alive
            && !self.pipeline.any_alive()
            && self.scope.is_settled()
            && (self.options.exit_with_target || !self.scope.can_return())
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        self.source.drain(&mut self.events);
        self.process();
        if self.source.is_settled() {
            self.end_window()?;
        }
        self.sinks.output.flush();
        Ok(())
    }

    fn process(&mut self) {
        for event in std::mem::take(&mut self.events) {
            self.pipeline
                .event(&event, &mut |record| self.sinks.record(record));
        }
        self.was_alive |= self.pipeline.any_alive();
    }

    fn end_window(&mut self) -> anyhow::Result<()> {
        self.own_summary();
        self.scope.refresh_owners();
        let rivals = self.source.take_rivals();
        let owner = |pid| self.scope.owner(pid);
        self.pipeline.set_rivals(rivals::by_waiter(rivals, owner));
        self.source.end_window(&mut self.events)?;
        self.process();
        self.sinks
            .note_losses(self.source.now(), &mut self.pipeline);
        self.sinks
            .terminal
            .status(self.pipeline.live_processes(), self.pipeline.raised());
        Ok(())
    }

    /// What slowburn itself has used in the window.
    fn own_summary(&mut self) {
        let now = own_usage();
        let before = std::mem::replace(&mut self.used, now);
        let lost = self.source.losses().queue;
        self.pipeline.set_own(OwnSummary {
            cost: Cost {
                user_cpu_ns: now.cpu_ns.saturating_sub(before.cpu_ns),
                kernel_cpu_ns: KernelCost::default(),
            },
            rss_bytes: now.rss_bytes,
            ring_lost: lost - std::mem::replace(&mut self.queue_lost, lost),
            memory: MemoryStep::Full,
            sched: SchedStep::Full,
        });
    }

    /// Has the target been started, started anew, or been in its own way?
    fn look(&mut self) -> anyhow::Result<()> {
        let mut overlaps = Vec::new();
        match self.scope.look(&mut overlaps) {
            Ok(false) => {}
            Ok(true) => {
                self.pipeline.set_services(&names(self.scope.found()));
                self.tell_attached();
            }
            // The next look may find an answer.
            Err(error @ AttachError::System { .. }) => tracing::warn!("{error}"),
            Err(error) => return Err(error.into()),
        }
        for overlap in overlaps {
            let mut event =
                self.pipeline
                    .service_event(self.source.now(), TargetEventKind::Overlapped, 0);
            event.pid = Some(overlap.pid);
            event.detail = Some(overlap.detail);
            self.sinks.record(Record::Target(event));
        }
        self.scope.follow(&mut self.source, &mut self.events)?;
        self.process();
        Ok(())
    }

    fn tell_attached(&mut self) {
        let Some(found) = self.scope.found() else {
            return;
        };
        let ts = self.source.now();
        self.sinks
            .attached(ts, 0, &watched(found), &mut self.pipeline);
    }

    fn begin(&mut self) {
        let start = Start {
            ts: Moment(self.started),
            version: env!("CARGO_PKG_VERSION").into(),
            host: host(),
            hooks: hooks(),
            limits: Limits {
                ring_bytes: u64::from(self.options.tuning.ring_size),
                max_tasks: slowburn_probes::etw::survey::MOST_TASKS as u32,
                // Nothing is measured less here.
                budget_share: None,
                ..live::limits(self.options)
            },
            policy: self.policy.take(),
            targets: self.scope.found().into_iter().map(watched).collect(),
        };
        let awaited = self.options.attach.target();
        self.sinks.begin(start, awaited, &mut self.pipeline);
    }

    fn stop(&mut self, reason: StopReason) {
        let lived = self.started..self.source.now();
        self.sinks.finish(lived, reason, 0, &mut self.pipeline);
    }
}

/// All ways in which the console, or Windows, tells a program to end. It is given some seconds.
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    interrupt_group: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    logoff: tokio::signal::windows::CtrlLogoff,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
        Ok(Self {
            interrupt: ctrl_c()?,
            interrupt_group: ctrl_break()?,
            close: ctrl_close()?,
            logoff: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.interrupt_group.recv() => {}
            _ = self.close.recv() => {}
            _ = self.logoff.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}

fn names(found: Option<&Found>) -> Vec<String> {
    found.map(|found| found.name.clone()).into_iter().collect()
}

fn watched(found: &Found) -> WatchedService {
    WatchedService {
        service: found.name.clone(),
        rule: found.rule,
        why: found.why.clone(),
        pids: found.pids.clone(),
    }
}

fn host() -> Host {
    let system = windows();
    Host {
        name: std::env::var("COMPUTERNAME").unwrap_or_default(),
        kernel: format!("Windows {}.{}.{}", system.major, system.minor, system.build),
        kernel_build: String::new(),
        arch: system.arch.into(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn hooks() -> Hooks {
    let etw = || "etw".to_owned();
    Hooks {
        tasks: etw(),
        sched: etw(),
        memory: etw(),
        refused: Vec::new(),
    }
}
