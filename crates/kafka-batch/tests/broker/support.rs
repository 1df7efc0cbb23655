//! Creates topics, records and consumers for the tests, and reads from them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_harness::{Kafka, shared, unique_name};
use tidegate_kafka_batch::{BatchQueue, Item, Record};

/// The longest time that a test waits for records or events. If a read takes longer, it has missed its wake-up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) type Place = (String, i32);

#[derive(Debug)]
pub(crate) enum Event {
    Assigned(Vec<Place>),
    Revoked(Vec<Place>),
}

/// The context of a consumer. It queues rebalances for the thread that polls.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) events: Mutex<Vec<Event>>,
    /// The answers to commits: each position, and whether Kafka accepted it.
    pub(crate) commits: Mutex<Vec<(Place, Offset, bool)>>,
    closing: Mutex<bool>,
}

impl Notes {
    pub(crate) fn close(&self) {
        *self.closing.lock().unwrap() = true;
    }
}

impl ClientContext for Notes {}

impl ConsumerContext for Notes {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if *self.closing.lock().unwrap() {
            // The tests no longer answer rebalances at this point, so answer this one here.
            consumer.unassign().or_else(|_| consumer.incremental_unassign(list)).ok();
            return;
        }
        let places = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let event = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Event::Assigned(places),
            _ => Event::Revoked(places),
        };
        self.events.lock().unwrap().push(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        let taken = |e: &TopicPartitionListElem<'_>| result.is_ok() && e.error().is_ok();
        let answers = list.elements();
        let answers = answers.iter().map(|e| ((e.topic().to_owned(), e.partition()), e.offset(), taken(e)));
        self.commits.lock().unwrap().extend(answers);
    }
}

/// A copy of a record, which outlives the bulk that the record was read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Owned {
    pub(crate) fn new(topic: &str, partition: i32, record: &Record<'_>) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            offset: record.offset(),
            key: record.key().map(Vec::from),
            value: record.value().map(Vec::from),
            timestamp: record.timestamp(),
            headers: record.headers().map(|(name, value)| (name.to_vec(), value.map(Vec::from))).collect(),
        }
    }
}

pub(crate) fn kafka() -> &'static Kafka {
    shared::kafka().unwrap()
}

pub(crate) fn topic(partitions: i32) -> String {
    let name = unique_name("bulk");
    kafka().create_topic(&name, partitions, &[]).unwrap();
    name
}

pub(crate) fn numbered(partition: i32, from: i64, to: i64) -> impl Iterator<Item = tidegate_harness::Record> {
    (from..to).map(move |n| tidegate_harness::Record::new(n.to_string()).to(partition))
}

pub(crate) fn consumer(settings: &[(&str, &str)]) -> Arc<BaseConsumer<Notes>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka().bootstrap_servers())
        .set("group.id", unique_name("group"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    Arc::new(config.create_with_context(Notes::default()).unwrap())
}

pub(crate) fn at(places: &[(&str, i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in places {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
    }
    list
}

pub(crate) fn reader(settings: &[(&str, &str)]) -> (Arc<BaseConsumer<Notes>>, BatchQueue<Notes>) {
    let consumer = consumer(settings);
    let queue = BatchQueue::new(Arc::clone(&consumer)).unwrap();
    (consumer, queue)
}

/// Serves the consumer's queue, which must not get a record. Then reads for up to a second, and returns all records of that
/// read.
pub(crate) fn turn(queue: &mut BatchQueue<Notes>) -> Vec<Owned> {
    if let Some(Ok(message)) = queue.consumer().poll(Duration::ZERO) {
        panic!("{}/{}@{} came to the consumer's queue", message.topic(), message.partition(), message.offset());
    }
    take_all(queue, Duration::from_secs(1))
}

pub(crate) fn take_all(queue: &mut BatchQueue<Notes>, wait: Duration) -> Vec<Owned> {
    let mut taken = Vec::new();
    let mut bulk = queue.read(wait).unwrap();
    while let Some(item) = bulk.next_item() {
        match item {
            Item::Run(run) => {
                let (topic, partition) = (run.topic, run.partition);
                taken.extend(run.records.map(|record| Owned::new(topic, partition, &record)));
            }
            Item::Fault(fault) => panic!("{}", fault.text()),
        }
    }
    taken
}

pub(crate) fn take(queue: &mut BatchQueue<Notes>, count: usize) -> Vec<Owned> {
    let started = Instant::now();
    let mut taken = Vec::new();
    while taken.len() < count {
        assert!(started.elapsed() < PATIENCE, "{} of {count} records have come", taken.len());
        taken.extend(turn(queue));
    }
    taken
}

pub(crate) fn offsets(records: &[Owned], partition: i32) -> Vec<i64> {
    records.iter().filter(|record| record.partition == partition).map(|record| record.offset).collect()
}

pub(crate) fn offsets_up_to(queue: &mut BatchQueue<Notes>, partition: i32, last: i64) -> Vec<i64> {
    let started = Instant::now();
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        assert!(started.elapsed() < PATIENCE, "{} records of partition {partition} have come", seen.len());
        seen.extend(offsets(&turn(queue), partition));
    }
    seen
}
