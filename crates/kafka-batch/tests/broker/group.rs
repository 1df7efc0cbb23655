//! A group of two members. Under each protocol, a rebalance ends the wait of a read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_harness::unique_name;
use tidegate_kafka_batch::BatchQueue;

use crate::support::{Event, Notes, Owned, PATIENCE, Place, consumer, kafka, numbered, take_all, topic};

const PARTITIONS: i32 = 4;

struct Member {
    queue: BatchQueue<Notes>,
    incremental: bool,
    assigned: BTreeSet<Place>,
    rebalances: usize,
}

impl Member {
    fn join(group: &str, topic: &str, protocol: &str) -> Self {
        // Under the classic protocols, a member learns of a rebalance from the answer to a heartbeat. So it sends heartbeats
        // often.
        let settings: &[(&str, &str)] = match protocol {
            "consumer" => &[("group.protocol", "consumer")],
            "eager" => &[("partition.assignment.strategy", "range"), ("heartbeat.interval.ms", "200")],
            _ => &[("partition.assignment.strategy", "cooperative-sticky"), ("heartbeat.interval.ms", "200")],
        };
        let all: Vec<_> = [("group.id", group)].iter().chain(settings).copied().collect();
        let consumer = consumer(&all);
        let queue = BatchQueue::new(consumer).unwrap();
        queue.consumer().subscribe(&[topic]).unwrap();
        Self { queue, incremental: protocol != "eager", assigned: BTreeSet::new(), rebalances: 0 }
    }

    fn answer(&mut self) -> bool {
        let polled = self.queue.consumer().poll(Duration::ZERO);
        assert!(!matches!(polled, Some(Ok(_))), "a record came to the consumer's queue");
        drop(polled);
        let events = std::mem::take(&mut *self.queue.consumer().context().events.lock().unwrap());
        let said = !events.is_empty();
        for event in events {
            self.rebalances += 1;
            match event {
                Event::Assigned(places) => {
                    let mut list = TopicPartitionList::new();
                    for (topic, partition) in &places {
                        self.queue.forward(topic, *partition).unwrap();
                        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
                    }
                    let consumer = self.queue.consumer();
                    if self.incremental {
                        consumer.incremental_assign(&list).unwrap();
                    } else {
                        consumer.assign(&list).unwrap();
                    }
                    self.assigned.extend(places);
                }
                Event::Revoked(places) => {
                    let mut list = TopicPartitionList::new();
                    for (topic, partition) in &places {
                        list.add_partition(topic, *partition);
                    }
                    let consumer = self.queue.consumer();
                    if self.incremental {
                        consumer.incremental_unassign(&list).unwrap();
                    } else {
                        consumer.unassign().unwrap();
                    }
                    for (topic, partition) in &places {
                        self.queue.unforward(topic, *partition);
                        self.assigned.remove(&(topic.clone(), *partition));
                    }
                }
            }
        }
        said
    }

    /// Reads until the group assigns or revokes partitions. The timeout is so long that only such an event can end the wait of a
    /// read in time.
    fn await_event(&mut self) {
        let started = Instant::now();
        while !self.answer() {
            assert!(take_all(&mut self.queue, PATIENCE).is_empty());
            assert!(started.elapsed() < PATIENCE, "the rebalance did not end the wait");
        }
    }

    fn turn(&mut self) -> Vec<Owned> {
        self.answer();
        take_all(&mut self.queue, Duration::from_millis(20))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.queue.consumer().context().close();
    }
}

fn two_members(protocol: &str) {
    let topic = topic(PARTITIONS);
    let group = unique_name("group");
    let all = usize::try_from(PARTITIONS).unwrap();
    let mut stays = Member::join(&group, &topic, protocol);
    while stays.assigned.len() < all {
        stays.await_event();
    }

    // The first member waits while the second one joins. No record is produced, so only the rebalance can end the wait.
    let mut guest = Member::join(&group, &topic, protocol);
    stays.await_event();
    let started = Instant::now();
    while (stays.assigned.len(), guest.assigned.len()) != (all / 2, all / 2) {
        assert!(started.elapsed() < PATIENCE, "{:?} and {:?} are assigned", stays.assigned, guest.assigned);
        assert!(stays.turn().is_empty() && guest.turn().is_empty());
    }

    kafka().produce(&topic, (0..PARTITIONS).flat_map(|p| numbered(p, 0, 10))).unwrap();
    for member in [&mut stays, &mut guest] {
        let started = Instant::now();
        let mut seen = BTreeSet::new();
        while seen.len() < all / 2 * 10 {
            assert!(started.elapsed() < PATIENCE, "{} records have come", seen.len());
            for record in member.turn() {
                assert!(member.assigned.contains(&(record.topic, record.partition)));
                assert!(seen.insert((record.partition, record.offset)), "a record came twice");
            }
        }
    }

    // The first member waits while the second one leaves.
    drop(guest);
    let started = Instant::now();
    let before = stays.rebalances;
    stays.await_event();
    let mut moved = BTreeSet::new();
    while moved.len() < all * 10 - 20 {
        assert!(started.elapsed() < PATIENCE, "{} records of the moved partitions have come", moved.len());
        moved.extend(stays.turn().into_iter().map(|record| (record.partition, record.offset)));
    }
    assert!(stays.rebalances > before);
}

#[test]
fn a_rebalance_ends_the_wait_under_the_cooperative_protocol() {
    two_members("cooperative");
}

#[test]
fn a_rebalance_ends_the_wait_under_the_eager_protocol() {
    two_members("eager");
}

#[test]
fn a_rebalance_ends_the_wait_under_the_consumer_protocol() {
    two_members("consumer");
}
