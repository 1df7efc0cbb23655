//! A fake Postgres: the table, the dead letters and the ledger, with row locks, transactions that outlive their client, READ
//! COMMITTED, and earlier states that can be restored.

use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

use tidegate_protocol::batch::LastRecord;
use tidegate_protocol::position::{ClaimId, Offset};
use tidegate_protocol::retry::Severity;
use tidegate_protocol::store::{LedgerRow, PostgresError};
use tokio::time::Instant;

use crate::kafka::Kind;
use crate::world::Bug;

/// A daemon's backend that was idle for this long is ended when it gets a statement or blocks another backend, even if it has
/// no transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) partition: usize,
    pub(crate) log: usize,
    pub(crate) at: Offset,
    pub(crate) nth: u8,
    pub(crate) kind: u8,
    pub(crate) plan: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) next: Offset,
    pub(crate) claim: Option<ClaimId>,
    pub(crate) epoch: i64,
    pub(crate) last: Option<LastRecord>,
    /// The log to which `next` belongs, for the oracle. The daemons can't see it.
    pub(crate) log: usize,
}

/// The state that a failover or a restore replaces as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    pub(crate) ledger: Vec<Option<Cell>>,
    /// For each partition, the ledger row that a simulated operator has deleted and will put back.
    lost: Vec<Option<Cell>>,
    /// For each partition, whether the ledger has ever had a row for it. A row that is missing in spite of this is a lost row.
    known: Vec<bool>,
    pub(crate) rows: Vec<Vec<Row>>,
    pub(crate) dead: Vec<Vec<Row>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) partition: usize,
    pub(crate) claim: ClaimId,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
    pub(crate) last: LastRecord,
    pub(crate) log: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Begin,
    Copy(Vec<Row>),
    Savepoint,
    RollbackToSavepoint,
    CheckAtOnce,
    DeadLetter(Vec<Row>),
    Advance(Vec<Move>),
    Commit,
    Rollback,
    Settle(Vec<usize>),
    WithoutRow(Vec<usize>),
    /// Adds ledger rows for partitions that never had a row. Each entry is a partition, an offset and a log.
    Extend(Vec<(usize, Offset, usize)>),
    /// Adds ledger rows for partitions whose row is lost. The entries are like those of `Extend`.
    InsertRows(Vec<(usize, Offset, usize)>),
    Claim(Vec<(usize, ClaimId)>),
    StepOver {
        partition: usize,
        claim: ClaimId,
        renewed: ClaimId,
        from: Offset,
        to: Offset,
        log: usize,
    },
}

#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    Copied(u64),
    Moved(Vec<bool>),
    Rows(Vec<LedgerRow>),
    Claimed(Vec<(usize, Cell)>),
    Partitions(Vec<usize>),
    Stepped(Option<i64>),
}

#[derive(Debug, Default)]
pub(crate) struct Progress {
    candidates: Option<Vec<bool>>,
    at: usize,
    pub(crate) blocker: Option<u64>,
}

#[derive(Debug, Default)]
struct Transaction {
    rows: Vec<Row>,
    dead: Vec<Row>,
    moves: Vec<Move>,
    savepoint: (usize, usize),
    at_once: bool,
    failed: bool,
}

#[derive(Debug)]
struct Backend {
    transaction: Option<Transaction>,
    /// When the backend became idle; `None` while a statement runs.
    idle_since: Option<Instant>,
    client_gone_at: Option<Instant>,
    daemon: u64,
}

/// Why the server accepts no connections (`Down`) or no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    Down,
    ReadOnly,
    DiskFull,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) data: Data,
    pub(crate) past: Vec<Data>,
    pub(crate) outage: Option<Outage>,
    /// The catalog's version. Rows that were encoded by a plan of another version are refused.
    pub(crate) catalog: u64,
    backends: BTreeMap<u64, Backend>,
    locks: Vec<Option<u64>>,
    last_backend: u64,
    started: Instant,
}

pub(crate) fn error(severity: Severity, sqlstate: &str, row: Option<u32>) -> PostgresError {
    PostgresError { severity, row, ..PostgresError::new(sqlstate, format!("simulated {sqlstate}")) }
}

