//! The result of decoding and the input of encoding: slots that point into the payload, and the reasons why a record is
//! rejected.
//!
//! A `Slot` has no lifetime, so an encoder reuses its slots for each record instead of allocating new ones. A `Value` is a slot
//! with the bytes that it points to. A number of a text format keeps its lexeme (its digits in the payload), because only the
//! column knows the type to which it is converted.

use std::fmt;

/// The kind of value in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The record doesn't have the field.
    Missing,
    /// JSON's null, or the null of another format.
    Null,
    False,
    True,
    /// A number: digits in the payload, or a whole number of a binary format.
    Number,
    /// A JSON string, in its quotes.
    String,
    /// Text without quotes: a topic, a header, or a string whose escapes are resolved.
    Text,
    /// Bytes that weren't inspected: a key, a header, a binary format's bytes.
    Bytes,
    /// Text that each column reads by its own type: a field of CSV, a raw value.
    Lexical,
    /// A float: `mantissa` has the bits of an `f64`.
    Float,
    /// A time: `mantissa` has the microseconds since 1970 as an `i64`. `exponent` is 1 for a time without a zone.
    Instant,
    /// A date: `mantissa` has the days since 1970 as an `i64`.
    Day,
    /// A time of day: `mantissa` has the microseconds since midnight as an `i64`.
    Clock,
    /// A duration in the 16 bytes of a Postgres interval: microseconds, days, months.
    Span,
    /// A UUID's 16 bytes.
    Uuid,
    /// A decimal: an unscaled whole number in two's complement, big endian, times 10^`exponent`.
    Decimal,
    /// A JSON array, with its brackets.
    Array,
    /// A JSON object, with its braces.
    Object,
}

/// Properties of a value that decoding noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// A string has a backslash.
    pub const ESCAPED: Flags = Flags(1);
    /// The value is text that contains a NUL, or an array or object in which a string or a key contains one.
    pub const NUL: Flags = Flags(2);
    /// A number has a minus sign.
    pub const NEGATIVE: Flags = Flags(4);
    /// `mantissa` doesn't have the number's value, for example because there are too many digits. Only the digits in the bytes
    /// are valid.
    pub const INEXACT: Flags = Flags(8);
    /// The value comes from a binary format, is a raw value, or is a bare `NaN` or infinity in JSON.
    pub const BINARY: Flags = Flags(16);
    /// The decoder made the value's bytes; they don't occur in the payload.
    pub const MADE: Flags = Flags(32);
    /// A float of 32 bits.
    pub const SINGLE: Flags = Flags(64);
    /// The text of a CSV field is also a JSON number, with this `mantissa` and `exponent`.
    pub const NUMERIC: Flags = Flags(128);
    /// The JSON text is a bare `NaN`, `Infinity` or `-Infinity`, or contains one. JSON lacks these, but many programs write
    /// them.
    pub const SPECIAL: Flags = Flags(256);

    /// Returns whether any flag of `other` is set.
    #[inline]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the union of both sets of flags.
    #[inline]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Returns the flags of `self` that aren't in `other`.
    pub(crate) fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Returns the flags that an array or object inherits from a member with these flags.
    #[inline]
    pub fn inherited(self) -> Flags {
        Flags(self.0 & (Flags::NUL.0 | Flags::SPECIAL.0))
    }
}

/// One field of a record, as the decoder found it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub kind: Kind,
    pub(crate) flags: Flags,
    /// For numbers: the value is ±`mantissa` × 10^`exponent`, unless the flags include `INEXACT`.
    pub(crate) exponent: i32,
    /// Where the value begins in the payload, its quotes or brackets included. With the flag `MADE`, where it begins in the bytes
    /// that the decoder made.
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) mantissa: u64,
}

impl Slot {
    pub(crate) const MISSING: Slot =
        Slot { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, start: 0, len: 0, mantissa: 0 };

    /// Makes a slot without bytes, whose `mantissa` has the bits of `number`.
    #[inline]
    pub(crate) fn number(kind: Kind, number: i64) -> Slot {
        Slot { kind, flags: Flags::BINARY, mantissa: number.cast_unsigned(), ..Slot::MISSING }
    }

