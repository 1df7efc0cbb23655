//! Collects what a pipeline's clients saw of Kafka, and decides whether Kafka serves the pipeline. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidegate_protocol::position::TopicPartition;

use super::super::fault::{Cause, Fault};
use super::{HealthStatistics, Outage};
use crate::repeats::REPEAT_AFTER;
use crate::status::Trouble;

/// A request without an answer for this long is an outage. Changing a partition's leader takes less time.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// A partition without a leader for this long is an outage.
const NO_LEADER_AFTER: Duration = Duration::from_secs(8);
/// A group without a coordinator for this long is an outage.
const NO_COORDINATOR_AFTER: Duration = Duration::from_secs(8);
/// A denial counts as over once it hasn't been repeated for this long and the consumer is a settled member of its group.
const DENIED_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct State {
    /// When the first request since Kafka's last answer was made; `None` if no request waits for an answer.
    pub(super) asked_at: Option<Instant>,
    /// The fault of the last request that Kafka denied; `None` once a later request succeeds.
    pub(super) denied: Option<Fault>,
    /// The fault of the last request that failed for a reason other than a denial or a failed connection; `None` once a later
    /// request succeeds.
    pub(super) failed: Option<Fault>,
    /// For each broker, the fault of its connections, with the time at which it was stored. Removed once a connection to the
    /// broker works.
    pub(super) connections: BTreeMap<String, (Instant, Fault)>,
    pub(super) consumers: BTreeMap<u32, Consumer>,
    /// The topics in the pipeline's `topics` that don't exist, according to Kafka's answers, and since when at least one has
    /// been missing.
    pub(super) missing: Option<(Instant, Vec<String>)>,
    /// The partitions that have no leader, according to Kafka's answers, and since when at least one has had none.
    pub(super) without_leader: Option<(Instant, Vec<TopicPartition>)>,
    /// The brokers that don't offer the group protocol `consumer`. Stays empty,
    /// as does `offers_consumer`, if the pipeline doesn't use this protocol.
    pub(super) only_classic: BTreeSet<String>,
    pub(super) offers_consumer: BTreeSet<String>,
    pub(super) outage: Option<Outage>,
    /// When a connection last failed for another cause than [`Cause::Closed`], or an outage was last seen.
    pub(super) troubled_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Consumer {
    /// Since when the consumer's group has had no coordinator; `None` if it has one.
    pub(super) no_coordinator: Option<Instant>,
    /// Whether the consumer was a settled member of its group at the last statistics; `None` before the first statistics of its
    /// client.
    pub(super) is_settled: Option<bool>,
    /// The denials that the consumer got from Kafka, each with the time of the last one.
    pub(super) denied: Vec<(Fault, Instant)>,
    /// The longest time by which a quota delayed an answer to this consumer, according to the last statistics.
    pub(super) throttled: Duration,
}

impl State {
    /// Stores the fault of a failed connection, unless the fault that is already stored says more.
    pub(super) fn connection_failed(&mut self, broker: String, fault: Fault) {
        if fault.cause != Cause::Closed {
            self.troubled_at = Some(Instant::now());
        }
        let known = self.connections.get(&broker).is_some_and(|(at, known)| {
            // The observer has found out why the certificate isn't trusted.
            let is_same =
                matches!(known.cause, Cause::UnknownCa | Cause::WrongName) && fault.cause == Cause::Certificate;
            // A broker has several connections, and not all of them report why they failed. So for a minute, a vague cause
            // doesn't replace a definite one.
            let is_vaguer = known.cause.is_definite() && !fault.cause.is_definite() && at.elapsed() < REPEAT_AFTER;
            is_same || is_vaguer
        });
        if !known {
            self.connections.insert(broker, (Instant::now(), fault));
        }
    }

    pub(super) fn consumer_protocol(&mut self, broker: String, is_offered: Option<bool>) {
        match is_offered {
            Some(true) => {
                self.only_classic.remove(&broker);
                self.offers_consumer.insert(broker);
            }
            None if self.offers_consumer.contains(&broker) => {}
            Some(false) | None => {
                self.offers_consumer.remove(&broker);
                self.only_classic.insert(broker);
            }
        }
    }

    pub(super) fn store_statistics(&mut self, consumer: u32, statistics: &HealthStatistics, now: Instant) {
        self.connections.retain(|broker, _| !statistics.connected.contains(broker));
        let consumer = self.consumers.entry(consumer).or_default();
        consumer.no_coordinator = match consumer.no_coordinator {
            _ if statistics.has_coordinator => None,
            before => before.or(Some(now)),
        };
        consumer.is_settled = Some(statistics.is_settled);
        if statistics.is_settled {
            consumer.denied.retain(|(_, at)| now.duration_since(*at) < DENIED_FOR);
        }
        consumer.throttled = statistics.throttled;
    }

    pub(super) fn newest(&self) -> Option<&Fault> {
        self.connections.values().max_by_key(|(at, _)| *at).map(|(_, fault)| fault)
    }

    /// Returns why Kafka doesn't serve the pipeline, and since when. A fault takes precedence over a missing
    /// topic, which Kafka reports only while it answers requests. If a request isn't answered and no known fault
    /// explains this, the text names `servers`.
    pub(super) fn trouble(&self, now: Instant, servers: &str) -> Option<(Instant, Trouble)> {
        if let Some((since, fault)) = self.fault(now, servers) {
            return Some((since, Trouble::kafka(&fault)));
        }
        if let Some((since, topics)) = &self.missing {
            return Some((*since, Trouble::topics(topics)));
        }
        let (since, partitions) = self.without_leader.as_ref()?;
        (now.duration_since(*since) >= NO_LEADER_AFTER).then(|| (*since, Trouble::no_leader(partitions)))
    }

    fn fault(&self, now: Instant, servers: &str) -> Option<(Instant, Fault)> {
        let past = |since: &Instant, limit| now.duration_since(*since) >= limit;
        if let Some(since) = self.asked_at.filter(|since| past(since, SILENT_AFTER)) {
            // If a connection failed for a known reason, a failed request only repeats that in vaguer words.
            let definite = self.newest().filter(|fault| fault.cause.is_definite());
            let fault = definite.or(self.failed.as_ref()).or_else(|| self.newest()).cloned();
            return Some((since, fault.unwrap_or_else(|| Fault::silent(servers))));
        }
        if let Some(fault) = &self.denied {
            return Some((now, fault.clone()));
        }
        if let Some((fault, at)) = self.consumers.values().flat_map(|consumer| &consumer.denied).next() {
            return Some((*at, fault.clone()));
        }
        if let Some(broker) = self.only_classic.first()
            && self.consumers.values().any(|consumer| consumer.is_settled == Some(false))
        {
            return Some((now, Fault::no_consumer_protocol(broker)));
        }
        let no_coordinator = self.consumers.values().filter_map(|consumer| consumer.no_coordinator);
        let since = no_coordinator.min().filter(|since| past(since, NO_COORDINATOR_AFTER))?;
        Some((since, self.newest().cloned().unwrap_or_else(Fault::no_coordinator)))
    }
}
