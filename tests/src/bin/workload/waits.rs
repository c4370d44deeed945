//! Workloads whose threads wait for a CPU.

use std::{
    hint::spin_loop,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::futex;
use serde_json::json;

use crate::crew::{self, Work, cpus, own_tid, pin};

/// Works without a system call.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

/// Threads that compete for one CPU, with sleeps and yields of different lengths. Each waits again and
/// again until another has worked for a while.
pub fn contend(threads: u64, seconds: Duration) -> anyhow::Result<()> {
    let cpu = cpus()?[0];
    let member = |n| -> (String, Work) {
        let work = move || {
            let pinned = pin(cpu);
            json!({ "pinned": pinned, "turns": compete(n, seconds) })
        };
        (format!("contend-{n}"), Box::new(work))
    };
    crew::work((0..threads).map(member).collect())
}

fn compete(n: u64, seconds: Duration) -> u64 {
    let start = Instant::now();
    let mut turns = 0;
    while start.elapsed() < seconds {
        turns += 1;
        spin(Duration::from_micros(300 + 200 * (n % 4)));
        if turns % 3 == 0 {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(200));
        }
    }
    turns
}

/// Threads that never sleep and give way to each other all the time, on one CPU.
pub fn yields(threads: u64, seconds: Duration) -> anyhow::Result<()> {
    let cpu = cpus()?[0];
    let member = |n| -> (String, Work) {
        let work = move || {
            let pinned = pin(cpu);
            let (start, mut yields) = (Instant::now(), 0);
            while start.elapsed() < seconds {
                spin(Duration::from_micros(50));
                thread::yield_now();
                yields += 1;
            }
            json!({ "pinned": pinned, "yields": yields })
        };
        (format!("yield-{n}"), Box::new(work))
    };
    crew::work((0..threads).map(member).collect())
}

/// Threads of different nice values that never give way, on one CPU, and one that sleeps and preempts them.
pub fn preempted(seconds: Duration) -> anyhow::Result<()> {
    let cpu = cpus()?[0];
    let busy = [0, 3, 8, 15].into_iter().map(|nice| -> (String, Work) {
        let work = move || {
            let pinned = pin(cpu);
            // SAFETY: the call takes numbers only; 0 is the calling thread.
            let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0;
            spin(seconds);
            json!({ "pinned": pinned, "nice": nice, "set": set })
        };
        (format!("nice-{nice}"), Box::new(work))
    });
    let sleeper = move || {
        let pinned = pin(cpu);
        let start = Instant::now();
        while start.elapsed() < seconds {
            thread::sleep(Duration::from_millis(1));
        }
        json!({ "pinned": pinned })
    };
    let sleeper: (String, Work) = ("sleeper".into(), Box::new(sleeper));
    crew::work(busy.chain([sleeper]).collect())
}

/// Busy threads that send themselves from CPU to CPU, more of them than CPUs.
pub fn migrate(seconds: Duration) -> anyhow::Result<()> {
    let cpus = cpus()?;
    let member = |n: usize| -> (String, Work) {
        let cpus = cpus.clone();
        let work = move || {
            let (start, mut moves) = (Instant::now(), 0);
            while start.elapsed() < seconds {
                spin(Duration::from_micros(400));
                moves += u64::from(pin(cpus[(n + moves as usize) % cpus.len()]));
            }
            json!({ "moves": moves })
        };
        (format!("migrate-{n}"), Box::new(work))
    };
    crew::work((0..=cpus.len() * 2).map(member).collect())
}

/// A thread that goes to sleep all the time, and one that wakes it all the time without waiting for it to
/// sleep: many of the wake-ups come before it has left its CPU.
pub fn wakes(seconds: Duration) -> anyhow::Result<()> {
    let word = Arc::new(AtomicU32::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let sleeper = {
        let (word, over) = (Arc::clone(&word), Arc::clone(&over));
        move || {
            let mut sleeps = 0;
            while !over.load(Ordering::Acquire) {
                let seen = word.load(Ordering::Acquire);
                let flags = futex::Flags::PRIVATE;
                sleeps += u64::from(futex::wait(&word, flags, seen, None).is_ok());
            }
            json!({ "sleeps": sleeps })
        }
    };
    let waker = move || {
        let (start, mut wakes) = (Instant::now(), 0);
        while start.elapsed() < seconds {
            word.fetch_add(1, Ordering::Release);
            let woken = futex::wake(&word, futex::Flags::PRIVATE, 1);
            wakes += u64::from(woken.is_ok_and(|count| count > 0));
        }
        over.store(true, Ordering::Release);
        word.fetch_add(1, Ordering::Release);
        let _ = futex::wake(&word, futex::Flags::PRIVATE, 1);
        json!({ "wakes": wakes })
    };
    crew::work(vec![
        ("sleeper".into(), Box::new(sleeper)),
        ("waker".into(), Box::new(waker)),
    ])
}

/// Threads that are interrupted by signals while they sleep and while they work.
pub fn signals(seconds: Duration) -> anyhow::Result<()> {
    const THREADS: usize = 3;
    extern "C" fn count(_: libc::c_int) {}
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, count as *const () as libc::sighandler_t) };
    let tids: Arc<[AtomicI32; THREADS]> = Arc::default();
    let member = |n: usize| -> (String, Work) {
        let tids = Arc::clone(&tids);
        let work = move || {
            tids[n].store(own_tid(), Ordering::Release);
            let (start, mut rests) = (Instant::now(), 0);
            while start.elapsed() < seconds {
                spin(Duration::from_micros(200));
                let rest = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 500_000,
                };
                // SAFETY: the argument lives until the call returns. A signal ends it early, as it shall.
                rests +=
                    unsafe { libc::nanosleep(&raw const rest, std::ptr::null_mut()) == 0 } as u64;
            }
            json!({ "rests": rests })
        };
        (format!("signal-{n}"), Box::new(work))
    };
    let mut members: Vec<_> = (0..THREADS).map(member).collect();
    let sender = move || {
        let (start, mut sent) = (Instant::now(), 0_u64);
        while start.elapsed() < seconds {
            for tid in tids.iter() {
                let tid = tid.load(Ordering::Acquire);
                // SAFETY: the call takes numbers only.
                let result = unsafe { libc::syscall(libc::SYS_tkill, tid, libc::SIGUSR1) };
                sent += u64::from(tid != 0 && result == 0);
            }
            thread::sleep(Duration::from_micros(200));
        }
        json!({ "sent": sent })
    };
    members.push(("sender".into(), Box::new(sender)));
    crew::work(members)
}

