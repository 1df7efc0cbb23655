//! One partition, from assignment to revoke: the state machine that `ARCHITECTURE.md` draws. Pure.

use std::fmt;
use std::time::Instant;

use crate::batch::LastRecord;
use crate::position::{Claim, Offset, TopicPartition};
use crate::store::{Holder, LedgerRow};

/// A partition that Kafka says is ours.
#[derive(Debug)]
pub struct Partition {
    /// Which one.
    pub source: TopicPartition,
    /// Where it stands.
    pub state: State,
    /// Bumped with each assignment and each claim asked for: a reply to an earlier question changes nothing.
    pub question: u64,
    /// When it last made progress: a grant, a record, a commit.
    pub progress_at: Instant,
}

/// Where a partition stands. An unassigned one has no `Partition` at all; "in doubt" is the writer's, between a COMMIT that
/// wasn't answered and the ledger's word.
#[derive(Debug)]
pub enum State {
    /// A claim was asked for; nothing is fetched before it is granted.
    Claiming {
        /// Since when.
        since: Instant,
    },
    /// Claimed: records are consumed, and written under this claim.
    Owned(Owned),
    /// Another claim took its place, while Kafka still says it is ours: nothing is fetched, the revoke is awaited.
    Fenced {
        /// Since when.
        since: Instant,
        /// The claim that we had.
        ours: Claim,
    },
    /// A named condition that its policy doesn't step over: nothing is fetched.
    Stopped(Condition),
}

/// A claimed partition.
#[derive(Debug)]
pub struct Owned {
    /// Our claim.
    pub claim: Claim,
    /// The next offset to deliver: what all batches so far end at.
    pub next: Offset,
    /// The ledger's position, as far as it is known.
    pub committed: Offset,
    /// The last committed record, still to be compared with what Kafka delivers for its offset.
    pub verify: Option<LastRecord>,
    /// Up to where Kafka's log was read, where that lies beyond `next`: what is between are marks of transactions and records
    /// of aborted ones, which nobody delivers.
    pub read_to: Offset,
}

/// The caller's duty after a change of a partition's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Then {
    /// Nothing was fetched, so nothing is to be stopped.
    Nothing,
    /// The partition was fetched: fetching ends, and its records leave the open batch.
    StopFetching,
}

impl Partition {
    /// Asks for a claim by this request id; the answers to earlier requests no longer count.
    pub fn ask(&mut self, request: u64, now: Instant) -> Then {
        self.question = request;
        self.leave_for(State::Claiming { since: now })
    }

    /// Whether a claim's answer is for the request that is open.
    pub fn awaits(&self, request: u64) -> bool {
        matches!(self.state, State::Claiming { .. }) && self.question == request
    }

    /// Takes a claim over.
    ///
    /// # Panics
    /// Where no claim was asked for.
    pub fn grant(&mut self, grant: &Grant, now: Instant) {
        assert!(matches!(self.state, State::Claiming { .. }), "{}: a grant that nobody asked for", self.source);
        let Grant { claim, next, verify, .. } = *grant;
        self.state = State::Owned(Owned { claim, next, committed: next, verify, read_to: next });
        self.progress_at = now;
    }

    /// Stops at a log-loss condition.
    pub fn stop(&mut self, condition: Condition) -> Then {
        self.leave_for(State::Stopped(condition))
    }

    /// Notes that a transaction advanced the ledger from `from` to `to`.
    ///
    /// # Panics
    /// Where the partition isn't owned, or the ledger was not at `from`: acknowledgements came out of order.
    pub fn commit(&mut self, from: Offset, to: Offset, now: Instant) {
        let State::Owned(owned) = &mut self.state else { panic!("{}: a commit without a claim", self.source) };
        assert_eq!(owned.committed, from, "{}: an acknowledgement out of order", self.source);
        assert!(from < to && to <= owned.next, "{}: {from}..{to} of {}", self.source, owned.next);
        owned.committed = to;
        self.progress_at = now;
    }

    /// Ends our claim because a later one exists: the revoke is awaited.
    pub fn fence(&mut self, now: Instant) -> Then {
        let (State::Owned(Owned { claim: ours, .. }) | State::Fenced { ours, .. }) = self.state else {
            return Then::Nothing;
        };
        self.leave_for(State::Fenced { since: now, ours })
    }

