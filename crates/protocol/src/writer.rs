//! Batch → Store → Ack: the ledger protocol of one consumer's writes. Knows no Kafka and no SQL.
//!
//! One batch at a time, and of it one *window* of records a transaction: the whole batch as a rule, less of it after timeouts
//! or where a search for bad records used up its attempts. A transaction is copy, dead letters, ledger, COMMIT. Whatever
//! happens to it, the ledger's row says what became of it: [`crate::store::LedgerRow::verdict`].

mod refused;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::sleep;

use crate::batch::{Batch, Reject, Span};
use crate::dead_letter_budget::{DeadLetterBudget, summary};
use crate::event::{Committed, DeadLettered, Event, Listener, Phase};
use crate::now;
use crate::partition::Outcome;
use crate::retry::{Backoff, Disposition, Stage};
use crate::session::Ack;
use crate::stopped::Stopped;
use crate::store::{Cause, ReplanError, Store, Verdict, WriteError};

/// COPYs that one transaction may spend on the search for bad records; what is left of the batch goes into a next one.
pub const SEARCH_ATTEMPTS_MAX: u32 = 1000;

/// Times that the same window may time out before half of it is tried.
const TIMEOUTS_BEFORE_HALVING: u32 = 2;

/// Writes one consumer's batches.
pub struct Writer<S> {
    store: S,
    budget: DeadLetterBudget,
    backoff: Backoff,
    /// For the jitter of waits.
    random: Rng,
    listener: Arc<dyn Listener>,
    waits: Arc<WaitFlag>,
    patience: Patience,
    /// Records per transaction at the moment; halved by timeouts, doubled by success.
    window_max: u32,
    /// The contents of the current transaction.
    contents: Contents,
    /// Postgres has taken rows since the last time that it refused a lone record for a reason that might be everybody's.
    takes_rows: bool,
    /// Every refusal is the fault of its record.
    blames_records: bool,
}

/// How long an outage of Postgres is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Forever,
    None,
}

/// Says whether a writer waits for Postgres, to the poll loop that may wait for the writer.
#[derive(Debug, Default)]
pub struct WaitFlag(AtomicBool);

impl WaitFlag {
    /// Whether the writer waits between two tries.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, waits: bool) {
        self.0.store(waits, Ordering::Relaxed);
    }
}

/// The contents of a transaction.
#[derive(Debug, Default)]
struct Contents {
    rows: u64,
    dead_letters: Vec<DeadLettered>,
    /// Postgres took rows, whether or not they are in the table.
    accepted: bool,
    /// Records are among the dead letters whose fault might be everybody's.
    suspects: bool,
}

/// The result of one transaction.
enum Attempt {
    /// Committed up to this record.
    Committed { until: u32 },
    /// The ledger didn't move these spans: rolled back.
    Refused(Vec<Span>),
}

/// Why the ledger is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// A COMMIT's outcome is unknown: where all spans are done, it was carried out.
    Commit,
    /// It didn't move these spans: whatever it says of them, this transaction wrote none of them.
    Refusal,
}

/// Why one transaction failed, and how much of the window it was about to commit.
enum Failure {
    Write { error: WriteError, until: u32 },
    DeadLetterBudget(String),
}

