//! Which Kafka to start.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::tls::Authority;
use crate::{TunedFor, versions};

/// The broker to start.
#[derive(Debug, Clone)]
pub struct KafkaSpec {
    pub(super) layout: Layout,
    /// The version of the Maven packages.
    pub(super) version: String,
    pub(super) tuned_for: TunedFor,
    pub(super) properties: Vec<(String, String)>,
    /// One per broker, or none.
    pub(super) proxies: Vec<SocketAddr>,
    /// Signs the certificates of the secure listeners, if there are any.
    pub(super) authority: Option<Arc<Authority>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Kraft { brokers: usize },
    ZooKeeper,
}

impl KafkaSpec {
    /// Returns one broker in KRaft mode, or with ZooKeeper where [`crate::versions`] says so.
    pub fn single() -> Self {
        Self {
            layout: if versions::with_zookeeper() { Layout::ZooKeeper } else { Layout::Kraft { brokers: 1 } },
            version: if versions::with_zookeeper() { versions::zookeeper() } else { versions::kraft() },
            tuned_for: TunedFor::Tests,
            properties: Vec::new(),
            proxies: Vec::new(),
            authority: None,
        }
    }

    /// Three brokers in KRaft mode, replication factor 3, two in-sync replicas wanted for a write.
    pub fn cluster() -> Self {
        Self { layout: Layout::Kraft { brokers: 3 }, version: versions::kraft(), ..Self::single() }
    }

    /// Returns one broker with ZooKeeper, as before Kafka 4.
    pub fn zookeeper() -> Self {
        Self { layout: Layout::ZooKeeper, version: versions::zookeeper(), ..Self::single() }
    }

    /// Returns one broker in KRaft mode of this version, whatever [`crate::versions`] says.
    pub fn of_version(version: &str) -> Self {
        Self { layout: Layout::Kraft { brokers: 1 }, version: version.to_owned(), ..Self::single() }
    }

    /// Returns the purpose of the settings; tests, unless set otherwise.
    #[must_use]
    pub fn tuned_for(mut self, tuned_for: TunedFor) -> Self {
        self.tuned_for = tuned_for;
        self
    }

    /// Adds a listener of each kind of [`Listener`](super::Listener), with certificates that `authority` signs.
    #[must_use]
    pub fn secured(mut self, authority: &Arc<Authority>) -> Self {
        self.authority = Some(Arc::clone(authority));
        self
    }

    /// Sets a broker property on every broker; it overrides the harness' own.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn brokers(&self) -> usize {
        match self.layout {
            Layout::Kraft { brokers } => brokers,
            Layout::ZooKeeper => 1,
        }
    }
}
