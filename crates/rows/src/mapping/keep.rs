//! `keep`: text by which a record says that it leaves a value out.

use crate::json::members::{Elements, RawMembers};
use crate::json::string;
use crate::value::{Flags, Kind, Value};

#[inline(never)]
fn is_text(value: &Value<'_>, text: &[u8], scratch: &mut Vec<u8>) -> bool {
    match (value.kind, value.as_text()) {
        (_, Some(escaped)) if value.flags.has(Flags::ESCAPED) => {
            scratch.clear();
            string::unescape(escaped, scratch);
            scratch.as_slice() == text
        }
        (_, Some(inside)) => inside == text,
        (Kind::Lexical | Kind::Bytes, None) => value.raw == text,
        _ => false,
    }
}

/// Returns whether a value is the placeholder `text`, which Debezium writes for a value that it leaves out. If the placeholder is
/// `X`, Debezium writes `["X"]` for an array of text, `[88]` (the byte of `X`) for an array of numbers, and `{"X":"X"}` for a
/// map.
#[inline(never)]
pub(super) fn stands_for_missing(value: &Value<'_>, text: &[u8], scratch: &mut Vec<u8>) -> bool {
    match value.kind {
        Kind::Array => {
            let mut elements = Elements::of(value.raw);
            let first = elements.next();
            if let (Some(first), None) = (&first, elements.next())
                && is_text(first, text, scratch)
            {
                return true;
            }
            let mut bytes = text.iter();
            Elements::of(value.raw).all(|element| bytes.next().is_some_and(|byte| is_number(&element, *byte)))
                && bytes.next().is_none()
        }
        Kind::Object => {
            let mut members = RawMembers::of(value.raw);
            let first = members.next();
            members.next().is_none()
                && first.is_some_and(|(name, _, value)| name == text && is_text(&value, text, scratch))
        }
        _ => is_text(value, text, scratch),
    }
}

/// Returns whether a value is this byte as a signed number from -128 to 127, as in Java.
fn is_number(value: &Value<'_>, byte: u8) -> bool {
    let number = byte.cast_signed();
    value.kind == Kind::Number
        && value.exponent == 0
        && value.mantissa == u64::from(number.unsigned_abs())
        && value.flags.has(Flags::NEGATIVE) == (number < 0)
}