    /// Compares a ledger row that was read after `asked_at` with our state; `None` where it says nothing new. What happened
    /// since `asked_at` the reader may not have seen.
    pub fn judge(&self, row: LedgerRow, asked_at: Instant) -> Option<Outcome> {
        match &self.state {
            State::Owned(_) if asked_at <= self.progress_at => None,
            State::Owned(owned) => match row.holder(owned.claim) {
                // What is in flight may have advanced it already, up to what was delivered. A position beyond that is one of
                // before a step over a log-loss condition.
                Holder::Us(next) if owned.committed <= next && next <= owned.next => None,
                Holder::Us(_) | Holder::Rewound => Some(Outcome::Rewound),
                Holder::Fenced => Some(Outcome::Fenced),
            },
            // No row may be a restore that is still under way: the grace ends in a claim, which sees it.
            State::Fenced { since, ours } if asked_at > *since && row != LedgerRow::Missing => {
                (row.holder(*ours) == Holder::Rewound).then_some(Outcome::Rewound)
            }
            State::Fenced { .. } | State::Claiming { .. } | State::Stopped(_) => None,
        }
    }

    fn leave_for(&mut self, state: State) -> Then {
        let before = std::mem::replace(&mut self.state, state);
        if matches!(before, State::Owned(_)) { Then::StopFetching } else { Then::Nothing }
    }
}

/// The outcome of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the table, and the ledger is at this offset.
    Committed(Offset),
    /// A later claim holds the partition: we wrote nothing of the segment.
    Fenced,
    /// The ledger isn't where we saw it committed: the database was restored, or someone set the position. The partition is
    /// claimed again.
    Rewound,
}

impl Owned {
    /// Where fetching goes on: at the next offset to deliver, or at the last committed record while it is still to be compared.
    pub fn fetch_at(&self) -> Offset {
        self.verify.map_or(self.next, |last| last.offset)
    }
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The claim, which the ledger now holds.
    pub claim: Claim,
    /// Where the ledger stands.
    pub next: Offset,
    /// Where fetching begins: at `next`, or at the last committed record to know the log again.
    pub fetch: Offset,
    /// That record.
    pub verify: Option<LastRecord>,
}

/// What Kafka and the ledger can disagree about. Each has a policy; what is lost is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The pipeline knew this partition, and the ledger's row is gone.
    LedgerLost,
    /// Kafka deleted records that the ledger says are still to be read.
    RetentionPassed {
        /// Where the ledger stands.
        next: Offset,
        /// The oldest offset that Kafka has.
        low: Offset,
    },
    /// The log ends before the ledger's position: it was truncated, or the topic was made again.
    LogShorter {
        /// Where the ledger stands.
        next: Offset,
        /// The log's end.
        high: Offset,
    },
    /// At the last committed offset lies another record: the topic was made again, or this is another cluster.
    LogReplaced {
        /// The record that was committed last, as the ledger knows it.
        last: LastRecord,
    },
}

impl Condition {
    /// Every [`Condition::cause`].
    pub const CAUSES: [&str; 4] = ["ledger_lost", "retention", "log_shorter", "log_replaced"];

    /// The label of `records_lost_total`.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::LedgerLost => "ledger_lost",
            Self::RetentionPassed { .. } => "retention",
            Self::LogShorter { .. } => "log_shorter",
            Self::LogReplaced { .. } => "log_replaced",
        }
    }

    /// Records known to be lost when the policy goes on at `to` in a log that begins at `low`: those that are deleted, and those
    /// that it skips. A count that cannot be known is 0.
    pub fn lost(&self, low: Offset, to: Offset) -> u64 {
        match self {
            Self::RetentionPassed { next, .. } => to.distance_from(*next),
            Self::LedgerLost | Self::LogShorter { .. } | Self::LogReplaced { .. } => to.distance_from(low),
        }
    }
}

impl Condition {
    /// Whether a claim that shall step over this condition, found under an earlier one, still meets it: `last` is what the ledger
    /// knows now. A claim may come late, from a process that stood still meanwhile, or may be tried again after its answer was
    /// lost; then the ledger may know another log, and stepping over that one would read it a second time or leave it out.
    pub fn still_met(&self, last: Option<LastRecord>) -> bool {
        matches!(self, Self::LogReplaced { last: known } if last == Some(*known))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LedgerLost => f.write_str(
                "ledger lost: the pipeline has read this partition before, but its row in `tidegate.ledger` is gone; restore it, or set a position with `tidegate offsets set`",
            ),
            Self::RetentionPassed { next, low } => write!(
                f,
                "retention passed us: the ledger stands at {next}, Kafka's oldest record is {low}, {} are lost; raise the topic's `retention.ms`, and set `on_offset_loss = \"earliest\"` or `tidegate offsets set` to go on",
                low.distance_from(*next)
            ),
            Self::LogShorter { next, high } => write!(
                f,
                "the log is shorter than the ledger: the ledger stands at {next}, Kafka's log ends at {high}; it was truncated or the topic was made again; set `on_offset_loss` or `tidegate offsets set` to go on"
            ),
            Self::LogReplaced { last } => write!(
                f,
                "the log is not the one we knew: at offset {} lies another record than the one committed last; the topic was made again or this is another cluster; set `on_offset_loss` or `tidegate offsets set` to go on",
                last.offset
            ),
        }
    }
}

