//! Claims for all consumers of a pipeline: from "Kafka gave us this partition" to "fetch from here under this fence".
//!
//! One task a pipeline, with a connection of its own, so that a claim waits neither for a COPY nor for another claim: rows that
//! others have locked are left out and tried again, while a second connection waits at one of them and looks for the blocker.
//! What waits there takes no claim: a claim that was queued at a lock could come after the partition went to another member,
//! and would fence it. A claim is asked for again until it is granted, refused or withdrawn; an answer that comes too late is
//! told by its question's number.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tidegate_protocol::partition::{Condition, Grant, resolve_start};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::retry::{Backoff, Stage};
use tidegate_protocol::store::WriteError;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::config::OffsetLossPolicy;
use crate::kafka::consumer::Answer;
use crate::kafka::observer::{End, Observer};
use crate::metrics;
use crate::postgres::claims::{self, Claimed};
use crate::postgres::connect::{Connector, within};
use crate::postgres::{blockers, register};

/// How long rows that others hold are only tried again, before the blocker is looked for.
const SKIP_LOCKED_FOR: Duration = Duration::from_millis(500);
/// Between two tries at rows that others hold.
const LOCKED_RETRY: Duration = Duration::from_millis(50);
/// The same once the lock is waited for, whose end ends the pause too; and between two waits.
const OVERDUE_RETRY: Duration = Duration::from_millis(250);

/// What a consumer asks for.
#[derive(Debug)]
pub struct ClaimRequest {
    /// The partitions.
    pub wanted: Vec<Wanted>,
    /// Partitions that this owner asked for before and lost meanwhile: their claims must not be made any more.
    pub withdrawn: Vec<TopicPartition>,
    /// Who will own them, for people.
    pub owner: Arc<str>,
    /// Where the answers go.
    pub answers: Sender<Answer>,
}

/// One partition that is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub source: TopicPartition,
    /// The question's number.
    pub question: u64,
    /// A condition that came up while reading, for the policy to step over.
    pub step_over: Option<Condition>,
}

struct Pending {
    wanted: Wanted,
    owner: Arc<str>,
    answers: Sender<Answer>,
    since: Instant,
}

/// Why a round of claims failed.
enum Trouble {
    Postgres(WriteError),
    Kafka(String),
}

/// One pipeline's claims.
#[derive(Debug)]
pub struct Claimer {
    pipeline: Arc<str>,
    connector: Connector,
    observer: Arc<Observer>,
    policy: OffsetLossPolicy,
}

impl Claimer {
    /// For one pipeline.
    pub fn new(pipeline: Arc<str>, connector: Connector, observer: Arc<Observer>, policy: OffsetLossPolicy) -> Self {
        Self { pipeline, connector, observer, policy }
    }

