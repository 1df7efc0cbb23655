//! Describes an outage: which system doesn't serve us, and its last error. The sentence about the outage is made only when it is
//! shown.

use std::fmt;

use tidegate_protocol::position::TopicPartition;

/// How many partitions a text names.
const NAMED: usize = 4;

/// The system that a pipeline or a consumer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitCause {
    Kafka,
    /// A listed topic that Kafka doesn't have.
    Topic,
    /// A partition without a leader: no broker serves it.
    Partition,
    Postgres,
    Registry,
}

/// A system that refuses a request or doesn't answer, so that we wait and retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub cause: WaitCause,
    /// The last error. An error of Kafka begins with the broker's address if it is known, and an error of the registry with the
    /// registry's URL. Most errors of Postgres begin with the word `Postgres`.
    error: String,
}

impl Trouble {
    pub fn kafka(error: &impl fmt::Display) -> Self {
        Self { cause: WaitCause::Kafka, error: error.to_string() }
    }

    /// Returns the trouble with `missing`: the topics in the pipeline's `topics` that Kafka doesn't have. There is at least one.
    pub fn topics(missing: &[String]) -> Self {
        let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let error = match missing.len() {
            1 => format!(
                "topic {names}: Kafka doesn't have it; it was deleted, or its name is misspelled: create it, or correct `topics`"
            ),
            _ => format!(
                "topics {names}: Kafka doesn't have them; they were deleted, or their names are misspelled: create them, or correct `topics`"
            ),
        };
        Self { cause: WaitCause::Topic, error }
    }

    /// Returns the trouble with these partitions, which have no leader. There is at least one.
    pub fn no_leader(partitions: &[TopicPartition]) -> Self {
        let names = partitions.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let error = match partitions.len() {
            1 => format!("partition {names}: it has no leader; start a broker that has a replica of it"),
            n => {
                let more = n.checked_sub(NAMED).filter(|more| *more > 0);
                let more = more.map_or_else(String::new, |more| format!(" and {more} more"));
                format!("partitions {names}{more}: they have no leader; start the brokers that have their replicas")
            }
        };
        Self { cause: WaitCause::Partition, error }
    }

    /// Returns what the trouble means for the records that are not written.
    pub fn fate(&self) -> &'static str {
        match self.cause {
            WaitCause::Kafka | WaitCause::Partition | WaitCause::Postgres | WaitCause::Registry => "nothing is lost",
            WaitCause::Topic => "Kafka no longer has the unwritten records of a deleted topic",
        }
    }

    pub fn postgres(error: &impl fmt::Display) -> Self {
        Self { cause: WaitCause::Postgres, error: error.to_string() }
    }

    pub fn registry(url: &str, error: &impl fmt::Display) -> Self {
        Self { cause: WaitCause::Registry, error: format!("at {url}: {error}") }
    }

    /// Returns the words that follow "has waited 42 s for …" in a sentence.
    pub fn waited_for(&self) -> String {
        match self.cause {
            // Most errors of Postgres begin with "Postgres", which the sentence already contains.
            WaitCause::Postgres => {
                format!("Postgres: {}", self.error.strip_prefix("Postgres ").unwrap_or(&self.error))
            }
            WaitCause::Kafka | WaitCause::Topic | WaitCause::Partition | WaitCause::Registry => self.to_string(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            WaitCause::Kafka => write!(f, "Kafka: {}", self.error),
            WaitCause::Postgres | WaitCause::Topic | WaitCause::Partition => f.write_str(&self.error),
            WaitCause::Registry => write!(f, "the schema registry {}", self.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_names_the_system_once() {
        let postgres = Trouble::postgres(&"Postgres 57P03 starting up");
        assert_eq!(postgres.to_string(), "Postgres 57P03 starting up");
        assert_eq!(postgres.waited_for(), "Postgres: 57P03 starting up");
        let registry = Trouble::registry("http://r", &"status 503");
        assert_eq!(registry.to_string(), "the schema registry at http://r: status 503");
        assert_eq!(registry.waited_for(), registry.to_string());
        let kafka = Trouble::kafka(&"h:1: the connection is refused");
        assert_eq!(kafka.to_string(), "Kafka: h:1: the connection is refused");
        assert_eq!(kafka.waited_for(), kafka.to_string());
        let topic = Trouble::topics(&["rides".to_owned()]);
        assert!(topic.to_string().starts_with("topic `rides`: Kafka doesn't have it;"), "{topic}");
        let topics = Trouble::topics(&["a".to_owned(), "b".to_owned()]);
        assert!(topics.waited_for().starts_with("topics `a`, `b`: Kafka doesn't have them;"), "{topics}");
        let partitions: Vec<_> = (0..6).map(|n| TopicPartition::new("t", n)).collect();
        let one = Trouble::no_leader(&partitions[..1]);
        assert!(one.waited_for().starts_with("partition t/0: it has no leader;"), "{one}");
        let six = Trouble::no_leader(&partitions);
        assert!(six.to_string().starts_with("partitions t/0, t/1, t/2, t/3 and 2 more: they have no leader;"), "{six}");
        assert!(Trouble::no_leader(&partitions[..4]).to_string().starts_with("partitions t/0, t/1, t/2, t/3: they"));
    }
}
