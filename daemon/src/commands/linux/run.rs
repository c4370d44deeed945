//! `slowburn run` on Linux: attach to a service and stream what it does.

use std::{future::pending, io, os::fd::OwnedFd, time::Duration};

use anyhow::Context;
use slowburn_probes::{
    event::{Event, Origin},
    linux::{self, Source},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use crate::{
    attach::Host,
    cli::{Events, Run},
    commands::{
        check_config::Loaded,
        live::{self, Sinks},
    },
    detect::{Config, Detector},
    pipeline::Pipeline,
    policy::Policy,
    privileges, rivals,
    scope::Scope,
    stream::{
        self, Hooks, Limits, Moment, PolicyInUse, Record, RefusedHook, Start, StopReason,
        WatchedService,
    },
    throttle::{self, Thresholds, Throttle},
};

/// How often the ring buffer is drained. At 200,000 events a second, 50 ms fill 1 MiB of it.
const DRAIN: Duration = Duration::from_millis(50);

/// Events that there is always memory for: 2 MB.
const MOST_EVENTS: usize = 8_192;

/// How often a target that was not found yet is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Attaches and streams until told to stop.
///
/// # Errors
/// If the target is not found or not clear, the kernel refuses, or the output cannot be opened.
pub fn run(options: &Run, config: Option<Loaded>, kernel_log: bool) -> anyhow::Result<()> {
    let host = Host::live()?;
    let target = options.attach.target();
    let scope = match Scope::find(host.clone(), target.clone(), options.attach.all) {
        Err(error) if options.wait && error.may_appear() => {
            Scope::waiting(host, target, options.attach.all)
        }
        found => found?,
    };
    let source = Source::start(probe_options(options, kernel_log))?;
    let writes_file = options.output_file().is_some();
    if let Err(error) = privileges::give_up(writes_file, options.budget.0.is_some()) {
        tracing::warn!("privileges that are not needed could not be given up: {error}");
    }
    let sinks = Sinks::open(options)?;
    let runtime = live::runtime()?;
    let mut session = Session::new(options, source, scope, config, sinks)?;
    runtime.block_on(session.run())
}

fn probe_options(options: &Run, kernel_log: bool) -> linux::Options {
    let thresholds = Thresholds::of(options);
    linux::Options {
        limits: linux::Limits {
            ring_bytes: options.tuning.ring_size,
            max_tasks: options.tuning.max_tasks,
        },
        slow_ns: thresholds.slow_ns,
        min_mapping_bytes: thresholds.min_mapping_bytes,
        preference: options.tuning.hooks.0,
        kernel_log,
    }
}

/// A run, from attaching to detaching.
struct Session<'a> {
    options: &'a Run,
    source: Source,
    throttle: Throttle,
    scope: Scope,
    pipeline: Pipeline,
    sinks: Sinks,
    events: Vec<Event>,
    policy: Option<PolicyInUse>,
    started: u64,
    /// The service was found by its new cgroup, and no process has been seen in it yet.
    is_expected: bool,
}

