//! Claims partitions. A claim writes a new random id into the partition's ledger row, and so fences every earlier owner.

use sqlx::{PgConnection, Row};
use tidegate_protocol::batch::LastRecord;
use tidegate_protocol::claim_loop::Claimed;
use tidegate_protocol::position::{Claim, Offset, TopicPartition};

/// SQL for the time at which records of the ledger's row `l` were last committed; NULL if no commit is known. The form `read`
/// also works in the database of an older daemon, which lacks the column `committed_at`.
///
/// `updated_at` is the time of the last claim or commit, whichever is later. A claim's number (`epoch`) is its time in
/// milliseconds. A later `updated_at` therefore belongs to a commit. Before a claim overwrites `updated_at`, it copies the time
/// of the last commit to `committed_at`. `offsets set` is an exception: the number of its claim isn't a time. It clears
/// `last_offset`, so that its `updated_at` doesn't count as a commit.
macro_rules! committed_at {
    () => {
        $crate::postgres::claims::committed_at!("l.committed_at")
    };
    (read) => {
        $crate::postgres::claims::committed_at!("(to_jsonb(l) ->> 'committed_at')::timestamptz")
    };
    ($before:literal) => {
        concat!(
            "CASE WHEN l.last_offset IS NOT NULL AND floor(extract(epoch FROM l.updated_at) * 1000) > l.epoch
             THEN l.updated_at ELSE ",
            $before,
            " END"
        )
    };
}
pub(crate) use committed_at;

/// Claims the partitions whose ledger row isn't locked. First reads the position (`next_offset`)
/// of each row, whether the row is locked or not. Then locks the row with this position. The
/// second step skips a row that is locked, or that has advanced since the first step.
///
/// A claim's number is the time in milliseconds, or one more than the row's previous number if that is higher. So a claim in a
/// restored backup has a lower number than every later claim of its partition, before and after the restore. For example, a
/// backup of 12:00 is restored at 14:00. Its claims have lower numbers than the claims of 13:00 and of 15:00.
const CLAIM: &str = concat!(
    "
WITH free AS MATERIALIZED (
    SELECT l.topic, l.partition, l.next_offset
    FROM (SELECT * FROM unnest($2::text[], $3::int4[]) AS s (topic, partition) ORDER BY s.topic, s.partition) s
    CROSS JOIN LATERAL (
        SELECT l.next_offset FROM tidegate.ledger l
        WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition
        ORDER BY l.next_offset DESC LIMIT 1
    ) at
    CROSS JOIN LATERAL (
        SELECT l.topic, l.partition, l.next_offset FROM tidegate.ledger l
        WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition AND l.next_offset = at.next_offset
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) l
)
UPDATE tidegate.ledger l SET claim_id = gen_random_uuid(), owner = $4, updated_at = now(), committed_at = ",
    committed_at!(),
    ", epoch = greatest(l.epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::int8)
FROM free f
WHERE l.pipeline = $1 AND l.topic = f.topic AND l.partition = f.partition AND l.next_offset = f.next_offset
RETURNING l.topic, l.partition, l.claim_id, l.epoch, l.next_offset, l.last_offset, l.last_timestamp, l.last_digest"
);

/// Claims the partitions that have an unlocked ledger row. Partitions without a row, or with a locked row, are left out. A
/// partition whose row advances during the statement may be left out too; request it again.
///
/// # Errors
/// The error of the statement. A claim whose answer was lost may be valid nevertheless; the next claim replaces it.
pub async fn claim(
    connection: &mut PgConnection,
    pipeline: &str,
    owner: &str,
    sources: &[TopicPartition],
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query(CLAIM)
        .bind(pipeline)
        .bind(sources.iter().map(|source| &*source.topic).collect::<Vec<_>>())
        .bind(sources.iter().map(|source| source.partition).collect::<Vec<_>>())
        .bind(owner)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let last_offset: Option<i64> = row.try_get(5)?;
            let (timestamp_ms, digest): (Option<i64>, Option<i64>) = (row.try_get(6)?, row.try_get(7)?);
            Ok(Claimed {
                source: TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?),
                claim: Claim { id: row.try_get(2)?, epoch: row.try_get(3)? },
                next: Offset::new(row.try_get(4)?),
                last: last_offset.zip(digest).map(|(offset, digest)| LastRecord {
                    offset: Offset::new(offset),
                    timestamp_ms,
                    digest,
                }),
            })
        })
        .collect()
}

/// Waits until no other session locks a partition's ledger row. For this, locks the row itself, and releases the lock at once.
///
/// # Errors
/// The error of the statement: 55P03 after `lock_timeout`.
pub async fn wait_at(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &TopicPartition,
) -> Result<(), sqlx::Error> {
    let sql = "SELECT FROM tidegate.ledger WHERE pipeline = $1 AND topic = $2 AND partition = $3
               ORDER BY next_offset DESC LIMIT 1 FOR NO KEY UPDATE";
    sqlx::query(sql).bind(pipeline).bind(&*source.topic).bind(source.partition).execute(connection).await?;
    Ok(())
}

/// Returns which of these partitions have no ledger row.
///
/// # Errors
/// The error of the statement.
pub async fn without_row(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[TopicPartition],
) -> Result<Vec<TopicPartition>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.topic, s.partition FROM unnest($2::text[], $3::int4[]) AS s (topic, partition)
         WHERE (SELECT true FROM tidegate.ledger l
             WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition
             ORDER BY l.next_offset DESC LIMIT 1) IS NULL",
    )
    .bind(pipeline)
    .bind(sources.iter().map(|source| &*source.topic).collect::<Vec<_>>())
    .bind(sources.iter().map(|source| source.partition).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?))).collect()
}

/// Sets a claimed row to the offset at which `on_offset_loss` continues, under a new claim. Clears the last record,
/// which the log may no longer have. Returns the new claim; `None` if the claim is no longer ours or the row has
/// advanced.
///
/// # Errors
/// The error of the statement.
pub async fn skip_condition(
    connection: &mut PgConnection,
    pipeline: &str,
    claimed: &Claimed,
    to: Offset,
) -> Result<Option<Claim>, sqlx::Error> {
    let row = sqlx::query(
        "UPDATE tidegate.ledger SET next_offset = $5, first_offset = $5, last_offset = NULL, last_timestamp = NULL, last_digest = NULL,
             claim_id = gen_random_uuid(), updated_at = now(),
             epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::int8)
         WHERE pipeline = $1 AND topic = $2 AND partition = $3 AND claim_id = $4 AND next_offset = $6
         RETURNING claim_id, epoch",
    )
    .bind(pipeline)
    .bind(&*claimed.source.topic)
    .bind(claimed.source.partition)
    .bind(claimed.claim.id)
    .bind(to.get())
    .bind(claimed.next.get())
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Claim { id: row.try_get(0)?, epoch: row.try_get(1)? })).transpose()
}
