//! The logical types of Kafka Connect and Debezium: what numbers, text or bytes with such a type mean.
//!
//! The same names occur in JSON's envelope (`name`) and in Avro (`connect.name`), so one table serves both formats. Types whose
//! values need no conversion have no entry. For example, `io.debezium.data.Uuid` is text.

use crate::decode::Fields;
use crate::json;
use crate::value::{Flags, Kind, Slot};

/// A time of at least this number means infinity, whether the number counts milliseconds or microseconds. Postgres' JDBC driver
/// and Debezium use this number.
const INFINITY: i64 = 9_223_372_036_825_200_000;
/// A time of at most this number means negative infinity.
const MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;

/// The meaning of a number, a text or bytes with a logical type. The number in `Clock`, `Instant` and `Span` is the unit; see
/// [`in_micros`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logical {
    /// Days since 1970. The extremes of 32 bits mean infinity.
    Day,
    /// A time since midnight.
    Clock(i64),
    /// A time since 1970.
    Instant(i64),
    Span(i64),
    /// An unscaled number in two's complement, with this scale.
    Decimal(i32),
    /// A struct of a `scale` and an unscaled `value`.
    VariableDecimal,
    Json,
    /// A time with a zone, as text in ISO 8601. The year may be before 1 or after 9999.
    ZonedTimestamp,
}

impl Logical {
    /// Returns the logical type of this name. Returns `None` for types whose values need no conversion, for unknown names, and
    /// for a decimal without `scale`, which is the schema's parameter.
    pub(crate) fn of(name: &str, scale: Option<i32>) -> Option<Self> {
        Some(match name {
            "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" => Self::Day,
            "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => Self::Clock(1_000),
            "io.debezium.time.MicroTime" => Self::Clock(1),
            "io.debezium.time.NanoTime" => Self::Clock(-1_000),
            "org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp" => Self::Instant(1_000),
            "io.debezium.time.MicroTimestamp" => Self::Instant(1),
            "io.debezium.time.NanoTimestamp" => Self::Instant(-1_000),
            "io.debezium.time.MicroDuration" => Self::Span(1),
            "io.debezium.time.NanoDuration" => Self::Span(-1_000),
            "io.debezium.time.ZonedTimestamp" => Self::ZonedTimestamp,
            "org.apache.kafka.connect.data.Decimal" => Self::Decimal(scale?),
            "io.debezium.data.VariableScaleDecimal" => Self::VariableDecimal,
            "io.debezium.data.Json" => Self::Json,
            _ => return None,
        })
    }

    /// Converts a whole number of this type to the value that it means. Returns `None` if values of this type aren't numbers, or
    /// if a time of day or a duration overflows.
    pub(crate) fn number(self, number: i64, fields: &mut Fields) -> Option<Slot> {
        let infinite = match self {
            Self::Day => (number >= i64::from(i32::MAX), number <= i64::from(i32::MIN)),
            // 64-bit nanoseconds end in the year 2262, and have no special value for infinity.
            Self::Instant(unit) if unit > 0 => (number >= INFINITY, number <= MINUS_INFINITY),
            _ => (false, false),
        };
        match infinite {
            (true, _) => return Some(text(b"infinity", fields)),
            (_, true) => return Some(text(b"-infinity", fields)),
            _ => {}
        }
        match self {
            Self::Day => Some(Slot::number(Kind::Day, number)),
            Self::Clock(unit) => in_micros(number, unit).map(|micros| Slot::number(Kind::Clock, micros)),
            Self::Instant(unit) => {
                // A number that overflows is beyond Postgres' limits too. The column rejects the extreme value.
                let most = if number < 0 { i64::MIN } else { i64::MAX };
                Some(Slot::number(Kind::Instant, in_micros(number, unit).unwrap_or(most)))
            }
            Self::Span(unit) => {
                let micros = in_micros(number, unit)?;
                let start = fields.made.len();
                fields.made.extend_from_slice(&micros.to_be_bytes());
                fields.made.extend_from_slice(&[0; 8]);
                Some(fields.made_slot(Kind::Span, Flags::BINARY, start))
            }
            _ => None,
        }
    }

