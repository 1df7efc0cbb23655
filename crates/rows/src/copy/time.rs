//! Dates and times: RFC 3339 as telemetry writes it and ISO 8601 as Postgres prints it, and numbers as epochs where a unit
//! is set. The same instant as Postgres' own input makes of the same text, to the microsecond; what would depend on a
//! session's time zone is refused, not guessed.

use crate::copy::civil::{self, Clock, Zone};
use crate::copy::decimal::{Decimal, Remainder};
use crate::copy::number::{fixed, put8};
use crate::spec::EpochUnit;
use crate::value::{Flags, Kind, Reason, Value};

/// Microseconds from 1970 to 2000, where Postgres' clock begins.
const EPOCH_GAP_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Postgres' limits: 4714-11-24 BC, and 294277-01-01 which is beyond.
const MIN_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;
const MIN_DATE: i64 = -2_451_545;
const END_DATE: i64 = 2_145_031_949;

/// timestamptz: text needs an offset.
#[inline]
pub(super) fn timestamptz(value: Value<'_>, unit: Option<EpochUnit>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let micros = match value.as_text() {
        Some(text) => match civil::utc_millis(text) {
            Some(micros) => micros,
            None => zoned(text)?,
        },
        None => epoch(value, unit)?,
    };
    put8(micros.to_be_bytes(), out);
    Ok(())
}

fn zoned(text: &[u8]) -> Result<i64, Reason> {
    if let Some(infinity) = infinity(text) {
        return Ok(if infinity { i64::MAX } else { i64::MIN });
    }
    let (date, clock, zone) = civil::timestamp(text)?;
    let offset = match zone {
        Zone::None => return Err(Reason::InvalidTimestamp),
        Zone::Utc => 0,
        Zone::Seconds(seconds) => seconds,
    };
    micros(date, clock, offset)
}

/// timestamp: text must not have an offset other than `Z`, as Postgres would throw it away.
pub(super) fn timestamp(value: Value<'_>, unit: Option<EpochUnit>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let micros = match value.as_text() {
        Some(text) => match infinity(text) {
            Some(infinity) => {
                if infinity {
                    i64::MAX
                } else {
                    i64::MIN
                }
            }
            None => {
                let (date, clock, zone) = civil::timestamp(text)?;
                if matches!(zone, Zone::Seconds(_)) {
                    return Err(Reason::InvalidTimestamp);
                }
                micros(date, clock, 0)?
            }
        },
        None => epoch(value, unit)?,
    };
    put8(micros.to_be_bytes(), out);
    Ok(())
}

/// Microseconds since 1970 as Postgres counts them, from 2000 on.
#[inline]
pub(super) fn of_unix_micros(micros: i64) -> Result<i64, Reason> {
    checked(i128::from(micros) - i128::from(EPOCH_GAP_MICROS))
}

/// Days since 1970 as Postgres counts them, from 2000 on.
pub(super) fn of_unix_days(days: i64) -> Result<i32, Reason> {
    let days = days.saturating_sub(EPOCH_GAP_MICROS / MICROS_PER_DAY);
    let inside = (MIN_DATE..END_DATE).contains(&days);
    i32::try_from(days).ok().filter(|_| inside).ok_or(Reason::OutOfRange)
}

/// date: text without a time.
pub(super) fn date(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    let days = match infinity(text) {
        Some(infinity) => {
            if infinity {
                i32::MAX
            } else {
                i32::MIN
            }
        }
        None => {
            let days = civil::date(text)?;
            let inside = (MIN_DATE..END_DATE).contains(&days);
            i32::try_from(days).ok().filter(|_| inside).ok_or(Reason::OutOfRange)?
        }
    };
    fixed(4, days.to_be_bytes(), out);
    Ok(())
}

/// time: text without an offset.
pub(super) fn time(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    put8(civil::time(text)?.micros().to_be_bytes(), out);
    Ok(())
}

fn micros(days: i64, clock: Clock, offset_seconds: i64) -> Result<i64, Reason> {
    let micros = i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(clock.micros());
    checked(micros - i128::from(offset_seconds) * 1_000_000)
}

fn checked(micros: i128) -> Result<i64, Reason> {
    let micros = i64::try_from(micros).map_err(|_| Reason::OutOfRange)?;
    if (MIN_TIMESTAMP..END_TIMESTAMP).contains(&micros) { Ok(micros) } else { Err(Reason::OutOfRange) }
}

/// An epoch, exact to the microsecond; what is finer is rounded half to even.
#[inline]
fn epoch(value: Value<'_>, unit: Option<EpochUnit>) -> Result<i64, Reason> {
    let (Kind::Number, Some(unit)) = (value.kind, unit) else {
        return Err(Reason::TypeMismatch);
    };
    let (shift, factor) = match unit {
        EpochUnit::Seconds => (6, Some(1_000_000)),
        EpochUnit::Millis => (3, Some(1_000)),
        EpochUnit::Micros => (0, Some(1)),
        EpochUnit::Nanos => (-3, None),
    };
    let micros = match factor {
        Some(factor) if value.exponent == 0 && !value.flags.has(Flags::INEXACT) => {
            let micros = i128::from(value.mantissa) * factor;
            if value.flags.has(Flags::NEGATIVE) { -micros } else { micros }
        }
        _ => scaled_half_even(value, shift)?,
    };
    checked(micros - i128::from(EPOCH_GAP_MICROS))
}

fn scaled_half_even(value: Value<'_>, shift: i32) -> Result<i128, Reason> {
    let mut digits = [0; 20];
    let decimal = if value.raw.is_empty() {
        // An integer of Kafka's own has no lexeme.
        Decimal::of_integer(value.mantissa, value.flags.has(Flags::NEGATIVE), &mut digits)
    } else {
        Decimal::parse(value.raw).ok_or(Reason::TypeMismatch)?
    };
    let (whole, remainder) = decimal.scaled(shift);
    let whole = whole.ok_or(Reason::OutOfRange)?;
    let up = remainder == Remainder::AboveHalf || remainder == Remainder::Half && whole % 2 != 0;
    let step = if decimal.negative { -1 } else { 1 };
    Ok(if up { whole + step } else { whole })
}

fn infinity(text: &[u8]) -> Option<bool> {
    let is = |name: &str| text.eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("infinity") => Some(true),
        () if is("-infinity") => Some(false),
        () => None,
    }
}
