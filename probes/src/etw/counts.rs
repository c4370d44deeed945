//! How many events of each kind a recording has.

use std::{collections::BTreeMap, fmt};

use super::header::Class;

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System {
                group,
                opcode,
                version,
            } => write!(f, "SYS group{group:02x} op{opcode} v{version}"),
            Self::Performance {
                group,
                opcode,
                version,
            } => write!(f, "PERF group{group:02x} op{opcode} v{version}"),
            Self::Classic {
                guid,
                opcode,
                version,
            } => write!(f, "CLS {guid} op{opcode} v{version}"),
            Self::Manifest {
                guid,
                id,
                opcode,
                version,
            } => write!(f, "EVT {guid} id{id} op{opcode} v{version}"),
            Self::Instance { opcode, version } => write!(f, "INS op{opcode} v{version}"),
            Self::Message => f.write_str("MSG"),
        }
    }
}

/// Most kinds that are told apart. Recordings of everything have some thousands.
const MOST: usize = 65_536;

/// How many events there are of each kind.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    by_class: BTreeMap<Class, u64>,
    /// Of kinds that there was no room for.
    others: u64,
    total: u64,
    /// The kind that was counted last, and how often since: kinds come in runs.
    run: Option<(Class, u64)>,
}

impl Counts {
    /// Counts an event.
    pub fn add(&mut self, class: Class) {
        self.total += 1;
        match &mut self.run {
            Some((last, count)) if *last == class => *count += 1,
            _ => {
                self.settle();
                self.run = Some((class, 1));
            }
        }
    }

    fn settle(&mut self) {
        let Some((class, count)) = self.run.take() else {
            return;
        };
        if let Some(sum) = self.by_class.get_mut(&class) {
            *sum += count;
        } else if self.by_class.len() < MOST {
            self.by_class.insert(class, count);
        } else {
            self.others += count;
        }
    }

    /// Events of any kind.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Of each kind, by what identifies it: `SYS group05 op36 v2`.
    pub fn by_key(mut self) -> BTreeMap<String, u64> {
        self.settle();
        let mut keys: BTreeMap<_, _> = self
            .by_class
            .iter()
            .map(|(class, count)| (class.to_string(), *count))
            .collect();
        if self.others > 0 {
            keys.insert("others".into(), self.others);
        }
        keys
    }
}
