//! The fields of a schema, each with a suitable column type. They are used to propose a table.

use super::avro::{AvroNode, AvroSchema, NodeId};
use super::logical::Logical;
use super::protobuf::{FieldKind, Known, MessageId, ProtoFile};
use super::{Parsed, Schema};
use crate::decode::{frame, protobuf};

/// The depth to which nested types are described. A type that is nested deeper becomes jsonb. The limit is needed because a
/// record type may contain itself. `TYPES_MAX` limits the total number of types.
const DEPTH_MAX: usize = 8;
const TYPES_MAX: usize = 2000;

/// The structure of a schema's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    /// A value for a column of this Postgres type: `int8`, `jsonb`.
    Type(&'static str),
    Record(Vec<(String, Outline)>),
    Array(Box<Outline>),
}

impl Schema {
    /// Returns the structure of a framed value that has this schema. For Protobuf, the frame says which of the file's messages
    /// the value is. Returns `None` for schemas of a type that isn't decoded, and for a message that the file doesn't have.
    pub fn outline(&self, framed: &[u8]) -> Option<Outline> {
        match &self.0 {
            Parsed::Avro(avro) => Some(of_avro(avro, avro.root, 0, &mut { TYPES_MAX })),
            Parsed::Protobuf(file) => {
                let message = protobuf::message_of(file, framed.get(frame::head(framed)..)?)?;
                Some(of_message(file, message, 0, &mut { TYPES_MAX }))
            }
            Parsed::Other(_) => None,
        }
    }
}

fn of_avro(schema: &AvroSchema, id: NodeId, depth: usize, left: &mut usize) -> Outline {
    *left = left.saturating_sub(1);
    Outline::Type(match schema.node(id) {
        _ if depth > DEPTH_MAX || *left == 0 => "jsonb",
        AvroNode::Record { fields, .. } => {
            let fields = fields.iter().map(|field| (field.name.clone(), of_avro(schema, field.node, depth + 1, left)));
            return Outline::Record(fields.collect());
        }
        AvroNode::Array(element) => return Outline::Array(Box::new(of_avro(schema, *element, depth + 1, left))),
        AvroNode::Union(branches) => {
            let mut branches = branches.iter().filter(|branch| *schema.node(**branch) != AvroNode::Null);
            match (branches.next(), branches.next()) {
                (Some(only), None) => return of_avro(schema, *only, depth + 1, left),
                _ => "jsonb",
            }
        }
        AvroNode::Null | AvroNode::Map(_) => "jsonb",
        AvroNode::Boolean => "bool",
        AvroNode::Long { int: true } => "int4",
        AvroNode::Long { int: false } => "int8",
        AvroNode::Float => "float4",
        AvroNode::Double => "float8",
        AvroNode::Bytes | AvroNode::Fixed(_) => "bytea",
        AvroNode::Text | AvroNode::Enum(_) => "text",
        AvroNode::Decimal { .. } | AvroNode::VariableDecimal => "numeric",
        AvroNode::Day => "date",
        AvroNode::Clock { .. } => "time",
        AvroNode::Instant { local: true, .. } => "timestamp",
        AvroNode::Instant { local: false, .. } => "timestamptz",
        AvroNode::Uuid | AvroNode::FixedUuid => "uuid",
        AvroNode::Duration => "interval",
        AvroNode::Named { logical, .. } | AvroNode::NamedText(logical) => match logical {
            Logical::Day => "date",
            Logical::Clock(_) => "time",
            // Debezium uses such a type only if the source column has no zone.
            Logical::Instant(_) => "timestamp",
            Logical::Span(_) => "interval",
            Logical::Decimal(_) | Logical::VariableDecimal => "numeric",
            Logical::Json => "jsonb",
            Logical::ZonedTimestamp => "timestamptz",
        },
    })
}

fn of_message(file: &ProtoFile, id: MessageId, depth: usize, left: &mut usize) -> Outline {
    *left = left.saturating_sub(1);
    let message = file.message(id);
    let is_full = *left == 0;
    let mut of_kind = |kind: FieldKind| match kind {
        FieldKind::Message(id) => of_message(file, id, depth + 1, left),
        FieldKind::Double => Outline::Type("float8"),
        FieldKind::Float => Outline::Type("float4"),
        FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => Outline::Type("int4"),
        FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => Outline::Type("int8"),
        FieldKind::Uint32 | FieldKind::Fixed32 => Outline::Type("int8"),
        FieldKind::Uint64 | FieldKind::Fixed64 => Outline::Type("numeric"),
        FieldKind::Bool => Outline::Type("bool"),
        FieldKind::Text | FieldKind::Enum(_) => Outline::Type("text"),
        FieldKind::Bytes => Outline::Type("bytea"),
    };
    match message.known {
        Known::Timestamp => Outline::Type("timestamptz"),
        Known::Duration => Outline::Type("interval"),
        Known::Decimal | Known::VariableDecimal => Outline::Type("numeric"),
        Known::Date => Outline::Type("date"),
        Known::TimeOfDay => Outline::Type("time"),
        Known::LatLng => Outline::Type("point"),
        Known::Struct | Known::Value | Known::ListValue => Outline::Type("jsonb"),
        Known::Wrapper => message.fields.first().map_or(Outline::Type("jsonb"), |field| of_kind(field.kind)),
        Known::No if depth > DEPTH_MAX || is_full => Outline::Type("jsonb"),
        Known::No => {
            let mut field = |field: &super::protobuf::ProtobufField| {
                let outline = match (field.map, field.repeated) {
                    (true, _) => Outline::Type("jsonb"),
                    (false, true) => Outline::Array(Box::new(of_kind(field.kind))),
                    (false, false) => of_kind(field.kind),
                };
                (field.name.clone(), outline)
            };
            Outline::Record(message.fields.iter().map(&mut field).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::of_text;

    fn shown(outline: &Outline) -> String {
        match outline {
            Outline::Type(name) => (*name).to_owned(),
            Outline::Array(element) => format!("[{}]", shown(element)),
            Outline::Record(fields) => {
                let fields = fields.iter().map(|(name, field)| format!("{name} {}", shown(field)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn schemas_say_which_columns_take_their_fields() {
        let avro = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"int"},
            {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
            {"name":"seen","type":{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}},
            {"name":"tags","type":{"type":"array","items":"string"}},{"name":"any","type":["int","string"]},
            {"name":"next","type":["null","R"]}]}"#;
        let schema = of_text(None, avro, &[]).expect("a schema");
        let outline = shown(&schema.outline(b"").expect("an outline"));
        let start = "{id int4, at timestamptz, seen timestamp, tags [text], any jsonb, next {id int4, ";
        assert!(outline.starts_with(start), "{outline}");
        assert!(outline.ends_with("next jsonb}}}}}") && outline.len() < 2000, "{outline}");
        let proto = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
            message Other { string x = 1; }
            message M { uint64 id = 1; google.protobuf.Timestamp at = 2; google.protobuf.Int32Value n = 3;
                repeated Other others = 4; map<string, string> labels = 5; }"#;
        let schema = of_text(Some("PROTOBUF"), proto, &[]).expect("a schema");
        let outline = |value: &[u8]| schema.outline(value).map(|outline| shown(&outline));
        let second = outline(&[0, 0, 0, 0, 1, 2, 2]);
        assert_eq!(second.as_deref(), Some("{id numeric, at timestamptz, n int4, others [{x text}], labels jsonb}"));
        assert_eq!(outline(&[0, 0, 0, 0, 1, 0]).as_deref(), Some("{x text}"));
        assert_eq!(outline(&[0, 0, 0, 0, 1, 2, 8]), None);
    }
}
