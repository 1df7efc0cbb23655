//! Schedules for races that are rare in random runs; the seed determines their details.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::batch::{Batch, Incoming, Trigger};
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_protocol::event::{Event, Listener};
use tidegate_protocol::partition::{Grant, LossCondition, State};
use tidegate_protocol::position::{Claim, ClaimId, Offset};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::session::Session;
use tidegate_protocol::writer::Writer;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::kafka::{Kafka, value};
use crate::oracle;
use crate::postgres::{Op, Reply, Server};
use crate::store::{SimStore, call, connect, encode};
use crate::world::{Bug, Sim};

const PARTITIONS: usize = 2;

/// Simulates an old and a new owner. The old owner has two partitions, and its ledger update waits for a lock on the first row.
/// Meanwhile, the new owner claims the second partition, writes its records and commits. When the first row is unlocked, the old
/// owner's statement still has an outdated version of the second row. Returns the violation, if there is one.
pub(crate) fn two_owners(seed: u64, bug: Option<Bug>) -> Option<String> {
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O").block_on(async {
        let sim = Sim::new(seed, bug);
        {
            let mut world = sim.w();
            let world = &mut *world;
            world.trouble = 0;
            (world.kafka, world.server) = (Kafka::new(PARTITIONS), Server::new(PARTITIONS));
            world.server.know_all();
            for partition in 0..PARTITIONS {
                for _ in 0..5 {
                    world.kafka.produce(partition, &mut world.dice, false);
                }
            }
        }
        let (old, new) = (1, 2);
        let both = [claim(&sim, old, 0).await, claim(&sim, old, 1).await];
        let stranger = sim.w().server.lock_by_stranger(0).expect("nobody holds it");
        let (mut late, mut early) = (writer(&sim, old), writer(&sim, new));
        let mut batch = batch(&sim, &[0, 1], &both);
        let takes_over = async {
            let pause = sim.w().ms(0..600);
            sleep(pause).await;
            let claim = claim(&sim, new, 1).await;
            let mut batch = self::batch(&sim, &[1], &[claim]);
            early.write(&mut batch).await.expect("it writes");
            let pause = sim.w().ms(0..1500);
            sleep(pause).await;
            sim.w().server.end(stranger);
        };
        let (written, ()) = tokio::join!(late.write(&mut batch), takes_over);
        written.expect("it writes what is still its own");
        let mut world = sim.w();
        oracle::audit(&mut world);
        let next = |at: usize| world.server.data.ledger[at].as_ref().map(|cell| cell.next);
        let whole = (0..PARTITIONS).all(|at| next(at) >= world.kafka.logs[at].next(Offset::ZERO).map(|(at, _)| at));
        assert!(whole, "both have moved");
        world.violation.clone()
    })
}

/// Simulates a partition that is revoked and assigned again. Just before the revocation, its claim met a log-loss condition, or a
/// new claim became necessary. The resulting actions must not survive the revocation. Returns an error of the session, as text.
pub(crate) fn a_revoke_before_the_step_over(seed: u64) -> Option<String> {
    let mut dice = Rng::with_seed(seed);
    let limits = BatchLimits {
        max_rows: NonZeroU32::new(100).expect("not 0"),
        max_bytes: 4000,
        max_age: Duration::from_millis(200),
    };
    let now = Instant::now().into_std();
    let mut session = Session::new(limits, Duration::from_secs(3));
    let source = tidegate_protocol::position::TopicPartition::new("north", 0);
    let claim = |epoch| Claim { id: ClaimId::from_u128(1), epoch };
    let next = Offset::new(dice.i64(1..50));
    session.assigned([source.clone()], now);
    let asked = session.take_actions().claim[0].1;
    // Either the claim meets a log-loss condition, or all partitions are claimed again because a log became shorter. The
    // revocation follows, as it may in the poll thread.
    if dice.bool() {
        session.refused(&source, asked, LossCondition::LedgerLost);
    } else {
        let grant = Grant { claim: claim(1), next, fetch: next, verify: None };
        session.granted(&source, asked, &grant, now);
        session.claim_all_again(now);
    }
    session.revoked([&source]);
    let left = session.take_actions();
    if !left.is_empty() {
        return Some(format!("after the revoke there is still to be done: {left:?}"));
    }
    session.assigned([source.clone()], now);
    let asked = session.take_actions().claim[0].1;
    session.granted(&source, asked, &Grant { claim: claim(2), next, fetch: next, verify: None }, now);
    let owned = session.partitions().any(|partition| matches!(partition.state, State::Owned(_)));
    (!owned || session.take_actions().fetch != [(source, next)]).then(|| "it doesn't go on at the ledger".to_owned())
}

async fn claim(sim: &Arc<Sim>, daemon: u64, partition: usize) -> Claim {
    let mut connection = Some(connect(sim, daemon).await.expect("the server is there"));
    let claim = sim.w().new_claim();
    let reply = call(&mut connection, Stage::Ledger, Op::Claim(vec![(partition, claim)])).await;
    let Ok(Reply::Claimed(claimed)) = reply else { panic!("{reply:?}") };
    Claim { id: claim, epoch: claimed[0].1.epoch }
}

fn writer(sim: &Arc<Sim>, daemon: u64) -> Writer<SimStore> {
    let plans = Arc::new(AtomicU64::new(sim.w().server.catalog));
    let budget = DeadLetterBudget::new(DeadLetterLimits {
        max_share: 1.0,
        window: Duration::from_secs(60),
        min_count: u64::MAX,
    });
    Writer::new(SimStore::new(Arc::clone(sim), daemon, plans), budget, Rng::with_seed(daemon), Arc::new(Deaf))
}

struct Deaf;

impl Listener for Deaf {
    fn on(&self, _: &Event<'_>) {}
}

/// Returns a sealed batch with all records of these partitions. `claims` has the claim of each partition.
fn batch(sim: &Arc<Sim>, partitions: &[usize], claims: &[Claim]) -> Batch {
    let world = sim.w();
    let plan = world.server.catalog;
    let mut batch = Batch::new();
    batch.plan_version = plan;
    for (partition, claim) in partitions.iter().zip(claims) {
        let segment = batch.open_segment(world.kafka.sources[*partition].clone(), *claim, Offset::ZERO);
        let (log, mut at) = (world.kafka.current[*partition], Offset::ZERO);
        while let Some((offset, kind)) = world.kafka.log(*partition).next(at) {
            let value = value(log, offset, kind);
            let timestamp_ms = Some(i64::try_from(log).expect("few logs"));
            let incoming = Incoming { offset, timestamp_ms, key: None, value: Some(&value) };
            let now = Instant::now().into_std();
            batch.push(segment, &incoming, now, |_| (), |record, rows| encode(record, plan, rows));
            at = offset.successor();
        }
    }
    batch.seal(Trigger::Age);
    batch
}
