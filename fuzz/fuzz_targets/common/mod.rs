//! What the targets share: encoders made from a configuration as a user writes it, and a reading of what they write.

#![allow(dead_code, reason = "each target takes what it needs")]

pub mod accepts;
#[path = "../../../src/copy/reference.rs"]
pub mod reference;

use std::sync::Arc;

use tidegate_rows::catalog::{Catalog, CatalogColumn, RelationKind, TypeKind};
use tidegate::config::Config;
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_protocol::record::{Headers, Record};

/// A column of the table: its name, its type, and its mapping: a path, or a table of TOML.
pub type Spec = (&'static str, &'static str, &'static str);

/// An encoder whose table has these columns; `pipeline` is what else stands in the pipeline's table. `FILE` in it is
/// a file with this schema.
pub fn encoder(pipeline: &str, schema: Option<&str>, specs: &[Spec]) -> Encoder {
    let specs: Vec<_> = specs.iter().map(|(name, of, from)| (*name, *of, mapping(from))).collect();
    plan(pipeline, schema, &specs).map(Encoder::new).unwrap_or_else(|faults| panic!("{faults}"))
}

fn mapping(from: &str) -> String {
    if from.is_empty() || from.starts_with('{') { from.to_owned() } else { format!("{from:?}") }
}

/// The plan, or what is wrong with it.
pub fn plan(pipeline: &str, schema: Option<&str>, specs: &[(&str, &str, String)]) -> Result<Arc<Plan>, String> {
    let ending = if schema.is_some_and(|schema| schema.starts_with("syntax")) { "proto" } else { "avsc" };
    let file = std::env::temp_dir().join(format!("tidegate-fuzz-{}.{ending}", std::process::id()));
    let mut pipeline = pipeline.to_owned();
    if let Some(schema) = schema {
        std::fs::write(&file, schema).expect("the schema is written");
        pipeline = pipeline.replace("FILE", &format!("{:?}", file.display().to_string()));
    }
    let mapped = specs.iter().filter(|(_, _, from)| !from.is_empty());
    let mapped: String = mapped.map(|(name, _, from)| format!("{name} = {from}\n")).collect();
    let toml = format!(
        "kafka.bootstrap_servers = \"k:9092\"\npostgres.url = \"postgres://p/d\"\n[pipelines.p]\ntopics = [\"t\"]\n\
         table.name = \"public.t\"\n{pipeline}\n[pipelines.p.columns]\n{mapped}"
    );
    let config = Config::parse("fuzz.toml", &toml).map_err(|faults| format!("{faults}\n{toml}"));
    if schema.is_some() {
        std::fs::remove_file(&file).expect("the schema goes");
    }
    let config = config?;
    let catalog = Catalog {
        table: config.pipelines[0].table.name.clone(),
        oid: 1,
        kind: RelationKind::Table,
        columns: specs.iter().map(|(name, of, _)| column(name, of)).collect(),
        unique: vec![vec![specs[0].0.to_owned()]],
    };
    Plan::new(&config.pipelines[0], &catalog).map(Arc::new).map_err(|faults| format!("{faults:?}"))
}

/// Types as Postgres' catalog has them: name, oid, the oid of their arrays.
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

/// The labels of the enum `mood`.
pub const LABELS: [&str; 2] = ["on", "a\"b"];

/// A column of a type: `numeric(10,2)`, `int8[]`, the enum `mood`; `!` behind it for NOT NULL.
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
        generated: false,
    }
}

/// A record with nothing but a value.
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

/// A row's fields; `None` is NULL.
pub type Row<'a> = Vec<Option<&'a [u8]>>;

/// Encodes a record, and holds that rows are whole or not there at all. What is refused is `None`.
pub fn encode(encoder: &mut Encoder, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u32> {
    out.clear();
    out.extend_from_slice(b"before");
    assert_eq!(encoder.wants(record.value), None, "no schema is missing");
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

/// Takes rows apart: as many as were said, each with as many fields as it says.
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

/// Encodes by this encoder and by one that knows nothing yet: what was learned of earlier records changes nothing.
pub fn encode_alike(encoder: &mut Encoder, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u32> {
    let count = encode(encoder, record, out);
    let mut fresh = Encoder::new(encoder.plan().clone());
    let mut again = Vec::new();
    assert_eq!(encode(&mut fresh, record, &mut again), count, "a new encoder takes as many rows");
    assert_eq!(&again, out, "a new encoder writes the same rows");
    count
}
