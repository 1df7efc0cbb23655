//! The poll loop: takes records from Kafka, adds them to the session's open batch, and hands each closed batch to the
//! writer.
//!
//! The loop owns the group client and the session. While the open batch is full and the writer is busy, the
//! loop takes no records, but still serves the group; Kafka's client stops fetching when its queue is full.
//! Acknowledgements and answers to claims arrive on one channel.

mod assignment;
mod take;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Trigger};
use crate::claim_loop::{ClaimAnswer, ClaimRequest, OffsetLossPolicy, Wanted};
use crate::event::{Event, Listener, Snapshot, Spent};
use crate::group::{Group, GroupClient, ReadErrorKind};
use crate::now;
use crate::partition::{LossCondition, Outcome};
use crate::position::{Offset, TopicPartition};
use crate::rate_limit::RateLimit;
use crate::record::{Headers, Record};
use crate::session::{Ack, Session};
use crate::stopped::Stopped;
use crate::store::LedgerRow;
use crate::writer::WaitFlag;

/// The longest wait for a record or a message. After it, the session's deadlines are checked again.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How often changed offsets are committed to Kafka. Tools show lag with these offsets, and a refused commit reveals that a right
/// was withdrawn. Tidegate reads the offsets only with `start = "committed"`.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two regular snapshots of the consumer. A rebalance causes a
/// snapshot too, and so does the end of the membership.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(250);
/// The longest time that a revocation waits for the delivered records to be written. After this time, the revoked
/// partitions' records in the open batch are dropped. The next owner's claim fences the records that the writer still has.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
const REBUILD_PAUSE: Duration = Duration::from_secs(1);

/// Encodes records as rows in the poll loop, by the pipeline's plan (see [`Planner`](crate::store::Planner)).
pub trait RecordEncoder: Send {
    /// Returns whether the record must wait for a schema that was requested and isn't known yet. `headers` is empty if
    /// [`Self::reads_headers`] returns `false`.
    fn wants(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> bool;
    /// Returns whether [`Self::wants`] needs the headers, because they may name a record's schema.
    fn reads_headers(&self) -> bool;
    /// Appends a record's rows and returns their number.
    ///
    /// # Errors
    /// If the record can't become rows. It becomes a dead letter, unless a newer plan can encode it.
    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, crate::batch::RejectedRecord>;
    fn version(&self) -> u64;
    /// Switches to the pipeline's newest plan. Only called between two batches.
    fn renew(&mut self);
}

/// Ledger rows that were read outside of writes, to compute the lag. The poll loop compares its partitions with
/// these rows. So it notices a later claim or a restored database even if a partition has no new records to write.
pub trait LedgerReadings: Send {
    /// Returns how often a log of the pipeline was seen to become shorter. If the number has grown, the loop claims
    /// all owned partitions again.
    fn truncations(&self) -> u32;
    /// Calls `each` once per partition whose ledger row was read, with the newest row and the time
    /// at which the read of this row was requested.
    fn visit(&self, each: &mut dyn FnMut(&TopicPartition, LedgerRow, Instant));
}

/// The messages that other tasks send to a poll loop.
#[derive(Debug)]
pub enum Message {
    Ack(Box<Ack>),
    /// The claim loop's answers of one round. They come together, so that fetching starts for all their partitions at once.
    Claims(Vec<ClaimAnswer>),
    /// A request to the consumer to leave the group and join again, with the reason.
    Rebuild(&'static str),
}

impl From<Ack> for Message {
    fn from(ack: Ack) -> Self {
        Self::Ack(Box::new(ack))
    }
}

/// The parts of one consumer's poll loop.
#[expect(missing_debug_implementations, reason = "the parts that are passed in need none")]
pub struct PollLoop<G: Group, E, L> {
    pub group: G,
    pub encoder: E,
    pub readings: L,
    pub session: Session,
    pub on_offset_loss: OffsetLossPolicy,
    /// The longest duration of the drain, in which the delivered records are written. The drain begins at `stop`, or before
    /// the client is replaced. After the drain, the consumer leaves the group.
    pub drain_timeout: Duration,
    /// The name of this consumer, which the ledger shows as the owner.
    pub owner: Arc<str>,
    /// The channel to the writer, with room for one batch.
    pub outbox: Sender<Batch>,
    pub writer_waits: Arc<WaitFlag>,
    pub claims: Sender<ClaimRequest>,
    /// A sender for `inbox`. The claim loop gets copies of it for its answers.
    pub answers: Sender<Message>,
    /// Receives the writer's acknowledgements, the claim loop's answers and requests to rebuild.
    pub inbox: Receiver<Message>,
    pub rate_limit: Arc<RateLimit>,
    pub listener: Arc<dyn Listener>,
    /// When this token is cancelled, the loop drains for at most `drain_timeout`, and ends.
    pub stop: CancellationToken,
}

/// How a membership ended. After `Rebuild`, which has the reason, the consumer joins the group again with a new client.
enum Ended {
    Stopped,
    Rebuild(String),
}

impl<G: Group, E: RecordEncoder, L: LedgerReadings> PollLoop<G, E, L> {
    /// Reads until `stop`, then drains and leaves the group. A broken client is replaced.
    ///
    /// # Errors
    /// [`Stopped`] if waiting doesn't help.
    ///
    /// # Cancel safety
    /// May be dropped at any point: what isn't committed is still in Kafka.
    pub async fn run(mut self) -> Result<(), Stopped> {
        loop {
            let client = self
                .group
                .join()
                .map_err(|error| Stopped::Configuration(format!("librdkafka refuses the configuration: {error}")))?;
            let mut member = Member::new(self, client);
            match member.read().await {
                Ok(Ended::Stopped) => {
                    member.leave(true).await;
                    return Ok(());
                }
                Ok(Ended::Rebuild(why)) => {
                    member.on(&Event::Rebuilding { why: &why });
                    self = member.leave(true).await;
                    self.session = self.session.restart();
                    self.pause().await;
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(stopped) => {
                    member.leave(false).await;
                    return Err(stopped);
                }
            }
        }
    }

    /// Waits before the next client is created, or until `stop`. Handles an acknowledgement that arrives meanwhile. Other messages
    /// were for the old client, so they are dropped.
    async fn pause(&mut self) {
        let stop = self.stop.clone();
        let mut pause = std::pin::pin!(sleep(REBUILD_PAUSE));
        loop {
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Ack(ack)) => self.session.acked(*ack, now()),
                    Some(_) => {}
                    None => return,
                },
                () = &mut pause => return,
                () = stop.cancelled() => return,
            }
        }
    }
}

