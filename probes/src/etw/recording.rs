//! A recording, event by event, in the order in which they happened.
//!
//! It takes one buffer of each processor in memory, and 16 bytes for each buffer of the file, however large that is.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{Read, Seek, SeekFrom},
    vec,
};

use super::{
    buffer::{BufferHeader, HEADER},
    clock::Clock,
    damage::Damage,
    error::RecordingError,
    guid::group,
    header::{Class, Header},
    index::{self, Index, MOST_BUFFER, Place, is_plausible, read_at},
    payload::{LogFile, Payload, decode},
    value::Utf16,
    xpress,
};

/// Most bytes of buffers in memory at the same time. Those of 64 processors have 64 MiB if they are as large as tools make them
/// at most, 1 MiB.
const MOST_HELD: usize = 512 << 20;

/// Bit of the recording's mode: its buffers are compressed.
const COMPRESSED: u32 = 0x0400_0000;

/// No event begins with these bytes: there are no more in the buffer.
const NO_MORE: [u8; 4] = [0xff; 4];

/// An event of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What it is.
    pub header: Header,
    /// When it happened, by the recording's clock. That of the one before, if it does not say.
    pub time: i64,
    /// Processor on which it happened.
    pub cpu: u16,
    /// The first one after events of this processor were lost, and the first one of which it is not known any more.
    pub follows_loss: bool,
    /// What it says.
    pub payload: &'a [u8],
}

/// What a recording says of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Its header, without names.
    pub log: LogFile<'static>,
    /// Name of the session that wrote it.
    pub session: String,
    /// File that it was written to.
    pub file: String,
    /// What its times mean; `None` if that is not known.
    pub clock: Option<Clock>,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Buffers in it.
    pub buffers: usize,
    /// Buffers before which, or within which, events were lost.
    pub lossy_buffers: u64,
    /// Buffers that hold switches in a form that is not documented, and are left out.
    pub compact_buffers: u64,
    /// Bytes that were set aside and never written.
    pub unused_bytes: u64,
    /// Processors of which there are events.
    pub cpus: usize,
}

/// A recording.
#[derive(Debug)]
pub struct Recording<R> {
    source: R,
    about: About,
    damage: Damage,
    streams: Vec<Stream>,
    /// When the next event of each stream happened, and which stream that is.
    order: BinaryHeap<Reverse<(i64, usize)>>,
    /// The stream of the event that was given out last, and is still lent.
    lent: Option<usize>,
    held: usize,
    compressed: Vec<u8>,
}

/// The buffers of a processor, one after the other.
#[derive(Debug)]
struct Stream {
    cpu: u16,
    places: vec::IntoIter<Place>,
    /// Where the buffer at hand begins in the file.
    offset: u64,
    /// Events of the buffer at hand.
    events: Vec<u8>,
    /// The next one begins there.
    at: usize,
    next: Option<Header>,
    time: i64,
    /// The buffer at hand says that events were lost.
    lossy: bool,
    follows_loss: bool,
}

impl<R: Read + Seek> Recording<R> {
    /// Opens a recording and finds its buffers.
    ///
    /// # Errors
    /// If it is none, is compressed in another way than Windows does it today, or cannot be read.
    pub fn open(mut source: R) -> Result<Self, RecordingError> {
        let length = source.seek(SeekFrom::End(0));
        let length = length.map_err(|source| RecordingError::Read { offset: 0, source })?;
        let first = first_buffer(&mut source)?;
        let (header, events) = first.split_at(HEADER);
        let header = header.first_chunk().map(BufferHeader::read);
        let (log, origin) = log_file(events)?;
        let is_compressed = log.mode & COMPRESSED != 0;
        if is_compressed {
            check_compression(header.map_or(0, |header| header.state))?;
        }
        let size = header.map_or(0, |header| u64::from(header.size));
        let mut damage = Damage::default();
        let index = index::find(
            &mut source,
            length,
            (!is_compressed).then_some(size),
            &mut damage,
        )?;
        let about = about(&log, origin, length, &index);
        let missing = u64::from(log.buffers_written).saturating_sub(index.buffers as u64);
        if missing > 0 && log.end_filetime > 0 {
            damage.note(
                length,
                0,
                &format!("{missing} buffers are missing from the end"),
            );
        }
        let mut recording = Self {
            source,
            about,
            damage,
            streams: index
                .cpus
                .into_iter()
                .map(|(cpu, places)| Stream::new(cpu, places))
                .collect(),
            order: BinaryHeap::new(),
            lent: None,
            held: 0,
            compressed: Vec::new(),
        };
        for n in 0..recording.streams.len() {
            if recording.advance(n)? {
                recording
                    .order
                    .push(Reverse((recording.streams[n].time, n)));
            }
        }
        Ok(recording)
    }

