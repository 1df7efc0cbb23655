//! Finds the first name in a path that a schema doesn't have, for the faults of a mapping.

use std::fmt::{self, Display, Formatter};

use super::avro::{AvroNode, AvroSchema, NodeId};
use super::protobuf::{FieldKind, Known, MessageId, ProtoFile, ProtobufField};
use super::{Parsed, Schema};
use crate::decode::frame::SchemaHeader;
use crate::decode::{Path, frame, protobuf};
use crate::fault::hint;

/// The first name in a path that the schema doesn't have, and why. Its text is an error message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// A record or message lacks the field. `whose` says which: `` record `Top` ``.
    Field {
        whose: String,
        field: String,
        /// The end of the error message: `; did you mean …?`, or a list of the existing fields. May be empty.
        hint: String,
    },
    /// The path continues after a field that has no fields itself.
    Leaf { whose: String, field: String, is_list: bool },
}

/// If no field has a similar name, the error message lists all fields, unless there are more fields than this.
const NAMED_MAX: usize = 12;

impl Lack {
    fn field<'a>(whose: String, wanted: &str, names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let close = hint(wanted, names.clone());
        let all: Vec<_> = names.collect();
        let hint = match close {
            close if close.is_empty() && all.len() <= NAMED_MAX => format!(" (there are {})", all.join(", ")),
            close => close,
        };
        Self::Field { whose, field: wanted.to_owned(), hint }
    }
}

impl Display for Lack {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field { whose, field, hint } => write!(f, "{whose} has no field `{field}`{hint}"),
            Self::Leaf { whose, field, is_list: false } => {
                write!(f, "field `{field}` of {whose} has no fields of its own")
            }
            Self::Leaf { whose, field, is_list: true } => {
                write!(f, "field `{field}` of {whose} is a list; with `decode.rows` its elements become rows")
            }
        }
    }
}

/// A path, of which the first `at` names have been followed in a schema.
struct Walk<'a> {
    path: &'a [String],
    at: usize,
    /// The paths from the top to the arrays whose elements are rows.
    levels: &'a [Path],
    /// Whether the path has entered the elements of an array in `levels`. The decoder renders elements as JSON with the fields'
    /// own names, so the rest of the path must not use aliases or JSON names.
    in_json: bool,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let name = self.path.get(self.at)?;
        self.at += 1;
        Some(name)
    }

    fn is_done(&self) -> bool {
        self.at >= self.path.len()
    }

    fn enter(&mut self) -> bool {
        let so_far = self.path.get(..self.at).unwrap_or_default();
        let is_level = self.levels.iter().any(|level| level == so_far);
        self.in_json |= is_level;
        is_level
    }

    /// Returns the last name that has been followed.
    fn last(&self) -> String {
        self.path.get(self.at.saturating_sub(1)).cloned().unwrap_or_default()
    }
}

impl Schema {
    /// Returns the first name in `path` that this schema doesn't have. Returns `None` if the schema has the whole path, or if the
    /// path can't be checked, for example because the message is unknown.
    ///
    /// `message` is the name of the Protobuf message; `None` means the first message of the file. `levels` are the paths of the
    /// arrays whose elements are rows.
    pub(crate) fn lack(&self, message: Option<&str>, path: &[String], levels: &[Path]) -> Option<Lack> {
        let mut walk = Walk { path, at: 0, levels, in_json: false };
        match &self.0 {
            Parsed::Avro(avro) => of_avro(avro, avro.root, &mut walk, ""),
            Parsed::Protobuf(file) => {
                let id = message.map_or_else(|| file.by_indexes(&[0]), |name| file.by_name(name))?;
                of_message(file, id, &mut walk)
            }
            Parsed::Other(_) => None,
        }
    }

    /// Returns whether this schema has the whole path, as far as that can be checked. The arguments are as for [`Self::lack`].
    pub(crate) fn has(&self, message: Option<&str>, path: &[String], levels: &[Path]) -> bool {
        let is_known = match &self.0 {
            Parsed::Avro(_) => true,
            Parsed::Protobuf(file) => message.is_none_or(|name| file.has_message(name)),
            Parsed::Other(_) => false,
        };
        is_known && self.lack(message, path, levels).is_none()
    }

