//! No partition stops silently. If a partition has lag and doesn't advance, the log names it with the reason. `/readyz` fails
//! until the partition advances.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use tidegate::config::Config;
use tidegate::kafka::membership::InstanceName;
use tidegate::pipeline::Pipeline;
use tidegate_harness::{Daemon, Kafka, KafkaSpec, eventually, eventually_async, shared};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounting::{NUMBERED, await_metric, with_limits};
use crate::support::{PATIENCE, World};

/// The longest time until a stall is reported. A stall is lag without progress for 30 s; the busy test suite adds some time.
const STALL: Duration = Duration::from_secs(90);
const NAMED: &str = "a partition with lag makes no progress";

/// Waits for the log line that names a stalled partition. Checks that this line contains `reason`, and that
/// `/readyz` contains `words`.
fn await_stall(daemon: &Daemon, reason: &str, words: &str) {
    let line = daemon.await_log(NAMED, STALL).expect("it is named");
    assert!(line.contains(reason), "{line}");
    let ready = daemon.get("/readyz").expect("it answers");
    assert!(ready.status == 503 && ready.body.contains(words), "{} {}", ready.status, ready.body);
}

async fn flows_again(world: &World, daemon: &Daemon, records: i64) {
    world.await_written(daemon).await;
    daemon.await_log("flowing again", PATIENCE).expect("it says so");
    daemon.await_ready(PATIENCE).expect("it is ready");
    world.assert_exact(records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_partition_is_named_with_its_reason_while_postgres_is_down() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let mut holder = world.connect().await;
    holder.execute("SET application_name = 'a nightly report'; BEGIN; LOCK TABLE rides").await.expect("it locks");
    world.produce_numbered(0..100, 1);
    await_stall(&daemon, "waiting for Postgres", "a nightly report");
    holder.execute("COMMIT").await.expect("it lets go");
    flows_again(&world, &daemon, 100).await;
}

/// The ledger gets a claim whose owner doesn't exist. After the grace period, the daemon claims the partition again.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_partition_without_progress_is_named_and_claimed_again() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = with_limits(&world.config("table.name = \"rides\""), "claim_grace = \"45s\"");
    let daemon = world.daemon(&config);
    daemon.await_ready(PATIENCE).expect("it is ready");
    world.sql("UPDATE tidegate.ledger SET claim_id = gen_random_uuid(), epoch = epoch + 1").await;
    world.produce_numbered(0..100, 1);
    await_stall(&daemon, "fenced", "fenced: another claim holds it");
    flows_again(&world, &daemon, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_partition_is_named_with_its_reason_while_kafka_is_down() {
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 1).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..200_000, 1);
    let pipeline = "table.name = \"rides\"\nbatch = { max_rows = 100 }\nflow.max_rows_per_second = 500";
    let daemon = world.daemon(&world.config(pipeline));
    await_metric(&daemon, "tidegate_rows_written_total", 200.0);
    daemon
        .await_until("it sees the lag", PATIENCE, |d| d.metric("tidegate_lag_records", &[]).unwrap_or(0.0) > 0.0)
        .expect("lag");
    kafka.kill(0).expect("it dies");
    let away = |daemon: &Daemon| {
        daemon.get("/readyz").is_ok_and(|ready| ready.status == 503 && ready.body.contains("the connection is refused"))
    };
    daemon.await_until("`/readyz` says that Kafka is away", STALL, away).expect("it is named");
    assert_eq!(daemon.get("/healthz").expect("it answers").status, 200);
    kafka.start_again(0).expect("it starts again");
    let before = world.ledger().await;
    world.await_ledger(&daemon, before + 5_000).await;
    daemon.await_ready(PATIENCE).expect("it is ready");
    assert_eq!(world.number("SELECT count(*) - count(DISTINCT seq) FROM rides").await, 0, "nothing is there twice");
}

/// If nothing explains a stall, the watchdog rebuilds the consumer. A real Kafka can't be made to cause such a stall. So the test
/// requests the rebuild itself, from a pipeline in its own process.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_rebuilt_in_the_middle_of_a_drain_loses_nothing() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..60_000, 2);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let pipeline = "table.name = \"rides\"\nbatch.max_rows = 1000\nflow.max_rows_per_second = 10_000";
    std::fs::write(&file, world.config(pipeline)).expect("the configuration is written");
    let config = Arc::new(Config::load(&[file], std::iter::empty()).expect("a configuration"));
    let pipeline = Arc::new(Pipeline::new(&config, &config.pipelines[0]).expect("a pipeline"));
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    let name = InstanceName::new(&config, "test");
    running.spawn(Arc::clone(&pipeline).run(config, "test".into(), name, true, stop));
    let consumer = &pipeline.consumers[0];
    for at in [5_000, 20_000, 35_000] {
        eventually("rows are written", PATIENCE, || consumer.rows() >= at).expect("it flows");
        let before = world.number("SELECT max(epoch) FROM tidegate.ledger").await;
        consumer.ask_rebuild("the test asks");
        let epochs = "SELECT min(epoch) FROM tidegate.ledger";
        eventually_async("each partition is claimed again", PATIENCE, async || world.number(epochs).await > before)
            .await
            .expect("its consumer is built anew");
    }
    let ended = running.join_next().await.expect("it was spawned").expect("it doesn't panic");
    assert!(ended.is_ok(), "{ended:?}");
    world.assert_exact(60_000).await;
}
