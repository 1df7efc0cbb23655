//! Names of consumers in their group (`group.instance.id`). Another member takes a consumer's name, and the consumer takes it
//! back.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tidegate_harness::{Daemon, Kafka, KafkaSpec, eventually, shared};
use tidegate_kafka_batch::{is_member, named_members};

use crate::group::{COLUMNS, TABLE, await_exact, await_shares, numbered};
use crate::support::{PATIENCE, World};

const POLL: Duration = Duration::from_millis(100);

fn client(world: &World) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", world.kafka.bootstrap_servers()).set("group.id", &world.name);
    config
}

/// Returns the `group.instance.id` of each member of the pipeline's group.
fn names(world: &World) -> Vec<String> {
    let client: BaseConsumer = client(world).create().expect("a client");
    named_members(client.client(), &world.name, PATIENCE).expect("Kafka describes the group")
}

fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(words)).count()
}

/// Joins the group under this name, and leaves it when the daemon has logged `words` for the `nth` time.
fn join_as(world: &World, name: &str, daemon: &Daemon, words: &str, nth: usize) {
    let mut config = client(world);
    config.set("group.instance.id", name).set("partition.assignment.strategy", "cooperative-sticky");
    let other: BaseConsumer = config.set("enable.auto.commit", "false").create().expect("a consumer");
    other.subscribe(&[&world.topic]).expect("it subscribes");
    let told = eventually("the daemon loses its name", PATIENCE, || {
        drop(other.poll(POLL));
        count(daemon, words) >= nth
    });
    told.unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log_tail()));
    other.unsubscribe();
    let left = eventually("the other member leaves", PATIENCE, || {
        drop(other.poll(POLL));
        other.client().fatal_error().is_some() || !is_member(&other)
    });
    left.expect("within its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_lost_its_name_takes_it_back_each_time_when_it_is_free() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    // The configuration sets no `instance`, so the consumer's name is derived from the host and the port.
    let daemon = world.daemon(&world.config(COLUMNS));
    await_shares(&world, &world.name, &[&daemon], &[2]).await;
    let name = names(&world).pop().expect("the consumer has a name");
    for round in 1..=2_i64 {
        let nth = usize::try_from(round).expect("it is small");
        tokio::task::block_in_place(|| join_as(&world, &name, &daemon, "another member joined the group as", nth));
        assert_eq!(count(&daemon, "joins without a name until the name is free"), nth, "{}", daemon.log_tail());
        // Without its name, the consumer still reads.
        world.produce(numbered((round - 1) * 40, 2, 10));
        await_exact(&world, (round - 1) * 40 + 20, &[&daemon]).await;
        let back = |daemon: &Daemon| count(daemon, "the name is free: joining again under it") == nth;
        daemon.await_until("it takes its name back", PATIENCE, back).unwrap_or_else(|error| panic!("{error:#}"));
        eventually("it is a member under its name", PATIENCE, || names(&world) == [name.as_str()])
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log_tail()));
        await_shares(&world, &world.name, &[&daemon], &[2]).await;
        world.produce(numbered((round - 1) * 40 + 20, 2, 10));
        await_exact(&world, round * 40, &[&daemon]).await;
    }
}

/// If a consumer loses its name after an outage, the cause is probably a late request of its own earlier session. So the first
/// time, the consumer joins again under the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_loses_its_name_after_an_outage_keeps_it_once() {
    let kafka = crate::kafka_health::leak(Kafka::start(&KafkaSpec::single()).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(TABLE).await;
    let session = "kafka = { \"session.timeout.ms\" = 6_000 }";
    let daemon = world.daemon(&world.config(&format!("{session}\n{COLUMNS}")));
    await_shares(&world, &world.name, &[&daemon], &[2]).await;
    let name = names(&world).pop().expect("the consumer has a name");
    kafka.kill(0).expect("the broker dies");
    daemon
        .await_until("the session ends", PATIENCE, |daemon| count(daemon, "lost=true") > 0)
        .unwrap_or_else(|error| panic!("{error:#}"));
    kafka.start_again(0).expect("it starts again");
    await_shares(&world, &world.name, &[&daemon], &[2]).await;
    let kept = count(&daemon, "joins again under the same name");
    let nth = 1.max(kept);
    tokio::task::block_in_place(|| join_as(&world, &name, &daemon, "joins again under the same name", nth));
    eventually("it is a member under its name", PATIENCE, || names(&world) == [name.as_str()])
        .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log_tail()));
    assert_eq!(count(&daemon, "joins without a name"), 0, "{}", daemon.log_tail());
    await_shares(&world, &world.name, &[&daemon], &[2]).await;
    world.produce(numbered(0, 2, 10));
    await_exact(&world, 20, &[&daemon]).await;
}

/// Under KIP-848 the broker refuses a second member with the same name. A dead member keeps its name until its session times out.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_broker_holds_is_taken_when_its_session_has_timed_out() {
    let spec = KafkaSpec::single()
        .property("group.consumer.min.session.timeout.ms", "6000")
        .property("group.consumer.session.timeout.ms", "6000")
        .property("group.consumer.heartbeat.interval.ms", "2000");
    let kafka = crate::kafka_health::leak(Kafka::start(&spec).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(TABLE).await;
    let config =
        || format!("instance = \"twin\"\n{}", world.config(&format!("group_protocol = \"consumer\"\n{COLUMNS}")));
    let first = world.daemon(&config());
    await_shares(&world, &world.name, &[&first], &[2]).await;
    let name = names(&world).pop().expect("Kafka says the name of a member under this protocol too");
    assert!(name.starts_with("twin-"), "{name}");
    let second = world.daemon(&config());
    second.await_log("the broker holds", PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    await_shares(&world, &world.name, &[&first, &second], &[1, 1]).await;
    first.kill().expect("the daemon dies");
    let back = |daemon: &Daemon| count(daemon, "the name is free: joining again under it") == 1;
    second.await_until("it takes the name", PATIENCE, back).unwrap_or_else(|error| panic!("{error:#}"));
    eventually("it is a member under the name", PATIENCE, || names(&world) == [name.as_str()])
        .unwrap_or_else(|error| panic!("{error:#}\n{}", second.log_tail()));
    assert_eq!(count(&second, "joins without a name"), 1, "{}", second.log_tail());
    world.produce(numbered(0, 2, 10));
    await_exact(&world, 20, &[&second]).await;
}
