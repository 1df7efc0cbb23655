//! The events that the protocol reports, as one enum. Logs, metrics, the status page and the timeline are made from them.

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::partition::LossCondition;
use crate::position::{Offset, TopicPartition};
use crate::session::Session;
use crate::store::WriteError;

/// Receives every event of one consumer's poll loop and writer, of one pipeline's claim loop, or of a command's writer.
///
/// Events are reported per transaction, per turn of a loop or more rarely, never per record. An implementation must not block.
pub trait Listener: Send + Sync {
    fn on(&self, event: &Event<'_>);
}

/// The system that made a round of claims fail, see [`Event::ClaimsWait`]. Postgres has the ledger, and Kafka says where each
/// partition's log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsWaitOn {
    Postgres,
    Kafka,
}

/// An event of a poll loop, the claim loop or a writer. `source` is the partition that the event is about.
#[derive(Debug)]
pub enum Event<'a> {
    /// The group extended or confirmed the consumer's assignment, which now has `all` partitions. `added` are those
    /// that the consumer didn't have before. `added` may be empty after a rebalance that concerned other members.
    Assigned {
        added: &'a [TopicPartition],
        all: usize,
    },
    /// The consumer is a member of the group. Follows each [`Event::Assigned`]. The [`Event::Snapshot`] between
    /// these two events has the new assignment, which may be empty.
    Joined,
    /// The group revoked these partitions. If `lost` is set, other members may own them already, so the consumer
    /// doesn't try to write their records before it gives them up.
    Revoked {
        sources: &'a [TopicPartition],
        lost: bool,
    },
    /// Reported once per turn of the poll loop: why the loop takes no records now, or `None` if it takes records.
    Held(Option<Hold>),
    /// The state of the poll loop. Reported at intervals of at least 250 ms, after a rebalance, and when the consumer leaves the
    /// group.
    Snapshot(&'a Snapshot<'a>),
    /// Kafka's client reported an error, and retries by itself.
    KafkaRetries(&'a (dyn Error + 'static)),
    /// An offset to fetch is outside of Kafka's log. All owned partitions are claimed again, and each claim compares the log
    /// with the ledger.
    PositionOutOfRange(&'a (dyn Error + 'static)),
    /// The log of a partition became shorter. All owned partitions are claimed again, and each claim compares the
    /// log with the ledger.
    LogCut,
    /// The consumer leaves the group and is rebuilt, because it failed or because another task requested this.
    Rebuilding {
        why: &'a str,
    },
    /// The drain has ended, and the consumer leaves the group next. `open` records never reached the writer. The writer still has
    /// `in_flight` records, for which an [`Event::BatchWritten`] may follow. The next owner reads the unwritten records again.
    DrainEnded {
        open: u32,
        in_flight: u32,
    },
    /// A claim was granted. `next` is the ledger's position in the partition, which is the offset of the next record
    /// to write. `epoch` is the number of the claim.
    Claimed {
        source: &'a TopicPartition,
        next: Offset,
        epoch: i64,
    },
    /// A refused claim or a delivered record showed that Kafka's log and the ledger disagree. If a claim skips the log-loss
    /// condition at once, only [`Event::ConditionSkipped`] is reported.
    LogLoss {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
    },
    /// A log-loss condition was skipped, as `on_offset_loss` requires. The partition is now read from the offset
    /// `to` on. `lost` is the number of records that are known to be lost.
    ConditionSkipped {
        source: &'a TopicPartition,
        condition: &'a LossCondition,
        to: Offset,
        lost: u64,
    },
    /// A round of claims failed because Postgres or Kafka failed (`on`). It is retried after a wait. `partitions` is the number
    /// of partitions that wait for their claims. `attempt` counts the waits since the last round that succeeded, from 1.
    ClaimsWait {
        on: ClaimsWaitOn,
        error: &'a (dyn Error + 'static),
        partitions: usize,
        attempt: u32,
    },
    /// A later claim of the partition has replaced this consumer's claim. A write found this, and `from` is the offset at which
    /// the dropped records of the batch begin. Or a ledger row that was read to compute the lag showed it, and `from` is `None`.
    Fenced {
        source: &'a TopicPartition,
        from: Option<Offset>,
    },
    /// The partition is claimed again. Either its ledger row isn't as this consumer left it, for example because the database was
    /// restored. Or the ledger has advanced, but perhaps not by this consumer's transaction. `from` has the same meaning as in
    /// [`Event::Fenced`].
    Rewound {
        source: &'a TopicPartition,
        from: Option<Offset>,
    },
    Committed(Committed<'a>),
    /// The outcome of every segment of a batch is known, `took` after the writer received the batch.
    BatchWritten {
        batch: &'a Batch,
        took: Duration,
    },
    /// The reply to a COMMIT was lost, or doesn't show the outcome. So the outcome will be read from the ledger.
    CommitUnknown(&'a WriteError),
    /// An error of Postgres shows that the plan may be outdated, or that the table lacks a partition. So a new plan is made.
    CatalogChanged(&'a WriteError),
    /// Transactions over the same records timed out repeatedly, so the next transaction writes at most `records`
    /// records. Each commit doubles this limit.
    WindowHalved {
        records: u32,
    },
    /// A poison search ended: Postgres refuses `records` records, which become dead letters. `copies` is the number of steps of
    /// the search. A step over records without rows counts too, but needs no COPY.
    PoisonFound {
        copies: u32,
        records: usize,
    },
    /// The writer waits `delay` before it retries. `attempt` counts the waits since the last commit, from 1.
    WriterWaits {
        error: &'a WriteError,
        attempt: u32,
        delay: Duration,
    },
    /// How long an activity of the writer took.
    Spent(WritePhase, Duration),
}

/// A transaction that was committed. It wrote the records of `batch` whose indexes are in `window`. `rows` is the
/// number of rows of these records; in the write mode `insert_new`, the number of rows that were inserted.
#[derive(Debug)]
pub struct Committed<'a> {
    pub batch: &'a Batch,
    pub window: Range<u32>,
    pub rows: u64,
    pub dead_letters: &'a [DeadLettered],
}

/// A record that became a dead letter. `record` is its index in the batch, `reason` the label value for
/// `dead_letters_total`, and `column` the column at fault, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettered {
    pub record: u32,
    pub reason: &'static str,
    pub column: Option<Box<str>>,
}

/// The activities of a writer that are timed, see [`Event::Spent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePhase {
    /// `COPY` into the table, or into the staging table with the merge after it. Includes the poison search, if there is one.
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

/// The state of a poll loop and its session. `consumed` is the number of records taken since the last snapshot.
#[derive(Debug)]
pub struct Snapshot<'a> {
    pub session: &'a Session,
    /// How many partitions are paused: all that are fetched, if a [`Hold`] has lasted for a second or longer; otherwise 0.
    pub paused: usize,
    pub waits_for_schema: bool,
    pub consumed: u64,
    pub spent: Spent,
    pub now: Instant,
}

/// How a poll loop spent the time since the last snapshot. In the time `poll`, it waited for records.
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