    #[inline]
    pub(crate) fn integer(number: i64) -> Slot {
        let sign = if number < 0 { Flags::NEGATIVE } else { Flags::NONE };
        Slot { kind: Kind::Number, flags: Flags::BINARY.with(sign), mantissa: number.unsigned_abs(), ..Slot::MISSING }
    }

    pub(crate) const NULL: Slot = Slot { kind: Kind::Null, ..Slot::MISSING };

    /// Returns the slot's value, with the bytes of `payload` to which the slot points.
    #[inline]
    pub fn of<'a>(&self, payload: &'a [u8]) -> Value<'a> {
        let raw = payload.get(self.start as usize..).and_then(|tail| tail.get(..self.len as usize)).unwrap_or_default();
        Value { kind: self.kind, flags: self.flags, exponent: self.exponent, mantissa: self.mantissa, raw }
    }
}

/// A slot with the bytes that it points to.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    pub kind: Kind,
    /// Properties that decoding noticed.
    pub flags: Flags,
    /// For numbers: the value is ±`mantissa` × 10^`exponent`, unless the flags include `INEXACT`.
    pub exponent: i32,
    /// For numbers, see `exponent`; for other kinds, see [`Kind`].
    pub mantissa: u64,
    /// The bytes as in the payload: a JSON string has its quotes.
    pub raw: &'a [u8],
}

impl<'a> Value<'a> {
    pub(crate) const MISSING: Value<'static> =
        Value { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, mantissa: 0, raw: &[] };

    /// Makes text from valid UTF-8; `flags` says whether it contains a NUL.
    pub(crate) fn text(raw: &'a [u8], flags: Flags) -> Self {
        Self { kind: Kind::Text, flags, exponent: 0, mantissa: 0, raw }
    }

    /// Makes a value of raw bytes.
    pub(crate) fn bytes(raw: &'a [u8]) -> Self {
        Self { kind: Kind::Bytes, flags: Flags::NONE, exponent: 0, mantissa: 0, raw }
    }

    /// Makes a whole number. `lexeme` has its digits, or is empty if the column needs only the number.
    pub(crate) fn integer(number: i64, lexeme: &'a [u8]) -> Self {
        let flags = if number < 0 { Flags::NEGATIVE } else { Flags::NONE };
        Self { kind: Kind::Number, flags, exponent: 0, mantissa: number.unsigned_abs(), raw: lexeme }
    }

    /// Returns the text inside the quotes of a string, or the whole of a plain text; `None` for other kinds. Escapes aren't
    /// resolved.
    #[inline]
    pub fn as_text(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Text => Some(self.raw),
            Kind::String => Some(self.raw.get(1..self.raw.len().saturating_sub(1)).unwrap_or_default()),
            _ => None,
        }
    }
}

/// Why a record can't become a row. The codes are stable: metric labels and dead letters use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The value isn't JSON, or text that should be JSON isn't.
    InvalidJson,
    /// Text isn't UTF-8.
    InvalidUtf8,
    /// The value, or an element or line of it that should be a row, is JSON but not an object.
    NotAnObject,
    /// The value or key isn't valid in its format.
    InvalidFormat,
    /// The schema that the value or key names is unknown, or can't be used.
    UnknownSchema,
    /// The record has no value, and such records don't delete rows. Or the record deletes a row, and doesn't say which one.
    Tombstone,
    /// The record is a change that can't be applied: `truncate`, or an unknown operation.
    UnappliedChange,
    /// A field is missing, and its column can't be NULL and gets no default. Or its column has
    /// `missing = "dead_letter"`. Or the array whose elements should become rows is missing.
    MissingField,
    /// A field is null, and its column can't be NULL: it is NOT NULL, or part of a key that can't contain NULL.
    NullInNotNull,
    /// A value doesn't have the type of its column. Or the field whose elements should become rows isn't an array.
    TypeMismatch,
    /// A value has the type of its column, but exceeds the limits of the type.
    OutOfRange,
    /// Text is longer than its column allows.
    TooLong,
    /// Text contains a NUL, which Postgres can't store.
    NulInText,
    /// Text isn't a date, time or timestamp that can be read. Or a timestamptz column gets a date or time that names no zone, and
    /// the column's mapping has no `zone`.
    InvalidTimestamp,
    /// Text isn't a UUID.
    InvalidUuid,
    /// A field has no column, and `unknown_fields` is `dead_letter`.
    UnknownField,
    /// A field has no column yet, and `evolve` will add one. A dead letter with this reason is a bug of Tidegate.
    NewField,
    /// The record names no table that can receive its rows.
    NoTable,
    /// Text isn't a label of its column's enum.
    UnknownLabel,
    /// Postgres refused the row; the dead letter has the SQLSTATE.
    RefusedByPostgres,
    /// The value or its row is larger than Postgres or Tidegate can handle. Or the record has several rows, and those after the
    /// first take more bytes than the limit: `batch.max_bytes`, but at least 1 MiB.
    TooLarge,
}

