//! What the group says, put down for the poll thread.
//!
//! librdkafka calls back on the thread that polls, in the middle of a poll. The callback only notes the event; the poll thread
//! answers it, with the session at hand. librdkafka waits for the answer, and moves nothing on its own meanwhile. While a
//! consumer closes nobody reads the notes, so then the callback answers itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tidegate_protocol::group::GroupEvent;
use tidegate_protocol::position::{Offset, TopicPartition};
use tracing::{debug, error, info, warn};

use crate::status::lock;

/// Of librdkafka's statistics (`STATISTICS.md`), what tells how far a log was read.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    /// The next offset to fetch: marks of transactions are behind it.
    next_offset: i64,
    /// Fetched and not yet delivered.
    fetchq_cnt: i64,
}

/// The consumer's context: the notes between callbacks and the poll thread. The lock is only ever taken by the thread that
/// polls; librdkafka's types ask for one all the same.
#[derive(Debug, Default)]
pub struct Notes {
    events: Mutex<Vec<GroupEvent>>,
    noted: AtomicBool,
    closing: AtomicBool,
    read: Mutex<Vec<(TopicPartition, Offset)>>,
    commits_under_way: AtomicU64,
}

impl Notes {
    /// Events since the last call; nearly always none, for the price of one relaxed load.
    pub fn take(&self) -> Vec<GroupEvent> {
        if !self.noted.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.noted.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.events))
    }

    /// How far logs were read, as librdkafka's statistics say every few seconds; for partitions with nothing undelivered.
    pub fn take_read(&self) -> Vec<(TopicPartition, Offset)> {
        std::mem::take(&mut *lock(&self.read))
    }

    /// From now on callbacks answer for themselves.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// A commit was sent.
    pub fn commit_sent(&self) {
        self.commits_under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether every commit was answered.
    pub fn commits_answered(&self) -> bool {
        self.commits_under_way.load(Ordering::Relaxed) == 0
    }
}

impl ClientContext for Notes {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                warn!(target: "librdkafka", fac, message);
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => info!(target: "librdkafka", fac, message),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(target: "librdkafka", fac, message),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(Statistics { topics }) = serde_json::from_slice(statistics) else {
            warn!("could not parse librdkafka statistics");
            return;
        };
        let read = topics.into_iter().flat_map(|(topic, Topic { partitions })| {
            let topic: Arc<str> = topic.into();
            let delivered = partitions.into_iter().filter(|(n, p)| *n >= 0 && p.fetchq_cnt == 0 && p.next_offset > 0);
            delivered.map(move |(n, p)| (TopicPartition::new(Arc::clone(&topic), n), Offset::new(p.next_offset)))
        });
        *lock(&self.read) = read.collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // A reader of a command asks for it, and sees it itself.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        // librdkafka tries again by itself for as long as it takes.
        warn!(%error, reason, "Kafka: nothing is lost, librdkafka tries again");
    }
}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            let answer = match consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => consumer.incremental_unassign(&TopicPartitionList::new()),
                _ => consumer.unassign(),
            };
            if let Err(error) = answer {
                debug!(%error, "the answer to a rebalance while closing");
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
                error!(?other, "a rebalance event that librdkafka doesn't document");
                return;
            }
        };
        lock(&self.events).push(event);
        self.noted.store(true, Ordering::Relaxed);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        self.commits_under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).ok();
        if let Err(error) = result {
            // Tools that show lag fall behind; the ledger is the truth.
            debug!(%error, "Kafka didn't take the committed offsets");
        }
    }
}
