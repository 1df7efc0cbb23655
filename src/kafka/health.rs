//! Keeps track of whether Kafka serves a pipeline, and if not, why. There is one state per pipeline, which all of the
//! pipeline's clients update.
//!
//! Five signals show an outage, and also its end:
//!
//! - A request of the [observer](super::observer) isn't answered. The observer makes requests about idle topics too.
//! - A consumer's group has no coordinator, as librdkafka's statistics report.
//! - A request is denied, or the group's members don't all offer our assignor. While this lasts, a consumer repeats the request
//!   every few seconds.
//! - A broker doesn't offer `group_protocol = "consumer"`, while a consumer that uses this protocol isn't a settled member.
//! - Kafka answers that it doesn't have one of the topics in the pipeline's `topics`.
//!
//! A failed connection alone is no outage, because one of several brokers may be down without harm. But if there is an outage for
//! one of the reasons above, the failed connection is shown as its cause.

mod state;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_protocol::position::TopicPartition;
use tracing::{debug, info, warn};

use self::state::State;
use super::fault::{Cause, Fault};
use crate::repeats::Repeats;
use crate::status::{Trouble, WaitCause, lock};

/// Collects what the Kafka clients of one pipeline, or of a command, see of the
/// brokers. [`KafkaHealth::look`] decides from this whether Kafka serves the pipeline.
#[derive(Debug)]
pub struct KafkaHealth {
    pipeline: Arc<str>,
    servers: String,
    group: String,
    /// Whether failed connections are logged as warnings. A command logs them at level debug, because the command's own error
    /// names the cause.
    logs: bool,
    state: Mutex<State>,
    lines: Mutex<Repeats>,
}

/// A time in which Kafka doesn't serve the pipeline.
#[derive(Clone, Debug)]
pub struct Outage {
    pub since: Instant,
    pub trouble: Trouble,
}

/// The parts of a consumer's librdkafka statistics that concern Kafka's health.
#[derive(Debug, Default)]
pub struct HealthStatistics {
    /// Addresses (`host:port`) of brokers with a connection that works.
    pub connected: Vec<String>,
    pub has_coordinator: bool,
    /// Whether the consumer is a member of the group, and no rebalance is under way.
    pub is_settled: bool,
    /// The longest time by which any broker's quota delayed an answer since the previous statistics.
    pub throttled: Duration,
}

impl KafkaHealth {
    pub fn new(pipeline: Arc<str>, servers: &str, group: &str) -> Self {
        Self {
            pipeline,
            servers: servers.to_owned(),
            group: group.to_owned(),
            logs: true,
            state: Mutex::default(),
            lines: Mutex::default(),
        }
    }

    /// Makes the state for a command. Failed connections are logged only at level debug.
    pub fn of_command(servers: &str, group: &str) -> Self {
        Self { logs: false, ..Self::new("".into(), servers, group) }
    }

    /// Returns the pipeline's name; empty for a command.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Notes that a request is made. Kafka's silence is measured from the first request after its last answer.
    pub fn asked(&self) {
        lock(&self.state).asked_at.get_or_insert_with(Instant::now);
    }

    pub fn answered(&self) {
        let mut state = lock(&self.state);
        state.asked_at = None;
        state.denied = None;
        state.failed = None;
    }

    /// Notes that a request failed for a reason other than a denial or a failed connection.
    pub fn request_failed(&self, fault: Fault) {
        lock(&self.state).failed = Some(fault);
    }

    /// Notes that Kafka denied a request of the observer. For requests of consumers, see [`KafkaHealth::denied`].
    pub fn request_denied(&self, fault: Fault) {
        let mut state = lock(&self.state);
        state.asked_at = None;
        state.denied = Some(fault);
    }

    /// Stores which of the topics in the pipeline's `topics` don't exist, according to Kafka's answer.
    pub fn topics_missing(&self, topics: Vec<String>) {
        let mut state = lock(&self.state);
        state.missing = match state.missing.take() {
            _ if topics.is_empty() => None,
            Some((since, _)) => Some((since, topics)),
            None => Some((Instant::now(), topics)),
        };
    }

    /// Stores which partitions have no leader, according to Kafka's answer.
    pub fn without_leader(&self, partitions: Vec<TopicPartition>) {
        let mut state = lock(&self.state);
        state.without_leader = match state.without_leader.take() {
            _ if partitions.is_empty() => None,
            Some((since, _)) => Some((since, partitions)),
            None => Some((Instant::now(), partitions)),
        };
    }

