//! Our own tables: `migrations/`, in schema `tidegate`.

use std::collections::HashMap;

use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, Row};

/// Any number that nobody else is likely to lock: "tidegate" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");

/// Brings the tables up to date. Safe when several instances start at once: one works, the others wait. A daemon that is older
/// than the tables leaves them alone.
///
/// # Errors
/// As the server refuses; the schema is then as it was before the failing migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    // A daemon that was stopped while it held the lock holds nobody up where nothing is to be done.
    if is_up_to_date(connection, &migrator).await? {
        return Ok(());
    }
    // Waiting for another instance's migration is no fault of a statement. And a crash that takes the last commits back, where
    // the session's own setting allows for that, must not take our tables with it.
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0; SET synchronous_commit = on").await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut *connection).await?;
    // CREATE SCHEMA asks for rights on the database, even where there is nothing to create.
    let exists = sqlx::query("SELECT to_regnamespace('tidegate') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists.try_get::<bool, _>(0)? {
        connection.execute("CREATE SCHEMA tidegate").await?;
    }
    // The table of applied migrations belongs beside ours.
    connection.execute("SET search_path = tidegate").await?;
    migrator.run_direct(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_LOCK).execute(connection).await?;
    Ok(())
}

/// Whether every migration of ours was applied as we know it.
async fn is_up_to_date(connection: &mut PgConnection, migrator: &Migrator) -> Result<bool, sqlx::Error> {
    let made = sqlx::query("SELECT to_regclass('tidegate._sqlx_migrations') IS NOT NULL");
    if !made.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(false);
    }
    let applied = sqlx::query("SELECT version, checksum FROM tidegate._sqlx_migrations WHERE success");
    let mut known = HashMap::new();
    for row in applied.fetch_all(connection).await? {
        known.insert(row.try_get::<i64, _>(0)?, row.try_get::<Vec<u8>, _>(1)?);
    }
    Ok(migrator.iter().all(|migration| known.get(&migration.version).is_some_and(|sum| **sum == *migration.checksum)))
}

/// Migrates on a connection of its own, which is closed afterwards.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