    /// Serves claims until nobody can ask any more.
    ///
    /// # Cancel safety
    /// May be dropped at any point: a claim that stands in the ledger and wasn't answered is taken over by the next.
    pub async fn run(self, mut requests: UnboundedReceiver<ClaimRequest>) {
        let mut pending: Vec<Pending> = Vec::new();
        let mut connection: Option<PgConnection> = None;
        let mut backoff = Backoff::new();
        let mut lock_wait = JoinSet::new();
        let mut lock_waits = 0_u32;
        loop {
            if pending.is_empty() {
                lock_waits = 0;
                let Some(request) = requests.recv().await else { return };
                enqueue(&mut pending, request);
            }
            while let Ok(request) = requests.try_recv() {
                enqueue(&mut pending, request);
            }
            if pending.is_empty() {
                continue;
            }
            let kept = connection.is_some();
            let round = async {
                let open = match connection.take() {
                    Some(open) => open,
                    None => self.connector.open().await.map_err(Trouble::Postgres)?.0,
                };
                self.round(connection.insert(open), &mut pending).await
            };
            let pause = match round.await {
                Ok(()) => {
                    backoff.reset();
                    if lock_wait.is_empty() { LOCKED_RETRY } else { OVERDUE_RETRY }
                }
                Err(trouble) => {
                    connection = None;
                    // A connection that was open from before says only that the server was away at some time since.
                    if kept && matches!(trouble, Trouble::Postgres(_)) {
                        continue;
                    }
                    let pause = backoff.next(fastrand::f64());
                    if backoff.attempts().is_power_of_two() {
                        let why = match &trouble {
                            Trouble::Postgres(error) => error.to_string(),
                            Trouble::Kafka(why) => why.clone(),
                        };
                        warn!(
                            pipeline = &*self.pipeline,
                            why,
                            partitions = pending.len(),
                            "a claim waits: nothing is lost"
                        );
                    }
                    pause
                }
            };
            if pending.is_empty() {
                continue;
            }
            let overdue = pending.iter().find(|p| p.since.elapsed() > SKIP_LOCKED_FOR);
            // After a round that failed it isn't locks that are waited for.
            if let (Some(p), true, true) = (overdue, lock_wait.is_empty(), connection.is_some()) {
                lock_waits += 1;
                let source = p.wanted.source.clone();
                lock_wait.spawn(wait_at_lock(self.connector.clone(), Arc::clone(&self.pipeline), source, lock_waits));
            }
            // Whatever comes first is a reason to look again.
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => enqueue(&mut pending, request),
                    None => return,
                },
                _ = lock_wait.join_next(), if !lock_wait.is_empty() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// One round over all that is pending; what is answered leaves.
    async fn round(&self, connection: &mut PgConnection, pending: &mut Vec<Pending>) -> Result<(), Trouble> {
        let sources: Vec<TopicPartition> = pending.iter().map(|p| p.wanted.source.clone()).collect();
        let missing = self.asked(claims::without_row(connection, &self.pipeline, &sources)).await?;
        if !missing.is_empty() {
            self.add_rows(connection, &missing, pending).await?;
        }
        let mut owners: HashMap<Arc<str>, Vec<TopicPartition>> = HashMap::new();
        for p in pending.iter() {
            owners.entry(Arc::clone(&p.owner)).or_default().push(p.wanted.source.clone());
        }
        for (owner, sources) in owners {
            let work = claims::claim(connection, &self.pipeline, &owner, &sources);
            let claimed = self.asked(work).await?;
            self.answer(connection, claimed, pending).await?;
        }
        Ok(())
    }

    async fn asked<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Trouble> {
        within(self.connector.write_deadline(), Stage::Ledger, work).await.map_err(Trouble::Postgres)
    }

    async fn ends(&self, sources: &[TopicPartition], end: End) -> Result<HashMap<TopicPartition, Offset>, Trouble> {
        let (observer, sources) = (Arc::clone(&self.observer), sources.to_vec());
        let answer = spawn_blocking(move || observer.ends(&sources, end)).await;
        let answer = answer.map_err(|error| Trouble::Kafka(error.to_string()))?;
        answer.map_err(|error| Trouble::Kafka(format!("Kafka doesn't say where its logs begin and end: {error}")))
    }

    /// Partitions without a ledger row: new ones begin at the oldest record, with `latest` they would lose what came before we
    /// noticed them. One that has had a row is the condition "ledger lost".
    async fn add_rows(
        &self,
        connection: &mut PgConnection,
        missing: &[TopicPartition],
        pending: &mut Vec<Pending>,
    ) -> Result<(), Trouble> {
        // All partitions of a topic up to the highest at once: the number that is noted down says that those below have rows.
        let mut all = BTreeSet::new();
        for source in missing {
            all.extend((0..=source.partition).map(|n| TopicPartition::new(Arc::clone(&source.topic), n)));
        }
        let all: Vec<_> = all.into_iter().collect();
        let without = self.asked(claims::without_row(connection, &self.pipeline, &all)).await?;
        let low = self.ends(&without, End::Low).await?;
        if low.len() < without.len() {
            return Err(Trouble::Kafka("Kafka doesn't say where some new partitions begin".to_owned()));
        }
        let starts: Vec<(TopicPartition, Offset)> = low.into_iter().collect();
        let lost = self.asked(register::extend(connection, &self.pipeline, &starts)).await?;
        let lost: Vec<_> = lost.into_iter().filter(|source| missing.contains(source)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        match self.policy {
            OffsetLossPolicy::Fail => {
                for source in &lost {
                    refuse(pending, source, &Condition::LedgerLost);
                }
            }
            OffsetLossPolicy::Earliest | OffsetLossPolicy::Latest => {
                let end = if self.policy == OffsetLossPolicy::Earliest { End::Low } else { End::High };
                let places: Vec<_> = self.ends(&lost, end).await?.into_iter().collect();
                self.asked(register::insert_rows(connection, &self.pipeline, &places)).await?;
                let low = self.ends(&lost, End::Low).await?;
                for (source, offset) in places {
                    warn!(%source, %offset, "ledger lost: going on here by `on_offset_loss`");
                    let low = low.get(&source).copied().unwrap_or(offset);
                    let skipped = Condition::LedgerLost.lost(low, offset);
                    metrics::lost(&self.pipeline, Condition::LedgerLost.cause(), skipped);
                }
            }
        }
        Ok(())
    }

    /// Holds what was claimed against Kafka's logs, and answers.
    async fn answer(
        &self,
        connection: &mut PgConnection,
        claimed: Vec<Claimed>,
        pending: &mut Vec<Pending>,
    ) -> Result<(), Trouble> {
        if claimed.is_empty() {
            return Ok(());
        }
        let sources: Vec<_> = claimed.iter().map(|claimed| claimed.source.clone()).collect();
        let (low, high) = (self.ends(&sources, End::Low).await?, self.ends(&sources, End::High).await?);
        for claimed in claimed {
            // Without an answer for this one it stays pending, and is claimed again.
            let (Some(low), Some(high)) = (low.get(&claimed.source), high.get(&claimed.source)) else { continue };
            let Some(index) = pending.iter().position(|p| p.wanted.source == claimed.source) else { continue };
            let found = match pending[index].wanted.step_over.clone() {
                Some(condition) if condition.still_met(claimed.last) => Err(condition),
                _ => resolve_start(claimed.next, claimed.last, *low, *high),
            };
            let (next, fetch, verify) = match found {
                Ok((fetch, verify)) => (claimed.next, fetch, verify),
                Err(condition) => {
                    let to = match self.policy {
                        OffsetLossPolicy::Fail => {
                            refuse(pending, &claimed.source, &condition);
                            continue;
                        }
                        OffsetLossPolicy::Earliest => *low,
                        OffsetLossPolicy::Latest => *high,
                    };
                    if !self.asked(claims::step_over(connection, &self.pipeline, &claimed, to)).await? {
                        // Claimed by someone else meanwhile: asked again in the next round.
                        continue;
                    }
                    warn!(source = %claimed.source, %condition, going_on_at = %to, "stepped over by `on_offset_loss`");
                    metrics::lost(&self.pipeline, condition.cause(), condition.lost(*low, to));
                    (to, to, None)
                }
            };
            let pending = pending.swap_remove(index);
            let Claimed { source, claim, epoch, .. } = claimed;
            debug!(%source, %next, epoch, "claimed");
            let grant = Grant { claim, epoch, next, fetch, verify };
            pending.answers.send(Answer::Granted(source, pending.wanted.question, grant)).ok();
        }
        Ok(())
    }
}

/// Waits until nobody holds a partition's row, for `lock_timeout` at most: ends zombies of our own that hold it, and says who
/// else does. Takes nothing itself.
async fn wait_at_lock(connector: Connector, pipeline: Arc<str>, source: TopicPartition, waits: u32) {
    let Ok((mut connection, pid)) = connector.open().await else { return sleep(OVERDUE_RETRY).await };
    let work = timeout(connector.write_deadline(), claims::wait_at(&mut connection, &pipeline, &source));
    let (waited, note) = blockers::watch(&connector, pid, work).await;
    // It comes again every few seconds, for as long as the lock is held.
    if let (false, Some(note), true) = (matches!(waited, Ok(Ok(()))), note, waits.is_power_of_two()) {
        warn!(pipeline = &*pipeline, %source, note, "a claim waits for a lock: nothing is lost");
    }
}

/// Takes a request in; a later question about a partition replaces an earlier one of the same asker.
fn enqueue(pending: &mut Vec<Pending>, request: ClaimRequest) {
    // By owner: another consumer of this process may have been given the partition, and asked, meanwhile.
    pending.retain(|p| p.owner != request.owner || !request.withdrawn.contains(&p.wanted.source));
    for wanted in request.wanted {
        pending.retain(|p| p.wanted.source != wanted.source);
        pending.push(Pending {
            wanted,
            owner: Arc::clone(&request.owner),
            answers: request.answers.clone(),
            since: Instant::now(),
        });
    }
}

fn refuse(pending: &mut Vec<Pending>, source: &TopicPartition, condition: &Condition) {
    if let Some(index) = pending.iter().position(|p| p.wanted.source == *source) {
        let pending = pending.swap_remove(index);
        let answer = Answer::Refused(source.clone(), pending.wanted.question, condition.clone());
        pending.answers.send(answer).ok();
    }
}
