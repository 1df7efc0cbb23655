//! Writes values of binary formats (Avro, Protobuf). If the column's encoding can't take such a value directly, the value is
//! rendered as text, and the text is written.

use crate::copy::number::{fixed, put8};
use crate::copy::text::field;
use crate::copy::{Encoding, Scratch, time};
use crate::render::{self, Form};
use crate::spec::NulPolicy;
use crate::value::{Flags, Kind, Reason, Value};

impl Encoding {
    /// Writes a value with [`Flags::BINARY`]. Some combinations of a column and a value are rejected, for example a number for a
    /// bool column.
    #[inline(never)]
    pub(super) fn put_binary(
        &self,
        value: Value<'_>,
        nul: NulPolicy,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let number = value.mantissa.cast_signed();
        match (self, value.kind) {
            (
                Self::Int2 | Self::Int4 | Self::Int8 | Self::Oid | Self::Timestamp(_) | Self::TimestampTz(_),
                Kind::Number,
            ) => {
                return self.put_clean(value, nul, scratch, out);
            }
            (Self::Float8, Kind::Float) => put8(value.mantissa.to_be_bytes(), out),
            (Self::Float8, Kind::Number) => put8(double(&value).to_be_bytes(), out),
            (Self::Float4, Kind::Float) => return float4(f64::from_bits(value.mantissa), out),
            (Self::Timestamp(_), Kind::Instant) => put8(time::of_unix_micros(number)?.to_be_bytes(), out),
            (Self::TimestampTz(_), Kind::Instant) if value.exponent == 0 => {
                put8(time::of_unix_micros(number)?.to_be_bytes(), out);
            }
            (Self::Date, Kind::Day) => fixed(4, time::of_unix_days(number)?.to_be_bytes(), out),
            (Self::Time, Kind::Clock) => match number {
                0..=86_400_000_000 => put8(number.to_be_bytes(), out),
                _ => return Err(Reason::OutOfRange),
            },
            (Self::Interval, Kind::Span) | (Self::Uuid, Kind::Uuid) | (Self::Bytea, Kind::Bytes | Kind::Uuid) => {
                return field(value.raw, out);
            }
            (Self::Bool, kind) if kind != Kind::Text => return Err(Reason::TypeMismatch),
            (Self::Bytea | Self::Array(_) | Self::Point, _) => return Err(Reason::TypeMismatch),
            (Self::TimestampTz(times), Kind::Instant) => {
                let zone = times.zone.as_ref().ok_or(Reason::InvalidTimestamp)?;
                put8(time::of_local_micros(number, zone)?.to_be_bytes(), out);
            }
            _ => return self.by_text(&value, nul, scratch, out),
        }
        Ok(())
    }

    fn by_text(
        &self,
        value: &Value<'_>,
        nul: NulPolicy,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let mut text = std::mem::take(&mut scratch.text);
        text.clear();
        let result = if matches!(self, Self::Json | Self::Jsonb) {
            render::json(value, &mut text);
            let flags = if value.kind == Kind::Text { value.flags } else { Flags::NONE };
            self.put_clean(Value { kind: Kind::String, flags, exponent: 0, mantissa: 0, raw: &text }, nul, scratch, out)
        } else {
            match render::text(value, &mut text) {
                Form::None if value.kind == Kind::Bytes => Err(Reason::InvalidUtf8),
                Form::None => Err(Reason::OutOfRange),
                // Only the lexeme is valid here: mantissa and exponent aren't set.
                Form::Number => {
                    let flags = Flags::INEXACT;
                    let lexeme = Value { kind: Kind::Number, flags, exponent: 0, mantissa: 0, raw: &text };
                    self.put_clean(lexeme, nul, scratch, out)
                }
                Form::Text if memchr::memchr(0, &text).is_some() => {
                    // Write the text through `put`, which handles the NULs. `text` was taken out of the scratch space, so `put`
                    // uses a new buffer.
                    let flagged = Value::text(&text, Flags::NUL);
                    self.put(flagged, nul, scratch, out)
                }
                Form::Text => self.put_clean(Value::text(&text, Flags::NONE), nul, scratch, out),
            }
        };
        scratch.text = text;
        result
    }
}

#[expect(clippy::cast_precision_loss, reason = "a float8 holds the nearest number")]
fn double(value: &Value<'_>) -> f64 {
    let magnitude = value.mantissa as f64;
    if value.flags.has(Flags::NEGATIVE) { -magnitude } else { magnitude }
}

/// Writes a float8 as a float4, as Postgres casts it. A value that float4 can't hold is an error.
#[expect(clippy::cast_possible_truncation, reason = "what doesn't fit is looked for")]
fn float4(number: f64, out: &mut Vec<u8>) -> Result<(), Reason> {
    let narrow = number as f32;
    if narrow.is_infinite() != number.is_infinite() || narrow == 0.0 && number != 0.0 {
        return Err(Reason::OutOfRange);
    }
    fixed(4, narrow.to_be_bytes(), out);
    Ok(())
}
