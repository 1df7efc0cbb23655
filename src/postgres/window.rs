//! Sends the rows of a window: one COPY per table and shape of row, and then one merge per table if the write mode requires it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use sqlx::{Executor, PgConnection, Row as _};
use tidegate_protocol::batch::Batch;
use tidegate_rows::copy::{HEADER, TRAILER};
use tidegate_rows::mapping::mark;
use tidegate_rows::spec::{RowSpec, WriteMode};
use tidegate_rows::write_mode::newest::{self, Placed};
use tidegate_rows::write_mode::shaped::{self, AddedFields};
use tidegate_rows::write_mode::{Deletes, Merge};

use super::{Live, catalog};
use crate::plan::{Planned, PlannedTable};

/// The size of the pieces of COPY data: large enough that system calls cost little, small enough to stay in cache.
const CHUNK: usize = 256 * 1024;

/// The staging tables of a connection. Each has the number of the table whose rows it stages; 0 if there is only one table.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// The version of the plan for which the staging tables were created.
    version: u64,
    /// The existing staging tables, by number. The value has the oids that the target's defaults and generation expressions had
    /// when the staging table was created. It is empty if the staging table uses none of them.
    there: BTreeMap<u16, Vec<i64>>,
    /// The staging tables that the current transaction created. A rollback removes them.
    new: BTreeSet<u16>,
    /// The staging tables that contain rows of the current transaction.
    filled: BTreeSet<u16>,
    /// The target table that was written last.
    last: u16,
    /// The target tables that the current transaction wrote. Used only if records name their table.
    written: BTreeSet<u16>,
}

impl Stages {
    /// Prepares for a transaction with the plan of this version. The end of the previous transaction has emptied all staging
    /// tables. From now on, no rollback removes the staging tables that the previous transaction created.
    pub(super) fn begin(&mut self, version: u64) {
        self.new.clear();
        self.filled.clear();
        self.written.clear();
        if self.version != version {
            (self.version, self.there) = (version, BTreeMap::new());
        }
    }

    pub(super) fn has(&self, number: u16) -> bool {
        self.there.contains_key(&number)
    }

    pub(super) fn created_permanently(&mut self, number: u16, defaults: Vec<i64>) {
        self.there.insert(number, defaults);
    }

