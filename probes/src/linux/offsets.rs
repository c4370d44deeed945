//! Where the running kernel keeps the fields that the programs read.
//!
//! Rust's BPF target has no relocatable field accesses, so the offsets are looked up in the kernel's BTF
//! and given to the programs as read-only globals before they are loaded. What exists is decided
//! by the presence of a field, never by the kernel's version: vendors back-port.

use btf_rs::{Backend, Btf, Struct, Type};

use super::error::ProbeError;

/// Byte offsets into the kernel's structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.__state` (`state` before 5.14)
    pub task_state: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.start_boottime`
    pub task_start: u32,
    /// `task_struct.sched_info.run_delay`; `u32::MAX` where the kernel does not keep it (neither `CONFIG_SCHEDSTATS`
    /// nor `CONFIG_TASK_DELAY_ACCT`)
    pub task_run_delay: u32,
    /// `task_struct.sched_info.pcount`, likewise
    pub task_run_count: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.total_vm`
    pub mm_total_vm: u32,
    /// `mm_struct.data_vm`
    pub mm_data_vm: u32,
    /// `pt_regs.di`, `.si`, `.dx`, `.r10`: the first four arguments of a system call
    pub syscall_args: [u32; 4],
    /// `pt_regs.bx`, `.cx`, `.dx`, `.si`: the same through the 32-bit entry
    pub compat_args: [u32; 4],
}

impl Offsets {
    /// Looks them up in the running kernel's BTF.
    ///
    /// # Errors
    /// If the kernel has no BTF, or lacks one of the fields.
    pub fn of_running_kernel() -> Result<Self, ProbeError> {
        let btf = kernel_btf().map_err(|e| ProbeError::NoBtf(e.to_string()))?;
        let task = Layout::of(&btf, "task_struct")?;
        let mm = Layout::of(&btf, "mm_struct")?;
        let regs = Layout::of(&btf, "pt_regs")?;
        let run_account = |field: &str| {
            Layout::of(&btf, "sched_info")
                .and_then(|info| Ok(task.offset("sched_info")? + info.offset(field)?))
                .unwrap_or(u32::MAX)
        };
        Ok(Self {
            task_pid: task.offset("pid")?,
            task_tgid: task.offset("tgid")?,
            task_state: task.offset("__state").or_else(|_| task.offset("state"))?,
            task_comm: task.offset("comm")?,
            task_start: task.offset("start_boottime")?,
            task_run_delay: run_account("run_delay"),
            task_run_count: run_account("pcount"),
            task_mm: task.offset("mm")?,
            mm_total_vm: mm.offset("total_vm")?,
            mm_data_vm: mm.offset("data_vm")?,
            syscall_args: regs.offsets(["di", "si", "dx", "r10"])?,
            compat_args: regs.offsets(["bx", "cx", "dx", "si"])?,
        })
    }
}

/// Mapped, which takes a fraction of the time and memory, where the kernel allows that (6.16); else read in one piece, since
/// the reader asks for its position at every step.
fn kernel_btf() -> Result<Btf, btf_rs::Error> {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    Btf::from_file_with_backend(PATH, Backend::Mmap)
        .or_else(|_| Btf::from_bytes(&std::fs::read(PATH)?))
}

/// One structure of the kernel.
struct Layout<'a> {
    btf: &'a Btf,
    name: &'static str,
    structure: Struct,
}

impl<'a> Layout<'a> {
    fn of(btf: &'a Btf, name: &'static str) -> Result<Self, ProbeError> {
        let missing = || ProbeError::MissingField(format!("struct {name}"));
        let types = btf.resolve_types_by_name(name).map_err(|_| missing())?;
        let structure = types
            .into_iter()
            .find_map(|t| match t {
                Type::Struct(structure) => Some(structure),
                _ => None,
            })
            .ok_or_else(missing)?;
        Ok(Self {
            btf,
            name,
            structure,
        })
    }

    fn offset(&self, field: &str) -> Result<u32, ProbeError> {
        self.bit_offset(&self.structure, field)
            .map(|bits| bits / 8)
            .ok_or_else(|| ProbeError::MissingField(format!("{}.{field}", self.name)))
    }

    fn offsets(&self, [a, b, c, d]: [&str; 4]) -> Result<[u32; 4], ProbeError> {
        Ok([
            self.offset(a)?,
            self.offset(b)?,
            self.offset(c)?,
            self.offset(d)?,
        ])
    }

    /// Looks into anonymous members too: most of `mm_struct` is one, for layout randomisation.
    fn bit_offset(&self, structure: &Struct, field: &str) -> Option<u32> {
        structure
            .members
            .iter()
            .find_map(|member| match self.btf.resolve_name(member) {
                Ok(name) if name == field => Some(member.bit_offset()),
                Ok(name) if name.is_empty() => match self.btf.resolve_chained_type(member).ok()? {
                    Type::Struct(inner) | Type::Union(inner) => {
                        Some(member.bit_offset() + self.bit_offset(&inner, field)?)
                    }
                    _ => None,
                },
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_kernel_has_all_fields_at_plausible_places() {
        let offsets = match Offsets::of_running_kernel() {
            Err(ProbeError::NoBtf(why)) => {
                println!("SKIP: no kernel BTF here: {why}");
                return;
            }
            other => other.unwrap(),
        };
        // Two ints side by side in every kernel since 2.6.
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
        assert_eq!(offsets.task_comm % 4, 0);
        assert_eq!(offsets.mm_total_vm % 8, 0);
        assert_ne!(offsets.mm_total_vm, offsets.mm_data_vm);
        // x86-64's pt_regs is an ABI: r10 is the eighth register, di the fifteenth.
        assert_eq!(offsets.syscall_args, [112, 104, 96, 56]);
        assert_eq!(offsets.compat_args, [40, 88, 96, 104]);
    }
}
