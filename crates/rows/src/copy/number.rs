//! bool, integers and floats. The decoder represents a number by mantissa and exponent. If these can't express the number, its
//! text (lexeme) is read here. As in INSERT, a string that is a literal of the type is accepted: producers write 64-bit integers
//! as JSON strings so that no reader rounds them.

use crate::copy::decimal::{Decimal, Remainder};
use crate::value::{Flags, Kind, Reason, Value};

/// Returns the value as a whole number, without rounding. The JSON numbers `1.0` and `1e3` are whole numbers, and `1.5` isn't. A
/// string must be an integer literal, so the string `"1.0"` is rejected.
#[inline]
pub(super) fn integer(value: Value<'_>) -> Result<i64, Reason> {
    if value.kind != Kind::Number {
        return integer_of_text(value);
    }
    if value.exponent != 0 || value.flags.has(Flags::INEXACT) {
        return integer_by_lexeme(value);
    }
    let negative = value.flags.has(Flags::NEGATIVE);
    match i64::try_from(value.mantissa) {
        Ok(number) => Ok(if negative { -number } else { number }),
        Err(_) if negative && value.mantissa == i64::MIN.unsigned_abs() => Ok(i64::MIN),
        Err(_) => Err(Reason::OutOfRange),
    }
}

/// Reads an integer literal as Postgres does, for example ` -42 `, `0xff`, `0o17`, `0b1` or `1_000`. `1.0` isn't an integer
/// literal.
#[inline(never)]
fn integer_of_text(value: Value<'_>) -> Result<i64, Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?.trim_ascii();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let (radix, mut digits) = match digits {
        [b'0', b'x' | b'X', digits @ ..] => (16, digits),
        [b'0', b'o' | b'O', digits @ ..] => (8, digits),
        [b'0', b'b' | b'B', digits @ ..] => (2, digits),
        digits => (10, digits),
    };
    // An underscore must be followed by a digit, and must follow a digit or the base prefix.
    if radix != 10
        && let [b'_', rest @ ..] = digits
    {
        digits = rest;
    }
    let mut number = Some(0_i64);
    let mut after_digit = false;
    for byte in digits {
        match char::from(*byte).to_digit(radix) {
            Some(digit) => {
                let digit = if negative { -i64::from(digit) } else { i64::from(digit) };
                number = number.and_then(|number| number.checked_mul(radix.into())?.checked_add(digit));
                after_digit = true;
            }
            None if *byte == b'_' && after_digit => after_digit = false,
            None => return Err(Reason::TypeMismatch),
        }
    }
    if after_digit { number.ok_or(Reason::OutOfRange) } else { Err(Reason::TypeMismatch) }
}

#[cold]
fn integer_by_lexeme(value: Value<'_>) -> Result<i64, Reason> {
    let decimal = Decimal::parse(value.raw).ok_or(Reason::TypeMismatch)?;
    match decimal.scaled(0) {
        (_, remainder) if remainder != Remainder::Zero => Err(Reason::TypeMismatch),
        (whole, _) => whole.and_then(|whole| i64::try_from(whole).ok()).ok_or(Reason::OutOfRange),
    }
}

#[inline]
pub(super) fn int2(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let number = i16::try_from(integer(value)?).map_err(|_| Reason::OutOfRange)?;
    fixed(2, number.to_be_bytes(), out);
    Ok(())
}

#[inline]
pub(super) fn int4(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let number = i32::try_from(integer(value)?).map_err(|_| Reason::OutOfRange)?;
    fixed(4, number.to_be_bytes(), out);
    Ok(())
}

#[inline]
pub(super) fn int8(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    put8(integer(value)?.to_be_bytes(), out);
    Ok(())
}

pub(super) fn oid(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let number = u32::try_from(integer(value)?).map_err(|_| Reason::OutOfRange)?;
    fixed(4, number.to_be_bytes(), out);
    Ok(())
}

pub(super) fn boolean(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    match value.kind {
        Kind::True => fixed(1, [1], out),
        Kind::False => fixed(1, [0], out),
        _ => {
            let text = value.as_text().ok_or(Reason::TypeMismatch)?;
            fixed(1, [u8::from(boolean_of_text(text).ok_or(Reason::TypeMismatch)?)], out);
        }
    }
    Ok(())
}

/// Reads Postgres' words for true and false. Each may be shortened to an unambiguous prefix, and may have spaces around it.
#[inline(never)]
fn boolean_of_text(text: &[u8]) -> Option<bool> {
    let text = text.trim_ascii();
    let begins = |word: &str, least: usize| {
        text.len() >= least && word.as_bytes().get(..text.len()).is_some_and(|part| part.eq_ignore_ascii_case(text))
    };
    match () {
        () if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == b"1" => Some(true),
        () if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == b"0" => Some(false),
        () => None,
    }
}

const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
const POW10_F32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

