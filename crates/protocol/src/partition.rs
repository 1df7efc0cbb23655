//! One partition, from assignment to revocation: the state machine that `ARCHITECTURE.md` draws. No I/O.

use std::fmt;
use std::time::Instant;

use crate::batch::LastRecord;
use crate::position::{Claim, Offset, TopicPartition};
use crate::store::{Holder, LedgerRow};

/// A partition that Kafka has assigned to this consumer.
#[derive(Debug)]
pub struct Partition {
    pub source: TopicPartition,
    pub state: State,
    /// The id of the last claim request. It changes with each assignment and each request, so that replies to earlier requests
    /// are ignored.
    pub request_id: u64,
    /// When the partition last made progress: was assigned or granted, had a record, or had a commit.
    pub progress_at: Instant,
}

/// The state of an assigned partition. A partition that isn't assigned has no [`Partition`]. The state *in doubt* of
/// `ARCHITECTURE.md` is missing here, because only the writer knows it.
#[derive(Debug)]
pub enum State {
    /// A claim was requested. Nothing is fetched before it is granted.
    Claiming { since: Instant },
    /// Claimed: records are consumed and written under this claim.
    Owned(Owned),
    /// A later claim has replaced the consumer's claim `ours`, while Kafka still assigns the partition to the
    /// consumer. Nothing is fetched. If no revocation follows within the claim grace, the partition is claimed again.
    Fenced { since: Instant, ours: Claim },
    /// A log-loss condition was found, and nothing is fetched. If the policy skips the condition, a new claim is requested
    /// next.
    Stopped(LossCondition),
}

#[derive(Debug)]
pub struct Owned {
    pub claim: Claim,
    /// The lowest offset that may still go into a batch. Records before it are ignored.
    pub next: Offset,
    /// The ledger's offset after this consumer's last claim or commit.
    pub committed: Offset,
    /// The last committed record, if it must still be compared with the record that Kafka delivers at its offset.
    pub verify: Option<LastRecord>,
    /// The offset up to which Kafka's log was read. If this is after `next`, the offsets in between have no records to deliver,
    /// but for example transaction markers. Otherwise this field has no meaning.
    pub read_to: Offset,
}

/// The action that the caller must take after a state change of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FollowUp {
    /// Nothing was fetched, so there is nothing to stop.
    Nothing,
    /// The partition was fetched: stop fetching it, and remove its records from the open batch.
    StopFetching,
}

impl Partition {
    /// Changes to [`State::Claiming`], because the caller requests a claim with this id. Answers to earlier requests no longer
    /// count.
    pub fn ask(&mut self, request: u64, now: Instant) -> FollowUp {
        self.request_id = request;
        self.change_state(State::Claiming { since: now })
    }

    pub fn is_current_request(&self, request: u64) -> bool {
        matches!(self.state, State::Claiming { .. }) && self.request_id == request
    }

    /// Applies a granted claim.
    ///
    /// # Panics
    /// If no claim was requested.
    pub fn grant(&mut self, grant: &Grant, now: Instant) {
        assert!(matches!(self.state, State::Claiming { .. }), "{}: a grant that nobody asked for", self.source);
        let Grant { claim, next, verify, .. } = *grant;
        self.state = State::Owned(Owned { claim, next, committed: next, verify, read_to: next });
        self.progress_at = now;
    }

    pub fn stop(&mut self, condition: LossCondition) -> FollowUp {
        self.change_state(State::Stopped(condition))
    }

    /// Notes that a transaction advanced the ledger from `from` to `to`.
    ///
    /// # Panics
    /// If the partition isn't owned, or the ledger was not at `from`. Also if `to` isn't after `from`, or is after
    /// [`Owned::next`].
    pub fn commit(&mut self, from: Offset, to: Offset, now: Instant) {
        let State::Owned(owned) = &mut self.state else { panic!("{}: a commit without a claim", self.source) };
        assert_eq!(owned.committed, from, "{}: an acknowledgement out of order", self.source);
        assert!(from < to && to <= owned.next, "{}: {from}..{to} of {}", self.source, owned.next);
        owned.committed = to;
        self.progress_at = now;
    }

    /// Notes that a later claim has replaced the consumer's own. Usually a revocation follows. Changes nothing if
    /// the partition is neither owned nor fenced.
    pub fn fence(&mut self, now: Instant) -> FollowUp {
        let (State::Owned(Owned { claim: ours, .. }) | State::Fenced { ours, .. }) = self.state else {
            return FollowUp::Nothing;
        };
        self.change_state(State::Fenced { since: now, ours })
    }

