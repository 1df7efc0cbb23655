//! How a group assigns the partitions of a topic to consumers, on KRaft and on ZooKeeper.

use tidegate_harness::{Kafka, shared};

use crate::group::{COLUMNS, TABLE, await_exact, await_shares, numbered};
use crate::support::{PATIENCE, World};

async fn world(kafka: &'static Kafka, partitions: i32) -> World {
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), partitions).await;
    world.sql(TABLE).await;
    world
}

/// Starts one daemon with several consumers. Checks how many partitions each consumer owns in the end, and that each record
/// arrives once.
async fn consumers_share(kafka: &'static Kafka, partitions: i32, consumers: usize, expected: &[usize]) {
    let world = world(kafka, partitions).await;
    world.produce(numbered(0, partitions, 25));
    let daemon = world.daemon(&world.config(&format!("consumers = {consumers}\n{COLUMNS}")));
    // The daemon is ready even if one of its consumers owns no partition.
    daemon.await_ready(PATIENCE).expect("the daemon is ready");
    await_shares(&world, &world.name, &[&daemon], expected).await;
    await_exact(&world, i64::from(partitions) * 25, &[&daemon]).await;
    assert_eq!(daemon.get("/readyz").expect("the daemon answers").status, 200, "{}", daemon.log_tail());
}

/// Starts three daemons with one consumer each. Checks that they share the partitions like three consumers of one
/// daemon.
async fn daemons_share(kafka: &'static Kafka) {
    let world = world(kafka, 4).await;
    world.produce(numbered(0, 4, 25));
    let daemons: Vec<_> = (0..3).map(|_| world.daemon(&world.config(COLUMNS))).collect();
    let all: Vec<_> = daemons.iter().collect();
    await_shares(&world, &world.name, &all, &[2, 1, 1]).await;
    await_exact(&world, 100, &all).await;
}

async fn a_second_group_gets_everything(kafka: &'static Kafka) {
    let world = world(kafka, 4).await;
    world.sql("CREATE TABLE copies (id bigint)").await;
    world.produce(numbered(0, 4, 25));
    let second = format!("{}_copy", world.name);
    let daemon = world.daemon(&world.config(&format!(
        "consumers = 2\n{COLUMNS}\n[pipelines.{second}]\ntopics = [\"{}\"]\ntable.name = \"copies\"",
        world.topic
    )));
    await_shares(&world, &world.name, &[&daemon], &[2, 2]).await;
    await_shares(&world, &second, &[&daemon], &[4]).await;
    daemon
        .await_until("both tables are full", PATIENCE, |daemon| {
            daemon.metric("tidegate_rows_written_total", &[]) == Some(200.0)
        })
        .expect("all rows are written");
    for table in ["rides", "copies"] {
        let all = format!("SELECT count(DISTINCT id) FROM {table} WHERE id BETWEEN 0 AND 99");
        assert_eq!(world.number(&all).await, 100, "{table}");
        assert_eq!(world.number(&format!("SELECT count(*) FROM {table}")).await, 100, "{table}");
    }
}

async fn who_leaves_hands_its_partitions_on(kafka: &'static Kafka) {
    let world = world(kafka, 4).await;
    let stays = world.daemon(&world.config(COLUMNS));
    let leaves = world.daemon(&world.config(COLUMNS));
    world.produce(numbered(0, 4, 25));
    await_shares(&world, &world.name, &[&stays, &leaves], &[2, 2]).await;
    world.produce(numbered(100, 4, 25));
    leaves.terminate().expect("the daemon takes a signal");
    let ended = leaves.wait_exit(PATIENCE).expect("the daemon ends");
    assert_eq!(ended.code(), Some(0), "{}", leaves.log_tail());
    world.produce(numbered(200, 4, 25));
    await_shares(&world, &world.name, &[&stays], &[4]).await;
    await_exact(&world, 300, &[&stays, &leaves]).await;
}

macro_rules! allocation_on {
    ($cluster:ident, $kafka:path) => {
        mod $cluster {
            use tidegate_harness::{Kafka, shared};

            fn kafka() -> &'static Kafka {
                $kafka().expect("Kafka starts")
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn one_consumer_owns_the_only_partition() {
                super::consumers_share(kafka(), 1, 1, &[1]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn one_consumer_owns_all_four_partitions() {
                super::consumers_share(kafka(), 4, 1, &[4]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn two_consumers_own_two_partitions_each() {
                super::consumers_share(kafka(), 4, 2, &[2, 2]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_three_consumers_one_owns_two_partitions() {
                super::consumers_share(kafka(), 4, 3, &[2, 1, 1]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_five_consumers_one_is_idle_and_the_daemon_ready() {
                super::consumers_share(kafka(), 4, 5, &[1, 1, 1, 1, 0]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn three_daemons_share_as_three_consumers_do() {
                super::daemons_share(kafka()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_second_group_gets_everything() {
                super::a_second_group_gets_everything(kafka()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_consumer_that_leaves_hands_its_partitions_on() {
                super::who_leaves_hands_its_partitions_on(kafka()).await;
            }
        }
    };
}

allocation_on!(kraft, shared::kafka);
allocation_on!(zookeeper, shared::zookeeper_kafka);
