//! Tests with a database that was restored to a state before our claim.

use std::num::NonZeroU32;

use super::super::*;
use crate::position::{Claim, ClaimId};
use crate::store::SpanOutcome;

const MS: Duration = Duration::from_millis(1);
const EPOCH: i64 = 5;

fn source() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn owning(now: Instant) -> Session {
    let limits = BatchLimits { max_rows: NonZeroU32::MIN, max_bytes: 1 << 20, max_age: Duration::from_secs(1) };
    let mut session = Session::new(limits, Duration::from_secs(600));
    session.assigned([source()], now);
    let request_id = session.take_actions().claim[0].1;
    let claim = Claim { id: ClaimId::from_u128(7), epoch: EPOCH };
    let at = Offset::new(10);
    session.granted(&source(), request_id, &Grant { claim, next: at, fetch: at, verify: None }, now);
    session.take_actions();
    session
}

fn held_by(epoch: i64) -> LedgerRow {
    LedgerRow::Found { claim: Some(ClaimId::from_u128(1)), epoch, next: Offset::new(3) }
}

#[test]
fn an_older_claim_in_the_ledger_is_nobody_to_wait_for() {
    let start = Instant::now();
    let mut session = owning(start);
    let ours = LedgerRow::Found { claim: Some(ClaimId::from_u128(7)), epoch: EPOCH, next: Offset::new(10) };
    assert_eq!(session.ledger_seen(&source(), ours, start + MS, start + 2 * MS), None);
    let asked_before = session.ledger_seen(&source(), held_by(EPOCH - 1), start, start + 2 * MS);
    assert_eq!(asked_before, None, "asked before we had it");
    let outcome = session.ledger_seen(&source(), held_by(EPOCH - 1), start + MS, start + 2 * MS);
    assert_eq!(outcome, Some(Outcome::Rewound));
    let actions = session.take_actions();
    assert_eq!((actions.stop.len(), actions.claim.len()), (1, 1), "it stops fetching and claims");
}

#[test]
fn a_fenced_partition_is_claimed_at_once_where_the_database_went_back() {
    let start = Instant::now();
    let mut session = owning(start);
    // The row has another claim, whose number equals ours. Only a lower number shows that the database was restored, so the
    // partition counts as fenced.
    let outcome = session.ledger_seen(&source(), held_by(EPOCH), start + MS, start + 2 * MS);
    assert_eq!(outcome, Some(Outcome::Fenced));
    session.take_actions();
    let asked_before = session.ledger_seen(&source(), held_by(EPOCH - 1), start + MS, start + 3 * MS);
    assert_eq!(asked_before, None, "asked before it was fenced");
    session.tick(start + 4 * MS);
    assert!(session.take_actions().claim.is_empty(), "the grace is long");
    let outcome = session.ledger_seen(&source(), held_by(EPOCH - 1), start + 4 * MS, start + 5 * MS);
    assert_eq!(outcome, Some(Outcome::Rewound));
    assert_eq!(session.take_actions().claim.len(), 1);
}

#[test]
fn a_write_that_meets_an_older_claim_claims_again_at_once_and_one_that_meets_a_newer_one_waits() {
    for (epoch, rewound) in [(EPOCH - 1, true), (EPOCH, false), (EPOCH + 1, false)] {
        let start = Instant::now();
        let mut session = owning(start);
        let incoming = Incoming { offset: Offset::new(10), timestamp_ms: None, key: None, value: Some(b"v") };
        session.deliver(0, &incoming, start, |_| (), |_, _| Ok(1));
        let batch = session.seal(Trigger::Rows, start).expect("a batch");
        let row = held_by(epoch);
        let outcome = match row.outcome_of(&batch.spans(0..1)[0]) {
            SpanOutcome::Fenced => Outcome::Fenced,
            SpanOutcome::Rewound => Outcome::Rewound,
            other => panic!("{other:?}"),
        };
        session.acked(Ack { outcomes: vec![Some(outcome)], batch }, start + MS);
        let actions = session.take_actions();
        assert_eq!((actions.stop.len(), actions.claim.len()), (1, usize::from(rewound)), "{epoch}");
        let fenced = session.partitions().any(|partition| matches!(partition.state, State::Fenced { .. }));
        assert_eq!(fenced, !rewound, "{epoch}");
    }
}
