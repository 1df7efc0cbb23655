//! Numbers and dates as text. The functions that append to a buffer allocate only if the buffer must grow.

use std::io::Write;

use jiff::Timestamp;

/// Formats a time, in milliseconds since the epoch, as RFC 3339 with milliseconds, in UTC. Correct for the years 1970 to 9998.
pub(crate) fn timestamp(ts_ms: i64) -> String {
    let time = Timestamp::from_millisecond(ts_ms).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// Formats a second since the epoch as RFC 3339 in UTC, up to the decimal point: `2026-05-04T08:00:00.`. Correct for the years
/// 1970 to 9998.
pub(crate) fn date(second: i64) -> [u8; 20] {
    let mut text = *b"9999-12-31T23:59:59.000Z";
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    write!(text.as_mut_slice(), "{time:.3}").expect("a time of these years has 24 bytes");
    *text.first_chunk().expect("24 bytes hold 20")
}

pub(crate) fn integer(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends `n`, with leading zeros if it has fewer than `places` digits. `n` must not have more digits, and `places` is at most
/// 7.
pub(crate) fn padded(out: &mut Vec<u8>, n: u32, places: usize) {
    // Adding a leading 1 keeps the zeros. The 1 itself is not copied.
    out.extend_from_slice(&itoa::Buffer::new().format(TENS[places] + n).as_bytes()[1..]);
}

/// Appends `value` with a decimal point before its last `places` digits; `places` is at most 7.
pub(crate) fn decimal(out: &mut Vec<u8>, value: i64, places: usize) {
    let one = u64::from(TENS[places]);
    let magnitude = value.unsigned_abs();
    if value < 0 {
        out.push(b'-');
    }
    integer(out, magnitude / one);
    out.push(b'.');
    padded(out, u32::try_from(magnitude % one).unwrap_or(0), places);
}

const TENS: [u32; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    proptest! {
        #[test]
        fn decimals_read_back_as_the_same_number(value in -200_000_000i64..200_000_000, places in 1usize..8) {
            let written = text(|out| decimal(out, value, places));
            prop_assert_eq!(written.replace('.', "").parse::<i64>().expect("digits"), value);
            prop_assert_eq!(written.len() - written.find('.').expect("a point") - 1, places);
        }

        #[test]
        fn a_date_and_padded_milliseconds_are_the_whole_time(ts_ms in 0i64..250_000_000_000_000) {
            let written = text(|out| {
                out.extend_from_slice(&date(ts_ms / 1_000));
                padded(out, u32::try_from(ts_ms % 1_000).expect("below 1000"), 3);
                out.push(b'Z');
            });
            prop_assert_eq!(&written, &timestamp(ts_ms));
            prop_assert_eq!(written.parse::<Timestamp>().expect("RFC 3339").as_millisecond(), ts_ms);
        }
    }
}
