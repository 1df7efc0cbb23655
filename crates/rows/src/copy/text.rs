//! text and related types, bytea, uuid. Strings have been decoded by now: they are UTF-8, and have neither escapes nor NULs.

use crate::base64;
use crate::copy::number::fixed;
use crate::value::{Kind, Reason, Value};

/// Appends a field of binary COPY: its length in four bytes, then its bytes.
#[inline]
pub(super) fn field(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let len = i32::try_from(bytes.len()).map_err(|_| Reason::TooLarge)?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Returns the bytes that a text column stores: the text of a string, or the JSON text of any other value.
#[inline]
fn stored<'a>(value: &Value<'a>) -> &'a [u8] {
    value.as_text().unwrap_or(value.raw)
}

#[inline]
pub(super) fn text(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    field(stored(&value), out)
}

/// Writes varchar(n) or char(n). Text that is too long is rejected, unless only spaces have to be cut, as in INSERT.
pub(super) fn limited(value: Value<'_>, limit: u32, out: &mut Vec<u8>) -> Result<(), Reason> {
    let bytes = stored(&value);
    if bytes.len() <= limit as usize {
        return field(bytes, out);
    }
    let mut starts = bytes.iter().enumerate().filter(|(_, byte)| !matches!(byte, 0x80..=0xbf)).map(|(at, _)| at);
    let end = starts.nth(limit as usize).unwrap_or(bytes.len());
    let (kept, excess) = bytes.split_at(end);
    if excess.iter().all(|byte| *byte == b' ') { field(kept, out) } else { Err(Reason::TooLong) }
}

/// Writes `name`, the type of Postgres' own identifiers: at most 63 bytes, never truncated.
pub(super) fn name(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let bytes = stored(&value);
    if bytes.len() > 63 { Err(Reason::TooLong) } else { field(bytes, out) }
}

/// Writes `"char"`: one byte, which is zero for an empty text.
pub(super) fn one_byte(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    match value.as_text().ok_or(Reason::TypeMismatch)? {
        [] => fixed(1, [0], out),
        [byte] => fixed(1, [*byte], out),
        _ => return Err(Reason::TooLong),
    }
    Ok(())
}

/// Writes a label of an enum. If `labels` is empty, the label isn't checked here but by Postgres.
pub(super) fn label(value: Value<'_>, labels: &[Box<str>], out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    let known = labels.is_empty() || labels.iter().any(|label| label.as_bytes() == text);
    if known { field(text, out) } else { Err(Reason::UnknownLabel) }
}

/// Writes bytea. Bytes are written unchanged. Text must be `\x` with hex digits, as Postgres prints bytea, or standard base64.
pub(super) fn bytea(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    if value.kind == Kind::Bytes {
        return field(value.raw, out);
    }
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    let len_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let decoded = match text.strip_prefix(b"\\x") {
        Some(hex) => from_hex(hex, out),
        None => base64::decode(text, out),
    };
    decoded.ok_or(Reason::TypeMismatch)?;
    patch_len(len_at, out)
}

/// Fills in the four-byte length at `len_at`: the number of bytes that follow it in `out`.
pub(super) fn patch_len(len_at: usize, out: &mut [u8]) -> Result<(), Reason> {
    let len = i32::try_from(out.len() - len_at - 4).map_err(|_| Reason::TooLarge)?;
    out[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

const NO_DIGIT: u8 = 0xff;

const HEX: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit as usize] as usize] = digit;
        table[b"0123456789ABCDEF"[digit as usize] as usize] = digit;
        digit += 1;
    }
    table
};

#[inline]
pub(super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let (high, low) = (HEX[high as usize], HEX[low as usize]);
    ((high | low) < 16).then_some(high << 4 | low)
}

fn from_hex(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    for [high, low] in pairs {
        out.push(hex_pair(*high, *low)?);
    }
    Some(())
}

/// Writes a uuid: 32 hex digits. As in Postgres, hyphens may separate groups of four digits, and braces may enclose
/// the whole text.
pub(super) fn uuid(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().ok_or(Reason::TypeMismatch)?;
    let inner = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let bytes = uuid_bytes(inner).ok_or(Reason::InvalidUuid)?;
    fixed(16, bytes, out);
    Ok(())
}

fn uuid_bytes(mut text: &[u8]) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let [high, low, rest @ ..] = text else { return None };
        *byte = hex_pair(*high, *low)?;
        text = rest;
        if let ([b'-', rest @ ..], true) = (text, at % 2 == 1 && at < 15) {
            text = rest;
        }
    }
    text.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Flags;

    fn bytea_of(text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        bytea(Value::text(text.as_bytes(), Flags::NONE), &mut out).ok().map(|()| out.split_off(4))
    }

    #[test]
    fn bytea_reads_hex_and_base64_and_nothing_else() {
        assert_eq!(bytea_of("\\xdeadBEEF"), Some(vec![0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(bytea_of("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(bytea_of("aGVsbA=="), Some(b"hell".to_vec()));
        assert_eq!(bytea_of(""), Some(Vec::new()));
        for text in ["\\xabc", "\\xzz", "aGVsbG8", "aGVsbG9=", "a===", "====", "aG Vs", "aGV=aGVs", "héé="] {
            assert_eq!(bytea_of(text), None, "{text}");
        }
    }

    #[test]
    fn uuids_are_read_as_postgres_reads_them() {
        let plain = "a0eebc999c0b4ef8bb6d6bb9bd380a11";
        let bytes = uuid_bytes(plain.as_bytes());
        assert!(bytes.is_some());
        for text in ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B4EF8-bb6d6bb9-bd380a11"] {
            assert_eq!(uuid_bytes(text.as_bytes()), bytes, "{text}");
        }
        for text in ["a0-eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", "a0ee--bc99"] {
            assert_eq!(uuid_bytes(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn only_spaces_are_cut_at_a_length_limit() {
        let put = |text: &str| {
            let mut out = Vec::new();
            limited(Value::text(text.as_bytes(), Flags::NONE), 3, &mut out).map(|()| out.split_off(4))
        };
        assert_eq!(put("üöä"), Ok("üöä".into()));
        assert_eq!(put("üöä   "), Ok("üöä".into()));
        assert_eq!(put("üöä x"), Err(Reason::TooLong));
        assert_eq!(put("ab "), Ok("ab ".into()));
    }
}
