//! The claim loop: from "Kafka assigned this partition" to "fetch from here under this claim", for all consumers of a pipeline.
//!
//! It has a connection of its own, so that a claim waits neither for a COPY nor for another claim: rows that others have locked
//! are left out and tried again, while a second connection waits at one of them and looks for the blocker. What waits there
//! takes no claim: a claim that was queued at a lock could come after the partition went to another member, and would fence
//! it. A claim is asked for again until it is granted, refused or withdrawn; an answer that comes too late is recognised by its
//! request's id.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::batch::LastRecord;
use crate::event::{Event, Listener};
use crate::now;
use crate::partition::{Condition, Grant, resolve_start};
use crate::poll_loop::Message;
use crate::position::{Claim, Offset, TopicPartition};
use crate::retry::{Backoff, Disposition};
use crate::stopped::Stopped;
use crate::store::WriteError;

/// How long rows that others hold are only tried again, before the blocker is looked for.
const SKIP_LOCKED_FOR: Duration = Duration::from_millis(500);
/// Between two tries at rows that others hold.
const LOCKED_RETRY: Duration = Duration::from_millis(50);
/// The same while the lock is waited for, whose end ends the pause too.
const OVERDUE_RETRY: Duration = Duration::from_millis(250);

/// The policy for a Kafka log that is not the one that the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetLossPolicy {
    /// The pipeline stops, with the condition's name.
    #[default]
    Fail,
    /// Go on at the oldest record that Kafka has, and count what is lost.
    Earliest,
    /// Go on at the end of the log, and count what is lost.
    Latest,
}

impl OffsetLossPolicy {
    /// Where to go on, in a log from `low` to `high`; `None` where the pipeline stops.
    fn go_on_at(self, low: Offset, high: Offset) -> Option<Offset> {
        match self {
            Self::Fail => None,
            Self::Earliest => Some(low),
            Self::Latest => Some(high),
        }
    }
}

/// A consumer's request for claims.
#[derive(Debug)]
pub struct ClaimRequest {
    /// The partitions.
    pub wanted: Vec<Wanted>,
    /// Partitions that this owner asked for before and lost meanwhile: their claims must not be made any more.
    pub withdrawn: Vec<TopicPartition>,
    /// The future owner's name, for display.
    pub owner: Arc<str>,
    /// Where the answers go.
    pub answers: Sender<Message>,
}

/// One partition that is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The partition.
    pub source: TopicPartition,
    /// Matches the answer to this request.
    pub request: u64,
    /// A condition that came up while reading, for the policy to step over.
    pub step_over: Option<Condition>,
}

/// The answer to a request for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimAnswer {
    /// The partition.
    pub source: TopicPartition,
    /// The request's id.
    pub request: u64,
    /// The claim, or the log-loss condition that it met and that the policy doesn't step over.
    pub answer: Result<Grant, Condition>,
}

/// A granted claim, with the ledger row that it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The partition.
    pub source: TopicPartition,
    /// The new claim.
    pub claim: Claim,
    /// The offset at which the ledger is.
    pub next: Offset,
    /// The last committed record.
    pub last: Option<LastRecord>,
}

