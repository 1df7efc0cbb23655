//! interval: ISO 8601 durations (`P1DT2H30M`), text as Postgres prints intervals (`1 year 2 mons 3 days 04:05:06.789`), and
//! durations as Protobuf and Go write them (`1.5s`, `1h30m`).

use crate::copy::decimal::{Decimal, Remainder};
use crate::value::{Reason, Value};

/// An interval as Postgres stores it. Months, days and microseconds are separate, because months and days have no fixed length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval {
    months: i128,
    days: i128,
    micros: i128,
}

const UNITS: &[(&[&str], Interval)] = &[
    (&["microsecond", "microseconds", "us"], Interval { months: 0, days: 0, micros: 1 }),
    (&["millisecond", "milliseconds", "ms"], Interval { months: 0, days: 0, micros: 1_000 }),
    (&["second", "seconds", "sec", "secs", "s"], Interval { months: 0, days: 0, micros: 1_000_000 }),
    (&["minute", "minutes", "min", "mins", "m"], Interval { months: 0, days: 0, micros: 60_000_000 }),
    (&["hour", "hours", "hr", "hrs", "h"], Interval { months: 0, days: 0, micros: 3_600_000_000 }),
    (&["day", "days", "d"], Interval { months: 0, days: 1, micros: 0 }),
    (&["week", "weeks", "w"], Interval { months: 0, days: 7, micros: 0 }),
    (&["mon", "mons", "month", "months"], Interval { months: 1, days: 0, micros: 0 }),
    (&["year", "years", "yr", "yrs", "y"], Interval { months: 12, days: 0, micros: 0 }),
];

/// Writes an interval. Rejects a fraction of a day or of a longer unit, because months and days have no fixed length.
pub(super) fn interval(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().and_then(|text| std::str::from_utf8(text).ok()).ok_or(Reason::TypeMismatch)?;
    let parsed = match text.strip_prefix('P') {
        Some(rest) => iso(rest),
        None => words(text),
    };
    let Interval { months, days, micros } = parsed.ok_or(Reason::TypeMismatch)?;
    let out_of_range = |_| Reason::OutOfRange;
    let months = i32::try_from(months).map_err(out_of_range)?;
    let days = i32::try_from(days).map_err(out_of_range)?;
    let micros = i64::try_from(micros).map_err(out_of_range)?;
    // In Postgres, these two values mean `infinity` and `-infinity`.
    if matches!((months, days, micros), (i32::MAX, i32::MAX, i64::MAX) | (i32::MIN, i32::MIN, i64::MIN)) {
        return Err(Reason::OutOfRange);
    }
    out.extend_from_slice(&[0, 0, 0, 16]);
    out.extend_from_slice(&micros.to_be_bytes());
    out.extend_from_slice(&days.to_be_bytes());
    out.extend_from_slice(&months.to_be_bytes());
    Ok(())
}

/// Adds `number` times `unit` to `sum`, rounded to microseconds. Returns `None` if `number` isn't a decimal number, is too large,
/// or has a fraction although the unit is a day or longer.
fn add(sum: &mut Interval, number: &str, unit: Interval) -> Option<()> {
    let decimal = Decimal::parse(number.as_bytes())?;
    let (whole, rest) = decimal.scaled(0);
    let whole = whole.filter(|whole| whole.unsigned_abs() < 1 << 64)?;
    sum.months += whole * unit.months;
    sum.days += whole * unit.days;
    if rest == Remainder::Zero {
        sum.micros += whole * unit.micros;
        return Some(());
    }
    if unit.micros == 0 {
        return None;
    }
    let (nanos, _) = decimal.scaled(9);
    let scaled = nanos?.checked_mul(unit.micros)?;
    let half = 500_000_000 * if decimal.negative { -1 } else { 1 };
    sum.micros += (scaled + half) / 1_000_000_000;
    Some(())
}

fn unit(name: &str) -> Option<Interval> {
    let name = name.to_ascii_lowercase();
    UNITS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, unit)| *unit)
}

