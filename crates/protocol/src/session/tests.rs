//! Difficult orders of events: an answer and a revocation, a revocation and a new assignment, an ack of an earlier claim.

mod rewound;

use std::num::NonZeroU32;

use super::*;
use crate::batch::LastRecord;
use crate::position::{Claim, ClaimId};

const GRACE: Duration = Duration::from_secs(3);

fn limits(max_rows: u32) -> BatchLimits {
    BatchLimits {
        max_rows: NonZeroU32::new(max_rows).unwrap(),
        max_bytes: 1 << 20,
        max_age: Duration::from_millis(500),
    }
}

fn source(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn at(offset: i64) -> Offset {
    Offset::new(offset)
}

struct Bench {
    session: Session,
    now: Instant,
    claims: u128,
}

impl Bench {
    fn new(max_rows: u32) -> Self {
        Self { session: Session::new(limits(max_rows), GRACE), now: Instant::now(), claims: 0 }
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }

    fn assign(&mut self, partition: i32) -> u64 {
        self.session.assigned([source(partition)], self.now);
        self.asked(partition)
    }

    /// Takes the session's actions, and returns the id of the claim request for `partition`. Panics unless this is the only
    /// request. Ignores the other actions.
    fn asked(&mut self, partition: i32) -> u64 {
        let actions = self.session.take_actions();
        let [(asked, request_id)] = &actions.claim[..] else { panic!("one claim: {actions:?}") };
        assert_eq!(*asked, source(partition));
        *request_id
    }

    fn grant(&mut self, partition: i32, request_id: u64, next: i64, verify: Option<LastRecord>) -> Claim {
        self.claims += 1;
        let claim = Claim { id: ClaimId::from_u128(self.claims), epoch: 1 };
        let fetch = verify.map_or(at(next), |last| last.offset);
        let grant = Grant { claim, next: at(next), fetch, verify };
        self.session.granted(&source(partition), request_id, &grant, self.now);
        claim
    }

    /// Assigns and grants a partition, and checks that it is then fetched from `next`. Takes the actions, so that none are left.
    fn own(&mut self, partition: i32, next: i64) -> Claim {
        let request_id = self.assign(partition);
        let claim = self.grant(partition, request_id, next, None);
        assert_eq!(self.session.take_actions().fetch, [(source(partition), at(next))]);
        claim
    }

    fn deliver(&mut self, partition: i32, offset: i64) -> Delivery {
        self.deliver_as(partition, offset, b"v", |_, rows| {
            rows.push(b'.');
            Ok(1)
        })
    }

    fn deliver_as(
        &mut self,
        partition: i32,
        offset: i64,
        value: &[u8],
        encode: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<u32, RejectedRecord>,
    ) -> Delivery {
        let incoming = Incoming { offset: at(offset), timestamp_ms: Some(1), key: None, value: Some(value) };
        let Some(slot) = self.session.slot_of("t", partition) else { return Delivery::Ignored };
        self.session.deliver(slot, &incoming, self.now, |_| (), encode)
    }

    fn seal(&mut self) -> Batch {
        self.session.seal(Trigger::Rows, self.now).expect("a batch")
    }

    fn ack(&mut self, batch: Batch, outcome: Outcome) {
        let outcomes = vec![Some(outcome); batch.segments().len()];
        self.session.acked(Ack { outcomes, batch }, self.now);
    }

    fn state(&self, partition: i32) -> &State {
        &self.session.partitions().find(|p| p.source == source(partition)).expect("ours").state
    }

    fn owned(&self, partition: i32) -> &Owned {
        let State::Owned(owned) = self.state(partition) else { panic!("{:?}", self.state(partition)) };
        owned
    }
}

fn mark(offset: i64, value: &[u8]) -> LastRecord {
    let headers = Headers::default();
    let record =
        Record { topic: "t", partition: 0, offset, timestamp_ms: Some(1), key: None, value: Some(value), headers };
    last_record(&record)
}

#[test]
fn a_step_over_that_is_pending_when_its_partition_is_revoked_is_forgotten() {
    let mut bench = Bench::new(10);
    let request_id = bench.assign(0);
    bench.grant(0, request_id, 8, Some(mark(7, b"known")));
    bench.session.take_actions();
    bench.deliver_as(0, 7, b"other", |_, _| Ok(1));
    assert!(matches!(bench.state(0), State::Stopped(LossCondition::LogReplaced { .. })));
    // The revocation is handled before the actions that the record caused.
    bench.session.revoked([&source(0)]);
    assert_eq!(bench.session.take_actions(), Actions::default());
    // Claiming a partition that isn't assigned does nothing. After the next assignment, the last committed record is
    // compared again.
    bench.session.claim_again(&source(0), bench.now);
    let request_id = bench.assign(0);
    bench.session.claim_again(&source(1), bench.now);
    bench.grant(0, request_id, 8, Some(mark(7, b"known")));
    assert_eq!(bench.session.take_actions().fetch, [(source(0), at(7))]);
}

#[test]
fn a_claim_granted_during_the_flush_of_its_revoke_fetches_nothing() {
    let mut bench = Bench::new(10);
    let request_id = bench.assign(0);
    bench.own(1, 0);
    bench.grant(0, request_id, 5, None);
    bench.session.revoked([&source(0)]);
    assert_eq!(bench.session.take_actions(), Actions::default());
    assert_eq!(bench.deliver(0, 5), Delivery::Ignored);
}

#[test]
fn records_are_counted_by_batch() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    let counts = |bench: &Bench| (bench.session.open_records(), bench.session.records_in_flight());
    (0..3).for_each(|offset| assert_eq!(bench.deliver(0, offset), Delivery::Accepted));
    assert_eq!(counts(&bench), (3, 0));
    let batch = bench.seal();
    bench.deliver(0, 3);
    assert_eq!(counts(&bench), (1, 3));
    bench.ack(batch, Outcome::Committed(at(3)));
    assert_eq!(counts(&bench), (1, 0));
}

