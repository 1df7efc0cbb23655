//! The interface between the writer and the database, by concern: [`Transaction`], [`Ledger`], [`Planner`].
//!
//! A store writes batches on one connection, in one transaction at a time. After an error, the caller calls
//! [`Transaction::disconnect`] or [`Transaction::rollback`]. If a record was refused under a savepoint,
//! [`Transaction::rollback_to_savepoint`] is enough. If the connection is lost during a COMMIT, the ledger says whether
//! the transaction was committed.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use crate::batch::{Batch, RejectedRecord, Span};
use crate::position::{Claim, ClaimId, Offset};
use crate::record::Record;
use crate::retry::{Disposition, Severity, Stage, classify, classify_at_start};

/// Runs transactions, one after another on one connection, and writes windows of batches in them.
///
/// No method is cancel safe: a dropped future leaves replies unread, so the caller must disconnect before the next
/// call.
pub trait Transaction: Send {
    /// Opens a connection if there is none, and executes `BEGIN ISOLATION LEVEL READ COMMITTED`.
    fn begin(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Copies the rows of a window into the table, except those of segments that were dropped from the batch. Returns the number
    /// of rows in the window; in the write mode `insert_new`, the number of rows that were inserted.
    fn copy(&mut self, batch: &Batch, window: Range<u32>) -> impl Future<Output = Result<u64, WriteError>> + Send;
    fn savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Executes `ROLLBACK TO SAVEPOINT`, which also makes a transaction usable again after a refused record.
    fn rollback_to_savepoint(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Checks whether Postgres accepts rows at all: executes a COPY without rows, and evaluates the defaults that rows would get.
    /// Runs under a savepoint, which the caller rolls back.
    ///
    /// # Errors
    /// If every row would fail: at [`Stage::Defaults`] because of a default, at [`Stage::Begin`] because of the table itself.
    fn probe(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send {
        async { Ok(()) }
    }
    /// Executes `SET CONSTRAINTS ALL IMMEDIATE`, so that a deferred constraint is checked when its record is copied.
    fn check_at_once(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    fn dead_letter(
        &mut self,
        batch: &Batch,
        rejects: &[&RejectedRecord],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Advances each span's ledger row from `from` to `to`, in order. Leaves out rows that have another claim or another offset.
    /// The advanced rows stay locked until the transaction ends. Returns for each span whether its row was advanced.
    fn advance(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<bool>, WriteError>> + Send;
    fn commit(&mut self) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Executes `ROLLBACK`; drops the connection if that fails.
    fn rollback(&mut self) -> impl Future<Output = ()> + Send;
    /// Drops the connection. The server gets no message about this, so it may notice late.
    fn disconnect(&mut self);
}

/// Reads the ledger after a write, to find the outcome of each span.
pub trait Ledger: Send {
    /// Reads the spans' ledger rows, which show the outcome of the transaction that wrote the spans. First waits until nobody has
    /// a lock on these rows, because this transaction may still be running on a connection that we dropped. Returns one row per
    /// span, in the same order. Not cancel safe, like [`Transaction`].
    fn settle(&mut self, spans: &[Span]) -> impl Future<Output = Result<Vec<LedgerRow>, WriteError>> + Send;
}

/// Encodes rows with a plan, and makes a new plan when the catalog changes. A plan says how a record becomes a
/// row of the table; it is made from the configuration and the catalog.
pub trait Planner: Send {
    /// Changes tables as the batch needs, outside of its transactions: adds columns for new fields, and creates tables that
    /// records name. If this changes the plan, the newest plan has another version, and the batch must be encoded again.
    fn prepare(&mut self, batch: &Batch) -> impl Future<Output = Result<(), ReplanError>> + Send {
        let _needs_nothing = batch;
        async { Ok(()) }
    }
    /// Reads the catalog again and makes a new plan.
    fn replan(&mut self) -> impl Future<Output = Result<(), ReplanError>> + Send;
    /// Makes [`Planner::encode`] use the newest plan that any writer of the pipeline has made. Returns the plan's version.
    fn newest_plan(&mut self) -> u64;
    /// Appends a record's rows. Returns their number.
    ///
    /// # Errors
    /// If the record can't become rows with this plan.
    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord>;
}

/// The database, as a writer uses it.
pub trait Store: Transaction + Ledger + Planner {}

impl<S: Transaction + Ledger + Planner> Store for S {}

/// The ledger row of one partition: which claim may advance it, and the offset of the next record to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerRow {
    Missing,
    Found {
        /// `None` if the partition wasn't claimed since the row was created.
        claim: Option<ClaimId>,
        /// The number of the last claim; 0 if the partition was never claimed.
        epoch: i64,
        next: Offset,
    },
}

/// The outcome of a span, which [`LedgerRow::outcome_of`] finds by comparing the partition's ledger row with the
/// span. `Fenced` means that the row has a later claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanOutcome {
    /// The row has the span's claim and is at `to`: the span was committed.
    Done,
    /// The row has the span's claim and is at `from`: the span must be written again.
    Again,
    /// The row is missing, has an older claim, or has the span's claim and another offset: the database was
    /// restored, or somebody changed the row.
    Rewound,
    Fenced,
}

/// The holder of a ledger row, which [`LedgerRow::holder`] finds by comparing the row with the claim `ours`.
/// `Fenced` means that the row has another claim, whose number isn't lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The claim `ours` holds the row, which is at this offset.
    Us(Offset),
    Fenced,
    /// The row has an older claim or is missing: the database was restored to a state before the claim `ours`, or
    /// somebody deleted or recreated the row.
    Rewound,
}

impl LedgerRow {
    /// Finds who holds the row. No other function compares the numbers (`epoch`) of claims.
    pub fn holder(self, ours: Claim) -> Holder {
        match self {
            Self::Found { claim, next, .. } if claim == Some(ours.id) => Holder::Us(next),
            Self::Found { epoch, .. } if epoch >= ours.epoch => Holder::Fenced,
            Self::Found { .. } | Self::Missing => Holder::Rewound,
        }
    }

    /// Returns the outcome of a span whose transaction has ended, committed or rolled back.
    pub fn outcome_of(self, span: &Span) -> SpanOutcome {
        match self.holder(span.claim) {
            Holder::Us(next) if next == span.to => SpanOutcome::Done,
            Holder::Us(next) if next == span.from => SpanOutcome::Again,
            Holder::Us(_) | Holder::Rewound => SpanOutcome::Rewound,
            Holder::Fenced => SpanOutcome::Fenced,
        }
    }
}

/// A failed request to Postgres. [`Self::disposition`] says how to react to it.
#[derive(Debug)]
pub struct WriteError {
    pub stage: Stage,
    pub cause: Cause,
}

/// Why a request to Postgres failed.
#[derive(Debug)]
pub enum Cause {
    /// The connection could not be opened, or it broke, or the server's reply could not be parsed.
    Connection(String),
    /// No server was contacted, because the address or the password isn't available: a file, a program or the URL is at
    /// fault. The text says which one.
    NotContacted(String),
    /// No reply came within this time, which is one of our own timeouts. The text adds further information, if there is
    /// any.
    Deadline(Duration, Option<String>),
    Postgres(PostgresError),
    /// The table has no partition for a row. The store creates missing partitions when it makes a new plan.
    NoPartition(Box<PostgresError>),
    /// Another client changed something that the transaction needs, and waiting doesn't resolve it. The text says what was
    /// changed and what to do.
    Conflict(String),
}

/// An error from the server.
#[derive(Clone, Debug)]
pub struct PostgresError {
    pub severity: Severity,
    pub sqlstate: String,
    /// The message, followed by the detail if there is one.
    pub message: String,
    /// The row of the COPY that the error names, counted from 0.
    pub row: Option<u32>,
    pub column: Option<String>,
    /// Whether a policy of row-level security, or the check option of a view, refused a row. The SQLSTATE 42501 alone doesn't
    /// show this, because it also means that a right is missing.
    pub policy: bool,
    /// Further details, such as which session holds a lock.
    pub note: Option<String>,
}

impl PostgresError {
    /// Makes an error with [`Severity::Error`]: a statement failed, and the session continues. The error names
    /// no row and no column.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
            row: None,
            column: None,
            policy: false,
            note: None,
        }
    }
}

impl WriteError {
    /// Returns how the writer must react to the error.
    pub fn disposition(&self) -> Disposition {
        match &self.cause {
            Cause::Connection(_) | Cause::NotContacted(_) | Cause::Deadline(..) => Disposition::Outage,
            Cause::NoPartition(_) => Disposition::Plan,
            Cause::Conflict(_) => Disposition::Stop,
            Cause::Postgres(error) if error.policy && matches!(self.stage, Stage::Copy | Stage::Commit) => {
                Disposition::Record
            }
            Cause::Postgres(error) => classify(self.stage, error.severity, &error.sqlstate),
        }
    }

