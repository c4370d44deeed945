//! A service that was found, and how to recognise it again.

use std::path::PathBuf;

use super::Rule;
use super::cgroup::{self, Chosen};
use super::container::{self, Container};
use super::group::{self, Bond, Group};
use super::host::Host;
use super::look::Look;
use super::process::{self, FoundProcess, Life, NameKind, Process, Snapshot};
use super::target;
use super::unit::Manager;

/// How many pids are named in a sentence.
const NAMED_PIDS: usize = 3;

/// Something that runs and can be watched: what was found, and how to recognise it again.
#[derive(Clone, Debug)]
pub struct Service {
    /// What to call it: `nginx.service`; a container's name (`POD/CONTAINER` in Kubernetes) or the
    /// first 12 characters of its id; a process's name.
    pub name: String,
    /// Which rule found it.
    pub rule: Rule,
    /// The cgroup (the path inside its hierarchy) that holds the service; for processes by name,
    /// the unit or container they are in, if there is one around them all.
    pub cgroup: Option<PathBuf>,
    /// The processes at the time of the look-up, ascending by pid.
    pub processes: Vec<FoundProcess>,
    /// Why these processes, in one phrase for humans. Holds no command lines.
    pub why: String,
    follow: Follow,
}

/// What makes a process part of the service.
#[derive(Clone, Debug)]
enum Follow {
    Cgroup(Chosen),
    Container {
        id: String,
        path: String,
        identity: Option<String>,
    },
    /// With a bond: only the one of several services with that name.
    Name {
        name: String,
        bond: Option<Bond>,
    },
    Lives(Vec<Life>),
}

impl Service {
    /// All processes that belong to it now; none when it is gone. The rule is applied anew: a
    /// restarted unit, a container that was made anew under its old name and new processes with the
    /// name are found.
    ///
    /// For processes by name and by pid all descendants belong to the service, too.
    pub fn members(&self, host: &Host) -> Vec<FoundProcess> {
        self.members_in(&Look::new(host))
    }

    /// The same for one of several services, all by the same look at the host.
    pub fn members_in(&self, look: &Look) -> Vec<FoundProcess> {
        let host = look.host;
        match &self.follow {
            Follow::Cgroup(chosen) => chosen.members(host),
            Follow::Container { path, identity, .. } => {
                let chosen = Chosen {
                    path: path.clone(),
                    hierarchy: None,
                };
                let members = chosen.members(host);
                if members.is_empty() && identity.is_some() {
                    let snapshot = look.with_cgroups();
                    let same = same_containers(host, snapshot, identity.as_deref());
                    return snapshot.found(host, same.into_iter().flat_map(|found| found.pids));
                }
                members
            }
            Follow::Name { name, bond } => named_members(look, name, bond.as_ref()),
            Follow::Lives(lives) => {
                let snapshot = look.plain();
                let alive = alive(snapshot, lives);
                let pids = process::with_descendants(alive, &snapshot.children());
                snapshot.found(host, pids)
            }
        }
    }

    /// Does this process, which has just been started or has just executed a program, belong to the
    /// service? Looks at this one process only: a child that shares neither cgroup nor name with
    /// its service is not recognised (the kernel follows forks, and [`Service::members`] finds it).
    pub fn accepts(&self, host: &Host, pid: u32) -> Option<FoundProcess> {
        if host.is_self(pid) {
            return None;
        }
        let process = Process::read(host, pid)?;
        let belongs = match &self.follow {
            Follow::Cgroup(chosen) => chosen.holds(&process.cgroups),
            Follow::Container { id, identity, .. } => process.cgroups.iter().any(|membership| {
                let found = container::in_path(host, &membership.path);
                found.iter().any(|located| {
                    located.id == *id || is_identity(host, &located.id, identity.as_deref())
                })
            }),
            Follow::Name { name, bond } => {
                !host.is_own(pid)
                    && process::match_name(host, &process.stat.found, name).is_some()
                    && bond.as_ref().is_none_or(|bond| bond.holds(host, &process))
            }
            Follow::Lives(lives) => lives.contains(&process.stat.found.life()),
        };
        belongs.then_some(process.stat.found)
    }