#[test]
fn a_rewind_during_the_flush_of_a_revoke_claims_nothing() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.deliver(0, 0);
    let batch = bench.seal();
    bench.ack(batch, Outcome::Rewound);
    bench.session.revoked([&source(0)]);
    assert_eq!(bench.session.take_actions(), Actions::default());
}

#[test]
fn a_revoke_leaves_what_is_to_be_done_for_others() {
    let mut bench = Bench::new(10);
    let (zero, one) = (bench.assign(0), bench.assign(1));
    bench.grant(0, zero, 5, None);
    bench.grant(1, one, 6, None);
    bench.session.assigned([source(2)], bench.now);
    bench.session.revoked([&source(0)]);
    let actions = bench.session.take_actions();
    assert_eq!(actions.fetch, [(source(1), at(6))]);
    assert_eq!(actions.claim.iter().map(|(asked, _)| asked.partition).collect::<Vec<_>>(), [2]);
    assert_eq!((bench.deliver(1, 6), bench.deliver(0, 5)), (Delivery::Accepted, Delivery::Ignored));
}

#[test]
fn an_answer_to_an_earlier_assignment_is_not_for_the_later_one() {
    let mut bench = Bench::new(10);
    let early = bench.assign(0);
    bench.session.revoked([&source(0)]);
    let late = bench.assign(0);
    assert_ne!(early, late);
    bench.grant(0, early, 3, None);
    assert!(matches!(bench.state(0), State::Claiming { .. }));
    bench.session.refused(&source(0), early, LossCondition::LedgerLost);
    assert!(matches!(bench.state(0), State::Claiming { .. }));
    bench.grant(0, late, 4, None);
    assert_eq!(bench.owned(0).next, at(4));
}

