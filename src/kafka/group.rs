//! One member of the consumer group, on librdkafka: events by the consumer's own queue, records in bulk.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_kafka_batch::{BatchQueue, Headers, Item, Record};
use tidegate_protocol::batch::Incoming;
use tidegate_protocol::group::{Assigning, Group, GroupClient, GroupEvent, ReadError, ReadErrorKind, Visit, Visitor};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::record::push_header;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::rebalance::Notes;
use super::settings::Settings;
use crate::config::{GroupProtocol, Topics};

/// The longest wait for the answers to the last commits.
const COMMIT_DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks for those answers.
const COMMIT_POLL: Duration = Duration::from_millis(5);
/// The longest that leaving the group may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Joins a consumer group.
#[derive(Debug)]
pub struct KafkaGroup {
    /// librdkafka's settings.
    pub settings: Settings,
    /// What to read.
    pub topics: Topics,
    /// How the group assigns partitions.
    pub protocol: GroupProtocol,
}

impl Group for KafkaGroup {
    type Client = KafkaClient;

    fn join(&mut self) -> Result<KafkaClient, Box<dyn Error + Send + Sync>> {
        let consumer: BaseConsumer<Notes> = self.settings.create_with_context(Notes::default())?;
        let consumer = Arc::new(consumer);
        if let Some(credentials) = &self.settings.credentials {
            credentials.serve(&consumer, |consumer| consumer.client());
        }
        let ready = Arc::new(Notify::new());
        let on_ready = Arc::clone(&ready);
        let queue = BatchQueue::with_on_ready(Arc::clone(&consumer), move || on_ready.notify_one())?;
        let topics: Vec<&str> = match &self.topics {
            Topics::List(names) => names.iter().map(String::as_str).collect(),
            Topics::Pattern(pattern) => vec![pattern],
        };
        consumer.subscribe(&topics)?;
        let assigning = match self.protocol {
            GroupProtocol::Eager => Assigning::Whole,
            GroupProtocol::Cooperative | GroupProtocol::Consumer => Assigning::Incremental,
        };
        Ok(KafkaClient { queue, consumer, ready, assigning, fetching: HashMap::new() })
    }
}

/// A membership.
pub struct KafkaClient {
    // Before the consumer, which it holds too.
    queue: BatchQueue<Notes>,
    consumer: Arc<BaseConsumer<Notes>>,
    /// A record or an event may have come.
    ready: Arc<Notify>,
    assigning: Assigning,
    /// What is fetched, and whether librdkafka has reported statistics since the fetch began. The first report may be of
    /// before.
    fetching: HashMap<TopicPartition, bool>,
}

impl KafkaClient {
    /// Fetches this whole list and nothing else.
    fn assign(&mut self, all: &[(TopicPartition, Offset)]) {
        for (source, _) in all {
            // The list starts again at its offsets, which lie before what was read and not taken.
            self.queue.discard(&source.topic, source.partition);
        }
        report("assign", self.consumer.assign(&list(all.iter().map(|(source, at)| (source, *at)))));
    }

    fn forward(&mut self, starts: &[(TopicPartition, Offset)]) {
        for (source, _) in starts {
            report("forward", self.queue.forward(&source.topic, source.partition));
            self.fetching.insert(source.clone(), false);
        }
    }

    fn unforward(&mut self, sources: &[TopicPartition]) {
        for source in sources {
            self.queue.unforward(&source.topic, source.partition);
            self.fetching.remove(source);
        }
    }
}

impl GroupClient for KafkaClient {
    async fn ready(&mut self, wait: Duration) {
        if !self.queue.is_ready() {
            // Whether it was notified or not: the caller looks.
            let _notified = timeout(wait, self.ready.notified()).await.is_ok();
        }
    }

    fn serve(&mut self) -> Result<(), ReadError> {
        match self.consumer.poll(Duration::ZERO) {
            None => Ok(()),
            Some(Err(error)) => Err(read_error(error)),
            // Every partition is forwarded before it is fetched, so this can't be. Were it so all the same, the record would be
            // missed: the claims lead back to it.
            Some(Ok(message)) => {
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                let source = format!("a record came by the consumer's own queue: {topic}/{partition}@{offset}").into();
                Err(ReadError { kind: ReadErrorKind::OutOfRange, source })
            }
        }
    }

