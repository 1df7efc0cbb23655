//! Measures the lag of a pipeline: the difference between the log ends in Kafka and the ledger's positions.
//!
//! Tidegate requests the log ends itself, because librdkafka's figures don't change while a partition is paused. The
//! ledger is read for every partition of the pipeline, whichever instance owns it, so every instance shows the whole
//! pipeline.

pub mod headroom;
mod ledger;
mod requests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::ops::Range;
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

use self::headroom::{PartitionRetention, Retentions};
use self::ledger::LedgerEntry;
use self::requests::Place;
use crate::config::Topics;
use crate::kafka::observer::{Observer, SharedObserver, missing_topics, partitions_of};
use crate::metrics::{self, epoch_ms};
use crate::postgres::connect::Connector;
use crate::status::{ConsumerStatus, Trouble, lock};

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a reading counts as current. It is longer than the time between readings, because a few of them may fail.
const CURRENT_FOR: Duration = Duration::from_secs(10);
/// The number of readings per request for topics and log starts, which change slowly.
const SLOW_EVERY: u32 = 10;
/// The number of log ends that are kept per partition. They tell the age of the oldest unwritten record, to the second.
const SAMPLES: usize = 900;
/// The number of log ends from which the inflow is computed: those of about a minute.
const INFLOW_SAMPLES: usize = 60;

#[derive(Clone, Debug, Default)]
pub struct LagView {
    /// The lag by partition.
    pub partitions: BTreeMap<TopicPartition, PartitionLag>,
    /// The time of the reading; `None` before the first one.
    pub seen_at: Option<Instant>,
    /// Why the reading failed, if it did.
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
    fn cuts(&self) -> u32 {
        lock(&self.0).partitions.values().map(|lag| lag.cuts).sum()
    }

    fn visit(&self, each: &mut dyn FnMut(&TopicPartition, LedgerRow, Instant)) {
        for (source, lag) in &lock(&self.0).partitions {
            if let Some(asked_at) = lag.asked_at {
                each(source, LedgerRow::Found { claim: lag.claim, epoch: lag.epoch, next: lag.next }, asked_at);
            }
        }
    }
}

/// The lag of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionLag {
    pub next: Offset,
    pub end: Offset,
    /// The offset of the oldest record that Kafka has.
    pub low: Offset,
    /// Records between the ledger's position and the log's end.
    pub records: u64,
    /// Age of the oldest unwritten record, in seconds; 0 without lag.
    pub seconds: f64,
    /// Seconds until Kafka deletes the oldest unwritten record.
    pub headroom: Option<f64>,
    /// The claim that holds the partition.
    pub claim: Option<ClaimId>,
    /// The owner that last claimed the partition.
    pub owner: Option<String>,
    pub epoch: i64,
    /// Seconds since the ledger's row last changed, by a commit or a claim.
    pub idle_seconds: f64,
    /// Seconds since records were last committed; `None` if none ever were.
    pub committed_seconds: Option<f64>,
    /// The log-loss condition, if the offsets of log and ledger show one. A recreated log that has grown beyond the
    /// ledger's position isn't noticed here, but by the next claim.
    pub condition: Option<LossCondition>,
    /// How often the log's end was seen to move back: the topic was recreated, or the brokers lost a part of the log.
    pub cuts: u32,
    /// When the ledger was queried; `None` if Postgres didn't answer, and these are the values of the previous reading.
    pub asked_at: Option<Instant>,
}

/// Reads the lag once per second.
#[derive(Debug)]
pub struct LagWatch {
    pipeline: Arc<str>,
    topics: Topics,
    connector: Connector,
    observer: SharedObserver,
    view: Arc<Mutex<LagView>>,
    /// This process's consumers, which know more about their own partitions than the ledger does.
    consumers: Vec<Arc<ConsumerStatus>>,
    samples: HashMap<TopicPartition, VecDeque<(i64, Offset)>>,
    /// The last end of each log, and how often the end has moved back.
    ends: HashMap<TopicPartition, (Offset, u32)>,
    /// The log ends of the last minute, from which the inflow is computed.
    inflow: HashMap<TopicPartition, VecDeque<(i64, Offset)>>,
    sources: Vec<TopicPartition>,
    /// Listed topics that didn't exist according to Kafka's last answer. While there are any, each reading requests the topics.
    missing: Vec<String>,
    /// Whether a request about the known partitions failed. If so, the next reading requests the topics.
    topics_due: bool,
    low: HashMap<TopicPartition, Offset>,
    /// For each partition of this process: the position that its consumer last committed, and the offset up to which
    /// the consumer has read.
    read: HashMap<TopicPartition, (Offset, Offset)>,
    retention: Retentions,
    /// For each partition, an offset and the timestamp of its record, in milliseconds since the epoch. Requested from
    /// Kafka if no sample is old enough.
    made_at: HashMap<TopicPartition, (Offset, i64)>,
    /// For each partition, a range at the log's end that was read, and whether it contains a record.
    ends_read: HashMap<TopicPartition, (Range<Offset>, bool)>,
}

