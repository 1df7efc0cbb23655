//! Searches for a record's timestamp. Kafka's request ListOffsets only returns an offset for a time, so the search makes
//! several of these requests.

use tidegate_protocol::position::{Offset, TopicPartition};

/// The oldest age that the search finds: 400 days, in milliseconds. Older records count as this old.
const OLDEST_MS: i64 = 400 * 86_400_000;
/// The search ends at this precision, in milliseconds.
const PRECISION_MS: i64 = 1000;

/// A record whose timestamp is wanted. Timestamps are in milliseconds since the epoch.
#[derive(Clone, Debug)]
pub struct Undated {
    pub source: TopicPartition,
    pub offset: Offset,
    /// The timestamp of an earlier record of the partition, if one is known. The search begins there, and takes few
    /// requests if the two records are close in time.
    pub since: Option<i64>,
}

/// The state of the search for one record. The record's timestamp is at least `low` and less than `high`, unless it is older than
/// `OLDEST_MS` or in the future.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    low: i64,
    high: i64,
    /// The largest distance from `low` to the time of the next request, in milliseconds. It doubles as long as answers raise
    /// `low`. `None` once an answer has lowered `high`, or if no earlier record is known; the search then halves the interval.
    stride: Option<i64>,
}

impl Search {
    pub fn new(since: Option<i64>, now_ms: i64) -> Self {
        let (oldest, high) = (now_ms - OLDEST_MS, now_ms + PRECISION_MS);
        Self { low: since.map_or(oldest, |since| since.clamp(oldest, high)), high, stride: since.map(|_| PRECISION_MS) }
    }

    /// Returns the time for which to request an offset next; `None` once the record's timestamp is known to the second.
    pub fn next(&self) -> Option<i64> {
        let middle = i64::midpoint(self.low, self.high);
        (self.high - self.low > PRECISION_MS)
            .then(|| self.stride.map_or(middle, |stride| middle.min(self.low + stride)))
    }

    /// Narrows the search by Kafka's answer for `time`, which is the offset of the first record with at least this timestamp.
    /// `reached` says whether the wanted record is at this offset or later. If so, its timestamp is at least `time` too,
    /// provided that timestamps don't decrease in the log.
    pub fn answered(&mut self, time: i64, reached: bool) {
        if reached {
            self.low = time;
            self.stride = self.stride.map(|stride| stride * 2);
        } else {
            self.high = time;
            self.stride = None;
        }
    }

    /// Returns the timestamp that was found. It may be up to a second too low.
    pub fn found(&self) -> i64 {
        self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    /// Searches for a record with this timestamp. Returns what was found, and after how many requests.
    fn search(since: Option<i64>, timestamp: i64) -> (i64, usize) {
        let (mut search, mut requests) = (Search::new(since, NOW), 0);
        while let Some(time) = search.next() {
            search.answered(time, timestamp >= time);
            requests += 1;
        }
        (search.found(), requests)
    }

    #[test]
    fn a_timestamp_is_found_to_the_second_wherever_the_search_begins() {
        for age in [0, 1, 999, 1000, 1001, 60_000, 86_400_000, OLDEST_MS - 1000] {
            let timestamp = NOW - age;
            let earlier = [0, 1, 1000, 5000, 3_600_000].map(|distance| Some(timestamp - distance));
            for since in earlier.into_iter().chain([None]) {
                let (found, requests) = search(since, timestamp);
                assert!((timestamp - 1000..=timestamp).contains(&found), "{age} {since:?}: {found}");
                assert!(requests <= 30, "{age} {since:?}: {requests}");
            }
        }
    }

    #[test]
    fn a_record_close_to_one_with_a_known_timestamp_takes_one_request() {
        assert_eq!(search(Some(NOW - 60_000), NOW - 59_500), (NOW - 60_000, 1));
        assert_eq!(search(None, NOW - 59_500).1, 26);
    }

    #[test]
    fn timestamps_that_are_too_old_or_in_the_future_end_the_search() {
        assert_eq!(search(None, NOW - 2 * OLDEST_MS).0, NOW - OLDEST_MS);
        assert_eq!(search(Some(NOW - 2 * OLDEST_MS), NOW - 2 * OLDEST_MS).0, NOW - OLDEST_MS);
        assert_eq!(search(Some(NOW + 5000), NOW + 5000), (NOW + 1000, 0));
    }
}
