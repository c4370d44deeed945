//! Keeps the set of followed processes equal to the service that was asked for, while processes come,
//! go, restart and move.
//!
//! The kernel side follows what followed processes create, and what executes a program in a followed
//! cgroup or with a followed name. The rest is done here: finding what runs already, matching what
//! the kernel side cannot (`argv[0]`, a cgroup made anew), and noticing what moved.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use slowburn_probes::linux::{ProbeError, Source};

use crate::attach::{
    AttachError, CgroupWatch, Host, Look, Rule, Service, Target, begun, find, nurseries, owner,
    poll,
};

/// Rounds of looking for new members until none is found: one that forks while it is not followed yet
/// has children that are found in the next round.
const ROUNDS: usize = 5;

/// Strangers' execs looked at one by one in a second. A look costs some 30 us, so that a storm of
/// execs elsewhere costs at most 1 % of a CPU; beyond it all of `/proc` is looked through once a second.
const LOOKS_PER_SECOND: u32 = 300;

/// What is watched.
pub struct Scope {
    host: Host,
    target: Target,
    all: bool,
    services: Vec<Service>,
    /// Nothing where the host has no more of them: a restart is then noticed by its execs.
    watch: Option<CgroupWatch>,
    looks: u32,
    looks_since: Instant,
    rescan_due: bool,
    rescanned: Instant,
}

impl Scope {
    /// Looks the target up.
    ///
    /// # Errors
    /// If nothing is found, or several services are and `all` is not set.
    pub fn find(host: Host, target: Target, all: bool) -> Result<Self, AttachError> {
        let services = find(&target, &host, all)?;
        Ok(Self {
            services,
            ..Self::waiting(host, target, all)
        })
    }

    /// A scope without a service yet; [`Scope::look_for_target`] may find one.
    pub fn waiting(host: Host, target: Target, all: bool) -> Self {
        let now = Instant::now();
        Self {
            host,
            target,
            all,
            services: Vec::new(),
            watch: CgroupWatch::new().ok(),
            looks: 0,
            looks_since: now,
            rescan_due: false,
            rescanned: now,
        }
    }

    /// The services, in the order of their indices.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Looks the target up again, if it was not found so far.
    ///
    /// # Errors
    /// If what is there now is ambiguous.
    pub fn look_for_target(&mut self) -> Result<bool, AttachError> {
        let found = poll(&self.target, &self.host, self.all)?;
        let is_there = found.is_some();
        self.services = found.unwrap_or_default();
        Ok(is_there)
    }

    /// A descriptor that can be read when cgroups were made that [`Scope::cgroups_made`] should look at.
    pub fn watch(&self) -> Option<OwnedFd> {
        self.listen();
        self.watch.as_ref()?.descriptor().ok()
    }

    /// Hears of new cgroups where those of the services would be made.
    fn listen(&self) {
        let Some(watch) = &self.watch else { return };
        if self.services.is_empty() {
            watch.watch(nurseries(&self.host));
        }
        for service in &self.services {
            watch.watch(service.nurseries(&self.host));
        }
    }

    /// Cgroups were made. Returns true if the target, which was not found so far, is one of them.
    ///
    /// # Errors
    /// If a table is full.
    pub fn cgroups_made(&mut self, source: &mut Source) -> Result<bool, ProbeError> {
        if let Some(watch) = &self.watch {
            watch.clear();
        }
        // First this, so that nothing is made unheard after the look.
        self.listen();
        if !self.services.is_empty() {
            self.tell_kernel(source)?;
            return Ok(false);
        }
        let mut begun = begun(&self.target, &self.host);
        if begun.len() > 1 && !self.all {
            // Whoever gets a process first; if all do, the next look finds that this is not clear.
            begun.clear();
        }
        self.services = begun;
        Ok(!self.services.is_empty())
    }

    /// Can any of the services come back once it is gone?
    pub fn can_return(&self) -> bool {
        self.services.is_empty() || self.services.iter().any(Service::can_return)
    }

