//! One member of the consumer group, on librdkafka. Events come from the consumer's own queue. Records come in bulk from a
//! separate queue.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_kafka_batch::{BatchQueue, Headers, Item, Record, is_member};
use tidegate_protocol::batch::Incoming;
use tidegate_protocol::group::{Assigning, Group, GroupClient, GroupEvent, ReadError, ReadErrorKind, Visit, Visitor};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::record::push_header;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::health::KafkaHealth;
use super::list::partition_list;
use super::membership::{Membership, TROUBLED_WITHIN};
use super::rebalance::Notes;
use super::settings::Settings;
use crate::config::{GroupProtocol, Topics};

/// The time between two checks whether the subscription has ended.
const LEAVE_POLL: Duration = Duration::from_millis(5);
/// The longest wait for the end of the subscription.
const LEAVE_DEADLINE: Duration = Duration::from_secs(1);
/// The longest wait for the client to close. After this time, closing goes on in the background.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// If a consumer has committed nothing for this long, it commits a position again. The commit changes nothing, but
/// Kafka's answer says whether the client still has the right to read the group and the topic. Nothing else shows this
/// reliably: librdkafka doesn't report a denied heartbeat, and reports a denied fetch only once.
const PROBE_EVERY: Duration = Duration::from_secs(4);

/// Makes the clients of one consumer, one after the other. Each of them joins the pipeline's consumer group.
#[derive(Debug)]
pub struct KafkaGroup {
    pub health: Arc<KafkaHealth>,
    /// The consumer's number within the pipeline and this process, from 0.
    pub consumer: u32,
    pub settings: Settings,
    pub topics: Topics,
    pub protocol: GroupProtocol,
    /// The consumer's static membership; `None` for a member without a `group.instance.id`.
    pub membership: Option<Membership>,
}

impl Group for KafkaGroup {
    type Client = KafkaClient;

    fn join(&mut self) -> Result<KafkaClient, Box<dyn Error + Send + Sync>> {
        let membership = self.membership.as_ref().and_then(Membership::next);
        let mut settings = self.settings.clone();
        if let Some(Membership { id, .. }) = &membership {
            settings.set("group.instance.id", id);
        }
        let notes = Notes::new(Arc::clone(&self.health), Some(self.consumer));
        let consumer: BaseConsumer<Notes> = settings.create_with_context(notes)?;
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
        let (fetching, told) = (HashMap::new(), BTreeMap::new());
        let probe_at = Instant::now() + PROBE_EVERY;
        Ok(KafkaClient {
            queue,
            consumer,
            ready,
            protocol: self.protocol,
            assigning,
            membership,
            fetching,
            told,
            probed: None,
            probe_at,
            number: self.consumer,
        })
    }
}

/// One membership in the consumer group, with a librdkafka client of its own.
pub struct KafkaClient {
    // The queue holds a reference to the consumer. It is declared first, so that it is dropped first.
    queue: BatchQueue<Notes>,
    consumer: Arc<BaseConsumer<Notes>>,
    /// Notified when a record or an event may have arrived.
    ready: Arc<Notify>,
    protocol: GroupProtocol,
    assigning: Assigning,
    membership: Option<Membership>,
    /// For each fetched partition, whether librdkafka has reported statistics since the fetch began. The first report
    /// is ignored, because it may describe the time before the fetch.
    fetching: HashMap<TopicPartition, bool>,
    /// For each fetched partition, the position that was last committed
    /// to Kafka. [`KafkaClient::probe`] commits these positions again.
    told: BTreeMap<TopicPartition, Offset>,
    /// The partition whose commit the last [`KafkaClient::probe`]
    /// repeated. The next probe takes the partition after it in `told`.
    probed: Option<TopicPartition>,
    probe_at: Instant,
    number: u32,
}

impl KafkaClient {
    /// Replaces all fetched partitions with those of this list, as an eager assignment requires.
    fn assign(&mut self, all: &[(TopicPartition, Offset)]) {
        for (source, _) in all {
            // The fetch starts again at the list's offsets, so records that were read and not taken will be delivered again.
            // Discard the copies that were read already.
            self.queue.discard(&source.topic, source.partition);
        }
        self.report("assign", self.consumer.assign(&list(all.iter().map(|(source, at)| (source, *at)))));
    }

