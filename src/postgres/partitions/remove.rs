//! Removes expired partitions. A partition that is in use, or that Postgres refuses to remove, is skipped. No removal holds up
//! writers for long.

use std::time::{Duration, Instant};

use sqlx::{Executor, PgConnection};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::TableName;
use tidegate_rows::spec::{Expiry, PartitionBy};
use tidegate_rows::write_mode::partitions::{is_expired, of_name};
use tracing::{info, warn};

use super::{existing, lock};
use crate::config::Pipeline;
use crate::postgres::blockers::holders;
use crate::postgres::error::cause;
use crate::repeats::Repeats;

/// How long a removal waits for each of its locks. While the removal waits, writers may wait behind it.
const WAIT: Duration = Duration::from_secs(1);
/// The SQLSTATE `lock_not_available`.
const LOCKED: &str = "55P03";

/// Detaches or drops the expired partitions. Keeps partitions whose names don't have Tidegate's form. If Postgres refuses a
/// removal, a warning is logged, unless `logged` suppresses it. `now` is in microseconds since the epoch.
///
/// # Errors
/// The error of a query, or of a broken connection.
pub(super) async fn remove(
    connection: &mut PgConnection,
    config: &Pipeline,
    by: &PartitionBy,
    now: i64,
    logged: &mut Repeats,
) -> Result<(), sqlx::Error> {
    let table = &config.table.name;
    if expired(config, by, now, existing(connection, table).await?).is_empty() {
        return Ok(());
    }
    lock(connection, table).await?;
    // Another instance may have removed expired partitions meanwhile.
    for (partition, remove) in expired(config, by, now, existing(connection, table).await?) {
        // DETACH locks the table before the partition, so a reader of the partition would hold up all writers of the table. So
        // leave out a partition that somebody uses.
        let holder = holders(connection, &partition.quoted(), &partition.quoted(), Duration::ZERO).await?;
        if !holder.is_empty() {
            if logged.take(format!("{partition}: in use"), Instant::now()).is_some() {
                warn!(pipeline = config.name, %partition, holder, "can't remove an expired partition, retrying in a minute");
            }
            continue;
        }
        let sql = format!("BEGIN; SET LOCAL lock_timeout = '{}ms'; {remove}; COMMIT", WAIT.as_millis());
        let error = match connection.execute(sql.as_str()).await {
            Ok(_) => {
                info!(pipeline = config.name, %partition, dropped = by.expired == Expiry::Drop, "removed a partition past its retention");
                continue;
            }
            Err(sqlx::Error::Database(error)) => error,
            Err(error) => return Err(error),
        };
        connection.execute("ROLLBACK").await?;
        let is_locked = error.code().as_deref() == Some(LOCKED);
        let error = WriteError { stage: Stage::Begin, cause: cause(sqlx::Error::Database(error)) };
        let holder = if is_locked {
            holders(connection, &table.quoted(), &partition.quoted(), WAIT).await?
        } else {
            String::new()
        };
        if logged.take(format!("{partition}: {error}"), Instant::now()).is_some() {
            warn!(pipeline = config.name, %partition, %error, holder, "can't remove an expired partition, retrying in a minute");
        }
        // Writers were held up while this removal waited. So leave the other partitions to the next minute.
        if is_locked {
            break;
        }
    }
    Ok(())
}

/// Returns the expired partitions among `existing`, each with the statements that remove it. Leaves out partitions whose names
/// don't have Tidegate's form.
pub(super) fn expired(
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
