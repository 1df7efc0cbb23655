//! Requests about topics, logs and the group, from a client that joins no group. A request blocks, usually for at most
//! [`TIMEOUT`], and some functions make several. So they are called neither on the runtime's async threads nor on a poll thread.

mod log_ends;
mod members;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tidegate_protocol::claim_loop::{End, Ends, LogEnds, LogEndsError};
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::task::{JoinError, spawn_blocking};

pub use self::log_ends::RangesRead;
pub use self::members::Group;
use super::access::denied_topics;
use super::fault::{Cause, Fault};
use super::health::KafkaHealth;
use super::list::partition_list;
use super::rebalance::Notes;
use super::settings::{self, Settings};
use super::times::{Search, Undated};
use crate::config::{Start, Topics};
use crate::lag::headroom::Retention;
use crate::status::Trouble;

/// The longest time for one request.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for librdkafka to log which requests a broker supports.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
const LIST_POLL: Duration = Duration::from_millis(10);

/// The most partitions in one request for offsets. librdkafka searches two lists for each partition of an answer, so that
/// a request for 1,000 partitions costs it a million comparisons.
const PARTITIONS_PER_REQUEST: usize = 100;

/// How long one request for metadata or for the cluster's id waits for an answer. Then the request is repeated, until [`TIMEOUT`]
/// has passed or a connection has failed.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);
/// The longest time for a second connection, which finds out why a certificate isn't trusted.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(3);

/// Why a request has no answer: what failed and, if known, where and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

pub type Answer<T> = Result<T, Unanswered>;

/// Makes requests to Kafka, and notes in `health` whether Kafka answers.
pub struct Observer {
    health: Arc<KafkaHealth>,
    client: Arc<BaseConsumer<Notes>>,
    /// The admin client, which has its own connections. It is created only when it is needed, because a client that ends during
    /// its login logs a warning.
    admin: OnceLock<Arc<AdminClient<DefaultClientContext>>>,
    settings: Settings,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// An observer for async code: requests run on the runtime's threads for blocking work.
#[derive(Clone, Debug)]
pub struct SharedObserver(Arc<Observer>);

/// Why [`SharedObserver::ask`] returns no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError<E> {
    #[error("{0}")]
    Answer(E),
    #[error("a bug of Tidegate, please report it: {0}")]
    Panicked(JoinError),
}

impl SharedObserver {
    /// Creates an observer, and with it a client of librdkafka.
    ///
    /// # Errors
    /// If librdkafka refuses a setting.
    pub fn new(config: &Settings, health: Arc<KafkaHealth>) -> KafkaResult<Self> {
        Observer::new(config, health).map(|observer| Self(Arc::new(observer)))
    }

    pub fn health(&self) -> &KafkaHealth {
        &self.0.health
    }

    /// Makes a request, which may block. The request runs to its end even if the future is dropped.
    ///
    /// # Errors
    /// The error of the request, or that it panicked.
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
        let answer = self.ask(move |observer| observer.known_ends(&sources, end)).await;
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

/// Returns the topics that `wanted` lists and that are missing from `found`, the topics that Kafka has. A pattern lists none.
pub fn missing_topics(wanted: &Topics, found: &BTreeMap<String, i32>) -> Vec<String> {
    match wanted {
        Topics::List(names) => names.iter().filter(|name| !found.contains_key(*name)).cloned().collect(),
        Topics::Pattern(_) => Vec::new(),
    }
}

/// Returns those of `sources` that `found` lacks. If `found` has the ends of logs, these partitions have no leader.
pub fn without_leader(sources: &[TopicPartition], found: &HashMap<TopicPartition, Offset>) -> Vec<TopicPartition> {
    sources.iter().filter(|source| !found.contains_key(*source)).cloned().collect()
}

impl Observer {
    /// Creates a client with these settings.
    ///
    /// # Errors
    /// If librdkafka refuses a setting.
    pub fn new(config: &Settings, health: Arc<KafkaHealth>) -> KafkaResult<Self> {
        let notes = Notes::new(Arc::clone(&health), None);
        let client: Arc<BaseConsumer<Notes>> = Arc::new(config.create_with_context(notes)?);
        if let Some(credentials) = &config.credentials {
            credentials.serve(&client, |client| client.client());
        }
        Ok(Self { health, client, admin: OnceLock::new(), settings: config.clone() })
    }

