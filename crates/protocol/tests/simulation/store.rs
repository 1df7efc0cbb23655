//! The writer's store for the fake Postgres. Every statement may be delayed, refused or lost. After a statement was executed,
//! its reply may be lost.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_protocol::batch::{Batch, RejectedRecord, Span};
use tidegate_protocol::position::Offset;
use tidegate_protocol::record::Record;
use tidegate_protocol::retry::{Severity, Stage};
use tidegate_protocol::store::{
    Cause, Ledger, LedgerRow, Planner, PostgresError, ReplanError, Transaction, WriteError,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::kafka::Kind;
use crate::postgres::{Move, Op, Progress, Reply, Row, error};
use crate::world::{Bug, Sim, Trouble};

const WRITE_DEADLINE: Duration = Duration::from_secs(4);
const LOCK_TIMEOUT: Duration = Duration::from_millis(1500);
/// If a statement has waited for a lock for this long, the backend that holds the lock is ended, provided that it is idle.
const BLOCKER_PATIENCE: Duration = Duration::from_millis(800);
const ROW_BYTES: usize = 18;

/// A connection, as the client sees it. When it is dropped, the server notices after some time.
#[derive(Debug)]
pub(crate) struct Connection {
    sim: Arc<Sim>,
    backend: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut world = self.sim.w();
        // Normally the server notices soon. If the cable is cut, it notices late.
        let slow = world.chance(10);
        let after = world.ms(if slow { 1000..6000 } else { 0..20 });
        world.server.client_gone(self.backend, Instant::now() + after);
    }
}

pub(crate) async fn connect(sim: &Arc<Sim>, daemon: u64) -> Result<Connection, WriteError> {
    let pause = sim.w().ms(0..4);
    sleep(pause).await;
    let opened = sim.w().server.connect(daemon);
    match opened {
        Ok(backend) => Ok(Connection { sim: Arc::clone(sim), backend }),
        Err(error) => Err(WriteError { stage: Stage::Connect, cause: Cause::Postgres(error) }),
    }
}

/// Sends one statement and returns its reply. The server executes it even if the client has disconnected.
pub(crate) async fn call(connection: &mut Option<Connection>, stage: Stage, op: Op) -> Result<Reply, WriteError> {
    let failed = |cause| Err(WriteError { stage, cause });
    let Some(live) = connection.take() else { return failed(Cause::Connection("no transaction".to_owned())) };
    let (tx, rx) = oneshot::channel();
    live.sim.w().server.busy(live.backend, true);
    #[expect(
        clippy::disallowed_methods,
        reason = "a server works on when its client is gone, and answers by the channel"
    )]
    tokio::spawn(serve(Arc::clone(&live.sim), live.backend, op, tx));
    match timeout(WRITE_DEADLINE, rx).await {
        Ok(Ok(Ok(reply))) => {
            *connection = Some(live);
            Ok(reply)
        }
        Ok(Ok(Err(error))) => {
            if error.severity == Severity::Error {
                *connection = Some(live);
            }
            failed(Cause::Postgres(error))
        }
        Ok(Err(_)) => failed(Cause::Connection("cut".to_owned())),
        Err(_) => failed(Cause::Deadline(WRITE_DEADLINE, None)),
    }
}

async fn serve(sim: Arc<Sim>, backend: u64, op: Op, answer: oneshot::Sender<Result<Reply, PostgresError>>) {
    let (trouble, there, back) = {
        let mut world = sim.w();
        let slow = world.chance(3);
        let there = world.ms(if slow { 50..900 } else { 0..4 });
        (world.draw_trouble(), there, world.ms(0..3))
    };
    sleep(there).await;
    match trouble {
        Trouble::CutBefore => return sim.w().server.end(backend),
        Trouble::SilentBefore => {
            sim.w().server.busy(backend, false);
            return sleep(2 * WRITE_DEADLINE).await;
        }
        _ => {}
    }
    let started = Instant::now();
    let mut progress = Progress::default();
    let outcome = loop {
        let pause = {
            let mut world = sim.w();
            if let std::task::Poll::Ready(outcome) = world.execute(backend, &op, &mut progress, trouble) {
                break outcome;
            }
            if started.elapsed() >= LOCK_TIMEOUT {
                world.server.fail(backend);
                break Err(error(Severity::Error, "55P03", None));
            }
            if started.elapsed() >= BLOCKER_PATIENCE
                && let Some(blocker) = progress.blocker
            {
                world.server.end_if_idle(blocker);
            }
            world.ms(5..60)
        };
        sleep(pause).await;
    };
    match trouble {
        Trouble::CutAfter => return sim.w().server.end(backend),
        Trouble::SilentAfter => {
            sim.w().server.busy(backend, false);
            return sleep(2 * WRITE_DEADLINE).await;
        }
        _ => {}
    }
    sim.w().server.busy(backend, false);
    sleep(back).await;
    // A client that has disconnected needs no reply.
    answer.send(outcome).ok();
}