type Outcome = Result<Reply, PostgresError>;

impl Server {
    pub(crate) fn new(partitions: usize) -> Self {
        // If there are several partitions, the last one is new to the pipeline.
        let known: Vec<bool> = (0..partitions).map(|at| at == 0 || at + 1 < partitions).collect();
        let cell =
            |log: usize| known[log].then_some(Cell { next: Offset::ZERO, claim: None, epoch: 0, last: None, log });
        let none = || vec![Vec::new(); partitions];
        let data = Data {
            ledger: (0..partitions).map(cell).collect(),
            lost: vec![None; partitions],
            rows: none(),
            known: known.clone(),
            dead: none(),
        };
        Self {
            past: vec![data.clone()],
            data,
            outage: None,
            catalog: 1,
            backends: BTreeMap::new(),
            locks: vec![None; partitions],
            last_backend: 0,
            started: Instant::now(),
        }
    }

    pub(crate) fn connect(&mut self, daemon: u64) -> Result<u64, PostgresError> {
        if self.outage == Some(Outage::Down) {
            return Err(error(Severity::Fatal, "57P03", None));
        }
        self.last_backend += 1;
        let idle_since = Some(Instant::now());
        let backend = Backend { transaction: None, idle_since, client_gone_at: None, daemon };
        self.backends.insert(self.last_backend, backend);
        Ok(self.last_backend)
    }

    /// Notes that the client has disconnected. From the time `by` on, the server notices this, and ends the backend
    /// once it is idle.
    pub(crate) fn client_gone(&mut self, backend: u64, by: Instant) {
        if let Some(backend) = self.backends.get_mut(&backend) {
            backend.client_gone_at = Some(by);
        }
    }

    pub(crate) fn busy(&mut self, backend: u64, busy: bool) {
        if let Some(backend) = self.backends.get_mut(&backend) {
            backend.idle_since = (!busy).then(Instant::now);
        }
    }

    pub(crate) fn end(&mut self, backend: u64) {
        self.backends.remove(&backend);
        self.unlock(backend);
    }

    pub(crate) fn end_all(&mut self) {
        self.backends.clear();
        self.locks.fill(None);
    }

    pub(crate) fn backends(&self) -> Vec<u64> {
        self.backends.keys().copied().collect()
    }

    /// Ends the backend if it is idle and belongs to a daemon. Called for a backend that blocks another one.
    pub(crate) fn end_if_idle(&mut self, backend: u64) {
        if self.backends.get(&backend).is_some_and(|b| b.daemon != STRANGER && b.idle_since.is_some()) {
            self.end(backend);
        }
    }

    /// Replaces the database by the earlier state number `which`. The replaced state becomes an earlier state too, so that it
    /// can come back.
    pub(crate) fn become_past(&mut self, which: usize) {
        self.past.push(self.data.clone());
        self.data = self.past[which].clone();
        self.end_all();
    }

    pub(crate) fn know_all(&mut self) {
        for log in 0..self.data.ledger.len() {
            self.data.known[log] = true;
            self.insert(log, Offset::ZERO, log);
        }
        self.past = vec![self.data.clone()];
    }

    pub(crate) fn lose(&mut self, partition: usize) {
        if self.locks[partition].is_none()
            && let Some(cell) = self.data.ledger[partition].take()
        {
            self.data.lost[partition] = Some(cell);
        }
    }

    pub(crate) fn restore_lost(&mut self) {
        for (cell, lost) in self.data.ledger.iter_mut().zip(&mut self.data.lost) {
            if let (None, Some(lost)) = (&cell, lost.take()) {
                *cell = Some(lost);
            }
        }
    }

    /// Locks a ledger row in the transaction of a client that isn't a daemon. Returns the client's backend; `None` if the row is
    /// locked already, or if the server doesn't accept connections.
    pub(crate) fn lock_by_stranger(&mut self, partition: usize) -> Option<u64> {
        if !self.is_free(partition, 0, &mut Progress::default()) {
            return None;
        }
        let backend = self.connect(STRANGER).ok()?;
        self.busy(backend, true);
        self.locks[partition] = Some(backend);
        Some(backend)
    }

