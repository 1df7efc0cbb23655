//! The result of decoding and the input of encoding: slots that point into the payload, and the reasons why a record is rejected.
//!
//! A `Slot` has no lifetime, so an encoder reuses its slots for each record instead of allocating new ones. A `Value` is a slot
//! with the bytes that it points to. A number of a text format keeps its digits in the payload, because only the column knows to
//! which type they are converted.

use std::fmt;

/// The kind of a value. It says how the bytes, `mantissa` and `exponent` of a [`Slot`] or [`Value`] are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The record doesn't have the field. A missing field may get the column's default; a null field doesn't.
    Missing,
    Null,
    False,
    True,
    /// A number: digits in the payload (text formats), or a whole number in `mantissa` (binary formats).
    Number,
    /// A JSON string. Its bytes include the quotes, and its escapes aren't resolved.
    String,
    /// Text without quotes: a topic, a header, or a string whose escapes are already resolved.
    Text,
    /// Bytes that weren't checked for being text: a key, a header, a binary format's bytes.
    Bytes,
    /// Text that each column reads by its own type: a field of CSV, a raw value.
    Lexical,
    /// `mantissa` has the bits of an `f64`.
    Float,
    /// A timestamp. `mantissa` has the microseconds since 1970 as an `i64`. `exponent` is 1 if the timestamp has no time zone.
    Instant,
    /// `mantissa` has the days since 1970 as an `i64`.
    Day,
    /// A time of day. `mantissa` has the microseconds since midnight as an `i64`.
    Clock,
    /// A duration, as the 16 bytes of a Postgres interval: microseconds, days, months.
    Span,
    /// The 16 bytes of a UUID.
    Uuid,
    /// An unscaled whole number in two's complement, big endian. The decimal is this number times 10^`exponent`.
    Decimal,
    /// A JSON array. Its bytes include the brackets.
    Array,
    /// A JSON object. Its bytes include the braces.
    Object,
}

/// Properties of a value that the decoder found, so that an encoder need not look for them in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// The string contains a backslash, so it has escapes to resolve.
    pub const ESCAPED: Flags = Flags(1);
    /// The value is text that contains a NUL, or an array or object in which a string or a key contains one.
    pub const NUL: Flags = Flags(2);
    pub const NEGATIVE: Flags = Flags(4);
    /// `mantissa` doesn't have the number's value, for example because there are too many digits. Only the digits in the bytes
    /// are valid.
    pub const INEXACT: Flags = Flags(8);
    /// The value comes from a binary format, is a raw value, or is a bare `NaN` or infinity in JSON.
    pub const BINARY: Flags = Flags(16);
    /// The slot points into the bytes that the decoder made, which don't occur in the payload.
    pub const MADE: Flags = Flags(32);
    /// A [`Kind::Float`] that had 32 bits in the record.
    pub const SINGLE: Flags = Flags(64);
    /// The text of a CSV field is also a JSON number, with this `mantissa` and `exponent`.
    pub const NUMERIC: Flags = Flags(128);
    /// The JSON text is a bare `NaN`, `Infinity` or `-Infinity`, or contains one. JSON lacks these, but many programs write them.
    pub const SPECIAL: Flags = Flags(256);

    #[inline]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Returns the flags that an array or object inherits from a member with these flags.
    #[inline]
    pub fn inherited(self) -> Flags {
        Flags(self.0 & (Flags::NUL.0 | Flags::SPECIAL.0))
    }
}

/// One field of a record, as the decoder found it. `start` and `len` point into the payload, or with [`Flags::MADE`] into the
/// bytes that the decoder made. They include a string's quotes and an array's brackets. A number is ±`mantissa` × 10^`exponent`,
/// unless the flags include [`Flags::INEXACT`]. For the other kinds, see [`Kind`].
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) exponent: i32,
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) mantissa: u64,
}

impl Slot {
    pub(crate) const MISSING: Slot =
        Slot { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, start: 0, len: 0, mantissa: 0 };

