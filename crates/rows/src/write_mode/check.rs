//! Checks whether the write mode works with the table. Reports faults and warnings.

use crate::catalog::{Catalog, CatalogColumn, RelationKind, TableName, TypeKind, quote_identifier};
use crate::fault::{Faults, hint};
use crate::spec::{AggregateFunction, Column, PartitionBy, RowSpec, WriteMode};

use super::quoted;

/// Types that `sum` accepts. The sum is exact, except for floats.
const SUMMED: &[&str] = &["int2", "int4", "int8", "numeric", "float4", "float8", "interval"];
const COUNTED: &[&str] = &["int2", "int4", "int8", "numeric"];
/// Scalar types that `min` and `max` accept: those for which Postgres has these aggregates. Enums and arrays are accepted too.
const ORDERED: &[&str] = &[
    "int2",
    "int4",
    "int8",
    "oid",
    "numeric",
    "float4",
    "float8",
    "text",
    "varchar",
    "bpchar",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "inet",
];

pub(crate) fn check(spec: &RowSpec<'_>, catalog: &Catalog, faults: &mut Faults, warnings: &mut Vec<String>) {
    let table = &catalog.table;
    let columns = ("table.key", spec.table.mode.key());
    let others = match &spec.table.mode {
        WriteMode::Upsert { newer_by: Some(column), .. } => ("table.newer_by", std::slice::from_ref(column)),
        _ => ("table.sort_by", spec.table.sort_by.as_slice()),
    };
    let mut missing = false;
    for (place, name) in [columns, others].iter().flat_map(|(place, names)| names.iter().map(move |name| (place, name)))
    {
        if !catalog.columns.iter().any(|column| column.name == *name) {
            let close = hint(name, catalog.columns.iter().map(|column| column.name.as_str()));
            faults.push(place, format!("`{table}` has no column `{name}`{close}"));
            missing = true;
        }
    }
    missing |= super::computed::check(spec, catalog, faults);
    let key = spec.table.mode.key();
    if !missing && !key.is_empty() && !catalog.is_unique(key) {
        faults.push("table.key", no_index(table, key));
    }
    if matches!(spec.table.mode, WriteMode::InsertNew { .. }) && key.is_empty() && !catalog.may_conflict {
        warnings.push(format!(
            "`{table}` has no unique constraint, so mode insert_new never skips a row: set `table.key`, and create its index with CREATE UNIQUE INDEX, or use mode append"
        ));
    }
    if let Some(by) = &spec.table.partition_by {
        partitions(by, catalog, faults);
    }
    if let WriteMode::Aggregate { .. } = spec.table.mode {
        let mapping = spec.columns.unwrap_or_default();
        for column in mapping {
            if let Some(target) = catalog.columns.iter().find(|target| target.name == column.name) {
                aggregate(column, target, mapping, catalog, faults, warnings);
            }
        }
    }
}

fn no_index(table: &TableName, key: &[String]) -> String {
    let names: Vec<_> = key.iter().map(String::as_str).collect();
    format!(
        "`{table}` has no unique index on exactly ({}); create one: CREATE UNIQUE INDEX ON {} ({});",
        names.join(", "),
        table.quoted(),
        quoted(key)
    )
}

fn partitions(by: &PartitionBy, catalog: &Catalog, faults: &mut Faults) {
    let table = &catalog.table;
    if catalog.kind == RelationKind::Table {
        let column = quote_identifier(&by.column);
        let message = format!(
            "`{table}` is not partitioned; create it with PARTITION BY RANGE ({column}), or remove `partition_by`"
        );
        faults.push("table.partition_by", message);
    }
    match catalog.columns.iter().find(|column| column.name == by.column) {
        None => faults.push("table.partition_by.column", format!("`{table}` has no column `{}`", by.column)),
        Some(column) if !super::partitions::is_time(column) => {
            let message =
                format!("`{}` is `{}`; it must be timestamptz, timestamp or date", by.column, column.type_text);
            faults.push("table.partition_by.column", message);
        }
        Some(_) => {}
    }
}

fn aggregate(
    column: &Column,
    target: &CatalogColumn,
    mapping: &[Column],
    catalog: &Catalog,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) {
    let Some(aggregate) = &column.aggregate else { return };
    let key = format!("columns.{}", column.name);
    let base = target.base_type.as_str();
    let scalar = target.kind == TypeKind::Scalar;
    let (word, fits, remedy) = match &aggregate.function {
        AggregateFunction::Sum => ("sum", scalar && SUMMED.contains(&base), "take an integer or a numeric"),
        AggregateFunction::Count => ("count", scalar && COUNTED.contains(&base), "take an int8"),
        AggregateFunction::Min | AggregateFunction::Max => {
            let ordered = !scalar && target.kind != TypeKind::Other || ORDERED.contains(&base);
            ("smallest or largest", ordered, "take \"first\" or \"last\", or another type")
        }
        AggregateFunction::First { .. } | AggregateFunction::Last { .. } => ("", true, ""),
    };
    if !fits {
        let message = format!("Postgres has no {word} of `{}`; {remedy}", target.type_text);
        faults.push(format!("{key}.aggregate"), message);
    }
    if aggregate.function == AggregateFunction::Sum && matches!(base, "float4" | "float8") {
        warnings.push(format!(
            "{key}: a sum of `{}` is rounded at each step, so it depends on how records fall into batches; numeric is exact",
            target.type_text
        ));
    }
    may_be_null(column, target, mapping, catalog, &key, faults);
}

/// Reports a fault if the aggregate of a NOT NULL column can be NULL for a batch. Postgres checks NOT NULL before it looks for an
/// existing row. So if no record of a key in the batch gives a value, Postgres would refuse the key's combined row.
fn may_be_null(
    column: &Column,
    target: &CatalogColumn,
    mapping: &[Column],
    catalog: &Catalog,
    key: &str,
    faults: &mut Faults,
) {
    let Some(aggregate) = column.aggregate.as_ref().filter(|_| target.not_null) else { return };
    match &aggregate.function {
        AggregateFunction::Min | AggregateFunction::Max if aggregate.condition.is_some() => {
            faults.push(
                format!("{key}.where"),
                "the column is NOT NULL, and some records give no value; drop the NOT NULL",
            );
        }
        AggregateFunction::First { by } | AggregateFunction::Last { by } => {
            let always = mapping.iter().any(|other| {
                other.name == *by && other.aggregate.as_ref().is_some_and(|aggregate| aggregate.condition.is_none())
            }) && catalog.columns.iter().any(|other| other.name == *by && other.not_null);
            if !always {
                let message =
                    format!("the column is NOT NULL, and records without `{by}` give no value; drop the NOT NULL");
                faults.push(key, message);
            }
        }
        _ => {}
    }
}
