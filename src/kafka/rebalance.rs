//! Callbacks of librdkafka. Rebalances are queued for the poll thread, and what librdkafka reports about Kafka goes to the
//! pipeline's health.
//!
//! librdkafka calls back on the polling thread, in the middle of a poll. The callback can't reach the consumer's state, so it
//! only queues the event; the poll loop answers the event after the poll. librdkafka waits for the answer, and changes no
//! assignment meanwhile. While a consumer closes, nobody reads the queue, so the callback itself answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tidegate_protocol::group::GroupEvent;
use tidegate_protocol::position::{Offset, TopicPartition};
use tracing::{debug, error};

use super::fault::{self, Fault};
use super::health::{HealthStatistics, KafkaHealth};
use crate::status::lock;

/// The parts of librdkafka's statistics (`STATISTICS.md`) that say how far a log was read and whether Kafka serves us.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, Topic>,
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    cgrp: Option<ConsumerGroup>,
}

#[derive(Deserialize)]
struct Broker {
    /// The broker's `host:port`.
    nodename: String,
    state: String,
    throttle: Throttle,
}

/// The delays that the broker's quotas caused since the previous statistics.
#[derive(Deserialize)]
struct Throttle {
    /// The longest delay, in milliseconds.
    max: i64,
}

#[derive(Deserialize)]
struct ConsumerGroup {
    state: String,
    join_state: String,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    /// The next offset to fetch. It is after any transaction markers.
    next_offset: i64,
    /// Records fetched and not yet delivered.
    fetchq_cnt: i64,
}

/// The context of a consumer: its callbacks put events here, and the poll loop takes them. Both run on the thread that polls the
/// consumer, so no lock is ever waited for. The locks exist because the types of `rdkafka` require them.
#[derive(Debug)]
pub struct Notes {
    health: Arc<KafkaHealth>,
    /// The number of the consumer that this client belongs to; `None` for a client that joins no group.
    consumer: Option<u32>,
    events: Mutex<Vec<GroupEvent>>,
    /// Whether `events` may have an event, so that [`Notes::take`] nearly always needs no lock.
    noted: AtomicBool,
    closing: AtomicBool,
    /// For the next [`Notes::take_read`]: how far each log was read, according to librdkafka's last statistics.
    read: Mutex<Vec<(TopicPartition, Offset)>>,
}

impl Notes {
    pub fn new(health: Arc<KafkaHealth>, consumer: Option<u32>) -> Self {
        Self {
            health,
            consumer,
            events: Mutex::default(),
            noted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            read: Mutex::default(),
        }
    }

    pub fn health(&self) -> &KafkaHealth {
        &self.health
    }

    pub fn group_denied(&self) {
        if let Some(consumer) = self.consumer {
            self.health.group_denied(consumer);
        }
    }

    pub fn topic_denied(&self, topic: &str) {
        if let Some(consumer) = self.consumer {
            self.health.denied(consumer, Fault::topic_denied(topic));
        }
    }

    pub fn denied_topics(&self) -> Vec<String> {
        self.consumer.map(|consumer| self.health.denied_topics(consumer)).unwrap_or_default()
    }

