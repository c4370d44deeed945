//! Giving up privileges that are not needed once the programs are attached.

use caps::{CapSet, Capability, CapsHashSet};

/// What the running daemon still needs.
///
/// `CAP_BPF` for tables, where the kernel asks for it even with a descriptor at hand;
/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH` to read the counters and names of other users' processes.
const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Gives up all other capabilities of this thread and of those it starts, for good. `writes_file` keeps what it
/// takes to open the output anew, wherever it is. `rehooks` keeps `CAP_PERFMON`: hooks that were taken off to stay within
/// a budget are put back later, and the kernel asks for it then (`perf_event_open`).
///
/// To be called before any thread is started: capabilities belong to threads.
///
/// # Errors
/// If the kernel refuses.
pub fn give_up(writes_file: bool, rehooks: bool) -> Result<(), caps::errors::CapsError> {
    let mut kept: CapsHashSet = KEPT.into_iter().collect();
    if writes_file {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    if rehooks {
        kept.insert(Capability::CAP_PERFMON);
    }
    let bounding = caps::read(None, CapSet::Bounding)?;
    for capability in bounding.difference(&kept) {
        // Needs CAP_SETPCAP. Without it the set only limits what a program executed later could gain, and
        // slowburn executes none.
        if caps::drop(None, CapSet::Bounding, *capability).is_err() {
            break;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept.intersection(&permitted).copied().collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
