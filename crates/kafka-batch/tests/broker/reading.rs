//! Checks that every record arrives once, whole and in order.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use tidegate_harness::Record;
use tidegate_kafka_batch::{Item, MAX_MESSAGES};

use crate::support::{Owned, PATIENCE, at, kafka, numbered, reader, take, take_all, topic};

const PARTITIONS: i32 = 4;
const PER_PARTITION: i64 = 700;

/// Returns record number `n`. Together, the records have every combination of the optional parts.
fn varied(n: i64) -> Record {
    let record = match n % 4 {
        0 => Record::tombstone(),
        1 => Record::new(""),
        _ => Record::new(format!("value {n}")),
    };
    let record = match n % 3 {
        0 => record,
        1 => record.key(""),
        _ => record.key(format!("key {n}")),
    };
    let mut record = record.at_ms(1_700_000_000_000 + n);
    if n % 5 == 0 {
        record = record.header("name", format!("{n}")).header("name", "again").header("ümläut", "");
        record.headers.push(("null".to_owned(), None));
    }
    record
}

fn expected(topic: &str, partition: i32, offset: i64) -> Owned {
    let record = varied(offset);
    Owned {
        topic: topic.to_owned(),
        partition,
        offset,
        key: record.key,
        value: record.payload,
        timestamp: record.timestamp_ms,
        headers: record.headers.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
    }
}

#[test]
fn every_record_of_two_topics_arrives_once_whole_and_in_order() {
    let topics = [topic(PARTITIONS), topic(PARTITIONS)];
    let (consumer, mut queue) = reader(&[]);
    let mut starts = Vec::new();
    for topic in &topics {
        let records = (0..PER_PARTITION).flat_map(|n| (0..PARTITIONS).map(move |p| varied(n).to(p)));
        kafka().produce(topic, records).unwrap();
        for partition in 0..PARTITIONS {
            queue.forward(topic, partition).unwrap();
            starts.push((topic.as_str(), partition, 0));
        }
    }
    consumer.assign(&at(&starts)).unwrap();
    let total = starts.len() * usize::try_from(PER_PARTITION).unwrap();
    let mut all = take(&mut queue, total);
    assert_eq!(all.len(), total);
    // The sort is stable: records of one partition keep the order in which they came.
    all.sort_by_key(|record| (record.topic != topics[0], record.partition));
    let wanted = topics
        .iter()
        .flat_map(|t| (0..PARTITIONS).flat_map(move |p| (0..PER_PARTITION).map(move |n| expected(t, p, n))));
    for (record, wanted) in all.iter().zip(wanted) {
        assert_eq!(*record, wanted);
    }
    assert!(take_all(&mut queue, Duration::ZERO).is_empty());
}

#[test]
fn a_caller_may_stop_anywhere_and_goes_on_there() {
    let topic = topic(2);
    kafka().produce(&topic, numbered(0, 0, 2_000).chain(numbered(1, 0, 2_000))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut next = [0, 0];
    while next != [2_000, 2_000] {
        let mut bulk = queue.read(PATIENCE).unwrap();
        assert!(bulk.len() <= MAX_MESSAGES);
        let left = bulk.len();
        let mut taken = 0;
        for _ in 0..random.usize(0..4) {
            let Some(item) = bulk.next_item() else { break };
            let Item::Run(run) = item else { panic!("no fault is expected") };
            let next = &mut next[usize::try_from(run.partition).unwrap()];
            for record in run.records.take(random.usize(0..400)) {
                assert_eq!(record.offset(), *next);
                assert_eq!(record.value(), Some(next.to_string().as_bytes()));
                (*next, taken) = (*next + 1, taken + 1);
            }
        }
        assert_eq!(bulk.len(), left - taken);
        if random.bool() {
            // Safe code may forget a bulk. The next read then destroys the taken records, as the drop would have done.
            std::mem::forget(bulk);
        }
    }
}

#[test]
fn records_of_a_bulk_may_be_kept_until_it_is_dropped() {
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, 300)).unwrap();
    let (consumer, mut queue) = reader(&[]);
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    let mut next = 0;
    while next < 300 {
        let mut bulk = queue.read(PATIENCE).unwrap();
        let Some(Item::Run(run)) = bulk.next_item() else { continue };
        let kept: Vec<_> = run.records.collect();
        for record in kept {
            assert_eq!(record.offset(), next);
            next += 1;
        }
    }
}

#[test]
fn a_read_returns_with_the_first_record_and_not_with_a_full_bulk() {
    let topic = topic(1);
    let (consumer, mut queue) = reader(&[]);
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    for n in 0..3 {
        // The thread must first open a connection, so the record comes while the read waits.
        let produced = std::thread::spawn({
            let topic = topic.clone();
            move || kafka().produce(&topic, numbered(0, n, n + 1)).unwrap()
        });
        let started = Instant::now();
        let mut taken = Vec::new();
        // An event may end the wait before the record comes.
        while taken.is_empty() {
            consumer.poll(Duration::ZERO);
            taken = take_all(&mut queue, PATIENCE);
            assert!(started.elapsed() < PATIENCE);
        }
        assert_eq!(taken.iter().map(|record| record.offset).collect::<Vec<_>>(), [n]);
        produced.join().unwrap();
    }
}

/// librdkafka calls the callback only when an entry arrives in the consumer's queue while the queue is empty. So a read must
/// first check whether that queue already has entries.
#[test]
fn a_read_does_not_wait_while_the_consumers_queue_has_something() {
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, 10)).unwrap();
    let (consumer, mut queue) = reader(&[]);
    // The partition isn't forwarded to our queue, so its ten records come to the consumer's queue.
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    let started = Instant::now();
    let mut polled = 0;
    while polled < 10 {
        assert!(take_all(&mut queue, PATIENCE).is_empty());
        assert!(started.elapsed() < PATIENCE, "the read waited, though {} records were to be polled", 10 - polled);
        if let Some(message) = consumer.poll(Duration::ZERO) {
            message.unwrap();
            polled += 1;
        }
    }
}
