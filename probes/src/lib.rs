//! Everything in slowburn that knows an operating system's tracing facility.
//!
//! A source turns what the kernel tells it into [`event::Event`]s, the one vocabulary that the rest of
//! slowburn understands. Nothing outside this crate names eBPF, ETW, or `/proc` counters.

pub mod etw;
pub mod event;
#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(windows)]
pub mod windows;
