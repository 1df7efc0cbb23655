//! Tests the poll loop with a scripted consumer, in paused time: its requests to Kafka, to the claim loop and to the writer,
//! and their times.

use std::collections::VecDeque;
use std::error::Error;
use std::mem;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_protocol::batch::{Batch, BatchLimits, Incoming, RejectedRecord};
use tidegate_protocol::claim_loop::{ClaimAnswer, ClaimRequest, OffsetLossPolicy};
use tidegate_protocol::event::{Event, Hold, Listener, Spent};
use tidegate_protocol::group::{Assigning, Group, GroupClient, GroupEvent, ReadError, ReadErrorKind, Visit, Visitor};
use tidegate_protocol::partition::{Grant, LossCondition, Outcome};
use tidegate_protocol::poll_loop::{LedgerReadings, Message, PollLoop, RecordEncoder};
use tidegate_protocol::position::{Claim, ClaimId, Offset, TopicPartition};
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_protocol::record::{Headers, Record};
use tidegate_protocol::session::{Ack, Session};
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::LedgerRow;
use tidegate_protocol::writer::WaitFlag;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The offset at which each granted claim begins.
const START: i64 = 7;
const LIMITS: BatchLimits =
    BatchLimits { max_rows: NonZeroU32::new(4).unwrap(), max_bytes: 1 << 20, max_age: Duration::from_millis(500) };

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Join,
    Accept,
    Fetch { starts: Vec<(i32, i64)>, all: Vec<(i32, i64)> },
    Stop { sources: Vec<i32>, rest: Vec<(i32, i64)> },
    Release(Vec<i32>),
    Commit(Vec<(i32, i64)>),
    Leave,
}

/// The behaviour of the fakes, and what they saw. Calls, events and snapshots have their times in milliseconds since the
/// start. A snapshot is stored as its number of paused partitions. `consumed` and `spent` are sums over all snapshots.
#[derive(Default)]
struct Script {
    whole: bool,
    policy: OffsetLossPolicy,
    errors: VecDeque<ReadErrorKind>,
    decided: Vec<GroupEvent>,
    records: VecDeque<(i32, i64)>,
    calls: Vec<(u128, Call)>,
    events: Vec<(u128, String)>,
    snapshots: Vec<(u128, usize)>,
    consumed: u64,
    spent: Spent,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    truncations: Arc<AtomicU32>,
    changed: Arc<Notify>,
    began: Instant,
    version: u64,
}

impl Fake {
    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().expect("no test panicked with it"))
    }

    fn at(&self) -> u128 {
        self.began.elapsed().as_millis()
    }

    fn called(&self, call: Call) {
        let at = self.at();
        self.with(|script| script.calls.push((at, call)));
    }

    fn happened(&self, event: impl Into<String>) {
        let at = self.at();
        self.with(|script| script.events.push((at, event.into())));
    }
}

fn numbered(places: &[(TopicPartition, Offset)]) -> Vec<(i32, i64)> {
    let mut numbered: Vec<_> = places.iter().map(|(source, offset)| (source.partition, offset.get())).collect();
    numbered.sort_unstable();
    numbered
}

fn numbers(sources: &[TopicPartition]) -> Vec<i32> {
    sources.iter().map(|source| source.partition).collect()
}

impl Group for Fake {
    type Client = Self;

    fn join(&mut self) -> Result<Self, Box<dyn Error + Send + Sync>> {
        self.called(Call::Join);
        Ok(self.clone())
    }
}

