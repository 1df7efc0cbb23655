//! Our own tables: `migrations/`, in schema `tidegate`.

use std::collections::HashMap;

use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, Row};

/// Any number that nobody else is likely to lock: "tidegate" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");

/// How our tables compare with what this version needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is to be done.
    Current,
    /// They are missing, or a newer version's migrations are.
    Behind,
    /// They were made by something else: what is wrong, with the remedy.
    Other(String),
}

/// Compares our tables with what this version needs, and changes nothing.
///
/// # Errors
/// As the statements fail.
pub async fn state(connection: &mut PgConnection) -> Result<State, sqlx::Error> {
    let migrator = migrator();
    let Some(applied) = applied(connection).await? else { return Ok(State::Behind) };
    if let Some(other) = migrator.iter().find(|m| applied.get(&m.version).is_some_and(|sum| **sum != *m.checksum)) {
        return Ok(State::Other(format!(
            "schema `tidegate` was made by another build: its migration {} is not ours; take the build that made it, or another database",
            other.version
        )));
    }
    let known = migrator.iter().all(|migration| applied.contains_key(&migration.version));
    Ok(if known { State::Current } else { State::Behind })
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator
}

/// Brings the tables up to date. Safe when several instances start at once: one works, the others wait. A daemon that is older
/// than the tables leaves them alone.
///
/// # Errors
/// As the server refuses; the schema is then as it was before the failing migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    // A daemon that was stopped while it held the lock holds nobody up where nothing is to be done.
    if state(connection).await? == State::Current {
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
    migrator().run_direct(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_LOCK).execute(connection).await?;
    Ok(())
}

/// Returns the checksum of each migration that was applied, by its version; `None` if there is no record of any.
async fn applied(connection: &mut PgConnection) -> Result<Option<HashMap<i64, Vec<u8>>>, sqlx::Error> {
    let made = sqlx::query("SELECT to_regclass('tidegate._sqlx_migrations') IS NOT NULL");
    if !made.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT version, checksum FROM tidegate._sqlx_migrations WHERE success");
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map(Some)
}

/// Migrates on a connection of its own, which is closed afterwards.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
