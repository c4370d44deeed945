//! A recording as blocks of whole lines.

use std::io::{self, Read};

use thiserror::Error;

/// How much is read at once. Half of a core's second-level cache at most: what was read is looked at, and mostly written,
/// while it is there.
const BLOCK: usize = 256 << 10;

/// The longest line, its end included. The longest that slowburn writes is the `start` of a run with thousands of
/// processes, or the window of a process with all buckets in use: some tens of KiB.
pub const LONGEST_LINE: usize = 16 << 20;

/// The recording cannot be read on.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("cannot read on")]
    Read(#[from] io::Error),
    /// No end of line where there should have been one.
    #[error("longer than {LONGEST_LINE} bytes, which no record of slowburn is")]
    LongLine,
}

/// Some lines.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Each with its end.
    pub lines: &'a [u8],
    /// This is the last line, and it had no end: it was given one.
    pub is_cut: bool,
}

/// Reads blocks. Takes the memory of one, or of the longest line if that is longer.
pub struct Recording<R> {
    source: R,
    buffer: Vec<u8>,
    /// The buffer has so many bytes of the recording.
    filled: usize,
    /// So many of them were the last block.
    taken: usize,
}

impl<R: Read> Recording<R> {
    /// From a file or pipe, which needs no buffer of its own.
    pub fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BLOCK],
            filled: 0,
            taken: 0,
        }
    }

    /// The next lines; `None` at the end. What a pipe has is not kept waiting for more.
    ///
    /// # Errors
    /// If it cannot be read, or a line is too long. The lines before were in earlier blocks.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, RecordingError> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        let mut is_cut = false;
        while self.taken == 0 {
            if self.filled == LONGEST_LINE {
                return Err(RecordingError::LongLine);
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize(LONGEST_LINE.min(2 * self.filled), 0);
            }
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) if self.filled == 0 => return Ok(None),
                Ok(0) => {
                    is_cut = true;
                    self.buffer[self.filled] = b'\n';
                    self.filled += 1;
                    self.taken = self.filled;
                }
                Ok(more) => {
                    let new = self.filled..self.filled + more;
                    self.filled = new.end;
                    let end = self.buffer[new.clone()].iter().rposition(|b| *b == b'\n');
                    self.taken = end.map_or(0, |end| new.start + end + 1);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let lines = &self.buffer[..self.taken];
        Ok(Some(Block { lines, is_cut }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives so many bytes at a time, one after the other.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let most = self.1.pop().unwrap_or(usize::MAX);
            let most = most.min(to.len());
            self.0.read(&mut to[..most])
        }
    }

    fn blocks(source: impl Read) -> (Vec<Vec<u8>>, bool, Result<(), RecordingError>) {
        let mut recording = Recording::new(source);
        let (mut blocks, mut is_cut) = (Vec::new(), false);
        loop {
            match recording.next_block() {
                Ok(Some(block)) => {
                    blocks.push(block.lines.to_vec());
                    is_cut = block.is_cut;
                }
                Ok(None) => return (blocks, is_cut, Ok(())),
                Err(error) => return (blocks, is_cut, Err(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_blocks(text in "[a-c\n]{0,200}", pieces in prop::collection::vec(1..20_usize, 0..60)) {
            let (blocks, cut, end) = blocks(Pieces(text.as_bytes(), pieces));
            prop_assert!(end.is_ok());
            prop_assert!(blocks.iter().all(|block| block.ends_with(b"\n")));
            let cut_short = !text.is_empty() && !text.ends_with('\n');
            prop_assert_eq!(cut, cut_short);
            let expected = if cut_short { text + "\n" } else { text };
            prop_assert_eq!(blocks.concat(), expected.into_bytes());
        }
    }

    #[test]
    fn lines_longer_than_a_block() {
        let text = ["short\n", &"x".repeat(5 * BLOCK + 7), "\nshort\n"].concat();
        let (blocks, cut, end) = blocks(text.as_bytes());
        assert!(end.is_ok() && !cut);
        assert!(blocks.concat() == text.as_bytes());
    }

    /// To the byte, with and without an end.
    #[test]
    fn lines_that_are_too_long() {
        for (length, ending, valid) in [
            (LONGEST_LINE - 1, "\n", true),
            (LONGEST_LINE, "\n", false),
            (LONGEST_LINE - 1, "", true),
            (LONGEST_LINE, "", false),
        ] {
            let text = ["short\n", &"x".repeat(length), ending].concat();
            let (blocks, _, end) = blocks(text.as_bytes());
            assert_eq!(end.is_ok(), valid, "{length} {ending:?}");
            assert_eq!(blocks[0], b"short\n");
            assert_eq!(blocks.len(), 1 + usize::from(valid));
        }
    }

    #[test]
    fn nothing_at_all() {
        let (blocks, cut, end) = blocks(io::empty());
        assert!(blocks.is_empty() && !cut && end.is_ok());
    }

    // Windows does not even open one.
    #[cfg(unix)]
    #[test]
    fn a_directory_cannot_be_read() {
        let directory = std::fs::File::open("/").expect("it is there");
        let (_, _, end) = blocks(directory);
        assert!(matches!(end, Err(RecordingError::Read(_))), "{end:?}");
    }
}
