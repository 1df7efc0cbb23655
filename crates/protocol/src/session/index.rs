//! Finds a partition's slot (its index in the session) by topic and number, without an allocation.

use std::collections::HashMap;
use std::sync::Arc;

use crate::position::TopicPartition;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// The slots of each topic, by partition number. Kafka numbers partitions from 0 without gaps.
    topics: HashMap<Arc<str>, Vec<Option<usize>>>,
}

impl Index {
    #[inline]
    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<usize> {
        *self.topics.get(topic)?.get(usize::try_from(partition).ok()?)?
    }

    pub(super) fn of(&self, source: &TopicPartition) -> Option<usize> {
        self.get(&source.topic, source.partition)
    }

    /// Sets the slot of a partition.
    ///
    /// # Panics
    /// If the partition's number is negative: Kafka assigns no such partition.
    pub(super) fn insert(&mut self, source: &TopicPartition, slot: usize) {
        let number = usize::try_from(source.partition).expect("an assigned partition has a number");
        let slots = self.topics.entry(Arc::clone(&source.topic)).or_default();
        if slots.len() <= number {
            slots.resize(number + 1, None);
        }
        slots[number] = Some(slot);
    }

    pub(super) fn remove(&mut self, source: &TopicPartition) -> Option<usize> {
        self.topics.get_mut(&*source.topic)?.get_mut(usize::try_from(source.partition).ok()?)?.take()
    }
}
