//! Our own tables: `migrations/`, in schema `tidegate`.

use sqlx::{Connection, Executor, PgConnection, Row};

/// Any number that nobody else is likely to lock: "tidegate" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");

/// Brings the tables up to date. Safe when several instances start at once: one works, the others wait. A daemon that is older
/// than the tables leaves them alone.
///
/// # Errors
/// As the server refuses; the schema is then as it was before the failing migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    // Waiting for another instance's migration is no fault of a statement.
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut *connection).await?;
    // CREATE SCHEMA asks for rights on the database, even where there is nothing to create.
    let exists = sqlx::query("SELECT to_regnamespace('tidegate') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists.try_get::<bool, _>(0)? {
        connection.execute("CREATE SCHEMA tidegate").await?;
    }
    // The table of applied migrations belongs beside ours.
    connection.execute("SET search_path = tidegate").await?;
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator.run_direct(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_LOCK).execute(connection).await?;
    Ok(())
}

/// Migrates on a connection of its own, which is closed afterwards.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
