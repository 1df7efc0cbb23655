//! Returns the first rows of a batch, for `check`, as the table would store them. The rows are read from the staging table, or
//! from a temporary table that is defined like the target. They are never read from the target itself, which may be huge.

use std::ops::Range;

use sqlx::{Executor, PgConnection, Row};
use tidegate_protocol::batch::Batch;
use tidegate_protocol::retry::Stage;
use tidegate_rows::mapping::mark;
use tidegate_rows::spec::RowSpec;
use tokio::time::timeout;

use super::{PgStore, catalog, window};
use crate::plan::{Planned, PlannedTable};

const ROWS_MAX: u32 = 3;

impl PgStore {
    /// Returns up to three rows of a window that was copied, each as a JSON object. A delete is returned as `{"delete": {…}}`
    /// with its key. Before the rows are read, the SQL `first` runs in the open transaction. Its effects are undone afterwards.
    /// Returns no rows if records name their table, or if a statement fails.
    pub async fn preview(&mut self, batch: &Batch, window: Range<u32>, first: &str) -> Vec<String> {
        if self.rows.planned.plan.is_routed() {
            return Vec::new();
        }
        let end = window.clone().find(|end| batch.rows_in(window.start..*end) >= ROWS_MAX).unwrap_or(window.end);
        let Ok(mut live) = self.take(Stage::Copy) else { return Vec::new() };
        let planned = std::sync::Arc::clone(&self.rows.planned);
        let plans = std::sync::Arc::clone(&self.rows.plans);
        let spec = plans.config().rows();
        let left_out = left_out(&planned.table, batch, window.clone());
        let work = async {
            let connection = &mut live.connection;
            connection.execute("SAVEPOINT tidegate_shown").await?;
            connection.execute(first).await?;
            show(connection, &planned, &spec, batch, window.start..end, &left_out).await
        };
        let result = timeout(self.connector.write_deadline(), work).await;
        let shown = self.keep(Stage::Copy, live, result, None);
        if shown.is_err() && self.simple(Stage::Copy, "ROLLBACK TO SAVEPOINT tidegate_shown").await.is_err() {
            self.live = None;
        }
        shown.unwrap_or_default()
    }
}

/// Returns the columns for which no row of the window has a value. The merge doesn't name these columns, so the table
/// fills them with their defaults.
fn left_out<'p>(table: &'p PlannedTable, batch: &Batch, window: Range<u32>) -> Vec<&'p str> {
    let bytes = table.shapes.mask_bytes();
    let mut every = vec![u8::MAX; bytes];
    if bytes > 0 {
        for (_, row) in window::marked(batch, window) {
            every.iter_mut().zip(&row[..bytes]).for_each(|(every, mask)| *every &= mask);
        }
    }
    table.shapes.columns().filter(|(bit, _)| mark::has(&every, *bit)).map(|(_, column)| column.name.as_str()).collect()
}

/// Returns the SQL of a JSON object that has the defaults of all columns that the merge doesn't fill. `left_out` are the mapped
/// columns for which no row has a value.
async fn filled_in(
    connection: &mut PgConnection,
    table: &PlannedTable,
    left_out: &[&str],
) -> Result<String, sqlx::Error> {
    let defaults = catalog::defaults(connection, &table.catalog.table).await?;
    let is_filled = |name: &String| left_out.contains(&name.as_str()) || !table.has(name);
    let mut object = "'{}'::jsonb".to_owned();
    for (name, default) in defaults.iter().filter(|(name, _)| is_filled(name)) {
        let Some(of) = table.catalog.columns.iter().find(|of| of.name == *name) else { continue };
        let key = name.replace('\\', r"\\").replace('\'', "''");
        object += &format!(" || jsonb_build_object(E'{key}', CAST(({default}) AS {}))", of.type_text);
    }
    Ok(object)
}

async fn show(
    connection: &mut PgConnection,
    planned: &Planned,
    spec: &RowSpec<'_>,
    batch: &Batch,
    window: Range<u32>,
    left_out: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    let from = if let Some(merge) = &planned.table.merge {
        let defaults = filled_in(connection, &planned.table, left_out).await?;
        let row = format!("to_jsonb(s) - 'tidegate order' - 'tidegate deleted' - 'tidegate left out' || {defaults}");
        if merge.deletes.is_some() {
            // A staged row that stands for a delete has values only in the key columns.
            format!(
                "(SELECT CASE WHEN s.\"tidegate deleted\" THEN jsonb_build_object('delete', jsonb_strip_nulls(key)) \
                 ELSE {row} END AS shown FROM pg_temp.tidegate_stage s, \
                 LATERAL (SELECT to_jsonb(s) - 'tidegate order' - 'tidegate deleted' - 'tidegate left out' AS key) AS r)"
            )
        } else {
            format!("(SELECT {row} AS shown FROM pg_temp.tidegate_stage s)")
        }
    } else {
        let like = planned.plan.table().quoted();
        let options = "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY";
        connection.execute(format!("CREATE TEMP TABLE tidegate_shown (LIKE {like} {options})").as_str()).await?;
        window::copy_into(connection, "pg_temp.tidegate_shown", &planned.table, spec, batch, window).await?;
        "(SELECT to_jsonb(s) AS shown FROM pg_temp.tidegate_shown s)".to_owned()
    };
    let rows = sqlx::query(&format!("SELECT shown::text FROM {from} AS s LIMIT {ROWS_MAX}"))
        .fetch_all(&mut *connection)
        .await?;
    let rows = rows.iter().map(|row| row.try_get(0)).collect();
    connection.execute("ROLLBACK TO SAVEPOINT tidegate_shown").await?;
    rows
}
