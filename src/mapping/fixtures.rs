//! Pipelines, catalogs and records for tests.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_protocol::record::{Headers, Record};

use crate::catalog::{Catalog, CatalogColumn, RelationKind, TableName, TypeKind};
use crate::config::*;
use crate::copy::types;
use crate::mapping::{Encoder, Plan, PlanFault};
use crate::value::Rejection;

/// A pipeline `p` into `public.t`.
pub(crate) fn pipeline(columns: Option<Vec<Column>>) -> Pipeline {
    Pipeline {
        name: "p".to_owned(),
        topics: Topics::List(vec!["telemetry".to_owned()]),
        group: "p".to_owned(),
        consumers: NonZeroU32::MIN,
        start: Start::Earliest,
        group_protocol: GroupProtocol::Cooperative,
        decode: Decode::Json,
        batch: BatchLimits { max_rows: NonZeroU32::MIN, max_bytes: 1, max_age: Duration::from_secs(1) },
        max_rows_per_second: None,
        keep: None,
        table: Table {
            name: table(),
            route: None,
            mode: TableMode::Append,
            create: false,
            evolve: false,
            sort_by: Vec::new(),
            partition_by: None,
        },
        columns,
        unknown_fields: UnknownFields::Ignore,
        on_offset_loss: OffsetLossPolicy::Fail,
        dead_letters: DeadLetterLimits { max_share: 1.0, window: Duration::from_secs(1), min_count: 1 },
        keep_letters: KeepLetters::default(),
        kafka_properties: BTreeMap::new(),
    }
}

pub(crate) fn table() -> TableName {
    TableName { schema: "public".to_owned(), name: "t".to_owned() }
}

/// A column `name` that takes the field `path`.
pub(crate) fn mapped(name: &str, path: &str) -> Column {
    Column {
        name: name.to_owned(),
        source: Source::Field(path.split('.').map(str::to_owned).collect()),
        type_name: None,
        unit: None,
        default: None,
        nul: NulPolicy::DeadLetter,
        not_null: false,
        aggregate: None,
    }
}

/// A nullable column of a type as the mapping names it.
pub(crate) fn column(name: &str, type_text: &str) -> CatalogColumn {
    let parsed = types::parse(type_text).expect("a known type");
    let known = types::by_oid(parsed.oid).expect("a known type");
    let typmod = match (known.name, parsed.modifiers) {
        ("numeric", (Some(precision), scale)) => ((precision << 16) | (scale.unwrap_or(0) & 0x7ff)) + 4,
        ("bpchar" | "varchar", (Some(length), _)) => length + 4,
        _ => -1,
    };
    let kind = TypeKind::Array {
        element_type: known.name.to_owned(),
        element_oid: known.oid,
        element_base_oid: known.oid,
        labels: None,
    };
    let (oid, kind) = if parsed.array { (known.array_oid, kind) } else { (known.oid, TypeKind::Scalar) };
    CatalogColumn {
        name: name.to_owned(),
        type_oid: oid,
        base_type: format!("{}{}", if parsed.array { "_" } else { "" }, known.name),
        base_type_oid: oid,
        type_text: type_text.to_owned(),
        kind,
        typmod,
        not_null: false,
        has_default: false,
        generated: false,
    }
}

pub(crate) fn catalog(columns: Vec<CatalogColumn>) -> Catalog {
    Catalog { table: table(), oid: 16_384, kind: RelationKind::Table, columns, unique: Vec::new() }
}

/// A record with nothing but a value.
pub(crate) fn record(value: &[u8]) -> Record<'_> {
    Record {
        topic: "telemetry",
        partition: 3,
        offset: 88_123,
        timestamp_ms: Some(1_767_225_600_123),
        key: Some(b"k"),
        value: Some(value),
        headers: Headers::default(),
    }
}

pub(crate) fn encoder(config: &Pipeline, catalog: &Catalog) -> Result<Encoder, Vec<PlanFault>> {
    Plan::new(config, catalog).map(|plan| Encoder::new(Arc::new(plan)))
}

/// The fields of one row: `None` is NULL. Panics where lengths don't add up.
pub(crate) fn fields(row: &[u8]) -> Vec<Option<Vec<u8>>> {
    let (count, mut rest) = row.split_first_chunk::<2>().expect("a field count");
    let mut fields = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (field, tail) = match usize::try_from(i32::from_be_bytes(*len)) {
            Ok(len) => {
                let (field, tail) = tail.split_at(len);
                (Some(field.to_vec()), tail)
            }
            Err(_) => (None, tail),
        };
        fields.push(field);
        rest = tail;
    }
    assert!(rest.is_empty());
    assert_eq!(fields.len(), usize::from(u16::from_be_bytes(*count)));
    fields
}

/// Encodes a value's field `v` into one column `v` of this type: the field's bytes.
pub(crate) fn encode_one(type_text: &str, value: &str) -> Result<Option<Vec<u8>>, Rejection> {
    encode_with(mapped("v", "v"), type_text, value)
}

/// As [`encode_one`], by this mapping.
pub(crate) fn encode_with(mapped: Column, type_text: &str, value: &str) -> Result<Option<Vec<u8>>, Rejection> {
    let name = mapped.name.clone();
    let mut encoder = encoder(&pipeline(Some(vec![mapped])), &catalog(vec![column(&name, type_text)])).expect("a plan");
    let payload = format!("{{\"v\":{value}}}");
    let mut rows = b"before".to_vec();
    let result = encoder.encode(&record(payload.as_bytes()), &mut rows);
    let row = rows.strip_prefix(b"before").expect("earlier rows are left alone");
    match result {
        Ok(count) => {
            assert_eq!(count, 1);
            Ok(fields(row).remove(0))
        }
        Err(rejection) => {
            assert!(row.is_empty(), "a refused record leaves nothing behind");
            Err(rejection)
        }
    }
}
