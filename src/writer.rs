//! Batch → Store → Ack: the ledger protocol of one consumer's writes. Knows no Kafka and no SQL.
//!
//! One batch at a time, and of it one *window* of records a transaction: the whole batch as a rule, less of it after timeouts
//! or where a search for bad records used up its attempts. A transaction is copy, dead letters, ledger, COMMIT. Whatever
//! happens to it, the ledger's row says what became of it: [`tidegate_protocol::store::LedgerRow::verdict`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tidegate_protocol::batch::{Batch, Reject, Span};
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::poison_search::{Search, Step};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::retry::{Backoff, Disposition, Stage};
use tidegate_protocol::session::{Ack, Fate};
use tidegate_protocol::store::{PostgresError, ReplanError, Store, Verdict, WriteError};
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::metrics::{WriterMetrics, epoch_ms};
use crate::status::ConsumerStatus;
use crate::status::work::{BatchNote, DeadLetter, Phase};

/// COPYs that one transaction may spend on the search for bad records; what is left of the batch goes into a next one.
pub const SEARCH_ATTEMPTS_MAX: u32 = 1000;

/// Times that the same window may time out before half of it is tried.
const TIMEOUTS_BEFORE_HALVING: u32 = 2;

/// A pipeline that can't go on without a person, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped(pub String);

/// Writes one consumer's batches.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    budget: DeadLetterBudget,
    backoff: Backoff,
    metrics: WriterMetrics,
    status: Arc<ConsumerStatus>,
    /// Rows that a transaction may hold at the moment; halved by timeouts, doubled by success.
    window_max: u32,
    /// What the transaction at hand holds, for the books once it is committed.
    books: Books,
}

/// What a transaction holds.
#[derive(Debug, Default)]
struct Books {
    rows: u64,
    dead: Vec<&'static str>,
    /// Where each of these came from.
    places: Vec<DeadLetter>,
}

