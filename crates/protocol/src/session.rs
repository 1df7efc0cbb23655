//! The state of one consumer: its partitions, the open batch, and the batch that is being written. Pure.
//!
//! The poll thread owns it and feeds it calls: assigned, granted, delivered, acked, revoked. What follows for Kafka (claims to
//! ask for, offsets to fetch from, fetching to stop) collects in [`Actions`], which the poll thread carries out. Time is an
//! argument. Everything about a partition goes with its assignment; nothing is reset in place.

mod index;

use std::time::{Duration, Instant};

use self::index::Index;
use crate::batch::{Batch, BatchLimits, Incoming, Reject, Trigger, last_record};
use crate::flush_deadline::FlushDeadline;
use crate::partition::{Condition, Grant, Outcome, Owned, Partition, State, Then};
use crate::position::{Offset, TopicPartition};
use crate::record::{Headers, Record};
use crate::store::LedgerRow;

/// One consumer's partitions and batches.
#[derive(Debug)]
pub struct Session {
    limits: BatchLimits,
    claim_grace: Duration,
    partitions: Vec<Slot>,
    index: Index,
    open: Batch,
    in_flight: Option<InFlight>,
    flush_deadline: FlushDeadline,
    spare: Vec<Batch>,
    actions: Actions,
    questions: u64,
}

/// The batch that is at the writer.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    sealed_at: Instant,
    records: u32,
}

#[derive(Debug)]
struct Slot {
    partition: Partition,
    /// The partition's segment in the open batch.
    segment: Option<usize>,
}

/// The poll thread's duties for the session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Claims to ask for, each with the number that its reply must carry.
    pub claim: Vec<(TopicPartition, u64)>,
    /// Partitions to fetch, and from where.
    pub fetch: Vec<(TopicPartition, Offset)>,
    /// Partitions to stop fetching.
    pub stop: Vec<TopicPartition>,
    /// Conditions that came up.
    pub conditions: Vec<(TopicPartition, Condition)>,
}

impl Actions {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn forget(&mut self, source: &TopicPartition) {
        self.claim.retain(|(other, _)| other != source);
        self.fetch.retain(|(other, _)| other != source);
        self.stop.retain(|other| other != source);
        self.conditions.retain(|(other, _)| other != source);
    }
}

/// The result of a delivered record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It has rows in the open batch, or was skipped by rule.
    Accepted,
    /// It will be a dead letter.
    Rejected,
    /// It isn't ours to write: read to know the log again, or of a partition that isn't owned now.
    Ignored,
}

/// The writer's answer to a batch: the only backward edge.
#[derive(Debug)]
pub struct Ack {
    /// The outcome of each segment of the batch, in order; `None` for one that was dropped before it was written.
    pub outcomes: Vec<Option<Outcome>>,
    /// The batch, for its buffers.
    pub batch: Batch,
}

impl Session {
    /// A consumer that owns nothing yet. A fenced partition awaits its revoke for `claim_grace` before it is claimed again:
    /// longer than `lock_timeout`, so that a claim of the new owner that still waits for a lock isn't fenced in turn.
    pub fn new(limits: BatchLimits, claim_grace: Duration) -> Self {
        Self {
            limits,
            claim_grace,
            partitions: Vec::new(),
            index: Index::default(),
            open: Batch::new(),
            in_flight: None,
            flush_deadline: FlushDeadline::default(),
            spare: Vec::new(),
            actions: Actions::default(),
            questions: 0,
        }
    }

    /// The remains of a consumer that is rebuilt: it owns no partition, and a batch that is still at the writer is awaited.
    #[must_use]
    pub fn restart(self) -> Self {
        Self {
            in_flight: self.in_flight,
            flush_deadline: self.flush_deadline,
            spare: self.spare,
            questions: self.questions,
            ..Self::new(self.limits, self.claim_grace)
        }
    }

