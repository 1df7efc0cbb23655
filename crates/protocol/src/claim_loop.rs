//! The claim loop: claims the partitions that Kafka assigned to a pipeline's consumers, and tells each consumer at which offset
//! to start fetching.
//!
//! The loop has its own connection, so that a claim doesn't wait for a COPY. It skips ledger rows that others have locked, and
//! tries to claim them again later. So one lock doesn't delay the other claims. If a row stays locked, a second connection waits
//! for the lock and finds out which session holds it. The second connection makes no claim: the partition may move to another
//! member during the wait, and a claim made after that would fence this member.
//!
//! A request is tried again until it is granted, refused, withdrawn, or replaced by a later request for the same partition. A
//! consumer recognizes a late answer by its request id.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::batch::LastRecord;
use crate::event::{ClaimsWaitOn, Event, Listener};
use crate::now;
use crate::partition::{Grant, LossCondition, resolve_start};
use crate::poll_loop::Message;
use crate::position::{Claim, Offset, TopicPartition};
use crate::retry::{Backoff, Disposition};
use crate::stopped::Stopped;
use crate::store::WriteError;

/// The age of a request from which on a second connection waits for the row's lock. The claim is retried before and during this
/// wait.
const SKIP_LOCKED_FOR: Duration = Duration::from_millis(500);
/// The time between two attempts to claim locked rows.
const LOCKED_RETRY: Duration = Duration::from_millis(50);
/// The time between two such attempts while the second connection waits. When its wait ends, the next attempt follows at once.
const OVERDUE_RETRY: Duration = Duration::from_millis(250);

/// The policy for a log-loss condition, from `on_offset_loss`. With `Fail`, the pipeline stops, and its error names
/// the condition. Otherwise the partition continues at the oldest record that Kafka has (`Earliest`) or at the end
/// of the log (`Latest`), and the records that are known to be lost are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetLossPolicy {
    #[default]
    Fail,
    Earliest,
    Latest,
}

impl OffsetLossPolicy {
    fn continue_at(self, low: Offset, high: Offset) -> Option<Offset> {
        match self {
            Self::Fail => None,
            Self::Earliest => Some(low),
            Self::Latest => Some(high),
        }
    }
}

/// A consumer's request to the claim loop. `owner` is the name of the consumer: the ledger shows it, and the claim
/// loop finds the consumer's earlier requests by it. The answers are sent to `answers`.
#[derive(Debug)]
pub struct ClaimRequest {
    pub wanted: Vec<Wanted>,
    /// Partitions that this owner requested before and no longer wants. Their pending requests are cancelled.
    pub withdrawn: Vec<TopicPartition>,
    pub owner: Arc<str>,
    pub answers: Sender<Message>,
}

/// A partition to claim. The answer repeats the request id `request`.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: TopicPartition,
    pub request: u64,
    /// A log-loss condition that was found under an earlier claim, and that the policy skips. The new claim skips it if
    /// [`LossCondition::still_met`] returns true.
    pub skip_condition: Option<LossCondition>,
}

/// The answer to a request for one partition: the grant, or the log-loss condition that prevents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimAnswer {
    pub source: TopicPartition,
    pub request: u64,
    pub answer: Result<Grant, LossCondition>,
}

/// A granted claim, with the ledger row that it read. `next` is the offset of the next record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub source: TopicPartition,
    pub claim: Claim,
    pub next: Offset,
    /// The last committed record; `None` if the row names none, for example before the first commit.
    pub last: Option<LastRecord>,
}

