//! A store for commands that try records with the daemon's own writer.
//!
//! [`Rehearsal`] copies and merges rows as the daemon's store does, but rolls back where the daemon would commit. It doesn't
//! touch the ledger, creates no partitions, and keeps dead letters in memory, so that the command can show them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tidegate_protocol::batch::{Batch, RejectedRecord, Span};
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_protocol::record::Record;
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Cause, Ledger, LedgerRow, Planner, ReplanError, Transaction, WriteError};
use tidegate_rows::write_mode::partitions::Bounds;

use crate::postgres::PgStore;
use crate::status::lock;

#[derive(Clone, Debug, Serialize)]
pub(super) struct TrialDeadLetter {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) reason: &'static str,
    pub(super) sqlstate: Option<String>,
    pub(super) column: Option<String>,
    pub(super) detail: String,
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) reasons: BTreeMap<&'static str, u64>,
    pub(super) letters: Vec<TrialDeadLetter>,
    /// A few of the rows, as JSON objects; see [`PgStore::preview`].
    pub(super) rows: Vec<String>,
    /// Postgres's message about a change that it refused because the transaction is read-only; see [`Rehearsal::guarded`].
    pub(super) would_change: Option<String>,
    /// If a row had no partition: the partitions that the rows need. The daemon would create those that don't exist.
    pub(super) without_partition: Vec<Bounds>,
}

/// Returns limits that no share of dead letters exceeds. A person sees the result, so dead letters needn't stop the command.
pub(super) fn boundless() -> DeadLetterLimits {
    DeadLetterLimits { max_share: 1.0, window: Duration::from_secs(300), min_count: u64::MAX }
}

#[derive(Debug)]
pub(super) struct Rehearsal {
    inner: PgStore,
    make: Option<String>,
    before_shown: String,
    guarded: bool,
    findings: Arc<Mutex<Findings>>,
    shown: usize,
    /// The dead letters of the current transaction. When the daemon would commit the transaction, they are added to the
    /// findings.
    letters: Vec<TrialDeadLetter>,
}

impl Rehearsal {
    /// Makes a store. `make` is SQL that runs at the start of each transaction. The first `shown` dead letters are kept, to be
    /// shown.
    pub(super) fn new(inner: PgStore, make: Option<String>, findings: Arc<Mutex<Findings>>, shown: usize) -> Self {
        Self { inner, make, before_shown: String::new(), guarded: false, findings, shown, letters: Vec::new() }
    }

    /// If `guarded` is true, makes each transaction read-only as soon as the SQL of `make` has run. Postgres then refuses any
    /// change, except to temporary tables. The findings get the refusal's message.
    #[must_use]
    pub(super) fn guarded(self, guarded: bool) -> Self {
        Self { guarded, ..self }
    }

    /// Sets SQL that runs before the rows of [`Findings::rows`] are read, and is undone afterwards. It sets sequences, so that
    /// these rows have the numbers that `run` would give them.
    #[must_use]
    pub(super) fn showing_after(self, before_shown: String) -> Self {
        Self { before_shown, ..self }
    }

    /// Returns the outcome unchanged. Adds two kinds of errors to the findings: a change that a read-only transaction refused,
    /// and a missing partition.
    fn noted<T>(&self, outcome: Result<T, WriteError>) -> Result<T, WriteError> {
        match outcome.as_ref().map_err(|error| &error.cause) {
            Err(Cause::Postgres(error)) if self.guarded && error.sqlstate == READ_ONLY => {
                lock(&self.findings).would_change = Some(error.message.clone());
            }
            Err(Cause::NoPartition(_)) => {
                lock(&self.findings).without_partition = self.inner.missing_partitions().to_vec();
            }
            _ => {}
        }
        outcome
    }
}

/// The SQLSTATE `read_only_sql_transaction`.
const READ_ONLY: &str = "25006";

impl Transaction for Rehearsal {
    async fn begin(&mut self) -> Result<(), WriteError> {
        self.letters.clear();
        match &self.make {
            Some(sql) => self.inner.begin_with(sql).await?,
            None => self.inner.begin().await?,
        }
        if self.guarded {
            self.inner.rows(Stage::Begin, sqlx::query("SET TRANSACTION READ ONLY")).await?;
        }
        Ok(())
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        let copied = self.inner.copy(batch, window.clone()).await;
        let copied = self.noted(copied)?;
        let wanted = lock(&self.findings).rows.is_empty();
        if wanted && copied > 0 {
            let rows = self.inner.preview(batch, window, &self.before_shown).await;
            lock(&self.findings).rows = rows;
        }
        Ok(copied)
    }

    async fn savepoint(&mut self) -> Result<(), WriteError> {
        self.inner.savepoint().await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<(), WriteError> {
        self.inner.rollback_to_savepoint().await
    }

    async fn check_at_once(&mut self) -> Result<(), WriteError> {
        let checked = self.inner.check_at_once().await;
        self.noted(checked)
    }

    async fn probe(&mut self) -> Result<(), WriteError> {
        let probed = self.inner.probe().await;
        self.noted(probed)
    }

    async fn dead_letter(&mut self, batch: &Batch, rejects: &[&RejectedRecord]) -> Result<(), WriteError> {
        let letters = rejects.iter().map(|reject| {
            let Record { topic, partition, offset, .. } = batch.record(reject.record);
            TrialDeadLetter {
                topic: topic.to_owned(),
                partition,
                offset,
                reason: reject.reason,
                sqlstate: reject.sqlstate.as_deref().map(str::to_owned),
                column: reject.column.as_deref().map(str::to_owned),
                detail: reject.detail.to_string(),
            }
        });
        self.letters = letters.collect();
        Ok(())
    }

    async fn advance(&mut self, spans: &[Span]) -> Result<Vec<bool>, WriteError> {
        Ok(vec![true; spans.len()])
    }

    /// Checks deferred constraints, whose errors COMMIT would report, and then rolls back. Adds the transaction's dead letters to
    /// the findings.
    async fn commit(&mut self) -> Result<(), WriteError> {
        let checked = self.inner.rows(Stage::Commit, sqlx::query("SET CONSTRAINTS ALL IMMEDIATE")).await;
        self.noted(checked)?;
        self.rollback().await;
        let mut findings = lock(&self.findings);
        for letter in self.letters.drain(..) {
            *findings.reasons.entry(letter.reason).or_default() += 1;
            if findings.letters.len() < self.shown {
                findings.letters.push(letter);
            }
        }
        Ok(())
    }

    async fn rollback(&mut self) {
        self.inner.rollback().await;
        if self.make.is_some() {
            self.inner.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }
}

impl Ledger for Rehearsal {
    /// Returns each span as not written, because [`Rehearsal`] rolls back every transaction.
    async fn settle(&mut self, spans: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        let again =
            |span: &Span| LedgerRow::Found { claim: Some(span.claim.id), epoch: span.claim.epoch, next: span.from };
        Ok(spans.iter().map(again).collect())
    }
}

impl Planner for Rehearsal {
    /// Keeps the plan: it was made a moment ago, so an outdated plan isn't the cause of the error.
    ///
    /// # Errors
    /// If rows lack partitions. The daemon would create these now.
    async fn replan(&mut self) -> Result<(), ReplanError> {
        if !lock(&self.findings).without_partition.is_empty() {
            return Err(ReplanError::Unplannable("rows need partitions that don't exist".to_owned()));
        }
        Ok(())
    }

    fn newest_plan(&mut self) -> u64 {
        self.inner.newest_plan()
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        self.inner.encode(record, rows)
    }
}