#[test]
fn an_ack_of_an_earlier_claim_moves_nothing() {
    for outcome in [Outcome::Committed(at(2)), Outcome::Fenced, Outcome::Rewound] {
        let mut bench = Bench::new(10);
        bench.own(0, 0);
        bench.deliver(0, 0);
        let batch = bench.seal();
        bench.session.revoked([&source(0)]);
        bench.own(0, 0);
        bench.deliver(0, 0);
        bench.ack(batch, outcome);
        assert_eq!((bench.owned(0).committed, bench.owned(0).next), (at(0), at(1)));
        assert_eq!(bench.session.take_actions(), Actions::default());
        assert!(bench.session.can_seal(), "the slot is free again all the same");
    }
}

#[test]
fn records_of_a_partition_that_left_are_no_part_of_the_batch() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.own(1, 0);
    for offset in 0..3 {
        bench.deliver(0, offset);
        bench.deliver(1, offset);
    }
    bench.session.revoked([&source(0)]);
    bench.own(0, 1);
    bench.deliver(0, 1);
    let batch = bench.seal();
    let spans = batch.spans(0..batch.len());
    let spans: Vec<_> = spans.iter().map(|span| (span.source.partition, span.from.get(), span.to.get())).collect();
    assert_eq!(spans, [(0, 1, 2), (1, 0, 3)]);
    assert_eq!(batch.rows_in(0..batch.len()), 4);
}

#[test]
fn a_superseded_partition_is_claimed_again_after_the_grace_and_not_before() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.deliver(0, 0);
    let batch = bench.seal();
    bench.deliver(0, 1);
    bench.ack(batch, Outcome::Fenced);
    assert_eq!(bench.session.take_actions().stop, [source(0)]);
    assert_eq!(bench.deliver(0, 2), Delivery::Ignored);
    let batch = bench.seal();
    assert_eq!(batch.records_in(0..batch.len()), 0, "what was open is not ours to write");
    bench.later(GRACE - Duration::from_millis(1));
    bench.session.tick(bench.now);
    assert!(bench.session.take_actions().is_empty());
    bench.later(Duration::from_millis(1));
    bench.session.tick(bench.now);
    bench.asked(0);
}

#[test]
fn what_follows_a_rewound_batch_is_refilled_from_kafka() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.deliver(0, 0);
    let batch = bench.seal();
    bench.deliver(0, 1);
    bench.ack(batch, Outcome::Rewound);
    let actions = bench.session.take_actions();
    assert_eq!((actions.stop.len(), actions.claim.len()), (1, 1));
    let batch = bench.seal();
    assert_eq!(batch.records_in(0..batch.len()), 0);
}

#[test]
fn the_ledgers_word_counts_only_where_it_is_news() {
    let old_claim = Claim { id: ClaimId::from_u128(99), epoch: 2 };
    let row = |claim: Claim, next| LedgerRow::Found { claim: Some(claim.id), epoch: 2, next: at(next) };
    let seen = |row_of: &dyn Fn(Claim) -> LedgerRow, asked_after: u64| {
        let mut bench = Bench::new(10);
        let claim = bench.own(0, 5);
        let progress = bench.now;
        bench.later(Duration::from_secs(9));
        let requested_at = progress + Duration::from_millis(asked_after);
        let outcome = bench.session.ledger_seen(&source(0), row_of(claim), requested_at, bench.now);
        (outcome, bench.session.take_actions())
    };
    // The row was requested at the instant of our last progress, so it may be older than that progress.
    assert_eq!(seen(&|claim| row(claim, 4), 0).0, None);
    assert_eq!(seen(&|claim| row(claim, 5), 1).0, None);
    assert_eq!(seen(&|claim| row(claim, 6), 1).0, Some(Outcome::Rewound), "nothing of ours leads there");
    let (outcome, actions) = seen(&|claim| row(claim, 4), 1);
    assert_eq!((outcome, actions.stop.len(), actions.claim.len()), (Some(Outcome::Rewound), 1, 1));
    assert_eq!(seen(&|_| LedgerRow::Missing, 1).0, Some(Outcome::Rewound));
    let (outcome, actions) = seen(&|_| row(old_claim, 5), 1);
    assert_eq!((outcome, actions.stop.len(), actions.claim.len()), (Some(Outcome::Fenced), 1, 0));
}