#[derive(Debug)]
pub(crate) struct SimStore {
    sim: Arc<Sim>,
    daemon: u64,
    connection: Option<Connection>,
    plan: u64,
    /// The version of the daemon's newest plan, which the daemon's poll loop reads too.
    plans: Arc<AtomicU64>,
}

impl SimStore {
    pub(crate) fn new(sim: Arc<Sim>, daemon: u64, plans: Arc<AtomicU64>) -> Self {
        Self { sim, daemon, connection: None, plan: plans.load(Ordering::Relaxed), plans }
    }

    fn bug(&self) -> Option<Bug> {
        self.sim.w().bug
    }

    async fn open(&mut self) -> Result<(), WriteError> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.sim, self.daemon).await?);
        }
        Ok(())
    }

    async fn simple(&mut self, stage: Stage, op: Op) -> Result<(), WriteError> {
        call(&mut self.connection, stage, op).await.map(|_| ())
    }

    fn row_of(&self, record: &Record<'_>) -> Row {
        let mut rows = Vec::new();
        row_bytes(record, 0, self.plan, &mut rows);
        let partition = self
            .sim
            .w()
            .kafka
            .sources
            .iter()
            .position(|s| *s.topic == *record.topic && s.partition == record.partition);
        Row { partition: partition.expect("a partition of ours"), ..parse(&rows) }
    }
}

/// Encodes a record's rows with a plan. Each row contains the record's own bytes, so that a mix-up is visible.
pub(crate) fn encode(record: &Record<'_>, plan: u64, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
    let kind = Kind::of(record.value.expect("records have values")[0]);
    match kind {
        Kind::Skipped => return Ok(0),
        Kind::Undecodable => return Err(reject()),
        Kind::RefusedByOddPlans if plan % 2 == 1 => return Err(reject()),
        _ => {}
    }
    let count = if kind == Kind::Double { 2 } else { 1 };
    for nth in 0..count {
        row_bytes(record, nth, plan, rows);
    }
    Ok(u32::from(count))
}

fn reject() -> RejectedRecord {
    RejectedRecord { record: 0, reason: "undecodable", sqlstate: None, column: None, detail: "simulated".into() }
}

fn row_bytes(record: &Record<'_>, nth: u8, plan: u64, rows: &mut Vec<u8>) {
    rows.extend_from_slice(record.value.expect("records have values"));
    rows.push(nth);
    rows.extend_from_slice(&u32::try_from(plan).expect("few plans").to_le_bytes());
}

fn parse(bytes: &[u8]) -> Row {
    let number = |range: Range<usize>| u32::from_le_bytes(bytes[range].try_into().expect("four bytes"));
    Row {
        // The bytes don't contain the partition. The callers fill it in.
        partition: usize::MAX,
        kind: bytes[0],
        log: number(1..5) as usize,
        at: Offset::new(i64::from_le_bytes(bytes[5..13].try_into().expect("eight bytes"))),
        nth: bytes[13],
        plan: u64::from(number(14..18)),
    }
}

