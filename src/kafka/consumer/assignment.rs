//! What the group gives and takes, and what librdkafka fetches of it: nothing before its claim.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_protocol::batch::Trigger;
use tidegate_protocol::position::{Offset, TopicPartition};
use tracing::{info, warn};

use super::super::rebalance::Event;
use super::Consumer;
use crate::config::GroupProtocol;
use crate::writer::Stopped;

/// The longest wait of a revoke for what is on its way; a batch that isn't done by then is fenced by the next owner.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// Partitions that the timeline names one by one.
const NAMED_PARTITIONS: usize = 8;

impl Consumer {
    pub(super) fn rebalance(&mut self, event: Event) -> Result<(), Stopped> {
        self.parts.metrics.rebalanced();
        match event {
            Event::Assigned(sources) => {
                info!(partitions = ?sources, "assigned");
                self.note_rebalance("was given", &sources);
                // Nothing is fetched before its claim: the answer to the group is an empty list.
                let nothing = TopicPartitionList::new();
                let answer = if self.incremental() {
                    self.kafka.incremental_assign(&nothing)
                } else {
                    self.kafka.assign(&nothing)
                };
                self.report("assign", answer);
                self.parts.session.assigned(sources, Instant::now());
                // In this order: who has joined says what it was given.
                self.publish(Instant::now());
                self.parts.status.join();
            }
            Event::Revoked { sources, lost } => {
                info!(partitions = ?sources, lost, "revoked");
                self.note_rebalance(if lost { "lost" } else { "gave up" }, &sources);
                if !lost {
                    self.flush(Trigger::Revoke, REVOKE_WAIT.min(self.parts.drain_timeout))?;
                    self.commit();
                }
                self.withdraw(|source| sources.contains(source));
                self.parts.session.revoked(&sources);
                self.reported.retain(|source, _| !sources.contains(source));
                let answer = if self.incremental() {
                    let ours: Vec<_> =
                        sources.iter().filter_map(|s| self.fetching.take(s)).map(|s| (s, Offset::ZERO)).collect();
                    self.kafka.incremental_unassign(&list(&ours))
                } else {
                    self.fetching.clear();
                    self.kafka.unassign()
                };
                self.report("unassign", answer);
            }
        }
        self.publish(Instant::now());
        self.carry_out()
    }

    fn note_rebalance(&self, what: &str, sources: &[TopicPartition]) {
        let names: Vec<String> = sources.iter().take(NAMED_PARTITIONS).map(ToString::to_string).collect();
        let more = sources.len().saturating_sub(names.len());
        let names = match (names.join(" "), more) {
            (names, _) if names.is_empty() => "no partition".to_owned(),
            (names, 0) => names,
            (names, more) => format!("{names} and {more} more"),
        };
        self.parts.status.work.note("rebalance", format!("c{} {what} {names}", self.parts.status.number));
    }

    pub(super) fn fetch(&mut self, from: &[(TopicPartition, Offset)]) {
        if from.is_empty() {
            return;
        }
        self.fetching.extend(from.iter().map(|(source, _)| source.clone()));
        let result = if self.incremental() {
            self.kafka.incremental_assign(&list(from))
        } else {
            // Eager assignments are replaced as a whole; those that are fetched already go on where their batches end.
            let starts: HashMap<&TopicPartition, Offset> = from.iter().map(|(source, at)| (source, *at)).collect();
            let all: Vec<_> = self
                .parts
                .session
                .positions()
                .filter(|(source, _)| self.fetching.contains(*source))
                .map(|(source, owned)| (source.clone(), starts.get(source).copied().unwrap_or(owned.next)))
                .collect();
            self.kafka.assign(&list(&all))
        };
        // librdkafka remembers a partition's pause beyond its assignment, and knows nothing of ours: it is told again.
        let told = if self.paused { self.kafka.pause(&list(from)) } else { self.kafka.resume(&list(from)) };
        self.report("pause or resume", told);
        self.report("assign", result);
    }

    pub(super) fn stop_fetching(&mut self, sources: &[TopicPartition]) {
        let stopped: Vec<_> =
            sources.iter().filter_map(|s| self.fetching.take(s)).map(|source| (source, Offset::ZERO)).collect();
        if stopped.is_empty() {
            return;
        }
        let result = if self.incremental() {
            self.kafka.incremental_unassign(&list(&stopped))
        } else {
            let fetched = self.parts.session.positions().filter(|(source, _)| self.fetching.contains(*source));
            let all: Vec<_> = fetched.map(|(source, owned)| (source.clone(), owned.next)).collect();
            self.kafka.assign(&list(&all))
        };
        self.report("unassign", result);
    }

    pub(super) fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
        self.paused = pause;
        let all: Vec<_> = self.fetching.iter().map(|source| (source.clone(), Offset::ZERO)).collect();
        let result = if pause { self.kafka.pause(&list(&all)) } else { self.kafka.resume(&list(&all)) };
        self.report(if pause { "pause" } else { "resume" }, result);
    }

    fn incremental(&self) -> bool {
        self.parts.protocol != GroupProtocol::Eager
    }

    fn report(&self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            warn!(%error, what, "librdkafka refused a change of the assignment");
        }
    }
}

pub(super) fn list(places: &[(TopicPartition, Offset)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (source, offset) in places {
        let added = list.add_partition_offset(&source.topic, source.partition, KafkaOffset::Offset(offset.get()));
        added.expect("an offset of 0 or more is one that librdkafka can hold");
    }
    list
}
