//! Turns the protocol's events into log lines, metrics, the status page and the timeline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_protocol::event::{ClaimsWaitOn, Committed, Event, Hold, Listener, Snapshot, Spent, WritePhase};
use tidegate_protocol::partition::{Partition, State};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::store::Cause;
use tracing::{debug, info, warn};

use crate::metrics::{self, ConsumerMetrics, WriterMetrics, epoch_ms};
use crate::plan::PlanSource;
use crate::repeats::Repeats;
use crate::status::work::{self, BatchNote, DeadLetter};
use crate::status::{ConsumerStatus, PartitionState, PartitionStatus, Trouble, lock};

/// After a claim, the last committed record is fetched again, and compared with the ledger. If the partition makes no progress
/// for this long, that record counts as compacted away.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The most partitions that one line of the timeline names.
const NAMED_PARTITIONS: usize = 8;

/// Listens to the events of one consumer: its poll loop and its writer.
#[derive(Debug)]
pub struct ConsumerReport {
    pub pipeline: Arc<str>,
    pub writer: WriterMetrics,
    pub consumer: ConsumerMetrics,
    pub status: Arc<ConsumerStatus>,
    /// The pipeline's plans. They know why a schema registry doesn't answer while records wait for it.
    pub plans: Arc<PlanSource>,
    /// Limits how often dead letters of the same reason and column are logged. A faulty sender can cause thousands of dead
    /// letters per second.
    pub logged: Mutex<Repeats>,
}

impl Listener for ConsumerReport {
    fn on(&self, event: &Event<'_>) {
        let (pipeline, consumer) = (&*self.pipeline, self.status.number);
        let work = &self.status.work;
        match event {
            // A rebalance may concern other members only.
            Event::Assigned { added: [], all } if *all > 0 => {
                info!(pipeline, consumer, partitions = all, "the group rebalanced: the consumer keeps its partitions");
                self.consumer.rebalanced();
                let partitions = if *all == 1 { "its partition".to_owned() } else { format!("its {all} partitions") };
                work.note("rebalance", format!("c{consumer} keeps {partitions}"));
            }
            Event::Assigned { added, all } => {
                info!(pipeline, consumer, added = ?added, partitions = all, "assigned");
                self.rebalanced("was assigned", added);
            }
            Event::Joined => {
                self.status.drain.resumed();
                self.status.join();
            }
            Event::Revoked { sources, lost } => {
                info!(pipeline, consumer, partitions = ?sources, lost, "revoked");
                self.rebalanced(if *lost { "lost" } else { "released" }, sources);
            }
            Event::Held(hold) => work.hold(hold.map(held)),
            Event::Snapshot(snapshot) => self.publish(snapshot),
            // The module `kafka::health` logs once what this means for the pipeline.
            Event::KafkaRetries(error) => {
                debug!(pipeline, consumer, %error, "Kafka: librdkafka tries again");
            }
            Event::PositionOutOfRange(error) => {
                warn!(pipeline, consumer, %error, "a position is outside of Kafka's log: comparing each partition with the ledger");
            }
            Event::LogCut => {
                warn!(pipeline, consumer, "a log became shorter: comparing each partition with the ledger");
            }
            Event::Rebuilding { why } => {
                warn!(pipeline, consumer, why, "the consumer leaves the group and joins it again; nothing is lost");
            }
            Event::DrainEnded { open, in_flight } => {
                self.status.drain.ended(*open, *in_flight);
                if open + in_flight > 0 {
                    warn!(
                        pipeline,
                        consumer,
                        open_records = open,
                        in_flight_records = in_flight,
                        "the drain timed out: records that are not written are read again"
                    );
                }
            }
            Event::LogLoss { source, condition } => work.note("condition", format!("{source}: {condition}")),
            Event::Fenced { source, from } => {
                let place = place(source, *from);
                work.note("fenced", format!("{place}: another claim holds it"));
                match from {
                    Some(_) => {
                        self.writer.fenced();
                        info!(pipeline, consumer, %source, %place, "fenced: another claim holds the partition, its part of the batch is dropped");
                    }
                    None => {
                        info!(pipeline, consumer, %source, "fenced: another claim holds the partition, awaiting the revoke");
                    }
                }
            }
            Event::Rewound { source, from } => {
                self.writer.rewound();
                let place = place(source, *from);
                work.note("rewind", format!("{place}: the ledger is at another offset: reading again from there"));
                warn!(pipeline, consumer, %source, %place, "the ledger is not at the offset that was committed: the database was restored, or somebody set the offset; claiming again, and reading from Kafka what the ledger lacks");
            }
            Event::Committed(committed) => self.committed(committed),
            Event::BatchWritten { batch, took } => {
                if let Some(waited) = self.status.flowing() {
                    let seconds = (waited.as_secs_f64() * 10.0).round() / 10.0;
                    info!(pipeline, consumer, seconds, "Postgres accepts writes again");
                }
                self.status.drain.in_flight_written();
                self.writer.batch(batch, *took);
                let note =
                    BatchNote { rows: u64::from(batch.row_count()), bytes: batch.row_bytes() as u64, took: *took };
                work.batch(batch.trigger(), note);
            }
            Event::CommitUnknown(error) => {
                self.writer.commit_unknown();
                warn!(pipeline, consumer, %error, "the outcome of a COMMIT is unknown: reading it from the ledger");
            }
            Event::CatalogChanged(error) if matches!(error.cause, Cause::NoPartition(_)) => {
                info!(pipeline, consumer, "rows have no partition yet: creating the missing partitions");
            }
            Event::CatalogChanged(error) => {
                warn!(pipeline, consumer, %error, "the catalog changed: planning and encoding again");
            }
            Event::WindowHalved { records } => {
                warn!(pipeline, consumer, records, "the same batch timed out again: writing half of it at a time");
            }
            Event::PoisonFound { copies, records } => {
                debug!(pipeline, consumer, copies, records, "found the records that Postgres refuses");
            }
            Event::WriterWaits { error, attempt, delay } => {
                self.writer.retried(error);
                self.status.waiting(Trouble::postgres(error), *attempt, *delay);
                if attempt.is_power_of_two() || attempt.is_multiple_of(64) {
                    warn!(pipeline, consumer, %error, retry = attempt, ?delay, "waiting for Postgres: nothing is lost, Kafka keeps the records");
                }
            }
            Event::Spent(phase, time) => work.spent(spent_on(*phase), *time),
            Event::Claimed { .. } | Event::ConditionSkipped { .. } | Event::ClaimsWait { .. } => {
                debug_assert!(false, "the claim loop reports to the pipeline: {event:?}");
            }
        }
    }
}