    /// Returns the name of the Protobuf message that a record contains, by the frame of its value or by the headers that replace
    /// the frame. Returns `None` for other formats, and if the message isn't known.
    pub(crate) fn message_name(&self, payload: &[u8], header: Option<SchemaHeader<'_>>) -> Option<&str> {
        let Parsed::Protobuf(file) = &self.0 else { return None };
        let id = match header {
            None => protobuf::message_of(file, payload.get(frame::head(payload)..)?),
            Some(header) => {
                let (schema, behind) = frame::of_header(header.schema)?;
                match header.schema.get(behind..)? {
                    [] => protobuf::headed(file, payload, Some(schema), header.message).map(|(_, id)| id),
                    indexes => protobuf::message_of(file, indexes),
                }
            }
        };
        id.map(|id| file.message(id).name.as_str())
    }
}

fn of_avro(schema: &AvroSchema, node: NodeId, walk: &mut Walk<'_>, whose: &str) -> Option<Lack> {
    if walk.is_done() {
        return None;
    }
    match schema.node(node) {
        AvroNode::Record { name, fields } => {
            let whose = format!("record `{name}`");
            let wanted = walk.next()?;
            let own = fields.iter().find(|field| field.name == wanted);
            let alias = || fields.iter().find(|field| field.aliases.iter().any(|alias| alias == wanted));
            match own.or_else(|| if walk.in_json { None } else { alias() }) {
                Some(field) => of_avro(schema, field.node, walk, &whose),
                None => Some(Lack::field(whose, wanted, fields.iter().map(|field| field.name.as_str()))),
            }
        }
        AvroNode::Map(values) => {
            walk.next();
            of_avro(schema, *values, walk, whose)
        }
        AvroNode::Union(branches) => {
            // One branch that has the path is enough. If no branch has it, return the fault of the branch in which the path leads
            // furthest.
            let mut nearest: Option<(usize, Lack)> = None;
            for branch in branches.iter().filter(|branch| *schema.node(**branch) != AvroNode::Null) {
                let mut inner = Walk { ..*walk };
                let lack = of_avro(schema, *branch, &mut inner, whose)?;
                if nearest.as_ref().is_none_or(|(at, _)| inner.at > *at) {
                    nearest = Some((inner.at, lack));
                }
            }
            nearest.map(|(_, lack)| lack)
        }
        AvroNode::Array(element) if walk.enter() => of_avro(schema, *element, walk, whose),
        // The top-level value isn't a record, so the path isn't checked.
        _ if walk.at == 0 => None,
        node => {
            let is_list = matches!(node, AvroNode::Array(_));
            Some(Lack::Leaf { whose: whose.to_owned(), field: walk.last(), is_list })
        }
    }
}

fn of_message(file: &ProtoFile, id: MessageId, walk: &mut Walk<'_>) -> Option<Lack> {
    let message = file.message(id);
    let whose = format!("message `{}`", message.name);
    let wanted = walk.next()?;
    let own = message.fields.iter().find(|field| field.name == wanted);
    let by_json_name = || message.fields.iter().find(|field| field.json_name == wanted);
    match own.or_else(|| if walk.in_json { None } else { by_json_name() }) {
        Some(field) => of_field(file, field, walk, &whose),
        None => Some(Lack::field(whose, wanted, message.fields.iter().map(|field| field.name.as_str()))),
    }
}

