//! Questions about topics, logs and the group, from a client that joins no group. All of them block, for at most
//! [`TIMEOUT`]: they are asked off the runtime and off the poll threads.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tidegate_protocol::claim_loop::{End, Ends, LogEnds, LogEndsError};
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::task::{JoinError, spawn_blocking};

use super::reader::Reader;
use super::rebalance::Notes;
use super::settings::{self, Settings};
use crate::config::{Start, Topics};
use crate::lag::headroom::Retention;

/// The longest that one question may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A record older than this counts as one of this age: a year and a month, in milliseconds.
const OLDEST_MS: i64 = 400 * 86_400_000;

/// A consumer group as Kafka describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty` and so on.
    pub state: String,
    /// Consumers in it now.
    pub members: usize,
}

/// Asks.
pub struct Observer {
    client: Arc<BaseConsumer<Notes>>,
    admin: Arc<AdminClient<DefaultClientContext>>,
    /// Of a client that reads a few records, made where one is needed.
    reader: Settings,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// An observer for async code: questions run on the runtime's threads for blocking work.
#[derive(Clone, Debug)]
pub struct SharedObserver(Arc<Observer>);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError<E> {
    /// What was asked gave this error.
    #[error("{0}")]
    Answer(E),
    /// The question panicked.
    #[error("a bug of ours: {0}")]
    Panicked(JoinError),
}

impl SharedObserver {
    /// Makes an observer with these settings.
    ///
    /// # Errors
    /// If librdkafka refuses a setting.
    pub fn new(config: &Settings) -> KafkaResult<Self> {
        Observer::new(config).map(|observer| Self(Arc::new(observer)))
    }

    /// Asks a question, which may block. It runs to its end even if the future is dropped.
    ///
    /// # Errors
    /// The error of the question, or that it panicked.
    pub async fn ask<T: Send + 'static, E: Send + 'static>(
        &self,
        question: impl FnOnce(&Observer) -> Result<T, E> + Send + 'static,
    ) -> Result<T, AskError<E>> {
        let observer = Arc::clone(&self.0);
        let answer = spawn_blocking(move || question(&observer)).await;
        answer.map_err(AskError::Panicked)?.map_err(AskError::Answer)
    }
}

impl LogEnds for SharedObserver {
    async fn ends(&self, sources: &[TopicPartition], end: End) -> Result<Ends, LogEndsError> {
        let sources = sources.to_vec();
        let answer = self.ask(move |observer| observer.ends(&sources, end)).await;
        answer.map_err(|error| match error {
            AskError::Answer(error) => LogEndsError(error.into()),
            AskError::Panicked(panic) => LogEndsError(panic.into()),
        })
    }
}

/// Returns every partition of these topics, given each topic's number of partitions.
pub fn partitions_of(topics: &BTreeMap<String, i32>) -> Vec<TopicPartition> {
    let all = topics.iter().flat_map(|(topic, count)| (0..*count).map(move |n| (topic, n)));
    all.map(|(topic, n)| TopicPartition::new(topic.as_str(), n)).collect()
}

impl Observer {
    /// A client of these settings.
    ///
    /// # Errors
    /// Where librdkafka refuses a setting.
    pub fn new(config: &Settings) -> KafkaResult<Self> {
        let reader = settings::to_read(config.clone());
        let client: Arc<BaseConsumer<Notes>> = Arc::new(config.create_with_context(Notes::default())?);
        let admin: Arc<AdminClient<DefaultClientContext>> = Arc::new(config.create()?);
        if let Some(credentials) = &config.credentials {
            credentials.serve(&client, |client| client.client());
            credentials.serve(&admin, |admin| admin.inner());
        }
        Ok(Self { client, admin, reader })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> Option<String> {
        self.serve();
        self.client.client().fetch_cluster_id(TIMEOUT)
    }

    /// The topics that a pipeline reads, with their partitions. A listed topic that doesn't exist has none.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn topics(&self, topics: &Topics) -> KafkaResult<BTreeMap<String, i32>> {
        self.serve();
        let found = |metadata: rdkafka::metadata::Metadata, wanted: &dyn Fn(&str) -> bool| {
            let topics = metadata.topics().iter().filter(|topic| topic.error().is_none() && wanted(topic.name()));
            topics.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect::<BTreeMap<_, _>>()
        };
        match topics {
            Topics::List(names) => {
                let mut all = BTreeMap::new();
                for name in names {
                    let metadata = self.client.fetch_metadata(Some(name), TIMEOUT)?;
                    all.extend(found(metadata, &|topic| topic == name));
                }
                Ok(all)
            }
            Topics::Pattern(pattern) => {
                let pattern = regex::Regex::new(pattern).map_err(|_| {
                    KafkaError::Subscription(format!("`topic_pattern` {pattern:?} is not a regular expression"))
                })?;
                Ok(found(self.client.fetch_metadata(None, TIMEOUT)?, &|topic| pattern.is_match(topic)))
            }
        }
    }

    /// One end of each partition's log, one request a broker. Partitions without an answer are left out.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn ends(&self, sources: &[TopicPartition], end: End) -> KafkaResult<HashMap<TopicPartition, Offset>> {
        // ListOffsets takes these two for a timestamp, and librdkafka hands them through.
        let mark = match end {
            End::Low => KafkaOffset::Beginning,
            End::High => KafkaOffset::End,
        };
        self.at(sources, mark)
    }

