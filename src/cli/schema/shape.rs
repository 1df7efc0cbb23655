//! Finds out how the fields of a record are wrapped: in an array, in lines, in a registry's frame, in Kafka Connect's envelope,
//! or in Debezium's changes. Pure.

use serde_json::Value as Json;
use tidegate_rows::json;
use tidegate_rows::json::members::{Elements, Members};
use tidegate_rows::schema::{Outline, Schema};
use tidegate_rows::value::{Kind, Value};

/// The length of a registry's frame: a zero byte, and four bytes with the schema's number.
const FRAME: usize = 5;
/// The length of a frame whose id has eight bytes.
const LONG_FRAME: usize = 9;

/// The structure of a topic's records. A proposal is for one structure. `change` says that the values are Debezium's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Plain,
    /// An array of objects.
    Array,
    /// Several objects, one per line.
    Lines,
    /// `{schema, payload}`
    Connect,
    /// `{before, after, op}`, in Kafka Connect's envelope or without it.
    Debezium,
    Avro {
        change: bool,
    },
    Protobuf {
        change: bool,
    },
}

impl Shape {
    pub(super) fn is_change(self) -> bool {
        matches!(self, Self::Debezium | Self::Avro { change: true } | Self::Protobuf { change: true })
    }

    /// Returns whether a record may have several rows, not counting arrays in its fields.
    pub(super) fn has_several(self) -> bool {
        matches!(self, Self::Array | Self::Lines)
    }

    pub(super) fn is_registered(self) -> bool {
        matches!(self, Self::Avro { .. } | Self::Protobuf { .. })
    }

    /// Returns the TOML lines of `[pipelines.NAME.decode]` for this structure.
    pub(super) fn decode(self) -> &'static str {
        match self {
            Self::Plain | Self::Array => "",
            Self::Avro { change: false } => "format = \"avro\"\n",
            Self::Avro { change: true } => "format = \"avro\"\nenvelope = \"debezium\"\n",
            Self::Protobuf { change: false } => "format = \"protobuf\"\n",
            Self::Protobuf { change: true } => "format = \"protobuf\"\nenvelope = \"debezium\"\n",
            Self::Lines => "format = \"ndjson\"\n",
            Self::Connect => "format = \"json\"\nenvelope = \"connect\"\n",
            Self::Debezium => "format = \"json\"\nenvelope = \"debezium\"\n",
        }
    }
}

/// The rows of a record, each a JSON object, and Kafka Connect's schema for them if the record has one.
pub(super) struct ParsedValue<'a> {
    pub(super) shape: Shape,
    pub(super) rows: Vec<&'a [u8]>,
    pub(super) schema: Option<Json>,
}

/// Returns the number of the schema if a value or a key begins with a registry's frame.
pub(super) fn schema_id(bytes: &[u8]) -> Option<u32> {
    match bytes {
        // An id of eight bytes, as Apicurio's serializers may write it.
        [0, 0, 0, 0, 0, a, b, c, d, _, ..] | [0, a, b, c, d, _, ..] => {
            Some(u32::from_be_bytes([*a, *b, *c, *d])).filter(|id| *id != 0)
        }
        _ => None,
    }
}

/// Returns a value or a key without its byte order mark and its registry's frame. A frame is only removed if JSON follows it.
pub(super) fn unframed(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let frame = if bytes.starts_with(&[0; FRAME]) { LONG_FRAME } else { FRAME };
    let behind = schema_id(bytes).and_then(|_| bytes.get(frame..));
    behind.filter(|rest| json::document(rest).is_ok()).unwrap_or(bytes)
}

/// Returns the structure of a value, and the fields of its row, as the value's schema describes them. `None` if the schema
/// describes no fields.
pub(super) fn by_schema(schema: &Schema, value: &[u8]) -> Option<(Shape, Outline)> {
    let Outline::Record(fields) = schema.outline(value)? else { return None };
    let find = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, outline)| outline);
    let row = match (find("op"), find("before"), find("after")) {
        (Some(_), Some(_), Some(row @ Outline::Record(_))) => Some(row.clone()),
        _ => None,
    };
    let change = row.is_some();
    let shape = if schema.kind() == "AVRO" { Shape::Avro { change } } else { Shape::Protobuf { change } };
    Some((shape, row.unwrap_or(Outline::Record(fields))))
}

/// Returns whether a value makes its record a tombstone: it is JSON's `null`, alone or in Kafka Connect's envelope.
pub(super) fn is_tombstone(value: &[u8]) -> bool {
    let Ok(slot) = json::document(value) else { return false };
    let null = |name: &str| member(slot.of(value).raw, name).is_some_and(|member| member.kind == Kind::Null);
    match slot.kind {
        Kind::Null => true,
        Kind::Object => value.len() <= 64 && null("schema") && null("payload"),
        _ => false,
    }
}

