//! The poll thread: takes records from Kafka, puts them into the session's open batch, hands sealed batches to the writer.
//!
//! It owns the consumer and the session, and never waits for Postgres for longer than a second without polling: a full batch
//! and a busy writer first hold it, then pause its partitions. Everything that comes back (acks, claims) comes by one channel.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::reader::{incoming, push_headers};
use super::rebalance::{Event, Notes};
use crate::batch::{Batch, Trigger};
use crate::claimer::{ClaimRequest, Wanted};
use crate::config::{GroupProtocol, OffsetLossPolicy, Topics};
use crate::gate::Gate;
use crate::lag::LagView;
use crate::mapping::Encoder;
use crate::metrics::ConsumerMetrics;
use crate::partition::{Condition, Grant, State};
use crate::plan::{PlanSource, Planned, reject_of};
use crate::position::{ClaimId, Offset, TopicPartition};
use crate::session::{Ack, Delivery, Fate, Session};
use crate::status::work::{Hold, Phase};
use crate::status::{ConsumerStatus, PartitionStatus, WriterState, lock};
use crate::store::LedgerRow;
use crate::writer::Stopped;

/// Records between two looks at anything else.
const STRETCH: u32 = 256;
/// The longest wait for Kafka when nothing else is expected.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// The longest wait when an answer of the writer or of a claim is expected, which can't wake a poll.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// How long a full batch waits for the writer before partitions are paused: pausing throws the prefetch away.
const HOLD_BEFORE_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait of a revoke for what is on its way; a batch that isn't done by then is fenced by the next owner.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// Committed offsets are for tools that show lag: they may be this old.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How old what the page shows may be.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);
/// Partitions that the timeline names one by one.
const NAMED_PARTITIONS: usize = 8;
/// A last committed record that isn't delivered for so long, with nothing behind it, was compacted away.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The longest that leaving the group may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What comes back to a poll thread.
#[derive(Debug)]
pub enum Answer {
    /// From the writer.
    Ack(Box<Ack>),
    /// A claim was granted.
    Granted(TopicPartition, u64, Grant),
    /// A claim met a condition that the policy doesn't step over.
    Refused(TopicPartition, u64, Condition),
}

impl From<Ack> for Answer {
    fn from(ack: Ack) -> Self {
        Self::Ack(Box::new(ack))
    }
}

/// What a poll thread is made of.
#[derive(Debug)]
pub struct Parts {
    /// librdkafka's settings.
    pub settings: ClientConfig,
    /// What to read.
    pub topics: Topics,
    /// How the group shares out.
    pub protocol: GroupProtocol,
    /// What a condition that comes up while reading means.
    pub on_offset_loss: OffsetLossPolicy,
    /// `limits.drain_timeout`
    pub drain_timeout: Duration,
    /// Who we are in the ledger.
    pub owner: Arc<str>,
    /// The consumer's partitions and batches.
    pub session: Session,
    /// Where plans come from.
    pub plans: Arc<PlanSource>,
    /// To the writer; one batch deep.
    pub outbox: tokio::sync::mpsc::Sender<Batch>,
    /// To whoever claims.
    pub claims: tokio::sync::mpsc::UnboundedSender<ClaimRequest>,
    /// For the writer's acks and the claims' answers.
    pub answers: Sender<Answer>,
    /// Their other end.
    pub inbox: Receiver<Answer>,
    /// `flow.max_rows_per_second`
    pub gate: Arc<Gate>,
    /// What the ledger says, as it was last seen from outside of the writes.
    pub lag: Arc<Mutex<LagView>>,
    /// Metrics.
    pub metrics: ConsumerMetrics,
    /// For the page.
    pub status: Arc<ConsumerStatus>,
    /// Ends the thread, with a drain.
    pub stop: CancellationToken,
}

struct Consumer {
    kafka: BaseConsumer<Notes>,
    parts: Parts,
    planned: Arc<Planned>,
    encoder: Encoder,
    /// What librdkafka is fetching for us.
    fetching: HashSet<TopicPartition>,
    paused: bool,
    held_since: Option<Instant>,
    /// A record whose schema isn't here yet, and what librdkafka still gave behind it before its partitions were paused.
    waiting: VecDeque<Waiting>,
    /// Up to where librdkafka has read logs, under which claims, until the session may know.
    read: Vec<(TopicPartition, ClaimId, Offset)>,
    /// Claims that shall step over a condition.
    stepping: HashMap<TopicPartition, Condition>,
    reported: HashMap<TopicPartition, Offset>,
    /// How often logs were seen to go back.
    cuts: u32,
    commit_at: Instant,
    publish_at: Instant,
    allowance: u64,
    consumed: u64,
    spent: Spent,
    /// Looked up once a stretch, not once a record.
    now: Instant,
    /// librdkafka's last word on this consumer.
    fatal: Option<String>,
}

