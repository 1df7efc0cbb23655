//! What decoding leaves and encoding reads: slots that point into the payload, and the reasons why a record is no row.
//!
//! A `Slot` has no lifetime, so that an encoder keeps its slots from record to record and allocates nothing. A `Value`
//! is a slot with its bytes at hand. Numbers stay lexemes: what a number means is up to the column that takes it.

use std::fmt;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The field is not in the record.
    Missing,
    /// JSON's null, or the null of another format.
    Null,
    /// The boolean false.
    False,
    /// The boolean true.
    True,
    /// A number: digits in the payload, or a whole number of a binary format.
    Number,
    /// A JSON string, in its quotes.
    String,
    /// Text from elsewhere, as it is: a topic, a header, an unescaped string.
    Text,
    /// Bytes that nobody has looked at: a key, a header, a binary format's bytes.
    Bytes,
    /// Text that its column reads as what it needs: a field of CSV, a raw value.
    Lexical,
    /// A float: `mantissa` has the bits of an `f64`.
    Float,
    /// A time: `mantissa` has the microseconds since 1970 as an `i64`. `exponent` is 1 for one without a zone.
    Instant,
    /// A date: `mantissa` has the days since 1970 as an `i64`.
    Day,
    /// A time of day: `mantissa` has the microseconds since midnight as an `i64`.
    Clock,
    /// A duration as Postgres sends an interval: microseconds, days, months, 16 bytes.
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

/// What decoding saw on its way through a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// A string has a backslash.
    pub const ESCAPED: Flags = Flags(1);
    /// The text, or a string or key within the structure, stands for a NUL.
    pub const NUL: Flags = Flags(2);
    /// A number has a minus sign.
    pub const NEGATIVE: Flags = Flags(4);
    /// A number has more digits than `mantissa` holds: only its lexeme is true.
    pub const INEXACT: Flags = Flags(8);
    /// The value has no text: it came from a binary format.
    pub const BINARY: Flags = Flags(16);
    /// The value's bytes were made by the decoder, and stand nowhere in the payload.
    pub const MADE: Flags = Flags(32);
    /// A float of 32 bits.
    pub const SINGLE: Flags = Flags(64);
    /// The text of a field is a JSON number too, and `mantissa` and `exponent` are that number's.
    pub const NUMERIC: Flags = Flags(128);
    /// JSON's text is, or the structure has in it, a bare `NaN`, `Infinity` or `-Infinity`, which many writers write and JSON lacks.
    pub const SPECIAL: Flags = Flags(256);

    /// Returns whether any of the other flags is set.
    #[inline]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns these flags and the others.
    #[inline]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Returns these flags without the others.
    pub(crate) fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// What a structure inherits from what it holds.
    #[inline]
    pub fn inherited(self) -> Flags {
        Flags(self.0 & (Flags::NUL.0 | Flags::SPECIAL.0))
    }
}

/// One field of a record, as the decoder found it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// What the value is.
    pub kind: Kind,
    pub(crate) flags: Flags,
    /// For numbers: the value is ±`mantissa` × 10^`exponent`, unless the flags say `INEXACT`.
    pub(crate) exponent: i32,
    /// Where the value begins in the payload, its quotes or brackets included.
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) mantissa: u64,
}

impl Slot {
    pub(crate) const MISSING: Slot =
        Slot { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, start: 0, len: 0, mantissa: 0 };

    /// A value without bytes of its own.
    #[inline]
    pub(crate) fn number(kind: Kind, number: i64) -> Slot {
        Slot { kind, flags: Flags::BINARY, mantissa: number.cast_unsigned(), ..Slot::MISSING }
    }

    /// A whole number.
    #[inline]
    pub(crate) fn integer(number: i64) -> Slot {
        let sign = if number < 0 { Flags::NEGATIVE } else { Flags::NONE };
        Slot { kind: Kind::Number, flags: Flags::BINARY.with(sign), mantissa: number.unsigned_abs(), ..Slot::MISSING }
    }

    /// Null.
    pub(crate) const NULL: Slot = Slot { kind: Kind::Null, ..Slot::MISSING };

    /// The slot with the bytes that it points to.
    #[inline]
    pub fn of<'a>(&self, payload: &'a [u8]) -> Value<'a> {
        let raw = payload.get(self.start as usize..).and_then(|tail| tail.get(..self.len as usize)).unwrap_or_default();
        Value { kind: self.kind, flags: self.flags, exponent: self.exponent, mantissa: self.mantissa, raw }
    }
}

