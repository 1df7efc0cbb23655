//! How each format says the values of the types, and the logical types that only it has.

use serde_json::Value as Json;
use tidegate_harness::Record;

use super::types::{TYPES, Type};
use super::{avro, connect, functions, protobuf};

/// A column, and how a format says its values.
pub(super) struct Column {
    pub(super) sql: &'static str,
    /// What the mapping has beside the field, in the configuration's words.
    pub(super) mapping: String,
    /// The field's type in the format's own words.
    pub(super) sent_as: String,
    /// Where the column looks into the field.
    pub(super) below: &'static str,
    /// Each value as it stands in a record, and as INSERT is given it; none is NULL.
    pub(super) values: Vec<(Vec<u8>, Option<&'static str>)>,
    /// A value to show.
    pub(super) example: String,
    /// Values of the type that the format has no way to say.
    pub(super) unsaid: Vec<&'static str>,
}

/// A format.
pub(super) struct Format {
    pub(super) name: &'static str,
    /// `decode = …`; `FILE` stands for the schema's.
    pub(super) decode: String,
    /// Its schema, if it has one: the name of the file, and what is in it.
    pub(super) schema: Option<(&'static str, String)>,
    pub(super) columns: Vec<Column>,
    pub(super) record: Say,
}

/// Of so many columns, the id, the turn and one column's value to a record's bytes.
type Say = fn(usize, usize, u8, Option<(usize, &[u8])>) -> Vec<u8>;

impl Format {
    /// The record of a value; without one all columns are absent.
    pub(super) fn record(&self, id: usize, turn: u8, value: Option<(usize, &[u8])>) -> Record {
        Record::new((self.record)(self.columns.len(), id, turn, value)).to(0)
    }
}

/// All of them but `raw`, which has one field only.
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

/// All fields are quoted, but for NULL, which is the empty text without quotes.
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

/// The text that stands for a value where a format has nothing but text: JSON's strings without their quotes, and JSON. Of a
/// range `[1,5]` is Postgres' own text, and means another than JSON's array of two bounds.
pub(super) fn lexical(of: &Type, json: &str, text: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Json::Array(_)) if of.sql.ends_with("range") => text.to_owned(),
        Ok(Json::String(text)) if !of.sql.starts_with("json") => text,
        _ => json.to_owned(),
    }
}

/// The types' columns. `say` gives a value's bytes in a record, from its JSON and from the text that INSERT has of it, or none
/// where the format can't say it.
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

/// Whether a value's JSON is the same text when it has been read and written again, as it is where a format knows of objects,
/// arrays, text and numbers, and nothing of spaces, digits' number and the order of keys.
pub(super) fn survives(of: &Type, json: &str) -> bool {
    let value: Json = serde_json::from_str(json).expect("JSON");
    of.sql != "json" || serde_json::to_string(&value).expect("JSON") == json
}
