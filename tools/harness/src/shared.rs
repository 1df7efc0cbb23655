//! The servers that all tests of a process share. Each is started when a test first needs it, and ends with the process.
//!
//! Each test uses its own topics ([`crate::unique_name`]) and databases ([`Postgres::create_database`]), so tests don't disturb
//! each other. A test that stops, kills or pauses a server starts its own server. To use an existing server instead, set
//! `KAFKA_BOOTSTRAP_SERVERS` or `DATABASE_URL`.

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::{Kafka, KafkaSpec, Postgres, PostgresSpec};

/// The result of a start. A failed start is not tried again, because each test would wait for the same failure.
type Once<T> = OnceLock<Result<T, String>>;

/// Returns one Kafka broker ([`KafkaSpec::single`]), or the Kafka that `KAFKA_BOOTSTRAP_SERVERS` names.
pub fn kafka() -> Result<&'static Kafka> {
    static KAFKA: Once<Kafka> = OnceLock::new();
    once(&KAFKA, || match set_variable("KAFKA_BOOTSTRAP_SERVERS") {
        Some(servers) => Ok(Kafka::external(&servers)),
        None => Kafka::start(&KafkaSpec::single()),
    })
}

pub fn kafka_cluster() -> Result<&'static Kafka> {
    static CLUSTER: Once<Kafka> = OnceLock::new();
    once(&CLUSTER, || Kafka::start(&KafkaSpec::cluster()))
}

pub fn zookeeper_kafka() -> Result<&'static Kafka> {
    static ZOOKEEPER: Once<Kafka> = OnceLock::new();
    once(&ZOOKEEPER, || Kafka::start(&KafkaSpec::zookeeper()))
}

/// Returns a Postgres that this process has started, or the one that `DATABASE_URL` names.
pub fn postgres() -> Result<&'static Postgres> {
    static POSTGRES: Once<Postgres> = OnceLock::new();
    once(&POSTGRES, || match set_variable("DATABASE_URL") {
        Some(url) => Postgres::external(&url),
        None => Postgres::start(&PostgresSpec::default()),
    })
}

fn once<T>(cell: &'static Once<T>, start: impl FnOnce() -> Result<T>) -> Result<&'static T> {
    let outcome = cell.get_or_init(|| start().map_err(|error| format!("{error:?}")));
    outcome.as_ref().map_err(|text| anyhow!(text.clone()))
}

fn set_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