/// A record that waits for its schema. It is taken only under the claim under which it came: after another one Kafka delivers
/// it again.
struct Waiting {
    message: OwnedMessage,
    claim: ClaimId,
}

/// Time since the last report, by what it went into.
#[derive(Debug, Default)]
struct Spent {
    poll: Duration,
    work: Duration,
    held: Duration,
    /// Of what was held: by `flow.max_rows_per_second`.
    flow: Duration,
}

/// How a reading ended.
enum Ended {
    /// As asked.
    Stopped,
    /// This consumer can't go on, and another one may.
    Rebuild(String),
}

/// Before a consumer that failed is built anew.
const REBUILD_PAUSE: Duration = Duration::from_secs(1);

/// Reads until `stop`, then drains and leaves the group. A consumer that fails, or delivers nothing where there is lag, is
/// built anew. Blocks; runs on a thread of its own.
///
/// # Errors
/// [`Stopped`] where only a person can help.
pub fn run(mut parts: Parts) -> Result<(), Stopped> {
    loop {
        let mut consumer = Consumer::join(parts)?;
        match consumer.read() {
            Ok(Ended::Stopped) => {
                consumer.leave(true);
                return Ok(());
            }
            Ok(Ended::Rebuild(why)) => {
                warn!(why, "building the consumer anew; nothing is lost");
                parts = consumer.leave(true);
                parts.session = parts.session.restart();
                if let Err(RecvTimeoutError::Disconnected) = parts.pause_for(REBUILD_PAUSE) {
                    return Err(Stopped("the writer is gone".to_owned()));
                }
            }
            Err(stopped) => {
                consumer.leave(false);
                return Err(stopped);
            }
        }
    }
}

