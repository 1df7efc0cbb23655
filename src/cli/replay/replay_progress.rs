//! A replay's own rows in the ledger.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use tidegate_protocol::claim_loop::Claimed;
use tidegate_protocol::position::{Claim, ClaimId, Offset, TopicPartition};
use tokio::time::sleep;

use crate::cli::reach;
use crate::config::Pipeline;
use crate::error::FatalError;
use crate::postgres::claims;
use crate::postgres::connect::Connector;

/// The name that the ledger shows as the owner of a replay's partitions.
const OWNER: &str = "tidegate replay";
/// How many times a claim is tried while another session, such as that of a killed run, still has rows locked. [`CLAIM_PAUSE`] is
/// the pause after each try.
const CLAIM_TRIES: u32 = 20;
const CLAIM_PAUSE: Duration = Duration::from_millis(250);

/// The range to read from one partition: the offsets `first..end`. The records before `next` have been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetRange {
    pub(super) source: TopicPartition,
    pub(super) first: Offset,
    pub(super) next: Offset,
    pub(super) end: Offset,
}

/// A range that this run has claimed. The offsets from `next` up to `end`, exclusive, are left to read.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) source: TopicPartition,
    pub(super) claim: Claim,
    pub(super) next: Offset,
    pub(super) end: Offset,
}

/// A replay in the ledger: its key (its name in `tidegate.pipeline`), its cluster and its table.
pub(super) struct ReplayProgress {
    key: String,
    cluster_id: String,
    group: String,
    target: String,
    target_oid: i64,
}

fn failed(error: sqlx::Error) -> FatalError {
    reach::failed("can't keep the replay's rows in the ledger", error)
}

impl ReplayProgress {
    pub(super) fn open(key: String, cluster_id: String, pipeline: &Pipeline, target_oid: u32) -> Self {
        let target = pipeline.table.name.to_string();
        Self { key, cluster_id, group: pipeline.group.clone(), target, target_oid: i64::from(target_oid) }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Deletes the replay's registration, and with it the replay's ledger rows. This fences a run in progress. The table's rows
    /// and the dead letters are kept.
    pub(super) async fn forget(&self, connection: &mut PgConnection) -> Result<(), FatalError> {
        let gone = sqlx::query("DELETE FROM tidegate.pipeline WHERE name = $1").bind(&self.key);
        gone.execute(connection).await.map_err(failed)?;
        Ok(())
    }

    /// Returns the ranges of this replay that an earlier run has stored; empty if there was none.
    ///
    /// # Errors
    /// If Postgres can't be read, or if the earlier run used the key for another cluster or another table.
    pub(super) async fn known(&self, connection: &mut PgConnection) -> Result<Vec<OffsetRange>, FatalError> {
        let row = sqlx::query("SELECT cluster_id, target, target_oid FROM tidegate.pipeline WHERE name = $1");
        let row = row.bind(&self.key).fetch_optional(&mut *connection).await.map_err(failed)?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let meant = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (cluster_id, target, oid): (String, String, i64) = meant(&row).map_err(failed)?;
        if (&cluster_id, &target, oid) != (&self.cluster_id, &self.target, self.target_oid) {
            return Err(FatalError::Config(format!(
                "`{}` was started for `{target}` from cluster `{cluster_id}`, and the table or the cluster is another one now: --again starts over",
                self.key
            )));
        }
        let rows = sqlx::query(
            "SELECT topic, partition, coalesce(first_offset, next_offset), next_offset, end_offset FROM tidegate.ledger
             WHERE pipeline = $1 AND end_offset IS NOT NULL ORDER BY topic, partition",
        );
        let rows = rows.bind(&self.key).fetch_all(connection).await.map_err(failed)?;
        let stretch = |row: &PgRow| {
            Ok(OffsetRange {
                source: TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?),
                first: Offset::new(row.try_get(2)?),
                next: Offset::new(row.try_get(3)?),
                end: Offset::new(row.try_get(4)?),
            })
        };
        rows.iter().map(stretch).collect::<Result<_, _>>().map_err(failed)
    }

