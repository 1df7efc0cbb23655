//! No wrong lag is shown if a topic was recreated, records were deleted, or a log ends in transaction markers. Also tests the
//! time of the last commit.

use std::time::Duration;

use tidegate_harness::{Daemon, unique_name};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::cli_verify::transaction_into;
use crate::support::{PATIENCE, World};

const TO_RIDES: &str = "table.name = \"rides\"";

impl World {
    fn produce_written(&self, range: std::ops::Range<i32>, partitions: i32) {
        self.produce_numbered(range, partitions);
        let (code, log) = self.drain(&self.config(TO_RIDES));
        assert_eq!(code, Some(0), "{log}");
    }
}

fn log_loss(daemon: &Daemon, cause: &str) -> Option<f64> {
    daemon.metric("tidegate_log_loss", &[("cause", cause)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_has_no_lag_of_zero() {
    let world = World::new(1).await;
    world.sql(&format!("{NUMBERED}; CREATE TABLE beside (LIKE rides)")).await;
    world.produce_written(0..100, 1);
    world.recreate(1);
    world.produce_numbered(0..1, 1);
    let config = world.config(TO_RIDES);
    let words = "log ends before the ledger's position";
    let lag = tidegate(&config, &["lag"]).fails(70, &[words]);
    assert!(!lag.out.contains("0 records behind"), "{lag}");
    let lag = tidegate(&config, &["lag", "--json"]);
    assert_eq!(lag.json()["pipelines"][0]["partitions"][0]["condition"]["cause"], "log_shorter", "{lag}");
    // The pipeline stops, and its lag is still measured while another pipeline runs.
    let beside = unique_name("beside");
    let other = format!("[pipelines.{beside}]\ntopics = [\"{}\"]\ntable.name = \"beside\"\n", world.topic);
    let daemon = world.daemon(&format!("{config}{other}"));
    daemon
        .await_until("the metric names it", PATIENCE, |daemon| log_loss(daemon, "log_shorter") == Some(1.0))
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(log_loss(&daemon, "retention"), None);
    let says = |daemon: &Daemon| {
        let status = daemon.status_json().unwrap_or_default();
        let sentences = status["sentences"].as_array().cloned().unwrap_or_default();
        let texts: Vec<_> = sentences.iter().filter_map(|sentence| sentence["text"].as_str()).collect();
        texts.iter().any(|text| text.contains(words)) && texts.iter().all(|text| !text.contains("Nothing is lost"))
    };
    daemon.await_until("the status says so", PATIENCE, says).unwrap_or_else(|error| panic!("{error:#}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_deleted_unread_are_counted_and_leave_no_headroom() {
    let mut world = World::new(1).await;
    world.topic = unique_name("kept_a_week");
    world.kafka.create_topic(&world.topic, 1, &[("retention.ms", "604800000")]).expect("the topic is made");
    world.sql(NUMBERED).await;
    world.produce_written(0..2, 1);
    world.produce_numbered(2..10, 1);
    world.kafka.delete_records(&world.topic, 0, 5).expect("records are deleted");
    let lag = tidegate(&world.config(TO_RIDES), &["lag", "--json"]);
    assert!(lag.code == 70 && lag.err.contains("3 are lost"), "{lag}");
    let lag = lag.json();
    let partition = &lag["pipelines"][0]["partitions"][0];
    assert_eq!(partition["condition"]["cause"], "retention", "{lag}");
    assert_eq!(partition["retention_headroom_seconds"], 0.0, "{lag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_no_commit() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    // All records go to the first partition. A drain claims both partitions.
    world.produce_written(0..100, 1);
    let config = world.config(TO_RIDES);
    let seconds = |partition: usize| {
        let lag = tidegate(&config, &["lag", "--json"]).ok().json();
        lag["pipelines"][0]["partitions"][partition]["last_commit_seconds"].as_f64()
    };
    let first = seconds(0).expect("it has committed");
    assert_eq!(seconds(1), None, "it has never committed");
    tidegate(&config, &["lag"]).ok().says(&["never"]);
    let at = "SELECT (extract(epoch FROM max(updated_at)) * 1000)::int8 FROM tidegate.ledger";
    let moved = world.number(at).await;
    world.produce_written(0..0, 1);
    assert!(world.number(at).await > moved, "the second drain claimed both again");
    let again = seconds(0).expect("it has committed");
    let between = Duration::from_millis(u64::try_from(world.number(at).await - moved).expect("it is later"));
    assert!(
        again >= first + between.as_secs_f64() * 0.5,
        "{again} s after {first} s, and {between:?} between the claims"
    );
    let json = tidegate(&config, &["pipelines", "list", "--json"]).ok().json();
    let listed = json["pipelines"].as_array().and_then(|all| all.iter().find(|p| p["name"] == world.name.as_str()));
    let written = listed.and_then(|p| p["moved_at_ms"].as_i64()).expect("it is listed");
    assert!(written <= moved, "the claim of {moved} is no commit, and {written} is one");
}

/// Per reading of the lag, the daemon checks only a limited number of logs for transaction markers. Here, more logs end in
/// markers, and no consumer owns their partitions.
#[tokio::test(flavor = "multi_thread")]
async fn the_markers_at_the_ends_of_many_logs_are_no_lag() {
    const PARTITIONS: i32 = 250;
    let world = World::new(PARTITIONS).await;
    world.sql(&format!("{NUMBERED}; CREATE TABLE beside (LIKE rides)")).await;
    world.produce_written(0..PARTITIONS, PARTITIONS);
    transaction_into(world.kafka.bootstrap_servers(), &world.topic, (0..PARTITIONS).map(|n| (n, n)), false);
    let config = world.config(TO_RIDES);
    let lag = tidegate(&config, &["lag", "--json"]).ok().json();
    let partitions = lag["pipelines"][0]["partitions"].as_array().expect("partitions").clone();
    assert_eq!(partitions.len(), 250, "{lag}");
    assert!(partitions.iter().all(|partition| partition["lag_records"] == 0), "{lag}");
    // The pipeline stops at its start, and its lag is measured while another pipeline runs.
    let (empty, beside) = (unique_name("empty"), unique_name("beside"));
    world.kafka.create_topic(&empty, 1, &[]).expect("the topic is made");
    let other = format!("[pipelines.{beside}]\ntopics = [\"{empty}\"]\ntable.name = \"beside\"\n");
    let daemon = world.daemon(&format!("{config}group = \"{beside}_another\"\n{other}"));
    let lag = |daemon: &Daemon| daemon.metric("tidegate_lag_records", &[("pipeline", &world.name)]);
    daemon
        .await_until("no marker counts as lag", PATIENCE, |daemon| lag(daemon) == Some(0.0))
        .unwrap_or_else(|error| panic!("{error:#}"));
}