    /// Returns the error that ended this client, if any. An error has the kind `Broken` if a new client is to be tried. There are
    /// two such errors. Either the broker took the member's name (`group.instance.id`) away or refuses it, or the client has no
    /// right to read the group. Only under KIP-848 does librdkafka end the client because of a missing right.
    fn fatal(&self) -> Option<ReadError> {
        let (code, text) = self.consumer.client().fatal_error()?;
        if code == Code::GroupAuthorizationFailed {
            self.consumer.context().group_denied();
            return Some(ReadError { kind: ReadErrorKind::Broken, source: text.into() });
        }
        if code == Code::UnsupportedVersion && self.protocol == GroupProtocol::Consumer {
            let why = self.consumer.context().health().refused_consumer_protocol().to_string();
            return Some(ReadError { kind: ReadErrorKind::Fatal, source: why.into() });
        }
        let troubled = self.consumer.context().health().was_troubled(TROUBLED_WITHIN);
        let lost = self.membership.as_ref().and_then(|membership| membership.lost(code, troubled));
        Some(match lost {
            Some(why) => ReadError { kind: ReadErrorKind::Broken, source: why.into() },
            None => ReadError { kind: ReadErrorKind::Fatal, source: text.into() },
        })
    }

    fn forward(&mut self, starts: &[(TopicPartition, Offset)]) {
        for (source, _) in starts {
            let result = self.queue.forward(&source.topic, source.partition);
            self.report("forward", result);
            self.fetching.insert(source.clone(), false);
        }
    }

    fn unforward(&mut self, sources: &[TopicPartition]) {
        for source in sources {
            self.queue.unforward(&source.topic, source.partition);
            self.fetching.remove(source);
            self.told.remove(source);
        }
    }

    fn report(&self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            let pipeline = self.consumer.context().health().pipeline();
            warn!(pipeline, consumer = self.number, %error, what, "librdkafka refused a change of the assignment");
        }
    }

    fn send_commit(&mut self, positions: &[(TopicPartition, Offset)]) {
        self.probe_at = Instant::now() + PROBE_EVERY;
        let positions = list(positions.iter().map(|(source, offset)| (source, *offset)));
        if let Err(error) = self.queue.commit(&positions) {
            debug!(consumer = self.number, %error, "Kafka did not accept the committed offsets");
        }
    }

    /// Repeats commits that were made before: for one partition, which is another one at each call, and for one partition of
    /// each denied topic. Kafka's answers show whether the client still has its rights.
    fn probe(&mut self) {
        let mut again = BTreeMap::new();
        let next = match &self.probed {
            Some(last) => self.told.range((Bound::Excluded(last), Bound::Unbounded)).next(),
            None => None,
        };
        again.extend(next.or_else(|| self.told.iter().next()));
        self.probed = again.keys().next().map(|source: &&TopicPartition| (*source).clone());
        for topic in self.consumer.context().denied_topics() {
            again.extend(self.told.iter().find(|(source, _)| *source.topic == *topic));
        }
        let again: Vec<_> = again.into_iter().map(|(source, offset)| (source.clone(), *offset)).collect();
        if again.is_empty() {
            self.probe_at = Instant::now() + PROBE_EVERY;
        } else {
            self.send_commit(&again);
        }
    }
}

impl GroupClient for KafkaClient {
    async fn ready(&mut self, wait: Duration) {
        if !self.queue.is_ready() {
            // The caller checks what has happened, so it doesn't matter whether the wait was notified or timed out.
            let _notified = timeout(wait, self.ready.notified()).await.is_ok();
        }
    }

    fn serve(&mut self) -> Result<(), ReadError> {
        if Instant::now() >= self.probe_at {
            self.probe();
        }
        match self.consumer.poll(Duration::ZERO) {
            None => Ok(()),
            Some(Err(error)) => Err(self.fatal().unwrap_or_else(|| sorted(error))),
            // Every partition is forwarded before it is fetched, so no record should arrive on
            // the consumer's own queue. If one did, it would be missing from the batch. After
            // this error, all partitions are claimed again, and so the record is fetched again.
            Some(Ok(message)) => {
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                let source = format!("a record came by the consumer's own queue: {topic}/{partition}@{offset}").into();
                Err(ReadError { kind: ReadErrorKind::OutOfRange, source })
            }
        }
    }

