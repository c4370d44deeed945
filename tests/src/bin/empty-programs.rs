//! Attaches programs that do nothing where slowburn's are, says so, and keeps them until its input ends: the floor that
//! `cargo xtask bench` compares with.

use std::io::{Read, stdin};

use slowburn_probes::linux::Floor;

fn main() -> anyhow::Result<()> {
    let _floor = Floor::attach()?;
    println!("attached");
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