    /// Forgets the staging tables that the current transaction created, because a rollback removes them. After a rollback to a
    /// savepoint, some of them may still exist. They are then recreated, which is harmless.
    pub(super) fn rolled_back(&mut self) {
        for number in std::mem::take(&mut self.new) {
            self.there.remove(&number);
            self.filled.remove(&number);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// The number of rows in the window; in mode `insert_new`, the number of rows that were inserted.
    pub(super) rows: u64,
    /// The number of deletes whose key was neither in the table nor in the rows that were merged with them.
    pub(super) unmatched: u64,
}

/// Sends a window of a batch, and merges it if the table's mode requires that. Stores in `placed` the indexes of the window's
/// rows that the last COPY contained. Leaves `placed` unchanged if one COPY sends the whole window as it is.
pub(super) async fn copy(
    live: &mut Live,
    planned: &Planned,
    spec: &RowSpec<'_>,
    batch: &Batch,
    window: Range<u32>,
    placed: &mut Vec<u32>,
) -> Result<Copied, sqlx::Error> {
    let table = &planned.table;
    if planned.plan.is_routed() {
        return by_table(live, planned, spec, batch, window, placed).await;
    }
    if !table.shapes.is_empty() {
        let rows = (0_u32..).zip(marked(batch, window).map(|(_, row)| row)).collect();
        return by_shape(live, 0, table, spec, rows, placed).await;
    }
    let Some(merge) = &table.merge else {
        let rows = whole(&mut live.connection, &table.copy, batch.copy_ranges(window)).await?;
        return Ok(Copied { rows, unmatched: 0 });
    };
    let copied = if let Some(newest) = &merge.newest {
        let rows = newest.pick(batch.copy_ranges(window.clone()).flat_map(newest::rows));
        stage(live, 0, table, merge, false).await?;
        picked(&mut live.connection, &merge.copy, &rows, &AddedFields::default(), placed).await?;
        u64::from(batch.rows_in(window))
    } else {
        stage(live, 0, table, merge, false).await?;
        whole(&mut live.connection, &merge.copy, batch.copy_ranges(window)).await?
    };
    let (merged, unmatched) = merge_staged(&mut live.connection, merge.deletes.as_ref(), &merge.merge).await?;
    Ok(Copied { rows: if merge.skips { merged } else { copied }, unmatched })
}

/// Merges the rows of the staging table into the target. Returns how many
/// rows the merge inserted or updated, and how many deletes found no row.
async fn merge_staged(
    connection: &mut PgConnection,
    deletes: Option<&Deletes>,
    merge: &str,
) -> Result<(u64, u64), sqlx::Error> {
    let mut unmatched = 0;
    if let Some(deletes) = deletes {
        connection.execute(deletes.lock.as_str()).await?;
        let count: i64 = connection.fetch_one(deletes.delete.as_str()).await?.try_get(0)?;
        unmatched = u64::try_from(count).unwrap_or(0);
    }
    Ok((connection.execute(merge).await?.rows_affected(), unmatched))
}

fn last_written<'p>(live: &Live, planned: &'p Planned) -> (u16, &'p PlannedTable) {
    planned.routes.get(usize::from(live.stages.last)).map_or((0, &planned.table), |table| (live.stages.last, table))
}

/// Returns the name of a column whose type is no longer the one in the plan; see [`catalog::retyped`]. Looks only at the tables
/// that the current transaction wrote.
pub(super) async fn retyped(live: &mut Live, planned: &Planned) -> Result<Option<String>, sqlx::Error> {
    if planned.plan.is_routed() {
        let tables = live.stages.written.iter().filter_map(|number| planned.routes.get(usize::from(*number)));
        return catalog::retyped(&mut live.connection, tables).await;
    }
    catalog::retyped(&mut live.connection, std::iter::once(&planned.table)).await
}

/// Writes no row to the table that was written last: runs its merge with an empty staging table, or a COPY without rows if there
/// is no merge. This shows whether the table refuses every write, regardless of the row.
pub(super) async fn copy_nothing(live: &mut Live, planned: &Planned) -> Result<(), sqlx::Error> {
    let (number, table) = last_written(live, planned);
    if let Some(merge) = &table.merge {
        stage(live, number, table, merge, false).await?;
        merge_staged(&mut live.connection, merge.deletes.as_ref(), &merge.merge).await?;
    } else {
        whole(&mut live.connection, &table.copy, std::iter::empty()).await?;
    }
    Ok(())
}

/// Evaluates the defaults that Postgres may give to rows of the table that was written last. This shows whether a default always
/// fails, regardless of the row.
pub(super) async fn make_defaults(live: &mut Live, planned: &Planned) -> Result<(), sqlx::Error> {
    let table = last_written(live, planned).1;
    if table.may_default().next().is_none() {
        return Ok(());
    }
    let defaults = catalog::defaults(&mut live.connection, &table.catalog.table).await?;
    for column in table.may_default() {
        let Some((_, sql)) = defaults.iter().find(|(name, _)| *name == column.name) else { continue };
        let sql = format!("SELECT CAST(({sql}) AS {})", column.type_text);
        match live.connection.execute(sql.as_str()).await {
            // An INSERT advances an identity's sequence even if the role has no right to the sequence, but this SELECT needs
            // the right. So this error proves nothing, and the remaining defaults aren't evaluated.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => return Ok(()),
            outcome => outcome.map(|_| ())?,
        }
    }
    Ok(())
}

/// Returns, for each row of a window, the index of its table, and the row with its mask in front.
pub(super) fn marked(batch: &Batch, window: Range<u32>) -> impl Iterator<Item = (u16, &[u8])> {
    batch.copy_ranges(window).flat_map(|rows| mark::marked(rows).map(move |(table, row)| (table, &rows[row])))
}

/// Copies rows of any shape into `table`, a name as SQL. That table has the columns of `planned`.
pub(super) async fn copy_into(
    connection: &mut PgConnection,
    table: &str,
    planned: &PlannedTable,
    spec: &RowSpec<'_>,
    batch: &Batch,
    window: Range<u32>,
) -> Result<(), sqlx::Error> {
    if planned.shapes.is_empty() {
        let copy = planned.with(spec, |target| target.copy_of(table, &[])).unwrap_or_default();
        return whole(connection, &copy, batch.copy_ranges(window)).await.map(|_| ());
    }
    let rows = (0_u32..).zip(marked(batch, window).map(|(_, row)| row)).collect();
    for group in groups(planned.shapes.mask_bytes(), rows, false) {
        let copy = planned.with(spec, |target| target.copy_of(table, group.mask));
        direct(connection, table, copy, &group.rows, &mut Vec::new()).await?;
    }
    Ok(())
}

/// Sends rows of one shape into `table`, a name as SQL. If the rows leave out every column, `copy` is `None`, and an INSERT
/// gives each row the defaults of all columns.
async fn direct(
    connection: &mut PgConnection,
    table: &str,
    copy: Option<String>,
    rows: &[Placed<'_>],
    placed: &mut Vec<u32>,
) -> Result<(), sqlx::Error> {
    match copy {
        Some(copy) => picked(connection, &copy, rows, &AddedFields::default(), placed).await.map(|_| ()),
        None => {
            placed.clear();
            placed.extend(rows.iter().map(|(nth, _)| *nth));
            let insert = format!("INSERT INTO {table} SELECT FROM generate_series(1, {})", rows.len());
            sqlx::query(&insert).persistent(false).execute(connection).await.map(|_| ())
        }
    }
}

/// Sends each row of a window to the table that the row's mark names. The tables are written one after the other, in the
/// order of the plan, all in the current transaction.
async fn by_table(
    live: &mut Live,
    planned: &Planned,
    spec: &RowSpec<'_>,
    batch: &Batch,
    window: Range<u32>,
    placed: &mut Vec<u32>,
) -> Result<Copied, sqlx::Error> {
    let mut by_table: Vec<Vec<Placed<'_>>> = vec![Vec::new(); planned.routes.len()];
    for (nth, (table, row)) in (0_u32..).zip(marked(batch, window)) {
        by_table[usize::from(table)].push((nth, row));
    }
    let mut written = Copied::default();
    for (number, (table, rows)) in (0_u16..).zip(planned.routes.iter().zip(by_table)) {
        if !rows.is_empty() {
            let copied = by_shape(live, number, table, spec, rows, placed).await?;
            written.rows += copied.rows;
            written.unmatched += copied.unmatched;
        }
    }
    Ok(written)
}

/// Rows of one shape: they leave out the columns in `mask`. `tombstones` is set if all of them are deletes.
struct Group<'a> {
    mask: &'a [u8],
    tombstones: bool,
    rows: Vec<Placed<'a>>,
}

/// Removes the mask in front of each row, and groups rows with the same mask. The group of the previous row is tried first.
/// `deletes` says whether some of the rows may be deletes.
fn groups<'a>(mask_bytes: usize, rows: Vec<Placed<'a>>, deletes: bool) -> Vec<Group<'a>> {
    let all = rows.len();
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut last = 0;
    for (nth, row) in rows {
        let (mask, row) = row.split_at(mask_bytes);
        if groups.get(last).is_none_or(|group| group.mask != mask) {
            last = *places.entry(mask).or_insert(groups.len());
            if last == groups.len() {
                let room = if last == 0 { all } else { 0 };
                groups.push(Group { mask, tombstones: deletes, rows: Vec::with_capacity(room) });
            }
        }
        let group = &mut groups[last];
        group.tombstones &= deletes && shaped::is_tombstone(row);
        group.rows.push((nth, row));
    }
    groups
}

