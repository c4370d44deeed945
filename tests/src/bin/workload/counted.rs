//! What the kernel has counted for a task, as the task itself reads it.

use std::{ffi::CStr, io, ops::AddAssign};

use rustix::{
    fs::{Mode, OFlags, open},
    io::read,
};

/// Waits for a CPU, from `schedstat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub run_count: u64,
    pub run_delay_ns: u64,
}

impl Counted {
    /// Allocates nothing, so that a child of a fork may use it.
    pub fn read(path: &CStr) -> io::Result<Self> {
        let file = open(path, OFlags::RDONLY, Mode::empty())?;
        let mut buffer = [0; 64];
        let length = read(&file, &mut buffer)?;
        let text = str::from_utf8(&buffer[..length]).unwrap_or_default();
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(_cpu)), Some(Ok(run_delay_ns)), Some(Ok(run_count))) => Ok(Self {
                run_count,
                run_delay_ns,
            }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.run_count += other.run_count;
        self.run_delay_ns += other.run_delay_ns;
    }
}
