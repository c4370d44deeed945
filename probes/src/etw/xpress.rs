//! The compression of buffers: plain LZ77 of the vendor's "XPRESS" family (MS-XCA 2.4).
//!
//! Literals and matches are told apart by bits, 32 at a time. A match is 13 bits of distance and 3 of length; longer ones have
//! half a byte more, which two of them share, then a byte, then two, then four. The one library for this has no bound on what
//! comes out, and reads beyond the end of what goes in.

use thiserror::Error;

/// Compressed data that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// A match that begins before the data does.
    #[error("a match refers to {distance} bytes back where there are {there}")]
    Distance {
        /// How far back.
        distance: usize,
        /// How much there is.
        there: usize,
    },
    /// A length that should have been written shorter.
    #[error("a match of an impossible length ({0})")]
    Length(usize),
    /// It ends before all has come out.
    #[error("the compressed data ends after {there} of {expected} bytes")]
    Short {
        /// What came out.
        there: usize,
        /// What should have.
        expected: usize,
    },
}

/// Appends `expected` bytes to `out`, or as many as there were before the data is corrupt. What is left of the input is not looked at: it may be padding.
///
/// # Errors
/// If there is not so much, or none of it makes sense.
pub fn decompress(data: &[u8], expected: usize, out: &mut Vec<u8>) -> Result<(), Corrupt> {
    let begin = out.len();
    out.reserve(expected);
    let mut input = Input {
        data,
        at: 0,
        half: None,
    };
    let done = inflate(&mut input, begin, begin + expected, out);
    match done {
        Some(result) => result,
        None => Err(Corrupt::Short {
            there: out.len() - begin,
            expected,
        }),
    }
}

/// `None` if the input is at its end.
fn inflate(
    input: &mut Input,
    begin: usize,
    end: usize,
    out: &mut Vec<u8>,
) -> Option<Result<(), Corrupt>> {
    let (mut bits, mut left) = (0_u32, 0);
    while out.len() < end {
        if left == 0 {
            bits = u32::from_le_bytes(input.take()?);
            left = 32;
        }
        left -= 1;
        if bits >> left & 1 == 0 {
            out.push(input.byte()?);
            continue;
        }
        let found = usize::from(u16::from_le_bytes(input.take()?));
        let (distance, there) = (found / 8 + 1, out.len() - begin);
        let length = match input.length(found % 8)? {
            Ok(length) => length.min(end - out.len()),
            Err(error) => return Some(Err(error)),
        };
        if distance > there {
            return Some(Err(Corrupt::Distance { distance, there }));
        }
        copy(out, distance, length);
    }
    Some(Ok(()))
}

/// Repeats what stands so far back. It may overlap with itself.
fn copy(out: &mut Vec<u8>, distance: usize, length: usize) {
    let from = out.len() - distance;
    let mut left = length;
    while left > 0 {
        let part = left.min(out.len() - from);
        out.extend_from_within(from..from + part);
        left -= part;
    }
}

struct Input<'a> {
    data: &'a [u8],
    at: usize,
    /// The upper half of a byte, for the next match that needs one.
    half: Option<u8>,
}

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.data[self.at..].first_chunk()?;
        self.at += N;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    /// Length of a match whose first three bits are these.
    fn length(&mut self, bits: usize) -> Option<Result<usize, Corrupt>> {
        const SHORTEST: usize = 3;
        if bits < 7 {
            return Some(Ok(bits + SHORTEST));
        }
        let half = if let Some(half) = self.half.take() {
            half
        } else {
            let both = self.byte()?;
            self.half = Some(both >> 4);
            both & 15
        };
        if half < 15 {
            return Some(Ok(usize::from(half) + 7 + SHORTEST));
        }
        let byte = self.byte()?;
        if byte < 255 {
            return Some(Ok(usize::from(byte) + 15 + 7 + SHORTEST));
        }
        let mut length = usize::from(u16::from_le_bytes(self.take()?));
        if length == 0 {
            length = u32::from_le_bytes(self.take()?) as usize;
        }
        Some(if length < 15 + 7 {
            Err(Corrupt::Length(length))
        } else {
            Ok(length + SHORTEST)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(data: &[u8], expected: usize) -> Result<Vec<u8>, Corrupt> {
        let mut out = vec![b'!'];
        decompress(data, expected, &mut out).map(|()| out.split_off(1))
    }

    /// The two examples of the specification (MS-XCA 3.1).
    #[test]
    fn examples_of_the_specification() {
        let alphabet = [&[0x3f, 0, 0, 0], b"abcdefghijklmnopqrstuvwxyz".as_slice()].concat();
        assert_eq!(plain(&alphabet, 26).unwrap(), b"abcdefghijklmnopqrstuvwxyz");
        let repeated = [
            0xff, 0xff, 0xff, 0x1f, 0x61, 0x62, 0x63, 0x17, 0x00, 0x0f, 0xff, 0x26, 0x01,
        ];
        assert_eq!(plain(&repeated, 300).unwrap(), b"abc".repeat(100));
    }

    /// Two matches share the halves of a byte, the third has one of its own.
    #[test]
    fn halves_are_shared() {
        let bits: u32 = 0b0111 << 28;
        let data = [
            &bits.to_le_bytes(),
            b"x".as_slice(),
            &[7, 0, 0x21, 7, 0, 7, 0, 0x04],
        ]
        .concat();
        assert_eq!(plain(&data, 1 + 11 + 12 + 14).unwrap(), b"x".repeat(38));
    }

    #[test]
    fn what_makes_no_sense() {
        let before = [0, 0, 0, 0x40, b'a', 8, 0];
        assert_eq!(
            plain(&before, 9),
            Err(Corrupt::Distance {
                distance: 2,
                there: 1
            })
        );
        assert_eq!(
            plain(&before[..6], 9),
            Err(Corrupt::Short {
                there: 1,
                expected: 9
            })
        );
        let length = [0, 0, 0, 0x40, b'a', 7, 0, 15, 255, 21, 0];
        assert_eq!(plain(&length, 9), Err(Corrupt::Length(21)));
    }

    /// The length of a match may claim 4 GiB.
    #[test]
    fn no_more_comes_out_than_is_expected() {
        let long = [
            0, 0, 0, 0x40, b'a', 7, 0, 15, 255, 0, 0, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(plain(&long, 1000).unwrap(), b"a".repeat(1000));
    }
}