impl<S: Store> Writer<S> {
    /// A writer with its own store. `random` is for the jitter of its waits.
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
            takes_rows: false,
            blames_records: false,
        }
    }

    /// Ends with [`Stopped::Outage`] where it would wait for Postgres: for commands, which a person awaits. Only the outcome of
    /// a COMMIT is waited for all the same.
    #[must_use]
    pub fn impatient(self) -> Self {
        Self { patience: Patience::None, ..self }
    }

    /// Takes each refusal for the fault of its record, also where Postgres took no other: for commands whose records a person looks
    /// at.
    #[must_use]
    pub fn blaming_records(self) -> Self {
        Self { blames_records: true, ..self }
    }

    /// The flag that says whether this writer waits for Postgres.
    pub fn wait_flag(&self) -> Arc<WaitFlag> {
        Arc::clone(&self.waits)
    }

    /// Writes what comes until upstream is done. Each batch is answered, however long the database is away.
    ///
    /// # Errors
    /// [`Stopped`] where only a person can help; what isn't acked is still Kafka's.
    ///
    /// # Cancel safety
    /// May be dropped at any point: what was in doubt is settled by the next claim.
    pub async fn run<M: From<Ack>>(mut self, mut batches: Receiver<Batch>, acks: Sender<M>) -> Result<(), Stopped> {
        while let Some(mut batch) = batches.recv().await {
            let outcomes = self.write(&mut batch).await?;
            if acks.send(M::from(Ack { outcomes, batch })).await.is_err() {
                // The consumer is gone: the ledger knows all that the ack would have said.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a batch to the end; for each segment what became of it, `None` for one that was dropped before.
    ///
    /// # Errors
    /// [`Stopped`] where only a person can help.
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

    /// Writes the records from `start`, as many as one transaction takes; where the next one starts.
    async fn write_window(
        &mut self,
        batch: &mut Batch,
        start: u32,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<u32, Stopped> {
        let mut hint = None;
        let mut replanned_for: Option<String> = None;
        let mut timeouts = 0;
        // The catalog fits the plan, and errors that say otherwise may be a trigger's.
        let mut plan_is_right = false;
        let mut prepared_for = None;
        loop {
            let newest = self.store.newest_plan();
            if batch.plan_version != newest {
                batch.encode_again(|record, rows| self.store.encode(record, rows));
                batch.plan_version = newest;
                // It named a row of the earlier encoding.
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
                    self.settle(batch, &spans, Doubt::Refusal, end == batch.len(), outcomes).await?;
                }
                Err(Failure::DeadLetterBudget(why)) => {
                    self.store.rollback().await;
                    // A late write of a superseded claim meets the rows of the new owner, and a unique index refuses them
                    // all: that is no fault of the records. Only who still owns all that it writes stops for the budget.
                    let (spans, records) = (batch.spans(window.clone()), batch.records_in(window.clone()));
                    self.settle(batch, &spans, Doubt::Refusal, end == batch.len(), outcomes).await?;
                    if batch.records_in(window) == records {
                        return Err(Stopped::DeadLetterBudget(why));
                    }
                    hint = None;
                }
                Err(Failure::Write { error, until }) if error.outcome_unknown() => {
                    self.listener.on(&Event::CommitUnknown(&error));
                    self.store.disconnect();
                    let spans = batch.spans(start..until);
                    if self.settle(batch, &spans, Doubt::Commit, until == batch.len(), outcomes).await? {
                        self.committed(batch, start..until);
                        return Ok(until);
                    }
                }
                Err(Failure::Write { error, .. }) => match error.disposition() {
                    // A search catches these where they come; one that comes all the same names no record.
                    Disposition::Record if hint.is_some() => {
                        self.store.disconnect();
                        return Err(Stopped::NoRecordAlone(error.into()));
                    }
                    // No other record of the window was taken.
                    Disposition::Suspect if hint.is_some() => {
                        self.store.disconnect();
                        return Err(Stopped::Refused(error.into()));
                    }
                    Disposition::Record | Disposition::Suspect => {
                        self.store.rollback().await;
                        hint = Some(error.postgres().and_then(|error| error.row));
                    }
                    Disposition::Plan => {
                        // Other prepared statements of the connection may be as old as the plan.
                        match error.stage {
                            Stage::Copy => self.store.rollback().await,
                            _ => self.store.disconnect(),
                        }
                        // Another writer of the pipeline may have met the same, and planned anew.
                        if self.store.newest_plan() != batch.plan_version {
                            continue;
                        }
                        let what = error.postgres().map(|error| error.sqlstate.clone()).unwrap_or_default();
                        if replanned_for.as_ref() == Some(&what) {
                            let copying = matches!(error.cause, Cause::Postgres(_)) && error.stage == Stage::Copy;
                            if hint.is_some() || !copying {
                                return Err(Stopped::PlanUnmended(error.into()));
                            }
                            plan_is_right = true;
                            hint = Some(error.postgres().and_then(|error| error.row));
                            continue;
                        }
                        self.listener.on(&Event::CatalogChanged(&error));
                        replanned_for = Some(what);
                        self.replan().await?;
                    }
                    Disposition::Outage => {
                        timeouts += u32::from(error.timed_out());
                        let mut error = error;
                        if error.timed_out() && end - start == 1 {
                            error.blame(&batch.record(start));
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
                },
            }
        }
    }

    /// One transaction. `hint` is set once a record of the window is known to be refused, with the row that the error named.
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
        self.listener.on(&Event::Spent(Phase::Copy, now().duration_since(copying)));
        let failed = |error| Failure::Write { error, until };
        let window = window.start..until;
        let mut rejects: Vec<&Reject> = batch.rejects(window.clone()).chain(&refused).collect();
        rejects.sort_by_key(|reject| reject.record);
        if !rejects.is_empty() {
            self.ask_budget(batch, &window, &rejects)?;
            self.store.dead_letter(batch, &rejects).await.map_err(failed)?;
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
        self.contents.dead_letters = rejects.iter().copied().map(DeadLettered::from).collect();
        self.store.commit().await.map_err(failed)?;
        self.listener.on(&Event::Spent(Phase::Commit, now().duration_since(committing)));
        Ok(Attempt::Committed { until })
    }

    fn ask_budget(&mut self, batch: &Batch, window: &Range<u32>, dead: &[&Reject]) -> Result<(), Failure> {
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
        self.takes_rows = accepted || self.takes_rows && !suspects;
        let records = u64::from(batch.records_in(window.clone()));
        self.budget.count(records, dead_letters.len() as u64, now());
        self.listener.on(&Event::Committed(Committed { batch, window, rows, dead_letters: &dead_letters }));
    }

    /// Asks the ledger what became of these spans, for as long as it takes, and notes it. `last` says that the batch ends with
    /// these spans. True where they were committed.
    async fn settle(
        &mut self,
        batch: &mut Batch,
        spans: &[Span],
        doubt: Doubt,
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
        let verdicts: Vec<Verdict> = spans.iter().zip(rows).map(|(span, row)| row.verdict(span)).collect();
        let all_done = doubt == Doubt::Commit && verdicts.iter().all(|verdict| *verdict == Verdict::Done);
        for (span, verdict) in spans.iter().zip(verdicts) {
            let Span { segment, source, from, to, .. } = span;
            let outcome = match verdict {
                Verdict::Again => continue,
                // Some moved and some not, which no transaction of ours leaves behind: someone's hand was in it. What follows
                // in this batch would start from a position that we didn't see committed, so the ledger is asked again.
                Verdict::Done if !all_done && !last => Outcome::Rewound,
                Verdict::Done => Outcome::Committed(*to),
                Verdict::Fenced => Outcome::Fenced,
                Verdict::Rewound => Outcome::Rewound,
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

    /// Sees to what the batch asks of the tables, for as long as Postgres is away.
    async fn prepare(&mut self, batch: &Batch) -> Result<(), Stopped> {
        loop {
            match self.store.prepare(batch).await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait_or_stop(error).await?,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped::Unplannable(why)),
            }
        }
    }

    /// Plans anew, for as long as the catalog can't be read.
    async fn replan(&mut self) -> Result<(), Stopped> {
        loop {
            match self.store.replan().await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait_or_stop(error).await?,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped::Unplannable(why)),
            }
        }
    }

    /// Waits where that can help and is wanted.
    ///
    /// # Errors
    /// [`Stopped::Refused`] where it can't help, [`Stopped::Outage`] where it isn't wanted.
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

    /// Waits for the end of an outage: drops the connection, reports why, sleeps.
    async fn wait(&mut self, error: &WriteError) {
        self.store.disconnect();
        let delay: Duration = self.backoff.next(self.random.f64());
        self.waits.set(true);
        self.listener.on(&Event::WriterWaits { error, attempt: self.backoff.attempts(), delay });
        sleep(delay).await;
        self.listener.on(&Event::Spent(Phase::Outage, delay));
    }
}

impl From<&Reject> for DeadLettered {
    fn from(reject: &Reject) -> Self {
        Self { record: reject.record, reason: reject.reason, column: reject.column.clone() }
    }
}
