//! The lag's requests to Kafka other than those for log ends. They are made every few seconds, and only if needed.

use std::collections::{BTreeMap, HashSet, VecDeque};

use tidegate_protocol::position::{Offset, TopicPartition};
use tracing::{debug, warn};

use super::headroom::Retention;
use super::{LagWatch, PartitionLag};
use crate::kafka::times::Undated;
use crate::status::Trouble;

/// If a lag of at most this many offsets doesn't change, it may consist of transaction markers only. Then the range is read.
const MARKS_MAX: u64 = 16;

/// A partition's place in the ledger and in its log.
pub(super) struct Place {
    pub source: TopicPartition,
    /// The offset of the oldest unwritten record.
    pub next: Offset,
    pub end: Offset,
    /// The timestamp of the last written record, in milliseconds since the epoch.
    pub last_timestamp: Option<i64>,
}

impl LagWatch {
    /// Stores Kafka's answer on the topics' retention, and logs once if there is none.
    pub(super) fn keep_retention(&mut self, names: &[String], answer: Result<BTreeMap<String, Retention>, Trouble>) {
        let (read, why) = match answer {
            Ok(read) => (read, "Kafka refuses to describe the topic".to_owned()),
            Err(trouble) => (BTreeMap::new(), trouble.to_string()),
        };
        for (topic, known) in self.retention.keep(names, &read) {
            let means = if known { "the headroom is computed from the last known one" } else { "there is no headroom" };
            warn!(pipeline = &*self.pipeline, topic, why, means, "the topic's retention can't be read");
        }
    }

    /// Requests the timestamps of the oldest unwritten records if no sample is that old.
    pub(super) async fn date(&mut self, places: &[Place], now: i64) {
        let unknown = |place: &&Place| {
            let sampled = self.samples.get(&place.source).and_then(VecDeque::front);
            let sampled = sampled.is_some_and(|(_, first)| *first <= place.next);
            let known = self.made_at.get(&place.source).is_some_and(|(offset, _)| *offset == place.next);
            place.next < place.end && !sampled && !known
        };
        let undated = |place: &Place| {
            let earlier = self.made_at.get(&place.source).filter(|(offset, _)| *offset < place.next).map(|(_, ms)| *ms);
            let since = place.last_timestamp.max(earlier);
            Undated { source: place.source.clone(), offset: place.next, since }
        };
        let wanted: Vec<_> = places.iter().filter(unknown).map(undated).collect();
        if wanted.is_empty() {
            return;
        }
        let requests = wanted.clone();
        match self.ask(move |observer| observer.times_of(&requests, now)).await {
            Ok(times) => {
                let found = wanted.into_iter().zip(times).map(|(record, ms)| (record.source, (record.offset, ms)));
                self.made_at.extend(found);
            }
            Err(why) => debug!(pipeline = &*self.pipeline, %why, "can't read the age of the oldest unwritten records"),
        }
    }

    /// Reads short ranges at log ends that don't move. They may contain only transaction markers, which must not count
    /// as lag. Reading is the only way to know: without a record, no batch advances the ledger past the markers.
    pub(super) async fn read_ends(&mut self, places: &[Place], before: &BTreeMap<TopicPartition, PartitionLag>) {
        let stands = |Place { source, next, end, .. }: &&Place| {
            let lag = end.distance_from(*next);
            let moved = before.get(source).is_some_and(|lag| lag.next != *next || lag.end != *end);
            let known = self.ends_read.get(source).is_some_and(|(range, _)| *range == (*next..*end));
            (1..=MARKS_MAX).contains(&lag) && !moved && !known && self.read_to(source, *next) < *end
        };
        let wanted: Vec<_> =
            places.iter().filter(stands).map(|place| (place.source.clone(), place.next..place.end)).collect();
        if wanted.is_empty() {
            return;
        }
        let requests = wanted.clone();
        match self.ask(move |observer| observer.empty_stretches(&requests)).await {
            Ok(empty) => {
                let empty: HashSet<_> = empty.into_iter().collect();
                for (source, range) in wanted {
                    let holds = !empty.contains(&source);
                    self.ends_read.insert(source, (range, holds));
                }
            }
            Err(why) => debug!(pipeline = &*self.pipeline, %why, "can't read the end of a log"),
        }
    }
}