impl Parts {
    /// Waits, and takes what comes meanwhile: only an ack can.
    fn pause_for(&mut self, wait: Duration) -> Result<(), RecvTimeoutError> {
        match self.inbox.recv_timeout(wait) {
            Ok(Answer::Ack(ack)) => {
                // It ends, or is built anew: nothing is claimed again.
                let _went_back = self.session.acked(*ack, Instant::now());
            }
            Ok(Answer::Granted(..) | Answer::Refused(..)) | Err(RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Consumer {
    fn join(parts: Parts) -> Result<Self, Stopped> {
        let refused = |error: KafkaError| Stopped(format!("librdkafka refuses the configuration: {error}"));
        let kafka: BaseConsumer<Notes> = parts.settings.create_with_context(Notes::default()).map_err(refused)?;
        let topics: Vec<&str> = match &parts.topics {
            Topics::List(names) => names.iter().map(String::as_str).collect(),
            Topics::Pattern(pattern) => vec![pattern],
        };
        kafka.subscribe(&topics).map_err(refused)?;
        let now = Instant::now();
        let planned = parts.plans.current();
        Ok(Self {
            kafka,
            encoder: Encoder::new(Arc::clone(&planned.plan)),
            planned,
            fetching: HashSet::new(),
            paused: false,
            held_since: None,
            waiting: VecDeque::new(),
            read: Vec::new(),
            stepping: HashMap::new(),
            reported: HashMap::new(),
            cuts: 0,
            commit_at: now,
            publish_at: now,
            allowance: 0,
            consumed: 0,
            spent: Spent::default(),
            now,
            fatal: None,
            parts,
        })
    }

    fn read(&mut self) -> Result<Ended, Stopped> {
        while !self.parts.stop.is_cancelled() {
            self.serve()?;
            if let Some(why) = self.fatal.take() {
                return Ok(Ended::Rebuild(why));
            }
            if self.parts.status.take_rebuild() {
                return Ok(Ended::Rebuild("a partition with lag makes no progress".to_owned()));
            }
            if self.held() {
                self.hold()?;
            } else {
                self.take()?;
            }
        }
        Ok(Ended::Stopped)
    }

    /// Whether nothing may be taken from Kafka now.
    fn held(&mut self) -> bool {
        self.deliver_waiting();
        if self.parts.session.is_full() || !self.waiting.is_empty() {
            return true;
        }
        if self.allowance == 0 {
            self.allowance = self.parts.gate.take(Instant::now());
        }
        self.allowance == 0
    }

    /// Takes the records that waited for schemas, in their order, as far as these are here.
    fn deliver_waiting(&mut self) {
        while let Some(Waiting { message, claim }) = self.waiting.front() {
            if self.parts.session.claim_of(message.topic(), message.partition()) == Some(*claim) {
                if self.parts.session.is_full() || self.encoder.wants(message.payload()).is_some() {
                    return;
                }
                self.now = Instant::now();
                let rows = self.parts.session.open_rows();
                let Self { parts, encoder, planned, now, .. } = self;
                if deliver(&mut parts.session, encoder, planned, message, *now) != Delivery::Ignored {
                    self.consumed += 1;
                    self.allowance = self.allowance.saturating_sub(taken(&self.parts.session, rows));
                }
            }
            self.waiting.pop_front();
        }
    }

    /// Waits for the writer, the gate or a schema: at first without polling, so that the prefetch stays; in the end with partitions
    /// paused, so that the group keeps us.
    fn hold(&mut self) -> Result<(), Stopped> {
        let started = Instant::now();
        let since = *self.held_since.get_or_insert(started);
        let gate_wait = self.parts.gate.opens_in(started);
        let full = self.parts.session.is_full();
        let schema = !full && !self.waiting.is_empty();
        self.parts.status.work.hold(Some(match (full, schema) {
            (true, _) => Hold::Full,
            (false, true) => Hold::Schema,
            (false, false) => Hold::Flow,
        }));
        // Nobody wakes us when a schema comes.
        let gate_wait = if schema { BUSY_POLL } else { gate_wait };
        if started.duration_since(since) < HOLD_BEFORE_PAUSE {
            let wait = HOLD_BEFORE_PAUSE.min(if full { HOLD_BEFORE_PAUSE } else { gate_wait });
            // A stop must not wait for the whole second.
            match self.parts.inbox.recv_timeout(wait.min(IDLE_POLL)) {
                Ok(answer) => self.answer(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped("the writer is gone".to_owned())),
            }
        } else {
            self.pause(true);
            self.poll_once(BUSY_POLL.max(gate_wait.min(IDLE_POLL)))?;
        }
        self.spent.held += started.elapsed();
        if !self.parts.session.is_full() {
            self.spent.flow += started.elapsed();
        }
        Ok(())
    }

    /// Takes a stretch of records.
    fn take(&mut self) -> Result<(), Stopped> {
        self.held_since = None;
        self.parts.status.work.hold(None);
        self.pause(false);
        let started = Instant::now();
        let wait = self.poll_wait(started);
        if !self.poll_once(wait)? {
            self.spent.poll += started.elapsed();
            return Ok(());
        }
        let working = Instant::now();
        self.spent.poll += working - started;
        let mut left = STRETCH;
        while left > 0
            && !self.parts.session.is_full()
            && self.allowance > 0
            && self.waiting.is_empty()
            && !self.kafka.context().pending()
        {
            left -= 1;
            if !self.poll_once(Duration::ZERO)? {
                break;
            }
        }
        self.spent.work += working.elapsed();
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Duration {
        let expects = self.parts.session.in_flight() || self.parts.session.claiming().next().is_some();
        let wait = if expects { BUSY_POLL } else { IDLE_POLL };
        match self.parts.session.due_in(now) {
            Some(due) if !self.parts.session.in_flight() => wait.min(due),
            _ => wait,
        }
    }

    /// One poll; whether a record came.
    fn poll_once(&mut self, wait: Duration) -> Result<bool, Stopped> {
        let Self { kafka, parts, encoder, planned, allowance, consumed, now, waiting, .. } = self;
        let polled = kafka.poll(wait);
        if !wait.is_zero() {
            *now = Instant::now();
        }
        match polled {
            None => Ok(false),
            Some(Ok(message)) => {
                // What isn't ours to write is looked at or left out at once: for that no schema is needed.
                if (!waiting.is_empty() || encoder.wants(message.payload()).is_some())
                    && let Some(claim) = parts.session.claim_for(message.topic(), message.partition(), message.offset())
                {
                    waiting.push_back(Waiting { message: message.detach(), claim });
                    return Ok(true);
                }
                let rows = parts.session.open_rows();
                if deliver(&mut parts.session, encoder, planned, &message, *now) != Delivery::Ignored {
                    *consumed += 1;
                    *allowance = allowance.saturating_sub(taken(&parts.session, rows));
                }
                Ok(true)
            }
            Some(Err(error)) => {
                self.kafka_error(&error)?;
                Ok(false)
            }
        }
    }

    fn kafka_error(&mut self, error: &KafkaError) -> Result<(), Stopped> {
        use RDKafkaErrorCode as Code;
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                Err(Stopped(format!("Kafka ended this consumer for good: {error}")))
            }
            KafkaError::MessageConsumption(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
                // The error names no partition: each is claimed again, which holds the ledger against the log.
                warn!(%error, "a position lies outside of Kafka's log: comparing each partition with the ledger");
                self.parts.session.claim_all_again(Instant::now());
                self.carry_out()
            }
            KafkaError::MessageConsumption(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                warn!(%error, "Kafka denies access: nothing is lost, trying again");
                Ok(())
            }
            _ => {
                debug!(%error, "Kafka: librdkafka tries again");
                Ok(())
            }
        }
    }

    /// Everything that isn't a record.
    fn serve(&mut self) -> Result<(), Stopped> {
        for event in self.kafka.context().take() {
            self.rebalance(event)?;
        }
        for (source, offset) in self.kafka.context().take_read() {
            let claim = self.parts.session.claim_of(&source.topic, source.partition);
            self.read.extend(claim.map(|claim| (source, claim, offset)));
        }
        // What librdkafka has read the session has only once no record waits.
        if self.waiting.is_empty() {
            for (source, claim, offset) in self.read.drain(..) {
                if self.parts.session.claim_of(&source.topic, source.partition) == Some(claim) {
                    self.parts.session.read_to(&source, offset);
                }
            }
        }
        while let Ok(answer) = self.parts.inbox.try_recv() {
            self.answer(answer);
        }
        let now = Instant::now();
        self.parts.session.tick(now);
        self.carry_out()?;
        if !self.parts.session.in_flight()
            && let Some(trigger) = self.parts.session.due(now)
        {
            self.seal(trigger);
        }
        if now >= self.commit_at {
            self.commit_at = now + COMMIT_INTERVAL;
            self.commit();
        }
        if now >= self.publish_at {
            self.publish_at = now + PUBLISH_INTERVAL;
            self.publish(now);
            self.compare(now);
        }
        Ok(())
    }

    /// Holds what we know to be committed against what the ledger says.
    fn compare(&mut self, now: Instant) {
        let view = lock(&self.parts.lag);
        let cuts: u32 = view.partitions.values().map(|lag| lag.cuts).sum();
        if std::mem::replace(&mut self.cuts, cuts) < cuts {
            // A claim compares the log with the last committed record; without it a new log that has grown past our position
            // would be taken for the old one.
            warn!("a log of ours is shorter than it was: comparing each partition with the ledger");
            self.parts.session.claim_all_again(now);
            return;
        }
        for (source, lag) in &view.partitions {
            let Some(asked_at) = lag.asked_at else { continue };
            let row = LedgerRow::Found { claim: lag.claim, epoch: lag.epoch, next: lag.next };
            match self.parts.session.ledger_seen(source, row, asked_at, now) {
                Some(Fate::Rewound) => {
                    warn!(%source, next = %lag.next, epoch = lag.epoch, "the ledger went back: claiming again and refilling from Kafka");
                    self.parts.metrics.rewound();
                }
                Some(Fate::Superseded { .. }) => {
                    self.parts.status.work.note("fenced", format!("{source}: another claim holds it"));
                    info!(%source, "another claim holds the partition: awaiting the revoke");
                }
                Some(Fate::Committed(_)) | None => {}
            }
        }
    }

    fn seal(&mut self, trigger: Trigger) {
        let Some(mut batch) = self.parts.session.seal(trigger, Instant::now()) else { return };
        batch.plan_version = self.planned.version;
        // A newer plan takes over between two batches; what is older is encoded again by the writer.
        if self.planned.version != self.parts.plans.version() {
            self.planned = self.parts.plans.current();
            self.encoder = Encoder::new(Arc::clone(&self.planned.plan));
        }
        if self.parts.outbox.try_send(batch).is_err() {
            // The writer ended by a fault of its own, which ends this thread by `stop`; the records stay Kafka's.
            debug!("the writer takes no batch any more");
        }
    }

    fn answer(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Answer::Ack(ack) => {
                for source in self.parts.session.acked(*ack, now) {
                    warn!(%source, "the ledger went back to before our claim: claiming again and refilling from Kafka");
                    self.parts.metrics.rewound();
                }
            }
            Answer::Granted(source, question, grant) => {
                debug!(%source, next = %grant.next, epoch = grant.epoch, "claimed");
                self.parts.session.granted(&source, question, &grant, now);
            }
            Answer::Refused(source, question, condition) => {
                self.parts.session.refused(&source, question, condition);
            }
        }
    }

    /// Does what the session asks for.
    fn carry_out(&mut self) -> Result<(), Stopped> {
        let mut actions = self.parts.session.take_actions();
        if actions.is_empty() {
            return Ok(());
        }
        for (source, condition) in std::mem::take(&mut actions.conditions) {
            self.parts.status.work.note("condition", format!("{source}: {condition}"));
            if self.parts.on_offset_loss == OffsetLossPolicy::Fail {
                self.publish(Instant::now());
                return Err(Stopped(format!("{source}: {condition}")));
            }
            self.stepping.insert(source.clone(), condition);
            self.parts.session.claim_again(&source, Instant::now());
        }
        actions.claim.extend(self.parts.session.take_actions().claim);
        self.stop_fetching(&actions.stop);
        self.fetch(&actions.fetch);
        if !actions.claim.is_empty() {
            let wanted = actions.claim.into_iter().map(|(source, question)| {
                let step_over = self.stepping.remove(&source);
                Wanted { source, question, step_over }
            });
            let wanted = wanted.collect();
            self.ask_claimer(wanted, Vec::new());
        }
        Ok(())
    }

    /// Takes back the claims of partitions that leave: one that was made later would fence the next owner.
    fn withdraw(&self, leaves: impl Fn(&TopicPartition) -> bool) {
        let withdrawn: Vec<_> = self.parts.session.claiming().filter(|source| leaves(source)).cloned().collect();
        if !withdrawn.is_empty() {
            self.ask_claimer(Vec::new(), withdrawn);
        }
    }

    fn ask_claimer(&self, wanted: Vec<Wanted>, withdrawn: Vec<TopicPartition>) {
        let (owner, answers) = (Arc::clone(&self.parts.owner), self.parts.answers.clone());
        if self.parts.claims.send(ClaimRequest { wanted, withdrawn, owner, answers }).is_err() {
            debug!("nobody claims any more: the pipeline is ending");
        }
    }

    fn incremental(&self) -> bool {
        self.parts.protocol != GroupProtocol::Eager
    }

    fn fetch(&mut self, from: &[(TopicPartition, Offset)]) {
        if from.is_empty() {
            return;
        }
        self.fetching.extend(from.iter().map(|(source, _)| source.clone()));
        let result = if self.incremental() {
            self.kafka.incremental_assign(&list(from))
        } else {
            // Eager assignments are replaced as a whole; those that are fetched already go on where their batches end.
            let starts: HashMap<&TopicPartition, Offset> = from.iter().map(|(source, at)| (source, *at)).collect();
            let all: Vec<_> = self
                .parts
                .session
                .positions()
                .filter(|(source, _)| self.fetching.contains(*source))
                .map(|(source, owned)| (source.clone(), starts.get(source).copied().unwrap_or(owned.next)))
                .collect();
            self.kafka.assign(&list(&all))
        };
        // librdkafka remembers a partition's pause beyond its assignment, and knows nothing of ours: it is told again.
        let told = if self.paused { self.kafka.pause(&list(from)) } else { self.kafka.resume(&list(from)) };
        self.report("pause or resume", told);
        self.report("assign", result);
    }

    fn stop_fetching(&mut self, sources: &[TopicPartition]) {
        let stopped: Vec<_> =
            sources.iter().filter_map(|s| self.fetching.take(s)).map(|source| (source, Offset::ZERO)).collect();
        if stopped.is_empty() {
            return;
        }
        let result = if self.incremental() {
            self.kafka.incremental_unassign(&list(&stopped))
        } else {
            let fetched = self.parts.session.positions().filter(|(source, _)| self.fetching.contains(*source));
            let all: Vec<_> = fetched.map(|(source, owned)| (source.clone(), owned.next)).collect();
            self.kafka.assign(&list(&all))
        };
        self.report("unassign", result);
    }

    fn report(&self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            warn!(%error, what, "librdkafka refused a change of the assignment");
        }
    }

    fn rebalance(&mut self, event: Event) -> Result<(), Stopped> {
        self.parts.metrics.rebalanced();
        match event {
            Event::Assigned(sources) => {
                info!(partitions = ?sources, "assigned");
                self.note_rebalance("was given", &sources);
                // Nothing is fetched before its claim: the answer to the group is an empty list.
                let nothing = TopicPartitionList::new();
                let answer = if self.incremental() {
                    self.kafka.incremental_assign(&nothing)
                } else {
                    self.kafka.assign(&nothing)
                };
                self.report("assign", answer);
                self.parts.session.assigned(sources, Instant::now());
                // In this order: who has joined says what it was given.
                self.publish(Instant::now());
                self.parts.status.join();
            }
            Event::Revoked { sources, lost } => {
                info!(partitions = ?sources, lost, "revoked");
                self.note_rebalance(if lost { "lost" } else { "gave up" }, &sources);
                if !lost {
                    self.flush(Trigger::Revoke, REVOKE_WAIT.min(self.parts.drain_timeout))?;
                    self.commit();
                }
                self.withdraw(|source| sources.contains(source));
                self.parts.session.revoked(&sources);
                self.reported.retain(|source, _| !sources.contains(source));
                let answer = if self.incremental() {
                    let ours: Vec<_> =
                        sources.iter().filter_map(|s| self.fetching.take(s)).map(|s| (s, Offset::ZERO)).collect();
                    self.kafka.incremental_unassign(&list(&ours))
                } else {
                    self.fetching.clear();
                    self.kafka.unassign()
                };
                self.report("unassign", answer);
            }
        }
        self.publish(Instant::now());
        self.carry_out()
    }

    fn note_rebalance(&self, what: &str, sources: &[TopicPartition]) {
        let names: Vec<String> = sources.iter().take(NAMED_PARTITIONS).map(ToString::to_string).collect();
        let more = sources.len().saturating_sub(names.len());
        let names = match (names.join(" "), more) {
            (names, _) if names.is_empty() => "no partition".to_owned(),
            (names, 0) => names,
            (names, more) => format!("{names} and {more} more"),
        };
        self.parts.status.work.note("rebalance", format!("c{} {what} {names}", self.parts.status.number));
    }

    /// Writes what is open and waits for the writer, unless that waits for Postgres itself: then there is no telling how long.
    fn flush(&mut self, trigger: Trigger, patience: Duration) -> Result<(), Stopped> {
        let deadline = Instant::now() + patience;
        loop {
            if !self.parts.session.in_flight() {
                self.seal(trigger);
            }
            if !self.parts.session.in_flight() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.parts.outbox.is_closed() {
                return Ok(());
            }
            let waiting = matches!(self.parts.status.writer_alone(), WriterState::Waiting { .. });
            if trigger == Trigger::Revoke && waiting {
                return Ok(());
            }
            match self.parts.inbox.recv_timeout(left.min(IDLE_POLL)) {
                Ok(answer) => self.answer(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped("the writer is gone".to_owned())),
            }
        }
    }

    fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
        self.paused = pause;
        let all: Vec<_> = self.fetching.iter().map(|source| (source.clone(), Offset::ZERO)).collect();
        let result = if pause { self.kafka.pause(&list(&all)) } else { self.kafka.resume(&list(&all)) };
        self.report(if pause { "pause" } else { "resume" }, result);
    }

