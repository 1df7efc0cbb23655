//! The ledger's two statements of a write: move, and say what is true.

use sqlx::{PgConnection, Row};
use std::collections::HashMap;

use crate::batch::Span;
use crate::position::{ClaimId, Offset};
use crate::store::LedgerRow;

/// Locks the rows in order of (topic, partition), as every writer does, so that two of them never wait for each other in a
/// circle. A row that another transaction moves meanwhile is looked at again once it is free: READ COMMITTED checks claim and
/// offset on its newest version.
const ADVANCE: &str = "
WITH span AS (
    SELECT * FROM unnest($2::text[], $3::int4[], $4::uuid[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[])
        AS s (topic, partition, claim_id, from_offset, to_offset, last_offset, last_timestamp, last_digest)
), mine AS (
    SELECT l.topic, l.partition FROM tidegate.ledger l JOIN span s ON l.topic = s.topic AND l.partition = s.partition
    WHERE l.pipeline = $1 AND l.claim_id = s.claim_id AND l.next_offset = s.from_offset
    ORDER BY l.topic, l.partition
    FOR NO KEY UPDATE OF l
)
UPDATE tidegate.ledger l
SET next_offset = s.to_offset, last_offset = s.last_offset, last_timestamp = s.last_timestamp,
    last_digest = s.last_digest, updated_at = now()
FROM span s JOIN mine m ON m.topic = s.topic AND m.partition = s.partition
WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition
    AND l.claim_id = s.claim_id AND l.next_offset = s.from_offset
RETURNING l.topic, l.partition";

/// Moves the spans' rows; which of them it moved.
pub(super) async fn advance(
    connection: &mut PgConnection,
    pipeline: &str,
    spans: &[Span],
) -> Result<Vec<bool>, sqlx::Error> {
    let rows = sqlx::query(ADVANCE)
        .bind(pipeline)
        .bind(topics(spans))
        .bind(partitions(spans))
        .bind(spans.iter().map(|span| span.claim).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.from.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.to.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.offset.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.timestamp_ms).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.digest).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    if rows.len() == spans.len() {
        return Ok(vec![true; spans.len()]);
    }
    let mut moved = HashMap::new();
    for row in &rows {
        moved.insert((row.try_get::<&str, _>(0)?, row.try_get::<i32, _>(1)?), ());
    }
    Ok(spans.iter().map(|span| moved.contains_key(&(&*span.source.topic, span.source.partition))).collect())
}

/// Takes the locks, so that a transaction in doubt has ended by the time that this answers.
const SETTLE: &str = "
SELECT topic, partition, claim_id, next_offset FROM tidegate.ledger
WHERE pipeline = $1 AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::int4[]))
ORDER BY topic, partition
FOR NO KEY UPDATE";

/// Reads the spans' rows, in the spans' order.
pub(super) async fn settle(
    connection: &mut PgConnection,
    pipeline: &str,
    spans: &[Span],
) -> Result<Vec<LedgerRow>, sqlx::Error> {
    let rows =
        sqlx::query(SETTLE).bind(pipeline).bind(topics(spans)).bind(partitions(spans)).fetch_all(connection).await?;
    let mut found = HashMap::new();
    for row in &rows {
        let claim: Option<ClaimId> = row.try_get(2)?;
        let next = Offset::new(row.try_get(3)?);
        found.insert((row.try_get::<&str, _>(0)?, row.try_get::<i32, _>(1)?), LedgerRow::Found { claim, next });
    }
    let row_of = |span: &Span| found.get(&(&*span.source.topic, span.source.partition)).copied();
    Ok(spans.iter().map(|span| row_of(span).unwrap_or(LedgerRow::Missing)).collect())
}

fn topics(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| &*span.source.topic).collect()
}

fn partitions(spans: &[Span]) -> Vec<i32> {
    spans.iter().map(|span| span.source.partition).collect()
}
