//! Writes the batches of one consumer: batch → store → ack. This module knows neither Kafka nor SQL.
//!
//! A writer writes one batch at a time. Each transaction writes one *window* of the batch's records: normally all of
//! them, fewer after timeouts or after a poison search that used up its attempts. A transaction consists of COPY, dead
//! letters, ledger update and COMMIT. If the outcome of a COMMIT is unknown, the ledger row shows it:
//! [`crate::store::LedgerRow::outcome_of`].

mod refused;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::sleep;

use crate::batch::{Batch, RejectedRecord, Span};
use crate::dead_letter_budget::{DeadLetterBudget, summary};
use crate::event::{Committed, DeadLettered, Event, Listener, WritePhase};
use crate::now;
use crate::partition::Outcome;
use crate::retry::{Backoff, Disposition, Stage};
use crate::session::Ack;
use crate::stopped::Stopped;
use crate::store::{Cause, PostgresError, ReplanError, SpanOutcome, Store, WriteError};

/// How many steps the poison search of one transaction may take. Each step needs at most one COPY. Records that the search
/// didn't reach go into the next transaction.
pub const SEARCH_ATTEMPTS_MAX: u32 = 1000;

/// After this many timeouts of the same window, half of it is tried.
const TIMEOUTS_BEFORE_HALVING: u32 = 2;

pub struct Writer<S> {
    store: S,
    budget: DeadLetterBudget,
    backoff: Backoff,
    random: Rng,
    listener: Arc<dyn Listener>,
    waits: Arc<WaitFlag>,
    patience: Patience,
    /// How many records a transaction may have now. If a window times out repeatedly, this becomes half of that window. Each
    /// success doubles it.
    window_max: u32,
    contents: Contents,
    /// Whether Postgres accepted rows in an earlier transaction. A record that Postgres refuses is then at fault even if its
    /// window has no other record. Becomes false after a transaction that accepted no row and dead-lettered records for a cause
    /// that may affect all records.
    accepted_before: bool,
    blames_records: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Forever,
    None,
}

/// Tells the poll loop whether the writer has had to wait for Postgres with the current batch.
#[derive(Debug, Default)]
pub struct WaitFlag(AtomicBool);

impl WaitFlag {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets or clears the flag. Only the writer and tests call it.
    pub fn set(&self, waits: bool) {
        self.0.store(waits, Ordering::Relaxed);
    }
}

/// The contents of the current transaction. `accepted` says whether Postgres accepted a row in it. `suspects` says
/// whether some of its dead letters have a fault that may affect all records.
#[derive(Debug, Default)]
struct Contents {
    rows: u64,
    dead_letters: Vec<DeadLettered>,
    accepted: bool,
    suspects: bool,
}

enum Attempt {
    /// The records before `until` are committed.
    Committed { until: u32 },
    /// The ledger rows of these spans could not be advanced, so the transaction was rolled back.
    Refused(Vec<Span>),
}

/// Why the ledger must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettleCause {
    /// The outcome of a COMMIT is unknown. If the ledger shows [`SpanOutcome::Done`] for every span, the COMMIT was executed.
    Commit,
    /// The transaction was rolled back. Whatever the ledger now says, this transaction wrote none of the spans.
    Refusal,
}

/// Why a transaction failed. `until` is the index in the batch at which the records of the transaction end.
enum Failure {
    Write { error: WriteError, until: u32 },
    DeadLetterBudget(String),
}

impl<S: Store> Writer<S> {
    pub fn new(store: S, budget: DeadLetterBudget, random: Rng, listener: Arc<dyn Listener>) -> Self {
        Self {
            store,
            budget,
            backoff: Backoff::new(),
            random,
            listener,
            waits: Arc::default(),
            patience: Patience::Forever,
            window_max: u32::MAX,
            contents: Contents::default(),
            accepted_before: false,
            blames_records: false,
        }
    }

    /// Makes the writer end with [`Stopped::Outage`] instead of waiting for Postgres: for commands that a person runs. It still
    /// waits if it needs the ledger, for example to find the outcome of a COMMIT.
    #[must_use]
    pub fn without_waiting(self) -> Self {
        Self { patience: Patience::None, ..self }
    }

    /// Treats each refusal as the fault of its record, even if Postgres accepted no other record. This is for commands, where a
    /// person checks the records.
    #[must_use]
    pub fn blaming_records(self) -> Self {
        Self { blames_records: true, ..self }
    }

    pub fn wait_flag(&self) -> Arc<WaitFlag> {
        Arc::clone(&self.waits)
    }

