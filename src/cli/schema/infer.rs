//! Infers, from a sample of JSON records, the column for each of their fields. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidegate_rows::catalog::can_name_a_column;
use tidegate_rows::json::members::{Elements, Members};
use tidegate_rows::value::{Flags, Kind, Value};

use super::shape::{self, Shape};

/// The most fields in a proposal; further ones go into the column for the rest.
const FIELDS_MAX: usize = 200;

/// A sample of records.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) records: u64,
    pub(super) tombstones: u64,
    /// Values that hold no JSON object.
    others: u64,
    shapes: BTreeMap<Shape, Rows>,
    /// The fields of keys, if all keys so far have the same.
    key: Option<Vec<String>>,
}

/// The rows of all records with one shape.
#[derive(Debug, Default)]
struct Rows {
    records: u64,
    count: u64,
    fields: Vec<Field>,
    /// Elements of arrays of objects: the first name of a path is the array's.
    elements: Vec<Field>,
}

/// A proposal.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) shape: Shape,
    /// The array whose elements are the rows.
    pub(super) rows: Option<String>,
    pub(super) columns: Vec<Proposed>,
    /// The columns that identify a row, if keys have them.
    pub(super) key: Vec<String>,
    /// How many rows, and how many elements of the array, were read.
    pub(super) count: u64,
    /// Whether every field has its column.
    pub(super) complete: bool,
}

/// A field, in the order of its first appearance.
#[derive(Debug)]
struct Field {
    path: Vec<String>,
    seen: Seen,
    /// The type by the record's schema.
    declared: Option<&'static str>,
}

/// The values of a field.
#[derive(Debug, Default)]
struct Seen {
    present: u64,
    nulls: u64,
    bools: u64,
    numbers: Numbers,
    texts: Texts,
    objects: u64,
    arrays: u64,
    /// The elements of all its arrays.
    elements: Option<Box<Seen>>,
    /// Whether there was an array within an array, or an object within an array.
    nested: bool,
}

#[derive(Debug, Default)]
struct Numbers {
    count: u64,
    /// Whether all are whole numbers.
    fractions: u64,
    /// Whether there was one beyond an int8, or with more digits than a float8 keeps.
    exact: u64,
    least: i64,
    most: i64,
}

#[derive(Debug, Default)]
struct Texts {
    count: u64,
    instants: u64,
    dates: u64,
    uuids: u64,
}

/// A column of the proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposed {
    pub(super) name: String,
    pub(super) path: Vec<String>,
    pub(super) type_name: &'static str,
    pub(super) unit: Option<&'static str>,
    /// Records that have the field.
    pub(super) present: u64,
    /// Those of these records in which it is null.
    pub(super) nulls: u64,
    /// Whether the field is one of the array's elements.
    pub(super) is_element: bool,
}

impl Sample {
    /// Adds one record to the sample.
    pub(super) fn add(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.records += 1;
        let names = key.map(shape::key_fields).unwrap_or_default();
        match &self.key {
            Some(known) if *known != names => self.key = Some(Vec::new()),
            Some(_) => {}
            None => self.key = Some(names),
        }
        let Some(value) = value else {
            self.tombstones += 1;
            return;
        };
        let Some(looked) = shape::look(value) else {
            self.others += 1;
            return;
        };
        let rows = self.shapes.entry(looked.shape).or_default();
        rows.records += 1;
        for row in looked.rows {
            rows.count += 1;
            rows.object(&mut Vec::new(), row, looked.schema.as_ref());
        }
    }

    /// Returns the shape of most records, with columns for their fields; `None` if no field has a value.
    pub(super) fn propose(&self) -> Option<Proposal> {
        let (shape, rows) = self.shapes.iter().max_by_key(|(_, rows)| rows.records)?;
        let array = rows.array();
        let (columns, complete) = rows.columns(array);
        let is_column = |name: &&String| columns.iter().any(|column| column.path == [(*name).clone()]);
        let key = self.key.iter().flatten().filter(is_column).cloned().collect::<Vec<_>>();
        let whole = self.key.as_ref().is_some_and(|names| names.len() == key.len());
        let array = array.map(str::to_owned);
        let count = rows.count;
        let key = if *shape == Shape::Debezium && whole { key } else { Vec::new() };
        (!columns.is_empty()).then_some(Proposal { shape: *shape, rows: array, columns, key, count, complete })
    }

