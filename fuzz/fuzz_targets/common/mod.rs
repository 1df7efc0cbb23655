//! Shared by the fuzz targets: encoders for any mapping, and a reader of the rows that they write.

#![allow(dead_code, reason = "each target takes what it needs")]

pub mod accepts;
#[path = "../../../crates/rows/tests/rows/reference.rs"]
pub mod reference;

use std::sync::Arc;

use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::catalog::{Catalog, CatalogColumn, RelationKind, TableName, TypeKind, UniqueIndex};
use tidegate_rows::fault::PlanFault;
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_rows::schema;
use tidegate_rows::spec::{
    Column, Decode, NulPolicy, RowFilter, RowSpec, SchemaSource, Shape, Source, Table, UnknownFields, WriteMode,
};

/// A column of the table: its name, its type, and the path of the field that fills it. If the path is empty, the mapping doesn't
/// have the column.
pub type Spec = (&'static str, &'static str, &'static str);

pub struct Pipeline {
    pub decode: Decode,
    pub shape: Shape,
    pub mode: WriteMode,
    pub keep: Option<RowFilter>,
    pub unknown_fields: UnknownFields,
    pub columns: Vec<Column>,
    pub types: Vec<(String, String)>,
}

impl Pipeline {
    pub fn of(decode: Decode, unknown_fields: UnknownFields, specs: &[Spec]) -> Self {
        let types = specs.iter().map(|(name, of, _)| ((*name).to_owned(), (*of).to_owned())).collect();
        let mapped = specs.iter().filter(|(.., path)| !path.is_empty());
        let columns = mapped.map(|(name, _, path)| mapping(name, Source::Field(split(path)))).collect();
        Self { decode, shape: Shape::PLAIN, mode: WriteMode::Append, keep: None, unknown_fields, columns, types }
    }

    pub fn with(mut self, name: &str, change: impl FnOnce(&mut Column)) -> Self {
        change(self.columns.iter_mut().find(|column| column.name == name).expect("a column of the mapping"));
        self
    }

    pub fn plan(&self) -> Result<Arc<Plan>, Vec<PlanFault>> {
        let table = Table {
            name: TableName { schema: "public".to_owned(), name: "t".to_owned() },
            route: None,
            mode: self.mode.clone(),
            create: false,
            after_create: Vec::new(),
            evolve: false,
            sort_by: Vec::new(),
            partition_by: None,
        };
        let spec = RowSpec {
            pipeline: "p",
            decode: &self.decode,
            shape: &self.shape,
            table: &table,
            columns: Some(&self.columns),
            keep: self.keep.as_ref(),
            unknown_fields: &self.unknown_fields,
            max_bytes: 8 << 20,
        };
        let catalog = Catalog {
            table: table.name.clone(),
            oid: 1,
            kind: RelationKind::Table,
            row_security: false,
            columns: self.types.iter().map(|(name, of)| column(name, of)).collect(),
            unique: vec![UniqueIndex { columns: vec![self.types[0].0.clone()], nulls_not_distinct: false }],
            may_conflict: true,
        };
        Plan::new(&spec, &catalog).map(Arc::new)
    }

    pub fn encoder(&self) -> Encoder {
        self.plan().map(Encoder::new).unwrap_or_else(|faults| panic!("{faults:?}"))
    }
}

pub fn encoder(decode: Decode, unknown_fields: UnknownFields, specs: &[Spec]) -> Encoder {
    Pipeline::of(decode, unknown_fields, specs).encoder()
}

pub fn extra() -> UnknownFields {
    UnknownFields::Column("extra".to_owned())
}

/// Parses a schema. `kind` is the name of the schema's type in a registry.
pub fn local(kind: &str, text: &str, message: Option<&str>) -> SchemaSource {
    let schema = schema::of_text(Some(kind), text, &[]).unwrap_or_else(|why| panic!("{why}"));
    let message = message.map(str::to_owned);
    SchemaSource::Local { file: "fuzz".into(), schema: Arc::new(schema), framed: false, message }
}

pub fn split(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}

pub fn mapping(name: &str, source: Source) -> Column {
    Column {
        name: name.to_owned(),
        source,
        type_name: None,
        unit: None,
        default: None,
        missing: None,
        keep: None,
        zone: None,
        nul: NulPolicy::DeadLetter,
        not_null: false,
        function: None,
        aggregate: None,
    }
}

/// As in Postgres' catalog: the name of a type, its oid, and the oid of its array type.
const TYPES: &[(&str, u32, u32)] = &[
    ("bool", 16, 1000),
    ("bytea", 17, 1001),
    ("char", 18, 1002),
    ("name", 19, 1003),
    ("int8", 20, 1016),
    ("int2", 21, 1005),
    ("int4", 23, 1007),
    ("text", 25, 1009),
    ("oid", 26, 1028),
    ("json", 114, 199),
    ("point", 600, 1017),
    ("cidr", 650, 651),
    ("float4", 700, 1021),
    ("float8", 701, 1022),
    ("macaddr8", 774, 775),
    ("macaddr", 829, 1040),
    ("inet", 869, 1041),
    ("bpchar", 1042, 1014),
    ("varchar", 1043, 1015),
    ("date", 1082, 1182),
    ("time", 1083, 1183),
    ("timestamp", 1114, 1115),
    ("timestamptz", 1184, 1185),
    ("interval", 1186, 1187),
    ("numeric", 1700, 1231),
    ("uuid", 2950, 2951),
    ("jsonb", 3802, 3807),
    ("int4range", 3904, 3905),
    ("numrange", 3906, 3907),
    ("tsrange", 3908, 3909),
    ("tstzrange", 3910, 3911),
    ("daterange", 3912, 3913),
    ("int8range", 3926, 3927),
];

/// The labels of the enum `mood`, the only enum in the fuzz targets.
pub const LABELS: [&str; 2] = ["on", "a\"b"];

/// Returns a column of the type `of`, for example `numeric(10,2)`, `int8[]`, or the enum `mood`. A `!` at its end means NOT NULL.
fn column(name: &str, of: &str) -> CatalogColumn {
    let (of, not_null) = (of.trim_end_matches('!'), of.ends_with('!'));
    let (scalar, array) = (of.trim_end_matches("[]"), of.ends_with("[]"));
    let (base, modifiers) = scalar.split_once('(').unwrap_or((scalar, ""));
    let numbers: Vec<i32> = modifiers.trim_end_matches(')').split(',').flat_map(str::parse).collect();
    let typmod = match (base, numbers.as_slice()) {
        ("numeric", [precision, scale]) => (precision << 16 | (scale & 0x7ff)) + 4,
        (_, [length]) => length + 4,
        _ => -1,
    };
    let labels = || LABELS.map(str::to_owned).to_vec();
    let known = TYPES.iter().find(|(name, ..)| *name == base);
    let (oid, base, kind) = match known {
        None => (99_999, base.to_owned(), TypeKind::Enum { labels: labels() }),
        Some((base, oid, array_oid)) if array => {
            let (element_type, labels) = ((*base).to_owned(), None);
            let kind = TypeKind::Array { element_type, element_oid: *oid, element_base_oid: *oid, labels };
            (*array_oid, format!("_{base}"), kind)
        }
        Some((base, oid, _)) => (*oid, (*base).to_owned(), TypeKind::Scalar),
    };
    CatalogColumn {
        name: name.to_owned(),
        type_oid: oid,
        base_type: base,
        base_type_oid: oid,
        type_text: of.to_owned(),
        kind,
        typmod,
        not_null,
        has_default: false,
        default_oid: None,
        generated: None,
        identity_always: false,
    }
}

pub fn record(value: &[u8]) -> Record<'_> {
    Record {
        topic: "t",
        partition: 0,
        offset: 7,
        timestamp_ms: None,
        key: None,
        value: Some(value),
        headers: Headers::default(),
    }
}

