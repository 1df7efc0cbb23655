//! A store for commands that write with the daemon's own writer, and must not wait without end.
//!
//! [`Rehearsal`] does everything but COMMIT, and keeps dead letters in order to show them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tidegate_protocol::batch::{Batch, Reject, Span};
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_protocol::record::Record;
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Ledger, LedgerRow, Planner, ReplanError, Transaction, WriteError};

use crate::postgres::PgStore;
use crate::status::lock;

/// A dead letter that the daemon would store.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Letter {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) reason: &'static str,
    pub(super) sqlstate: Option<String>,
    pub(super) column: Option<String>,
    pub(super) detail: String,
}

/// The results of a rehearsal.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) reasons: BTreeMap<&'static str, u64>,
    pub(super) letters: Vec<Letter>,
    /// The first rows, as JSON objects.
    pub(super) rows: Vec<String>,
}

/// A dead-letter budget that is never spent: someone is watching.
pub(super) fn boundless() -> DeadLetterLimits {
    DeadLetterLimits { max_share: 1.0, window: Duration::from_secs(300), min_count: u64::MAX }
}

/// A store that rolls back when the daemon would commit.
#[derive(Debug)]
pub(super) struct Rehearsal {
    inner: PgStore,
    make_table: Option<String>,
    findings: Arc<Mutex<Findings>>,
    shown: usize,
    /// The dead letters of the current transaction. They count once the transaction would be committed.
    letters: Vec<Letter>,
}

impl Rehearsal {
    /// Makes a store. `make_table` is run in each transaction; the first `shown` dead letters are kept.
    pub(super) fn new(
        inner: PgStore,
        make_table: Option<String>,
        findings: Arc<Mutex<Findings>>,
        shown: usize,
    ) -> Self {
        Self { inner, make_table, findings, shown, letters: Vec::new() }
    }
}

impl Transaction for Rehearsal {
    async fn begin(&mut self) -> Result<(), WriteError> {
        self.letters.clear();
        match &self.make_table {
            Some(sql) => self.inner.begin_with(sql).await,
            None => self.inner.begin().await,
        }
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        let copied = self.inner.copy(batch, window.clone()).await?;
        let wanted = lock(&self.findings).rows.is_empty();
        if wanted && copied > 0 {
            let rows = self.inner.preview(batch, window).await;
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
        self.inner.check_at_once().await
    }

    async fn probe(&mut self) -> Result<(), WriteError> {
        self.inner.probe().await
    }

    async fn dead_letter(&mut self, batch: &Batch, rejects: &[&Reject]) -> Result<(), WriteError> {
        let letters = rejects.iter().map(|reject| {
            let Record { topic, partition, offset, .. } = batch.record(reject.record);
            Letter {
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

    /// Deferred constraints report errors here, as at COMMIT.
    async fn commit(&mut self) -> Result<(), WriteError> {
        self.inner.rows(Stage::Commit, sqlx::query("SET CONSTRAINTS ALL IMMEDIATE")).await?;
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
        if self.make_table.is_some() {
            self.inner.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }
}

impl Ledger for Rehearsal {
    /// Nothing is ever in doubt: everything is rolled back.
    async fn settle(&mut self, spans: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        let again =
            |span: &Span| LedgerRow::Found { claim: Some(span.claim.id), epoch: span.claim.epoch, next: span.from };
        Ok(spans.iter().map(again).collect())
    }
}

impl Planner for Rehearsal {
    async fn replan(&mut self) -> Result<(), ReplanError> {
        self.inner.replan().await
    }

    fn newest_plan(&mut self) -> u64 {
        self.inner.newest_plan()
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Reject> {
        self.inner.encode(record, rows)
    }
}
