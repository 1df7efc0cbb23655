//! The parameters of a run of the producer.

use std::str::FromStr;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::{DeliverySpec, FleetSpec, Format, InvalidSpec, ParseError, Partitioning, Profile};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    None,
    #[default]
    Lz4,
}

impl FromStr for Compression {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            _ => Err(ParseError::new(text, "a compression: `none` or `lz4`")),
        }
    }
}

/// How to treat a record if the producer's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The record and all later ones wait, and are sent late. None is dropped before the run is stopped.
    #[default]
    Wait,
    /// The record is dropped and counted as refused, as in a device with a full buffer. It isn't in [`Truth`](crate::Truth).
    Refuse,
}

/// A run ends at the first limit that is reached. The stop flag or a fatal error of the producer may end it earlier.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limit {
    /// The number of records to send. Repetitions and refused records count.
    pub records: Option<u64>,
    /// The length of the run, in seconds. With a rate, all records that are due within this time are sent, even if that takes
    /// longer.
    pub seconds: Option<f64>,
}

#[derive(Debug, Clone)]
pub struct ProduceSpec {
    /// One or more brokers, each as `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// The topic, which must have at least as many partitions as the partitioning needs.
    pub topic: String,
    pub fleet: FleetSpec,
    /// Whether the simulation begins when the first record is sent, instead of at `fleet.start_ms`. A reading's `ts` is then the
    /// time at which it should be sent. This requires a steady rate that equals the number of vehicles, and no late or repeated
    /// readings.
    pub start_now: bool,
    pub delivery: DeliverySpec,
    /// Records per second; 0 means as fast as the queue accepts them. If the rate equals the number of vehicles and no reading is
    /// repeated, the simulated clock runs in real time. At a higher rate, the readings' `ts` runs ahead of real time. Kafka's
    /// timestamp is always the time of sending.
    pub rate: f64,
    /// Ignored if `rate` is 0.
    pub profile: Profile,
    pub limit: Limit,
    pub partitioning: Partitioning,
    pub format: Format,
    pub compression: Compression,
    pub queue_kib: u32,
    pub when_full: WhenFull,
    /// The longest wait for acknowledgements after the last record was sent.
    pub flush_timeout: Duration,
    /// Whether to compute the [`Truth`](crate::Truth), which takes about 100 bytes per trip.
    pub keep_truth: bool,
    /// Settings of librdkafka, as names and values. They override the settings that this crate makes.
    pub settings: Vec<(String, String)>,
}

impl ProduceSpec {
    /// Returns the specification of a thousand vehicles. Each vehicle sends once per second, until the run is stopped. There is
    /// one partition per region.
    pub fn new(bootstrap_servers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic: topic.into(),
            fleet: FleetSpec::default(),
            start_now: false,
            delivery: DeliverySpec::default(),
            rate: 1_000.0,
            profile: Profile::Steady,
            limit: Limit::default(),
            partitioning: Partitioning::ByRegion,
            format: Format::Telemetry,
            compression: Compression::Lz4,
            queue_kib: 65_536,
            when_full: WhenFull::Wait,
            flush_timeout: Duration::from_secs(30),
            keep_truth: false,
            settings: Vec::new(),
        }
    }
}

/// Why a run did not begin. After it has begun, errors are counted in its [`Summary`](crate::Summary).
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    #[error(transparent)]
    Fleet(#[from] InvalidSpec),
    #[error("`rate` must be zero or positive, not {0}")]
    Rate(f64),
    /// A setting is wrong, or the cluster was not reached.
    #[error("could not start the producer")]
    Kafka(#[from] KafkaError),
    #[error("topic `{topic}` has {found} partitions, of {needed} needed; create it first")]
    Partitions {
        topic: String,
        /// How many partitions the topic has; 0 if it doesn't exist.
        found: usize,
        needed: u16,
    },
}