/// Signals that mean something to a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl<'a> Session<'a> {
    fn new(
        options: &'a Run,
        mut source: Source,
        scope: Scope,
        config: Option<Loaded>,
        sinks: Sinks,
    ) -> anyhow::Result<Self> {
        let names = names(&scope);
        let started = source.begin();
        let policy = config
            .as_ref()
            .map_or_else(Policy::default, |config| Policy::of(&config.file));
        Ok(Self {
            options,
            throttle: Throttle::new(options, &mut source)?,
            source,
            scope,
            pipeline: Pipeline::new(
                &names,
                options.events != Events::None,
                Detector::with_policy(Config::default(), policy),
            ),
            policy: config.map(|config| config.in_use),
            sinks,
            events: Vec::new(),
            started,
            is_expected: false,
        })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let mut signals = Signals::new().context("cannot watch for signals")?;
        self.scope.attach(&mut self.source)?;
        self.begin();
        let reason = self.stream(&mut signals).await.and_then(|reason| {
            self.source.recover_all(&mut self.events)?;
            self.process()?;
            self.end_window()?;
            Ok(reason)
        });
        // After an error, too, what was seen until then is written.
        self.stop(*reason.as_ref().unwrap_or(&StopReason::Error));
        reason.map(drop)
    }

    /// Drains and ends windows until there is a reason to stop.
    async fn stream(&mut self, signals: &mut Signals) -> anyhow::Result<StopReason> {
        self.throttle.begin(&mut self.source)?;
        // Nobody is alive until what was found is told: without it, a slow start would be taken for the end of the target.
        self.drain()?;
        let start = Instant::now();
        let mut drains = live::every(
            start,
            throttle::drain_interval(DRAIN, self.options.budget.0),
        );
        let mut windows = live::every(start, self.options.window);
        let mut looks = live::every(start, LOOK);
        let mut ticks = live::every(start, throttle::TICK);
        let made = self.scope.watch().and_then(|descriptor| {
            // SAFETY: the descriptor is open, and its only owner keeps it until it is dropped.
            unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.ok()
        });
        let end = self.options.duration.map(|duration| start + duration);
        loop {
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => return Ok(StopReason::Signal),
                _ = signals.terminate.recv() => return Ok(StopReason::Signal),
                _ = signals.hangup.recv() => self.sinks.output.reopen(),
                () = sleep_until(end.unwrap_or(start)), if end.is_some() => return Ok(StopReason::Duration),
                () = readable(made.as_ref()) => self.cgroups_made()?,
                _ = windows.tick() => self.end_window()?,
                _ = looks.tick(), if self.scope.services().is_empty() => self.look_for_target()?,
                _ = ticks.tick(), if self.throttle.has_budget() => self.keep_budget()?,
                _ = drains.tick() => self.drain()?,
            }
            if self.sinks.output.is_closed() {
                return Ok(StopReason::OutputClosed);
            }
            if self.target_is_gone() {
                return Ok(StopReason::TargetGone);
            }
        }
    }

    /// Gone for good, or gone at all if that is what the user waits for.
    fn target_is_gone(&self) -> bool {
        let found = !self.scope.services().is_empty();
        found
            && !self.is_expected
            && !self.pipeline.any_alive()
            && (self.options.exit_with_target || !self.scope.can_return())
    }

    fn look_for_target(&mut self) -> anyhow::Result<()> {
        if self.scope.look_for_target()? {
            self.target_found()?;
        }
        Ok(())
    }

    fn cgroups_made(&mut self) -> anyhow::Result<()> {
        if self.scope.cgroups_made(&mut self.source)? {
            self.is_expected = true;
            self.target_found()?;
        }
        Ok(())
    }

    fn target_found(&mut self) -> anyhow::Result<()> {
        self.pipeline.set_services(&names(&self.scope));
        self.tell_attached();
        self.scope.attach(&mut self.source)?;
        self.drain()
    }

    fn tell_attached(&mut self) {
        let ts = self.source.now();
        for (index, service) in (0..).zip(self.scope.services()) {
            self.sinks
                .attached(ts, index, &watched(service), &mut self.pipeline);
        }
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            let more = self.source.drain(&mut self.events)?;
            self.process()?;
            if !more {
                break;
            }
        }
        self.scope.rescan(&mut self.source, false)?;
        self.sinks.output.flush();
        Ok(())
    }

    /// Takes the events at hand through the pipeline.
    fn process(&mut self) -> anyhow::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        for event in &events {
            match event {
                Event::StrangerExec { pid, .. } => self.stranger_exec(*pid)?,
                Event::TaskStart {
                    task,
                    origin: Origin::Name,
                    ..
                } => {
                    self.scope
                        .verify(task.process.id, task.service, &mut self.source)?;
                }
                _ => {}
            }
            self.pass_on(event);
        }
        events.clear();
        // When a service is found, there is an event for each of its threads.
        events.shrink_to(MOST_EVENTS);
        self.events = events;
        Ok(())
    }

    /// A process that is not followed has executed a program. What is found of it comes before what has happened since: if that is
    /// the end of its parent, the service is not gone.
    fn stranger_exec(&mut self, pid: u32) -> anyhow::Result<()> {
        self.scope.stranger_exec(pid, &mut self.source)?;
        let mut found = Vec::new();
        self.source.hand_over(&mut found);
        for event in &found {
            self.pass_on(event);
        }
        Ok(())
    }

    fn pass_on(&mut self, event: &Event) {
        self.throttle.note(event);
        self.pipeline
            .event(event, &mut |record| self.sinks.record(record));
        self.is_expected &= !self.pipeline.any_alive();
    }

    /// Has less measured if too much CPU time is used, or more again.
    fn keep_budget(&mut self) -> anyhow::Result<()> {
        let change = self.throttle.tick(&mut self.source, &mut self.events)?;
        self.process()?;
        if let Some(change) = change {
            self.sinks.record(Record::Budget(Box::new(change)));
        }
        Ok(())
    }

    fn end_window(&mut self) -> anyhow::Result<()> {
        self.drain()?;
        while self.source.end_window(&mut self.events)? {
            self.process()?;
        }
        let own = self.throttle.end_window(&mut self.source)?;
        self.pipeline.set_own(own);
        let rivals = self.source.take_rivals()?;
        let owner = |pid| self.scope.owner(pid);
        self.pipeline.set_rivals(rivals::by_waiter(rivals, owner));
        self.process()?;
        self.scope.rescan(&mut self.source, true)?;
        self.sinks
            .note_losses(self.source.now(), &mut self.pipeline);
        self.sinks
            .terminal
            .status(self.pipeline.live_processes(), self.pipeline.raised());
        self.sinks.output.flush();
        Ok(())
    }

    fn begin(&mut self) {
        let start = Start {
            ts: Moment(self.started),
            version: env!("CARGO_PKG_VERSION").into(),
            host: host(),
            hooks: hooks(self.source.hooks()),
            limits: Limits {
                ring_bytes: u64::from(self.options.tuning.ring_size),
                max_tasks: self.options.tuning.max_tasks,
                ..live::limits(self.options)
            },
            policy: self.policy.take(),
            targets: self.scope.services().iter().map(watched).collect(),
        };
        let awaited = self.options.attach.target();
        self.sinks.begin(start, awaited, &mut self.pipeline);
    }

    fn stop(&mut self, reason: StopReason) {
        let lived = self.started..self.source.now();
        let recovered = self.source.recovered();
        self.sinks
            .finish(lived, reason, recovered, &mut self.pipeline);
    }
}

