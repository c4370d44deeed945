//! Choosing hooks: each need has several forms, best first, and the first that loads and attaches is used.

use std::{error::Error, fmt, thread};

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint},
};

use super::error::ProbeError;

/// What a set of hooks is for. A need is hooked by one family as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Creation, exec, exit and names of tasks.
    Tasks,
    /// Wake-ups and switches.
    Sched,
    /// Calls that change an address space.
    Memory,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tasks => "tasks",
            Self::Sched => "sched",
            Self::Memory => "memory",
        })
    }
}

/// A form of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `tp_btf`: tracepoint with typed arguments, fields read directly.
    Btf,
    /// Raw tracepoint, fields read by helper.
    Raw,
    /// Classic tracepoint, fields from its record.
    Classic,
    /// `fexit` on the system call's function.
    Fexit,
    /// kprobe and kretprobe on the system call's function.
    Kprobe,
    /// `syscalls:sys_enter_*` and `sys_exit_*` tracepoints. They put every thread of the host on the slow system call path.
    Syscall,
    /// No hooks at all, on request: sizes are then read from `/proc` once a window, and no call is counted.
    None,
}

impl Family {
    /// Its name, in the stream and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btf => "tp_btf",
            Self::Raw => "raw",
            Self::Classic => "classic",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Syscall => "syscall",
            Self::None => "none",
        }
    }

    /// The families that serve a need, best first. [`Self::None`] is not among them.
    pub fn of(need: Need) -> &'static [Self] {
        match need {
            Need::Tasks | Need::Sched => &[Self::Btf, Self::Raw, Self::Classic],
            Need::Memory => &[Self::Fexit, Self::Kprobe, Self::Syscall],
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A family that was tried and did not work.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What for.
    pub need: Need,
    /// Which.
    pub family: Family,
    /// What the kernel said.
    pub reason: String,
}

/// Families to use instead of the best that works; for tests and comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preference {
    /// For [`Need::Tasks`] and [`Need::Sched`].
    pub sched: Option<Family>,
    /// For [`Need::Memory`].
    pub memory: Option<Family>,
}

impl Preference {
    fn candidates(self, need: Need) -> Vec<Family> {
        let forced = match need {
            Need::Tasks | Need::Sched => self.sched,
            Need::Memory => self.memory,
        };
        forced.map_or_else(|| Family::of(need).to_vec(), |family| vec![family])
    }
}

/// What was chosen, and what was tried before it.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// For tasks.
    pub tasks: Family,
    /// For scheduling.
    pub sched: Family,
    /// For memory.
    pub memory: Family,
    /// Better families that did not work.
    pub refusals: Vec<Refusal>,
}

/// One program and where it goes.
struct Hook {
    program: String,
    target: Target,
}

