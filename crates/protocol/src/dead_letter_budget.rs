//! The dead-letter budget: if the share of dead letters is too high, more of them would hide a fault that is not in the data.
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The bounds beyond which the pipeline stops rather than dead-letter more records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeadLetterLimits {
    /// The largest share of records within the window, `(0.0, 1.0]`; 1.0 never stops. Default 0.1.
    pub max_share: f64,
    /// The window. Default 5 min.
    pub window: Duration,
    /// Below this many dead letters in the window the share isn't asked. Default 100.
    pub min_count: u64,
}

/// Counts over a sliding window, in slices of a thirtieth of it.
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
    /// Nothing counted yet.
    pub fn new(limits: DeadLetterLimits) -> Self {
        Self { limits, slices: VecDeque::new() }
    }

    /// Whether `dead` more dead letters among `records` more records would pass the budget: then what to tell the operator.
    pub fn refuses(&mut self, records: u64, dead: u64, now: Instant) -> Option<String> {
        if dead == 0 {
            return None;
        }
        self.forget(now);
        let (records, dead) = self
            .slices
            .iter()
            .fold((records, dead), |(records, letters), slice| (records + slice.records, letters + slice.dead));
        #[expect(clippy::cast_precision_loss, reason = "counts within one window are far below 2^53")]
        let share = dead as f64 / records.max(1) as f64;
        (dead >= self.limits.min_count && share > self.limits.max_share).then(|| {
            format!(
                "dead-letter budget spent: {dead} of {records} records within {:?} could not be written ({:.1} % > {:.1} %); nothing more is set aside; mend the mapping or the producer, or raise `dead_letters.max_share`, and start again",
                self.limits.window,
                share * 100.0,
                self.limits.max_share * 100.0
            )
        })
    }

    /// Counts what was committed.
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

    fn budget() -> DeadLetterBudget {
        DeadLetterBudget::new(DeadLetterLimits { max_share: 0.1, window: Duration::from_secs(300), min_count: 100 })
    }

    #[test]
    fn a_few_dead_letters_never_stop_the_flow() {
        assert_eq!(budget().refuses(99, 99, Instant::now()), None);
    }

    #[test]
    fn past_the_share_it_refuses_and_says_the_numbers() {
        let now = Instant::now();
        let mut budget = budget();
        budget.count(900, 50, now);
        assert_eq!(budget.refuses(600, 100, now), None);
        let why = budget.refuses(100, 100, now).unwrap();
        assert!(why.contains("150 of 1000 records"), "{why}");
    }

    #[test]
    fn what_lies_outside_of_the_window_is_forgotten() {
        let start = Instant::now();
        let mut budget = budget();
        budget.count(1_000_000, 0, start);
        assert_eq!(budget.refuses(200, 200, start), None);
        assert!(budget.refuses(200, 200, start + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn counts_of_a_slice_are_added_and_leave_with_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut budget = budget();
        budget.count(500, 40, at(0));
        budget.count(400, 10, at(9));
        assert_eq!(budget.slices.len(), 1, "within a thirtieth of the window");
        assert_eq!(budget.refuses(100, 50, at(9)), None, "100 of 1000 is the share itself");
        assert!(
            budget
                .refuses(99, 50, at(9))
                .is_some_and(|why| why.contains("100 of 999 records") && why.contains("(10.0 %"))
        );
        budget.count(1, 0, at(10));
        assert_eq!(budget.slices.len(), 2);
        assert!(
            budget.refuses(98, 50, at(300)).is_some_and(|why| why.contains("100 of 999 records")),
            "as old as the window"
        );
        assert_eq!(budget.refuses(98, 50, at(301)), None, "50 alone are too few to stop for");
    }
}
