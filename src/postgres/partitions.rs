//! Creates range partitions in advance, and removes those older than the retention.
//!
//! Only one instance does this at a time, under an advisory lock of the session. A partition is created as a separate table and
//! then attached. Attaching blocks only those who read or write the DEFAULT partition. Detaching blocks all readers and writers of
//! the table, so it waits only briefly for its lock.

mod create;
mod places;
mod remove;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::{TableName, quote_identifier};
use tidegate_rows::spec::PartitionBy;
use tidegate_rows::write_mode::partitions::{default_name, due, name};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::warn;

pub use create::{Purpose, create, reason_for_this_partition};
pub use places::without_place;

use super::connect::{Connector, lock_for_session, within};
use crate::config::Pipeline;
use crate::repeats::Repeats;

/// The time between two checks of the partitions. This is often enough, because a partition covers at least an hour.
const EVERY: Duration = Duration::from_secs(60);
/// A warning about a task that fails every minute is repeated after this time.
pub const WARN_EVERY: Duration = Duration::from_secs(3600);

const PARTITIONS: &str = "
SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid = p.partdefid AS is_default
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
WHERE i.inhparent = to_regclass($1)";

/// Maintains the partitions of a pipeline's table for as long as the pipeline runs. Removes expired partitions at once and then
/// every minute. Creates partitions in advance, every minute. Failures are retried a minute later. Sends to `removed` when the
/// first removal is over.
///
/// # Cancel safety
/// May be dropped at any point: each partition is created or removed in one transaction.
pub async fn keep(connector: Connector, config: Pipeline, removed: oneshot::Sender<()>) {
    let (mut logged, mut removed) = (Repeats::every(WARN_EVERY), Some(removed));
    loop {
        if let Err(error) = remove_expired(&connector, &config, &mut logged).await {
            failed(&config, &mut logged, &error);
        }
        // If nobody waits for the removal, the message is dropped.
        let _awaited = removed.take().map(|removed| removed.send(()));
        sleep(EVERY).await;
        if let Err(error) = create_due(&connector, &config, &mut logged).await {
            failed(&config, &mut logged, &error);
        }
    }
}

fn failed(config: &Pipeline, logged: &mut Repeats, error: &WriteError) {
    if logged.take(error.to_string(), Instant::now()).is_some() {
        warn!(pipeline = config.name, %error, "can't maintain the partitions, retrying each minute");
    }
}

/// Creates the partitions that are due, on a separate connection.
///
/// # Errors
/// The error of Postgres, if it is unavailable. If it refuses a partition, this is an error in two cases: no partition accepts
/// rows with the current time, or the configured DEFAULT partition doesn't exist.
pub async fn create_due(connector: &Connector, config: &Pipeline, logged: &mut Repeats) -> Result<(), WriteError> {
    let Some(by) = &config.table.partition_by else { return Ok(()) };
    let (mut connection, _) = connector.open().await?;
    let due = due(by, Timestamp::now().as_microsecond());
    within(EVERY, Stage::Connect, create(&mut connection, config, by, &due, Purpose::InAdvance, logged)).await?;
    // Closing the connection releases its advisory lock.
    drop(connection.close().await);
    Ok(())
}

async fn remove_expired(connector: &Connector, config: &Pipeline, logged: &mut Repeats) -> Result<(), WriteError> {
    let Some(by) = config.table.partition_by.as_ref().filter(|by| by.retention.is_some()) else { return Ok(()) };
    let (mut connection, _) = connector.open().await?;
    let now = Timestamp::now().as_microsecond();
    within(EVERY, Stage::Connect, remove::remove(&mut connection, config, by, now, logged)).await?;
    drop(connection.close().await);
    Ok(())
}

/// The changes that a pipeline would make to the partitions of its table now, for `check`. `create` and `remove` have the SQL
/// that creates and removes partitions. Each entry is for one partition, and may have several statements.
#[derive(Debug)]
pub struct Due {
    pub create: Vec<String>,
    pub remove: Vec<String>,
    /// Whether the pipeline can run without creating a partition: an existing partition accepts rows with the current time, and
    /// the DEFAULT partition exists if it is configured.
    pub has_place: bool,
    /// Whether one of `taken` has the name of the current partition or of the DEFAULT partition.
    pub current_is_taken: bool,
    /// Tables, or other relations, that have the name of a partition and aren't partitions of this table.
    pub taken: Vec<TableName>,
}

/// Returns the changes that the pipeline would make to the table's partitions now, and makes none. The table need not exist.
///
/// # Errors
/// The error of the database.
pub async fn look(connection: &mut PgConnection, config: &Pipeline, by: &PartitionBy) -> Result<Due, sqlx::Error> {
    let (table, now) = (&config.table.name, Timestamp::now().as_microsecond());
    let (existing, due) = (existing(connection, table).await?, due(by, now));
    let missing = create::missing(config, by, &due, &existing);
    let current: Vec<_> = due.first().into_iter().filter(|due| missing.iter().any(|m| m.is_of(due))).copied().collect();
    let lacks_default = create::lacks_default(by, &existing);
    let has_place = !lacks_default && without_place(connection, table, by, &current).await?.is_empty();
    let taken = places::taken(connection, table, by, now).await?;
    let create = missing.into_iter().map(|missing| missing.sql).collect();
    let remove = remove::expired(config, by, now, existing).into_iter().map(|(_, sql)| sql).collect();
    let current_is_taken = current.iter().any(|current| taken.contains(&name(table, by, current)))
        || lacks_default && taken.contains(&default_name(table));
    Ok(Due { create, remove, has_place, current_is_taken, taken })
}

/// A right that the role needs to create and remove partitions, and lacks. `what` says which action the role may not perform, and
/// `statement` is the SQL that gives it the right.
#[derive(Debug)]
pub struct Lack {
    pub what: String,
    pub statement: String,
}

/// Returns those rights for creating and removing partitions that the role lacks; none if the table doesn't exist.
///
/// # Errors
/// The error of the query.
pub async fn lacking(connection: &mut PgConnection, table: &TableName) -> Result<Vec<Lack>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT has_schema_privilege(c.relnamespace, 'CREATE'), pg_has_role(c.relowner, 'USAGE'), quote_ident(current_user)
         FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)",
    );
    let Some(row) = row.bind(table.quoted()).fetch_optional(connection).await? else { return Ok(Vec::new()) };
    let (may_create, owns, user): (bool, bool, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let mut lacking = Vec::new();
    if !owns {
        lacking.push(Lack {
            what: format!("`{user}` doesn't own `{table}`, and only an owner adds partitions"),
            statement: format!("ALTER TABLE {} OWNER TO {user}", table.quoted()),
        });
    }
    if !may_create {
        lacking.push(Lack {
            what: format!("`{user}` may not create partitions in schema `{}`", table.schema),
            statement: format!("GRANT CREATE ON SCHEMA {} TO {user}", quote_identifier(&table.schema)),
        });
    }
    Ok(lacking)
}

/// Waits for the advisory lock that guards changes of the table's partitions. The session keeps the lock until it ends.
async fn lock(connection: &mut PgConnection, table: &TableName) -> Result<(), sqlx::Error> {
    lock_for_session(connection, &format!("tidegate partitions {table}")).await
}

async fn existing(connection: &mut PgConnection, table: &TableName) -> Result<Vec<(TableName, bool)>, sqlx::Error> {
    let rows = sqlx::query(PARTITIONS).bind(table.quoted()).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let name = TableName { schema: row.try_get("schema")?, name: row.try_get("name")? };
            Ok((name, row.try_get("is_default")?))
        })
        .collect()
}