    /// What it says of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What could not be read so far.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read, or its buffers have no room in memory. What is damaged is left out, and counted.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, RecordingError> {
        let Some((_, n)) = self.first()? else {
            return Ok(None);
        };
        self.lent = Some(n);
        Ok(self.streams[n].event())
    }

    /// When the next event happened.
    ///
    /// # Errors
    /// As [`Recording::next_event`] has them.
    pub fn next_time(&mut self) -> Result<Option<i64>, RecordingError> {
        Ok(self.first()?.map(|(time, _)| time))
    }

    /// The stream with the next event, and when that happened.
    fn first(&mut self) -> Result<Option<(i64, usize)>, RecordingError> {
        if let Some(n) = self.lent.take() {
            let has_more = self.step(n)?;
            let time = self.streams[n].time;
            if let Some(mut first) = self.order.peek_mut() {
                if has_more {
                    first.0.0 = time;
                } else {
                    std::collections::binary_heap::PeekMut::pop(first);
                }
            }
        }
        Ok(self.order.peek().map(|Reverse(first)| *first))
    }

    /// Leaves the event that was lent behind.
    fn step(&mut self, n: usize) -> Result<bool, RecordingError> {
        let stream = &mut self.streams[n];
        if let Some(header) = stream.next.take() {
            stream.at += header.length.next_multiple_of(8);
            stream.follows_loss = false;
        }
        self.advance(n)
    }

    /// Finds the next event of a stream, in this buffer or one after it.
    fn advance(&mut self, n: usize) -> Result<bool, RecordingError> {
        loop {
            if self.streams[n].find(&mut self.damage) {
                return Ok(true);
            }
            let Some(place) = self.streams[n].places.next() else {
                return Ok(false);
            };
            self.load(n, place)?;
        }
    }

    fn load(&mut self, n: usize, place: Place) -> Result<(), RecordingError> {
        let Self {
            source,
            streams,
            damage,
            held,
            compressed,
            ..
        } = self;
        let stream = &mut streams[n];
        let mut bytes = [0; HEADER];
        read_at(source, place.offset, &mut bytes)?;
        let header = BufferHeader::read(&bytes);
        let before = stream.events.capacity();
        stream.begin(place.offset, header.follows_loss());
        // The file may have changed since it was looked through.
        if is_plausible(&header) {
            let events = (header.filled as usize).saturating_sub(HEADER);
            let body = place.offset + HEADER as u64;
            if header.is_compressed() {
                compressed.resize(header.size as usize - HEADER, 0);
                let there = read_at(source, body, compressed)?;
                if let Err(corrupt) =
                    xpress::decompress(&compressed[..there], events, &mut stream.events)
                {
                    let lost = events - stream.events.len();
                    damage.note(place.offset, lost as u64, &corrupt);
                }
            } else {
                stream.events.resize(events, 0);
                let there = read_at(source, body, &mut stream.events)?;
                stream.events.truncate(there);
            }
        }
        *held = (*held + stream.events.capacity()).saturating_sub(before);
        if *held > MOST_HELD {
            let what = "bytes in buffers of the same time";
            return Err(RecordingError::TooMany {
                what,
                most: MOST_HELD,
                offset: place.offset,
            });
        }
        Ok(())
    }
}

