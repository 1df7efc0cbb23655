//! The servers that all tests of a process share. Each is started when first asked for and ends with the process.
//!
//! Tests keep apart by topics ([`crate::unique_name`]) and databases ([`Postgres::create_database`]) of their own. A test
//! that stops, kills or pauses a server starts one for itself instead. `KAFKA_BOOTSTRAP_SERVERS` and `DATABASE_URL` name
//! servers to use in place of [`kafka`] and [`postgres`].

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::{Kafka, KafkaSpec, Postgres, PostgresSpec};

/// A start that failed is not tried again: the next test would wait for the same failure.
type Once<T> = OnceLock<Result<T, String>>;

/// Returns one Kafka broker in KRaft mode, or the Kafka that `KAFKA_BOOTSTRAP_SERVERS` names.
///
/// # Errors
/// When it could not be started.
pub fn kafka() -> Result<&'static Kafka> {
    static KAFKA: Once<Kafka> = OnceLock::new();
    once(&KAFKA, || match set_variable("KAFKA_BOOTSTRAP_SERVERS") {
        Some(servers) => Ok(Kafka::external(&servers)),
        None => Kafka::start(&KafkaSpec::single()),
    })
}

/// Three Kafka brokers in KRaft mode.
///
/// # Errors
/// When they could not be started.
pub fn kafka_cluster() -> Result<&'static Kafka> {
    static CLUSTER: Once<Kafka> = OnceLock::new();
    once(&CLUSTER, || Kafka::start(&KafkaSpec::cluster()))
}

/// Returns one Kafka broker with ZooKeeper.
///
/// # Errors
/// When it could not be started.
pub fn zookeeper_kafka() -> Result<&'static Kafka> {
    static ZOOKEEPER: Once<Kafka> = OnceLock::new();
    once(&ZOOKEEPER, || Kafka::start(&KafkaSpec::zookeeper()))
}

/// Returns a Postgres, or the one that `DATABASE_URL` names.
///
/// # Errors
/// When it could not be started.
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
