//! Infers from a sample how the records' keys are decoded, and which columns hold the key and so identify a row. Pure.

use std::collections::BTreeMap;

use tidegate_rows::json;
use tidegate_rows::json::members::Members;
use tidegate_rows::schema::{Outline, Schema};
use tidegate_rows::value::Kind;

use super::columns::Proposed;
use super::shape;
use super::values::{Seen, Typed};

#[derive(Debug, Default)]
pub(super) struct Keys {
    records: u64,
    absent: u64,
    /// The number of keys that are objects. `fields` has the names of their fields, and is empty if the keys don't all have the
    /// same fields in the same order.
    objects: u64,
    fields: Option<Vec<String>>,
    /// Keys that are texts, or JSON scalars.
    texts: Seen,
    /// The number of keys that are JSON and begin with a brace or a quote.
    json: u64,
    /// Keys that are neither JSON nor text without control characters, by their length in bytes.
    binary: BTreeMap<usize, Binary>,
    /// The number of Avro and Protobuf keys whose schema is known. They begin with a registry's frame: a zero byte, and the
    /// number of their schema. If these keys have no fields, `scalar` is the type of the column that stores them.
    registered: u64,
    protobuf: bool,
    scalar: Option<&'static str>,
    /// The fields whose value was equal to the record's key in all records so far. Counts only records that have a key and
    /// exactly one JSON row. `None` if there was no such record.
    alike: Option<Vec<String>>,
}

/// Counts of the keys that have the same length and aren't text. `integers`, `floats` and `uuids` count the keys that have a
/// plausible value if they are read as a whole number, as a float or as a UUID.
#[derive(Debug, Default)]
struct Binary {
    count: u64,
    integers: u64,
    floats: u64,
    uuids: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPlan {
    /// The columns that identify a row: those of fields in the values that contain the key. Empty if no such columns exist.
    pub(super) names: Vec<String>,
    /// The type of a column for the key. `None` if columns that are filled from the values contain the key already, or if no
    /// record has a key.
    pub(super) column: Option<Typed>,
    /// The value of `decode.key_format`; `None` if it can be left out.
    pub(super) format: Option<&'static str>,
    /// Whether every record has a key.
    pub(super) complete: bool,
}

impl Keys {
    /// Adds the key of a record. `schema` is the key's schema, if the key begins with a registry's frame. `row` is the JSON row
    /// of the record, if it has exactly one.
    pub(super) fn add(&mut self, key: Option<&[u8]>, schema: Option<&Schema>, row: Option<&[u8]>) {
        self.records += 1;
        let Some(key) = key else {
            self.absent += 1;
            return;
        };
        let text = match (schema.and_then(|schema| schema.outline(key)), schema) {
            (Some(outline), Some(schema)) => {
                self.outlined(&outline, schema);
                None
            }
            _ => self.plain(shape::unframed(key)),
        };
        let Some(row) = row else { return };
        let is_alike = |name: &str| Some(name) == text.as_deref();
        let names = Members::of(row).filter(|(_, value)| match value.kind {
            Kind::Number => std::str::from_utf8(value.raw).is_ok_and(is_alike),
            _ => value.as_text().is_some_and(|value| std::str::from_utf8(value).is_ok_and(is_alike)),
        });
        let names: Vec<_> = names.map(|(name, _)| name).collect();
        match &mut self.alike {
            Some(alike) => alike.retain(|name| names.contains(name)),
            None => self.alike = Some(names),
        }
    }

    fn outlined(&mut self, outline: &Outline, schema: &Schema) {
        self.registered += 1;
        self.protobuf = schema.kind() == "PROTOBUF";
        match outline {
            Outline::Record(fields) => self.object(fields.iter().map(|(name, _)| name.clone()).collect()),
            Outline::Type(name) => self.scalar = Some(name),
            Outline::Array(_) => self.scalar = Some("jsonb"),
        }
    }

    fn object(&mut self, names: Vec<String>) {
        self.objects += 1;
        match &self.fields {
            Some(known) if *known != names => self.fields = Some(Vec::new()),
            Some(_) => {}
            None => self.fields = Some(names),
        }
    }

