//! What the kernel-side programs and the daemon have to agree on, byte for byte: the record kept for
//! each task, the records sent through the ring buffer, the histogram's buckets and the counters.
//!
//! `no_std`, no dependencies, and no behaviour beyond conversions.
#![cfg_attr(not(test), no_std)]

pub mod event;
pub mod histogram;
pub mod stats;
pub mod task;

/// Length of a task's name in the kernel (`TASK_COMM_LEN`), including the terminating zero.
pub const COMM_LEN: usize = 16;

/// A task's name as the kernel keeps it: zero-terminated unless it fills the array.
pub type Comm = [u8; COMM_LEN];
