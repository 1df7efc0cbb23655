//! Tests the claim loop with a scripted ledger, in paused time: its requests to Postgres and Kafka, their times, and its
//! answers.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::batch::LastRecord;
use tidegate_protocol::claim_loop::{
    ClaimAnswer, ClaimLedger, ClaimLoop, ClaimRequest, Claimed, End, Ends, LogEnds, LogEndsError, OffsetLossPolicy,
    Wanted,
};
use tidegate_protocol::event::{Event, Listener};
use tidegate_protocol::partition::LossCondition;
use tidegate_protocol::poll_loop::Message;
use tidegate_protocol::position::{Claim, ClaimId, Offset, TopicPartition};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::{Cause, PostgresError, WriteError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const LOW: i64 = 3;
const HIGH: i64 = 90;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Extend(Vec<(i32, i64)>),
    Insert(Vec<(i32, i64)>),
    Claim(String, Vec<i32>),
    Wait(i32, u32),
}

/// The behaviour of the fakes, and what they saw. `failures` has the errors of the next rounds, in reverse order.
/// Kafka doesn't answer for the partitions `unknown`. Each wait for a lock takes `wait`. `waits` has the reported
/// [`Event::ClaimsWait`] events: the time since the start, and the number of the attempt.
#[derive(Default)]
struct Script {
    connected: bool,
    failures: Vec<WriteError>,
    without_row: BTreeSet<i32>,
    lost: BTreeSet<i32>,
    locked: BTreeSet<i32>,
    unknown: BTreeSet<i32>,
    wait: Duration,
    calls: Vec<(Duration, Call)>,
    waits: Vec<(Duration, u32)>,
    /// The log-loss conditions that were skipped. For each: the partition, the offset at which it continues, and the number
    /// of lost records.
    stepped_over: Vec<(i32, i64, u64)>,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    began: Instant,
}

impl Fake {
    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().expect("no test panicked with it"))
    }

    fn called(&self, call: Call) {
        let at = self.began.elapsed();
        self.with(|script| script.calls.push((at, call)));
    }

    /// Returns the calls that this function has not returned before, each with its time in milliseconds since the start.
    fn calls(&self) -> Vec<(u128, Call)> {
        self.with(|script| mem::take(&mut script.calls)).into_iter().map(|(at, call)| (at.as_millis(), call)).collect()
    }
}

fn numbered(places: &[(TopicPartition, Offset)]) -> Vec<(i32, i64)> {
    places.iter().map(|(source, offset)| (source.partition, offset.get())).collect()
}

impl ClaimLedger for Fake {
    fn is_connected(&self) -> bool {
        self.with(|script| script.connected)
    }

    fn disconnect(&mut self) {
        self.with(|script| script.connected = false);
    }

    async fn without_row(&mut self, sources: &[TopicPartition]) -> Result<Vec<TopicPartition>, WriteError> {
        self.with(|script| match script.failures.pop() {
            Some(error) => Err(error),
            None => {
                script.connected = true;
                Ok(sources.iter().filter(|source| script.without_row.contains(&source.partition)).cloned().collect())
            }
        })
    }

    async fn extend(&mut self, starts: &[(TopicPartition, Offset)]) -> Result<Vec<TopicPartition>, WriteError> {
        self.called(Call::Extend(numbered(starts)));
        Ok(self.with(|script| {
            script.without_row.retain(|n| script.lost.contains(n));
            starts.iter().map(|(source, _)| source).filter(|s| script.lost.contains(&s.partition)).cloned().collect()
        }))
    }

    async fn insert_lost_rows(&mut self, places: &[(TopicPartition, Offset)]) -> Result<(), WriteError> {
        self.called(Call::Insert(numbered(places)));
        self.with(|script| script.without_row.clear());
        Ok(())
    }

    async fn claim(&mut self, owner: &str, sources: &[TopicPartition]) -> Result<Vec<Claimed>, WriteError> {
        self.called(Call::Claim(owner.to_owned(), sources.iter().map(|source| source.partition).collect()));
        let free = self.with(|script| {
            let skipped = script.locked.union(&script.without_row).copied().collect::<BTreeSet<_>>();
            sources.iter().filter(|source| !skipped.contains(&source.partition)).cloned().collect::<Vec<_>>()
        });
        let claim = Claim { id: ClaimId::nil(), epoch: 1 };
        Ok(free.into_iter().map(|source| Claimed { source, claim, next: Offset::new(7), last: None }).collect())
    }