    /// Makes a slot of a kind whose value is in `mantissa`. The slot has no bytes.
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

    #[inline]
    pub fn of<'a>(&self, payload: &'a [u8]) -> Value<'a> {
        let raw = payload.get(self.start as usize..).and_then(|tail| tail.get(..self.len as usize)).unwrap_or_default();
        Value { kind: self.kind, flags: self.flags, exponent: self.exponent, mantissa: self.mantissa, raw }
    }
}

/// A [`Slot`] with the bytes that it points to. The other fields mean the same as in the slot.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    pub kind: Kind,
    pub flags: Flags,
    pub exponent: i32,
    pub mantissa: u64,
    /// As in the payload: a JSON string has its quotes.
    pub raw: &'a [u8],
}

impl<'a> Value<'a> {
    pub(crate) const MISSING: Value<'static> =
        Value { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, mantissa: 0, raw: &[] };

    /// Makes a value of text. `raw` must be valid UTF-8, and `flags` must say whether it contains a NUL.
    pub(crate) fn text(raw: &'a [u8], flags: Flags) -> Self {
        Self { kind: Kind::Text, flags, exponent: 0, mantissa: 0, raw }
    }

    pub(crate) fn bytes(raw: &'a [u8]) -> Self {
        Self { kind: Kind::Bytes, flags: Flags::NONE, exponent: 0, mantissa: 0, raw }
    }

    /// Makes a whole number. `lexeme` has its digits, or is empty if the column doesn't need them.
    pub(crate) fn integer(number: i64, lexeme: &'a [u8]) -> Self {
        let flags = if number < 0 { Flags::NEGATIVE } else { Flags::NONE };
        Self { kind: Kind::Number, flags, exponent: 0, mantissa: number.unsigned_abs(), raw: lexeme }
    }

    /// Returns the text inside the quotes of a string, or the whole of a plain text. Escapes aren't resolved. Returns `None` for
    /// other kinds.
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
    InvalidUtf8,
    /// The value is JSON but not an object. Or an element or line that should be a row isn't an object.
    NotAnObject,
    /// The value or key isn't valid in its format.
    InvalidFormat,
    /// The schema that the value or key names is unknown, or can't be used.
    UnknownSchema,
    /// The record has no value, and the pipeline doesn't delete rows. Or the record deletes a row, but doesn't say which one.
    Tombstone,
    /// The record is a change that can't be applied: `truncate`, or an unknown operation.
    UnappliedChange,
    /// A field is missing, and its column can't be NULL and gets no default. Or its column has `missing = "dead_letter"`. Or the
    /// array whose elements should become rows is missing.
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
    InvalidUuid,
    /// A field has no column, and `unknown_fields` is `dead_letter`.
    UnknownField,
    /// A field has no column yet, but `evolve` will add one. The record is then encoded again, so a dead letter with this reason
    /// is a bug of Tidegate.
    NewField,
    /// The record names no table that can receive its rows.
    NoTable,
    /// Text isn't a label of its column's enum.
    UnknownLabel,
    /// Postgres refused the row; the dead letter has the SQLSTATE.
    RefusedByPostgres,
    /// The value or its row is larger than Postgres or Tidegate can handle. Or the record's rows, not counting the first one,
    /// exceed the limit: `batch.max_bytes`, but at least 1 MiB.
    TooLarge,
}

impl Reason {
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

/// Why a record can't become rows. `reason` is for programs; `detail` is for people, such as `lat "n/a" is not float8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    pub reason: Reason,
    /// The index of the column at fault among the plan's columns. `None` if no column is at fault.
    pub column: Option<u16>,
    pub detail: String,
}

/// A longer value ends with `…` in error messages.
const SHOWN_CHARS: usize = 64;

/// Why a value can't be decoded. `reason` is for programs; `detail` is for people and doesn't repeat the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub reason: Reason,
    pub detail: String,
}

impl DecodeError {
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Returns bytes as an error message shows them: at most 64 characters, with control characters escaped, and bytes that aren't
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
