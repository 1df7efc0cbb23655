//! Keeps the list of the tables that a pipeline's records name, and checks that no other pipeline feeds these tables from a
//! topic of ours.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection, Row};
use tidegate_rows::catalog::{Catalog, TableName};

use super::register;

/// The answer of [`claim`]: whether the pipeline may write into a table that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TableClaim {
    /// The pipeline may write into the table.
    Ours,
    /// Another pipeline, `by`, writes into the table from a topic that
    /// this pipeline reads too. The table would have every record twice.
    Fed { by: String },
    /// The pipeline already has as many tables as `max_tables` allows.
    Full,
}

/// Returns the tables that [`claim`] has registered for the pipeline, whether they still exist or not.
///
/// # Errors
/// The error of the statement.
pub(crate) async fn known(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<TableName>, sqlx::Error> {
    if !is_there(connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT schema_name, table_name FROM tidegate.route WHERE pipeline = $1 ORDER BY 1, 2";
    let rows = sqlx::query(sql).bind(pipeline).fetch_all(connection).await?;
    rows.iter().map(name).collect()
}

/// Returns whether table `tidegate.route` exists. It is missing if the ledger's tables are those of an older version.
async fn is_there(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let made = sqlx::query("SELECT to_regclass('tidegate.route') IS NOT NULL");
    made.fetch_one(connection).await?.try_get(0)
}

/// Transfers the registered tables of pipeline `from` to pipeline `to`, which must be registered.
///
/// # Errors
/// The error of the statement.
pub(crate) async fn rename(connection: &mut PgConnection, from: &str, to: &str) -> Result<(), sqlx::Error> {
    if is_there(connection).await? {
        let sql = "UPDATE tidegate.route SET pipeline = $2 WHERE pipeline = $1";
        sqlx::query(sql).bind(from).bind(to).execute(connection).await?;
    }
    Ok(())
}

pub(crate) async fn existing(
    connection: &mut PgConnection,
    names: &[TableName],
) -> Result<BTreeSet<TableName>, sqlx::Error> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::name[], $2::name[]))";
    let rows = sqlx::query(sql)
        .bind(names.iter().map(|name| name.schema.as_str()).collect::<Vec<_>>())
        .bind(names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.iter().map(name).collect()
}

fn name(row: &sqlx::postgres::PgRow) -> Result<TableName, sqlx::Error> {
    Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? })
}

/// Registers that the pipeline writes into this table from now on. Refuses the table if another pipeline feeds it from a topic
/// that this pipeline reads too, or if the pipeline already has `max_tables` other tables.
///
/// # Errors
/// The error of the statement that failed.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    pipeline: &str,
    max_tables: u32,
    catalog: &Catalog,
) -> Result<TableClaim, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // Take the same lock as a registration, so that two pipelines that reach the same table see each other.
    sqlx::query("LOCK TABLE tidegate.pipeline IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let topics = sqlx::query_scalar("SELECT jsonb_object_keys(topics) FROM tidegate.pipeline WHERE name = $1");
    let topics: Vec<String> = topics.bind(pipeline).fetch_all(&mut *transaction).await?;
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let oid = i64::from(catalog.oid);
    if let Some(feeder) = register::feeder(&mut transaction, pipeline, &topics, &[oid]).await? {
        return Ok(TableClaim::Fed { by: feeder.pipeline });
    }
    let TableName { schema, name } = &catalog.table;
    let noted = sqlx::query(
        "INSERT INTO tidegate.route (pipeline, schema_name, table_name, table_oid)
         SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT FROM tidegate.route WHERE pipeline = $1 AND schema_name = $2 AND table_name = $3)
             OR (SELECT count(*) FROM tidegate.route WHERE pipeline = $1) < $5
         ON CONFLICT (pipeline, schema_name, table_name) DO UPDATE SET table_oid = EXCLUDED.table_oid",
    );
    let noted = noted.bind(pipeline).bind(schema).bind(name).bind(oid).bind(i64::from(max_tables));
    let noted = noted.execute(&mut *transaction).await?.rows_affected();
    transaction.commit().await?;
    Ok(if noted == 0 { TableClaim::Full } else { TableClaim::Ours })
}
