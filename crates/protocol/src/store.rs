//! The seam between the ledger protocol and the database. The one trait with two implementations: [`crate::postgres`] is the
//! real one, the simulation's has faults to order.
//!
//! A store holds one connection at most, and one transaction at a time. After any error but a plain one inside a savepoint the
//! caller calls [`Store::disconnect`] or [`Store::rollback`]; what a lost connection left behind is the ledger's to say.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use crate::batch::{Batch, Reject, Span};
use crate::position::{ClaimId, Offset};
use crate::record::Record;
use crate::retry::{Disposition, Severity, Stage, classify};

/// What the writer asks of a database. None of the futures is cancel safe: a dropped one leaves replies unread, so the caller
/// disconnects before it asks for anything else.
pub trait Store: Send {
    /// Sees to what the batch asks of the tables before it can be written: columns for fields that appeared. Where there is
    /// something to do, a plan of another version is there afterwards, and the batch is to be encoded again. Outside of any
    /// transaction.
    fn prepare(&mut self, batch: &Batch) -> impl Future<Output = Result<(), ReplanError>> + Send {
        // By default a batch asks for nothing.
        let _asked = batch;
        async { Ok(()) }
    }
    /// Opens a connection if there is none, and `BEGIN ISOLATION LEVEL READ COMMITTED`.
    fn begin(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Puts the rows of a window's live segments into the table; how many.
    fn copy(&mut self, batch: &Batch, window: Range<u32>) -> impl Future<Output = Result<u64, WriteError>> + Send;
    /// `SAVEPOINT`
    fn savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// `ROLLBACK TO SAVEPOINT`, which also mends a transaction that a record's fault has failed.
    fn rollback_to_savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// `SET CONSTRAINTS ALL IMMEDIATE`, so that a deferred constraint speaks when its record is copied.
    fn check_at_once(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Writes dead letters.
    fn set_aside(&mut self, batch: &Batch, rejects: &[&Reject]) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Locks the spans' ledger rows in their order and moves those that stand at `claim` and `from`; which it moved.
    fn advance(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<bool>, WriteError>> + Send;
    /// `COMMIT`
    fn commit(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// `ROLLBACK`; where that fails, drops the connection.
    fn rollback(&mut self) -> impl Future<Output = ()> + Send;
    /// Drops the connection without a word.
    fn disconnect(&mut self);
    /// Reads the spans' ledger rows, waiting for whoever holds their locks: a transaction of ours whose outcome is unknown, and
    /// whose connection is dropped, has ended by then, one way or the other.
    fn settle(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<LedgerRow>, WriteError>> + Send;
    /// Reads the catalog again and plans anew.
    fn replan(&mut self) -> impl Future<Output = Result<(), ReplanError>> + Send;
    /// Takes the newest plan that any writer of the pipeline has made, by which [`Store::encode`] encodes from now on; its version.
    fn newest_plan(&mut self) -> u64;
    /// Makes a record's rows.
    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Reject>;
}

/// What the ledger says of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerRow {
    /// There is no row.
    Missing,
    /// The claim and the position.
    Found {
        /// Who may move it.
        claim: Option<ClaimId>,
        /// That claim's number. Claims only count up.
        epoch: i64,
        /// Where it stands.
        next: Offset,
    },
}

/// What the ledger's word means for a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ours and at `to`: it was committed.
    Done,
    /// Ours and at `from`: send it again.
    Again,
    /// Ours and elsewhere, or no row: the database went back, or someone set it.
    Rewound,
    /// Not ours: the number of the claim that holds it.
    Superseded {
        /// Below our own claim's, it is nobody to wait for: the database went back.
        epoch: i64,
    },
}

impl LedgerRow {
    /// Holds the row against a span.
    pub fn verdict(self, span: &Span) -> Verdict {
        match self {
            Self::Missing => Verdict::Rewound,
            Self::Found { claim, epoch, .. } if claim != Some(span.claim) => Verdict::Superseded { epoch },
            Self::Found { next, .. } if next == span.to => Verdict::Done,
            Self::Found { next, .. } if next == span.from => Verdict::Again,
            Self::Found { .. } => Verdict::Rewound,
        }
    }
}

/// A write that failed.
#[derive(Debug)]
pub struct WriteError {
    /// Where.
    pub stage: Stage,
    /// Why.
    pub cause: Cause,
}

/// Why a write failed.
#[derive(Debug)]
pub enum Cause {
    /// The connection broke, or spoke what we don't understand.
    Connection(String),
    /// No answer within a deadline of ours.
    Deadline(Duration),
    /// The server said so.
    Postgres(PostgresError),
    /// No partition of the table takes a row, and the store makes the missing ones when it plans anew.
    NoPartition(Box<PostgresError>),
}

/// An error as the server sent it.
#[derive(Clone, Debug)]
pub struct PostgresError {
    /// Its severity.
    pub severity: Severity,
    /// Its SQLSTATE.
    pub sqlstate: String,
    /// Its message, and its detail where it has one.
    pub message: String,
    /// The row of the COPY that it points to, from 0.
    pub row: Option<u32>,
    /// The column it names.
    pub column: Option<String>,
    /// What else there is to know: who holds a lock.
    pub note: Option<String>,
}

impl WriteError {
    /// What it means for the flow.
    pub fn disposition(&self) -> Disposition {
        match &self.cause {
            Cause::Connection(_) | Cause::Deadline(_) => Disposition::Outage,
            Cause::NoPartition(_) => Disposition::Plan,
            Cause::Postgres(error) => classify(self.stage, error.severity, &error.sqlstate),
        }
    }

    /// Whether the transaction may have been committed all the same: COMMIT was sent, and the answer isn't one that only a
    /// transaction that was rolled back can give.
    pub fn outcome_unknown(&self) -> bool {
        self.stage == Stage::Commit
            && !matches!(&self.cause, Cause::Postgres(error)
                if error.severity == Severity::Error && matches!(error.sqlstate.get(..2), Some("23" | "40")))
    }

    /// The server's error, if it is one.
    pub fn postgres(&self) -> Option<&PostgresError> {
        match &self.cause {
            Cause::Postgres(error) => Some(error),
            Cause::NoPartition(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the work itself took too long, so that less of it at a time may get through.
    pub fn timed_out(&self) -> bool {
        match &self.cause {
            Cause::Deadline(_) => true,
            Cause::Postgres(error) => error.sqlstate == "57014",
            Cause::Connection(_) | Cause::NoPartition(_) => false,
        }
    }

    /// The label of `retries_total`.
    pub fn sqlstate_class(&self) -> String {
        match &self.cause {
            Cause::Connection(_) => "connection".to_owned(),
            Cause::Deadline(_) => "deadline".to_owned(),
            Cause::NoPartition(_) => "partition".to_owned(),
            Cause::Postgres(error) => error.sqlstate.get(..2).unwrap_or("unknown").to_owned(),
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Connect => "connect",
            Stage::Begin => "begin",
            Stage::Copy => "copy",
            Stage::DeadLetters => "dead letters",
            Stage::Ledger => "ledger",
            Stage::Commit => "commit",
        };
        match &self.cause {
            Cause::Connection(why) => write!(f, "Postgres connection lost at {stage}: {why}"),
            Cause::Deadline(limit) => write!(f, "Postgres gave no answer at {stage} within {limit:?}"),
            Cause::NoPartition(error) => write!(f, "Postgres {} {} (at {stage})", error.sqlstate, error.message),
            Cause::Postgres(error) => {
                write!(f, "Postgres {} {} (at {stage})", error.sqlstate, error.message)?;
                error.note.iter().try_for_each(|note| write!(f, "; {note}"))
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// A new plan could not be made.
#[derive(Debug)]
pub enum ReplanError {
    /// The catalog couldn't be read.
    Write(WriteError),
    /// The table is gone, is another one, or the mapping no longer fits it: what, and what to do.
    Unplannable(String),
}
