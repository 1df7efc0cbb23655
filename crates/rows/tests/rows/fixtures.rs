//! Pipelines, catalogs and records for tests.

use std::sync::Arc;

use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::catalog::{Catalog, CatalogColumn, RelationKind, TableName, TypeKind};
use tidegate_rows::copy::types;
use tidegate_rows::fault::PlanFault;
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_rows::spec::{Column, Decode, NulPolicy, RowSpec, Shape, Source, Table, UnknownFields, WriteMode};
use tidegate_rows::value::EncodeError;

pub(crate) struct Pipeline {
    pub(crate) table: Table,
    pub(crate) columns: Option<Vec<Column>>,
    pub(crate) unknown_fields: UnknownFields,
}

impl Pipeline {
    pub(crate) fn spec(&self) -> RowSpec<'_> {
        RowSpec {
            pipeline: "p",
            decode: &Decode::Json,
            shape: Shape::plain(),
            table: &self.table,
            columns: self.columns.as_deref(),
            keep: None,
            unknown_fields: &self.unknown_fields,
            max_bytes: 1,
        }
    }
}

pub(crate) fn pipeline(columns: Option<Vec<Column>>) -> Pipeline {
    let table = Table {
        name: table(),
        route: None,
        mode: WriteMode::Append,
        create: false,
        after_create: Vec::new(),
        evolve: false,
        sort_by: Vec::new(),
        partition_by: None,
    };
    Pipeline { table, columns, unknown_fields: UnknownFields::Ignore }
}

pub(crate) fn table() -> TableName {
    TableName { schema: "public".to_owned(), name: "t".to_owned() }
}

pub(crate) fn mapped(name: &str, path: &str) -> Column {
    Column {
        name: name.to_owned(),
        source: Source::Field(path.split('.').map(str::to_owned).collect()),
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

/// Returns a nullable column. `type_text` is the name of its type as a mapping writes it.
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
        default_oid: None,
        generated: None,
        identity_always: false,
    }
}

pub(crate) fn catalog(columns: Vec<CatalogColumn>) -> Catalog {
    Catalog {
        table: table(),
        oid: 16_384,
        kind: RelationKind::Table,
        row_security: false,
        columns,
        unique: Vec::new(),
        may_conflict: false,
    }
}

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
    Plan::new(&config.spec(), catalog).map(|plan| Encoder::new(Arc::new(plan)))
}

/// Returns the fields of one row. `None` is NULL.
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

/// Encodes `value`, the JSON text of a field, for a column of this type. Returns the bytes of the column's field. `None` is NULL.
pub(crate) fn encode_one(type_text: &str, value: &str) -> Result<Option<Vec<u8>>, EncodeError> {
    encode_with(mapped("v", "v"), type_text, value)
}

/// Like [`encode_one`], but with this mapping, which must take the field `v`.
pub(crate) fn encode_with(mapped: Column, type_text: &str, value: &str) -> Result<Option<Vec<u8>>, EncodeError> {
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
