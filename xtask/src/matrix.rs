//! The systems that the truth tests run on in guests, as data: kernels, cgroup layouts and lockdown modes.

/// A kernel of Debian's.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name on the command line.
    pub name: &'static str,
    /// The package that depends on the newest build of it.
    pub package: &'static str,
    /// How the name of that build's package begins. Another release of Debian has another kernel under
    /// the same package name, and must not pass for this one.
    pub image: &'static str,
    /// The families of hooks that do not work there.
    pub without: &'static [&'static str],
}

/// Kernels to boot. The real-time ones preempt inside the kernel, where the others do not.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "6.1",
        package: "linux-image-cloud-amd64",
        image: "linux-image-6.1.",
        without: &[],
    },
    Kernel {
        name: "6.12",
        package: "linux-image-6.12-cloud-amd64",
        image: "linux-image-6.12.",
        without: &[],
    },
    Kernel {
        name: "rt",
        package: "linux-image-rt-amd64",
        image: "linux-image-6.1.",
        // Its patches put a field before those of every tracepoint: pid is at 12 there, not at 8.
        without: &["classic"],
    },
    Kernel {
        name: "6.12-rt",
        package: "linux-image-6.12-rt-amd64",
        image: "linux-image-6.12.",
        without: &[],
    },
];

/// Something that kernel arguments choose.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name on the command line.
    pub name: &'static str,
    /// The kernel arguments that choose it.
    pub arguments: &'static str,
    /// The families of hooks that do not work with it.
    pub without: &'static [&'static str],
}

/// What systemd makes of the cgroup hierarchies.
pub const LAYOUTS: [Choice; 3] = [
    Choice {
        name: "v2",
        arguments: "systemd.unified_cgroup_hierarchy=1",
        without: &[],
    },
    // systemd 256 wants to be told twice.
    Choice {
        name: "hybrid",
        arguments: "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        without: &[],
    },
    Choice {
        name: "v1",
        arguments: "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        without: &[],
    },
];

/// What the kernel keeps even from root.
pub const LOCKDOWNS: [Choice; 3] = [
    Choice {
        name: "none",
        arguments: "",
        without: &[],
    },
    Choice {
        name: "integrity",
        arguments: "lockdown=integrity",
        without: &[],
    },
    Choice {
        name: "confidentiality",
        arguments: "lockdown=confidentiality",
        // Typed pointers can be read. Forbidden are kprobes, tracefs, and the helper that reads other pointers.
        without: &["raw", "classic", "kprobe", "syscall"],
    },
];

/// The kernels that are run when none is named: the ones of Debian's two newest releases.
const DEFAULT_KERNELS: [&str; 2] = ["6.1", "6.12"];

/// One guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub kernel: &'static Kernel,
    pub layout: &'static Choice,
    pub lockdown: &'static Choice,
}

impl Cell {
    pub fn name(&self) -> String {
        format!(
            "{}-{}-{}",
            self.kernel.name, self.layout.name, self.lockdown.name
        )
    }

    /// The families of hooks that must work in this guest. Fewer is a failure there, not a reason to skip.
    pub fn hooks(&self) -> Vec<&'static str> {
        let mut hooks = HOOKS.to_vec();
        for without in [
            self.kernel.without,
            self.layout.without,
            self.lockdown.without,
        ] {
            hooks.retain(|hook| !without.contains(hook));
        }
        hooks
    }
}

/// All families. Debian builds what they need into all of these kernels.
const HOOKS: [&str; 6] = ["tp_btf", "raw", "classic", "fexit", "kprobe", "syscall"];

/// The cross product of what is named, in the order of the tables above; the defaults for what is not.
pub fn cells(kernels: &[String], layouts: &[String], lockdowns: &[String]) -> Vec<Cell> {
    let named = |names: &[String], defaults: &[&str], name| {
        if names.is_empty() {
            defaults.contains(&name)
        } else {
            names.iter().any(|other| other == name)
        }
    };
    let mut cells = all_cells();
    cells.retain(|cell| {
        named(kernels, &DEFAULT_KERNELS, cell.kernel.name)
            && named(layouts, &["v2"], cell.layout.name)
            && named(lockdowns, &["none"], cell.lockdown.name)
    });
    cells
}

/// The whole cross product.
pub fn all_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for kernel in &KERNELS {
        for layout in &LAYOUTS {
            cells.extend(LOCKDOWNS.iter().map(|lockdown| Cell {
                kernel,
                layout,
                lockdown,
            }));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_cells_are_unique() {
        let all = all_cells();
        let names: BTreeSet<_> = all.iter().map(Cell::name).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all.len(), KERNELS.len() * LAYOUTS.len() * LOCKDOWNS.len());
    }

    #[test]
    fn what_is_not_named_is_the_default() {
        let names = |kernels: &[&str], lockdowns: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let cells = cells(&owned(kernels), &[], &owned(lockdowns));
            cells.iter().map(Cell::name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], &[]), ["6.1-v2-none", "6.12-v2-none"]);
        assert_eq!(names(&["rt"], &["integrity"]), ["rt-v2-integrity"]);
    }

    #[test]
    fn hooks_are_those_that_nothing_forbids() {
        for (kernel, lockdown, hooks) in [
            (
                "6.12",
                "integrity",
                "tp_btf raw classic fexit kprobe syscall",
            ),
            ("rt", "none", "tp_btf raw fexit kprobe syscall"),
            ("6.1", "confidentiality", "tp_btf fexit"),
        ] {
            let cell = &cells(&[kernel.into()], &[], &[lockdown.into()])[0];
            assert_eq!(cell.hooks().join(" "), hooks, "{}", cell.name());
        }
    }
}
