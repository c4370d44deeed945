//! The task scheduler, asked through its programming interface (COM).

use std::io;

use windows::{
    Win32::System::{
        Com::{CLSCTX_INPROC_SERVER, COINIT_MULTITHREADED, CoCreateInstance, CoInitializeEx},
        SystemInformation::GetLocalTime,
        TaskScheduler::{IRegisteredTask, ITaskFolder, ITaskService, TaskScheduler},
        Variant::SystemTimeToVariantTime,
    },
    core::{BSTR, VARIANT},
};

use super::{
    error::AttachError,
    runs::{Instance, Look},
    target::Target,
};
use crate::near;

/// Tasks that are hidden from people are tasks all the same (`TASK_ENUM_HIDDEN`).
const HIDDEN: i32 = 1;

/// Most tasks that are looked through: a new Windows has some 200.
const MOST_TASKS: usize = 20_000;

/// A registered task.
pub struct Task {
    registered: IRegisteredTask,
    /// Its path, such as `\Backup\Nightly`.
    pub path: String,
}

/// Finds a task.
///
/// # Errors
/// If the scheduler does not answer, there is none of that name, or there are several.
pub fn find(name: &str) -> Result<Task, AttachError> {
    let all = all().map_err(|error| refused(&error))?;
    let wanted = name.to_lowercase();
    let is_named = |task: &&Task| {
        let path = task.path.to_lowercase();
        path == wanted || path.rsplit('\\').next() == Some(&wanted)
    };
    let mut named: Vec<&Task> = all.iter().filter(is_named).collect();
    match named.len() {
        0 => {
            let candidates = all.iter().map(|task| task.path.clone());
            Err(AttachError::NotFound {
                target: Target::Task(name.into()),
                near: near::best(name, candidates.collect()),
            })
        }
        1 => {
            let task = named.remove(0);
            Ok(Task {
                registered: task.registered.clone(),
                path: task.path.clone(),
            })
        }
        _ => Err(AttachError::Ambiguous {
            name: name.into(),
            paths: named.iter().map(|task| task.path.clone()).collect(),
        }),
    }
}

impl Task {
    /// What the scheduler says of it now.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn look(&self) -> Result<Look, AttachError> {
        let instances = self.instances().map_err(|error| refused(&error))?;
        // SAFETY: the task is a valid object of the scheduler.
        let next = unsafe { self.registered.NextRunTime() };
        Ok(Look {
            now: now(),
            // A task without triggers has none.
            next: next.unwrap_or(0.0),
            instances,
        })
    }

    fn instances(&self) -> windows::core::Result<Vec<Instance>> {
        let mut instances = Vec::new();
        // SAFETY: all of these are valid objects of the scheduler, and indices from 1 to the count are valid.
        unsafe {
            let running = self.registered.GetInstances(0)?;
            for index in 1..=running.Count()? {
                let one = running.get_Item(&VARIANT::from(index))?;
                // One that has ended meanwhile has no process.
                let (Ok(id), Ok(pid)) = (one.InstanceGuid(), one.EnginePID()) else {
                    continue;
                };
                if pid != 0 {
                    instances.push(Instance {
                        id: id.to_string(),
                        pid,
                    });
                }
            }
        }
        Ok(instances)
    }
}

fn all() -> windows::core::Result<Vec<Task>> {
    // SAFETY: may be called again and again by a thread; what it refuses then is to change what was chosen before.
    let _ = unsafe { CoInitializeEx(None, COINIT_MULTITHREADED) };
    let mut tasks = Vec::new();
    // SAFETY: the class is that of the interface; nothing that is passed has to outlive a call.
    unsafe {
        let service: ITaskService = CoCreateInstance(&TaskScheduler, None, CLSCTX_INPROC_SERVER)?;
        let nobody = VARIANT::default();
        service.Connect(&nobody, &nobody, &nobody, &nobody)?;
        let mut folders = vec![service.GetFolder(&BSTR::from("\\"))?];
        while let Some(folder) = folders.pop() {
            add(&folder, &mut tasks, &mut folders)?;
            if tasks.len() > MOST_TASKS {
                break;
            }
        }
    }
    Ok(tasks)
}

/// Adds what is in a folder.
///
/// # Safety
/// The folder must be a valid object of the scheduler.
unsafe fn add(
    folder: &ITaskFolder,
    tasks: &mut Vec<Task>,
    folders: &mut Vec<ITaskFolder>,
) -> windows::core::Result<()> {
    // SAFETY: as the caller promises; indices from 1 to the count are valid.
    unsafe {
        let found = folder.GetTasks(HIDDEN)?;
        for index in 1..=found.Count()? {
            let registered = found.get_Item(&VARIANT::from(index))?;
            let path = registered.Path()?.to_string();
            tasks.push(Task { registered, path });
        }
        let found = folder.GetFolders(0)?;
        for index in 1..=found.Count()? {
            folders.push(found.get_Item(&VARIANT::from(index))?);
        }
    }
    Ok(())
}

/// The time as the scheduler has it: days, in local time.
fn now() -> f64 {
    let mut days = 0.0;
    // SAFETY: both pointers are to what lives until the calls return.
    unsafe {
        let time = GetLocalTime();
        SystemTimeToVariantTime(&raw const time, &raw mut days);
    }
    days
}

fn refused(error: &windows::core::Error) -> AttachError {
    AttachError::System {
        whom: "the task scheduler",
        source: io::Error::other(error.message()),
    }
}
