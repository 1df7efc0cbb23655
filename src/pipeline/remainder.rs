//! The records that are left when a pipeline ends: records that the drain had no time for. In a bounded run (`--until now`), also
//! records that Kafka held at the start and that aren't written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_protocol::claim_loop::End;
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::retry::Backoff;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Pipeline;
use crate::kafka::observer::{SharedObserver, partitions_of};
use crate::lag::PartitionLag;
use crate::pipeline::start::StartError;
use crate::status::{PartitionState, PartitionStatus, WriterState, lock};

/// The time between two checks of the known ledger positions. They are read from the ledger about once per second.
const LOOK: Duration = Duration::from_millis(50);
/// The most partitions that a message names.
const NAMED: usize = 8;

/// The records that a bounded run has to write.
#[derive(Debug, Default)]
pub(super) struct Goal(Mutex<State>);

#[derive(Clone, Debug, Default)]
enum State {
    /// The run isn't bounded, so the pipeline runs until it is told to end.
    #[default]
    Unbounded,
    /// The run is bounded, but the ends of the logs are not known yet.
    Unknown,
    /// The run writes up to these offsets, at which the logs ended when it started.
    Ends(BTreeMap<TopicPartition, Offset>),
    Reached,
}

/// The records that a pipeline left in Kafka when it ended without a fault. They aren't lost: the next start reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remainder {
    /// Records that were read and not written when the drain timed out.
    pub unwritten: u64,
    /// The offsets that a bounded run has not written yet. `None` if the run isn't bounded, or if it has written all of them.
    pub remaining: Option<Remaining>,
    pub waiting_for: Option<String>,
}

/// How many records a bounded run has not written yet, if known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// The run never learned the ends of the logs.
    Unknown,
    /// Per partition, the number of offsets from the ledger's position to the end that the log had when the run started.
    /// Partitions that are written up to this end are left out.
    Offsets(Vec<(TopicPartition, u64)>),
}

impl Remainder {
    pub fn is_empty(&self) -> bool {
        self.unwritten == 0 && self.remaining.is_none()
    }

    /// Returns the number of unwritten records. If the run is bounded and knows the ends of the logs, this counts all records
    /// before these ends. Otherwise it counts only the records that were read.
    pub fn records(&self) -> u64 {
        match &self.remaining {
            Some(Remaining::Offsets(partitions)) => partitions.iter().map(|(_, records)| records).sum(),
            Some(Remaining::Unknown) | None => self.unwritten,
        }
    }
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remaining {
            Some(Remaining::Unknown) => f.write_str("its log ends are not known, so all records may be left")?,
            Some(Remaining::Offsets(partitions)) => {
                match self.records() {
                    1 => f.write_str("1 record is left")?,
                    records => write!(f, "{records} records are left")?,
                }
                for (n, (source, records)) in partitions.iter().take(NAMED).enumerate() {
                    write!(f, "{} {source}: {records}", if n == 0 { ":" } else { "," })?;
                }
                if partitions.len() > NAMED {
                    write!(f, " and {} more partitions", partitions.len() - NAMED)?;
                }
            }
            None if self.unwritten == 1 => f.write_str("1 record was read and is not written")?,
            None => write!(f, "{} records were read and are not written", self.unwritten)?,
        }
        self.waiting_for.iter().try_for_each(|why| write!(f, "; it waited: {why}"))
    }
}

impl Goal {
    /// Makes the run bounded. The ends of the logs are requested later, by [`stop_when_written`].
    pub(super) fn bound(&self) {
        *lock(&self.0) = State::Unknown;
    }

    fn remaining(&self, pipeline: &Pipeline) -> Option<Remaining> {
        let ends = match lock(&self.0).clone() {
            State::Unbounded | State::Reached => return None,
            State::Unknown => return Some(Remaining::Unknown),
            State::Ends(ends) => ends,
        };
        let mut written: BTreeMap<TopicPartition, Offset> =
            lock(&pipeline.lag).partitions.iter().map(|(source, lag)| (source.clone(), lag.next)).collect();
        for partition in pipeline.consumers.iter().flat_map(|consumer| consumer.partitions()) {
            if let Some(committed) = partition.committed {
                let known = written.entry(partition.source).or_insert(committed);
                *known = committed.max(*known);
            }
        }
        let left = ends.into_iter().filter_map(|(source, end)| {
            let next = written.get(&source).copied().unwrap_or(Offset::ZERO);
            let records = u64::try_from(end.get() - next.get()).ok().filter(|records| *records > 0)?;
            Some((source, records))
        });
        // If nothing is left, the run was told to end before it noticed that all records are written.
        Some(left.collect::<Vec<_>>()).filter(|left| !left.is_empty()).map(Remaining::Offsets)
    }
}

