//! Reads ranges of logs, to find out whether they contain a record.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::Message as _;
use tidegate_protocol::position::{Offset, TopicPartition};

use super::Observer;
use crate::kafka::reader::Reader;
use crate::kafka::settings;

/// If Kafka sends nothing for this long, reading the ends of logs is given up. The limit is short, because a reading of the lag
/// waits meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Ranges of logs that were read.
#[derive(Debug, Default)]
pub struct RangesRead {
    /// The partitions whose range was read.
    pub read: Vec<TopicPartition>,
    /// Those of them whose range contains no record.
    pub empty: Vec<TopicPartition>,
}

impl Observer {
    /// Reads these ranges. Returns which of them were read, and which of these contain no record that Kafka would deliver. Such
    /// a range holds only transaction markers and aborted records. The ranges of one topic are read together. After `limit`, no
    /// further topic is read.
    ///
    /// # Errors
    /// If no client can be created, or no topic can be read.
    pub fn ranges_without_records(
        &self,
        ranges: &[(TopicPartition, Range<Offset>)],
        limit: Duration,
    ) -> Result<RangesRead, String> {
        let began = Instant::now();
        let reader = Reader::new(&settings::to_read(self.settings.clone()))?.with_silence_limit(SILENCE_MAX);
        let mut found = RangesRead::default();
        let mut topics: Vec<&Arc<str>> = Vec::new();
        for (source, _) in ranges {
            if !topics.contains(&&source.topic) {
                topics.push(&source.topic);
            }
        }
        let mut failed = None;
        for topic in topics {
            // Other topics are read even if one fails at once, for example because Kafka has deleted an offset.
            let limit = if failed.is_some() { limit.min(SILENCE_MAX) } else { limit };
            if (failed.is_some() || !found.read.is_empty()) && began.elapsed() >= limit {
                break;
            }
            let of_topic = ranges.iter().filter(|(source, _)| source.topic == *topic);
            let ranges: Vec<_> = of_topic.clone().map(|(source, range)| (source.partition, range.clone())).collect();
            let mut hold = BTreeSet::new();
            if let Err(why) = reader.read(topic, &ranges, |message| _ = hold.insert(message.partition())) {
                failed = Some(why);
                continue;
            }
            found.read.extend(of_topic.clone().map(|(source, _)| source.clone()));
            let empty = of_topic.filter(|(source, _)| !hold.contains(&source.partition));
            found.empty.extend(empty.map(|(source, _)| source.clone()));
        }
        match failed {
            Some(why) if found.read.is_empty() => Err(why),
            _ => Ok(found),
        }
    }
}
