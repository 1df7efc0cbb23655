//! Measures the lag of a pipeline: the difference between the ends of Kafka's logs and the ledger's positions.
//!
//! Tidegate requests these ends itself, because librdkafka's figures don't change while a partition is paused. The
//! ledger is read for every partition of the pipeline, whichever instance owns it, so every instance shows the whole
//! pipeline.

pub mod headroom;
mod known;
mod ledger;
mod requests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::partition::LossCondition;
use tidegate_protocol::poll_loop::LedgerReadings;
use tidegate_protocol::position::{ClaimId, Offset, TopicPartition};
use tidegate_protocol::store::LedgerRow;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use self::headroom::Retentions;
use self::known::Known;
use self::ledger::LedgerEntry;
use self::requests::{Effort, Place};
use crate::config::Topics;
use crate::kafka::observer::{Observer, SharedObserver, missing_topics, partitions_of, without_leader};
use crate::metrics::{self, epoch_ms};
use crate::postgres::connect::Connector;
use crate::status::{ConsumerStatus, Trouble, lock};

const INTERVAL: Duration = Duration::from_secs(1);
/// How long a reading counts as current. It is longer than the time between readings, because a few of them may fail.
const CURRENT_FOR: Duration = Duration::from_secs(10);
/// One reading in this many is slow: it also requests topics, log starts and retention, which seldom change.
const SLOW_EVERY: u32 = 10;

/// The newest reading of one pipeline's lag. [`LagWatch`] stores it, and the status page, the metrics and the poll loops use it.
/// If the newest reading failed, `trouble` says why, and the other fields are those of the last successful reading. A reading
/// also counts as successful if only Postgres doesn't answer, once an earlier reading knows the ledger.
#[derive(Clone, Debug, Default)]
pub struct LagView {
    pub partitions: BTreeMap<TopicPartition, PartitionLag>,
    /// When the last successful reading ended; `None` before the first one.
    pub seen_at: Option<Instant>,
    pub trouble: Option<Trouble>,
}

impl LagView {
    /// Sets the gauge of the reading's age, and removes the gauges of lag and headroom once the reading is older than
    /// `CURRENT_FOR`: a stale value must not look current. Called once per second.
    pub fn show_age(&self, pipeline: &Arc<str>) {
        let age = self.seen_at.map(|at| at.elapsed());
        metrics::lag_age(pipeline, age);
        if age.is_some_and(|age| age > CURRENT_FOR) {
            for source in self.partitions.keys() {
                metrics::lag(pipeline, source, None, None);
            }
        }
    }
}

/// The newest reading of the ledger, for the poll loops.
#[derive(Clone, Debug)]
pub struct LagReadings(pub Arc<Mutex<LagView>>);

impl LedgerReadings for LagReadings {
    fn truncations(&self) -> u32 {
        lock(&self.0).partitions.values().map(|lag| lag.truncations).sum()
    }

