//! The rules on fixture trees, and a few of them on this machine.

mod cgroups;
mod containers;
mod fixture;
mod live;
mod names;
mod owners;
mod pids;
mod units;

use super::{
    AttachError, CgroupWatch, FoundProcess, Host, Rule, Service, Target, begun, find, list,
    nurseries, poll,
};

fn pids(found: &[FoundProcess]) -> Vec<u32> {
    found.iter().map(|process| process.pid).collect()
}

/// The only service behind a target.
fn one(target: &Target, host: &Host) -> Service {
    match find(target, host, false) {
        Ok(mut found) => found.pop().expect("one service"),
        Err(error) => panic!("{error}"),
    }
}

fn failure(target: &Target, host: &Host) -> AttachError {
    find(target, host, false).expect_err("an error")
}

fn service(name: &str) -> Target {
    Target::Service(name.to_owned())
}