/// Sends rows of any shapes to one table: one COPY per shape, and one merge of all of them if the write mode requires it. Each
/// row in `rows` begins with its mask.
async fn by_shape(
    live: &mut Live,
    number: u16,
    table: &PlannedTable,
    spec: &RowSpec<'_>,
    rows: Vec<Placed<'_>>,
    placed: &mut Vec<u32>,
) -> Result<Copied, sqlx::Error> {
    live.stages.last = number;
    live.stages.written.insert(number);
    let all = rows.len() as u64;
    let deletes = matches!(spec.table.mode, WriteMode::Upsert { deletes: true, .. });
    let groups = groups(table.shapes.mask_bytes(), rows, deletes);
    let Some(merge) = &table.merge else {
        for group in &groups {
            let name = table.catalog.table.quoted();
            let copy = table.with(spec, |target| target.copy_of(&name, group.mask));
            direct(&mut live.connection, &name, copy, &group.rows, placed).await?;
        }
        return Ok(Copied { rows: all, unmatched: 0 });
    };
    let shapes: Vec<_> =
        groups.iter().map(|Group { mask, tombstones, .. }| shaped::Group { mask, tombstones: *tombstones }).collect();
    let Some(shaped) = table.with(spec, |target| target.shaped(&shapes)) else {
        return Ok(Copied::default());
    };
    stage(live, number, table, merge, shaped.defaults).await?;
    for (Group { rows, .. }, copy) in groups.iter().zip(&shaped.copies) {
        match &shaped.newest {
            None => picked(&mut live.connection, &copy.copy, rows, &copy.behind, placed).await?,
            Some(newest) => {
                let mut winners = newest.pick(rows.iter().map(|(_, row)| *row));
                winners.iter_mut().for_each(|(place, _)| *place = rows[*place as usize].0);
                picked(&mut live.connection, &copy.copy, &winners, &copy.behind, placed).await?
            }
        };
    }
    let (merged, unmatched) = merge_staged(&mut live.connection, shaped.deletes.as_ref(), &shaped.merge).await?;
    Ok(Copied { rows: if merge.skips { merged } else { all }, unmatched })
}

