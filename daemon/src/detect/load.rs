//! Had it more to do? What the load explains of a rise.
//!
//! How often a process got a CPU is how much it had to do. CPU time follows that, but also whatever gets worse: a collector
//! works more the larger the heap is. So it counts as load only where its cost per switch is known to have stayed: who has more
//! to do does a little more a switch, and there it shows more of the rise than the switches do.
//!
//! Calls are no load. Those on the address space follow what is mapped, which is judged itself: as load, where their
//! number per switch stays, they explained climbs away (recall .974 instead of .981) and no false flag.

use super::{channel::Channel, ring::BLOCKS, shape::Shape};
use crate::stream::Load;

/// The load must have changed by so much, that significantly, to explain anything.
const SIGNIFICANCE: f64 = 2.0;
const LEAST: f64 = 0.1;

/// The cost per switch has stayed if it cannot have risen by more than this share of the rise.
const COST: f64 = 1.0 / 3.0;

/// How far the load has risen, as a logarithm: the upper end of that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rise {
    /// By what.
    pub by: Load,
    /// How far.
    pub rise: f64,
}

const LOADS: [(Load, Channel); 2] = [(Load::Switches, Channel::Load), (Load::Cpu, Channel::Cpu)];

/// The largest rise of a load over its last `length` blocks. `ring` gives the rings of that time.
pub fn rise(
    length: usize,
    ring: impl Fn(Channel) -> Option<[f64; BLOCKS]>,
    slopes: &mut Vec<f64>,
) -> Option<Rise> {
    let switches = ring(Channel::Load)?;
    let mut highest: Option<Rise> = None;
    for (by, load) in LOADS {
        let Some(values) = ring(load) else {
            continue;
        };
        let Some(risen) = upper(&values[BLOCKS - length..], slopes) else {
            continue;
        };
        let costs: [f64; BLOCKS] = std::array::from_fn(|i| values[i] - switches[i]);
        if by != Load::Switches && !stays(&costs[BLOCKS - length..], risen, slopes) {
            continue;
        }
        if highest.is_none_or(|highest| highest.rise < risen) {
            highest = Some(Rise { by, rise: risen });
        }
    }
    highest
}

/// Upper end of a load's rise, if it has risen.
fn upper(values: &[f64], slopes: &mut Vec<f64>) -> Option<f64> {
    let shape = Shape::of(values, slopes)?;
    let risen = shape.significance() > SIGNIFICANCE && shape.rise() > LEAST;
    risen.then(|| upper_end(&shape))
}

/// Has the cost of a switch stayed, while the load rose so far?
fn stays(costs: &[f64], risen: f64, slopes: &mut Vec<f64>) -> bool {
    Shape::of(costs, slopes).is_some_and(|shape| upper_end(&shape) <= COST * risen)
}

/// The standard error of a line's rise is the residuals' deviation by the root of n/12.
fn upper_end(shape: &Shape) -> f64 {
    let error = shape.sigma * (12.0 / shape.blocks as f64).sqrt();
    shape.rise() + SIGNIFICANCE * error
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What rises by so much, as a logarithm, with noise that has no trend.
    fn rising(by: f64, noise: f64) -> [f64; BLOCKS] {
        const NOISE: [f64; 8] = [0.3, -0.9, 0.8, -0.1, -0.6, 0.9, -0.4, 0.1];
        std::array::from_fn(|i| by * i as f64 / 31.0 + noise * NOISE[(i + i / 8 * 3) % 8])
    }

    fn of(switches: [f64; BLOCKS], cpu: Option<&[f64; BLOCKS]>) -> Option<Rise> {
        let ring = |channel| match channel {
            Channel::Load => Some(switches),
            Channel::Cpu => cpu.copied(),
            _ => None,
        };
        rise(BLOCKS, ring, &mut Vec::new())
    }

    #[test]
    fn switches_are_load_if_they_rise_clearly_and_enough() {
        let found = of(rising(0.5, 0.02), None).expect("a rise");
        assert_eq!(found.by, Load::Switches);
        assert!((0.5..0.55).contains(&found.rise), "{found:?}");
        // The noisier, the larger a rise may be.
        assert!(of(rising(0.5, 0.2), None).is_some_and(|noisy| noisy.rise > found.rise + 0.05));
        assert_eq!(of(rising(0.09, 0.001), None), None);
        assert_eq!(of(rising(0.2, 1.0), None), None);
        assert_eq!(of(rising(-0.5, 0.02), None), None);
    }

    #[test]
    fn cpu_time_is_load_where_its_cost_stays() {
        let by = |switches, cpu| {
            of(rising(switches, 0.01), Some(&rising(cpu, 0.005))).map(|rise| rise.by)
        };
        assert_eq!(by(0.5, 0.6), Some(Load::Cpu));
        assert_eq!(by(0.5, 0.4), Some(Load::Switches));
        assert_eq!(by(0.3, 0.6), Some(Load::Switches), "half of it is cost");
        assert_eq!(by(0.0, 0.6), None, "all of it is cost");
        assert_eq!(by(-0.3, 0.6), None);
    }

    #[test]
    fn only_the_blocks_looked_at_count() {
        let ring = rising(0.62, 0.001);
        let of = |length| {
            let ring = |channel| (channel == Channel::Load).then_some(ring);
            rise(length, ring, &mut Vec::new()).map_or(0.0, |rise| rise.rise)
        };
        assert!((of(BLOCKS) - 0.62).abs() < 0.01 && (of(24) - 0.46).abs() < 0.01);
    }
}
