//! The store on Postgres: one connection, and one transaction per window of a batch. Normally the window is the whole batch.
//!
//! Each step takes the connection out of the store, and runs under the write deadline. A step puts the connection back
//! only if the connection's state is known: after success, or after an ERROR from the server. After a dropped future, a
//! deadline, a broken connection or a protocol error, the store has no connection any more, and the ledger shows
//! whether the transaction was committed.

pub mod blockers;
pub mod catalog;
pub mod claim_ledger;
pub mod claims;
pub mod connect;
pub mod dead_letter_cleanup;
pub(crate) mod dead_letters;
pub mod error;
pub(crate) mod evolve;
mod ledger;
mod needed;
pub mod partitions;
mod pooler;
mod preview;
pub mod register;
pub mod remedy;
pub mod resume;
pub(crate) mod routes;
pub mod schema;
mod window;

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connect::{Connector, within};
use sqlx::postgres::PgRow;
use sqlx::{Connection, Executor, PgConnection};
use tidegate_protocol::batch::{Batch, RejectedRecord, Span};
use tidegate_protocol::poll_loop::RecordEncoder as _;
use tidegate_protocol::record::Record;
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::{Cause, Ledger, LedgerRow, Planner, ReplanError, Transaction, WriteError};
use tidegate_rows::catalog::TableName;
use tidegate_rows::mapping::evolve::NewFields;
use tidegate_rows::value::Reason;
use tidegate_rows::write_mode::partitions::Bounds;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use window::Stages;

use crate::config::Pipeline;
use crate::metrics::WriterMetrics;
use crate::plan::{PlanSource, Planned, PlannedEncoder};
use crate::repeats::Repeats;

/// The longest time to find and create the tables that a batch names. `statement_timeout` also limits each statement.
const ROUTING_DEADLINE: Duration = Duration::from_secs(60);

pub type Statement<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// The store of one writer, which copies the rows of its batches into the pipeline's table and advances the ledger.
#[derive(Debug)]
pub struct PgStore {
    pipeline: Arc<str>,
    connector: Connector,
    rows: PlannedEncoder,
    /// The connection. `None` if no connection is open, or while a step uses the connection.
    live: Option<Live>,
    metrics: WriterMetrics,
    /// The time that the open transaction has spent in copying and merging rows, for the metrics.
    copy_time: Duration,
    /// The number of deletes in the open transaction whose key was neither in the table nor in the rows that were merged with
    /// them.
    unmatched: u64,
    /// The partitions that the rows of the current window need, and that possibly don't exist.
    missing: Vec<Bounds>,
    /// The indexes of the window's rows that the last COPY contained; empty if it sent the whole window as it is.
    placed: Vec<u32>,
    /// The partitions whose creation was tried since the last commit, with or without success. If a row needs one of them and
    /// still finds no partition, the row itself is at fault. For a table with a DEFAULT partition, the set is never cleared, so
    /// that no partition is requested again.
    tried: BTreeSet<Bounds>,
    /// Limits how often the same refusal to create a partition is logged.
    refusals: Repeats,
}

#[derive(Debug)]
struct Live {
    connection: PgConnection,
    pid: i32,
    stages: Stages,
}

impl Live {
    fn new((connection, pid): (PgConnection, i32)) -> Self {
        Self { connection, pid, stages: Stages::default() }
    }
}

impl PgStore {
    /// Makes a store that connects at its first use.
    pub fn new(pipeline: Arc<str>, connector: Connector, plans: Arc<PlanSource>, metrics: WriterMetrics) -> Self {
        Self {
            pipeline,
            connector,
            rows: PlannedEncoder::new(plans),
            live: None,
            metrics,
            copy_time: Duration::ZERO,
            unmatched: 0,
            missing: Vec::new(),
            placed: Vec::new(),
            tried: BTreeSet::new(),
            refusals: Repeats::every(partitions::WARN_EVERY),
        }
    }

    /// Takes the connection out of the store, or opens a new one.
    async fn open(&mut self) -> Result<Live, WriteError> {
        match self.live.take() {
            Some(live) => Ok(live),
            None => self.connector.open().await.map(Live::new),
        }
    }

    fn take(&mut self, stage: Stage) -> Result<Live, WriteError> {
        let cause = || Cause::Connection("there is no open transaction".to_owned());
        self.live.take().ok_or_else(|| WriteError { stage, cause: cause() })
    }

