//! Requests to Kafka for timestamps and for the records at the ends of logs, with which the lag is computed more exactly.
//! Every tenth reading makes the requests that are needed. In the daemon, the number of requests per reading is limited, so that
//! a reading ends within a few seconds however many partitions there are. The next readings make the requests that are left.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tidegate_protocol::position::{Offset, TopicPartition};
use tracing::{debug, warn};

use super::headroom::Retention;
use super::known::Known;
use super::{LagWatch, PartitionLag};
use crate::kafka::times::Undated;
use crate::status::Trouble;

/// A lag of at most this many offsets that doesn't change may consist of transaction markers only. To find out, a reading reads
/// the offsets between the ledger's position and the log's end.
const MARKS_MAX: u64 = 16;

/// How much one reading may request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// The most partitions for which a timestamp is requested, and also the most for which the end of the log is read.
    pub partitions: usize,
    /// How long the ends of logs may be read. After this time, the ends of the remaining topics are left for the next reading.
    pub reading: Duration,
}

impl Effort {
    /// The limits of one reading by the daemon. Requests beyond these limits are left for the next readings.
    pub(super) const BOUNDED: Self = Self { partitions: 200, reading: Duration::from_secs(2) };
    /// No limits, for commands: a command takes only one reading, so no request can be left for a later one.
    pub(super) const WHOLE: Self = Self { partitions: usize::MAX, reading: Duration::MAX };
}

pub(super) struct Place {
    pub source: TopicPartition,
    /// The ledger's position: the offset of the oldest unwritten record.
    pub next: Offset,
    pub end: Offset,
    /// The timestamp of the last written record, in milliseconds since the epoch.
    pub last_timestamp: Option<i64>,
}

/// Selects at most `max` items: those whose last request is the longest ago. `last` returns the number of the reading in which an
/// item was last requested. Also returns whether items were left out.
pub(super) fn oldest<T>(mut wanted: Vec<T>, max: usize, last: impl Fn(&T) -> u64) -> (Vec<T>, bool) {
    wanted.sort_by_key(last);
    let is_more = wanted.len() > max;
    wanted.truncate(max);
    (wanted, is_more)
}

impl LagWatch {
    /// Stores Kafka's answer on the topics' retention. Logs each topic whose retention has become unreadable.
    pub(super) fn keep_retention(&mut self, names: &[String], answer: Result<BTreeMap<String, Retention>, Trouble>) {
        let (read, why) = match answer {
            Ok(read) => (read, "Kafka refuses to describe the topic".to_owned()),
            Err(trouble) => (BTreeMap::new(), trouble.to_string()),
        };
        for (topic, known) in self.retention.keep(names, &read) {
            let means = if known {
                "the headroom is computed from the last known retention"
            } else {
                "the headroom is unknown"
            };
            warn!(pipeline = &*self.pipeline, topic, why, means, "the topic's retention can't be read");
        }
    }

    /// Requests timestamps of the oldest unwritten records: for each partition with a lag, unless a known log end or an earlier
    /// answer already tells the age of this record. Returns whether partitions are left for the next reading.
    pub(super) async fn request_timestamps(&mut self, places: &[Place], now: i64, effort: Effort) -> bool {
        let (known, slow) = (&self.known, self.slow_reading);
        let unknown = |place: &&Place| {
            let is_open = |known: &Known| known.dated_in < slow && !known.knows_age(place.next);
            place.next < place.end && known.get(&place.source).is_none_or(is_open)
        };
        let last = |place: &&Place| known.get(&place.source).map_or(0, |known| known.dated_in);
        let (wanted, is_more) = oldest(places.iter().filter(unknown).collect(), effort.partitions, last);
        let undated = |place: &Place| {
            let made_at = known.get(&place.source).and_then(|known| known.made_at);
            let earlier = made_at.filter(|(offset, _)| *offset < place.next).map(|(_, ms)| ms);
            let since = place.last_timestamp.max(earlier);
            Undated { source: place.source.clone(), offset: place.next, since }
        };
        let wanted: Vec<_> = wanted.into_iter().map(undated).collect();
        if wanted.is_empty() {
            return false;
        }
        for record in &wanted {
            self.known.entry(record.source.clone()).or_default().dated_in = self.readings;
        }
        let requests = wanted.clone();
        match self.ask(move |observer| observer.times_of(&requests, now)).await {
            Ok(times) => {
                for (record, ms) in wanted.into_iter().zip(times) {
                    self.known.entry(record.source).or_default().made_at = Some((record.offset, ms));
                }
            }
            Err(why) => {
                debug!(pipeline = &*self.pipeline, %why, "can't read the age of the oldest unwritten records");
                return false;
            }
        }
        is_more
    }