impl GroupClient for Fake {
    async fn ready(&mut self, wait: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep(wait) => {}
        }
    }

    fn serve(&mut self) -> Result<(), ReadError> {
        self.with(|script| script.errors.pop_front())
            .map_or(Ok(()), |kind| Err(ReadError { kind, source: "it failed".into() }))
    }

    fn read(&mut self, visitor: &mut impl Visitor) -> Result<bool, ReadError> {
        let mut offered = false;
        while let Some((partition, offset)) = self.with(|script| script.records.front().copied()) {
            offered = true;
            visitor.partition("rides", partition);
            let record =
                Incoming { offset: Offset::new(offset), timestamp_ms: Some(0), key: None, value: Some(b"a record") };
            if visitor.record(&record, |_| {}) == Visit::NotNow {
                break;
            }
            self.with(|script| script.records.pop_front());
        }
        Ok(offered)
    }

    fn take_events(&mut self) -> Vec<GroupEvent> {
        self.with(|script| mem::take(&mut script.decided))
    }

    fn take_read_to(&mut self) -> Vec<(TopicPartition, Offset)> {
        Vec::new()
    }

    fn assigning(&self) -> Assigning {
        if self.with(|script| script.whole) { Assigning::Whole } else { Assigning::Incremental }
    }

    fn accept(&mut self) {
        self.called(Call::Accept);
    }

    fn release(&mut self, sources: &[TopicPartition]) {
        self.called(Call::Release(numbers(sources)));
    }

    fn fetch(&mut self, starts: &[(TopicPartition, Offset)], all: &[(TopicPartition, Offset)]) {
        self.called(Call::Fetch { starts: numbered(starts), all: numbered(all) });
    }

    fn stop(&mut self, sources: &[TopicPartition], rest: &[(TopicPartition, Offset)]) {
        self.called(Call::Stop { sources: numbers(sources), rest: numbered(rest) });
    }

    fn commit(&mut self, positions: &[(TopicPartition, Offset)]) {
        self.called(Call::Commit(numbered(positions)));
    }

    async fn leave(self) {
        self.called(Call::Leave);
    }
}

impl RecordEncoder for Fake {
    fn wants(&mut self, _key: Option<&[u8]>, _value: Option<&[u8]>, _headers: Headers<'_>) -> bool {
        false
    }

    fn reads_headers(&self) -> bool {
        false
    }

    fn encode(&mut self, _record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        rows.push(0);
        Ok(1)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn renew(&mut self) {
        self.version += 1;
    }
}

impl LedgerReadings for Fake {
    fn truncations(&self) -> u32 {
        self.truncations.load(Ordering::Relaxed)
    }

    fn visit(&self, _each: &mut dyn FnMut(&TopicPartition, LedgerRow, std::time::Instant)) {}
}

impl Listener for Fake {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Joined => self.happened("joined"),
            Event::LogLoss { .. } => self.happened("log loss"),
            Event::LogCut => self.happened("log cut"),
            Event::KafkaRetries(_) => self.happened("Kafka retries"),
            Event::PositionOutOfRange(_) => self.happened("out of range"),
            Event::Rebuilding { why } => self.happened(format!("rebuilding: {why}")),
            Event::DrainEnded { open, in_flight } => self.happened(format!("{open} open, {in_flight} in flight")),
            Event::Held(Some(Hold::Full)) => self.happened("full"),
            Event::Snapshot(snapshot) => {
                let at = self.at();
                self.with(|script| {
                    script.snapshots.push((at, snapshot.paused));
                    script.consumed += snapshot.consumed;
                    script.spent.poll += snapshot.spent.poll;
                    script.spent.held += snapshot.spent.held;
                    script.spent.flow += snapshot.spent.flow;
                });
            }
            _ => {}
        }
    }
}

/// A running poll loop. The test itself acts as the claim loop and as the writer.
struct World {
    fake: Fake,
    claims: mpsc::Receiver<ClaimRequest>,
    batches: mpsc::Receiver<Batch>,
    inbox: mpsc::Sender<Message>,
    writer_waits: Arc<WaitFlag>,
    stop: CancellationToken,
    running: JoinSet<Result<(), Stopped>>,
}

impl World {
    fn start(script: Script) -> Self {
        Self::start_with(script, LIMITS, None)
    }

