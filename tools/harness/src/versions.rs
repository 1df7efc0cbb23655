//! Chooses the versions of the servers.
//!
//! For example, `TIDEGATE_KAFKA=4.0.1` and `TIDEGATE_POSTGRES=13.22.0` replace the defaults by these versions of the Maven
//! packages. With `TIDEGATE_KAFKA=2.8.2-zookeeper`, a Kafka that has a single broker runs with ZooKeeper. `make matrix` sets
//! these variables.

use std::env;

const KRAFT: &str = "4.2.0";
/// The version of Kafka that is used with ZooKeeper by default. It belongs to the last release line that supports ZooKeeper.
const WITH_ZOOKEEPER: &str = "3.9.1";
const POSTGRES: &str = "18.0.0";
const ZOOKEEPER: &str = "-zookeeper";

fn chosen(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|version| !version.is_empty())
}

pub fn kraft() -> String {
    chosen("TIDEGATE_KAFKA").filter(|version| !version.ends_with(ZOOKEEPER)).unwrap_or_else(|| KRAFT.to_owned())
}

pub fn zookeeper() -> String {
    let chosen = chosen("TIDEGATE_KAFKA").and_then(|version| version.strip_suffix(ZOOKEEPER).map(str::to_owned));
    chosen.unwrap_or_else(|| WITH_ZOOKEEPER.to_owned())
}

/// Returns whether `TIDEGATE_KAFKA` chooses ZooKeeper for single brokers. Clusters always run in KRaft mode.
pub fn with_zookeeper() -> bool {
    chosen("TIDEGATE_KAFKA").is_some_and(|version| version.ends_with(ZOOKEEPER))
}

pub fn postgres() -> String {
    chosen("TIDEGATE_POSTGRES").unwrap_or_else(|| POSTGRES.to_owned())
}