    /// Kafka gave us these: ask for their claims. Those that we have already stay as they are.
    pub fn assigned(&mut self, sources: impl IntoIterator<Item = TopicPartition>, now: Instant) {
        for source in sources {
            if self.index.of(&source).is_some() {
                continue;
            }
            let partition = Partition {
                source: source.clone(),
                state: State::Claiming { since: now },
                question: 0,
                progress_at: now,
            };
            self.index.insert(&source, self.partitions.len());
            self.partitions.push(Slot { partition, segment: None });
            self.ask(self.partitions.len() - 1, now);
        }
    }

    /// Kafka took these away. Their records leave the open batch; a batch in flight is fenced by the next owner's claim. What
    /// was still to be done for them is done no more: a claim would fence the next owner, a fetch would read on where nobody
    /// looks, and a condition would step over what the next assignment finds in order.
    pub fn revoked<'a>(&mut self, sources: impl IntoIterator<Item = &'a TopicPartition>) {
        for source in sources {
            let Some(slot) = self.index.remove(source) else { continue };
            self.actions.forget(source);
            self.leave_open_batch(slot);
            self.partitions.swap_remove(slot);
            if let Some(moved) = self.partitions.get(slot) {
                self.index.insert(&moved.partition.source, slot);
            }
        }
    }

    /// A claim was granted. A reply to an earlier question (the partition left and came back meanwhile) is not for us: its
    /// claim stands in the ledger, and the one that is still to come will take its place.
    pub fn granted(&mut self, source: &TopicPartition, question: u64, grant: &Grant, now: Instant) {
        let Some(partition) = self.awaited(source, question) else { return };
        partition.grant(grant, now);
        self.actions.fetch.push((source.clone(), grant.fetch));
    }

    /// A claim met a condition that the policy doesn't step over.
    pub fn refused(&mut self, source: &TopicPartition, question: u64, condition: Condition) {
        let Some(partition) = self.awaited(source, question) else { return };
        let Then::Nothing = partition.stop(condition.clone()) else {
            unreachable!("a claim is awaited before fetching")
        };
        self.actions.conditions.push((source.clone(), condition));
    }

    /// Takes a record of the partition in this slot, which [`Session::slot_of`] gave after the last revocation. `headers`
    /// appends them in the arena's form.
    pub fn deliver(
        &mut self,
        slot: usize,
        incoming: &Incoming<'_>,
        now: Instant,
        headers: impl FnOnce(&mut Vec<u8>),
        encode: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<u32, Reject>,
    ) -> Delivery {
        let Slot { partition, segment } = &mut self.partitions[slot];
        let State::Owned(owned) = &mut partition.state else { return Delivery::Ignored };
        if let Some(last) = owned.verify.take_if(|last| incoming.offset >= last.offset) {
            let record = Record {
                topic: &partition.source.topic,
                partition: partition.source.partition,
                offset: incoming.offset.get(),
                timestamp_ms: incoming.timestamp_ms,
                key: incoming.key,
                value: incoming.value,
                headers: Headers::default(),
            };
            // A later offset means that the record is gone (compacted away): then the log can't be known by it.
            if incoming.offset == last.offset && last_record(&record) != last {
                let condition = Condition::LogReplaced { last };
                self.stop(slot, condition);
                return Delivery::Ignored;
            }
        }
        if incoming.offset < owned.next {
            return Delivery::Ignored;
        }
        let claim = owned.claim;
        let segment =
            *segment.get_or_insert_with(|| self.open.open_segment(partition.source.clone(), claim, owned.next));
        owned.next = incoming.offset.successor();
        partition.progress_at = now;
        match self.open.push(segment, incoming, now, headers, encode) {
            true => Delivery::Accepted,
            false => Delivery::Rejected,
        }
    }

    /// Why the open batch must be closed now, if it must.
    pub fn due(&self, now: Instant) -> Option<Trigger> {
        let aged = |opened| now.duration_since(opened) >= self.close_at();
        self.full().or_else(|| self.open.opened_at().is_some_and(aged).then_some(Trigger::Age))
    }

    /// By which limit the open batch is full. Records that give no row (skipped, rejected) count too, at half: a batch of them
    /// ends all the same.
    #[inline]
    fn full(&self) -> Option<Trigger> {
        let max_rows = self.limits.max_rows.get();
        if self.open.row_count() >= max_rows || self.open.len() >= max_rows.saturating_mul(2) {
            Some(Trigger::Rows)
        } else if self.open.bytes() as u64 >= self.limits.max_bytes {
            Some(Trigger::Bytes)
        } else {
            None
        }
    }

    /// Whether the open batch is full, so that nothing more may be taken from Kafka.
    pub fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// How long until the open batch is due by age.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let opened = self.open.opened_at()?;
        Some((opened + self.close_at()).saturating_duration_since(now))
    }

    fn close_at(&self) -> Duration {
        self.flush_deadline.close_at(self.limits.max_age)
    }

    /// Whether a batch may be handed over: one is in flight at most.
    pub fn can_seal(&self) -> bool {
        !self.in_flight() && !self.open.is_empty()
    }

    /// Whether a batch is at the writer.
    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Closes the open batch and counts it as in flight. `None` where there is nothing to write.
    pub fn seal(&mut self, trigger: Trigger, now: Instant) -> Option<Batch> {
        if !self.can_seal() {
            return None;
        }
        let mut batch = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
        for slot in &mut self.partitions {
            slot.segment = None;
        }
        batch.seal(trigger);
        self.in_flight = Some(InFlight { sealed_at: now, records: batch.len() });
        Some(batch)
    }

    /// The writer answered.
    pub fn acked(&mut self, ack: Ack, now: Instant) {
        let Ack { outcomes, mut batch } = ack;
        if let Some(InFlight { sealed_at, .. }) = self.in_flight.take() {
            self.flush_deadline.took(now.saturating_duration_since(sealed_at), self.limits.max_age);
        }
        assert_eq!(outcomes.len(), batch.segments().len(), "one outcome per segment");
        for (segment, outcome) in batch.segments().iter().zip(outcomes) {
            let (Some(index), Some(outcome)) = (self.index.of(&segment.source), outcome) else { continue };
            let partition = &mut self.partitions[index].partition;
            // An ack of an earlier claim moves nothing.
            let State::Owned(owned) = &partition.state else { continue };
            if owned.claim != segment.claim {
                continue;
            }
            match outcome {
                Outcome::Committed(to) => partition.commit(segment.from, to, now),
                Outcome::Fenced => self.fence(index, now),
                Outcome::Rewound => self.ask(index, now),
            }
        }
        batch.clear(usize::try_from(self.limits.max_bytes).unwrap_or(usize::MAX));
        self.spare.push(batch);
    }

    /// Kafka's log was read up to here, and everything in it that is delivered at all has been delivered.
    pub fn read_to(&mut self, source: &TopicPartition, offset: Offset) {
        let Some(index) = self.index.of(source) else { return };
        if let State::Owned(owned) = &mut self.partitions[index].partition.state {
            owned.read_to = owned.read_to.max(offset);
        }
    }

    /// Compares a ledger row that was read after `asked_at` with our state, and returns what changed, if anything did. A write
    /// finds out by itself when the database was restored or another claim took over; a partition that waits for its next
    /// record would not, and what the database lost of it would stay lost for as long.
    pub fn ledger_seen(
        &mut self,
        source: &TopicPartition,
        row: LedgerRow,
        asked_at: Instant,
        now: Instant,
    ) -> Option<Outcome> {
        let index = self.index.of(source)?;
        let outcome = self.partitions[index].partition.judge(row, asked_at)?;
        match outcome {
            Outcome::Fenced => self.fence(index, now),
            Outcome::Rewound | Outcome::Committed(_) => self.ask(index, now),
        }
        Some(outcome)
    }

    /// Kafka says that some position is out of range, without saying whose: claim all again, which compares each with the log.
    pub fn claim_all_again(&mut self, now: Instant) {
        for index in 0..self.partitions.len() {
            if matches!(self.partitions[index].partition.state, State::Owned(_)) {
                self.ask(index, now);
            }
        }
    }

    /// Claims one again, to step over the condition that it met.
    pub fn claim_again(&mut self, source: &TopicPartition, now: Instant) {
        if let Some(index) = self.index.of(source) {
            self.ask(index, now);
        }
    }

    /// Claims again what has been fenced for so long that Kafka must mean it.
    pub fn tick(&mut self, now: Instant) {
        for index in 0..self.partitions.len() {
            if let State::Fenced { since, .. } = self.partitions[index].partition.state
                && now.duration_since(since) >= self.claim_grace
            {
                self.ask(index, now);
            }
        }
    }

    /// Returns each pending duty once.
    pub fn take_actions(&mut self) -> Actions {
        std::mem::take(&mut self.actions)
    }

    /// All partitions that Kafka says are ours.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().map(|slot| &slot.partition)
    }

    /// Where each owned partition would go on: what all batches so far end at.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, &Owned)> {
        self.partitions().filter_map(|partition| match &partition.state {
            State::Owned(owned) => Some((&partition.source, owned)),
            _ => None,
        })
    }

    /// Partitions whose claim is asked for and not answered.
    pub fn claiming(&self) -> impl Iterator<Item = &TopicPartition> {
        let claiming = |partition: &&Partition| matches!(partition.state, State::Claiming { .. });
        self.partitions().filter(claiming).map(|partition| &partition.source)
    }

    /// Whether a record at this offset would join the batch: its partition is owned, and it wasn't delivered before.
    pub fn takes(&self, slot: usize, offset: Offset) -> bool {
        matches!(&self.partitions[slot].partition.state, State::Owned(owned) if offset >= owned.next)
    }

    /// The slot of a partition that is ours. It is valid until the next call of [`Session::revoked`].
    #[inline]
    pub fn slot_of(&self, topic: &str, partition: i32) -> Option<usize> {
        self.index.get(topic, partition)
    }

    /// Rows in the open batch.
    pub fn open_rows(&self) -> u32 {
        self.open.row_count()
    }

    /// Bytes held by the open batch.
    pub fn open_bytes(&self) -> usize {
        self.open.bytes()
    }

    /// Records in the open batch.
    pub fn open_records(&self) -> u32 {
        self.open.len()
    }

    /// Records of the batch that is at the writer; 0 without one.
    pub fn records_in_flight(&self) -> u32 {
        self.in_flight.map_or(0, |batch| batch.records)
    }

    fn awaited(&mut self, source: &TopicPartition, question: u64) -> Option<&mut Partition> {
        let partition = &mut self.partitions[self.index.of(source)?].partition;
        partition.awaits(question).then_some(partition)
    }

    fn ask(&mut self, index: usize, now: Instant) {
        self.questions += 1;
        let then = self.partitions[index].partition.ask(self.questions, now);
        self.follow(index, then);
        self.actions.claim.push((self.partitions[index].partition.source.clone(), self.questions));
    }

    fn fence(&mut self, index: usize, now: Instant) {
        let then = self.partitions[index].partition.fence(now);
        self.follow(index, then);
    }

    fn stop(&mut self, index: usize, condition: Condition) {
        let then = self.partitions[index].partition.stop(condition.clone());
        self.follow(index, then);
        self.actions.conditions.push((self.partitions[index].partition.source.clone(), condition));
    }

    fn follow(&mut self, index: usize, then: Then) {
        if then == Then::StopFetching {
            self.leave_open_batch(index);
            self.actions.stop.push(self.partitions[index].partition.source.clone());
        }
    }

    fn leave_open_batch(&mut self, index: usize) {
        if let Some(segment) = self.partitions[index].segment.take() {
            self.open.drop_segment(segment);
        }
    }
}

#[cfg(test)]
mod tests;
