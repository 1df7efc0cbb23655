//! Tests what the daemon does if Kafka's log is not the one that the ledger knows. By default, the pipeline stops and names the
//! cause. Records that are known to be lost are counted.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_harness::{Daemon, Kafka, KafkaSpec, Record, eventually};

use crate::accounting::{NUMBERED, counted};
use crate::support::{PATIENCE, World};

const TO_RIDES: &str = "table.name = \"rides\"";

impl World {
    fn make_again(&self, range: std::ops::Range<i32>) {
        self.recreate(1);
        self.produce_numbered(range, 1);
    }

    fn drained_numbered(&self, range: std::ops::Range<i32>, config: &str) {
        self.produce_numbered(range, 1);
        let (code, log) = self.drain(config);
        assert_eq!(code, Some(0), "{log}");
    }

    fn readable(&self) -> usize {
        let mut settings = rdkafka::ClientConfig::new();
        settings.set("bootstrap.servers", self.kafka.bootstrap_servers());
        settings.set("group.id", &self.name).set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = settings.create().expect("a consumer");
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&self.topic, 0, Offset::Beginning).expect("an offset");
        consumer.assign(&all).expect("it is assigned");
        let records = std::iter::from_fn(|| match consumer.poll(PATIENCE) {
            Some(Ok(_)) => Some(()),
            Some(Err(KafkaError::PartitionEOF(_))) => None,
            other => panic!("{other:?}"),
        });
        records.count()
    }

    /// Checks that the pipeline stops, that its log contains each of `words`, and that ledger and table stay the same.
    async fn stops_by_name(&self, config: &str, words: &[&str]) {
        let (rows, at) = (self.number("SELECT count(*) FROM rides").await, self.ledger().await);
        let (code, log) = self.drain(config);
        assert_eq!(code, Some(70), "{log}");
        for word in words {
            assert!(log.contains(word), "no {word:?} in\n{log}");
        }
        assert_eq!((self.number("SELECT count(*) FROM rides").await, self.ledger().await), (rows, at), "nothing moved");
    }

    /// Runs a daemon with this value of `on_offset_loss` until everything is written. Checks that the table then has `rows` rows.
    /// Returns the number of lost records with the cause `cause`.
    async fn goes_on(&self, policy: &str, cause: &str, rows: i64) -> f64 {
        let daemon = self.daemon(&self.config(&format!("on_offset_loss = \"{policy}\"\n{TO_RIDES}")));
        let line = daemon.await_log("skipped a log-loss condition, as `on_offset_loss` says", PATIENCE);
        let line = line.expect("it says so");
        assert!(!line.contains("to continue, set"), "it continued already: {line}");
        self.await_written(&daemon).await;
        assert_eq!(self.number("SELECT count(*) FROM rides").await, rows, "{}", daemon.log_tail());
        let lost = daemon.metric("tidegate_records_lost_total", &[("cause", cause)]);
        assert_eq!(Some(counted(&daemon, "tidegate_records_lost_total")), lost, "no other cause is counted");
        lost.expect("it is counted by its cause")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_deleted_before_we_came_stop_the_pipeline_and_others_go_on() {
    let world = World::new(1).await;
    world.sql(&format!("{NUMBERED}; CREATE TABLE beside (LIKE rides)")).await;
    world.drained_numbered(0..100, &world.config(TO_RIDES));
    world.produce_numbered(100..200, 1);
    world.kafka.delete_records(&world.topic, 0, 150).expect("records are deleted");
    let beside = format!("{}_beside", world.name);
    let daemon =
        world.daemon(&world.config(&format!(
            "{TO_RIDES}\n[pipelines.{beside}]\ntopics = [\"{}\"]\ntable.name = \"beside\"",
            world.topic
        )));
    let named = |daemon: &Daemon| {
        let status = daemon.status_json().unwrap_or_default();
        let pipelines = status["pipelines"].as_array().cloned().unwrap_or_default();
        let stopped = pipelines.iter().find(|view| view["name"] == world.name.as_str());
        stopped.is_some_and(|view| {
            let reason = view["reason"].as_str().unwrap_or_default();
            view["state"] == "stopped"
                && reason.contains("Kafka deleted records before they were written")
                && reason.contains("50 are lost")
        })
    };
    daemon.await_until("the status names the condition", PATIENCE, named).expect("it is named");
    let readyz = daemon.get("/readyz").expect("it answers");
    assert!(
        readyz.status == 503 && readyz.body.contains("Kafka deleted records before they were written"),
        "{}",
        readyz.body
    );
    eventually("the other pipeline flows", PATIENCE, || {
        daemon.metric("tidegate_rows_written_total", &[("pipeline", &beside)]) == Some(50.0)
    })
    .unwrap_or_else(|error| panic!("{error}; {}", daemon.log_tail()));
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 100);
    assert_eq!(world.number("SELECT next_offset FROM tidegate.ledger ORDER BY next_offset LIMIT 1").await, 100);
    assert_eq!(counted(&daemon, "tidegate_records_lost_total"), 0.0, "nothing is given up yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_deleted_are_skipped_by_policy_and_counted() {
    for (policy, rows, lost) in [("earliest", 150, 50.0), ("latest", 100, 100.0)] {
        let world = World::new(1).await;
        world.sql(NUMBERED).await;
        world.drained_numbered(0..100, &world.config(TO_RIDES));
        world.produce_numbered(100..200, 1);
        world.kafka.delete_records(&world.topic, 0, 150).expect("records are deleted");
        assert_eq!(world.goes_on(policy, "retention", rows).await, lost, "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_under_a_running_daemon_are_noticed_too() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.drained_numbered(0..100, &world.config(TO_RIDES));
    let config = world.config(&format!("batch = {{ max_rows = 10 }}\n{TO_RIDES}"));
    let daemon = world.daemon(&config);
    daemon.await_ready(PATIENCE).expect("it is ready");
    daemon.pause().expect("it is stopped");
    world.produce_numbered(100..10_000, 1);
    world.kafka.delete_records(&world.topic, 0, 9_000).expect("records are deleted");
    daemon.resume().expect("it goes on");
    let ended = daemon.wait_exit(PATIENCE).expect("it ends");
    let log = daemon.log().join("\n");
    assert_eq!(ended.code(), Some(70), "{log}");
    assert!(log.contains("Kafka deleted records before they were written"), "{log}");
    let rows = world.number("SELECT count(*) FROM rides").await;
    assert_eq!(rows, world.ledger().await, "the ledger says what is in the table");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_with_a_shorter_log_stops_the_pipeline_by_name() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    world.drained_numbered(0..100, &config);
    world.make_again(100..110);
    world.stops_by_name(&config, &["log ends before the ledger's position", "is at offset 100", "ends at 10"]).await;
    assert_eq!(world.goes_on("earliest", "log_shorter", 110).await, 0.0, "what the old log held nobody can know");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_with_a_longer_log_stops_the_pipeline_by_name() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    world.drained_numbered(0..100, &config);
    world.make_again(100..350);
    world.stops_by_name(&config, &["log was replaced", "at offset 99"]).await;
    assert_eq!(world.goes_on("earliest", "log_replaced", 350).await, 0.0);
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides WHERE seq BETWEEN 0 AND 349").await, 350);
}

/// The daemon has nothing to write, but must not report that it has drained the topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_with_as_many_records_stops_the_pipeline_by_name() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    world.drained_numbered(0..100, &config);
    world.make_again(100..200);
    world.stops_by_name(&config, &["log was replaced", "at offset 99"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_skipped_to_its_end_with_the_policy_latest() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.drained_numbered(0..100, &world.config(TO_RIDES));
    world.make_again(100..350);
    assert_eq!(world.goes_on("latest", "log_replaced", 100).await, 250.0, "what is skipped is counted");
}

/// In the worst case, the new log is already longer than the old one when the daemon next asks for the log ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_under_a_running_daemon_is_not_taken_for_the_old_one() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 1);
    let daemon = world.daemon(&world.config(TO_RIDES));
    world.await_written(&daemon).await;
    world.make_again(100..350);
    let ended = daemon.wait_exit(PATIENCE).unwrap_or_else(|error| panic!("{error:#}; {}", daemon.log_tail()));
    let log = daemon.log().join("\n");
    assert_eq!(ended.code(), Some(70), "{log}");
    assert!(log.contains("log was replaced") || log.contains("log ends before"), "{log}");
    assert_eq!(
        world.number("SELECT count(*) FROM rides").await,
        100,
        "nothing of the new log was taken for the old one's"
    );
    assert_eq!(
        world
            .goes_on("earliest", if log.contains("log ends before") { "log_shorter" } else { "log_replaced" }, 350)
            .await,
        0.0
    );
}

/// The test recreates the topic with the first 60 of the same records. To a consumer, that looks like a truncated log.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_stops_the_pipeline_by_name() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    let records = |range: std::ops::Range<i32>| {
        range.map(|n| crate::accounting::numbered(n, 1).at_ms(1_700_000_000_000 + i64::from(n)))
    };
    world.produce(records(0..100));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.make_again(0..0);
    world.produce(records(0..60));
    world.stops_by_name(&config, &["log ends before the ledger's position", "truncated"]).await;
    // The log has the same records again, so the ledger knows it, and nothing is read twice.
    world.produce(records(60..150));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_under_the_same_name_stops_the_pipeline_by_name() {
    let mut world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.drained_numbered(0..100, &world.config(TO_RIDES));
    let other: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    other.create_topic(&world.topic, 1, &[]).expect("the topic is made");
    let first = std::mem::replace(&mut world.kafka, other);
    world.produce_numbered(100..400, 1);
    world
        .stops_by_name(
            &world.config(TO_RIDES),
            &["registered with the Kafka cluster", "point `kafka.bootstrap_servers` back"],
        )
        .await;
    world.kafka = first;
    world.drained_numbered(100..150, &world.config(TO_RIDES));
    world.assert_exact(150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_row_stops_the_pipeline_unless_the_policy_continues() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    world.drained_numbered(0..100, &config);
    world.sql("DELETE FROM tidegate.ledger").await;
    world.stops_by_name(&config, &["ledger lost"]).await;
    world.produce_numbered(100..150, 1);
    let daemon = world.daemon(&world.config(&format!("on_offset_loss = \"latest\"\n{TO_RIDES}")));
    world.await_written(&daemon).await;
    assert_eq!(daemon.metric("tidegate_records_lost_total", &[("cause", "ledger_lost")]), Some(150.0));
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 100);
}

/// Compaction removes records from the middle of the log, and even the last committed record. For the daemon, the log must stay
/// the same one.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_read_over_its_gaps_and_known_again() {
    let kafka = tidegate_harness::shared::kafka().expect("Kafka starts");
    let mut world = World::new(1).await;
    world.topic = tidegate_harness::unique_name("compacted");
    let compaction = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "200"),
        ("max.compaction.lag.ms", "1000"),
    ];
    kafka.create_topic(&world.topic, 1, &compaction).expect("the topic is made");
    world.sql(NUMBERED).await;
    let config = world.config(TO_RIDES);
    let keyed =
        |range: std::ops::Range<i32>| range.map(|n| crate::accounting::numbered(n, 1).key(format!("key {}", n % 50)));
    world.produce(keyed(0..100));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.produce(keyed(100..200));
    // Kafka compacts only closed segments of the log. Later records close the current segment.
    let mut more = 200;
    eventually("the log is compacted", PATIENCE, || {
        world.produce([crate::accounting::numbered(more, 1).key("key 0")]);
        more += 1;
        world.readable() < 130
    })
    .unwrap_or_else(|error| panic!("{error}: {} of {more}", world.readable()));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = world.number("SELECT count(*) FROM rides").await;
    assert_eq!(rows, world.number("SELECT count(DISTINCT seq) FROM rides").await, "nothing is there twice");
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE seq < 100").await, 100);
    assert_eq!(
        world.ledger().await,
        world.kafka.end_offsets(&world.topic).expect("ends")[0],
        "the ledger is at the end"
    );
}

