//! Column values that don't come from a field of the value: Kafka's metadata, keys, headers, and the leftovers (all fields that
//! no column takes, together). Also reads fields of CSV and raw values, whose meaning depends on the column's type.

use std::collections::HashMap;
use std::io::Write;

use tidegate_protocol::record::{Headers, Record};

use crate::base64;
use crate::copy::Encoding;
use crate::copy::decimal::Decimal;
use crate::decode::Fields;
use crate::json;
use crate::json::string;
use crate::mapping::plan::Feed;
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, Value};

/// How a column reads bytes without a type of their own: a key, a header, a field of CSV or a raw value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Bytes,
    /// As UTF-8 text.
    Text,
    Json,
    /// As a JSON number or boolean if the bytes are one, otherwise as UTF-8 text.
    Literal,
}

impl Reading {
    pub(crate) fn of(encoding: &Encoding) -> Self {
        match encoding {
            Encoding::Bytea => Self::Bytes,
            Encoding::Bool
            | Encoding::Int2
            | Encoding::Int4
            | Encoding::Int8
            | Encoding::Oid
            | Encoding::Float4
            | Encoding::Float8
            | Encoding::Numeric(_)
            | Encoding::Timestamp(_)
            | Encoding::TimestampTz(_) => Self::Literal,
            Encoding::Json | Encoding::Jsonb | Encoding::Array(_) | Encoding::Point => Self::Json,
            Encoding::Text
            | Encoding::Limited(_)
            | Encoding::Name
            | Encoding::OneByte
            | Encoding::Date
            | Encoding::Time
            | Encoding::TimeTz
            | Encoding::Interval
            | Encoding::Uuid
            | Encoding::Inet
            | Encoding::Cidr
            | Encoding::MacAddr
            | Encoding::MacAddr8
            | Encoding::Enum(_)
            | Encoding::Range(_) => Self::Text,
        }
    }
}

/// Whether a column needs a number that isn't a field, such as the offset, also as text. Columns of integers and timestamps need
/// only its binary value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lexeme {
    Wanted,
    Spared,
}

impl Lexeme {
    pub(crate) fn of(encoding: &Encoding) -> Self {
        match encoding {
            Encoding::Int2 | Encoding::Int4 | Encoding::Int8 | Encoding::Timestamp(_) | Encoding::TimestampTz(_) => {
                Self::Spared
            }
            _ => Self::Wanted,
        }
    }
}

/// Returns the value of a column that takes Kafka's metadata, the key, headers or the leftovers. Text that doesn't occur in the
/// record, such as the digits of an offset, is written into `made`.
#[inline(never)]
pub(super) fn value<'a>(
    feed: &Feed,
    record: &Record<'a>,
    fields: &Fields,
    made: &'a mut Vec<u8>,
) -> Result<Value<'a>, DecodeError> {
    made.clear();
    match feed {
        // The caller handles these.
        Feed::Field(_) | Feed::Ordinal(_) | Feed::Constant => Ok(Value::MISSING),
        Feed::Topic => Ok(Value::text(record.topic.as_bytes(), Flags::NONE)),
        Feed::Partition(lexeme) => Ok(integer(record.partition.into(), *lexeme, made)),
        Feed::Offset(lexeme) => Ok(integer(record.offset, *lexeme, made)),
        Feed::Timestamp(lexeme) => {
            Ok(record.timestamp_ms.map_or(Value::MISSING, |millis| integer(millis, *lexeme, made)))
        }
        Feed::Key(reading) => record.key.map_or(Ok(Value::MISSING), |key| read(key, *reading, "key")),
        Feed::Header(name, reading) => match last_header(record.headers, name) {
            None => Ok(Value::MISSING),
            Some(None) => Ok(Value { kind: Kind::Null, ..Value::MISSING }),
            Some(Some(header)) => read(header, *reading, "header"),
        },
        Feed::Headers => headers(record.headers, made),
        Feed::Record => Ok(Value { kind: Kind::True, ..Value::MISSING }),
        Feed::Leftovers { empty } => Ok(leftovers(fields, *empty, made)),
    }
}

