//! json and jsonb: the JSON text of the value, unchanged except for NULs and bare `NaN` or `Infinity`. Text that doesn't come
//! from JSON becomes a JSON string.

use crate::copy::text::{field, patch_len};
use crate::json::string;
use crate::spec::NulPolicy;
use crate::value::{Flags, Kind, Reason, Value};

/// Returns whether a value is JSON text. Must not be called for values of the kind `Text`, which the callers handle before.
fn is_json(value: &Value<'_>) -> bool {
    !matches!(value.kind, Kind::Bytes | Kind::Missing)
}

/// Writes json. The type json stores the escape of a NUL (`\u0000`) as text, so the default policy keeps it. The other policies
/// remove or replace it.
pub(super) fn json(value: Value<'_>, nul: NulPolicy, out: &mut Vec<u8>) -> Result<(), Reason> {
    if value.kind == Kind::Text {
        return text(&value, nul, false, out);
    }
    if !is_json(&value) {
        return Err(Reason::TypeMismatch);
    }
    if value.flags.has(Flags::SPECIAL) {
        return special(&value, nul, false, out);
    }
    if !value.flags.has(Flags::NUL) || nul == NulPolicy::DeadLetter {
        return field(value.raw, out);
    }
    let len_at = out.len();
    out.extend_from_slice(&[0; 4]);
    string::without_nul_escapes(value.raw, nul == NulPolicy::Replace, out);
    patch_len(len_at, out)
}

/// Writes jsonb: the version byte 1, then the text, which Postgres parses. jsonb can't hold a NUL, neither in strings
/// nor in keys.
pub(super) fn jsonb(value: Value<'_>, nul: NulPolicy, out: &mut Vec<u8>) -> Result<(), Reason> {
    if value.kind == Kind::Text {
        return text(&value, nul, true, out);
    }
    if !is_json(&value) {
        return Err(Reason::TypeMismatch);
    }
    if value.flags.has(Flags::SPECIAL) {
        return special(&value, nul, true, out);
    }
    let len_at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 1]);
    match (value.flags.has(Flags::NUL), nul) {
        (false, _) => out.extend_from_slice(value.raw),
        (true, NulPolicy::DeadLetter) => return Err(Reason::NulInText),
        (true, NulPolicy::Strip) => string::without_nul_escapes(value.raw, false, out),
        (true, NulPolicy::Replace) => string::without_nul_escapes(value.raw, true, out),
    }
    patch_len(len_at, out)
}

/// Writes an array or object that contains `NaN` or `Infinity`. JSON has no such numbers, so they become strings, as in values
/// of binary formats.
#[cold]
#[inline(never)]
fn special(value: &Value<'_>, nul: NulPolicy, binary: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut quoted = Vec::with_capacity(value.raw.len() + 16);
    string::quote_specials(value.raw, &mut quoted);
    let value = Value { flags: value.flags.without(Flags::SPECIAL), raw: &quoted, ..*value };
    if binary { jsonb(value, nul, out) } else { json(value, nul, out) }
}

/// Writes text that doesn't come from JSON as a JSON string.
#[inline(never)]
fn text(value: &Value<'_>, nul: NulPolicy, binary: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut quoted = Vec::with_capacity(value.raw.len() + 2);
    string::quote(value.raw, &mut quoted);
    let string = Value { kind: Kind::String, raw: &quoted, ..*value };
    if binary { jsonb(string, nul, out) } else { json(string, nul, out) }
}
