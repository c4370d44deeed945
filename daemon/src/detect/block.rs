//! A stretch of time: what its windows add up to, and what each channel makes of it.

use super::{
    channel::{CHANNELS, Channel},
    reading::Reading,
    waits::{Spare, Waits},
};

/// The least of the values so far; not a number without any.
#[derive(Clone, Copy, Debug)]
struct Floor(f64);

impl Floor {
    fn add(&mut self, value: f64) {
        self.0 = self.0.min(value);
    }
}

/// A sum over windows that say what it is of, and the length of these.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sum: u64,
    seconds: f32,
}

impl Flow {
    fn add(&mut self, more: Option<u64>, seconds: f64) {
        if let Some(more) = more {
            self.sum += more;
            self.seconds += seconds as f32;
        }
    }

    fn merge(&mut self, next: Self) {
        self.sum += next.sum;
        self.seconds += next.seconds;
    }

    /// Logarithm of what there is a second. Half of one more than there were, so that none has a logarithm, too.
    fn logarithm(self) -> f64 {
        ((self.sum as f64 + 0.5) / f64::from(self.seconds)).ln()
    }
}

/// Sums over windows, which may be added to those of the next stretch.
#[derive(Clone, Debug)]
pub struct Block {
    seconds: f64,
    committed: Floor,
    reserved: Floor,
    resident: Floor,
    threads: Floor,
    descriptors: Floor,
    /// Sum of logarithms, and of how many.
    mapped: (f64, u32),
    /// Threads created.
    created: Flow,
    switches: Flow,
    cpu_ns: Flow,
    waits: Option<Box<Waits>>,
}

impl Default for Block {
    fn default() -> Self {
        let nothing = Floor(f64::NAN);
        Self {
            seconds: 0.0,
            committed: nothing,
            reserved: nothing,
            resident: nothing,
            threads: nothing,
            descriptors: nothing,
            mapped: (0.0, 0),
            created: Flow::default(),
            switches: Flow::default(),
            cpu_ns: Flow::default(),
            waits: None,
        }
    }
}

impl Block {
    /// Has it no window?
    pub fn is_empty(&self) -> bool {
        self.seconds <= 0.0
    }

    /// Adds a window.
    pub fn add(&mut self, reading: &Reading, spare: &mut Spare) {
        self.seconds += reading.seconds;
        self.committed.add(reading.committed);
        self.reserved.add(reading.reserved);
        self.resident.add(reading.resident);
        self.threads.add(reading.threads);
        self.descriptors.add(reading.descriptors);
        self.mapped.0 += reading.mapped;
        self.mapped.1 += 1;
        self.created.add(reading.created, reading.seconds);
        self.switches.add(reading.switches, reading.seconds);
        self.cpu_ns.add(reading.cpu_ns, reading.seconds);
        if let Some(waits) = &reading.waits {
            self.waits.get_or_insert_with(|| spare.take()).add(waits);
        }
    }

    /// Adds the stretch that follows.
    pub fn merge(&mut self, next: Self, spare: &mut Spare) {
        self.seconds += next.seconds;
        self.committed.add(next.committed.0);
        self.reserved.add(next.reserved.0);
        self.resident.add(next.resident.0);
        self.threads.add(next.threads.0);
        self.descriptors.add(next.descriptors.0);
        self.mapped.0 += next.mapped.0;
        self.mapped.1 += next.mapped.1;
        self.created.merge(next.created);
        self.switches.merge(next.switches);
        self.cpu_ns.merge(next.cpu_ns);
        match (&mut self.waits, next.waits) {
            (Some(waits), Some(more)) => {
                waits.add(&more);
                spare.give(more);
            }
            (waits @ None, more) => *waits = more,
            (Some(_), None) => {}
        }
    }

    /// Gives back what it holds.
    pub fn drop_into(self, spare: &mut Spare) {
        if let Some(waits) = self.waits {
            spare.give(waits);
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.waits.as_ref().map_or(0, |_| size_of::<Waits>())
    }

    /// The value of each channel, in their order; not a number where there is none.
    pub fn values(&self) -> [f64; CHANNELS] {
        let waits = self.waits.as_ref().map(|waits| waits.statistics());
        let of_waits = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let mut values = [f64::NAN; CHANNELS];
        for (channel, value) in [
            (Channel::Committed, self.committed.0),
            (Channel::Reserved, self.reserved.0),
            (Channel::Resident, self.resident.0),
            (Channel::Threads, self.threads.0),
            (Channel::Descriptors, self.descriptors.0),
            (Channel::Mapped, self.mapped.0 / f64::from(self.mapped.1)),
            (Channel::Created, self.created.logarithm()),
            (Channel::Typical, of_waits(waits.map(|w| w.typical))),
            (Channel::Heavy, of_waits(waits.map(|w| w.heavy))),
            (Channel::Beyond8, of_waits(waits.map(|w| w.beyond_8))),
            (Channel::Beyond32, of_waits(waits.map(|w| w.beyond_32))),
            (Channel::Load, self.switches.logarithm()),
            (Channel::Cpu, self.cpu_ns.logarithm()),
        ] {
            values[channel as usize] = if value.is_finite() { value } else { f64::NAN };
        }
        values
    }
}
