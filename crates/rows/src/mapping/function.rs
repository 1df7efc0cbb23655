//! Functions that a column applies to its value before it is written: `scale` and `offset`, `parse = "json"`, `hash = "sha256"`.

use std::io::Write as _;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::copy::Encoding;
use crate::copy::decimal::Decimal;
use crate::json;
use crate::json::string;
use crate::render::{self, Form};
use crate::spec::Function;
use crate::value::{DecodeError, Flags, Kind, Reason, Value, shown};

/// The decimal number `digits` × 10^-`scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exact {
    digits: i128,
    scale: u32,
}

/// The most digits after the point, in numbers and in products.
const SCALE_MAX: u32 = 38;

impl Exact {
    /// Reads a decimal number. Returns `None` if the text isn't a decimal number, if 128 bits can't hold its digits, or if it has
    /// more than `SCALE_MAX` digits after the point.
    fn parse(text: &[u8]) -> Option<Self> {
        let decimal = Decimal::parse(text)?;
        let (fraction, exponent) = (i64::try_from(decimal.fraction.len()).ok()?, i64::from(decimal.exponent));
        let mut digits = decimal
            .whole
            .iter()
            .chain(decimal.fraction)
            .try_fold(0_i128, |number, digit| number.checked_mul(10)?.checked_add(i128::from(digit - b'0')))?;
        if decimal.negative {
            digits = -digits;
        }
        match u32::try_from(fraction - exponent) {
            Ok(scale) => (scale <= SCALE_MAX).then_some(Self { digits, scale }),
            Err(_) => {
                let zeros = u32::try_from(exponent - fraction).ok()?;
                Some(Self { digits: digits.checked_mul(10_i128.checked_pow(zeros)?)?, scale: 0 })
            }
        }
    }

    fn times(self, other: Self) -> Option<Self> {
        let scale = self.scale + other.scale;
        (scale <= SCALE_MAX).then_some(Self { digits: self.digits.checked_mul(other.digits)?, scale })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let [one, two] = [self, other].map(|number| {
            let factor = 10_i128.checked_pow(scale - number.scale)?;
            number.digits.checked_mul(factor)
        });
        Some(Self { digits: one?.checked_add(two?)?, scale })
    }

    fn write(mut self, keep_zeros: bool, out: &mut Vec<u8>) {
        while !keep_zeros && self.scale > 0 && self.digits % 10 == 0 {
            (self.digits, self.scale) = (self.digits / 10, self.scale - 1);
        }
        if self.digits < 0 {
            out.push(b'-');
        }
        let scale = self.scale as usize;
        // Writing into a vector can't fail.
        let _infallible = write!(out, "{:0width$}", self.digits.unsigned_abs(), width = scale + 1);
        if scale > 0 {
            out.insert(out.len() - scale, b'.');
        }
    }
}

/// A [`Function`] of a column, ready to be applied: its numbers are parsed, or its key is prepared.
#[derive(Clone, Debug)]
pub(super) enum Applied {
    Linear { scale: Exactly, offset: Exactly },
    ParseJson,
    Hash(Box<Hmac<Sha256>>),
}

/// Wraps [`Exact`], which is private to this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exactly(Exact);

impl Applied {
    /// # Errors
    /// If the function can't be used for a column with this encoding, or if its numbers have too many digits. The text says why.
    pub(super) fn new(function: &Function, encoding: &Encoding) -> Result<Self, String> {
        match function {
            Function::Linear { scale, offset } => {
                let exact = |text: &str| {
                    let number = Exact::parse(text.as_bytes()).map(Exactly);
                    number.ok_or_else(|| format!("{text} has too many digits"))
                };
                if !matches!(
                    encoding,
                    Encoding::Int2
                        | Encoding::Int4
                        | Encoding::Int8
                        | Encoding::Float4
                        | Encoding::Float8
                        | Encoding::Numeric(_)
                ) {
                    return Err("scale and offset are for columns of numbers".to_owned());
                }
                Ok(Self::Linear { scale: exact(scale)?, offset: exact(offset)? })
            }
            Function::ParseJson => match encoding {
                Encoding::Json | Encoding::Jsonb | Encoding::Array(_) | Encoding::Point => Ok(Self::ParseJson),
                _ => Err("parse = \"json\" is for jsonb, json and arrays".to_owned()),
            },
            Function::Hash(key) => match encoding {
                Encoding::Text | Encoding::Limited(64..) | Encoding::Bytea => {
                    let mac = <Hmac<Sha256> as Mac>::new_from_slice(key.bytes())
                        .map_err(|_| "the key can't be used".to_owned())?;
                    Ok(Self::Hash(Box::new(mac)))
                }
                _ => Err("a hash is 64 hexadecimal digits, or 32 bytes; make the column text or bytea".to_owned()),
            },
        }
    }

