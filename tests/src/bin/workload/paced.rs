//! Work at given rates until told to stop, by as many threads as there may be.

use std::{
    collections::VecDeque,
    ffi::c_void,
    io,
    mem::MaybeUninit,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, Builder},
    time::{Duration, Instant},
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    param::page_size,
    thread::futex,
};
use serde_json::{Value, json};

use crate::crew::{cpus, pin};

/// How much of what.
#[derive(clap::Args)]
pub struct Rates {
    /// Threads that pass turns on
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    threads: u64,
    /// Threads that only exist
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100_000))]
    idle: u64,
    /// Turns a second, of all threads together: a thread wakes the next one and sleeps
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    turns: u64,
    /// Mappings a second, each of one page
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    mappings: u64,
    /// How many mappings there are at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// Threads started a second, which end at once
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100_000))]
    starts: u64,
}

/// What was done so far.
#[derive(Default)]
struct Done {
    turns: AtomicU64,
    mappings: AtomicU64,
    starts: AtomicU64,
}

impl Done {
    fn facts(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({ "turns": read(&self.turns), "mappings": read(&self.mappings), "starts": read(&self.starts) })
    }
}

/// Begins at a word, says at each further one what was done so far, and ends with its input.
pub fn run(rates: &Rates) -> anyhow::Result<()> {
    let done = Arc::new(Done::default());
    // A turn is one switch only if both threads share a CPU.
    let cpus = cpus()?;
    let count = (cpus.len() as u64).min(rates.threads);
    let mut rings = Vec::new();
    for (n, cpu) in (0..count).zip(cpus) {
        let members = rates.threads / count + u64::from(n < rates.threads % count);
        rings.push(Ring::start(members as usize, cpu, &done)?);
    }
    for _ in 0..rates.idle {
        // Not on a futex: a process has 16 lists of those who wait for one on a machine with 2 CPUs, and whoever takes
        // turns would be searched for among all of these.
        spawn_small(|| {
            loop {
                // SAFETY: the call has no arguments.
                unsafe { libc::pause() };
            }
        })?;
    }
    crate::ready()?;
    for ring in rings {
        pace("turns", rates.turns / count, move |due| ring.pass(due))?;
    }
    let (counter, most) = (Arc::clone(&done), rates.in_flight as usize);
    let mut held = VecDeque::new();
    pace("mappings", rates.mappings, move |due| {
        for _ in 0..due {
            let mapped = map_another(&mut held, most).is_ok();
            counter
                .mappings
                .fetch_add(u64::from(mapped), Ordering::Relaxed);
        }
    })?;
    let counter = Arc::clone(&done);
    pace("starts", rates.starts, move |due| {
        for _ in 0..due {
            let started = spawn_small(|| {}).is_ok();
            counter
                .starts
                .fetch_add(u64::from(started), Ordering::Relaxed);
        }
    })?;
    while crate::next_word()? {
        crate::say(&done.facts())?;
    }
    Ok(())
}

/// Has a thread do what is due, some times a second; none if it is never.
fn pace(name: &str, rate: u64, mut work: impl FnMut(u64) + Send + 'static) -> io::Result<()> {
    if rate == 0 {
        return Ok(());
    }
    // Some 25 at a time, so that the waking of many such threads is not what the machine is busy with.
    let tick = Duration::from_micros((25_000_000 / rate).clamp(1_000, 200_000));
    Builder::new().name(name.into()).spawn(move || {
        let (start, mut done) = (Instant::now(), 0);
        loop {
            thread::sleep(tick);
            let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
            work(due - done);
            done = due;
        }
    })?;
    Ok(())
}

/// Threads on one CPU, each of which wakes the next when it has its turn.
struct Ring {
    turns: Vec<AtomicU32>,
    /// Turns to go.
    due: AtomicU64,
    /// Whose turn it is when there are some again.
    next: AtomicU32,
    done: Arc<Done>,
}

impl Ring {
    fn start(members: usize, cpu: usize, done: &Arc<Done>) -> io::Result<Arc<Self>> {
        let ring = Arc::new(Self {
            turns: (0..members).map(|_| AtomicU32::new(0)).collect(),
            due: AtomicU64::new(0),
            next: AtomicU32::new(0),
            done: Arc::clone(done),
        });
        for member in 0..members {
            let ring = Arc::clone(&ring);
            spawn_small(move || {
                pin(cpu);
                let _ = never_preempt();
                ring.take_turns(member);
            })?;
        }
        Ok(ring)
    }

    fn take_turns(&self, member: usize) {
        let next = (member + 1) % self.turns.len();
        loop {
            while self.turns[member].swap(0, Ordering::Acquire) == 0 {
                let _ = futex::wait(&self.turns[member], futex::Flags::PRIVATE, 0, None);
            }
            self.done.turns.fetch_add(1, Ordering::Relaxed);
            self.next.store(next as u32, Ordering::Release);
            if self.due.fetch_sub(1, Ordering::AcqRel) > 1 {
                self.wake(next);
            }
        }
    }

    fn pass(&self, due: u64) {
        if due > 0 && self.due.fetch_add(due, Ordering::AcqRel) == 0 {
            self.wake(self.next.load(Ordering::Acquire) as usize);
        }
    }

    fn wake(&self, member: usize) {
        self.turns[member].store(1, Ordering::Release);
        let _ = futex::wake(&self.turns[member], futex::Flags::PRIVATE, 1);
    }
}

/// Else the one that is woken is mostly switched to before its waker sleeps, and the waker once more after it.
fn never_preempt() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the argument lives until the call returns; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Maps a page, and gives the oldest one back if there are as many as there may be.
fn map_another(held: &mut VecDeque<usize>, most: usize) -> io::Result<()> {
    let page = page_size();
    // SAFETY: what is unmapped was mapped here, and nothing refers to it.
    unsafe {
        if held.len() >= most
            && let Some(oldest) = held.pop_front()
        {
            munmap(ptr::with_exposed_provenance_mut(oldest), page)?;
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let start = mmap_anonymous(ptr::null_mut(), page, protection, flags)?;
        held.push_back(start.expose_provenance());
    }
    Ok(())
}

/// The library's least is 16 KiB, and what is not touched takes no memory.
const STACK: usize = 32 << 10;

/// Starts a thread that takes little memory and few mappings, and that nobody waits for. One of the standard library
/// takes four mappings, two of them for guard pages, and a process may have 65,530.
fn spawn_small(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    type Work = Box<dyn FnOnce() + Send>;
    extern "C" fn begin(work: *mut c_void) -> *mut c_void {
        // SAFETY: it is what was given to `pthread_create` below, for this thread alone.
        let work = unsafe { Box::from_raw(work.cast::<Work>()) };
        work();
        ptr::null_mut()
    }
    let work: *mut Work = Box::into_raw(Box::new(Box::new(work)));
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are made before they are used, and the work outlives the thread, which frees it.
    let error = unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        libc::pthread_attr_setguardsize(attributes.as_mut_ptr(), 0);
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        let error =
            libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), begin, work.cast());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        error
    };
    if error != 0 {
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(work) });
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}