impl Reason {
    /// All reasons, for the metrics.
    pub const ALL: [Reason; 21] = [
        Self::InvalidJson,
        Self::InvalidUtf8,
        Self::NotAnObject,
        Self::InvalidFormat,
        Self::UnknownSchema,
        Self::Tombstone,
        Self::UnappliedChange,
        Self::MissingField,
        Self::NullInNotNull,
        Self::TypeMismatch,
        Self::OutOfRange,
        Self::TooLong,
        Self::NulInText,
        Self::InvalidTimestamp,
        Self::InvalidUuid,
        Self::UnknownField,
        Self::NewField,
        Self::NoTable,
        Self::UnknownLabel,
        Self::RefusedByPostgres,
        Self::TooLarge,
    ];

    /// Returns the stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotAnObject => "not_an_object",
            Self::InvalidFormat => "invalid_format",
            Self::UnknownSchema => "unknown_schema",
            Self::Tombstone => "tombstone",
            Self::UnappliedChange => "unapplied_change",
            Self::MissingField => "missing_field",
            Self::NullInNotNull => "null_in_not_null",
            Self::TypeMismatch => "type_mismatch",
            Self::OutOfRange => "out_of_range",
            Self::TooLong => "too_long",
            Self::NulInText => "nul_in_text",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::InvalidUuid => "invalid_uuid",
            Self::UnknownField => "unknown_field",
            Self::NewField => "new_field",
            Self::NoTable => "no_table",
            Self::UnknownLabel => "unknown_label",
            Self::RefusedByPostgres => "refused_by_postgres",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why a record can't become rows, with the column at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// The reason, for programs.
    pub reason: Reason,
    /// The index of the column at fault among the plan's columns. `None` if no column is at fault.
    pub column: Option<u16>,
    /// The explanation, for people: `lat "n/a" is not float8`.
    pub detail: String,
}

/// The most characters of a value that an error message shows.
const SHOWN_CHARS: usize = 64;

/// Why a value can't be decoded: the reason, and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub reason: Reason,
    /// The message for people, without the reason.
    pub detail: String,
}

impl DecodeError {
    /// Makes an error with this message.
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Returns bytes as a message may show them: shortened if there are many, with control characters escaped, and bytes that aren't
/// UTF-8 as `\x..`.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut left = SHOWN_CHARS;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if left == 0 {
                return text + "…";
            }
            left -= 1;
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            if left == 0 {
                return text + "…";
            }
            left -= 1;
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_distinct_and_snake_case() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8')));
    }

    #[test]
    fn shown_values_are_short_and_harmless() {
        assert_eq!(shown(b"n/a"), "n/a");
        assert_eq!(shown(b"a\nb\x1b[0m"), "a\\nb\\u{1b}[0m");
        assert_eq!(shown(b"\xff\xc3\xa9"), "\\xffé");
        assert_eq!(shown("ü".repeat(100).as_bytes()), "ü".repeat(64) + "…");
    }
}
