//! Services that get worse in a known way, and healthy ones that look like it, in fast motion: what takes a day elsewhere
//! takes a minute here.
//!
//! All of them are calm for the first quarter of their time, and do a little work all along.

use std::{
    ffi::c_void,
    fs::File,
    hint::black_box,
    process::{Child, Command},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use fastrand::Rng;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use serde_json::json;

use crate::crew;

const MIB: usize = 1 << 20;

/// How often the course is followed.
const STEP: Duration = Duration::from_millis(50);

/// What becomes of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Course {
    /// Memory is taken, touched and never given back
    Leak,
    /// A cache fills up, and is full
    Cache,
    /// The same of a new version, which keeps three times as much
    Release,
    /// Address space is taken and never touched
    Arena,
    /// Address space is taken and given back as a whole, again and again
    ArenaSaw,
    /// More and more is mapped and unmapped
    Churn,
    /// As much is mapped and unmapped as before, give or take
    Mapping,
    /// Threads are started that never end
    Threads,
    /// A pool of threads grows, and is complete
    Pool,
    /// More and more short-lived threads
    Creations,
    /// As many short-lived threads as before, give or take
    Helpers,
    /// Files are opened and never closed
    Files,
    /// Files are opened, and all are closed, again and again
    FilesSaw,
    /// A lot is mapped for a moment, at regular intervals
    Job,
    /// A lot is mapped for a moment, now and then
    Bursts,
    /// Two threads map a lot for a moment, the one in each second interval of the other, and at the same time
    Resonance,
    /// The same, in turns
    Turns,
    /// A program is run at regular intervals, and takes longer each time
    Overlap,
    /// A program is run at regular intervals, and ends long before its next run
    Timer,
    /// More and more threads compete for one CPU
    Own,
    /// As many threads as before compete for one CPU
    Crowd,
    /// Works on one CPU as before: for those that others disturb
    Victim,
    /// Takes more and more of one CPU
    Neighbour,
    /// Takes as much of one CPU as before
    Tenant,
    /// Needs more and more CPU time, on all CPUs: for a quota that is too small in the end
    Demand,
    /// Needs as much CPU time as before
    Frugal,
    /// Two threads, each on a CPU of its own, change places more and more often
    Migration,
    /// They do so as often as before
    Shuttle,
}

/// Follows a course.
pub fn age(course: Course, seconds: Duration) -> anyhow::Result<()> {
    crate::ready()?;
    thread::Builder::new()
        .name("worker".into())
        .spawn(healthy_work)?;
    let mut service = Service::new(course)?;
    let start = Instant::now();
    let mut step = 0;
    while start.elapsed() < seconds {
        let way = start.elapsed().as_secs_f64() / seconds.as_secs_f64();
        service.step(way, seconds)?;
        step += 1;
        thread::sleep((STEP * step).saturating_sub(start.elapsed()));
    }
    crate::done(&json!({ "steps": step }))?;
    service.end();
    Ok(())
}

/// What every service does: a little work on memory that it gives back.
fn healthy_work() {
    loop {
        black_box(&vec![1_u8; 64 << 10]);
        thread::sleep(Duration::from_millis(5));
    }
}

/// What it has.
struct Service {
    course: Course,
    random: Rng,
    blocks: Vec<(*mut c_void, usize)>,
    files: Vec<File>,
    threads: usize,
    jobs: Vec<Child>,
    /// How many jobs or bursts there were.
    runs: u32,
    rate: f64,
    /// Of a CPU, in thousandths, that each thread of [`Service::work_on_two`] takes.
    share: Arc<AtomicU32>,
    /// Those it may use, before it keeps itself to some.
    cpus: Vec<usize>,
    /// The threads that change places.
    movable: Vec<i32>,
}

impl Service {
    fn new(course: Course) -> anyhow::Result<Self> {
        let mut service = Self {
            course,
            random: Rng::with_seed(1),
            blocks: Vec::new(),
            files: Vec::new(),
            threads: 0,
            jobs: Vec::new(),
            runs: 0,
            rate: 1.0,
            share: Arc::default(),
            cpus: crew::cpus()?,
            movable: Vec::new(),
        };
        // What a service has anyway.
        service.map(64 * MIB, true)?;
        Ok(service)
    }

