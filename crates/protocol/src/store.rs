//! The seam between the writer and the database, split by concern: [`Transaction`], [`Ledger`], [`Planner`].
//!
//! A store holds at most one connection and one transaction at a time. After any error but one of a record inside a savepoint
//! the caller calls [`Transaction::disconnect`] or [`Transaction::rollback`]; the ledger tells what a lost connection left
//! behind.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use crate::batch::{Batch, Reject, Span};
use crate::position::{Claim, ClaimId, Offset};
use crate::record::Record;
use crate::retry::{Disposition, Severity, Stage, classify, classify_at_start};

/// One transaction after the other on one connection, with everything that a batch puts into it.
///
/// None of the futures is cancel safe: a dropped one leaves replies unread, so the caller disconnects before it asks for
/// anything else.
pub trait Transaction: Send {
    /// Opens a connection if there is none, and `BEGIN ISOLATION LEVEL READ COMMITTED`.
    fn begin(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Copies the rows of a window's live segments into the table and returns their number.
    fn copy(&mut self, batch: &Batch, window: Range<u32>) -> impl Future<Output = Result<u64, WriteError>> + Send;
    /// `SAVEPOINT`
    fn savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// `ROLLBACK TO SAVEPOINT`, which also mends a transaction that a record's fault has failed.
    fn rollback_to_savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Finds out whether Postgres takes rows at all, whatever is in them: it copies none, and has Postgres make the defaults that it
    /// gives to rows. Runs under a savepoint, which the caller rolls back.
    ///
    /// # Errors
    /// What keeps every row out: [`Stage::Defaults`] for a default that can't be made, [`Stage::Begin`] for the table itself.
    fn probe(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send {
        async { Ok(()) }
    }
    /// `SET CONSTRAINTS ALL IMMEDIATE`, so that a deferred constraint is checked when its record is copied.
    fn check_at_once(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Writes dead letters.
    fn dead_letter(
        &mut self,
        batch: &Batch,
        rejects: &[&Reject],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Locks the spans' ledger rows in their order, advances those that are at `claim` and `from`, and returns which it advanced.
    fn advance(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<bool>, WriteError>> + Send;
    /// `COMMIT`
    fn commit(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// `ROLLBACK`; where that fails, drops the connection.
    fn rollback(&mut self) -> impl Future<Output = ()> + Send;
    /// Drops the connection without a word to the server.
    fn disconnect(&mut self);
}

/// Reads the ledger after a write whose outcome isn't known.
pub trait Ledger: Send {
    /// Reads the spans' ledger rows, waiting for whoever holds their locks: a transaction of ours whose outcome is unknown, and
    /// whose connection is dropped, has ended by then, one way or the other. Not cancel safe, as [`Transaction`].
    fn settle(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<LedgerRow>, WriteError>> + Send;
}

/// Makes rows by a plan, and new plans when the catalog changes.
pub trait Planner: Send {
    /// Applies the changes of the tables that the batch needs (columns for fields that appeared), outside of any transaction.
    /// If it changed something, the newest plan has another version, and the batch must be encoded again.
    fn prepare(&mut self, batch: &Batch) -> impl Future<Output = Result<(), ReplanError>> + Send {
        // By default a batch needs nothing.
        let _needs_nothing = batch;
        async { Ok(()) }
    }
    /// Reads the catalog again and makes a new plan.
    fn replan(&mut self) -> impl Future<Output = Result<(), ReplanError>> + Send;
    /// Switches [`Planner::encode`] to the newest plan that any writer of the pipeline has made, and returns its version.
    fn newest_plan(&mut self) -> u64;
    /// Appends a record's rows and returns their number.
    ///
    /// # Errors
    /// Why the record can't become rows: it will be a dead letter.
    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Reject>;
}

/// The database, as a writer uses it.
pub trait Store: Transaction + Ledger + Planner {}

impl<S: Transaction + Ledger + Planner> Store for S {}

/// The ledger row of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerRow {
    /// There is no row.
    Missing,
    /// The claim and the position.
    Found {
        /// The claim that may advance it.
        claim: Option<ClaimId>,
        /// That claim's number. Claims only count up.
        epoch: i64,
        /// Where it stands.
        next: Offset,
    },
}

/// The state of a span according to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ours and at `to`: it was committed.
    Done,
    /// Ours and at `from`: send it again.
    Again,
    /// The database was restored to before our claim or to another position of it, or someone set the position.
    Rewound,
    /// A later claim than ours holds the partition.
    Fenced,
}

/// The holder of a ledger row, compared with a claim of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Our claim, with the ledger at this offset.
    Us(Offset),
    /// A later claim.
    Fenced,
    /// An older claim, or no row: the database was restored to before our claim. Nobody is to be waited for.
    Rewound,
}

impl LedgerRow {
    /// Compares the row with a claim of ours. This is the one place that judges an older claim.
    pub fn holder(self, ours: Claim) -> Holder {
        match self {
            Self::Found { claim, next, .. } if claim == Some(ours.id) => Holder::Us(next),
            Self::Found { epoch, .. } if epoch >= ours.epoch => Holder::Fenced,
            Self::Found { .. } | Self::Missing => Holder::Rewound,
        }
    }

    /// Compares the row with a span whose transaction may or may not have been committed.
    pub fn verdict(self, span: &Span) -> Verdict {
        match self.holder(span.claim) {
            Holder::Us(next) if next == span.to => Verdict::Done,
            Holder::Us(next) if next == span.from => Verdict::Again,
            Holder::Us(_) | Holder::Rewound => Verdict::Rewound,
            Holder::Fenced => Verdict::Fenced,
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
    /// No answer within a deadline of ours; with what else there is to know.
    Deadline(Duration, Option<String>),
    /// The server said so.
    Postgres(PostgresError),
    /// No partition of the table takes a row, and the store makes the missing ones when it plans anew.
    NoPartition(Box<PostgresError>),
    /// Someone else changed what the transaction is about, which no wait mends: what, and what to do.
    Conflict(String),
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
    /// Whether a policy of row-level security, or the check option of a view, refused a row. Its SQLSTATE, 42501, is also that of a
    /// missing right.
    pub policy: bool,
    /// Further details, such as the holder of a lock.
    pub note: Option<String>,
}

impl WriteError {
    /// The meaning for the flow.
    pub fn disposition(&self) -> Disposition {
        match &self.cause {
            Cause::Connection(_) | Cause::Deadline(..) => Disposition::Outage,
            Cause::NoPartition(_) => Disposition::Plan,
            Cause::Conflict(_) => Disposition::Stop,
            Cause::Postgres(error) if error.policy && matches!(self.stage, Stage::Copy | Stage::Commit) => {
                Disposition::Record
            }
            Cause::Postgres(error) => classify(self.stage, error.severity, &error.sqlstate),
        }
    }

    /// What it means where nothing has worked yet: at the start of a pipeline, and for a command.
    pub fn disposition_at_start(&self) -> Disposition {
        match &self.cause {
            Cause::Postgres(error) => classify_at_start(self.stage, error.severity, &error.sqlstate),
            _ => self.disposition(),
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
            Cause::Deadline(..) => true,
            Cause::Postgres(error) => error.sqlstate == "57014",
            Cause::Connection(_) | Cause::NoPartition(_) | Cause::Conflict(_) => false,
        }
    }

    /// Says that this one record alone takes too long, and what can be done.
    pub fn blame(&mut self, record: &Record<'_>) {
        let Record { topic, partition, offset, .. } = record;
        let about = format!(
            "the record at offset {offset} of {topic}/{partition} takes longer than that all by itself: raise \
             `postgres.statement_timeout`, or look for the trigger or lock that holds it up"
        );
        match &mut self.cause {
            Cause::Deadline(_, note) => *note = Some(about),
            Cause::Postgres(error) => {
                error.note = Some(error.note.take().map_or(about.clone(), |note| format!("{note}; {about}")));
            }
            Cause::Connection(_) | Cause::NoPartition(_) | Cause::Conflict(_) => {}
        }
    }

    /// The label of `retries_total`.
    pub fn sqlstate_class(&self) -> String {
        match &self.cause {
            Cause::Connection(_) => "connection".to_owned(),
            Cause::Deadline(..) => "deadline".to_owned(),
            Cause::NoPartition(_) => "partition".to_owned(),
            Cause::Conflict(_) => "conflict".to_owned(),
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
            Stage::Defaults => "defaults of the table",
            Stage::DeadLetters => "dead letters",
            Stage::Ledger => "ledger",
            Stage::Commit => "commit",
        };
        match &self.cause {
            Cause::Connection(why) => write!(f, "Postgres connection lost at {stage}: {why}"),
            Cause::Deadline(limit, note) => {
                write!(f, "Postgres gave no answer at {stage} within {limit:?}")?;
                note.iter().try_for_each(|note| write!(f, "; {note}"))
            }
            Cause::Conflict(what) => f.write_str(what),
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
