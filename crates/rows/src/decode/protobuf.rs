//! Protobuf. Each message type that occurs has a plan, which says which fields the columns need. Records are decoded by the plan,
//! without building a tree of their values.
//!
//! With a registry, each record names its schema and the message in it. With a local file, the configuration can name the
//! message. If it doesn't, each value's frame names the message; a value without a frame has the file's first message type.
//!
//! Some fields have presence: in proto3 these are `optional` fields, messages and `oneof`. If a record lacks such a field, the
//! field and all fields inside it are missing. Any other field then has its default: zero, false, the empty text, the first name
//! of an enum, an empty list or map.

mod plan;
#[cfg(test)]
mod tests;
mod walk;
mod wire;

use std::sync::Arc;

use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::frame::SchemaHeader;
use crate::decode::plans::{Framed, Plans, whose};
use crate::schema::protobuf::{MessageId, ProtoFile};
use crate::schema::{Parsed, Schema, SchemaId, Schemas};
use crate::spec::SchemaSource;
use crate::value::DecodeError;
use crate::value::{Reason, Slot, shown};
use plan::ProtobufPlan;
use walk::{Broken, ProtobufWalk};

/// The most message indexes that a frame may have. Each index is one level of nested message types.
const INDEXES_MAX: usize = 32;

/// A schema, and the plans of those of its message types that occurred in values so far.
type Made = (Arc<Schema>, Vec<(MessageId, ProtobufPlan)>);

#[derive(Debug)]
pub(crate) struct ProtobufDecoder {
    paths: Vec<Path>,
    leftovers: Leftovers,
    /// The path to the object that holds the record's fields: `after` in Debezium's envelope, otherwise empty.
    base: Vec<String>,
    /// Whether values have a frame or a header that names their message.
    framed: bool,
    message: Option<String>,
    plans: Plans<Made>,
}

impl ProtobufDecoder {
    pub(crate) fn new(
        source: &SchemaSource,
        paths: &[Path],
        leftovers: Leftovers,
        base: &[String],
        schemas: Option<&Arc<dyn Schemas>>,
    ) -> Self {
        Self {
            paths: paths.to_vec(),
            leftovers,
            base: base.to_vec(),
            framed: source.framed(),
            message: source.message().map(str::to_owned),
            plans: Plans::new(source, schemas, make),
        }
    }

    #[inline]
    pub(crate) fn wants(&mut self, payload: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
        self.plans.wants(payload, header.map(|header| header.schema), make)
    }

    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        header: Option<SchemaHeader<'_>>,
        fields: &mut Fields,
    ) -> Result<(), DecodeError> {
        let Self { paths, leftovers, base, framed, message, plans } = self;
        fields.reset(paths.len());
        let of_schema = header.map(|header| header.schema);
        let Framed { id, start, indexes: of_header } = plans.open(payload, of_schema, make)?;
        let (schema, made) = plans.current()?;
        let Parsed::Protobuf(file) = &schema.0 else { return Err(schema.is_not("protobuf", id)) };
        let mut indexes = [0; INDEXES_MAX];
        let of_message = header.and_then(|header| header.message);
        let named = match of_header {
            Some([]) => headed(file, payload, id, of_message),
            None if *framed => type_ref(file, payload, start),
            _ => None,
        };
        let (start, indexes) = match (of_header, named) {
            (_, Some((at, _))) => (at, None),
            (Some([]), None) => (start, None),
            (Some(bytes), None) => {
                let (_, count) = message_indexes(bytes, 0, &mut indexes)?;
                (start, Some(&indexes[..count]))
            }
            (None, None) if *framed => {
                let (at, count) = message_indexes(payload, start, &mut indexes)?;
                (at, Some(&indexes[..count]))
            }
            (None, None) => (start, None),
        };
        // For a local schema, the configured message takes precedence over the frame's.
        let wanted = match (message, named, indexes) {
            (Some(name), ..) => file.by_name(name),
            (None, Some((_, id)), _) => Some(id),
            (None, None, Some(indexes)) => file.by_indexes(indexes),
            (None, None, None) if of_header.is_some() => return Err(unnamed(id, of_message)),
            (None, None, None) => file.by_indexes(&[0]),
        };
        let Some(wanted) = wanted else {
            let (whose, indexes) = (whose(id), indexes.unwrap_or_default());
            let where_from = if header.is_some() { "header" } else { "frame" };
            let detail = format!("its {where_from} names the message {indexes:?}, which {whose} doesn't have");
            return Err(DecodeError::new(Reason::InvalidFormat, detail));
        };
        let at = match made.iter().position(|(known, _)| *known == wanted) {
            Some(at) => at,
            None => {
                made.push((wanted, ProtobufPlan::new(file, wanted, paths, *leftovers, base)));
                made.len() - 1
            }
        };
        let mut walk = ProtobufWalk::new(file, &made[at].1, payload, start, fields);
        let Err(Broken) = walk.document() else {
            return match walk.refused {
                Some(field) => Err(DecodeError::new(Reason::UnknownField, format!("the field {field} has no column"))),
                None => Ok(()),
            };
        };
        let (at, what) = (walk.at, walk.what);
        fields.slots.fill(Slot::MISSING);
        Err(broken(at, what, id))
    }
}