    pub fn missing_topics(&self) -> Vec<String> {
        lock(&self.state).missing.as_ref().map(|(_, topics)| topics.clone()).unwrap_or_default()
    }

    /// Stores and logs the fault that a line of librdkafka about a failed connection describes. `consumer` is the number of the
    /// consumer whose client wrote the line; `None` for any other client.
    pub fn connection_failed(&self, consumer: Option<u32>, line: &str) {
        let fault = Fault::parse(line);
        let broker = fault.broker.clone().unwrap_or_default();
        let key = format!("{broker} {:?}", fault.cause);
        // A broker closes connections that were idle for long. That is normal, so it is logged only at level debug.
        if self.logs && fault.cause != Cause::Closed {
            self.once(&key, |repeated| {
                warn!(pipeline = &*self.pipeline, consumer, repeated, "Kafka: {fault}; nothing is lost, retrying");
            });
        } else {
            debug!(pipeline = &*self.pipeline, consumer, "Kafka: {fault}");
        }
        lock(&self.state).connection_failed(broker, fault);
    }

    /// Stores a fault of a connection whose cause was found out by other
    /// means than librdkafka's log. It replaces the broker's earlier fault.
    pub fn found(&self, fault: Fault) {
        lock(&self.state).connections.insert(fault.broker.clone().unwrap_or_default(), (Instant::now(), fault));
    }

    /// Notes whether a broker offers the group protocol `consumer`, which this pipeline uses. For each new connection,
    /// librdkafka lists the requests that the broker supports. `is_offered` is `None` when such a list begins. If no earlier
    /// list of this broker has named the protocol's request, the broker counts as not offering the protocol until a line of
    /// the new list names the request.
    pub fn consumer_protocol(&self, broker: String, is_offered: Option<bool>) {
        lock(&self.state).consumer_protocol(broker, is_offered);
    }

    /// Returns the fault of a broker that doesn't offer the group protocol `consumer`; `None` if no such broker is known.
    pub fn no_consumer_protocol(&self) -> Option<Fault> {
        lock(&self.state).only_classic.first().map(|broker| Fault::no_consumer_protocol(broker))
    }

    /// Returns the fault to report after a broker refused the group protocol `consumer` to a member.
    pub fn refused_consumer_protocol(&self) -> Fault {
        self.no_consumer_protocol().unwrap_or_else(|| Fault::no_consumer_protocol(&self.servers))
    }

    /// Notes and logs that Kafka denied a request of this consumer. The denial counts until [`KafkaHealth::granted`] lifts it, or
    /// until the consumer is a settled member of its group and hasn't been denied the same for 10 s.
    pub fn denied(&self, consumer: u32, fault: Fault) {
        self.once(&fault.to_string(), |repeated| {
            warn!(pipeline = &*self.pipeline, consumer, repeated, "{fault}; nothing is lost, retrying");
        });
        let mut state = lock(&self.state);
        let denied = &mut state.consumers.entry(consumer).or_default().denied;
        denied.retain(|(known, _)| *known != fault);
        denied.push((fault, Instant::now()));
    }

    pub fn group_denied(&self, consumer: u32) {
        self.denied(consumer, Fault::group_denied(&self.group));
    }

    /// Notes that a consumer can't join the group, because not all members offer its assignor.
    pub fn other_protocol(&self, consumer: u32) {
        self.denied(consumer, Fault::other_protocol(&self.group));
    }

    /// Notes that Kafka granted this consumer a request that needs the rights to read
    /// the group and the topic. Earlier denials of this group and this topic end.
    pub fn granted(&self, consumer: u32, topic: &str) {
        let mut state = lock(&self.state);
        let Some(consumer) = state.consumers.get_mut(&consumer) else { return };
        if !consumer.denied.is_empty() {
            let of_topic = Fault::topic_denied(topic);
            consumer.denied.retain(|(fault, _)| fault.cause != Cause::GroupDenied && *fault != of_topic);
        }
    }

    pub fn store_statistics(&self, consumer: u32, statistics: &HealthStatistics, now: Instant) {
        lock(&self.state).store_statistics(consumer, statistics, now);
    }

    /// Notes that a consumer's client ended, so that its last statistics no longer count.
    pub fn left(&self, consumer: u32) {
        if let Some(consumer) = lock(&self.state).consumers.get_mut(&consumer) {
            consumer.no_coordinator = None;
            consumer.is_settled = None;
            consumer.throttled = Duration::ZERO;
        }
    }

