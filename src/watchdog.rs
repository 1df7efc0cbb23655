//! The watchdog: detects and reports partitions that have lag and make no progress, and repairs them if possible.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_protocol::position::TopicPartition;
use tokio::time::interval;
use tracing::{info, warn};

use crate::pipeline::Pipeline;
use crate::status::work::Hold;
use crate::status::{ConsumerStatus, PartitionState, PartitionStatus, WaitCause, WriterState, lock};

/// A partition that has had lag and made no progress for this long is stalled. A claim, a rebalance or a write normally takes
/// less time.
pub const STALL_AFTER: Duration = Duration::from_secs(30);
/// A poll thread that hasn't been active for this long hangs in a call.
const POLL_STUCK_AFTER: Duration = Duration::from_secs(15);
/// The shortest time between two rebuilds of one consumer that the watchdog requests. A consumer that is rebuilt leaves its group
/// and joins it again.
const REBUILD_EVERY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
const NO_PROGRESS: &str = "a partition with lag makes no progress";

/// Why a partition with lag makes no progress, as [`diagnose`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    WaitingForPostgres(String),
    /// The partition's records wait for a schema registry that doesn't answer, or hasn't answered yet.
    WaitingForSchema(String),
    HeldByFlow,
    /// The consumer's open batch is full, and the writer still writes the previous batch.
    HeldByBudget,
    KafkaSilent(String),
    Claiming,
    Fenced,
    Stopped(String),
    PollStuck,
    /// No known cause: Kafka delivers no records of the partition to us. The consumer is rebuilt.
    NoDelivery,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitingForPostgres(why) => write!(f, "waiting for Postgres: {why}"),
            Self::WaitingForSchema(why) => write!(f, "waiting for schemas: {why}"),
            Self::HeldByFlow => f.write_str("held by `flow.max_rows_per_second`"),
            Self::HeldByBudget => f.write_str(
                "held by its memory budget: the batch is full, and Postgres has not written the previous one",
            ),
            Self::KafkaSilent(why) => f.write_str(why),
            Self::Claiming => f.write_str("its claim waits for the ledger or for Kafka"),
            Self::Fenced => f.write_str("fenced: another claim holds it, waiting for the revoke"),
            Self::Stopped(why) => write!(f, "stopped: {why}"),
            Self::PollStuck => {
                f.write_str("the poll thread hangs in a call of librdkafka; restart the daemon if this lasts")
            }
            Self::NoDelivery => f.write_str("Kafka delivers none of its records; its consumer is rebuilt"),
        }
    }
}

/// The facts about one partition from which [`diagnose`] finds out why it makes no progress.
#[derive(Debug)]
pub struct Observation<'a> {
    pub partition: &'a PartitionStatus,
    pub writer: &'a WriterState,
    pub polled_at: Instant,
    pub held: Option<Hold>,
    /// Why Kafka doesn't serve the pipeline; `None` if it does.
    pub kafka: Option<&'a str>,
    pub lag: u64,
    /// Since when there has been lag without interruption.
    pub lagging_since: Instant,
}

/// Returns why the partition makes no progress. `None` if it has no lag, or if it has had lag without progress for less than
/// [`STALL_AFTER`]. Pure.
pub fn diagnose(look: &Observation<'_>, now: Instant) -> Option<Stall> {
    let idle_since = look.partition.progress_at.max(look.lagging_since);
    if look.lag == 0 || now.duration_since(idle_since) < STALL_AFTER {
        return None;
    }
    Some(match (look.partition.state, look.writer) {
        (PartitionState::Claiming, _) => Stall::Claiming,
        (PartitionState::Fenced, _) => Stall::Fenced,
        (PartitionState::Stopped, _) => Stall::Stopped(look.partition.condition.clone().unwrap_or_default()),
        (PartitionState::Owned, WriterState::Waiting { trouble, .. }) => match trouble.cause {
            WaitCause::Kafka | WaitCause::Topic | WaitCause::Partition => Stall::KafkaSilent(trouble.to_string()),
            WaitCause::Postgres => Stall::WaitingForPostgres(trouble.to_string()),
            WaitCause::Registry => Stall::WaitingForSchema(trouble.to_string()),
        },
        (PartitionState::Owned, WriterState::Flowing) if now.duration_since(look.polled_at) > POLL_STUCK_AFTER => {
            Stall::PollStuck
        }
        (PartitionState::Owned, WriterState::Flowing) => match (look.held, look.kafka) {
            (Some(Hold::Flow), _) => Stall::HeldByFlow,
            (Some(Hold::Full), _) => Stall::HeldByBudget,
            (Some(Hold::Schema), _) => Stall::WaitingForSchema("the schema registry has not answered yet".to_owned()),
            (None, Some(why)) => Stall::KafkaSilent(why.to_owned()),
            (None, None) => Stall::NoDelivery,
        },
    })
}

/// Checks a pipeline's partitions once per second, until the future is dropped.
pub async fn watch(pipeline: Arc<Pipeline>) {
    let mut ticks = interval(LOOK);
    let mut consumers: Vec<Watched> = pipeline.consumers.iter().map(|_| Watched::default()).collect();
    loop {
        ticks.tick().await;
        for (status, watched) in pipeline.consumers.iter().zip(&mut consumers) {
            watched.look(&pipeline, status);
        }
    }
}