fn make(schema: Arc<Schema>, id: Option<SchemaId>) -> Result<Made, DecodeError> {
    match &schema.0 {
        Parsed::Protobuf(_) => Ok((schema, Vec::new())),
        _ => Err(schema.is_not("protobuf", id)),
    }
}

/// Returns the message type of a value, from the message indexes or the type reference in its frame. `behind_number` contains the
/// bytes that follow the schema's number, in the value or in a header.
pub(crate) fn message_of(file: &ProtoFile, behind_number: &[u8]) -> Option<MessageId> {
    if let Some((_, id)) = type_ref(file, behind_number, 0) {
        return Some(id);
    }
    let mut indexes = [0; INDEXES_MAX];
    let (_, count) = message_indexes(behind_number, 0, &mut indexes).ok()?;
    file.by_indexes(&indexes[..count])
}

/// Reads the type reference that Apicurio's serializer writes before a message. The reference is itself a Protobuf message,
/// preceded by its length. Its only field, number 1, is the name of an outermost message of the file, without the package.
/// Returns the index of the first byte after the reference, and the message; `None` if these bytes are no type reference.
pub(crate) fn type_ref(file: &ProtoFile, payload: &[u8], start: usize) -> Option<(usize, MessageId)> {
    const NAME: u8 = 0x0a;
    let mut at = start;
    let length = usize::try_from(wire::varint(payload, &mut at)?).ok()?;
    let end = at.checked_add(length)?;
    if payload.get(at) != Some(&NAME) {
        return None;
    }
    at += 1;
    let length = usize::try_from(wire::varint(payload, &mut at)?).ok()?;
    if at.checked_add(length)? != end {
        return None;
    }
    let name = std::str::from_utf8(payload.get(at..end)?).ok()?;
    file.outermost(name).map(|id| (end, id))
}

/// Finds the message type of a value whose schema is named by a header without message indexes. `id` is the schema's id. `name`
/// is the message type's name, if a header has it. Returns the index at which the message begins, and its type; `None` if the
/// type isn't known.
///
/// If there is no `name`, the type comes from the type reference before the message. Apicurio's serializers write it since
/// version 3. If it is missing too, the type depends on `id`:
/// - A number: the file's outermost message, if there is only one. Confluent's serializers would have written message indexes.
/// - Otherwise: the file's first message.
pub(crate) fn headed(
    file: &ProtoFile,
    payload: &[u8],
    id: Option<SchemaId>,
    name: Option<&[u8]>,
) -> Option<(usize, MessageId)> {
    let in_value = type_ref(file, payload, 0);
    let Some(name) = name else {
        let message = || match id {
            Some(SchemaId::Number(_)) => file.only_outermost(),
            _ => file.by_indexes(&[0]),
        };
        return in_value.or_else(|| message().map(|id| (0, id)));
    };
    let id = file.outermost(std::str::from_utf8(name).ok()?)?;
    Some(in_value.filter(|(_, of_value)| *of_value == id).unwrap_or((0, id)))
}

#[cold]
fn unnamed(id: Option<SchemaId>, name: Option<&[u8]>) -> DecodeError {
    let whose = whose(id);
    let detail = match name {
        Some(name) => format!("its header names the message \"{}\", which {whose} doesn't have", shown(name)),
        None => format!(
            "neither its headers nor its first bytes say which message of {whose} it is; name the message in the header \
             apicurio.protobuf.type, or for a key in apicurio.protobuf.type.key, as Apicurio's serializers do"
        ),
    };
    DecodeError::new(Reason::InvalidFormat, detail)
}

/// Reads the message indexes of a frame: a count, then as many indexes, all as zigzag varints. The first index selects an
/// outermost message, and each further index a message inside it. A count of 0 means the file's first message. Returns the index
/// of the first byte after the message indexes, and their number (1 for a count of 0).
fn message_indexes(
    payload: &[u8],
    start: usize,
    indexes: &mut [i64; INDEXES_MAX],
) -> Result<(usize, usize), DecodeError> {
    let mut at = start;
    let mut next =
        || wire::varint(payload, &mut at).map(|number| (number >> 1).cast_signed() ^ -(number & 1).cast_signed());
    let broken = || DecodeError::new(Reason::InvalidFormat, "its frame doesn't say which message it is");
    let count = next().and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= INDEXES_MAX);
    let count = count.ok_or_else(broken)?;
    for index in &mut indexes[..count] {
        *index = next().ok_or_else(broken)?;
    }
    Ok((at, count.max(1)))
}

#[cold]
fn broken(at: usize, what: &str, id: Option<SchemaId>) -> DecodeError {
    let whose = whose(id);
    DecodeError::new(Reason::InvalidFormat, format!("the value is not Protobuf of {whose}: byte {at}: {what}"))
}
