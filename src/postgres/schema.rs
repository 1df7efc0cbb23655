//! Our own tables: `migrations/`, in schema `tidegate`.

use std::collections::HashMap;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::quote_identifier;

use super::error;

/// Any number that nobody else is likely to lock: "tidegate" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");
/// `insufficient_privilege`
const NO_RIGHTS: &str = "42501";
/// Where sqlx notes what was applied, as it makes the table itself.
const APPLIED_TABLE: &str = "CREATE TABLE IF NOT EXISTS tidegate._sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
";

/// Returns the migrations of this version. Those of a newer one that the database has are left alone.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator
}

/// Why our tables could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Postgres is away or refuses a statement.
    #[error("can't bring the tables of schema `tidegate` up to date: {cause}{}", remedy(.cause, .pending))]
    Postgres {
        /// The fault.
        #[source]
        cause: WriteError,
        /// The names of the migrations that are missing, as far as the role may know them.
        pending: Vec<String>,
    },
    /// The tables are not those that this version knows.
    #[error("the tables of schema `tidegate` are not those of this version: {0}")]
    Mismatch(#[source] MigrateError),
}

impl MigrationError {
    /// An outage is waited for. Waiting removes no other fault.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Postgres { cause, .. } => cause.disposition_at_start(),
            Self::Mismatch(_) => Disposition::Stop,
        }
    }

    fn new(error: MigrateError, pending: &[&Migration]) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Self::Postgres {
                cause: WriteError { stage: Stage::Begin, cause: error::cause(error) },
                pending: pending.iter().map(|migration| name(migration)).collect(),
            },
            other => Self::Mismatch(other),
        }
    }
}

impl From<sqlx::Error> for MigrationError {
    fn from(error: sqlx::Error) -> Self {
        Self::new(error.into(), &[])
    }
}

/// Names the remedy where the role lacks a right.
fn remedy(error: &WriteError, pending: &[String]) -> String {
    if error.postgres().is_none_or(|error| error.sqlstate != NO_RIGHTS) {
        return String::new();
    }
    let missing = if pending.is_empty() { String::new() } else { format!(" ({})", pending.join(", ")) };
    format!(
        ": run `tidegate migrate --apply --role ROLE` as the owner of schema `tidegate`, which applies what is missing{missing} and \
         grants this role what it needs; `tidegate check` prints the grants"
    )
}

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

/// Brings the tables up to date. Safe when several instances start at once: one works, the others wait. A daemon that is older
/// than the tables leaves them alone.
///
/// # Errors
/// As the server refuses; the schema is then as it was before the failing migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrationError> {
    let migrator = migrator();
    // A daemon that was stopped while it held the lock holds nobody up where nothing is to be done. And a role without rights is
    // refused only where something is.
    let pending = pending_of(&migrator, connection).await?;
    if pending.is_empty() {
        return Ok(());
    }
    apply(&migrator, connection).await.map_err(|error| MigrationError::new(error, &pending))
}

async fn apply(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), MigrateError> {
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

/// How a migration is named to people, such as `0004_routes`.
fn name(migration: &Migration) -> String {
    format!("{:04}_{}", migration.version, migration.description.replace(' ', "_"))
}

/// Returns the migrations of this version that the database lacks, or knows by another text, in their order.
async fn pending_of<'m>(
    migrator: &'m Migrator,
    connection: &mut PgConnection,
) -> Result<Vec<&'m Migration>, sqlx::Error> {
    let known = applied(connection).await?.unwrap_or_default();
    let is_applied =
        |migration: &&Migration| known.get(&migration.version).is_some_and(|sum| **sum == *migration.checksum);
    Ok(migrator.iter().filter(|migration| !is_applied(migration)).collect())
}

/// Returns the checksum of each migration that was applied, by its version; `None` if there is no record of any.
async fn applied(connection: &mut PgConnection) -> Result<Option<HashMap<i64, Vec<u8>>>, sqlx::Error> {
    let exists = sqlx::query("SELECT to_regclass('tidegate._sqlx_migrations') IS NOT NULL");
    if !exists.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT version, checksum FROM tidegate._sqlx_migrations WHERE success");
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map(Some)
}

/// The names of the migrations that the database lacks, in their order.
///
/// # Errors
/// As the server refuses.
pub async fn pending(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    Ok(pending_of(&migrator(), connection).await?.into_iter().map(name).collect())
}

/// Writes what [`migrate`] would run, as one script for psql; `None` where nothing is missing. It notes what it applied, so that a
/// daemon that starts afterwards finds nothing to do.
///
/// # Errors
/// As the server refuses.
pub async fn script(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let migrator = migrator();
    let pending = pending_of(&migrator, connection).await?;
    if pending.is_empty() {
        return Ok(None);
    }
    let mut script = format!(
        "BEGIN;\nSELECT pg_advisory_xact_lock({MIGRATION_LOCK});\nCREATE SCHEMA IF NOT EXISTS tidegate;\n{APPLIED_TABLE}"
    );
    for migration in pending {
        let checksum: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        let sql = migration.sql.trim_end();
        script += &format!(
            "\n-- {}\n{sql}\nINSERT INTO tidegate._sqlx_migrations (version, description, success, checksum, execution_time)\n\
             VALUES ({}, '{}', true, '\\x{checksum}', 0);\n",
            name(migration),
            migration.version,
            migration.description.replace('\'', "''"),
        );
    }
    Ok(Some(script + "COMMIT;\n"))
}

/// Writes the rights that a daemon needs on schema `tidegate` when another role owns it, as SQL.
pub fn grants(role: &str) -> String {
    let role = quote_identifier(role);
    let rights = "SELECT, INSERT, UPDATE, DELETE ON";
    format!(
        "GRANT USAGE ON SCHEMA tidegate TO {role};\nGRANT {rights} ALL TABLES IN SCHEMA tidegate TO {role};\n\
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA tidegate TO {role};\n\
         ALTER DEFAULT PRIVILEGES IN SCHEMA tidegate GRANT {rights} TABLES TO {role};\n\
         ALTER DEFAULT PRIVILEGES IN SCHEMA tidegate GRANT USAGE ON SEQUENCES TO {role};\n"
    )
}

/// Migrates on a connection of its own, which is closed afterwards.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), MigrationError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
