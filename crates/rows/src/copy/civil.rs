//! Parses calendar dates and clock times from text. The module `time` converts them to column values.

use crate::value::Reason;

/// The offset from UTC that a text states: none, `Z`, or a number of seconds east of Greenwich.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    None,
    Utc,
    Seconds(i64),
}

/// A time of day in microseconds, at most 24:00:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock(i64);

impl Clock {
    pub(super) fn micros(self) -> i64 {
        self.0
    }
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const BAD: Reason = Reason::InvalidTimestamp;

/// Returns the days since 2000-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC.
#[inline]
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Let the year begin in March: the leap day is then its last day.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 730_425
}

#[inline]
fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[inline]
fn checked_days(year: i64, month: i64, day: i64) -> Option<i64> {
    let inside = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    inside.then(|| days(year, month, day))
}

/// Reads a text of the layout `2026-01-01T00:00:00.123Z`, eight bytes at a time. Returns microseconds since 2000. `None` doesn't
/// mean that the text is invalid: [`timestamp`] also reads other layouts, 24:00:00 and leap seconds.
#[inline]
pub(super) fn utc_millis(text: &[u8]) -> Option<i64> {
    let text: &[u8; 24] = text.try_into().ok()?;
    let word =
        |at: usize| text.get(at..at + 8).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    // In a valid text, each byte is now the value of a digit, or zero for a separator.
    let date = word(0).wrapping_sub(u64::from_le_bytes(*b"0000-00-"));
    let clock = word(8).wrapping_sub(u64::from_le_bytes(*b"00T00:00"));
    let tail = word(16).wrapping_sub(u64::from_le_bytes(*b":00.000Z"));
    const MORE_THAN_DIGITS: u64 = 0x7676_7676_7676_7676;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const SEPARATORS: [u64; 3] = [
        u64::from_le_bytes([0, 0, 0, 0, 0xff, 0, 0, 0xff]),
        u64::from_le_bytes([0, 0, 0xff, 0, 0, 0xff, 0, 0]),
        u64::from_le_bytes([0xff, 0, 0, 0xff, 0, 0, 0, 0xff]),
    ];
    let wrong =
        |word: u64, separators: u64| ((word.wrapping_add(MORE_THAN_DIGITS) | word) & HIGHS) | (word & separators);
    if wrong(date, SEPARATORS[0]) | wrong(clock, SEPARATORS[1]) | wrong(tail, SEPARATORS[2]) != 0 {
        return None;
    }
    let pairs = |word: u64| word.wrapping_mul(10).wrapping_add(word >> 8).to_le_bytes().map(i64::from);
    let (date, clock, seconds, tail) = (pairs(date), pairs(clock), pairs(tail), tail.to_le_bytes().map(i64::from));
    let (year, month, day) = (date[0] * 100 + date[2], date[5], clock[0]);
    let (hour, minute, second) = (clock[3], clock[6], seconds[1]);
    if year == 0 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = tail[4] * 100 + seconds[5];
    let of_day = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + millis * 1_000;
    Some(checked_days(year, month, day)? * MICROS_PER_DAY + of_day)
}

/// The rest of a text that is being read. Each method reads from the start of the rest, and removes the bytes that it has read.
struct TextReader<'a>(&'a [u8]);