    /// Returns a slot with the value that the text `fields.made[start..]` means. Returns `None` if the value is this text itself.
    pub(crate) fn made_text(self, start: usize, fields: &mut Fields) -> Option<Slot> {
        match self {
            Self::Json => made_json(start, fields),
            Self::ZonedTimestamp => {
                let (year, rest) = wide_year(&fields.made[start..])?;
                let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
                let plain = [format!("{year:04}").as_bytes(), rest, era.as_bytes()].concat();
                Some(text(&plain, fields))
            }
            _ => None,
        }
    }
}

/// Returns a slot for the JSON value `fields.made[start..]`. Returns `None` if that text isn't JSON. A JSON null stays a JSON
/// value and doesn't become SQL's NULL, so its slot has the kind `Object`.
pub(crate) fn made_json(start: usize, fields: &Fields) -> Option<Slot> {
    let slot = json::document(&fields.made[start..]).ok()?;
    let start = slot.start + crate::decode::narrow(start);
    let kind = if slot.kind == Kind::Null { Kind::Object } else { slot.kind };
    Some(Slot { kind, start, flags: slot.flags.with(Flags::MADE), ..slot })
}

/// Reads a year that has a sign or is 0. Returns the year and the text after it. Returns `None` for other years.
fn wide_year(text: &[u8]) -> Option<(i64, &[u8])> {
    let signed = matches!(text.first(), Some(b'+' | b'-'));
    if !signed && !text.starts_with(b"0000-") {
        return None;
    }
    let end = 1 + text.get(1..)?.iter().position(|byte| !byte.is_ascii_digit())?;
    let year = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((year, &text[end..]))
}

fn text(text: &[u8], fields: &mut Fields) -> Slot {
    let start = fields.made.len();
    fields.made.extend_from_slice(text);
    fields.made_slot(Kind::Text, Flags::NONE, start)
}

/// Converts a count of units to microseconds. A positive `unit` multiplies the count, and a negative one divides it: 1000 is for
/// milliseconds, 1 for microseconds, -1000 for nanoseconds. Fractions of a microsecond are rounded half to even. Returns `None` on overflow.
pub(crate) fn in_micros(number: i64, unit: i64) -> Option<i64> {
    if unit > 0 {
        return number.checked_mul(unit);
    }
    let divisor = unit.checked_neg()?;
    let (whole, rest) = (number.div_euclid(divisor), number.rem_euclid(divisor));
    let up = rest * 2 > divisor || rest * 2 == divisor && whole % 2 != 0;
    Some(if up { whole + 1 } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(slot: Option<Slot>, fields: &Fields) -> String {
        let mut out = Vec::new();
        crate::render::text(&slot.map_or(Slot::MISSING, |slot| slot).of(&fields.made), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn finer_times_are_rounded_half_to_even() {
        let rounded = [1_500, 2_500, -1_500, -500, 999, -1].map(|nanos| in_micros(nanos, -1_000));
        assert_eq!(rounded, [Some(2), Some(2), Some(-2), Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn extremes_are_infinities_and_years_before_christ_are_written_as_postgres_reads_them() {
        let mut fields = Fields::default();
        for (logical, number, wanted) in [
            (Logical::Day, i64::from(i32::MAX), "infinity"),
            (Logical::Day, i64::from(i32::MIN), "-infinity"),
            (Logical::Day, 20_484, "2026-01-31"),
            (Logical::Instant(1), INFINITY, "infinity"),
            (Logical::Instant(1_000), INFINITY, "infinity"),
            (Logical::Instant(1_000), MINUS_INFINITY, "-infinity"),
            (Logical::Span(1), 5_000_000, "P0M0DT5.000000S"),
        ] {
            let slot = logical.number(number, &mut fields);
            assert_eq!(shown(slot, &fields), wanted, "{logical:?} {number}");
        }
        for (text, wanted) in [
            ("-0043-03-15T00:00:00Z", "0044-03-15T00:00:00Z BC"),
            ("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z BC"),
            ("+10000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"),
            ("2026-01-31T00:00:00Z", ""),
        ] {
            fields.made.clear();
            fields.made.extend_from_slice(text.as_bytes());
            let slot = Logical::ZonedTimestamp.made_text(0, &mut fields);
            assert_eq!(shown(slot, &fields), wanted, "{text}");
        }
    }
}
