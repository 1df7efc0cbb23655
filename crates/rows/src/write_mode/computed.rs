//! Generated columns that a merge compares, because they are in the key, `newer_by` or `sort_by`. Records have no values for such
//! a column. So the staging table has the column too, with the target's expression, and Postgres computes it for each staged row.
//!
//! The inputs of the expression decide which row an upsert writes. So an upsert can't keep the value of an input column. If the
//! table's key contains a generated column, a record that deletes a row must have values for that column's inputs.

use crate::catalog::{Catalog, CatalogColumn, Generated};
use crate::fault::Faults;
use crate::spec::{AggregateFunction, Missing, RowSpec, Table, UnknownFields, WriteMode};

pub fn computed<'a>(table: &'a Table, catalog: &'a Catalog) -> impl Iterator<Item = &'a CatalogColumn> {
    let is_compared = |column: &&CatalogColumn| compared(table).any(|(_, name)| *name == column.name);
    catalog.columns.iter().filter(|column| column.generated.is_some()).filter(is_compared)
}

/// Returns the columns from which [`computed`] columns are computed.
pub(super) fn inputs<'a>(table: &'a Table, catalog: &'a Catalog) -> impl Iterator<Item = &'a String> {
    computed(table, catalog).filter_map(|column| column.generated.as_ref()).flat_map(|generated| &generated.from)
}

/// Returns the columns from which generated columns of an upsert's key are computed. The list is empty in other modes.
pub(crate) fn key_inputs(table: &Table, catalog: &Catalog) -> Vec<String> {
    let WriteMode::Upsert { key, .. } = &table.mode else { return Vec::new() };
    let of_key = catalog.columns.iter().filter(|column| key.contains(&column.name));
    of_key.filter_map(|column| column.generated.as_ref()).flat_map(|generated| generated.from.clone()).collect()
}

fn compared(table: &Table) -> impl Iterator<Item = (&'static str, &String)> {
    let newer_by = match &table.mode {
        WriteMode::Upsert { newer_by, .. } => newer_by.as_ref(),
        _ => None,
    };
    let key = table.mode.key().iter().map(|name| ("table.key", name));
    key.chain(newer_by.map(|name| ("table.newer_by", name)))
        .chain(table.sort_by.iter().map(|name| ("table.sort_by", name)))
}

/// Checks the columns of the key, `newer_by` and `sort_by`. Reports a column that the copied rows lack, a generated column whose
/// inputs the rows lack, and a generated column that can't be compared. Returns whether it reported any of these. Also reports
/// `missing = "keep"` for an input of a generated column, which doesn't change the result.
pub(super) fn check(spec: &RowSpec<'_>, catalog: &Catalog, faults: &mut Faults) -> bool {
    let mut found = false;
    for (place, name) in compared(spec.table) {
        let Some(column) = catalog.columns.iter().find(|column| column.name == *name) else { continue };
        let message = match &column.generated {
            None if fills(spec, name) => None,
            None if column.identity_always => Some(format!(
                "`{name}` is not a column of the mapping, and Postgres gives each new row another number; map the records' own number to it, or use a key that the records have"
            )),
            None => Some(format!("`{name}` is not a column of the mapping; map a field to it")),
            Some(generated) => refusal(spec, catalog, column, generated, place == "table.key"),
        };
        found |= message.is_some();
        message.into_iter().for_each(|message| faults.push(place, message));
    }
    for column in spec.columns.unwrap_or_default().iter().filter(|column| column.missing == Some(Missing::Keep)) {
        if let Some(of) = inputs(spec.table, catalog).find(|name| **name == column.name) {
            let said = if column.keep.is_some() { "keep" } else { "missing" };
            faults.push(
                format!("columns.{of}.{said}"),
                "`key` or `newer_by` is computed from this column and decides which row is written, so a record must give it; leave this out",
            );
        }
    }
    found
}

fn fills(spec: &RowSpec<'_>, name: &String) -> bool {
    spec.table.evolve
        || spec.columns.is_none_or(|columns| columns.iter().any(|column| column.name == *name))
        || matches!(spec.unknown_fields, UnknownFields::Column(column) if column == name)
}

fn refusal(
    spec: &RowSpec<'_>,
    catalog: &Catalog,
    column: &CatalogColumn,
    Generated { stored, from, .. }: &Generated,
    is_key: bool,
) -> Option<String> {
    let (name, table, key) = (&column.name, catalog.table.quoted(), spec.table.mode.key());
    let quoted = crate::catalog::quote_identifier(name);
    if !stored {
        return Some(format!(
            "`{name}` is a VIRTUAL generated column, which Postgres can't index and a merge can't compare; create it as GENERATED ALWAYS AS (…) STORED"
        ));
    }
    if let Some(input) = from.iter().find(|input| !fills(spec, input)) {
        return Some(format!(
            "Postgres computes `{name}` from `{input}`, which is not a column of the mapping; map a field to `{input}`"
        ));
    }
    let merges = matches!(spec.table.mode, WriteMode::Upsert { .. } | WriteMode::Aggregate { .. });
    if is_key && merges && !column.not_null && !catalog.null_keys(key).contains(&name.as_str()) {
        return Some(format!(
            "Postgres computes `{name}`, which may be NULL, and Postgres does not find a row whose key is NULL again: ALTER TABLE {table} ALTER COLUMN {quoted} SET NOT NULL; or make its unique index NULLS NOT DISTINCT"
        ));
    }
    // The combined row must have the same key as each record that it combines. So at most one input may be outside of the key,
    // and its aggregate must pick the value of one record.
    let WriteMode::Aggregate { .. } = spec.table.mode else { return None };
    let outside: Vec<_> = from.iter().filter(|input| !key.contains(input)).collect();
    let picks_one = |input: &String| {
        let column = spec.columns.unwrap_or_default().iter().find(|column| column.name == *input);
        let aggregate = column.and_then(|column| column.aggregate.as_ref());
        aggregate.is_some_and(|aggregate| {
            matches!(aggregate.function, AggregateFunction::Min | AggregateFunction::Max)
                && aggregate.condition.is_none()
        })
    };
    match outside.as_slice() {
        [] => None,
        [only] if picks_one(only) => None,
        [only] => Some(format!(
            "Postgres computes `{name}` from `{only}`, so `{only}` of the combined row must be that of one record; set aggregate = \"min\" or \"max\" without `where` for it, or add it to the key"
        )),
        _ => Some(format!(
            "Postgres computes `{name}` from several columns outside of the key, and their aggregates may come from different records; compute it from one of them, or add the others to the key"
        )),
    }
}