    async fn skip_condition(&mut self, claimed: &Claimed, _to: Offset) -> Result<Option<Claim>, WriteError> {
        Ok(Some(claimed.claim))
    }

    fn wait_at_lock(&self, source: TopicPartition, waits: u32) -> impl Future<Output = ()> + Send + 'static {
        self.called(Call::Wait(source.partition, waits));
        sleep(self.with(|script| script.wait))
    }
}

impl LogEnds for Fake {
    async fn ends(&self, sources: &[TopicPartition], end: End) -> Result<Ends, LogEndsError> {
        let known = |source: &&TopicPartition| self.with(|script| !script.unknown.contains(&source.partition));
        let offset = Offset::new(if end == End::Low { LOW } else { HIGH });
        Ok(sources.iter().filter(known).map(|source| (source.clone(), offset)).collect())
    }
}

impl Listener for Fake {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::ClaimsWait { attempt, .. } => {
                let at = self.began.elapsed();
                self.with(|script| script.waits.push((at, *attempt)));
            }
            Event::ConditionSkipped { source, to, lost, .. } => {
                self.with(|script| script.stepped_over.push((source.partition, to.get(), *lost)));
            }
            _ => {}
        }
    }
}

struct World {
    fake: Fake,
    requests: mpsc::Sender<ClaimRequest>,
    answers: [(mpsc::Sender<Message>, mpsc::Receiver<Message>); 2],
    running: JoinSet<Result<(), Stopped>>,
}

const OWNERS: [&str; 2] = ["first", "second"];

impl World {
    fn start(policy: OffsetLossPolicy, script: Script) -> Self {
        let fake = Fake { script: Arc::new(Mutex::new(script)), began: Instant::now() };
        let (requests, inbox) = mpsc::channel(8);
        let claims = ClaimLoop::new(fake.clone(), fake.clone(), policy, Rng::with_seed(1), Arc::new(fake.clone()));
        let answers = [(); 2].map(|()| mpsc::channel(8));
        let mut running = JoinSet::new();
        running.spawn(claims.run(inbox));
        Self { fake, requests, answers, running }
    }

    /// Sends a consumer's request, which claims the `wanted` partitions and cancels its requests for the `withdrawn`
    /// ones.
    async fn request(&self, consumer: usize, wanted: &[i32], withdrawn: &[i32]) {
        let wanted =
            wanted.iter().map(|n| Wanted { source: partition(*n), request: 5, skip_condition: None }).collect();
        let withdrawn = withdrawn.iter().map(|n| partition(*n)).collect();
        let (owner, answers) = (OWNERS[consumer].into(), self.answers[consumer].0.clone());
        self.requests.send(ClaimRequest { wanted, withdrawn, owner, answers }).await.expect("the loop runs");
    }

    async fn answers(&mut self, consumer: usize) -> Vec<ClaimAnswer> {
        match self.answers[consumer].1.recv().await {
            Some(Message::Claims(answers)) => answers,
            other => panic!("{other:?}"),
        }
    }