    /// Returns the records that the proposal would refuse.
    pub(super) fn odd(&self) -> u64 {
        let most = self.shapes.values().map(|rows| rows.records).max().unwrap_or(0);
        self.records - self.tombstones - most
    }
}

impl Rows {
    fn object(&mut self, path: &mut Vec<String>, raw: &[u8], schema: Option<&serde_json::Value>) {
        for (name, value) in Members::of(raw) {
            path.push(name);
            let declared = schema.and_then(|schema| shape::declared(schema, &path[0])).filter(|_| path.len() == 1);
            note(&mut self.fields, path, &value, declared);
            // Only one level down: deeper structures become a document.
            if value.kind == Kind::Object && path.len() == 1 && declared.is_none() {
                self.object(path, value.raw, schema);
            }
            if value.kind == Kind::Array && path.len() == 1 && declared.is_none() {
                for element in Elements::of(value.raw).filter(|element| element.kind == Kind::Object) {
                    for (name, value) in Members::of(element.raw) {
                        path.push(name);
                        note(&mut self.elements, path, &value, None);
                        path.pop();
                    }
                }
            }
            path.pop();
        }
    }

    /// Returns the only field that is an array of objects, if its elements make better rows than the record itself.
    fn array(&self) -> Option<&str> {
        let is_rows = |field: &&Field| {
            let elements = field.seen.elements.as_deref();
            field.path.len() == 1
                && field.seen.arrays > 0
                && field.seen.arrays + field.seen.nulls == self.count
                && elements.is_some_and(|elements| elements.present > 0 && elements.objects == elements.present)
        };
        let mut arrays = self.fields.iter().filter(is_rows);
        let array = arrays.next().filter(|_| arrays.next().is_none())?;
        array.path.first().map(String::as_str)
    }

    /// Returns the columns for the fields, and whether all have one.
    fn columns(&self, array: Option<&str>) -> (Vec<Proposed>, bool) {
        let mut columns: Vec<Proposed> = Vec::new();
        let mut complete = true;
        let is_array = |field: &&Field| array.is_some_and(|array| field.path[0] == array);
        let elements = self.elements.iter().filter(is_array).map(|field| (field, true));
        for (Field { path, seen, declared }, is_element) in
            self.fields.iter().filter(|field| !is_array(field)).map(|field| (field, false)).chain(elements)
        {
            let whole = |path: &[String]| self.is_spread(path);
            let wanted = match path.as_slice() {
                _ if is_element => true,
                [_] => !whole(path),
                [top, ..] => whole(std::slice::from_ref(top)),
                [] => false,
            };
            let has_type = seen.present > seen.nulls || declared.is_some();
            if !wanted || !has_type {
                // A field that was always null has no type.
                complete &= !wanted;
                continue;
            }
            let is_taken = |name: &str| columns.iter().any(|column| column.name == name);
            let short = path.get(1..).filter(|_| is_element).and_then(|path| name_of(path, is_taken));
            match short.or_else(|| name_of(path, is_taken)) {
                Some(name) if columns.len() < FIELDS_MAX => {
                    let inferred = seen.type_of(path.last().map_or("", String::as_str));
                    let (type_name, unit) = declared.map_or(inferred, |declared| (declared, None));
                    let Seen { present, nulls, .. } = *seen;
                    columns.push(Proposed { name, path: path.clone(), type_name, unit, present, nulls, is_element });
                }
                _ => complete = false,
            }
        }
        (columns, complete)
    }

    /// Returns whether an object's members become columns: it is an object in all records, and holds only scalars.
    fn is_spread(&self, top: &[String]) -> bool {
        let Some(field) = self.fields.iter().find(|field| field.path == top) else { return false };
        let members: Vec<_> =
            self.fields.iter().filter(|field| field.path.len() == 2 && field.path.first() == top.first()).collect();
        field.seen.objects + field.seen.nulls == field.seen.present
            && (1..=16).contains(&members.len())
            && members.iter().all(|member| member.seen.objects == 0 && member.seen.arrays == 0)
    }
}

fn note(fields: &mut Vec<Field>, path: &[String], value: &Value<'_>, declared: Option<&'static str>) {
    let at = fields.iter().position(|field| field.path == path).or_else(|| {
        let room = fields.len() < 2 * FIELDS_MAX;
        room.then(|| fields.push(Field { path: path.to_vec(), seen: Seen::default(), declared }));
        room.then(|| fields.len() - 1)
    });
    if let Some(field) = at.and_then(|at| fields.get_mut(at)) {
        field.seen.add(value);
    }
}