    /// Takes the events since the last call. If there are none, as nearly always, this costs one relaxed load.
    pub fn take(&self) -> Vec<GroupEvent> {
        if !self.noted.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.noted.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.events))
    }

    /// Takes from librdkafka's last statistics the offset up to which each log was read. Returns nothing
    /// if there were no statistics since the last call. A partition is left out while librdkafka holds
    /// records of it that are still to be delivered.
    pub fn take_read(&self) -> Vec<(TopicPartition, Offset)> {
        std::mem::take(&mut *lock(&self.read))
    }

    /// Makes the rebalance callback answer by itself from now on, because the poll thread no longer takes events.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for Notes {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        if fac == CONNECTION_FAILED {
            self.health.connection_failed(self.consumer, message);
            return;
        }
        if fac == REQUESTS_OFFERED {
            if let Some((broker, is_offered)) = fault::consumer_protocol(message) {
                self.health.consumer_protocol(broker, is_offered);
            }
            return;
        }
        let consumer = self.consumer;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => self.health.warn(consumer, fac, message),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                debug!(target: "librdkafka", consumer, fac, message);
            }
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(Statistics { topics, brokers, cgrp }) = serde_json::from_slice(statistics) else {
            self.health.warn(self.consumer, "STATS", "could not parse librdkafka statistics");
            return;
        };
        if let (Some(consumer), Some(cgrp)) = (self.consumer, cgrp) {
            self.health.store_statistics(consumer, &health_statistics(brokers, &cgrp), Instant::now());
        }
        let read = topics.into_iter().flat_map(|(topic, Topic { partitions })| {
            let topic: Arc<str> = topic.into();
            let delivered = partitions.into_iter().filter(|(n, p)| *n >= 0 && p.fetchq_cnt == 0 && p.next_offset > 0);
            delivered.map(move |(n, p)| (TopicPartition::new(Arc::clone(&topic), n), Offset::new(p.next_offset)))
        });
        *lock(&self.read) = read.collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::GroupAuthorizationFailed) => self.group_denied(),
            Some(Code::InconsistentGroupProtocol) => {
                if let Some(consumer) = self.consumer {
                    self.health.other_protocol(consumer);
                }
            }
            // The text names the topic only if a subscription is denied. Otherwise the next commit of a position is
            // denied too, and its result names the topic.
            Some(Code::TopicAuthorizationFailed) => {
                if let Some(topic) = reason.strip_prefix("Subscribed topic not available: ")
                    && let Some((topic, _)) = topic.rsplit_once(": Broker:")
                {
                    self.topic_denied(topic);
                }
            }
            Some(
                Code::BrokerTransportFailure
                | Code::Resolve
                | Code::SSL
                | Code::Authentication
                | Code::BadMessage
                | Code::OperationTimedOut,
            ) => self.health.connection_failed(self.consumer, reason),
            // Each broker's own fault was reported before, and the end of a log isn't a fault.
            Some(Code::AllBrokersDown | Code::PartitionEOF) => debug!(consumer = self.consumer, %error, reason),
            _ => self.health.warn(self.consumer, &error.to_string(), reason),
        }
    }
}

/// The facility under which librdkafka logs that a connection failed.
const CONNECTION_FAILED: &str = "FAIL";
/// The facility under which librdkafka logs the requests that a broker supports, one line each.
const REQUESTS_OFFERED: &str = "APIVERSION";

fn health_statistics(brokers: HashMap<String, Broker>, group: &ConsumerGroup) -> HealthStatistics {
    let mut statistics = HealthStatistics {
        has_coordinator: group.state == "up",
        is_settled: group.state == "up" && group.join_state == "steady",
        ..HealthStatistics::default()
    };
    for Broker { nodename, state, throttle } in brokers.into_values() {
        let throttled = Duration::from_millis(u64::try_from(throttle.max).unwrap_or_default());
        statistics.throttled = statistics.throttled.max(throttled);
        if state == "UP" {
            statistics.connected.push(nodename);
        }
    }
    statistics
}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            let answer = match consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => consumer.incremental_unassign(&TopicPartitionList::new()),
                _ => consumer.unassign(),
            };
            if let Err(error) = answer {
                debug!(%error, "could not answer a rebalance while closing");
            }
            return;
        }
        let sources =
            partitions.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect::<Vec<_>>();
        let event = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => GroupEvent::Assigned(sources),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                GroupEvent::Revoked { sources, lost: consumer.assignment_lost() }
            }
            other => {
                error!(
                    pipeline = self.health.pipeline(),
                    consumer = self.consumer,
                    ?other,
                    "a rebalance event that librdkafka doesn't document"
                );
                return;
            }
        };
        lock(&self.events).push(event);
        self.noted.store(true, Ordering::Relaxed);
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = &result {
            // Only tools that show lag are affected: they show an older position. The ledger is correct.
            debug!(consumer = self.consumer, %error, "Kafka did not accept the committed offsets");
            if error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed) {
                self.group_denied();
                return;
            }
        }
        for element in offsets.elements() {
            match element.error().err().and_then(|error| error.rdkafka_error_code()) {
                Some(Code::GroupAuthorizationFailed) => self.group_denied(),
                Some(Code::TopicAuthorizationFailed) => self.topic_denied(element.topic()),
                Some(_) => {}
                None if result.is_ok() => {
                    if let Some(consumer) = self.consumer {
                        self.health.granted(consumer, element.topic());
                    }
                }
                None => {}
            }
        }
    }
}
