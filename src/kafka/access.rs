//! Finds out which topics the brokers don't allow us to read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_kafka_batch::{BatchQueue, Item};

use super::health::KafkaHealth;
use super::observer::TIMEOUT;
use super::rebalance::Notes;
use super::settings::Settings;

/// The longest wait between two checks of the elapsed time.
const POLL: Duration = Duration::from_millis(100);

/// Returns which of `topics` the brokers don't allow us to read. Only a fetch shows this, because the right to see a topic
/// (Describe) is separate from the right to read it. So this function fetches from the end of the first partition of every
/// topic, in parallel. `config` must have the settings of [`super::settings::reader`].
///
/// # Errors
/// The error of Kafka, and `OperationTimedOut` after [`TIMEOUT`].
pub fn denied_topics(config: &Settings, topics: &[String], health: &Arc<KafkaHealth>) -> KafkaResult<Vec<String>> {
    let consumer: BaseConsumer<Notes> = config.create_with_context(Notes::new(Arc::clone(health), None))?;
    let consumer = Arc::new(consumer);
    if let Some(credentials) = &config.credentials {
        credentials.serve(&consumer, |consumer| consumer.client());
    }
    let mut queue = BatchQueue::new(Arc::clone(&consumer))?;
    let mut ends = TopicPartitionList::with_capacity(topics.len());
    for topic in topics {
        ends.add_partition(topic, 0).set_offset(KafkaOffset::End)?;
        queue.forward(topic, 0)?;
    }
    consumer.assign(&ends)?;
    let mut unknown: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
    let (mut denied, started) = (Vec::new(), Instant::now());
    while !unknown.is_empty() {
        if started.elapsed() > TIMEOUT {
            return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
        }
        // Serve the client's own events, such as log lines.
        let _event = consumer.poll(Duration::ZERO);
        let mut bulk = queue.read(POLL)?;
        while let Some(item) = bulk.next_item() {
            match item {
                Item::Run(run) => {
                    unknown.remove(run.topic);
                    run.records.for_each(drop);
                }
                Item::Fault(fault) => match fault.code() {
                    RDKafkaErrorCode::TopicAuthorizationFailed if unknown.remove(fault.topic()) => {
                        denied.push(fault.topic().to_owned());
                    }
                    RDKafkaErrorCode::PartitionEOF => drop(unknown.remove(fault.topic())),
                    // librdkafka retries after other errors.
                    _ => {}
                },
            }
        }
    }
    Ok(denied)
}
