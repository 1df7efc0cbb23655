//! Returns the first rows of a batch as the table would store them, which `check` shows. They are read from the staging table, or
//! from a temporary table like the target. They are never read from the target itself, which may be huge.

use std::ops::Range;

use sqlx::{Executor, PgConnection, Row};
use tidegate_protocol::batch::Batch;
use tidegate_protocol::retry::Stage;
use tidegate_rows::spec::RowSpec;
use tokio::time::timeout;

use super::{PgStore, window};
use crate::plan::Planned;

/// How many rows are shown.
const ROWS_MAX: u32 = 3;

impl PgStore {
    /// Returns up to three rows of a window that was copied, each as a JSON object. A delete is returned as `{"delete": {…}}`
    /// with its key. Runs in the open transaction. Returns none if the role may not create a temporary table, or if records name
    /// their table.
    pub async fn preview(&mut self, batch: &Batch, window: Range<u32>) -> Vec<String> {
        if self.rows.planned.plan.is_routed() {
            return Vec::new();
        }
        let end = window.clone().find(|end| batch.rows_in(window.start..*end) >= ROWS_MAX).unwrap_or(window.end);
        let Ok(mut live) = self.take(Stage::Copy) else { return Vec::new() };
        let planned = std::sync::Arc::clone(&self.rows.planned);
        let plans = std::sync::Arc::clone(&self.rows.plans);
        let spec = plans.config().rows();
        let work = show(&mut live.connection, &planned, &spec, batch, window.start..end);
        let result = timeout(self.connector.write_deadline(), work).await;
        let shown = self.keep(Stage::Copy, live, result, None);
        if shown.is_err() && self.simple(Stage::Copy, "ROLLBACK TO SAVEPOINT tidegate_shown").await.is_err() {
            self.live = None;
        }
        shown.unwrap_or_default()
    }
}

async fn show(
    connection: &mut PgConnection,
    planned: &Planned,
    spec: &RowSpec<'_>,
    batch: &Batch,
    window: Range<u32>,
) -> Result<Vec<String>, sqlx::Error> {
    connection.execute("SAVEPOINT tidegate_shown").await?;
    let from = if let Some(merge) = &planned.table.merge {
        if merge.deletes.is_some() {
            // A row that deletes has only its key.
            "(SELECT CASE WHEN s.\"tidegate deleted\" THEN jsonb_build_object('delete', jsonb_strip_nulls(row)) \
             ELSE row END AS shown FROM pg_temp.tidegate_stage s, \
             LATERAL (SELECT to_jsonb(s) - 'tidegate order' - 'tidegate deleted' - 'tidegate left out' AS row) AS r)"
        } else {
            "(SELECT to_jsonb(s) - 'tidegate order' - 'tidegate left out' AS shown FROM pg_temp.tidegate_stage s)"
        }
    } else {
        let like = planned.plan.table().quoted();
        let options = "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY";
        connection.execute(format!("CREATE TEMP TABLE tidegate_shown (LIKE {like} {options})").as_str()).await?;
        window::copy_into(connection, "pg_temp.tidegate_shown", &planned.table, spec, batch, window).await?;
        "(SELECT to_jsonb(s) AS shown FROM pg_temp.tidegate_shown s)"
    };
    let rows = sqlx::query(&format!("SELECT shown::text FROM {from} AS s LIMIT {ROWS_MAX}"))
        .fetch_all(&mut *connection)
        .await?;
    let rows = rows.iter().map(|row| row.try_get(0)).collect();
    connection.execute("ROLLBACK TO SAVEPOINT tidegate_shown").await?;
    rows
}
