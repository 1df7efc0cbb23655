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

/// If Kafka sends nothing for this long, reading a topic's ranges is given up. The limit is short, because the lag isn't updated
/// meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The result of [`Observer::ranges_without_records`]: the partitions
/// whose range was read, and those of them whose range contains no record.
#[derive(Debug, Default)]
pub struct RangesRead {
    pub read: Vec<TopicPartition>,
    pub empty: Vec<TopicPartition>,
}

impl Observer {
    /// Reads these ranges. Returns the partitions whose range was read and, among these, the partitions whose range contains
    /// no record that Kafka would deliver. A range without such a record holds at most transaction markers and aborted
    /// records. The ranges of one topic are read together. Topics that can't be read are left out. The first topic is always
    /// read. No further topic is begun once the call has taken `limit`. As soon as a topic couldn't be read, the limit is at most
    /// `SILENCE_MAX`.
    ///
    /// # Errors
    /// If no client can be created, or none of the topics could be read.
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
            // If a topic fails at once, for example because Kafka has deleted an offset, still read the other topics. If it
            // failed after a long silence, Kafka probably doesn't answer, so don't wait for the other topics too.
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