enum Target {
    Btf(&'static str),
    Raw(&'static str),
    /// Category, name, and the fields of its record that the program relies on, with their offsets.
    Tracepoint(&'static str, String, &'static [(&'static str, u32)]),
    Fexit(String),
    Kprobe(String),
}

/// A tracepoint: category, name, and the fields of its record that the classic form of its program reads.
type Event = (&'static str, &'static str, &'static [(&'static str, u32)]);

const TASK_EVENTS: [Event; 4] = [
    (
        "task",
        "task_newtask",
        &[("pid", 8), ("comm", 12), ("clone_flags", 32)],
    ),
    (
        "sched",
        "sched_process_exec",
        &[("pid", 12), ("old_pid", 16)],
    ),
    ("sched", "sched_process_exit", &[]),
    ("task", "task_rename", &[("pid", 8)]),
];

const SCHED_EVENTS: [Event; 3] = [
    ("sched", "sched_wakeup", &[("pid", 24)]),
    ("sched", "sched_wakeup_new", &[("pid", 24)]),
    (
        "sched",
        "sched_switch",
        &[("prev_pid", 24), ("prev_state", 32), ("next_pid", 56)],
    ),
];

const CALLS: [&str; 6] = ["mmap", "munmap", "mremap", "brk", "madvise", "mprotect"];

/// The same calls through the 32-bit entry, by the functions that the kernel keeps for it, if it has one
/// (`CONFIG_IA32_EMULATION`). The kernel fires no system call tracepoint for them.
const COMPAT_CALLS: [(&str, &str); 7] = [
    ("mmap", "__ia32_compat_sys_ia32_mmap"),
    ("mmap_pgoff", "__ia32_sys_mmap_pgoff"),
    ("munmap", "__ia32_sys_munmap"),
    ("mremap", "__ia32_sys_mremap"),
    ("brk", "__ia32_sys_brk"),
    ("madvise", "__ia32_sys_madvise"),
    ("mprotect", "__ia32_sys_mprotect"),
];

/// Calls that are not counted, and change an address space all the same. A kernel may be built without them.
const UNCOUNTED_CALLS: [&str; 2] = ["shmat", "shmdt"];

/// The hooks that a family cannot do without.
fn hooks(need: Need, family: Family) -> Vec<Hook> {
    match need {
        Need::Tasks => events(&TASK_EVENTS, family),
        Need::Sched => events(&SCHED_EVENTS, family),
        Need::Memory => CALLS
            .iter()
            .flat_map(|call| call_hooks(call, family))
            .collect(),
    }
}

fn events(list: &[Event], family: Family) -> Vec<Hook> {
    list.iter()
        .map(|&(category, name, fields)| match family {
            Family::Btf => Hook {
                program: format!("btf_{name}"),
                target: Target::Btf(name),
            },
            Family::Raw => Hook {
                program: format!("raw_{name}"),
                target: Target::Raw(name),
            },
            _ => Hook {
                program: format!("tp_{name}"),
                target: Target::Tracepoint(category, name.into(), fields),
            },
        })
        .collect()
}

/// Hooks on what the kernel may lack, by call. Without them the effect of a call is booked with the next one.
fn optional_hooks(need: Need, family: Family) -> Vec<Vec<Hook>> {
    if need != Need::Memory {
        return Vec::new();
    }
    let compat = COMPAT_CALLS.iter().map(|&(call, function)| {
        let name = format!("compat_{call}");
        function_hooks(&name, function.to_owned(), family)
    });
    let uncounted = UNCOUNTED_CALLS
        .iter()
        .map(|call| return_hooks(call, family));
    compat
        .chain([call_hooks("pkey_mprotect", family)])
        .chain(uncounted)
        .collect()
}

fn native_function(call: &str) -> String {
    format!("__x64_sys_{call}")
}

fn call_hooks(call: &str, family: Family) -> Vec<Hook> {
    let hook = |form: &str, target| Hook {
        program: format!("{form}_{call}"),
        target,
    };
    match family {
        Family::Syscall => vec![
            // The return first: an entry whose return is not hooked would be taken for a call in flight.
            hook("exit", exit_tracepoint(call)),
            hook(
                "enter",
                Target::Tracepoint("syscalls", format!("sys_enter_{call}"), &[]),
            ),
        ],
        _ => function_hooks(call, native_function(call), family),
    }
}

/// The hooks of a call that sit on its function; none if the family has no such form.
fn function_hooks(name: &str, function: String, family: Family) -> Vec<Hook> {
    let hook = |form: &str, target| Hook {
        program: format!("{form}_{name}"),
        target,
    };
    match family {
        Family::Fexit => vec![hook("fexit", Target::Fexit(function))],
        // The return first, as above.
        Family::Kprobe => vec![
            hook("kretprobe", Target::Kprobe(function.clone())),
            hook("kprobe", Target::Kprobe(function)),
        ],
        _ => Vec::new(),
    }
}

/// The hook on the return of a call whose arguments do not matter.
fn return_hooks(call: &str, family: Family) -> Vec<Hook> {
    let (form, target) = match family {
        Family::Fexit => ("fexit", Target::Fexit(native_function(call))),
        Family::Kprobe => ("kretprobe", Target::Kprobe(native_function(call))),
        Family::Syscall => ("exit", exit_tracepoint(call)),
        _ => return Vec::new(),
    };
    vec![Hook {
        program: format!("{form}_{call}"),
        target,
    }]
}

fn exit_tracepoint(call: &str) -> Target {
    Target::Tracepoint("syscalls", format!("sys_exit_{call}"), &[("ret", 16)])
}

/// Detaches all programs at the same time. The kernel takes some 70 ms for each tracepoint of a system call, to wait until
/// nobody can be in it any more: 1.2 s one after the other, and half of that together.
pub fn detach(ebpf: &mut Ebpf) {
    thread::scope(|scope| {
        for (_, program) in ebpf.programs_mut() {
            // Without a thread, it is detached when it is dropped.
            let _ = thread::Builder::new().spawn_scoped(scope, || unload(program));
        }
    });
}

/// Attaches the best family that works for a need.
///
/// # Errors
/// If none works. Refused families are added to `refusals` either way.
pub fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    need: Need,
    preference: Preference,
    refusals: &mut Vec<Refusal>,
) -> Result<Family, ProbeError> {
    for family in preference.candidates(need) {
        match attach_family(ebpf, btf, need, family) {
            Ok(()) => return Ok(family),
            Err(reason) => {
                tracing::debug!(%need, %family, %reason, "hook refused");
                refusals.push(Refusal {
                    need,
                    family,
                    reason,
                });
            }
        }
    }
    Err(ProbeError::NoHook {
        need,
        refusals: refusals
            .iter()
            .filter(|r| r.need == need)
            .cloned()
            .collect(),
    })
}

/// Attaches all that a family cannot do without, and then what of the rest the kernel has.
fn attach_family(ebpf: &mut Ebpf, btf: &Btf, need: Need, family: Family) -> Result<(), String> {
    attach_all(ebpf, btf, &hooks(need, family))?;
    for hooks in optional_hooks(need, family) {
        if let Err(reason) = attach_all(ebpf, btf, &hooks) {
            tracing::debug!(%need, %family, %reason, "hook left out");
        }
    }
    Ok(())
}

/// Loads and attaches programs; takes all of them down again if one is refused.
fn attach_all(ebpf: &mut Ebpf, btf: &Btf, hooks: &[Hook]) -> Result<(), String> {
    for (done, hook) in hooks.iter().enumerate() {
        if let Err(reason) = attach_one(ebpf, btf, hook) {
            for hook in &hooks[..=done] {
                ebpf.program_mut(&hook.program).map(unload);
            }
            return Err(format!("{}: {reason}", hook.program));
        }
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook) -> Result<(), String> {
    if let Target::Tracepoint(category, name, fields) = &hook.target {
        super::support::check_format(category, name, fields)?;
    }
    let program = ebpf
        .program_mut(&hook.program)
        .ok_or_else(|| "not in the object".to_owned())?;
    load_and_attach(program, btf, &hook.target).map_err(|e| explain(&e))
}

fn load_and_attach(program: &mut Program, btf: &Btf, target: &Target) -> Result<(), ProgramError> {
    match target {
        Target::Btf(name) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(name, btf)?;
            program.attach()?;
        }
        Target::Raw(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(name)?;
        }
        Target::Tracepoint(category, name, _) => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            program.attach(category, name)?;
        }
        Target::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Target::Kprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
    }
    Ok(())
}

/// The chain of causes in one line. The verifier's log goes to the debug log only: it can be megabytes.
fn explain(error: &ProgramError) -> String {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        tracing::debug!("verifier: {verifier_log}");
        return format!("not accepted by the kernel: {io_error}");
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Unloading a program drops its links first. One that was not loaded refuses.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::BtfTracePoint(p) => p.unload(),
        Program::RawTracePoint(p) => p.unload(),
        Program::TracePoint(p) => p.unload(),
        Program::FExit(p) => p.unload(),
        Program::KProbe(p) => p.unload(),
        _ => Ok(()),
    };
}