impl Seen {
    fn add(&mut self, value: &Value<'_>) {
        self.present += 1;
        match value.kind {
            Kind::Null | Kind::Missing => self.nulls += 1,
            Kind::True | Kind::False => self.bools += 1,
            Kind::Number => self.numbers.add(value),
            // The kinds below don't occur in JSON, the only format of a sample.
            Kind::Lexical
            | Kind::Float
            | Kind::Instant
            | Kind::Day
            | Kind::Clock
            | Kind::Span
            | Kind::Uuid
            | Kind::Decimal => {}
            Kind::String | Kind::Text | Kind::Bytes => self.texts.add(value.as_text().unwrap_or_default()),
            Kind::Object => self.objects += 1,
            Kind::Array => {
                self.arrays += 1;
                let elements = self.elements.get_or_insert_default();
                for element in Elements::of(value.raw) {
                    self.nested |= matches!(element.kind, Kind::Array | Kind::Object);
                    elements.add(&element);
                }
            }
        }
    }

    /// Returns the type that accepts all values, and the unit if it is an epoch.
    fn type_of(&self, name: &str) -> (&'static str, Option<&'static str>) {
        let kinds = [self.bools, self.numbers.count, self.texts.count, self.objects + self.arrays];
        if kinds.iter().filter(|count| **count > 0).count() != 1 {
            // Both text and numbers: a text column accepts both. If there are structures too, it must be a document.
            let text = self.objects + self.arrays == 0 && self.texts.count > 0;
            return (if text { "text" } else { "jsonb" }, None);
        }
        match () {
            () if self.bools > 0 => ("bool", None),
            () if self.numbers.count > 0 => self.numbers.type_of(name),
            () if self.texts.count > 0 => (self.texts.type_of(), None),
            () if self.arrays > 0 && self.objects == 0 && !self.nested => {
                let element = self.elements.as_deref().filter(|elements| elements.present > elements.nulls);
                (element.map_or("jsonb", |element| array_of(element.type_of("").0)), None)
            }
            () => ("jsonb", None),
        }
    }
}

impl Numbers {
    fn add(&mut self, value: &Value<'_>) {
        let first = self.count == 0;
        self.count += 1;
        let whole = (value.exponent == 0 && !value.flags.has(Flags::INEXACT))
            .then(|| i64::try_from(value.mantissa).ok())
            .flatten()
            .map(|number| if value.flags.has(Flags::NEGATIVE) { -number } else { number });
        match whole {
            Some(number) => {
                self.least = if first { number } else { self.least.min(number) };
                self.most = if first { number } else { self.most.max(number) };
            }
            None if value.exponent == 0 || value.flags.has(Flags::INEXACT) => self.exact += 1,
            None => self.fractions += 1,
        }
    }

    fn type_of(&self, name: &str) -> (&'static str, Option<&'static str>) {
        match () {
            () if self.exact > 0 => ("numeric", None),
            () if self.fractions > 0 => ("float8", None),
            () => match epoch_unit(name, self.least, self.most) {
                Some(unit) => ("timestamptz", Some(unit)),
                None => ("int8", None),
            },
        }
    }
}

impl Texts {
    fn add(&mut self, text: &[u8]) {
        self.count += 1;
        let text = std::str::from_utf8(text).unwrap_or_default();
        let is_instant = text.len() >= 20 && text.as_bytes()[10] == b'T' && text.parse::<Timestamp>().is_ok();
        let is_date = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
        let is_uuid = text.len() == 36 && text.parse::<uuid::Uuid>().is_ok();
        self.instants += u64::from(is_instant);
        self.dates += u64::from(is_date);
        self.uuids += u64::from(is_uuid);
    }

    fn type_of(&self) -> &'static str {
        match self.count {
            n if n == self.instants => "timestamptz",
            n if n == self.dates => "date",
            n if n == self.uuids => "uuid",
            _ => "text",
        }
    }
}

fn array_of(element: &str) -> &'static str {
    match element {
        "bool" => "bool[]",
        "int8" => "int8[]",
        "float8" => "float8[]",
        "numeric" => "numeric[]",
        "text" => "text[]",
        "timestamptz" => "timestamptz[]",
        "date" => "date[]",
        "uuid" => "uuid[]",
        _ => "jsonb",
    }
}

