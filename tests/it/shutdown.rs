//! The end of a run. The daemon ends in time, even if a server is unavailable. It reports how many records remain. Its exit code
//! says whether it had to write any of them.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use sqlx::Executor as _;
use tidegate_harness::{Daemon, Kafka, KafkaSpec, Proxy, Record};

use crate::accounting::{NUMBERED, SHORT_DEADLINES, await_metric, with_limits, with_postgres};
use crate::support::{PATIENCE, World, in_tests, spec};

/// The value of `limits.drain_timeout` in these tests.
const DRAIN: Duration = Duration::from_secs(6);
/// How much later than [`DRAIN`] a process may end.
const SLACK: Duration = Duration::from_secs(2);
/// The exit code of a run that ended before it had written everything that it had to write.
const UNFINISHED: i32 = 75;
const TO_RIDES: &str = "table.name = \"rides\"";

fn through(world: &World, proxy: &Proxy, pipeline: &str) -> String {
    let config = world.config_at(&world.database.url_at(proxy.addr()), pipeline);
    with_limits(&with_postgres(&config, SHORT_DEADLINES), "drain_timeout = \"6s\"\nclaim_grace = \"3s\"")
}

async fn world_and_proxy(partitions: i32) -> (World, Proxy) {
    let world = World::new(partitions).await;
    world.sql(NUMBERED).await;
    let proxy = Proxy::start_postgres(world.postgres.address()).expect("the proxy starts");
    (world, proxy)
}

fn away(proxy: &Proxy) {
    proxy.refuse(true);
    proxy.cut();
}

fn ends_in_time(daemon: &Daemon) -> ExitStatus {
    let told = Instant::now();
    daemon.terminate().expect("it is told");
    let status = daemon.wait_exit(DRAIN + in_tests(SLACK)).expect("it ends in time");
    println!("ended {:?} after SIGTERM with {status}", told.elapsed());
    status
}

fn said(daemon: &Daemon, words: &str) -> bool {
    daemon.log().iter().any(|line| line.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_postgres_is_down_it_ends_in_time_and_says_how_much_is_left() {
    let (world, proxy) = world_and_proxy(1).await;
    let daemon = world.daemon(&through(&world, &proxy, TO_RIDES));
    daemon.await_ready(PATIENCE).expect("it is ready");
    world.produce_numbered(0..10, 1);
    world.await_written(&daemon).await;
    away(&proxy);
    world.produce_numbered(10..110, 1);
    await_metric(&daemon, "tidegate_retries_total", 2.0);
    await_metric(&daemon, "tidegate_records_consumed_total", 110.0);
    let status = ends_in_time(&daemon);
    assert_eq!(status.code(), Some(UNFINISHED), "{}", daemon.log_tail());
    assert!(said(&daemon, "100 records were read and are not written; it waited: "), "{}", daemon.log_tail());
    // In the end nothing is lost, and nothing is written twice.
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(110).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_before_it_could_start_it_ends_at_once() {
    let (world, proxy) = world_and_proxy(1).await;
    away(&proxy);
    let daemon = world.daemon(&through(&world, &proxy, TO_RIDES));
    daemon.await_log("can't start yet", PATIENCE).expect("it waits for Postgres");
    assert_eq!(ends_in_time(&daemon).code(), Some(0), "nothing was read: {}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_kafka_is_down_it_writes_what_it_read_and_ends_in_time() {
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let postgres = tidegate_harness::shared::postgres().expect("Postgres starts");
    for postgres_too in [false, true] {
        let world = World::on(kafka, postgres, 1).await;
        world.sql(NUMBERED).await;
        let proxy = Proxy::start_postgres(postgres.address()).expect("the proxy starts");
        let daemon = world.daemon(&through(&world, &proxy, TO_RIDES));
        daemon.await_ready(PATIENCE).expect("it is ready");
        world.produce_numbered(0..50, 1);
        world.await_written(&daemon).await;
        if postgres_too {
            away(&proxy);
            world.produce_numbered(50..60, 1);
            await_metric(&daemon, "tidegate_records_consumed_total", 60.0);
            await_metric(&daemon, "tidegate_retries_total", 1.0);
        }
        kafka.kill(0).expect("Kafka dies");
        let status = ends_in_time(&daemon);
        if postgres_too {
            assert_eq!(status.code(), Some(UNFINISHED), "{}", daemon.log_tail());
            assert!(said(&daemon, "10 records were read and are not written"), "{}", daemon.log_tail());
        } else {
            assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
        }
        kafka.start_again(0).expect("Kafka starts again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_stopped_by_its_dead_letter_budget_does_not_blame_its_drain() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce((0..2000).map(|n| Record::new("no JSON").to(n % 2)));
    let daemon = world.daemon(&world.config("table.name = \"rides\"\nconsumers = 2"));
    let status = daemon.wait_exit(PATIENCE).expect("it stops");
    assert_eq!(status.code(), Some(70), "{}", daemon.log_tail());
    assert!(said(&daemon, "could not be written") && !said(&daemon, "the drain timed out"), "{}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_run_that_is_told_to_end_says_what_is_left_and_is_not_done() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 2);
    // The limit is one row per second, so that the run is told to end before it has written everything.
    let config = world.config("table.name = \"rides\"\nflow.max_rows_per_second = 1");
    let daemon = Daemon::spawn(&spec(&config).arg("--until").arg("now")).expect("the daemon starts");
    await_metric(&daemon, "tidegate_rows_written_total", 1.0);
    // The run knows its end only after Kafka has returned the log ends.
    daemon.await_log("reading", PATIENCE).expect("it reads");
    daemon
        .await_until("the lag is known", PATIENCE, |d| d.metric("tidegate_lag_records", &[]).is_some())
        .expect("it is");
    daemon.terminate().expect("it is told");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(UNFINISHED), "{}", daemon.log_tail());
    let written = world.number("SELECT count(*) FROM rides").await;
    assert!((1..100).contains(&written), "{written} are written");
    let left = format!("{} records are left: {}/", 100 - written, world.topic);
    assert!(said(&daemon, &left), "no {left:?}: {}", daemon.log_tail());
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_run_whose_pattern_matches_no_topic_has_nothing_to_write_and_says_so() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let topics = format!("topics = [\"{}\"]", world.topic);
    let config = world.config(TO_RIDES);
    assert!(config.contains(&topics), "{config}");
    let (code, log) = world.drain(&config.replace(&topics, &format!("topic_pattern = \"^no-{}$\"", world.topic)));
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("no topic matches, so there is nothing to write"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_run_gives_up_when_its_time_is_over() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 2);
    let mut holder = world.connect().await;
    holder.execute("BEGIN; LOCK TABLE rides").await.expect("it locks");
    let config = with_postgres(&world.config(TO_RIDES), SHORT_DEADLINES);
    let config = with_limits(&config, "drain_timeout = \"6s\"\nclaim_grace = \"3s\"");
    let bounded = spec(&config).arg("--until").arg("now").arg("--give-up-after").arg("8s");
    let daemon = Daemon::spawn(&bounded).expect("the daemon starts");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(UNFINISHED), "{}", daemon.log_tail());
    let words = format!("100 records are left: {0}/0: 50, {0}/1: 50; it waited: Postgres 55P03", world.topic);
    assert!(said(&daemon, &words), "no {words:?}: {}", daemon.log_tail());
    assert!(said(&daemon, "(`--give-up-after`): ending it"), "{}", daemon.log_tail());
}