/// The ledger's rows as the claim loop uses them, over one connection that is opened when it is needed.
///
/// None of the futures is cancel safe, but for [`ClaimLedger::wait_at_lock`]: a dropped one leaves replies unread, so the caller
/// disconnects before it asks for anything else. A claim whose answer was lost is in the ledger all the same, and the next one
/// takes its place.
pub trait ClaimLedger: Send {
    /// Whether a connection is open.
    fn is_connected(&self) -> bool;
    /// Drops the connection.
    fn disconnect(&mut self);
    /// Returns those of the partitions that have no row.
    fn without_row(
        &mut self,
        sources: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<TopicPartition>, WriteError>> + Send;
    /// Adds rows for partitions that the pipeline has never had a row for, at these offsets. Returns those that it has had one
    /// for: their row is lost.
    fn extend(
        &mut self,
        starts: &[(TopicPartition, Offset)],
    ) -> impl Future<Output = Result<Vec<TopicPartition>, WriteError>> + Send;
    /// Adds lost rows, at these offsets.
    fn insert_rows(
        &mut self,
        places: &[(TopicPartition, Offset)],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
    /// Claims the partitions that have a row which nobody has locked, each atomically; the others are left out.
    fn claim(
        &mut self,
        owner: &str,
        sources: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Claimed>, WriteError>> + Send;
    /// Moves a claimed row to `to` and forgets the last record, which the new log doesn't have. Returns whether the claim was
    /// still ours and the row where it was.
    fn step_over(&mut self, claimed: &Claimed, to: Offset) -> impl Future<Output = Result<bool, WriteError>> + Send;
    /// Waits, on a connection of its own, until nobody holds a partition's row, for a bounded time. Ends connections that are
    /// left over from us and hold it, and reports who else does. Takes no claim. `waits` counts the calls for this lock.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    fn wait_at_lock(&self, source: TopicPartition, waits: u32) -> impl Future<Output = ()> + Send + 'static;
}

/// Which end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The oldest record that Kafka still has.
    Low,
    /// Behind the newest record.
    High,
}

/// An end of each partition for which Kafka answers.
pub type Ends = HashMap<TopicPartition, Offset>;

/// Says where Kafka's logs begin and end.
pub trait LogEnds: Send + Sync {
    /// Returns the end of each partition for which Kafka answers.
    fn ends(&self, sources: &[TopicPartition], end: End) -> impl Future<Output = Result<Ends, LogEndsError>> + Send;
}

/// Kafka doesn't say where its logs begin and end.
#[derive(Debug, thiserror::Error)]
#[error("Kafka doesn't say where its logs begin and end: {0}")]
pub struct LogEndsError(#[source] pub Box<dyn Error + Send + Sync>);

struct Pending {
    wanted: Wanted,
    owner: Arc<str>,
    answers: Sender<Message>,
    since: Instant,
}

/// Why a round of claims failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Postgres(#[from] WriteError),
    #[error(transparent)]
    Kafka(#[from] LogEndsError),
    #[error("Kafka doesn't say where some new partitions begin")]
    NoBeginning,
}

/// One pipeline's claims.
#[expect(missing_debug_implementations, reason = "the parts that are passed in need none")]
pub struct ClaimLoop<C, K> {
    ledger: C,
    log_ends: K,
    policy: OffsetLossPolicy,
    random: Rng,
    listener: Arc<dyn Listener>,
    pending: Vec<Pending>,
    /// Answers of this round, not sent yet.
    answered: Vec<(Sender<Message>, Vec<ClaimAnswer>)>,
}

impl<C: ClaimLedger, K: LogEnds> ClaimLoop<C, K> {
    /// For one pipeline. `random` is for the jitter of waits.
    pub fn new(ledger: C, log_ends: K, policy: OffsetLossPolicy, random: Rng, listener: Arc<dyn Listener>) -> Self {
        Self { ledger, log_ends, policy, random, listener, pending: Vec::new(), answered: Vec::new() }
    }

    /// Serves claims until nobody can ask any more.
    ///
    /// # Errors
    /// [`Stopped`] where Postgres refuses a claim for a reason that no wait removes.
    ///
    /// # Cancel safety
    /// May be dropped at any point: a claim that is in the ledger and wasn't answered is taken over by the next.
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
            // Also after a round that failed: what it granted is in the ledger.
            for (answers, answered) in std::mem::take(&mut self.answered) {
                // A consumer that is gone needs no answer: its claim is taken over by the next.
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
                    // A connection that was open from before says only that the server was away at some time since.
                    if was_connected && matches!(error, RoundError::Postgres(_)) {
                        continue;
                    }
                    let pause = backoff.next(self.random.f64());
                    let (partitions, attempt) = (self.pending.len(), backoff.attempts());
                    self.listener.on(&Event::ClaimsWait { error: &error, partitions, attempt });
                    pause
                }
            };
            if self.pending.is_empty() {
                continue;
            }
            let overdue = self.pending.iter().find(|p| now().saturating_duration_since(p.since) > SKIP_LOCKED_FOR);
            // After a round that failed it isn't locks that are waited for.
            if let (Some(p), true, true) = (overdue, lock_wait.is_empty(), self.ledger.is_connected()) {
                lock_waits += 1;
                lock_wait.spawn(self.ledger.wait_at_lock(p.wanted.source.clone(), lock_waits));
            }
            // Whatever comes first is a reason to look again.
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

    /// Takes a request in. A later request for a partition replaces an earlier one.
    fn enqueue(&mut self, request: ClaimRequest) {
        // By owner: another consumer of this process may have been assigned the partition, and asked, meanwhile.
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

    /// One round over all that is pending; what is answered leaves.
    async fn round(&mut self) -> Result<(), RoundError> {
        let sources: Vec<TopicPartition> = self.pending.iter().map(|p| p.wanted.source.clone()).collect();
        let missing = self.ledger.without_row(&sources).await?;
        if !missing.is_empty() {
            self.add_rows(&missing).await?;
        }
        // In a fixed order, so that the same events give the same run of a simulation.
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

    /// Adds rows for partitions without one. New ones begin at the oldest record: with `latest` they would lose what came
    /// before we noticed them. One that has had a row is the condition "ledger lost".
    async fn add_rows(&mut self, missing: &[TopicPartition]) -> Result<(), RoundError> {
        // All partitions of a topic up to the highest at once: the number that is noted down says that those below have rows.
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
                self.reply(source, Err(Condition::LedgerLost));
            }
            return Ok(());
        }
        let (low, high) = self.both_ends(&lost).await?;
        let ends = lost.iter().filter_map(|source| Some((source, *low.get(source)?, *high.get(source)?)));
        let places: Vec<_> = ends
            .filter_map(|(source, low, high)| Some((source.clone(), low, self.policy.go_on_at(low, high)?)))
            .collect();
        let rows: Vec<_> = places.iter().map(|(source, _, to)| (source.clone(), *to)).collect();
        self.ledger.insert_rows(&rows).await?;
        for (source, low, to) in &places {
            let condition = &Condition::LedgerLost;
            self.listener.on(&Event::SteppedOver { source, condition, to: *to, lost: condition.lost(*low, *to) });
        }
        Ok(())
    }

    /// Asks for both ends, the high one first. If the topic is recreated in between, the new log's low end is not behind the last
    /// committed record, so that fetching begins there and the record is compared. The other order would take the old log's low
    /// end for the new one's, and a new log that has grown past our position for the old one.
    async fn both_ends(&self, sources: &[TopicPartition]) -> Result<(Ends, Ends), LogEndsError> {
        let high = self.log_ends.ends(sources, End::High).await?;
        Ok((self.log_ends.ends(sources, End::Low).await?, high))
    }

    /// Compares what was claimed with Kafka's logs, and answers.
    async fn answer(&mut self, claimed: Vec<Claimed>) -> Result<(), RoundError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let sources: Vec<_> = claimed.iter().map(|claimed| claimed.source.clone()).collect();
        let (low, high) = self.both_ends(&sources).await?;
        for claimed in claimed {
            // Without an answer for this one it stays pending, and is claimed again.
            let (Some(&low), Some(&high)) = (low.get(&claimed.source), high.get(&claimed.source)) else { continue };
            let Some(pending) = self.pending.iter().find(|p| p.wanted.source == claimed.source) else { continue };
            let found = match pending.wanted.step_over.clone() {
                Some(condition) if condition.still_met(claimed.last) => Err(condition),
                _ => resolve_start(claimed.next, claimed.last, low, high),
            };
            let (next, fetch, verify) = match found {
                Ok((fetch, verify)) => (claimed.next, fetch, verify),
                Err(condition) => {
                    let Some(to) = self.policy.go_on_at(low, high) else {
                        self.reply(&claimed.source, Err(condition));
                        continue;
                    };
                    if !self.ledger.step_over(&claimed, to).await? {
                        // Claimed by someone else meanwhile: asked again in the next round.
                        continue;
                    }
                    let (source, lost) = (&claimed.source, condition.lost(low, to));
                    self.listener.on(&Event::SteppedOver { source, condition: &condition, to, lost });
                    (to, to, None)
                }
            };
            let Claimed { source, claim, .. } = claimed;
            self.listener.on(&Event::Claimed { source: &source, next, epoch: claim.epoch });
            self.reply(&source, Ok(Grant { claim, next, fetch, verify }));
        }
        Ok(())
    }

    /// Answers what is pending for a partition, at the end of the round.
    fn reply(&mut self, source: &TopicPartition, answer: Result<Grant, Condition>) {
        let Some(index) = self.pending.iter().position(|p| p.wanted.source == *source) else { return };
        let Pending { wanted, answers, .. } = self.pending.remove(index);
        let answer = ClaimAnswer { source: wanted.source, request: wanted.request, answer };
        match self.answered.iter_mut().find(|(to, _)| to.same_channel(&answers)) {
            Some((_, answered)) => answered.push(answer),
            None => self.answered.push((answers, vec![answer])),
        }
    }
}