#[test]
fn a_log_is_known_again_by_its_last_record() {
    let known = |offset: i64, value: &[u8]| {
        let mut bench = Bench::new(10);
        let request_id = bench.assign(0);
        bench.grant(0, request_id, 8, Some(mark(7, b"v")));
        bench.session.take_actions();
        bench.deliver_as(0, offset, value, |_, _| Ok(1));
        let conditions = bench.session.take_actions().conditions;
        (conditions.into_iter().map(|(_, condition)| condition.cause()).next(), bench.session.open_records())
    };
    assert_eq!(known(7, b"v"), (None, 0), "it is ours already");
    assert_eq!(known(7, b"w"), (Some("log_replaced"), 0));
    assert_eq!(known(8, b"w"), (None, 1), "it was compacted away: nothing tells the logs apart");
    assert_eq!(known(6, b"w"), (None, 0), "an earlier one says nothing");

    let mut bench = Bench::new(10);
    let request_id = bench.assign(0);
    bench.grant(0, request_id, 8, Some(mark(7, b"v")));
    bench.deliver_as(0, 6, b"v", |_, _| Ok(1));
    bench.deliver_as(0, 7, b"w", |_, _| Ok(1));
    assert_eq!(bench.session.take_actions().conditions.len(), 1, "nor does it keep the last one from being looked at");
}

#[test]
fn a_claim_that_is_refused_stops_its_partition_by_the_condition() {
    let mut bench = Bench::new(10);
    let (stopped, other) = (bench.assign(0), bench.assign(1));
    bench.session.take_actions();
    assert!(bench.session.take_actions().is_empty());
    bench.session.refused(&source(0), other, LossCondition::LedgerLost);
    assert!(matches!(bench.state(0), State::Claiming { .. }), "that answers another request");
    bench.session.refused(&source(0), stopped, LossCondition::LedgerLost);
    assert!(matches!(bench.state(0), State::Stopped(LossCondition::LedgerLost)));
    let actions = bench.session.take_actions();
    assert!(!actions.is_empty());
    assert_eq!(actions.conditions, [(source(0), LossCondition::LedgerLost)]);
}

#[test]
fn out_of_range_claims_again_what_is_owned_and_nothing_else() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.assign(1);
    bench.deliver(0, 0);
    bench.session.claim_all_again(bench.now);
    let actions = bench.session.take_actions();
    assert_eq!(actions.stop, [source(0)]);
    assert_eq!(actions.claim.iter().map(|(asked, _)| asked.partition).collect::<Vec<_>>(), [0]);
    let batch = bench.seal();
    assert_eq!(batch.records_in(0..batch.len()), 0);
}

#[test]
fn a_batch_is_due_by_rows_bytes_and_age() {
    let mut bench = Bench::new(2);
    bench.own(0, 0);
    assert_eq!((bench.session.due(bench.now), bench.session.due_in(bench.now)), (None, None));
    bench.deliver(0, 0);
    assert_eq!((bench.session.due(bench.now), bench.session.is_full()), (None, false));
    assert_eq!(bench.session.due_in(bench.now), Some(Duration::from_millis(500)));
    bench.later(Duration::from_millis(500));
    assert_eq!(bench.session.due(bench.now), Some(Trigger::Age));
    bench.deliver(0, 1);
    assert_eq!((bench.session.due(bench.now), bench.session.is_full()), (Some(Trigger::Rows), true));

    let mut bench = Bench::new(2);
    bench.own(0, 0);
    bench.deliver_as(0, 0, &vec![0; 1 << 20], |_, _| Ok(1));
    assert_eq!((bench.session.due(bench.now), bench.session.is_full()), (Some(Trigger::Bytes), true));

    // Twice `max_rows` records are a limit too, so that a batch of skipped records ends.
    let mut bench = Bench::new(3);
    bench.own(0, 0);
    for offset in 0..6 {
        assert_eq!((bench.session.due(bench.now), bench.session.is_full()), (None, false));
        bench.deliver_as(0, offset, b"v", |_, _| Ok(0));
    }
    assert_eq!((bench.session.due(bench.now), bench.session.is_full()), (Some(Trigger::Rows), true));
}

