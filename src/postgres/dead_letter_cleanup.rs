//! Deletes the dead letters of a pipeline and of its replays: those older than the retention, and then the oldest ones
//! if the total size exceeds its limit. Also counts a pipeline's own dead letters for the metrics.
//!
//! Every instance that runs the pipeline does this, and skips dead letters that another instance, or a replay, has locked.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::WriteError;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::connect::{Connector, within};
use crate::config::{DeadLetterRetention, Pipeline};
use crate::metrics;

const COUNT_EVERY: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(60);
/// The most dead letters that one transaction deletes. This keeps each transaction short, however much there is to
/// delete.
const PAGE: i64 = 1000;

const BY_AGE: &str = "
DELETE FROM tidegate.dead_letter WHERE id IN (
    SELECT id FROM tidegate.dead_letter WHERE pipeline = ANY ($1) AND created_at < now() - make_interval(secs => $2)
    ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)";

const BY_SIZE: &str = "
WITH sized AS (
    SELECT id, sum(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + pg_column_size(header_names)
        + pg_column_size(header_values) + octet_length(detail)) OVER (ORDER BY id DESC) AS with_newer
    FROM tidegate.dead_letter WHERE pipeline = ANY ($1)
)
DELETE FROM tidegate.dead_letter WHERE id IN (
    SELECT d.id FROM tidegate.dead_letter d JOIN sized s ON s.id = d.id WHERE s.with_newer > $2
    ORDER BY d.id LIMIT $3 FOR UPDATE OF d SKIP LOCKED)";

/// Stands between the pipeline's name and the replay's name in a [`replay_key`]. No pipeline's name has a space.
const REPLAY: &str = " replay ";

/// Returns the key of a replay. The replay's ledger rows and dead letters are stored under this key.
pub fn replay_key(pipeline: &str, replay: &str) -> String {
    format!("{pipeline}{REPLAY}{replay}")
}

pub fn is_replay(key: &str) -> bool {
    pipeline_of(key) != key
}

/// Returns the pipeline to which a key belongs. The key of a replay belongs to the pipeline whose topics the replay reads.
pub fn pipeline_of(key: &str) -> &str {
    key.split_once(REPLAY).map_or(key, |(pipeline, _)| pipeline)
}

/// Returns the keys under which these pipelines have dead letters: their own names, and the keys of their replays.
/// Jumps from key to key in the index, so the cost doesn't depend on the number of dead letters.
///
/// # Errors
/// The error of the statement.
pub async fn keys(connection: &mut PgConnection, pipelines: &[&str]) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "WITH RECURSIVE k AS (
             SELECT min(pipeline) AS name FROM tidegate.dead_letter
             UNION ALL
             SELECT (SELECT min(d.pipeline) FROM tidegate.dead_letter d WHERE d.pipeline > k.name) FROM k
             WHERE k.name IS NOT NULL
         ) SELECT name FROM k WHERE name IS NOT NULL",
    );
    let rows = rows.fetch_all(connection).await?;
    let keys = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    Ok(keys.into_iter().filter(|key| pipelines.contains(&pipeline_of(key))).collect())
}

/// Dead letters are counted up to this number. Counting more would take too long if the table has many millions of
/// rows. The query below uses only the index on `(pipeline, created_at)`.
const COUNTED_MAX: i64 = 100_000;

const STOCK: &str = "
SELECT (SELECT count(*) FROM (SELECT FROM tidegate.dead_letter WHERE pipeline = $1 LIMIT $2) AS counted),
    (SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8
        FROM tidegate.dead_letter WHERE pipeline = $1)";

/// Counts a pipeline's dead letters twice per minute, for the metrics. While Postgres doesn't answer, the metrics have
/// no value.
///
/// # Cancel safety
/// May be dropped at any point.
pub async fn measure(connector: Connector, pipeline: Arc<str>) {
    loop {
        let stock = stock(&connector, &pipeline).await;
        if let Err(error) = &stock {
            debug!(pipeline = &*pipeline, %error, "can't count the dead letters");
        }
        metrics::dead_letter_stock(&pipeline, stock.ok());
        sleep(COUNT_EVERY).await;
    }
}

/// Returns the number of dead letters, at most [`COUNTED_MAX`], and the age of the oldest in seconds, 0 if there is none.
async fn stock(connector: &Connector, pipeline: &str) -> Result<(i64, f64), WriteError> {
    let (mut connection, _) = connector.open().await?;
    let work = sqlx::query_as(STOCK).bind(pipeline).bind(COUNTED_MAX).fetch_one(&mut connection);
    let (letters, oldest): (i64, Option<f64>) = within(connector.write_deadline(), Stage::DeadLetters, work).await?;
    Ok((letters, oldest.unwrap_or(0.0)))
}

/// Keeps a pipeline's dead letters within their limits for as long as the pipeline runs. Returns at once if no limit is
/// configured. Failures are retried a minute later.
///
/// # Cancel safety
/// May be dropped at any point: each page of dead letters is deleted in a transaction of its own.
pub async fn keep(connector: Connector, config: Pipeline) {
    if config.dead_letter_retention == DeadLetterRetention::default() {
        return;
    }
    loop {
        if let Err(error) = purge(&connector, &config).await {
            warn!(pipeline = config.name, %error, "can't delete old dead letters, retrying in a minute");
        }
        sleep(EVERY).await;
    }
}

async fn purge(connector: &Connector, config: &Pipeline) -> Result<(), WriteError> {
    let (mut connection, _) = connector.open().await?;
    let DeadLetterRetention { retention, max_bytes } = config.dead_letter_retention;
    let keys = within(connector.write_deadline(), Stage::DeadLetters, keys(&mut connection, &[&config.name])).await?;
    if let Some(retention) = retention {
        let bound = retention.as_secs_f64();
        while page(connector, &mut connection, config, "age", sqlx::query(BY_AGE).bind(&keys).bind(bound)).await? {}
    }
    if let Some(max_bytes) = max_bytes {
        let bound = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        while page(connector, &mut connection, config, "size", sqlx::query(BY_SIZE).bind(&keys).bind(bound)).await? {}
    }
    Ok(())
}

/// Deletes at most [`PAGE`] dead letters by `query`. `cause` is a label of the metric. Returns whether there may be more to
/// delete.
async fn page(
    connector: &Connector,
    connection: &mut PgConnection,
    config: &Pipeline,
    cause: &'static str,
    query: super::Statement<'_>,
) -> Result<bool, WriteError> {
    let work = query.bind(PAGE).execute(connection);
    let done = within(connector.write_deadline(), Stage::DeadLetters, work).await?.rows_affected();
    if done > 0 {
        metrics::purged(&config.name, cause, done);
        info!(pipeline = config.name, letters = done, cause, "deleted dead letters, as configured");
    }
    Ok(done >= PAGE.unsigned_abs())
}