/// Reads and changes ledger rows for the claim loop, over one connection that is opened when needed.
///
/// Only [`ClaimLedger::wait_at_lock`] is cancel safe. A dropped future of another method leaves replies unread, so the
/// caller must disconnect before the next call. If the reply to a claim was lost, the claim may be in the ledger; the
/// next claim replaces it.
pub trait ClaimLedger: Send {
    fn is_connected(&self) -> bool;
    fn disconnect(&mut self);
    /// Returns those of `sources` that have no row in the ledger.
    fn without_row(
        &mut self,
        sources: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<TopicPartition>, WriteError>> + Send;
    /// Adds ledger rows with these offsets for partitions that are new to the pipeline. Adds none for partitions that had a row
    /// which is now missing; returns these partitions.
    fn extend(
        &mut self,
        starts: &[(TopicPartition, Offset)],
    ) -> impl Future<Output = Result<Vec<TopicPartition>, WriteError>> + Send;
    /// Adds ledger rows with these offsets for partitions whose ledger rows are lost.
    fn insert_lost_rows(
        &mut self,
        places: &[(TopicPartition, Offset)],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Claims each partition whose row exists and isn't locked; each claim is atomic. The result lacks the partitions that were
    /// not claimed.
    fn claim(
        &mut self,
        owner: &str,
        sources: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Claimed>, WriteError>> + Send;
    /// Sets a claimed row to `to` under a new claim, and clears the last record. Returns the new claim; `None` if the row has
    /// another claim or offset than `claimed`.
    ///
    /// If the database is later restored to a state before this step, the row has the old claim, which reveals the restore. The
    /// offset may not reveal it, because a new log may have records at the old offset too.
    fn skip_condition(
        &mut self,
        claimed: &Claimed,
        to: Offset,
    ) -> impl Future<Output = Result<Option<Claim>, WriteError>> + Send;
    /// Waits on a separate connection until nobody holds the lock on a partition's row, for a limited time. Terminates idle
    /// sessions of this pipeline that hold the lock, and reports other holders. Makes no claim. `waits` is
    /// the number of this call, counted from 1 since there was last no pending request. It serves to log only some of the calls.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    fn wait_at_lock(&self, source: TopicPartition, waits: u32) -> impl Future<Output = ()> + Send + 'static;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The offset of the oldest record that Kafka still has.
    Low,
    /// The offset after the newest record.
    High,
}

pub type Ends = HashMap<TopicPartition, Offset>;

/// Asks Kafka where its logs begin and end.
pub trait LogEnds: Send + Sync {
    /// Returns one end of each partition's log. Partitions for which Kafka doesn't answer are missing from the result.
    fn ends(&self, sources: &[TopicPartition], end: End) -> impl Future<Output = Result<Ends, LogEndsError>> + Send;
}

#[derive(Debug, thiserror::Error)]
#[error("can't read from Kafka where its logs begin and end: {0}")]
pub struct LogEndsError(#[source] pub Box<dyn Error + Send + Sync>);

struct Pending {
    wanted: Wanted,
    owner: Arc<str>,
    answers: Sender<Message>,
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Postgres(#[from] WriteError),
    #[error(transparent)]
    Kafka(#[from] LogEndsError),
    #[error("can't read from Kafka where the logs of some new partitions begin")]
    NoBeginning,
}

/// The claim loop of one pipeline.
#[expect(missing_debug_implementations, reason = "the parts that are passed in need none")]
pub struct ClaimLoop<C, K> {
    ledger: C,
    log_ends: K,
    policy: OffsetLossPolicy,
    random: Rng,
    listener: Arc<dyn Listener>,
    pending: Vec<Pending>,
    /// The answers of this round, by the channel to which they are sent when the round ends.
    answered: Vec<(Sender<Message>, Vec<ClaimAnswer>)>,
}

impl<C: ClaimLedger, K: LogEnds> ClaimLoop<C, K> {
    pub fn new(ledger: C, log_ends: K, policy: OffsetLossPolicy, random: Rng, listener: Arc<dyn Listener>) -> Self {
        Self { ledger, log_ends, policy, random, listener, pending: Vec::new(), answered: Vec::new() }
    }

    /// Handles requests until all senders of requests are gone.
    ///
    /// # Errors
    /// [`Stopped`] if Postgres refuses a statement for a reason that waiting doesn't resolve.
    ///
    /// # Cancel safety
    /// May be dropped at any point. If a claim is in the ledger and was not answered, the partition's next claim
    /// replaces it.
    pub async fn run(mut self, mut requests: Receiver<ClaimRequest>) -> Result<(), Stopped> {
        let mut backoff = Backoff::new();
        let mut lock_wait = JoinSet::new();
        let mut lock_waits = 0_u32;
        loop {
            if self.pending.is_empty() {
                lock_waits = 0;
                let Some(request) = requests.recv().await else { return Ok(()) };
                self.enqueue(request);
            }
            while let Ok(request) = requests.try_recv() {
                self.enqueue(request);
            }
            if self.pending.is_empty() {
                continue;
            }
            let was_connected = self.ledger.is_connected();
            let round = self.round().await;
            // Send the answers after a failed round too: the claims that the round granted before it failed are in the ledger.
            for (answers, answered) in std::mem::take(&mut self.answered) {
                // A consumer that has ended needs no answer. The next owner's claim replaces the claim that was
                // made for this consumer.
                let _gone = answers.send(Message::Claims(answered)).await.is_err();
            }
            let pause = match round {
                Ok(()) => {
                    backoff.reset();
                    if lock_wait.is_empty() { LOCKED_RETRY } else { OVERDUE_RETRY }
                }
                Err(RoundError::Postgres(error)) if error.disposition() == Disposition::Stop => {
                    return Err(Stopped::Refused(error.into()));
                }
                Err(error) => {
                    self.ledger.disconnect();
                    // The connection was opened before this round, so it may have broken long ago, and the server may already
                    // be back. Retry at once.
                    if was_connected && matches!(error, RoundError::Postgres(_)) {
                        continue;
                    }
                    let pause = backoff.next(self.random.f64());
                    let (partitions, attempt) = (self.pending.len(), backoff.attempts());
                    let on = match &error {
                        RoundError::Postgres(_) => ClaimsWaitOn::Postgres,
                        RoundError::Kafka(_) | RoundError::NoBeginning => ClaimsWaitOn::Kafka,
                    };
                    self.listener.on(&Event::ClaimsWait { on, error: &error, partitions, attempt });
                    pause
                }
            };
            if self.pending.is_empty() {
                continue;
            }
            let overdue = self.pending.iter().find(|p| now().saturating_duration_since(p.since) > SKIP_LOCKED_FOR);
            // After a failed round the connection is closed, and locks are not the reason for the wait.
            if let (Some(p), true, true) = (overdue, lock_wait.is_empty(), self.ledger.is_connected()) {
                lock_waits += 1;
                lock_wait.spawn(self.ledger.wait_at_lock(p.wanted.source.clone(), lock_waits));
            }
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(request) => self.enqueue(request),
                    None => return Ok(()),
                },
                _ = lock_wait.join_next(), if !lock_wait.is_empty() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Removes the pending requests that `request` withdraws, and enqueues the new ones. A new request for a partition replaces
    /// the pending request, even one that another consumer made.
    fn enqueue(&mut self, request: ClaimRequest) {
        // Compare the owner too: the partition may since have been assigned to another consumer of this process, which has
        // requested it.
        self.pending.retain(|p| p.owner != request.owner || !request.withdrawn.contains(&p.wanted.source));
        for wanted in request.wanted {
            self.pending.retain(|p| p.wanted.source != wanted.source);
            self.pending.push(Pending {
                wanted,
                owner: Arc::clone(&request.owner),
                answers: request.answers.clone(),
                since: now(),
            });
        }
    }

    /// Tries to grant all pending requests. Removes the requests that are answered.
    async fn round(&mut self) -> Result<(), RoundError> {
        let sources: Vec<TopicPartition> = self.pending.iter().map(|p| p.wanted.source.clone()).collect();
        let missing = self.ledger.without_row(&sources).await?;
        if !missing.is_empty() {
            self.add_rows(&missing).await?;
        }
        // Use a fixed order, so that a simulation is reproducible.
        let mut owners: Vec<(Arc<str>, Vec<TopicPartition>)> = Vec::new();
        for p in &self.pending {
            let source = p.wanted.source.clone();
            match owners.iter_mut().find(|(owner, _)| *owner == p.owner) {
                Some((_, sources)) => sources.push(source),
                None => owners.push((Arc::clone(&p.owner), vec![source])),
            }
        }
        for (owner, sources) in owners {
            let claimed = self.ledger.claim(&owner, &sources).await?;
            self.answer(claimed).await?;
        }
        Ok(())
    }

    /// Adds ledger rows for the partitions `missing`, which have none. A new partition begins at its oldest record: beginning at
    /// the end of the log would lose the records that were produced before we noticed the partition. A partition that had a row
    /// before meets the condition [`LossCondition::LedgerLost`].
    async fn add_rows(&mut self, missing: &[TopicPartition]) -> Result<(), RoundError> {
        // Add all partitions of the topic up to the highest number, in one statement. The database stores only how many
        // partitions are known per topic, so all partitions below this number must have rows.
        let mut all = BTreeSet::new();
        for source in missing {
            all.extend((0..=source.partition).map(|n| TopicPartition::new(Arc::clone(&source.topic), n)));
        }
        let all: Vec<_> = all.into_iter().collect();
        let without = self.ledger.without_row(&all).await?;
        let low = self.log_ends.ends(&without, End::Low).await?;
        let starts: Vec<(TopicPartition, Offset)> =
            without.iter().filter_map(|source| Some((source.clone(), *low.get(source)?))).collect();
        if starts.len() < without.len() {
            return Err(RoundError::NoBeginning);
        }
        let lost = self.ledger.extend(&starts).await?;
        let lost: Vec<_> = lost.into_iter().filter(|source| missing.contains(source)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        if self.policy == OffsetLossPolicy::Fail {
            for source in &lost {
                self.reply(source, Err(LossCondition::LedgerLost));
            }
            return Ok(());
        }
        let (low, high) = self.both_ends(&lost).await?;
        let ends = lost.iter().filter_map(|source| Some((source, *low.get(source)?, *high.get(source)?)));
        let places: Vec<_> = ends
            .filter_map(|(source, low, high)| Some((source.clone(), low, self.policy.continue_at(low, high)?)))
            .collect();
        let rows: Vec<_> = places.iter().map(|(source, _, to)| (source.clone(), *to)).collect();
        self.ledger.insert_lost_rows(&rows).await?;
        for (source, low, to) in &places {
            let condition = &LossCondition::LedgerLost;
            self.listener.on(&Event::ConditionSkipped { source, condition, to: *to, lost: condition.lost(*low, *to) });
        }
        Ok(())
    }

    /// Returns the low ends and the high ends. Requests the high ends first, because a topic may be recreated between the two
    /// requests. The low end is then the new log's, normally 0, and the claim compares the last committed record. In the other
    /// order, the low end could be the old log's, and be after the last committed record. Then nothing would be compared, and the
    /// new log could be taken for the old one.
    async fn both_ends(&self, sources: &[TopicPartition]) -> Result<(Ends, Ends), LogEndsError> {
        let high = self.log_ends.ends(sources, End::High).await?;
        Ok((self.log_ends.ends(sources, End::Low).await?, high))
    }

    /// Compares the granted claims with Kafka's logs, and answers.
    async fn answer(&mut self, claimed: Vec<Claimed>) -> Result<(), RoundError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let sources: Vec<_> = claimed.iter().map(|claimed| claimed.source.clone()).collect();
        let (low, high) = self.both_ends(&sources).await?;
        for claimed in claimed {
            // If Kafka didn't answer for this partition, leave the request pending: the next round makes a new claim.
            let (Some(&low), Some(&high)) = (low.get(&claimed.source), high.get(&claimed.source)) else { continue };
            let Some(pending) = self.pending.iter().find(|p| p.wanted.source == claimed.source) else { continue };
            let found = match pending.wanted.skip_condition.clone() {
                Some(condition) if condition.still_met(claimed.last) => Err(condition),
                _ => resolve_start(claimed.next, claimed.last, low, high),
            };
            let (claim, next, fetch, verify) = match found {
                Ok((fetch, verify)) => (claimed.claim, claimed.next, fetch, verify),
                Err(condition) => {
                    let Some(to) = self.policy.continue_at(low, high) else {
                        self.reply(&claimed.source, Err(condition));
                        continue;
                    };
                    let Some(claim) = self.ledger.skip_condition(&claimed, to).await? else {
                        // The row has changed since the claim, for example because another owner has claimed it. So leave the
                        // request pending for the next round.
                        continue;
                    };
                    let (source, lost) = (&claimed.source, condition.lost(low, to));
                    self.listener.on(&Event::ConditionSkipped { source, condition: &condition, to, lost });
                    (claim, to, to, None)
                }
            };
            let source = claimed.source;
            self.listener.on(&Event::Claimed { source: &source, next, epoch: claim.epoch });
            self.reply(&source, Ok(Grant { claim, next, fetch, verify }));
        }
        Ok(())
    }

    /// Stores the answer to the request for a partition. The answers are sent at the end of the round.
    fn reply(&mut self, source: &TopicPartition, answer: Result<Grant, LossCondition>) {
        let Some(index) = self.pending.iter().position(|p| p.wanted.source == *source) else { return };
        let Pending { wanted, answers, .. } = self.pending.remove(index);
        let answer = ClaimAnswer { source: wanted.source, request: wanted.request, answer };
        match self.answered.iter_mut().find(|(to, _)| to.same_channel(&answers)) {
            Some((_, answered)) => answered.push(answer),
            None => self.answered.push((answers, vec![answer])),
        }
    }
}
