//! How long until Kafka deletes what isn't written. Pure.
//!
//! Kafka deletes whole segments, and looks every few minutes: a record stays at least as long as this says, as a rule longer.

use std::collections::{BTreeMap, BTreeSet};

/// How long a topic keeps its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`; `None` for ever.
    pub ms: Option<i64>,
    /// `retention.bytes` of a partition; `None` without a bound.
    pub bytes: Option<i64>,
}

/// What is known of topics' retention. What can't be read stays what it was: a headroom that vanished would say nothing to whoever
/// waits for it to fall.
#[derive(Debug, Default)]
pub(super) struct Retentions {
    known: BTreeMap<String, Retention>,
    /// Topics that couldn't be read the last time.
    unread: BTreeSet<String>,
}

impl Retentions {
    /// The last one that was read; for ever, where none was.
    pub(super) fn of(&self, topic: &str) -> Retention {
        self.known.get(topic).copied().unwrap_or_default()
    }

    /// Takes in what was read of these topics. Returns those that could be read until now and can't any more, and whether an
    /// earlier retention of each is known.
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

/// A partition's log against the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Age of the oldest unwritten record, in seconds; 0 without lag.
    pub age: f64,
    /// Offsets between the log's start and the ledger.
    pub behind: u64,
    /// Whether Kafka has deleted anything of this log yet.
    pub cut: bool,
    /// Offsets a second that come in.
    pub inflow: f64,
}

impl Retention {
    /// Seconds until Kafka deletes the oldest unwritten record; `None` where nothing says that it will.
    ///
    /// By size it is an estimate: a log that was cut before is about as large as it may get, so its start follows its end, at the
    /// pace of what comes in, and reaches the ledger after what lies between.
    pub fn headroom(self, place: Place) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a retention are far below 2^53")]
        let by_time = self.ms.map(|ms| (ms as f64 / 1000.0 - place.age).max(0.0));
        #[expect(clippy::cast_precision_loss, reason = "offsets of a log are far below 2^53")]
        let by_size =
            (self.bytes.is_some() && place.cut && place.inflow > 0.0).then(|| place.behind as f64 / place.inflow);
        by_time.into_iter().chain(by_size).reduce(f64::min)
    }
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
        assert_eq!((known.of("a"), known.of("b")), (DAY, Retention::default()));
        assert!(known.keep(&topics, &only_a).is_empty());
        assert_eq!(known.keep(&topics, &BTreeMap::new()), [("a", true)], "it is news again");
    }

    #[test]
    fn by_time_it_is_what_the_oldest_record_has_left() {
        assert_eq!(DAY.headroom(Place::default()), Some(86_400.0));
        assert_eq!(DAY.headroom(Place { age: 86_000.0, ..Place::default() }), Some(400.0));
        assert_eq!(DAY.headroom(Place { age: 90_000.0, ..Place::default() }), Some(0.0));
        assert_eq!(Retention::default().headroom(Place { age: 90_000.0, ..Place::default() }), None);
    }

    #[test]
    fn by_size_it_is_what_comes_in_until_the_log_s_start_has_reached_us() {
        let place = Place { age: 10.0, behind: 60_000, cut: true, inflow: 1000.0 };
        let by_size = Retention { ms: None, bytes: Some(1 << 30) };
        assert_eq!(by_size.headroom(place), Some(60.0));
        assert_eq!(Retention { bytes: Some(1 << 30), ..DAY }.headroom(place), Some(60.0), "the sooner of the two");
        assert_eq!(DAY.headroom(place), Some(86_390.0), "without a bound by size it says nothing");
    }

    #[test]
    fn a_log_that_was_never_cut_or_stands_still_is_not_bounded_by_its_size() {
        let by_size = Retention { ms: None, bytes: Some(1 << 30) };
        assert_eq!(by_size.headroom(Place { behind: 10, inflow: 5.0, ..Place::default() }), None);
        assert_eq!(by_size.headroom(Place { behind: 10, cut: true, ..Place::default() }), None);
    }
}