/// A poll loop while it is a member of the group.
struct Member<G: Group, E, L> {
    client: G::Client,
    parts: PollLoop<G, E, L>,
    fetching: HashSet<TopicPartition>,
    held_since: Option<Instant>,
    wants_schema: bool,
    /// The headers of the record that is offered now, for an encoder that reads them before the record is taken.
    headers: Vec<u8>,
    /// For each of these partitions, the log-loss condition that the partition's next claim must skip.
    conditions_to_skip: HashMap<TopicPartition, LossCondition>,
    /// Claim requests that wait because the claim loop's channel was full.
    unsent_requests: Vec<ClaimRequest>,
    committed_to_kafka: HashMap<TopicPartition, Offset>,
    truncations: u32,
    commit_at: Instant,
    snapshot_at: Instant,
    /// How many rows this consumer may still take of those that the rate limit last granted.
    allowance: u64,
    consumed: u64,
    spent: Spent,
    rebuild: Option<String>,
    /// When `stop` was first noticed; the drain's time counts from then.
    stop_seen: Option<Instant>,
}

impl<G: Group, E: RecordEncoder, L: LedgerReadings> Member<G, E, L> {
    fn new(parts: PollLoop<G, E, L>, client: G::Client) -> Self {
        let now = now();
        // Each partition is claimed after the client has joined. So a truncation that was counted before needs no further claim.
        let truncations = parts.readings.truncations();
        Self {
            client,
            parts,
            fetching: HashSet::new(),
            held_since: None,
            wants_schema: false,
            headers: Vec::new(),
            conditions_to_skip: HashMap::new(),
            unsent_requests: Vec::new(),
            committed_to_kafka: HashMap::new(),
            truncations,
            commit_at: now,
            snapshot_at: now,
            allowance: 0,
            consumed: 0,
            spent: Spent::default(),
            rebuild: None,
            stop_seen: None,
        }
    }

    fn on(&self, event: &Event<'_>) {
        self.parts.listener.on(event);
    }

