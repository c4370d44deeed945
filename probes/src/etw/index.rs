//! Where the buffers of a recording are.
//!
//! They stand in the order in which they were written, those of all processors mixed. To bring the events into the order in which they
//! happened, each processor's buffers have to be found first: this reads the header of each, and the time of its first event.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    buffer::{self, BufferHeader, COMPACT_SWITCHES, HEADER, HIGHEST_KIND},
    damage::Damage,
    error::RecordingError,
    header::Header,
    xpress,
};

/// The largest buffer that Windows makes.
pub const MOST_BUFFER: u32 = 16 << 20;

/// Most buffers: 128 GiB of them if they have 64 KiB, as they mostly do. 16 bytes of memory each.
const MOST_BUFFERS: usize = 2 << 20;

/// Processors are numbered below this: Windows has groups of 64, and 32 of those.
pub const MOST_CPUS: u16 = 2_048;

/// What is read of each buffer: with it the first event's time is known, also where that is compressed.
const LOOK: usize = HEADER + 128;

/// A buffer.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where it begins in the file.
    pub offset: u64,
    /// When its first event happened, by the recording's clock.
    pub time: i64,
}

/// All buffers.
#[derive(Debug, Default)]
pub struct Index {
    /// By processor, in the order of time.
    pub cpus: Vec<(u16, Vec<Place>)>,
    /// How many there are.
    pub buffers: usize,
    /// Of these, after how many events were lost.
    pub lossy: u64,
    /// Of these, how many hold switches in a form that cannot be read.
    pub compact: u64,
    /// Bytes of the file that were set aside and never written.
    pub unused: u64,
}

/// Reads as much as there is.
pub fn read_at<R: Read + Seek>(
    source: &mut R,
    offset: u64,
    to: &mut [u8],
) -> Result<usize, RecordingError> {
    let mut read = || -> io::Result<usize> {
        source.seek(SeekFrom::Start(offset))?;
        let mut there = 0;
        while there < to.len() {
            match source.read(&mut to[there..]) {
                Ok(0) => break,
                Ok(more) => there += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    };
    read().map_err(|source| RecordingError::Read { offset, source })
}

/// Can this be the header of a buffer?
pub fn is_plausible(header: &BufferHeader) -> bool {
    let sizes =
        (HEADER as u32..=MOST_BUFFER).contains(&header.size) && header.filled <= MOST_BUFFER;
    // One that was set aside and not filled has no length in use.
    let fits = header.is_compressed() || header.filled <= header.size;
    sizes && fits && header.kind <= HIGHEST_KIND && header.cpu < MOST_CPUS && header.flags < 0x100
}

/// Finds all buffers of a file of this length. Where something else stands, the next one is looked for: in a file whose
/// buffers have all the same size `grid`, at the multiples of that.
pub fn find<R: Read + Seek>(
    source: &mut R,
    length: u64,
    grid: Option<u64>,
    damage: &mut Damage,
) -> Result<Index, RecordingError> {
    let mut index = Index::default();
    let mut offset = 0;
    let mut look = [0; LOOK];
    while offset < length {
        let there = read_at(source, offset, &mut look)?;
        let Some(bytes) = look[..there].first_chunk::<HEADER>() else {
            damage.note(
                offset,
                there as u64,
                &"the recording is cut off within the header of a buffer",
            );
            break;
        };
        let header = BufferHeader::read(bytes);
        if !is_plausible(&header) {
            let next = next(source, offset, length, grid)?;
            if bytes.iter().all(|byte| *byte == 0) {
                index.unused += next - offset;
            } else {
                damage.note(
                    offset,
                    next - offset,
                    &"there is no buffer where one should be",
                );
            }
            offset = next;
            continue;
        }
        let cut = (offset + u64::from(header.size)).saturating_sub(length);
        if cut > 0 {
            damage.note(offset, cut, &"the recording is cut off within a buffer");
        }
        index.add(offset, &header, &look[HEADER..there])?;
        offset += u64::from(header.size);
    }
    for (_, places) in &mut index.cpus {
        // They are, unless old buffers were written over by new ones.
        if !places.is_sorted_by_key(|place| place.time) {
            places.sort_by_key(|place| place.time);
        }
    }
    Ok(index)
}

impl Index {
    fn add(
        &mut self,
        offset: u64,
        header: &BufferHeader,
        begin: &[u8],
    ) -> Result<(), RecordingError> {
        self.buffers += 1;
        self.lossy += u64::from(header.follows_loss());
        if header.kind == COMPACT_SWITCHES {
            self.compact += 1;
            return Ok(());
        }
        if self.buffers > MOST_BUFFERS {
            return Err(RecordingError::TooMany {
                what: "buffers",
                most: MOST_BUFFERS,
                offset,
            });
        }
        if header.filled as usize <= HEADER {
            return Ok(());
        }
        let place = match self.cpus.binary_search_by_key(&header.cpu, |(cpu, _)| *cpu) {
            Ok(place) => place,
            Err(place) => {
                self.cpus.insert(place, (header.cpu, Vec::new()));
                place
            }
        };
        let places = &mut self.cpus[place].1;
        // Of one whose first event is damaged, nothing is known but that it came after the last.
        let before = places.last().map_or(i64::MIN, |place| place.time);
        let time = first_time(header, begin).unwrap_or(before);
        places.push(Place { offset, time });
        Ok(())
    }
}

/// When the first event of a buffer happened, from its first bytes.
fn first_time(header: &BufferHeader, begin: &[u8]) -> Option<i64> {
    /// Up to the time of any header that has one.
    const ENOUGH: usize = 24;
    let mut plain = Vec::new();
    let begin = if header.is_compressed() {
        // Its end is not there, so that its beginning is all that comes out.
        let _ = xpress::decompress(begin, ENOUGH, &mut plain);
        plain.as_slice()
    } else {
        begin
    };
    Header::time(begin)
}

/// Where the next buffer is, or the end.
fn next<R: Read + Seek>(
    source: &mut R,
    offset: u64,
    length: u64,
    grid: Option<u64>,
) -> Result<u64, RecordingError> {
    if let Some(grid) = grid {
        return Ok((offset / grid + 1).saturating_mul(grid).min(length));
    }
    let mut part = vec![0; 64 << 10];
    let mut from = offset + 1;
    loop {
        let there = read_at(source, from, &mut part)?;
        if there < HEADER {
            return Ok(length);
        }
        let found = part[..there].windows(HEADER).position(|bytes| {
            let header = bytes.first_chunk().map(BufferHeader::read);
            // In a compressed recording all but the first one are.
            header.is_some_and(|header| {
                header.flags & buffer::flag::COMPRESSED != 0 && is_plausible(&header)
            })
        });
        if let Some(found) = found {
            return Ok(from + found as u64);
        }
        from += (there - HEADER + 1) as u64;
    }
}