    /// `way` goes from 0 to 1.
    fn step(&mut self, way: f64, seconds: Duration) -> anyhow::Result<()> {
        // From 0 to 1 after the first quarter.
        let grown = ((way - 0.25) / 0.75).max(0.0);
        match self.course {
            Course::Leak => self.hold((64.0 + 192.0 * grown) as usize, true),
            Course::Cache => self.hold((64.0 + 128.0 * filled(way)) as usize, true),
            Course::Release => self.hold((192.0 + 384.0 * filled(way)) as usize, true),
            Course::Arena => self.hold((64.0 + 192.0 * grown) as usize, false),
            Course::ArenaSaw => {
                let part = (20.0 * way).fract();
                if part < 0.1 {
                    self.shrink();
                }
                self.hold((64.0 + 128.0 * part) as usize, false)
            }
            Course::Churn => self.map_and_unmap(10.0 * (1.0 + 5.0 * grown)),
            Course::Mapping => {
                let rate = self.wander();
                self.map_and_unmap(20.0 * rate)
            }
            Course::Threads => self.park((10.0 + 90.0 * grown) as usize),
            Course::Pool => self.park((10.0 + 50.0 * (20.0 * way).min(1.0)) as usize),
            Course::Creations => self.run_threads(1.0 + 7.0 * grown),
            Course::Helpers => {
                let rate = self.wander();
                self.run_threads(3.0 * rate)
            }
            Course::Files => self.open((30.0 + 270.0 * grown) as usize),
            Course::FilesSaw => {
                let part = (25.0 * way).fract();
                self.files.truncate((30.0 + 60.0 * part) as usize);
                self.open((30.0 + 60.0 * part) as usize)
            }
            Course::Job => self.burst_if((16.0 * way) as u32 > self.runs),
            Course::Bursts => {
                let now = self.random.f64() < 0.05;
                self.burst_if(now)
            }
            Course::Resonance => self.two_jobs(seconds, 0.0),
            Course::Turns => self.two_jobs(seconds, 0.5),
            Course::Overlap => self.spawn(way, seconds, 0.5 + 2.5 * grown),
            Course::Timer => self.spawn(way, seconds, 0.5),
            Course::Own => self.compete((2.0 + 6.0 * grown) as usize),
            Course::Crowd => self.compete(4),
            Course::Victim => self.compete(2),
            Course::Neighbour => {
                hog(0.1 + 0.8 * grown);
                Ok(())
            }
            Course::Tenant => {
                hog(0.5);
                Ok(())
            }
            Course::Demand => self.work_on_two(0.2 + 0.6 * grown),
            Course::Frugal => self.work_on_two(0.2),
            Course::Migration => self.change_places(40.0 * grown),
            Course::Shuttle => self.change_places(20.0),
        }
    }

    /// Takes memory until it has so many MiB.
    fn hold(&mut self, mib: usize, touch: bool) -> anyhow::Result<()> {
        let have: usize = self.blocks.iter().map(|(_, bytes)| bytes).sum();
        // In steps of 256 KiB, as allocators do.
        let missing = (mib * MIB).saturating_sub(have) / (MIB / 4) * (MIB / 4);
        if missing > 0 {
            self.map(missing, touch)?;
        }
        Ok(())
    }