    async fn read(&mut self) -> Result<Ended, Stopped> {
        while !self.parts.stop.is_cancelled() {
            self.serve().await?;
            if let Some(why) = self.rebuild.take() {
                return Ok(Ended::Rebuild(why));
            }
            self.take().await?;
        }
        Ok(Ended::Stopped)
    }

    /// Handles everything except records: rebalances, messages, claims, and deadlines.
    async fn serve(&mut self) -> Result<(), Stopped> {
        if let Err(error) = self.client.serve() {
            self.failed(error)?;
        }
        for event in self.client.take_events() {
            self.rebalance(event).await?;
        }
        for (source, offset) in self.client.take_read_to() {
            self.parts.session.read_to(&source, offset);
        }
        while let Ok(message) = self.parts.inbox.try_recv() {
            self.receive(message);
        }
        let now = now();
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
        if now >= self.snapshot_at {
            self.snapshot_at = now + SNAPSHOT_INTERVAL;
            self.snapshot(now);
            self.compare(now);
        }
        Ok(())
    }

    fn failed(&mut self, error: crate::group::ReadError) -> Result<(), Stopped> {
        match error.kind {
            ReadErrorKind::Fatal => return Err(Stopped::Kafka(error.source)),
            ReadErrorKind::Broken => self.rebuild = Some(error.source.to_string()),
            ReadErrorKind::OutOfRange => {
                // The error names no partition. A new claim compares its partition with the log, so claim all owned partitions
                // again.
                self.on(&Event::PositionOutOfRange(&*error.source));
                self.parts.session.claim_all_again(now());
                self.carry_out()?;
            }
            ReadErrorKind::Retried => self.on(&Event::KafkaRetries(&*error.source)),
        }
        Ok(())
    }

    fn compare(&mut self, now: Instant) {
        let truncations = self.parts.readings.truncations();
        if std::mem::replace(&mut self.truncations, truncations) < truncations {
            // A claim compares the log with the last committed record. Without a new claim, a new log that has grown beyond our
            // offset would be taken for the old one.
            self.on(&Event::LogCut);
            self.parts.session.claim_all_again(now);
            return;
        }
        let (session, listener) = (&mut self.parts.session, &self.parts.listener);
        self.parts.readings.visit(&mut |source, row, requested_at| match session.ledger_seen(
            source,
            row,
            requested_at,
            now,
        ) {
            Some(Outcome::Rewound) => listener.on(&Event::Rewound { source, from: None }),
            Some(Outcome::Fenced) => listener.on(&Event::Fenced { source, from: None }),
            Some(Outcome::Committed(_)) | None => {}
        });
    }

    fn seal(&mut self, trigger: Trigger) {
        let Some(mut batch) = self.parts.session.seal(trigger, now()) else { return };
        batch.plan_version = self.parts.encoder.version();
        // A newer plan is used from the next batch on; the writer re-encodes older batches.
        self.parts.encoder.renew();
        match self.parts.outbox.try_send(batch) {
            Ok(()) => {}
            // The writer has ended because of an error. `stop` will end this loop too, and the records are still in Kafka.
            Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("the session has one batch in flight at most"),
        }
    }

    fn receive(&mut self, message: Message) {
        let now = now();
        match message {
            Message::Ack(ack) => self.parts.session.acked(*ack, now),
            Message::Claims(answers) => {
                for ClaimAnswer { source, request, answer } in answers {
                    match answer {
                        Ok(grant) => self.parts.session.granted(&source, request, &grant, now),
                        Err(condition) => self.parts.session.refused(&source, request, condition),
                    }
                }
            }
            Message::Rebuild(why) => self.rebuild = Some(why.to_owned()),
        }
    }

    fn carry_out(&mut self) -> Result<(), Stopped> {
        let mut actions = self.parts.session.take_actions();
        if !actions.is_empty() {
            for (source, condition) in std::mem::take(&mut actions.conditions) {
                self.on(&Event::LogLoss { source: &source, condition: &condition });
                if self.parts.on_offset_loss == OffsetLossPolicy::Fail {
                    self.snapshot(now());
                    return Err(Stopped::LogLoss { partition: source, condition });
                }
                self.conditions_to_skip.insert(source.clone(), condition);
                self.parts.session.claim_again(&source, now());
            }
            actions.claim.extend(self.parts.session.take_actions().claim);
            self.stop_fetching(&actions.stop);
            self.fetch(&actions.fetch);
            let wanted = actions.claim.into_iter().map(|(source, request)| {
                let skip_condition = self.conditions_to_skip.remove(&source);
                Wanted { source, request, skip_condition }
            });
            let wanted: Vec<_> = wanted.collect();
            if !wanted.is_empty() {
                self.ask(wanted, Vec::new());
            }
        }
        self.send_requests();
        Ok(())
    }

