//! Ranges. A range comes in one of three forms:
//! - a text as Postgres writes it: `[1,5)` or `empty`;
//! - an object: `{"lower": 1, "upper": 5, "bounds": "[)"}`;
//! - an array: `[1, 5]`, which means the same as the text `[1,5)`.
//!
//! If a bound is null or missing, the range has no limit on that side.

use crate::copy::{Encoding, Scratch, text};
use crate::json;
use crate::json::members::{Elements, RawMembers};
use crate::spec::NulPolicy;
use crate::value::{Flags, Kind, Reason, Value};

/// The flags of a range in Postgres' binary form.
const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

/// The bounds of a range. `inclusive` has the flags `LOWER_INCLUSIVE` and `UPPER_INCLUSIVE`, one of them, or none.
struct Bounds<'a> {
    lower: Value<'a>,
    upper: Value<'a>,
    inclusive: u8,
}

pub(super) fn range(
    value: Value<'_>,
    bound: &Encoding,
    nul: NulPolicy,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    if let Some(written) = value.as_text() {
        return match written.trim_ascii() {
            empty if empty.eq_ignore_ascii_case(b"empty") => {
                out.extend_from_slice(&[0, 0, 0, 1, EMPTY]);
                Ok(())
            }
            written => {
                let (mut lower, mut upper) = (Vec::new(), Vec::new());
                let (bounded, inclusive) = parse(written, &mut lower, &mut upper).ok_or(Reason::TypeMismatch)?;
                let lower = if bounded.0 { literal(&lower, bound) } else { Some(Value::MISSING) };
                let upper = if bounded.1 { literal(&upper, bound) } else { Some(Value::MISSING) };
                let (Some(lower), Some(upper)) = (lower, upper) else { return Err(Reason::TypeMismatch) };
                let bounds = Bounds { lower, upper, inclusive };
                put(&bounds, bound, nul, scratch, out)
            }
        };
    }
    let bounds = match value.kind {
        Kind::Array => pair(value.raw),
        Kind::Object => members(value.raw),
        _ => None,
    };
    put(&bounds.ok_or(Reason::TypeMismatch)?, bound, nul, scratch, out)
}

fn put(
    bounds: &Bounds<'_>,
    bound: &Encoding,
    nul: NulPolicy,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let len_at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 0]);
    let mut flags = bounds.inclusive;
    let mut ends = [None; 2];
    let sides = [(bounds.lower, LOWER_INFINITE, LOWER_INCLUSIVE), (bounds.upper, UPPER_INFINITE, UPPER_INCLUSIVE)];
    for ((value, infinite, inclusive), end) in sides.into_iter().zip(&mut ends) {
        if matches!(value.kind, Kind::Missing | Kind::Null) {
            flags = flags & !inclusive | infinite;
            continue;
        }
        let start = out.len() + 4;
        bound.put(value, nul, scratch, out)?;
        *end = integer(out.get(start..).unwrap_or_default(), bound);
    }
    // Reject bounds in the wrong order here: otherwise Postgres would refuse the whole batch. Bounds of type numeric aren't
    // compared.
    if let [Some(lower), Some(upper)] = ends
        && lower > upper
    {
        return Err(Reason::OutOfRange);
    }
    out[len_at + 4] = flags;
    text::patch_len(len_at, out)
}

/// Returns a bound's binary form as an integer, to compare two bounds. `None` for a numeric, whose binary form doesn't sort like
/// an integer.
fn integer(field: &[u8], bound: &Encoding) -> Option<i64> {
    match bound {
        Encoding::Numeric(_) => None,
        _ => match field.len() {
            4 => field.first_chunk().map(|bytes| i32::from_be_bytes(*bytes).into()),
            8 => field.first_chunk().map(|bytes| i64::from_be_bytes(*bytes)),
            _ => None,
        },
    }
}

/// Reads a bound of the text form: as a number for a range of integers, otherwise as text. `None` if the bound should be a
/// number and isn't one.
fn literal<'a>(text: &'a [u8], bound: &Encoding) -> Option<Value<'a>> {
    let text = text.trim_ascii();
    match bound {
        Encoding::Int4 | Encoding::Int8 => {
            let slot = json::document(text).ok().filter(|slot| slot.kind == Kind::Number)?;
            Some(slot.of(text))
        }
        _ => Some(Value::text(text, Flags::NONE)),
    }
}

/// Reads a text such as `[lower,upper)`, and appends the texts of the bounds to `lower` and `upper`. Returns whether each bound
/// exists, and the flags for inclusive bounds.
fn parse(text: &[u8], lower: &mut Vec<u8>, upper: &mut Vec<u8>) -> Option<((bool, bool), u8)> {
    let (open, rest) = text.split_first()?;
    let mut inclusive = match open {
        b'[' => LOWER_INCLUSIVE,
        b'(' => 0,
        _ => return None,
    };
    let (has_lower, end, rest) = side(rest, lower)?;
    if end != b',' {
        return None;
    }
    let (has_upper, end, rest) = side(rest, upper)?;
    match end {
        b']' => inclusive |= UPPER_INCLUSIVE,
        b')' => {}
        _ => return None,
    }
    rest.is_empty().then_some(((has_lower, has_upper), inclusive))
}

/// Reads one bound and the byte after it, which is a comma or a closing bracket. Returns whether the bound exists, this byte, and
/// the rest of the text. Quotes and backslashes work as in Postgres.
fn side<'a>(mut rest: &'a [u8], bound: &mut Vec<u8>) -> Option<(bool, u8, &'a [u8])> {
    let mut quoted = false;
    let mut any = false;
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            b',' | b')' | b']' if !quoted => return Some((any, *byte, rest)),
            b'(' | b'[' if !quoted => return None,
            b'"' if quoted && rest.first() == Some(&b'"') => {
                bound.push(b'"');
                rest = &rest[1..];
            }
            b'"' => quoted = !quoted,
            b'\\' => {
                let (escaped, tail) = rest.split_first()?;
                bound.push(*escaped);
                rest = tail;
            }
            byte => bound.push(*byte),
        }
        any = true;
    }
}

/// Reads `[lower, upper]` in JSON: the lower bound is included, the upper one excluded.
fn pair(raw: &[u8]) -> Option<Bounds<'_>> {
    let mut elements = Elements::of(raw);
    let (lower, upper) = (elements.next()?, elements.next()?);
    elements.next().is_none().then_some(Bounds { lower, upper, inclusive: LOWER_INCLUSIVE })
}

/// Reads an object that has at least one of the members `lower`, `upper` and `bounds`, and no others.
fn members(raw: &[u8]) -> Option<Bounds<'_>> {
    let mut bounds = Bounds { lower: Value::MISSING, upper: Value::MISSING, inclusive: LOWER_INCLUSIVE };
    let mut any = false;
    for (name, _, value) in RawMembers::of(raw) {
        match name {
            b"lower" => bounds.lower = value,
            b"upper" => bounds.upper = value,
            b"bounds" => {
                bounds.inclusive = match value.as_text()? {
                    b"[)" => LOWER_INCLUSIVE,
                    b"[]" => LOWER_INCLUSIVE | UPPER_INCLUSIVE,
                    b"(]" => UPPER_INCLUSIVE,
                    b"()" => 0,
                    _ => return None,
                }
            }
            _ => return None,
        }
        any = true;
    }
    any.then_some(bounds)
}
