//! Requests about the consumer group and its members.

use std::time::{Duration, Instant};

use rdkafka::admin::ResourceSpecifier;
use rdkafka::client::Client;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;

use super::{Answer, Observer, TIMEOUT};
use crate::kafka::fault::Fault;
use crate::kafka::rebalance::Notes;

/// The broker's setting with the list of the group protocols that clients may use.
const PROTOCOLS_KEY: &str = "group.coordinator.rebalance.protocols";
/// The time between two requests to a group's coordinator while Kafka chooses the coordinator.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);

/// A consumer group as Kafka describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's state: `Stable`, `Empty` and so on.
    pub state: String,
    pub members: usize,
    /// Whether all members have our `client.id`, as all consumers of daemons with this configuration have.
    pub is_ours: bool,
    /// The protocol by which the group's members share the partitions, such as
    /// `cooperative-sticky`; empty if the broker doesn't say.
    pub protocol: String,
}

impl Observer {
    /// Returns the consumer group; `None` if Kafka has no group of that name.
    ///
    /// # Errors
    /// The error of Kafka.
    pub fn group(&self, name: &str) -> Answer<Option<Group>> {
        let answer = self.question("", || self.client.fetch_group_list(Some(name), TIMEOUT))?;
        let group = answer.groups().iter().find(|group| group.name() == name && group.state() != "Dead");
        let ours = self.settings.get("client.id").unwrap_or_default();
        Ok(group.map(|group| Group {
            state: group.state().to_owned(),
            members: group.members().len(),
            is_ours: group.members().iter().all(|member| member.client_id() == ours),
            protocol: group.protocol().to_owned(),
        }))
    }

    /// Returns whether the brokers let us read as a member of the group; `None` if they don't say.
    ///
    /// # Errors
    /// If Kafka doesn't answer; the error says why.
    pub fn may_read_group(&self, name: &str) -> Answer<Option<bool>> {
        let ask = |client: &Client<Notes>| tidegate_kafka_batch::may_read_group(client, name, TIMEOUT);
        self.question("", || match self.described(ask) {
            Err(KafkaError::AdminOp(RDKafkaErrorCode::GroupAuthorizationFailed)) => Ok(Some(false)),
            answer => answer,
        })
    }

    /// Returns the names (`group.instance.id`) of the group's members that have one.
    ///
    /// # Errors
    /// The error of Kafka.
    pub fn named_members(&self, group: &str) -> Answer<Vec<String>> {
        self.question("", || self.described(|client| tidegate_kafka_batch::named_members(client, group, TIMEOUT)))
    }

    /// Returns the fault of a broker whose settings switch the group protocol `consumer` off. `None` if no broker's settings do,
    /// or if we have no right to read them. The protocol has a second switch, the feature `group.version`, which librdkafka
    /// can't request.
    ///
    /// # Errors
    /// If Kafka doesn't answer; the error says why.
    pub fn switched_off_consumer_protocol(&self) -> Answer<Option<Fault>> {
        for broker in self.metadata(None)?.brokers() {
            for settings in self.describe("", &[ResourceSpecifier::Broker(broker.id())])? {
                let protocols = settings.get(PROTOCOLS_KEY).and_then(|entry| entry.value.as_deref());
                if protocols.is_some_and(|protocols| !protocols.split(',').any(|name| name.trim() == "consumer")) {
                    return Ok(Some(Fault::no_consumer_protocol(&format!("{}:{}", broker.host(), broker.port()))));
                }
            }
        }
        Ok(None)
    }

    /// Makes a request to a group's coordinator. The request fails while Kafka is still choosing the coordinator, for
    /// example before a broker's first group. librdkafka doesn't retry it, so this function does.
    fn described<T>(&self, ask: impl Fn(&Client<Notes>) -> KafkaResult<T>) -> KafkaResult<T> {
        let started = Instant::now();
        loop {
            match ask(self.client.client()) {
                Err(KafkaError::AdminOp(
                    RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress,
                )) if started.elapsed() < TIMEOUT => std::thread::sleep(COORDINATOR_PAUSE),
                answer => return answer,
            }
        }
    }
}
