//! Creates and changes topics of a running Kafka, and reads their offsets.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Kafka;

const ADMIN_DEADLINE: Duration = Duration::from_secs(30);
const ONE_REQUEST: Duration = Duration::from_secs(5);

impl Kafka {
    /// Creates a topic with the brokers' replication factor. Waits until each partition has a leader, for at most 30 seconds.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        self.administer(|admin, options| admin.create_topics([&topic], options))
            .with_context(|| format!("could not create topic `{name}`"))?;
        self.await_leaders(name, partitions)
    }

    /// Deletes a topic. The brokers acknowledge the request before they delete the data.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.administer(|admin, options| admin.delete_topics(&[name], options))
            .with_context(|| format!("could not delete topic `{name}`"))
    }

    /// Increases a topic's partitions to `total`. Waits until each partition has a leader, for at most 30 seconds.
    pub fn add_partitions(&self, topic: &str, total: i32) -> Result<()> {
        let wanted = NewPartitions::new(topic, usize::try_from(total)?);
        self.administer(|admin, options| admin.create_partitions([&wanted], options))
            .with_context(|| format!("could not add partitions to topic `{topic}`"))?;
        self.await_leaders(topic, total)
    }

    pub fn delete_records(&self, topic: &str, partition: i32, before_offset: i64) -> Result<()> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_offset(topic, partition, Offset::Offset(before_offset))?;
        let done = block_on(self.admin()?.delete_records(&wanted, &options()))?;
        for element in done.elements() {
            element.error().with_context(|| format!("could not delete records of `{topic}`, partition {partition}"))?;
        }
        Ok(())
    }

    pub fn end_offsets(&self, topic: &str) -> Result<Vec<i64>> {
        let watermarks = self.watermarks(topic)?;
        Ok(watermarks.into_iter().map(|(_, end)| end).collect())
    }

    /// Returns the log start offset of each partition. Records before this offset were deleted.
    pub fn start_offsets(&self, topic: &str) -> Result<Vec<i64>> {
        let watermarks = self.watermarks(topic)?;
        Ok(watermarks.into_iter().map(|(start, _)| start).collect())
    }

    /// Returns the offsets that a group has committed, by partition; `None` for partitions without a committed offset.
    pub fn committed_offsets(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let consumer: BaseConsumer = self.client_config().set("group.id", group).create()?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, self.partitions(&consumer, topic)? - 1);
        let committed = consumer.committed_offsets(wanted, ADMIN_DEADLINE)?;
        Ok(committed.elements().iter().map(|element| element.offset().to_raw().filter(|&offset| offset >= 0)).collect())
    }

    fn watermarks(&self, topic: &str) -> Result<Vec<(i64, i64)>> {
        let consumer = self.consumer()?;
        let partitions = self.partitions(&consumer, topic)?;
        let watermarks = (0..partitions).map(|partition| consumer.fetch_watermarks(topic, partition, ADMIN_DEADLINE));
        watermarks
            .collect::<KafkaResult<_>>()
            .with_context(|| format!("could not ask for the offsets of topic `{topic}`"))
    }

    fn partitions(&self, consumer: &BaseConsumer, topic: &str) -> Result<i32> {
        let metadata = consumer.fetch_metadata(Some(topic), ADMIN_DEADLINE)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        ensure!(partitions > 0, "there is no topic `{topic}` on {}", self.bootstrap_servers());
        Ok(i32::try_from(partitions)?)
    }

    pub(super) fn await_brokers(&self, deadline: Duration) -> Result<()> {
        let expected = self.bootstrap_servers().split(',').count();
        self.await_metadata("the brokers find each other", None, deadline, |metadata| {
            metadata.brokers().len() >= expected
        })
    }

    pub(super) fn await_a_broker(&self, deadline: Duration) -> Result<()> {
        self.await_metadata("a broker answers", None, deadline, |metadata| !metadata.brokers().is_empty())
    }

    fn await_leaders(&self, topic: &str, partitions: i32) -> Result<()> {
        let expected = usize::try_from(partitions)?;
        self.await_metadata("every partition has a leader", Some(topic), ADMIN_DEADLINE, |metadata| {
            metadata.topics().first().is_some_and(|topic| {
                let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
                led.count() >= expected
            })
        })
    }

    fn await_metadata(
        &self,
        what: &str,
        topic: Option<&str>,
        deadline: Duration,
        holds: impl Fn(&rdkafka::metadata::Metadata) -> bool,
    ) -> Result<()> {
        let consumer = self.consumer()?;
        let started = Instant::now();
        loop {
            let last = consumer.fetch_metadata(topic, ONE_REQUEST);
            if last.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if started.elapsed() > deadline {
                let why = last.err().map(|error| format!(": {error}")).unwrap_or_default();
                bail!("{what}: not within {deadline:?}{why}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap_servers());
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        // Tests stop and start brokers on purpose, so the client doesn't log the errors that follow.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        Ok(self.client_config().create()?)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client_config().create()?)
    }

    fn administer<F>(
        &self,
        operation: impl FnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> F,
    ) -> Result<()>
    where
        F: Future<Output = KafkaResult<Vec<Result<String, (String, RDKafkaErrorCode)>>>>,
    {
        let admin = self.admin()?;
        for outcome in block_on(operation(&admin, &options()))? {
            outcome.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN_DEADLINE)).operation_timeout(Some(ADMIN_DEADLINE))
}
