//! The search for the records of a window that Postgres refuses. The search copies smaller and smaller ranges
//! of records under savepoints, until each refused record has been copied alone, or until its attempts are used up. Then it
//! decides whether these records are at fault, or something that affects every record.

use std::ops::Range;

use super::{Contents, Failure, SEARCH_ATTEMPTS_MAX, Writer};
use crate::batch::{Batch, RejectedRecord};
use crate::event::Event;
use crate::poison_search::{Search, Step};
use crate::retry::Disposition;
use crate::store::{Cause, PostgresError, Store, WriteError};

impl<S: Store> Writer<S> {
    /// Copies the window range by range, until each record that Postgres refuses has been copied alone, or the attempts are used
    /// up. `row` is the number of the row that the first error named, if it named a row. `plan_is_right` says that the plan is
    /// known to match the table. Returns where the settled records end, and the refused records. Settled records were copied, or
    /// were refused alone.
    pub(super) async fn search(
        &mut self,
        batch: &Batch,
        window: Range<u32>,
        row: Option<u32>,
        plan_is_right: bool,
    ) -> Result<(u32, Vec<RejectedRecord>), Failure> {
        let failed = |error| Failure::Write { error, until: window.end };
        let relative = |window: &Range<u32>, row: u32, start: u32| {
            batch.record_of_row(window.clone(), row).map(|record| record - start)
        };
        self.store.check_at_once().await.map_err(failed)?;
        let hint = row.and_then(|row| relative(&window, row, window.start));
        let mut search = Search::new(window.end - window.start, hint, SEARCH_ATTEMPTS_MAX);
        let mut refused: Vec<RejectedRecord> = Vec::new();
        self.contents = Contents::default();
        // The first error that may affect every record.
        let mut suspect: Option<WriteError> = None;
        let mut probed = false;
        loop {
            let range = match search.step() {
                Step::Copy(range) => window.start + range.start..window.start + range.end,
                Step::Done { settled } => {
                    if let Some(error) = suspect.filter(|error| !self.record_is_at_fault(error, batch, &window)) {
                        return Err(failed(error));
                    }
                    self.listener.on(&Event::PoisonFound { copies: search.attempts(), records: refused.len() });
                    return Ok((window.start + settled, refused));
                }
            };
            if batch.rows_in(range.clone()) == 0 {
                search.copied();
                continue;
            }
            self.store.savepoint().await.map_err(failed)?;
            match self.store.copy(batch, range.clone()).await {
                Ok(rows) => {
                    self.contents.rows += rows;
                    self.contents.accepted = true;
                    search.copied();
                }
                Err(error) if is_record(&error, plan_is_right) => {
                    self.store.rollback_to_savepoint().await.map_err(failed)?;
                    let alone = range.len() == 1;
                    let row = error.postgres().and_then(|error| error.row);
                    search.failed(row.and_then(|row| relative(&range, row, window.start)));
                    if !alone {
                        continue;
                    }
                    if !std::mem::replace(&mut probed, true) {
                        self.store.probe().await.map_err(failed)?;
                        self.store.rollback_to_savepoint().await.map_err(failed)?;
                    }
                    refused.extend(error.postgres().map(|error| rejected_record(range.start, error)));
                    if error.disposition() != Disposition::Record {
                        self.contents.suspects = true;
                        suspect.get_or_insert(error);
                    }
                    if suspect.is_none() || self.contents.accepted {
                        let refused: Vec<&RejectedRecord> = refused.iter().collect();
                        self.ask_budget(batch, &window, &refused)?;
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Returns whether the refused record itself caused `error`, and not something that affects every record. This is so in three
    /// cases:
    /// - Postgres accepted another record of the window.
    /// - This writer blames each refusal on its record.
    /// - The window has only one record, Postgres accepted an earlier one, and the error doesn't suggest an outdated plan.
    fn record_is_at_fault(&self, error: &WriteError, batch: &Batch, window: &Range<u32>) -> bool {
        let before = self.accepted_before && error.disposition() != Disposition::Plan;
        self.contents.accepted || self.blames_records || before && batch.records_in(window.clone()) == 1
    }
}

/// Returns whether an error may be the fault of one of the copied records. If the plan is known to match the table,
/// this includes errors that usually mean an outdated plan.
fn is_record(error: &WriteError, plan_is_right: bool) -> bool {
    match error.disposition() {
        Disposition::Record | Disposition::Suspect => true,
        Disposition::Plan => plan_is_right && matches!(error.cause, Cause::Postgres(_)),
        Disposition::Outage | Disposition::Stop => false,
    }
}

fn rejected_record(record: u32, error: &PostgresError) -> RejectedRecord {
    RejectedRecord {
        record,
        reason: "refused_by_postgres",
        sqlstate: Some(error.sqlstate.as_str().into()),
        column: error.column.as_deref().map(Into::into),
        detail: error.message.as_str().into(),
    }
}
