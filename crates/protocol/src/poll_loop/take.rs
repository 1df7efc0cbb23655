//! Takes records from Kafka into the session, or waits while none may be taken.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{IDLE_WAIT, LedgerReadings, Member, PollLoop, RecordEncoder};
use crate::batch::Incoming;
use crate::event::{Event, Hold};
use crate::group::{Group, GroupClient, Visit, Visitor};
use crate::now;
use crate::record::Headers;
use crate::session::{Delivery, Session};
use crate::stopped::Stopped;

/// If a [`Hold`] lasts this long, the consumer reports its partitions as paused.
const PAUSED_AFTER: Duration = Duration::from_secs(1);
/// The time between two checks whether a requested schema has arrived.
const SCHEMA_WAIT: Duration = Duration::from_millis(5);

impl<G: Group, E: RecordEncoder, L: LedgerReadings> Member<G, E, L> {
    /// Takes the records that have arrived. If none has arrived, or none may be taken, waits for at most [`IDLE_WAIT`].
    pub(super) async fn take(&mut self) -> Result<(), Stopped> {
        let started = now();
        if let Some(hold) = self.hold(started) {
            self.held(hold, started).await;
            return Ok(());
        }
        let offered = self.take_bulk(started)?;
        if self.wants_schema {
            self.held(Hold::Schema, started).await;
            return Ok(());
        }
        self.held_since = None;
        self.on(&Event::Held(None));
        if offered {
            self.spent.work += now() - started;
        } else if self.rebuild.is_none() {
            self.await_records(started).await;
            self.spent.poll += now() - started;
        }
        Ok(())
    }

    /// Returns why no records may be taken from Kafka now; `None` if they may be taken. Requests a new allowance from the rate
    /// limit if the last one is used up.
    fn hold(&mut self, now: Instant) -> Option<Hold> {
        if self.parts.session.is_full() {
            return Some(Hold::Full);
        }
        if self.allowance == 0 {
            self.allowance = self.parts.rate_limit.take(now);
        }
        (self.allowance == 0).then_some(Hold::Flow)
    }

    /// Waits because of `hold`: for a short time, or until a message or `stop` arrives. The caller then checks again whether
    /// records may be taken.
    async fn held(&mut self, hold: Hold, started: Instant) {
        self.held_since.get_or_insert(started);
        self.on(&Event::Held(Some(hold)));
        let wait = match hold {
            Hold::Full => IDLE_WAIT,
            Hold::Flow => self.parts.rate_limit.opens_in(started).min(IDLE_WAIT),
            Hold::Schema => SCHEMA_WAIT,
        };
        let message = tokio::select! {
            message = self.parts.inbox.recv() => message,
            () = sleep(wait) => None,
            () = self.parts.stop.cancelled() => None,
        };
        if let Some(message) = message {
            self.receive(message);
        }
        let held = now() - started;
        self.spent.held += held;
        if hold != Hold::Full {
            self.spent.flow += held;
        }
    }

    /// Waits until a record, an event, a message or `stop` arrives, or until the open batch must be handed over. Waits at most
    /// [`IDLE_WAIT`].
    async fn await_records(&mut self, started: Instant) {
        let wait = match self.parts.session.due_in(started) {
            Some(due) if !self.parts.session.in_flight() => IDLE_WAIT.min(due),
            _ => IDLE_WAIT,
        };
        let message = tokio::select! {
            biased;
            message = self.parts.inbox.recv() => message,
            () = self.parts.stop.cancelled() => None,
            () = self.client.ready(wait) => None,
        };
        if let Some(message) = message {
            self.receive(message);
        }
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.held_since.is_some_and(|since| now.saturating_duration_since(since) >= PAUSED_AFTER)
    }

    /// Takes the records that have arrived. Returns whether the client offered a record.
    fn take_bulk(&mut self, now: Instant) -> Result<bool, Stopped> {
        let PollLoop { session, encoder, .. } = &mut self.parts;
        let mut taker = Taker {
            session,
            reads_headers: encoder.reads_headers(),
            encoder,
            now,
            allowance: self.allowance,
            consumed: 0,
            slot: None,
            wants_schema: false,
            headers: &mut self.headers,
        };
        let read = self.client.read(&mut taker);
        let Taker { allowance, consumed, wants_schema, .. } = taker;
        self.allowance = allowance;
        self.consumed += consumed;
        self.wants_schema = wants_schema;
        match read {
            Ok(offered) => Ok(offered),
            Err(error) => {
                self.failed(error)?;
                Ok(false)
            }
        }
    }
}

/// The visitor that adds the records of one read to the session.
struct Taker<'a, E> {
    session: &'a mut Session,
    encoder: &'a mut E,
    now: Instant,
    allowance: u64,
    consumed: u64,
    slot: Option<usize>,
    wants_schema: bool,
    reads_headers: bool,
    headers: &'a mut Vec<u8>,
}

impl<E: RecordEncoder> Visitor for Taker<'_, E> {
    fn partition(&mut self, topic: &str, partition: i32) {
        self.slot = self.session.slot_of(topic, partition);
    }

    #[inline]
    fn record(&mut self, record: &Incoming<'_>, headers: impl FnOnce(&mut Vec<u8>)) -> Visit {
        // Skip records of a partition that isn't assigned to us.
        let Some(slot) = self.slot else { return Visit::Taken };
        if self.allowance == 0 || self.session.is_full() {
            return Visit::NotNow;
        }
        let mut headers = Some(headers);
        let read = &mut *self.headers;
        if self.reads_headers
            && let Some(headers) = headers.take()
        {
            read.clear();
            headers(read);
        }
        let of_record = if self.reads_headers { Headers::from_arena(read) } else { Headers::default() };
        // A record that won't be written, for example because it was delivered before, doesn't wait for its schema.
        if self.encoder.wants(record.key, record.value, of_record) && self.session.takes(slot, record.offset) {
            self.wants_schema = true;
            return Visit::NotNow;
        }
        let rows = self.session.open_rows();
        let encoder = &mut *self.encoder;
        let headers = |arena: &mut Vec<u8>| match headers {
            Some(headers) => headers(arena),
            None => arena.extend_from_slice(read),
        };
        let encode = |record: &crate::record::Record<'_>, rows: &mut Vec<u8>| encoder.encode(record, rows);
        if self.session.deliver(slot, record, self.now, headers, encode) != Delivery::Ignored {
            self.consumed += 1;
            // A record without rows counts as one row.
            let rows = u64::from(self.session.open_rows().saturating_sub(rows)).max(1);
            self.allowance = self.allowance.saturating_sub(rows);
        }
        Visit::Taken
    }
}