    /// Writes batches until their sender or the receiver of the acks is gone. Sends one ack per batch, however long the
    /// database is unavailable.
    ///
    /// # Errors
    /// [`Stopped`] if manual action is required; records that aren't acknowledged are still in Kafka.
    ///
    /// # Cancel safety
    /// May be dropped at any point: if the outcome of a write is unknown, the next claim finds it in the ledger.
    pub async fn run<M: From<Ack>>(mut self, mut batches: Receiver<Batch>, acks: Sender<M>) -> Result<(), Stopped> {
        while let Some(mut batch) = batches.recv().await {
            let outcomes = self.write(&mut batch).await?;
            if acks.send(M::from(Ack { outcomes, batch })).await.is_err() {
                // The consumer has ended. The ledger contains everything that the ack would have said.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a whole batch. Returns the outcome of each segment, `None` for segments that had been dropped from the
    /// batch before.
    ///
    /// # Errors
    /// [`Stopped`] if manual action is required, or if Postgres is unavailable and the writer must not wait.
    pub async fn write(&mut self, batch: &mut Batch) -> Result<Vec<Option<Outcome>>, Stopped> {
        let started = now();
        let mut outcomes = vec![None; batch.segments().len()];
        let mut at = 0;
        while at < batch.len() {
            at = self.write_window(batch, at, &mut outcomes).await?;
        }
        self.waits.set(false);
        self.listener.on(&Event::BatchWritten { batch, took: now().duration_since(started) });
        Ok(outcomes)
    }

    /// Writes records from `start` on in one transaction, at most `window_max` of them, and retries until their outcome is known.
    /// Returns the index at which the next transaction starts.
    async fn write_window(
        &mut self,
        batch: &mut Batch,
        start: u32,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<u32, Stopped> {
        let mut hint = None;
        let mut replanned_for: Option<(String, Option<String>)> = None;
        let mut timeouts = 0;
        // Set if the same error occurs again after a replan: the plan then matches the table, and a trigger may have
        // raised the error.
        let mut plan_is_right = false;
        let mut prepared_for = None;
        loop {
            let newest = self.store.newest_plan();
            if batch.plan_version != newest {
                batch.encode_again(|record, rows| self.store.encode(record, rows));
                batch.plan_version = newest;
                // The hint was the number of a row in the old encoding.
                hint = None;
            }
            if prepared_for != Some(batch.plan_version) {
                prepared_for = Some(batch.plan_version);
                self.prepare(batch).await?;
                continue;
            }
            let end = batch.len().min(start.saturating_add(self.window_max));
            let window = start..end;
            if batch.records_in(window.clone()) == 0 {
                return Ok(end);
            }
            match self.attempt(batch, window.clone(), hint, plan_is_right).await {
                Ok(Attempt::Committed { until }) => {
                    for span in batch.spans(start..until) {
                        outcomes[span.segment] = Some(Outcome::Committed(span.to));
                    }
                    self.committed(batch, start..until);
                    return Ok(until);
                }
                Ok(Attempt::Refused(spans)) => {
                    self.settle(batch, &spans, SettleCause::Refusal, end == batch.len(), outcomes).await?;
                }
                Err(Failure::DeadLetterBudget(why)) => {
                    self.store.rollback().await;
                    // If our claim was fenced, the new owner may have written the same records already. A unique index then
                    // refuses our rows, though the records aren't at fault. So the budget stops the pipeline only if the consumer
                    // still owns every partition that it writes.
                    let (spans, records) = (batch.spans(window.clone()), batch.records_in(window.clone()));
                    self.settle(batch, &spans, SettleCause::Refusal, end == batch.len(), outcomes).await?;
                    if batch.records_in(window) == records {
                        return Err(Stopped::DeadLetterBudget(why));
                    }
                    hint = None;
                }
                Err(Failure::Write { error, until }) => {
                    if error.outcome_unknown() {
                        if !error.is_refusal() {
                            self.listener.on(&Event::CommitUnknown(&error));
                        }
                        self.store.disconnect();
                        let spans = batch.spans(start..until);
                        if self.settle(batch, &spans, SettleCause::Commit, until == batch.len(), outcomes).await? {
                            self.committed(batch, start..until);
                            return Ok(until);
                        }
                        // The ledger doesn't show that the COMMIT was executed. After a lost connection, write what is left
                        // again. But a COMMIT that Postgres refused (a deferred trigger can raise any error) would be refused
                        // again, so handle its error below.
                        if !error.is_refusal() {
                            continue;
                        }
                    }
                    match error.disposition() {
                        // The poison search has handled the errors of COPY. An error of another statement doesn't say
                        // which record is at fault.
                        Disposition::Record if hint.is_some() => {
                            self.store.disconnect();
                            return Err(Stopped::NoRecordAlone(error.into()));
                        }
                        // The poison search found no record to blame for this error.
                        Disposition::Suspect if hint.is_some() => {
                            self.store.disconnect();
                            return Err(Stopped::Refused(error.into()));
                        }
                        Disposition::Record | Disposition::Suspect => {
                            self.store.rollback().await;
                            hint = Some(error.postgres().and_then(|error| error.row));
                        }
                        Disposition::Plan => {
                            // If the error came from another statement than the COPY, drop the connection: its other prepared
                            // statements may be as old as the plan.
                            match error.stage {
                                Stage::Copy => self.store.rollback().await,
                                _ => self.store.disconnect(),
                            }
                            // If another writer of the pipeline had the same error, it may have made the new plan already.
                            if self.store.newest_plan() != batch.plan_version {
                                continue;
                            }
                            // The store reports each missing partition once, so these replans end.
                            let lacks_partition = matches!(error.cause, Cause::NoPartition(_));
                            let of = |error: &PostgresError| (error.sqlstate.clone(), error.column.clone());
                            let what = error.postgres().map(of).unwrap_or_default();
                            if !lacks_partition && replanned_for.as_ref() == Some(&what) {
                                // Deferred triggers run at COMMIT.
                                let of_rows = matches!(error.stage, Stage::Copy | Stage::Commit);
                                let copying = matches!(error.cause, Cause::Postgres(_)) && of_rows;
                                if hint.is_some() || !copying {
                                    return Err(Stopped::ReplanDidNotHelp(error.into()));
                                }
                                plan_is_right = true;
                                hint = Some(error.postgres().and_then(|error| error.row));
                                continue;
                            }
                            self.listener.on(&Event::CatalogChanged(&error));
                            if !lacks_partition {
                                replanned_for = Some(what);
                            }
                            self.replan().await?;
                        }
                        Disposition::Outage => {
                            timeouts += u32::from(error.timed_out());
                            let mut error = error;
                            if error.timed_out() && end - start == 1 {
                                error.add_slow_record(&batch.record(start));
                            }
                            if timeouts >= TIMEOUTS_BEFORE_HALVING && end - start > 1 {
                                timeouts = 0;
                                self.window_max = ((end - start) / 2).max(1);
                                self.listener.on(&Event::WindowHalved { records: self.window_max });
                            }
                            self.wait_or_stop(error).await?;
                        }
                        Disposition::Stop => {
                            self.store.disconnect();
                            return Err(Stopped::Refused(error.into()));
                        }
                    }
                }
            }
        }
    }

    /// Runs one transaction. If `hint` is `None`, copies the window as a whole. Otherwise searches the window for records that
    /// Postgres refuses. `hint` then contains the row that the error named, if it named one.
    async fn attempt(
        &mut self,
        batch: &Batch,
        window: Range<u32>,
        hint: Option<Option<u32>>,
        plan_is_right: bool,
    ) -> Result<Attempt, Failure> {
        let whole = window.end;
        let failed = |error| Failure::Write { error, until: whole };
        self.store.begin().await.map_err(failed)?;
        let copying = now();
        let (until, refused) = match hint {
            None => {
                let rows = self.store.copy(batch, window.clone()).await.map_err(failed)?;
                let accepted = batch.rows_in(window.clone()) > 0;
                self.contents = Contents { rows, accepted, ..Contents::default() };
                (window.end, Vec::new())
            }
            Some(row) => self.search(batch, window.clone(), row, plan_is_right).await?,
        };
        self.listener.on(&Event::Spent(WritePhase::Copy, now().duration_since(copying)));
        let failed = |error| Failure::Write { error, until };
        let window = window.start..until;
        let mut rejected_records: Vec<&RejectedRecord> =
            batch.rejected_records(window.clone()).chain(&refused).collect();
        rejected_records.sort_by_key(|reject| reject.record);
        if !rejected_records.is_empty() {
            self.ask_budget(batch, &window, &rejected_records)?;
            self.store.dead_letter(batch, &rejected_records).await.map_err(failed)?;
        }
        let committing = now();
        let spans = batch.spans(window.clone());
        let moved = self.store.advance(&spans).await.map_err(failed)?;
        let missing: Vec<Span> =
            spans.into_iter().zip(moved).filter(|(_, moved)| !moved).map(|(span, _)| span).collect();
        if !missing.is_empty() {
            self.store.rollback().await;
            return Ok(Attempt::Refused(missing));
        }
        self.contents.dead_letters = rejected_records.iter().copied().map(DeadLettered::from).collect();
        self.store.commit().await.map_err(failed)?;
        self.listener.on(&Event::Spent(WritePhase::Commit, now().duration_since(committing)));
        Ok(Attempt::Committed { until })
    }

    fn ask_budget(&mut self, batch: &Batch, window: &Range<u32>, dead: &[&RejectedRecord]) -> Result<(), Failure> {
        let records = u64::from(batch.records_in(window.clone()));
        let why = || summary(batch, dead.iter().copied());
        match self.budget.refuses(records, dead.len() as u64, now(), why) {
            Some(why) => Err(Failure::DeadLetterBudget(why)),
            None => Ok(()),
        }
    }

    fn committed(&mut self, batch: &Batch, window: Range<u32>) {
        self.backoff.reset();
        self.window_max = self.window_max.saturating_mul(2);
        let Contents { rows, dead_letters, accepted, suspects } = std::mem::take(&mut self.contents);
        self.accepted_before = accepted || self.accepted_before && !suspects;
        let records = u64::from(batch.records_in(window.clone()));
        self.budget.count(records, dead_letters.len() as u64, now());
        self.listener.on(&Event::Committed(Committed { batch, window, rows, dead_letters: &dead_letters }));
    }

    /// Reads the outcome of these spans from the ledger, retrying for as long as it takes, and stores it in `outcomes`. `last`
    /// says whether the batch ends with these spans. Returns true if `settle_cause` is a COMMIT, and the ledger shows that it was
    /// executed.
    async fn settle(
        &mut self,
        batch: &mut Batch,
        spans: &[Span],
        settle_cause: SettleCause,
        last: bool,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<bool, Stopped> {
        let rows = loop {
            match self.store.settle(spans).await {
                Ok(rows) => break rows,
                Err(error) if error.disposition() == Disposition::Stop => return Err(Stopped::Refused(error.into())),
                Err(error) => self.wait(&error).await,
            }
        };
        let span_outcomes: Vec<SpanOutcome> = spans.iter().zip(rows).map(|(span, row)| row.outcome_of(span)).collect();
        let all_done = settle_cause == SettleCause::Commit
            && span_outcomes.iter().all(|outcome_of| *outcome_of == SpanOutcome::Done);
        for (span, outcome_of) in spans.iter().zip(span_outcomes) {
            let Span { segment, source, from, to, .. } = span;
            let outcome = match outcome_of {
                SpanOutcome::Again => continue,
                // It isn't known that our transaction advanced this span: it was rolled back, or another of its spans isn't done.
                // The rest of the batch must not follow a commit that may not be ours, so claim the partition again.
                SpanOutcome::Done if !all_done && !last => Outcome::Rewound,
                SpanOutcome::Done => Outcome::Committed(*to),
                SpanOutcome::Fenced => Outcome::Fenced,
                SpanOutcome::Rewound => Outcome::Rewound,
            };
            match outcome {
                Outcome::Committed(_) => {}
                Outcome::Fenced => self.listener.on(&Event::Fenced { source, from: Some(*from) }),
                Outcome::Rewound => self.listener.on(&Event::Rewound { source, from: Some(*from) }),
            }
            outcomes[*segment] = Some(outcome);
            if !all_done {
                batch.drop_segment(*segment);
            }
        }
        Ok(all_done)
    }

    /// Applies the table changes that the batch needs, and retries while Postgres is unavailable.
    async fn prepare(&mut self, batch: &Batch) -> Result<(), Stopped> {
        loop {
            match self.store.prepare(batch).await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait_or_stop(error).await?,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped::Unplannable(why)),
            }
        }
    }

    /// Makes a new plan from the table's current definition, and retries while the catalog can't be read.
    async fn replan(&mut self) -> Result<(), Stopped> {
        loop {
            match self.store.replan().await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait_or_stop(error).await?,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped::Unplannable(why)),
            }
        }
    }

    /// Waits before the next attempt, or stops if the error is permanent or the writer must not wait.
    ///
    /// # Errors
    /// [`Stopped::Refused`] if the error is permanent, [`Stopped::Outage`] if the writer must not wait.
    async fn wait_or_stop(&mut self, error: WriteError) -> Result<(), Stopped> {
        if error.disposition() == Disposition::Stop {
            self.store.disconnect();
            return Err(Stopped::Refused(error.into()));
        }
        if self.patience == Patience::None {
            self.store.disconnect();
            return Err(Stopped::Outage(error.into()));
        }
        self.wait(&error).await;
        Ok(())
    }

    /// Drops the connection, reports the error, and waits before the next attempt.
    async fn wait(&mut self, error: &WriteError) {
        self.store.disconnect();
        let delay: Duration = self.backoff.next(self.random.f64());
        self.waits.set(true);
        self.listener.on(&Event::WriterWaits { error, attempt: self.backoff.attempts(), delay });
        sleep(delay).await;
        self.listener.on(&Event::Spent(WritePhase::Outage, delay));
    }
}

impl From<&RejectedRecord> for DeadLettered {
    fn from(reject: &RejectedRecord) -> Self {
        Self { record: reject.record, reason: reject.reason, column: reject.column.clone() }
    }
}