#[test]
fn one_batch_is_in_flight_at_most() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    assert!(bench.session.seal(Trigger::Age, bench.now).is_none(), "nothing to write");
    bench.deliver(0, 0);
    let batch = bench.seal();
    assert!(bench.session.in_flight());
    bench.deliver(0, 1);
    assert!(!bench.session.can_seal() && bench.session.seal(Trigger::Age, bench.now).is_none());
    bench.ack(batch, Outcome::Committed(at(1)));
    assert_eq!(bench.owned(0).committed, at(1));
    let batch = bench.seal();
    assert_eq!(batch.spans(0..1)[0].from, at(1), "the next one begins where the last one ends");
}

#[test]
fn it_says_what_it_owns() {
    let mut bench = Bench::new(2);
    bench.own(0, 10);
    bench.assign(1);
    assert!(bench.session.take_actions().is_empty());
    assert_eq!(bench.session.claiming().collect::<Vec<_>>(), [&source(1)]);
    let positions: Vec<_> =
        bench.session.positions().map(|(source, owned)| (source.clone(), owned.next.get())).collect();
    assert_eq!(positions, [(source(0), 10)]);
    let slot_of = |topic, partition| bench.session.slot_of(topic, partition);
    assert_eq!((slot_of("t", 0), slot_of("t", 1), slot_of("t", 2), slot_of("u", 0)), (Some(0), Some(1), None, None));
    assert_eq!([9, 10, 11].map(|offset| bench.session.takes(0, at(offset))), [false, true, true]);
    assert!(!bench.session.takes(1, at(10)));
    bench.session.read_to(&source(0), at(15));
    bench.session.read_to(&source(0), at(12));
    assert_eq!(bench.owned(0).read_to, at(15), "what was read once isn't unread");
}

#[test]
fn a_batch_is_full_by_rows_and_by_records() {
    let mut bench = Bench::new(3);
    bench.own(0, 0);
    assert_eq!((bench.session.open_bytes(), bench.session.is_full()), (0, false));
    for offset in 0..2 {
        bench.deliver(0, offset);
        assert!(!bench.session.is_full());
    }
    for offset in 2..6 {
        assert!(!bench.session.is_full());
        assert_eq!(bench.deliver_as(0, offset, b"v", |_, _| Ok(0)), Delivery::Accepted);
    }
    assert!(bench.session.is_full(), "six records, of which four gave no row");
    assert_eq!((bench.session.open_rows(), bench.session.open_records()), (2, 6));
    let mut bench = Bench::new(2);
    bench.own(0, 0);
    bench.deliver(0, 0);
    assert!(!bench.session.is_full());
    bench.deliver(0, 1);
    assert!(bench.session.is_full(), "two rows");
}

#[test]
fn a_batch_is_full_by_bytes() {
    let filled = |max_bytes| {
        let limits = BatchLimits { max_bytes, ..limits(100) };
        let mut bench = Bench { session: Session::new(limits, GRACE), now: Instant::now(), claims: 0 };
        bench.own(0, 0);
        for offset in 0..6 {
            bench.deliver(0, offset);
        }
        bench
    };
    let bytes = filled(u64::MAX).session.open_bytes() as u64;
    assert!(bytes > 8);
    let bench = filled(bytes + 1);
    assert!(!bench.session.is_full() && bench.session.due(bench.now).is_none());
    let bench = filled(bytes);
    assert!(bench.session.is_full() && bench.session.due(bench.now) == Some(Trigger::Bytes));
}