pub(super) fn integer(number: i64, lexeme: Lexeme, made: &mut Vec<u8>) -> Value<'_> {
    if lexeme == Lexeme::Wanted {
        // Writing into a vector can't fail.
        let _infallible = write!(made, "{number}");
    }
    Value::integer(number, made)
}

/// Returns the last header of a name. The inner `None` is a header without a value.
#[expect(clippy::option_option, reason = "no header and a header that is null are two things")]
fn last_header<'a>(headers: Headers<'a>, name: &[u8]) -> Option<Option<&'a [u8]>> {
    headers.iter().filter(|(other, _)| *other == name).last().map(|(_, value)| value)
}

pub(super) fn key<'a>(bytes: &'a [u8], encoding: &Encoding) -> Result<Value<'a>, DecodeError> {
    read(bytes, Reading::of(encoding), "key")
}

fn read<'a>(bytes: &'a [u8], reading: Reading, what: &str) -> Result<Value<'a>, DecodeError> {
    if reading == Reading::Bytes {
        return Ok(Value::bytes(bytes));
    }
    if simdutf8::basic::from_utf8(bytes).is_err() {
        return Err(DecodeError { reason: Reason::InvalidUtf8, detail: format!("the {what} is not UTF-8") });
    }
    match reading {
        Reading::Json => json::document(bytes).map(|slot| slot.of(bytes)).map_err(|fault| DecodeError {
            reason: fault.reason,
            detail: fault.detail.replacen("the value", &format!("the {what}"), 1),
        }),
        Reading::Literal => match json::document(bytes) {
            Ok(slot) if matches!(slot.kind, Kind::Number | Kind::True | Kind::False) => Ok(slot.of(bytes)),
            _ => Ok(text(bytes)),
        },
        Reading::Text | Reading::Bytes => Ok(text(bytes)),
    }
}

/// Reads a field of CSV, or a raw value, as the type of its column requires. Numbers and booleans follow Postgres' own rules.
#[inline]
pub(super) fn lexical<'a>(value: &Value<'a>, encoding: &Encoding) -> Result<Value<'a>, DecodeError> {
    if value.flags.has(Flags::NUMERIC) && takes_numbers(encoding) {
        return Ok(Value { kind: Kind::Number, ..*value });
    }
    read_lexical(value, encoding)
}

#[inline]
fn takes_numbers(encoding: &Encoding) -> bool {
    Reading::of(encoding) == Reading::Literal && !matches!(encoding, Encoding::Bool)
}

#[inline(never)]
fn read_lexical<'a>(value: &Value<'a>, encoding: &Encoding) -> Result<Value<'a>, DecodeError> {
    let reading = match Reading::of(encoding) {
        // A raw value stays bytes. A field of CSV is text, which a bytea column decodes from hex or base64.
        Reading::Bytes if !value.flags.has(Flags::BINARY) => Reading::Text,
        reading => reading,
    };
    // The CSV decoder has already checked that the field is UTF-8, and whether it contains a NUL.
    let read = match reading {
        Reading::Literal if !value.flags.has(Flags::BINARY) => match json::literal(value.raw) {
            Some(slot) if !matches!(encoding, Encoding::Bool) => return Ok(slot.of(value.raw)),
            _ => Value::text(value.raw, Flags::NONE.with(value.flags.inherited())),
        },
        // A range may be given as an object of bounds; everything else for a range is text.
        Reading::Text if matches!(encoding, Encoding::Range(_)) && value.raw.starts_with(b"{") => {
            return read(value.raw, Reading::Json, "field");
        }
        Reading::Text if !value.flags.has(Flags::BINARY) => {
            return Ok(Value::text(value.raw, Flags::NONE.with(value.flags.inherited())));
        }
        reading => read(value.raw, reading, "field")?,
    };
    let word = read.as_text().filter(|_| reading == Reading::Literal).unwrap_or_default().trim_ascii();
    if word.is_empty() {
        return Ok(read);
    }
    if matches!(encoding, Encoding::Bool) {
        return Ok(text(word));
    }
    // `+5`, `007` and `.5` are numbers for Postgres but not for JSON, so pass them on as numbers without a mantissa.
    if Decimal::parse(word).is_some() {
        return Ok(Value { kind: Kind::Number, flags: Flags::INEXACT, exponent: 0, mantissa: 0, raw: word });
    }
    Ok(read)
}

