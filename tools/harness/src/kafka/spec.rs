//! Specifies which Kafka to start.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::tls::Authority;
use crate::{TunedFor, versions};

#[derive(Debug, Clone)]
pub struct KafkaSpec {
    pub(super) layout: Layout,
    pub(super) version: String,
    pub(super) tuned_for: TunedFor,
    pub(super) properties: Vec<(String, String)>,
    /// The address of each broker's proxy, in the order of the brokers. Empty if clients connect without proxies.
    pub(super) proxies: Vec<SocketAddr>,
    /// The authority that signs the certificates of the secure listeners; `None` if the brokers have only plaintext listeners.
    pub(super) authority: Option<Arc<Authority>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Kraft { brokers: usize },
    ZooKeeper,
}

impl KafkaSpec {
    /// Returns the specification of one broker. It runs in KRaft mode, or with ZooKeeper if [`crate::versions`] says so.
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

    /// Returns the specification of three brokers in KRaft mode, with replication factor 3. A write needs two in-sync replicas.
    pub fn cluster() -> Self {
        Self { layout: Layout::Kraft { brokers: 3 }, version: versions::kraft(), ..Self::single() }
    }

    pub fn zookeeper() -> Self {
        Self { layout: Layout::ZooKeeper, version: versions::zookeeper(), ..Self::single() }
    }

    /// Returns the specification of one broker in KRaft mode in this version, whatever [`crate::versions`] says.
    pub fn of_version(version: &str) -> Self {
        Self { layout: Layout::Kraft { brokers: 1 }, version: version.to_owned(), ..Self::single() }
    }

    #[must_use]
    pub fn tuned_for(mut self, tuned_for: TunedFor) -> Self {
        self.tuned_for = tuned_for;
        self
    }

    /// Adds one listener per kind of [`Listener`](super::Listener) to each broker, with certificates that `authority` signs.
    #[must_use]
    pub fn secured(mut self, authority: &Arc<Authority>) -> Self {
        self.authority = Some(Arc::clone(authority));
        self
    }

    /// Sets a property of every broker. It takes precedence over the harness' own setting.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the brokers apply ACLs. A resource that has no ACL is open to everyone.
    #[must_use]
    pub fn acls(self) -> Self {
        self.property("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .property("allow.everyone.if.no.acl.found", "true")
    }

    pub(super) fn brokers(&self) -> usize {
        match self.layout {
            Layout::Kraft { brokers } => brokers,
            Layout::ZooKeeper => 1,
        }
    }
}