    /// Withdraws the pending requests for partitions that leave this consumer: those for which `leaves` returns true. A later
    /// claim would fence the next owner.
    fn withdraw(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        let withdrawn: Vec<_> = self.parts.session.claiming().filter(|source| leaves(source)).cloned().collect();
        if !withdrawn.is_empty() {
            self.ask(Vec::new(), withdrawn);
        }
    }

    fn ask(&mut self, wanted: Vec<Wanted>, withdrawn: Vec<TopicPartition>) {
        let (owner, answers) = (Arc::clone(&self.parts.owner), self.parts.answers.clone());
        self.unsent_requests.push(ClaimRequest { wanted, withdrawn, owner, answers });
        self.send_requests();
    }

    /// Sends requests in order, as many as fit into the claim loop's channel. Doesn't wait for room there, because the claim loop
    /// may be waiting for room in our inbox.
    fn send_requests(&mut self) {
        let mut requests = std::mem::take(&mut self.unsent_requests).into_iter();
        while let Some(request) = requests.next() {
            match self.parts.claims.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => {
                    self.unsent_requests.push(request);
                    self.unsent_requests.extend(requests);
                    return;
                }
                // The claim loop has ended, so the pipeline is ending.
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }

    /// Waits until the writer has written the batch in flight and then the open batch, for at most `patience` in total. A flush
    /// for a revocation ends when the writer has to wait for Postgres, because nobody knows how long that takes.
    async fn flush(&mut self, trigger: Trigger, patience: Duration) {
        let mut deadline = now() + patience;
        loop {
            // If `stop` comes during the flush for a revocation, the time from then on counts as part of the drain.
            if self.parts.stop.is_cancelled() {
                let seen = *self.stop_seen.get_or_insert_with(now);
                deadline = deadline.min(seen + self.parts.drain_timeout);
            }
            if !self.parts.session.in_flight() {
                self.seal(trigger);
            }
            if !self.parts.session.in_flight() {
                return;
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || self.parts.outbox.is_closed() {
                return;
            }
            if trigger == Trigger::Revoke && self.parts.writer_waits.is_set() {
                return;
            }
            if let Ok(Some(message)) = timeout(left.min(IDLE_WAIT), self.parts.inbox.recv()).await {
                self.receive(message);
            }
        }
    }

    fn snapshot(&mut self, now: Instant) {
        let spent = std::mem::take(&mut self.spent);
        let consumed = std::mem::take(&mut self.consumed);
        let paused = if self.is_paused(now) { self.fetching.len() } else { 0 };
        let (session, waits_for_schema) = (&self.parts.session, self.wants_schema);
        self.on(&Event::Snapshot(&Snapshot { session, paused, waits_for_schema, consumed, spent, now }));
    }

    fn commit(&mut self) {
        let positions = self.parts.session.positions();
        let moved: Vec<_> = positions
            .filter(|(source, owned)| self.committed_to_kafka.get(source) != Some(&owned.committed))
            .map(|(source, owned)| (source.clone(), owned.committed))
            .collect();
        if !moved.is_empty() {
            self.client.commit(&moved);
            self.committed_to_kafka.extend(moved);
        }
    }

    async fn leave(mut self, drain: bool) -> PollLoop<G, E, L> {
        if drain {
            self.flush(Trigger::Shutdown, self.parts.drain_timeout).await;
            // If the writer has failed, it has reported why, and there is nothing to drain.
            if !self.parts.outbox.is_closed() {
                let session = &self.parts.session;
                let (open, in_flight) = (session.open_records(), session.records_in_flight());
                self.on(&Event::DrainEnded { open, in_flight });
            }
            self.commit();
        }
        self.snapshot(now());
        self.withdraw(|_| true);
        self.client.leave().await;
        self.parts
    }
}