/// Writes a float8, correctly rounded. If floats can hold both the mantissa and the power of ten exactly, one multiplication or
/// division is enough, and it rounds only once (Clinger's fast path). Otherwise the lexeme is parsed.
#[inline]
pub(super) fn float8(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    put8(double(value)?.to_be_bytes(), out);
    Ok(())
}

#[inline]
#[expect(clippy::cast_precision_loss, reason = "the mantissa is checked to be exact in a float")]
pub(super) fn double(value: Value<'_>) -> Result<f64, Reason> {
    if value.kind == Kind::Number
        && value.mantissa <= 1 << 53
        && !value.flags.has(Flags::INEXACT)
        && let Some(power) = POW10.get(value.exponent.unsigned_abs() as usize)
    {
        let mantissa = value.mantissa as f64;
        let number = if value.exponent < 0 { mantissa / power } else { mantissa * power };
        // Set the sign without a branch: whether a coordinate is negative can't be predicted.
        let sign = u64::from(value.flags.has(Flags::NEGATIVE)) << 63;
        return Ok(f64::from_bits(number.to_bits() | sign));
    }
    let (text, finite) = float_text(&value)?;
    let number: f64 = text.parse().map_err(|_| Reason::TypeMismatch)?;
    let lost = finite && (number.is_infinite() || number == 0.0 && !is_zero(text.as_bytes()));
    if lost { Err(Reason::OutOfRange) } else { Ok(number) }
}

/// Writes a float4 by the method of [`float8`]. As in Postgres, the decimal value is rounded directly to float4, without an
/// intermediate float8.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "the mantissa is checked to be exact in a float")]
pub(super) fn float4(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    if value.kind == Kind::Number
        && value.mantissa <= 1 << 24
        && !value.flags.has(Flags::INEXACT)
        && let Some(power) = POW10_F32.get(value.exponent.unsigned_abs() as usize)
    {
        let mantissa = value.mantissa as f32;
        let number = if value.exponent < 0 { mantissa / power } else { mantissa * power };
        let sign = u32::from(value.flags.has(Flags::NEGATIVE)) << 31;
        fixed(4, (number.to_bits() | sign).to_be_bytes(), out);
        return Ok(());
    }
    let (text, finite) = float_text(&value)?;
    let number: f32 = text.parse().map_err(|_| Reason::TypeMismatch)?;
    if finite && (number.is_infinite() || number == 0.0 && !is_zero(text.as_bytes())) {
        return Err(Reason::OutOfRange);
    }
    fixed(4, number.to_be_bytes(), out);
    Ok(())
}

/// Returns text that Rust's parser can read: the lexeme of a number, or the name of NaN or of an infinity. The flag is false for
/// these names.
fn float_text<'a>(value: &Value<'a>) -> Result<(&'a str, bool), Reason> {
    let lexeme = match value.as_text() {
        Some(text) => match special(text) {
            Some(special) => return Ok((special.text(), false)),
            // Read decimal numbers only: Rust's parser also accepts words, such as `+nan`.
            None => Decimal::parse(text.trim_ascii()).map(|_| text.trim_ascii()).ok_or(Reason::TypeMismatch)?,
        },
        None if value.kind == Kind::Number => value.raw,
        None => return Err(Reason::TypeMismatch),
    };
    std::str::from_utf8(lexeme).map(|text| (text, true)).map_err(|_| Reason::TypeMismatch)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Nan,
    Infinity,
    NegativeInfinity,
}

impl Special {
    fn text(self) -> &'static str {
        match self {
            Self::Nan => "NaN",
            Self::Infinity => "inf",
            Self::NegativeInfinity => "-inf",
        }
    }
}

/// Reads Postgres' names for NaN and the infinities. Ignores case and spaces around the name.
pub(super) fn special(text: &[u8]) -> Option<Special> {
    let text = text.trim_ascii();
    let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name.as_bytes()));
    match () {
        () if is(&["nan"]) => Some(Special::Nan),
        () if is(&["infinity", "inf", "+infinity", "+inf"]) => Some(Special::Infinity),
        () if is(&["-infinity", "-inf"]) => Some(Special::NegativeInfinity),
        () => None,
    }
}

fn is_zero(lexeme: &[u8]) -> bool {
    lexeme.iter().take_while(|byte| **byte | 0x20 != b'e').all(|byte| !matches!(byte, b'1'..=b'9'))
}

/// Writes a field of `N` bytes. `len` must be equal to `N`.
#[inline]
pub(super) fn fixed<const N: usize>(len: u8, bytes: [u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, len]);
    out.extend_from_slice(&bytes);
}

/// Writes a field of eight bytes and its length with a single copy.
#[inline]
pub(super) fn put8(bytes: [u8; 8], out: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h] = bytes;
    out.extend_from_slice(&[0, 0, 0, 8, a, b, c, d, e, f, g, h]);
}
