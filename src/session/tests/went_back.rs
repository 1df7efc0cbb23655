//! A database that went back to before our claim.

use std::num::NonZeroU32;

use super::super::*;

const MS: Duration = Duration::from_millis(1);
const EPOCH: i64 = 5;

fn source() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// A session that owns a partition since `now`, by its claim number 5.
fn owning(now: Instant) -> Session {
    let limits = BatchLimits { max_rows: NonZeroU32::MIN, max_bytes: 1 << 20, max_age: Duration::from_secs(1) };
    let mut session = Session::new(limits, Duration::from_secs(600));
    session.assigned([source()], now);
    let question = session.take_actions().claim[0].1;
    let claim = ClaimId::from_u128(7);
    let at = Offset::new(10);
    session.granted(&source(), question, &Grant { claim, epoch: EPOCH, next: at, fetch: at, verify: None }, now);
    session.take_actions();
    session
}

#[test]
fn an_older_claim_in_the_ledger_is_nobody_to_wait_for() {
    let start = Instant::now();
    let mut session = owning(start);
    assert!(!session.epoch_seen(&source(), EPOCH, start + MS, start + 2 * MS), "ours");
    assert!(!session.epoch_seen(&source(), EPOCH + 1, start + MS, start + 2 * MS), "a newer one is an owner");
    assert!(!session.epoch_seen(&source(), EPOCH - 1, start, start + 2 * MS), "asked before we had it");
    assert!(session.epoch_seen(&source(), EPOCH - 1, start + MS, start + 2 * MS));
    let actions = session.take_actions();
    assert_eq!((actions.stop.len(), actions.claim.len()), (1, 1), "it stops fetching and claims");
}

#[test]
fn a_fenced_partition_is_claimed_at_once_where_the_database_went_back() {
    let start = Instant::now();
    let mut session = owning(start);
    let other = LedgerRow::Found { claim: Some(ClaimId::from_u128(1)), next: Offset::new(3) };
    let fate = session.ledger_seen(&source(), other, start + MS, start + 2 * MS);
    assert_eq!(fate, Some(Fate::Superseded), "by the claim alone nobody can tell");
    session.take_actions();
    assert!(!session.epoch_seen(&source(), EPOCH - 1, start + MS, start + 3 * MS), "asked before it was fenced");
    session.tick(start + 4 * MS);
    assert!(session.take_actions().claim.is_empty(), "the grace is long");
    assert!(session.epoch_seen(&source(), EPOCH - 1, start + 4 * MS, start + 5 * MS));
    assert_eq!(session.take_actions().claim.len(), 1);
}
