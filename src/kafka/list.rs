//! Lists of partitions in librdkafka's form.

use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tidegate_protocol::position::TopicPartition;

/// Returns the list of these partitions and offsets. Takes time in proportion to their number. With
/// [`TopicPartitionList::add_partition_offset`] it would take longer, because each call searches the list for the partition
/// that it has just added.
///
/// # Errors
/// If an offset is negative.
pub fn partition_list<'a>(
    places: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let places = places.into_iter();
    let mut list = TopicPartitionList::with_capacity(places.size_hint().0);
    for (source, offset) in places {
        list.add_partition(&source.topic, source.partition).set_offset(offset)?;
    }
    Ok(list)
}