    /// Tells Kafka where the ledger stands, for tools that show lag.
    fn commit(&mut self) {
        let positions = self.parts.session.positions();
        let moved: Vec<_> = positions
            .filter(|(source, owned)| self.reported.get(source) != Some(&owned.committed))
            .map(|(source, owned)| (source.clone(), owned.committed))
            .collect();
        if moved.is_empty() {
            return;
        }
        self.kafka.context().commit_sent();
        if let Err(error) = self.kafka.commit(&list(&moved), CommitMode::Async) {
            debug!(%error, "Kafka didn't take the committed offsets");
        }
        self.reported.extend(moved);
    }

    fn publish(&mut self, now: Instant) {
        let session = &self.parts.session;
        let partitions: Vec<PartitionStatus> = session.partitions().map(partition_status).collect();
        let paused = if self.paused { self.fetching.len() } else { 0 };
        self.parts.metrics.holds(partitions.len(), paused, session.open_bytes());
        self.parts.metrics.consumed(std::mem::take(&mut self.consumed));
        let Spent { poll, work, held, flow } = std::mem::take(&mut self.spent);
        self.parts.metrics.spent(poll, work, held.saturating_sub(flow), flow);
        for (phase, time) in [(Phase::Poll, poll), (Phase::Decode, work), (Phase::Held, held)] {
            self.parts.status.work.spent(phase, time);
        }
        let schemas = self.parts.plans.schemas().filter(|_| !self.waiting.is_empty());
        self.parts.status.waits_for_schema(schemas.and_then(|schemas| schemas.trouble()));
        self.parts.status.publish(partitions, session.open_bytes() as u64, now);
    }

