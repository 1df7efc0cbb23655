//! What others see of a consumer: the page, the metrics, and Kafka's committed offsets.

use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use tidegate_protocol::partition::{Partition, State};
use tracing::debug;

use super::Consumer;
use super::assignment::list;
use crate::status::PartitionStatus;
use crate::status::work::Phase;

/// A last committed record that isn't delivered for so long, with nothing behind it, was compacted away.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Time since the last report, by what it went into.
#[derive(Debug, Default)]
pub(super) struct Spent {
    pub(super) poll: Duration,
    pub(super) work: Duration,
    pub(super) held: Duration,
    /// Of what was held: by `flow.max_rows_per_second`.
    pub(super) flow: Duration,
}

impl Consumer {
    pub(super) fn publish(&mut self, now: Instant) {
        let session = &self.parts.session;
        let partitions: Vec<PartitionStatus> = session.partitions().map(partition_status).collect();
        let paused = if self.paused { self.fetching.len() } else { 0 };
        self.parts.metrics.holds(partitions.len(), paused, session.open_bytes());
        self.parts.metrics.consumed(std::mem::take(&mut self.consumed));
        let Spent { poll, work, held, flow } = std::mem::take(&mut self.spent);
        self.parts.metrics.spent(poll, work, held.saturating_sub(flow), flow);
        for (phase, time) in [(Phase::Poll, poll), (Phase::Decode, work), (Phase::Held, held)] {
            self.parts.status.work.spent(phase, time);
        }
        let schemas = self.parts.plans.schemas().filter(|_| !self.waiting.is_empty());
        self.parts.status.waits_for_schema(schemas.and_then(|schemas| schemas.trouble()));
        self.parts.status.publish(partitions, session.open_bytes() as u64, now);
    }

    /// Tells Kafka where the ledger stands, for tools that show lag.
    pub(super) fn commit(&mut self) {
        let positions = self.parts.session.positions();
        let moved: Vec<_> = positions
            .filter(|(source, owned)| self.reported.get(source) != Some(&owned.committed))
            .map(|(source, owned)| (source.clone(), owned.committed))
            .collect();
        if moved.is_empty() {
            return;
        }
        self.kafka.context().commit_sent();
        if let Err(error) = self.kafka.commit(&list(&moved), CommitMode::Async) {
            debug!(%error, "Kafka didn't take the committed offsets");
        }
        self.reported.extend(moved);
    }
}

fn partition_status(partition: &Partition) -> PartitionStatus {
    let mut status = PartitionStatus::new(partition.source.clone(), "claiming", partition.progress_at);
    match &partition.state {
        State::Claiming { .. } => {}
        State::Owned(owned) => {
            status.state = "owned";
            status.next = Some(owned.next);
            status.committed = Some(owned.committed);
            status.read_to = (owned.committed == owned.next).then_some(owned.read_to);
            status.known = owned.verify.is_none() || partition.progress_at.elapsed() > GONE_AFTER;
            status.epoch = Some(owned.epoch);
        }
        State::Fenced { .. } => status.state = "fenced",
        State::Stopped(condition) => {
            status.state = "stopped";
            status.condition = Some(condition.to_string());
        }
    }
    status
}
