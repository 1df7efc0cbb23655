//! The headroom: the time until Kafka deletes the oldest unwritten record. Pure.
//!
//! Kafka deletes whole segments, and checks only every few minutes. So if the retention is limited by time, a record
//! is usually kept longer than the headroom says. If the retention is limited by size, the headroom is an estimate.

use std::collections::{BTreeMap, BTreeSet};

/// The limits after which Kafka deletes a topic's records. A topic whose `cleanup.policy` deletes nothing has no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`; `None` if unlimited.
    pub ms: Option<i64>,
    /// `retention.bytes` per partition; `None` if unlimited.
    pub bytes: Option<i64>,
}

/// The topics' last known retention. If it can't be read, the last value is kept, because a headroom without a value would
/// trigger no alert.
#[derive(Debug, Default)]
pub(super) struct Retentions {
    known: BTreeMap<String, Retention>,
    unread: BTreeSet<String>,
}

impl Retentions {
    pub(super) fn of(&self, topic: &str) -> Option<Retention> {
        self.known.get(topic).copied()
    }

    /// Stores the result of an attempt to read the retention of `topics`. `read` has the retentions that could be read. Returns
    /// the topics whose retention has become unreadable with this attempt, each with whether an earlier value is known.
    pub(super) fn keep<'a>(
        &mut self,
        topics: &'a [String],
        read: &BTreeMap<String, Retention>,
    ) -> Vec<(&'a str, bool)> {
        let mut news = Vec::new();
        for topic in topics {
            match read.get(topic) {
                Some(retention) => {
                    self.unread.remove(topic);
                    self.known.insert(topic.clone(), *retention);
                }
                None if self.unread.insert(topic.clone()) => {
                    news.push((topic.as_str(), self.known.contains_key(topic)));
                }
                None => {}
            }
        }
        news
    }
}

/// A partition's log compared with the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartitionRetention {
    /// Age of the oldest unwritten record, in seconds; 0 without lag.
    pub age: f64,
    /// Offsets between the log's start and the ledger's position.
    pub behind: u64,
    /// Whether Kafka has already deleted a part of this log.
    pub cut: bool,
    /// The recent growth of the log, in offsets per second.
    pub inflow: f64,
}

impl Retention {
    /// Returns the seconds until Kafka deletes the oldest unwritten record: infinite if the topic's retention is unlimited.
    /// `None` if the retention is limited only by size, and either Kafka hasn't deleted anything yet or nothing arrives.
    ///
    /// For a limit by size, the headroom is an estimate. If Kafka has already deleted a part of the log, the log is about at its
    /// maximum size, so its start advances as fast as its end. The start reaches the ledger's position after it has
    /// advanced by `behind` offsets.
    pub fn headroom(self, place: PartitionRetention) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a retention are far below 2^53")]
        let by_time = self.ms.map(|ms| (ms as f64 / 1000.0 - place.age).max(0.0));
        #[expect(clippy::cast_precision_loss, reason = "offsets of a log are far below 2^53")]
        let by_size =
            (self.bytes.is_some() && place.cut && place.inflow > 0.0).then(|| place.behind as f64 / place.inflow);
        let unlimited = (self == Self::default()).then_some(f64::INFINITY);
        by_time.into_iter().chain(by_size).reduce(f64::min).or(unlimited)
    }
}

/// Returns the shortest of several partitions' headrooms. If one is finite, unknown headrooms
/// are ignored. If all known ones are infinite and one is unknown, the result is `None`,
/// because the unknown one may be shorter. The result is also `None` if none is known.
pub fn shortest(mut headrooms: impl Iterator<Item = Option<f64>> + Clone) -> Option<f64> {
    let shortest = headrooms.clone().flatten().reduce(f64::min)?;
    (shortest.is_finite() || headrooms.all(|headroom| headroom.is_some())).then_some(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Retention = Retention { ms: Some(86_400_000), bytes: None };

    #[test]
    fn a_retention_that_cannot_be_read_is_said_once_and_stays_what_it_was() {
        let topics = ["a".to_owned(), "b".to_owned()];
        let only_a = BTreeMap::from([("a".to_owned(), DAY)]);
        let mut known = Retentions::default();
        assert_eq!(known.keep(&topics, &only_a), [("b", false)]);
        assert_eq!(known.keep(&topics, &BTreeMap::new()), [("a", true)]);
        assert!(known.keep(&topics, &BTreeMap::new()).is_empty(), "it was said");
        assert_eq!((known.of("a"), known.of("b")), (Some(DAY), None));
        assert!(known.keep(&topics, &only_a).is_empty());
        assert_eq!(known.keep(&topics, &BTreeMap::new()), [("a", true)], "it is news again");
    }

    #[test]
    fn an_unknown_headroom_may_be_shorter_than_an_infinite_one() {
        let infinite = Some(f64::INFINITY);
        for (headrooms, expected) in [
            (vec![], None),
            (vec![None], None),
            (vec![infinite, infinite], infinite),
            (vec![infinite, None], None),
            (vec![infinite, None, Some(60.0), Some(90.0)], Some(60.0)),
        ] {
            assert_eq!(shortest(headrooms.iter().copied()), expected, "{headrooms:?}");
        }
    }

    #[test]
    fn by_time_it_is_what_the_oldest_record_has_left() {
        assert_eq!(DAY.headroom(PartitionRetention::default()), Some(86_400.0));
        assert_eq!(DAY.headroom(PartitionRetention { age: 86_000.0, ..PartitionRetention::default() }), Some(400.0));
        assert_eq!(DAY.headroom(PartitionRetention { age: 90_000.0, ..PartitionRetention::default() }), Some(0.0));
        assert_eq!(
            Retention::default().headroom(PartitionRetention { age: 90_000.0, ..PartitionRetention::default() }),
            Some(f64::INFINITY)
        );
    }

    #[test]
    fn by_size_it_is_what_comes_in_until_the_log_s_start_has_reached_us() {
        let place = PartitionRetention { age: 10.0, behind: 60_000, cut: true, inflow: 1000.0 };
        let by_size = Retention { ms: None, bytes: Some(1 << 30) };
        assert_eq!(by_size.headroom(place), Some(60.0));
        assert_eq!(Retention { bytes: Some(1 << 30), ..DAY }.headroom(place), Some(60.0), "the sooner of the two");
        assert_eq!(DAY.headroom(place), Some(86_390.0), "without a bound by size it says nothing");
    }

    #[test]
    fn a_limit_by_size_says_nothing_before_a_deletion_or_while_nothing_arrives() {
        let by_size = Retention { ms: None, bytes: Some(1 << 30) };
        assert_eq!(
            by_size.headroom(PartitionRetention { behind: 10, inflow: 5.0, ..PartitionRetention::default() }),
            None
        );
        assert_eq!(
            by_size.headroom(PartitionRetention { behind: 10, cut: true, ..PartitionRetention::default() }),
            None
        );
    }
}
