//! A few queries that benches and the demo use.

use anyhow::{Context, Result};
use sqlx::{PgConnection, Row};

/// Returns the first column of the first row, which must be a `bigint`.
pub async fn number(connection: &mut PgConnection, sql: &str) -> Result<i64> {
    let row = sqlx::query(sql).persistent(false).fetch_one(connection).await.with_context(|| sql.to_owned())?;
    Ok(row.try_get(0)?)
}

/// Returns the sum of a pipeline's offsets in the ledger; 0 if there is no ledger yet. If its partitions began at offset 0 and
/// have no gaps, the sum is the number of committed records.
pub async fn committed_records(connection: &mut PgConnection, pipeline: &str) -> Result<u64> {
    if number(connection, "SELECT (to_regclass('tidegate.ledger') IS NOT NULL)::int::int8").await? == 0 {
        return Ok(0);
    }
    let sql = format!("SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger WHERE pipeline = '{pipeline}'");
    Ok(number(connection, &sql).await?.unsigned_abs())
}