impl Transaction for SimStore {
    async fn begin(&mut self) -> Result<(), WriteError> {
        self.open().await?;
        self.simple(Stage::Begin, Op::Begin).await
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        let mut bytes: Vec<u8> = batch.copy_ranges(window.clone()).flatten().copied().collect();
        if self.bug() == Some(Bug::DroppedSegmentsAreCopied) {
            bytes.clear();
            for record in window {
                // A record that can't be encoded has no row.
                encode(&batch.record(record), self.plan, &mut bytes).ok();
            }
        }
        let rows: Vec<Row> = {
            let world = self.sim.w();
            let partition = |row: Row| Row { partition: world.partition_of_log(row.log), ..row };
            bytes.chunks(ROW_BYTES).map(|row| partition(parse(row))).collect()
        };
        match call(&mut self.connection, Stage::Copy, Op::Copy(rows)).await? {
            Reply::Copied(rows) => Ok(rows),
            other => panic!("{other:?}"),
        }
    }

    async fn savepoint(&mut self) -> Result<(), WriteError> {
        self.simple(Stage::Begin, Op::Savepoint).await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<(), WriteError> {
        self.simple(Stage::Begin, Op::RollbackToSavepoint).await
    }

    async fn check_at_once(&mut self) -> Result<(), WriteError> {
        self.simple(Stage::Begin, Op::CheckAtOnce).await
    }

    async fn dead_letter(&mut self, batch: &Batch, rejects: &[&RejectedRecord]) -> Result<(), WriteError> {
        let mut dead: Vec<Row> = rejects.iter().map(|reject| self.row_of(&batch.record(reject.record))).collect();
        if self.bug() == Some(Bug::GoodRecordSetAside) {
            dead[0] = self.row_of(&batch.record((rejects[0].record + 1) % batch.len()));
        }
        self.simple(Stage::DeadLetters, Op::DeadLetter(dead)).await
    }

    async fn advance(&mut self, spans: &[Span]) -> Result<Vec<bool>, WriteError> {
        let moves = {
            let world = self.sim.w();
            let too_far = world.bug == Some(Bug::LedgerMovesTooFar);
            let step = |span: &Span| {
                let partition = world.kafka.partition_of(&span.source);
                let to = if too_far { span.to.successor() } else { span.to };
                let log = usize::try_from(span.last.timestamp_ms.expect("set by us")).expect("a log's number");
                Move { partition, claim: span.claim.id, from: span.from, to, last: span.last, log }
            };
            spans.iter().map(step).collect()
        };
        match call(&mut self.connection, Stage::Ledger, Op::Advance(moves)).await? {
            Reply::Moved(moved) => Ok(moved),
            other => panic!("{other:?}"),
        }
    }

    async fn commit(&mut self) -> Result<(), WriteError> {
        let outcome = self.simple(Stage::Commit, Op::Commit).await;
        match outcome {
            Err(failure) if failure.outcome_unknown() && self.bug() == Some(Bug::UnknownCommitTakenAsFailed) => {
                let cause = Cause::Postgres(error(Severity::Error, "40001", None));
                Err(WriteError { stage: Stage::Commit, cause })
            }
            outcome => outcome,
        }
    }

    async fn rollback(&mut self) {
        if self.connection.is_some() && self.simple(Stage::Begin, Op::Rollback).await.is_err() {
            self.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }
}

impl Ledger for SimStore {
    async fn settle(&mut self, spans: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        self.open().await?;
        let partitions = {
            let world = self.sim.w();
            spans.iter().map(|span| world.kafka.partition_of(&span.source)).collect()
        };
        let rows = match call(&mut self.connection, Stage::Ledger, Op::Settle(partitions)).await? {
            Reply::Rows(rows) => rows,
            other => panic!("{other:?}"),
        };
        let lie = |span: &Span, next| LedgerRow::Found { claim: Some(span.claim.id), epoch: span.claim.epoch, next };
        Ok(match self.bug() {
            Some(Bug::SettleSaysDone) => spans.iter().map(|span| lie(span, span.to)).collect(),
            Some(Bug::SettleSaysAgain) => spans.iter().map(|span| lie(span, span.from)).collect(),
            _ => rows,
        })
    }
}

impl Planner for SimStore {
    async fn replan(&mut self) -> Result<(), ReplanError> {
        self.open().await.map_err(ReplanError::Write)?;
        self.plan = self.sim.w().server.catalog;
        self.plans.store(self.plan, Ordering::Relaxed);
        Ok(())
    }

    fn newest_plan(&mut self) -> u64 {
        self.plan = self.plans.load(Ordering::Relaxed);
        self.plan
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        encode(record, self.plan, rows)
    }
}
