//! The parameters of a run of the producer.

use std::str::FromStr;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::{DeliverySpec, FleetSpec, Format, InvalidSpec, ParseError, Partitioning, Profile};

/// How the batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast, and half the bytes of JSON or less.
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

/// How to treat a record that finds the producer's queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It waits, and those behind it; all go out behind their time, none is lost.
    #[default]
    Wait,
    /// It is dropped and counted as refused, as a device with a full buffer would. The truth does
    /// not hold it.
    Refuse,
}

/// When a run ends; at the first that is reached. Without either, at the stop flag.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limit {
    /// Records sent, repetitions included.
    pub records: Option<u64>,
    /// Seconds of the schedule. Without a rate, seconds by the clock.
    pub seconds: Option<f64>,
}

/// One run of the producer.
#[derive(Debug, Clone)]
pub struct ProduceSpec {
    /// `host:port`, or several with commas.
    pub bootstrap_servers: String,
    /// Must exist, with the partitioning's number of partitions or more.
    pub topic: String,
    /// The vehicle that measures.
    pub fleet: FleetSpec,
    /// The simulation begins when the first record is sent, whatever `fleet.start_ms` says: with a rate of as many as there
    /// are vehicles, a reading's `ts` is then the time at which it should be sent.
    pub start_now: bool,
    /// How it arrives.
    pub delivery: DeliverySpec,
    /// Records a second; 0 is as fast as the queue takes them. With as many as there are vehicles, the simulated clock
    /// runs in real time; at a higher rate, as in a burst, the readings' `ts` runs ahead of the clock on the wall.
    /// Kafka's timestamp is always the time of sending.
    pub rate: f64,
    /// How the rate changes; without meaning when it is 0.
    pub profile: Profile,
    /// When to end.
    pub limit: Limit,
    /// Where to.
    pub partitioning: Partitioning,
    /// As what.
    pub format: Format,
    /// How small.
    pub compression: Compression,
    /// Bounds the producer's queue.
    pub queue_kib: u32,
    /// Beyond that bound.
    pub when_full: WhenFull,
    /// How long to wait for acknowledgements once the last record is sent.
    pub flush_timeout: Duration,
    /// Whether to keep the [`Truth`](crate::Truth); about 100 bytes for each trip.
    pub keep_truth: bool,
    /// Settings of librdkafka, over those from here.
    pub settings: Vec<(String, String)>,
}

impl ProduceSpec {
    /// A thousand vehicles in real time, into `north` and `south`, until it is stopped.
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

/// Why a run did not begin. Once it has begun, troubles are counted in its [`Summary`](crate::Summary).
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The fleet cannot be.
    #[error(transparent)]
    Fleet(#[from] InvalidSpec),
    /// A rate that is no rate.
    #[error("`rate` must be zero or positive, not {0}")]
    Rate(f64),
    /// A setting is wrong, or the cluster was not reached.
    #[error("could not start the producer")]
    Kafka(#[from] KafkaError),
    /// Records would have nowhere to go.
    #[error("topic `{topic}` has {found} partitions, of {needed} needed; create it first")]
    Partitions {
        /// The one asked for.
        topic: String,
        /// Zero when there is no such topic.
        found: usize,
        /// By the partitioning.
        needed: u16,
    },
}
