//! Finds out which rows the existing partitions accept, and which names of partitions are taken.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row};
use tidegate_rows::catalog::TableName;
use tidegate_rows::spec::PartitionBy;
use tidegate_rows::write_mode::partitions::{Bounds, default_name, is_expired, of_name};

use super::existing;

/// Selects the condition that the rows of each partition fulfil. If the DEFAULT partition is the only partition, it has no
/// condition, and accepts every row.
const CONDITIONS: &str = "
SELECT coalesce(pg_catalog.pg_get_partition_constraintdef(i.inhrelid), 'true')
FROM pg_catalog.pg_inherits i WHERE i.inhparent = to_regclass($1)";

/// Selects the relations in a table's schema whose names begin with the first 8 characters of the table's name. Partitions of a
/// table with a long name have only the beginning of this name in theirs.
const NAMES: &str = "
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND starts_with(c.relname, left($2, 8))";

/// Returns the ranges of `wanted` whose rows no existing partition accepts. A DEFAULT partition
/// accepts the rows that no other partition accepts. Only the first and the last second of each range
/// are tested. If Postgres can't evaluate the conditions of the partitions, returns all ranges.
///
/// # Errors
/// The error of the database.
pub async fn without_place(
    connection: &mut PgConnection,
    table: &TableName,
    by: &PartitionBy,
    wanted: &[Bounds],
) -> Result<Vec<Bounds>, sqlx::Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(CONDITIONS).bind(table.quoted()).fetch_all(&mut *connection).await?;
    let conditions = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if conditions.is_empty() {
        return Ok(wanted.to_vec());
    }
    // Let Postgres evaluate the conditions, for a row in which only the time column has a value.
    let sql = format!(
        "SELECT given.\"tidegate n\" FROM unnest($1::text[], $2::int8[]) AS given (\"tidegate time\", \"tidegate n\"),
             LATERAL jsonb_populate_record(NULL::{}, jsonb_build_object($3::text, given.\"tidegate time\")) AS found
         WHERE ({}) IS NOT TRUE",
        table.quoted(),
        conditions.join(" OR ")
    );
    let times: Vec<String> = wanted.iter().flat_map(Bounds::ends).collect();
    let numbers: Vec<i64> = (0..wanted.len()).flat_map(|n| [n, n]).filter_map(|n| n.try_into().ok()).collect();
    let query = sqlx::query(&sql).persistent(false).bind(times).bind(numbers).bind(&by.column);
    let outside = match query.fetch_all(connection).await {
        // For example, the type of another column allows no NULL. Then return all ranges.
        Err(sqlx::Error::Database(_)) => return Ok(wanted.to_vec()),
        outside => outside?,
    };
    let outside = outside.iter().map(|row| row.try_get::<i64, _>(0)).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(outside.into_iter().filter_map(|n| wanted.get(usize::try_from(n).ok()?).copied()).collect())
}

/// Returns the relations that have the name of a partition, but aren't partitions of this table. Names of expired partitions
/// don't count. The name of the DEFAULT partition counts if that partition is configured and doesn't exist.
///
/// # Errors
/// The error of the database.
pub(super) async fn taken(
    connection: &mut PgConnection,
    table: &TableName,
    by: &PartitionBy,
    now: i64,
) -> Result<Vec<TableName>, sqlx::Error> {
    let existing = existing(connection, table).await?;
    let needs_default = by.default && !existing.iter().any(|(_, is_default)| *is_default);
    let is_ours = |name: &TableName| {
        let of_time = of_name(table, by, name).is_some_and(|bounds| !is_expired(by, &bounds, now));
        of_time || needs_default && *name == default_name(table)
    };
    let rows = sqlx::query(NAMES).bind(&table.schema).bind(&table.name).fetch_all(connection).await?;
    let mut taken = Vec::new();
    for row in &rows {
        let name = TableName { schema: table.schema.clone(), name: row.try_get(0)? };
        if is_ours(&name) && !existing.iter().any(|(partition, _)| *partition == name) {
            taken.push(name);
        }
    }
    taken.sort();
    Ok(taken)
}
