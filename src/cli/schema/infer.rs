//! Infers, from a sample of records, the columns for their fields. Pure.

use std::collections::BTreeMap;

use tidegate_rows::catalog::Catalog;
use tidegate_rows::schema::Schema;

use super::columns::{Columns, Proposed};
use super::existing;
use super::keys::{KeyPlan, Keys};
use super::shape::{self, Shape};
use super::tree::Node;
use super::values::Typed;

/// The field with which Debezium's unwrapping transform marks the rows of deletes.
const DELETED: &str = "__deleted";
/// The name of the column that gets the records' key, if no field contains the key.
pub(super) const KEY_COLUMN: &str = "kafka_key";

#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) records: u64,
    pub(super) tombstones: u64,
    /// How many values begin with the id of a schema, but give no fields, usually because the schema isn't known.
    pub(super) unknown_schemas: u64,
    shapes: BTreeMap<Shape, Rows>,
    keys: Keys,
}

/// The rows of all records that have the same structure.
#[derive(Debug, Default)]
struct Rows {
    records: u64,
    root: Node,
}

/// The proposed pipeline. `columns`, `levels` and `unmapped` are those of [`Columns`].
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) shape: Shape,
    pub(super) levels: Vec<Vec<String>>,
    pub(super) columns: Vec<Proposed>,
    /// Whether every field has a column.
    pub(super) complete: bool,
    /// The value of `decode.key_format`, if it has to be stated.
    pub(super) key_format: Option<&'static str>,
    /// The type of the column that stores the record's key; `None` if no such column is proposed.
    pub(super) key_column: Option<Typed>,
    pub(super) mode: Mode,
    pub(super) unmapped: Vec<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Append,
    /// Each record writes the row of its key. The row is deleted by a record without a value, by a delete of Debezium, and by a
    /// record whose field `delete_where` is the text `true`.
    Upsert {
        /// The columns of the table's key. If empty, the column for the record's key is the table's key.
        key: Vec<String>,
        delete_where: Option<&'static str>,
    },
}

impl Sample {
    /// Adds one record to the sample. `schemas` returns the schema with a given number, which is read from the registry
    /// frame of the key or the value.
    pub(super) fn add<S>(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, mut schemas: impl FnMut(u32) -> Option<S>)
    where
        S: AsRef<Schema>,
    {
        self.records += 1;
        let mut named = |bytes: Option<&[u8]>| bytes.and_then(shape::schema_id).and_then(&mut schemas);
        let of_key = named(key);
        let of_key = of_key.as_ref().map(AsRef::as_ref);
        let Some(value) = value.filter(|value| !shape::is_tombstone(value)) else {
            self.tombstones += 1;
            return self.keys.add(key, of_key, None);
        };
        if let Some(schema) = named(Some(value))
            && let Some((shape, outline)) = shape::by_schema(schema.as_ref(), value)
        {
            let rows = self.shapes.entry(shape).or_default();
            rows.records += 1;
            rows.root.outlined(&outline);
            return self.keys.add(key, of_key, None);
        }
        let Some(looked) = shape::look(value) else {
            self.unknown_schemas += u64::from(shape::schema_id(value).is_some());
            return self.keys.add(key, of_key, None);
        };
        let row = if let [row] = looked.rows[..] { Some(row) } else { None };
        self.keys.add(key, of_key, row);
        let rows = self.shapes.entry(looked.shape).or_default();
        rows.records += 1;
        looked.rows.iter().for_each(|row| rows.root.row(row, looked.schema.as_ref()));
    }

