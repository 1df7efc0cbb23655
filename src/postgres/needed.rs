//! The partitions of the table that the rows of a window need.

use std::ops::Range;

use sqlx::Connection as _;
use tidegate_protocol::batch::Batch;
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::{ReplanError, WriteError};
use tidegate_rows::write_mode::partitions::{self as by_time, Bounds};

use super::connect::within;
use super::partitions::{self, Purpose};
use super::{PgStore, window};
use crate::config::Pipeline;

impl PgStore {
    /// Stores in `missing` the partitions that rows of this window need and that Tidegate may create. Some of them may already
    /// exist. Partitions in `tried` are left out. Returns whether `missing` has any.
    pub(super) fn misses<'a>(&mut self, batch: &'a Batch, window: Range<u32>) -> bool {
        if let Some(by) = &self.rows.plans.config().table.partition_by {
            let tried = &self.tried;
            let planned = &self.rows.planned;
            let (catalog, shapes) = (&planned.table.catalog, planned.plan.shapes());
            let place = planned.plan.column_names().position(|name| name == by.column);
            self.missing = match place {
                None => Vec::new(),
                Some(place) if shapes.is_empty() => {
                    by_time::needed(by, catalog, batch.copy_ranges(window).map(|rows| (place, rows)), tried)
                }
                // A row without a time gets the column's default, normally the current time. The current partition exists, so
                // skip the row.
                Some(place) => {
                    let row = |(_, row): (u16, &'a [u8])| {
                        let (mask, row) = row.split_at(shapes.mask_bytes());
                        Some((shapes.place_in(place, mask)?, row))
                    };
                    by_time::needed(by, catalog, window::marked(batch, window).filter_map(row), tried)
                }
            };
        }
        !self.missing.is_empty()
    }

    /// Returns whether partitions must be created before this window is copied. A DEFAULT partition hides missing partitions:
    /// Postgres accepts the rows, and rows already in DEFAULT then block creating the partition they belong to.
    pub(super) fn foresees(&mut self, batch: &Batch, window: Range<u32>) -> bool {
        self.has_default_partition() && self.misses(batch, window)
    }

    /// Returns the partitions that the last copied window needs and that may be missing.
    pub fn missing_partitions(&self) -> &[Bounds] {
        &self.missing
    }

    pub(super) fn has_default_partition(&self) -> bool {
        self.rows.plans.config().table.partition_by.as_ref().is_some_and(|by| by.default)
    }

    /// Creates the partitions in `missing` that don't exist. Uses a separate connection: closing it releases the session lock
    /// that the creation takes.
    pub(super) async fn make_partitions(&mut self) -> Result<(), ReplanError> {
        let Some(by) = self.rows.plans.config().table.partition_by.as_ref().filter(|_| !self.missing.is_empty()) else {
            return Ok(());
        };
        let (mut connection, _) = self.connector.open().await.map_err(ReplanError::Write)?;
        let (purpose, config) = (Purpose::Rows, self.rows.plans.config());
        let work = partitions::create(&mut connection, config, by, &self.missing, purpose, &mut self.refusals);
        match within(self.connector.write_deadline(), Stage::Begin, work).await {
            Ok(()) => {}
            Err(error) if error.disposition() == Disposition::Outage => return Err(ReplanError::Write(error)),
            Err(error) => return Err(ReplanError::Unplannable(no_partitions(self.rows.plans.config(), &error))),
        }
        self.tried.extend(self.missing.drain(..));
        // Ignore an error of closing: nothing depends on it.
        drop(connection.close().await);
        Ok(())
    }
}

fn no_partitions(config: &Pipeline, error: &WriteError) -> String {
    format!(
        "pipelines.{}.table.partition_by: can't create the partitions of `{}` that rows need: {error}; `tidegate check` names what \
         is missing",
        config.name, config.table.name
    )
}
