//! What `slowburn run` takes on Linux alone.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use slowburn_probes::linux::{Family, Need, Preference};

use super::{name, size};
use crate::attach::Target;

/// What to attach to.
#[derive(Clone, Debug, Args)]
pub struct Attach {
    #[command(flatten)]
    named: Named,
    /// Attach to all services of that name, if there are several
    #[arg(long)]
    pub all: bool,
}

/// Exactly one of these is given.
#[derive(Clone, Debug, Args)]
#[group(id = "target", required = true, multiple = false)]
struct Named {
    /// Attach to a service by name: systemd unit, else container, else process name
    #[arg(long, value_name = "NAME", value_parser = name)]
    service: Option<String>,
    /// Attach to a systemd unit
    #[arg(long, value_name = "NAME", value_parser = name)]
    unit: Option<String>,
    /// Attach to a container, by name or beginning of its id
    #[arg(long, value_name = "NAME|ID", value_parser = name)]
    container: Option<String>,
    /// Attach to a cgroup, by its directory or its path in the hierarchy
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Attach to processes by name (comm, base name of the executable, or argv[0])
    #[arg(long, value_name = "NAME", value_parser = name)]
    process: Option<String>,
    /// Attach to a process by id; may be repeated
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
}

/// How the probes work.
#[derive(Clone, Debug, Args)]
pub struct Tuning {
    /// Size of the ring buffer between the kernel and slowburn
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = ring_size)]
    pub ring_size: u32,
    /// Most tasks that can be followed at the same time (2.7 KB of kernel memory each)
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_tasks: u32,
    /// Use these forms of hooks instead of the best that work, such as sched=raw,mem=kprobe
    ///
    /// The forms are, best first, tp_btf, raw and classic for sched; fexit, kprobe and syscall for mem. With mem=none, sizes
    /// are read from /proc once a window, and calls are neither counted nor shown.
    #[arg(long, value_name = "LIST", value_parser = hooks, default_value = "auto")]
    #[expect(clippy::doc_markdown, reason = "it is shown by --help")]
    pub hooks: HookChoice,
}

impl Attach {
    /// The target. clap has made sure that exactly one kind is given.
    pub fn target(&self) -> Target {
        let Named {
            service,
            unit,
            container,
            cgroup,
            process,
            pid,
        } = &self.named;
        if let Some(name) = service {
            Target::Service(name.clone())
        } else if let Some(name) = unit {
            Target::Unit(name.clone())
        } else if let Some(name) = container {
            Target::Container(name.clone())
        } else if let Some(path) = cgroup {
            Target::Cgroup(path.clone())
        } else if let Some(name) = process {
            Target::Process(name.clone())
        } else {
            Target::Pids(pid.clone())
        }
    }
}

/// Forms of hooks asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookChoice(pub Preference);

fn ring_size(text: &str) -> Result<u32, String> {
    let page = rustix::param::page_size() as u64;
    let value = size(text, page, 1 << 30)?;
    if !value.is_power_of_two() {
        let (below, above) = (value.next_power_of_two() / 2, value.next_power_of_two());
        return Err(format!(
            "must be a power of two, such as {} or {}",
            ByteSize(below),
            ByteSize(above)
        ));
    }
    Ok(value as u32)
}

fn hooks(text: &str) -> Result<HookChoice, String> {
    let mut preference = Preference::default();
    if text == "auto" {
        return Ok(HookChoice(preference));
    }
    for part in text.split(',') {
        let (need, family) = part
            .split_once('=')
            .ok_or("expected NEED=FORM, such as sched=raw or mem=kprobe")?;
        match need {
            "sched" => preference.sched = Some(hook_family(Need::Sched, family)?),
            "mem" | "memory" => preference.memory = Some(hook_family(Need::Memory, family)?),
            other => return Err(format!("unknown need {other:?}: sched or mem")),
        }
    }
    Ok(HookChoice(preference))
}

fn hook_family(need: Need, text: &str) -> Result<Family, String> {
    let mut families = Family::of(need).to_vec();
    if need == Need::Memory {
        families.push(Family::None);
    }
    families
        .iter()
        .copied()
        .find(|family| family.name() == text)
        .ok_or_else(|| {
            let names: Vec<_> = families.iter().map(|family| family.name()).collect();
            format!("unknown form {text:?} for {need}: {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{refuses, run},
        *,
    };

    #[test]
    fn targets_are_told_apart() {
        let target = |args: &[&str]| run(args).expect("it is right").attach.target();
        assert_eq!(target(&["--service", "a"]), Target::Service("a".into()));
        assert_eq!(
            target(&["--pid", "1", "--pid", "2"]),
            Target::Pids(vec![1, 2])
        );
        assert!(run(&["--service", "a", "--unit", "b"]).is_err());
    }

    #[test]
    fn absurd_values_are_usage_errors() {
        refuses(&[
            &["--ring-size", "0"],
            &["--ring-size", "5000"],
            &["--ring-size", "2GiB"],
            &["--max-tasks", "0"],
            &["--hooks", "sched=fexit"],
            &["--hooks", "sched=none"],
        ]);
        let run = run(&["--service", "a", "--ring-size", "4KiB"]).expect("it is right");
        assert_eq!(run.tuning.ring_size, 4_096);
    }
}
