//! Creates range partitions in advance, and removes those older than the retention.
//!
//! Only one instance does this at a time, under an advisory lock of the session. A partition is created as a separate table and
//! then attached, which blocks no writer. Detaching a partition does block writers, so the statement waits only briefly for its
//! lock.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::TableName;
use tidegate_rows::ddl;
use tidegate_rows::spec::{Expiry, PartitionBy};
use tidegate_rows::write_mode::partitions::{Bounds, default_name, due, is_expired, name, of_name};
use tokio::time::sleep;
use tracing::{info, warn};

use super::connect::{Connector, lock_for_session, within};
use crate::config::Pipeline;

/// The time between two checks of the partitions. The shortest interval of a partition is an hour.
const EVERY: Duration = Duration::from_secs(60);

const PARTITIONS: &str = "
SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid = p.partdefid AS is_default
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
WHERE i.inhparent = to_regclass($1)";

/// Maintains the partitions of a pipeline's table for as long as the pipeline runs. Failures are retried a minute later.
///
/// # Cancel safety
/// May be dropped at any point: each partition is created or removed in one transaction.
pub async fn keep(connector: Connector, config: Pipeline) {
    loop {
        sleep(EVERY).await;
        if let Err(error) = maintain_once(&connector, &config).await {
            warn!(pipeline = config.name, %error, "can't maintain the partitions, retrying in a minute");
        }
    }
}

/// Creates the partitions that are due and removes the expired ones, on a separate connection.
///
/// # Errors
/// The error of the database.
pub async fn maintain_once(connector: &Connector, config: &Pipeline) -> Result<(), WriteError> {
    let Some(by) = &config.table.partition_by else { return Ok(()) };
    let (mut connection, _) = connector.open().await?;
    let work = async {
        let now = Timestamp::now().as_microsecond();
        make(&mut connection, config, by, &due(by, now)).await?;
        let_go(&mut connection, config, by, now).await
    };
    within(EVERY, Stage::Connect, work).await?;
    // The connection was only for this; its advisory lock ends with it.
    drop(connection.close().await);
    Ok(())
}

/// Creates the partitions of `wanted` that don't exist, and the DEFAULT partition if it is configured.
///
/// # Errors
/// The error of the database. If Postgres refuses a partition for a reason that concerns only this partition, logs a
/// warning instead and continues.
pub async fn make(
    connection: &mut PgConnection,
    config: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
) -> Result<(), sqlx::Error> {
    let table = &config.table.name;
    lock_for_session(connection, &format!("tidegate partitions {table}")).await?;
    let existing = existing(connection, table).await?;
    for (partition, sql) in missing(config, by, wanted, &existing) {
        match connection.execute(sql.as_str()).await {
            Ok(_) => info!(pipeline = config.name, %partition, "created a partition"),
            Err(sqlx::Error::Database(error)) => match error.code().as_deref().and_then(of_one_partition) {
                Some(why) => warn!(pipeline = config.name, %partition, %error, "can't create a partition: {why}"),
                None => return Err(sqlx::Error::Database(error)),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns why Postgres refuses a partition with this SQLSTATE. `None` if the reason may concern other partitions too.
pub fn of_one_partition(sqlstate: &str) -> Option<&'static str> {
    match sqlstate {
        "42P17" => Some("it overlaps another one"),
        "23514" => Some("DEFAULT holds rows of its range, and accepts more; move them to create it"),
        "42P07" => Some("its name is taken by a table that isn't a partition of this table; rename that table"),
        _ if sqlstate.starts_with("22") => Some("Postgres doesn't accept its bounds"),
        _ => None,
    }
}

/// Detaches or drops the expired partitions, but only those that tidegate created.
async fn let_go(
    connection: &mut PgConnection,
    config: &Pipeline,
    by: &PartitionBy,
    now: i64,
) -> Result<(), sqlx::Error> {
    let existing = existing(connection, &config.table.name).await?;
    for (partition, remove) in expired(config, by, now, existing) {
        // Writers queue up behind this lock. So give up soon and retry later, rather than hold them up.
        let sql = format!("BEGIN; SET LOCAL lock_timeout = '1s'; {remove}; COMMIT");
        connection.execute(sql.as_str()).await?;
        info!(pipeline = config.name, %partition, dropped = by.expired == Expiry::Drop, "removed a partition past its retention");
    }
    Ok(())
}

/// The statements that [`maintain_once`] would run now. Each text has all statements for one partition.
#[derive(Debug)]
pub struct Due {
    pub create: Vec<String>,
    pub remove: Vec<String>,
}

/// Returns the statements that [`maintain_once`] would run now, and changes nothing.
///
/// # Errors
/// The error of the database.
pub async fn look(connection: &mut PgConnection, config: &Pipeline, by: &PartitionBy) -> Result<Due, sqlx::Error> {
    let now = Timestamp::now().as_microsecond();
    let existing = existing(connection, &config.table.name).await?;
    let create = missing(config, by, &due(by, now), &existing).into_iter().map(|(_, sql)| sql).collect();
    Ok(Due { create, remove: expired(config, by, now, existing).into_iter().map(|(_, sql)| sql).collect() })
}

/// Returns the partitions of `wanted` that don't exist, and the DEFAULT partition if it is configured and doesn't
/// exist. Each comes with the statements that create it.
fn missing(
    config: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
    existing: &[(TableName, bool)],
) -> Vec<(TableName, String)> {
    let (table, options) = (&config.table.name, ddl::fillfactor(&config.table.mode));
    let missing = wanted.iter().map(|bounds| (name(table, by, bounds), bounds.for_values()));
    let mut missing: Vec<_> = missing.filter(|(name, _)| !existing.iter().any(|(known, _)| known == name)).collect();
    if by.default && !existing.iter().any(|(_, is_default)| *is_default) {
        missing.push((default_name(table), "DEFAULT".to_owned()));
    }
    let create = |(partition, values): (TableName, String)| {
        let sql = format!(
            "CREATE TABLE {0} (LIKE {1} INCLUDING ALL EXCLUDING IDENTITY){options}; ALTER TABLE {1} ATTACH PARTITION {0} {values}",
            partition.quoted(),
            table.quoted(),
        );
        (partition, sql)
    };
    missing.into_iter().map(create).collect()
}

/// Returns the partitions that have expired, each with the statements that remove it. Leaves out partitions whose
/// names don't have the daemon's form.
fn expired(
    config: &Pipeline,
    by: &PartitionBy,
    now: i64,
    existing: Vec<(TableName, bool)>,
) -> Vec<(TableName, String)> {
    let table = &config.table.name;
    let is_due = |partition: &TableName| of_name(table, by, partition).is_some_and(|of| is_expired(by, &of, now));
    let remove = |partition: TableName| {
        let detach = format!("ALTER TABLE {} DETACH PARTITION {}", table.quoted(), partition.quoted());
        let drop = match by.expired {
            Expiry::Detach => String::new(),
            Expiry::Drop => format!("; DROP TABLE {}", partition.quoted()),
        };
        (partition, detach + &drop)
    };
    existing.into_iter().map(|(partition, _)| partition).filter(is_due).map(remove).collect()
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
