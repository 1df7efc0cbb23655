//! The state of one consumer: its partitions, the open batch, and the batch that is being written. No I/O.
//!
//! The poll thread owns the session, and calls it at each event: assigned, granted, delivered, acked, revoked. The
//! resulting actions (claims to request, offsets to fetch from, fetching to stop) collect in [`Actions`], which the
//! poll thread performs. Time is an argument. When a partition is revoked, its state is dropped, so a new assignment
//! starts without it.

mod index;

use std::time::{Duration, Instant};

use self::index::Index;
use crate::batch::{Batch, BatchLimits, Incoming, RejectedRecord, Trigger, last_record};
use crate::flush_deadline::FlushDeadline;
use crate::partition::{FollowUp, Grant, LossCondition, Outcome, Owned, Partition, State};
use crate::position::{Offset, TopicPartition};
use crate::record::{Headers, Record};
use crate::store::LedgerRow;

/// One consumer's partitions and batches: the open batch, to which records are added, and the batch in flight, which
/// the writer has. `spare` has empty batches, whose buffers are reused.
#[derive(Debug)]
pub struct Session {
    limits: BatchLimits,
    claim_grace: Duration,
    partitions: Vec<PartitionEntry>,
    index: Index,
    open: Batch,
    in_flight: Option<InFlight>,
    flush_deadline: FlushDeadline,
    spare: Vec<Batch>,
    actions: Actions,
    last_request: u64,
}

/// The batch that was handed to the writer and not acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    sealed_at: Instant,
    records: u32,
}

#[derive(Debug)]
struct PartitionEntry {
    partition: Partition,
    /// The index of the partition's segment in the open batch; `None` if the partition has no segment there.
    segment: Option<usize>,
}

/// The actions that the poll thread must perform. `claim` has the partitions to claim, each with the request id that the answer
/// must repeat. `fetch` has the partitions to fetch, each with its first offset. `stop` has the partitions to stop fetching.
/// `conditions` has the log-loss conditions that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Actions {
    pub claim: Vec<(TopicPartition, u64)>,
    pub fetch: Vec<(TopicPartition, Offset)>,
    pub stop: Vec<TopicPartition>,
    pub conditions: Vec<(TopicPartition, LossCondition)>,
}

impl Actions {
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
    /// The record has rows in the open batch, or was skipped by a rule such as the row filter.
    Accepted,
    /// The record can't become rows with the current plan.
    Rejected,
    /// The record must not be written: it was delivered before, or read only to identify the log, or its partition
    /// isn't owned now.
    Ignored,
}

/// The writer's answer to a batch. It hands the batch back, so that the session can reuse its buffers.
#[derive(Debug)]
pub struct Ack {
    /// The outcome of each segment of the batch, in order; `None` for a segment that was dropped before it was written.
    pub outcomes: Vec<Option<Outcome>>,
    pub batch: Batch,
}

