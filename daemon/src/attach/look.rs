//! A look at all processes of the host, taken when it is needed, and once for however many services.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::group::{self, Group};
use super::host::Host;
use super::process::Snapshot;

/// The host as it was at some moment: with 200 services, looking anew for each of them took a second.
pub struct Look<'a> {
    pub(super) host: &'a Host,
    plain: OnceCell<Snapshot>,
    with_cgroups: OnceCell<Snapshot>,
    groups: RefCell<BTreeMap<String, Rc<[Group]>>>,
}

impl<'a> Look<'a> {
    /// Nothing is looked at yet.
    pub fn new(host: &'a Host) -> Self {
        Self {
            host,
            plain: OnceCell::new(),
            with_cgroups: OnceCell::new(),
            groups: RefCell::default(),
        }
    }

    pub(super) fn plain(&self) -> &Snapshot {
        let plain = || self.plain.get_or_init(|| Snapshot::plain(self.host));
        self.with_cgroups.get().unwrap_or_else(plain)
    }

    pub(super) fn with_cgroups(&self) -> &Snapshot {
        self.with_cgroups
            .get_or_init(|| Snapshot::with_cgroups(self.host))
    }

    /// The services with a name.
    pub(super) fn groups(&self, name: &str) -> Rc<[Group]> {
        let known = self.groups.borrow().get(name).cloned();
        known.unwrap_or_else(|| {
            let snapshot = self.with_cgroups();
            let matched = group::named(self.host, snapshot, name);
            let groups = group::groups(self.host, snapshot, &snapshot.children(), &matched);
            let groups: Rc<[Group]> = groups.into();
            let mut all = self.groups.borrow_mut();
            Rc::clone(all.entry(name.to_owned()).or_insert(groups))
        })
    }
}