    /// Registers the replay, and stores all its ranges in the ledger, in one transaction. The registration names no topics. With
    /// topics, it would conflict with the pipeline's registration if both write to the same table.
    pub(super) async fn begin(
        &self,
        connection: &mut PgConnection,
        stretches: &[OffsetRange],
    ) -> Result<(), FatalError> {
        let work = async {
            let mut transaction = connection.begin().await?;
            let pipeline = sqlx::query(
                "INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, topics, version)
                 VALUES ($1, $2, $3, $4, $5, '{}', $6)",
            );
            let pipeline = pipeline.bind(&self.key).bind(&self.cluster_id).bind(&self.group).bind(&self.target);
            pipeline.bind(self.target_oid).bind(env!("CARGO_PKG_VERSION")).execute(&mut *transaction).await?;
            let ledger = sqlx::query(
                "INSERT INTO tidegate.ledger (pipeline, topic, partition, next_offset, first_offset, end_offset)
                 SELECT $1, t, p, f, f, e FROM unnest($2::text[], $3::int4[], $4::int8[], $5::int8[]) AS s (t, p, f, e)",
            );
            let ledger = ledger
                .bind(&self.key)
                .bind(stretches.iter().map(|stretch| stretch.source.topic.to_string()).collect::<Vec<_>>())
                .bind(stretches.iter().map(|stretch| stretch.source.partition).collect::<Vec<_>>())
                .bind(stretches.iter().map(|stretch| stretch.first.get()).collect::<Vec<_>>())
                .bind(stretches.iter().map(|stretch| stretch.end.get()).collect::<Vec<_>>());
            ledger.execute(&mut *transaction).await?;
            transaction.commit().await
        };
        work.await.map_err(failed)
    }

    /// Claims the unfinished ranges and returns them. From then on, an earlier run can't write.
    pub(super) async fn claim(
        &self,
        connector: &Connector,
        connection: &mut PgConnection,
        stretches: &[OffsetRange],
    ) -> Result<Vec<Open>, FatalError> {
        let mut missing: Vec<_> = stretches.iter().filter(|s| s.next < s.end).map(|s| s.source.clone()).collect();
        let mut open = Vec::new();
        for _ in 0..CLAIM_TRIES {
            let claimed = claims::claim(connection, &self.key, OWNER, &missing).await.map_err(failed)?;
            for Claimed { source, claim, next, .. } in claimed {
                missing.retain(|other| *other != source);
                let end = stretches.iter().find(|stretch| stretch.source == source).map_or(next, |stretch| stretch.end);
                if next < end {
                    open.push(Open { source, claim, next, end });
                }
            }
            let Some(first) = missing.first() else { return Ok(open) };
            let mut waiting = reach::open(connector).await?;
            // Ignore the result of the wait: the next round tries again in any case.
            drop(claims::wait_at(&mut waiting, &self.key, first).await);
            sleep(CLAIM_PAUSE).await;
        }
        Err(FatalError::Unavailable(format!(
            "another session holds the ledger's rows of `{}`: is this replay running elsewhere?",
            self.key
        )))
    }

    /// Advances the claimed ranges to their ends after all records are written, since the last offsets of a range may have no
    /// record. Fails if another run has claimed a range meanwhile.
    pub(super) async fn end(&self, connection: &mut PgConnection, claims: &[ClaimId]) -> Result<(), FatalError> {
        let done = sqlx::query(
            "UPDATE tidegate.ledger SET next_offset = end_offset, updated_at = now()
             WHERE pipeline = $1 AND claim_id = ANY ($2)",
        );
        let done = done.bind(&self.key).bind(claims).execute(connection).await.map_err(failed)?;
        if done.rows_affected() == claims.len() as u64 {
            return Ok(());
        }
        Err(FatalError::Stopped(format!("`{}` was taken over by another run at its end: run it again", self.key)))
    }
}