    async fn granted(&mut self, consumer: usize) -> Vec<i32> {
        let answers = self.answers(consumer).await;
        answers.iter().filter(|answer| answer.answer.is_ok()).map(|answer| answer.source.partition).collect()
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("rides", number)
}

fn refused(sqlstate: &str) -> WriteError {
    WriteError { stage: Stage::Ledger, cause: Cause::Postgres(PostgresError::new(sqlstate, "no")) }
}

fn broken() -> WriteError {
    WriteError { stage: Stage::Ledger, cause: Cause::Connection("it broke".to_owned()) }
}

fn claims(owner: usize, partitions: &[i32]) -> Call {
    Call::Claim(OWNERS[owner].to_owned(), partitions.to_vec())
}

#[tokio::test(start_paused = true)]
async fn each_owner_claims_its_own_partitions() {
    let mut world = World::start(OffsetLossPolicy::Fail, Script::default());
    world.request(0, &[0, 2], &[]).await;
    world.request(1, &[1], &[]).await;
    world.request(0, &[3], &[]).await;
    assert_eq!(world.granted(0).await, [0, 2, 3]);
    assert_eq!(world.granted(1).await, [1]);
    assert_eq!(world.fake.calls(), [(0, claims(0, &[0, 2, 3])), (0, claims(1, &[1]))]);
    drop(world.requests);
    world.running.join_next().await.expect("it runs").expect("no panic").expect("it ends with its senders");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_withdrawn_by_its_owner_alone() {
    let mut world = World::start(OffsetLossPolicy::Fail, Script { locked: [0, 1].into(), ..Script::default() });
    world.request(0, &[0, 1], &[]).await;
    world.request(1, &[], &[0]).await;
    world.request(0, &[], &[1]).await;
    sleep(Duration::from_millis(10)).await;
    world.fake.with(|script| script.locked.clear());
    assert_eq!(world.granted(0).await, [0]);
    let last = world.fake.calls().pop();
    assert_eq!(last.map(|(_, call)| call), Some(claims(0, &[0])));
}

#[tokio::test(start_paused = true)]
async fn a_newer_request_for_a_partition_replaces_the_older_one() {
    let mut world = World::start(OffsetLossPolicy::Fail, Script { locked: [0].into(), ..Script::default() });
    world.request(0, &[0], &[]).await;
    sleep(Duration::from_millis(10)).await;
    world.request(1, &[0], &[]).await;
    world.fake.with(|script| script.locked.clear());
    assert_eq!(world.granted(1).await, [0]);
    assert!(world.answers[0].1.is_empty(), "the older request is gone");
}

#[tokio::test(start_paused = true)]
async fn locked_rows_are_retried_and_after_half_a_second_one_lock_is_waited_for() {
    let script = Script { locked: [0].into(), wait: Duration::from_millis(600), ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, script);
    world.request(0, &[0], &[]).await;
    sleep(Duration::from_millis(1_700)).await;
    let calls = world.fake.calls();
    let waits: Vec<_> = calls.iter().filter(|(_, call)| matches!(call, Call::Wait(..))).cloned().collect();
    // A round runs every 50 ms. The loop waits for the lock once the request is older than 500 ms, so first at 550 ms.
    // During the wait, a round runs every 250 ms; another one runs when the wait ends.
    assert_eq!(waits, [(550, Call::Wait(0, 1)), (1_150, Call::Wait(0, 2))]);
    let rounds: Vec<_> = calls.iter().filter(|(_, call)| matches!(call, Call::Claim(..))).map(|(at, _)| *at).collect();
    let expected = (0..=11).map(|n| n * 50).chain([600, 850, 1_100, 1_150]).chain([1_200, 1_450, 1_700]);
    assert_eq!(rounds, expected.take(rounds.len()).collect::<Vec<_>>(), "{calls:?}");
    world.fake.with(|script| script.locked.clear());
    assert_eq!(world.granted(0).await, [0]);
}

#[tokio::test(start_paused = true)]
async fn the_waits_at_locks_are_counted_anew_after_all_are_answered() {
    let script = Script { locked: [0].into(), wait: Duration::from_millis(100), ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, script);
    for _ in 0..2 {
        world.request(0, &[0], &[]).await;
        sleep(Duration::from_millis(800)).await;
        world.fake.with(|script| script.locked.clear());
        assert_eq!(world.granted(0).await, [0]);
        let calls = world.fake.calls();
        let waits: Vec<_> = calls.iter().filter(|(_, call)| matches!(call, Call::Wait(..))).map(|(_, c)| c).collect();
        assert_eq!(waits[..2], [&Call::Wait(0, 1), &Call::Wait(0, 2)], "{calls:?}");
        world.fake.with(|script| script.locked = [0].into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_waiting_does_not_resolve_stops_the_loop() {
    let mut world =
        World::start(OffsetLossPolicy::Fail, Script { failures: vec![refused("42501")], ..Script::default() });
    world.request(0, &[0], &[]).await;
    let stopped = world.running.join_next().await.expect("it runs").expect("no panic");
    assert!(matches!(&stopped, Err(Stopped::Refused(error)) if error.to_string().contains("no")), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_that_broke_is_replaced_at_once() {
    let script = Script { connected: true, failures: vec![broken()], ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, script);
    world.request(0, &[0], &[]).await;
    assert_eq!(world.granted(0).await, [0]);
    assert_eq!(world.fake.calls(), [(0, claims(0, &[0]))]);
    assert_eq!(world.fake.with(|script| script.waits.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_and_waited_for() {
    let script = Script { connected: true, failures: vec![broken(), broken(), broken()], ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, script);
    world.request(0, &[0], &[]).await;
    assert_eq!(world.granted(0).await, [0]);
    let waits = world.fake.with(|script| script.waits.clone());
    assert_eq!(waits.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2]);
    assert!(waits[0].0.is_zero() && !waits[1].0.is_zero(), "{waits:?}");
    assert!(world.fake.calls().iter().all(|(_, call)| !matches!(call, Call::Wait(..))), "no lock is waited for");
}

#[tokio::test(start_paused = true)]
async fn new_partitions_begin_at_the_oldest_record_all_or_none() {
    let script = Script { without_row: [0, 1, 2].into(), unknown: [1].into(), ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, script);
    world.request(0, &[2], &[]).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(world.fake.calls(), [], "the beginning of one is unknown, so no row is added");
    assert!(world.fake.with(|script| !script.waits.is_empty()), "it says so");
    world.fake.with(|script| script.unknown.clear());
    assert_eq!(world.granted(0).await, [2]);
    let calls: Vec<_> = world.fake.calls().into_iter().map(|(_, call)| call).collect();
    assert_eq!(calls, [Call::Extend(vec![(0, LOW), (1, LOW), (2, LOW)]), claims(0, &[2])]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_row_stops_its_partition_or_is_added_by_policy() {
    let lost = || Script { without_row: [0, 1].into(), lost: [0, 1].into(), ..Script::default() };
    let mut world = World::start(OffsetLossPolicy::Fail, lost());
    world.request(0, &[1], &[]).await;
    let answers = world.answers(0).await;
    let refusal = ClaimAnswer { source: partition(1), request: 5, answer: Err(LossCondition::LedgerLost) };
    assert_eq!(answers, [refusal], "only the requested one is answered");

    for (policy, to) in [(OffsetLossPolicy::Earliest, LOW), (OffsetLossPolicy::Latest, HIGH)] {
        let mut world = World::start(policy, lost());
        world.request(0, &[1], &[]).await;
        assert_eq!(world.granted(0).await, [1]);
        assert!(world.fake.calls().iter().any(|(_, call)| *call == Call::Insert(vec![(1, to)])), "{policy:?}");
        let stepped_over = world.fake.with(|script| script.stepped_over.clone());
        assert_eq!(stepped_over, [(1, to, u64::try_from(to - LOW).expect("it is after"))], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_ends_kafka_does_not_know_is_claimed_again() {
    let mut world = World::start(OffsetLossPolicy::Fail, Script { unknown: [0].into(), ..Script::default() });
    world.request(0, &[0, 1], &[]).await;
    assert_eq!(world.granted(0).await, [1]);
    world.fake.with(|script| script.unknown.clear());
    assert_eq!(world.granted(0).await, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_another_log_met_is_not_skipped() {
    let mut world = World::start(OffsetLossPolicy::Latest, Script::default());
    let (source, answers) = (partition(0), world.answers[0].0.clone());
    // The condition names a last record that the ledger row no longer has. So the row may now belong to another log.
    let skip_condition =
        Some(LossCondition::LogReplaced { last: LastRecord { offset: Offset::new(6), timestamp_ms: None, digest: 1 } });
    let wanted = vec![Wanted { source, request: 5, skip_condition }];
    let request = ClaimRequest { wanted, withdrawn: Vec::new(), owner: OWNERS[0].into(), answers };
    world.requests.send(request).await.expect("the loop runs");
    let answers = world.answers(0).await;
    assert!(
        matches!(&answers[..], [ClaimAnswer { answer: Ok(grant), .. }] if grant.next == Offset::new(7)),
        "{answers:?}"
    );
    assert_eq!(world.fake.with(|script| script.stepped_over.len()), 0);
}