    /// Returns a proposal for the most frequent structure of the records. If `table` exists, the fields are assigned to its
    /// columns; otherwise new columns are proposed. Returns `None` if no field has a column.
    pub(super) fn propose(&self, table: Option<&Catalog>) -> Option<Proposal> {
        let (shape, rows) = self.shapes.iter().max_by_key(|(_, rows)| rows.records)?;
        let found = table.map_or_else(|| Columns::of(&rows.root), |table| existing::columns(&rows.root, table));
        let Columns { columns, incomplete, levels, unmapped } = found;
        if columns.is_empty() {
            return None;
        }
        let several = !levels.is_empty() || shape.has_several();
        let KeyPlan { names, column, format, complete } = self.keys.plan(&columns, several, shape.is_registered());
        let column = column.filter(|_| table.is_none_or(|table| existing::has_free(table, &columns, KEY_COLUMN)));
        let is_flag = |(name, node): &&(String, Node)| name == DELETED && node.seen.is_flag_in_text();
        let delete_where = rows.root.members.iter().find(is_flag).map(|_| DELETED);
        let deletes = shape.is_change() || self.tombstones > 0 || delete_where.is_some();
        let has_key = complete && !several && (!names.is_empty() || column.is_some());
        let mode = match deletes && has_key && (column.is_none() || !shape.is_change()) {
            true => Mode::Upsert { key: names, delete_where },
            false => Mode::Append,
        };
        // If rows contain the key in a field, the format of keys matters for deletes only.
        let key_format = format.filter(|_| column.is_some() || mode != Mode::Append);
        let complete = !incomplete;
        Some(Proposal { shape: *shape, levels, columns, complete, key_format, key_column: column, mode, unmapped })
    }

    /// Returns how many records have a value but another structure than the proposal. Such records may become dead letters.
    pub(super) fn odd(&self) -> u64 {
        let most = self.shapes.values().map(|rows| rows.records).max().unwrap_or(0);
        self.records - self.tombstones - most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(records: &[(Option<&str>, Option<&str>)]) -> Sample {
        let mut sample = Sample::default();
        for (key, value) in records {
            let bytes = |text: &Option<&str>| text.map(|text| text.as_bytes().to_vec());
            sample.add(bytes(key).as_deref(), bytes(value).as_deref(), |_| None::<std::sync::Arc<Schema>>);
        }
        sample
    }

    fn columns(records: &[&str]) -> Vec<String> {
        let records: Vec<_> = records.iter().map(|value| (None, Some(*value))).collect();
        let show = |column: Proposed| {
            let unit = column.typed.unit.map_or(String::new(), |unit| format!("/{unit}"));
            format!("{} {}{unit}", column.name, column.typed.name)
        };
        sample(&records)
            .propose(None)
            .map(|proposal| proposal.columns)
            .unwrap_or_default()
            .into_iter()
            .map(show)
            .collect()
    }

    fn levels(records: &[&str]) -> Vec<String> {
        let records: Vec<_> = records.iter().map(|value| (None, Some(*value))).collect();
        let levels = sample(&records).propose(None).map(|proposal| proposal.levels).unwrap_or_default();
        levels.iter().map(|path| path.join(".")).collect()
    }

    #[test]
    fn each_kind_of_value_has_its_type() {
        let record = r#"{"b":true,"n":1,"f":1.5,"big":123456789012345678901234567890,"t":"x","at":"2026-01-31T12:00:00Z",
            "day":"2026-01-31","id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","o":{"a":[1]},"l":[1,2],"m":[1,"x"],"e":[],"z":null}"#;
        let expected = [
            "b bool",
            "n int8",
            "f float8",
            "big numeric",
            "t text",
            "at timestamptz",
            "day date",
            "id uuid",
            "o jsonb",
            "l int8[]",
            "m text[]",
            "e jsonb",
        ];
        assert_eq!(columns(&[record]), expected);
    }