/// How long a victim waits behind the hog, again and again.
const HOG_US: [u64; 5] = [500, 2_000, 7_000, 20_000, 60_000];
const HOG_ROUNDS: u64 = 6;

/// A thread that is woken while a real-time thread holds the only CPU it may use, and gets it when that thread has
/// worked for a known time. Says how long each wait was at least (from after the wake-up to the hog's last look at
/// the clock before it slept) and at most (from before the wake-up to the victim's first look at the clock).
pub fn hog() -> anyhow::Result<()> {
    const ROUNDS: u64 = HOG_US.len() as u64 * HOG_ROUNDS;
    let cpu = cpus()?[0];
    let start = Instant::now();
    let word = Arc::new(AtomicU32::new(0));
    // How many waits have ended, and when each did.
    let ended: Arc<(AtomicU64, Vec<AtomicU64>)> = Arc::new((
        AtomicU64::new(0),
        (0..ROUNDS).map(|_| AtomicU64::new(0)).collect(),
    ));
    let victim = {
        let (word, ended) = (Arc::clone(&word), Arc::clone(&ended));
        move || {
            let pinned = pin(cpu);
            for round in 0..ROUNDS {
                while u64::from(word.load(Ordering::Acquire)) == round {
                    let _ = futex::wait(&word, futex::Flags::PRIVATE, round as u32, None);
                }
                ended.1[round as usize].store(nanoseconds(start.elapsed()), Ordering::Release);
                ended.0.store(round + 1, Ordering::Release);
            }
            json!({ "pinned": pinned })
        }
    };
    let hog = move || {
        let pinned = pin(cpu);
        let parameter = libc::sched_param { sched_priority: 50 };
        // SAFETY: the argument lives until the call returns; 0 is the calling thread.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
        let mut spans = Vec::new();
        for round in 0..ROUNDS {
            // Until the victim sleeps. The hog sleeps more than it works: the kernel lets no real-time
            // thread have a CPU for more than 95 % of a second.
            thread::sleep(Duration::from_millis(5));
            let time = Duration::from_micros(HOG_US[round as usize % HOG_US.len()]);
            let before = start.elapsed();
            word.fetch_add(1, Ordering::Release);
            let _ = futex::wake(&word, futex::Flags::PRIVATE, 1);
            let woken = start.elapsed();
            spin(time);
            spans.push((before, woken, start.elapsed()));
            while ended.0.load(Ordering::Acquire) <= round {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let waits = spans
            .iter()
            .zip(&ended.1)
            .map(|((before, woken, end), ended)| {
                let least = nanoseconds(end.saturating_sub(*woken));
                [least, ended.load(Ordering::Acquire) - nanoseconds(*before)]
            });
        let waits: Vec<_> = waits.collect();
        json!({ "pinned": pinned, "realtime": set == 0, "waits": waits })
    };
    crew::work(vec![
        ("victim".into(), Box::new(victim)),
        ("hog".into(), Box::new(hog)),
    ])
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Pairs of threads that pass a byte to and fro.
pub fn pingpong(pairs: u64, seconds: Duration) -> anyhow::Result<()> {
    let mut members: Vec<(String, Work)> = Vec::new();
    for n in 0..pairs {
        let (reader_a, writer_b) = pipe()?;
        let (reader_b, writer_a) = pipe()?;
        let first = move || json!({ "rounds": ping(reader_a, writer_a, seconds) });
        let second = move || json!({ "rounds": pong(reader_b, writer_b) });
        members.push((format!("ping-{n}"), Box::new(first)));
        members.push((format!("pong-{n}"), Box::new(second)));
    }
    crew::work(members)
}

/// The pipes are closed when it returns, which ends the other side.
fn ping(mut reader: PipeReader, mut writer: PipeWriter, seconds: Duration) -> u64 {
    let start = Instant::now();
    let mut rounds = 0;
    let mut byte = [0];
    while start.elapsed() < seconds
        && writer.write_all(&byte).is_ok()
        && reader.read_exact(&mut byte).is_ok()
    {
        rounds += 1;
    }
    rounds
}

fn pong(mut reader: PipeReader, mut writer: PipeWriter) -> u64 {
    let mut rounds = 0;
    let mut byte = [0];
    while reader.read_exact(&mut byte).is_ok() && writer.write_all(&byte).is_ok() {
        rounds += 1;
    }
    rounds
}