/// A producer's transaction ends with a marker, which has an offset but isn't a record. The marker must not count as lag.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_transaction_marker_there_is_no_lag_and_a_drain_ends() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let config = world.config(TO_RIDES);
    world.transaction(10, true);
    for times in 1..=2 {
        let (code, log) = world.drain(&config);
        assert_eq!(code, Some(0), "drain {times}: {log}");
    }
    // The command `lag` has no consumer that has read past the marker, so it reads the log's end itself.
    let lag = crate::cli::tidegate(&config, &["lag", "--json"]).ok().json();
    assert_eq!(lag["pipelines"][0]["lag_records"], 0, "{lag}");
    world.transaction(5, false);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let owner = world.daemon(&config);
    owner.await_ready(PATIENCE).expect("it is ready");
    let idle = world.daemon(&world.config(TO_RIDES));
    idle.await_ready(PATIENCE).expect("it is ready");
    world.transaction(7, true);
    for daemon in [&owner, &idle] {
        daemon
            .await_until("it sees no lag", PATIENCE, |daemon| daemon.metric("tidegate_lag_records", &[]) == Some(0.0))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }
    world.produce([Record::new(r#"{"id":99}"#).to(0)]);
    eventually("a real record is lag, and is written", PATIENCE, || {
        counted(&owner, "tidegate_rows_written_total") + counted(&idle, "tidegate_rows_written_total") >= 8.0
    })
    .unwrap_or_else(|error| panic!("{error}; {}\n{}", owner.log_tail(), idle.log_tail()));
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 18);
}