    /// Reads the range from the ledger's position to the log's end, for each partition where this range is
    /// short and hasn't changed since the previous reading. A range with nothing but transaction markers
    /// and aborted records is no lag. But the ledger doesn't advance past it until a record follows,
    /// because without a record there is no batch. Returns whether ranges are left for the next reading.
    pub(super) async fn read_ends(
        &mut self,
        places: &[Place],
        before: &BTreeMap<TopicPartition, PartitionLag>,
        effort: Effort,
    ) -> bool {
        let (known, slow) = (&self.known, self.slow_reading);
        let stands = |Place { source, next, end, .. }: &&Place| {
            let lag = end.distance_from(*next);
            let moved = before.get(source).is_some_and(|lag| lag.next != *next || lag.end != *end);
            let is_open = known.get(source).is_none_or(|known| {
                let is_read = known.end_read.as_ref().is_some_and(|(range, _)| *range == (*next..*end));
                // A range before the log's start can't be read. The next claim finds the log-loss condition.
                let is_deleted = known.low.is_some_and(|low| *next < low);
                known.end_read_in < slow && !is_read && !is_deleted && known.read_to(*next) < *end
            });
            (1..=MARKS_MAX).contains(&lag) && !moved && is_open
        };
        let last = |place: &&Place| known.get(&place.source).map_or(0, |known| known.end_read_in);
        let (wanted, is_more) = oldest(places.iter().filter(stands).collect(), effort.partitions, last);
        let wanted: Vec<_> = wanted.into_iter().map(|place| (place.source.clone(), place.next..place.end)).collect();
        if wanted.is_empty() {
            return false;
        }
        for (source, _) in &wanted {
            self.known.entry(source.clone()).or_default().end_read_in = self.readings;
        }
        let requests = wanted.clone();
        match self.ask(move |observer| observer.ranges_without_records(&requests, effort.reading)).await {
            Ok(ranges) => {
                let is_cut = ranges.read.len() < wanted.len();
                let (read, empty): (HashSet<_>, HashSet<_>) =
                    (ranges.read.into_iter().collect(), ranges.empty.into_iter().collect());
                for (source, range) in wanted.into_iter().filter(|(source, _)| read.contains(source)) {
                    let holds = !empty.contains(&source);
                    self.known.entry(source).or_default().end_read = Some((range, holds));
                }
                is_more || is_cut
            }
            Err(why) => {
                debug!(pipeline = &*self.pipeline, %why, "can't read the end of a log");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Imitates the requests: each reading requests the selected partitions, and notes its number as their last reading.
    #[test]
    fn each_reading_requests_a_limited_number_and_the_oldest_first() {
        const MAX: usize = 200;
        let mut last = [0u64; 1000];
        let mut readings = vec![Vec::new()];
        for reading in 1..=10 {
            let (selected, is_more) = oldest((0..1000).collect(), MAX, |n: &usize| last[*n]);
            assert_eq!((selected.len(), is_more), (MAX, true), "{reading}");
            for n in &selected {
                last[*n] = reading;
            }
            readings.push(selected);
        }
        // Five readings request all partitions. Each later reading requests the same ones as the fifth reading before it.
        let first: HashSet<_> = readings[1..=5].iter().flatten().collect();
        assert_eq!(first.len(), 1000);
        for reading in 6..=10 {
            assert_eq!(readings[reading], readings[reading - 5]);
        }
        assert_eq!(oldest(vec![1, 2], MAX, |_| 0), (vec![1, 2], false));
    }
}
