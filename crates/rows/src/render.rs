//! Renders values of binary formats as text: for text and jsonb columns, for nested records that become JSON, and for error
//! messages.

use std::io::Write;

use crate::base64;
use crate::json::string;
use crate::value::{Flags, Kind, Value};

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The longest unscaled number, in bytes, that is rendered. Decimals in schemas are shorter.
const DECIMAL_BYTES: usize = 1 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Number,
    Text,
    /// The value has no text: it is bytes that aren't UTF-8, or a decimal that is too long. The caller must not use the appended
    /// bytes.
    None,
}

/// Appends the text of a value of a binary format. Returns whether this text is a number, another text, or invalid.
pub(crate) fn text(value: &Value<'_>, out: &mut Vec<u8>) -> Form {
    let number = value.mantissa.cast_signed();
    match value.kind {
        Kind::Number => {
            let sign = if value.flags.has(Flags::NEGATIVE) { "-" } else { "" };
            put(out, format_args!("{sign}{}", value.mantissa));
            Form::Number
        }
        Kind::Float => float(f64::from_bits(value.mantissa), value.flags.has(Flags::SINGLE), out),
        Kind::Decimal => decimal(value.raw, value.exponent, out),
        Kind::Instant => {
            let (days, micros) = (number.div_euclid(MICROS_PER_DAY), number.rem_euclid(MICROS_PER_DAY));
            day(days, out);
            out.push(b'T');
            clock(micros, out);
            if value.exponent == 0 {
                out.push(b'Z');
            }
            Form::Text
        }
        Kind::Day => {
            day(number, out);
            Form::Text
        }
        Kind::Clock => {
            clock(number, out);
            Form::Text
        }
        Kind::Span => {
            span(value.raw, out);
            Form::Text
        }
        Kind::Uuid => {
            for (at, byte) in value.raw.iter().enumerate() {
                if matches!(at, 4 | 6 | 8 | 10) {
                    out.push(b'-');
                }
                put(out, format_args!("{byte:02x}"));
            }
            Form::Text
        }
        Kind::Bytes => {
            out.extend_from_slice(value.raw);
            if simdutf8::basic::from_utf8(value.raw).is_ok() { Form::Text } else { Form::None }
        }
        _ => {
            out.extend_from_slice(value.as_text().unwrap_or(value.raw));
            Form::Text
        }
    }
}

