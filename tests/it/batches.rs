//! The limits of a batch are rows, bytes and age. Memory stays within its limit, and small batches are written soon.

use std::time::{Duration, Instant};

use tidegate_harness::{Kafka, KafkaSpec, Record, eventually, eventually_async, shared, usage};

use crate::accounting::{await_metric, counted, with_limits};
use crate::support::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_holds_more_rows_than_allowed() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE rides (seq bigint, name text)").await;
    world.produce_numbered(0..50_000, 2);
    let daemon = world.daemon(&world.config("table.name = \"rides\"\nbatch.max_rows = 3000"));
    world.await_written(&daemon).await;
    world.assert_exact(50_000).await;
    let largest = world.number("SELECT max(n) FROM (SELECT count(*) n FROM rides GROUP BY xmin) batches").await;
    assert_eq!(largest, 3_000, "full batches are full");
    let full = daemon.metric("tidegate_batches_total", &[("trigger", "rows")]).unwrap_or(0.0);
    assert!(full >= 10.0, "{full} batches were closed by their rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_holds_more_bytes_than_allowed_and_one_record() {
    const LIMIT: i64 = 64 << 10;
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint, pad text)").await;
    let pad = "x".repeat(1_000);
    world.produce((0..2_000).map(|seq| Record::new(format!(r#"{{"seq":{seq},"pad":"{pad}"}}"#)).to(0)));
    let daemon = world.daemon(&world.config("table.name = \"rides\"\nbatch.max_bytes = \"64KiB\""));
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 2_000);
    let sql = "SELECT max(n) FROM (SELECT sum(length(pad)) n FROM rides GROUP BY xmin) batches";
    let largest = world.number(sql).await;
    assert!(largest <= LIMIT + 1_000, "{largest} bytes in a batch");
    let full = daemon.metric("tidegate_batches_total", &[("trigger", "bytes")]).unwrap_or(0.0);
    assert!(full >= 10.0, "{full} batches were closed by their bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_record_waits_for_max_age() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint)").await;
    let daemon = world.daemon(&world.config("table.name = \"rides\"\nbatch.max_age = \"1500ms\""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let started = Instant::now();
    world.produce([Record::new(r#"{"seq":1}"#).to(0)]);
    let sql = "SELECT count(*) FROM rides";
    eventually_async("the record arrives", PATIENCE, async || world.number(sql).await == 1).await.expect("it arrives");
    let took = started.elapsed();
    // Whether the batch is closed too late isn't tested here. Unit tests in `crates/protocol` do that with a simulated clock.
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
    let by_age = || daemon.metric("tidegate_batches_total", &[("trigger", "age")]) == Some(1.0);
    eventually("the batch is counted", PATIENCE, by_age).expect("it is counted");
}

/// A batch may have records of every partition, and one statement claims all partitions of an assignment. So the number of
/// transactions doesn't depend on the number of partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_partitions_need_no_more_transactions_than_a_few() {
    const PARTITIONS: i32 = 1_000;
    const RECORDS: i32 = 50_000;
    const ROWS: i64 = 5_000;
    let kafka = crate::kafka_health::leak(Kafka::start(&KafkaSpec::single()).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), PARTITIONS).await;
    world.sql("CREATE TABLE rides (seq bigint, name text)").await;
    let config = world.config(&format!("table.name = \"rides\"\nbatch = {{ max_rows = {ROWS}, max_age = \"10s\" }}"));
    let transactions =
        async |table: &str| world.number(&format!("SELECT count(DISTINCT xmin::text) FROM {table}")).await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.ledger").await, i64::from(PARTITIONS));
    // The `xmin` of each row of the ledger is the transaction that claimed the row.
    let claims = transactions("tidegate.ledger").await;
    assert!(claims <= 10, "{claims} transactions claimed the partitions\n{log}");
    world.produce_numbered(0..RECORDS, PARTITIONS);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(RECORDS.into()).await;
    let writes = transactions("rides").await;
    assert!(writes <= 2 * i64::from(RECORDS) / ROWS, "{writes} transactions wrote the rows\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_is_not_held_up_by_the_network() {
    const ROUNDS: u32 = 24;
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint)").await;
    let daemon = world.daemon(&world.config("table.name = \"rides\"\nbatch = { max_rows = 10, max_age = \"5s\" }"));
    daemon.await_ready(PATIENCE).expect("it is ready");
    for round in 1..=ROUNDS {
        world.produce((0..10).map(|seq| Record::new(format!(r#"{{"seq":{seq}}}"#)).to(0)));
        await_metric(&daemon, "tidegate_rows_written_total", f64::from(round * 10));
    }
    let quick = daemon.metric("tidegate_write_duration_seconds_bucket", &[("le", "0.025")]).unwrap_or(0.0);
    let all = counted(&daemon, "tidegate_write_duration_seconds_count");
    println!("{quick} of {all} small batches within 25 ms, connections and COMMIT included");
    // If TCP's acknowledgements were delayed, each batch would take at least 40 ms. So a single fast batch proves that they
    // aren't. More can't be required, because a busy machine slows down most batches.
    assert!(quick >= 1.0, "{quick} of {all} within 25 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_its_limit_whatever_the_size_of_the_records() {
    const LIMIT: u64 = 128 << 20;
    let mut world = World::new(1).await;
    let topic = format!("{}_large", world.topic);
    world.kafka.create_topic(&topic, 2, &[("max.message.bytes", "33554432")]).expect("the topic is made");
    world.topic = topic;
    world.sql("CREATE TABLE rides (seq bigint, pad text)").await;
    let record =
        |seq: i32, bytes: usize| Record::new(format!(r#"{{"seq":{seq},"pad":"{}"}}"#, "x".repeat(bytes))).to(seq % 2);
    let sizes = |seq: i32| if seq % 10_000 == 5_000 { 10_000_000 } else { 1_000 };
    world.produce((0..60_000).map(|seq| record(seq, sizes(seq))));
    let pipeline = "table.name = \"rides\"\nconsumers = 2\nbatch.max_bytes = \"2MiB\"";
    let daemon = world.daemon(&with_limits(&world.config(pipeline), "memory = \"128MiB\""));
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 60_000);
    assert_eq!(world.number("SELECT max(length(pad))::int8 FROM rides").await, 10_000_000);
    let peak = usage::peak_rss_bytes(daemon.pid()).expect("it lives");
    println!("peak RSS {} MiB of {} MiB", peak >> 20, LIMIT >> 20);
    assert!(peak <= LIMIT, "{} MiB", peak >> 20);
}
