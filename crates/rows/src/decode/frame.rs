//! How a record names its schema in a registry. Confluent's serializers use one of two forms:
//! - A prefix in front of the value: a zero byte, the schema's number in four bytes and, for Protobuf, the indexes of the message
//!   in the schema.
//! - A header: either such a prefix, or the byte 1 and the schema's GUID in sixteen bytes. The value then has no prefix.
//!
//! Apicurio's serializers may write the number in eight bytes: in the prefix, or in headers with other names. For Protobuf, they
//! may name the message in a further header.

use tidegate_protocol::record::Headers;

use crate::schema::SchemaId;
use crate::value::{DecodeError, Reason, shown};

/// The length in bytes of a prefix with an id of four bytes: a zero byte, then the id.
pub(crate) const HEAD: usize = 5;

/// The length in bytes of a prefix with an id of eight bytes: a zero byte, then the id.
pub(crate) const LONG_HEAD: usize = 9;

/// Returns the schema id in a value's prefix. For an id of eight bytes, returns its last four bytes. `None` if the value is too
/// short, or doesn't begin with a zero byte.
#[inline]
pub(crate) fn schema_id(payload: &[u8]) -> Option<u32> {
    match payload {
        [0, 0, 0, 0, 0, a, b, c, d, ..] | [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Returns the length of a framed value's prefix, without Protobuf's message indexes. No registry assigns the id 0. So if four
/// zero bytes follow the first byte, they are the first half of an id of eight bytes.
#[inline]
pub(crate) fn head(payload: &[u8]) -> usize {
    match payload {
        [0, 0, 0, 0, 0, _, _, _, _, ..] => LONG_HEAD,
        _ => HEAD,
    }
}

/// The names of the headers that may name a schema. `apicurio` has two headers of Apicurio Registry: the one with the content id,
/// then the one with the global id. If a record has both, the content id is used: the registry's Confluent-compatible interface
/// finds global ids only in legacy mode. `message` is Apicurio's header with the name of the Protobuf message.
#[derive(Debug)]
pub(crate) struct HeaderNames {
    confluent: &'static [u8],
    apicurio: [&'static [u8]; 2],
    message: &'static [u8],
}

/// The schema of a record's value or key, as its headers name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SchemaHeader<'a> {
    /// The value of the header that names the schema, in Confluent's form; see [`of_header`].
    pub(crate) schema: &'a [u8],
    /// The name of the Protobuf message, without the package. `None` if no header of Apicurio's names the message.
    pub(crate) message: Option<&'a [u8]>,
}

pub(crate) const OF_VALUE: HeaderNames = HeaderNames {
    confluent: b"__value_schema_id",
    apicurio: [b"apicurio.value.contentId", b"apicurio.value.globalId"],
    message: b"apicurio.protobuf.type",
};
pub(crate) const OF_KEY: HeaderNames = HeaderNames {
    confluent: b"__key_schema_id",
    apicurio: [b"apicurio.key.contentId", b"apicurio.key.globalId"],
    message: b"apicurio.protobuf.type.key",
};

/// Returns the headers that name a schema and its message; `None` if no header names a schema. If a header occurs more than once,
/// the last one counts, as in the registry's own readers. An id in Apicurio's form is converted to Confluent's form, without
/// message indexes.
pub(crate) fn header<'a>(headers: Headers<'a>, names: &HeaderNames) -> Option<SchemaHeader<'a>> {
    let mut found = [None; 3];
    let mut message = None;
    for (name, value) in headers.iter() {
        let [confluent, content, global] = &mut found;
        if name == names.confluent {
            *confluent = value;
        } else if name == names.apicurio[0] {
            *content = value.map(of_apicurio);
        } else if name == names.apicurio[1] {
            *global = value.map(of_apicurio);
        } else if name == names.message {
            message = value;
        }
    }
    let schema = found.into_iter().flatten().next()?;
    Some(SchemaHeader { schema, message })
}

/// Converts an id in eight bytes, big-endian, to Confluent's form: a zero byte and the number in four bytes. Apicurio's
/// Confluent-compatible interface has only ids below 2^32, so the last five bytes already have this form. A header that isn't
/// such an id is returned unchanged, so that the error shows it. Except: a header that begins with 0 or 1 could be taken for
/// Confluent's form, so it becomes empty.
fn of_apicurio(header: &[u8]) -> &[u8] {
    match header {
        [0, 0, 0, 0, _, _, _, _] => header.get(3..).unwrap_or_default(),
        // This isn't a valid id, and must not be read as Confluent's form.
        [0 | 1, ..] => &[],
        _ => header,
    }
}

/// Returns the schema that a header names, and the length in bytes of the part that names it: 5 with a number, 17 with a GUID.
/// `None` if the header has another form.
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