impl TextReader<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.0.first() == Some(&byte);
        if hit {
            self.0 = &self.0[1..];
        }
        hit
    }

    /// Returns how many digits come next, and reads none of them.
    fn digits(&self) -> usize {
        self.0.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// Reads at least `least` and at most `most` digits. Returns the number that they form.
    fn number(&mut self, least: usize, most: usize) -> Result<i64, Reason> {
        let count = self.0.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        if count < least {
            return Err(BAD);
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// Reads `2026-01-01` or `20260101`. Returns year, month and day. The year has no sign yet, because ` BC` comes at the end of
    /// the text.
    fn date(&mut self) -> Result<(i64, i64, i64), Reason> {
        if self.digits() == 8 {
            return Ok((self.number(4, 4)?, self.number(2, 2)?, self.number(2, 2)?));
        }
        let year = self.number(4, 7)?;
        let month = if self.eat(b'-') { self.number(2, 2)? } else { return Err(BAD) };
        let day = if self.eat(b'-') { self.number(2, 2)? } else { return Err(BAD) };
        Ok((year, month, day))
    }

    /// Reads `12:34`, `12:34:56`, `12:34:56.789`, `34:56.789` or `123456.789`. As in Postgres, 24:00:00 is accepted, and the leap
    /// second 12:34:60 means 12:35:00.
    fn clock(&mut self) -> Result<Clock, Reason> {
        let (hour, minute, second) = if self.digits() == 6 {
            (self.number(2, 2)?, self.number(2, 2)?, self.number(2, 2)?)
        } else {
            let hour = self.number(2, 2)?;
            let minute = if self.eat(b':') { self.number(2, 2)? } else { return Err(BAD) };
            if self.eat(b':') {
                (hour, minute, self.number(2, 2)?)
            } else if self.0.first() == Some(&b'.') {
                // Postgres reads two numbers with a fraction as minutes and seconds.
                (0, hour, minute)
            } else {
                (hour, minute, 0)
            }
        };
        let micros = if matches!(self.0.first(), Some(b'.' | b',')) { self.fraction()? } else { 0 };
        let total = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros;
        if minute > 59 || second > 60 || total > MICROS_PER_DAY { Err(Reason::OutOfRange) } else { Ok(Clock(total)) }
    }

    /// Reads the point and the digits of a fraction of a second. Returns microseconds. For more than six digits, Postgres uses a
    /// float and rounds half to even. This function does the same, so the column gets the value that INSERT would store.
    fn fraction(&mut self) -> Result<i64, Reason> {
        let count = self.0[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (text, rest) = self.0.split_at(count + 1);
        let point = text.first();
        if count == 0 || point == Some(&b',') {
            return Err(BAD);
        }
        self.0 = rest;
        if count <= 6 {
            let number = text[1..].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
            return Ok((count..6).fold(number, |number, _| number * 10));
        }
        let seconds: f64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(BAD)?;
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 1 000 000")]
        Ok((seconds * 1e6).round_ties_even() as i64)
    }

    /// Reads an offset such as `Z`, `+02`, `+0200`, `+02:00` or `+02:00:00`. [`Zone::None`] if the text has none.
    fn zone(&mut self) -> Result<Zone, Reason> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Ok(Zone::Utc);
        }
        let sign = match self.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Ok(Zone::None),
        };
        self.0 = &self.0[1..];
        let hours = self.number(2, 2)?;
        let colon = self.eat(b':');
        let minutes = if colon || self.0.first().is_some_and(u8::is_ascii_digit) { self.number(2, 2)? } else { 0 };
        let seconds = if colon && self.eat(b':') { self.number(2, 2)? } else { 0 };
        // The limit that Postgres sets for offsets.
        if hours > 15 || minutes > 59 || seconds > 59 {
            return Err(Reason::OutOfRange);
        }
        Ok(Zone::Seconds(sign * ((hours * 60 + minutes) * 60 + seconds)))
    }

    /// Reads the end of the text, or ` BC` and the end. Returns the date in days since 2000.
    fn end(self, (year, month, day): (i64, i64, i64)) -> Result<i64, Reason> {
        let before_christ = match self.0 {
            b"" => false,
            b" BC" => true,
            _ => return Err(BAD),
        };
        // Year 0 doesn't exist: RFC 3339 can express it, but Postgres refuses it.
        if year == 0 {
            return Err(Reason::OutOfRange);
        }
        checked_days(if before_christ { 1 - year } else { year }, month, day).ok_or(Reason::OutOfRange)
    }
}

/// Reads a timestamp. Returns the days since 2000, the time of day and the offset. A date alone means its midnight.
pub(super) fn timestamp(text: &[u8]) -> Result<(i64, Clock, Zone), Reason> {
    let mut reader = TextReader(text);
    let date = reader.date()?;
    let mut clock = Clock(0);
    let mut zone = Zone::None;
    if reader.0.first().is_some_and(|byte| matches!(byte, b'T' | b't' | b' ')) && reader.0 != b" BC" {
        reader.0 = &reader.0[1..];
        clock = reader.clock()?;
        zone = reader.zone()?;
    }
    Ok((reader.end(date)?, clock, zone))
}

/// Reads a date, or the date in a timestamp. Returns the days since 2000.
pub(super) fn date(text: &[u8]) -> Result<i64, Reason> {
    timestamp(text).map(|(days, ..)| days)
}

/// Reads a time of day and its offset, or those of a timestamp. The offset is [`Zone::None`] if the text has none.
pub(super) fn time(text: &[u8]) -> Result<(Clock, Zone), Reason> {
    let mut reader = TextReader(text);
    if let Some(at) = text.iter().position(|byte| matches!(byte, b'T' | b't' | b' ')).filter(|at| *at >= 8) {
        // The text may begin with a date. If the date is invalid, so is the whole text.
        timestamp(text)?;
        reader.0 = &text[at + 1..];
    }
    let clock = reader.clock()?;
    let zone = reader.zone()?;
    if reader.0.is_empty() { Ok((clock, zone)) } else { Err(BAD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_2000() {
        assert_eq!(days(2000, 1, 1), 0);
        assert_eq!(days(1970, 1, 1), -10_957);
        assert_eq!(days(2000, 3, 1), 60);
        assert_eq!(days(-4713, 11, 24), -2_451_545);
    }

    #[test]
    fn the_short_way_and_the_long_way_agree() {
        let texts = [
            "2026-01-01T00:00:00.123Z",
            "1999-12-31T23:59:59.999Z",
            "0001-01-01T00:00:00.000Z",
            "2024-02-29T12:30:45.678Z",
        ];
        for text in texts {
            let (days, clock, zone) = timestamp(text.as_bytes()).expect("a timestamp");
            assert_eq!(zone, Zone::Utc);
            assert_eq!(utc_millis(text.as_bytes()), Some(days * MICROS_PER_DAY + clock.micros()), "{text}");
        }
        for text in [
            "2023-02-29T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-01-01T24:00:00.000Z",
            "2026-01-01T00:00:00.1234",
        ] {
            assert_eq!(utc_millis(text.as_bytes()), None, "{text}");
        }
    }
}
