//! The events that the protocol reports, as one enum. Logs, metrics, the status page and the timeline are made from them.

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::partition::LossCondition;
use crate::position::{Offset, TopicPartition};
use crate::session::Session;
use crate::store::WriteError;

/// Receives every event of one consumer, or of one pipeline's claims.
///
/// Events are reported per transaction, per turn of a loop or more rarely, never per record. An implementation must not block.
pub trait Listener: Send + Sync {
    fn on(&self, event: &Event<'_>);
}

/// The system that delays claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsWaitOn {
    /// Postgres doesn't answer, or refuses a statement.
    Postgres,
    /// Kafka doesn't say where a partition's log begins or ends.
    Kafka,
}

/// An event that may matter to a log, a metric or a status page.
#[derive(Debug)]
pub enum Event<'a> {
    /// The group extended or confirmed the consumer's assignment.
    Assigned {
        /// The partitions that the consumer didn't have before. May be empty in a rebalance that concerned other members.
        added: &'a [TopicPartition],
        /// How many partitions the consumer has now.
        all: usize,
    },
    /// The consumer is a member of the group. Its assignment, which may be empty, was reported in a [`Snapshot`] before.
    Joined,
    /// The group revoked these partitions.
    Revoked {
        sources: &'a [TopicPartition],
        /// Whether other members may own these partitions already.
        lost: bool,
    },
    /// Why the poll loop takes no records now; `None` if it takes records.
    Held(Option<Hold>),
    /// The state of the poll loop, reported a few times per second.
    Snapshot(&'a Snapshot<'a>),
    /// Kafka reported an error that the client retries by itself.
    KafkaRetries(&'a (dyn Error + 'static)),
    /// An offset to fetch is outside of Kafka's log. All owned partitions are claimed again, and each claim compares the log
    /// with the ledger.
    PositionOutOfRange(&'a (dyn Error + 'static)),
    /// A log became shorter. All owned partitions are claimed again, and each claim compares the log with the ledger.
    LogCut,
    /// The consumer leaves the group and is rebuilt, because it failed or because another task requested this.
    Rebuilding {
        why: &'a str,
    },
    /// The drain has ended: the consumer no longer waits until its delivered records are written, and leaves the group
    /// next. The next owner reads the unwritten records again.
    DrainEnded {
        /// How many records the open batch has. They never reached the writer.
        open: u32,
        /// How many records the writer has not finished. An [`Event::BatchWritten`] may follow.
        in_flight: u32,
    },
    /// A claim was granted.
    Claimed {
        source: &'a TopicPartition,
        /// The ledger's position in this partition: the offset of the next record to write.
        next: Offset,
        epoch: i64,
    },
    /// A refused claim or a delivered record showed that Kafka's log and the ledger disagree. If a claim skips the log-loss
    /// condition at once, only [`Event::ConditionSkipped`] is reported.
    LogLoss {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
    },
    /// A log-loss condition was skipped, as `on_offset_loss` requires.
    ConditionSkipped {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
        /// The offset from which the partition is read now.
        to: Offset,
        /// How many records are known to be lost.
        lost: u64,
    },
    /// A round of claims failed and is retried.
    ClaimsWait {
        /// The system that failed.
        on: ClaimsWaitOn,
        error: &'a (dyn Error + 'static),
        /// How many partitions wait.
        partitions: usize,
        attempt: u32,
    },
    /// Another claim has replaced ours.
    Fenced {
        source: &'a TopicPartition,
        /// The offset at which the dropped part of the batch begins, if a write found the new claim. `None` if the new claim
        /// was found in a ledger row that was read to compute the lag.
        from: Option<Offset>,
    },
    /// The partition is claimed again, for one of two reasons. The ledger isn't at an offset that we wrote: the database was
    /// restored, or somebody set the offset. Or it isn't certain that our transaction advanced the ledger.
    Rewound {
        source: &'a TopicPartition,
        /// The offset at which the dropped part of the batch begins, if a write found the wrong offset in the ledger. `None` if
        /// the wrong offset was found in a row that was read to compute the lag.
        from: Option<Offset>,
    },
    Committed(Committed<'a>),
    /// The outcome of every segment of a batch is known.
    BatchWritten {
        batch: &'a Batch,
        /// How long the writer took, from receiving the batch to this event.
        took: Duration,
    },
    /// The reply to a COMMIT was lost, or doesn't show the outcome. So the outcome will be read from the ledger.
    CommitUnknown(&'a WriteError),
    /// An error of Postgres shows that the plan may be outdated, or that the table lacks a partition. So a new plan is made.
    CatalogChanged(&'a WriteError),
    /// Transactions over the same records timed out repeatedly, so the next transactions are smaller.
    WindowHalved {
        /// The most records that the next transaction may have. Each commit doubles this number.
        records: u32,
    },
    /// A poison search ended. Its transaction continues with the records that were copied and those that Postgres refuses.
    PoisonFound {
        /// How many parts of the window the search tried to copy. A part without rows counts too, but needs no COPY.
        copies: u32,
        /// How many of the records Postgres refuses.
        records: usize,
    },
    /// The writer waits before it retries.
    WriterWaits {
        error: &'a WriteError,
        attempt: u32,
        delay: Duration,
    },
    /// How long an activity of the writer took.
    Spent(WritePhase, Duration),
}

#[derive(Debug)]
pub struct Committed<'a> {
    /// The batch to which the committed records belong.
    pub batch: &'a Batch,
    /// The range of the committed records in the batch.
    pub window: Range<u32>,
    /// How many rows the committed records have; in the write mode `insert_new`, how many of these rows were inserted.
    pub rows: u64,
    pub dead_letters: &'a [DeadLettered],
}

/// A record that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettered {
    /// The index of the record in the batch.
    pub record: u32,
    /// The reason code: a label value of `dead_letters_total`.
    pub reason: &'static str,
    /// The column at fault, if there is one.
    pub column: Option<Box<str>>,
}

/// The activities of a writer that are timed, see [`Event::Spent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePhase {
    /// `COPY` and the merge, including the poison search if there is one.
    Copy,
    /// The update of the ledger, and `COMMIT`.
    Commit,
    /// The wait between two attempts.
    Outage,
}

/// Why a poll loop takes no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The open batch is full and the writer is busy.
    Full,
    /// `flow.max_rows_per_second` is used up.
    Flow,
    /// The schema of the next record isn't known yet.
    Schema,
}

/// The state of a poll loop.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The session, which has the partitions and the open batch.
    pub session: &'a Session,
    /// How many partitions are paused: all that are fetched, if a [`Hold`] has lasted for a second or longer; otherwise 0.
    pub paused: usize,
    /// Whether records wait for a schema.
    pub waits_for_schema: bool,
    /// How many records were taken since the last snapshot.
    pub consumed: u64,
    /// How the time since the last snapshot was spent.
    pub spent: Spent,
    /// The time of this snapshot.
    pub now: Instant,
}

/// How a poll loop spent its time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub poll: Duration,
    /// The time in which records were taken, decoded and encoded.
    pub work: Duration,
    /// The time in which no records were taken, for any reason in [`Hold`].
    pub held: Duration,
    /// The part of `held` for which the reason was the rate limit or a missing schema.
    pub flow: Duration,
}