#[derive(Default)]
struct Watched {
    lagging: HashMap<TopicPartition, Instant>,
    stalls: Vec<(TopicPartition, Stall)>,
    rebuilt_at: Option<Instant>,
}

impl Watched {
    fn look(&mut self, pipeline: &Pipeline, status: &ConsumerStatus) {
        let now = Instant::now();
        let (partitions, writer) = (status.partitions(), status.writer());
        let owned: HashSet<_> = partitions.iter().map(|partition| &partition.source).collect();
        self.lagging.retain(|source, _| owned.contains(source));
        let mut stalls = Vec::new();
        let kafka = pipeline.kafka.outage().map(|outage| outage.trouble.to_string());
        for partition in &partitions {
            let lag = lock(&pipeline.lag).partitions.get(&partition.source).map_or(0, |lag| lag.records);
            if lag == 0 {
                self.lagging.remove(&partition.source);
                continue;
            }
            let lagging_since = *self.lagging.entry(partition.source.clone()).or_insert(now);
            let look = Observation {
                partition,
                writer: &writer,
                polled_at: status.polled_at(),
                held: status.work.held(),
                kafka: kafka.as_deref(),
                lag,
                lagging_since,
            };
            if let Some(stall) = diagnose(&look, now) {
                stalls.push((partition.source.clone(), stall));
            }
        }
        self.tell(pipeline, status, &stalls);
        if stalls.iter().any(|(_, stall)| *stall == Stall::NoDelivery)
            && self.rebuilt_at.is_none_or(|at| now.duration_since(at) > REBUILD_EVERY)
        {
            self.rebuilt_at = Some(now);
            status.ask_rebuild(NO_PROGRESS);
        }
        status.publish_stalls(stalls.iter().map(|(source, stall)| (source.clone(), stall.to_string())).collect());
        self.stalls = stalls;
    }

    fn tell(&self, pipeline: &Pipeline, status: &ConsumerStatus, stalls: &[(TopicPartition, Stall)]) {
        let consumer = status.number;
        for (source, stall) in stalls.iter().filter(|stall| !self.stalls.contains(stall)) {
            warn!(pipeline = &*pipeline.name, consumer, %source, why = %stall, "a partition with lag makes no progress; nothing is lost");
        }
        for (source, _) in &self.stalls {
            if !stalls.iter().any(|(s, _)| s == source) {
                info!(pipeline = &*pipeline.name, consumer, %source, "flowing again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Trouble;

    fn partition(state: PartitionState, progress_at: Instant) -> PartitionStatus {
        PartitionStatus::new(TopicPartition::new("t", 0), state, progress_at)
    }

    fn diagnosis(idle: Duration, change: impl FnOnce(&mut PartitionStatus, &mut Observation<'_>)) -> Option<Stall> {
        let start = Instant::now();
        let now = start + idle;
        let (mut changed, unchanged) =
            (partition(PartitionState::Owned, start), partition(PartitionState::Owned, start));
        let look = |partition| Observation {
            partition,
            writer: &WriterState::Flowing,
            polled_at: now,
            held: None,
            kafka: None,
            lag: 5,
            lagging_since: start,
        };
        let mut changes = look(&unchanged);
        change(&mut changed, &mut changes);
        diagnose(&Observation { partition: &changed, ..changes }, now)
    }

    const LONG: Duration = STALL_AFTER.saturating_add(Duration::from_secs(1));

    #[test]
    fn lag_without_progress_is_named_by_its_cause() {
        let now = Instant::now();
        let waiting =
            WriterState::Waiting { since: now, trouble: Trouble::postgres(&"57P03"), attempt: 3, retry_at: now };
        let state = |state| diagnosis(LONG, |partition, _| partition.state = state);
        assert_eq!(state(PartitionState::Owned), Some(Stall::NoDelivery));
        assert_eq!(state(PartitionState::Claiming), Some(Stall::Claiming));
        assert_eq!(state(PartitionState::Fenced), Some(Stall::Fenced));
        assert_eq!(state(PartitionState::Stopped), Some(Stall::Stopped(String::new())));
        let stuck = diagnosis(LONG, |_, look| look.polled_at = look.lagging_since);
        assert_eq!(stuck, Some(Stall::PollStuck));
        assert_eq!(diagnosis(LONG, |_, look| look.held = Some(Hold::Flow)), Some(Stall::HeldByFlow));
        assert_eq!(diagnosis(LONG, |_, look| look.held = Some(Hold::Full)), Some(Stall::HeldByBudget));
        let away = diagnosis(LONG, |_, look| look.kafka = Some("Kafka: h:1: the connection is refused"));
        assert_eq!(away, Some(Stall::KafkaSilent("Kafka: h:1: the connection is refused".to_owned())));
        let start = Instant::now();
        let partition = partition(PartitionState::Owned, start);
        let look = Observation {
            partition: &partition,
            writer: &waiting,
            polled_at: start,
            held: Some(Hold::Full),
            kafka: None,
            lag: 5,
            lagging_since: start,
        };
        assert_eq!(diagnose(&look, start + LONG), Some(Stall::WaitingForPostgres("57P03".to_owned())));
    }

    #[test]
    fn no_lag_or_recent_progress_is_no_stall() {
        assert_eq!(diagnosis(STALL_AFTER * 2, |_, look| look.lag = 0), None);
        assert_eq!(diagnosis(STALL_AFTER / 2, |_, _| {}), None);
    }
}
