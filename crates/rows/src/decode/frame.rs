//! How a record names its schema in a registry. There are two ways. Either a frame comes before the value: a zero byte, the
//! schema's number in four bytes, and for Protobuf the indexes of the message in its file. Or a header has the name, and the
//! value has no frame. The header contains either a byte of value 1 and the schema's GUID in sixteen bytes, or the same bytes as
//! a frame.

use tidegate_protocol::record::Headers;

use crate::schema::SchemaId;
use crate::value::{DecodeError, Reason, shown};

/// The length of the zero byte and the schema id.
pub(crate) const HEAD: usize = 5;

/// Returns the schema id; `None` if the value isn't framed.
#[inline]
pub(crate) fn schema_id(payload: &[u8]) -> Option<u32> {
    match payload {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// The header that names a value's schema.
pub(crate) const VALUE_HEADER: &[u8] = b"__value_schema_id";
/// The header that names a key's schema.
pub(crate) const KEY_HEADER: &[u8] = b"__key_schema_id";

/// Returns the value of the last header of this name, as the registry's own readers take it.
pub(crate) fn header<'a>(headers: Headers<'a>, name: &[u8]) -> Option<&'a [u8]> {
    headers.iter().filter(|(of, _)| *of == name).last().and_then(|(_, value)| value)
}

/// Returns the schema that a header names, and the index of the first byte after the name.
pub(crate) fn of_header(header: &[u8]) -> Option<(SchemaId, usize)> {
    match header.split_first()? {
        (0, rest) => Some((SchemaId::Number(u32::from_be_bytes(*rest.first_chunk()?)), HEAD)),
        (1, rest) => Some((SchemaId::Guid(u128::from_be_bytes(*rest.first_chunk()?)), 17)),
        _ => None,
    }
}

#[cold]
pub(crate) fn not_of_header(header: &[u8]) -> DecodeError {
    let start = shown(header.get(..header.len().min(20)).unwrap_or_default());
    let detail = format!(
        "the header that names its schema has {} bytes, \"{start}\", and neither a one with a GUID of 16 bytes nor a zero with a \
         number of 4 bytes",
        header.len()
    );
    DecodeError::new(Reason::InvalidFormat, detail)
}

#[cold]
pub(crate) fn not_framed(payload: &[u8]) -> DecodeError {
    let start = shown(payload.get(..payload.len().min(8)).unwrap_or_default());
    let detail = format!(
        "the value of {} bytes begins with \"{start}\", not with a zero byte and a schema's number as a schema registry's \
         serializers write it",
        payload.len()
    );
    DecodeError::new(Reason::InvalidFormat, detail)
}