#[test]
fn a_batch_is_due_by_the_age_of_its_first_record() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    assert_eq!(bench.session.due_in(bench.now), None);
    bench.deliver(0, 0);
    assert_eq!(bench.session.due_in(bench.now), Some(Duration::from_millis(500)));
    bench.later(Duration::from_millis(200));
    bench.deliver(0, 1);
    assert_eq!(bench.session.due_in(bench.now), Some(Duration::from_millis(300)));
    bench.later(Duration::from_millis(301));
    assert_eq!(
        (bench.session.due_in(bench.now), bench.session.due(bench.now)),
        (Some(Duration::ZERO), Some(Trigger::Age))
    );
}

#[test]
fn a_consumer_built_anew_owns_nothing_and_awaits_the_batch_at_the_writer() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.deliver(0, 0);
    let batch = bench.seal();
    let before = bench.session.last_request;
    bench.session = std::mem::replace(&mut bench.session, Session::new(limits(1), GRACE)).restart();
    assert!(bench.session.in_flight() && bench.session.partitions().next().is_none());
    assert!(bench.assign(0) > before, "an answer to the consumer before is none to this one");
    bench.ack(batch, Outcome::Committed(at(1)));
    assert!(!bench.session.in_flight());
    assert!(matches!(bench.state(0), State::Claiming { .. }), "an ack of the consumer before moves nothing");
}

#[test]
fn a_consumer_built_anew_knows_how_long_a_write_takes() {
    let mut bench = Bench::new(10);
    bench.own(0, 0);
    bench.deliver(0, 0);
    let batch = bench.seal();
    bench.later(Duration::from_millis(100));
    bench.ack(batch, Outcome::Committed(at(1)));
    bench.session = std::mem::replace(&mut bench.session, Session::new(limits(1), GRACE)).restart();
    bench.own(0, 1);
    bench.deliver(0, 1);
    assert_eq!(bench.session.due_in(bench.now), Some(Duration::from_millis(300)), "half a second without the write");
}

#[test]
fn partitions_of_one_number_are_told_apart_by_their_topics() {
    let mut bench = Bench::new(10);
    let topics = ["t", "u"].map(|topic| TopicPartition::new(topic, 0));
    bench.session.assigned(topics.clone(), bench.now);
    for (source, request_id) in bench.session.take_actions().claim {
        let claim = Claim { id: ClaimId::from_u128(u128::from(request_id)), epoch: 1 };
        let grant = Grant { claim, next: at(0), fetch: at(0), verify: None };
        bench.session.granted(&source, request_id, &grant, bench.now);
    }
    for (topic, offset) in [("t", 0), ("u", 5), ("u", 6), ("t", 1)] {
        let incoming = Incoming { offset: at(offset), timestamp_ms: None, key: None, value: None };
        let slot = bench.session.slot_of(topic, 0).expect("ours");
        bench.session.deliver(slot, &incoming, bench.now, |_| (), |_, _| Ok(1));
    }
    let batch = bench.seal();
    let spans: Vec<_> = batch.spans(0..4).into_iter().map(|span| (span.source, span.to)).collect();
    assert_eq!(spans, topics.into_iter().zip([at(2), at(7)]).collect::<Vec<_>>());
}

#[test]
fn a_condition_that_is_stepped_over_is_claimed_again() {
    let mut bench = Bench::new(10);
    let request_id = bench.assign(0);
    bench.session.refused(&source(0), request_id, LossCondition::LedgerLost);
    bench.session.take_actions();
    bench.session.claim_again(&source(0), bench.now);
    assert!(bench.asked(0) > request_id);
}