    /// Compares the partition's state with a ledger row that was requested at `requested_at`. Returns what happened to the
    /// consumer's claim; `None` if the row contains nothing new. The row may lack changes that were made after `requested_at`.
    pub fn compare_with_ledger(&self, row: LedgerRow, requested_at: Instant) -> Option<Outcome> {
        match &self.state {
            State::Owned(_) if requested_at <= self.progress_at => None,
            State::Owned(owned) => match row.holder(owned.claim) {
                // A write in flight may have advanced the row already, to an offset up to `next`. We write no other
                // offset under this claim.
                Holder::Us(next) if owned.committed <= next && next <= owned.next => None,
                Holder::Us(_) | Holder::Rewound => Some(Outcome::Rewound),
                Holder::Fenced => Some(Outcome::Fenced),
            },
            // A missing row may mean that a restore is in progress. If the row is really lost, the claim after the grace period
            // notices it.
            State::Fenced { since, ours } if requested_at > *since && row != LedgerRow::Missing => {
                (row.holder(*ours) == Holder::Rewound).then_some(Outcome::Rewound)
            }
            State::Fenced { .. } | State::Claiming { .. } | State::Stopped(_) => None,
        }
    }

    fn change_state(&mut self, state: State) -> FollowUp {
        let before = std::mem::replace(&mut self.state, state);
        if matches!(before, State::Owned(_)) { FollowUp::StopFetching } else { FollowUp::Nothing }
    }
}

/// The outcome of writing one segment of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The segment was committed, and the ledger is at this offset.
    Committed(Offset),
    /// A later claim has replaced the segment's claim. The segment's uncommitted records were not written.
    Fenced,
    /// The partition must be claimed again. Either its ledger row isn't as this consumer left it: the database was restored, or
    /// somebody changed the row. Or the ledger has advanced, but perhaps by another write than this consumer's.
    Rewound,
}

impl Owned {
    /// Returns where fetching starts: at the next offset to deliver, or at the last committed record if it must still be
    /// compared.
    pub fn fetch_at(&self) -> Offset {
        self.verify.map_or(self.next, |last| last.offset)
    }
}

/// A granted claim: the ledger has `claim`, and is at `next`, the offset of the next record to write. If `verify` is `None`,
/// fetching begins at `next`. Otherwise it begins at the offset of `verify`, the last committed record, which must be compared
/// with the record that Kafka has there. For example, with `next` 10 and a last committed record at 9, `fetch` is 9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub claim: Claim,
    pub next: Offset,
    pub fetch: Offset,
    pub verify: Option<LastRecord>,
}

/// A log-loss condition: a way in which Kafka's log of a partition and the partition's ledger row disagree. `next` is
/// the ledger's offset of the next record to write. `low` and `high` are the ends of the log: the oldest offset that
/// Kafka has, and the offset after the newest record. `last` is the last committed record, as stored in the ledger.
///
/// `on_offset_loss` says whether the pipeline then stops or continues. If it continues, the records that are known
/// to be lost are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossCondition {
    /// The pipeline knew this partition, but its ledger row is missing.
    LedgerLost,
    /// Kafka deleted records that were not written yet: its log begins after the ledger's offset.
    RetentionPassed { next: Offset, low: Offset },
    /// The log ends before the ledger's offset: it was truncated, or the topic was recreated.
    LogShorter { next: Offset, high: Offset },
    /// Another record is at the last committed offset: the topic was recreated, or this is another cluster.
    LogReplaced { last: LastRecord },
}

impl LossCondition {
    pub const CAUSES: [&str; 4] = ["ledger_lost", "retention", "log_shorter", "log_replaced"];

