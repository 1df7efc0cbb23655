//! Errors in a partition's stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidegate_kafka_batch::{BatchQueue, Item};

use crate::support::{Notes, PATIENCE, at, kafka, numbered, offsets_up_to, reader, topic};

struct Said {
    code: RDKafkaErrorCode,
    error: KafkaError,
    text: String,
    place: (String, i32, i64),
}

/// Takes records up to the first fault. Returns the offsets of these records, and the contents of the fault.
fn first_fault(queue: &mut BatchQueue<Notes>) -> (Vec<i64>, Said) {
    let started = Instant::now();
    let mut before = Vec::new();
    loop {
        assert!(started.elapsed() < PATIENCE, "no fault has come");
        queue.consumer().poll(Duration::ZERO);
        let mut bulk = queue.read(Duration::from_secs(1)).unwrap();
        while let Some(item) = bulk.next_item() {
            match item {
                Item::Run(run) => before.extend(run.records.map(|record| record.offset())),
                Item::Fault(fault) => {
                    let place = (fault.topic().to_owned(), fault.partition(), fault.offset());
                    let (code, error) = (fault.code(), fault.error());
                    return (before, Said { code, error, text: fault.text().into_owned(), place });
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_partition_is_a_fault_behind_its_records() {
    let topic = topic(2);
    kafka().produce(&topic, numbered(1, 0, 20)).unwrap();
    let (consumer, mut queue) = reader(&[("enable.partition.eof", "true")]);
    queue.forward(&topic, 1).unwrap();
    consumer.assign(&at(&[(&topic, 1, 0)])).unwrap();
    let (before, said) = first_fault(&mut queue);
    assert_eq!(before, (0..20).collect::<Vec<_>>());
    assert_eq!(said.code, RDKafkaErrorCode::PartitionEOF);
    assert_eq!(said.error, KafkaError::PartitionEOF(1));
    assert_eq!(said.place, (topic.clone(), 1, 20));
    assert!(said.text.contains("reached end of partition"), "{}", said.text);
    kafka().produce(&topic, numbered(1, 20, 30)).unwrap();
    // A second fault follows after the next records.
    assert_eq!(first_fault(&mut queue).0, (20..30).collect::<Vec<_>>());
}

#[test]
fn an_offset_outside_of_the_log_is_a_fault_that_names_its_partition() {
    let topic = topic(2);
    kafka().produce(&topic, numbered(0, 0, 5).chain(numbered(1, 0, 5))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 1_000)])).unwrap();
    let (_, said) = first_fault(&mut queue);
    assert_eq!(said.code, RDKafkaErrorCode::AutoOffsetReset);
    assert_eq!(said.error, KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset));
    assert_eq!((said.place.0.as_str(), said.place.1), (topic.as_str(), 1));
    assert!(said.text.contains("out of range"), "{}", said.text);
}

#[test]
fn a_record_after_a_fault_survives_a_pause_with_a_seek() {
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, 10)).unwrap();
    let (consumer, mut queue) = reader(&[("enable.partition.eof", "true")]);
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    assert_eq!(first_fault(&mut queue).1.place.2, 10);
    // The fault's offset is 10, where there is no record yet, and the position is 11. If a new librdkafka returns 10
    // here, update the crate's documentation: the seek is then no longer needed.
    let position = consumer.position().unwrap().find_partition(&topic, 0).unwrap().offset();
    assert_eq!(position, rdkafka::Offset::Offset(11));
    consumer.pause(&at(&[(&topic, 0, 0)])).unwrap();
    kafka().produce(&topic, numbered(0, 10, 20)).unwrap();
    consumer.seek_partitions(at(&[(&topic, 0, 10)]), PATIENCE).unwrap();
    consumer.resume(&at(&[(&topic, 0, 0)])).unwrap();
    assert_eq!(first_fault(&mut queue).0, (10..20).collect::<Vec<_>>());
}

#[test]
fn a_consumer_without_a_group_is_refused() {
    let consumer: BaseConsumer<Notes> = ClientConfig::new()
        .set("bootstrap.servers", kafka().bootstrap_servers())
        .create_with_context(Notes::default())
        .unwrap();
    assert!(matches!(BatchQueue::new(Arc::new(consumer)), Err(KafkaError::ClientCreation(_))));
}

#[test]
fn what_is_no_partition_is_not_forwarded() {
    let (consumer, mut queue) = reader(&[]);
    let long = "x".repeat(1_000);
    for (topic, partition) in [("", 0), ("a\0b", 0), ("topic", -1), ("topic", i32::MIN), (long.as_str(), 0)] {
        assert!(matches!(queue.forward(topic, partition), Err(KafkaError::Subscription(_))), "{topic} {partition}");
    }
    // The broker doesn't know this partition, but it may be created later, so it is forwarded too.
    queue.forward("nowhere", 7).unwrap();
    queue.unforward("nowhere", 7);
    queue.unforward("never_forwarded", 7);
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, 3)).unwrap();
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    assert_eq!(offsets_up_to(&mut queue, 0, 2), [0, 1, 2]);
}