impl Stream {
    fn new(cpu: u16, places: Vec<Place>) -> Self {
        Self {
            cpu,
            places: places.into_iter(),
            offset: 0,
            events: Vec::new(),
            at: 0,
            next: None,
            time: i64::MIN,
            lossy: false,
            follows_loss: false,
        }
    }

    /// Another buffer takes the place of the one at hand.
    fn begin(&mut self, offset: u64, lossy: bool) {
        // It is not said whether events were lost before a buffer or while it was filled.
        self.follows_loss |= lossy || self.lossy;
        self.lossy = lossy;
        self.offset = offset;
        self.events.clear();
        self.at = 0;
    }

    /// Reads the header of the next event of the buffer at hand, if there is one.
    fn find(&mut self, damage: &mut Damage) -> bool {
        let rest = self.events.get(self.at..).unwrap_or_default();
        // What is left may be too short for any event.
        if rest.len() < 8 || rest.starts_with(&NO_MORE) {
            return false;
        }
        let header = match Header::read(rest) {
            Ok(header) => header,
            Err(malformed) => {
                damage.note(
                    self.offset + (HEADER + self.at) as u64,
                    rest.len() as u64,
                    &malformed,
                );
                self.at = self.events.len();
                return false;
            }
        };
        let time = header.time.unwrap_or(self.time);
        damage.backwards += u64::from(time < self.time);
        self.time = time;
        self.next = Some(header);
        true
    }

    fn event(&self) -> Option<Event<'_>> {
        let header = self.next?;
        Some(Event {
            header,
            time: self.time,
            cpu: self.cpu,
            follows_loss: self.follows_loss,
            payload: &self.events[self.at + header.payload..self.at + header.length],
        })
    }
}

/// Does a file begin like a recording?
pub fn is_recording(begin: &[u8; HEADER]) -> bool {
    let header = BufferHeader::read(begin);
    is_plausible(&header) && header.filled as usize > HEADER
}

/// The first buffer, which is not compressed.
fn first_buffer<R: Read + Seek>(source: &mut R) -> Result<Vec<u8>, RecordingError> {
    let mut begin = [0; HEADER];
    let there = read_at(source, 0, &mut begin)?;
    if let Some(error) = RecordingError::of_foreign(&begin[..there]) {
        return Err(error);
    }
    if there == 0 {
        return Err(RecordingError::Other("an empty file"));
    }
    let foreign = |why: &str| Err(RecordingError::Foreign(why.into()));
    if there < HEADER {
        return foreign("it is shorter than the header of a buffer");
    }
    let header = BufferHeader::read(&begin);
    if !is_plausible(&header) || header.filled as usize <= HEADER {
        return foreign("it does not begin with a buffer");
    }
    let mut first = vec![0; header.filled.min(MOST_BUFFER) as usize];
    let there = read_at(source, 0, &mut first)?;
    first.truncate(there);
    Ok(first)
}

/// The header of the recording, and when it was written by the recording's clock.
fn log_file(events: &[u8]) -> Result<(LogFile<'_>, i64), RecordingError> {
    let foreign = |why: String| RecordingError::Foreign(why);
    let header =
        Header::read(events).map_err(|error| foreign(format!("it begins with {error}")))?;
    let Class::System {
        group: group::HEADER,
        opcode: 0,
        ..
    } = header.class
    else {
        return Err(foreign(
            "it does not begin with the header of a recording".into(),
        ));
    };
    let payload = &events[header.payload..header.length];
    let decoded = header
        .id()
        .map(|id| decode(id, header.pointer_size, payload));
    match decoded {
        Some(Ok(Payload::LogFile(log))) => Ok((log, header.time.unwrap_or(0))),
        Some(Err(error)) => Err(foreign(error.to_string())),
        _ => Err(foreign("its header is none".into())),
    }
}

fn check_compression(state: u32) -> Result<(), RecordingError> {
    match state & 0xffff {
        3 => Ok(()),
        2 => Err(RecordingError::Compression("LZNT1")),
        4 => Err(RecordingError::Compression("XPRESS Huffman")),
        _ => Err(RecordingError::Compression("an unknown method")),
    }
}