    fn start_with(script: Script, limits: BatchLimits, rate: Option<u32>) -> Self {
        let on_offset_loss = script.policy;
        let fake = Fake {
            script: Arc::new(Mutex::new(script)),
            truncations: Arc::default(),
            changed: Arc::default(),
            began: Instant::now(),
            version: 1,
        };
        let (claims_to, claims) = mpsc::channel(8);
        let (outbox, batches) = mpsc::channel(1);
        let (inbox, messages) = mpsc::channel(8);
        let (writer_waits, stop) = (Arc::<WaitFlag>::default(), CancellationToken::new());
        let poll_loop = PollLoop {
            group: fake.clone(),
            encoder: fake.clone(),
            readings: fake.clone(),
            session: Session::new(limits, Duration::from_secs(30)),
            on_offset_loss,
            drain_timeout: Duration::from_secs(20),
            owner: "the consumer".into(),
            outbox,
            writer_waits: Arc::clone(&writer_waits),
            claims: claims_to,
            answers: inbox.clone(),
            inbox: messages,
            rate_limit: Arc::new(RateLimit::new(rate.and_then(NonZeroU32::new))),
            listener: Arc::new(fake.clone()),
            stop: stop.clone(),
        };
        let mut running = JoinSet::new();
        running.spawn(poll_loop.run());
        Self { fake, claims, batches, inbox, writer_waits, stop, running }
    }

    async fn assign(&mut self, partitions: &[i32]) {
        self.decide(GroupEvent::Assigned(partitions.iter().map(|n| partition(*n)).collect()));
        self.grant(partitions).await;
    }

    fn decide(&self, event: GroupEvent) {
        self.fake.with(|script| script.decided.push(event));
        self.fake.changed.notify_one();
    }

    async fn request(&mut self, partitions: &[i32]) -> ClaimRequest {
        let request = self.claims.recv().await.expect("the loop runs");
        let wanted: Vec<_> = request.wanted.iter().map(|wanted| wanted.source.partition).collect();
        assert_eq!(wanted, partitions);
        request
    }

    async fn grant(&mut self, partitions: &[i32]) {
        let request = self.request(partitions).await;
        let next = Offset::new(START);
        let claim = Claim { id: ClaimId::nil(), epoch: 1 };
        let grant = Grant { claim, next, fetch: next, verify: None };
        let answer = |wanted: tidegate_protocol::claim_loop::Wanted| ClaimAnswer {
            source: wanted.source,
            request: wanted.request,
            answer: Ok(grant.clone()),
        };
        let answers = request.wanted.into_iter().map(answer).collect();
        self.inbox.send(Message::Claims(answers)).await.expect("the loop runs");
    }

    fn deliver(&self, partition: i32, offsets: std::ops::Range<i64>) {
        self.fake.with(|script| script.records.extend(offsets.map(|offset| (partition, offset))));
        self.fake.changed.notify_one();
    }

    async fn batch(&mut self) -> Batch {
        self.batches.recv().await.expect("the loop runs")
    }

    async fn committed(&self, batch: Batch) {
        let outcomes = batch.segments().iter().map(|segment| Some(Outcome::Committed(segment.to))).collect();
        self.inbox.send(Ack { outcomes, batch }.into()).await.expect("the loop runs");
    }

    fn calls(&self) -> Vec<(u128, Call)> {
        self.fake.with(|script| mem::take(&mut script.calls))
    }

    fn events(&self) -> Vec<(u128, String)> {
        self.fake.with(|script| mem::take(&mut script.events))
    }

    async fn ended(&mut self) -> Result<(), Stopped> {
        self.running.join_next().await.expect("it was started").expect("no panic")
    }

