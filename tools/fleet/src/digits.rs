//! Numbers and dates as text, without allocating: what `std` does in general, fast for our ranges.

/// RFC 3339 with milliseconds, in UTC.
pub(crate) fn timestamp(ts_ms: i64) -> String {
    let millis = ts_ms.rem_euclid(1_000);
    let date: String = date(ts_ms.div_euclid(1_000)).into_iter().map(char::from).collect();
    format!("{date}{millis:03}Z")
}

/// Two digits for each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [digit(n as u64 / 10), digit(n as u64)];
        n += 1;
    }
    pairs
};

pub(crate) const fn digit(n: u64) -> u8 {
    b'0' + (n % 10) as u8
}

pub(crate) fn pair(n: u64) -> &'static [u8; 2] {
    &PAIRS[(n % 100) as usize]
}

pub(crate) fn integer(out: &mut Vec<u8>, mut n: u64) {
    let mut text = [0; 20];
    let mut start = text.len();
    while n >= 10 {
        start -= 2;
        text[start..start + 2].copy_from_slice(pair(n));
        n /= 100;
    }
    if n > 0 || start == text.len() {
        start -= 1;
        text[start] = digit(n);
    }
    out.extend_from_slice(&text[start..]);
}

/// `value` with its last `places` digits behind the point; at most 7 places.
pub(crate) fn decimal(out: &mut Vec<u8>, value: i64, places: usize) {
    const TENS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
    let one = TENS[places];
    let magnitude = value.unsigned_abs();
    if value < 0 {
        out.push(b'-');
    }
    integer(out, magnitude / one);
    out.push(b'.');
    let mut fraction = magnitude % one;
    let mut text = [b'0'; 8];
    let mut start = places;
    while start >= 2 {
        start -= 2;
        text[start..start + 2].copy_from_slice(pair(fraction));
        fraction /= 100;
    }
    if start == 1 {
        text[0] = digit(fraction);
    }
    out.extend_from_slice(&text[..places]);
}

/// Howard Hinnant's civil date of a day since the epoch, for years 1970 to 9999.
pub(crate) fn date(second: i64) -> [u8; 20] {
    let (day, time) = (second.div_euclid(86_400).unsigned_abs(), second.rem_euclid(86_400));
    let time = time.unsigned_abs();
    // Years begin in March here, so that the leap day comes last.
    let shifted = day + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let mut date = *b"0000-00-00T00:00:00.";
    let fields = [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, day_of_month),
        (11, time / 3_600),
        (14, time / 60 % 60),
        (17, time % 60),
    ];
    for (at, number) in fields {
        date[at..at + 2].copy_from_slice(pair(number));
    }
    date
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    proptest! {
        #[test]
        fn integers_are_written_as_the_standard_library_does(n in any::<u64>(), shift in 0u32..64) {
            let n = n >> shift;
            prop_assert_eq!(text(|out| integer(out, n)), n.to_string());
        }

        #[test]
        fn decimals_read_back_as_the_same_number(value in -200_000_000i64..200_000_000, places in 1usize..8) {
            let written = text(|out| decimal(out, value, places));
            prop_assert_eq!(written.replace('.', "").parse::<i64>().expect("digits"), value);
            prop_assert_eq!(written.len() - written.find('.').expect("a point") - 1, places);
        }

        #[test]
        fn dates_are_those_of_the_calendar(ts_ms in 0i64..250_000_000_000_000) {
            let written = timestamp(ts_ms);
            prop_assert_eq!(written.len(), 24);
            prop_assert_eq!(written.parse::<Timestamp>().expect("RFC 3339").as_millisecond(), ts_ms);
        }
    }
}