impl Pipeline {
    /// Returns the unwritten remainder, after the pipeline's workers have ended. `waiting_for` is the system that the pipeline
    /// waits for. The result names this system only if records are left unwritten.
    pub(super) fn remainder(&self, waiting_for: Option<String>) -> Remainder {
        let unwritten = self.consumers.iter().map(|consumer| consumer.drain.unwritten(&consumer.partitions())).sum();
        let left = self.goal.remaining(self);
        let waiting_for = waiting_for.filter(|_| unwritten > 0 || left.is_some());
        Remainder { unwritten, remaining: left, waiting_for }
    }

    /// Returns the system that the pipeline waits for now, with its last error; `None` if it doesn't wait.
    pub(super) fn waits_for(&self) -> Option<String> {
        if let super::PipelinePhase::Starting { waiting_for } = self.phase() {
            return waiting_for;
        }
        let waits = self.consumers.iter().find_map(|consumer| match consumer.writer() {
            WriterState::Waiting { trouble, .. } => Some(trouble.to_string()),
            WriterState::Flowing => None,
        });
        let kafka = || self.kafka.outage().map(|outage| outage.trouble.to_string());
        waits.or_else(kafka).or_else(|| lock(&self.lag).trouble.as_ref().map(ToString::to_string))
    }
}

/// Requests the current log ends, and cancels `stop` when two conditions hold:
/// - The ledger has reached these ends, whichever instance wrote the records.
/// - All our consumers have joined the group, and the logs of their partitions are known to be those that the ledger describes.
///   Otherwise the records of a recreated topic would look as if they were written.
///
/// If no topic matches the pipeline's pattern, cancels `stop` at once.
pub(super) async fn stop_when_written(pipeline: Arc<Pipeline>, observer: SharedObserver, stop: CancellationToken) {
    let ends = ends_now(&pipeline, &observer).await;
    *lock(&pipeline.goal.0) = State::Ends(ends.clone());
    if ends.is_empty() {
        // If the pattern matches no topic, the consumers never join the group. So don't wait for an assignment.
        *lock(&pipeline.goal.0) = State::Reached;
        warn!(pipeline = &*pipeline.name, topics = ?pipeline.config.topics, "no topic matches, so there is nothing to write");
        return stop.cancel();
    }
    loop {
        let is_known = |p: &PartitionStatus| match p.state {
            PartitionState::Fenced => true,
            PartitionState::Owned => p.known,
            PartitionState::Claiming | PartitionState::Stopped => false,
        };
        let known = pipeline.consumers.iter().all(|c| c.joined() && c.partitions().iter().all(is_known));
        let written = {
            let view = lock(&pipeline.lag);
            ends.iter().all(|(source, end)| {
                // If the ledger is beyond the log's end, the partition doesn't count as written: its claim will report a log-loss
                // condition.
                let written = |lag: &PartitionLag| lag.next >= *end || (lag.records == 0 && lag.end >= *end);
                view.partitions.get(source).is_some_and(|lag| lag.next <= lag.end && written(lag))
            })
        };
        if written && known {
            *lock(&pipeline.goal.0) = State::Reached;
            info!(pipeline = &*pipeline.name, "all that Kafka held at the start is written");
            return stop.cancel();
        }
        sleep(LOOK).await;
    }
}

/// Returns the current ends of the logs. Retries until Kafka answers.
async fn ends_now(pipeline: &Pipeline, observer: &SharedObserver) -> BTreeMap<TopicPartition, Offset> {
    let mut backoff = Backoff::new();
    loop {
        let topics = pipeline.config.topics.clone();
        let ends = observer.ask(move |observer| observer.ends(&partitions_of(&observer.topics(&topics)?), End::High));
        match ends.await.map_err(StartError::from) {
            Ok(ends) => return ends.into_iter().collect(),
            Err(error) => {
                let attempt = backoff.attempts() + 1;
                if attempt.is_power_of_two() {
                    warn!(pipeline = &*pipeline.name, %error, attempt, "can't read the log ends, retrying");
                }
                sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_by_partition_with_its_cause() {
        let place = |n| TopicPartition::new("t", n);
        let left = Some(Remaining::Offsets(vec![(place(0), 71), (place(2), 4)]));
        let remainder = Remainder { unwritten: 5, remaining: left, waiting_for: Some("Postgres 57P03".to_owned()) };
        assert_eq!(remainder.to_string(), "75 records are left: t/0: 71, t/2: 4; it waited: Postgres 57P03");
        let many = Some(Remaining::Offsets((0..10).map(|n| (place(n), 1)).collect()));
        let text = Remainder { remaining: many, ..Remainder::default() }.to_string();
        assert!(text.ends_with("t/7: 1 and 2 more partitions"), "{text}");
        let cut = Remainder { unwritten: 100, ..Remainder::default() };
        assert_eq!(cut.to_string(), "100 records were read and are not written");
        let one = Remainder { unwritten: 1, ..Remainder::default() };
        assert_eq!(one.to_string(), "1 record was read and is not written");
        let one = Remainder { remaining: Some(Remaining::Offsets(vec![(place(0), 1)])), ..one };
        assert_eq!(one.to_string(), "1 record is left: t/0: 1");
        assert!(Remainder::default().is_empty() && !cut.is_empty());
    }
}