    fn read(&mut self, visitor: &mut impl Visitor) -> Result<bool, ReadError> {
        let mut offered = false;
        let mut bulk = self.queue.read(Duration::ZERO).map_err(sorted)?;
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
                Item::Fault(fault) => {
                    if fault.code() == Code::TopicAuthorizationFailed {
                        self.consumer.context().topic_denied(fault.topic());
                        self.probe_at = Instant::now();
                    }
                    return Err(sorted(fault.error()));
                }
            }
        }
        Ok(offered)
    }

    fn take_events(&mut self) -> Vec<GroupEvent> {
        self.consumer.context().take()
    }

    fn take_read_to(&mut self) -> Vec<(TopicPartition, Offset)> {
        // While this queue has records, the poll loop hasn't received all records that librdkafka has read.
        if self.queue.remaining() > 0 {
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
        self.report("assign", answer);
    }

    fn release(&mut self, sources: &[TopicPartition]) {
        let answer = match self.assigning {
            Assigning::Incremental => {
                let fetched: Vec<_> = sources.iter().filter(|source| self.fetching.contains_key(*source)).collect();
                self.consumer.incremental_unassign(&list(fetched.iter().map(|source| (*source, Offset::ZERO))))
            }
            Assigning::Whole => self.consumer.unassign(),
        };
        self.report("unassign", answer);
        self.unforward(sources);
        if self.assigning == Assigning::Whole {
            let rest: Vec<_> = self.fetching.keys().cloned().collect();
            self.unforward(&rest);
        }
    }

    fn fetch(&mut self, starts: &[(TopicPartition, Offset)], all: &[(TopicPartition, Offset)]) {
        // Forward the partitions before they are assigned; otherwise records would arrive on the consumer's own queue.
        match self.assigning {
            Assigning::Incremental => {
                self.forward(starts);
                let result = self.consumer.incremental_assign(&list(starts.iter().map(|(s, at)| (s, *at))));
                self.report("assign", result);
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
                self.report("unassign", result);
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
        self.told.extend(positions.iter().cloned());
        self.send_commit(positions);
    }

    async fn leave(self) {
        let Self { queue, consumer, membership, number, .. } = self;
        // Dropping the queue moves the records that it hasn't read to the consumer's own queue. The consumer is closed below.
        drop(queue);
        consumer.context().close();
        // A member without a name leaves the group when it closes. A member with a name stays a member, unless it ends its
        // subscription before it closes.
        if membership.is_some_and(|membership| !membership.is_kept() && !membership.is_lost()) {
            let deadline = Instant::now() + LEAVE_DEADLINE;
            consumer.unsubscribe();
            while is_member(&consumer) && Instant::now() < deadline {
                // Records that arrive now are left to the next owner.
                drop(consumer.poll(Duration::ZERO));
                sleep(LEAVE_POLL).await;
            }
        }
        consumer.context().health().left(number);
        let pipeline = consumer.context().health().pipeline().to_owned();
        // Close on another thread, because closing waits for the answers to commits, possibly forever.
        let closing = tokio::task::spawn_blocking(move || drop(consumer));
        if timeout(CLOSE_DEADLINE, closing).await.is_err() {
            warn!(
                pipeline = &*pipeline,
                consumer = number,
                "leaving the group takes too long, continuing without waiting"
            );
        }
    }
}

fn push_headers(headers: Headers<'_>, arena: &mut Vec<u8>) {
    for (name, value) in headers {
        push_header(arena, name, value);
    }
}

fn sorted(error: KafkaError) -> ReadError {
    let kind = match &error {
        KafkaError::MessageConsumptionFatal(_) => ReadErrorKind::Fatal,
        KafkaError::MessageConsumption(Code::OffsetOutOfRange | Code::AutoOffsetReset) => ReadErrorKind::OutOfRange,
        _ => ReadErrorKind::Retried,
    };
    ReadError { kind, source: error.into() }
}

fn list<'a>(places: impl IntoIterator<Item = (&'a TopicPartition, Offset)>) -> TopicPartitionList {
    let places = places.into_iter().map(|(source, offset)| (source, KafkaOffset::Offset(offset.get())));
    partition_list(places).expect("an offset of 0 or more is one that librdkafka can hold")
}