/// Returns the unit of whole numbers whose name suggests a time and that all lie between the years 2000 and 2100 in that unit.
fn epoch_unit(name: &str, least: i64, most: i64) -> Option<&'static str> {
    const SINCE: i128 = 946_684_800;
    const UNTIL: i128 = 4_102_444_800;
    let name = name.to_ascii_lowercase();
    let of_time = ["ts", "t", "at", "time", "when", "date", "epoch"].contains(&name.as_str())
        || ["timestamp", "time_ms", "time_us", "time_ns"].iter().any(|part| name.contains(part))
        || ["_at", "_ts", "_time", "_on"].iter().any(|end| name.ends_with(end));
    let units = [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)];
    let fits = |per_second: i128| i128::from(least) >= SINCE * per_second && i128::from(most) < UNTIL * per_second;
    units.into_iter().find(|(_, per_second)| of_time && fits(*per_second)).map(|(unit, _)| unit)
}

/// Converts `position.lat` to `position_lat`, and `ctid` to `ctid_`; `None` if that is taken, or Postgres would truncate it.
fn name_of(path: &[String], is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let mut name = path.join("_");
    if name.is_empty() {
        return None;
    }
    if !can_name_a_column(&name) {
        // A system column's name is free with a letter more.
        name.push('_');
    }
    (can_name_a_column(&name) && !is_taken(&name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(records: &[&str]) -> Vec<String> {
        let mut sample = Sample::default();
        records.iter().for_each(|record| sample.add(None, Some(record.as_bytes())));
        let show = |column: Proposed| {
            let unit = column.unit.map_or(String::new(), |unit| format!("/{unit}"));
            format!("{} {}{unit}", column.name, column.type_name)
        };
        sample.propose().map(|proposal| proposal.columns).unwrap_or_default().into_iter().map(show).collect()
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
        assert_eq!(columns(&[r#"{"v":"2026-01-31T12:00:00Z"}"#, r#"{"v":"soon"}"#]), ["v text"]);
        assert_eq!(columns(&[r#"{"v":true}"#, r#"{"v":0}"#]), ["v jsonb"]);
    }

    #[test]
    fn a_name_that_no_column_can_have_gets_one_or_is_left_to_the_rest() {
        let long = "x".repeat(64);
        let record = format!(r#"{{"ctid":1,"select":2,"a.b":3,"A":4,"a":5,"{long}":6,"":7,"xmin_":8,"xmin":9}}"#);
        assert_eq!(columns(&[&record]), ["ctid_ int8", "select int8", "a.b int8", "A int8", "a int8", "xmin_ int8"]);
    }

    #[test]
    fn an_object_of_scalars_is_spread_and_any_other_is_kept_whole() {
        assert_eq!(
            columns(&[r#"{"p":{"lat":1.5,"lon":2.5},"q":{"x":{"y":1}}}"#, r#"{"p":null}"#]),
            ["p_lat float8", "p_lon float8", "q jsonb"]
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
    fn what_is_no_object_is_counted() {
        let mut sample = Sample::default();
        [Some(&b"{}"[..]), Some(b"[1]"), Some(b"\xff"), None].into_iter().for_each(|value| sample.add(None, value));
        assert_eq!((sample.records, sample.tombstones, sample.odd()), (4, 1, 2));
    }

    #[test]
    fn an_array_of_objects_is_rows_and_changes_give_their_table() {
        let records = [r#"{"device":7,"readings":[{"t":1,"device":2},{"t":2}]}"#, r#"{"device":8,"readings":[]}"#];
        assert_eq!(columns(&records), ["device int8", "t int8", "readings_device int8"]);
        // Two such arrays: neither one makes the record's rows.
        assert_eq!(columns(&[r#"{"a":[{"x":1}],"b":[{"y":1}]}"#]), ["a jsonb", "b jsonb"]);
        let mut sample = Sample::default();
        let schema = r#"{"fields":[{"field":"after","fields":[{"field":"day","type":"int32","name":"io.debezium.time.Date"}]}]}"#;
        let value =
            format!(r#"{{"schema":{schema},"payload":{{"before":null,"after":{{"id":1,"day":20484}},"op":"c"}}}}"#);
        sample.add(Some(br#"{"schema":{},"payload":{"id":1}}"#), Some(value.as_bytes()));
        sample.add(Some(br#"{"schema":{},"payload":{"id":1}}"#), None);
        let proposal = sample.propose().expect("a proposal");
        let types: Vec<_> = proposal.columns.iter().map(|column| (&*column.name, column.type_name)).collect();
        assert_eq!(types, [("id", "int8"), ("day", "date")]);
        assert_eq!((proposal.shape, proposal.key), (Shape::Debezium, vec!["id".to_owned()]));
    }
}
