//! Forwards partitions, assigns them, takes them away and assigns them again.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::message::Message;

use crate::support::{PATIENCE, at, kafka, numbered, offsets, offsets_up_to, reader, take, take_all, topic};

const RECORDS: i64 = 50;

/// In each round, the test forwards the partitions for the new assignment, while the old assignment's fetches end and clear the
/// forwarding. The test waits for records before the next round, because librdkafka aborts the process if a partition is taken
/// away twice before its fetch has ended.
#[test]
fn a_partition_that_is_assigned_again_at_once_goes_on() {
    let topic = topic(3);
    kafka().produce(&topic, (0..3).flat_map(|p| numbered(p, 0, RECORDS))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    let all: Vec<_> = (0..3).map(|p| (topic.as_str(), p, 0)).collect();
    for _ in 0..10 {
        for partition in 0..3 {
            queue.forward(&topic, partition).unwrap();
        }
        consumer.assign(&at(&all)).unwrap();
        let seen = take(&mut queue, 3 * usize::try_from(RECORDS).unwrap());
        for partition in 0..3 {
            assert_eq!(offsets(&seen, partition), (0..RECORDS).collect::<Vec<_>>());
        }
    }
    consumer.unassign().unwrap();
    for _ in 0..10 {
        for partition in 0..3 {
            queue.forward(&topic, partition).unwrap();
        }
        consumer.incremental_assign(&at(&all)).unwrap();
        let seen = take(&mut queue, 3 * usize::try_from(RECORDS).unwrap());
        for partition in 0..3 {
            assert_eq!(offsets(&seen, partition), (0..RECORDS).collect::<Vec<_>>());
        }
        // The caller moves one partition to another offset.
        consumer.incremental_unassign(&at(&[(&topic, 1, 0)])).unwrap();
        queue.unforward(&topic, 1);
        queue.forward(&topic, 1).unwrap();
        consumer.incremental_assign(&at(&[(&topic, 1, 5)])).unwrap();
        assert_eq!(offsets_up_to(&mut queue, 1, RECORDS - 1), (5..RECORDS).collect::<Vec<_>>());
        consumer.incremental_unassign(&at(&all)).unwrap();
    }
}

/// `assign` stops and restarts the partitions that were already assigned. The caller calls `forward` only for the new
/// partition.
#[test]
fn an_assignment_of_more_partitions_keeps_the_earlier_ones() {
    let topic = topic(4);
    kafka().produce(&topic, (0..4).flat_map(|p| numbered(p, 0, RECORDS))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    let all: Vec<_> = (0..4).map(|p| (topic.as_str(), p, 0)).collect();
    for (n, (name, partition, _)) in all.iter().enumerate() {
        queue.forward(name, *partition).unwrap();
        consumer.assign(&at(&all[..=n])).unwrap();
        let seen = take(&mut queue, (n + 1) * usize::try_from(RECORDS).unwrap());
        for partition in 0..=*partition {
            assert_eq!(offsets(&seen, partition), (0..RECORDS).collect::<Vec<_>>());
        }
    }
}

#[test]
fn after_unforwarding_the_consumer_has_the_partition() {
    let topic = topic(2);
    kafka().produce(&topic, (0..2).flat_map(|p| numbered(p, 0, RECORDS))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    take(&mut queue, 2 * usize::try_from(RECORDS).unwrap());
    queue.unforward(&topic, 0);
    kafka().produce(&topic, (0..2).flat_map(|p| numbered(p, RECORDS, 2 * RECORDS))).unwrap();
    let started = Instant::now();
    let (mut by_poll, mut in_bulk) = (Vec::new(), Vec::new());
    let rest: Vec<_> = (RECORDS..2 * RECORDS).collect();
    while by_poll.len() < rest.len() || in_bulk.len() < rest.len() {
        assert!(started.elapsed() < PATIENCE, "{} and {} records have come", by_poll.len(), in_bulk.len());
        if let Some(message) = consumer.poll(Duration::from_millis(10)) {
            let message = message.unwrap();
            assert_eq!(message.partition(), 0);
            by_poll.push(message.offset());
        }
        let taken = take_all(&mut queue, Duration::ZERO);
        assert!(offsets(&taken, 0).is_empty());
        in_bulk.extend(offsets(&taken, 1));
    }
    assert_eq!((by_poll, in_bulk), (rest.clone(), rest));
    // Assign the partition again.
    queue.forward(&topic, 0).unwrap();
    consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
    assert_eq!(offsets_up_to(&mut queue, 0, 2 * RECORDS - 1), (0..2 * RECORDS).collect::<Vec<_>>());
}

#[test]
fn after_a_partition_is_taken_away_nothing_of_it_comes() {
    let topic = topic(2);
    kafka().produce(&topic, (0..2).flat_map(|p| numbered(p, 0, 1_000))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[])).unwrap();
    consumer.incremental_assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    // These records are read and not taken.
    while queue.read(PATIENCE).unwrap().is_empty() {
        consumer.poll(Duration::ZERO);
    }
    consumer.incremental_unassign(&at(&[(&topic, 0, 0)])).unwrap();
    queue.unforward(&topic, 0);
    let started = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 1_000 {
        assert!(started.elapsed() < PATIENCE, "{} records have come", seen.len());
        seen.extend(crate::support::turn(&mut queue));
    }
    assert_eq!(offsets(&seen, 1), (0..1_000).collect::<Vec<_>>());
    assert!(offsets(&seen, 0).is_empty());
}