/// Creates the staging table. It gets the target's defaults that rows may take, and the generated columns that the merge
/// compares. Returns the oids of all defaults and generation expressions of the target; none if the staging table needs none of
/// them.
pub(super) async fn create(
    connection: &mut PgConnection,
    table: &PlannedTable,
    merge: &Merge,
) -> Result<Vec<i64>, sqlx::Error> {
    connection.execute(merge.create.as_str()).await?;
    if merge.defaults.is_empty() && merge.computed.is_empty() {
        return Ok(Vec::new());
    }
    // Read the oids first, so that a default that changes between the two steps is noticed later.
    let oids = catalog::default_oids(connection, table.catalog.oid).await?;
    let defaults = catalog::defaults(connection, &table.catalog.table).await?;
    if let Some(alter) = merge.set_defaults(&defaults) {
        connection.execute(alter.as_str()).await?;
    }
    if !merge.computed.is_empty() {
        let generated = catalog::generated_columns(connection, table.catalog.oid).await?;
        if let Some(alter) = merge.add_computed(&generated) {
            connection.execute(alter.as_str()).await?;
        }
    }
    Ok(oids)
}

/// Creates the staging table if it doesn't exist, and empties it if it contains rows of this transaction. If rows will take the
/// target's defaults (`defaults`), or the merge compares generated columns, also recreates it after one of these has changed.
async fn stage(
    live: &mut Live,
    number: u16,
    table: &PlannedTable,
    merge: &Merge,
    defaults: bool,
) -> Result<(), sqlx::Error> {
    let Live { connection, stages, .. } = live;
    let fits = match stages.there.get(&number) {
        Some(of) if defaults || !merge.computed.is_empty() => {
            *of == catalog::default_oids(connection, table.catalog.oid).await?
        }
        Some(_) => true,
        None => false,
    };
    if !fits {
        let of = create(connection, table, merge).await?;
        stages.there.insert(number, of);
        stages.new.insert(number);
    } else if stages.filled.contains(&number) {
        connection.execute(merge.clear.as_str()).await?;
    }
    stages.filled.insert(number);
    Ok(())
}

/// Runs one COPY of rows that are stored in contiguous ranges. Returns the number of rows.
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

/// Runs one COPY of `rows`, with the fields of `behind` at the end of each row. Stores the rows' indexes in `placed`.
/// Returns the number of rows.
async fn picked(
    connection: &mut PgConnection,
    copy: &str,
    rows: &[Placed<'_>],
    behind: &AddedFields,
    placed: &mut Vec<u32>,
) -> Result<u64, sqlx::Error> {
    placed.clear();
    placed.extend(rows.iter().map(|(nth, _)| *nth));
    let mut sink = connection.copy_in_raw(copy).await?;
    let mut chunk = Vec::with_capacity(CHUNK);
    chunk.extend_from_slice(&HEADER);
    for (nth, row) in rows {
        if chunk.len() + row.len() + behind.bytes() > CHUNK {
            sink.send(&chunk[..]).await?;
            chunk.clear();
        }
        behind.append(*nth, row, &mut chunk);
    }
    chunk.extend_from_slice(&TRAILER);
    sink.send(&chunk[..]).await?;
    sink.finish().await
}
