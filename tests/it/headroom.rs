//! `tidegate_retention_headroom_seconds` with a Kafka that really deletes records.

use std::time::{Duration, Instant};

use sqlx::Executor;
use tidegate_harness::{Kafka, KafkaSpec, eventually, shared, unique_name};

use crate::accounting::{NUMBERED, counted, numbered};
use crate::cli::tidegate;
use crate::kafka_health::acl;
use crate::support::{PATIENCE, World};

const RETENTION: f64 = 40.0;
const HEADROOM: &str = "tidegate_retention_headroom_seconds";

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headroom_runs_out_when_kafka_deletes_and_not_after() {
    let spec = KafkaSpec::single().property("log.retention.check.interval.ms", "500");
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&spec).expect("Kafka starts")));
    let mut world = World::on(kafka, shared::postgres().expect("Postgres starts"), 1).await;
    world.topic = unique_name("kept_short");
    let settings = [("retention.ms", "40000"), ("segment.ms", "1000"), ("file.delete.delay.ms", "0")];
    kafka.create_topic(&world.topic, 1, &settings).expect("the topic is made");
    world.sql(NUMBERED).await;
    // The records get a timestamp of ten seconds ago, so they are older than the first reading of the lag.
    let made_ms = now_ms() - 10_000;
    world.produce((0..100).map(|n| numbered(n, 1).at_ms(made_ms)));
    let config = world.config("table.name = \"rides\"");
    let mut holder = world.connect().await;
    holder.execute("BEGIN; LOCK TABLE rides").await.expect("it locks");
    let daemon = world.daemon(&config);
    daemon.await_until("a headroom", PATIENCE, |d| d.metric(HEADROOM, &[]).is_some()).expect("it is shown");
    let truth = || RETENTION - (now_ms() - made_ms) as f64 / 1000.0;
    let (shown, left) = (counted(&daemon, HEADROOM), truth());
    assert!((shown - left).abs() < 5.0, "{shown} s are shown and {left} s left");
    let lag = tidegate(&config, &["lag", "--json"]).ok().json();
    let (shown, left) =
        (lag["pipelines"][0]["partitions"][0]["retention_headroom_seconds"].as_f64().expect("a number"), truth());
    assert!((shown - left).abs() < 5.0, "`tidegate lag` shows {shown} s, and {left} s are left");
    // Kafka deletes only closed segments of the log. New records close the current segment.
    world.produce([numbered(100, 1)]);
    let (mut last, started) = (shown, Instant::now());
    eventually("Kafka deletes", PATIENCE, || {
        last = counted(&daemon, HEADROOM);
        kafka.start_offsets(&world.topic).expect("offsets")[0] > 0
    })
    .expect("records are deleted");
    println!("Kafka deleted after {:?}; the headroom said {last} s", started.elapsed());
    assert!(last < 5.0, "Kafka deleted records that had {last} s left");
    assert!(started.elapsed() > Duration::from_secs_f64((shown - 5.0).max(0.0)), "and it had said so");
}

/// Without the right to read a topic's settings, the headroom is unknown. An unknown headroom must not look like an unlimited
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_headroom_is_told_from_an_unlimited_one() {
    let spec = KafkaSpec::single().acls();
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&spec).expect("Kafka starts")));
    let mut world = World::on(kafka, shared::postgres().expect("Postgres starts"), 1).await;
    world.topic = unique_name("kept");
    kafka.create_topic(&world.topic, 1, &[("retention.ms", "-1")]).expect("the topic is made");
    world.sql(NUMBERED).await;
    world.produce((0..10).map(|n| numbered(n, 1)));
    let config = world.config("table.name = \"rides\"");
    tidegate(&config, &["migrate", "--apply"]).ok();
    let seen = || {
        let lag = tidegate(&config, &["lag", "--json"]).ok().json();
        let partition = &lag["pipelines"][0]["partitions"][0];
        assert!(partition["retention_headroom_seconds"].is_null(), "{lag}");
        (partition["retention_unlimited"].as_bool().expect("a bool"), tidegate(&config, &["lag"]).ok().out)
    };
    let daemon = world.daemon(&config);
    daemon.await_until("a headroom", PATIENCE, |d| d.metric(HEADROOM, &[]).is_some()).expect("it is shown");
    assert_eq!(daemon.metric(HEADROOM, &[]), Some(f64::INFINITY));
    assert_eq!(daemon.status_json().expect("a status")["pipelines"][0]["retention_unlimited"], true);
    let (unlimited, text) = seen();
    assert!(unlimited && text.contains("no limit"), "{text}");
    let warned = || tidegate(&config, &["check"]).ok().out;
    assert!(!warned().contains("retention"), "{}", warned());
    drop(daemon);

    for (principal, operation) in [("--allow-principal", "All"), ("--deny-principal", "DescribeConfigs")] {
        acl(kafka, &["--add", principal, "User:ANONYMOUS", "--operation", operation, "--topic", &world.topic]);
    }
    eventually("the rule is in force", PATIENCE, || !seen().0).expect("it is");
    let (_, text) = seen();
    assert!(text.contains("unknown"), "{text}");
    let command = format!("--operation DescribeConfigs --topic '{}'", world.topic);
    assert!(warned().contains(&command), "{}", warned());
    let daemon = world.daemon(&config);
    daemon.await_log("the topic's retention can't be read", PATIENCE).expect("it is logged");
    assert_eq!(daemon.metric(HEADROOM, &[]), None);
    assert_eq!(daemon.status_json().expect("a status")["pipelines"][0]["retention_unlimited"], false);
}