    async fn end(mut self) -> Result<(), Stopped> {
        self.stop.cancel();
        self.ended().await
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("rides", number)
}

fn fetch(starts: &[(i32, i64)], all: &[(i32, i64)]) -> Call {
    Call::Fetch { starts: starts.to_vec(), all: all.to_vec() }
}

fn texts(events: &[(u128, String)]) -> Vec<(u128, &str)> {
    events.iter().map(|(at, text)| (*at, &**text)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_fetched_from_the_ledgers_offset_once_its_claim_is_granted() {
    let mut world = World::start(Script::default());
    world.assign(&[0, 1]).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(world.calls(), [(0, Call::Join), (0, Call::Accept), (0, fetch(&[(0, START), (1, START)], &[]))]);
    assert_eq!(texts(&world.events()), [(0, "joined")]);
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn records_and_times_are_counted() {
    let mut world = World::start(Script::default());
    world.assign(&[0]).await;
    // Records that were delivered before aren't counted, and neither are records of another member's partition.
    world.deliver(0, START..START + 2);
    world.deliver(0, START..START + 1);
    world.deliver(1, START..START + 1);
    sleep(Duration::from_millis(400)).await;
    let (consumed, spent) = world.fake.with(|script| (script.consumed, script.spent));
    assert_eq!(consumed, 2);
    assert!(spent.poll >= Duration::from_millis(200) && spent.held.is_zero(), "{spent:?}");
    // The writer has the first batch, and the second one is full.
    world.deliver(0, START + 2..START + 20);
    sleep(Duration::from_secs(3)).await;
    let (consumed, spent) = world.fake.with(|script| (script.consumed, script.spent));
    assert_eq!(consumed, 8);
    assert!(spent.held >= Duration::from_secs(2) && spent.flow.is_zero(), "{spent:?}");
    // The rate limit is used up.
    let mut world = World::start_with(Script::default(), LIMITS, Some(2));
    world.assign(&[0]).await;
    world.deliver(0, START..START + 20);
    sleep(Duration::from_secs(2)).await;
    let spent = world.fake.with(|script| script.spent);
    assert!(spent.flow >= Duration::from_secs(1) && spent.flow == spent.held, "{spent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_closed_at_its_deadline_and_not_at_the_next_look() {
    let max_age = Duration::from_millis(450);
    let mut world = World::start_with(Script::default(), BatchLimits { max_age, ..LIMITS }, None);
    world.assign(&[0]).await;
    sleep(Duration::from_millis(30)).await;
    world.deliver(0, START..START + 1);
    assert_eq!(world.batch().await.len(), 1);
    assert_eq!(world.fake.at(), 480);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_replaces_whole_assignments_is_told_all_partitions() {
    let mut world = World::start(Script { whole: true, ..Script::default() });
    world.assign(&[0, 1]).await;
    world.deliver(0, START..START + 4);
    world.batch().await;
    world.calls();
    world.assign(&[2]).await;
    sleep(Duration::from_millis(1)).await;
    let all = [(0, START + 4), (1, START), (2, START)];
    let calls: Vec<_> = world.calls().into_iter().map(|(_, call)| call).collect();
    assert!(calls.contains(&fetch(&[(2, START)], &all)), "{calls:?}");
    drop(world.batches);
}

#[tokio::test(start_paused = true)]
async fn a_broken_client_is_replaced_after_a_second() {
    let mut world = World::start(Script::default());
    world.assign(&[0]).await;
    world.deliver(0, START..START + 4);
    let batch = world.batch().await;
    world.calls();
    world.fake.with(|script| script.errors.push_back(ReadErrorKind::Broken));
    // The batch is committed during the wait before the new client is made. That doesn't shorten the wait.
    sleep(Duration::from_millis(20_500)).await;
    world.committed(batch).await;
    sleep(Duration::from_secs(2)).await;
    let calls = world.calls();
    let left = calls.iter().find(|(_, call)| *call == Call::Leave).expect("the broken client leaves").0;
    let joined = calls.iter().find(|(_, call)| *call == Call::Join).expect("a new client joins").0;
    assert_eq!(joined - left, 1_000, "{calls:?}");
    assert!(texts(&world.events()).iter().any(|(_, text)| *text == "rebuilding: it failed"));
    // The new member can hand over a batch, because the old batch was acknowledged.
    world.assign(&[0]).await;
    world.deliver(0, START..START + 4);
    assert_eq!(world.batch().await.len(), 4);
    drop(world.batches);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_noticed_while_the_loop_waits_to_replace_a_broken_client() {
    let mut world = World::start(Script::default());
    world.assign(&[0]).await;
    world.fake.with(|script| script.errors.push_back(ReadErrorKind::Broken));
    sleep(Duration::from_millis(500)).await;
    let calls = world.calls();
    assert_eq!(calls.last().map(|(_, call)| call), Some(&Call::Leave), "the broken client has left: {calls:?}");
    world.stop.cancel();
    world.ended().await.expect("it ends");
    assert_eq!(world.fake.at(), 500, "the rest of the second isn't waited for");
    assert!(world.calls().is_empty(), "no new client joins");
}

#[tokio::test(start_paused = true)]
async fn a_fatal_error_ends_the_loop_and_another_one_is_only_reported() {
    let mut world = World::start(Script { errors: [ReadErrorKind::Retried].into(), ..Script::default() });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(texts(&world.events()), [(0, "Kafka retries")]);
    world.fake.with(|script| script.errors.push_back(ReadErrorKind::Fatal));
    let ended = world.ended().await;
    assert!(matches!(ended, Err(Stopped::Kafka(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_offset_outside_of_the_log_and_a_log_that_became_shorter_cause_new_claims() {
    let mut world = World::start(Script::default());
    world.assign(&[0, 1]).await;
    sleep(Duration::from_millis(300)).await;
    assert!(world.claims.is_empty(), "nothing has changed");
    world.events();
    world.fake.with(|script| script.errors.push_back(ReadErrorKind::OutOfRange));
    world.grant(&[0, 1]).await;
    sleep(Duration::from_millis(300)).await;
    assert!(texts(&world.events()).iter().all(|(_, text)| *text == "out of range"));
    assert!(world.claims.is_empty());
    for truncations in [1, 3] {
        world.fake.truncations.store(truncations, Ordering::Relaxed);
        world.grant(&[0, 1]).await;
        sleep(Duration::from_millis(600)).await;
        let events = world.events();
        assert!(matches!(&texts(&events)[..], [(_, "log cut")]), "{events:?}");
        assert!(world.claims.is_empty(), "each cut causes one claim");
    }
    world.fake.with(|script| script.errors.push_back(ReadErrorKind::Broken));
    sleep(Duration::from_secs(2)).await;
    world.assign(&[0, 1]).await;
    sleep(Duration::from_millis(600)).await;
    let events = world.events();
    assert!(events.iter().all(|(_, text)| text != "log cut"), "a new client doesn't count old cuts again: {events:?}");
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn offsets_are_committed_to_kafka_each_second_and_only_those_that_moved() {
    let mut world = World::start(Script::default());
    world.assign(&[0, 1]).await;
    sleep(Duration::from_millis(1_900)).await;
    let commits = |world: &World| -> Vec<_> {
        world.calls().into_iter().filter(|(_, call)| matches!(call, Call::Commit(_))).collect()
    };
    assert_eq!(commits(&world), [(1_000, Call::Commit(vec![(0, START), (1, START)]))]);
    world.deliver(1, START..START + 4);
    let batch = world.batch().await;
    world.committed(batch).await;
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(commits(&world), [(2_000, Call::Commit(vec![(1, START + 4)]))]);
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn snapshots_come_four_times_a_second() {
    let world = World::start(Script::default());
    sleep(Duration::from_millis(1_010)).await;
    let snapshots = world.fake.with(|script| mem::take(&mut script.snapshots));
    let times: Vec<_> = snapshots.iter().map(|(at, _)| *at).collect();
    // Without records, the loop wakes every 100 ms. So a snapshot comes at the first such time that is at least 250 ms after the
    // last one.
    assert_eq!(times, [0, 300, 600, 900]);
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sealed_when_it_is_full_or_old_with_the_version_of_the_plan() {
    let mut world = World::start(Script::default());
    world.assign(&[0]).await;
    world.deliver(0, START..START + 6);
    let full = world.batch().await;
    assert_eq!((full.len(), full.plan_version, world.fake.at()), (4, 1, 0));
    world.committed(full).await;
    let old = world.batch().await;
    assert_eq!((old.len(), old.plan_version), (2, 2));
    let at = world.fake.at();
    assert!((400..=500).contains(&at), "sealed after {at} ms");
    world.committed(old).await;
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_takes_no_records_for_a_second_calls_its_partitions_paused() {
    let mut world = World::start(Script::default());
    world.assign(&[0, 1]).await;
    world.deliver(0, START..START + 100);
    let batch = world.batch().await;
    sleep(Duration::from_millis(3_000)).await;
    let snapshots = world.fake.with(|script| mem::take(&mut script.snapshots));
    let (before, after): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(|(at, _)| *at < 1_000);
    assert!(before.iter().all(|(_, paused)| *paused == 0), "{before:?}");
    assert!(!after.is_empty() && after.iter().all(|(_, paused)| *paused == 2), "{after:?}");
    world.committed(batch).await;
    let next = world.batch().await;
    assert_eq!(next.segments()[0].from.get(), START + 4);
    drop(world.batches);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_waits_five_seconds_for_the_writer_but_not_while_postgres_is_unavailable() {
    for (waits, expected) in [(false, 5_000), (true, 0)] {
        let mut world = World::start(Script::default());
        world.assign(&[0, 1]).await;
        world.deliver(0, START..START + 2);
        world.writer_waits.set(waits);
        sleep(Duration::from_millis(100)).await;
        world.calls();
        let told = world.fake.at();
        world.decide(GroupEvent::Revoked { sources: vec![partition(0)], lost: false });
        let batch = world.batch().await;
        assert_eq!(batch.len(), 2, "the open batch is handed over first");
        sleep(Duration::from_millis(6_000)).await;
        let calls = world.calls();
        let released = calls.iter().find(|(_, call)| *call == Call::Release(vec![0])).expect("it is released").0;
        assert_eq!(released - told, expected, "Postgres is unavailable: {waits}");
        drop(world.batches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_partition_is_no_longer_fetched() {
    let mut world = World::start(Script { whole: true, ..Script::default() });
    world.assign(&[0, 1]).await;
    world.deliver(0, START..START + 4);
    let batch = world.batch().await;
    world.calls();
    let outcomes = vec![Some(Outcome::Fenced)];
    world.inbox.send(Ack { outcomes, batch }.into()).await.expect("the loop runs");
    sleep(Duration::from_millis(200)).await;
    let calls: Vec<_> = world.calls().into_iter().map(|(_, call)| call).collect();
    assert_eq!(calls, [Call::Stop { sources: vec![0], rest: vec![(1, START)] }]);
    world.end().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn the_claims_of_revoked_partitions_are_withdrawn() {
    let mut world = World::start(Script::default());
    world.decide(GroupEvent::Assigned(vec![partition(0), partition(1)]));
    world.request(&[0, 1]).await;
    world.decide(GroupEvent::Revoked { sources: vec![partition(1)], lost: false });
    let request = world.request(&[]).await;
    assert_eq!(numbers(&request.withdrawn), [1]);
    // A consumer that leaves the group withdraws its remaining requests.
    world.stop.cancel();
    let request = world.request(&[]).await;
    assert_eq!(numbers(&request.withdrawn), [0]);
    world.ended().await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_records_stops_the_loop_or_is_claimed_again_with_leave_to_skip() {
    for policy in [OffsetLossPolicy::Fail, OffsetLossPolicy::Earliest] {
        let mut world = World::start(Script { policy, ..Script::default() });
        world.decide(GroupEvent::Assigned(vec![partition(0)]));
        let request = world.request(&[0]).await.wanted.remove(0);
        assert_eq!(request.skip_condition, None);
        let condition = LossCondition::RetentionPassed { next: Offset::new(START), low: Offset::new(90) };
        let (source, request) = (request.source, request.request);
        let answer = ClaimAnswer { source, request, answer: Err(condition.clone()) };
        world.inbox.send(Message::Claims(vec![answer])).await.expect("the loop runs");
        if policy == OffsetLossPolicy::Fail {
            let ended = world.ended().await;
            assert!(matches!(&ended, Err(Stopped::LogLoss { condition: of, .. }) if *of == condition), "{ended:?}");
        } else {
            assert_eq!(world.request(&[0]).await.wanted.remove(0).skip_condition, Some(condition));
            world.end().await.expect("it ends");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_drains_within_its_time_and_says_what_is_left() {
    let mut world = World::start(Script::default());
    world.assign(&[0]).await;
    world.deliver(0, START..START + 6);
    let batch = world.batch().await;
    sleep(Duration::from_millis(100)).await;
    world.events();
    let told = world.fake.at();
    world.stop.cancel();
    let ended = world.ended().await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(texts(&world.events()), [(told + 20_000, "2 open, 4 in flight")]);
    assert_eq!(batch.segments()[0].to.get(), START + 4);
    assert_eq!(world.calls().pop(), Some((told + 20_000, Call::Leave)));
}