    /// Returns how to react to the error if nothing has worked yet, as at the start of a pipeline or of a command.
    pub fn disposition_at_start(&self) -> Disposition {
        match &self.cause {
            Cause::Postgres(error) => classify_at_start(self.stage, error.severity, &error.sqlstate),
            _ => self.disposition(),
        }
    }

    /// Returns whether the transaction may have been committed: COMMIT was sent, and no reply proves a rollback.
    pub fn outcome_unknown(&self) -> bool {
        self.stage == Stage::Commit
            && !matches!(&self.cause, Cause::Postgres(error)
                if error.severity == Severity::Error && matches!(error.sqlstate.get(..2), Some("23" | "40")))
    }

    /// Returns whether the server refused a statement, and the session continues.
    pub fn is_refusal(&self) -> bool {
        matches!(&self.cause, Cause::Postgres(error) if error.severity == Severity::Error)
    }

    /// Returns the error that the server reported; `None` if the server reported none.
    pub fn postgres(&self) -> Option<&PostgresError> {
        match &self.cause {
            Cause::Postgres(error) => Some(error),
            Cause::NoPartition(error) => Some(error),
            _ => None,
        }
    }

    /// Returns whether the statement took too long, so that a smaller window may succeed. Returns false for the connection
    /// attempt and `BEGIN`, which don't depend on the batch's size.
    pub fn timed_out(&self) -> bool {
        match &self.cause {
            _ if matches!(self.stage, Stage::Connect | Stage::Begin) => false,
            Cause::Deadline(..) => true,
            Cause::Postgres(error) => error.sqlstate == "57014",
            Cause::Connection(_) | Cause::NotContacted(_) | Cause::NoPartition(_) | Cause::Conflict(_) => false,
        }
    }