/// Appends a scalar as JSON. Bytes become base64, floats that JSON can't express become text, and a decimal that is too long
/// becomes null.
pub(crate) fn json(value: &Value<'_>, out: &mut Vec<u8>) {
    match value.kind {
        Kind::Missing | Kind::Null => out.extend_from_slice(b"null"),
        Kind::True => out.extend_from_slice(b"true"),
        Kind::False => out.extend_from_slice(b"false"),
        Kind::Bytes => {
            out.push(b'"');
            base64::encode(value.raw, out);
            out.push(b'"');
        }
        Kind::Text => string::quote(value.raw, out),
        _ => {
            let start = out.len();
            out.push(b'"');
            match text(value, out) {
                Form::Number => {
                    out.remove(start);
                }
                Form::Text => out.push(b'"'),
                Form::None => {
                    out.truncate(start);
                    out.extend_from_slice(b"null");
                }
            }
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into a vector can't fail.
    let _infallible = out.write_fmt(text);
}

/// Appends the shortest digits that parse to the same float.
fn float(number: f64, single: bool, out: &mut Vec<u8>) -> Form {
    if number.is_nan() {
        out.extend_from_slice(b"NaN");
        return Form::Text;
    }
    if number.is_infinite() {
        out.extend_from_slice(if number < 0.0 { b"-Infinity" } else { b"Infinity" });
        return Form::Text;
    }
    let plain = number == 0.0 || (1e-5..1e16).contains(&number.abs());
    #[expect(clippy::cast_possible_truncation, reason = "a float of 32 bits was widened to 64 and is made what it was")]
    let narrow = number as f32;
    match (single, plain) {
        (true, true) => put(out, format_args!("{narrow}")),
        (true, false) => put(out, format_args!("{narrow:e}")),
        (false, true) => put(out, format_args!("{number}")),
        (false, false) => put(out, format_args!("{number:e}")),
    }
    Form::Number
}

/// Appends a date as year, month and day in the proleptic Gregorian calendar (Howard Hinnant's algorithm). `days` counts from
/// 1970-01-01.
fn day(days: i64, out: &mut Vec<u8>) {
    let shifted = i128::from(days) + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    put(out, format_args!("{year:04}-{month:02}-{day:02}"));
}

fn clock(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    put(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    if fraction != 0 {
        put(out, format_args!(".{fraction:06}"));
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Appends a duration in ISO 8601, which Postgres reads.
fn span(raw: &[u8], out: &mut Vec<u8>) {
    let Ok(bytes) = <[u8; 16]>::try_from(raw) else { return };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    let micros = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let (days, months) = (i32::from_be_bytes([i, j, k, l]), i32::from_be_bytes([m, n, o, p]));
    put(out, format_args!("P{months}M{days}DT"));
    let (sign, size) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    put(out, format_args!("{sign}{}.{:06}S", size / 1_000_000, size % 1_000_000));
}

/// Appends the decimal with the unscaled number `raw` (in two's complement, big endian) and this power of ten.
fn decimal(raw: &[u8], exponent: i32, out: &mut Vec<u8>) -> Form {
    if raw.len() > DECIMAL_BYTES {
        return Form::None;
    }
    let negative = raw.first().is_some_and(|byte| byte & 0x80 != 0);
    let start = out.len();
    if raw.len() <= 16 {
        let filler = if negative { 0xff } else { 0 };
        let mut bytes = [filler; 16];
        bytes[16 - raw.len()..].copy_from_slice(raw);
        put(out, format_args!("{}", i128::from_be_bytes(bytes).unsigned_abs()));
    } else {
        long_digits(raw, negative, out);
    }
    let scale = usize::try_from(-i64::from(exponent)).unwrap_or(0);
    if scale > 0 && scale <= 0x4000 {
        let digits = out.len() - start;
        if digits <= scale {
            out.splice(start..start, std::iter::repeat_n(b'0', scale + 1 - digits));
        }
        out.insert(out.len() - scale, b'.');
    } else if exponent != 0 {
        put(out, format_args!("e{exponent}"));
    }
    if negative {
        out.insert(start, b'-');
    }
    Form::Number
}

/// Appends the digits of a number beyond 128 bits: long division by 10^9. This is rare, so it may allocate.
#[cold]
fn long_digits(raw: &[u8], negative: bool, out: &mut Vec<u8>) {
    let mut magnitude = raw.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut groups = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0_u64;
        for byte in &mut magnitude {
            let number = remainder << 8 | u64::from(*byte);
            *byte = u8::try_from(number / 1_000_000_000).unwrap_or(u8::MAX);
            remainder = number % 1_000_000_000;
        }
        groups.push(remainder);
    }
    put(out, format_args!("{}", groups.pop().unwrap_or(0)));
    for group in groups.iter().rev() {
        put(out, format_args!("{group:09}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Slot;

    fn shown(value: &Value<'_>) -> String {
        let mut out = Vec::new();
        text(value, &mut out);
        String::from_utf8(out).expect("text")
    }

    fn number(kind: Kind, number: i64) -> Value<'static> {
        Slot::number(kind, number).of(&[])
    }

    fn decimal_of(raw: &[u8], exponent: i32) -> String {
        shown(&Value { kind: Kind::Decimal, flags: Flags::BINARY, exponent, mantissa: 0, raw })
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(shown(&number(Kind::Instant, 1_769_860_800_123_456)), "2026-01-31T12:00:00.123456Z");
        assert_eq!(shown(&number(Kind::Instant, -1)), "1969-12-31T23:59:59.999999Z");
        assert_eq!(shown(&number(Kind::Instant, 0)), "1970-01-01T00:00:00Z");
        assert_eq!(shown(&Value { exponent: 1, ..number(Kind::Instant, 500_000) }), "1970-01-01T00:00:00.5");
        assert_eq!(shown(&number(Kind::Day, 11_016)), "2000-02-29");
        assert_eq!(shown(&number(Kind::Day, -719_162)), "0001-01-01");
        assert_eq!(shown(&number(Kind::Clock, 86_399_999_999)), "23:59:59.999999");
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal_of(&[0x30, 0x39], -2), "123.45");
        assert_eq!(decimal_of(&[0xff], -3), "-0.001");
        assert_eq!(decimal_of(&[0x80], 0), "-128");
        assert_eq!(decimal_of(&[], -2), "0.00");
        let mut long = [0; 20];
        long[0] = 1; // 2^152
        assert_eq!(decimal_of(&long, 0), "5708990770823839524233143877797980545530986496");
        let negative: Vec<u8> = std::iter::once(0xff).chain(std::iter::repeat_n(0, 19)).collect();
        assert_eq!(decimal_of(&negative, -1), "-570899077082383952423314387779798054553098649.6");
        assert_eq!(decimal_of(&[1], 3), "1e3");
    }

    #[test]
    fn floats_are_written_in_the_fewest_digits() {
        let float = |number: f64| shown(&Value { mantissa: number.to_bits(), ..self::number(Kind::Float, 0) });
        assert_eq!(
            [float(0.1), float(1.0), float(1e300), float(-0.0), float(f64::NAN)],
            ["0.1", "1", "1e300", "-0", "NaN"]
        );
        let flags = Flags::BINARY.with(Flags::SINGLE);
        let single = Value { flags, mantissa: f64::from(0.1_f32).to_bits(), ..number(Kind::Float, 0) };
        assert_eq!(shown(&single), "0.1");
    }

    #[test]
    fn json_holds_bytes_as_base64_and_quotes_what_is_no_number() {
        let json_of = |value: &Value<'_>| {
            let mut out = Vec::new();
            json(value, &mut out);
            String::from_utf8(out).expect("JSON")
        };
        let bytes = |raw| Value { flags: Flags::BINARY, ..Value::bytes(raw) };
        assert_eq!(json_of(&bytes(b"hello")), "\"aGVsbG8=\"");
        assert_eq!(json_of(&bytes(b"hell")), "\"aGVsbA==\"");
        assert_eq!(json_of(&bytes(b"")), "\"\"");
        assert_eq!(json_of(&number(Kind::Day, 0)), "\"1970-01-01\"");
        assert_eq!(json_of(&Slot::integer(-7).of(&[])), "-7");
        assert_eq!(json_of(&Value::text(b"a\"b", Flags::NONE)), "\"a\\\"b\"");
    }
}
