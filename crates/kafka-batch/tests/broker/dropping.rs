//! Drops consumer, queue and bulk in different orders. These tests are mainly meant for a run under valgrind, which reports
//! memory that is used after it was freed, or never freed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use tidegate_kafka_batch::{BatchQueue, Item};

use crate::support::{Notes, PATIENCE, at, kafka, numbered, offsets, offsets_up_to, reader, take_all, topic};

const RECORDS: i64 = 1_500;

/// Returns a reader of a topic of two partitions. Its first bulk has been read, and librdkafka holds more records.
fn halfway() -> (String, Arc<BaseConsumer<Notes>>, BatchQueue<Notes>) {
    let topic = topic(2);
    kafka().produce(&topic, (0..2).flat_map(|p| numbered(p, 0, RECORDS))).unwrap();
    let (consumer, mut queue) = reader(&[]);
    for partition in 0..2 {
        queue.forward(&topic, partition).unwrap();
    }
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    while queue.read(PATIENCE).unwrap().is_empty() {
        consumer.poll(Duration::ZERO);
    }
    (topic, consumer, queue)
}

#[test]
fn the_consumer_goes_on_where_a_dropped_queue_ended() {
    let (_topic, consumer, mut queue) = halfway();
    let mut taken = take_all(&mut queue, PATIENCE);
    taken.extend(take_all(&mut queue, PATIENCE));
    let mut seen = [offsets(&taken, 0), offsets(&taken, 1)];
    drop(queue);
    let started = Instant::now();
    while seen.iter().map(Vec::len).sum::<usize>() < 2 * usize::try_from(RECORDS).unwrap() {
        assert!(started.elapsed() < PATIENCE, "{} and {} records have come", seen[0].len(), seen[1].len());
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            let message = message.unwrap();
            seen[usize::try_from(message.partition()).unwrap()].push(message.offset());
        }
    }
    for offsets in seen {
        assert_eq!(offsets, (0..RECORDS).collect::<Vec<_>>());
    }
}

#[test]
fn the_queue_may_be_the_last_that_holds_the_consumer() {
    let (_topic, consumer, queue) = halfway();
    drop(consumer);
    drop(queue);
}

#[test]
fn a_queue_may_end_on_another_thread_with_records_taken_and_untaken() {
    let (_topic, consumer, mut queue) = halfway();
    std::thread::spawn(move || {
        let mut bulk = queue.read(PATIENCE).unwrap();
        let Some(Item::Run(mut run)) = bulk.next_item() else { panic!("the bulk has records") };
        assert_eq!(run.records.next().unwrap().offset(), 0);
        std::mem::forget(bulk);
    })
    .join()
    .unwrap();
    drop(consumer);
}

#[test]
fn a_queue_may_end_after_the_assignment_and_after_the_subscription() {
    let (_topic, consumer, queue) = halfway();
    consumer.unassign().unwrap();
    consumer.unsubscribe();
    drop(queue);
    drop(consumer);
}

#[test]
fn a_consumer_may_be_closed_while_its_queue_lives() {
    let (_topic, consumer, mut queue) = halfway();
    consumer.context().close();
    consumer.close_queue().unwrap();
    let started = Instant::now();
    while !consumer.closed() {
        assert!(started.elapsed() < PATIENCE, "the consumer does not close");
        consumer.poll(Duration::from_millis(20));
    }
    queue.read(Duration::ZERO).unwrap();
    drop(queue);
}

#[test]
fn two_queues_of_one_consumer_may_end_in_any_order() {
    for first_ends_first in [true, false] {
        let (topic, consumer, first) = halfway();
        let mut second = BatchQueue::new(Arc::clone(&consumer)).unwrap();
        second.forward(&topic, 0).unwrap();
        consumer.assign(&at(&[(&topic, 0, 0)])).unwrap();
        let mut first = Some(first);
        if first_ends_first {
            first = None;
            // Dropping `first` forwarded the partition to the consumer's queue, so forward it again.
            second.forward(&topic, 0).unwrap();
        }
        let started = Instant::now();
        let mut seen = Vec::new();
        while seen.len() < usize::try_from(RECORDS).unwrap() {
            assert!(started.elapsed() < PATIENCE, "{} records have come", seen.len());
            seen.extend(offsets(&take_all(&mut second, Duration::from_millis(20)), 0));
            if let Some(message) = consumer.poll(Duration::ZERO) {
                seen.push(message.unwrap().offset());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..RECORDS).collect::<Vec<_>>());
        drop(second);
        if let Some(mut first) = first {
            first.unforward(&topic, 0);
            first.read(Duration::ZERO).unwrap();
        }
    }
}

#[test]
fn the_bindings_own_queue_and_callback_may_replace_ours() {
    let (topic, consumer, mut queue) = halfway();
    let mut split = consumer.split_partition_queue(&topic, 0).unwrap();
    split.set_nonempty_callback(|| {});
    consumer.assign(&at(&[(&topic, 0, 0), (&topic, 1, 0)])).unwrap();
    queue.discard(&topic, 0);
    queue.discard(&topic, 1);
    assert_eq!(offsets_up_to(&mut queue, 1, RECORDS - 1), (0..RECORDS).collect::<Vec<_>>());
    queue.unforward(&topic, 0);
    drop(split);
    drop(queue);
}
