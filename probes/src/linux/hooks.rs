//! Choosing hooks: each need has several forms, best first, and the first that loads and attaches is used.

use std::{
    any::Any,
    collections::BTreeMap,
    error::Error,
    fmt, mem,
    thread::{self, Builder, JoinHandle},
};

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint},
};

use super::error::ProbeError;

/// What a set of hooks is for. A need is hooked by one family as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// kretprobe on the system call's function.
    Kprobe,
    /// `syscalls:sys_exit_*` tracepoints. They put every thread of the host on the slow system call path.
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

/// Keeps a program on its hook until it is dropped. The program stays loaded.
type Link = Box<dyn Any + Send>;

/// The programs of a need, and what holds them in place.
pub struct Hooked {
    hooks: Vec<Hook>,
    /// One for each while they are in place.
    links: Vec<Link>,
    /// Drops those that were taken off last.
    detaching: Option<JoinHandle<()>>,
}

impl Hooked {
    /// Takes the programs off their hooks.
    pub fn detach(&mut self) {
        release(mem::take(&mut self.links));
    }

    /// The same without waiting for it.
    pub fn detach_in_background(&mut self) {
        let links = mem::take(&mut self.links);
        let detaching = Builder::new().name("slowburn-detach".into());
        // Without a thread, the links are dropped here and now.
        self.detaching = detaching.spawn(move || release(links)).ok();
    }

    /// Waits until those that were taken off are.
    pub fn wait_until_detached(&mut self) {
        if let Some(detaching) = self.detaching.take() {
            // It does nothing that could fail.
            let _ = detaching.join();
        }
    }

