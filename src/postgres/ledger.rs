//! The two statements with which a write uses the ledger: one advances rows, and one reads them.

use std::collections::HashMap;

use sqlx::{PgConnection, Row};
use tidegate_protocol::batch::Span;
use tidegate_protocol::position::{ClaimId, Offset};
use tidegate_protocol::store::LedgerRow;

/// Advances the ledger rows of spans. The function locks the rows in order of (topic, partition), as every writer does, so that
/// two writers can't deadlock. It returns the numbers of the spans that it advanced, counted from 1.
const ADVANCE: &str = "SELECT tidegate.advance($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Advances the ledger rows of the spans. Returns for each span whether its row was advanced.
pub(super) async fn advance(
    connection: &mut PgConnection,
    pipeline: &str,
    spans: &[Span],
) -> Result<Vec<bool>, sqlx::Error> {
    let row = sqlx::query(ADVANCE)
        .bind(pipeline)
        .bind(topics(spans))
        .bind(partitions(spans))
        .bind(spans.iter().map(|span| span.claim.id).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.from.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.to.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.offset.get()).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.timestamp_ms).collect::<Vec<_>>())
        .bind(spans.iter().map(|span| span.last.digest).collect::<Vec<_>>())
        .fetch_one(connection)
        .await?;
    let mut moved = vec![false; spans.len()];
    for place in row.try_get::<Vec<i64>, _>(0)? {
        let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
        let span = place.and_then(|place| moved.get_mut(place));
        *span.ok_or_else(|| sqlx::Error::Decode("tidegate.advance names a span that it wasn't given".into()))? = true;
    }
    Ok(moved)
}

/// Reads the ledger rows and locks them. A transaction whose outcome is unknown may still hold these locks. When the statement
/// returns, that transaction has ended. A partition has one live row, at its highest position. A row that another transaction
/// advances meanwhile is still found: READ COMMITTED tests its newest version, and WHERE doesn't name the position.
const SETTLE: &str = "
SELECT l.topic, l.partition, l.claim_id, l.epoch, l.next_offset
FROM (SELECT * FROM unnest($2::text[], $3::int4[]) AS s (topic, partition) ORDER BY s.topic, s.partition) s
CROSS JOIN LATERAL (
    SELECT * FROM tidegate.ledger l WHERE l.pipeline = $1 AND l.topic = s.topic AND l.partition = s.partition
    ORDER BY l.next_offset DESC LIMIT 1
    FOR NO KEY UPDATE
) l";

/// Waits until no other transaction locks the spans' ledger rows, and returns the rows, in the order of the spans.
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
        let row_now = LedgerRow::Found { claim, epoch: row.try_get(3)?, next: Offset::new(row.try_get(4)?) };
        found.insert((row.try_get::<&str, _>(0)?, row.try_get::<i32, _>(1)?), row_now);
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
