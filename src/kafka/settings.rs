//! librdkafka's settings: what we insist on and why, and what follows from the memory budget.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::{GroupProtocol, Kafka, Pipeline};
use crate::limits::Prefetch;

/// How often librdkafka looks for new topics and partitions.
const METADATA_REFRESH_MS: u32 = 10_000;

/// How often a member of a classic group asks whether partitions move. In a hand-over each side learns of the other's step at
/// its next heartbeat, so a moved partition stands still for about one interval; with librdkafka's 3 s it was seen to stand for
/// 3.4 s. Two small requests a second and consumer are nothing to a broker, and a session of 45 s leaves room for 90 of them to
/// fail. With `group_protocol = "consumer"` the broker decides, by `group.consumer.heartbeat.interval.ms` (5 s by default).
const HEARTBEAT_MS: u32 = 500;

/// How often librdkafka says how far it has read.
const STATISTICS_MS: u32 = 2_000;

/// Settings of one consumer of a pipeline.
pub fn consumer(kafka: &Kafka, pipeline: &Pipeline, prefetch: &Prefetch) -> ClientConfig {
    let mut config = client(kafka, pipeline);
    for (name, value) in [
        // The ledger is the truth about positions; what Kafka stores is for tools that show lag, and we commit it ourselves.
        ("enable.auto.commit", "false".to_owned()),
        ("enable.auto.offset.store", "false".to_owned()),
        // A position outside of the log is a named condition, never a silent jump.
        ("auto.offset.reset", "error".to_owned()),
        // The default of 1000 ms halves a drain: the fetcher would sleep whenever its queue was full once.
        ("fetch.queue.backoff.ms", "1".to_owned()),
        // Says how far logs were read, past the marks of transactions: without it lag would never be 0 behind one.
        ("statistics.interval.ms", STATISTICS_MS.to_string()),
        ("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string()),
        ("queued.max.messages.kbytes", prefetch.queued_kbytes.to_string()),
        ("queued.min.messages", prefetch.queued_messages.to_string()),
        ("fetch.message.max.bytes", prefetch.fetch_partition_bytes.to_string()),
        ("fetch.max.bytes", prefetch.fetch_bytes.to_string()),
        // librdkafka refuses a `fetch.max.bytes` below it (1 MB by default), though it means nothing to a consumer: a record
        // larger than either is delivered all the same.
        ("message.max.bytes", prefetch.fetch_bytes.to_string()),
    ] {
        config.set(name, value);
    }
    if pipeline.group_protocol != GroupProtocol::Consumer && config.get("heartbeat.interval.ms").is_none() {
        config.set("heartbeat.interval.ms", HEARTBEAT_MS.to_string());
    }
    match pipeline.group_protocol {
        GroupProtocol::Cooperative => config.set("partition.assignment.strategy", "cooperative-sticky"),
        GroupProtocol::Eager => config.set("partition.assignment.strategy", "range"),
        // The broker shares out; heartbeats and sessions are its own settings then.
        GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
    };
    config
}

/// Settings of a client that asks questions about the pipeline's topics and group, and joins no group.
pub fn observer(kafka: &Kafka, pipeline: &Pipeline) -> ClientConfig {
    let mut config = client(kafka, pipeline);
    config.set("enable.auto.commit", "false");
    config
}

/// Settings of a client that reads given stretches of logs: it joins no group, and is told where a log ends.
pub fn reader(kafka: &Kafka, pipeline: &Pipeline) -> ClientConfig {
    to_read(observer(kafka, pipeline))
}

/// The settings of [`reader`] from those of [`observer`].
pub fn to_read(mut config: ClientConfig) -> ClientConfig {
    config.set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error");
    config.set("fetch.queue.backoff.ms", "1");
    config.set("queued.max.messages.kbytes", "16384");
    config
}

fn client(kafka: &Kafka, pipeline: &Pipeline) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "tidegate");
    for (name, value) in kafka.properties.iter().chain(&pipeline.kafka_properties) {
        config.set(name, value.expose());
    }
    config.set("bootstrap.servers", &kafka.bootstrap_servers);
    config.set("group.id", &pipeline.group);
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}
