//! Between the thread that the system calls with each event and the one that makes something of them.
//!
//! The former copies and returns: while it is called, buffers of the session fill up. There is room for so many bytes; what does not fit is
//! counted.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{layout::Id, tracker::At};

/// Bytes that an event takes besides its payload.
const HEAD: usize = 28;

/// An event as it came, before its payload is decoded.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When, where, and by whom.
    pub at: At,
    /// What.
    pub id: Id,
    /// Size of a pointer in the payload.
    pub pointer_size: u8,
    /// The payload; not longer than 64 KiB.
    pub payload: &'a [u8],
}

/// Events in the order in which they came.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
}

/// A queue with one writer and one reader.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Mutex<Shared>>,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    block: Block,
    /// Events that found no room since the last look, and when the first of them happened.
    refused: u64,
    refused_ns: u64,
}

/// What a look into the queue found, besides the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Events that there was no room for.
    pub count: u64,
    /// When the first of them happened: in nanoseconds since the Unix epoch.
    pub since_ns: u64,
}

impl Queue {
    /// With room for so many bytes, and as many again while they are looked at.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            shared: Arc::default(),
            most_bytes,
        }
    }

    /// Copies an event. False if there is no room for it.
    pub fn push(&self, arrival: &Arrival) -> bool {
        let mut shared = self.lock();
        let length = HEAD + arrival.payload.len();
        let fits = shared.block.bytes.len() + length <= self.most_bytes
            && u16::try_from(arrival.payload.len()).is_ok();
        if fits {
            shared.block.push(arrival);
        } else {
            if shared.refused == 0 {
                shared.refused_ns = arrival.at.ts;
            }
            shared.refused += 1;
        }
        fits
    }

    /// Takes all that is there. What `block` held is dropped, its memory used again.
    pub fn take(&self, block: &mut Block) -> Refused {
        block.bytes.clear();
        let mut shared = self.lock();
        mem::swap(&mut shared.block, block);
        Refused {
            count: mem::take(&mut shared.refused),
            since_ns: shared.refused_ns,
        }
    }

    /// Neither side leaves anything half done.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Block {
    /// Appends an event.
    pub(super) fn push(&mut self, arrival: &Arrival) {
        let Arrival {
            at,
            id,
            pointer_size,
            payload,
        } = arrival;
        let (pid, tid) = at.thread.unwrap_or((u32::MAX, u32::MAX));
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&at.ts.to_le_bytes());
        head[8..12].copy_from_slice(&pid.to_le_bytes());
        head[12..16].copy_from_slice(&tid.to_le_bytes());
        head[16..18].copy_from_slice(&at.cpu.to_le_bytes());
        head[18..20].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        head[20] = id.group;
        head[21] = id.opcode;
        head[22] = id.version;
        head[23] = *pointer_size;
        head[24] = u8::from(at.thread.is_some());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(payload);
    }

    /// The events.
    pub fn events(&self) -> Events<'_> {
        Events { rest: &self.bytes }
    }

    /// Drops them; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// How much memory they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The events of a block.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Events<'a> {
    type Item = Arrival<'a>;

    fn next(&mut self) -> Option<Arrival<'a>> {
        let (head, rest) = self.rest.split_first_chunk::<HEAD>()?;
        let u32_at = |at| u32::from_le_bytes(bytes(head, at));
        let u16_at = |at| u16::from_le_bytes(bytes(head, at));
        let (payload, rest) = rest.split_at_checked(usize::from(u16_at(18)))?;
        self.rest = rest;
        Some(Arrival {
            at: At {
                ts: u64::from_le_bytes(bytes(head, 0)),
                cpu: u16_at(16),
                thread: (head[24] != 0).then(|| (u32_at(8), u32_at(12))),
            },
            id: Id {
                group: head[20],
                opcode: head[21],
                version: head[22],
            },
            pointer_size: head[23],
            payload,
        })
    }
}

fn bytes<const N: usize>(head: &[u8; HEAD], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(ts: u64, payload: &[u8]) -> Arrival<'_> {
        Arrival {
            at: At {
                ts,
                cpu: 300,
                thread: ts.is_multiple_of(2).then_some((7, 8)),
            },
            id: Id {
                group: 5,
                opcode: 36,
                version: 4,
            },
            pointer_size: 8,
            payload,
        }
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let queue = Queue::new(1 << 20);
        let payloads: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; usize::from(n)]).collect();
        for (ts, payload) in (0..).zip(&payloads) {
            assert!(queue.push(&arrival(ts, payload)));
        }
        let mut block = Block::default();
        assert_eq!(queue.take(&mut block), Refused::default());
        let mut count = 0;
        for ((ts, payload), out) in (0..).zip(&payloads).zip(block.events()) {
            let expected = arrival(ts, payload);
            assert_eq!(format!("{out:?}"), format!("{expected:?}"));
            count += 1;
        }
        assert_eq!(count, payloads.len());
        queue.take(&mut block);
        assert!(block.is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Queue::new(HEAD + 10);
        assert!(queue.push(&arrival(1, &[0; 10])));
        assert!(!queue.push(&arrival(2, &[])));
        assert!(!queue.push(&arrival(3, &[])));
        let mut block = Block::default();
        let refused = Refused {
            count: 2,
            since_ns: 2,
        };
        assert_eq!(queue.take(&mut block), refused);
        assert_eq!(block.events().count(), 1);
        assert!(!queue.push(&arrival(4, &[0; 11])));
        assert!(queue.push(&arrival(5, &[0; 10])), "there is room again");
        assert_eq!(queue.take(&mut block).count, 1);
        assert!(!queue.push(&arrival(6, &vec![0; 70_000])));
    }
}
