//! What `slowburn run` takes on Windows alone.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::{name, size};
use crate::windows::Target;

/// What to attach to.
#[derive(Clone, Debug, Args)]
pub struct Attach {
    #[command(flatten)]
    named: Named,
}

/// Exactly one of these is given.
#[derive(Clone, Debug, Args)]
#[group(id = "target", required = true, multiple = false)]
struct Named {
    /// Attach to a service by name or display name, or else to processes with that name
    #[arg(long, value_name = "NAME", value_parser = name)]
    service: Option<String>,
    /// Attach to processes by the name of their program, with or without .exe
    #[arg(long, value_name = "NAME", value_parser = name)]
    process: Option<String>,
    /// Attach to a process by id; may be repeated
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// Attach to a scheduled task, by its path or the last part of it, and to all that it starts
    #[arg(long, value_name = "NAME", value_parser = name)]
    task: Option<String>,
}

/// How the session works.
#[derive(Clone, Debug, Args)]
pub struct Tuning {
    /// Memory for events that have come and were not looked at yet
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = queue_size)]
    pub ring_size: u32,
}

/// `slowburn service`
#[derive(Debug, Args)]
pub struct Service {
    /// What to do
    #[command(subcommand)]
    pub action: ServiceAction,
}

/// What to do with the service.
#[derive(Debug, Subcommand)]
pub enum ServiceAction {
    /// Install it, to be started with Windows, and again when it fails
    Install {
        /// Options of `slowburn run`, after --; where the output goes, `service status` says if they do not
        #[arg(last = true, required = true, value_name = "RUN OPTIONS")]
        run: Vec<OsString>,
    },
    /// Stop and remove it; its policy and output stay
    Uninstall,
    /// Start it
    Start,
    /// Stop it
    Stop,
    /// Say whether it is installed and runs
    Status,
    /// Be the service
    #[command(hide = true)]
    Host {
        /// Options of `slowburn run`
        #[arg(last = true)]
        run: Vec<OsString>,
    },
}

impl Attach {
    /// The target. clap has made sure that exactly one kind is given.
    pub fn target(&self) -> Target {
        let Named {
            service,
            process,
            pid,
            task,
        } = &self.named;
        if let Some(name) = service {
            Target::Service(name.clone())
        } else if let Some(name) = process {
            Target::Process(name.clone())
        } else if let Some(name) = task {
            Target::Task(name.clone())
        } else {
            Target::Pids(pid.clone())
        }
    }
}

fn queue_size(text: &str) -> Result<u32, String> {
    Ok(size(text, 1 << 20, 1 << 30)? as u32)
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
        assert_eq!(target(&["--task", r"\a\b"]), Target::Task(r"\a\b".into()));
        assert_eq!(
            target(&["--pid", "1", "--pid", "2"]),
            Target::Pids(vec![1, 2])
        );
        refuses(&[&["--task", "b"], &["--ring-size", "1KiB"]]);
    }
}
