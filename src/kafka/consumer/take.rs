//! Taking records: a stretch from Kafka into the session, or holding while nothing may be taken.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message, OwnedMessage};
use tidegate_protocol::position::ClaimId;
use tidegate_protocol::session::{Delivery, Session};
use tidegate_rows::mapping::Encoder;
use tracing::{debug, warn};

use super::super::reader::{incoming, push_headers};
use super::{BUSY_POLL, Consumer, IDLE_POLL};
use crate::plan::{Planned, reject_of};
use crate::status::work::Hold;
use crate::writer::Stopped;

/// Records between two looks at anything else.
const STRETCH: u32 = 256;
/// How long a full batch waits for the writer before partitions are paused: pausing throws the prefetch away.
const HOLD_BEFORE_PAUSE: Duration = Duration::from_secs(1);

/// A record that waits for its schema. It is taken only under the claim under which it came: after another one Kafka delivers
/// it again.
pub(super) struct Waiting {
    message: OwnedMessage,
    claim: ClaimId,
}

impl Consumer {
    /// Whether nothing may be taken from Kafka now.
    pub(super) fn held(&mut self) -> bool {
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
    pub(super) fn hold(&mut self) -> Result<(), Stopped> {
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
    pub(super) fn take(&mut self) -> Result<(), Stopped> {
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
