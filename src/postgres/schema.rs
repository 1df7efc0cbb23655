//! Our own tables, in schema `tidegate`. `migrations/` creates them.

use std::collections::HashMap;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::quote_identifier;

use super::error;

/// The number of the advisory lock under which migrations run: "tidegate" in ASCII, so that others are
/// unlikely to use the same number.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");
/// The SQLSTATE `insufficient_privilege`.
const NO_RIGHTS: &str = "42501";
/// The table in which sqlx records applied migrations, as sqlx itself
/// creates it. The scripts that apply migrations without sqlx need it.
const APPLIED_TABLE: &str = "CREATE TABLE IF NOT EXISTS tidegate._sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
";

/// Returns the migrations of this version. Newer migrations in the database are left alone.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator
}

#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("can't bring the tables of schema `tidegate` up to date: {cause}{}", remedy(.cause, .pending))]
    Postgres {
        #[source]
        cause: WriteError,
        /// The names of the missing migrations; empty if the error occurred before they were known or after they were applied.
        pending: Vec<String>,
    },
    #[error("the tables of schema `tidegate` are not those of this version: {0}")]
    Mismatch(#[source] MigrateError),
    /// The migrations are applied, but something that they created is missing, disabled or hidden. The text names it, with
    /// the remedy.
    #[error("{0}")]
    Damaged(String),
}

impl MigrationError {
    /// Returns what a start does about the error: it waits for the end of an outage, and stops at any other error.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Postgres { cause, .. } => cause.disposition_at_start(),
            Self::Mismatch(_) | Self::Damaged(_) => Disposition::Stop,
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

/// Returns the remedy if the role lacks a right; an empty text for any other error.
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

/// The result of comparing our tables with what this version needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Current,
    /// The tables don't exist, or some migrations of this version aren't applied.
    Behind,
    /// The tables can't be used: another build created them, a migration failed half way, or a part is missing, disabled
    /// or hidden. The text says what is wrong, with the remedy.
    Other(String),
}

/// Compares our tables with what this version needs, and changes nothing.
///
/// # Errors
/// The error of the statement that failed.
pub async fn state(connection: &mut PgConnection) -> Result<State, sqlx::Error> {
    let migrator = migrator();
    let Some(applied) = applied(connection).await? else { return Ok(State::Behind) };
    if let Some(other) = migrator.iter().find(|m| applied.get(&m.version).is_some_and(|sum| **sum != *m.checksum)) {
        return Ok(State::Other(format!(
            "schema `tidegate` was created by another build: its migration {} is not ours; use the build that created it, or another database",
            other.version
        )));
    }
    if let Some(failed) = failed(connection).await? {
        return Ok(State::Other(format!(
            "migration {failed} of schema `tidegate` failed half way: restore the schema from a backup; if no pipeline has used it yet, drop the schema"
        )));
    }
    if !migrator.iter().all(|migration| applied.contains_key(&migration.version)) {
        return Ok(State::Behind);
    }
    Ok(damage(connection).await?.map_or(State::Current, State::Other))
}

/// Returns the version of the first migration that was begun and not finished; `None` if there is none.
async fn failed(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    let row = sqlx::query("SELECT min(version) FROM tidegate._sqlx_migrations WHERE NOT success");
    row.fetch_one(connection).await?.try_get(0)
}

/// The tables on which the daemon relies. It also relies on [`FUNCTIONS`] and [`TRIGGERS`]. The migrations create all of them.
const TABLES: [&str; 5] = ["dead_letter", "instance", "ledger", "pipeline", "route"];
const FUNCTIONS: [&str; 2] = ["advance", "one_row_per_partition"];
const TRIGGERS: [&str; 2] = ["one_row_per_partition", "one_row_per_partition_on_rename"];

/// Returns what is wrong with a schema whose migrations are all applied; `None` if nothing is wrong. Somebody may have
/// dropped or disabled a part, or enabled row-level security, which hides the ledger's rows from the role.
async fn damage(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT 'table `tidegate.' || w.name || '`', c.oid IS NULL, coalesce(row_security_active(c.oid), false)
         FROM unnest($1::text[]) AS w (name) LEFT JOIN pg_catalog.pg_class c
             ON c.relname = w.name AND c.relnamespace = to_regnamespace('tidegate') AND c.relkind IN ('r', 'p')
       UNION ALL
         SELECT 'function `tidegate.' || w.name || '`', NOT EXISTS (SELECT FROM pg_catalog.pg_proc p
             WHERE p.proname = w.name AND p.pronamespace = to_regnamespace('tidegate')), false
         FROM unnest($2::text[]) AS w (name)
       UNION ALL
         SELECT 'trigger `' || w.name || '` of table `tidegate.ledger`', NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
             JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND c.relnamespace = to_regnamespace('tidegate')
             WHERE c.relname = 'ledger' AND t.tgname = w.name AND t.tgenabled = 'A'), false
         FROM unnest($3::text[]) AS w (name)",
    );
    let rows = rows.bind(TABLES).bind(FUNCTIONS).bind(TRIGGERS).fetch_all(connection).await?;
    let (mut missing, mut hidden) = (Vec::<String>::new(), Vec::<String>::new());
    for row in &rows {
        let what = row.try_get(0)?;
        if row.try_get(1)? {
            missing.push(what);
        } else if row.try_get(2)? {
            hidden.push(what);
        }
    }
    if !missing.is_empty() {
        return Ok(Some(format!(
            "the ledger is damaged: {} is missing or disabled: restore schema `tidegate` from a backup; without one, a start \
             after DROP SCHEMA tidegate CASCADE reads the topics from the beginning, and writes rows again",
            missing.join(", ")
        )));
    }
    Ok((!hidden.is_empty()).then(|| {
        format!(
            "row-level security hides rows of {} from this role, so it would not see what is written: run ALTER TABLE … DISABLE \
             ROW LEVEL SECURITY for each, or give the role BYPASSRLS",
            hidden.join(", ")
        )
    }))
}

