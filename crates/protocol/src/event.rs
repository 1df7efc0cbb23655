//! The events that the protocol reports: one enum, to which logs, metrics, the status page and the timeline listen.

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

/// The system for which claims wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsWaitOn {
    /// The ledger doesn't answer or refuses a statement.
    Postgres,
    /// Kafka doesn't say where a partition's log begins or ends.
    Kafka,
}

/// An event that may matter to a log, a metric or a status page.
#[derive(Debug)]
pub enum Event<'a> {
    /// The group changed the consumer's assignment, and revoked nothing.
    Assigned {
        /// The partitions that the consumer didn't have before. May be empty in a rebalance that concerned other members.
        added: &'a [TopicPartition],
        /// How many partitions the consumer has now.
        all: usize,
    },
    /// The assignment, which may be empty, is visible in a [`Snapshot`]: the consumer is a member of the group.
    Joined,
    /// The group revoked these partitions.
    Revoked {
        sources: &'a [TopicPartition],
        /// Whether other members may own them already.
        lost: bool,
    },
    /// Why the poll loop takes no records; `None` when it takes them again.
    Held(Option<Hold>),
    /// The state of the poll loop, reported a few times per second.
    Snapshot(&'a Snapshot<'a>),
    /// Kafka reported an error that the client retries by itself.
    KafkaRetries(&'a (dyn Error + 'static)),
    /// An offset is outside of Kafka's log: each partition is compared with the ledger.
    PositionOutOfRange(&'a (dyn Error + 'static)),
    /// A log became shorter: each partition is compared with the ledger.
    LogCut,
    /// The consumer failed and is rebuilt.
    Rebuilding {
        why: &'a str,
    },
    /// The drain at the end is over. The next owner reads again what isn't written by now.
    DrainEnded {
        /// Records of the open batch, which never reached the writer.
        open: u32,
        /// Records of the batch that the writer still handles: a [`Event::BatchWritten`] may follow.
        in_flight: u32,
    },
    /// A claim was granted.
    Claimed {
        source: &'a TopicPartition,
        /// The offset at which the ledger is.
        next: Offset,
        epoch: i64,
    },
    /// A claim or a delivered record met a log-loss condition.
    LogLoss {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
    },
    /// `on_offset_loss` skipped a log-loss condition.
    SteppedOver {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
        /// The offset from which the partition is read now.
        to: Offset,
        /// Records that are known to be lost.
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
        /// The offset at which the dropped part of the batch began; `None` if the ledger was read without a write.
        from: Option<Offset>,
    },
    /// The ledger is behind what we saw committed: the database was restored. The partition is claimed again.
    Rewound {
        source: &'a TopicPartition,
        /// The offset at which the dropped part of the batch began; `None` if the ledger was read without a write.
        from: Option<Offset>,
    },
    Committed(Committed<'a>),
    /// The outcome of every segment of a batch is known.
    BatchWritten {
        batch: &'a Batch,
        /// The time since the writer received it.
        took: Duration,
    },
    /// The reply to a COMMIT is missing: the outcome will be read from the ledger.
    CommitUnknown(&'a WriteError),
    /// The catalog changed: the plan is rebuilt and the batch re-encoded.
    CatalogChanged(&'a WriteError),
    /// The same transaction timed out repeatedly: the next ones are smaller.
    WindowHalved {
        /// Records per transaction from now on.
        records: u32,
    },
    /// The poison search ended.
    PoisonFound {
        /// How many COPYs it took.
        copies: u32,
        /// How many records Postgres refuses.
        records: usize,
    },
    /// The writer waits before it retries.
    WriterWaits {
        error: &'a WriteError,
        attempt: u32,
        delay: Duration,
    },
    /// How long an activity took.
    Spent(WritePhase, Duration),
}

#[derive(Debug)]
pub struct Committed<'a> {
    /// The batch that it belongs to.
    pub batch: &'a Batch,
    /// The records that it covers.
    pub window: Range<u32>,
    /// Rows that it put into the table.
    pub rows: u64,
    pub dead_letters: &'a [DeadLettered],
}

/// A record that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettered {
    /// The index of the record in the batch.
    pub record: u32,
    /// A label value of `dead_letters_total`.
    pub reason: &'static str,
    /// The column at fault, if one is.
    pub column: Option<Box<str>>,
}

/// The activities that a consumer's time is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePhase {
    /// `COPY`, including the poison search if there is one.
    Copy,
    /// The ledger and `COMMIT`.
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
    /// The partitions and the open batch.
    pub session: &'a Session,
    /// How many assigned partitions aren't read because the loop has been held for long.
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
    /// Decoding and encoding records.
    pub work: Duration,
    /// Held, for any reason.
    pub held: Duration,
    /// Held by the rate limit or a missing schema; included in `held`.
    pub flow: Duration,
}