    /// Returns the ledger updates of a transaction that isn't committed yet; none if the transaction has failed.
    pub(crate) fn moves_of(&self, backend: u64) -> &[Move] {
        let transaction = self.backends.get(&backend).and_then(|b| b.transaction.as_ref()).filter(|t| !t.failed);
        transaction.map_or(&[], |t| &t.moves)
    }

    fn unlock(&mut self, backend: u64) {
        for lock in &mut self.locks {
            if *lock == Some(backend) {
                *lock = None;
            }
        }
    }

    fn is_free(&mut self, partition: usize, me: u64, progress: &mut Progress) -> bool {
        let Some(holder) = self.locks[partition].filter(|holder| *holder != me) else { return true };
        self.expire(holder);
        progress.blocker = self.locks[partition];
        self.locks[partition].is_none()
    }

    fn expire(&mut self, holder: u64) {
        let Some(backend) = self.backends.get(&holder) else { return };
        let Some(since) = backend.idle_since else { return };
        let now = Instant::now();
        if now - since >= IDLE_IN_TRANSACTION || backend.client_gone_at.is_some_and(|at| at <= now) {
            self.end(holder);
        }
    }

    pub(crate) fn fail(&mut self, backend: u64) {
        if let Some(transaction) = self.backends.get_mut(&backend).and_then(|b| b.transaction.as_mut()) {
            transaction.failed = true;
        }
    }

