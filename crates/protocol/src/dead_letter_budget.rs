//! The dead-letter budget limits the share of dead letters among the records. If the share is too high, the fault is probably
//! not in the data, and more dead letters would hide the fault. No I/O.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::batch::{Batch, RejectedRecord};
use crate::record::Record;

/// The limits beyond which the pipeline stops instead of dead-lettering more records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeadLetterLimits {
    /// The highest allowed share of dead letters among the records of the last `window`, above 0.0 and up to 1.0. With
    /// 1.0, the pipeline never stops because of dead letters. Default 0.1.
    pub max_share: f64,
    /// The length of the sliding time window. Default 5 min.
    pub window: Duration,
    /// The share is checked only if the window has at least this many dead letters. Default 100.
    pub min_count: u64,
}

impl DeadLetterLimits {
    /// Returns the share of dead letters if `dead` dead letters among `records` records exceed the limits, else `None`.
    pub fn exceeded(&self, records: u64, dead: u64) -> Option<f64> {
        let share = share(records, dead);
        (dead >= self.min_count && share > self.max_share).then_some(share)
    }
}

/// Returns the share of dead letters among records, 0.0 to 1.0.
#[expect(clippy::cast_precision_loss, reason = "counts within one window are far below 2^53")]
pub fn share(records: u64, dead: u64) -> f64 {
    dead as f64 / records.max(1) as f64
}

/// A summary names at most this many groups. The dead letters of a group have the same reason and column.
const NAMED_GROUPS: usize = 3;
/// The maximum length, in characters, of a dead letter's detail in a summary.
const DETAIL_MAX: usize = 200;

/// Describes what is wrong with these records of a batch: the most frequent reasons with their column, each with its first
/// record as an example.
pub(crate) fn summary<'r>(batch: &Batch, rejects: impl Iterator<Item = &'r RejectedRecord>) -> String {
    let mut groups: Vec<(u64, &RejectedRecord)> = Vec::new();
    for reject in rejects {
        let same = groups.iter_mut().find(|(_, first)| first.reason == reject.reason && first.column == reject.column);
        match same {
            Some((count, _)) => *count += 1,
            None => groups.push((1, reject)),
        }
    }
    groups.sort_by_key(|(count, _)| Reverse(*count));
    let more = groups.len().saturating_sub(NAMED_GROUPS);
    let named = groups.iter().take(NAMED_GROUPS).map(|(count, first)| {
        let Record { topic, partition, offset, .. } = batch.record(first.record);
        let column = first.column.as_deref().map(|column| format!(", column `{column}`")).unwrap_or_default();
        let detail: String = first.detail.chars().take(DETAIL_MAX).collect();
        format!("{count} × {}{column}, for example {topic}/{partition}@{offset}: {detail}", first.reason)
    });
    let mut text = named.collect::<Vec<_>>().join("; ");
    if more > 0 {
        let _written = write!(text, "; and {more} more {}", if more == 1 { "reason" } else { "reasons" });
    }
    text
}

/// Counts records and dead letters in a sliding time window. A window of 5 min moves in steps of 10 s.
#[derive(Debug)]
pub struct DeadLetterBudget {
    limits: DeadLetterLimits,
    slices: VecDeque<Slice>,
}

#[derive(Debug)]
struct Slice {
    since: Instant,
    records: u64,
    dead: u64,
}

impl DeadLetterBudget {
    pub fn new(limits: DeadLetterLimits) -> Self {
        Self { limits, slices: VecDeque::new() }
    }

    /// Returns a message for the operator if `records` further records, of which `dead` are dead letters, would exceed the
    /// budget. `why` describes these dead letters. Doesn't count the records: see [`Self::count`].
    pub fn refuses(&mut self, records: u64, dead: u64, now: Instant, why: impl FnOnce() -> String) -> Option<String> {
        if dead == 0 {
            return None;
        }
        self.forget(now);
        let (records, dead) = self
            .slices
            .iter()
            .fold((records, dead), |(records, letters), slice| (records + slice.records, letters + slice.dead));
        self.limits.exceeded(records, dead).map(|share| {
            format!(
                "dead-letter budget spent: {dead} of {records} records within {:?} could not be written ({:.1} % > {:.1} %): {}; the pipeline stores no more dead letters; correct the mapping or the producer, or raise `dead_letters.max_share`, and start the pipeline again",
                self.limits.window,
                share * 100.0,
                self.limits.max_share * 100.0,
                why()
            )
        })
    }