/// Returns the value of a field that `where` compares. A CSV field or raw value such as `12` or `true` is compared as a number or
/// boolean, and any other as text.
pub(super) fn compared(value: Value<'_>) -> Value<'_> {
    if value.kind != Kind::Lexical {
        return value;
    }
    match json::document(value.raw) {
        Ok(slot) if matches!(slot.kind, Kind::Number | Kind::True | Kind::False) => slot.of(value.raw),
        _ => text(value.raw),
    }
}

fn text(bytes: &[u8]) -> Value<'_> {
    let flags = if memchr::memchr(0, bytes).is_some() { Flags::NUL } else { Flags::NONE };
    Value::text(bytes, flags)
}

type Named<'a> = (&'a [u8], Vec<Option<&'a [u8]>>);

/// Returns all headers as a JSON object: each name with its text, or with an array if the name occurs more than once. A value
/// that Postgres can't store as text (not UTF-8, or with a NUL) becomes an object, `{"base64": "…"}`.
fn headers<'a>(headers: Headers<'_>, made: &'a mut Vec<u8>) -> Result<Value<'a>, DecodeError> {
    let mut flags = Flags::NONE;
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut by_name: Vec<Named<'_>> = Vec::new();
    for (name, value) in headers.iter() {
        if simdutf8::basic::from_utf8(name).is_err() {
            let detail = format!("the name of the header \"{}\" is not UTF-8", crate::value::shown(name));
            return Err(DecodeError { reason: Reason::InvalidUtf8, detail });
        }
        flags = flags.with(text(name).flags);
        let place = *places.entry(name).or_insert_with(|| {
            by_name.push((name, Vec::new()));
            by_name.len() - 1
        });
        by_name[place].1.push(value);
    }
    made.push(b'{');
    for (name, values) in &by_name {
        string::quote(name, made);
        made.push(b':');
        if let [value] = values.as_slice() {
            header_value(*value, made);
        } else {
            made.push(b'[');
            for value in values {
                header_value(*value, made);
                made.push(b',');
            }
            close(b']', made);
        }
        made.push(b',');
    }
    close(b'}', made);
    Ok(Value { kind: Kind::Object, flags, exponent: 0, mantissa: 0, raw: made })
}

fn header_value(value: Option<&[u8]>, made: &mut Vec<u8>) {
    match value {
        None => made.extend_from_slice(b"null"),
        Some(text) if simdutf8::basic::from_utf8(text).is_ok() && memchr::memchr(0, text).is_none() => {
            string::quote(text, made);
        }
        Some(bytes) => {
            made.extend_from_slice(br#"{"base64":""#);
            base64::encode(bytes, made);
            made.extend_from_slice(br#""}"#);
        }
    }
}

fn close(bracket: u8, made: &mut Vec<u8>) {
    match made.last_mut() {
        Some(comma) if *comma == b',' => *comma = bracket,
        _ => made.push(bracket),
    }
}

fn leftovers<'a>(fields: &Fields, empty: bool, made: &'a mut Vec<u8>) -> Value<'a> {
    if fields.leftovers.is_empty() && !empty {
        return Value::MISSING;
    }
    made.push(b'{');
    made.extend_from_slice(&fields.leftovers);
    close(b'}', made);
    Value { kind: Kind::Object, flags: fields.leftovers_flags, exponent: 0, mantissa: 0, raw: made }
}