    /// Runs a statement. Returns `Pending` if it waits for a lock; the caller then calls this again with the same `progress`. If
    /// a COPY refuses a row, `hint` gets the row's number, and returns the number that the error names.
    pub(crate) fn run(
        &mut self,
        backend: u64,
        op: &Op,
        progress: &mut Progress,
        hint: impl FnOnce(u32) -> Option<u32>,
        bug: Option<Bug>,
    ) -> Poll<Outcome> {
        self.expire(backend);
        let Some(own) = self.backends.get_mut(&backend) else {
            return Poll::Ready(Err(error(Severity::Fatal, "57P01", None)));
        };
        let failed = own.transaction.as_ref().is_some_and(|t| t.failed);
        let ends = matches!(op, Op::Commit | Op::Rollback | Op::RollbackToSavepoint);
        if failed && !ends {
            return Poll::Ready(Err(error(Severity::Error, "25P02", None)));
        }
        let writes = matches!(
            op,
            Op::Copy(_)
                | Op::DeadLetter(_)
                | Op::Advance(_)
                | Op::Claim(_)
                | Op::StepOver { .. }
                | Op::Extend(_)
                | Op::InsertRows(_)
        );
        let outcome = match self.outage.filter(|_| writes) {
            Some(Outage::ReadOnly) => Err(error(Severity::Error, "25006", None)),
            Some(Outage::DiskFull) => Err(error(Severity::Error, "53100", None)),
            _ => match self.statement(backend, op, progress, hint, bug) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => outcome,
            },
        };
        if outcome.is_err() {
            self.fail(backend);
        }
        Poll::Ready(outcome)
    }

    fn statement(
        &mut self,
        backend: u64,
        op: &Op,
        progress: &mut Progress,
        hint: impl FnOnce(u32) -> Option<u32>,
        bug: Option<Bug>,
    ) -> Poll<Outcome> {
        let catalog = self.catalog;
        let transaction = self.backends.get_mut(&backend).and_then(|b| b.transaction.as_mut());
        let in_transaction = transaction.is_some();
        let mut none = Transaction::default();
        let own = transaction.unwrap_or(&mut none);
        Poll::Ready(Ok(match op {
            Op::Begin => {
                if let Some(backend) = self.backends.get_mut(&backend) {
                    backend.transaction = Some(Transaction::default());
                }
                Reply::Done
            }
            Op::Savepoint => {
                own.savepoint = (own.rows.len(), own.dead.len());
                Reply::Done
            }
            Op::RollbackToSavepoint => {
                own.rows.truncate(own.savepoint.0);
                own.dead.truncate(own.savepoint.1);
                own.failed = false;
                Reply::Done
            }
            Op::CheckAtOnce => {
                own.at_once = true;
                Reply::Done
            }
            Op::Copy(rows) => {
                assert!(in_transaction, "COPY outside of a transaction");
                if rows.iter().any(|row| row.plan != catalog) {
                    return Poll::Ready(Err(error(Severity::Error, "22P04", None)));
                }
                let at_once = own.at_once;
                let bad = |row: &Row| match Kind::of(row.kind) {
                    Kind::Refused => true,
                    Kind::RefusedAtCommit => at_once,
                    _ => false,
                };
                if let Some(first) = rows.iter().position(bad) {
                    let row = hint(u32::try_from(first).expect("few rows"));
                    if bug == Some(Bug::FailedCopyLeavesRows) {
                        own.rows.extend(&rows[..first]);
                        own.savepoint.0 = own.rows.len();
                    }
                    return Poll::Ready(Err(error(Severity::Error, "22003", row)));
                }
                own.rows.extend(rows);
                Reply::Copied(rows.len() as u64)
            }
            Op::DeadLetter(dead) => {
                if bug == Some(Bug::DeadLettersOutsideTransaction) {
                    for row in dead {
                        self.data.dead[row.partition].push(*row);
                    }
                } else {
                    own.dead.extend(dead);
                }
                Reply::Done
            }
            Op::Advance(moves) => return self.advance(backend, moves, progress, bug),
            Op::Commit => {
                let transaction = self.backends.get_mut(&backend).and_then(|b| b.transaction.take());
                self.unlock(backend);
                // COMMIT of a failed transaction rolls back, without an error.
                let Some(transaction) = transaction.filter(|t| !t.failed) else { return Poll::Ready(Ok(Reply::Done)) };
                let refused = transaction.rows.iter().find(|row| Kind::of(row.kind) == Kind::RefusedAtCommit);
                if let Some(row) = refused {
                    // A constraint (23503) or a deferred trigger (P0001) refuses the COMMIT. P0001 leaves the outcome
                    // unknown to the daemon. Two planted bugs misreport unknown outcomes, so that the daemon wouldn't
                    // search for the record. With these bugs, use only 23503.
                    let lies = matches!(bug, Some(Bug::SettleSaysDone | Bug::UnknownCommitTakenAsFailed));
                    let sqlstate = if lies || row.at.get() % 2 == 0 { "23503" } else { "P0001" };
                    return Poll::Ready(Err(error(Severity::Error, sqlstate, None)));
                }
                self.apply(transaction);
                Reply::Done
            }
            Op::Rollback => {
                if let Some(backend) = self.backends.get_mut(&backend) {
                    backend.transaction = None;
                }
                self.unlock(backend);
                Reply::Done
            }
            Op::Settle(partitions) => {
                if !partitions.iter().all(|p| self.is_free(*p, backend, progress)) {
                    return Poll::Pending;
                }
                let row = |p: &usize| match &self.data.ledger[*p] {
                    None => LedgerRow::Missing,
                    Some(cell) => LedgerRow::Found { claim: cell.claim, epoch: cell.epoch, next: cell.next },
                };
                Reply::Rows(partitions.iter().map(row).collect())
            }
            Op::WithoutRow(partitions) => {
                let missing = partitions.iter().filter(|p| self.data.ledger[**p].is_none());
                Reply::Partitions(missing.copied().collect())
            }
            Op::Extend(starts) => {
                let mut lost = Vec::new();
                for &(partition, next, log) in starts {
                    if self.data.ledger[partition].is_some() {
                        continue;
                    }
                    if std::mem::replace(&mut self.data.known[partition], true) {
                        lost.push(partition);
                    } else {
                        self.insert(partition, next, log);
                    }
                }
                Reply::Partitions(lost)
            }
            Op::InsertRows(places) => {
                for &(partition, next, log) in places {
                    if self.data.ledger[partition].is_none() {
                        self.insert(partition, next, log);
                    }
                }
                Reply::Done
            }
            Op::Claim(claims) => {
                let mut claimed = Vec::new();
                for (partition, claim) in claims {
                    // Leave out a locked row, as SKIP LOCKED does.
                    if !self.is_free(*partition, backend, &mut Progress::default()) {
                        continue;
                    }
                    let now_ms = self.started.elapsed().as_millis();
                    let Some(cell) = &mut self.data.ledger[*partition] else { continue };
                    if bug != Some(Bug::ClaimWritesNoId) || cell.claim.is_none() {
                        cell.claim = Some(*claim);
                    }
                    cell.epoch = (cell.epoch + 1).max(i64::try_from(now_ms).expect("a short run"));
                    claimed.push((*partition, cell.clone()));
                }
                Reply::Claimed(claimed)
            }
            Op::StepOver { partition, claim, renewed, from, to, log } => {
                if !self.is_free(*partition, backend, progress) {
                    return Poll::Pending;
                }
                let fits = |cell: &&mut Cell| cell.claim == Some(*claim) && cell.next == *from;
                let now_ms = self.started.elapsed().as_millis();
                let cell = self.data.ledger[*partition].as_mut().filter(fits);
                Reply::Stepped(cell.map(|cell| {
                    (cell.next, cell.last, cell.log) = (*to, None, *log);
                    cell.claim = Some(*renewed);
                    cell.epoch = (cell.epoch + 1).max(i64::try_from(now_ms).expect("a short run"));
                    cell.epoch
                }))
            }
        }))
    }

    fn insert(&mut self, partition: usize, next: Offset, log: usize) {
        self.data.ledger[partition] = Some(Cell { next, claim: None, epoch: 0, last: None, log });
    }

    /// Locks and advances the rows whose claim and offset match their spans. As under READ COMMITTED, it first finds
    /// the matching rows, then reads each of them again when its lock is granted.
    fn advance(&mut self, backend: u64, moves: &[Move], progress: &mut Progress, bug: Option<Bug>) -> Poll<Outcome> {
        let fits = |data: &Data, span: &Move| {
            data.ledger[span.partition].as_ref().is_some_and(|cell| {
                (cell.claim == Some(span.claim) || bug == Some(Bug::AdvanceIgnoresClaim))
                    && (cell.next == span.from || bug == Some(Bug::AdvanceIgnoresFrom))
            })
        };
        if progress.candidates.is_none() {
            progress.candidates = Some(moves.iter().map(|span| fits(&self.data, span)).collect());
        }
        while progress.at < moves.len() {
            let span = &moves[progress.at];
            let candidate = progress.candidates.as_ref().is_some_and(|c| c[progress.at]);
            if candidate && bug != Some(Bug::AdvanceTakesNoLock) {
                if !self.is_free(span.partition, backend, progress) {
                    return Poll::Pending;
                }
                let again = bug == Some(Bug::AdvanceDoesNotLookAgain) || fits(&self.data, span);
                if again {
                    self.locks[span.partition] = Some(backend);
                }
                progress.candidates.as_mut().expect("set above")[progress.at] = again;
            }
            progress.at += 1;
        }
        let mut moved = progress.candidates.take().expect("set above");
        let own =
            self.backends.get_mut(&backend).and_then(|b| b.transaction.as_mut()).expect("ADVANCE in a transaction");
        own.moves.extend(moves.iter().zip(&moved).filter(|(_, moved)| **moved).map(|(span, _)| span.clone()));
        if bug == Some(Bug::LedgerOutsideTransaction) {
            let moves = std::mem::take(&mut own.moves);
            self.apply(Transaction { moves, ..Transaction::default() });
        }
        if bug == Some(Bug::AdvanceSaysAllMoved) {
            moved.fill(true);
        }
        Poll::Ready(Ok(Reply::Moved(moved)))
    }

    fn apply(&mut self, transaction: Transaction) {
        self.past.push(self.data.clone());
        for row in transaction.rows {
            self.data.rows[row.partition].push(row);
        }
        for row in transaction.dead {
            self.data.dead[row.partition].push(row);
        }
        for Move { partition, to, last, log, .. } in transaction.moves {
            if let Some(cell) = &mut self.data.ledger[partition] {
                (cell.next, cell.last, cell.log) = (to, Some(last), log);
            }
        }
    }
}

/// The daemon number of a client that isn't one of the daemons.
pub(crate) const STRANGER: u64 = 0;