/// Where to fetch from, given what the ledger says and what Kafka has (`low` is the oldest offset, `high` the log's end).
///
/// The last committed record is read again where it still exists, so that a log of the same length with other records is
/// noticed.
///
/// # Errors
/// The named condition, where the ledger's position doesn't lie within the log.
pub fn resolve_start(
    next: Offset,
    last: Option<LastRecord>,
    low: Offset,
    high: Offset,
) -> Result<(Offset, Option<LastRecord>), Condition> {
    if next < low {
        return Err(Condition::RetentionPassed { next, low });
    }
    if next > high {
        return Err(Condition::LogShorter { next, high });
    }
    match last {
        Some(last) if last.offset >= low && last.offset < next => Ok((last.offset, Some(last))),
        _ => Ok((next, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn last(offset: i64) -> Option<LastRecord> {
        Some(LastRecord { offset: Offset::new(offset), timestamp_ms: None, digest: 1 })
    }

    fn start(next: i64, last_offset: Option<i64>, low: i64, high: i64) -> Result<i64, &'static str> {
        let last = last_offset.and_then(last);
        resolve_start(Offset::new(next), last, Offset::new(low), Offset::new(high))
            .map(|(fetch, _)| fetch.get())
            .map_err(|condition| condition.cause())
    }

    #[test]
    fn the_last_committed_record_is_read_again_while_it_exists() {
        assert_eq!(start(10, Some(9), 0, 20), Ok(9));
        assert_eq!(start(10, Some(7), 0, 10), Ok(7));
        let (at, low, high) = (Offset::new(10), Offset::new(0), Offset::new(20));
        assert_eq!(resolve_start(at, last(9), low, high), Ok((Offset::new(9), last(9))));
        assert_eq!(resolve_start(at, last(10), low, high), Ok((at, None)), "what isn't written yet is to be taken");
    }

    #[test]
    fn a_log_emptied_up_to_the_position_is_no_loss() {
        assert_eq!(start(10, Some(9), 10, 10), Ok(10));
        assert_eq!(start(10, Some(9), 10, 12), Ok(10));
    }

    #[test]
    fn positions_outside_of_the_log_are_named() {
        assert_eq!(start(10, Some(9), 11, 12), Err("retention"));
        assert_eq!(start(10, Some(9), 0, 9), Err("log_shorter"));
        let condition = Condition::RetentionPassed { next: Offset::new(10), low: Offset::new(25) };
        let lost = |condition: &Condition, to| condition.lost(Offset::new(25), Offset::new(to));
        assert_eq!(lost(&condition, 25), 15, "what was deleted");
        assert_eq!(lost(&condition, 40), 30, "and what is skipped");
        let shorter = Condition::LogShorter { next: Offset::new(50), high: Offset::new(40) };
        assert_eq!((lost(&shorter, 25), lost(&shorter, 40)), (0, 15));
    }

    #[test]
    fn a_step_over_holds_only_for_the_log_that_it_was_found_in() {
        let replaced = Condition::LogReplaced { last: last(9).expect("a record") };
        assert!(replaced.still_met(last(9)));
        assert!(!replaced.still_met(last(8)) && !replaced.still_met(None));
        for other in [
            Condition::LedgerLost,
            Condition::RetentionPassed { next: Offset::new(1), low: Offset::new(2) },
            Condition::LogShorter { next: Offset::new(2), high: Offset::new(1) },
        ] {
            assert!(!other.still_met(last(9)), "{other}");
        }
    }

    #[test]
    fn conditions_have_causes_of_their_own_and_say_where_they_are() {
        let conditions = [
            Condition::LedgerLost,
            Condition::RetentionPassed { next: Offset::new(41), low: Offset::new(52) },
            Condition::LogShorter { next: Offset::new(41), high: Offset::new(40) },
            Condition::LogReplaced { last: last(9).expect("a record") },
        ];
        assert_eq!(conditions.each_ref().map(Condition::cause), Condition::CAUSES);
        let said = conditions.map(|condition| condition.to_string());
        for (said, parts) in said.iter().zip([
            &["`tidegate offsets set`"][..],
            &["stands at 41", "oldest record is 52", "11 are lost"],
            &["stands at 41", "ends at 40"],
            &["at offset 9"],
        ]) {
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    proptest! {
        #[test]
        fn fetching_begins_within_the_log_and_never_after_the_position(
            next in 0i64..50, last_offset in proptest::option::of(0i64..50), low in 0i64..50, len in 0i64..50,
        ) {
            let high = low + len;
            match start(next, last_offset, low, high) {
                Ok(fetch) => prop_assert!(fetch >= low && fetch <= next && next <= high),
                Err("retention") => prop_assert!(next < low),
                Err(_) => prop_assert!(next > high),
            }
        }
    }
}