    /// Drains where all is well, leaves the group, and drops the consumer on a thread of its own: that may wait for ever.
    fn leave(mut self, drain: bool) -> Parts {
        if drain {
            let patience = self.parts.drain_timeout;
            if let Err(Stopped(why)) = self.flush(Trigger::Shutdown, patience) {
                warn!(why, "draining");
            }
            let left = self.parts.session.open_records();
            if left > 0 || self.parts.session.in_flight() {
                warn!(open_records = left, "the drain timed out: what isn't written stays Kafka's and is read again");
            }
            self.commit();
            let deadline = Instant::now() + COMMIT_INTERVAL;
            while !self.kafka.context().commits_answered() && Instant::now() < deadline {
                // Records that come now are left to the next owner.
                drop(self.kafka.poll(BUSY_POLL));
            }
        }
        self.publish(Instant::now());
        self.withdraw(|_| true);
        self.kafka.context().close();
        let (done, closed) = channel();
        let kafka = self.kafka;
        std::thread::spawn(move || {
            drop(kafka);
            done.send(()).ok();
        });
        if closed.recv_timeout(CLOSE_DEADLINE).is_err() {
            warn!("leaving the group takes too long, going on without");
        }
        self.parts
    }
}

/// What a record takes of `flow.max_rows_per_second`: its rows, or one where it has none.
fn taken(session: &Session, rows_before: u32) -> u64 {
    u64::from(session.open_rows().saturating_sub(rows_before)).max(1)
}