    pub fn denied_topics(&self, consumer: u32) -> Vec<String> {
        let state = lock(&self.state);
        let denied = state.consumers.get(&consumer).map(|consumer| consumer.denied.iter());
        denied.into_iter().flatten().filter_map(|(fault, _)| fault.denied_topic().map(str::to_owned)).collect()
    }

    /// Returns whether a connection failed or there was an outage within this time. A connection that the broker closed for no
    /// known reason doesn't count.
    pub fn was_troubled(&self, within: Duration) -> bool {
        lock(&self.state).troubled_at.is_some_and(|at| at.elapsed() < within)
    }

    /// Returns the newest fault of any broker's connection; `None` if no broker's connection is known to fail.
    pub fn connection_fault(&self) -> Option<Fault> {
        lock(&self.state).newest().cloned()
    }

    /// Returns the longest time by which a broker's quota delayed an answer to any of the consumers, by their last statistics.
    pub fn throttled(&self) -> Duration {
        lock(&self.state).consumers.values().map(|consumer| consumer.throttled).max().unwrap_or_default()
    }

    /// Returns why a request has no answer: the newest fault of a connection, or, if none is known, that the servers
    /// don't answer.
    pub fn silence(&self) -> Fault {
        self.connection_fault().unwrap_or_else(|| Fault::silent(&self.servers))
    }

    /// Returns the outage that [`KafkaHealth::look`] last found.
    pub fn outage(&self) -> Option<Outage> {
        lock(&self.state).outage.clone()
    }

    /// Decides whether Kafka serves the pipeline, and logs changes. Called once per second. If an outage has just ended, returns
    /// a text that says so, with the duration of the outage.
    pub fn look(&self, now: Instant) -> Option<String> {
        let mut state = lock(&self.state);
        let trouble = state.trouble(now, &self.servers);
        let before = state.outage.take();
        match (before, trouble) {
            (None, None) => None,
            (before, Some((since, trouble))) => {
                let same = before.as_ref().filter(|before| before.trouble.cause == trouble.cause);
                let since = same.map_or(since, |before| before.since);
                let is_news = before.is_none_or(|before| before.trouble != trouble);
                state.outage = Some(Outage { since, trouble: trouble.clone() });
                state.troubled_at = Some(now);
                drop(state);
                if is_news {
                    self.once(&format!("waits: {trouble}"), |repeated| {
                        warn!(pipeline = &*self.pipeline, repeated, "waiting for {trouble}; {}", trouble.fate());
                    });
                }
                None
            }
            (Some(before), None) => {
                drop(state);
                let seconds = (now.duration_since(before.since).as_secs_f64() * 10.0).round() / 10.0;
                let what = match before.trouble.cause {
                    WaitCause::Topic => "Kafka has all listed topics again",
                    WaitCause::Partition => "all partitions have a leader again",
                    WaitCause::Kafka | WaitCause::Postgres | WaitCause::Registry => "Kafka serves again",
                };
                info!(pipeline = &*self.pipeline, seconds, "{what}");
                Some(format!("{what} after {seconds:.1} s"))
            }
        }
    }

    /// Logs a warning of librdkafka, at most once per minute. `what` is the
    /// facility of librdkafka's log line, or the text of its error code.
    pub fn warn(&self, consumer: Option<u32>, what: &str, message: &str) {
        self.once(message, |repeated| {
            warn!(target: "librdkafka", pipeline = &*self.pipeline, consumer, what, repeated, message);
        });
    }