    /// Counts records that were committed, and the dead letters among them.
    pub fn count(&mut self, records: u64, dead: u64, now: Instant) {
        self.forget(now);
        let slice = self.limits.window / 30;
        match self.slices.back_mut() {
            Some(last) if now.duration_since(last.since) < slice => {
                last.records += records;
                last.dead += dead;
            }
            _ => self.slices.push_back(Slice { since: now, records, dead }),
        }
    }

    fn forget(&mut self, now: Instant) {
        let window: Duration = self.limits.window;
        while self.slices.front().is_some_and(|slice| now.duration_since(slice.since) > window) {
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Incoming;
    use crate::position::{Claim, Offset, TopicPartition};

    impl DeadLetterBudget {
        fn says(&mut self, records: u64, dead: u64, now: Instant) -> Option<String> {
            self.refuses(records, dead, now, || "3 × invalid_json".to_owned())
        }
    }

    fn budget() -> DeadLetterBudget {
        DeadLetterBudget::new(DeadLetterLimits { max_share: 0.1, window: Duration::from_secs(300), min_count: 100 })
    }

    fn summary_of(rejects: &[(&'static str, Option<&str>)]) -> String {
        let mut batch = Batch::new();
        let segment = batch.open_segment(TopicPartition::new("t", 3), Claim::default(), Offset::new(10));
        for (offset, (reason, column)) in (10..).zip(rejects) {
            let incoming = Incoming { offset: Offset::new(offset), timestamp_ms: None, key: None, value: None };
            let rejection = RejectedRecord {
                record: 0,
                reason,
                sqlstate: None,
                column: column.map(Into::into),
                detail: format!("{offset} {}", "x".repeat(DETAIL_MAX)).into(),
            };
            batch.push(segment, &incoming, Instant::now(), |_| {}, |_, _| Err(rejection));
        }
        summary(&batch, batch.rejected_records(0..batch.len()))
    }

    #[test]
    fn a_summary_names_the_three_most_frequent_reasons_by_column_with_their_first_records() {
        let (a, b) = (Some("a"), Some("b"));
        let x = |count| "x".repeat(count);
        assert_eq!(
            summary_of(&[("range", a), ("range", b), ("json", None), ("range", b), ("json", None), ("json", None)]),
            format!(
                "3 × json, for example t/3@12: 12 {}; 2 × range, column `b`, for example t/3@11: 11 {}; \
                 1 × range, column `a`, for example t/3@10: 10 {}",
                x(197),
                x(197),
                x(197)
            )
        );
        let four = summary_of(&[("range", a), ("range", b), ("json", None), ("type", a)]);
        assert!(four.ends_with(&format!("@12: 12 {}; and 1 more reason", x(197))), "{four}");
        let five = summary_of(&[("range", a), ("range", b), ("json", None), ("type", a), ("type", b)]);
        assert!(five.ends_with("; and 2 more reasons"), "{five}");
    }

    #[test]
    fn a_few_dead_letters_never_stop_the_flow() {
        assert_eq!(budget().says(99, 99, Instant::now()), None);
    }

    #[test]
    fn past_the_share_it_refuses_and_says_the_numbers() {
        let now = Instant::now();
        let mut budget = budget();
        budget.count(900, 50, now);
        assert_eq!(budget.says(600, 100, now), None);
        let why = budget.says(100, 100, now).unwrap();
        assert!(why.contains("150 of 1000 records") && why.contains("3 × invalid_json"), "{why}");
    }

    #[test]
    fn what_lies_outside_of_the_window_is_forgotten() {
        let start = Instant::now();
        let mut budget = budget();
        budget.count(1_000_000, 0, start);
        assert_eq!(budget.says(200, 200, start), None);
        assert!(budget.says(200, 200, start + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn counts_of_a_slice_are_added_and_leave_with_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut budget = budget();
        budget.count(500, 40, at(0));
        budget.count(400, 10, at(9));
        assert_eq!(budget.slices.len(), 1, "within a thirtieth of the window");
        assert_eq!(budget.says(100, 50, at(9)), None, "100 of 1000 is the share itself");
        assert!(
            budget.says(99, 50, at(9)).is_some_and(|why| why.contains("100 of 999 records") && why.contains("(10.0 %"))
        );
        budget.count(1, 0, at(10));
        assert_eq!(budget.slices.len(), 2);
        assert!(
            budget.says(98, 50, at(300)).is_some_and(|why| why.contains("100 of 999 records")),
            "as old as the window"
        );
        assert_eq!(budget.says(98, 50, at(301)), None, "50 alone are too few to stop for");
    }
}
