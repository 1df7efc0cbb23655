//! Keeps the state of one partition from one reading to the next, and computes its lag. Pure.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tidegate_protocol::partition::LossCondition;
use tidegate_protocol::position::Offset;

use super::PartitionLag;
use super::headroom::{PartitionRetention, Retention};
use super::ledger::LedgerEntry;

/// The number of log ends that are kept per partition. They tell the age of the oldest unwritten record, to the second.
const SAMPLES: usize = 900;
/// The number of log ends from which the inflow, the growth of the log, is computed: those of about a minute.
const INFLOW_SAMPLES: usize = 60;

/// The state of one partition. Times are in milliseconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Log ends with the times at which they were first seen, oldest first. A log end at or before the ledger's
    /// position is removed as soon as there is a newer log end.
    samples: VecDeque<(i64, Offset)>,
    /// The newest log end that was at or before the ledger's position, with the time of a reading that saw this
    /// end. Every record at this offset or a later one came after that time.
    written: Option<(i64, Offset)>,
    /// The log ends of the last readings with their times, from which the inflow is computed. Includes log ends that the ledger's
    /// position has passed.
    inflow: VecDeque<(i64, Offset)>,
    end: Option<Offset>,
    truncations: u32,
    pub(super) low: Option<Offset>,
    /// If a consumer of this process owns the partition: the ledger's position as the consumer knows it, and the offset up to
    /// which the consumer has read.
    pub(super) read: Option<(Offset, Offset)>,
    /// An offset and the timestamp of its record, to the second. If the offset holds no record, the timestamp
    /// is an earlier record's. Requested from Kafka if all samples are after the ledger's position.
    pub(super) made_at: Option<(Offset, i64)>,
    /// A range at the log's end that was read, and whether Kafka delivered a record of this range.
    pub(super) end_read: Option<(Range<Offset>, bool)>,
    /// The number of the reading in which `made_at` was last requested; 0 if it never was.
    pub(super) dated_in: u64,
    /// The number of the reading in which `end_read` was last requested; 0 if it never was.
    pub(super) end_read_in: u64,
}

impl Known {
    /// Stores the log's end, and counts a truncation if the end moved back.
    pub(super) fn ends_at(&mut self, end: Offset) {
        self.truncations += u32::from(self.end.is_some_and(|last| end < last));
        self.end = Some(end);
    }

    /// Returns the offset up to which a consumer of this process has read the partition, if the ledger covers all records before
    /// this offset. A transaction marker at the log's end then doesn't count as an unwritten record. Otherwise returns `next`,
    /// the ledger's position.
    pub(super) fn read_to(&self, next: Offset) -> Offset {
        match self.read {
            Some((committed, read_to)) if committed == next => read_to,
            _ => next,
        }
    }

    /// Returns whether a sample or an answer of Kafka tells the age of the record at `next`.
    pub(super) fn knows_age(&self, next: Offset) -> bool {
        self.samples.front().is_some_and(|(_, first)| *first <= next)
            || self.made_at.is_some_and(|(offset, _)| offset == next)
    }

    /// Computes the lag at a reading. `row` is the ledger's row and `end` the log's end, at the time `now`. `before` is the lag
    /// at the previous reading, and `since_look` the time since then. `retention` is the topic's; `None` if it isn't known.
    pub(super) fn lag(
        &mut self,
        row: &LedgerEntry,
        end: Offset,
        now: i64,
        before: Option<&PartitionLag>,
        since_look: Duration,
        retention: Option<Retention>,
    ) -> PartitionLag {
        let read_to = self.read_to(row.next);
        let read_to = match &self.end_read {
            Some((range, false)) if range.start == row.next => read_to.max(range.end),
            _ => read_to,
        };
        let records = end.distance_from(row.next.max(read_to));
        self.sample(now, end, row.next);
        let since = if records == 0 { now } else { self.unwritten_since(row, now) };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a lag are far below 2^53")]
        let seconds = match before {
            _ if records == 0 => 0.0,
            // The database is down, so the timestamp of the last written record is unknown. The age continues from its last
            // value.
            Some(before) if row.asked_at.is_none() && before.seconds > 0.0 => before.seconds + since_look.as_secs_f64(),
            _ => (now - since).max(0) as f64 / 1000.0,
        };
        let low = self.low.unwrap_or(Offset::ZERO);
        let place = PartitionRetention {
            age: seconds,
            behind: row.next.distance_from(low),
            cut: low > Offset::ZERO,
            inflow: inflow(&mut self.inflow, (now, end)),
        };
        let condition = if read_to.max(row.next) < low {
            Some(LossCondition::RetentionPassed { next: row.next, low })
        } else if row.next > end && row.asked_at.is_some() {
            Some(LossCondition::LogShorter { next: row.next, high: end })
        } else {
            None
        };
        let headroom = match condition {
            // Kafka has already deleted the oldest unwritten record.
            Some(LossCondition::RetentionPassed { .. }) => Some(0.0),
            _ => retention.and_then(|retention| retention.headroom(place)),
        };
        PartitionLag {
            next: row.next,
            end,
            low,
            records,
            seconds,
            headroom,
            claim: row.claim,
            owner: row.owner.clone(),
            epoch: row.epoch,
            idle_seconds: row.idle_seconds,
            committed_seconds: row.committed_seconds,
            condition,
            truncations: self.truncations,
            asked_at: row.asked_at,
        }
    }