    fn map(&mut self, bytes: usize, touch: bool) -> anyhow::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, anywhere: nothing that exists is touched.
        let at = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )?
        };
        if touch {
            // SAFETY: the mapping is that long, writable, and nobody else's.
            unsafe { ptr::write_bytes(at.cast::<u8>(), 7, bytes) };
        }
        self.blocks.push((at, bytes));
        Ok(())
    }

    /// Gives all back but what it had at the beginning.
    fn shrink(&mut self) {
        for (at, bytes) in self.blocks.drain(1..) {
            // SAFETY: it was mapped here, is as long, and is not used any more.
            let _ = unsafe { munmap(at, bytes) };
        }
    }

    fn map_and_unmap(&mut self, times: f64) -> anyhow::Result<()> {
        for _ in 0..times as usize {
            self.map(256 << 10, true)?;
            self.shrink();
        }
        Ok(())
    }

    /// About 1, a little more or less than before.
    fn wander(&mut self) -> f64 {
        self.rate = 1.0 + 0.9 * (self.rate - 1.0) + 0.1 * (self.random.f64() - 0.5);
        self.rate
    }

    fn park(&mut self, threads: usize) -> anyhow::Result<()> {
        while self.threads < threads {
            thread::Builder::new()
                .name(format!("conn-{}", self.threads))
                .spawn(|| {
                    loop {
                        thread::park();
                    }
                })?;
            self.threads += 1;
        }
        Ok(())
    }

    fn run_threads(&mut self, count: f64) -> anyhow::Result<()> {
        // The fraction is made up for by chance.
        let count = count as usize + usize::from(self.random.f64() < count.fract());
        for _ in 0..count {
            thread::Builder::new()
                .name("request".into())
                .spawn(|| thread::sleep(Duration::from_millis(2)))?;
        }
        Ok(())
    }

    fn open(&mut self, files: usize) -> anyhow::Result<()> {
        while self.files.len() < files {
            self.files.push(File::open("/dev/null")?);
        }
        Ok(())
    }

    fn burst_if(&mut self, now: bool) -> anyhow::Result<()> {
        self.shrink();
        if now {
            self.runs += 1;
            self.map(48 * MIB, true)?;
        }
        Ok(())
    }

    /// Two threads that map a lot at regular intervals, the second in each second one, and so much of an interval later.
    fn two_jobs(&mut self, seconds: Duration, later: f64) -> anyhow::Result<()> {
        let every = seconds / 32;
        for (name, every, later) in [("gc", every, 0.0), ("report", 2 * every, later)] {
            if self.threads == 2 {
                break;
            }
            let first = Instant::now() + every.mul_f64(later);
            thread::Builder::new().name(name.into()).spawn(move || {
                for next in (1..).map(|run| first + run * every) {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    black_box(&vec![1_u8; 48 * MIB]);
                }
            })?;
            self.threads += 1;
        }
        Ok(())
    }

    /// Runs a program fifteen times in all, each of which takes so many of the intervals.
    fn spawn(&mut self, way: f64, seconds: Duration, intervals: f64) -> anyhow::Result<()> {
        const RUNS: f64 = 15.0;
        self.jobs
            .retain_mut(|job| job.try_wait().is_ok_and(|ended| ended.is_none()));
        if (RUNS * way) as u32 > self.runs {
            self.runs += 1;
            let takes = seconds.as_secs_f64() / RUNS * intervals;
            self.jobs
                .push(Command::new("sleep").arg(format!("{takes:.2}")).spawn()?);
        }
        Ok(())
    }

    /// Threads that spin for a millisecond of five, all on one CPU.
    fn compete(&mut self, threads: usize) -> anyhow::Result<()> {
        while self.threads < threads {
            thread::Builder::new()
                .name(format!("handler-{}", self.threads))
                .spawn(|| {
                    pin_to_first();
                    loop {
                        spin(Duration::from_millis(1));
                        thread::sleep(Duration::from_millis(4));
                    }
                })?;
            self.threads += 1;
        }
        Ok(())
    }

    /// Two busy threads that are sent to each other's CPU, so many times.
    fn change_places(&mut self, times: f64) -> anyhow::Result<()> {
        while self.threads < 2 {
            let (sender, tid) = channel();
            thread::Builder::new()
                .name(format!("handler-{}", self.threads))
                .spawn(move || {
                    let _ = sender.send(crew::own_tid());
                    loop {
                        spin(Duration::from_millis(2));
                        thread::sleep(Duration::from_millis(2));
                    }
                })?;
            self.movable.push(tid.recv()?);
            self.threads += 1;
        }
        for _ in 0..times as usize {
            self.cpus.rotate_left(1);
            for (tid, cpu) in self.movable.iter().zip(&self.cpus) {
                crew::pin_thread(*tid, *cpu);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Two threads that each take a share of a CPU, of each 20 ms.
    fn work_on_two(&mut self, share: f64) -> anyhow::Result<()> {
        const TURN: Duration = Duration::from_millis(20);
        self.share.store((share * 1000.0) as u32, Ordering::Relaxed);
        while self.threads < 2 {
            let share = Arc::clone(&self.share);
            thread::Builder::new()
                .name(format!("handler-{}", self.threads))
                .spawn(move || {
                    loop {
                        let busy = TURN * share.load(Ordering::Relaxed) / 1000;
                        spin(busy);
                        thread::sleep(TURN.saturating_sub(busy));
                    }
                })?;
            self.threads += 1;
        }
        Ok(())
    }

    fn end(&mut self) {
        for job in &mut self.jobs {
            let _ = job.kill();
            let _ = job.wait();
        }
    }
}

/// How full a cache is: half after a seventeenth of the time.
fn filled(way: f64) -> f64 {
    1.0 - (-12.0 * way).exp()
}

fn pin_to_first() {
    if let Ok(cpus) = crew::cpus() {
        crew::pin(cpus[0]);
    }
}

/// Takes a share of a step of the first CPU.
fn hog(share: f64) {
    pin_to_first();
    spin(STEP.mul_f64(share));
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        black_box(0);
    }
}
