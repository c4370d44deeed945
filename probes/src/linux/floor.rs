//! Programs that do nothing, where ours are: what it costs to be called at all. No tracer can be cheaper, so that a
//! benchmark compares with them.

use aya::{Btf, Ebpf, EbpfLoader, programs::BtfTracePoint};

use super::{error::ProbeError, load::OBJECT};

/// Attached until it is dropped.
pub struct Floor(#[expect(dead_code, reason = "held for what its drop does")] Ebpf);

impl Floor {
    /// Attaches a program that does nothing to each tracepoint of waits.
    ///
    /// # Errors
    /// If the kernel refuses or lacks something; the error says what to do.
    pub fn attach() -> Result<Self, ProbeError> {
        let object = |error| ProbeError::Object(Box::new(error));
        let btf = Btf::from_sys_fs().map_err(|e| ProbeError::NoBtf(e.to_string()))?;
        let mut loader = EbpfLoader::new();
        for table in [
            "SCHED",
            "RECORDS",
            "HISTOGRAMS",
            "FREE_SLOTS",
            "SLOTS",
            "MEMBERS",
        ] {
            loader.map_max_entries(table, 1);
        }
        let mut ebpf = loader
            .map_max_entries("EVENTS", rustix::param::page_size() as u32)
            .load(OBJECT)
            .map_err(object)?;
        for tracepoint in ["sched_switch", "sched_wakeup", "sched_wakeup_new"] {
            let name = format!("empty_{tracepoint}");
            let program: &mut BtfTracePoint = ebpf
                .program_mut(&name)
                .ok_or_else(|| aya::programs::ProgramError::NotLoaded.into())
                .and_then(|program| Ok(program.try_into()?))
                .map_err(object)?;
            let attached = program
                .load(tracepoint, &btf)
                .and_then(|()| program.attach());
            attached.map_err(|error| object(error.into()))?;
        }
        Ok(Self(ebpf))
    }
}