    /// The v2 cgroups to hand to the kernel, which compares them with a task's cgroup and that
    /// cgroup's ancestors. Looked up anew: a restarted unit or container gets a new directory. None
    /// when the service has no cgroup of its own, or not in the v2 hierarchy: the kernel then
    /// follows pids alone.
    pub fn cgroup_ids(&self, host: &Host) -> Vec<u64> {
        match &self.follow {
            Follow::Cgroup(chosen) => chosen.id(host).into_iter().collect(),
            Follow::Container { path, identity, .. } => match cgroup::v2_id(host, path) {
                Some(cgroup) => vec![cgroup],
                None if identity.is_none() => Vec::new(),
                None => {
                    let snapshot = Snapshot::with_cgroups(host);
                    let same = same_containers(host, &snapshot, identity.as_deref());
                    let ids = same
                        .iter()
                        .filter_map(|found| cgroup::v2_id(host, &found.path));
                    ids.collect()
                }
            },
            Follow::Name { .. } | Follow::Lives(_) => Vec::new(),
        }
    }

    /// Where its cgroup would be made anew in the v2 hierarchy: the directories above it that are there. None
    /// for containers: a new one has another path.
    pub fn nurseries(&self, host: &Host) -> Vec<PathBuf> {
        let Follow::Cgroup(Chosen { path, .. }) = &self.follow else {
            return Vec::new();
        };
        let Some(hierarchy) = host.cgroups.iter().find(|cgroup| cgroup.is_v2()) else {
            return Vec::new();
        };
        let above = cgroup::directories(path).map(|(_, path)| path).chain(["/"]);
        let above = above.filter(|above| above != path);
        let directories = above.filter_map(|above| hierarchy.directory(above));
        directories.filter(|directory| directory.is_dir()).collect()
    }

    /// Comms (zero-padded) that the kernel may match at exec. Only for processes by name, and not
    /// when this is one of several services with that name. A name of more than 15 characters is
    /// cut: [`Service::accepts`] must confirm what the kernel then finds.
    pub fn kernel_names(&self) -> Vec<[u8; 16]> {
        match &self.follow {
            Follow::Name { name, bond: None } => vec![target::kernel_name(name)],
            _ => Vec::new(),
        }
    }

    /// Can it come back after it has gone? Pids cannot, nor can one of several services that only
    /// differ in which process they descend from.
    pub fn can_return(&self) -> bool {
        match &self.follow {
            Follow::Cgroup(_) | Follow::Container { .. } => true,
            Follow::Name { bond, .. } => bond.as_ref().is_none_or(Bond::can_return),
            Follow::Lives(_) => false,
        }
    }

    /// A unit, which was perhaps asked for by another name.
    pub(super) fn unit(
        host: &Host,
        snapshot: &Snapshot,
        path: String,
        pids: Vec<u32>,
        alias: Option<&str>,
    ) -> Self {
        let directory = path.rsplit('/').next().unwrap_or_default();
        Self {
            name: cgroup::unescape(directory).to_owned(),
            rule: Rule::Unit,
            cgroup: Some(PathBuf::from(&path)),
            processes: snapshot.found(host, pids),
            why: why_unit(host, &path, alias),
            follow: Follow::Cgroup(Chosen {
                path,
                hierarchy: None,
            }),
        }
    }

    pub(super) fn cgroup(host: &Host, snapshot: &Snapshot, chosen: Chosen) -> Self {
        let name = chosen
            .path
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty());
        Self {
            name: name.unwrap_or("/").to_owned(),
            rule: Rule::Cgroup,
            cgroup: Some(PathBuf::from(&chosen.path)),
            processes: snapshot.found(host, chosen.pids_in(snapshot)),
            why: format!("cgroup {}", cgroup::shown(&chosen.path)),
            follow: Follow::Cgroup(chosen),
        }
    }

    pub(super) fn container(host: &Host, snapshot: &Snapshot, container: Container) -> Self {
        let short: String = container.id.chars().take(12).collect();
        Self {
            name: container.display_name(),
            rule: Rule::Container,
            cgroup: Some(PathBuf::from(&container.path)),
            why: format!(
                "container {short} in cgroup {}",
                cgroup::shown(&container.path)
            ),
            processes: snapshot.found(host, container.pids),
            follow: Follow::Container {
                id: container.id,
                path: container.path,
                identity: container.names.map(|names| names.identity),
            },
        }
    }

    /// All services with a name. The only one takes in whatever gets that name later; of several,
    /// each keeps to its own.
    pub(super) fn named(
        host: &Host,
        snapshot: &Snapshot,
        name: &str,
        groups: Vec<Group>,
    ) -> Vec<Self> {
        let is_only = groups.len() == 1;
        let service = |group: Group| Self {
            name: name.to_owned(),
            rule: Rule::Process,
            cgroup: match &group.bond {
                Bond::Cgroup(path) => Some(PathBuf::from(path)),
                _ => None,
            },
            why: describe(name, &group),
            processes: snapshot.found(host, group.pids),
            follow: Follow::Name {
                name: name.to_owned(),
                bond: (!is_only).then_some(group.bond),
            },
        };
        groups.into_iter().map(service).collect()
    }

    pub(super) fn lives(host: &Host, snapshot: &Snapshot, lives: Vec<Life>, name: String) -> Self {
        let alive: Vec<u32> = alive(snapshot, &lives).collect();
        let all = process::with_descendants(alive.iter().copied(), &snapshot.children());
        let processes = snapshot.found(host, all);
        let descendants = processes.len().saturating_sub(alive.len());
        Self {
            name,
            rule: Rule::Pid,
            cgroup: None,
            why: format!(
                "{}{}",
                pid_list(&alive),
                and_descendants(alive.len(), descendants)
            ),
            processes,
            follow: Follow::Lives(lives),
        }
    }
}