    /// Converts the error of a step to a [`WriteError`]. Puts the connection back into the store if the connection's state is
    /// known. `note` replaces the note of an error that Postgres returned.
    fn keep<T>(
        &mut self,
        stage: Stage,
        live: Live,
        result: Result<Result<T, sqlx::Error>, Elapsed>,
        note: Option<String>,
    ) -> Result<T, WriteError> {
        let error = match result {
            Ok(Ok(value)) => {
                self.live = Some(live);
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(WriteError { stage, cause: Cause::Deadline(self.connector.write_deadline(), None) }),
        };
        let mut cause = error::cause(error);
        if let Cause::Postgres(error) = &mut cause {
            error.note = note.or_else(|| error.note.take());
            if error.severity == tidegate_protocol::retry::Severity::Error {
                self.live = Some(live);
            }
        }
        Err(WriteError { stage, cause })
    }

    /// Creates the plan's staging table, if the plan needs one and the connection doesn't have it yet. `begin` calls this before
    /// the transaction begins, so that no rollback removes the table. Waits for a session that locks the target; the error of a
    /// timeout names the session. If records name their table, does nothing: each staging table is created at its first row.
    async fn stage(&mut self) -> Result<(), WriteError> {
        let planned = Arc::clone(&self.rows.planned);
        let mut live = self.take(Stage::Begin)?;
        live.stages.begin(planned.version);
        let Some(merge) = planned.table.merge.as_ref().filter(|_| !live.stages.has(0)) else {
            self.live = Some(live);
            return Ok(());
        };
        let pid = live.pid;
        let creating = window::create(&mut live.connection, &planned.table, merge);
        let work = timeout(self.connector.write_deadline(), creating);
        let (result, note) = blockers::watch(&self.connector, pid, work).await;
        let defaults = self.keep(Stage::Begin, live, result, note)?;
        if let Some(live) = &mut self.live {
            live.stages.created_permanently(0, defaults);
        }
        Ok(())
    }

    /// Runs one statement of the caller in the open transaction, under the same deadline and rules as all other steps. Returns
    /// the rows that the statement returns.
    ///
    /// # Errors
    /// The error of the statement.
    pub async fn rows(&mut self, stage: Stage, query: Statement<'_>) -> Result<Vec<PgRow>, WriteError> {
        let mut live = self.take(stage)?;
        let result = timeout(self.connector.write_deadline(), query.fetch_all(&mut live.connection)).await;
        self.keep(stage, live, result, None)
    }

    /// Returns whether the database's encoding has every character of Unicode. Runs in the open transaction.
    ///
    /// # Errors
    /// The error of the statement.
    pub async fn takes_all_characters(&mut self) -> Result<bool, WriteError> {
        let mut live = self.take(Stage::DeadLetters)?;
        let work = dead_letters::takes_all_characters(&mut live.connection);
        let result = timeout(self.connector.write_deadline(), work).await;
        self.keep(Stage::DeadLetters, live, result, None)
    }

    /// Begins a transaction, runs `sql` in it, and then creates the staging table. `sql` has one statement or several, which
    /// create the target table. A rollback also removes the staging table, but the store still counts it as existing. So the
    /// caller must disconnect after the rollback.
    ///
    /// # Errors
    /// The error of the statement that failed.
    pub async fn begin_with(&mut self, sql: &str) -> Result<(), WriteError> {
        self.live = Some(Live::new(self.connector.open().await?));
        self.simple(Stage::Begin, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let mut live = self.take(Stage::Begin)?;
        let result = timeout(self.connector.write_deadline(), live.connection.execute(sql)).await;
        self.keep(Stage::Begin, live, result, None)?;
        self.stage().await
    }

    /// Finds or creates the tables that records of this batch name and that the plan lacks.
    async fn route(&mut self, batch: &Batch) -> Result<(), ReplanError> {
        let mut wanted: Vec<TableName> = Vec::new();
        let mut seen = HashSet::new();
        for reject in batch.rejected_records(0..batch.len()).filter(|reject| reject.reason == Reason::NoTable.code()) {
            let tables = self.rows.encoder.unknown_tables(&batch.record(reject.record));
            wanted.extend(tables.into_iter().filter(|table| seen.insert(table.clone())));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let (mut connection, _) = self.connector.open().await.map_err(ReplanError::Write)?;
        let planned = planned_within(ROUTING_DEADLINE, self.rows.plans.route(&mut connection, &wanted)).await?;
        if planned.version != self.rows.planned.version {
            self.rows.switch_to(planned);
        }
        drop(connection.close().await);
        Ok(())
    }

    /// Forgets the staging tables that a rollback removes.
    fn forget_new_stages(&mut self) {
        if let Some(live) = &mut self.live {
            live.stages.rolled_back();
        }
    }

    /// Fails if a column to which the open transaction copied rows has another type than the plan says.
    async fn check_types(&mut self) -> Result<(), WriteError> {
        let planned = Arc::clone(&self.rows.planned);
        let mut live = self.take(Stage::Copy)?;
        let result = timeout(self.connector.write_deadline(), window::retyped(&mut live, &planned)).await;
        match self.keep(Stage::Copy, live, result, None)? {
            Some(column) => Err(WriteError { stage: Stage::Copy, cause: Cause::Postgres(error::retyped(&column)) }),
            None => Ok(()),
        }
    }

    async fn simple(&mut self, stage: Stage, sql: &'static str) -> Result<(), WriteError> {
        let mut live = self.take(stage)?;
        let result = timeout(self.connector.write_deadline(), live.connection.execute(sql)).await;
        self.keep(stage, live, result, None).map(|_| ())
    }
}

async fn planned_within(
    limit: Duration,
    planning: impl Future<Output = Result<Arc<Planned>, ReplanError>>,
) -> Result<Arc<Planned>, ReplanError> {
    let late = |_| Err(ReplanError::Write(WriteError { stage: Stage::Begin, cause: Cause::Deadline(limit, None) }));
    timeout(limit, planning).await.unwrap_or_else(late)
}

fn no_columns(config: &Pipeline, error: &WriteError) -> String {
    format!(
        "pipelines.{}.table.evolve: can't add columns to `{}`: {error}; make the role its owner, or leave evolve out",
        config.name, config.table.name
    )
}

impl Transaction for PgStore {
    async fn begin(&mut self) -> Result<(), WriteError> {
        (self.copy_time, self.unmatched) = (Duration::ZERO, 0);
        let live = self.open().await?;
        self.live = Some(live);
        self.stage().await?;
        self.simple(Stage::Begin, "BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        if self.foresees(batch, window.clone()) {
            return Err(WriteError {
                stage: Stage::Copy,
                cause: Cause::NoPartition(Box::new(error::only_the_default())),
            });
        }
        let started = Instant::now();
        let mut live = self.take(Stage::Copy)?;
        let pid = live.pid;
        let planned = Arc::clone(&self.rows.planned);
        let mut placed = std::mem::take(&mut self.placed);
        placed.clear();
        let plans = Arc::clone(&self.rows.plans);
        let spec = plans.config().rows();
        let copying = window::copy(&mut live, &planned, &spec, batch, window.clone(), &mut placed);
        let work = timeout(self.connector.write_deadline(), copying);
        let (result, note) = blockers::watch(&self.connector, pid, work).await;
        self.copy_time += started.elapsed();
        let no_partition = matches!(&result, Ok(Err(error)) if error::is_no_partition(error));
        let mut kept = self.keep(Stage::Copy, live, result, note);
        if let (Err(WriteError { cause: Cause::Postgres(error), .. }), false) = (&mut kept, placed.is_empty()) {
            // Postgres counts only the rows of its COPY. Convert the number to the row's number in the window.
            error.row = error.row.and_then(|row| placed.get(row as usize).copied());
        }
        self.placed = placed;
        match kept {
            Err(WriteError { stage, cause: Cause::Postgres(error) }) if no_partition && self.misses(batch, window) => {
                Err(WriteError { stage, cause: Cause::NoPartition(Box::new(error)) })
            }
            kept => {
                let copied = kept?;
                self.check_types().await?;
                self.unmatched += copied.unmatched;
                Ok(copied.rows)
            }
        }
    }

    async fn savepoint(&mut self) -> Result<(), WriteError> {
        self.simple(Stage::Begin, "SAVEPOINT tidegate").await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<(), WriteError> {
        self.forget_new_stages();
        self.simple(Stage::Begin, "ROLLBACK TO SAVEPOINT tidegate").await
    }

    async fn check_at_once(&mut self) -> Result<(), WriteError> {
        self.simple(Stage::Begin, "SET CONSTRAINTS ALL IMMEDIATE").await
    }

    async fn probe(&mut self) -> Result<(), WriteError> {
        let planned = Arc::clone(&self.rows.planned);
        let mut live = self.take(Stage::Begin)?;
        let result = timeout(self.connector.write_deadline(), window::copy_nothing(&mut live, &planned)).await;
        self.keep(Stage::Begin, live, result, None)?;
        self.check_types().await?;
        let mut live = self.take(Stage::Defaults)?;
        let result = timeout(self.connector.write_deadline(), window::make_defaults(&mut live, &planned)).await;
        self.keep(Stage::Defaults, live, result, None)
    }

    async fn dead_letter(&mut self, batch: &Batch, rejects: &[&RejectedRecord]) -> Result<(), WriteError> {
        let mut live = self.take(Stage::DeadLetters)?;
        let work = dead_letters::insert(&mut live.connection, &self.pipeline, batch, rejects);
        let result = timeout(self.connector.write_deadline(), work).await;
        self.keep(Stage::DeadLetters, live, result, None)
    }

    async fn advance(&mut self, spans: &[Span]) -> Result<Vec<bool>, WriteError> {
        let mut live = self.take(Stage::Ledger)?;
        let pid = live.pid;
        let work =
            timeout(self.connector.write_deadline(), ledger::advance(&mut live.connection, &self.pipeline, spans));
        let (result, note) = blockers::watch(&self.connector, pid, work).await;
        self.keep(Stage::Ledger, live, result, note)
    }

    async fn commit(&mut self) -> Result<(), WriteError> {
        let started = Instant::now();
        let result = self.simple(Stage::Commit, "COMMIT").await;
        self.metrics.spent(self.copy_time, started.elapsed());
        if result.is_ok() {
            self.metrics.unmatched(self.unmatched);
        }
        if result.is_ok() && !self.has_default_partition() {
            self.tried.clear();
        }
        result
    }

    async fn rollback(&mut self) {
        self.forget_new_stages();
        if self.live.is_some() {
            // If ROLLBACK fails, the connection is dropped, which rolls back too.
            self.simple(Stage::Begin, "ROLLBACK").await.unwrap_or_else(|_| self.disconnect());
        }
    }

    fn disconnect(&mut self) {
        self.live = None;
    }
}

impl Ledger for PgStore {
    async fn settle(&mut self, spans: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        let mut live = self.open().await?;
        let pid = live.pid;
        let work =
            timeout(self.connector.write_deadline(), ledger::settle(&mut live.connection, &self.pipeline, spans));
        let (result, note) = blockers::watch(&self.connector, pid, work).await;
        self.keep(Stage::Ledger, live, result, note)
    }
}

impl Planner for PgStore {
    async fn prepare(&mut self, batch: &Batch) -> Result<(), ReplanError> {
        if self.rows.plans.config().table.route.is_some() {
            return self.route(batch).await;
        }
        let is_new = |reject: &&RejectedRecord| reject.reason == Reason::NewField.code();
        if !self.rows.plans.config().table.evolve {
            return Ok(());
        }
        let mut fields = NewFields::default();
        for reject in batch.rejected_records(0..batch.len()).filter(is_new) {
            self.rows.encoder.new_fields(&batch.record(reject.record), &mut fields);
        }
        if fields.0.is_empty() {
            return Ok(());
        }
        let (mut connection, _) = self.connector.open().await.map_err(ReplanError::Write)?;
        let table = &self.rows.plans.config().table.name;
        let work = evolve::add_columns(&mut connection, &self.pipeline, table, &fields);
        match within(self.connector.write_deadline(), Stage::Begin, work).await {
            Ok(()) => {}
            Err(error) if error.disposition() == Disposition::Outage => return Err(ReplanError::Write(error)),
            Err(error) => return Err(ReplanError::Unplannable(no_columns(self.rows.plans.config(), &error))),
        }
        self.rows.switch_to(self.rows.plans.evolved(&mut connection, &fields).await?);
        // Closing the connection releases the session's lock.
        drop(connection.close().await);
        Ok(())
    }

    async fn replan(&mut self) -> Result<(), ReplanError> {
        self.make_partitions().await?;
        let mut live = self.open().await.map_err(ReplanError::Write)?;
        let planning = self.rows.plans.replan(&mut live.connection);
        let planned = planned_within(self.connector.write_deadline(), planning).await?;
        self.live = Some(live);
        self.rows.switch_to(planned);
        Ok(())
    }

    fn newest_plan(&mut self) -> u64 {
        self.rows.renew();
        self.rows.version()
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        self.rows.encode(record, rows)
    }
}