    /// Puts them back: all of them or, with what the kernel said, none. Needs `CAP_BPF` and `CAP_PERFMON`.
    pub fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), String> {
        for hook in self.hooks.iter().skip(self.links.len()) {
            let program = find(ebpf, hook)?;
            match put_in_place(program, &hook.target) {
                Ok(link) => self.links.push(link),
                Err(error) => {
                    let refusal = format!("{}: {}", hook.program, explain(&error));
                    self.detach();
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }
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

/// Switches first: the stamp of a wake-up before there is anything to take it up would be far too old by then.
const SCHED_EVENTS: [Event; 3] = [
    (
        "sched",
        "sched_switch",
        &[("prev_pid", 24), ("prev_state", 32), ("next_pid", 56)],
    ),
    ("sched", "sched_wakeup", &[("pid", 24)]),
    ("sched", "sched_wakeup_new", &[("pid", 24)]),
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
            .filter_map(|call| call_hook(call, family))
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
fn optional_hooks(need: Need, family: Family) -> Vec<Hook> {
    if need != Need::Memory {
        return Vec::new();
    }
    let compat = COMPAT_CALLS.iter().filter_map(|&(call, function)| {
        function_hook(&format!("compat_{call}"), function.to_owned(), family)
    });
    let native = ["pkey_mprotect"].iter().chain(&UNCOUNTED_CALLS);
    compat
        .chain(native.filter_map(|call| call_hook(call, family)))
        .collect()
}

fn native_function(call: &str) -> String {
    format!("__x64_sys_{call}")
}

/// The hook on the return of a call.
fn call_hook(call: &str, family: Family) -> Option<Hook> {
    match family {
        Family::Syscall => Some(Hook {
            program: format!("exit_{call}"),
            target: Target::Tracepoint("syscalls", format!("sys_exit_{call}"), &[("ret", 16)]),
        }),
        _ => function_hook(call, native_function(call), family),
    }
}

/// The hook on the return of a call's function; none if the family has no such form.
fn function_hook(name: &str, function: String, family: Family) -> Option<Hook> {
    let (form, target) = match family {
        Family::Fexit => ("fexit", Target::Fexit(function)),
        Family::Kprobe => ("kretprobe", Target::Kprobe(function)),
        _ => return None,
    };
    Some(Hook {
        program: format!("{form}_{name}"),
        target,
    })
}

/// Takes all programs off their hooks.
pub fn detach(hooked: &mut BTreeMap<Need, Hooked>) {
    let links = hooked
        .values_mut()
        .flat_map(|hooked| mem::take(&mut hooked.links));
    release(links.collect());
}

/// Drops links at the same time. The kernel takes some 70 ms for each tracepoint of a system call, to wait until nobody can
/// be in it any more: 1.2 s one after the other, and half of that together.
fn release(links: Vec<Link>) {
    thread::scope(|scope| {
        for link in links {
            // Without a thread, it is dropped here.
            let _ = Builder::new().spawn_scoped(scope, || drop(link));
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
) -> Result<(Family, Hooked), ProbeError> {
    for family in preference.candidates(need) {
        match attach_family(ebpf, btf, need, family) {
            Ok(hooked) => return Ok((family, hooked)),
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
fn attach_family(ebpf: &mut Ebpf, btf: &Btf, need: Need, family: Family) -> Result<Hooked, String> {
    let mut hooked = attach_all(ebpf, btf, hooks(need, family))?;
    for hook in optional_hooks(need, family) {
        match attach_one(ebpf, btf, &hook) {
            Ok(link) => {
                hooked.hooks.push(hook);
                hooked.links.push(link);
            }
            Err(reason) => {
                ebpf.program_mut(&hook.program).map(unload);
                tracing::debug!(%need, %family, hook = hook.program, %reason, "hook left out");
            }
        }
    }
    Ok(hooked)
}

/// Loads and attaches programs; takes all of them down again if one is refused.
fn attach_all(ebpf: &mut Ebpf, btf: &Btf, hooks: Vec<Hook>) -> Result<Hooked, String> {
    let mut links = Vec::new();
    for (done, hook) in hooks.iter().enumerate() {
        match attach_one(ebpf, btf, hook) {
            Ok(link) => links.push(link),
            Err(reason) => {
                drop(links);
                for hook in &hooks[..=done] {
                    ebpf.program_mut(&hook.program).map(unload);
                }
                return Err(format!("{}: {reason}", hook.program));
            }
        }
    }
    Ok(Hooked {
        hooks,
        links,
        detaching: None,
    })
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, hook: &Hook) -> Result<Link, String> {
    if let Target::Tracepoint(category, name, fields) = &hook.target {
        super::support::check_format(category, name, fields)?;
    }
    let program = find(ebpf, hook)?;
    load(program, btf, &hook.target)
        .and_then(|()| put_in_place(program, &hook.target))
        .map_err(|e| explain(&e))
}

fn find<'a>(ebpf: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut Program, String> {
    let program = ebpf.program_mut(&hook.program);
    program.ok_or_else(|| "not in the object".to_owned())
}

fn load(program: &mut Program, btf: &Btf, target: &Target) -> Result<(), ProgramError> {
    match target {
        Target::Btf(name) => <&mut BtfTracePoint>::try_from(program)?.load(name, btf),
        Target::Raw(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Target::Tracepoint(..) => <&mut TracePoint>::try_from(program)?.load(),
        Target::Fexit(function) => <&mut FExit>::try_from(program)?.load(function, btf),
        Target::Kprobe(_) => <&mut KProbe>::try_from(program)?.load(),
    }
}

/// Attaches a loaded program. It stays attached for as long as what is returned is kept.
fn put_in_place(program: &mut Program, target: &Target) -> Result<Link, ProgramError> {
    Ok(match target {
        Target::Btf(_) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Target::Raw(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            let link = program.attach(name)?;
            Box::new(program.take_link(link)?)
        }
        Target::Tracepoint(category, name, _) => {
            let program: &mut TracePoint = program.try_into()?;
            let link = program.attach(category, name)?;
            Box::new(program.take_link(link)?)
        }
        Target::Fexit(_) => {
            let program: &mut FExit = program.try_into()?;
            let link = program.attach()?;
            Box::new(program.take_link(link)?)
        }
        Target::Kprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            let link = program.attach(function, 0)?;
            Box::new(program.take_link(link)?)
        }
    })
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