    fn visit(&self, each: &mut dyn FnMut(&TopicPartition, LedgerRow, Instant)) {
        for (source, lag) in &lock(&self.0).partitions {
            if let Some(asked_at) = lag.asked_at {
                each(source, LedgerRow::Found { claim: lag.claim, epoch: lag.epoch, next: lag.next }, asked_at);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PartitionLag {
    pub next: Offset,
    pub end: Offset,
    /// The start of the log; 0 if it isn't known.
    pub low: Offset,
    /// The number of unwritten records: the offsets from the ledger's position to the log's end, without those that are known to
    /// hold no record.
    pub records: u64,
    /// Age of the oldest unwritten record, in seconds; 0 without lag.
    pub seconds: f64,
    /// Seconds until Kafka deletes the oldest unwritten record: infinite if the topic's retention is unlimited, `None` if the
    /// time is unknown.
    pub headroom: Option<f64>,
    /// The id of the claim in the ledger; `None` if nobody has claimed the partition since its ledger row was created.
    pub claim: Option<ClaimId>,
    pub owner: Option<String>,
    pub epoch: i64,
    /// Seconds since the ledger's row last changed, for example by a commit or a claim.
    pub idle_seconds: f64,
    /// Seconds since records were last committed; `None` if no commit is known.
    pub committed_seconds: Option<f64>,
    /// The log-loss condition, if the offsets of log and ledger show one. A recreated log that has grown beyond the
    /// ledger's position isn't noticed here, but by the next claim.
    pub condition: Option<LossCondition>,
    /// How many times this process has seen the log's end move back. Causes are a recreated topic, or brokers that lost a part of
    /// the log.
    pub truncations: u32,
    /// When the ledger was queried; `None` if Postgres didn't answer. The ledger's values are then those of the previous reading.
    pub asked_at: Option<Instant>,
}

/// Reads the lag of one pipeline once per second, or a single time for a command.
#[derive(Debug)]
pub struct LagWatch {
    pipeline: Arc<str>,
    topics: Topics,
    connector: Connector,
    observer: SharedObserver,
    view: Arc<Mutex<LagView>>,
    /// This process's consumers, which know more about their own partitions than the ledger does.
    consumers: Vec<Arc<ConsumerStatus>>,
    known: HashMap<TopicPartition, Known>,
    /// The number of the current reading, counted from 1.
    readings: u64,
    /// The number of the last slow reading (see [`SLOW_EVERY`]). From one slow reading to the next, two things are requested
    /// at most once per partition: the timestamp of its oldest unwritten record, and the records at the end of its log.
    slow_reading: u64,
    /// Whether the last reading reached its limit, so that the next reading must make the remaining requests.
    more_due: bool,
    sources: Vec<TopicPartition>,
    /// The topics in the pipeline's `topics` that don't exist, according to Kafka's last answer. While there are any, each
    /// reading requests the topics.
    missing: Vec<String>,
    /// The partitions that had no leader in the last reading.
    without_leader: Vec<TopicPartition>,
    /// Whether the next reading must request the topics: at the start, and after a request for the ends of the logs has
    /// failed. A deleted topic may be the cause of the failure.
    topics_due: bool,
    retention: Retentions,
}

impl LagWatch {
    pub fn new(
        pipeline: Arc<str>,
        topics: Topics,
        connector: Connector,
        observer: SharedObserver,
        view: Arc<Mutex<LagView>>,
        consumers: Vec<Arc<ConsumerStatus>>,
    ) -> Self {
        Self {
            pipeline,
            topics,
            connector,
            observer,
            view,
            consumers,
            known: HashMap::new(),
            readings: 0,
            slow_reading: 0,
            more_due: false,
            sources: Vec::new(),
            missing: Vec::new(),
            without_leader: Vec::new(),
            topics_due: true,
            retention: Retentions::default(),
        }
    }

    /// Takes readings until the future is dropped.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn run(mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        for look in 0u32.. {
            ticks.tick().await;
            match self.look(look.is_multiple_of(SLOW_EVERY), Effort::BOUNDED, &mut connection).await {
                Ok(partitions) => {
                    self.show(&partitions);
                    *lock(&self.view) = LagView { partitions, seen_at: Some(Instant::now()), trouble: None };
                }
                Err(trouble) => {
                    connection = None;
                    debug!(pipeline = &*self.pipeline, %trouble, "can't read the lag");
                    lock(&self.view).trouble = Some(trouble);
                }
            }
        }
    }

    fn show(&self, partitions: &BTreeMap<TopicPartition, PartitionLag>) {
        let before = lock(&self.view).partitions.clone();
        for (source, lag) in partitions {
            metrics::lag(&self.pipeline, source, Some((lag.records, lag.seconds)), lag.headroom);
            let had_condition = before.get(source).is_some_and(|lag| lag.condition.is_some());
            if lag.condition.is_some() || had_condition {
                metrics::log_loss(&self.pipeline, source, lag.condition.as_ref());
            }
        }
        for source in before.keys().filter(|source| !partitions.contains_key(*source)) {
            metrics::lag(&self.pipeline, source, None, None);
            metrics::log_loss(&self.pipeline, source, None);
        }
    }

    /// Reads all positions once. Returns the lag of each partition that is in the ledger and has a leader, and the partitions
    /// without a leader.
    ///
    /// # Errors
    /// The error of Kafka or Postgres, whichever doesn't answer.
    pub async fn once(mut self) -> Result<(BTreeMap<TopicPartition, PartitionLag>, Vec<TopicPartition>), Trouble> {
        let partitions = self.look(true, Effort::WHOLE, &mut None).await?;
        Ok((partitions, self.without_leader))
    }

    async fn look(
        &mut self,
        slow: bool,
        effort: Effort,
        connection: &mut Option<PgConnection>,
    ) -> Result<BTreeMap<TopicPartition, PartitionLag>, Trouble> {
        self.readings += 1;
        if slow {
            self.slow_reading = self.readings;
        }
        if slow || self.topics_due || self.sources.is_empty() || !self.missing.is_empty() {
            let topics = self.topics.clone();
            let topics = self.ask(move |observer| observer.topics(&topics)).await?;
            self.topics_due = false;
            self.sources = partitions_of(&topics);
            self.forget_others();
            let missing = missing_topics(&self.topics, &topics);
            // A broker that has just started possibly doesn't know a topic yet. So report a topic as missing only if
            // two answers in a row lack it.
            let before = std::mem::replace(&mut self.missing, missing.clone());
            let confirmed = missing.into_iter().filter(|topic| before.contains(topic)).collect();
            self.observer.health().topics_missing(confirmed);
            let sources = self.sources.clone();
            let low = self.ask(move |observer| observer.known_ends(&sources, End::Low)).await?;
            for source in &self.sources {
                self.known.entry(source.clone()).or_default().low = low.get(source).copied();
            }
            let names: Vec<_> = topics.into_keys().collect();
            let requests = names.clone();
            let retention = self.ask(move |observer| observer.retention(&requests)).await;
            self.keep_retention(&names, retention);
        }
        let sources = self.sources.clone();
        let ends = self.ask(move |observer| observer.known_ends(&sources, End::High)).await;
        // If this request fails, the cause may be a deleted topic.
        let mut ends = ends.inspect_err(|_| self.topics_due = true)?;
        let without_leader = without_leader(&self.sources, &ends);
        // The topic of these partitions may have been deleted.
        self.topics_due = without_leader != self.without_leader;
        self.without_leader.clone_from(&without_leader);
        self.observer.health().without_leader(without_leader);
        // If the database is down, the ends of the logs are nevertheless compared with the ledger's last known positions, so
        // that the growing lag is shown.
        let rows = self.rows(connection).await;
        if let Ok(rows) = &rows {
            // The ledger was read after the ends of the logs, so a position beyond its log's end may only mean that records were
            // written in between. Request these ends again. If an end is still before the position, the log isn't the one that
            // the ledger describes.
            let beyond = rows.iter().filter(|(source, row)| ends.get(*source).is_some_and(|end| row.next > *end));
            let beyond: Vec<_> = beyond.map(|(source, _)| source.clone()).collect();
            if !beyond.is_empty() {
                ends.extend(self.ask(move |observer| observer.known_ends(&beyond, End::High)).await?);
            }
        }
        self.keep_read_positions();
        let now = epoch_ms();
        let (before, looked_at) = {
            let view = lock(&self.view);
            (view.partitions.clone(), view.seen_at)
        };
        for (source, end) in &ends {
            self.known.entry(source.clone()).or_default().ends_at(*end);
        }
        let since_look = looked_at.map_or(INTERVAL, |at| at.elapsed());
        if let (true, Ok(rows)) = (slow || self.more_due, &rows) {
            let place = |(source, row): (&TopicPartition, &LedgerEntry)| {
                let (source, end) = (source.clone(), *ends.get(source)?);
                Some(Place { source, next: row.next, end, last_timestamp: row.last_timestamp })
            };
            let places: Vec<_> = rows.iter().filter_map(place).collect();
            self.more_due = self.request_timestamps(&places, now, effort).await;
            self.more_due |= self.read_ends(&places, &before, effort).await;
        }
        let mut partitions = BTreeMap::new();
        for source in self.sources.clone() {
            let source = &source;
            let Some(end) = ends.get(source) else { continue };
            let row = match &rows {
                Ok(rows) => match rows.get(source) {
                    Some(row) => row,
                    None => continue,
                },
                Err(_) => match before.get(source) {
                    Some(lag) => &LedgerEntry::as_of(lag, since_look),
                    None => continue,
                },
            };
            let retention = self.retention.of(&source.topic);
            let known = self.known.entry(source.clone()).or_default();
            let lag = known.lag(row, *end, now, before.get(source), since_look, retention);
            partitions.insert(source.clone(), lag);
        }
        match rows {
            Ok(_) => Ok(partitions),
            Err(trouble) if partitions.is_empty() => Err(trouble),
            Err(_) => {
                *connection = None;
                Ok(partitions)
            }
        }
    }

    fn forget_others(&mut self) {
        let sources: HashSet<_> = self.sources.iter().collect();
        self.known.retain(|source, _| sources.contains(source));
    }

    async fn ask<T: Send + 'static, E: Display + Send + 'static>(
        &self,
        question: impl FnOnce(&Observer) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.observer.ask(question).await.map_err(|error| Trouble::kafka(&error))
    }

    fn keep_read_positions(&mut self) {
        self.known.values_mut().for_each(|known| known.read = None);
        for status in self.consumers.iter().flat_map(|consumer| consumer.partitions()) {
            if let (Some(committed), Some(read_to)) = (status.committed, status.read_to) {
                self.known.entry(status.source).or_default().read = Some((committed, read_to));
            }
        }
    }
}