/// `alias "web.service", cgroup /system.slice/nginx.service`
fn why_unit(host: &Host, path: &str, alias: Option<&str>) -> String {
    let alias = alias.map(|name| format!("alias \"{}\"", cgroup::shown(name)));
    let cgroup = format!("cgroup {}", cgroup::shown(path));
    // A user inside a container is not the host's user with that id.
    let is_inside = !container::in_path(host, path).is_empty();
    let owner = Manager::of(path).owner(host).filter(|_| !is_inside);
    let parts = [alias, Some(cgroup), owner];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The containers that have the name now.
fn same_containers(host: &Host, snapshot: &Snapshot, identity: Option<&str>) -> Vec<Container> {
    let mut running = container::running(host, snapshot);
    running.retain(|found| {
        let names = found.names.as_ref().map(|names| names.identity.as_str());
        names.is_some() && names == identity
    });
    running
}

fn is_identity(host: &Host, id: &str, identity: Option<&str>) -> bool {
    identity.is_some_and(|identity| {
        container::State::new(host)
            .names(id)
            .is_some_and(|names| names.identity == identity)
    })
}

fn named_members(look: &Look, name: &str, bond: Option<&Bond>) -> Vec<FoundProcess> {
    let Some(bond) = bond else {
        let snapshot = look.plain();
        let matched = group::named(look.host, snapshot, name);
        let pids = process::with_descendants(matched.into_keys(), &snapshot.children());
        return snapshot.found(look.host, pids);
    };
    let groups = look.groups(name);
    let own = groups.iter().filter(|group| group.bond == *bond);
    let pids = own.flat_map(|group| group.pids.iter().copied());
    look.with_cgroups().found(look.host, pids)
}

fn alive(snapshot: &Snapshot, lives: &[Life]) -> impl Iterator<Item = u32> {
    let same = |life: &&Life| {
        snapshot
            .get(life.pid)
            .is_some_and(|process| process.stat.found.life() == **life)
    };
    lives.iter().filter(same).map(|life| life.pid)
}

/// `comm "nginx" of pid 812 and 4 of its descendants`
fn describe(name: &str, group: &Group) -> String {
    let kind = group
        .roots
        .first()
        .map_or(NameKind::Comm, |(_, kind)| *kind);
    let roots: Vec<u32> = group.roots.iter().map(|(pid, _)| *pid).collect();
    let descendants = group.pids.len().saturating_sub(roots.len());
    format!(
        "{kind} {name:?} of {}{}",
        pid_list(&roots),
        and_descendants(roots.len(), descendants)
    )
}

fn pid_list(pids: &[u32]) -> String {
    let shown: Vec<String> = pids.iter().take(NAMED_PIDS).map(u32::to_string).collect();
    let word = if pids.len() == 1 { "pid" } else { "pids" };
    match pids.len().saturating_sub(NAMED_PIDS) {
        0 => format!("{word} {}", shown.join(", ")),
        more => format!("{word} {} and {more} more", shown.join(", ")),
    }
}

fn and_descendants(roots: usize, descendants: usize) -> String {
    let whose = if roots == 1 { "its" } else { "their" };
    match descendants {
        0 => String::new(),
        count => format!(" and {count} of {whose} descendants"),
    }
}
