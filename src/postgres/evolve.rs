//! Adds columns to a table for new fields: one instance at a time, under an advisory lock of the session.

use sqlx::{Executor, PgConnection};
use tidegate_rows::catalog::{TableName, quote_identifier};
use tidegate_rows::mapping::evolve::NewFields;
use tracing::info;

use super::catalog;
use super::connect::lock_for_session;

/// Adds a column for each field that has none, as long as the table has room for more columns. Waits for the transactions that
/// use the table, for at most `lock_timeout`.
///
/// # Errors
/// The error of the database: only the table's owner may add columns.
pub(super) async fn add_columns(
    connection: &mut PgConnection,
    pipeline: &str,
    table: &TableName,
    fields: &NewFields,
) -> Result<(), sqlx::Error> {
    lock_for_session(connection, &format!("tidegate evolve {table}")).await?;
    // If the table doesn't exist any more, the plan reports it.
    let Some(catalog) = catalog::load(connection, table).await? else { return Ok(()) };
    let missing = fields.missing(&catalog);
    if missing.is_empty() {
        return Ok(());
    }
    let sql = alter(table, &missing.iter().map(|(name, found)| (*name, found.sql())).collect::<Vec<_>>());
    info!(pipeline, sql, "adding columns for new fields");
    match connection.execute(sql.as_str()).await {
        Err(error) if is_of_a_name(&error) => {}
        outcome => return outcome.map(|_| ()),
    }
    // Postgres refuses one of the names, and therefore adds no column at all. So add the columns one by one. A field that has no
    // column afterwards is handled as `unknown_fields` says.
    for (name, found) in missing {
        match connection.execute(alter(table, &[(name, found.sql())]).as_str()).await {
            Err(error) if is_of_a_name(&error) => {}
            outcome => outcome.map(|_| ())?,
        }
    }
    Ok(())
}

/// Returns whether Postgres refuses a column because of its name alone. For example, another session made a column of this name
/// at the same time (42701), or the name contains characters that the database's encoding lacks (22P05).
fn is_of_a_name(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42701" | "22P05" | "22021" | "42602" | "42622"))
}

/// Returns `ALTER TABLE … ADD COLUMN IF NOT EXISTS …`. `columns` are pairs of a name, which is quoted here, and a type as SQL.
pub(crate) fn alter(table: &TableName, columns: &[(&str, &str)]) -> String {
    let add = columns.iter().map(|(name, sql)| format!("ADD COLUMN IF NOT EXISTS {} {sql}", quote_identifier(name)));
    format!("ALTER TABLE {} {}", table.quoted(), add.collect::<Vec<_>>().join(", "))
}
