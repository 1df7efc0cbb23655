//! Sends the rows of a window: one COPY, or one per table that records name, and the merge that follows.

use std::collections::BTreeSet;
use std::ops::Range;

use sqlx::{Executor, PgConnection, Row as _};
use tidegate_protocol::batch::Batch;
use tidegate_rows::copy::{HEADER, TRAILER};
use tidegate_rows::mapping::route;
use tidegate_rows::write_mode::Merge;
use tidegate_rows::write_mode::newest::{self, Placed};

use super::Live;
use crate::plan::Planned;

/// The size of the pieces of COPY data: large enough that system calls cost little, small enough to stay in cache.
const CHUNK: usize = 256 * 1024;

/// The staging tables of a connection, by the number of their table; 0 if there is only one table.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// The version of the plan that they were made for.
    version: u64,
    there: BTreeSet<u16>,
    /// Those that the current transaction made.
    new: BTreeSet<u16>,
    /// Those that hold rows of the current transaction.
    filled: BTreeSet<u16>,
}

impl Stages {
    /// Begins a transaction with this plan: staging tables of the previous one are permanent now, and a commit emptied them
    /// all.
    pub(super) fn begin(&mut self, version: u64) {
        self.new.clear();
        self.filled.clear();
        if self.version != version {
            (self.version, self.there) = (version, BTreeSet::new());
        }
    }

    pub(super) fn has(&self, number: u16) -> bool {
        self.there.contains(&number)
    }

    pub(super) fn made_for_good(&mut self, number: u16) {
        self.there.insert(number);
    }

    /// Forgets what a rollback, or a rollback to a savepoint, undoes. A table made before the savepoint is created once more,
    /// which is rare and harmless.
    pub(super) fn rolled_back(&mut self) {
        for number in std::mem::take(&mut self.new) {
            self.there.remove(&number);
            self.filled.remove(&number);
        }
    }
}

/// The result of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// Rows that were written.
    pub(super) rows: u64,
    /// Deletes that found no row.
    pub(super) unmatched: u64,
}

/// Sends a window of a batch, and merges it if the table's mode requires that. `placed` gets the rows of the window that the
/// last COPY had, if these are not all.
pub(super) async fn copy(
    live: &mut Live,
    planned: &Planned,
    batch: &Batch,
    window: Range<u32>,
    placed: &mut Vec<u32>,
) -> Result<Copied, sqlx::Error> {
    if planned.plan.is_routed() {
        return by_table(live, planned, batch, window, placed).await;
    }
    let Some(merge) = &planned.merge else {
        let rows = whole(&mut live.connection, &planned.copy, batch.copy_ranges(window)).await?;
        return Ok(Copied { rows, unmatched: 0 });
    };
    let copied = if let Some(newest) = &merge.newest {
        let rows = newest.pick(batch.copy_ranges(window.clone()).flat_map(newest::rows));
        stage(live, 0, merge).await?;
        picked(&mut live.connection, &merge.copy, &rows, placed).await?;
        u64::from(batch.rows_in(window))
    } else {
        stage(live, 0, merge).await?;
        whole(&mut live.connection, &merge.copy, batch.copy_ranges(window)).await?
    };
    let (merged, unmatched) = merge_staged(&mut live.connection, merge).await?;
    Ok(Copied { rows: if merge.skips { merged } else { copied }, unmatched })
}

/// Merges what was staged. Returns how many rows the merge inserted or updated, and how many deletes found no row.
async fn merge_staged(connection: &mut PgConnection, merge: &Merge) -> Result<(u64, u64), sqlx::Error> {
    let mut unmatched = 0;
    if let Some(deletes) = &merge.deletes {
        connection.execute(deletes.lock.as_str()).await?;
        let count: i64 = connection.fetch_one(deletes.delete.as_str()).await?.try_get(0)?;
        unmatched = u64::try_from(count).unwrap_or(0);
    }
    Ok((connection.execute(merge.merge.as_str()).await?.rows_affected(), unmatched))
}

/// Sends each row of a window to the table that it is marked for, in the order of the plan, all in the current transaction.
async fn by_table(
    live: &mut Live,
    planned: &Planned,
    batch: &Batch,
    window: Range<u32>,
    placed: &mut Vec<u32>,
) -> Result<Copied, sqlx::Error> {
    let mut by_table: Vec<Vec<Placed<'_>>> = vec![Vec::new(); planned.routes.len()];
    let rows =
        batch.copy_ranges(window).flat_map(|rows| route::marked(rows).map(move |(table, row)| (table, &rows[row])));
    for (nth, (table, row)) in (0_u32..).zip(rows) {
        by_table[usize::from(table)].push((nth, row));
    }
    let mut written = Copied::default();
    for (number, (table, rows)) in (0_u16..).zip(planned.routes.iter().zip(by_table)) {
        if rows.is_empty() {
            continue;
        }
        let Some(merge) = &table.merge else {
            written.rows += picked(&mut live.connection, &table.copy, &rows, placed).await?;
            continue;
        };
        stage(live, number, merge).await?;
        let all = rows.len() as u64;
        match &merge.newest {
            None => picked(&mut live.connection, &table.copy, &rows, placed).await?,
            Some(newest) => {
                let mut winners = newest.pick(rows.iter().map(|(_, row)| *row));
                winners.iter_mut().for_each(|(place, _)| *place = rows[*place as usize].0);
                picked(&mut live.connection, &table.copy, &winners, placed).await?
            }
        };
        let (merged, unmatched) = merge_staged(&mut live.connection, merge).await?;
        written.rows += if merge.skips { merged } else { all };
        written.unmatched += unmatched;
    }
    Ok(written)
}

/// Creates the staging table if it doesn't exist, and empties it if it holds rows of this transaction.
async fn stage(live: &mut Live, number: u16, merge: &Merge) -> Result<(), sqlx::Error> {
    let Live { connection, stages, .. } = live;
    if !stages.there.contains(&number) {
        connection.execute(merge.create.as_str()).await?;
        stages.there.insert(number);
        stages.new.insert(number);
    } else if stages.filled.contains(&number) {
        connection.execute(merge.clear.as_str()).await?;
    }
    stages.filled.insert(number);
    Ok(())
}

/// Runs one COPY of contiguous ranges of rows.
async fn whole<'a>(
    connection: &mut PgConnection,
    copy: &str,
    stretches: impl Iterator<Item = &'a [u8]>,
) -> Result<u64, sqlx::Error> {
    let mut sink = connection.copy_in_raw(copy).await?;
    sink.send(&HEADER[..]).await?;
    for stretch in stretches {
        for chunk in stretch.chunks(CHUNK) {
            sink.send(chunk).await?;
        }
    }
    sink.send(&TRAILER[..]).await?;
    sink.finish().await
}

/// Runs one COPY of single rows.
async fn picked(
    connection: &mut PgConnection,
    copy: &str,
    rows: &[Placed<'_>],
    placed: &mut Vec<u32>,
) -> Result<u64, sqlx::Error> {
    placed.clear();
    placed.extend(rows.iter().map(|(nth, _)| *nth));
    let mut sink = connection.copy_in_raw(copy).await?;
    let mut chunk = Vec::with_capacity(CHUNK);
    chunk.extend_from_slice(&HEADER);
    for (_, row) in rows {
        if chunk.len() + row.len() > CHUNK {
            sink.send(&chunk[..]).await?;
            chunk.clear();
        }
        chunk.extend_from_slice(row);
    }
    chunk.extend_from_slice(&TRAILER);
    sink.send(&chunk[..]).await?;
    sink.finish().await
}