fn deliver<M: Message<Headers: Headers>>(
    session: &mut Session,
    encoder: &mut Encoder,
    planned: &Planned,
    message: &M,
    now: Instant,
) -> Delivery {
    let headers = |arena: &mut Vec<u8>| push_headers(message, arena);
    session.deliver(message.topic(), message.partition(), &incoming(message), now, headers, |record, rows| {
        encoder.encode(record, rows).map_err(|rejection| reject_of(&planned.plan, rejection))
    })
}

fn list(places: &[(TopicPartition, Offset)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (source, offset) in places {
        let added = list.add_partition_offset(&source.topic, source.partition, KafkaOffset::Offset(offset.get()));
        added.expect("an offset of 0 or more is one that librdkafka can hold");
    }
    list
}

fn partition_status(partition: &crate::partition::Partition) -> PartitionStatus {
    let mut status = PartitionStatus {
        source: partition.source.clone(),
        state: "claiming",
        next: None,
        committed: None,
        read_to: None,
        known: false,
        epoch: None,
        condition: None,
        progress_at: partition.progress_at,
    };
    match &partition.state {
        State::Claiming { .. } => {}
        State::Owned(owned) => {
            status.state = "owned";
            status.next = Some(owned.next);
            status.committed = Some(owned.committed);
            status.read_to = (owned.committed == owned.next).then_some(owned.read_to);
            status.known = owned.verify.is_none() || partition.progress_at.elapsed() > GONE_AFTER;
            status.epoch = Some(owned.epoch);
        }
        State::Fenced { .. } => status.state = "fenced",
        State::Stopped(condition) => {
            status.state = "stopped";
            status.condition = Some(condition.to_string());
        }
    }
    status
}
