//! The events that the protocol reports: one enum, to which logs, metrics, the status page and the timeline listen.

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::partition::Condition;
use crate::position::{Offset, TopicPartition};
use crate::session::Session;
use crate::store::WriteError;

/// Receives every event of one consumer, or of one pipeline's claims.
///
/// Events are reported per transaction, per turn of a loop or more rarely, never per record. An implementation must not block.
pub trait Listener: Send + Sync {
    /// Handles one event.
    fn on(&self, event: &Event<'_>);
}

/// Something that a person, a metric or a status page may want to know.
#[derive(Debug)]
pub enum Event<'a> {
    /// The group assigned these partitions.
    Assigned(&'a [TopicPartition]),
    /// The assignment of partitions, be it empty, is visible in a [`Snapshot`]: the consumer is a member of the group.
    Joined,
    /// The group revoked these partitions.
    Revoked {
        /// The partitions.
        sources: &'a [TopicPartition],
        /// Whether other members may own them already.
        lost: bool,
    },
    /// Why the poll loop takes no records; `None` once it takes them again.
    Held(Option<Hold>),
    /// The state of the poll loop, a few times per second.
    Snapshot(&'a Snapshot<'a>),
    /// Kafka reported an error that the client retries by itself.
    KafkaRetries(&'a (dyn Error + 'static)),
    /// A position lies outside of Kafka's log: each partition is compared with the ledger.
    PositionOutOfRange(&'a (dyn Error + 'static)),
    /// A log became shorter: each partition is compared with the ledger.
    LogCut,
    /// The consumer failed and is built again.
    Rebuilding {
        /// Why.
        why: &'a str,
    },
    /// The drain at the end is over. The next owner reads again the records that are not written yet.
    DrainEnded {
        /// Records of the open batch, which no writer has seen.
        open: u32,
        /// Records of the batch that the writer still works on: a [`Event::BatchWritten`] may follow.
        in_flight: u32,
    },
    /// A claim was granted.
    Claimed {
        /// The partition.
        source: &'a TopicPartition,
        /// The offset at which the ledger is.
        next: Offset,
        /// The claim's number.
        epoch: i64,
    },
    /// A claim or a delivered record met a log-loss condition.
    LogLoss {
        /// The partition.
        source: &'a TopicPartition,
        /// The condition.
        condition: &'a Condition,
    },
    /// `on_offset_loss` went past a log-loss condition.
    SteppedOver {
        /// The partition.
        source: &'a TopicPartition,
        /// The condition.
        condition: &'a Condition,
        /// The offset from which the partition is read now.
        to: Offset,
        /// Records that are known to be lost.
        lost: u64,
    },
    /// A round of claims failed and is repeated.
    ClaimsWait {
        /// Why.
        error: &'a (dyn Error + 'static),
        /// Partitions that wait.
        partitions: usize,
        /// Failures so far.
        attempt: u32,
    },
    /// Another claim replaced ours.
    Fenced {
        /// The partition.
        source: &'a TopicPartition,
        /// The offset at which the dropped part of the batch began; `None` where the ledger was read outside of a write.
        from: Option<Offset>,
    },
    /// The ledger is behind what we saw committed: the database was restored. The partition is claimed again.
    Rewound {
        /// The partition.
        source: &'a TopicPartition,
        /// The offset at which the dropped part of the batch began; `None` where the ledger was read outside of a write.
        from: Option<Offset>,
    },
    /// A transaction committed.
    Committed(Committed<'a>),
    /// All segments of a batch have their outcome.
    BatchWritten {
        /// The batch.
        batch: &'a Batch,
        /// Since the writer received it.
        took: Duration,
    },
    /// The answer to a COMMIT is missing: the ledger will tell its outcome.
    CommitUnknown(&'a WriteError),
    /// The catalog changed: a new plan is made and the batch encoded again.
    CatalogChanged(&'a WriteError),
    /// The same transaction timed out repeatedly: the next ones are smaller.
    WindowHalved {
        /// Records per transaction from now on.
        records: u32,
    },
    /// The poison search ended.
    PoisonFound {
        /// COPYs that it took.
        copies: u32,
        /// Records that Postgres refuses.
        records: usize,
    },
    /// The writer waits before it tries again.
    WriterWaits {
        /// Why.
        error: &'a WriteError,
        /// Failures so far.
        attempt: u32,
        /// The wait.
        delay: Duration,
    },
    /// Time went into this.
    Spent(Phase, Duration),
}

/// A committed transaction.
#[derive(Debug)]
pub struct Committed<'a> {
    /// The batch that it is a part of.
    pub batch: &'a Batch,
    /// The records that it covers.
    pub window: Range<u32>,
    /// Rows that it put into the table.
    pub rows: u64,
    /// Its dead letters.
    pub dead_letters: &'a [DeadLettered],
}

/// A record that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettered {
    /// The record's place in the batch.
    pub record: u32,
    /// The label of `dead_letters_total`.
    pub reason: &'static str,
    /// The column at fault, if one is.
    pub column: Option<Box<str>>,
}

/// The activities that a consumer's time is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `COPY`, with the poison search where there is one.
    Copy,
    /// The ledger and `COMMIT`.
    Commit,
    /// The wait between two tries.
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
    /// Partitions that are assigned but not read, because the loop has been held for long.
    pub paused: usize,
    /// Whether records wait for a schema.
    pub waits_for_schema: bool,
    /// Records taken since the last snapshot.
    pub consumed: u64,
    /// Where the time since the last snapshot went.
    pub spent: Spent,
    /// The time of this snapshot.
    pub now: Instant,
}

/// Where a poll loop's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Waiting for Kafka.
    pub poll: Duration,
    /// Decoding and encoding records.
    pub work: Duration,
    /// Held, for whatever reason.
    pub held: Duration,
    /// Held by the rate limit or a missing schema; part of `held`.
    pub flow: Duration,
}
