//! The poison search: finds the records that Postgres refuses, with few COPYs. No I/O.
//!
//! The search goes through the window from front to back in one transaction, so rows keep the order of delivery. At each step,
//! the records before the next range are settled: copied, or known to be refused. So the search can end after any step, and the
//! settled records can be committed.
//!
//! An error of COPY often names a row (`line N`). This is only a hint. Without a hint, the range is halved. A record counts as
//! refused only if it fails when it is copied alone.

use std::ops::Range;

/// The search over the records `0..end` of a window. `bad` has the records that were refused alone, in order.
#[derive(Debug)]
pub struct Search {
    /// The ranges still to be copied, in reverse order: the next one is the last element.
    todo: Vec<Range<u32>>,
    end: u32,
    bad: Vec<u32>,
    attempts: u32,
    attempts_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy these records under a savepoint, then call [`Search::copied`] or [`Search::failed`].
    Copy(Range<u32>),
    /// All records are settled, or the attempts are used up. The first `settled` records of the window can be
    /// committed. The next transaction handles the remaining ones.
    Done { settled: u32 },
}

impl Search {
    /// Starts a search after a COPY of all `len` records failed. `hint` is the index of the record that the
    /// error named; `None` if it named none. `attempts_max` limits the steps of the search, each of which needs at most
    /// one COPY. At least one record is settled regardless of the limit.
    pub fn new(len: u32, hint: Option<u32>, attempts_max: u32) -> Self {
        let todo = Vec::from_iter((len > 0).then_some(0..len));
        let mut search = Self { todo, end: len, bad: Vec::new(), attempts: 0, attempts_max };
        if len > 1 {
            search.split(hint);
        }
        search
    }

    pub fn step(&self) -> Step {
        match self.todo.last() {
            Some(range) if self.attempts < self.attempts_max || range.start == 0 => Step::Copy(range.clone()),
            Some(range) => Step::Done { settled: range.start },
            None => Step::Done { settled: self.end },
        }
    }

    /// Reports that the range of the last [`Step::Copy`] was copied, or has no rows to copy.
    pub fn copied(&mut self) {
        self.attempts += 1;
        self.todo.pop();
    }

    /// Reports that the range of the last [`Step::Copy`] was refused. `hint` is as in [`Search::new`].
    pub fn failed(&mut self, hint: Option<u32>) {
        self.attempts += 1;
        match self.todo.last() {
            Some(range) if range.len() == 1 => {
                self.bad.push(range.start);
                self.todo.pop();
            }
            Some(_) => self.split(hint),
            None => {}
        }
    }

    /// Returns the records that failed alone, in order.
    pub fn bad(&self) -> &[u32] {
        &self.bad
    }

    /// Returns how many ranges were reported as copied or refused so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Replaces the next range, which has more than one record, by smaller ones.
    fn split(&mut self, hint: Option<u32>) {
        let Some(range) = self.todo.pop() else { return };
        let mut push = |part: Range<u32>| {
            if !part.is_empty() {
                self.todo.push(part);
            }
        };
        match hint.filter(|hint| range.contains(hint)) {
            Some(hint) => {
                push(hint + 1..range.end);
                push(hint..hint + 1);
                push(range.start..hint);
            }
            None => {
                let middle = range.start + (range.end - range.start).div_ceil(2);
                push(middle..range.end);
                push(range.start..middle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Runs a whole search over `len` records. COPY refuses a range that has records of `bad`. `hint_of` gets the first such
    /// record of the range, and returns the record that the error of COPY names.
    fn run(len: u32, bad: &BTreeSet<u32>, hint_of: impl Fn(u32) -> Option<u32>, cap: u32) -> (Vec<u32>, Search, u32) {
        let first_bad = |range: &Range<u32>| bad.range(range.clone()).next().copied();
        let mut search = Search::new(len, first_bad(&(0..len)).and_then(&hint_of), cap);
        let mut table = Vec::new();
        loop {
            match search.step() {
                Step::Done { settled } => return (table, search, settled),
                Step::Copy(range) => match first_bad(&range) {
                    Some(record) => search.failed(hint_of(record)),
                    None => {
                        table.extend(range);
                        search.copied();
                    }
                },
            }
        }
    }

    #[test]
    fn one_bad_record_with_a_right_hint_costs_three_more_copies() {
        let (table, search, settled) = run(10_000, &BTreeSet::from([7_000]), Some, 1_000);
        assert_eq!((search.attempts(), search.bad(), table.len(), settled), (3, &[7_000][..], 9_999, 10_000));
    }

    #[test]
    fn five_bad_records_cost_about_two_copies_each() {
        let bad = BTreeSet::from([1, 2_000, 2_001, 5_000, 9_999]);
        let (table, search, _) = run(10_000, &bad, Some, 1_000);
        assert_eq!(table.len(), 9_995);
        assert!(search.attempts() <= 14, "{} copies", search.attempts());
    }

    #[test]
    fn without_hints_ranges_are_halved() {
        let bad = BTreeSet::from([1, 2_000, 2_001, 5_000, 9_999]);
        let (table, search, settled) = run(10_000, &bad, |_| None, 1_000);
        assert_eq!((table.len(), settled), (9_995, 10_000));
        // For each of the 5 bad records, there are at most 14 halvings with 2 copies each.
        assert!(search.attempts() <= 5 * 2 * 14, "{} copies", search.attempts());
    }

    #[test]
    fn the_cap_ends_the_walk_with_a_whole_prefix() {
        let all: BTreeSet<u32> = (0..1_000).collect();
        let (table, search, settled) = run(1_000, &all, Some, 100);
        assert!(table.is_empty());
        assert!((1..1_000).contains(&settled), "settled {settled}");
        assert_eq!(search.bad(), (0..settled).collect::<Vec<_>>());
        assert_eq!(search.attempts(), 100);
    }

    proptest! {
        #[test]
        fn what_is_settled_is_copied_in_order_or_bad_whatever_the_hints_say(
            len in 1u32..300,
            bad in proptest::collection::btree_set(0u32..300, 0..20),
            lie in proptest::option::of(0u32..400),
            hints in proptest::bool::ANY,
            cap in 0u32..200,
        ) {
            let bad: BTreeSet<u32> = bad.into_iter().filter(|record| *record < len).collect();
            let hint_of = |record: u32| if hints { lie.or(Some(record)) } else { None };
            let (table, search, settled) = run(len, &bad, hint_of, cap);
            let expected: Vec<u32> = (0..settled).filter(|record| !bad.contains(record)).collect();
            prop_assert_eq!(table, expected);
            let expected_bad: Vec<u32> = bad.iter().copied().filter(|record| *record < settled).collect();
            prop_assert_eq!(search.bad(), expected_bad);
            prop_assert!(settled > 0);
        }
    }
}