/// A slot with its bytes at hand.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// What the value is.
    pub kind: Kind,
    /// What decoding saw of the value.
    pub flags: Flags,
    /// For numbers: the value is ±`mantissa` × 10^`exponent`, unless the flags say `INEXACT`.
    pub exponent: i32,
    /// See `exponent`; other kinds say themselves what it is.
    pub mantissa: u64,
    /// As it stands in the payload: a JSON string has its quotes.
    pub raw: &'a [u8],
}

impl<'a> Value<'a> {
    pub(crate) const MISSING: Value<'static> =
        Value { kind: Kind::Missing, flags: Flags::NONE, exponent: 0, mantissa: 0, raw: &[] };

    /// Text that is UTF-8 already; `flags` says whether a NUL is in it.
    pub(crate) fn text(raw: &'a [u8], flags: Flags) -> Self {
        Self { kind: Kind::Text, flags, exponent: 0, mantissa: 0, raw }
    }

    /// Bytes as they came.
    pub(crate) fn bytes(raw: &'a [u8]) -> Self {
        Self { kind: Kind::Bytes, flags: Flags::NONE, exponent: 0, mantissa: 0, raw }
    }

    /// A whole number; `lexeme` is needed only where a column reads lexemes.
    pub(crate) fn integer(number: i64, lexeme: &'a [u8]) -> Self {
        let flags = if number < 0 { Flags::NEGATIVE } else { Flags::NONE };
        Self { kind: Kind::Number, flags, exponent: 0, mantissa: number.unsigned_abs(), raw: lexeme }
    }

    /// The text of a string or of plain text, escapes still in it where the flags say so; `None` for everything else.
    #[inline]
    pub fn as_text(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Text => Some(self.raw),
            Kind::String => Some(self.raw.get(1..self.raw.len().saturating_sub(1)).unwrap_or_default()),
            _ => None,
        }
    }
}

/// Why a record is no row. The codes are a contract: metric labels and dead letters carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The value isn't JSON.
    InvalidJson,
    /// Text isn't UTF-8.
    InvalidUtf8,
    /// The value is JSON, but no object.
    NotAnObject,
    /// The value isn't of the pipeline's format.
    InvalidFormat,
    /// The schema that the value names is not known, or can't be used.
    UnknownSchema,
    /// The record has no value.
    Tombstone,
    /// The record is a change that isn't applied: a table was truncated.
    UnappliedChange,
    /// A field that a NOT NULL column needs isn't there.
    MissingField,
    /// A field is null, and its column is NOT NULL.
    NullInNotNull,
    /// A value isn't of its column's type.
    TypeMismatch,
    /// A value is of its column's type, but beyond its limits.
    OutOfRange,
    /// Text is longer than its column.
    TooLong,
    /// Text holds a NUL, which Postgres can't store.
    NulInText,
    /// Text is no date, time or timestamp that we read.
    InvalidTimestamp,
    /// Text is no UUID.
    InvalidUuid,
    /// A field has no column, and `unknown_fields` is `dead_letter`.
    UnknownField,
    /// A field has no column yet, and `evolve` is to make one: what remains of this is a fault of ours.
    NewField,
    /// The record names no table that it may go to.
    NoTable,
    /// Text is no label of its column's enum.
    UnknownLabel,
    /// Postgres refused the row; the dead letter has the SQLSTATE.
    RefusedByPostgres,
    /// The row is larger than Postgres or the memory limit takes.
    TooLarge,
}

impl Reason {
    /// All of them, for the metrics.
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

    /// The stable name.
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

/// A record that is no row, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: Reason,
    /// The column at fault, as an index into the plan's columns, where one is.
    pub column: Option<u16>,
    /// For people: `lat "n/a" is not float8`.
    pub detail: String,
}

/// The most characters of a value that a sentence shows.
const SHOWN_CHARS: usize = 64;

/// Why a value can't be decoded: at which byte, and a sentence's second half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFault {
    /// The kind of the fault.
    pub reason: Reason,
    /// A sentence for people, without the reason.
    pub detail: String,
}

impl DecodeFault {
    /// Returns the fault with these words for people.
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Bytes as a sentence may show them: cut short, control characters escaped, what isn't UTF-8 as `\x..`.
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