    fn read(&mut self, visitor: &mut impl Visitor) -> Result<bool, ReadError> {
        let mut offered = false;
        let mut bulk = self.queue.read(Duration::ZERO).map_err(read_error)?;
        while let Some(item) = bulk.next_item() {
            match item {
                Item::Run(mut run) => {
                    offered = true;
                    visitor.partition(run.topic, run.partition);
                    let mut offer = |record: Record<'_>| {
                        let incoming = Incoming {
                            offset: Offset::new(record.offset()),
                            timestamp_ms: record.timestamp(),
                            key: record.key(),
                            value: record.value(),
                        };
                        visitor.record(&incoming, |arena| push_headers(record.headers(), arena)) == Visit::Taken
                    };
                    while let Some(taken) = run.records.next_if(&mut offer) {
                        if !taken {
                            return Ok(true);
                        }
                    }
                }
                Item::Fault(fault) => return Err(read_error(fault.error())),
            }
        }
        Ok(offered)
    }

    fn take_events(&mut self) -> Vec<GroupEvent> {
        self.consumer.context().take()
    }

    fn take_read_to(&mut self) -> Vec<(TopicPartition, Offset)> {
        // What librdkafka has read the session has only once nothing waits here.
        if self.queue.untaken() > 0 {
            return Vec::new();
        }
        let mut read = self.consumer.context().take_read();
        read.retain(|(source, _)| match self.fetching.get_mut(source) {
            Some(reported) => std::mem::replace(reported, true),
            None => false,
        });
        read
    }

    fn assigning(&self) -> Assigning {
        self.assigning
    }

    fn accept(&mut self) {
        let nothing = TopicPartitionList::new();
        let answer = match self.assigning {
            Assigning::Incremental => self.consumer.incremental_assign(&nothing),
            Assigning::Whole => self.consumer.assign(&nothing),
        };
        report("assign", answer);
    }

    fn release(&mut self, sources: &[TopicPartition]) {
        let answer = match self.assigning {
            Assigning::Incremental => {
                let fetched: Vec<_> = sources.iter().filter(|source| self.fetching.contains_key(*source)).collect();
                self.consumer.incremental_unassign(&list(fetched.iter().map(|source| (*source, Offset::ZERO))))
            }
            Assigning::Whole => self.consumer.unassign(),
        };
        report("unassign", answer);
        self.unforward(sources);
        if self.assigning == Assigning::Whole {
            let rest: Vec<_> = self.fetching.keys().cloned().collect();
            self.unforward(&rest);
        }
    }

    fn fetch(&mut self, starts: &[(TopicPartition, Offset)], all: &[(TopicPartition, Offset)]) {
        // Forwarded before the assignment: else records come by the consumer's own queue.
        match self.assigning {
            Assigning::Incremental => {
                self.forward(starts);
                let result = self.consumer.incremental_assign(&list(starts.iter().map(|(s, at)| (s, *at))));
                report("assign", result);
            }
            Assigning::Whole => {
                self.forward(all);
                self.assign(all);
            }
        }
    }

    fn stop(&mut self, sources: &[TopicPartition], rest: &[(TopicPartition, Offset)]) {
        match self.assigning {
            Assigning::Incremental => {
                let result = self.consumer.incremental_unassign(&list(sources.iter().map(|s| (s, Offset::ZERO))));
                report("unassign", result);
                self.unforward(sources);
            }
            Assigning::Whole => {
                self.forward(rest);
                self.assign(rest);
                self.unforward(sources);
            }
        }
    }

    fn commit(&mut self, positions: &[(TopicPartition, Offset)]) {
        self.consumer.context().commit_sent();
        let positions = list(positions.iter().map(|(source, offset)| (source, *offset)));
        if let Err(error) = self.consumer.commit(&positions, CommitMode::Async) {
            debug!(%error, "Kafka did not take the committed offsets");
        }
    }

    async fn leave(self, drained: bool) {
        let Self { queue, consumer, .. } = self;
        // The queue's end gives what it has back to the consumer, which closes with it.
        drop(queue);
        let deadline = Instant::now() + COMMIT_DEADLINE;
        while drained && !consumer.context().commits_answered() && Instant::now() < deadline {
            // Records that come now are left to the next owner.
            drop(consumer.poll(Duration::ZERO));
            sleep(COMMIT_POLL).await;
        }
        consumer.context().close();
        // On a thread of its own: it may take for ever.
        let closing = tokio::task::spawn_blocking(move || drop(consumer));
        if timeout(CLOSE_DEADLINE, closing).await.is_err() {
            warn!("leaving the group takes too long, going on without");
        }
    }
}

fn push_headers(headers: Headers<'_>, arena: &mut Vec<u8>) {
    for (name, value) in headers {
        push_header(arena, name, value);
    }
}

/// Sorts an error of librdkafka.
fn read_error(error: KafkaError) -> ReadError {
    let kind = match &error {
        KafkaError::MessageConsumptionFatal(_) => ReadErrorKind::Fatal,
        KafkaError::MessageConsumption(Code::OffsetOutOfRange | Code::AutoOffsetReset) => ReadErrorKind::OutOfRange,
        KafkaError::MessageConsumption(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            ReadErrorKind::Denied
        }
        _ => ReadErrorKind::Retried,
    };
    ReadError { kind, source: error.into() }
}

fn report(what: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        warn!(%error, what, "librdkafka refused a change of the assignment");
    }
}

fn list<'a>(places: impl IntoIterator<Item = (&'a TopicPartition, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (source, offset) in places {
        let added = list.add_partition_offset(&source.topic, source.partition, KafkaOffset::Offset(offset.get()));
        added.expect("an offset of 0 or more is one that librdkafka can hold");
    }
    list
}