/// Reads an ISO 8601 duration without the `P` at its beginning: `1Y2M3W4DT5H6M7.8S`.
fn iso(text: &str) -> Option<Interval> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    if date.is_empty() && time.is_none() || time == Some("") {
        return None;
    }
    let mut sum = Interval::default();
    // Before the T, M means month.
    let of_date = |letter: &str| if letter == "M" { unit("month") } else { unit(letter).filter(|u| u.micros == 0) };
    designators(date, of_date, &mut sum)?;
    designators(time.unwrap_or_default(), |letter| unit(letter).filter(|u| u.micros > 0), &mut sum)?;
    Some(sum)
}

fn designators(mut text: &str, unit: impl Fn(&str) -> Option<Interval>, sum: &mut Interval) -> Option<()> {
    while !text.is_empty() {
        let end = text.find(|c: char| c.is_ascii_uppercase())?;
        add(sum, &text[..end], unit(&text[end..=end])?)?;
        text = &text[end + 1..];
    }
    Some(())
}

/// Reads `1 day 02:00:00`, `-3 mons` or `2 hours 5 minutes`. Unlike Postgres, doesn't accept `1 day ago`.
fn words(text: &str) -> Option<Interval> {
    let mut sum = Interval::default();
    let mut words = text.split_ascii_whitespace().peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        if word.contains(':') {
            clock(word, &mut sum)?;
        } else if word.ends_with(|c: char| c.is_ascii_alphabetic()) {
            compact(word, &mut sum)?;
        } else {
            add(&mut sum, word, unit(words.next()?)?)?;
        }
    }
    Some(sum)
}

/// Reads numbers that are each followed directly by their unit, and adds them to `sum`: `1.5s`, as Protobuf writes a duration in
/// JSON, or `1h30m`.
fn compact(mut word: &str, sum: &mut Interval) -> Option<()> {
    while !word.is_empty() {
        let (number, rest) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic())?);
        let (name, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
        add(sum, number, unit(name)?)?;
        word = rest;
    }
    Some(())
}

/// Reads `hours:minutes` or `hours:minutes:seconds`, with or without a sign, and adds the time to `sum`.
fn clock(word: &str, sum: &mut Interval) -> Option<()> {
    let (negative, unsigned) = match word.as_bytes().first()? {
        b'-' => (true, &word[1..]),
        b'+' => (false, &word[1..]),
        _ => (false, word),
    };
    let mut time = Interval::default();
    let mut parts = unsigned.split(':');
    for name in ["hour", "minute", "second"] {
        let Some(part) = parts.next() else { break };
        let within = name == "hour" || part.get(..2)?.bytes().all(|b| b.is_ascii_digit()) && *part < *"60";
        let plain = part.as_bytes().first().is_some_and(u8::is_ascii_digit);
        let whole = name == "second" || part.bytes().all(|b| b.is_ascii_digit());
        if !(within && plain && whole) {
            return None;
        }
        add(&mut time, part, unit(name)?)?;
    }
    if parts.next().is_some() {
        return None;
    }
    sum.micros += if negative { -time.micros } else { time.micros };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_an_interval_are_read() {
        let expected = Interval { months: 14, days: 3, micros: 14_706_789_000 };
        assert_eq!(iso("1Y2M3DT4H5M6.789S"), Some(expected));
        assert_eq!(words("1 year 2 mons 3 days 04:05:06.789"), Some(expected));
        assert_eq!(words("-1 days -00:00:01"), Some(Interval { months: 0, days: -1, micros: -1_000_000 }));
        assert_eq!(iso("T-1.5S"), Some(Interval { months: 0, days: 0, micros: -1_500_000 }));
        assert_eq!(words("-1.5s"), Some(Interval { months: 0, days: 0, micros: -1_500_000 }));
        assert_eq!(words("1d 2h30m"), Some(Interval { months: 0, days: 1, micros: 9_000_000_000 }));
        assert_eq!(iso("2W"), Some(Interval { months: 0, days: 14, micros: 0 }));
    }

    #[test]
    fn what_is_no_interval_or_has_no_exact_length_is_refused() {
        for text in ["", "T", "1", "1D2", "0.5M", "1H", "T1D", "DT1H", "1d"] {
            assert_eq!(iso(text), None, "{text}");
        }
        for text in
            ["", "5", "1.5 months", "12:61", "1:2:3:4", "1 day ago", "tomorrow", "12:3a", "s", "1s2", "1.5mon", "1e3"]
        {
            assert_eq!(words(text), None, "{text}");
        }
    }
}