impl LagWatch {
    /// Makes the reader of one pipeline; it stores its readings in `view`.
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
            samples: HashMap::new(),
            ends: HashMap::new(),
            inflow: HashMap::new(),
            sources: Vec::new(),
            missing: Vec::new(),
            topics_due: true,
            low: HashMap::new(),
            read: HashMap::new(),
            retention: Retentions::default(),
            made_at: HashMap::new(),
            ends_read: HashMap::new(),
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
            match self.look(look.is_multiple_of(SLOW_EVERY), &mut connection).await {
                Ok(partitions) => {
                    self.show(&partitions);
                    *lock(&self.view) = LagView { partitions, seen_at: Some(Instant::now()), trouble: None };
                }
                Err(trouble) => {
                    connection = None;
                    debug!(pipeline = &*self.pipeline, %trouble, "can't see the lag");
                    lock(&self.view).trouble = Some(trouble);
                }
            }
        }
    }

    /// Updates the gauges. Gauges of partitions that disappeared are removed; partitions with unlimited retention report
    /// infinite headroom.
    fn show(&self, partitions: &BTreeMap<TopicPartition, PartitionLag>) {
        let before = lock(&self.view).partitions.clone();
        for (source, lag) in partitions {
            let had_one = before.get(source).is_some_and(|lag| lag.headroom.is_some());
            let headroom = lag.headroom.or(had_one.then_some(f64::INFINITY));
            metrics::lag(&self.pipeline, source, Some((lag.records, lag.seconds)), headroom);
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

    /// Reads all positions once.
    ///
    /// # Errors
    /// The error of Kafka or Postgres, whichever doesn't answer.
    pub async fn once(mut self) -> Result<BTreeMap<TopicPartition, PartitionLag>, Trouble> {
        self.look(true, &mut None).await
    }

    async fn look(
        &mut self,
        slow: bool,
        connection: &mut Option<PgConnection>,
    ) -> Result<BTreeMap<TopicPartition, PartitionLag>, Trouble> {
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
            self.low = self.ask(move |observer| observer.ends(&sources, End::Low)).await?;
            let names: Vec<_> = topics.into_keys().collect();
            let requests = names.clone();
            let retention = self.ask(move |observer| observer.retention(&requests)).await;
            self.keep_retention(&names, retention);
        }
        let sources = self.sources.clone();
        let ends = self.ask(move |observer| observer.ends(&sources, End::High)).await;
        // The request also fails if a topic was deleted.
        let mut ends = ends.inspect_err(|_| self.topics_due = true)?;
        // Log ends are read even while the database is down, so lag keeps growing. The ledger can't change meanwhile.
        let rows = self.rows(connection).await;
        if let Ok(rows) = &rows {
            // The ledger was read after the log ends, so a position beyond its log's end may only mean that records
            // were written in between. Request these ends again: one that is still before the position belongs to
            // another log than the one that the ledger describes.
            let beyond = rows.iter().filter(|(source, row)| ends.get(*source).is_some_and(|end| row.next > *end));
            let beyond: Vec<_> = beyond.map(|(source, _)| source.clone()).collect();
            if !beyond.is_empty() {
                ends.extend(self.ask(move |observer| observer.ends(&beyond, End::High)).await?);
            }
        }
        self.read = self.read_positions();
        let now = epoch_ms();
        let (before, looked_at) = {
            let view = lock(&self.view);
            (view.partitions.clone(), view.seen_at)
        };
        for (source, end) in &ends {
            let (last, cuts) = self.ends.entry(source.clone()).or_insert((*end, 0));
            *cuts += u32::from(*end < *last);
            *last = *end;
        }
        let since_look = looked_at.map_or(INTERVAL, |at| at.elapsed());
        if let (true, Ok(rows)) = (slow, &rows) {
            let place = |(source, row): (&TopicPartition, &LedgerEntry)| {
                let (source, end) = (source.clone(), *ends.get(source)?);
                Some(Place { source, next: row.next, end, last_timestamp: row.last_timestamp })
            };
            let places: Vec<_> = rows.iter().filter_map(place).collect();
            self.date(&places, now).await;
            self.read_ends(&places, &before).await;
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
            partitions.insert(source.clone(), self.lag_of(source, row, *end, now, before.get(source), since_look));
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

    /// Forgets what is known of partitions that don't exist any more.
    fn forget_others(&mut self) {
        let sources: HashSet<_> = self.sources.iter().collect();
        self.samples.retain(|source, _| sources.contains(source));
        self.ends.retain(|source, _| sources.contains(source));
        self.inflow.retain(|source, _| sources.contains(source));
        self.made_at.retain(|source, _| sources.contains(source));
        self.ends_read.retain(|source, _| sources.contains(source));
    }

    async fn ask<T: Send + 'static, E: Display + Send + 'static>(
        &self,
        question: impl FnOnce(&Observer) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.observer.ask(question).await.map_err(|error| Trouble::kafka(&error))
    }

    fn read_positions(&self) -> HashMap<TopicPartition, (Offset, Offset)> {
        let ours = self.consumers.iter().flat_map(|consumer| consumer.partitions());
        ours.filter_map(|status| Some((status.source, (status.committed?, status.read_to?)))).collect()
    }

    /// Returns the offset up to which our consumer has read the partition, if the ledger is at the position that the
    /// consumer last committed; otherwise `next`. So a transaction marker at a log's end doesn't count as an unwritten
    /// record.
    fn read_to(&self, source: &TopicPartition, next: Offset) -> Offset {
        match self.read.get(source) {
            Some((committed, read_to)) if *committed == next => *read_to,
            _ => next,
        }
    }

    fn lag_of(
        &mut self,
        source: &TopicPartition,
        row: &LedgerEntry,
        end: Offset,
        now: i64,
        before: Option<&PartitionLag>,
        since_look: Duration,
    ) -> PartitionLag {
        let read_to = self.read_to(source, row.next);
        let read_to = match self.ends_read.get(source) {
            Some((range, false)) if range.start == row.next => read_to.max(range.end),
            _ => read_to,
        };
        let made_at = self.made_at.get(source).filter(|(offset, _)| *offset <= row.next).map(|(_, ms)| *ms);
        let samples = self.samples.entry(source.clone()).or_default();
        if samples.back().is_none_or(|(_, last)| *last != end) {
            samples.push_back((now, end));
            if samples.len() > SAMPLES {
                samples.pop_front();
            }
        }
        // A sample whose end is written says nothing about unwritten records. Drop it, unless it is the only one.
        while samples.len() > 1 && samples[0].1 <= row.next {
            samples.pop_front();
        }
        let records = end.distance_from(row.next.max(read_to));
        let since = match samples.front() {
            _ if records == 0 => now,
            // The oldest unwritten record is before the first sample's end, so it is at least as old as that sample. It
            // is at most as old as the last written record, and as an earlier record whose timestamp was requested.
            Some((at, first)) if *first > row.next => row.last_timestamp.max(made_at).unwrap_or(*at).min(*at),
            Some((at, _)) => *at,
            None => now,
        };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a lag are far below 2^53")]
        let seconds = match before {
            _ if records == 0 => 0.0,
            // The database is down, and the timestamp of its last record is unknown. So the age continues from its last value.
            Some(before) if row.asked_at.is_none() && before.seconds > 0.0 => before.seconds + since_look.as_secs_f64(),
            _ => (now - since).max(0) as f64 / 1000.0,
        };
        let low = self.low.get(source).copied().unwrap_or(Offset::ZERO);
        let place = PartitionRetention {
            age: seconds,
            behind: row.next.distance_from(low),
            cut: low > Offset::ZERO,
            inflow: inflow(self.inflow.entry(source.clone()).or_default(), (now, end)),
        };
        let retention = self.retention.of(&source.topic);
        let condition = if read_to.max(row.next) < low {
            Some(LossCondition::RetentionPassed { next: row.next, low })
        } else if row.next > end && row.asked_at.is_some() {
            Some(LossCondition::LogShorter { next: row.next, high: end })
        } else {
            None
        };
        let headroom = match condition {
            // Kafka has already deleted the oldest unwritten record.
            Some(LossCondition::RetentionPassed { .. }) => Some(0.0),
            _ => retention.headroom(place),
        };
        PartitionLag {
            next: row.next,
            end,
            low,
            records,
            seconds,
            headroom,
            claim: row.claim,
            owner: row.owner.clone(),
            epoch: row.epoch,
            idle_seconds: row.idle_seconds,
            committed_seconds: row.committed_seconds,
            condition,
            cuts: self.ends.get(source).map_or(0, |(_, cuts)| *cuts),
            asked_at: row.asked_at,
        }
    }
}

/// Returns the recent inflow in offsets per second.
fn inflow(ends: &mut VecDeque<(i64, Offset)>, last: (i64, Offset)) -> f64 {
    ends.push_back(last);
    if ends.len() > INFLOW_SAMPLES {
        ends.pop_front();
    }
    let first = ends.front().copied().unwrap_or(last);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds and offsets of a minute are far below 2^53")]
    let (ms, offsets) = ((last.0 - first.0) as f64, last.1.distance_from(first.1) as f64);
    if ms > 0.0 { offsets * 1000.0 / ms } else { 0.0 }
}
