//! Creates a topic, for demos and benches.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of requests for the topic's metadata. The pauses between them add up to 20 s.
const LOOKS: u32 = 400;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Creates `topic` with `partitions` partitions and the cluster's default replication. Waits for a limited time until its
/// partitions are known. Returns `false` if the topic existed already, with any number of partitions.
///
/// # Errors
/// If the cluster can't be reached, or refuses to create the topic.
pub async fn create_topic(servers: &str, topic: &str, partitions: u16) -> Result<bool, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", servers).create()?;
    // -1 leaves the replication to the broker's `default.replication.factor`.
    let new = NewTopic::new(topic, partitions.into(), TopicReplication::Fixed(-1));
    let mut results = admin.create_topics([&new], &AdminOptions::new()).await?;
    match results.pop() {
        None | Some(Ok(_)) => {
            await_known(&admin, topic, partitions.into()).await?;
            Ok(true)
        }
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
    }
}

/// Waits until the cluster knows the topic. A broker may acknowledge the creation of a topic before it knows the topic itself. A
/// producer that starts at once might then not find it. Gives up after some attempts; the producer then reports the missing
/// partitions.
async fn await_known(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    partitions: usize,
) -> Result<(), KafkaError> {
    for _ in 0..LOOKS {
        let metadata = admin.inner().fetch_metadata(Some(topic), METADATA_TIMEOUT)?;
        if metadata.topics().first().is_some_and(|topic| topic.partitions().len() >= partitions) {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}