    /// Returns the label value for `records_lost_total`.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::LedgerLost => "ledger_lost",
            Self::RetentionPassed { .. } => "retention",
            Self::LogShorter { .. } => "log_shorter",
            Self::LogReplaced { .. } => "log_replaced",
        }
    }

    /// Returns how many records are known to be lost if the policy continues at `to` in a log that begins at `low`. Each offset
    /// counts as a record. For example, with `low` 25 and `to` 40, the 15 skipped records are lost. After
    /// [`Self::RetentionPassed`] with `next` 10, the 15 deleted ones are lost too.
    pub fn lost(&self, low: Offset, to: Offset) -> u64 {
        match self {
            Self::RetentionPassed { next, .. } => to.distance_from(*next),
            Self::LedgerLost | Self::LogShorter { .. } | Self::LogReplaced { .. } => to.distance_from(low),
        }
    }

    /// Returns whether this condition, which was found under an earlier claim, surely still holds under a new claim. If so, the
    /// new claim may skip it, as the policy says. `last` is the last committed record in the row that the new claim has read.
    ///
    /// Only a [`Self::LogReplaced`] that names `last` may be skipped. If the row has another last record, the condition may have
    /// been skipped already, for example by another owner. Skipping it again could read records of the new log twice or leave
    /// them out.
    pub fn still_met(&self, last: Option<LastRecord>) -> bool {
        matches!(self, Self::LogReplaced { last: known } if last == Some(*known))
    }

    /// Returns what is wrong, without a remedy. Used if the pipeline continues, as `on_offset_loss` says.
    pub fn fact(&self) -> String {
        match self {
            Self::LedgerLost => {
                "ledger lost: the pipeline has read this partition before, but its row in `tidegate.ledger` is missing"
                    .to_owned()
            }
            Self::RetentionPassed { next, low } => format!(
                "Kafka deleted records before they were written: the ledger is at offset {next}, Kafka's oldest record is at {low}, {} lost",
                match low.distance_from(*next) {
                    1 => "1 is".to_owned(),
                    lost => format!("{lost} are"),
                }
            ),
            Self::LogShorter { next, high } => format!(
                "Kafka's log ends before the ledger's position: the ledger is at offset {next}, the log ends at {high}; the log was truncated, or the topic was recreated"
            ),
            Self::LogReplaced { last } => format!(
                "Kafka's log was replaced: the record at offset {} is not the one that was last committed; the topic was recreated, or this is another cluster",
                last.offset
            ),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::LedgerLost => "restore the row, or set a position with `tidegate offsets set`",
            Self::RetentionPassed { .. } => {
                "raise the topic's `retention.ms`; to continue after the lost records, set `on_offset_loss = \"earliest\"` or run `tidegate offsets set`"
            }
            Self::LogShorter { .. } | Self::LogReplaced { .. } => {
                "to continue, set `on_offset_loss` or run `tidegate offsets set`"
            }
        }
    }
}

/// The text of [`LossCondition::fact`], followed by the remedy.
impl fmt::Display for LossCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fact(), self.remedy())
    }
}

/// Returns the offset at which to start fetching, and the record to compare, if there is one. `next` and `last` are from the
/// ledger. `low` is the oldest offset of Kafka's log, `high` its end.
///
/// If the log still has the offset of the last committed record, fetching starts there, so that the two records are compared.
/// This reveals another log even if it isn't shorter than the old one.
///
/// # Errors
/// The log-loss condition, if `next` is before `low` or after `high`.
pub fn resolve_start(
    next: Offset,
    last: Option<LastRecord>,
    low: Offset,
    high: Offset,
) -> Result<(Offset, Option<LastRecord>), LossCondition> {
    if next < low {
        return Err(LossCondition::RetentionPassed { next, low });
    }
    if next > high {
        return Err(LossCondition::LogShorter { next, high });
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
        let condition = LossCondition::RetentionPassed { next: Offset::new(10), low: Offset::new(25) };
        let lost = |condition: &LossCondition, to| condition.lost(Offset::new(25), Offset::new(to));
        assert_eq!(lost(&condition, 25), 15, "what was deleted");
        assert_eq!(lost(&condition, 40), 30, "and what is skipped");
        let shorter = LossCondition::LogShorter { next: Offset::new(50), high: Offset::new(40) };
        assert_eq!((lost(&shorter, 25), lost(&shorter, 40)), (0, 15));
    }

    #[test]
    fn a_step_over_holds_only_for_the_log_that_it_was_found_in() {
        let replaced = LossCondition::LogReplaced { last: last(9).expect("a record") };
        assert!(replaced.still_met(last(9)));
        assert!(!replaced.still_met(last(8)) && !replaced.still_met(None));
        for other in [
            LossCondition::LedgerLost,
            LossCondition::RetentionPassed { next: Offset::new(1), low: Offset::new(2) },
            LossCondition::LogShorter { next: Offset::new(2), high: Offset::new(1) },
        ] {
            assert!(!other.still_met(last(9)), "{other}");
        }
    }

    #[test]
    fn conditions_have_causes_of_their_own_and_say_where_they_are() {
        let conditions = [
            LossCondition::LedgerLost,
            LossCondition::RetentionPassed { next: Offset::new(41), low: Offset::new(52) },
            LossCondition::LogShorter { next: Offset::new(41), high: Offset::new(40) },
            LossCondition::LogReplaced { last: last(9).expect("a record") },
        ];
        assert_eq!(conditions.each_ref().map(LossCondition::cause), LossCondition::CAUSES);
        let said = conditions.map(|condition| condition.to_string());
        for (said, parts) in said.iter().zip([
            &["`tidegate offsets set`"][..],
            &["is at offset 41", "oldest record is at 52", "11 are lost"],
            &["is at offset 41", "ends at 40"],
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
