//! The table that `create = true` creates, from the types in the mapping.

use crate::catalog::quote_identifier;
use crate::copy::types::{self, TypeText};
use crate::fault::{Faults, PlanFault};
use crate::spec::{Column, RowSpec, Source, UnknownFields, WriteMode};

/// Returns `CREATE TABLE IF NOT EXISTS …` for a pipeline's table. Types are built from known parts and names are quoted, so no
/// text of the configuration is executed as SQL.
///
/// # Errors
/// If there is no mapping, if the type of a column is missing or unknown, if a column of the key isn't in the mapping, or if the
/// key lacks the column by which the table is partitioned. All faults are returned, each with its key in the configuration.
pub fn create_table(spec: &RowSpec<'_>) -> Result<String, Vec<PlanFault>> {
    let mut faults = Faults::of(spec.pipeline);
    let Some(columns) = spec.columns else {
        faults.push("table.create", "a table can't be created without columns; list them with their types");
        return faults.or(String::new());
    };
    let mut lines: Vec<String> = columns.iter().filter_map(|column| line(column, &mut faults)).collect();
    if let UnknownFields::Column(name) = spec.unknown_fields {
        lines.push(format!("{} jsonb", quote_identifier(name)));
    }
    let key = spec.table.mode.key();
    if !key.is_empty() {
        for name in key.iter().filter(|name| !columns.iter().any(|column| column.name == **name)) {
            faults.push("table.key", format!("`{name}` is not a column of the mapping"));
        }
        let names: Vec<_> = key.iter().map(|name| quote_identifier(name)).collect();
        lines.push(format!("PRIMARY KEY ({})", names.join(", ")));
    }
    let table = spec.table.name.quoted();
    let options = match &spec.table.partition_by {
        Some(by) => {
            if !key.is_empty() && !key.contains(&by.column) {
                let message = format!(
                    "the key of a partitioned table must contain the column that it is partitioned by; add `{}`",
                    by.column
                );
                faults.push("table.key", message);
            }
            // The fillfactor is set on the partitions: the parent table holds no rows.
            format!(" PARTITION BY RANGE ({})", quote_identifier(&by.column))
        }
        None => fillfactor(&spec.table.mode),
    };
    faults.or(format!("CREATE TABLE IF NOT EXISTS {table} (\n    {}\n){options}", lines.join(",\n    ")))
}

/// Returns the statements that create a pipeline's table: the statement of [`create_table`], then those of `after_create`. All of
/// them must run in one transaction. With `current_setting('tidegate.table')`, a statement of `after_create` gets the table's
/// name, quoted for SQL. It needs this function if records name their tables.
///
/// # Errors
/// As [`create_table`].
pub fn make_table(spec: &RowSpec<'_>) -> Result<Vec<String>, Vec<PlanFault>> {
    let mut statements = vec![create_table(spec)?];
    if !spec.table.after_create.is_empty() {
        let name = spec.table.name.quoted().replace('\'', "''");
        statements.push(format!("SELECT set_config('tidegate.table', '{name}', true)"));
        let after = spec.table.after_create.iter();
        statements.extend(after.map(|sql| sql.trim().trim_end_matches(';').to_owned()));
    }
    Ok(statements)
}

/// Returns the fillfactor clause, which is empty for write modes that don't update rows. The free space lets the new version of a
/// row fit on the same page. Then no index needs a new entry, unless an indexed column changes.
pub fn fillfactor(mode: &WriteMode) -> String {
    match mode {
        WriteMode::Append | WriteMode::InsertNew { .. } => String::new(),
        WriteMode::Upsert { .. } | WriteMode::Aggregate { .. } => " WITH (fillfactor = 70)".to_owned(),
    }
}

fn line(column: &Column, faults: &mut Faults) -> Option<String> {
    let Column { name, type_name, not_null, .. } = column;
    let sql = match type_name.as_deref().or_else(|| own_type(&column.source)) {
        Some(text) => types::parse(text).and_then(TypeText::to_sql).or_else(|| {
            let remedy = "create the table yourself, or use a type that has an encoder";
            faults.push(
                format!("columns.{name}.type"),
                format!("`{text}` is not a type that Tidegate can create a column of; {remedy}"),
            );
            None
        }),
        None => {
            let message = "to create the table, Tidegate must know the column's type: { field = \"…\", type = \"…\" }";
            faults.push(format!("columns.{name}.type"), message);
            None
        }
    }?;
    Some(format!("{} {sql}{}", quote_identifier(name), if *not_null { " NOT NULL" } else { "" }))
}

/// Returns the type that a column gets if the mapping states none. `None` for fields, Debezium's envelope and constants: for
/// these, the mapping must state the type.
fn own_type(source: &Source) -> Option<&'static str> {
    match source {
        Source::Field(_) | Source::Envelope(_) | Source::Constant(_) => None,
        Source::Topic | Source::Header(_) => Some("text"),
        Source::Partition | Source::Ordinal => Some("int4"),
        Source::Offset | Source::Record => Some("int8"),
        Source::Timestamp => Some("timestamptz"),
        Source::Key => Some("bytea"),
        Source::Headers => Some("jsonb"),
    }
}