    /// Adds to the error's text that this one record takes too long, and what the operator can do.
    pub fn add_slow_record(&mut self, record: &Record<'_>) {
        let Record { topic, partition, offset, .. } = record;
        let about = format!(
            "the record at offset {offset} of {topic}/{partition} alone takes longer than that: raise \
             `postgres.statement_timeout`, or look for the trigger or lock that delays it"
        );
        match &mut self.cause {
            Cause::Deadline(_, note) => *note = Some(about),
            Cause::Postgres(error) => {
                error.note = Some(error.note.take().map_or(about.clone(), |note| format!("{note}; {about}")));
            }
            Cause::Connection(_) | Cause::NotContacted(_) | Cause::NoPartition(_) | Cause::Conflict(_) => {}
        }
    }

    /// Returns the label value for `retries_total`.
    pub fn sqlstate_class(&self) -> String {
        match &self.cause {
            Cause::Connection(_) | Cause::NotContacted(_) => "connection".to_owned(),
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
            Cause::Connection(why) if self.stage == Stage::Connect => write!(f, "Postgres can't be reached: {why}"),
            Cause::Connection(why) => write!(f, "Postgres connection lost at {stage}: {why}"),
            Cause::Deadline(limit, note) => {
                write!(f, "Postgres gave no answer at {stage} within {limit:?}")?;
                note.iter().try_for_each(|note| write!(f, "; {note}"))
            }
            Cause::NotContacted(what) | Cause::Conflict(what) => f.write_str(what),
            Cause::NoPartition(error) => write!(f, "Postgres {} {} (at {stage})", error.sqlstate, error.message),
            Cause::Postgres(error) => {
                write!(f, "Postgres {} {} (at {stage})", error.sqlstate, error.message)?;
                error.note.iter().try_for_each(|note| write!(f, "; {note}"))
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// Why a new plan could not be made.
#[derive(Debug)]
pub enum ReplanError {
    /// The catalog couldn't be read, or the table couldn't be changed.
    Write(WriteError),
    /// The table is missing, was replaced by another one, no longer matches the mapping, or can't be changed in the way that
    /// records require. The text says which, and what to do.
    Unplannable(String),
}

#[cfg(test)]
mod tests;
