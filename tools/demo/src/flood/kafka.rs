//! The arrangement with Kafka. The sender is a producer, whose queue is as large as the other arrangements' buffers. Tidegate
//! writes into the database.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tidegate_harness::Daemon;

use super::link::{Answer, Intake, Word};
use super::{BUFFER_BYTES, PARTITIONS};

#[derive(Debug, Default)]
struct Reports(Mutex<Vec<Answer>>);

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let word = if result.is_ok() { Word::Both } else { Word::Failed };
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Answer { index, at: Instant::now(), word });
    }
}

pub(crate) struct KafkaLink<'a> {
    producer: BaseProducer<Reports>,
    topic: String,
    daemon: Daemon,
    start: Box<dyn Fn() -> Result<Daemon> + 'a>,
}

impl<'a> KafkaLink<'a> {
    /// Connects the producer, and calls `start` to start Tidegate's daemon. Calls `start` again after the daemon was killed.
    pub(crate) fn start(servers: &str, topic: &str, start: impl Fn() -> Result<Daemon> + 'a) -> Result<Self> {
        let producer: BaseProducer<Reports> = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("client.id", "fleet")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.kbytes", (BUFFER_BYTES / 1024).to_string())
            .set("queue.buffering.max.messages", "1000000")
            .create_with_context(Reports::default())?;
        // Connect and load the topic's metadata now, so that the producer is like one that has been running for a while.
        producer.client().fetch_metadata(Some(topic), Duration::from_secs(10)).context("the topic is not there")?;
        let daemon = start()?;
        Ok(Self { producer, topic: topic.to_owned(), daemon, start: Box::new(start) })
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}

impl Intake for KafkaLink<'_> {
    fn offer(&mut self, index: u32, vehicle: u32, json: &[u8]) -> Result<bool> {
        let key = vehicle.to_le_bytes();
        let record = BaseRecord::with_opaque_to(&self.topic, index as usize)
            .partition(i32::try_from(vehicle % PARTITIONS)?)
            .key(&key)
            .payload(json);
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => Err(error.into()),
        }
    }

    fn answers(&mut self, into: &mut Vec<Answer>) -> Result<()> {
        // One call of `poll` may report on many records. Repeat it until it reports on none.
        loop {
            self.producer.poll(Duration::ZERO);
            let mut reports = self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
            if reports.is_empty() {
                return Ok(());
            }
            into.append(&mut reports);
        }
    }

    fn kill(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon = (self.start)()?;
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        Some(self.daemon.pid())
    }
}
