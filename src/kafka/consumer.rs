//! The poll thread: takes records from Kafka, puts them into the session's open batch, hands sealed batches to the writer.
//!
//! It owns the consumer and the session, and never waits for Postgres for longer than a second without polling: a full batch
//! and a busy writer first hold it, then pause its partitions. Everything that comes back (acks, claims) comes by one channel.

mod assignment;
mod publish;
mod take;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use tidegate_protocol::batch::{Batch, Trigger};
use tidegate_protocol::partition::{Condition, Grant};
use tidegate_protocol::position::{ClaimId, Offset, TopicPartition};
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_protocol::session::{Ack, Fate, Session};
use tidegate_protocol::store::LedgerRow;
use tidegate_rows::mapping::Encoder;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::publish::Spent;
use self::take::Waiting;
use super::rebalance::Notes;
use crate::claimer::{ClaimRequest, Wanted};
use crate::config::{GroupProtocol, OffsetLossPolicy, Topics};
use crate::lag::LagView;
use crate::metrics::ConsumerMetrics;
use crate::plan::{PlanSource, Planned};
use crate::status::{ConsumerStatus, WriterState, lock};
use crate::writer::Stopped;

/// The longest wait for Kafka when nothing else is expected.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// The longest wait when an answer of the writer or of a claim is expected, which can't wake a poll.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// Committed offsets are for tools that show lag: they may be this old.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How old what the page shows may be.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);
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
    pub gate: Arc<RateLimit>,
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