    /// Where a new pipeline begins on each partition.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn starts(&self, sources: &[TopicPartition], start: &Start) -> KafkaResult<Vec<(TopicPartition, Offset)>> {
        let mut low = self.ends(sources, End::Low)?;
        let found = match start {
            Start::Earliest => HashMap::new(),
            Start::Latest => self.ends(sources, End::High)?,
            Start::Time(ms) => {
                let mut found = self.at(sources, KafkaOffset::Offset(*ms))?;
                // No record at or after that time: the end, and what comes then is after it.
                let missing: Vec<_> = sources.iter().filter(|s| !found.contains_key(s)).cloned().collect();
                found.extend(self.ends(&missing, End::High)?);
                found
            }
            Start::Committed => {
                let committed = self.client.committed_offsets(list(sources, KafkaOffset::Invalid)?, TIMEOUT)?;
                // A committed offset below the log's start is one that retention has passed.
                let clamp = |(source, offset): (TopicPartition, Offset)| {
                    let offset = low.get(&source).map_or(offset, |low| offset.max(*low));
                    (source, offset)
                };
                places(&committed).into_iter().map(clamp).collect()
            }
        };
        low.extend(found);
        if low.len() < sources.len() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable));
        }
        Ok(low.into_iter().collect())
    }

    /// The consumer group; `None` where Kafka knows none of that name.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn group(&self, name: &str) -> KafkaResult<Option<Group>> {
        self.serve();
        let answer = self.client.fetch_group_list(Some(name), TIMEOUT)?;
        let group = answer.groups().iter().find(|group| group.name() == name && group.state() != "Dead");
        Ok(group.map(|group| Group { state: group.state().to_owned(), members: group.members().len() }))
    }

    /// How long Kafka keeps topics' records. A topic that Kafka doesn't answer for is left out.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn retention(&self, topics: &[String]) -> KafkaResult<BTreeMap<String, Retention>> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let answers = tokio::runtime::Handle::current().block_on(self.admin.describe_configs(&resources, &options))?;
        let mut kept = BTreeMap::new();
        for resource in answers.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(topic) = &resource.specifier else { continue };
            let value = |name| resource.get(name).and_then(|entry| entry.value.as_deref());
            let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
            let number = |name| value(name).and_then(|n| n.parse().ok()).filter(|n: &i64| *n >= 0 && deletes);
            kept.insert(topic.clone(), Retention { ms: number("retention.ms"), bytes: number("retention.bytes") });
        }
        Ok(kept)
    }

    /// When the records at these offsets were made, to the second, in milliseconds since the epoch: by ListOffsets alone, which
    /// answers for a time with an offset, so the time is searched for. Where an offset holds no record, it is that of one before.
    ///
    /// # Errors
    /// As Kafka answers.
    pub fn times_of(&self, places: &[(TopicPartition, Offset)], now_ms: i64) -> KafkaResult<Vec<i64>> {
        let mut search: Vec<_> = places.iter().map(|_| (now_ms - OLDEST_MS, now_ms + 1000)).collect();
        while search.iter().any(|(low, high)| high - low > 1000) {
            self.serve();
            let mut asked = TopicPartitionList::with_capacity(places.len());
            for ((source, _), (low, high)) in places.iter().zip(&search) {
                let middle = KafkaOffset::Offset(i64::midpoint(*low, *high));
                asked.add_partition_offset(&source.topic, source.partition, middle)?;
            }
            let found = self::places(&self.client.offsets_for_times(asked, TIMEOUT)?);
            for ((source, offset), (low, high)) in places.iter().zip(&mut search) {
                let middle = i64::midpoint(*low, *high);
                // The first record of this time or later lies at or before ours: ours is no older.
                if found.get(source).is_some_and(|first| first <= offset) { *low = middle } else { *high = middle }
            }
        }
        Ok(search.into_iter().map(|(low, _)| low).collect())
    }

    /// Those of these stretches of logs that hold no record that is ever delivered: only marks of transactions, and what was
    /// aborted.
    ///
    /// # Errors
    /// Where Kafka is silent.
    pub fn empty_stretches(
        &self,
        stretches: &[(TopicPartition, Range<Offset>)],
    ) -> Result<Vec<TopicPartition>, String> {
        let mut empty = Vec::new();
        let reader = Reader::new(&self.reader)?;
        for (source, range) in stretches {
            let mut holds = false;
            reader.read(&source.topic, &[(source.partition, range.clone())], |_| holds = true)?;
            if !holds {
                empty.push(source.clone());
            }
        }
        Ok(empty)
    }

    fn at(&self, sources: &[TopicPartition], mark: KafkaOffset) -> KafkaResult<HashMap<TopicPartition, Offset>> {
        if sources.is_empty() {
            return Ok(HashMap::new());
        }
        self.serve();
        let answer = self.client.offsets_for_times(list(sources, mark)?, TIMEOUT)?;
        Ok(places(&answer))
    }

    /// Serves librdkafka's own events: logs, tokens.
    fn serve(&self) {
        while self.client.poll(Duration::ZERO).is_some() {}
    }
}

fn list(sources: &[TopicPartition], offset: KafkaOffset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(sources.len());
    for source in sources {
        list.add_partition_offset(&source.topic, source.partition, offset)?;
    }
    Ok(list)
}

fn places(list: &TopicPartitionList) -> HashMap<TopicPartition, Offset> {
    let elements = list.elements();
    let known =
        elements.iter().filter(|element| element.error().is_ok()).filter_map(|element| match element.offset() {
            KafkaOffset::Offset(offset) => {
                Some((TopicPartition::new(element.topic(), element.partition()), Offset::new(offset)))
            }
            _ => None,
        });
    known.collect()
}

fn count(partitions: usize) -> i32 {
    i32::try_from(partitions).unwrap_or(i32::MAX)
}
