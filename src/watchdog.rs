//! Nothing stops silently: a partition that has lag and makes no progress is seen, named, and mended where it can be.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::interval;
use tracing::{info, warn};

use crate::pipeline::Pipeline;
use crate::position::TopicPartition;
use crate::status::{ConsumerStatus, PartitionStatus, WriterState, lock};

/// Lag without progress for so long is a stall: longer than a claim, a rebalance or a write deadline takes.
pub const STALL_AFTER: Duration = Duration::from_secs(30);
/// A poll thread that hasn't been seen for so long is stuck in a call.
const POLL_STUCK_AFTER: Duration = Duration::from_secs(15);
/// Between two rebuilds of one consumer.
const REBUILD_EVERY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);

/// Why a partition with lag makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Its writer waits for Postgres.
    WaitingForPostgres(String),
    /// Its records wait for a schema registry that gives no answer.
    WaitingForSchema(String),
    /// `flow.max_rows_per_second` holds it.
    HeldByFlow,
    /// Its claim isn't granted yet.
    Claiming,
    /// Another claim took its place.
    Fenced,
    /// A named condition.
    Stopped(String),
    /// Its poll thread hangs in a call.
    PollStuck,
    /// Nothing explains it: Kafka delivers nothing of it to us. The consumer is built anew.
    NoDelivery,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitingForPostgres(why) => write!(f, "waiting for Postgres: {why}"),
            Self::WaitingForSchema(why) => write!(f, "waiting for schemas: {why}"),
            Self::HeldByFlow => f.write_str("held by `flow.max_rows_per_second`"),
            Self::Claiming => f.write_str("its claim waits for the ledger or for Kafka"),
            Self::Fenced => f.write_str("fenced: another claim holds it, the revoke is awaited"),
            Self::Stopped(why) => write!(f, "stopped: {why}"),
            Self::PollStuck => {
                f.write_str("the poll thread hangs in a call of librdkafka; restart the daemon if it stays")
            }
            Self::NoDelivery => f.write_str("Kafka delivers nothing of it; its consumer is built anew"),
        }
    }
}

/// What one look at a partition knows.
#[derive(Debug)]
pub struct Look<'a> {
    /// The partition.
    pub partition: &'a PartitionStatus,
    /// Its writer.
    pub writer: &'a WriterState,
    /// Why its records wait for their schemas, while they do.
    pub schemas: Option<String>,
    /// When its poll thread was last seen at work.
    pub polled_at: Instant,
    /// Whether a flow limit is set.
    pub limited: bool,
    /// Records between ledger and log end.
    pub lag: u64,
    /// Since when there has been lag without a pause.
    pub lagging_since: Instant,
}

/// Why it makes no progress; `None` where it does, or may yet. Pure.
pub fn diagnose(look: &Look<'_>, now: Instant) -> Option<Stall> {
    let idle_since = look.partition.progress_at.max(look.lagging_since);
    if look.lag == 0 || now.duration_since(idle_since) < STALL_AFTER {
        return None;
    }
    Some(match (look.partition.state, look.writer) {
        ("claiming", _) => Stall::Claiming,
        ("fenced", _) => Stall::Fenced,
        ("stopped", _) => Stall::Stopped(look.partition.condition.clone().unwrap_or_default()),
        (_, WriterState::Waiting { .. }) if look.schemas.is_some() => {
            Stall::WaitingForSchema(look.schemas.clone().unwrap_or_default())
        }
        (_, WriterState::Waiting { why, .. }) => Stall::WaitingForPostgres(why.clone()),
        _ if now.duration_since(look.polled_at) > POLL_STUCK_AFTER => Stall::PollStuck,
        _ if look.limited => Stall::HeldByFlow,
        _ => Stall::NoDelivery,
    })
}

/// Looks once a second, until it is dropped.
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
    lagging: std::collections::HashMap<TopicPartition, Instant>,
    stalls: Vec<(TopicPartition, Stall)>,
    rebuilt_at: Option<Instant>,
}

impl Watched {
    fn look(&mut self, pipeline: &Pipeline, status: &ConsumerStatus) {
        let now = Instant::now();
        let (partitions, writer) = (status.partitions(), status.writer());
        self.lagging.retain(|source, _| partitions.iter().any(|p| p.source == *source));
        let mut stalls = Vec::new();
        for partition in &partitions {
            let lag = lock(&pipeline.lag).partitions.get(&partition.source).map_or(0, |lag| lag.records);
            if lag == 0 {
                self.lagging.remove(&partition.source);
                continue;
            }
            let lagging_since = *self.lagging.entry(partition.source.clone()).or_insert(now);
            let look = Look {
                partition,
                writer: &writer,
                schemas: status.schema_trouble(),
                polled_at: status.polled_at(),
                limited: pipeline.config.max_rows_per_second.is_some(),
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
            status.ask_rebuild();
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

    fn partition(state: &'static str, progress_at: Instant) -> PartitionStatus {
        let source = TopicPartition::new("t", 0);
        PartitionStatus {
            source,
            state,
            next: None,
            committed: None,
            read_to: None,
            epoch: None,
            condition: None,
            progress_at,
        }
    }

    fn diagnosis(state: &'static str, writer: &WriterState, lag: u64, idle: Duration, limited: bool) -> Option<Stall> {
        let start = Instant::now();
        let now = start + idle;
        let partition = partition(state, start);
        let look =
            Look { partition: &partition, writer, schemas: None, polled_at: now, limited, lag, lagging_since: start };
        diagnose(&look, now)
    }

    #[test]
    fn lag_without_progress_is_named_by_its_cause() {
        let flowing = WriterState::Flowing;
        let now = Instant::now();
        let waiting = WriterState::Waiting { since: now, why: "57P03".to_owned(), attempt: 3, retry_at: now };
        let long = STALL_AFTER + Duration::from_secs(1);
        assert_eq!(diagnosis("owned", &flowing, 5, long, false), Some(Stall::NoDelivery));
        assert_eq!(diagnosis("owned", &flowing, 5, long, true), Some(Stall::HeldByFlow));
        assert_eq!(diagnosis("owned", &waiting, 5, long, false), Some(Stall::WaitingForPostgres("57P03".to_owned())));
        assert_eq!(diagnosis("claiming", &waiting, 5, long, false), Some(Stall::Claiming));
        assert_eq!(diagnosis("fenced", &flowing, 5, long, false), Some(Stall::Fenced));
    }

    #[test]
    fn no_lag_or_recent_progress_is_no_stall() {
        let flowing = WriterState::Flowing;
        assert_eq!(diagnosis("owned", &flowing, 0, STALL_AFTER * 2, false), None);
        assert_eq!(diagnosis("owned", &flowing, 5, STALL_AFTER / 2, false), None);
    }
}
