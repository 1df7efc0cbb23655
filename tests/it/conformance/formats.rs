//! How each format expresses the values of the types, and the logical types that only some formats have.

use serde_json::Value as Json;
use tidegate_harness::Record;

use super::types::{TYPES, Type};
use super::{avro, connect, functions, protobuf};

/// A column of the test's table, and its values as one format encodes them. `sent_as` names the field's type in the format. If
/// the column takes only a part of the field's value, `below` is the path of this part.
pub(super) struct Column {
    pub(super) sql: &'static str,
    pub(super) mapping: String,
    pub(super) sent_as: String,
    pub(super) below: &'static str,
    /// Each value as encoded in a record, and as text in INSERT (`None` is NULL).
    pub(super) values: Vec<(Vec<u8>, Option<&'static str>)>,
    pub(super) example: String,
    /// Values of the column's type that the format can't express.
    pub(super) unsaid: Vec<&'static str>,
}

pub(super) struct Format {
    pub(super) name: &'static str,
    /// The line `decode = …` of the configuration, in which `FILE` stands for the path of the schema's file.
    pub(super) decode: String,
    /// The name and the contents of the schema's file; `None` if the format has no schema.
    pub(super) schema: Option<(&'static str, String)>,
    pub(super) columns: Vec<Column>,
    pub(super) record: Say,
}

/// Encodes a record. The arguments are the number of columns, the values of `id` and `turn`, and the index and value of one other
/// column.
type Say = fn(usize, usize, u8, Option<(usize, &[u8])>) -> Vec<u8>;

impl Format {
    /// Returns a record with `id`, `turn` and one other column. `value` is that column's index and value. All further columns are
    /// absent or null.
    pub(super) fn record(&self, id: usize, turn: u8, value: Option<(usize, &[u8])>) -> Record {
        Record::new((self.record)(self.columns.len(), id, turn, value)).to(0)
    }
}

/// Returns the formats that are compared with INSERT, and two variants of JSON: with column functions, and with bare NaN and
/// infinities.
pub(super) fn all() -> Vec<Format> {
    vec![
        json(),
        csv(),
        avro::format(),
        protobuf::format(),
        connect::json(),
        connect::avro(),
        functions::format(),
        functions::specials(),
    ]
}

pub(super) fn json() -> Format {
    let columns = of_types(|_| "JSON".to_owned(), |_, json, _| Some(json.as_bytes().to_vec()), b"null");
    let record = |_: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        let value = value.map(|(column, json)| format!(",\"c{column}\":{}", String::from_utf8_lossy(json)));
        format!("{{\"id\":{id},\"turn\":{turn}{}}}", value.unwrap_or_default()).into_bytes()
    };
    Format { name: "JSON", decode: "{ format = \"json\" }".to_owned(), schema: None, columns, record }
}

/// Returns the format CSV. All values are quoted except NULL, which is the empty text without quotes.
fn csv() -> Format {
    let quoted = |of: &Type, json: &str, text: &str| {
        Some(format!("\"{}\"", lexical(of, json, text).replace('"', "\"\"")).into())
    };
    let mut columns = of_types(|_| "a field".to_owned(), quoted, b"");
    for (column, of) in columns.iter_mut().zip(TYPES) {
        column.example = of.takes.first().map(|(json, text)| lexical(of, json, text)).unwrap_or_default();
    }
    let names: Vec<_> = (0..columns.len()).map(|n| format!("\"c{n}\"")).collect();
    let decode = format!("{{ format = \"csv\", columns = [\"id\", \"turn\", {}] }}", names.join(", "));
    let record = |columns: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        let (column, text) = value.unwrap_or_default();
        let (before, behind) = (",".repeat(column), ",".repeat(columns - column - 1));
        [format!("{id},{turn},{before}").as_bytes(), text, behind.as_bytes()].concat()
    };
    Format { name: "CSV", decode, schema: None, columns, record }
}

/// Returns the text of a value in a format that has only text. JSON strings lose their quotes, unless the column stores JSON.
/// Ranges are written as Postgres writes them, because the JSON array `[1,5]` means another range than Postgres' `[1,5]`.
pub(super) fn lexical(of: &Type, json: &str, text: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Json::Array(_)) if of.sql.ends_with("range") => text.to_owned(),
        Ok(Json::String(text)) if !of.sql.starts_with("json") => text,
        _ => json.to_owned(),
    }
}

/// Returns one column per type. `say` encodes a value, which it gets as JSON and as the text given to INSERT. `say` returns
/// `None` if the format can't express the value.
pub(super) fn of_types(
    sent_as: impl Fn(&Type) -> String,
    say: impl Fn(&Type, &str, &str) -> Option<Vec<u8>>,
    null: &[u8],
) -> Vec<Column> {
    let columns = TYPES.iter().map(|of| {
        let mut values = Vec::new();
        let mut unsaid = Vec::new();
        for (json, text) in of.takes {
            match say(of, json, text) {
                Some(bytes) => values.push((bytes, Some(*text))),
                None => unsaid.push(*json),
            }
        }
        values.push((null.to_vec(), None));
        let example = of.takes.first().map_or("", |(json, _)| json).to_owned();
        let mapping = if of.unit.is_empty() { String::new() } else { format!("unit = \"{}\"", of.unit) };
        Column { sql: of.sql, mapping, sent_as: sent_as(of), below: "", values, example, unsaid }
    });
    columns.collect()
}

/// Returns whether a column stores the same value if the value's JSON is parsed and serialized first. Formats with their own
/// objects, arrays and numbers do that. Parsing loses spaces, digits of numbers and the order of keys, which type `json` would
/// store.
pub(super) fn survives(of: &Type, json: &str) -> bool {
    let value: Json = serde_json::from_str(json).expect("JSON");
    of.sql != "json" || serde_json::to_string(&value).expect("JSON") == json
}
