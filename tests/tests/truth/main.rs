//! The truth suite: labelled workloads whose right answer the kernel itself knows.
//!
//! One program, which runs on the host and in every guest of `cargo xtask vm`. It says what it found in a
//! report, from which `docs/truth.md` is written. Environment:
//!
//! - `SLOWBURN_TRUTH_REPORT`: the file that measured errors are appended to, as JSON lines.
//! - `SLOWBURN_TRUTH_HOOKS_EXPECTED`: hook families that have to be available here, as `tp_btf,raw,syscall`.
//! - `SLOWBURN_TRUTH_GUEST`: set in a guest, where times are judged with twice the tolerance.

mod bpftrace;
mod compat;
mod creators;
mod delays;
mod hooks;
mod known_delays;
mod limits;
mod lives;
mod loss;
mod memory;
mod report;
mod runtimes;
mod timeline;
mod units;
mod watch;
