//! Writes recordings whose content is known, for tests: as Windows would, with buffers for each processor, compressed or not.
//!
//! What was never seen in a real recording (which headers a wake-up or an allocation has) is written as it is thought to be.

use std::io::{self, Seek, SeekFrom, Write};

use super::{
    buffer::{HEADER, flag},
    guid::group::{self, MEMORY, PROCESS, SYSTEM, THREAD},
    layout::Id,
    payload::{Change, Region},
};

/// How a recording is written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Size of a pointer on the host: 4 or 8.
    pub pointer_size: u8,
    /// Processors.
    pub cpus: u16,
    /// Size of a buffer.
    pub buffer_bytes: u32,
    /// Are buffers compressed?
    pub is_compressed: bool,
    /// What times are in: 1 performance counter, 2 units of 100 ns since 1601, 3 processor cycles.
    pub clock: u32,
    /// Ticks of the performance counter in a second.
    pub frequency: u64,
    /// Clock rate of a processor.
    pub cpu_mhz: u32,
    /// Times of events begin here.
    pub origin: i64,
    /// The same, in units of 100 ns since 1601.
    pub start_filetime: u64,
    /// Build of Windows.
    pub build: u32,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            pointer_size: 8,
            cpus: 2,
            buffer_bytes: 4096,
            is_compressed: false,
            clock: 1,
            frequency: 10_000_000,
            cpu_mhz: 2_500,
            origin: 1_000_000,
            start_filetime: 133_500_000_000_000_000,
            build: 22_631,
        }
    }
}

/// Kinds of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Process id and thread id of who caused it.
    System(u32, u32),
    /// The same, in short.
    Compact(u32, u32),
    /// The time only.
    Performance,
    /// With a GUID.
    Classic(u32, u32),
}

/// A thread, for [`Writer::thread`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread<'a> {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// Process id and thread id of who created it.
    pub creator: (u32, u32),
    /// Mark of the service it works for.
    pub service_tag: u32,
    /// Its name.
    pub name: &'a str,
}

/// A process, for [`Writer::process`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Process<'a> {
    /// Its id.
    pub pid: u32,
    /// Who created it.
    pub parent: u32,
    /// Name of its program.
    pub image: &'a str,
}

/// Writes a recording.
pub struct Writer<W> {
    out: W,
    form: Form,
    buffers: Vec<Buffer>,
    written: u32,
    events_lost: u32,
    buffers_lost: u32,
    mode: u32,
    last: i64,
}

#[derive(Default)]
struct Buffer {
    events: Vec<u8>,
    flags: u16,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(out: W, form: Form) -> io::Result<Self> {
        let mut writer = Self {
            out,
            form,
            buffers: (0..form.cpus).map(|_| Buffer::default()).collect(),
            written: 0,
            events_lost: 0,
            buffers_lost: 0,
            mode: if form.is_compressed { 0x0400_0001 } else { 1 },
            last: form.origin,
        };
        writer.write_header(0)?;
        writer.written = 1;
        Ok(writer)
    }

    /// Bits of the mode besides those that follow from the form.
    pub fn set_mode(&mut self, mode: u32) {
        self.mode |= mode;
    }

    /// An event.
    ///
    /// # Errors
    /// If a buffer was full and could not be written.
    pub fn event(
        &mut self,
        cpu: u16,
        kind: Kind,
        id: Id,
        time: i64,
        payload: &[u8],
    ) -> io::Result<()> {
        let event = self.encoded(kind, id, time, payload);
        self.raw(cpu, time, &event)
    }

    /// The bytes of an event, as they are.
    ///
    /// # Errors
    /// If a buffer was full and could not be written.
    ///
    /// # Panics
    /// If the event is larger than a buffer, or there is no such processor.
    pub fn raw(&mut self, cpu: u16, time: i64, event: &[u8]) -> io::Result<()> {
        self.last = self.last.max(time);
        let room = self.form.buffer_bytes as usize - HEADER;
        let length = event.len().next_multiple_of(8);
        assert!(
            length <= room,
            "an event of {length} bytes has no room in a buffer"
        );
        if self.buffers[usize::from(cpu)].events.len() + length > room {
            self.flush(cpu)?;
        }
        let events = &mut self.buffers[usize::from(cpu)].events;
        events.extend_from_slice(event);
        events.resize(events.len().next_multiple_of(8), 0);
        Ok(())
    }

