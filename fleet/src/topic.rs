//! Makes a topic, for demos and benches.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Creates `topic` with so many partitions on a cluster's default replication. Says whether it
/// was made: `false` when it was there before, with however many partitions.
///
/// # Errors
/// When the cluster cannot be reached, or refuses.
pub async fn create_topic(servers: &str, topic: &str, partitions: u16) -> Result<bool, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", servers).create()?;
    // -1 leaves the replication to the broker's `default.replication.factor`.
    let new = NewTopic::new(topic, partitions.into(), TopicReplication::Fixed(-1));
    let mut results = admin.create_topics([&new], &AdminOptions::new()).await?;
    match results.pop() {
        None | Some(Ok(_)) => Ok(true),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
    }
}
