//! Our own tables: `migrations/`, in schema `tidegate`.

use std::collections::HashMap;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::WriteError;

use super::error;

/// Any number that nobody else is likely to lock: "tidegate" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");

/// Why our tables could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Postgres is away or refuses a statement.
    #[error("can't bring the tables of schema `tidegate` up to date: {0}{remedy}", remedy = remedy(.0))]
    Postgres(#[source] WriteError),
    /// The tables are not those that this version knows.
    #[error("the tables of schema `tidegate` are not those of this version: {0}")]
    Mismatch(#[source] MigrateError),
}

impl MigrationError {
    /// What it means: an outage is waited for, and anything else is not mended by waiting.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Postgres(error) => error.disposition_at_start(),
            Self::Mismatch(_) => Disposition::Stop,
        }
    }
}

impl From<sqlx::Error> for MigrationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(WriteError { stage: Stage::Begin, cause: error::cause(error) })
    }
}

impl From<MigrateError> for MigrationError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Self::Mismatch(other),
        }
    }
}

/// What a missing right needs.
fn remedy(error: &WriteError) -> &'static str {
    match error.postgres().map(|error| error.sqlstate.as_str()) {
        Some("42501") => "; `tidegate check` prints the grants that the role needs",
        _ => "",
    }
}

/// Brings the tables up to date. Safe when several instances start at once: one works, the others wait. A daemon that is older
/// than the tables leaves them alone.
///
/// # Errors
/// As the server refuses; the schema is then as it was before the failing migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrationError> {
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
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), MigrationError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