    /// What is buffered of a processor is lost, and the buffer it is lost from says so.
    pub fn lose(&mut self, cpu: u16, events: u32) {
        let buffer = &mut self.buffers[usize::from(cpu)];
        buffer.events.clear();
        buffer.flags |= flag::EVENTS_LOST;
        self.events_lost += events;
    }

    /// Writes the buffer of a processor, full or not.
    ///
    /// # Errors
    /// If that fails.
    pub fn flush(&mut self, cpu: u16) -> io::Result<()> {
        let Buffer { events, flags } = std::mem::take(&mut self.buffers[usize::from(cpu)]);
        if events.is_empty() {
            self.buffers[usize::from(cpu)].flags = flags;
            return Ok(());
        }
        let filled = HEADER + events.len();
        if self.form.is_compressed {
            let body = compress(&events);
            let size = HEADER + body.len();
            let header = buffer_header(
                size,
                filled,
                cpu,
                3,
                flags | flag::COMPRESSED | flag::WIDE_CPU,
                0,
            );
            self.out.write_all(&header)?;
            self.out.write_all(&body)?;
        } else {
            let size = self.form.buffer_bytes as usize;
            self.out.write_all(&buffer_header(
                size,
                filled,
                cpu,
                3,
                flags | flag::WIDE_CPU,
                0,
            ))?;
            self.out.write_all(&events)?;
            self.out.write_all(&vec![0xff; size - filled])?;
        }
        self.written += 1;
        Ok(())
    }

    /// Ends the recording in order.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        for cpu in 0..self.form.cpus {
            self.flush(cpu)?;
        }
        let ticks = u64::try_from(self.last - self.form.origin).unwrap_or(0);
        let frequency = match self.form.clock {
            1 => self.form.frequency,
            2 => 10_000_000,
            _ => u64::from(self.form.cpu_mhz) * 1_000_000,
        };
        let length = u128::from(ticks) * 10_000_000 / u128::from(frequency);
        self.out.seek(SeekFrom::Start(0))?;
        self.write_header(self.form.start_filetime + length as u64)?;
        self.out.seek(SeekFrom::End(0))?;
        Ok(self.out)
    }

    fn write_header(&mut self, end_filetime: u64) -> io::Result<()> {
        let payload = self.header(end_filetime);
        let id = Id {
            group: group::HEADER,
            opcode: 0,
            version: 2,
        };
        let event = self.encoded(Kind::System(4, 8), id, self.form.origin, &payload);
        let filled = HEADER + event.len().next_multiple_of(8);
        // The first buffer of a compressed recording is as small as can be.
        let size = if self.form.is_compressed {
            filled.next_multiple_of(512)
        } else {
            self.form.buffer_bytes as usize
        };
        let state = if self.form.is_compressed { 3 } else { 0 };
        let mut buffer = buffer_header(size, filled, 0, state, flag::WIDE_CPU, 4).to_vec();
        buffer.extend_from_slice(&event);
        buffer.resize(filled, 0);
        buffer.resize(size, 0xff);
        self.out.write_all(&buffer)
    }

    fn header(&self, end_filetime: u64) -> Vec<u8> {
        let form = &self.form;
        let mut payload = Vec::new();
        let words = |payload: &mut Vec<u8>, words: &[u32]| {
            payload.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        words(
            &mut payload,
            &[
                form.buffer_bytes,
                0x0501_000a,
                form.build,
                u32::from(form.cpus),
            ],
        );
        payload.extend_from_slice(&end_filetime.to_le_bytes());
        let size = u32::from(form.pointer_size);
        words(
            &mut payload,
            &[
                156_250,
                0,
                self.mode,
                self.written,
                1,
                size,
                self.events_lost,
                form.cpu_mhz,
            ],
        );
        payload.resize(payload.len() + 2 * usize::from(form.pointer_size) + 172, 0);
        payload.resize(payload.len().next_multiple_of(8), 0);
        for time in [form.start_filetime, form.frequency, form.start_filetime] {
            payload.extend_from_slice(&time.to_le_bytes());
        }
        words(&mut payload, &[form.clock, self.buffers_lost]);
        payload.extend(utf16("Test"));
        payload.extend(utf16("C:\\test.etl"));
        payload
    }

    fn encoded(&self, kind: Kind, id: Id, time: i64, payload: &[u8]) -> Vec<u8> {
        let is_64 = u8::from(self.form.pointer_size == 8);
        let Id {
            group,
            opcode,
            version,
        } = id;
        let (number, header) = match kind {
            Kind::System(..) => (1 + is_64, 32),
            Kind::Compact(..) => (3 + is_64, 24),
            Kind::Performance => (0x10 + is_64, 16),
            Kind::Classic(..) => (if is_64 == 1 { 0x14 } else { 0x0a }, 48),
        };
        let length = u16::try_from(header + payload.len()).expect("an event has less than 64 KiB");
        let [low, high] = length.to_le_bytes();
        let mut event = match kind {
            Kind::Classic(..) => vec![low, high, number, 0xc0, opcode, 0, version, 0],
            _ => vec![version, 0, number, 0xc0, low, high, opcode, group],
        };
        if let Kind::System(pid, tid) | Kind::Compact(pid, tid) | Kind::Classic(pid, tid) = kind {
            event.extend_from_slice(&tid.to_le_bytes());
            event.extend_from_slice(&pid.to_le_bytes());
        }
        event.extend_from_slice(&time.to_le_bytes());
        if let Kind::Classic(..) = kind {
            let guid = group::ALL.iter().find(|(known, _)| *known == group);
            event.extend_from_slice(&guid.expect("a class with a GUID").1.0);
        }
        event.resize(header, 0);
        event.extend_from_slice(payload);
        event
    }
}