impl ConsumerReport {
    fn rebalanced(&self, what: &str, sources: &[TopicPartition]) {
        self.consumer.rebalanced();
        let names: Vec<String> = sources.iter().take(NAMED_PARTITIONS).map(ToString::to_string).collect();
        let more = sources.len().saturating_sub(names.len());
        let names = match (names.join(" "), more) {
            (names, _) if names.is_empty() => "no partition".to_owned(),
            (names, 0) => names,
            (names, more) => format!("{names} and {more} more"),
        };
        self.status.work.note("rebalance", format!("c{} {what} {names}", self.status.number));
    }

    fn publish(&self, snapshot: &Snapshot<'_>) {
        let Snapshot { session, paused, waits_for_schema, consumed, spent, now } = *snapshot;
        let partitions: Vec<PartitionStatus> = session.partitions().map(partition_status).collect();
        self.consumer.holds(partitions.len(), paused, session.open_bytes());
        self.consumer.consumed(consumed);
        let Spent { poll, work, held, flow } = spent;
        self.consumer.spent(poll, work, held.saturating_sub(flow), flow);
        for (phase, time) in
            [(work::TimePhase::Poll, poll), (work::TimePhase::Decode, work), (work::TimePhase::Held, held)]
        {
            self.status.work.spent(phase, time);
        }
        let schemas = self.plans.schemas().filter(|_| waits_for_schema);
        self.status.waits_for_schema(schemas.and_then(|schemas| schemas.trouble()));
        self.status.publish(partitions, session.open_bytes() as u64, now);
    }

    fn committed(&self, committed: &Committed<'_>) {
        let Committed { batch, window, rows, dead_letters } = committed;
        self.writer.committed(batch, window.clone(), *rows, dead_letters.iter().map(|letter| letter.reason));
        self.status.committed(*rows, dead_letters.len() as u64);
        for letter in *dead_letters {
            let record = batch.record(letter.record);
            let source = TopicPartition::new(record.topic, record.partition);
            let (offset, column) = (Offset::new(record.offset), letter.column.clone());
            let kind = format!("{} {}", letter.reason, column.as_deref().unwrap_or_default());
            if let Some(held_back) = lock(&self.logged).take(kind, Instant::now()) {
                let (pipeline, consumer, reason) = (&*self.pipeline, self.status.number, letter.reason);
                let (column, repeated) = (column.as_deref(), (held_back > 0).then_some(held_back));
                warn!(pipeline, consumer, %source, %offset, reason, column, repeated, "a record became a dead letter, and the pipeline continues: see `tidegate dead-letters list`; further ones with this reason and column are counted for a minute, and not logged");
            }
            self.status.work.dead(letter.reason, DeadLetter { source, offset, column, at_ms: epoch_ms() });
        }
    }
}