    /// Returns the value to write instead of `value`, which is neither missing nor null. If the function computes a new value,
    /// its bytes are in `made`.
    ///
    /// # Errors
    /// If the function has no result for this value.
    pub(super) fn apply<'a>(
        &self,
        value: Value<'a>,
        encoding: &Encoding,
        made: &'a mut Vec<u8>,
    ) -> Result<Value<'a>, DecodeError> {
        made.clear();
        match self {
            Self::Linear { scale, offset } => {
                plain(&value, made);
                let result = Exact::parse(made).and_then(|number| number.times(scale.0)?.plus(offset.0));
                let Some(result) = result else {
                    let reason = if Decimal::parse(made).is_some() { Reason::OutOfRange } else { Reason::TypeMismatch };
                    let detail = format!("{} can't be scaled exactly", shown(made));
                    return Err(DecodeError::new(reason, detail));
                };
                made.clear();
                result.write(matches!(encoding, Encoding::Numeric(_)), made);
                // Only the lexeme is valid here: mantissa and exponent aren't set.
                Ok(Value { kind: Kind::Number, flags: Flags::INEXACT, exponent: 0, mantissa: 0, raw: made })
            }
            Self::ParseJson => {
                if !matches!(value.kind, Kind::String | Kind::Text | Kind::Lexical) {
                    return Ok(value);
                }
                plain(&value, made);
                match json::document(made) {
                    // The text is `null`: a json or jsonb column gets JSON's null, as from an INSERT of this text. A value of
                    // kind `Null` would become SQL's NULL, so the kind is changed.
                    Ok(slot) if slot.kind == Kind::Null && matches!(encoding, Encoding::Json | Encoding::Jsonb) => {
                        Ok(Value { kind: Kind::Object, ..slot.of(made) })
                    }
                    Ok(slot) => Ok(slot.of(made)),
                    Err(DecodeError { reason, detail }) => {
                        Err(DecodeError { reason, detail: detail.replacen("the value", "the text", 1) })
                    }
                }
            }
            Self::Hash(key) => {
                plain(&value, made);
                let mut mac = Hmac::clone(key);
                mac.update(made);
                let digest = mac.finalize().into_bytes();
                made.clear();
                if matches!(encoding, Encoding::Bytea) {
                    made.extend_from_slice(&digest);
                    return Ok(Value { kind: Kind::Bytes, flags: Flags::BINARY, exponent: 0, mantissa: 0, raw: made });
                }
                for byte in digest {
                    // Writing into a vector can't fail.
                    let _infallible = write!(made, "{byte:02x}");
                }
                Ok(Value::text(made, Flags::NONE))
            }
        }
    }
}

/// Appends the text of a value: the digits of a number, a string without quotes and escapes, bytes unchanged.
fn plain(value: &Value<'_>, out: &mut Vec<u8>) {
    match (value.kind, value.as_text()) {
        (Kind::String, Some(text)) if value.flags.has(Flags::ESCAPED) => string::unescape(text, out),
        (_, Some(text)) => out.extend_from_slice(text),
        (Kind::Number, _) if value.raw.is_empty() => {
            let _number: Form = render::text(value, out);
        }
        (Kind::True, _) => out.extend_from_slice(b"true"),
        (Kind::False, _) => out.extend_from_slice(b"false"),
        _ if value.flags.has(Flags::BINARY) => {
            let _text: Form = render::text(value, out);
        }
        _ => out.extend_from_slice(value.raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::HashKey;

    fn apply(function: &Function, encoding: &Encoding, text: &str) -> Result<String, Reason> {
        let slot = json::document(text.as_bytes()).expect("JSON");
        let mut made = Vec::new();
        let applied = Applied::new(function, encoding).expect("a function of the column");
        let value = applied.apply(slot.of(text.as_bytes()), encoding, &mut made).map_err(|fault| fault.reason)?;
        Ok(format!("{:?} {}", value.kind, String::from_utf8_lossy(value.raw)))
    }

    #[test]
    fn numbers_are_scaled_exactly() {
        let linear =
            |scale: &str, offset: &str| Function::Linear { scale: scale.to_owned(), offset: offset.to_owned() };
        for (scale, offset, value, wanted) in [
            ("0.1", "-40", "653", "25.3"),
            ("0.1", "-40", "650", "25"),
            ("0.1", "0", "-1", "-0.1"),
            ("1e-7", "0", "521234567", "52.1234567"),
            ("1", "0.5", "\"12\"", "12.5"),
            ("2", "0", "1e3", "2000"),
            ("0.30", "0.1", "9007199254740993", "2702159776422298"),
        ] {
            let found = apply(&linear(scale, offset), &Encoding::Float8, value);
            assert_eq!(found, Ok(format!("Number {wanted}")), "{value} * {scale} + {offset}");
        }
        assert_eq!(apply(&linear("0.1", "-40"), &Encoding::Numeric(None), "650"), Ok("Number 25.0".to_owned()));
        assert_eq!(apply(&linear("1", "0"), &Encoding::Int4, "\"x\""), Err(Reason::TypeMismatch));
        let large = "1".repeat(40);
        assert_eq!(apply(&linear("1", "0"), &Encoding::Int4, &large), Err(Reason::OutOfRange));
        Applied::new(&linear("1", "0"), &Encoding::Text).expect_err("text isn't scaled");
    }

    #[test]
    fn text_is_parsed_and_hashed() {
        let parsed = apply(&Function::ParseJson, &Encoding::Jsonb, r#""{\"a\":1}""#);
        assert_eq!(parsed, Ok(r#"Object {"a":1}"#.to_owned()));
        assert_eq!(apply(&Function::ParseJson, &Encoding::Jsonb, "{}"), Ok("Object {}".to_owned()));
        assert_eq!(apply(&Function::ParseJson, &Encoding::Jsonb, "\"{\""), Err(Reason::InvalidJson));
        // RFC 4231, test case 2.
        let key = Function::Hash(HashKey::new(b"Jefe"));
        let found = apply(&key, &Encoding::Text, "\"what do ya want for nothing?\"");
        let wanted = "Text 5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(found, Ok(wanted.to_owned()));
        assert!(!format!("{key:?}").contains("74"), "the key is shown");
    }
}