/// What one transaction came to.
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
    /// A writer with its own store.
    pub fn new(store: S, budget: DeadLetterBudget, metrics: WriterMetrics, status: Arc<ConsumerStatus>) -> Self {
        Self { store, budget, backoff: Backoff::new(), metrics, status, window_max: u32::MAX, books: Books::default() }
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
            let fates = self.write(&mut batch).await?;
            let segments = batch.segments().iter().zip(fates);
            let fates = segments.filter_map(|(segment, fate)| Some((segment.source.clone(), segment.claim, fate?)));
            let fates = fates.collect();
            if acks.send(M::from(Ack { fates, batch })).is_err() {
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
    pub async fn write(&mut self, batch: &mut Batch) -> Result<Vec<Option<Fate>>, Stopped> {
        let started = Instant::now();
        let mut fates = vec![None; batch.segments().len()];
        let mut at = 0;
        while at < batch.len() {
            at = self.write_window(batch, at, &mut fates).await?;
        }
        self.status.flowing();
        let took = started.elapsed();
        self.metrics.batch(batch, took);
        let note = BatchNote { rows: u64::from(batch.row_count()), bytes: batch.row_bytes() as u64, took };
        self.status.work.batch(batch.trigger(), note);
        Ok(fates)
    }

    /// Writes the records from `start`, as many as one transaction takes; where the next one starts.
    async fn write_window(
        &mut self,
        batch: &mut Batch,
        start: u32,
        fates: &mut [Option<Fate>],
    ) -> Result<u32, Stopped> {
        let mut hint = None;
        let mut replanned_for: Option<String> = None;
        let mut timeouts = 0;
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
            match self.attempt(batch, window.clone(), hint).await {
                Ok(Attempt::Committed { until }) => {
                    for span in batch.spans(start..until) {
                        fates[span.segment] = Some(Fate::Committed(span.to));
                    }
                    self.committed(batch, start..until);
                    return Ok(until);
                }
                Ok(Attempt::Refused(spans)) => {
                    self.settle(batch, &spans, Doubt::Refusal, end == batch.len(), fates).await;
                }
                Err(Failure::DeadLetterBudget(why)) => {
                    self.store.rollback().await;
                    // A late write of a superseded claim meets the rows of the new owner, and a unique index refuses them
                    // all: that is no fault of the records. Only who still owns all that it writes stops for the budget.
                    let (spans, records) = (batch.spans(window.clone()), batch.records_in(window.clone()));
                    self.settle(batch, &spans, Doubt::Refusal, end == batch.len(), fates).await;
                    if batch.records_in(window) == records {
                        return Err(Stopped(why));
                    }
                    hint = None;
                }
                Err(Failure::Write { error, until }) if error.outcome_unknown() => {
                    warn!(error = %error, "the outcome of a COMMIT is unknown, the ledger will tell");
                    self.metrics.commit_unknown();
                    self.store.disconnect();
                    let spans = batch.spans(start..until);
                    if self.settle(batch, &spans, Doubt::Commit, until == batch.len(), fates).await {
                        self.committed(batch, start..until);
                        return Ok(until);
                    }
                }
                Err(Failure::Write { error, .. }) => match error.disposition() {
                    // A search catches these where they come; one that comes all the same names no record.
                    Disposition::Record if hint.is_some() => {
                        self.store.disconnect();
                        return Err(Stopped(format!("{error}, and no record of the batch is refused alone")));
                    }
                    Disposition::Record => {
                        self.store.rollback().await;
                        hint = Some(error.postgres().and_then(|error| error.row));
                    }
                    Disposition::Plan => {
                        // What else a connection has prepared may be as old as the plan.
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
                            return Err(Stopped(format!("{error}, also after the catalog was read again")));
                        }
                        warn!(error = %error, "the catalog changed: planning and encoding again");
                        replanned_for = Some(what);
                        self.replan().await?;
                    }
                    Disposition::Outage => {
                        timeouts += u32::from(error.timed_out());
                        if timeouts >= TIMEOUTS_BEFORE_HALVING && end - start > 1 {
                            timeouts = 0;
                            self.window_max = ((end - start) / 2).max(1);
                            warn!(records = self.window_max, "the same batch timed out again: half of it at a time");
                        }
                        self.wait(&error).await;
                    }
                    Disposition::Stop => {
                        self.store.disconnect();
                        return Err(Stopped(error.to_string()));
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
    ) -> Result<Attempt, Failure> {
        let whole = window.end;
        let failed = |error| Failure::Write { error, until: whole };
        self.store.begin().await.map_err(failed)?;
        let copying = Instant::now();
        let (until, refused) = match hint {
            None => {
                self.books.rows = self.store.copy(batch, window.clone()).await.map_err(failed)?;
                (window.end, Vec::new())
            }
            Some(row) => self.search(batch, window.clone(), row).await?,
        };
        self.status.work.spent(Phase::Copy, copying.elapsed());
        let failed = |error| Failure::Write { error, until };
        let window = window.start..until;
        let mut rejects: Vec<&Reject> = batch.rejects(window.clone()).chain(&refused).collect();
        rejects.sort_by_key(|reject| reject.record);
        if !rejects.is_empty() {
            self.ask_budget(batch, &window, rejects.len())?;
            self.store.set_aside(batch, &rejects).await.map_err(failed)?;
        }
        let committing = Instant::now();
        let spans = batch.spans(window.clone());
        let moved = self.store.advance(&spans).await.map_err(failed)?;
        let missing: Vec<Span> =
            spans.into_iter().zip(moved).filter(|(_, moved)| !moved).map(|(span, _)| span).collect();
        if !missing.is_empty() {
            self.store.rollback().await;
            return Ok(Attempt::Refused(missing));
        }
        self.books.dead = rejects.iter().map(|reject| reject.reason).collect();
        self.books.places = rejects.iter().map(|reject| place_of(batch, reject)).collect();
        self.store.commit().await.map_err(failed)?;
        self.status.work.spent(Phase::Commit, committing.elapsed());
        Ok(Attempt::Committed { until })
    }

    /// Copies the window piece by piece, so that the records that Postgres refuses end up alone.
    async fn search(
        &mut self,
        batch: &Batch,
        window: Range<u32>,
        row: Option<u32>,
    ) -> Result<(u32, Vec<Reject>), Failure> {
        let failed = |error| Failure::Write { error, until: window.end };
        let relative = |window: &Range<u32>, row: u32, start: u32| {
            batch.record_of_row(window.clone(), row).map(|record| record - start)
        };
        self.store.check_at_once().await.map_err(failed)?;
        let hint = row.and_then(|row| relative(&window, row, window.start));
        let mut search = Search::new(window.end - window.start, hint, SEARCH_ATTEMPTS_MAX);
        let mut refused: Vec<Reject> = Vec::new();
        self.books.rows = 0;
        loop {
            let range = match search.step() {
                Step::Copy(range) => window.start + range.start..window.start + range.end,
                Step::Done { settled } => {
                    debug!(copies = search.attempts(), bad = refused.len(), "found the records that Postgres refuses");
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
                    self.books.rows += rows;
                    search.copied();
                }
                Err(error) if error.disposition() == Disposition::Record => {
                    self.store.rollback_to_savepoint().await.map_err(failed)?;
                    let alone = range.len() == 1;
                    let row = error.postgres().and_then(|error| error.row);
                    search.failed(row.and_then(|row| relative(&range, row, window.start)));
                    if alone {
                        refused.extend(error.postgres().map(|error| reject_of(range.start, error)));
                        self.ask_budget(batch, &window, refused.len())?;
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn ask_budget(&mut self, batch: &Batch, window: &Range<u32>, dead: usize) -> Result<(), Failure> {
        let records = u64::from(batch.records_in(window.clone()));
        match self.budget.refuses(records, dead as u64, Instant::now()) {
            Some(why) => Err(Failure::DeadLetterBudget(why)),
            None => Ok(()),
        }
    }

    fn committed(&mut self, batch: &Batch, window: Range<u32>) {
        self.backoff.reset();
        self.window_max = self.window_max.saturating_mul(2);
        let Books { rows, dead, places } = std::mem::take(&mut self.books);
        self.budget.count(u64::from(batch.records_in(window.clone())), dead.len() as u64, Instant::now());
        self.metrics.committed(batch, window, rows, &dead);
        self.status.committed(rows, dead.len() as u64);
        for (reason, place) in dead.into_iter().zip(places) {
            self.status.work.dead(reason, place);
        }
    }

    /// Asks the ledger what became of these spans, for as long as it takes, and notes it. `last` says that the batch ends with
    /// these spans. True where they were committed.
    async fn settle(
        &mut self,
        batch: &mut Batch,
        spans: &[Span],
        doubt: Doubt,
        last: bool,
        fates: &mut [Option<Fate>],
    ) -> bool {
        let rows = loop {
            match self.store.settle(spans).await {
                Ok(rows) => break rows,
                Err(error) => self.wait(&error).await,
            }
        };
        let verdicts: Vec<Verdict> = spans.iter().zip(rows).map(|(span, row)| row.verdict(span)).collect();
        let all_done = doubt == Doubt::Commit && verdicts.iter().all(|verdict| *verdict == Verdict::Done);
        for (span, verdict) in spans.iter().zip(verdicts) {
            let Span { segment, source, from, to, .. } = span;
            let fate = match verdict {
                Verdict::Again => continue,
                // Some moved and some not, which no transaction of ours leaves behind: someone's hand was in it. What follows
                // in this batch would start from a position that we didn't see committed, so the ledger is asked again.
                Verdict::Done if !all_done && !last => Fate::Rewound,
                Verdict::Done => Fate::Committed(*to),
                Verdict::Superseded { epoch } => Fate::Superseded { epoch },
                Verdict::Rewound => Fate::Rewound,
            };
            match fate {
                Fate::Committed(_) => {}
                Fate::Superseded { .. } => {
                    self.metrics.fenced();
                    self.status.work.note("fenced", format!("{source} at {from}: another claim holds it"));
                    info!(%source, %from, "superseded: another claim holds the partition, its batch is dropped");
                }
                Fate::Rewound => {
                    self.metrics.rewound();
                    self.status
                        .work
                        .note("rewind", format!("{source} at {from}: the ledger stands elsewhere, refilling"));
                    warn!(%source, %from, "the ledger stands elsewhere: the database went back; claiming again and refilling from Kafka");
                }
            }
            fates[*segment] = Some(fate);
            if !all_done {
                batch.drop_segment(*segment);
            }
        }
        all_done
    }

    /// Sees to what the batch asks of the tables, for as long as Postgres is away.
    async fn prepare(&mut self, batch: &Batch) -> Result<(), Stopped> {
        loop {
            match self.store.prepare(batch).await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait(&error).await,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped(why)),
            }
        }
    }

    /// Plans anew, for as long as the catalog can't be read.
    async fn replan(&mut self) -> Result<(), Stopped> {
        loop {
            match self.store.replan().await {
                Ok(()) => return Ok(()),
                Err(ReplanError::Write(error)) => self.wait(&error).await,
                Err(ReplanError::Unplannable(why)) => return Err(Stopped(why)),
            }
        }
    }

    /// Sits out an outage: drops the connection, says what is the matter, waits.
    async fn wait(&mut self, error: &WriteError) {
        self.store.disconnect();
        let delay: Duration = self.backoff.next(fastrand::f64());
        let attempt = self.backoff.attempts();
        self.metrics.retried(error);
        self.status.waiting(&error.to_string(), attempt, delay);
        if attempt.is_power_of_two() || attempt.is_multiple_of(64) {
            warn!(error = %error, retry = attempt, ?delay, "waiting for Postgres: nothing is lost, Kafka keeps the records");
        }
        sleep(delay).await;
        self.status.work.spent(Phase::Outage, delay);
    }
}

/// Where a dead letter came from.
fn place_of(batch: &Batch, reject: &Reject) -> DeadLetter {
    let record = batch.record(reject.record);
    let source = TopicPartition::new(record.topic, record.partition);
    DeadLetter { source, offset: Offset::new(record.offset), column: reject.column.clone(), at_ms: epoch_ms() }
}

/// A record that Postgres refused when it was copied alone.
fn reject_of(record: u32, error: &PostgresError) -> Reject {
    Reject {
        record,
        reason: "refused_by_postgres",
        sqlstate: Some(error.sqlstate.as_str().into()),
        column: error.column.as_deref().map(Into::into),
        detail: error.message.as_str().into(),
    }
}
