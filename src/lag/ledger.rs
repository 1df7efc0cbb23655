//! Reads the ledger rows of a pipeline, from which its lag is computed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row};
use tidegate_protocol::position::{ClaimId, Offset, TopicPartition};
use tokio::time::timeout;

use super::{LagWatch, PartitionLag};
use crate::postgres::claims::committed_at;
use crate::status::Trouble;

pub(super) struct LedgerEntry {
    pub next: Offset,
    pub claim: Option<ClaimId>,
    pub owner: Option<String>,
    pub epoch: i64,
    pub last_timestamp: Option<i64>,
    pub idle_seconds: f64,
    pub committed_seconds: Option<f64>,
    pub asked_at: Option<Instant>,
}

impl LedgerEntry {
    /// Makes an entry from `lag`, the values of the previous reading, for a reading in which Postgres doesn't answer.
    /// `since_look` is the time since the previous reading. It is added to `idle_seconds` and `committed_seconds`.
    pub(super) fn as_of(lag: &PartitionLag, since_look: Duration) -> Self {
        Self {
            next: lag.next,
            claim: lag.claim,
            owner: lag.owner.clone(),
            epoch: lag.epoch,
            last_timestamp: None,
            idle_seconds: lag.idle_seconds + since_look.as_secs_f64(),
            committed_seconds: lag.committed_seconds.map(|seconds| seconds + since_look.as_secs_f64()),
            asked_at: None,
        }
    }
}

impl LagWatch {
    pub(super) async fn rows(
        &self,
        connection: &mut Option<PgConnection>,
    ) -> Result<HashMap<TopicPartition, LedgerEntry>, Trouble> {
        if connection.is_none() {
            let (open, _) = self.connector.open().await.map_err(|error| Trouble::postgres(&error))?;
            *connection = Some(open);
        }
        let Some(open) = connection else { return Ok(HashMap::new()) };
        let asked_at = Some(Instant::now());
        let work = sqlx::query(concat!(
            // This query runs only once per second, because it also scans dead row versions until they are vacuumed.
            "SELECT l.topic, l.partition, l.next_offset, l.owner, l.epoch, l.last_timestamp,
                 extract(epoch FROM clock_timestamp() - l.updated_at)::float8, l.claim_id,
                 current_setting('transaction_read_only')::bool, extract(epoch FROM clock_timestamp() - (",
            committed_at!(read),
            "))::float8
             FROM unnest($2::text[], $3::int4[]) AS s (topic, partition) CROSS JOIN LATERAL (
                 SELECT * FROM tidegate.ledger l WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition
                 ORDER BY l.next_offset DESC LIMIT 1
             ) l"
        ))
        .bind(&*self.pipeline)
        .bind(self.sources.iter().map(|source| &*source.topic).collect::<Vec<_>>())
        .bind(self.sources.iter().map(|source| source.partition).collect::<Vec<_>>())
        .fetch_all(open);
        let rows = match timeout(self.connector.write_deadline(), work).await {
            Ok(rows) => rows.map_err(|error| Trouble::postgres(&error)),
            Err(_) => Err(Trouble::postgres(&"Postgres gave no answer")),
        };
        // After a failover the old primary may still answer, but its ledger no longer changes.
        let is_old =
            |rows: &Vec<sqlx::postgres::PgRow>| rows.first().is_some_and(|row| row.try_get(8).unwrap_or(false));
        let rows = match rows {
            Ok(rows) if self.connector.must_write() && is_old(&rows) => {
                Err(Trouble::postgres(&"Postgres no longer accepts writes"))
            }
            rows => rows,
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(trouble) => {
                *connection = None;
                return Err(trouble);
            }
        };
        let read = |row: &sqlx::postgres::PgRow| -> Result<_, sqlx::Error> {
            let source = TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?);
            let row = LedgerEntry {
                next: Offset::new(row.try_get(2)?),
                owner: row.try_get(3)?,
                epoch: row.try_get(4)?,
                last_timestamp: row.try_get(5)?,
                idle_seconds: row.try_get(6)?,
                committed_seconds: row.try_get(9)?,
                claim: row.try_get(7)?,
                asked_at,
            };
            Ok((source, row))
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| Trouble::postgres(&error))
    }
}