/// Waits until a descriptor can be read: for ever if there is none.
async fn readable(descriptor: Option<&AsyncFd<OwnedFd>>) {
    match descriptor {
        Some(descriptor) => match descriptor.readable().await {
            // Whoever waits reads all there is, now.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

fn names(scope: &Scope) -> Vec<String> {
    scope
        .services()
        .iter()
        .map(|service| service.name.clone())
        .collect()
}

fn watched(service: &crate::attach::Service) -> WatchedService {
    WatchedService {
        service: service.name.clone(),
        rule: service.rule,
        why: service.why.clone(),
        pids: service
            .processes
            .iter()
            .map(|process| process.pid)
            .collect(),
    }
}

fn host() -> stream::Host {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    stream::Host {
        name: text(uname.nodename()),
        kernel: text(uname.release()),
        kernel_build: text(uname.version()),
        arch: text(uname.machine()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn hooks(hooks: &linux::Hooks) -> Hooks {
    let refused = hooks.refusals.iter().map(|refusal| RefusedHook {
        need: refusal.need.to_string(),
        family: refusal.family.name().into(),
        reason: refusal.reason.clone(),
    });
    Hooks {
        tasks: hooks.tasks.name().into(),
        sched: hooks.sched.name().into(),
        memory: hooks.memory.name().into(),
        refused: refused.collect(),
    }
}