    /// Requests the settings of topics or brokers. Topics and brokers whose settings Kafka doesn't return, for example
    /// because the client has no right to read them, are left out. `topic` is the topic that an error names. Must be called on
    /// one of the runtime's threads for blocking work.
    fn describe(&self, topic: &str, resources: &[ResourceSpecifier<'_>]) -> Answer<Vec<ConfigResource>> {
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let runtime = tokio::runtime::Handle::current();
        self.question(topic, || {
            let admin = match self.admin.get() {
                Some(admin) => admin,
                None => {
                    let made: Arc<AdminClient<DefaultClientContext>> = Arc::new(self.settings.create()?);
                    if let Some(credentials) = &self.settings.credentials {
                        credentials.serve(&made, |admin| admin.inner());
                    }
                    self.admin.get_or_init(|| made)
                }
            };
            // A resource with an error has no settings, and rdkafka doesn't return the error. Every other topic or broker has
            // some settings.
            let answers = runtime.block_on(admin.describe_configs(resources, &options))?;
            Ok(answers.into_iter().flatten().filter(|resource| !resource.entries.is_empty()).collect())
        })
    }

    /// Returns the fault of a connected broker that doesn't offer the group protocol `consumer`, if there is one. librdkafka logs
    /// one line for each request that a broker supports. Until the line of the protocol's request arrives, the broker counts as
    /// not offering the protocol. So this function waits for that line, at most 2 s.
    pub fn no_consumer_protocol(&self) -> Option<Fault> {
        let deadline = Instant::now() + LIST_PATIENCE;
        loop {
            self.serve();
            let fault = self.health.no_consumer_protocol()?;
            if Instant::now() >= deadline {
                return Some(fault);
            }
            drop(self.client.poll(LIST_POLL));
        }
    }

    pub fn cluster_id(&self) -> Answer<String> {
        let unknown = || KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        self.ask_until_answered("", || self.client.client().fetch_cluster_id(METADATA_PATIENCE).ok_or_else(unknown))
    }

    /// Makes a request, and notes in the [`KafkaHealth`] whether Kafka answered. If Kafka denies access, the error names `topic`,
    /// which is empty if the request is about no topic.
    fn question<T>(&self, topic: &str, ask: impl FnOnce() -> KafkaResult<T>) -> Answer<T> {
        self.serve();
        self.health.asked();
        let answer = ask().map_err(|error| self.unanswered(topic, &error))?;
        self.health.answered();
        Ok(answer)
    }

    /// Requests the metadata of one topic, or of all topics if `topic` is `None`.
    fn metadata(&self, topic: Option<&str>) -> Answer<Metadata> {
        self.ask_until_answered(topic.unwrap_or_default(), || self.client.fetch_metadata(topic, METADATA_PATIENCE))
    }

    /// Repeats a request until it is answered, for at most [`TIMEOUT`]. Stops earlier if a connection has failed, because the
    /// request would only fail again.
    fn ask_until_answered<T>(&self, topic: &str, ask: impl Fn() -> KafkaResult<T>) -> Answer<T> {
        self.question(topic, || {
            let deadline = Instant::now() + TIMEOUT;
            loop {
                let answer = ask();
                self.serve();
                if answer.is_ok() || Instant::now() >= deadline || self.health.connection_fault().is_some() {
                    return answer;
                }
            }
        })
    }

    /// Returns why a request failed. Notes in the health what librdkafka's log doesn't say: that a topic is denied, why a
    /// certificate isn't trusted, and errors without a known cause.
    fn unanswered(&self, topic: &str, error: &KafkaError) -> Unanswered {
        // librdkafka may have logged the cause. Serve its log, so that the health learns the cause.
        self.serve();
        let fault = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return self.denied(topic),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                Fault::group_denied(self.settings.get("group.id").unwrap_or_default())
            }
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::TimedOutQueue
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::Authentication,
            ) => self.why_certificate(self.health.silence()),
            _ => {
                self.health.request_failed(Fault::answer(error));
                return Unanswered(error.to_string());
            }
        };
        Unanswered(fault.to_string())
    }

    fn denied(&self, topic: &str) -> Unanswered {
        let fault = Fault::topic_denied(topic);
        let text = fault.to_string();
        self.health.request_denied(fault);
        Unanswered(text)
    }

    /// Finds out why a broker's certificate isn't trusted, which librdkafka doesn't say. Opens a second connection that doesn't
    /// check the host name. This connection sends no SASL credentials, because the server isn't verified.
    fn why_certificate(&self, fault: Fault) -> Fault {
        if fault.cause != Cause::Certificate {
            return fault;
        }
        let mut settings = self.settings.clone();
        let sasl: Vec<_> =
            settings.config_map().keys().filter(|name| name.starts_with("sasl.")).map(ToString::to_string).collect();
        for name in sasl {
            settings.remove(&name);
        }
        settings.set("security.protocol", "ssl").set("ssl.endpoint.identification.algorithm", "none");
        let health = Arc::new(KafkaHealth::of_command("", ""));
        let client: KafkaResult<BaseConsumer<Notes>> =
            settings.create_with_context(Notes::new(Arc::clone(&health), None));
        let Ok(client) = client else { return fault };
        let answered = client.fetch_metadata(None, CERTIFICATE_PATIENCE).is_ok();
        while client.poll(Duration::ZERO).is_some() {}
        let is_trusted = answered || health.connection_fault().is_some_and(|fault| fault.cause != Cause::Certificate);
        let fault = fault.with_cause(if is_trusted { Cause::WrongName } else { Cause::UnknownCa });
        self.health.found(fault.clone());
        fault
    }

    /// Returns the topics that a pipeline reads, each with its number of partitions. A listed topic that doesn't exist is left
    /// out.
    ///
    /// # Errors
    /// If Kafka doesn't answer, denies a listed topic, or the pattern isn't a regular expression; the error says why.
    pub fn topics(&self, topics: &Topics) -> Answer<BTreeMap<String, i32>> {
        let found = |metadata: Metadata, wanted: &dyn Fn(&str) -> bool| {
            let topics = metadata.topics().iter().filter(|topic| topic.error().is_none() && wanted(topic.name()));
            topics.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect::<BTreeMap<_, _>>()
        };
        match topics {
            Topics::List(names) => {
                let mut all = BTreeMap::new();
                for name in names {
                    let metadata = self.metadata(Some(name))?;
                    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
                    if metadata.topics().iter().any(|topic| topic.name() == name && topic.error() == Some(denied)) {
                        return Err(self.denied(name));
                    }
                    all.extend(found(metadata, &|topic| topic == name));
                }
                Ok(all)
            }
            Topics::Pattern(pattern) => {
                let pattern = regex::Regex::new(pattern)
                    .map_err(|_| Unanswered(format!("`topic_pattern` {pattern:?} is not a regular expression")))?;
                Ok(found(self.metadata(None)?, &|topic| pattern.is_match(topic)))
            }
        }
    }

    /// Returns one end of each partition's log, with one request per broker for every hundred partitions. Partitions without a
    /// leader are left out.
    ///
    /// # Errors
    /// The error of Kafka.
    pub fn known_ends(&self, sources: &[TopicPartition], end: End) -> Answer<HashMap<TopicPartition, Offset>> {
        // ListOffsets accepts these two values instead of a timestamp, and librdkafka passes them on.
        let mark = match end {
            End::Low => KafkaOffset::Beginning,
            End::High => KafkaOffset::End,
        };
        self.at(sources, mark)
    }

    /// Returns one end of each partition's log, as [`Self::known_ends`] does.
    ///
    /// # Errors
    /// The error of Kafka, or that a partition has no leader.
    pub fn ends(&self, sources: &[TopicPartition], end: End) -> Answer<HashMap<TopicPartition, Offset>> {
        let ends = self.known_ends(sources, end)?;
        let without = without_leader(sources, &ends);
        if without.is_empty() { Ok(ends) } else { Err(Unanswered(Trouble::no_leader(&without).to_string())) }
    }

    /// Returns the offset at which a new pipeline begins to read each partition. A committed offset below its log's start is raised
    /// to it.
    ///
    /// # Errors
    /// The error of Kafka, or that a partition has no leader.
    pub fn starts(&self, sources: &[TopicPartition], start: &Start) -> Answer<Vec<(TopicPartition, Offset)>> {
        let starts = match start {
            Start::Earliest => self.ends(sources, End::Low)?,
            Start::Latest => self.ends(sources, End::High)?,
            Start::Time(ms) => {
                let mut found = self.at(sources, KafkaOffset::Offset(*ms))?;
                // If there is no record at or after that time, begin at the log's end: records to come count as after that time.
                found.extend(self.ends(&without_leader(sources, &found), End::High)?);
                found
            }
            Start::Committed => {
                let mut low = self.ends(sources, End::Low)?;
                let committed = self.question(first_topic(sources), || {
                    let unknown = sources.iter().map(|source| (source, KafkaOffset::Invalid));
                    self.client.committed_offsets(partition_list(unknown)?, TIMEOUT)
                })?;
                // If a committed offset is below the log's start, Kafka has deleted its record. So begin at the log's start.
                for (source, offset) in self.places(&committed)? {
                    low.entry(source).and_modify(|low| *low = offset.max(*low));
                }
                low
            }
        };
        Ok(starts.into_iter().collect())
    }

    /// Returns which of these topics the brokers don't allow us to read.
    ///
    /// # Errors
    /// If Kafka doesn't answer; the error says why.
    pub fn denied_topics(&self, topics: &[String]) -> Answer<Vec<String>> {
        self.question("", || denied_topics(&settings::to_read(self.settings.clone()), topics, &self.health))
    }

    /// Returns the retention of topics. Topics whose settings Kafka doesn't return are left out, for example because the client
    /// has no right to read them.
    ///
    /// # Errors
    /// The error of Kafka.
    pub fn retention(&self, topics: &[String]) -> Answer<BTreeMap<String, Retention>> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let answers = self.describe(&topics[0], &resources)?;
        let mut kept = BTreeMap::new();
        for resource in answers {
            let OwnedResourceSpecifier::Topic(topic) = &resource.specifier else { continue };
            let value = |name| resource.get(name).and_then(|entry| entry.value.as_deref());
            let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
            let number = |name| value(name).and_then(|n| n.parse().ok()).filter(|n: &i64| *n >= 0 && deletes);
            kept.insert(topic.clone(), Retention { ms: number("retention.ms"), bytes: number("retention.bytes") });
        }
        Ok(kept)
    }

    /// Returns the timestamps of these records, to the second, in milliseconds since the epoch. `now_ms` is the current time. If
    /// an offset holds no record, returns the timestamp of an earlier record. If timestamps decrease within a partition, the
    /// result may be too high.
    ///
    /// # Errors
    /// The error of Kafka.
    pub fn times_of(&self, records: &[Undated], now_ms: i64) -> Answer<Vec<i64>> {
        let mut searches: Vec<_> = records.iter().map(|record| Search::new(record.since, now_ms)).collect();
        loop {
            let next = |(record, search): (&Undated, &Search)| Some((record.source.clone(), search.next()?));
            let asked: Vec<_> = records.iter().zip(&searches).filter_map(next).collect();
            if asked.is_empty() {
                return Ok(searches.iter().map(Search::found).collect());
            }
            let places: Vec<_> = asked.iter().map(|(source, time)| (source, KafkaOffset::Offset(*time))).collect();
            let found = self.offsets(&places)?;
            for (record, search) in records.iter().zip(&mut searches) {
                if let Some(time) = search.next() {
                    search.answered(time, found.get(&record.source).is_some_and(|first| *first <= record.offset));
                }
            }
        }
    }

    fn at(&self, sources: &[TopicPartition], mark: KafkaOffset) -> Answer<HashMap<TopicPartition, Offset>> {
        self.offsets(&sources.iter().map(|source| (source, mark)).collect::<Vec<_>>())
    }

    /// Requests one offset per partition: the first offset at or after a time, or the offset of a mark such as the log's end.
    /// Partitions without an answer are left out.
    fn offsets(&self, places: &[(&TopicPartition, KafkaOffset)]) -> Answer<HashMap<TopicPartition, Offset>> {
        let mut found = HashMap::with_capacity(places.len());
        for places in places.chunks(PARTITIONS_PER_REQUEST) {
            let answer = self.question(&places[0].0.topic, || {
                self.client.offsets_for_times(partition_list(places.iter().copied())?, TIMEOUT)
            })?;
            found.extend(self.places(&answer)?);
        }
        Ok(found)
    }

    /// Returns the offsets in the list, by partition. Leaves out partitions that have none. Fails if Kafka denies a topic.
    fn places(&self, list: &TopicPartitionList) -> Answer<HashMap<TopicPartition, Offset>> {
        let mut places = HashMap::with_capacity(list.count());
        for element in list.elements() {
            match (element.error().err().and_then(|error| error.rdkafka_error_code()), element.offset()) {
                (Some(RDKafkaErrorCode::TopicAuthorizationFailed), _) => return Err(self.denied(element.topic())),
                (None, KafkaOffset::Offset(offset)) => {
                    places.insert(TopicPartition::new(element.topic(), element.partition()), Offset::new(offset));
                }
                (Some(_) | None, _) => {}
            }
        }
        Ok(places)
    }

    /// Serves librdkafka's own events, such as log lines. Their callbacks update the health.
    fn serve(&self) {
        while self.client.poll(Duration::ZERO).is_some() {}
    }
}

fn first_topic(sources: &[TopicPartition]) -> &str {
    sources.first().map_or("", |source| &source.topic)
}

fn count(partitions: usize) -> i32 {
    i32::try_from(partitions).unwrap_or(i32::MAX)
}
