//! A workload that uses the C library's heap, or whatever replaces it.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    crew::{self, Work},
    random::Random,
};

/// Blocks that a thread holds at most.
const HELD: usize = 512;

/// Threads that take blocks of all sizes from the heap and give them back.
pub fn churn(threads: u64, seconds: Duration) -> anyhow::Result<()> {
    let member = |n: u64| -> (String, Work) {
        let work = move || {
            let mut random = Random::new(n + 1);
            let mut held: Vec<Vec<u8>> = Vec::new();
            let (start, mut blocks) = (Instant::now(), 0_u64);
            while start.elapsed() < seconds {
                // From 16 bytes to 1 MiB, each power of two as often as the next: small ones come from arenas, large
                // ones are mappings of their own.
                let bytes = 16 << random.below(17);
                held.push(black_box(vec![1; bytes]));
                blocks += 1;
                if held.len() == HELD {
                    held.truncate(random.below(HELD));
                    thread::sleep(Duration::from_millis(1));
                }
            }
            json!({ "blocks": blocks })
        };
        (format!("heap-{n}"), Box::new(work))
    };
    crew::work((0..threads).map(member).collect())
}
