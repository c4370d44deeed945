//! Containers, recognised by their cgroups, with the names that the runtimes' state files give them.
//!
//! State files belong to other programs: one that is absent, unreadable or of another format means
//! that the container has no name, and is never an error.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cgroup;
use super::host::Host;
use super::process::Snapshot;

/// A shorter prefix of an id would too often be met by chance.
const SHORTEST_PREFIX: usize = 4;

/// No state file is nearly that large.
const STATE_FILE_LIMIT: u64 = 32 << 20;

/// Where containerd keeps its running containers, below `/run`: `NAMESPACE/ID/config.json`.
const CONTAINERD_TASKS: [&str; 2] = [
    "containerd/io.containerd.runtime.v2.task",
    "k3s/containerd/io.containerd.runtime.v2.task",
];

/// Where podman and CRI-O keep their containers, below `/var/lib`.
const OVERLAY_CONTAINERS: &str = "containers/storage/overlay-containers";

/// A container as it is found in a cgroup path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub id: String,
    /// The path up to the container's cgroup.
    pub path: String,
}

/// A running container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub id: String,
    pub path: String,
    pub pids: Vec<u32>,
    pub names: Option<Names>,
}

/// What a container's runtime calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// What to call it.
    pub display: String,
    /// All names that a user may give it.
    pub accepted: Vec<String>,
    /// The name that no other container has at the same time, and that stays when the container is
    /// made anew, with the runtime before it.
    pub identity: String,
    /// The container that holds a pod's namespaces and does nothing.
    pub is_sandbox: bool,
}

impl Names {
    fn new(store: &str, display: &str) -> Self {
        Self {
            display: display.to_owned(),
            accepted: vec![display.to_owned()],
            identity: format!("{store}:{display}"),
            is_sandbox: false,
        }
    }
}

impl Container {
    /// The name, or the 12 characters that the runtimes' own tools show.
    pub(super) fn display_name(&self) -> String {
        match &self.names {
            Some(names) => names.display.clone(),
            None => self.id.chars().take(12).collect(),
        }
    }

    pub(super) fn is_sandbox(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.is_sandbox)
    }

    fn is_named(&self, name: &str) -> bool {
        self.names.as_ref().is_some_and(|names| {
            !names.is_sandbox && names.accepted.iter().any(|accepted| accepted == name)
        })
    }
}

/// All containers with a living process.
pub(super) fn running(host: &Host, snapshot: &Snapshot) -> Vec<Container> {
    let mut found: BTreeMap<String, Container> = BTreeMap::new();
    // Most processes share their cgroup with others, and looking for a container may ask the disk.
    let mut known: BTreeMap<&str, Vec<Located>> = BTreeMap::new();
    let state = State::new(host);
    for (pid, process) in &snapshot.processes {
        for membership in &process.cgroups {
            let path = membership.path.as_str();
            let located = known.entry(path).or_insert_with(|| in_path(host, path));
            for Located { id, path } in located.iter() {
                let container = found.entry(id.clone()).or_insert_with(|| Container {
                    id: id.clone(),
                    path: path.clone(),
                    pids: Vec::new(),
                    names: state.names(id),
                });
                container.pids.push(*pid);
            }
            // The other hierarchies say the same.
            if !located.is_empty() {
                break;
            }
        }
    }
    found.into_values().collect()
}

/// The containers that a user means: by name, else by the beginning of the id.
pub(super) fn matching(running: Vec<Container>, wanted: &str) -> Vec<Container> {
    let (named, others): (Vec<_>, Vec<_>) = running
        .into_iter()
        .partition(|container| container.is_named(wanted));
    if !named.is_empty() {
        return named;
    }
    let by_id = |container: &Container| {
        container.id == wanted
            || (wanted.len() >= SHORTEST_PREFIX
                && is_hex(wanted)
                && container.id.starts_with(wanted))
    };
    others.into_iter().filter(by_id).collect()
}

/// The containers in a cgroup path, outermost first: a container may run others.
pub(super) fn in_path(host: &Host, path: &str) -> Vec<Located> {
    let mut found: Vec<Located> = cgroup::directories(path)
        .filter_map(|(name, path)| {
            let id = id_in(name)?.to_owned();
            Some(Located {
                id,
                path: path.to_owned(),
            })
        })
        .collect();
    if found.is_empty() {
        found.extend(containerd_default(host, path));
    }
    found
}

