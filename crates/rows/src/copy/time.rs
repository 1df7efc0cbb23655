//! Dates and times: RFC 3339, ISO 8601 as Postgres prints it, and numbers as epochs if a unit is set. The result is the same, to
//! the microsecond, as if Postgres itself had parsed the text. Except: text that depends on the session's time zone is rejected,
//! unless the mapping names a zone.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::copy::civil::{self, Clock, Zone};
use crate::copy::decimal::{Decimal, Remainder};
use crate::copy::number::{fixed, put8};
use crate::spec::EpochUnit;
use crate::value::{Flags, Kind, Reason, Value};

/// How a column reads numbers, and text without a zone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// The unit of numbers that are epochs. If it is `None`, numbers are rejected.
    pub(crate) unit: Option<EpochUnit>,
    /// The zone of times that state no zone. If it is `None`, timestamptz columns reject such times.
    pub(crate) zone: Option<TimeZone>,
}

/// Microseconds from 1970 to 2000, the epoch of Postgres' clock.
const EPOCH_GAP_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The range of Postgres' timestamps, in microseconds since 2000: from 4714-11-24 BC to before 294277-01-01.
const MIN_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;
/// The range of Postgres' dates, in days since 2000: from 4714-11-24 BC to before 5874898-01-01.
const MIN_DATE: i64 = -2_451_545;
const END_DATE: i64 = 2_145_031_949;

/// Writes a timestamptz. Text that states a date or time without an offset is rejected, unless the column has a zone.
#[inline]
pub(super) fn timestamptz(value: Value<'_>, times: &Times, out: &mut Vec<u8>) -> Result<(), Reason> {
    let micros = match value.as_text() {
        Some(text) => match civil::utc_millis(text) {
            Some(micros) => micros,
            None => zoned(text, times)?,
        },
        None => epoch(value, times.unit)?,
    };
    put8(micros.to_be_bytes(), out);
    Ok(())
}

fn zoned(text: &[u8], times: &Times) -> Result<i64, Reason> {
    if let Some(micros) = epoch_of_text(text, times.unit) {
        return micros;
    }
    if let Some(infinity) = infinity(text) {
        return Ok(if infinity { i64::MAX } else { i64::MIN });
    }
    let (date, clock, zone) = civil::timestamp(text)?;
    let offset = match zone {
        Zone::None => {
            let zone = times.zone.as_ref().ok_or(Reason::InvalidTimestamp)?;
            local_offset(micros(date, clock, 0)?, zone)?
        }
        Zone::Utc => 0,
        Zone::Seconds(seconds) => seconds,
    };
    micros(date, clock, offset)
}

/// Returns the offset of a local time in a zone, in seconds east of Greenwich; `micros` counts from 2000. As in Postgres, a time
/// that the clocks skip has the offset from before the change. A time that occurs twice has the offset from after the change.
fn local_offset(micros: i64, zone: &TimeZone) -> Result<i64, Reason> {
    let local = DateTime::constant(2000, 1, 1, 0, 0, 0, 0).checked_add(SignedDuration::from_micros(micros));
    let offset = match zone.to_ambiguous_timestamp(local.map_err(|_| Reason::OutOfRange)?).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Gap { before, .. } => before,
        AmbiguousOffset::Fold { after, .. } => after,
    };
    Ok(offset.seconds().into())
}

/// Returns the instant of a local time in a zone, in microseconds since 2000. `unix_micros` is the local time, in microseconds
/// since 1970.
pub(super) fn of_local_micros(unix_micros: i64, zone: &TimeZone) -> Result<i64, Reason> {
    let local = of_unix_micros(unix_micros)?;
    let offset = local_offset(local, zone)?;
    checked(i128::from(local) - i128::from(offset) * 1_000_000)
}

/// Reads text that is a number as an epoch. `None` if it isn't a number, or if the column has no unit.
fn epoch_of_text(text: &[u8], unit: Option<EpochUnit>) -> Option<Result<i64, Reason>> {
    let text = text.trim_ascii();
    unit.filter(|_| Decimal::parse(text).is_some())?;
    let number = Value { kind: Kind::Number, flags: Flags::INEXACT, exponent: 0, mantissa: 0, raw: text };
    Some(epoch(number, unit))
}

/// Writes a timestamp. Text with an offset other than `Z` is rejected, because Postgres would discard the offset.
pub(super) fn timestamp(value: Value<'_>, times: &Times, out: &mut Vec<u8>) -> Result<(), Reason> {
    let micros = match value.as_text() {
        Some(text) => match epoch_of_text(text, times.unit) {
            Some(micros) => micros?,
            None => unzoned(text)?,
        },
        None => epoch(value, times.unit)?,
    };
    put8(micros.to_be_bytes(), out);
    Ok(())
}

fn unzoned(text: &[u8]) -> Result<i64, Reason> {
    if let Some(infinity) = infinity(text) {
        return Ok(if infinity { i64::MAX } else { i64::MIN });
    }
    let (date, clock, zone) = civil::timestamp(text)?;
    if matches!(zone, Zone::Seconds(_)) {
        return Err(Reason::InvalidTimestamp);
    }
    micros(date, clock, 0)
}

/// Converts microseconds since 1970 to microseconds since 2000, as Postgres counts. Fails beyond Postgres' limits of timestamps.
#[inline]
pub(super) fn of_unix_micros(micros: i64) -> Result<i64, Reason> {
    checked(i128::from(micros) - i128::from(EPOCH_GAP_MICROS))
}

/// Converts days since 1970 to days since 2000, as Postgres counts. Fails beyond Postgres' limits of dates.
pub(super) fn of_unix_days(days: i64) -> Result<i32, Reason> {
    let days = days.saturating_sub(EPOCH_GAP_MICROS / MICROS_PER_DAY);
    let inside = (MIN_DATE..END_DATE).contains(&days);
    i32::try_from(days).ok().filter(|_| inside).ok_or(Reason::OutOfRange)
}

/// Writes a date. If the text is a timestamp, stores its date as written, whatever the offset.
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

/// Writes a time. If the text is a timestamp, stores its time as written. An offset is ignored.
pub(super) fn time(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    put8(civil::time(text)?.0.micros().to_be_bytes(), out);
    Ok(())
}

/// Writes a timetz. Text must have an offset.
pub(super) fn timetz(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let (clock, zone) = civil::time(value.as_text().ok_or(Reason::TypeMismatch)?)?;
    let east = match zone {
        Zone::None => return Err(Reason::InvalidTimestamp),
        Zone::Utc => 0,
        Zone::Seconds(seconds) => i32::try_from(seconds).map_err(|_| Reason::OutOfRange)?,
    };
    out.extend_from_slice(&[0, 0, 0, 12]);
    out.extend_from_slice(&clock.micros().to_be_bytes());
    out.extend_from_slice(&(-east).to_be_bytes());
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

/// Reads an epoch, exact to the microsecond; finer fractions are rounded half to even.
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
        // An integer of Kafka's metadata or of a binary format has no lexeme, so write its digits.
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
