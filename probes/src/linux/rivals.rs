//! Which processes had the CPU that followed ones waited long for, as the kernel side counts them between two readings.

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use slowburn_common::task::{self, MAX_RIVALS, RivalKey};

use super::{error::ProbeError, load::map_error};
use crate::event::Rival;

/// The pairs, in a map of the kernel.
pub type Rivals = HashMap<MapData, Key, Waits>;

/// Who waited behind whom.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Key(RivalKey);

// SAFETY: two integers of the same size: no padding, and every bit pattern is valid.
unsafe impl Pod for Key {}

/// How often and how long.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Waits(task::Rival);

const _: () = assert!(
    size_of::<RivalKey>() == 8 && size_of::<task::Rival>() == 32,
    "neither has any padding"
);

// SAFETY: two integers and an array of bytes without padding, and every bit pattern is valid.
unsafe impl Pod for Waits {}

/// Takes all pairs. A wait that ends on another CPU between the reading of its pair and the removal, which is a microsecond,
/// is in none.
///
/// # Errors
/// If the kernel refuses.
pub fn take(rivals: &mut Rivals) -> Result<Vec<Rival>, ProbeError> {
    // Bounded, since pairs may come faster than they are read.
    let keys: Result<Vec<Key>, _> = rivals.keys().take(MAX_RIVALS as usize).collect();
    let keys = keys.map_err(|e| map_error("who was waited behind", &e))?;
    let mut taken = Vec::with_capacity(keys.len());
    for key in keys {
        // One that is gone has made room for another.
        let Ok(Waits(rival)) = rivals.get(&key, 0) else {
            continue;
        };
        let _ = rivals.remove(&key);
        taken.push(Rival {
            waiter: key.0.waiter,
            process: key.0.rival,
            name: rival.comm,
            waits: rival.waits,
        });
    }
    Ok(taken)
}