/// The fields of a row. `None` is NULL.
pub type Row<'a> = Vec<Option<&'a [u8]>>;

/// Encodes a record, and checks that rows are appended completely or not at all. Returns the number of rows, or `None` for a
/// rejected record.
pub fn encode(encoder: &mut Encoder, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u32> {
    out.clear();
    out.extend_from_slice(b"before");
    assert_eq!(encoder.wants(record.key, record.value, record.headers), None, "no schema is missing");
    let result = encoder.encode(record, out);
    assert!(out.starts_with(b"before"), "earlier rows are left alone");
    out.drain(..6);
    match result {
        Ok(count) => Some(count),
        Err(rejection) => {
            assert!(out.is_empty(), "a refused record leaves nothing behind");
            assert!(!rejection.detail.is_empty(), "it says why");
            None
        }
    }
}

/// Splits encoded rows into fields. Panics if there are not exactly `count` rows, or if a length is wrong.
pub fn rows(count: u32, mut rest: &[u8]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for _row in 0..count {
        let (fields, tail) = rest.split_first_chunk::<2>().expect("a row begins with its count of fields");
        rest = tail;
        let mut row = Vec::new();
        for _field in 0..u16::from_be_bytes(*fields) {
            let (len, tail) = rest.split_first_chunk::<4>().expect("a field begins with its length");
            rest = tail;
            let len = i32::from_be_bytes(*len);
            if len == -1 {
                row.push(None);
                continue;
            }
            let len = usize::try_from(len).expect("a length");
            let (field, tail) = rest.split_at_checked(len).expect("a field is as long as it says");
            row.push(Some(field));
            rest = tail;
        }
        rows.push(row);
    }
    assert!(rest.is_empty(), "nothing stands between rows or behind them");
    rows
}

/// Encodes a record with this encoder and with a new encoder, and checks that both write the same rows. Facts that an encoder has
/// learned from earlier records must not change its rows.
pub fn encode_alike(encoder: &mut Encoder, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u32> {
    let count = encode(encoder, record, out);
    let mut fresh = Encoder::new(encoder.plan().clone());
    let mut again = Vec::new();
    assert_eq!(encode(&mut fresh, record, &mut again), count, "a new encoder takes as many rows");
    assert_eq!(&again, out, "a new encoder writes the same rows");
    count
}