fn about(log: &LogFile, origin: i64, bytes: u64, index: &Index) -> About {
    About {
        session: log.session.to_string(),
        file: log.file.to_string(),
        log: LogFile {
            session: Utf16::default(),
            file: Utf16::default(),
            ..*log
        },
        clock: Clock::of(log, origin),
        bytes,
        buffers: index.buffers,
        lossy_buffers: index.lossy,
        compact_buffers: index.compact,
        unused_bytes: index.unused,
        cpus: index.cpus.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::etw::{
        counts::Counts,
        writer::{Form, Kind, Writer},
    };

    /// Switches of all processors in turn, each with the number that it is of.
    fn written(form: Form, events: u32) -> Vec<u8> {
        let mut writer = Writer::new(Cursor::new(Vec::new()), form).unwrap();
        for n in 0..events {
            let cpu = (n % u32::from(form.cpus)) as u16;
            writer
                .switch(cpu, form.origin + 10 + i64::from(n), 1, 5, n)
                .unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn open(bytes: &[u8]) -> Result<Recording<Cursor<&[u8]>>, RecordingError> {
        Recording::open(Cursor::new(bytes))
    }

    /// The numbers of the switches that come out, in their order, and what is damaged.
    fn numbers(bytes: &[u8]) -> (Vec<u32>, Damage) {
        let mut recording = open(bytes).unwrap();
        let mut numbers = Vec::new();
        while let Some(event) = recording.next_event().unwrap() {
            let decoded = event
                .header
                .id()
                .map(|id| decode(id, event.header.pointer_size, event.payload));
            if let Some(Ok(Payload::Switch(switch))) = decoded {
                assert_eq!(event.time, 1_000_010 + i64::from(switch.new_tid));
                numbers.push(switch.new_tid);
            }
        }
        (numbers, recording.damage().clone())
    }

    fn forms() -> impl Iterator<Item = Form> {
        let sizes = [4, 8].into_iter();
        let all = sizes.flat_map(|pointer_size| {
            [false, true].map(|is_compressed| (pointer_size, is_compressed))
        });
        all.flat_map(|(pointer_size, is_compressed)| {
            [1, 2, 7, 64, 300].map(|cpus| Form {
                pointer_size,
                cpus,
                is_compressed,
                ..Form::default()
            })
        })
    }

    #[test]
    fn events_come_in_the_order_in_which_they_happened() {
        for form in forms() {
            let (numbers, damage) = numbers(&written(form, 5_000));
            assert!(damage.is_none(), "{form:?}: {damage:?}");
            assert!(numbers == (0..5_000).collect::<Vec<_>>(), "{form:?}");
        }
    }

    #[test]
    fn what_it_says_of_itself() {
        for form in forms() {
            let bytes = written(form, 100);
            let recording = open(&bytes).unwrap();
            let about = recording.about();
            assert_eq!(
                (about.session.as_str(), about.file.as_str()),
                ("Test", "C:\\test.etl")
            );
            assert_eq!((about.log.build, about.log.windows), (22_631, (10, 0)));
            assert_eq!(about.log.cpus, u32::from(form.cpus));
            assert_eq!(about.log.pointer_size, u32::from(form.pointer_size));
            assert_eq!(about.buffers as u32, about.log.buffers_written);
            assert_eq!(about.bytes, bytes.len() as u64);
            let clock = about.clock.unwrap();
            assert_eq!(clock.filetime(form.origin), form.start_filetime);
        }
    }

    #[test]
    fn every_kind_of_header() {
        let id = |opcode| crate::etw::Id {
            group: group::THREAD,
            opcode,
            version: 2,
        };
        for pointer_size in [4, 8] {
            let form = Form {
                pointer_size,
                cpus: 1,
                ..Form::default()
            };
            let mut writer = Writer::new(Cursor::new(Vec::new()), form).unwrap();
            let kinds = [
                Kind::System(1, 2),
                Kind::Compact(1, 2),
                Kind::Performance,
                Kind::Classic(1, 2),
            ];
            for (n, kind) in (0..).zip(kinds) {
                writer
                    .event(0, kind, id(50), form.origin + n, &[7, 0, 0, 0, 0, 0, 0, 0])
                    .unwrap();
            }
            writer
                .raw(
                    0,
                    form.origin + 9,
                    &[16, 0, 0, 0x90, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                )
                .unwrap();
            let bytes = writer.finish().unwrap().into_inner();
            let mut recording = open(&bytes).unwrap();
            let mut counts = Counts::default();
            let mut readies = 0;
            while let Some(event) = recording.next_event().unwrap() {
                counts.add(event.header.class);
                let decoded = event
                    .header
                    .id()
                    .map(|id| decode(id, event.header.pointer_size, event.payload));
                if let Some(Ok(Payload::Ready(ready))) = decoded {
                    assert_eq!(ready.tid, 7);
                    readies += 1;
                }
                if event.header.class == Class::Message {
                    assert_eq!(event.time, form.origin + 3, "that of the one before");
                }
            }
            assert_eq!(readies, 4);
            let expected = [
                ("CLS 3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c op50 v2", 1),
                ("MSG", 1),
                ("PERF group05 op50 v2", 1),
                ("SYS group00 op0 v2", 1),
                ("SYS group05 op50 v2", 2),
            ];
            let expected = expected.map(|(key, count)| (key.to_owned(), count));
            assert_eq!(counts.total(), 6);
            assert_eq!(counts.by_key(), expected.into());
        }
    }

    /// The newest buffers stand where the oldest were.
    #[test]
    fn circular() {
        for is_compressed in [false, true] {
            let form = Form {
                cpus: 2,
                is_compressed,
                ..Form::default()
            };
            let whole = written(form, 2_000);
            let index = index::find(
                &mut Cursor::new(&whole),
                whole.len() as u64,
                None,
                &mut Damage::default(),
            )
            .unwrap();
            let mut places: Vec<_> = index
                .cpus
                .iter()
                .flat_map(|(_, places)| places)
                .map(|place| place.offset)
                .collect();
            places.sort_unstable();
            let (head, middle) = (places[1] as usize, places[places.len() / 2] as usize);
            let turned = [&whole[..head], &whole[middle..], &whole[head..middle]].concat();
            let (numbers, damage) = numbers(&turned);
            assert!(damage.is_none(), "{damage:?}");
            assert!(numbers == (0..2_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn losses_are_marked() {
        let form = Form {
            cpus: 2,
            ..Form::default()
        };
        let mut writer = Writer::new(Cursor::new(Vec::new()), form).unwrap();
        let time = |n: u32| form.origin + 10 + i64::from(n);
        for n in 0..20 {
            writer.switch((n % 2) as u16, time(n), 1, 5, n).unwrap();
            if n == 9 {
                writer.lose(1, 5);
            }
        }
        writer.flush(1).unwrap();
        writer.switch(1, time(20), 1, 5, 20).unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let mut recording = open(&bytes).unwrap();
        assert_eq!(
            (
                recording.about().log.events_lost,
                recording.about().lossy_buffers
            ),
            (5, 1)
        );
        let mut marked = Vec::new();
        while let Some(event) = recording.next_event().unwrap() {
            if event.follows_loss {
                marked.push((event.cpu, event.time));
            }
        }
        assert_eq!(
            marked,
            [(1, time(11)), (1, time(20))],
            "the first one in it, and the first one after it"
        );
    }

    /// All before is read, and it is said from where on the rest is missing.
    #[test]
    fn cut_off_anywhere() {
        for is_compressed in [false, true] {
            let form = Form {
                cpus: 1,
                is_compressed,
                buffer_bytes: 1024,
                ..Form::default()
            };
            let whole = written(form, 200);
            for length in 0..whole.len() {
                let Ok(mut recording) = open(&whole[..length]) else {
                    assert!(length < 1024, "the first buffer is whole");
                    continue;
                };
                let mut count = 0;
                while recording.next_event().unwrap().is_some() {
                    count += 1;
                }
                assert!(count <= 201);
                assert!(!recording.damage().is_none(), "{length} of {}", whole.len());
            }
        }
    }

    /// Where one buffer is no more, the others are read.
    #[test]
    fn overwritten_headers() {
        for is_compressed in [false, true] {
            let form = Form {
                cpus: 2,
                is_compressed,
                ..Form::default()
            };
            let mut bytes = written(form, 3_000);
            let index = index::find(
                &mut Cursor::new(&bytes),
                bytes.len() as u64,
                None,
                &mut Damage::default(),
            )
            .unwrap();
            let victim = index.cpus[1].1[2].offset;
            bytes[victim as usize..][..HEADER].fill(0xa5);
            let (numbers, damage) = numbers(&bytes);
            assert!((2_700..2_950).contains(&numbers.len()), "{}", numbers.len());
            assert!(numbers.is_sorted());
            assert_eq!(damage.places[0].offset, victim);
            assert!(damage.places[0].what.contains("no buffer"), "{damage:?}");
        }
    }

    #[test]
    fn overwritten_events() {
        let form = Form {
            cpus: 1,
            ..Form::default()
        };
        let mut bytes = written(form, 300);
        // The second event of the second buffer.
        let at = 4096 + HEADER + 40;
        bytes[at..at + 40].fill(0);
        let (numbers, damage) = numbers(&bytes);
        assert_eq!(
            numbers[..2],
            [0, 100],
            "the rest of that buffer is left out"
        );
        let place = damage.places.first().unwrap().to_string();
        assert_eq!(
            place,
            format!("no event begins with the bytes 0x00000000 at byte {at}")
        );
        assert_eq!((damage.count, damage.bytes), (1, 4000 - 40));
    }

    /// A flipped bit anywhere: no panic, no end that does not come, and no more events than there were.
    #[test]
    fn flipped_anywhere() {
        for is_compressed in [false, true] {
            let form = Form {
                cpus: 3,
                is_compressed,
                buffer_bytes: 1024,
                ..Form::default()
            };
            let whole = written(form, 60);
            for at in 0..whole.len() {
                for bit in [0, 3, 7] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= 1 << bit;
                    let Ok(mut recording) = open(&bytes) else {
                        continue;
                    };
                    let mut count = 0;
                    while let Some(event) = recording.next_event().unwrap() {
                        let _ = event
                            .header
                            .id()
                            .map(|id| decode(id, event.header.pointer_size, event.payload));
                        count += 1;
                    }
                    assert!(count <= 600, "{count} at {at}");
                }
            }
        }
    }

    /// Of a session that was killed, with room that was set aside.
    #[test]
    fn unused_room_is_no_damage() {
        let form = Form {
            cpus: 1,
            ..Form::default()
        };
        let mut bytes = written(form, 300);
        let length = bytes.len();
        bytes.resize(length + 3 * 4096, 0);
        let (numbers, damage) = numbers(&bytes);
        assert_eq!((numbers.len(), damage.is_none()), (300, true));
        assert_eq!(open(&bytes).unwrap().about().unused_bytes, 3 * 4096);
    }

    #[track_caller]
    fn refuses(bytes: &[u8], words: &str) {
        let error = open(bytes).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_is_no_recording_is_named() {
        refuses(b"", "an empty file");
        refuses(b"PK\x03\x04rest of an archive", "a ZIP archive");
        refuses(b"ElfFile\0", "an event log");
        refuses(&[0; 50], "shorter than the header of a buffer");
        refuses(&[0; 5_000], "does not begin with a buffer");
        refuses(
            &b"{\"v\":1,\"type\":\"start\"}\n".repeat(10),
            "does not begin with a buffer",
        );
        let mut bytes = written(Form::default(), 10);
        bytes[HEADER + 6] = 5;
        refuses(&bytes, "the header of a recording");
        let compressed = Form {
            is_compressed: true,
            ..Form::default()
        };
        let mut bytes = written(compressed, 10);
        for (state, words) in [
            (2, "LZNT1"),
            (4, "XPRESS Huffman"),
            (9, "an unknown method"),
        ] {
            bytes[0x2c] = state;
            refuses(&bytes, words);
        }
    }
}
