//! The structure around a record's fields: lines, Kafka Connect's envelope, Debezium's changes. Pure.

use serde_json::Value as Json;
use tidegate_rows::json;
use tidegate_rows::json::members::Members;
use tidegate_rows::value::{Kind, Value};

/// The structure of a topic's records; a proposal handles one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    /// One object.
    Plain,
    /// Several objects one after the other.
    Lines,
    /// `{schema, payload}`
    Connect,
    /// `{before, after, op}`, wrapped or not.
    Debezium,
}

impl Shape {
    /// Returns the setting of `decode` for it.
    pub(super) fn decode(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Lines => "format = \"ndjson\"\n",
            Self::Connect => "format = \"json\"\nenvelope = \"connect\"\n",
            Self::Debezium => "format = \"json\"\nenvelope = \"debezium\"\n",
        }
    }
}

/// Splits a record into rows, each a JSON object, with the struct that the record's schema has for them.
pub(super) struct Looked<'a> {
    pub(super) shape: Shape,
    pub(super) rows: Vec<&'a [u8]>,
    pub(super) schema: Option<Json>,
}

/// Reads a value; `None` if it holds no rows.
pub(super) fn look(value: &[u8]) -> Option<Looked<'_>> {
    let value = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value);
    let Ok(slot) = json::document(value) else { return lines(value) };
    if slot.kind != Kind::Object {
        return None;
    }
    let object = slot.of(value).raw;
    let Some((schema, payload)) = envelope(object) else {
        return Some(match change(object) {
            Some(row) => Looked { shape: Shape::Debezium, rows: row.into_iter().collect(), schema: None },
            None => Looked { shape: Shape::Plain, rows: vec![object], schema: None },
        });
    };
    let schema = schema.and_then(|schema| serde_json::from_slice::<Json>(schema).ok());
    match change(payload) {
        None => Some(Looked { shape: Shape::Connect, rows: vec![payload], schema }),
        Some(row) => {
            let after = schema.as_ref().and_then(|schema| field(schema, "after")).cloned();
            Some(Looked { shape: Shape::Debezium, rows: row.into_iter().collect(), schema: after })
        }
    }
}

/// Returns the names of a key's fields, if it is an object, with or without an envelope.
pub(super) fn key_fields(key: &[u8]) -> Vec<String> {
    let Some(slot) = json::document(key).ok().filter(|slot| slot.kind == Kind::Object) else { return Vec::new() };
    let object = slot.of(key).raw;
    let inner = envelope(object).map_or(object, |(_, payload)| payload);
    Members::of(inner).map(|(name, _)| name).collect()
}

fn lines(value: &[u8]) -> Option<Looked<'_>> {
    let rows: Vec<_> =
        value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let is_object = |line: &&[u8]| json::document(line).is_ok_and(|slot| slot.kind == Kind::Object);
    (rows.len() > 1 && rows.iter().all(is_object)).then_some(Looked { shape: Shape::Lines, rows, schema: None })
}

fn member<'a>(object: &'a [u8], wanted: &str) -> Option<Value<'a>> {
    Members::of(object).find(|(name, _)| name == wanted).map(|(_, value)| value)
}

/// Returns the schema and the payload, an object, if there is nothing else.
fn envelope(object: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if Members::of(object).any(|(name, _)| name != "schema" && name != "payload") {
        return None;
    }
    let schema = member(object, "schema")?;
    let payload = member(object, "payload").filter(|payload| payload.kind == Kind::Object)?;
    Some(((schema.kind == Kind::Object).then_some(schema.raw), payload.raw))
}

/// Returns the row of a change, if it has one; `None` if it isn't a change.
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

/// Returns the column type for a field, by the schema of its record.
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
    Some(match field.get("type")?.as_str()? {
        "boolean" => "bool",
        "int8" | "int16" => "int2",
        "int32" => "int4",
        "int64" => "int8",
        "float" | "float32" => "float4",
        "double" | "float64" => "float8",
        "string" => "text",
        "bytes" => "bytea",
        _ => "jsonb",
    })
}

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
        assert_eq!(shape("[1]"), None);
        assert_eq!(shape("{\"a\":1}\n[2]"), None);
    }

    #[test]
    fn keys_and_types_are_read_from_their_schemas() {
        assert_eq!(key_fields(br#"{"schema":{},"payload":{"id":1}}"#), ["id"]);
        assert_eq!(key_fields(br#"{"region":"n","id":1}"#), ["region", "id"]);
        assert_eq!(key_fields(b"7"), Vec::<String>::new());
        let schema: Json = serde_json::from_str(
            r#"{"fields":[{"field":"a","type":"int32","name":"io.debezium.time.Date"},{"field":"b","type":"int32"},
                {"field":"c","type":"string","name":"io.debezium.data.Enum"}]}"#,
        )
        .expect("JSON");
        let types = ["a", "b", "c", "d"].map(|name| declared(&schema, name));
        assert_eq!(types, [Some("date"), Some("int4"), Some("text"), None]);
    }
}