    /// Follows all services: tells the kernel side what to follow from its exec on, then finds what runs.
    ///
    /// # Errors
    /// If a table is full. A process that is gone by now is no error.
    pub fn attach(&mut self, source: &mut Source) -> Result<(), ProbeError> {
        source.report_execs(self.can_return())?;
        self.listen();
        self.tell_kernel(source)?;
        for _ in 0..ROUNDS {
            if self.follow_members(source, IfFull::Fail)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn tell_kernel(&self, source: &mut Source) -> Result<(), ProbeError> {
        let mut cgroups = Vec::new();
        for (index, service) in (0..).zip(&self.services) {
            let ids = service.cgroup_ids(&self.host);
            cgroups.extend(ids.into_iter().map(|id| (id, index)));
            for name in service.kernel_names() {
                source.follow_name(name, index)?;
            }
        }
        source.follow_cgroups(&cgroups)
    }

    /// Follows members that are not followed yet. Returns how many there were, those included that were gone before they could
    /// be: they, too, may have left children.
    fn follow_members(&self, source: &mut Source, if_full: IfFull) -> Result<usize, ProbeError> {
        let followed: HashSet<u32> = source.processes().map(|(life, _)| life.id).collect();
        let look = Look::new(&self.host);
        let mut new = 0;
        for (index, service) in (0..).zip(&self.services) {
            for process in service.members_in(&look) {
                if !followed.contains(&process.pid) {
                    follow(source, process.pid, index, if_full)?;
                    new += 1;
                }
            }
        }
        Ok(new)
    }

    /// What any process is part of, by its cgroup.
    pub fn owner(&self, pid: u32) -> Option<String> {
        owner(&self.host, pid)
    }

    /// A process that is not followed has executed a program.
    ///
    /// # Errors
    /// If a table is full.
    pub fn stranger_exec(&mut self, pid: u32, source: &mut Source) -> Result<(), ProbeError> {
        if self.looks_since.elapsed() >= Duration::from_secs(1) {
            (self.looks, self.looks_since) = (0, Instant::now());
        }
        if self.looks >= LOOKS_PER_SECOND {
            self.rescan_due = true;
            return Ok(());
        }
        self.looks += 1;
        let accepting = self
            .services
            .iter()
            .position(|service| service.accepts(&self.host, pid).is_some());
        if let Some(index) = accepting {
            // A cgroup may have been made anew, under another id.
            self.tell_kernel(source)?;
            follow(source, pid, index as u32, IfFull::Count)?;
        }
        Ok(())
    }

    /// A process was followed by the kernel side because of its name, of which it compares 15 characters.
    ///
    /// # Errors
    /// If a table cannot be mapped.
    pub fn verify(&self, pid: u32, service: u32, source: &mut Source) -> Result<(), ProbeError> {
        let Some(service) = self.services.get(service as usize) else {
            return Ok(());
        };
        if self.has_left(service, pid) {
            source.unfollow(pid)?;
        }
        Ok(())
    }

    /// Does it run, and does not belong to the service? In this order: what exits has left its cgroup, too.
    fn has_left(&self, service: &Service, pid: u32) -> bool {
        service.accepts(&self.host, pid).is_none() && Source::is_running(pid)
    }

    /// Compares what is followed with the services, if it is time.
    ///
    /// # Errors
    /// If a table is full.
    pub fn rescan(&mut self, source: &mut Source, window_ended: bool) -> Result<(), ProbeError> {
        let overdue = self.rescan_due && self.rescanned.elapsed() >= Duration::from_secs(1);
        if !window_ended && !overdue {
            return Ok(());
        }
        (self.rescan_due, self.rescanned) = (false, Instant::now());
        self.tell_kernel(source)?;
        self.follow_members(source, IfFull::Count)?;
        self.unfollow_leavers(source)
    }

    /// Lets go of processes that moved out of a followed cgroup. Descendants of a process that was followed
    /// by its name stay, whatever becomes of their parents.
    fn unfollow_leavers(&self, source: &mut Source) -> Result<(), ProbeError> {
        let followed: Vec<_> = source.processes().collect();
        for (process, index) in followed {
            let Some(service) = self.services.get(index as usize) else {
                continue;
            };
            let by_cgroup = !matches!(service.rule, Rule::Process | Rule::Pid);
            if by_cgroup && self.has_left(service, process.id) {
                source.unfollow(process.id)?;
            }
        }
        Ok(())
    }
}

/// What to do about a process that finds no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfFull {
    /// At the start: the user can ask for more.
    Fail,
    /// Later: count it, and keep what there is.
    Count,
}

/// Follows a process, unless it has gone in the meantime.
fn follow(source: &mut Source, pid: u32, service: u32, if_full: IfFull) -> Result<(), ProbeError> {
    match source.follow(pid, service) {
        Ok(()) | Err(ProbeError::Process { .. }) => Ok(()),
        Err(ProbeError::NoSlot(_) | ProbeError::IdBeyondTable(_)) if if_full == IfFull::Count => {
            source.count_refused();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