    /// Adds a key whose schema isn't known, or that has none. Returns the key's text if the key is a scalar.
    fn plain(&mut self, key: &[u8]) -> Option<String> {
        let is_structure = key.first().is_some_and(|byte| matches!(byte, b'{' | b'"'));
        if let Some(value) = shape::key_payload(key).filter(|_| is_structure) {
            self.json += 1;
            if value.kind == Kind::Object {
                self.object(Members::of(value.raw).map(|(name, _)| name).collect());
                return None;
            }
            self.texts.add(&value);
            let raw = if value.kind == Kind::Number { value.raw } else { value.as_text()? };
            return String::from_utf8(raw.to_vec()).ok();
        }
        let text = std::str::from_utf8(key).ok().filter(|text| !text.contains(char::is_control));
        if let Some(text) = text {
            let quoted = serde_json::to_string(text).ok()?;
            self.texts.add(&json::document(quoted.as_bytes()).ok()?.of(quoted.as_bytes()));
            return Some(text.to_owned());
        }
        let of_length = self.binary.entry(key.len()).or_default();
        of_length.add(key);
        integer(key).map(|number| number.to_string())
    }

    /// Returns the columns and the format for the keys. `columns` are the columns of the values' fields. `several` says whether a
    /// record may have several rows. If so, the rows of a record have the same key, so the key doesn't identify a row.
    pub(super) fn plan(&self, columns: &[Proposed], several: bool, values_are_registered: bool) -> KeyPlan {
        let keyed = self.records - self.absent;
        if keyed == 0 {
            return KeyPlan::default();
        }
        let complete = self.absent == 0;
        let is_column = |name: &&String| columns.iter().any(|column| column.path == [(*name).clone()]);
        let name_of = |name: &String| {
            let column = columns.iter().find(|column| column.path == [name.clone()]);
            column.map(|column| column.name.clone())
        };
        // If the values use a registry, framed keys are decoded by their own schema without `key_format`.
        let format = match self.registered {
            0 => None,
            _ if values_are_registered => None,
            _ if self.protobuf => Some("protobuf"),
            _ => Some("avro"),
        };
        let fields = self.fields.as_deref().filter(|fields| self.objects == keyed && !fields.is_empty());
        if let Some(fields) = fields.filter(|fields| !several && fields.iter().all(|name| is_column(&name))) {
            let names = fields.iter().filter_map(name_of).collect();
            return KeyPlan { names, column: None, format, complete };
        }
        let (format, column) = match self.binary.iter().next() {
            // Without this format, the key column would contain the quotes or the envelope too.
            _ if self.json == keyed => {
                let scalar = self.texts.scalar("key").filter(|_| self.objects == 0);
                (Some("json"), scalar.unwrap_or_else(|| Typed::plain("jsonb")))
            }
            _ if self.objects == keyed => (format, Typed::plain("jsonb")),
            _ if self.registered == keyed => (format, Typed::plain(self.scalar.unwrap_or("jsonb"))),
            _ if self.texts.present == keyed => {
                (None, self.texts.scalar("key").unwrap_or_else(|| Typed::plain("text")))
            }
            Some((length, binary)) if binary.count == keyed => binary.kind(*length),
            _ => (Some("bytes"), Typed::plain("bytea")),
        };
        let alike = self.alike.iter().flatten().find(is_column).filter(|_| !several && self.objects == 0);
        match alike.and_then(name_of) {
            Some(name) => KeyPlan { names: vec![name], column: None, format, complete },
            None => KeyPlan { names: Vec::new(), column: Some(column), format, complete },
        }
    }
}

impl Binary {
    fn add(&mut self, key: &[u8]) {
        self.count += 1;
        // If the eight bytes of a float are read as a whole number, the number is nearly always far beyond 2^53.
        self.integers += u64::from(integer(key).is_some_and(|number| number.unsigned_abs() < 1 << 53));
        let float = match key.len() {
            8 => key.try_into().ok().map(f64::from_be_bytes),
            _ => None,
        };
        self.floats += u64::from(float.is_some_and(|number| number == 0.0 || (1e-9..1e18).contains(&number.abs())));
        // Check the version and the variant of a UUID.
        self.uuids += u64::from(matches!(key, [_, _, _, _, _, _, version, _, variant, ..]
            if key.len() == 16 && (1..=8).contains(&(version >> 4)) && variant >> 6 == 2));
    }

