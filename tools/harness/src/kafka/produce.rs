use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::Kafka;

const DELIVERY_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Default)]
pub struct Record {
    /// `None` lets the producer choose: by the key, or at random if the record has no key.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    /// `None` makes the record a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// In milliseconds since 1970. `None` means the time of sending.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    pub fn tombstone() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn to(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }

    #[must_use]
    pub fn at_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

impl Kafka {
    /// Sends records, idempotently and with acks=all, and waits until all are acknowledged, for at most two minutes. Returns the
    /// number of records.
    ///
    /// A million small records take one or two seconds. Records of one partition keep their order.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Result<u64> {
        let producer: BaseProducer<FirstFailure> = self
            .client_config()
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.num.messages", "20000")
            .set("queue.buffering.max.messages", "500000")
            // Only the topic's setting should limit the size of a record, so this limit is high.
            .set("message.max.bytes", "67108864")
            .create_with_context(FirstFailure::default())?;
        let mut sent = 0;
        for record in records {
            send(&producer, topic, &record).with_context(|| format!("could not send to topic `{topic}`"))?;
            sent += 1;
            const SENT_BETWEEN_POLLS: u64 = 1_000;
            if sent % SENT_BETWEEN_POLLS == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(DELIVERY_DEADLINE).with_context(|| format!("could not deliver all to topic `{topic}`"))?;
        if let Some(error) = producer.context().take() {
            return Err(error).with_context(|| format!("could not deliver to topic `{topic}`"));
        }
        Ok(sent)
    }
}

fn send(producer: &BaseProducer<FirstFailure>, topic: &str, record: &Record) -> KafkaResult<()> {
    let mut base: BaseRecord<'_, Vec<u8>, Vec<u8>> = BaseRecord::to(topic);
    base.partition = record.partition;
    base.key = record.key.as_ref();
    base.payload = record.payload.as_ref();
    base.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let all = record
            .headers
            .iter()
            .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }));
        base.headers = Some(all);
    }
    loop {
        match producer.send(base) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                base = refused;
                producer.poll(Duration::from_millis(50));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

#[derive(Debug, Default)]
struct FirstFailure {
    /// The same thread polls the producer and reads the error, so the lock is never contended.
    error: Mutex<Option<KafkaError>>,
}

impl FirstFailure {
    fn take(&self) -> Option<KafkaError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for FirstFailure {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for FirstFailure {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}