/// Events of the kernel.
impl<W: Write + Seek> Writer<W> {
    /// The processor goes from one thread to another, which is left in this state.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn switch(&mut self, cpu: u16, time: i64, old: u32, state: i8, new: u32) -> io::Result<()> {
        let mut payload = [0; 24];
        payload[..4].copy_from_slice(&new.to_le_bytes());
        payload[4..8].copy_from_slice(&old.to_le_bytes());
        payload[14] = state.cast_unsigned();
        self.event(cpu, Kind::Performance, id(THREAD, 36, 4), time, &payload)
    }

    /// A thread is to run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn ready(&mut self, cpu: u16, time: i64, tid: u32) -> io::Result<()> {
        let [a, b, c, d] = tid.to_le_bytes();
        self.event(
            cpu,
            Kind::Performance,
            id(THREAD, 50, 2),
            time,
            &[a, b, c, d, 1, 0, 0, 0],
        )
    }

    /// A thread begins, ends, or is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn thread(
        &mut self,
        cpu: u16,
        time: i64,
        change: Change,
        thread: Thread,
    ) -> io::Result<()> {
        let mut payload = [thread.pid, thread.tid].map(u32::to_le_bytes).concat();
        payload.resize(8 + 7 * usize::from(self.form.pointer_size), 0);
        payload.extend_from_slice(&thread.service_tag.to_le_bytes());
        payload.extend_from_slice(&[8, 5, 2, 0]);
        payload.extend(utf16(thread.name));
        let (pid, tid) = if change == Change::Start {
            thread.creator
        } else {
            (thread.pid, thread.tid)
        };
        self.event(
            cpu,
            Kind::System(pid, tid),
            id(THREAD, opcode(change), 3),
            time,
            &payload,
        )
    }

    /// A thread has got a name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn thread_name(
        &mut self,
        cpu: u16,
        time: i64,
        pid: u32,
        tid: u32,
        name: &str,
    ) -> io::Result<()> {
        let payload = [
            pid.to_le_bytes().to_vec(),
            tid.to_le_bytes().to_vec(),
            utf16(name),
        ]
        .concat();
        self.event(cpu, Kind::Performance, id(THREAD, 72, 2), time, &payload)
    }

    /// A process begins, ends, or is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn process(
        &mut self,
        cpu: u16,
        time: i64,
        change: Change,
        process: Process,
    ) -> io::Result<()> {
        let pointer = usize::from(self.form.pointer_size);
        let mut payload = self.pointers(&[0xffff_8000 + u64::from(process.pid)]);
        for word in [process.pid, process.parent, 0, 259] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.resize(payload.len() + pointer + 4, 0);
        payload.extend(self.pointers(&[0xffff, 0]));
        payload.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]);
        payload.extend_from_slice(process.image.as_bytes());
        payload.push(0);
        payload.extend([utf16("secret"), utf16(""), utf16("")].concat());
        let kind = match change {
            Change::Start => Kind::System(process.parent, 1),
            Change::End => Kind::System(process.pid, 1),
            _ => Kind::Performance,
        };
        self.event(cpu, kind, id(PROCESS, opcode(change), 4), time, &payload)
    }

    /// Address space changes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn region(&mut self, cpu: u16, time: i64, region: &Region) -> io::Result<()> {
        let mut payload = self.pointers(&[region.base, region.bytes]);
        payload.extend_from_slice(&region.pid.to_le_bytes());
        payload.extend_from_slice(&region.flags.to_le_bytes());
        let is_freed = region.flags & (Region::RELEASE | Region::DECOMMIT) != 0;
        let opcode = if is_freed { 99 } else { 98 };
        self.event(
            cpu,
            Kind::Performance,
            id(MEMORY, opcode, 2),
            time,
            &payload,
        )
    }

    /// Address space that is there already, with so much of it committed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn rundown(&mut self, cpu: u16, time: i64, region: &Region) -> io::Result<()> {
        let mut payload = self.pointers(&[region.base, region.bytes]);
        payload.extend_from_slice(&region.pid.to_le_bytes());
        payload.extend_from_slice(&region.flags.to_le_bytes());
        payload.extend(self.pointers(&[region.committed]));
        self.event(cpu, Kind::Performance, id(MEMORY, 128, 2), time, &payload)
    }

    /// A service.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn service(
        &mut self,
        time: i64,
        pid: u32,
        tag: u32,
        name: &str,
        image: &str,
    ) -> io::Result<()> {
        let state = if pid == 0 { 1 } else { 4_u32 };
        let mut payload = [pid, state, tag].map(u32::to_le_bytes).concat();
        for text in [name, name, image, "", ""] {
            payload.extend(utf16(text));
        }
        self.event(0, Kind::System(4, 8), id(SYSTEM, 15, 3), time, &payload)
    }

    /// Which kernel events are enabled.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn enabled(&mut self, time: i64, masks: [u32; 2]) -> io::Result<()> {
        let words = [masks[0], masks[1], 0, 0, 0, 0, 0, 0, 85];
        let payload = words.map(u32::to_le_bytes).concat();
        self.event(
            0,
            Kind::System(4, 8),
            id(group::HEADER, 5, 2),
            time,
            &payload,
        )
    }

    fn pointers(&self, values: &[u64]) -> Vec<u8> {
        let size = usize::from(self.form.pointer_size);
        values
            .iter()
            .flat_map(|value| value.to_le_bytes()[..size].to_vec())
            .collect()
    }
}

