//! A topic that the configuration names and Kafka doesn't have: it was deleted while a daemon ran, or its name is misspelled.

use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Kafka, KafkaSpec, eventually, shared};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::kafka_health::leak;
use crate::support::{PATIENCE, World, in_tests};

/// The longest time until the daemon shows that a topic is missing, or that it exists again.
const SEEN: Duration = Duration::from_secs(15);

fn sentence(daemon: &Daemon) -> String {
    let status = daemon.status_json().unwrap_or_default();
    status["sentences"][0]["text"].as_str().unwrap_or_default().to_owned()
}

fn is_waiting(daemon: &Daemon) -> bool {
    daemon.metric("tidegate_pipeline_state", &[("state", "waiting_for_kafka")]) == Some(1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_a_running_daemon_is_waited_for_by_name_until_it_is_back() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let config = world.config("table.name = \"rides\"\non_offset_loss = \"earliest\"");
    world.produce_numbered(0..100, 2);
    let daemon = world.daemon(&config);
    world.await_written(&daemon).await;
    daemon.await_ready(PATIENCE).expect("it is ready");
    let words = format!("topic `{}`: Kafka doesn't have it; it was deleted", world.topic);
    world.kafka.delete_topic(&world.topic).expect("the topic is deleted");
    let deleted = Instant::now();
    let says =
        |daemon: &Daemon| is_waiting(daemon) && daemon.get("/readyz").is_ok_and(|ready| ready.body.contains(&words));
    daemon.await_until("it waits for the topic", in_tests(SEEN), says).unwrap_or_else(|error| panic!("{error:#}"));
    println!("named after {:?}", deleted.elapsed());
    assert_eq!(daemon.get("/readyz").expect("it answers").status, 503);
    let page = sentence(&daemon);
    assert!(page.contains(&words) && !page.contains("Nothing is lost"), "{page}");
    assert_eq!(daemon.status_json().expect("a status")["pipelines"][0]["state_words"], "waiting for a topic");
    assert_eq!(daemon.metric("tidegate_lag_records", &[]), None, "nobody knows the lag of a log that is gone");
    daemon.await_log(&format!("waiting for {words}"), PATIENCE).expect("the log says so");
    tidegate(&config, &["status"]).ok().says(&[&words]);
    tidegate(&config, &["lag"]).fails(70, &[&words]);
    let logged = |line: &String| line.contains("waiting for topic");
    assert_eq!(daemon.log().iter().filter(|line| logged(line)).count(), 1, "it is said once: {}", daemon.log_tail());

    eventually("the name is free again", PATIENCE, || world.kafka.create_topic(&world.topic, 2, &[]).is_ok())
        .expect("it is");
    world.produce_numbered(100..300, 2);
    daemon
        .await_until("it doesn't wait any more", in_tests(SEEN), |daemon| !is_waiting(daemon))
        .expect("the topic is there");
    daemon.await_log("Kafka has all listed topics again", PATIENCE).expect("the log says so");
    eventually("the new records are written", PATIENCE, || {
        daemon.metric("tidegate_rows_written_total", &[]) == Some(300.0)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", daemon.log_tail()));
    daemon.await_ready(PATIENCE).expect("it is ready");
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 300);
    tidegate(&config, &["lag"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelled_topic_is_waited_for_by_name_from_the_start() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = world.config("table.name = \"rides\"").replacen("topics = [", "topics = [\"misspelled\", ", 1);
    let daemon = world.daemon(&config);
    let words = "topic `misspelled`: Kafka doesn't have it; it was deleted, or its name is misspelled";
    let says = |daemon: &Daemon| daemon.get("/readyz").is_ok_and(|ready| ready.body.contains(words));
    daemon.await_until("it names the topic", in_tests(SEEN), says).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(sentence(&daemon).contains(words), "{}", sentence(&daemon));
}

/// A broker that restarts doesn't answer at first. Then it may not know its topics yet. Neither means that a topic is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_is_never_a_missing_topic() {
    let kafka = leak(Kafka::start(&KafkaSpec::single()).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 2);
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    world.await_written(&daemon).await;
    world.kafka.restart(0).expect("it starts again");
    world.produce_numbered(100..200, 2);
    world.await_written(&daemon).await;
    daemon.await_ready(PATIENCE).expect("it is ready");
    assert!(!daemon.log().iter().any(|line| line.contains("doesn't have it")), "{}", daemon.log_tail());
}