/// Returns the structure of a value and its rows. `None` unless it is a JSON object, an array of objects, or lines of objects.
pub(super) fn look(value: &[u8]) -> Option<ParsedValue<'_>> {
    let value = unframed(value);
    let Ok(slot) = json::document(value) else { return lines(value) };
    if slot.kind == Kind::Array {
        let elements: Vec<_> = Elements::of(slot.of(value).raw).collect();
        let is_rows = !elements.is_empty() && elements.iter().all(|element| element.kind == Kind::Object);
        let rows = elements.iter().map(|element| element.raw).collect();
        return is_rows.then_some(ParsedValue { shape: Shape::Array, rows, schema: None });
    }
    if slot.kind != Kind::Object {
        return None;
    }
    let object = slot.of(value).raw;
    let Some((schema, payload)) = envelope(object) else {
        return Some(match change(object) {
            Some(row) => ParsedValue { shape: Shape::Debezium, rows: row.into_iter().collect(), schema: None },
            None => ParsedValue { shape: Shape::Plain, rows: vec![object], schema: None },
        });
    };
    let schema = schema.and_then(|schema| serde_json::from_slice::<Json>(schema).ok());
    match change(payload) {
        None => Some(ParsedValue { shape: Shape::Connect, rows: vec![payload], schema }),
        Some(row) => {
            let after = schema.as_ref().and_then(|schema| field(schema, "after")).cloned();
            Some(ParsedValue { shape: Shape::Debezium, rows: row.into_iter().collect(), schema: after })
        }
    }
}

/// Returns the payload of a key in Kafka Connect's envelope, or the key itself if it has no envelope. `None` if the key isn't
/// JSON.
pub(super) fn key_payload(key: &[u8]) -> Option<Value<'_>> {
    let whole = json::document(key).ok()?.of(key);
    if whole.kind != Kind::Object || Members::of(whole.raw).any(|(name, _)| name != "schema" && name != "payload") {
        return Some(whole);
    }
    member(whole.raw, "schema").and(member(whole.raw, "payload")).or(Some(whole))
}

fn lines(value: &[u8]) -> Option<ParsedValue<'_>> {
    let rows: Vec<_> =
        value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let is_object = |line: &&[u8]| json::document(line).is_ok_and(|slot| slot.kind == Kind::Object);
    (rows.len() > 1 && rows.iter().all(is_object)).then_some(ParsedValue { shape: Shape::Lines, rows, schema: None })
}

fn member<'a>(object: &'a [u8], wanted: &str) -> Option<Value<'a>> {
    Members::of(object).find(|(name, _)| name == wanted).map(|(_, value)| value)
}

/// Splits Kafka Connect's envelope into schema and payload. The schema is `None` if it isn't an object, such as null. Returns
/// `None` if one of the two is missing, if the payload isn't an object, or if other members exist.
fn envelope(object: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if Members::of(object).any(|(name, _)| name != "schema" && name != "payload") {
        return None;
    }
    let schema = member(object, "schema")?;
    let payload = member(object, "payload").filter(|payload| payload.kind == Kind::Object)?;
    Some(((schema.kind == Kind::Object).then_some(schema.raw), payload.raw))
}

/// Returns the row after a change, or else the row before it. `Some(None)` if the change has no row; `None` if `object` isn't a
/// change.
fn change(object: &[u8]) -> Option<Option<&[u8]>> {
    let op = member(object, "op")?;
    let known = matches!(op.as_text()?, b"c" | b"r" | b"u" | b"d" | b"t" | b"m");
    let (before, after) = (member(object, "before"), member(object, "after"));
    if !known || (before.is_none() && after.is_none()) {
        return None;
    }
    let row = [after, before].into_iter().flatten().find(|row| row.kind == Kind::Object);
    Some(row.map(|row| row.raw))
}

fn field<'j>(schema: &'j Json, name: &str) -> Option<&'j Json> {
    let fields = schema.get("fields")?.as_array()?;
    fields.iter().find(|field| field.get("field").and_then(Json::as_str) == Some(name))
}