const fn id(group: u8, opcode: u8, version: u8) -> Id {
    Id {
        group,
        opcode,
        version,
    }
}

fn opcode(change: Change) -> u8 {
    match change {
        Change::Start => 1,
        Change::End => 2,
        Change::ThereAtStart => 3,
        Change::ThereAtEnd => 4,
        Change::Defunct => 39,
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn buffer_header(
    size: usize,
    filled: usize,
    cpu: u16,
    state: u32,
    flags: u16,
    kind: u16,
) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let filled = u32::try_from(filled)
        .expect("a buffer has less than 4 GiB")
        .to_le_bytes();
    put(
        0,
        &u32::try_from(size)
            .expect("a buffer has less than 4 GiB")
            .to_le_bytes(),
    );
    put(4, &filled);
    put(0x28, &cpu.to_le_bytes());
    put(0x2c, &state.to_le_bytes());
    put(0x30, &filled);
    put(0x34, &flags.to_le_bytes());
    put(0x36, &kind.to_le_bytes());
    header
}

/// Compresses as [`decompress`](super::xpress::decompress) reads it: greedily, with the last place where the same three bytes stood.
pub fn compress(data: &[u8]) -> Vec<u8> {
    let mut out = Compressed::default();
    let mut places = std::collections::HashMap::new();
    let mut at = 0;
    while at < data.len() {
        let three = data[at..].first_chunk::<3>();
        let before = three.and_then(|three| places.insert(*three, at));
        let length = before.filter(|from| at - from <= 8192).map_or(0, |from| {
            let same = data[from..].iter().zip(&data[at..]);
            same.take_while(|(a, b)| a == b).count()
        });
        if let (Some(from), 3..) = (before, length) {
            out.matched(at - from, length);
            at += length;
        } else {
            out.literal(data[at]);
            at += 1;
        }
    }
    out.finish()
}

#[derive(Default)]
struct Compressed {
    bytes: Vec<u8>,
    /// Where the bits that tell literals from matches go, and how many there are.
    bits_at: usize,
    bits: u32,
    count: u32,
    half_at: Option<usize>,
}

impl Compressed {
    fn bit(&mut self, bit: u32) {
        if self.count == 32 || self.bytes.is_empty() {
            self.put_bits();
            self.bits_at = self.bytes.len();
            self.bytes.extend_from_slice(&[0; 4]);
        }
        self.bits = self.bits << 1 | bit;
        self.count += 1;
    }

    fn put_bits(&mut self) {
        if self.count > 0 {
            // All that is not used of them is set.
            let unused = 32 - self.count;
            let bits = (u64::from(self.bits) << unused | ((1 << unused) - 1)) as u32;
            self.bytes[self.bits_at..self.bits_at + 4].copy_from_slice(&bits.to_le_bytes());
        }
        (self.bits, self.count) = (0, 0);
    }

    fn literal(&mut self, byte: u8) {
        self.bit(0);
        self.bytes.push(byte);
    }

    fn matched(&mut self, distance: usize, length: usize) {
        self.bit(1);
        let length = length - 3;
        let found = (distance - 1) << 3 | length.min(7);
        self.bytes.extend_from_slice(&(found as u16).to_le_bytes());
        if length < 7 {
            return;
        }
        let half = (length - 7).min(15) as u8;
        if let Some(at) = self.half_at.take() {
            self.bytes[at] |= half << 4;
        } else {
            self.half_at = Some(self.bytes.len());
            self.bytes.push(half);
        }
        if half < 15 {
            return;
        }
        let Some(more) = u8::try_from(length - 7 - 15)
            .ok()
            .filter(|more| *more < 255)
        else {
            self.bytes.push(255);
            self.bytes.extend_from_slice(
                &u16::try_from(length)
                    .expect("a match has less than 64 KiB")
                    .to_le_bytes(),
            );
            return;
        };
        self.bytes.push(more);
    }

    fn finish(mut self) -> Vec<u8> {
        self.put_bits();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::etw::xpress;

    proptest! {
        /// Runs of all lengths, and what repeats from further back.
        #[test]
        fn what_is_compressed_comes_out_again(parts in prop::collection::vec((0..3_u8, prop_oneof![1..20_usize, 200..400_usize]), 0..60)) {
            let data: Vec<u8> = parts.iter().flat_map(|(byte, length)| vec![*byte; *length]).collect();
            let mut out = Vec::new();
            let packed = compress(&data);
            prop_assert_eq!(xpress::decompress(&packed, data.len(), &mut out), Ok(()));
            prop_assert_eq!(out, data);
        }
    }
}
