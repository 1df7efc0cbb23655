//! Reads given ranges of logs, for commands and for the lag. The reader joins no group and commits nothing. Reading blocks, so it
//! is done outside of the runtime's async threads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_protocol::batch::Incoming;
use tidegate_protocol::position::Offset;
use tidegate_protocol::record::push_header;

use super::credentials::Keeper;
use super::health::KafkaHealth;
use super::rebalance::Notes;
use super::settings::Settings;

/// Reading is given up after Kafka has sent nothing for this long. [`Reader::with_silence_limit`] sets another limit.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The longest wait for one record. After each wait, the time since Kafka last sent something is checked.
const POLL: Duration = Duration::from_millis(200);

pub struct Reader {
    health: Arc<KafkaHealth>,
    consumer: Arc<BaseConsumer<Notes>>,
    silence_max: Duration,
    /// The keeper of the client's credentials. The reader holds it, because a keeper ends when nobody holds it.
    _credentials: Option<Arc<Keeper>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// Makes a reader. The settings must be those of [`super::settings::reader`].
    ///
    /// # Errors
    /// If librdkafka refuses a setting.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let setting = |name| settings.get(name).unwrap_or_default();
        let health = Arc::new(KafkaHealth::of_command(setting("bootstrap.servers"), setting("group.id")));
        let consumer: Result<BaseConsumer<Notes>, _> =
            settings.create_with_context(Notes::new(Arc::clone(&health), None));
        let consumer = Arc::new(consumer.map_err(|error| super::settings::refused(settings, &error))?);
        if let Some(credentials) = &settings.credentials {
            credentials.serve(&consumer, |consumer| consumer.client());
        }
        Ok(Self { health, consumer, silence_max: SILENCE_MAX, _credentials: settings.credentials.clone() })
    }

    /// Sets how long Kafka may send nothing before reading is given up.
    #[must_use]
    pub fn with_silence_limit(self, silence_max: Duration) -> Self {
        Self { silence_max, ..self }
    }

    /// Calls `take` with every record whose offset is in its partition's range, in order within a partition. A range ends early
    /// if the log's end comes first. Offsets without a record (compacted away, transaction markers, aborted records) are
    /// skipped.
    ///
    /// # Errors
    /// The error of Kafka, or a timeout if Kafka sends nothing for the silence limit (15 seconds by default).
    pub fn read(
        &self,
        topic: &str,
        ranges: &[(i32, Range<Offset>)],
        mut take: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), String> {
        let said = |error: &KafkaError| format!("can't read topic `{topic}`: {error}");
        let mut open: HashMap<i32, Range<Offset>> =
            ranges.iter().filter(|(_, range)| !range.is_empty()).cloned().collect();
        let mut start = TopicPartitionList::with_capacity(open.len());
        for (partition, range) in &open {
            let mut added = start.add_partition(topic, *partition);
            added.set_offset(KafkaOffset::Offset(range.start.get())).map_err(|error| said(&error))?;
        }
        self.consumer.assign(&start).map_err(|error| said(&error))?;
        let mut heard_at = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), Offset::new(message.offset()));
                    // The partition's range was read to its end. Its further records don't show that Kafka still sends records of
                    // the other partitions, so leave `heard_at` unchanged.
                    let Some(range) = open.get(&partition) else { continue };
                    if range.contains(&offset) {
                        take(&message);
                    }
                    // Measure the time after the record was taken, because taking it may have waited for something else.
                    heard_at = Instant::now();
                    if offset.successor() >= range.end {
                        open.remove(&partition);
                    }
                }
                // PartitionEOF names no topic. So only one topic is read at a time.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if open.remove(&partition).is_some() {
                        heard_at = Instant::now();
                    }
                }
                Some(Err(
                    error @ KafkaError::MessageConsumption(
                        RDKafkaErrorCode::OffsetOutOfRange
                        | RDKafkaErrorCode::AutoOffsetReset
                        | RDKafkaErrorCode::TopicAuthorizationFailed,
                    ),
                )) => return Err(said(&error)),
                // librdkafka retries after other errors, and the health has the cause.
                Some(Err(_)) | None => {}
            }
            if heard_at.elapsed() > self.silence_max {
                let (why, limit) = (self.health.silence(), self.silence_max);
                return Err(format!("Kafka gave no record of topic `{topic}` for {limit:?}: {why}"));
            }
        }
        self.consumer.unassign().map_err(|error| said(&error))
    }
}

/// Returns a message's offset, timestamp, key and value in the form in which a batch takes a record.
pub fn incoming<M: Message>(message: &M) -> Incoming<'_> {
    Incoming {
        offset: Offset::new(message.offset()),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key(),
        value: message.payload(),
    }
}

/// Appends a message's headers to `arena`, in the form of [`push_header`].
pub fn push_headers<M: Message<Headers: Headers>>(message: &M, arena: &mut Vec<u8>) {
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            push_header(arena, header.key.as_bytes(), header.value);
        }
    }
}