    /// Calls `say` to log a line, unless the same line was logged within the last minute. Lines that differ only in
    /// their digits count as the same. `say` gets how many times the line was suppressed since it was last logged;
    /// `None` if it wasn't suppressed.
    pub fn once(&self, line: &str, say: impl FnOnce(Option<u32>)) {
        let key: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        let held_back = lock(&self.lines).take(key, Instant::now());
        if let Some(held_back) = held_back {
            say((held_back > 0).then_some(held_back));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str =
        "h:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)";

    fn health() -> KafkaHealth {
        KafkaHealth::new("rides".into(), "h:1", "rides")
    }

    fn why(health: &KafkaHealth, seconds: u64) -> Option<String> {
        health.look(Instant::now() + Duration::from_secs(seconds));
        health.outage().map(|outage| outage.trouble.to_string())
    }

    fn statistics(has_coordinator: bool) -> HealthStatistics {
        HealthStatistics { has_coordinator, is_settled: has_coordinator, ..HealthStatistics::default() }
    }

    #[test]
    fn a_broker_of_several_may_be_away_and_a_question_without_an_answer_is_an_outage_with_its_cause() {
        let health = health();
        health.connection_failed(Some(0), REFUSED);
        assert_eq!(why(&health, 60), None, "nobody waits for an answer");
        health.asked();
        assert_eq!(why(&health, 1), None, "it may still come");
        assert!(why(&health, 9).is_some_and(|why| why.contains("h:1: the connection is refused")));
        health.answered();
        assert_eq!(why(&health, 9), None, "it came");
    }

    #[test]
    fn a_silence_without_a_failed_connection_names_the_servers() {
        let health = health();
        health.asked();
        assert!(why(&health, 9).is_some_and(|why| why.contains("h:1: the broker does not answer requests")));
        assert!(health.outage().is_some_and(|outage| outage.since <= Instant::now()), "since the question");
    }

    #[test]
    fn a_connection_that_works_again_takes_its_fault_with_it() {
        let health = health();
        health.connection_failed(None, REFUSED);
        health.store_statistics(
            0,
            &HealthStatistics { connected: vec!["h:1".to_owned()], ..statistics(true) },
            Instant::now(),
        );
        assert_eq!(health.connection_fault(), None);
    }

    #[test]
    fn a_group_without_a_coordinator_is_an_outage() {
        let health = health();
        health.store_statistics(0, &statistics(false), Instant::now());
        assert_eq!(why(&health, 1), None);
        assert!(why(&health, 9).is_some_and(|why| why.contains("no broker coordinates the group")));
        health.store_statistics(0, &statistics(true), Instant::now());
        assert_eq!(why(&health, 9), None);
    }

    #[test]
    fn a_refused_connection_says_more_than_a_failed_request() {
        let health = health();
        health.asked();
        health.request_failed(Fault::answer(&"Meta data fetch error: UnknownPartition"));
        assert!(why(&health, 9).is_some_and(|why| why.contains("UnknownPartition")), "nothing else is known");
        health.connection_failed(Some(0), REFUSED);
        assert!(why(&health, 9).is_some_and(|why| why.contains("h:1: the connection is refused")));
        health.store_statistics(
            0,
            &HealthStatistics { connected: vec!["h:1".to_owned()], ..statistics(true) },
            Instant::now(),
        );
        assert!(why(&health, 9).is_some_and(|why| why.contains("UnknownPartition")), "the connection works again");
    }

    #[test]
    fn a_missing_topic_is_waited_for_by_name_until_it_exists_and_says_less_than_a_fault() {
        let health = health();
        health.topics_missing(vec!["rides".to_owned()]);
        assert!(why(&health, 0).is_some_and(|why| why.starts_with("topic `rides`: Kafka doesn't have it")));
        health.denied(0, Fault::topic_denied("fares"));
        assert!(why(&health, 0).is_some_and(|why| why.contains("Kafka denies access to the topic")));
        health.granted(0, "fares");
        assert!(why(&health, 0).is_some_and(|why| why.contains("`rides`")));
        health.topics_missing(Vec::new());
        assert_eq!(health.look(Instant::now()).map(|text| text.contains("has all listed topics again")), Some(true));
        assert_eq!(why(&health, 0), None);
    }

    #[test]
    fn a_denial_lasts_until_it_is_granted_or_not_repeated() {
        let health = health();
        health.denied(0, Fault::topic_denied("t"));
        health.group_denied(1);
        assert!(why(&health, 0).is_some_and(|why| why.contains("topic `t`")));
        health.granted(0, "another");
        assert!(why(&health, 0).is_some_and(|why| why.contains("topic `t`")), "that is another topic");
        health.granted(0, "t");
        assert!(why(&health, 0).is_some_and(|why| why.contains("group `rides`")));
        health.store_statistics(1, &statistics(true), Instant::now() + Duration::from_secs(11));
        assert_eq!(why(&health, 0), None);
    }

    #[test]
    fn the_same_line_is_said_once_a_minute_whatever_its_numbers_are() {
        let (health, mut said) = (health(), 0);
        for n in 0..100 {
            health.once(&format!("{n}/3 brokers are down"), |_| said += 1);
        }
        assert_eq!(said, 1);
        health.once("another", |_| said += 1);
        assert_eq!(said, 2);
    }
}