/// Returns the column type for a field, as Kafka Connect's schema of the record describes it. `None` if the schema lacks the
/// field.
pub(super) fn declared(schema: &Json, name: &str) -> Option<&'static str> {
    let field = field(schema, name)?;
    let logical = field.get("name").and_then(Json::as_str).unwrap_or_default();
    let short = logical.rsplit('.').next().unwrap_or_default();
    let of_connect = logical.starts_with("org.apache.kafka.connect.data.");
    let of_debezium = logical.starts_with("io.debezium.time.") || logical.starts_with("io.debezium.data.");
    if of_connect || of_debezium {
        let known = match short {
            "Date" => Some("date"),
            "Time" | "MicroTime" | "NanoTime" => Some("time"),
            "Timestamp" if of_connect => Some("timestamptz"),
            "Timestamp" | "MicroTimestamp" | "NanoTimestamp" => Some("timestamp"),
            "ZonedTimestamp" => Some("timestamptz"),
            "ZonedTime" => Some("timetz"),
            "MicroDuration" | "NanoDuration" | "Interval" => Some("interval"),
            "Decimal" | "VariableScaleDecimal" => Some("numeric"),
            "Json" => Some("jsonb"),
            "Uuid" => Some("uuid"),
            _ => None,
        };
        if known.is_some() {
            return known;
        }
    }
    let scalar = |name: &str| SCALARS.iter().find(|(known, ..)| *known == name);
    Some(match field.get("type")?.as_str()? {
        "array" => {
            let items = field.get("items")?;
            let element = items.get("type")?.as_str().filter(|_| items.get("name").is_none()).and_then(scalar);
            element.map_or("jsonb", |(.., array)| array)
        }
        name => scalar(name).map_or("jsonb", |(_, column, _)| column),
    })
}

/// Kafka Connect's types, each with the column type for it and the column type for an array of it.
const SCALARS: [(&str, &str, &str); 11] = [
    ("boolean", "bool", "bool[]"),
    ("int8", "int2", "int2[]"),
    ("int16", "int2", "int2[]"),
    ("int32", "int4", "int4[]"),
    ("int64", "int8", "int8[]"),
    ("float", "float4", "float4[]"),
    ("float32", "float4", "float4[]"),
    ("double", "float8", "float8[]"),
    ("float64", "float8", "float8[]"),
    ("string", "text", "text[]"),
    ("bytes", "bytea", "bytea[]"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(value: &str) -> Option<(Shape, usize)> {
        look(value.as_bytes()).map(|looked| (looked.shape, looked.rows.len()))
    }

    #[test]
    fn shapes_are_told_by_what_records_hold() {
        assert_eq!(shape(r#"{"a":1}"#), Some((Shape::Plain, 1)));
        assert_eq!(shape("\u{feff}{\"a\":1}"), Some((Shape::Plain, 1)));
        assert_eq!(shape("{\"a\":1}\n{\"a\":2}\n"), Some((Shape::Lines, 2)));
        assert_eq!(shape(r#"{"schema":null,"payload":{"a":1}}"#), Some((Shape::Connect, 1)));
        assert_eq!(shape(r#"{"schema":null,"payload":{"a":1},"more":1}"#), Some((Shape::Plain, 1)));
        assert_eq!(shape(r#"{"before":null,"after":{"a":1},"op":"c"}"#), Some((Shape::Debezium, 1)));
        assert_eq!(
            shape(r#"{"schema":{},"payload":{"before":{"a":1},"after":null,"op":"d"}}"#),
            Some((Shape::Debezium, 1))
        );
        assert_eq!(shape(r#"{"op":"add","after":{"a":1}}"#), Some((Shape::Plain, 1)));
        assert_eq!(shape(r#"[{"a":1},{"a":2}]"#), Some((Shape::Array, 2)));
        assert_eq!(shape("\0\0\0\0\x07{\"a\":1}"), Some((Shape::Plain, 1)));
        assert_eq!(shape("[1]"), None);
        assert_eq!(shape("{\"a\":1}\n[2]"), None);
    }

    #[test]
    fn tombstones_are_told_and_types_are_read_from_their_schemas() {
        assert!(is_tombstone(b"null") && is_tombstone(br#"{"schema":null,"payload":null}"#));
        assert!(!is_tombstone(b"{}") && !is_tombstone(br#"{"payload":null}"#));
        let schema: Json = serde_json::from_str(
            r#"{"fields":[{"field":"a","type":"int32","name":"io.debezium.time.Date"},{"field":"b","type":"int32"},
                {"field":"c","type":"string","name":"io.debezium.data.Enum"},
                {"field":"e","type":"array","items":{"type":"int32"}},
                {"field":"f","type":"array","items":{"type":"int32","name":"io.debezium.time.Date"}},
                {"field":"g","type":"string","name":"io.debezium.time.ZonedTime"}]}"#,
        )
        .expect("JSON");
        let types = ["a", "b", "c", "e", "f", "g"].map(|name| declared(&schema, name).unwrap_or_default());
        assert_eq!(types, ["date", "int4", "text", "int4[]", "jsonb", "timetz"]);
        assert_eq!(declared(&schema, "d"), None);
    }
}