/// Brings the tables up to date. Safe if several instances start at once: one migrates, and the others wait. A daemon that is
/// older than the tables leaves them alone.
///
/// # Errors
/// The error of the server; the schema is then as it was before the failing migration. It is also an error if the tables are
/// those of another build, or if a part of them is missing, disabled or hidden.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrationError> {
    let migrator = migrator();
    // If nothing is missing, return before taking the lock: a suspended daemon may hold the lock, and this role may
    // have no right to create anything.
    let pending = pending_of(&migrator, connection).await?;
    if !pending.is_empty() {
        apply(&migrator, connection).await.map_err(|error| MigrationError::new(error, &pending))?;
    }
    match damage(connection).await? {
        Some(why) => Err(MigrationError::Damaged(why)),
        None => Ok(()),
    }
}

async fn apply(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), MigrateError> {
    // Waiting for another instance's migration must not time out. The session's own `synchronous_commit` may allow a
    // crash to undo the last commits, but our tables must survive.
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0; SET synchronous_commit = on").await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut *connection).await?;
    // Check first, because CREATE SCHEMA requires rights on the database even if the schema exists.
    if !exists(connection).await? {
        connection.execute("CREATE SCHEMA tidegate").await?;
    }
    // The table of applied migrations belongs in the same schema as ours.
    connection.execute("SET search_path = tidegate").await?;
    migrator.run_direct(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_LOCK).execute(connection).await?;
    Ok(())
}

/// Returns the name of a migration for messages, such as `0004_routes`.
fn name(migration: &Migration) -> String {
    format!("{:04}_{}", migration.version, migration.description.replace(' ', "_"))
}

/// Returns, in order, the migrations of this version that aren't applied, or were applied with another text.
async fn pending_of<'m>(
    migrator: &'m Migrator,
    connection: &mut PgConnection,
) -> Result<Vec<&'m Migration>, sqlx::Error> {
    let known = applied(connection).await?.unwrap_or_default();
    let is_applied =
        |migration: &&Migration| known.get(&migration.version).is_some_and(|sum| **sum == *migration.checksum);
    Ok(migrator.iter().filter(|migration| !is_applied(migration)).collect())
}

/// Returns the checksum of each applied migration, by its version; `None` if the table that records them doesn't exist.
async fn applied(connection: &mut PgConnection) -> Result<Option<HashMap<i64, Vec<u8>>>, sqlx::Error> {
    let exists = sqlx::query("SELECT to_regclass('tidegate._sqlx_migrations') IS NOT NULL");
    if !exists.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT version, checksum FROM tidegate._sqlx_migrations WHERE success");
    let rows = rows.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map(Some)
}

/// Returns the names of the migrations that [`migrate`] would apply, in order. A migration that another build applied with
/// another text is among them, although [`migrate`] refuses it.
///
/// # Errors
/// The error of the server.
pub async fn pending(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    Ok(pending_of(&migrator(), connection).await?.into_iter().map(name).collect())
}

/// Returns a script for psql that applies what [`migrate`] would apply; `None` if nothing is missing. The script records what
/// it applied, so that a daemon that starts afterwards finds nothing to do.
///
/// # Errors
/// The error of the server.
pub async fn script(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let Some(pending) = pending_tables(connection).await? else { return Ok(None) };
    Ok(Some(format!(
        "BEGIN;\nSELECT pg_advisory_xact_lock({MIGRATION_LOCK});\nCREATE SCHEMA IF NOT EXISTS tidegate;\n{pending}COMMIT;\n"
    )))
}

/// Returns the statements by which [`migrate`] would create what is missing, for a transaction of the caller; `None` if nothing
/// is missing.
///
/// # Errors
/// The error of the server.
pub async fn pending_sql(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let Some(pending) = pending_tables(connection).await? else { return Ok(None) };
    Ok(Some(if exists(connection).await? { pending } else { format!("CREATE SCHEMA tidegate;\n{pending}") }))
}

/// Returns the statements that apply the missing migrations in an existing schema, and record them as applied. `None` if no
/// migration is missing.
async fn pending_tables(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let migrator = migrator();
    let pending = pending_of(&migrator, connection).await?;
    if pending.is_empty() {
        return Ok(None);
    }
    let mut script = APPLIED_TABLE.to_owned();
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
    Ok(Some(script))
}

async fn exists(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query("SELECT to_regnamespace('tidegate') IS NOT NULL").fetch_one(connection).await?.try_get(0)
}

/// Returns SQL that grants a role the rights on schema `tidegate` that a daemon needs if another role owns the schema.
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

/// Migrates, and then closes the connection, because [`migrate`] may have changed settings of its session.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_close(mut connection: PgConnection) -> Result<(), MigrationError> {
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
