//! The producer. Its records contain a number, a text, a checksum of both, and a reading. They are spread evenly over all
//! partitions of the topic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

/// How long a record may take to be delivered. The time is long, because a campaign makes brokers unavailable. Meanwhile the
/// producer must not give up a record.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(600);
/// How often the producer asks for the topic's number of partitions, which a fault may increase.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seq: i64,
    pub(crate) text: String,
    pub(crate) checksum: i64,
}

/// The characters from which texts are built. Some have more than one byte, and some must be escaped in JSON.
const LETTERS: [&str; 10] = ["a", "Z", "7", " ", "\"", "\\", "\t", "é", "日", "𝄞"];

impl Content {
    /// Returns the content of record `seq`. It depends on `seq` only.
    pub(crate) fn of(seq: i64) -> Self {
        let mut random = fastrand::Rng::with_seed(seq.unsigned_abs());
        let text: String = (0..random.usize(10..60)).map(|_| LETTERS[random.usize(..LETTERS.len())]).collect();
        let checksum = checksum(seq, &text);
        Self { seq, text, checksum }
    }

    /// Returns the content as JSON, with the additional field `reading`.
    fn json(&self) -> String {
        let mut text = String::new();
        for letter in self.text.chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                letter => text.push(letter),
            }
        }
        let Self { seq, checksum, .. } = self;
        format!("{{\"seq\":{seq},\"text\":\"{text}\",\"reading\":{},\"checksum\":{checksum}}}", reading(*seq))
    }
}

/// Returns the reading of record `seq`. A `real` can store it exactly, like a `double precision`. So a fault may change the
/// column's type from one to the other.
#[expect(clippy::cast_precision_loss, reason = "below 2^20")]
pub(crate) fn reading(seq: i64) -> f64 {
    (seq % (1 << 20)) as f64 / 8.0
}

/// Returns the 64-bit FNV-1a hash (Fowler, Noll, Vo) of a record's number and text.
pub(crate) fn checksum(seq: i64, text: &str) -> i64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = seq.to_le_bytes().iter().chain(text.as_bytes()).fold(0xcbf2_9ce4_8422_2325, fold);
    i64::from_ne_bytes(hash.to_ne_bytes())
}

/// The outcomes of the records that were sent: Kafka acknowledged `count` of them, and didn't take `failed` of them. `acked` has
/// one bit per record: the bit with the record's number is set if Kafka acknowledged the record.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    acked: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) failed: u64,
    pub(crate) last_error: Option<String>,
}

impl Delivered {
    pub(crate) fn holds(&self, seq: i64) -> bool {
        let seq = seq.unsigned_abs();
        usize::try_from(seq / 64).ok().and_then(|at| self.acked.get(at)).is_some_and(|bits| bits >> (seq % 64) & 1 == 1)
    }
}

#[derive(Debug, Default)]
struct Acks {
    /// Never contended: Kafka's reports arrive on the sending thread, and no other thread uses the lock.
    delivered: Mutex<Delivered>,
}

impl ClientContext for Acks {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => {
                if delivered.acked.len() <= seq / 64 {
                    delivered.acked.resize(seq / 64 + 1, 0);
                }
                delivered.acked[seq / 64] |= 1 << (seq % 64);
                delivered.count += 1;
            }
            Err((error, _)) => {
                delivered.failed += 1;
                delivered.last_error = Some(error.to_string());
            }
        }
    }
}

/// A producer on its own thread.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Delivered>>>,
}

impl Load {
    pub(crate) fn start(bootstrap_servers: &str, topic: &str, rate: f64) -> Result<Self> {
        let producer: BaseProducer<Acks> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("compression.type", "lz4")
            .set("delivery.timeout.ms", DELIVERY_DEADLINE.as_millis().to_string())
            .set("queue.buffering.max.messages", "1000000")
            .set("reconnect.backoff.max.ms", "500")
            .create_with_context(Acks::default())?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (topic, stopped, counted) = (topic.to_owned(), Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || produce(producer, &topic, rate, &stopped, &counted));
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops sending, and waits for Kafka's reports on all records. Returns an error if they don't all arrive within
    /// [`DELIVERY_DEADLINE`], or if the producer was stopped before.
    pub(crate) fn end(&mut self) -> Result<Delivered> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the producer has ended before")?;
        thread.join().map_err(|_| anyhow!("the producer panicked"))?
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of records")]
#[expect(clippy::needless_pass_by_value, reason = "the thread's own")]
fn produce(
    producer: BaseProducer<Acks>,
    topic: &str,
    rate: f64,
    stop: &AtomicBool,
    counted: &AtomicU64,
) -> Result<Delivered> {
    let (started, mut look_at, mut partitions) = (Instant::now(), Instant::now(), 0);
    let mut seq = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= look_at || partitions == 0 {
            look_at = Instant::now() + LOOK_EVERY;
            // If no broker answers, keep the known number of partitions until the next attempt.
            if let Ok(metadata) = producer.client().fetch_metadata(Some(topic), Duration::from_secs(1)) {
                let found = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
                partitions = partitions.max(i32::try_from(found)?);
            }
        }
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        while seq < due && partitions > 0 {
            let number = i64::try_from(seq)?;
            let (key, value) = (number.to_string(), Content::of(number).json());
            let partition = i32::try_from(seq % usize::try_from(partitions)?)?;
            let record = BaseRecord::with_opaque_to(topic, seq).key(&key).payload(&value).partition(partition);
            match producer.send(record) {
                Ok(()) => seq += 1,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                // The producer doesn't know the newest partition yet. Leave that partition out for now, and send the record
                // again.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition), _)) => partitions -= 1,
                Err((error, _)) => return Err(error.into()),
            }
        }
        counted.store(seq as u64, Ordering::Relaxed);
        producer.poll(TICK);
    }
    producer.flush(DELIVERY_DEADLINE).context("Kafka doesn't answer for all that was sent")?;
    Ok(std::mem::take(&mut *producer.context().delivered.lock().unwrap_or_else(PoisonError::into_inner)))
}