    fn sample(&mut self, now: i64, end: Offset, next: Offset) {
        if self.samples.back().is_none_or(|(_, last)| *last != end) {
            self.samples.push_back((now, end));
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        // Remove samples whose end is already written, but always keep the newest sample.
        while self.samples.len() > 1 && self.samples[0].1 <= next {
            self.written = self.written.max(self.samples.pop_front());
        }
        if end <= next {
            self.written = Some((now, end));
        }
    }

    /// Estimates when the oldest unwritten record was made, in milliseconds since the epoch.
    fn unwritten_since(&self, row: &LedgerEntry, now: i64) -> i64 {
        let made_at = self.made_at.filter(|(offset, _)| *offset <= row.next).map(|(_, ms)| ms);
        let written = self.written.filter(|(_, end)| *end <= row.next).map(|(at, _)| at);
        match self.samples.front() {
            // The oldest unwritten record existed at the time of the first sample, so it is at least that old. It isn't older
            // than the last written record, nor than an earlier record whose timestamp was requested. And it came after any
            // reading in which everything was written.
            Some((at, first)) if *first > row.next => {
                let earlier = row.last_timestamp.max(made_at);
                earlier.map_or(*at, |ms| ms.max(written.unwrap_or(ms)).min(*at))
            }
            Some((at, _)) => *at,
            None => now,
        }
    }
}

/// Returns the inflow: the recent growth of the log, in offsets per second.
fn inflow(ends: &mut VecDeque<(i64, Offset)>, last: (i64, Offset)) -> f64 {
    ends.push_back(last);
    if ends.len() > INFLOW_SAMPLES {
        ends.pop_front();
    }
    let first = ends.front().copied().unwrap_or(last);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds and offsets of a minute are far below 2^53")]
    let (ms, offsets) = ((last.0 - first.0) as f64, last.1.distance_from(first.1) as f64);
    if ms > 0.0 { offsets * 1000.0 / ms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn row(next: i64) -> LedgerEntry {
        LedgerEntry {
            next: Offset::new(next),
            claim: None,
            owner: None,
            epoch: 1,
            last_timestamp: None,
            idle_seconds: 0.0,
            committed_seconds: None,
            asked_at: Some(std::time::Instant::now()),
        }
    }

    fn lag(known: &mut Known, next: i64, end: i64, at: i64) -> (u64, f64) {
        known.ends_at(Offset::new(end));
        let lag = known.lag(&row(next), Offset::new(end), NOW + at, None, Duration::ZERO, None);
        (lag.records, lag.seconds)
    }

    #[test]
    fn the_age_is_that_of_the_sample_or_of_the_record_that_was_asked_for() {
        let mut known = Known::default();
        assert_eq!(lag(&mut known, 10, 10, 0), (0, 0.0));
        assert!(known.knows_age(Offset::new(10)));
        assert_eq!(lag(&mut known, 10, 15, 1000), (5, 0.0), "it was seen just now");
        assert_eq!(lag(&mut known, 10, 20, 3000), (10, 2.0), "the oldest of them was seen two seconds ago");
        let mut known = Known { made_at: Some((Offset::new(3), NOW - 60_000)), ..Known::default() };
        assert!(known.knows_age(Offset::new(3)) && !known.knows_age(Offset::new(4)));
        assert_eq!(lag(&mut known, 3, 9, 0), (6, 60.0));
    }

    #[test]
    fn a_record_after_an_idle_time_is_no_older_than_the_last_reading_before_it() {
        let at = |known: &mut Known, next: i64, end: i64, at: i64| {
            known.ends_at(Offset::new(end));
            let row = LedgerEntry { last_timestamp: Some(NOW - 500), ..row(next) };
            let lag = known.lag(&row, Offset::new(end), NOW + at, None, Duration::ZERO, None);
            (lag.records, lag.seconds)
        };
        // The time of an earlier record is known too.
        let mut known = Known { made_at: Some((Offset::new(9), NOW - 1_000)), ..Known::default() };
        assert_eq!(at(&mut known, 10, 10, 0).0, 0);
        assert_eq!(at(&mut known, 10, 10, 60_000).0, 0);
        assert_eq!(at(&mut known, 10, 11, 61_000), (1, 1.0));
        assert_eq!(at(&mut known, 10, 12, 65_000), (2, 5.0));
        assert_eq!(at(&mut known, 11, 12, 66_000), (1, 5.0), "it came after the reading at 61 s");
        assert_eq!(at(&mut known, 5, 12, 67_000).1, 67.5, "after `offsets set`, older records are unwritten again");
    }

    #[test]
    fn what_was_read_and_an_end_without_records_are_no_lag() {
        let mut known = Known { read: Some((Offset::new(5), Offset::new(7))), ..Known::default() };
        assert_eq!(lag(&mut known, 5, 7, 0).0, 0);
        assert_eq!(lag(&mut known, 4, 7, 0).0, 3, "the ledger isn't where the consumer knew it");
        let range = Offset::new(5)..Offset::new(9);
        let mut known = Known { end_read: Some((range.clone(), false)), ..Known::default() };
        assert_eq!((lag(&mut known, 5, 9, 0).0, lag(&mut known, 5, 11, 0).0), (0, 2));
        let mut known = Known { end_read: Some((range, true)), ..Known::default() };
        assert_eq!(lag(&mut known, 5, 9, 0).0, 4);
    }

    #[test]
    fn an_end_that_goes_back_is_counted() {
        let mut known = Known::default();
        for end in [5, 9, 3, 3, 8, 1] {
            known.ends_at(Offset::new(end));
        }
        assert_eq!(known.truncations, 2);
    }
}