    #[test]
    fn a_type_takes_all_that_was_seen() {
        assert_eq!(columns(&[r#"{"v":1}"#, r#"{"v":2.5}"#, r#"{"v":null}"#]), ["v float8"]);
        assert_eq!(columns(&[r#"{"v":1}"#, r#"{"v":"n/a"}"#]), ["v text"]);
        assert_eq!(columns(&[r#"{"v":1}"#, r#"{"v":{"x":1}}"#]), ["v jsonb"]);
        assert_eq!(columns(&[r#"{"v":[1]}"#, r#"{"v":1}"#]), ["v jsonb"]);
        assert_eq!(columns(&[r#"{"v":"2026-01-31T12:00:00Z"}"#, r#"{"v":"soon"}"#]), ["v text"]);
        assert_eq!(columns(&[r#"{"v":true}"#, r#"{"v":0}"#]), ["v jsonb"]);
    }

    #[test]
    fn a_name_that_no_column_can_have_gets_one_or_is_left_to_the_rest() {
        let long = "x".repeat(64);
        let record = format!(r#"{{"ctid":1,"select":2,"a.b":3,"A":4,"a":5,"{long}":6,"":7,"xmin_":8,"xmin":9}}"#);
        let cut = format!("{} int8", "x".repeat(63));
        let expected =
            ["ctid_ int8", "select int8", "a.b int8", "A int8", "a int8", cut.as_str(), "xmin_ int8", "xmin__ int8"];
        assert_eq!(columns(&[&record]), expected);
        // Two fields would get the same column name: the second one gets another name, and isn't lost.
        assert_eq!(columns(&[r#"{"a_b":1,"a":{"b":2}}"#]), ["a_b int8", "a_b_ int8"]);
    }

    #[test]
    fn an_object_of_scalars_is_spread_and_any_other_is_kept_whole() {
        assert_eq!(
            columns(&[r#"{"p":{"lat":1.5,"lon":2.5,"alt":null},"q":{"x":{"y":1}}}"#, r#"{"p":null}"#]),
            ["p_lat float8", "p_lon float8", "p_alt jsonb", "q jsonb"]
        );
    }

    #[test]
    fn whole_numbers_under_a_name_of_time_are_epochs() {
        assert_eq!(
            columns(&[r#"{"ts":1767225600,"at":1767225600123,"t":1767225600123456}"#]),
            ["ts timestamptz/s", "at timestamptz/ms", "t timestamptz/us"]
        );
        assert_eq!(
            columns(&[r#"{"sent_at":1767225600123456789,"ts":12,"count":1767225600}"#]),
            ["sent_at timestamptz/ns", "ts int8", "count int8"]
        );
    }

    #[test]
    fn objects_that_name_the_type_of_their_value_are_that_value() {
        let record = r#"{"_id":{"$oid":"507f1f77bcf86cd799439011"},"at":{"$date":"2026-01-31T12:00:00Z"},
            "since":{"$date":{"$numberLong":"1769860800123"}},"until":{"$date":1769860800123},"n":{"$numberLong":"5"},
            "price":{"$numberDecimal":"9.90"},"pic":{"$binary":{"base64":"AAE=","subType":"00"}},
            "geo":{"lat":{"$numberDouble":"1.5"},"lon":2.5},"body":{"stringValue":"a"}}"#;
        let expected = [
            "_id text",
            "at timestamptz",
            "since timestamptz/ms",
            "until timestamptz/ms",
            "n int8",
            "price numeric",
            "pic bytea",
            "geo_lat float8",
            "geo_lon float8",
            "body jsonb",
        ];
        assert_eq!(columns(&[record]), expected);
    }

    #[test]
    fn what_is_no_object_is_counted() {
        let sample = sample(&[(None, Some("{}")), (None, Some("[1]")), (None, Some("7")), (None, None)]);
        assert_eq!((sample.records, sample.tombstones, sample.odd()), (4, 1, 2));
    }

    #[test]
    fn an_array_of_objects_is_rows() {
        let records = [r#"{"device":7,"readings":[{"t":1,"device":2},{"t":2}]}"#, r#"{"device":8,"readings":[]}"#];
        assert_eq!(columns(&records), ["device int8", "t int8", "readings_device int8"]);
        // There are two arrays of objects, so no array makes the rows. Arrays of key-value pairs, and arrays that only
        // some records have, never make the rows.
        assert_eq!(columns(&[r#"{"a":[{"x":1}],"b":[{"y":1}]}"#]), ["a jsonb", "b jsonb"]);
        assert_eq!(columns(&[r#"{"id":1,"tags":[{"key":"a","value":"b"}]}"#]), ["id int8", "tags jsonb"]);
        assert_eq!(columns(&[r#"{"id":1,"l":[{"a":1}]}"#, r#"{"id":2}"#]), ["id int8", "l jsonb"]);
        // A record with many fields beside the array stays one row.
        let order = r#"{"id":1,"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"items":[{"sku":"x"}]}"#;
        assert_eq!(levels(&[order]), Vec::<String>::new());
    }

    #[test]
    fn arrays_within_arrays_are_walked_to_their_ends() {
        let logs = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"gate"}}]},
            "scopeLogs":[{"scope":{"name":"one"},"logRecords":[{"timeUnixNano":"1769860800123456789","severityNumber":9,
            "body":{"stringValue":"a"},"attributes":[]}]}]}]}"#;
        assert_eq!(levels(&[logs]), ["resourceLogs", "scopeLogs", "logRecords"]);
        let expected =
            ["resource jsonb", "scope_name text", "timeUnixNano timestamptz/ns", "severityNumber int8", "body jsonb"];
        assert_eq!(columns(&[logs])[..5], expected);
        let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"temp","unit":"C","gauge":{"dataPoints":[
            {"asDouble":21.5,"timeUnixNano":"1769860800000000000"}]}}]}]}]}"#;
        assert_eq!(levels(&[metrics]), ["resourceMetrics", "scopeMetrics", "metrics", "gauge.dataPoints"]);
    }

    #[test]
    fn changes_give_their_table_and_its_key() {
        let schema = r#"{"fields":[{"field":"after","fields":[{"field":"day","type":"int32","name":"io.debezium.time.Date"}]}]}"#;
        let value =
            format!(r#"{{"schema":{schema},"payload":{{"before":null,"after":{{"id":1,"day":20484}},"op":"c"}}}}"#);
        let key = Some(r#"{"schema":{},"payload":{"id":1}}"#);
        let proposal = sample(&[(key, Some(&value)), (key, None)]).propose(None).expect("a proposal");
        let types: Vec<_> = proposal.columns.iter().map(|column| (&*column.name, &*column.typed.name)).collect();
        assert_eq!(types, [("id", "int8"), ("day", "date")]);
        let upsert = |delete_where| Mode::Upsert { key: vec!["id".to_owned()], delete_where };
        assert_eq!((proposal.shape, proposal.mode), (Shape::Debezium, upsert(None)));
        // Without a key there is no row to change.
        let proposal = sample(&[(None, Some(&value))]).propose(None).expect("a proposal");
        assert_eq!(proposal.mode, Mode::Append);
        // These changes were unwrapped by a transform.
        let unwrapped = (Some(r#"{"id":1}"#), Some(r#"{"id":1,"__deleted":"true"}"#));
        assert_eq!(sample(&[unwrapped]).propose(None).expect("a proposal").mode, upsert(Some(DELETED)));
    }

    #[test]
    fn records_without_a_value_delete_by_their_keys() {
        let value = Some(r#"{"n":1}"#);
        let proposal = sample(&[(Some("a"), value), (Some("b"), Some("null"))]).propose(None).expect("a proposal");
        assert_eq!(proposal.mode, Mode::Upsert { key: Vec::new(), delete_where: None });
        assert_eq!(proposal.key_column, Some(Typed::plain("text")));
        let proposal = sample(&[(Some("a"), value)]).propose(None).expect("a proposal");
        assert_eq!((proposal.mode, proposal.key_column), (Mode::Append, Some(Typed::plain("text"))));
    }
}
