//! The stream compared with what the rest of the system says: the kernel, systemd, other tools.

mod units;
