//! Values of fields, borrowed from the payload.

use std::{char, fmt};

/// Text in UTF-16, little-endian, without its zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Utf16<'a>(pub &'a [u8]);

impl Utf16<'_> {
    /// Its characters; what is no UTF-16 is replaced.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        let units = self
            .0
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as `other`, apart from case?
    pub fn is_like(&self, other: &str) -> bool {
        let lower = self.chars().flat_map(char::to_lowercase);
        lower.eq(other.chars().flat_map(char::to_lowercase))
    }
}

impl fmt::Display for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chars().try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

impl fmt::Debug for Utf16<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Text in the code page of the recorded host, of which only ASCII is certain, without its zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ansi<'a>(pub &'a [u8]);

impl fmt::Display for Ansi<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

impl fmt::Debug for Ansi<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Whom a process runs as: a security identifier that was found to be well-formed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid<'a>(pub(super) &'a [u8]);

impl fmt::Display for Sid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((head, rest)) = self.0.split_first_chunk::<8>() else {
            return Ok(());
        };
        let authority = head[2..]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        write!(f, "S-{}-{authority}", head[0])?;
        rest.chunks_exact(4)
            .try_for_each(|n| write!(f, "-{}", u32::from_le_bytes([n[0], n[1], n[2], n[3]])))
    }
}

impl fmt::Debug for Sid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number without a sign.
    Unsigned(u64),
    /// A number with a sign.
    Signed(i64),
    /// Text.
    Utf16(Utf16<'a>),
    /// Text.
    Ansi(Ansi<'a>),
    /// A user; `None` if the payload has none.
    Sid(Option<Sid<'a>>),
    /// Anything else.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// As a number; what has a sign keeps its bits.
    pub fn number(self) -> u64 {
        match self {
            Self::Unsigned(value) => value,
            Self::Signed(value) => value.cast_unsigned(),
            _ => 0,
        }
    }

    /// As text in UTF-16.
    pub fn utf16(self) -> Utf16<'a> {
        if let Self::Utf16(text) = self {
            text
        } else {
            Utf16::default()
        }
    }

    /// As text in the host's code page.
    pub fn ansi(self) -> Ansi<'a> {
        if let Self::Ansi(text) = self {
            text
        } else {
            Ansi::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_written_as_usual() {
        let bytes = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
        assert_eq!(Sid(&bytes).to_string(), "S-1-5-32-544");
    }

    #[test]
    fn what_is_no_utf16_is_replaced() {
        let lone = [b'a', 0, 0x00, 0xd8, b'B', 0];
        assert_eq!(Utf16(&lone).to_string(), "a\u{fffd}B");
        assert!(Utf16(&lone).is_like("A\u{fffd}b"));
        assert!(!Utf16(&lone).is_like("A\u{fffd}"));
    }
}