    fn kind(&self, length: usize) -> (Option<&'static str>, Typed) {
        let (format, column) = match length {
            2 => ("int16", "int2"),
            4 => ("int32", "int4"),
            8 if self.integers == self.count => ("int64", "int8"),
            8 if self.floats == self.count => ("float64", "float8"),
            16 if self.uuids == self.count => ("uuid", "uuid"),
            _ => ("bytes", "bytea"),
        };
        (Some(format), Typed::plain(column))
    }
}

/// Reads a key of 2, 4 or 8 bytes as a big-endian integer, as Kafka's serializers for Java write it. `None` for any other
/// length.
fn integer(key: &[u8]) -> Option<i64> {
    match key.len() {
        2 => key.try_into().ok().map(|key| i16::from_be_bytes(key).into()),
        4 => key.try_into().ok().map(|key| i32::from_be_bytes(key).into()),
        8 => key.try_into().ok().map(i64::from_be_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(keys: &[&[u8]], row: Option<&str>) -> (Option<&'static str>, String, Vec<String>) {
        let mut all = Keys::default();
        keys.iter().for_each(|key| all.add(Some(key), None, row.map(str::as_bytes)));
        let columns = ["id", "region"].map(|name| Proposed {
            name: name.to_owned(),
            path: vec![name.to_owned()],
            typed: Typed::plain("int8"),
            with_value: 1,
            rows: 1,
        });
        let KeyPlan { names, column, format, .. } = all.plan(&columns, false, false);
        (format, column.map(|column| column.name.to_string()).unwrap_or_default(), names)
    }

    #[test]
    fn keys_are_read_as_what_all_of_them_are() {
        let (a, b) = (7_i64.to_be_bytes(), (1_i64 << 40).to_be_bytes());
        let real = 21.5_f64.to_be_bytes();
        let id = *uuid::Uuid::from_u128(0x1111_1111_1111_4111_8111_1111_1111_1111).as_bytes();
        for (keys, format, column) in [
            (vec![&a[..], &b], Some("int64"), "int8"),
            (vec![&real[..]], Some("float64"), "float8"),
            (vec![&a[4..]], Some("int32"), "int4"),
            (vec![&a[6..]], Some("int16"), "int2"),
            (vec![&id[..]], Some("uuid"), "uuid"),
            (vec![&b"\xff\xfe\xfd"[..]], Some("bytes"), "bytea"),
            (vec![&b"vehicle-1"[..]], None, "text"),
            (vec![&b"12"[..], b"13"], None, "int8"),
            (vec![&b"\"a\""[..]], Some("json"), "text"),
            (vec![&br#"{"schema":{"type":"int64"},"payload":5}"#[..]], Some("json"), "int8"),
            (vec![&br#"{"X":1,"id":2}"#[..]], Some("json"), "jsonb"),
            (vec![&b"\"a\""[..], br#"{"X":1}"#], Some("json"), "jsonb"),
            (vec![&b"12"[..], b"\xff"], Some("bytes"), "bytea"),
        ] {
            assert_eq!(plan(&keys, None), (format, column.to_owned(), Vec::new()), "{keys:?}");
        }
    }

    #[test]
    fn fields_that_hold_the_key_identify_rows() {
        let row = Some(r#"{"other":7,"id":7,"region":"n"}"#);
        assert_eq!(plan(&[b"7"], row), (None, String::new(), vec!["id".to_owned()]));
        assert_eq!(plan(&[&7_i64.to_be_bytes()], row), (Some("int64"), String::new(), vec!["id".to_owned()]));
        assert_eq!(plan(&[b"7", b"8"], row), (None, "int8".to_owned(), Vec::new()));
        let both = vec!["region".to_owned(), "id".to_owned()];
        assert_eq!(plan(&[br#"{"region":"n","id":7}"#], row), (None, String::new(), both));
        let connect = br#"{"schema":{},"payload":{"id":7}}"#;
        assert_eq!(plan(&[connect], row), (None, String::new(), vec!["id".to_owned()]));
    }
}
