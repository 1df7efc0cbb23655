//! Dates and times: RFC 3339 as telemetry writes it and ISO 8601 as Postgres prints it, and numbers as epochs where a unit
//! is set. The same instant as Postgres' own input makes of the same text, to the microsecond; what would depend on a
//! session's time zone is refused where the mapping names no zone, not guessed.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::copy::civil::{self, Clock, Zone};
use crate::copy::decimal::{Decimal, Remainder};
use crate::copy::number::{fixed, put8};
use crate::spec::EpochUnit;
use crate::value::{Flags, Kind, Reason, Value};

/// How a column reads what is not a time by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// Numbers are epochs in this unit.
    pub(crate) unit: Option<EpochUnit>,
    /// Text without a zone is a local time of this one.
    pub(crate) zone: Option<TimeZone>,
}

/// Microseconds from 1970 to 2000, where Postgres' clock begins.
const EPOCH_GAP_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Postgres' limits: 4714-11-24 BC, and 294277-01-01 which is beyond.
const MIN_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;
const MIN_DATE: i64 = -2_451_545;
const END_DATE: i64 = 2_145_031_949;

/// timestamptz: text needs an offset, or the column a zone.
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

/// The offset in seconds, east of Greenwich, of a local time in a zone; microseconds since 2000. As Postgres reads them, a time that
/// the clocks skip has the offset from before, and one that comes twice the offset from after.
fn local_offset(micros: i64, zone: &TimeZone) -> Result<i64, Reason> {
    let local = DateTime::constant(2000, 1, 1, 0, 0, 0, 0).checked_add(SignedDuration::from_micros(micros));
    let offset = match zone.to_ambiguous_timestamp(local.map_err(|_| Reason::OutOfRange)?).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Gap { before, .. } => before,
        AmbiguousOffset::Fold { after, .. } => after,
    };
    Ok(offset.seconds().into())
}

/// The instant of a local time in a zone; both in microseconds, since 1970 and since 2000.
pub(super) fn of_local_micros(unix_micros: i64, zone: &TimeZone) -> Result<i64, Reason> {
    let local = of_unix_micros(unix_micros)?;
    let offset = local_offset(local, zone)?;
    checked(i128::from(local) - i128::from(offset) * 1_000_000)
}

/// Text that is a number, where numbers are epochs.
fn epoch_of_text(text: &[u8], unit: Option<EpochUnit>) -> Option<Result<i64, Reason>> {
    let text = text.trim_ascii();
    unit.filter(|_| Decimal::parse(text).is_some())?;
    let number = Value { kind: Kind::Number, flags: Flags::INEXACT, exponent: 0, mantissa: 0, raw: text };
    Some(epoch(number, unit))
}

/// timestamp: text must not have an offset other than `Z`, as Postgres would throw it away.
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

/// date: of a timestamp its date, whatever its offset.
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

/// time: of a timestamp its time. An offset says nothing to it.
pub(super) fn time(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    put8(civil::time(text)?.0.micros().to_be_bytes(), out);
    Ok(())
}

/// timetz: text with an offset.
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
