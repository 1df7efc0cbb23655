//! Sizes and durations: a whole number directly followed by its unit, as in `"8MiB"` and `"500ms"`.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

const DURATIONS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a size such as `"8MiB"`, and returns it in bytes. B, KB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are
/// powers of 1024.
///
/// # Errors
/// If the text isn't valid. The error says what is wrong, and what to write.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, SIZES).ok_or_else(|| format!("{text:?} is not a size; write a whole number and a unit, as in \"8MiB\""))
}

/// Reads a duration such as `"500ms"`. The units are ms, s, m, h and d.
///
/// # Errors
/// If the text isn't valid. The error says what is wrong, and what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATIONS).map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is not a duration; write a whole number and a unit, as in \"500ms\" or \"20s\"")
    })
}

/// Formats bytes as [`parse_size`] reads them, in the largest unit that is exact.
pub fn show_size(bytes: u64) -> String {
    show(bytes, SIZES, "0B")
}

/// Formats a duration as [`parse_duration`] reads it, in the largest unit that is exact; parts of a millisecond are cut off.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATIONS, "0s")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.to_owned();
    }
    let fitting = units.iter().filter(|(_, factor)| value.is_multiple_of(*factor));
    match fitting.min_by_key(|(_, factor)| value / factor) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_durations_carry_their_unit() {
        let sizes = [("256MiB", 256 << 20), ("8MB", 8_000_000), ("64KiB", 65_536), ("1GB", 1_000_000_000), ("7B", 7)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
        let durations = [("500ms", 500), ("20s", 20_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)];
        for (text, millis) in durations {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn what_is_no_whole_number_with_a_unit_is_refused() {
        for text in ["", "8", "MiB", "8mib", "8 MiB", "-8MiB", "1.5GiB", "+1B", "99999999999999999999B", "99999999TiB"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["", "5", "s", "5S", "5 s", "-5s", "1.5s", "1h30m", "5us", "999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_shown_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_duration_that_is_shown_reads_back(millis: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text: String) {
            parse_size(&text).ok();
            parse_duration(&text).ok();
        }
    }
}
