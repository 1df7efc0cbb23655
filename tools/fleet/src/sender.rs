//! The Kafka producer. librdkafka returns one delivery report per record. One clock measures both the sending and the report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::report::Delays;
use crate::{Compression, ProduceError, ProduceSpec, Quantiles};

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// The totals of the delivery reports. The locks are never contended: librdkafka's reports and errors arrive on the sending
/// thread.
pub(crate) struct Acks {
    pub(crate) acked: AtomicU64,
    pub(crate) failed: AtomicU64,
    delays: Mutex<Delays>,
    origin: Instant,
    error: Mutex<Option<String>>,
}

impl Acks {
    /// Returns the quantiles of the time from a record's intended time to its acknowledgement. `None` if no record was
    /// acknowledged.
    pub(crate) fn delays(&self) -> Option<Quantiles> {
        Quantiles::of(&self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl ClientContext for Acks {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(format!("{error}: {reason}"));
    }
}

impl ProducerContext for Acks {
    /// The record's intended time, in microseconds since `origin`. It is passed through librdkafka to the delivery report.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, intended_us: usize) {
        match result {
            Ok(_) => {
                self.acked.fetch_add(1, Ordering::Relaxed);
                let intended = Duration::from_micros(intended_us as u64);
                self.delays
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .record(self.origin.elapsed().saturating_sub(intended));
            }
            Err((error, _)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.note(error.to_string());
            }
        }
    }
}

/// A record to send. Its times count from the sender's start. The schedule wants the record to be sent at `intended`, and the
/// producer gets it at `now`. The record's timestamp in Kafka is `now`.
pub(crate) struct Outgoing<'a> {
    pub(crate) partition: u16,
    pub(crate) key: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) intended: Duration,
    pub(crate) now: Duration,
}

/// A producer. It connects to the cluster from `Acks::origin` to `started`, which takes `connecting`. The times of an
/// [`Outgoing`] record count from `started`. Those of the delivery reports count from `Acks::origin`.
pub(crate) struct Sender<'a> {
    producer: BaseProducer<Acks>,
    topic: &'a str,
    started: Instant,
    started_ms: i64,
    connecting: Duration,
}

impl<'a> Sender<'a> {
    /// # Errors
    /// If a setting is wrong, the cluster can't be reached, or the topic has too few partitions.
    pub(crate) fn connect(spec: &'a ProduceSpec) -> Result<Self, ProduceError> {
        let acks = Acks {
            acked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            delays: Mutex::default(),
            origin: Instant::now(),
            error: Mutex::new(None),
        };
        let topic = spec.topic.as_str();
        let producer: BaseProducer<Acks> = config(spec).create_with_context(acks)?;
        let metadata = producer.client().fetch_metadata(Some(topic), METADATA_TIMEOUT)?;
        let found = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let needed = spec.partitioning.count();
        if found < usize::from(needed) {
            return Err(ProduceError::Partitions { topic: topic.to_owned(), found, needed });
        }
        let (started, started_ms) = (Instant::now(), wall_ms());
        let connecting = started - producer.context().origin;
        Ok(Self { producer, topic, started, started_ms, connecting })
    }

    pub(crate) fn started_ms(&self) -> i64 {
        self.started_ms
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn acks(&self) -> &Acks {
        self.producer.context()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.producer.in_flight_count().max(0).unsigned_abs().into()
    }

    /// Serves at most one event of librdkafka, without waiting. Such an event may contain many delivery reports.
    pub(crate) fn serve(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Calls [`Self::serve`], and then sleeps for `for_`, but at least half a millisecond and at most 50 ms. Waiting in `poll`
    /// instead would keep the CPU busy during the last fraction of a millisecond.
    pub(crate) fn rest(&self, for_: Duration) {
        self.serve();
        thread::sleep(for_.clamp(Duration::from_micros(500), Duration::from_millis(50)));
    }

    /// Puts a record into the queue. Its delivery report tells the outcome later.
    pub(crate) fn send(&self, record: &Outgoing<'_>) -> Result<(), Refusal> {
        let intended = self.connecting + record.intended;
        let intended_us = usize::try_from(intended.as_micros()).unwrap_or(usize::MAX);
        let since_start = i64::try_from(record.now.as_millis()).unwrap_or(i64::MAX);
        let sending = BaseRecord::with_opaque_to(self.topic, intended_us)
            .partition(record.partition.into())
            .timestamp(self.started_ms.saturating_add(since_start))
            .key(record.key)
            .payload(record.payload);
        match self.producer.send(sending) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Err(Refusal::QueueFull),
            Err((error, _)) => {
                self.acks().note(error.to_string());
                let is_fatal = self.producer.client().fatal_error().is_some();
                Err(if is_fatal { Refusal::Fatal } else { Refusal::Record })
            }
        }
    }
}

/// Why the producer refused a record. After `Fatal`, the producer never accepts a record again. Otherwise it may accept the next
/// one.
pub(crate) enum Refusal {
    QueueFull,
    Record,
    Fatal,
}

fn wall_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn config(spec: &ProduceSpec) -> ClientConfig {
    let compression = match spec.compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
    };
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &spec.bootstrap_servers)
        .set("client.id", "fleet")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("compression.type", compression)
        .set("queue.buffering.max.kbytes", spec.queue_kib.to_string())
        .set("queue.buffering.max.messages", "1000000");
    for (key, value) in &spec.settings {
        config.set(key, value);
    }
    config
}
