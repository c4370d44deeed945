//! Single events as slowburn writes them: found to be valid without being taken apart.
//!
//! Nearly all lines of a recording are single events, and a replay only passes them on. Per line, `serde_json` takes 1.9 us to
//! read and write one, `sonic-rs` 0.4 us to read borrowed fields without looking at the moments among them, and this less
//! than 0.1 us. It knows exactly the form in which [`super::Line`] is written: fields in order, no spaces, no escapes. The
//! check is a full one: names, types, ranges, dates. What it does not know may be valid all the same; serde is the judge
//! then.

use jiff::civil::Date;

/// Length of the line, with its end, if these bytes begin with a single event in the form in which it is written.
/// Such a line would be read as [`super::Line`].
pub fn line_length(bytes: &[u8]) -> Option<usize> {
    let at = bytes.strip_prefix(br#"{"v":1,"type":""#)?;
    let rest = if let Some(at) = at.strip_prefix(br#"mapping","ts":""#) {
        mapping(at)
    } else if let Some(at) = at.strip_prefix(br#"delay","ts":""#) {
        delay(at)
    } else {
        thread(at.strip_prefix(br#"thread","ts":""#)?)
    };
    let rest = rest?.strip_prefix(b"}\n")?;
    Some(bytes.len() - rest.len())
}

fn mapping(at: &[u8]) -> Option<&[u8]> {
    let at = moment(at)?;
    let at = process_and_thread(at)?;
    let at = at.strip_prefix(br#","call":""#)?;
    let at = one_of(
        at,
        &[b"map", b"unmap", b"remap", b"brk", b"advise", b"protect"],
    )?;
    let at = text(at.strip_prefix(br#","address":""#)?)?;
    let at = unsigned::<U64>(at.strip_prefix(br#","length_bytes":"#)?)?;
    let at = signed(at.strip_prefix(br#","reserved_change_bytes":"#)?)?;
    let at = signed(at.strip_prefix(br#","committed_change_bytes":"#)?)?;
    let at = optional(at, br#","detail":"#, unsigned::<U32>)?;
    let at = optional(at, br#","flags":"#, unsigned::<U32>)?;
    optional(at, br#","sampled":"#, unsigned::<U32>)
}

fn thread(at: &[u8]) -> Option<&[u8]> {
    let at = moment(at)?.strip_prefix(br#","event":""#)?;
    let at = one_of(at, &[b"started", b"exited"])?;
    let at = process_and_thread(at)?;
    let at = optional(at, br#","creator.thread.id":"#, unsigned::<U32>)?;
    optional(at, br#","followed_ns":"#, unsigned::<U64>)
}

fn delay(at: &[u8]) -> Option<&[u8]> {
    let at = moment(at)?;
    let at = process_and_thread(at)?;
    let at = unsigned::<U64>(at.strip_prefix(br#","wait_ns":"#)?)?;
    let at = unsigned::<U32>(at.strip_prefix(br#","cpu":"#)?)?;
    let at = unsigned::<U32>(at.strip_prefix(br#","culprit":{"process.pid":"#)?)?;
    let at = unsigned::<U32>(at.strip_prefix(br#","thread.id":"#)?)?;
    let at = text(at.strip_prefix(br#","thread.name":""#)?)?;
    let at = at.strip_prefix(br#","watched":"#)?;
    at.strip_prefix(b"true}")
        .or_else(|| at.strip_prefix(b"false}"))
}

fn process_and_thread(at: &[u8]) -> Option<&[u8]> {
    let at = text(at.strip_prefix(br#","service.name":""#)?)?;
    let at = unsigned::<U32>(at.strip_prefix(br#","process.pid":"#)?)?;
    let at = moment(at.strip_prefix(br#","process.creation.time":""#)?)?;
    let at = unsigned::<U32>(at.strip_prefix(br#","thread.id":"#)?)?;
    let at = text(at.strip_prefix(br#","thread.name":""#)?)?;
    moment(at.strip_prefix(br#","thread.creation.time":""#)?)
}

/// A field that may be absent.
fn optional<'a>(
    at: &'a [u8],
    name: &[u8],
    value: impl FnOnce(&'a [u8]) -> Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    match at.strip_prefix(name) {
        Some(at) => value(at),
        None => Some(at),
    }
}

/// One of these words, and the quote behind it.
fn one_of<'a>(at: &'a [u8], words: &[&[u8]]) -> Option<&'a [u8]> {
    let rest = words.iter().find_map(|word| at.strip_prefix(*word))?;
    rest.strip_prefix(b"\"")
}

/// A string without escapes, behind its first quote.
fn text(at: &[u8]) -> Option<&[u8]> {
    let length = at
        .iter()
        .position(|&byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    let (text, rest) = at.split_at(length);
    // The names of most tasks are ASCII.
    if !text.is_ascii() && str::from_utf8(text).is_err() {
        return None;
    }
    rest.strip_prefix(b"\"")
}

/// Digits of which any number fits a `u32`; one digit more may fit or not.
const U32: usize = 9;
/// The same for a `u64`.
const U64: usize = 19;
/// The same for an `i64`, besides its sign.
const I64: usize = 18;

fn unsigned<const MOST: usize>(at: &[u8]) -> Option<&[u8]> {
    let length = at
        .iter()
        .take(MOST + 1)
        .position(|byte| !byte.is_ascii_digit())?;
    let valid = length == 1 || length > 1 && at[0] != b'0';
    valid.then(|| &at[length..])
}

fn signed(at: &[u8]) -> Option<&[u8]> {
    match at.strip_prefix(b"-") {
        // JSON knows a negative zero, integers do not.
        Some([b'0', ..]) => None,
        Some(at) => unsigned::<I64>(at),
        None => unsigned::<I64>(at),
    }
}

/// The lowest and the highest byte in each place of a [`Moment`](super::Moment), the quote behind it included.
const LOWEST: &[u8; 31] = br#"1000-00-00T00:00:00.000000000Z""#;
const HIGHEST: &[u8; 31] = br#"2999-19-39T29:59:59.999999999Z""#;

/// A moment, behind its first quote.
fn moment(at: &[u8]) -> Option<&[u8]> {
    let (text, rest) = at.split_first_chunk::<31>()?;
    // All 31 whatever comes, so that the compiler takes 16 at a time.
    let mut within = true;
    for place in 0..text.len() {
        within &= (LOWEST[place]..=HIGHEST[place]).contains(&text[place]);
    }
    if !within {
        return None;
    }
    let two = |place| 10 * (text[place] - b'0') + (text[place + 1] - b'0');
    let year = i16::from(two(0)) * 100 + i16::from(two(2));
    // 64 bits of nanoseconds end in 2554.
    let valid = (1970..2554).contains(&year)
        && Date::new(year, two(5) as i8, two(8) as i8).is_ok()
        && two(11) < 24;
    valid.then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::{
        CallName, Culprit, Delay, Line, Mapping, Moment, ProcessId, Record, Thread,
        ThreadEventKind, ThreadId,
    };

    fn written(record: Record) -> String {
        serde_json::to_string(&Line::from(record)).expect("records are JSON") + "\n"
    }

    /// What the kernel and systemd allow, escapes left out.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[ -!#-\\[\\]-~]{0,15}", "[a-zé日 ]{0,5}"]
    }

    /// Up to the year 2553, any magnitude.
    fn moment() -> impl Strategy<Value = Moment> {
        prop_oneof![
            (0..18_400_000_000_000_000_000_u64).prop_map(Moment),
            (0..2_000_000_000_u64).prop_map(|s| Moment(s * 1_000_000_000)),
        ]
    }

    prop_compose! {
        fn process_and_thread()(
            service in name(), pid in 0..=999_999_999_u32, created in moment(),
            tid in 0..=999_999_999_u32, thread in name(), began in moment(),
        ) -> (ProcessId, ThreadId) {
            (ProcessId { service, pid, created }, ThreadId { tid, name: thread, created: began })
        }
    }

    fn call() -> impl Strategy<Value = CallName> {
        prop::sample::select(vec![
            CallName::Map,
            CallName::Unmap,
            CallName::Remap,
            CallName::Brk,
            CallName::Advise,
            CallName::Protect,
        ])
    }

    fn small() -> impl Strategy<Value = Option<u32>> {
        prop::option::of((0..30_u32).prop_map(|bits| (1 << bits) - 1))
    }

    prop_compose! {
        fn mapping()(
            ts in moment(), (process, thread) in process_and_thread(), call in call(), address in any::<u64>(),
            length_bytes in 0..10_u64.pow(19), reserved_change_bytes in -(1_i64 << 57)..1 << 57,
            committed_change_bytes in -9_i64..9, detail in small(), flags in small(),
            sampled in small(),
        ) -> Record {
            Record::Mapping(Mapping {
                ts, process, thread, call, address: format!("{address:#x}"), length_bytes, reserved_change_bytes,
                committed_change_bytes, detail, flags, sampled,
            })
        }
    }

    prop_compose! {
        fn thread()(
            ts in moment(), (process, thread) in process_and_thread(), started in any::<bool>(), creator in small(),
            followed_ns in prop::option::of(0..10_u64.pow(19)),
        ) -> Record {
            let event = if started { ThreadEventKind::Started } else { ThreadEventKind::Exited };
            Record::Thread(Thread { ts, event, process, thread, creator, followed_ns })
        }
    }

    prop_compose! {
        fn delay()(
            ts in moment(), (process, thread) in process_and_thread(), wait_ns in 0..10_u64.pow(19), cpu in 0..8192_u32,
            (by, with) in process_and_thread(), watched in any::<bool>(),
        ) -> Record {
            let culprit = Culprit { pid: by.pid, tid: with.tid, name: with.name, watched };
            Record::Delay(Delay { ts, process, thread, wait_ns, cpu, culprit })
        }
    }

    fn single() -> impl Strategy<Value = Record> {
        prop_oneof![mapping(), thread(), delay()]
    }

    /// Bytes that mean something in JSON, in numbers or in dates.
    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            prop::sample::select(br#"{}[],:"\-+.eEtT Zz012345679"#.to_vec()),
            any::<u8>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Otherwise replays are slow.
        #[test]
        fn what_is_written_is_known(record in single()) {
            let line = written(record);
            prop_assert_eq!(line_length(line.as_bytes()), Some(line.len()), "{}", line);
            let two = line.clone() + &line;
            prop_assert_eq!(line_length(two.as_bytes()), Some(line.len()));
        }

        /// Otherwise replays pass on what is no record.
        #[test]
        fn what_is_known_is_valid(
            record in single(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, byte()), 1..4),
        ) {
            let mut bytes = written(record).into_bytes();
            for (place, kind, byte) in changes {
                let place = place.index(bytes.len());
                match kind {
                    0 => bytes[place] = byte,
                    1 => bytes.insert(place, byte),
                    _ => drop(bytes.remove(place)),
                }
            }
            if let Some(length) = line_length(&bytes) {
                let line = str::from_utf8(&bytes[..length]).expect("what is known is UTF-8");
                prop_assert_eq!(line.find('\n'), Some(length - 1));
                let read = serde_json::from_str::<Line>(line);
                prop_assert!(read.is_ok(), "{:?}: {}", read, line);
            }
        }

        #[test]
        fn a_part_is_not_known(record in single(), cut in any::<prop::sample::Index>()) {
            let line = written(record);
            prop_assert_eq!(line_length(&line.as_bytes()[..cut.index(line.len())]), None);
        }
    }

    /// Dates that random ones seldom are.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, valid) in [
            ("2026-02-28T23:59:59.999999999Z", true),
            ("2026-02-29T00:00:00.000000000Z", false),
            ("2028-02-29T00:00:00.000000000Z", true),
            ("2026-04-31T00:00:00.000000000Z", false),
            ("2026-13-01T00:00:00.000000000Z", false),
            ("2026-00-01T00:00:00.000000000Z", false),
            ("2026-01-00T00:00:00.000000000Z", false),
            ("2026-01-01T24:00:00.000000000Z", false),
            ("2026-01-01T00:60:00.000000000Z", false),
            ("2026-01-01T00:00:60.000000000Z", false),
            ("1969-12-31T23:59:59.999999999Z", false),
            ("2026-01-01T00:00:00.000000000+", false),
        ] {
            let quoted = format!("{text}\"");
            assert_eq!(super::moment(quoted.as_bytes()).is_some(), valid, "{text}");
            if valid {
                serde_json::from_str::<Moment>(&format!("\"{quoted}")).expect(text);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_their_type() {
        let whole = |rest: Option<&[u8]>| rest.is_some_and(|rest| rest == b",");
        for (text, is_u32, is_i64) in [
            ("0,", true, true),
            ("999999999,", true, true),
            ("4294967296,", false, true),
            ("00,", false, false),
            ("-0,", false, false),
            ("-1,", false, true),
            ("--1,", false, false),
            ("+1,", false, false),
            ("-,", false, false),
            (",", false, false),
            ("1.0,", false, false),
            ("1e3,", false, false),
            ("9223372036854775808,", false, false),
        ] {
            assert_eq!(whole(unsigned::<U32>(text.as_bytes())), is_u32, "{text}");
            assert_eq!(whole(signed(text.as_bytes())), is_i64, "{text}");
        }
    }
}