impl Session {
    /// Makes the session of a consumer that has no partitions. A fenced partition is claimed again if it isn't revoked within
    /// `claim_grace`. The configuration requires a `claim_grace` that is longer than `postgres.lock_timeout`.
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
            last_request: 0,
        }
    }

    /// Resets the session of a consumer that is rebuilt: it has no partitions, but still waits for the batch that the
    /// writer has, if any.
    #[must_use]
    pub fn restart(self) -> Self {
        Self {
            in_flight: self.in_flight,
            flush_deadline: self.flush_deadline,
            spare: self.spare,
            last_request: self.last_request,
            ..Self::new(self.limits, self.claim_grace)
        }
    }

    /// Adds partitions that Kafka assigned, and requests their claims. Partitions that were assigned before are unchanged.
    pub fn assigned(&mut self, sources: impl IntoIterator<Item = TopicPartition>, now: Instant) {
        for source in sources {
            if self.index.of(&source).is_some() {
                continue;
            }
            let partition = Partition {
                source: source.clone(),
                state: State::Claiming { since: now },
                request_id: 0,
                progress_at: now,
            };
            self.index.insert(&source, self.partitions.len());
            self.partitions.push(PartitionEntry { partition, segment: None });
            self.ask(self.partitions.len() - 1, now);
        }
    }

    /// Removes partitions that Kafka revoked, with their records in the open batch. Records in the batch in flight are fenced by
    /// the next owner's claim if they aren't committed before it. Drops the partitions' pending actions too: for example, a
    /// pending claim would fence the next owner.
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

    /// Handles a granted claim. Ignores the answer to an earlier request, for example one from before a revocation: the claim of
    /// the pending request will replace the granted one.
    pub fn granted(&mut self, source: &TopicPartition, request_id: u64, grant: &Grant, now: Instant) {
        let Some(partition) = self.awaited(source, request_id) else { return };
        partition.grant(grant, now);
        self.actions.fetch.push((source.clone(), grant.fetch));
    }

    /// Handles a refused claim: it met a log-loss condition, and the policy doesn't skip the condition. Stops the partition.
    pub fn refused(&mut self, source: &TopicPartition, request_id: u64, condition: LossCondition) {
        let Some(partition) = self.awaited(source, request_id) else { return };
        let FollowUp::Nothing = partition.stop(condition.clone()) else {
            unreachable!("a claim is awaited before fetching")
        };
        self.actions.conditions.push((source.clone(), condition));
    }

    /// Handles a record of the partition in `slot`. The slot must come from [`Session::slot_of`], called after the last
    /// revocation. `headers` appends the record's headers to a buffer of the batch, in the form of [`Headers`].
    pub fn deliver(
        &mut self,
        slot: usize,
        incoming: &Incoming<'_>,
        now: Instant,
        headers: impl FnOnce(&mut Vec<u8>),
        encode: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<u32, RejectedRecord>,
    ) -> Delivery {
        let PartitionEntry { partition, segment } = &mut self.partitions[slot];
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
            // If Kafka delivers a record with a later offset instead, the last committed record was compacted away and can't
            // identify the log.
            if incoming.offset == last.offset && last_record(&record) != last {
                let condition = LossCondition::LogReplaced { last };
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

    /// Returns why the open batch must be closed now; `None` if it may stay open.
    pub fn due(&self, now: Instant) -> Option<Trigger> {
        let aged = |opened| now.duration_since(opened) >= self.close_at();
        self.full().or_else(|| self.open.opened_at().is_some_and(aged).then_some(Trigger::Age))
    }

    /// Returns the limit that the open batch has reached, if any. Twice `max_rows` records are also a limit, so that a batch of
    /// records without rows (skipped or rejected) ends too.
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

    /// Returns whether the open batch is full, so that no more records may be taken from Kafka.
    pub fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// Returns how long until the open batch reaches its deadline; `None` if it is empty.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let opened = self.open.opened_at()?;
        Some((opened + self.close_at()).saturating_duration_since(now))
    }

    fn close_at(&self) -> Duration {
        self.flush_deadline.close_at(self.limits.max_age)
    }

    /// Returns whether the open batch may be handed to the writer: it isn't empty, and no other batch is in flight.
    pub fn can_seal(&self) -> bool {
        !self.in_flight() && !self.open.is_empty()
    }

    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Closes the open batch, counts it as in flight, and returns it. Returns `None` if [`Self::can_seal`] is false.
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

    /// Handles the writer's answer: applies each segment's outcome to its partition, and keeps the batch for reuse.
    pub fn acked(&mut self, ack: Ack, now: Instant) {
        let Ack { outcomes, mut batch } = ack;
        if let Some(InFlight { sealed_at, .. }) = self.in_flight.take() {
            self.flush_deadline.took(now.saturating_duration_since(sealed_at), self.limits.max_age);
        }
        assert_eq!(outcomes.len(), batch.segments().len(), "one outcome per segment");
        for (segment, outcome) in batch.segments().iter().zip(outcomes) {
            let (Some(index), Some(outcome)) = (self.index.of(&segment.source), outcome) else { continue };
            let partition = &mut self.partitions[index].partition;
            // An answer for an earlier claim changes nothing.
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

    /// Notes that Kafka's log was read up to this offset, and that every record before it was delivered.
    pub fn read_to(&mut self, source: &TopicPartition, offset: Offset) {
        let Some(index) = self.index.of(source) else { return };
        if let State::Owned(owned) = &mut self.partitions[index].partition.state {
            owned.read_to = owned.read_to.max(offset);
        }
    }

    /// Compares a partition's state with a ledger row that was requested at `requested_at`. Returns what changed, if anything. A
    /// write would notice a later claim or a restored database too. But a partition without new records has no writes, so rows
    /// that a restore removed would stay lost until its next record.
    pub fn ledger_seen(
        &mut self,
        source: &TopicPartition,
        row: LedgerRow,
        requested_at: Instant,
        now: Instant,
    ) -> Option<Outcome> {
        let index = self.index.of(source)?;
        let outcome = self.partitions[index].partition.compare_with_ledger(row, requested_at)?;
        match outcome {
            Outcome::Fenced => self.fence(index, now),
            Outcome::Rewound | Outcome::Committed(_) => self.ask(index, now),
        }
        Some(outcome)
    }

    /// Claims all owned partitions again. Each new claim compares the ledger with the partition's log. Called if something is
    /// wrong with the log of one partition, and it isn't known which one.
    pub fn claim_all_again(&mut self, now: Instant) {
        for index in 0..self.partitions.len() {
            if matches!(self.partitions[index].partition.state, State::Owned(_)) {
                self.ask(index, now);
            }
        }
    }

    /// Claims a partition again. The caller makes the new claim skip the log-loss condition that stopped the partition.
    pub fn claim_again(&mut self, source: &TopicPartition, now: Instant) {
        if let Some(index) = self.index.of(source) {
            self.ask(index, now);
        }
    }

    /// Claims fenced partitions again after the claim grace. As no revocation came in this time, the group really assigns them to
    /// this consumer.
    pub fn tick(&mut self, now: Instant) {
        for index in 0..self.partitions.len() {
            if let State::Fenced { since, .. } = self.partitions[index].partition.state
                && now.duration_since(since) >= self.claim_grace
            {
                self.ask(index, now);
            }
        }
    }

    pub fn take_actions(&mut self) -> Actions {
        std::mem::take(&mut self.actions)
    }

    /// Returns all partitions that Kafka has assigned to this consumer, whether they are claimed or not.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().map(|slot| &slot.partition)
    }

    /// Returns the owned partitions, each with its claim and offsets.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, &Owned)> {
        self.partitions().filter_map(|partition| match &partition.state {
            State::Owned(owned) => Some((&partition.source, owned)),
            _ => None,
        })
    }

    /// Returns the partitions whose claim is requested and not answered.
    pub fn claiming(&self) -> impl Iterator<Item = &TopicPartition> {
        let claiming = |partition: &&Partition| matches!(partition.state, State::Claiming { .. });
        self.partitions().filter(claiming).map(|partition| &partition.source)
    }

    /// Returns whether a record at this offset would be added to the batch: its partition is owned, and the record wasn't
    /// delivered before.
    pub fn takes(&self, slot: usize, offset: Offset) -> bool {
        matches!(&self.partitions[slot].partition.state, State::Owned(owned) if offset >= owned.next)
    }

    /// Returns the slot (the index in the session) of an assigned partition. The slot is valid until the next call of
    /// [`Session::revoked`].
    #[inline]
    pub fn slot_of(&self, topic: &str, partition: i32) -> Option<usize> {
        self.index.get(topic, partition)
    }

    pub fn open_rows(&self) -> u32 {
        self.open.row_count()
    }

    pub fn open_bytes(&self) -> usize {
        self.open.bytes()
    }

    pub fn open_records(&self) -> u32 {
        self.open.len()
    }

    /// Returns the number of records of the batch in flight; 0 if there is none.
    pub fn records_in_flight(&self) -> u32 {
        self.in_flight.map_or(0, |batch| batch.records)
    }

    fn awaited(&mut self, source: &TopicPartition, request_id: u64) -> Option<&mut Partition> {
        let partition = &mut self.partitions[self.index.of(source)?].partition;
        partition.is_current_request(request_id).then_some(partition)
    }

    fn ask(&mut self, index: usize, now: Instant) {
        self.last_request += 1;
        let then = self.partitions[index].partition.ask(self.last_request, now);
        self.follow(index, then);
        self.actions.claim.push((self.partitions[index].partition.source.clone(), self.last_request));
    }

    fn fence(&mut self, index: usize, now: Instant) {
        let then = self.partitions[index].partition.fence(now);
        self.follow(index, then);
    }

    fn stop(&mut self, index: usize, condition: LossCondition) {
        let then = self.partitions[index].partition.stop(condition.clone());
        self.follow(index, then);
        self.actions.conditions.push((self.partitions[index].partition.source.clone(), condition));
    }

    fn follow(&mut self, index: usize, then: FollowUp) {
        if then == FollowUp::StopFetching {
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
