//! A schema registry's framing: a zero byte, the schema id in four bytes, and for Protobuf the path of the message.

use crate::value::DecodeFault;
use crate::value::{Reason, shown};

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

#[cold]
pub(crate) fn not_framed(payload: &[u8]) -> DecodeFault {
    let start = shown(payload.get(..payload.len().min(8)).unwrap_or_default());
    let detail = format!(
        "the value of {} bytes begins with \"{start}\", not with a zero byte and a schema's number as a schema registry's \
         serializers write it",
        payload.len()
    );
    DecodeFault::new(Reason::InvalidFormat, detail)
}