/// Listens to the events of a pipeline's claim loop.
#[derive(Debug)]
pub struct ClaimReport {
    pipeline: Arc<str>,
    /// Since when claims have failed; `None` if no claim has failed since the last one was granted.
    waiting_since: Mutex<Option<Instant>>,
}

impl ClaimReport {
    pub fn new(pipeline: Arc<str>) -> Self {
        Self { pipeline, waiting_since: Mutex::default() }
    }
}

impl Listener for ClaimReport {
    fn on(&self, event: &Event<'_>) {
        let pipeline = &*self.pipeline;
        match event {
            Event::Claimed { source, next, epoch } => {
                debug!(pipeline, %source, %next, epoch, "claimed");
                if let Some(since) = lock(&self.waiting_since).take() {
                    let seconds = (since.elapsed().as_secs_f64() * 10.0).round() / 10.0;
                    info!(pipeline, seconds, "claims are granted again");
                }
            }
            Event::ConditionSkipped { source, condition, to, lost } => {
                metrics::lost(&self.pipeline, condition.cause(), *lost);
                let condition = condition.fact();
                warn!(pipeline, %source, condition, going_on_at = %to, "skipped a log-loss condition, as `on_offset_loss` says");
            }
            Event::ClaimsWait { on, error, partitions, attempt } => {
                lock(&self.waiting_since).get_or_insert_with(Instant::now);
                if attempt.is_power_of_two() {
                    let system = match on {
                        ClaimsWaitOn::Postgres => "Postgres",
                        ClaimsWaitOn::Kafka => "Kafka",
                    };
                    warn!(pipeline, %error, partitions, attempt, "claims wait for {system}: nothing is lost");
                }
            }
            other => debug_assert!(false, "not of a claim loop: {other:?}"),
        }
    }
}

/// Counts the rows and the dead letters that a command commits.
#[derive(Debug, Default)]
pub struct Counts {
    rows: AtomicU64,
    dead_letters: AtomicU64,
}

impl Counts {
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }
}

impl Listener for Counts {
    fn on(&self, event: &Event<'_>) {
        if let Event::Committed(committed) = event {
            self.rows.fetch_add(committed.rows, Ordering::Relaxed);
            self.dead_letters.fetch_add(committed.dead_letters.len() as u64, Ordering::Relaxed);
        }
    }
}

fn place(source: &TopicPartition, from: Option<Offset>) -> String {
    from.map_or_else(|| source.to_string(), |from| format!("{source} at {from}"))
}

fn held(hold: Hold) -> work::Hold {
    match hold {
        Hold::Full => work::Hold::Full,
        Hold::Flow => work::Hold::Flow,
        Hold::Schema => work::Hold::Schema,
    }
}

fn spent_on(phase: WritePhase) -> work::TimePhase {
    match phase {
        WritePhase::Copy => work::TimePhase::Copy,
        WritePhase::Commit => work::TimePhase::Commit,
        WritePhase::Outage => work::TimePhase::Outage,
    }
}

fn partition_status(partition: &Partition) -> PartitionStatus {
    let mut status = PartitionStatus::new(partition.source.clone(), PartitionState::Claiming, partition.progress_at);
    match &partition.state {
        State::Claiming { .. } => {}
        State::Owned(owned) => {
            status.state = PartitionState::Owned;
            status.next = Some(owned.next);
            status.committed = Some(owned.committed);
            status.read_to = (owned.committed == owned.next).then_some(owned.read_to);
            status.known = owned.verify.is_none() || partition.progress_at.elapsed() > GONE_AFTER;
            status.epoch = Some(owned.claim.epoch);
        }
        State::Fenced { .. } => status.state = PartitionState::Fenced,
        State::Stopped(condition) => {
            status.state = PartitionState::Stopped;
            status.condition = Some(condition.to_string());
        }
    }
    status
}
