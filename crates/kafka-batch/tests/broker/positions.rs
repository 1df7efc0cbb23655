//! Seeks, pauses, resumes and commits.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use tidegate_kafka_batch::Item;

use crate::support::{PATIENCE, at, kafka, numbered, offsets_up_to, reader, topic};

const RECORDS: i64 = 2_000;

/// Reads a bulk that has records, and takes up to `count` records of its first run. Returns their offsets. Panics if this
/// leaves nothing in the bulk.
fn take_some(queue: &mut tidegate_kafka_batch::BatchQueue<crate::support::Notes>, count: usize) -> Vec<i64> {
    loop {
        queue.consumer().poll(Duration::ZERO);
        let mut bulk = queue.read(PATIENCE).unwrap();
        let Some(Item::Run(run)) = bulk.next_item() else { continue };
        let taken: Vec<_> = run.records.take(count).map(|record| record.offset()).collect();
        assert!(!bulk.is_empty(), "the bulk was too small to leave something");
        return taken;
    }
}

#[test]
fn after_a_seek_nothing_stale_comes() {
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, RECORDS)).unwrap();
    let (consumer, mut queue) = reader(&[]);
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    for target in [0, 500, 3, 1_900, 0] {
        take_some(&mut queue, 10);
        queue.discard(&topic, 0);
        consumer.seek_partitions(at(&[(&topic, 0, target)]), PATIENCE).unwrap();
        let first = take_some(&mut queue, 10);
        assert_eq!(first, (target..target + 10).collect::<Vec<_>>());
    }
    assert_eq!(offsets_up_to(&mut queue, 0, RECORDS - 1), (10..RECORDS).collect::<Vec<_>>());
}

#[test]
fn discarding_a_partition_keeps_the_others() {
    let topic = topic(2);
    let records = (0..RECORDS).flat_map(|n| numbered(0, n, n + 1).chain(numbered(1, n, n + 1)));
    kafka().produce(&topic, records).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    take_some(&mut queue, 1);
    queue.discard(&topic, 0);
    queue.discard("another", 1);
    consumer.seek_partitions(at(&[(&topic, 0, 0)]), PATIENCE).unwrap();
    let mut seen = [Vec::new(), Vec::new()];
    while seen.iter().any(|offsets| offsets.last() != Some(&(RECORDS - 1))) {
        for record in crate::support::turn(&mut queue) {
            seen[usize::try_from(record.partition).unwrap()].push(record.offset);
        }
    }
    assert_eq!(seen[0], (0..RECORDS).collect::<Vec<_>>());
    // `take_some` took one record. If it was of partition 1, its offset is missing here.
    assert!(seen[1] == (0..RECORDS).collect::<Vec<_>>() || seen[1] == (1..RECORDS).collect::<Vec<_>>());
}

#[test]
fn a_pause_between_taken_and_untaken_records_loses_and_repeats_nothing() {
    let topic = topic(1);
    kafka().produce(&topic, numbered(0, 0, RECORDS)).unwrap();
    let (consumer, mut queue) = reader(&[]);
    queue.forward(&topic, 0).unwrap();
    let here = at(&[(&topic, 0, 0)]);
    consumer.assign(&here).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(take_some(&mut queue, 10));
        consumer.pause(&here).unwrap();
        // Records that were read and not taken are returned even while the partition is paused.
        seen.extend(take_some(&mut queue, 10));
        consumer.resume(&here).unwrap();
    }
    seen.extend(offsets_up_to(&mut queue, 0, RECORDS - 1));
    assert_eq!(seen, (0..RECORDS).collect::<Vec<_>>());
}

#[test]
fn the_answer_to_a_commit_comes_with_a_later_poll() {
    let topic = topic(1);
    let (consumer, queue) = reader(&[]);
    queue.commit(&at(&[(&topic, 0, 7)])).unwrap();
    let started = Instant::now();
    while consumer.context().commits.lock().unwrap().is_empty() {
        assert!(started.elapsed() < PATIENCE, "no answer");
        drop(consumer.poll(Duration::from_millis(20)));
    }
    let answers = std::mem::take(&mut *consumer.context().commits.lock().unwrap());
    assert_eq!(answers, [((topic, 0), Offset::Offset(7), true)]);
}