/// The id in the name of a container's cgroup: `docker-ID.scope`, `libpod-ID`, `ID` and so on. Ids
/// have 64 hexadecimal digits. `libpod-conmon-ID` and `crio-conmon-ID` hold the monitors, which are
/// not part of the container.
fn id_in(directory: &str) -> Option<&str> {
    const PREFIXES: [&str; 6] = [
        "docker-",
        "cri-containerd-",
        "libpod-payload-",
        "libpod-",
        "crio-",
        "nerdctl-",
    ];
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    // `kubepods-besteffort-pod….slice:cri-containerd:ID` is made when containerd and the kubelet do
    // not agree on who manages cgroups.
    let name = name.rsplit(':').next()?;
    let id = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    (id.len() == 64 && is_hex(id)).then_some(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// runc's default path under containerd is `/NAMESPACE/ID`, where the id can be any name
/// (`ctr run IMAGE redis`). Only containerd's own state tells it from another cgroup.
fn containerd_default(host: &Host, path: &str) -> Option<Located> {
    let mut directories = cgroup::directories(path);
    let (namespace, _) = directories.next()?;
    let (id, path) = directories.next()?;
    if cgroup::has_unit_suffix(namespace) || cgroup::has_unit_suffix(id) {
        return None;
    }
    let state = |tasks: &str| host.run.join(tasks).join(namespace).join(id);
    let known = CONTAINERD_TASKS.iter().any(|tasks| state(tasks).is_dir());
    known.then(|| Located {
        id: id.to_owned(),
        path: path.to_owned(),
    })
}

/// The runtimes' state files. The list that podman and CRI-O keep for all their containers is read
/// at most once.
pub(super) struct State<'a> {
    host: &'a Host,
    stored: OnceCell<BTreeMap<String, String>>,
}

impl<'a> State<'a> {
    pub(super) fn new(host: &'a Host) -> Self {
        let stored = OnceCell::new();
        Self { host, stored }
    }

    /// What the runtimes call the container with this id.
    pub(super) fn names(&self, id: &str) -> Option<Names> {
        docker_names(self.host, id)
            .or_else(|| containerd_names(self.host, id))
            .or_else(|| pod_names(self.host, id))
            .or_else(|| {
                let stored = self.stored.get_or_init(|| stored_names(self.host));
                Some(Names::new("storage", stored.get(id)?))
            })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerState {
    name: Option<String>,
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    labels: Option<BTreeMap<String, String>>,
}

fn docker_names(host: &Host, id: &str) -> Option<Names> {
    let path = host
        .var_lib
        .join("docker/containers")
        .join(id)
        .join("config.v2.json");
    let state: DockerState = read_json(&path)?;
    let labels = state
        .config
        .and_then(|config| config.labels)
        .unwrap_or_default();
    let name = state.name.unwrap_or_default();
    let name = name.trim_start_matches('/');
    annotated("docker", &labels).or_else(|| (!name.is_empty()).then(|| Names::new("docker", name)))
}

/// The part of an OCI bundle's `config.json` that holds names.
#[derive(Deserialize)]
struct Bundle {
    annotations: Option<BTreeMap<String, String>>,
}

fn containerd_names(host: &Host, id: &str) -> Option<Names> {
    CONTAINERD_TASKS.iter().find_map(|tasks| {
        let namespaces = fs::read_dir(host.run.join(tasks)).ok()?.flatten();
        // Docker's containers are in a namespace here as well, without names.
        namespaces.into_iter().find_map(|namespace| {
            let bundle: Bundle = read_json(&namespace.path().join(id).join("config.json"))?;
            let named = annotated("containerd", &bundle.annotations.unwrap_or_default());
            // An id that is no number was given as a name.
            named.or_else(|| (!is_hex(id)).then(|| Names::new("containerd", id)))
        })
    })
}

#[derive(Deserialize)]
struct StoredContainer {
    id: String,
    names: Option<Vec<String>>,
}

/// What CRI-O wrote about a container of a pod.
fn pod_names(host: &Host, id: &str) -> Option<Names> {
    let storage = host.var_lib.join(OVERLAY_CONTAINERS);
    let bundle: Bundle = read_json(&storage.join(id).join("userdata/config.json"))?;
    annotated("storage", &bundle.annotations?)
}

/// The names of all containers of podman, by id.
fn stored_names(host: &Host) -> BTreeMap<String, String> {
    let storage = host.var_lib.join(OVERLAY_CONTAINERS);
    let named = |container: StoredContainer| {
        let name = container.names?.into_iter().next()?;
        Some((container.id, name))
    };
    // Containers that are removed when they stop are in a list of their own.
    ["containers.json", "volatile-containers.json"]
        .iter()
        .filter_map(|list| read_json::<Vec<StoredContainer>>(&storage.join(list)))
        .flatten()
        .filter_map(named)
        .collect()
}

/// The names that Kubernetes and nerdctl leave in annotations (in docker's case, labels).
fn annotated(store: &str, annotations: &BTreeMap<String, String>) -> Option<Names> {
    let get = |keys: [&str; 3]| {
        let values = keys.iter().filter_map(|key| annotations.get(*key));
        values.map(String::as_str).find(|value| !value.is_empty())
    };
    let kind = get([
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.docker.type",
    ]);
    let container = get([
        "io.kubernetes.cri.container-name",
        "io.kubernetes.container.name",
        "nerdctl/name",
    ]);
    let pod = get([
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.pod.name",
        "",
    ]);
    let namespace = get([
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.pod.namespace",
        "",
    ])
    .unwrap_or("default");
    let is_sandbox = matches!(kind, Some("sandbox" | "podsandbox"));
    let Some(pod) = pod else {
        return container.map(|name| Names::new(store, name));
    };
    let name = if is_sandbox { "(sandbox)" } else { container? };
    let in_pod = format!("{pod}/{name}");
    let full = format!("{namespace}/{in_pod}");
    Some(Names {
        // The container's own name is the same in all replicas.
        display: in_pod.clone(),
        identity: format!("{store}:{full}"),
        accepted: vec![name.to_owned(), pod.to_owned(), in_pod, full],
        is_sandbox,
    })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(STATE_FILE_LIMIT)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::debug!("no name from {}: {error}", path.display()))
        .ok()
}