fn of_field(file: &ProtoFile, field: &ProtobufField, walk: &mut Walk<'_>, whose: &str) -> Option<Lack> {
    if walk.is_done() {
        return None;
    }
    match field.kind {
        FieldKind::Message(entry) if field.map => {
            walk.next();
            let value = file.message(entry).fields.iter().find(|field| field.number == 2)?;
            of_field(file, value, walk, whose)
        }
        FieldKind::Message(inner) if !field.repeated || walk.enter() => match file.message(inner).known {
            Known::No => of_message(file, inner, walk),
            // In JSON, some of these messages may have any structure.
            _ if walk.in_json => None,
            _ => Some(Lack::Leaf { whose: whose.to_owned(), field: walk.last(), is_list: false }),
        },
        _ => Some(Lack::Leaf { whose: whose.to_owned(), field: walk.last(), is_list: field.repeated }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::of_text;

    const AVRO: &str = r#"{"type":"record","name":"Top","fields":[
        {"name":"id","type":"long","aliases":["number"]},
        {"name":"where","type":["null",{"type":"record","name":"Place","fields":[{"name":"lat","type":"double"}]},
            {"type":"record","name":"City","fields":[{"name":"name","type":"string"}]}]},
        {"name":"labels","type":{"type":"map","values":"Place"}},
        {"name":"groups","type":{"type":"array","items":{"type":"record","name":"Group","fields":[
            {"name":"readings","type":{"type":"array","items":{"type":"record","name":"Reading","fields":[
                {"name":"celsius","type":"double","aliases":["temperature"]}]}}}]}}}]}"#;
    const PROTO: &str = r#"syntax = "proto3"; package p; import "google/protobuf/timestamp.proto"; import "google/protobuf/struct.proto";
        message Top { int64 id_number = 1; Place place = 2; map<string, Place> labels = 3; repeated Group groups = 4;
            google.protobuf.Timestamp at = 5; google.protobuf.Struct any = 6; Top up = 7; }
        message Place { double lat = 1; }
        message Group { repeated Reading readings = 1; google.protobuf.Struct any = 2; }
        message Reading { double celsius_now = 1; }"#;

    fn path(text: &str) -> Path {
        text.split('.').map(str::to_owned).collect()
    }

    fn lacks(kind: &str, text: &str, paths: &[&str]) -> Vec<String> {
        let schema = of_text(Some(kind), text, &[]).unwrap_or_else(|why| panic!("{why}"));
        let levels = [path("groups"), path("groups.readings")];
        let shown =
            |text: &&str| schema.lack(None, &path(text), &levels).map_or("".to_owned(), |lack| lack.to_string());
        paths.iter().map(shown).collect()
    }

    #[test]
    fn paths_lead_through_records_unions_maps_and_arrays_of_rows() {
        let there = ["id", "number", "where.lat", "where.name", "labels.any.lat", "groups.readings.celsius", "groups"];
        assert_eq!(lacks("AVRO", AVRO, &there), [""; 7]);
        let absent = ["idd", "where.altitude", "labels.any.altitude", "groups.readings.temperature", "id.x"];
        let said = lacks("AVRO", AVRO, &absent);
        assert_eq!(
            said,
            [
                "record `Top` has no field `idd`; did you mean `id`?",
                "record `Place` has no field `altitude` (there are lat)",
                "record `Place` has no field `altitude` (there are lat)",
                // The elements are read as JSON, which has no aliases.
                "record `Reading` has no field `temperature` (there are celsius)",
                "field `id` of record `Top` has no fields of its own",
            ]
        );
    }

    #[test]
    fn paths_lead_through_messages_and_known_ones_are_one_value() {
        let there = [
            "id_number",
            "idNumber",
            "place.lat",
            "labels.any.lat",
            "groups.readings.celsius_now",
            "up.up.at",
            "groups.any.x",
        ];
        assert_eq!(lacks("PROTOBUF", PROTO, &there), [""; 7]);
        let absent = ["place.latt", "at.seconds", "any.x", "groups.readings.celsiusNow", "up.nothing"];
        assert_eq!(
            lacks("PROTOBUF", PROTO, &absent),
            [
                "message `p.Place` has no field `latt`; did you mean `lat`?",
                "field `at` of message `p.Top` has no fields of its own",
                "field `any` of message `p.Top` has no fields of its own",
                "message `p.Reading` has no field `celsiusNow`; did you mean `celsius_now`?",
                "message `p.Top` has no field `nothing` (there are id_number, place, labels, groups, at, any, up)",
            ]
        );
    }
}
